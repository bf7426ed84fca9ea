"""pipelinectl search: what was said, where and when."""

import argparse
import json
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.text import Text

import config
from pipeline.commands import choosing, common
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import clock, printable
from pipeline.store.search import Found, find, is_indexed
from pipeline.store.search_hits import Hit
from pipeline.store.subtitles import legend, reading

DESCRIPTION = """Show the recordings in which all the words were said, the newest first, with the text around
them. As in a web search: "good morning" in one argument is a phrase, `or` and -not do what they say (put -- before
a word that begins with a dash). Words are found whole, or by their beginning as fir*, in upper or lower case, with
or without accents; in scripts without spaces (Chinese, Japanese, Thai and others) any part of the text is found.
Without words: all that the options take. Times are those of the recordings, where they are known, in UTC. A ?
behind a time in a recording means that the text is uncertain."""


def run(arguments: argparse.Namespace) -> None:
    """Show what a search finds."""
    words = [f'"{word}"' if " " in word and '"' not in word else word for word in arguments.words]
    query = choosing.query_of(arguments, words, arguments.limit, arguments.offset)
    try:
        with common.connect_database() as database:
            query = replace(query, batch_id=choosing.batch_id_of(database, query.batch_id), order=arguments.order)
            found = find(database, query)
            if query.words and not is_indexed(database):
                common.complain("some older transcripts are not indexed yet: run `pipelinectl.py migrate`")
            if not found.total:
                choosing.require_known(database, query)
    except Permanent as problem:
        common.reject(str(problem))
    if arguments.json:
        hits = [hit.as_dict(config.CHANNEL_NAMES) for hit in found.hits]
        print(json.dumps({**found.summary(), "hits": hits}, indent=2))
    else:
        show_all(found, arguments)


def show_all(found: Found, arguments: argparse.Namespace) -> None:
    """Print the hits, then what they have in common if that is wanted, and how many there are where not all are
    shown."""
    console = Console(highlight=False)
    for hit in found.hits:
        show(hit, console)
    if explained := legend([reading(hit.segment) for hit in found.hits if hit.segment], "? means"):
        common.say(explained)
    if arguments.facets:
        show_facets(found)
    if not found.total:
        common.say("nothing found" + (f": did you mean {found.suggestion}?" if found.suggestion else ""))
    following = arguments.offset + arguments.limit
    if found.is_more or following < found.total:
        common.say(f"{total(found)} found; --offset {following} shows more")


def total(found: Found) -> str:
    """How many hits there are, in words."""
    return f"more than {found.total:,}" if found.is_more else f"{found.total:,}"


def show_facets(found: Found) -> None:
    """Print a line for each thing that hits have, with the most frequent values."""
    for facet, counts in found.facets.items():
        values = [f"{one.value}{f' ({one.name})' if one.name else ''} {one.files:,}" for one in counts]
        if values:
            common.say(f"{facet}: {' · '.join(values)}")
    if found.is_more or found.faceted < found.total:
        common.say(f"counted in the newest {found.faceted:,} of {total(found)} hits")


def show(hit: Hit, console: Console) -> None:
    """Print a hit: a line that says where it is, and one of what was said."""
    where = f"{hit.audio_id}  {hit.time:%Y-%m-%d %H:%M}  {hit.batch_id}  {hit.original_filename}"
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
    order = "the newest first (time), or the most relevant of the newest hits (relevance)"
    searching.add_argument("--order", choices=("time", "relevance"), default="time", help=order)
    searching.add_argument("--facets", action="store_true", help="show what the hits have in common, with counts")
    searching.add_argument("--json", action="store_true", help="for scripts")
    searching.set_defaults(run=run)


def _offset(given: str) -> int:
    if not given.isdecimal() or len(given) > 9:
        raise argparse.ArgumentTypeError(f"{given!r} is no number of hits")
    return int(given)
