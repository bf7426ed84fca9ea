"""Choosing transcripts on the command line: a file, a batch, a search."""

import argparse
import datetime
import re

from pipeline.commands import common
from pipeline.store.batch_history import read_batch, read_batch_files
from pipeline.store.database import Database
from pipeline.store.transcripts import AudioFile, Query, find_files, read_file


def add_filter(command: argparse.ArgumentParser) -> None:
    """The arguments that choose among transcripts, beside words."""
    when = "30m, 24h or 7d ago, or a day or time in UTC: 2025-06-22, 2025-06-22T14:30"
    command.add_argument("--since", type=moment, metavar="TIME", help=f"from then on: {when}")
    command.add_argument("--until", type=moment, metavar="TIME", help="before then")
    command.add_argument("--language", type=common.text, default="", metavar="CODE", help="spoken in it: en")
    command.add_argument("--tag", type=common.text, default="", metavar="LABEL", help="with this label: Siren")
    command.add_argument("--batch", type=common.text, default="", metavar="ID", help="of this batch")


def query_of(arguments: argparse.Namespace, words: list[str], limit: int = 20, offset: int = 0) -> Query:
    """What the arguments of `add_filter` and the words ask for."""
    return Query(
        " ".join(words), arguments.since, arguments.until, arguments.language, arguments.tag, arguments.batch,
        limit, offset,
    )  # fmt: skip


def moment(given: str) -> datetime.datetime:
    """The moment so long ago, or that day or time, in UTC."""
    try:
        if match := re.fullmatch(r"([0-9]{1,5})([mhd])", given):
            unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
            return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**{unit: int(match[1])})
        when = datetime.datetime.fromisoformat(given)
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{given!r} is no time: give 24h, 7d or 2025-06-22") from None


def file_of(database: Database, names: list[str]) -> AudioFile:
    """The file that one argument (its audio id) or two (its batch and name) tell of; ends with status 2 where
    there is none."""
    if len(names) == 1 and re.fullmatch(r"[0-9]+", names[0]):
        found = read_file(database, int(names[0]))
    elif len(names) == 2:
        found = next(iter(find_files(database, names[0], names[1], limit=1)), None) if names[1] else None
    else:
        common.reject("name a file: its audio id, or its batch and its name")
    if found is None:
        common.reject(f"there is no file {' '.join(names)}: `pipelinectl.py search` shows ids")
    return found


def require_batch(database: Database, batch_id: str) -> None:
    """End with status 2 where no batch of this id was ever unpacked: an empty answer would hide a slip."""
    if batch_id and not read_batch_files(database, batch_id, limit=1) and read_batch(database, batch_id) is None:
        hint = common.batch_hint(database, batch_id) or ": see `pipelinectl.py status` and `failures`"
        common.reject(f"no batch {batch_id} has been unpacked yet{hint}")
