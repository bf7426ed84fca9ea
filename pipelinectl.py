"""The operator's command: queue archives, see what moves, apply the database schema."""

import argparse
import json
import os
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import config
from pipeline import redis_client
from pipeline.database import Database
from pipeline.errors import away
from pipeline.status import Status, read_status
from pipeline.watch import Watch

EPILOG = """examples:
  python pipelinectl.py migrate                          make or update the tables
  python pipelinectl.py enqueue /recordings/monday.tar   bring this archive from the EC2 host
  python pipelinectl.py status --json | jq .queues       for scripts

exit status: 0 well, 1 a service is away, 2 wrong arguments or settings (example.env lists them)"""


def connect() -> Any:
    """The Redis of the settings; ends with status 2 where it refuses us."""
    config.require(*config.REDIS)
    client = redis_client.connect(config.REDIS_URL)
    if problem := redis_client.refusal(client):
        config.refuse(problem)
    return client


def enqueue(arguments: argparse.Namespace) -> None:
    """Queue remote paths for transfer."""
    if "" in arguments.remote_path:
        config.refuse("a remote path is empty")
    watch = Watch(connect(), config.TRANSFER_QUEUE)
    for path in arguments.remote_path:
        watch.enqueue(path)
        print(f"queued {path}")


def status(arguments: argparse.Namespace) -> None:
    """Show queues, workers and open batches."""
    redis = connect()
    queues = [config.TRANSFER_QUEUE, config.UNPACK_QUEUE, config.TRANSCRIBE_QUEUE]
    now = read_status(redis, queues)
    if arguments.json:
        print(json.dumps(now.as_dict(), indent=2))
    else:
        show(now, Console())


def show(now: Status, console: Console) -> None:
    """Print the status as three tables."""
    console.print(_table("queues", now.queues, ("name", "waiting", "delayed", "in_work", "dead")))
    for worker in now.workers:
        worker["for"] = f"{int(time.time() - worker['since'])} s" if worker["alive"] else ""
    console.print(_table("workers", now.workers, ("id", "host", "doing", "for")))
    console.print(_table("open batches", now.batches, ("id", "host", "total", "processed", "failed")))


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(title=f"{title}: {len(rows)}", title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(Text("" if row[column] is None else str(row[column])) for column in columns))
    return table


def migrate(_arguments: argparse.Namespace) -> None:
    """Apply what is new in schema/; safe to repeat, and when two run at once."""
    config.require(*config.DATABASE)
    database = Database(config.DATABASE_URL)
    if problem := database.refusal():
        config.refuse(problem)
    applied = database.migrate()
    database.close()
    print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    queueing = commands.add_parser("enqueue", help="queue archives on the EC2 host for transfer")
    queueing.add_argument("remote_path", nargs="+", help="path of a tar archive on the EC2 host")
    queueing.set_defaults(run=enqueue)
    showing = commands.add_parser("status", help="show queues, workers and open batches")
    showing.add_argument("--json", action="store_true", help="for scripts")
    showing.set_defaults(run=status)
    applying = commands.add_parser("migrate", help="apply the database schema; safe to repeat")
    applying.set_defaults(run=migrate)
    return top


def main() -> int:
    """Run one command."""
    arguments = parser().parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # paths that are not UTF-8
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (service := away(error)) is None:
            raise
        print(f"pipelinectl: {service} is away: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
