"""pipelinectl migrate: make or update the tables."""

import argparse
from functools import partial
from typing import Any

from psycopg2 import errors as sql_errors

import config
import s3_utils
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import count
from pipeline.operations import archive_sources
from pipeline.store.database import Database

DESCRIPTION = """Make or update the tables in PostgreSQL, file by file of schema/. Then index the transcripts
of an older release, the newest first, and fill in which archives its batches were, where S3 knows that;
--schema-only leaves this out. Safe to repeat and to interrupt. It needs the role that owns the tables; then apply
access/postgresql.sql, which gives the workers their rights."""

INDEXED = 10_000  # transcripts, after which it says so


def run(arguments: argparse.Namespace) -> None:
    """Apply what is new in schema/; safe to repeat, and when two run at once."""
    config.require(*config.DATABASE)
    database = Database(config.DATABASE_URL)
    if problem := database.refusal():
        config.refuse(problem)
    try:
        applied = database.migrate(partial(print, flush=True))
        print(f"applied {', '.join(applied)}" if applied else "the schema is up to date", flush=True)
        if not arguments.schema_only:
            _index(database)
            _fill_in_origins(database)
    except sql_errors.InsufficientPrivilege as error:  # to a worker an outage: somebody may grant it
        reason = str(error).partition("\n")[0]
        config.refuse(f"DATABASE_URL: {reason}; only the role that owns the tables may migrate")
    finally:
        database.close()


def _index(database: Database) -> None:
    """Index all transcripts that are not in the index yet."""
    total = 0
    while done := database.index_transcripts():
        total += done
        if total % INDEXED < done:
            print(f"{total:,} transcripts indexed so far", flush=True)
    if total:
        print(f"{count(total, 'transcript')} indexed")


def _fill_in_origins(database: Database) -> None:
    """Ask S3 which archives old batches were. Where it cannot be asked, that is reported and is no failure: the
    fleet works without."""
    if not (lacking := archive_sources.without_origin(database)):
        return
    unknown = f"the archives of {count(len(lacking), 'older batch')} stay unnamed until the next migrate"
    if not all(getattr(config, name) for name in config.S3):
        print(f"{unknown} with the settings of S3")
        return

    def say(done: int) -> None:
        if done == len(lacking) or done % INDEXED == 0:
            print(f"the archives of {done:,} of {count(len(lacking), 'older batch')} were looked for", flush=True)

    try:
        if problem := s3_utils.check_bucket():
            print(f"{unknown}: {problem}")
            return
        archive_sources.fill_in(database, lacking, s3_utils.sources, s3_utils.archive_origin, say)
    except Exception as error:
        if unavailable_service(error) != "S3":
            raise
        print(f"{unknown}: S3 is unavailable: {error}")


def add(commands: Any) -> None:
    """Its arguments."""
    applying = commands.add_parser(
        "migrate", help="apply the database schema; safe to repeat", description=DESCRIPTION
    )
    applying.add_argument(
        "--schema-only", action="store_true", help="leave old transcripts and batches as they are"
    )
    applying.set_defaults(run=run)
