"""pipelinectl reconcile: compare S3, PostgreSQL and Redis, and repair what is wrong."""

import argparse
import json
from typing import Any

import config
import s3_utils
from pipeline.commands import common
from pipeline.foundation.formatting import count
from pipeline.operations.reconcile import Finding, Reconciler

DESCRIPTION = """Compare archives and Opus in S3, PostgreSQL and Redis, and say what is missing, doubled or
orphaned. With --apply, queue what nobody works on and clean up what is left over. Safe while workers run, and to
repeat; after Redis was lost it rebuilds the queues. Exit status 1 while something is left."""


def run(arguments: argparse.Namespace) -> int:
    """Compare S3, PostgreSQL and Redis, and repair what can be repaired."""
    if arguments.delete_orphans and not arguments.apply:
        common.reject("--delete-orphans goes with --apply")
    redis = common.connect()
    config.require(*config.S3)
    if problem := s3_utils.check_bucket():
        config.refuse(problem)
    with common.connect_database() as database:
        comparison = Reconciler(
            redis, database, config.TRANSFER_QUEUE, config.UNPACK_QUEUE, [config.TRANSCRIBE_QUEUE],
            s3_utils.archives, s3_utils.sources, s3_utils.opus_keys, s3_utils.exists, s3_utils.delete_opus,
        )  # fmt: skip
        found = list(comparison.findings())
        outcomes = ["found"] * len(found)
        if arguments.apply:
            doomed = sum(finding.destroys for finding in found)
            question = f"delete {count(doomed, 'object')} in S3"
            delete = bool(arguments.delete_orphans and doomed) and common.has_agreed(arguments, question)
            outcomes = [repair(finding, delete) for finding in found]
    rows = [
        {"kind": of.kind, "subject": of.subject, "what": of.what, "remedy": of.remedy, "outcome": outcome}
        for of, outcome in zip(found, outcomes, strict=True)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        common.console().print(
            common.table("findings", rows, ("kind", "subject", "what", "remedy", "outcome"), arguments.limit)
        )
        if not arguments.apply:
            print("nothing was changed: --apply repairs what has a remedy")
    else:
        print("S3, PostgreSQL and Redis agree")
    return int(any(outcome in ("found", "left") for outcome in outcomes))


def repair(finding: Finding, delete: bool) -> str:
    """Apply a finding's remedy where it has one; gives what came of it."""
    if finding.repair is None or (finding.destroys and not delete):
        return "left"
    return "gone meanwhile" if finding.repair() is False else "repaired"


def add(commands: Any) -> None:
    """Its arguments."""
    command = commands.add_parser("reconcile", help="compare S3, PostgreSQL and Redis", description=DESCRIPTION)
    command.add_argument("--apply", action="store_true", help="queue what is missing, clean up what is left over")
    command.add_argument(
        "--delete-orphans", action="store_true", help="with --apply: delete Opus without a row too"
    )
    command.add_argument("--yes", action="store_true", help="do not ask before deleting")
    command.add_argument("--limit", type=common.number, default=200, metavar="N", help="rows of the table (200)")
    command.add_argument("--json", action="store_true", help="for scripts; everything")
    command.set_defaults(run=run)
