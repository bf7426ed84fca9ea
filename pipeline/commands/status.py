"""pipelinectl status: what moves, what is stuck and why."""

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

import config
from pipeline.commands import common
from pipeline.foundation import redis_client
from pipeline.foundation.formatting import amount, count, duration, printable
from pipeline.operations.snapshot import SeldomCompared, stranded_batches
from pipeline.operations.status import Compare, Status, host_state, observe, settled_files, time_left
from pipeline.operations.troubles import DEGRADED, DOWN, HEALTHY
from pipeline.store.database import Database

DESCRIPTION = """What moves, what is stuck and why: queues, workers, hosts, open batches, what was done
in the last hour, what failed and what has warnings in the last day. --watch shows it anew every few seconds until
Ctrl-C, with as many rows of each table as the screen has room for."""

EPILOG = """BATCHES   done and failed of all files, the time left at the rate so far (- while it is not known), and
          the archive's file name.
QUEUES    waiting, delayed (to be tried again), in progress, dead (failed permanently), how long the next job
          has waited, and jobs per hour. Files of a host wait in a queue of its own.
WORKERS   what each does and for how long; "gone" where its heartbeat has run out, and others take its jobs.
HOSTS     files on the host, free room on the volume of SCRATCH_ROOT (or TRANSFER_ROOT), and the share of the
          last minute in which its GPUs computed.

exit status: 0 healthy; 1 degraded: something waits, is gone or full, or a dead letter is older than an hour;
2 down: a service is unavailable, or jobs wait for workers that are not there. docs/runbook.md says what to do."""

STATUSES = {HEALTHY: 0, DEGRADED: 1, DOWN: 2}
COLOURS = {HEALTHY: "green", DEGRADED: "yellow", DOWN: "red"}
BAR = 12  # characters of a progress bar
ALWAYS = ("open batches", "queues", "workers", "hosts")  # tables that are shown without a row too
Shown = tuple[str, tuple[str, ...], list[tuple[Any, ...]]]  # a table: its title, columns and rows


def run(arguments: argparse.Namespace) -> int:
    """Show the status, once or again and again; gives 0, 1 or 2 for healthy, degraded or down."""
    config.require(*config.REDIS)
    redis = redis_client.connect(config.REDIS_URL)
    database = Database(config.DATABASE_URL) if config.DATABASE_URL else None
    if not arguments.watch:
        now = look(redis, database)
        if arguments.json:
            print(json.dumps(now.as_dict()))  # in one line: with an indent it takes ten times as long
        else:
            common.console().print(shown(now, arguments.limit))
        return STATUSES[now.health]
    console = common.console()
    compare = SeldomCompared()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            now = look(redis, database, compare)
            if console.is_terminal:
                live.update(fitting(now, arguments.limit, console), refresh=True)
            else:  # one below the other, as for a file
                console.print(shown(now, arguments.limit))
            time.sleep(arguments.watch)


def look(redis: Any, database: Database | None, compare: Compare = stranded_batches) -> Status:
    """The status. Where a service refuses us, the end."""

    def check() -> None:
        if problem := redis_client.refusal(redis) or (database and database.check_schema()):
            config.refuse(problem)

    return observe(redis, common.QUEUES, database, check, compare)


def fitting(now: Status, limit: int, screen: Console) -> RenderableType:
    """The status with as many rows of each table as the screen has room for, at least one and `limit` at most."""
    for rows in range(min(limit, screen.height), 1, -1):
        view = shown(now, rows)
        if len(screen.render_lines(view)) <= screen.height:
            return view
    return shown(now, 1)


def shown(now: Status, limit: int) -> RenderableType:
    """The status for a terminal of 80 columns or more, the most urgent first; each table with `limit` rows at
    most. Without a queue Redis is unavailable: then there are no tables, which would say that there is nothing."""
    parts: list[RenderableType] = [Text(headline(now), style=COLOURS[now.health]), *wrong(now, limit)]
    tables = [batches(now), failed(now), queues(now), workers(now), hosts(now), warned(now)] if now.queues else []
    parts += [table(title, columns, rows, limit) for title, columns, rows in tables if rows or title in ALWAYS]
    return Group(*parts)


def wrong(now: Status, limit: int) -> Iterator[Text]:
    """What an operator should look at, a line each."""
    for trouble in now.troubles[:limit]:
        yield Text(printable(f"  {trouble.what} [{trouble.see}]"))
    if len(now.troubles) > limit:
        yield Text(f"  and {len(now.troubles) - limit} more")
    if dead := sum(row["dead"] for row in now.queues):
        yield Text(f"  {count(dead, 'dead letter')}: see `failures` [AudioPipelineDeadLetters]")
    if now.warnings and (files := now.warnings["files"]):
        yield Text(f"  {count(files, 'file')} of the last day with warnings: see `failures --warnings`")


def batches(now: Status) -> Shown:
    """The open batches and how far they are."""
    rows = [
        (row["id"], row["host"], bar(row), settled(row), row["failed"], time_left(row), row["archive"])
        for row in now.batches
    ]
    return "open batches", ("id", "host", "", "settled", "failed", "left", "archive"), rows


def failed(now: Status) -> Shown:
    """Why files failed."""
    return (
        "failed in the last day", ("files", "reason"), [(row["files"], row["reason"]) for row in now.reasons or ()]
    )  # fmt: skip


def queues(now: Status) -> Shown:
    """The queues and how fast they move."""
    numbers = ("name", "waiting", "delayed", "in_work", "dead")
    rows = [
        (*(row[number] for number in numbers), age(row["oldest_seconds"]), row["per_hour"]) for row in now.queues
    ]
    return "queues", ("name", "waiting", "delayed", "in progress", "dead", "oldest", "per hour"), rows


def workers(now: Status) -> Shown:
    """What each worker does."""
    rows = [(row["id"], age(row["heard_seconds"]), age(row["since_seconds"]), row["doing"]) for row in now.workers]
    return "workers", ("id", "heard", "for", "doing"), rows


def hosts(now: Status) -> Shown:
    """The hosts, their disks and GPUs."""
    rows = [
        (row["name"], host_state(row), row["batches"], row["files"], disk(row["disk"]), gpus(row["gpus"]))
        for row in now.hosts
    ]
    return "hosts", ("name", "state", "batches", "files", "disk free", "GPU"), rows


def warned(now: Status) -> Shown:
    """What is damaged in recordings."""
    codes = now.warnings["codes"] if now.warnings else {}
    return "warnings in the last day", ("files", "warning"), [(files, code) for code, files in codes.items()]


def headline(now: Status) -> str:
    """How it is, in one line."""
    line = f"{now.health}, {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now.time))} UTC"
    if now.done is not None:
        sound = duration(now.done["audio_seconds"])
        files, bad = count(int(now.done["files"]), "file"), int(now.done["failed"])
        line += f"; last hour: {files}, {bad} failed, {sound} of audio"
    return line


def table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]], limit: int) -> Group:
    """The first rows, and how many there are."""
    named = [dict(zip(columns, row, strict=True)) for row in rows]
    return Group("", common.table(title, named, columns, limit))


def age(seconds: int | None) -> str:
    """So long; nothing where it is not known."""
    return "" if seconds is None else duration(seconds)


def disk(room: dict[str, int] | None) -> str:
    """The free part of a disk."""
    return "" if room is None else f"{amount(room['free'])} of {amount(room['size'])}"


def gpus(found: list[dict[str, Any]]) -> str:
    """How busy the GPUs are."""
    return ", ".join(f"{100 * gpu['busy']:.0f} %" for gpu in found)


def bar(row: dict[str, Any]) -> str:
    """A batch's progress, as ####...., with plain signs that any terminal shows."""
    if not row["total"]:
        return ""
    full = BAR * settled_files(row) // row["total"]
    return "#" * full + "." * (BAR - full)


def settled(row: dict[str, Any]) -> str:
    """The files of a batch that need no more work."""
    return "" if not row["total"] else f"{settled_files(row)}/{row['total']}"


def add(commands: Any) -> None:
    """Its arguments."""
    showing = commands.add_parser(
        "status", help="show what moves, what is stuck and why", description=DESCRIPTION, epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    how = showing.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for scripts; everything")
    seconds = "show it anew every 2 s, or so many"
    how.add_argument("--watch", type=common.number, nargs="?", const=2, metavar="SECONDS", help=seconds)
    showing.add_argument("--limit", type=common.number, default=40, metavar="N", help="rows of a table (40)")
    showing.set_defaults(run=run)
