"""pipelinectl batch: one archive, from its name to what became of its files."""

import argparse
import json
from typing import Any

import config
from pipeline.commands import choosing, common
from pipeline.commands.following import follow, tracker_of
from pipeline.foundation.formatting import amount, count
from pipeline.operations.archive_progress import Followed, Progress, as_dict
from pipeline.operations.failures import Filter, failed_reasons
from pipeline.store.batch_history import Batch, read_batch

DESCRIPTION = """Show what became of an archive: how far it is, where it came from, how many of its files are done
and why others failed. It is named by its batch id, its file name or its path; where several have that name, they
are listed, with exit status 2. --wait follows it to the end: exit status 0 if every file is done, 1 if the archive
or some of its files failed."""

REASONS = 10


def run(arguments: argparse.Namespace) -> int:
    """Show a batch, or follow it to its end; gives the exit status."""
    redis = common.connect()
    with common.connect_database() as database:
        archive = choosing.archive_of(redis, database, arguments.batch)
        tracker = tracker_of(redis, database)
        if arguments.wait:
            return follow(tracker, [archive])
        (progress,) = tracker.look([archive])
        batch = read_batch(database, progress.batch_id) if progress.batch_id else None
        reasons = failed_reasons(database, Filter(progress.batch_id), REASONS) if batch and batch.failed else []
    if arguments.json:
        found = as_dict(batch, archive, progress, reasons)
        print(json.dumps(found, indent=2, default=lambda time: time.isoformat()))
    else:
        show(archive, progress, batch, reasons)
    return 0


def show(archive: Followed, progress: Progress, batch: Batch | None, reasons: list[tuple[str, int]]) -> None:
    """Print a batch: a line for each thing that is known of it."""
    rows: dict[str, Any] = {"batch": progress.batch_id, "archive": archive.path, "state": progress.what}
    if batch is not None:
        of = batch.origin
        rows |= {
            "archive": of.path or archive.path, "from": of.host, "size": of.size and amount(of.size),
            "SHA-256": of.sha256, "in S3": f"{config.S3_BUCKET}/{batch.s3_key}".lstrip("/"),
            "files": f"{batch.file_count}: {batch.done} done, {batch.failed} failed",
            "unpacked by": batch.host, "opened": f"{batch.opened_at:%Y-%m-%d %H:%M:%S} UTC",
            "finished": batch.finished_at and f"{batch.finished_at:%Y-%m-%d %H:%M:%S} UTC",
        }  # fmt: skip
    for name, value in rows.items():
        if value:
            common.say(f"{name:<12} {value}")
    for reason, number in reasons:
        common.say(f"{'failed':<12} {count(number, 'file')}: {reason or 'no reason was given'}")


def add(commands: Any) -> None:
    """Its arguments."""
    showing = commands.add_parser(
        "batch", help="show what became of an archive, by its name or its batch id", description=DESCRIPTION
    )
    showing.add_argument("batch", type=common.text, metavar="NAME | PATH | ID", help="the archive")
    how = showing.add_mutually_exclusive_group()
    how.add_argument("--wait", action="store_true", help="follow it to the end")
    how.add_argument("--json", action="store_true", help="for scripts")
    showing.set_defaults(run=run)
