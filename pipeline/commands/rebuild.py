"""pipelinectl rebuild: make a lost database from S3."""

import argparse
import json
import sys
import time
from typing import Any

from psycopg2 import errors as sql_errors

import config
import s3_tombstones
import s3_transcripts
import s3_utils
from pipeline.commands import common
from pipeline.foundation import redis_client
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import count
from pipeline.jobs.job_queue import heartbeat_key
from pipeline.operations import archive_sources
from pipeline.operations.rebuild import Rebuild, Rebuilt
from pipeline.store import audit, transcript_restore
from pipeline.store.database import Database

DESCRIPTION = """Make a lost database from S3: every file that was done has its row, transcript, labels and place
in the search again, under its id; deleted ones stay deleted. First stop all workers and `migrate`; both commands
need the role that owns the tables. Afterwards `reconcile --apply` queues what had failed or was not done. With
--merge it adds to a database what it lacks, as to a restored dump, or after an interruption: rows that are done
are left as they are. Safe to repeat. S3 has no saved searches, holds, tokens and audit log: docs/backup.md says
how to save those. Exit status: 0 everything is there, 1 something could not be read or the database has other
data, 2 wrong settings."""
TOLD_SECONDS = 10  # between two lines of progress


def run(arguments: argparse.Namespace) -> int:
    """Bring what S3 has into the database."""
    config.require(*config.DATABASE, *config.S3)
    if problem := s3_utils.check_bucket():
        config.refuse(problem)
    with common.connect_database() as database:
        if problem := _obstacle(database, arguments.merge):
            common.complain(problem)
            return 1
        try:
            rebuilt = _rebuild(database)
        except sql_errors.InsufficientPrivilege as error:
            reason = str(error).partition("\n")[0]
            config.refuse(f"DATABASE_URL: {reason}; only the role that owns the tables may rebuild")
        _name_archives(database)
    _tell(rebuilt, arguments.json)
    return int(not rebuilt.is_whole)


def _obstacle(database: Database, is_merging: bool) -> str | None:
    """Why nothing is to be done now, in one line; None where nothing speaks against it."""
    if workers := _workers():
        return f"{count(len(workers), 'worker')} still at work ({', '.join(workers[:5])}): stop all of them first"
    if not is_merging and (rows := transcript_restore.count_rows(database)):
        return (
            f"the database has {count(rows, 'file')} already: --merge adds what it lacks, and leaves what is done"
        )
    return None


def _workers() -> list[str]:
    """The workers that Redis has heard of within their heartbeat; none where there is no Redis to ask."""
    if not config.REDIS_URL:
        return []
    try:
        redis = redis_client.connect(config.REDIS_URL)
        seen = {worker for queue in common.queues_of(redis) for worker in redis.zrange(f"{queue}:workers", 0, -1)}
        return sorted(worker for worker in seen if redis.exists(heartbeat_key(worker)))
    except Exception as error:
        if unavailable_service(error) is None:
            raise
        print("Redis is unavailable: make sure that no worker runs", file=sys.stderr, flush=True)
        return []


def _rebuild(database: Database) -> Rebuilt:
    told = time.monotonic()

    def say(looked: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > TOLD_SECONDS:
            told = time.monotonic()
            print(f"{looked:,} of {count(total, 'transcript')} so far", file=sys.stderr, flush=True)

    actor, buried = common.actor(), s3_tombstones.store()
    work = Rebuild(
        database, s3_transcripts.listing, s3_transcripts.read, buried, config.OPUS_KEEP_DAYS, say
    )  # fmt: skip
    rebuilt = work.run(actor)
    with database.transaction() as cursor:
        audit.note(cursor, actor, "rebuild", config.S3_BUCKET, dict(rebuilt.outcomes))
    return rebuilt


def _name_archives(database: Database) -> None:
    """Fill in which archives the batches were whose transcripts do not say it."""
    if lacking := archive_sources.without_origin(database):
        archive_sources.fill_in(database, lacking, s3_utils.sources, s3_utils.archive_origin, lambda _: None)


def _tell(rebuilt: Rebuilt, as_json: bool) -> None:
    outcomes = {name: rebuilt.outcomes[name] for name in ("restored", "left", "deleted", "taken", "unreadable")}
    if as_json:
        print(json.dumps({**outcomes, "deleted_again": rebuilt.deleted_again, "problems": rebuilt.problems}))
        return
    for key, problem in rebuilt.problems.items():
        common.complain(f"{key}: {problem}")
    said = {
        "restored": "restored", "left": "in the database already", "deleted": "deleted, and stay so",
        "taken": "not restored: their ids have other files", "unreadable": "cannot be read",
    }  # fmt: skip
    parts = [f"{number:,} {said[name]}" for name, number in outcomes.items() if number]
    common.say(f"transcripts in S3: {', '.join(parts) or 'none'}")
    if rebuilt.deleted_again:
        common.say(f"{count(rebuilt.deleted_again, 'file')} deleted again, as their tombstones in S3 ask for")
    common.say(
        "next: `pipelinectl.py reconcile --apply` queues what had failed or was not done; then start the workers"
    )


def add(commands: Any) -> None:
    """Its arguments."""
    command = commands.add_parser("rebuild", help="make a lost database from S3", description=DESCRIPTION)
    command.add_argument("--merge", action="store_true", help="add to a database that has files what it lacks")
    command.add_argument("--json", action="store_true", help="for scripts; progress goes to stderr")
    command.set_defaults(run=run)
