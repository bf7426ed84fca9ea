"""What the commands share: the services, and speaking with people on a terminal."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from rich.table import Table
from rich.text import Text

import config
from pipeline.foundation import redis_client
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.formatting import printable
from pipeline.jobs.batches import all_queues
from pipeline.store.database import Database

WIDTHS = {"id": 12, "time": 20, "failed_at": 20, "batch_id": 15}  # of what is copied into the next command
NEWEST = 500  # batches of PostgreSQL that a mistyped one is compared with
QUEUES = [config.TRANSFER_QUEUE, config.UNPACK_QUEUE, config.TRANSCRIBE_QUEUE]


def connect() -> Any:
    """The Redis of the settings; ends with status 2 where it refuses us."""
    config.require(*config.REDIS)
    client = redis_client.connect(config.REDIS_URL)
    if problem := redis_client.refusal(client):
        config.refuse(problem)
    return client


@contextmanager
def connect_database() -> Iterator[Database]:
    """The PostgreSQL of the settings, with the schema of this code; ends with status 2 where it is another."""
    config.require(*config.DATABASE)
    database = Database(config.DATABASE_URL)
    if problem := database.check_schema():
        config.refuse(problem)
    yield database
    database.close()


def queues_of(redis: Any) -> list[str]:
    """Every queue: those of the settings, and each host's own."""
    return all_queues(redis, QUEUES)


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The end of a message about a mistyped word: what it may have been, or nothing."""
    names = list(known)
    close = [name for name in names if given and name.startswith(given)]
    close = close or difflib.get_close_matches(given, names, cutoff=0.75)
    return f": did you mean {' or '.join(close[:3])}?" if close else ""


def newest_batches(database: Database) -> list[str]:
    """The ids of the newest batches."""
    with database.transaction() as cursor:
        cursor.execute("SELECT batch_id FROM batches ORDER BY batch_id DESC LIMIT %s", (NEWEST,))
        return [batch_id for (batch_id,) in cursor.fetchall()]


def batch_hint(database: Database, batch_id: str) -> str:
    """The end of a message about a batch: what it may have been, where there is none of this id."""
    if not is_storable(batch_id):
        return ""
    with database.transaction() as cursor:
        cursor.execute("SELECT FROM batches WHERE batch_id = %s", (batch_id,))
        if cursor.rowcount:
            return ""
    return did_you_mean(batch_id, newest_batches(database))


def has_agreed(arguments: argparse.Namespace, question: str) -> bool:
    """Whether to go on: --yes, or a yes on the terminal."""
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        complain(f"{question}: say --yes")
        return False
    print(f"{printable(question)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """One line."""
    print(printable(text), flush=True)


def complain(text: str) -> None:
    """One line to standard error."""
    print(f"pipelinectl: {printable(' '.join(text.split()))}", file=sys.stderr)


def reject(*problems: str) -> NoReturn:
    """End the command with status 2: what was asked for cannot be, whatever the settings are."""
    for problem in problems:
        complain(problem)
    raise SystemExit(2)


def table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...], limit: int | None = None) -> Table:
    """The rows as a table of these columns, the first `limit` of them."""
    more = "" if limit is None or len(rows) <= limit else f", the first {limit}"
    table = Table(title=f"{title}: {len(rows)}{more}", title_justify="left", box=None, pad_edge=False)
    cells = [
        ["" if row[column] is None else printable(str(row[column])) for column in columns] for row in rows[:limit]
    ]
    for number, column in enumerate(columns):
        is_whole = all(len(row[number]) <= WIDTHS.get(column, 0) for row in cells)
        table.add_column(column.replace("_", " "), overflow="fold", no_wrap=is_whole)
    for row in cells:
        table.add_row(*map(Text, row))
    return table


def text(given: str) -> str:
    """The text, where PostgreSQL can look for it."""
    if not is_storable(given):
        raise argparse.ArgumentTypeError("it is not UTF-8, or too long")
    return given


def number(given: str) -> int:
    """A number of rows, 1 at least."""
    if not given.isdecimal() or int(given) < 1:
        raise argparse.ArgumentTypeError(f"{given!r} is no number of rows")
    return int(given)


def address(given: str) -> tuple[str, int]:
    """An address of this machine and a port."""
    if (found := config.address(given)) is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no address and port, as 127.0.0.1:8080")
    return found
