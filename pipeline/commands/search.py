"""pipelinectl search: what was said, where and when."""

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

import config
from pipeline.commands import choosing, common
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import clock, printable
from pipeline.store.subtitles import legend, reading
from pipeline.store.transcripts import Hit, search, with_speaker

DESCRIPTION = """Show the recordings in which all the words were said, the newest first, with the text around
them. As in a web search: "good morning" in one argument is a phrase, `or` and -not do what they say (put -- before
a word that begins with a dash). Words are found whole, in upper or lower case. Without words: all that the options
take. A ? behind a time means that the text is uncertain."""


def run(arguments: argparse.Namespace) -> None:
    """Show what a search finds."""
    words = [f'"{word}"' if " " in word and '"' not in word else word for word in arguments.words]
    query = choosing.query_of(arguments, words, arguments.limit + 1, arguments.offset)
    try:
        with common.connect_database() as database:
            found = search(database, query)
            if not found:
                choosing.require_batch(database, query.batch_id)
    except Permanent as problem:
        common.reject(str(problem))
    more = len(found) > arguments.limit
    found = found[: arguments.limit]
    if arguments.json:
        rows = [as_dict(hit) for hit in found]
        print(json.dumps(rows, indent=2))
        return
    console = Console(highlight=False)
    for hit in found:
        show(hit, console)
    if explained := legend([reading(hit.segment) for hit in found if hit.segment], "? means"):
        common.say(explained)
    if not found:
        common.say("nothing found")
    if more:
        common.say(f"there is more: --offset {arguments.offset + arguments.limit}")


def as_dict(hit: Hit) -> dict[str, Any]:
    """A hit for JSON."""
    segment = with_speaker(hit.segment, config.CHANNEL_NAMES)
    return {**asdict(hit), "created_at": hit.created_at.isoformat(), "segment": segment}


def show(hit: Hit, console: Console) -> None:
    """Print a hit: a line that says where it is, and one of what was said."""
    where = f"{hit.audio_id}  {hit.created_at:%Y-%m-%d %H:%M}  {hit.batch_id}  {hit.original_filename}"
    details = [", ".join(hit.languages), *hit.labels, *(f"warning:{code}" for code in hit.warnings)]
    console.print(
        Text(printable(f"{where}  {' '.join(filter(None, details))}".rstrip()), style="dim"),
        soft_wrap=not console.is_terminal,
    )
    said = Text("    ")
    if hit.segment:
        segment = reading(hit.segment, config.CHANNEL_NAMES)
        sign = "?" if segment.is_uncertain else " "
        speaker = f" {segment.speaker}:" if segment.speaker else ""
        said.append(printable(f"{clock(segment.start)}{sign}{segment.mark_sign}{speaker} "), style="cyan")
    for text, is_hit in hit.excerpt:
        said.append(printable(" ".join(text.splitlines())), style="bold yellow" if is_hit else "")
    console.print(said, soft_wrap=not console.is_terminal)


def add(commands: Any) -> None:
    """Its arguments."""
    searching = commands.add_parser("search", help="find recordings by what was said", description=DESCRIPTION)
    searching.add_argument("words", nargs="*", type=common.text, help="all of them have to be there")
    choosing.add_filter(searching)
    searching.add_argument("--limit", type=common.number, default=20, metavar="N", help="hits to show (20)")
    searching.add_argument("--offset", type=_offset, default=0, metavar="N", help="hits to leave out first")
    searching.add_argument("--json", action="store_true", help="for scripts")
    searching.set_defaults(run=run)


def _offset(given: str) -> int:
    if not given.isdecimal() or len(given) > 9:
        raise argparse.ArgumentTypeError(f"{given!r} is no number of hits")
    return int(given)
