"""pipelinectl migrate: make or update the tables."""

import argparse
from typing import Any

from psycopg2 import errors as sql_errors

import config
from pipeline.store.database import Database

DESCRIPTION = """Make or update the tables in PostgreSQL: all that is new, or nothing. Safe to repeat. It needs the
role that owns the tables; after it apply access/postgresql.sql, which gives the workers their rights."""


def run(_arguments: argparse.Namespace) -> None:
    """Apply what is new in schema/; safe to repeat, and when two run at once."""
    config.require(*config.DATABASE)
    database = Database(config.DATABASE_URL)
    if problem := database.refusal():
        config.refuse(problem)
    try:
        applied = database.migrate()
    except sql_errors.InsufficientPrivilege as error:  # to a worker an outage: somebody may grant it
        reason = str(error).partition("\n")[0]
        config.refuse(f"DATABASE_URL: {reason}; only the role that owns the tables may migrate")
    finally:
        database.close()
    print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


def add(commands: Any) -> None:
    """Its arguments."""
    applying = commands.add_parser(
        "migrate", help="apply the database schema; safe to repeat", description=DESCRIPTION
    )
    applying.set_defaults(run=run)
