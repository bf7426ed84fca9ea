"""pipelinectl tokens: who may read the page and the interface for programs."""

import argparse
import datetime
import json
import re
from typing import Any

from pipeline.commands import common
from pipeline.store import tokens

ROLES = ("reader", "operator")
MOST_DAYS = 36525
DESCRIPTION = """Named tokens for the page and the interface for programs (/api/v1). Whoever has one logs in to the
page with it, or sends it as Authorization: Bearer. A reader sees; an operator may queue and retry too, through
the interface. A token is printed once, by `create`: only its SHA-256 is kept. `revoke` ends it, and the sessions
that it has opened, within 30 seconds. `audit` shows who has made and revoked tokens, and what each has read."""


def create(arguments: argparse.Namespace) -> int:
    """Make a token and print it; gives the exit status."""
    with common.connect_database() as database:
        token = tokens.create(database, arguments.name, arguments.role, arguments.days, common.actor())
    if token is None:
        common.complain(f"there is a token {arguments.name} already: revoke it, or choose another name")
        return 1
    if arguments.json:
        print(json.dumps({"name": arguments.name, "role": arguments.role, "token": token}, indent=2))
    else:
        print(token)
    return 0


def show(arguments: argparse.Namespace) -> None:
    """Show the tokens: whose they are, never what they are."""
    with common.connect_database() as database:
        found = tokens.read_tokens(database)
    if arguments.json:
        print(json.dumps([token.as_dict() for token in found], indent=2))
        return
    now = datetime.datetime.now(datetime.UTC)
    rows = [
        {
            "name": token.name,
            "role": token.role,
            "created": _time(token.created_at),
            "expires": "never" if token.expires_at is None else _time(token.expires_at),
            "last used": _time(token.last_used_at),
            "": "" if token.is_valid(now) else "expired",
        }
        for token in found
    ]
    columns = ("name", "role", "created", "expires", "last used", "")
    common.console().print(common.table("tokens", rows, columns))


def revoke(arguments: argparse.Namespace) -> int:
    """End a token; gives the exit status."""
    with common.connect_database() as database:
        was_there = tokens.revoke(database, arguments.name, common.actor())
    if not was_there:
        common.complain(f"there is no token {arguments.name}: `pipelinectl.py tokens list` shows them")
        return 1
    common.say(f"{arguments.name} is revoked: its sessions end within 30 seconds")
    return 0


def _time(moment: datetime.datetime | None) -> str:
    return "never" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _name(given: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", given):
        raise argparse.ArgumentTypeError("use letters, digits and . _ @ - only, 64 characters at most")
    return given


def _days(given: str) -> int:
    days = common.number(given)
    if days > MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{days} days are more than {MOST_DAYS}")
    return days


def run(arguments: argparse.Namespace) -> int | None:
    """Do what is asked; gives the exit status."""
    done: int | None = arguments.do(arguments)
    return done


def add(commands: Any) -> None:
    """Its arguments."""
    about = commands.add_parser("tokens", help="who may read the page", description=DESCRIPTION)
    about.set_defaults(run=run, do=show, json=False)
    actions = about.add_subparsers(metavar="ACTION")
    creating = actions.add_parser("create", help="make a token, and print it once")
    creating.add_argument("name", type=_name, metavar="NAME", help="whose it is: a person or a program")
    creating.add_argument("--role", choices=ROLES, default="reader", help="default: reader")
    creating.add_argument("--days", type=_days, metavar="N", help="how long it is good; without it, until revoked")
    creating.add_argument("--json", action="store_true", help="for scripts")
    creating.set_defaults(do=create)
    listing = actions.add_parser("list", help="show the tokens, and when each was last used")
    listing.add_argument("--json", action="store_true", help="for scripts")
    listing.set_defaults(do=show)
    revoking = actions.add_parser("revoke", help="end a token")
    revoking.add_argument("name", type=common.text, metavar="NAME", help="as `tokens list` shows it")
    revoking.set_defaults(do=revoke)
