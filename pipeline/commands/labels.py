"""pipelinectl labels: what the recordings are labelled with."""

import argparse
import json
from typing import Any

from pipeline.commands import common
from pipeline.store.vocabulary import label_counts

DESCRIPTION = """List the labels that recordings have, with how many have each: what `search --tag` takes."""


def run(arguments: argparse.Namespace) -> None:
    """Show the labels."""
    with common.connect_database() as database:
        found = label_counts(database)
    if arguments.json:
        listed = [{"classifier": one.of, "label": one.name, "files": one.files} for one in found]
        print(json.dumps(listed, indent=2))
    else:
        rows = [[one.name, one.of, f"{one.files:,}"] for one in found]
        common.console().print(common.Rows("Labels", ("label", "classifier", "files"), rows))


def add(commands: Any) -> None:
    """Its arguments."""
    listing = commands.add_parser("labels", help="what recordings are labelled with", description=DESCRIPTION)
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(run=run)
