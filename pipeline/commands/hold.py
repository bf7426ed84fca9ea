"""pipelinectl hold: batches of which nothing is deleted."""

import argparse
import json
from typing import Any

from pipeline.commands import choosing, common
from pipeline.store import holds

DESCRIPTION = """Put a batch on hold: nothing of it is deleted, neither by `delete` nor by retention, until
`release` ends the hold. Without a batch, show the holds. `audit` shows who put a batch on hold, and who released
it."""


def run(arguments: argparse.Namespace) -> int:
    """Put a batch on hold, or show the holds; gives the exit status."""
    if arguments.reason and not arguments.batch:
        common.reject("name the batch that --reason is about")
    with common.connect_database() as database:
        if arguments.batch:
            batch_id = choosing.batch_id_of(database, arguments.batch)
            choosing.require_batch(database, batch_id)
            is_new = holds.place(database, batch_id, arguments.reason, common.actor())
            common.say(f"batch {batch_id} is on hold{'' if is_new else ' already'}")
            return int(not is_new)
        found = holds.read_holds(database)
    if arguments.json:
        print(json.dumps([hold.as_dict() for hold in found], indent=2))
        return 0
    rows = [{**vars(hold), "since": f"{hold.created_at:%Y-%m-%d %H:%M:%S}", "by": hold.actor} for hold in found]
    common.console().print(common.table("holds", rows, ("batch_id", "since", "by", "reason")))
    return 0


def add(commands: Any) -> None:
    """Its arguments."""
    holding = commands.add_parser("hold", help="keep a batch from being deleted", description=DESCRIPTION)
    holding.add_argument(
        "batch", nargs="?", type=common.text, metavar="BATCH", help="its id, or its archive's name"
    )
    holding.add_argument("--reason", type=common.text, default="", metavar="TEXT", help="why, for others")
    holding.add_argument("--json", action="store_true", help="the holds, for scripts")
    holding.set_defaults(run=run)
