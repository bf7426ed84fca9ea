"""What the commands share: the services, and speaking with people on a terminal."""

import argparse
import os
import pwd
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

import config
from pipeline.foundation import environment, redis_client
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.formatting import did_you_mean, printable, whole_number
from pipeline.jobs.batches import all_queues
from pipeline.store.database import Database

# Of what is copied into the next command.
WIDTHS = {"id": 28, "name": 28, "time": 20, "failed at": 20, "batch id": 28, "": 12}
ENDLESS = 10**6  # characters of a line
MOST_PADDED = 40  # characters of a cell that others in its column are made as wide as
NEWEST = 500  # batches of PostgreSQL that a mistyped one is compared with
MOST_ROWS = 10**9
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


def require_queue(redis: Any, name: str) -> None:
    """End with status 2 where there is no such queue."""
    if name and name not in (known := queues_of(redis)):
        reject(f"there is no queue {name}{did_you_mean(name, known) or ': there are ' + ', '.join(known)}")


def newest_batches(database: Database) -> list[str]:
    """The ids of the newest batches."""
    with database.transaction() as cursor:
        cursor.execute("SELECT batch_id FROM batches ORDER BY batch_id DESC LIMIT %s", (NEWEST,))
        return [batch_id for (batch_id,) in cursor.fetchall()]


def batch_hint(database: Database, batch_id: str) -> str:
    """The end of a message about a batch: what it may have been, where no batch has this id."""
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


def actor() -> str:
    """Who runs this command, for the audit log."""
    user = os.environ.get("SUDO_USER") or _user()
    return f"cli:{user}@{socket.gethostname()}"


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's
        return str(os.getuid())


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


def console() -> Console:
    """What prints for people. Behind a pipe a line is as long as it is, unless COLUMNS says how wide it may be."""
    shown = Console(highlight=False)
    if not shown.is_terminal and not os.environ.get("COLUMNS"):
        shown.width = ENDLESS
    return shown


@dataclass
class Rows:
    """A table with a title. On a terminal, cells that are too long go on below; behind a pipe a row is a line."""

    title: str
    columns: Sequence[str]
    cells: list[list[str]]

    def __rich_console__(self, shown: Console, _: ConsoleOptions) -> RenderResult:
        """Give what rich is to print."""
        yield Text(self.title, style="bold")
        if shown.width < ENDLESS:
            yield self._folded()
        else:
            yield from map(Text, self._lines())

    def _folded(self) -> Table:
        found = Table(box=None, pad_edge=False)
        for number, column in enumerate(self.columns):
            is_whole = all(len(row[number]) <= WIDTHS.get(column, 0) for row in self.cells)
            found.add_column(column, overflow="fold", no_wrap=is_whole)
        for row in self.cells:
            found.add_row(*map(Text, row))
        return found

    def _lines(self) -> Iterator[str]:
        rows = [[*self.columns], *self.cells]
        widths = [min(MOST_PADDED, max(map(cell_len, column))) for column in zip(*rows, strict=True)]
        for row in rows:
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
            yield "  ".join(padded).rstrip()


def table(title: str, rows: list[dict[str, Any]], columns: Sequence[str], limit: int | None = None) -> Rows:
    """The rows as a table of these columns, the first `limit` of them; None is an empty cell."""
    more = "" if limit is None or len(rows) <= limit else f", the first {limit}"
    cells = [
        ["" if row[column] is None else printable(str(row[column])) for column in columns] for row in rows[:limit]
    ]
    return Rows(f"{title}: {len(rows)}{more}", [column.replace("_", " ") for column in columns], cells)


def text(given: str) -> str:
    """The text, where PostgreSQL can look for it."""
    if not is_storable(given):
        raise argparse.ArgumentTypeError("it is not UTF-8, or too long")
    return given


def number(given: str) -> int:
    """A number of rows or seconds, 1 at least."""
    if not (found := whole_number(given, MOST_ROWS)):
        raise argparse.ArgumentTypeError(f"{given[:40]!r} is no number from 1 to {MOST_ROWS}")
    return found


def address(given: str) -> tuple[str, int]:
    """An address of this machine and a port."""
    if (found := environment.address(given)) is None:
        raise argparse.ArgumentTypeError(f"{given!r} is no address and port, as 127.0.0.1:8080")
    return found
