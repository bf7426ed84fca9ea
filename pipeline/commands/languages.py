"""pipelinectl languages: what is spoken in the recordings."""

import argparse
import json
from typing import Any

from pipeline.commands import common
from pipeline.store.vocabulary import language_counts

DESCRIPTION = (
    """List the languages that are spoken in recordings, with in how many: what `search --language` takes."""
)


def run(arguments: argparse.Namespace) -> None:
    """Show the languages."""
    with common.connect_database() as database:
        found = language_counts(database)
    if arguments.json:
        print(json.dumps([{"language": one.name, "files": one.files} for one in found], indent=2))
    else:
        rows = [[one.name, f"{one.files:,}"] for one in found]
        common.console().print(common.Rows("Languages", ("language", "files"), rows))


def add(commands: Any) -> None:
    """Its arguments."""
    listing = commands.add_parser("languages", help="what is spoken in recordings", description=DESCRIPTION)
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(run=run)
