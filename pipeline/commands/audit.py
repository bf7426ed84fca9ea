"""pipelinectl audit: who did what, and when."""

import argparse
import json
from typing import Any

from pipeline.commands import choosing, common
from pipeline.foundation.file_metadata import in_words
from pipeline.store.audit import Wanted, read_entries

DESCRIPTION = """Show who did what, the newest first: deletions, holds, retention, and what else the pipeline
notes. An actor is cli:USER@HOST, token:NAME, proxy:USER, worker:ID, or page (the one token of the page). No
entry has words of a recording."""


def run(arguments: argparse.Namespace) -> None:
    """Show the entries."""
    wanted = Wanted(arguments.actor, arguments.action, arguments.subject, arguments.since, arguments.until)
    with common.connect_database() as database:
        found = read_entries(database, arguments.limit, wanted=wanted)
    if arguments.json:
        print(json.dumps([entry.as_dict() for entry in found], indent=2))
        return
    rows = [
        {
            **vars(entry),
            "time": f"{entry.at:%Y-%m-%d %H:%M:%S}",
            "detail": ", ".join(f"{name} {in_words(value)}" for name, value in entry.detail.items()),
        }
        for entry in found
    ]
    common.console().print(common.table("audit", rows, ("time", "actor", "action", "subject", "detail")))


def add(commands: Any) -> None:
    """Its arguments."""
    auditing = commands.add_parser("audit", help="who did what, and when", description=DESCRIPTION)
    auditing.add_argument("--actor", type=common.text, default="", help="of this actor only: cli:ann@ops")
    auditing.add_argument("--action", type=common.text, default="", help="this only: delete, hold, release, ...")
    auditing.add_argument("--subject", type=common.text, default="", help="about this only: a batch id, a name")
    auditing.add_argument(
        "--since", type=choosing.moment, metavar="TIME", help="from then on: 24h, 7d, 2025-06-22"
    )
    auditing.add_argument("--until", type=choosing.moment, metavar="TIME", help="before then")
    auditing.add_argument("--limit", type=common.number, default=50, metavar="N", help="entries to show (50)")
    auditing.add_argument("--json", action="store_true", help="for scripts")
    auditing.set_defaults(run=run)
