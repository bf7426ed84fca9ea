"""pipelinectl enqueue: have archives brought from the EC2 host."""

import argparse
from typing import Any

import config
from pipeline.commands import common
from pipeline.watch import Watch


def run(arguments: argparse.Namespace) -> None:
    """Queue remote paths for transfer."""
    if "" in arguments.remote_path:
        config.refuse("a remote path is empty")
    watch = Watch(common.connect(), config.TRANSFER_QUEUE)
    for path in arguments.remote_path:
        watch.enqueue(path)
        common.say(f"queued {path}")


def add(commands: Any) -> None:
    """Its arguments."""
    queueing = commands.add_parser("enqueue", help="queue archives on the EC2 host for transfer")
    queueing.add_argument("remote_path", nargs="+", help="path of a tar archive on the EC2 host")
    queueing.set_defaults(run=run)
