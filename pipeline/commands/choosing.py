"""Choosing transcripts on the command line: a file, a batch, a search."""

import argparse
import datetime
import shlex
from typing import Any, NoReturn

import config
from pipeline.commands import common
from pipeline.foundation import moments
from pipeline.foundation.file_metadata import key_and_value
from pipeline.foundation.formatting import count, whole_number
from pipeline.operations.archive_progress import Followed, find_unpacked
from pipeline.store.batch_history import Batch, batches_of_archive, read_batch, read_batch_files
from pipeline.store.database import Database
from pipeline.store.search_query import Query
from pipeline.store.transcripts import AudioFile, find_files, read_file
from pipeline.store.vocabulary import unknown_word

BATCH_HELP = "of this batch: its id, or its archive's name"
MOST_LISTED = 20  # batches of one name


def add_filter(command: argparse.ArgumentParser) -> None:
    """The arguments that choose among transcripts, beside words."""
    when = "30m, 24h or 7d ago, or a day or time in UTC: 2025-06-22, 2025-06-22T14:30"
    command.add_argument("--since", type=moment, metavar="TIME", help=f"recorded from then on: {when}")
    command.add_argument("--until", type=moment, metavar="TIME", help="recorded before then")
    command.add_argument("--processed-since", type=moment, metavar="TIME", help="unpacked from then on")
    command.add_argument("--processed-until", type=moment, metavar="TIME", help="unpacked before then")
    command.add_argument("--language", type=common.text, default="", metavar="CODE", help="spoken in it: en")
    command.add_argument("--tag", type=common.text, default="", metavar="LABEL", help="with this label: Siren")
    command.add_argument("--batch", type=common.text, default="", metavar="BATCH", help=BATCH_HELP)
    command.add_argument(
        "--archive", type=common.text, default="", metavar="NAME", help="of archives of this name"
    )
    what = "its sidecar, tags or name say so: talkgroup=1234; may be repeated"
    command.add_argument("--meta", type=_pair, action="append", default=[], metavar="KEY=VALUE", help=what)


def query_of(arguments: argparse.Namespace, words: list[str], limit: int = 20, offset: int = 0) -> Query:
    """What the arguments of `add_filter` and the words ask for; ends with status 2 where no time is within
    them."""
    for since, until in (("since", "until"), ("processed_since", "processed_until")):
        begin, end = getattr(arguments, since), getattr(arguments, until)
        if begin and end and begin >= end:
            common.reject(f"--{since} is not before --{until}: no time is in between".replace("_", "-"))
    return Query(
        " ".join(words), arguments.since, arguments.until, arguments.language, arguments.tag, arguments.batch,
        limit, offset, arguments.processed_since, arguments.processed_until, tuple(arguments.meta),
        arguments.archive,
    )  # fmt: skip


def moment(given: str) -> datetime.datetime:
    """The moment so long ago, or that day or time, in UTC."""
    try:
        return moments.moment(given)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _pair(given: str) -> tuple[str, str]:
    if (found := key_and_value(common.text(given))) is None:
        raise argparse.ArgumentTypeError(f"{given[:100]!r} has no value: give it as talkgroup=1234")
    return found


def file_of(database: Database, names: list[str]) -> AudioFile:
    """The file that one argument (its audio id) or two (its batch and name) tell of; ends with status 2 where
    there is none."""
    if len(names) == 1 and names[0].isdecimal():
        audio_id = whole_number(names[0])
        found = None if audio_id is None else read_file(database, audio_id)
    elif len(names) == 2:
        batch_id = batch_id_of(database, names[0])
        found = next(iter(find_files(database, batch_id, names[1], limit=1)), None) if names[1] else None
    else:
        if len(names) == 1 and is_unpacked(database, batch_id := batch_id_of(database, names[0])):
            listing = f"pipelinectl.py search --batch {shlex.quote(batch_id)}"
            common.reject(f"{names[0]} is a batch: name one of its files as well; `{listing}` shows them")
        common.reject("name a file: its audio id, or its batch and its name")
    if found is None:
        common.reject(f"there is no file {' '.join(names)[:200]}: `pipelinectl.py search` shows ids")
    return found


def batch_id_of(database: Database, given: str, redis: Any = None) -> str:
    """The id of the batch that is named by its id, or by its archive's name or path; ends with status 2 where
    several archives had that name. What nobody knows is given back as it is; Redis, where it is given, knows
    archives that were not unpacked yet."""
    if not given or is_unpacked(database, given):
        return given
    found = batches_of_archive(database, given, MOST_LISTED + 1)
    if len(found) > 1:
        _reject_ambiguous(given, found)
    if not found and redis is not None:
        return _one_of(given, [archive for archive in _on_their_way(redis, given) if archive.batch_id]).batch_id
    return found[0].batch_id if found else given


def archive_of(redis: Any, database: Database, given: str) -> Followed:
    """The archive that is named as for `batch_id_of`, also while it is on its way to be unpacked; ends with
    status 2 where there is none."""
    batch_id = batch_id_of(database, given)
    if batch_id != given or is_unpacked(database, batch_id):
        return Followed(batch_id=batch_id)
    if not (found := _on_their_way(redis, given)):
        common.reject(f"there is no batch or archive {given[:200]}{common.batch_hint(database, given)}")
    return _one_of(given, found)


def is_unpacked(database: Database, batch_id: str) -> bool:
    """Whether an archive was ever unpacked as a batch of this id."""
    return read_batch(database, batch_id) is not None or bool(read_batch_files(database, batch_id, limit=1))


def _on_their_way(redis: Any, given: str) -> list[Followed]:
    return find_unpacked(redis, config.TRANSFER_QUEUE, config.UNPACK_QUEUE, given)


def _one_of(given: str, archives: list[Followed]) -> Followed:
    """The one that is called so, or what was given, as a batch id, where none is; the end where several are."""
    if len(archives) > 1:
        lines = [f"  {archive.batch_id}  {archive.path}" for archive in archives[:MOST_LISTED]]
        common.reject(f"several archives are called {given}: name one of them by its path or its id", *lines)
    return archives[0] if archives else Followed(batch_id=given)


def _reject_ambiguous(given: str, found: list[Batch]) -> NoReturn:
    more = ", the newest" if len(found) > MOST_LISTED else ""
    lines = [
        f"  {batch.batch_id}  {batch.origin}  "
        f"{'finished' if batch.finished_at else 'open'}, {count(batch.file_count, 'file')}"
        for batch in found[:MOST_LISTED]
    ]
    common.reject(f"several batches are called {given}: name one of them by its id{more}", *lines)


def require_known(database: Database, query: Query) -> None:
    """End with status 2 where there is no batch of this id, or no recording has this label or language: an empty
    answer would hide a slip."""
    require_batch(database, query.batch_id)
    if problem := unknown_word(database, query):
        common.reject(problem)


def require_batch(database: Database, batch_id: str) -> None:
    """End with status 2 where no batch of this id was ever unpacked."""
    if batch_id and not is_unpacked(database, batch_id):
        hint = common.batch_hint(database, batch_id) or ": see `pipelinectl.py status` and `failures`"
        common.reject(f"no batch {batch_id} has been unpacked yet{hint}")
