"""pipelinectl webhooks: what the receiver was not told yet, and a trial of it."""

import argparse
import datetime
import json
import uuid
from typing import Any

import config
from pipeline.commands import common
from pipeline.foundation.formatting import count
from pipeline.store import webhook_outbox
from pipeline.store.database import Database
from pipeline.store.webhook_outbox import Delivery, Event

DESCRIPTION = """Show the events that WEBHOOK_URL has not taken yet, and those that failed permanently after a day
of attempts. `webhooks retry` delivers these once more, `webhooks retry ID` one that waits or has failed.
`webhooks test` sends an event of the type test at once; exit status 1 where it is not taken. docs/webhooks.md says
what the receiver gets."""

ACTIONS = ("retry", "test")


def run(arguments: argparse.Namespace) -> int:
    """Show deliveries, have them tried again, or try the receiver."""
    if arguments.ids and arguments.action != "retry":
        common.reject(f"webhooks {arguments.action or ''} takes no ids".replace("  ", " "))
    if arguments.action == "test":
        return test()
    with common.connect_database() as database:
        if arguments.action == "retry":
            return retry(database, arguments.ids)
        show(database, arguments)
    return 0


def test() -> int:
    """Send an event and say what became of it; gives the exit status."""
    config.require("WEBHOOK_URL")
    receiver = config.webhook_receiver()
    if receiver is None:
        raise AssertionError("it is required")
    event = Event(f"test-{uuid.uuid4()}", "test", {}, datetime.datetime.now(datetime.UTC))
    if (problem := receiver.send(event.event_id, event.type, event.body())) is not None:
        common.complain(f"the receiver has not taken event {event.event_id}: {problem}")
        return 1
    common.say(f"the receiver has taken event {event.event_id}")
    return 0


def retry(database: Database, ids: list[str]) -> int:
    """Have events delivered now; gives the exit status, 2 where no event has these ids."""
    number = webhook_outbox.retry(database, ids)
    if ids and number < len(set(ids)):
        missing = len(set(ids)) - number
        common.complain(f"{count(missing, 'id')} of no event that waits or has failed: `webhooks` shows them")
    if number or not ids:
        common.say(f"{count(number, 'event')} will be delivered now")
    return 2 if ids and number < len(set(ids)) else 0


def show(database: Database, arguments: argparse.Namespace) -> None:
    """Print the deliveries."""
    found = webhook_outbox.read_deliveries(database, arguments.limit, arguments.all)
    numbers = webhook_outbox.count_deliveries(database)
    if arguments.json:
        print(json.dumps({"numbers": numbers, "events": [one.as_dict() for one in found]}, indent=2))
        return
    numbered = ", ".join(f"{number} {state}" for state, number in numbers.items())
    columns = ("id", "type", "time", "state", "attempts", "about", "error")
    common.console().print(common.table(f"events ({numbered})", [_row(one) for one in found], columns))
    if not config.WEBHOOK_URL:
        common.say("WEBHOOK_URL is not set here")


def _row(of: Delivery) -> dict[str, Any]:
    about = [of.data.get(name) for name in ("search", "queue", "archive", "batch_id", "original_filename")]
    return {
        **vars(of),
        "id": of.event_id,
        "time": f"{of.created_at:%Y-%m-%d %H:%M:%S}",
        "about": " ".join(str(value) for value in about if value),
    }


def add(commands: Any) -> None:
    """Its arguments."""
    telling = commands.add_parser(
        "webhooks", help="events that WEBHOOK_URL has not taken", description=DESCRIPTION
    )
    telling.add_argument("action", nargs="?", choices=ACTIONS, help="deliver again, or try the receiver")
    telling.add_argument("ids", nargs="*", type=common.text, metavar="ID", help="events to deliver again")
    telling.add_argument("--all", action="store_true", help="delivered ones too, as long as they are known")
    telling.add_argument("--limit", type=common.number, default=50, metavar="N", help="events to show (50)")
    telling.add_argument("--json", action="store_true", help="for scripts")
    telling.set_defaults(run=run)
