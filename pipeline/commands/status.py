"""pipelinectl status: what moves, what is stuck and why."""

import argparse
import json
import time
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

import config
from pipeline.commands import common
from pipeline.foundation import redis_client
from pipeline.foundation.formatting import amount, count, duration, printable
from pipeline.operations.status import DEGRADED, DOWN, Status, host_state, observe, settled_files
from pipeline.store.database import Database

DESCRIPTION = """What moves, what is stuck and why: queues, workers, hosts, open batches, what was done
in the last hour, what failed and what has warnings in the last day. --watch shows it anew every few seconds until
Ctrl-C."""

EPILOG = """QUEUES    waiting, delayed (to be tried again), running, dead (failed permanently), how long the next
job has
          waited, and jobs an hour. Files of a host wait in a queue of its own.
WORKERS   what each does and for how long; "gone" where its heartbeat has run out, and others take its jobs.
HOSTS     files on the host, free room on the volume of SCRATCH_ROOT (or TRANSFER_ROOT), and the share of the
          last minute in which its GPUs computed.
BATCHES   done and failed of all files, and the time left at the rate so far.

exit status: 0 healthy; 1 degraded: something waits, is gone or full; 2 down: a service is unavailable, or jobs
wait for workers that are not there. docs/runbook.md says what to do."""

STATUSES = {"healthy": 0, DEGRADED: 1, DOWN: 2}
COLOURS = {"healthy": "green", DEGRADED: "yellow", DOWN: "red"}
BAR = 12  # characters of a progress bar


def run(arguments: argparse.Namespace) -> int:
    """Show the status, once or again and again; gives 0, 1 or 2 for well, degraded or broken."""
    config.require(*config.REDIS)
    redis = redis_client.connect(config.REDIS_URL)
    database = Database(config.DATABASE_URL) if config.DATABASE_URL else None
    if not arguments.watch:
        now = look(redis, database)
        if arguments.json:
            print(json.dumps(now.as_dict()))  # in one line: with an indent it takes ten times as long
        else:
            Console(highlight=False).print(shown(now, arguments.limit))
        return STATUSES[now.health]
    console = Console(highlight=False)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            view = shown(look(redis, database), arguments.limit)
            if console.is_terminal:
                live.update(view, refresh=True)
            else:  # one below the other, as for a file
                console.print(view)
            time.sleep(arguments.watch)


def look(redis: Any, database: Database | None) -> Status:
    """The status. Where a service refuses us, the end."""

    def check() -> None:
        if problem := redis_client.refusal(redis) or (database and database.check_schema()):
            config.refuse(problem)

    return observe(redis, common.QUEUES, database, check)


def shown(now: Status, limit: int) -> RenderableType:
    """The status for a terminal of 80 columns or more; each table with `limit` rows at most."""
    parts: list[RenderableType] = [Text(headline(now), style=COLOURS[now.health])]
    parts += [Text(printable(f"  {trouble.what} [{trouble.see}]")) for trouble in now.troubles[:limit]]
    if len(now.troubles) > limit:
        parts.append(Text(f"  and {len(now.troubles) - limit} more"))
    if dead := sum(row["dead"] for row in now.queues):
        parts.append(Text(f"  {count(dead, 'dead letter')}: see `failures` [AudioPipelineDeadLetters]"))
    if now.warnings and (warned := now.warnings["files"]):
        parts.append(Text(f"  {count(warned, 'file')} of the last day with warnings: see `failures --warnings`"))
    numbers = ("name", "waiting", "delayed", "in_work", "dead")
    queues = [
        (*(row[number] for number in numbers), age(row["oldest_seconds"]), row["per_hour"]) for row in now.queues
    ]
    columns: tuple[str, ...] = ("name", "waiting", "delayed", "running", "dead", "oldest", "per hour")
    parts.append(table("queues", columns, queues, limit))
    workers: list[tuple[Any, ...]] = [
        (row["id"], age(row["heard_seconds"]), age(row["since_seconds"]), row["doing"]) for row in now.workers
    ]
    parts.append(table("workers", ("id", "heard", "for", "doing"), workers, limit))
    hosts: list[tuple[Any, ...]] = [
        (row["name"], host_state(row), row["batches"], row["files"], disk(row["disk"]), gpus(row["gpus"]))
        for row in now.hosts
    ]
    columns = ("name", "state", "batches", "files", "disk free", "GPU")
    parts.append(table("hosts", columns, hosts, limit))
    batches: list[tuple[Any, ...]] = [
        (row["id"], row["host"], bar(row), settled(row), row["failed"], age(row["left_seconds"]) or row["state"])
        for row in now.batches
    ]  # fmt: skip
    parts.append(table("open batches", ("id", "host", "", "settled", "failed", "left"), batches, limit))
    if now.reasons:
        reasons = [(row["files"], row["reason"]) for row in now.reasons]
        parts.append(table("failed in the last day", ("files", "reason"), reasons, limit))
    if now.warnings and (codes := now.warnings["codes"]):
        rows = [(number, code) for code, number in codes.items()]
        parts.append(table("warnings in the last day", ("files", "warning"), rows, limit))
    return Group(*parts)


def headline(now: Status) -> str:
    """How it is, in one line."""
    line = f"{now.health}, {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(now.time))} UTC"
    if now.done is not None:
        sound = duration(now.done["audio_seconds"])
        line += f"; in the last hour: {count(int(now.done['files']), 'file')}, {sound} of audio"
    return line


def table(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]], limit: int) -> Group:
    """The first rows, and how many there are."""
    more = "" if len(rows) <= limit else f", the first {limit}"
    found = Table(box=None, pad_edge=False)
    for column in columns:
        found.add_column(column, overflow="fold", no_wrap=column == "")
    for row in rows[:limit]:
        found.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    return Group(Text(f"\n{title}: {len(rows)}{more}", style="bold"), found)


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
