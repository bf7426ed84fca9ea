"""pipelinectl alerts: the recordings in which something was said that somebody waits for."""

import argparse
import json
from typing import Any

from pipeline.commands import common, failures
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import clock, did_you_mean
from pipeline.store.alerts import read_alerts, remove_search, save_search, saved_searches
from pipeline.store.database import Database

DESCRIPTION = """Show the alerts, the newest first: recordings that fitted a saved search when their transcript was
written. `alerts add NAME WORDS` saves a search, with words as `search` takes them: each transcript that is written
from then on is compared with it (`search` finds those from before). With WEBHOOK_URL, each alert is a webhook too.
`alerts list` shows the saved searches, `alerts remove NAME` forgets one, with its alerts."""

USAGE = {"add": "NAME WORDS", "list": "", "remove": "NAME"}


def run(arguments: argparse.Namespace) -> None:
    """Show alerts, or show or change the saved searches."""
    _check(arguments)
    try:
        with common.connect_database() as database:
            if arguments.action == "add":
                words = [f'"{word}"' if " " in word and '"' not in word else word for word in arguments.words]
                save_search(database, arguments.name, " ".join(words))
                common.say(f"each new transcript is compared with {arguments.name} from now on")
            elif arguments.action == "remove":
                _remove(database, arguments)
            elif arguments.action == "list":
                show_searches(database, arguments.json)
            else:
                show_alerts(database, arguments)
    except Permanent as problem:
        common.reject(str(problem))


def _check(arguments: argparse.Namespace) -> None:
    """End with status 2 where the arguments do not go together."""
    expected = USAGE.get(arguments.action, "").split()
    if (bool(arguments.name), bool(arguments.words)) != ("NAME" in expected, "WORDS" in expected):
        common.reject(f"it is `{' '.join(['alerts', *filter(None, [arguments.action]), *expected])}`")


def _remove(database: Database, arguments: argparse.Namespace) -> None:
    known = {search.name: search for search in saved_searches(database)}
    if arguments.name not in known:
        common.reject(_unknown(arguments.name, list(known)))
    search = known[arguments.name]
    question = f"forget {search.name} and its alerts ({search.counted})"
    if search.alerts and not common.has_agreed(arguments, question):
        raise SystemExit(1)
    remove_search(database, arguments.name)
    common.say(f"{arguments.name} is removed")


def _unknown(name: str, known: list[str]) -> str:
    return f"there is no saved search {name}{did_you_mean(name, known) or ': `alerts list` shows them'}"


def show_searches(database: Database, is_json: bool) -> None:
    """Print the saved searches."""
    found = saved_searches(database)
    if is_json:
        print(json.dumps([search.as_dict() for search in found], indent=2))
        return
    rows = [
        {**vars(search), "since": f"{search.created_at:%Y-%m-%d %H:%M:%S}", "alerts": search.counted}
        for search in found
    ]
    common.console().print(common.table("saved searches", rows, ("name", "words", "since", "alerts", "problem")))


def show_alerts(database: Database, arguments: argparse.Namespace) -> None:
    """Print the alerts."""
    wanted = arguments.search or ""
    found = read_alerts(database, wanted, arguments.since, arguments.limit)
    if wanted and not found and wanted not in (known := [search.name for search in saved_searches(database)]):
        common.reject(_unknown(wanted, known))
    if arguments.json:
        print(json.dumps([alert.as_dict() for alert in found], indent=2))
        return
    rows = [
        {
            **vars(alert),
            "time": f"{alert.matched_at:%Y-%m-%d %H:%M:%S}",
            "id": alert.audio_id,
            "at": None if alert.start is None else clock(alert.start),
        }
        for alert in found
    ]
    columns = ("time", "search", "id", "original_filename", "at", "excerpt")
    common.console().print(common.table("alerts", rows, columns))


def add(commands: Any) -> None:
    """Its arguments."""
    alerting = commands.add_parser("alerts", help="what was said that somebody waits for", description=DESCRIPTION)
    alerting.add_argument(
        "action", nargs="?", choices=[*USAGE], help="the saved searches: save, show or forget one"
    )
    alerting.add_argument("name", nargs="?", type=common.text, help="of the saved search")
    alerting.add_argument("words", nargs="*", type=common.text, help="as `search` takes them")
    alerting.add_argument("--search", type=common.text, metavar="NAME", help="alerts of this saved search only")
    alerting.add_argument("--since", type=failures.age, metavar="AGE", help="in the last 30m, 24h or 7d")
    alerting.add_argument("--limit", type=common.number, default=50, metavar="N", help="alerts to show (50)")
    alerting.add_argument("--yes", action="store_true", help="do not ask before forgetting alerts")
    alerting.add_argument("--json", action="store_true", help="for scripts")
    alerting.set_defaults(run=run)
