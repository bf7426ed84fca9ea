"""pipelinectl retention: what retention would delete next."""

import argparse
import json
from typing import Any

import config
from pipeline.commands import common
from pipeline.operations.retention import Keep, what_is_due

DESCRIPTION = """Show what is older than ARCHIVE_KEEP_DAYS, OPUS_KEEP_DAYS and TRANSCRIPT_KEEP_DAYS, and so goes
next: archives, Opus, and whole files. The unpack workers delete it in small steps; this deletes nothing
(--dry-run says so aloud). Batches on hold are left out."""


def run(arguments: argparse.Namespace) -> None:
    """Show what is due."""
    keep = Keep(config.ARCHIVE_KEEP_DAYS, config.OPUS_KEEP_DAYS, config.TRANSCRIPT_KEEP_DAYS)
    with common.connect_database() as database:
        due = what_is_due(database, keep)
    rows = [vars(one) for one in due]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        common.console().print(common.table("retention", rows, ("what", "kept", "due", "on_hold")))


def add(commands: Any) -> None:
    """Its arguments."""
    showing = commands.add_parser("retention", help="what is too old, and goes next", description=DESCRIPTION)
    showing.add_argument("--dry-run", action="store_true", help="what it does in any case: only show it")
    showing.add_argument("--json", action="store_true", help="for scripts")
    showing.set_defaults(run=run)
