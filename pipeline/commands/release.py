"""pipelinectl release: end the hold of a batch."""

import argparse
from typing import Any

import config
from pipeline.commands import choosing, common
from pipeline.store import holds

DESCRIPTION = """End the hold of a batch: it may be deleted again, and retention takes what is too old of it. It
needs the role that owns the tables: the workers' own may not."""


def run(arguments: argparse.Namespace) -> int:
    """End a hold; gives the exit status."""
    with common.connect_database() as database:
        if problem := holds.may_release(database):
            config.refuse(problem)
        batch_id = choosing.batch_id_of(database, arguments.batch)
        if not holds.release(database, batch_id, common.actor()):
            common.complain(f"batch {batch_id} is not on hold: `pipelinectl.py hold` shows those that are")
            return 1
    common.say(f"batch {batch_id} is released")
    return 0


def add(commands: Any) -> None:
    """Its arguments."""
    releasing = commands.add_parser("release", help="end the hold of a batch", description=DESCRIPTION)
    releasing.add_argument("batch", type=common.text, metavar="BATCH", help="its id, or its archive's name")
    releasing.set_defaults(run=run)
