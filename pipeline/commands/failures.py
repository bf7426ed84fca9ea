"""pipelinectl failures: what failed, and why."""

import argparse
import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from pipeline.commands import choosing, common
from pipeline.operations.failures import (
    FailedFile,
    Failures,
    Filter,
    WarnedFile,
    read_failures,
    warned_codes,
    warned_files,
)

DESCRIPTION = """Show the files that have failed, and the dead letters: jobs that were failed permanently, as an
archive that is damaged or not there. Each with its reason, the latest first. `retry` tries them again. --warnings
shows the files that could be read but are damaged or lack something, and what is wrong with each."""


def run(arguments: argparse.Namespace) -> None:
    """Show failed files and dead letters, or files with warnings."""
    if arguments.warnings:
        run_warnings(arguments)
        return
    redis, wanted = common.connect(), filter_of(arguments)
    common.require_queue(redis, wanted.queue)
    with common.connect_database() as database:
        wanted = replace(wanted, batch_id=choosing.batch_id_of(database, wanted.batch_id, redis))
        found = read_failures(redis, database, common.queues_of(redis), wanted)
        if not found.files and not found.jobs:
            choosing.require_batch(database, wanted.batch_id)
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
    elif arguments.by_reason:
        rows = [{"number": number, "reason": reason} for reason, number in found.reasons()]
        common.console().print(common.table("reasons", rows, ("number", "reason")))
    else:
        show_failures(found, common.console(), arguments.limit)


def run_warnings(arguments: argparse.Namespace) -> None:
    """Show files with warnings."""
    if arguments.queue:
        common.reject("--warnings are of files: leave --queue out")
    wanted = filter_of(arguments)
    with common.connect_database() as database:
        wanted = replace(wanted, batch_id=choosing.batch_id_of(database, wanted.batch_id))
        if arguments.by_reason and not arguments.json:
            rows = [{"files": number, "warning": code} for code, number in warned_codes(database, wanted)]
            common.console().print(common.table("warnings", rows, ("files", "warning")))
            return
        found = warned_files(database, wanted)
        if not found:
            choosing.require_batch(database, wanted.batch_id)
    if arguments.json:
        print(json.dumps({"files": [file.as_dict() for file in found]}, indent=2))
        return
    columns = ("time", *_named(found), "original_filename", "status", "warnings")
    rows = [
        {**vars(file), "time": file.changed_at, "warnings": "; ".join(map(str, file.warnings))} for file in found
    ]
    common.console().print(common.table("files with warnings", rows, columns, arguments.limit))


def show_failures(found: Failures, console: Console, limit: int) -> None:
    """Print failures as two tables, each of `limit` rows at most."""
    files = [asdict(file) for file in found.files]
    console.print(
        common.table(
            "failed files", files, ("failed_at", *_named(found.files), "original_filename", "error"), limit
        )
    )
    jobs = [asdict(job) for job in found.jobs]
    console.print(common.table("dead letters", jobs, ("id", "time", "queue", "job", "error"), limit))


def _named(files: Sequence[FailedFile | WarnedFile]) -> tuple[str, ...]:
    """The columns that name the batches of files: their archives too, where those are known."""
    return ("batch_id", "archive") if any(file.archive for file in files) else ("batch_id",)


def filter_of(arguments: argparse.Namespace) -> Filter:
    """Which failures the arguments ask for."""
    return Filter(
        getattr(arguments, "batch", None) or "", arguments.queue or "", arguments.reason or "", arguments.since
    )


def add_filter(command: argparse.ArgumentParser) -> None:
    """The arguments that choose among failures."""
    command.add_argument("--queue", metavar="NAME", help="dead letters of this queue only")
    command.add_argument("--reason", type=common.text, metavar="TEXT", help="whose reason has this text in it")
    command.add_argument("--since", type=age, metavar="AGE", help="in the last 30m, 24h or 7d")


def age(age: str) -> datetime.datetime:
    """The moment so long ago."""
    if not (match := re.fullmatch(r"([0-9]{1,5})([mhd])", age)):
        raise argparse.ArgumentTypeError(f"{age!r} is no age: give 30m, 24h or 7d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**{unit: int(match[1])})


def add(commands: Any) -> None:
    """Its arguments."""
    failing = commands.add_parser(
        "failures", help="show failed files and dead letters, with the reason", description=DESCRIPTION
    )
    failing.add_argument("--batch", type=common.text, metavar="BATCH", help=choosing.BATCH_HELP)
    add_filter(failing)
    failing.add_argument("--warnings", action="store_true", help="files with warnings instead")
    failing.add_argument("--by-reason", action="store_true", help="each reason, or warning, with its number")
    failing.add_argument("--limit", type=common.number, default=50, metavar="N", help="rows of a table (50)")
    failing.add_argument("--json", action="store_true", help="for scripts; everything")
    failing.set_defaults(run=run)
