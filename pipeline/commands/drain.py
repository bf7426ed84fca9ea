"""pipelinectl drain: have a host take no new work."""

import argparse
import time
from typing import Any

import config
from pipeline.commands import common
from pipeline.foundation.formatting import count
from pipeline.jobs.batches import Batches
from pipeline.operations import host_drain

DESCRIPTION = """Have a host take no new work: it finishes its open batches, and gives back the archives that
it has not begun. Exit status 1 while it has some. Its workers may be stopped at any time: nothing is lost, only
done again."""


def run(arguments: argparse.Namespace) -> int:
    """Have a host take no new work, and wait until it has none."""
    if arguments.undo and (arguments.hand_back or arguments.wait):
        common.reject("--undo does not go with --wait and --hand-back")
    redis = common.connect()
    host = arguments.host
    if arguments.undo and host_drain.undo(redis, host):
        common.say(f"{host} takes work again")
        return 0
    if not Batches(redis, "").is_known(host):
        common.reject(f"no worker of {host} was heard within a week: `pipelinectl.py status` shows the hosts")
    if arguments.undo:
        common.say(f"{host} was not draining")
        return 0
    host_drain.begin(redis, host)
    common.say(f"{host} takes no new work; `drain {host} --undo` lets it take some again")
    if arguments.hand_back:
        left = host_drain.work_of(redis, host, config.UNPACK_QUEUE, config.TRANSFER_QUEUE)
        batches = count(len(left.batches), "open batch")
        question = f"give {batches} of {host} to other hosts, which start again"
        if left.batches and not common.has_agreed(arguments, question):
            return 1
        for batch_id in host_drain.hand_back(redis, host, config.UNPACK_QUEUE):
            common.say(f"batch {batch_id} is queued again")
    return wait_until_drained(redis, host, arguments.wait)


def wait_until_drained(redis: Any, host: str, wait: bool) -> int:
    """Report what the host has left; if asked to, wait until nothing is left."""
    reported = None
    while (left := host_drain.work_of(redis, host, config.UNPACK_QUEUE, config.TRANSFER_QUEUE)).is_some():
        if str(left) != reported:
            common.say(f"{host} has left: {left}")
            reported = str(left)
        if not wait:
            return 1
        time.sleep(1)
    common.say(f"{host} has no work: its workers can be stopped")
    return 0


def add(commands: Any) -> None:
    """Its arguments."""
    emptying = commands.add_parser("drain", help="have a host take no new work", description=DESCRIPTION)
    emptying.add_argument("host", help="its HOST_NAME, as `status` shows it")
    emptying.add_argument("--wait", action="store_true", help="until it has no work left")
    emptying.add_argument("--hand-back", action="store_true", help="give its open batches to other hosts")
    emptying.add_argument("--undo", action="store_true", help="let it take work again")
    emptying.add_argument("--yes", action="store_true", help="do not ask before handing back")
    emptying.set_defaults(run=run)
