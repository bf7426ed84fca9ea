"""pipelinectl status: what moves and what is stuck."""

import argparse
import json
import time
from typing import Any

from rich.console import Console

from pipeline.commands import common
from pipeline.status import Status, read_status


def run(arguments: argparse.Namespace) -> None:
    """Show queues, workers and open batches."""
    redis = common.connect()
    now = read_status(redis, common.QUEUES)
    if arguments.json:
        print(json.dumps(now.as_dict(), indent=2))
    else:
        show(now, Console())


def show(now: Status, console: Console) -> None:
    """Print the status as three tables."""
    console.print(common.table("queues", now.queues, ("name", "waiting", "delayed", "in_work", "dead")))
    for worker in now.workers:
        worker["for"] = f"{int(time.time() - worker['since'])} s" if worker["alive"] else ""
    console.print(common.table("workers", now.workers, ("id", "host", "doing", "for")))
    console.print(common.table("open batches", now.batches, ("id", "host", "total", "processed", "failed")))


def add(commands: Any) -> None:
    """Its arguments."""
    showing = commands.add_parser("status", help="show queues, workers and open batches")
    showing.add_argument("--json", action="store_true", help="for scripts")
    showing.set_defaults(run=run)
