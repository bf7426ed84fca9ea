"""What a search asks for, and its conditions in SQL on a file `f` and its transcript `t`."""

import datetime
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.foundation.archive_origin import name_of
from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_names import is_storable
from pipeline.store.search_terms import Group, read_terms

MOST_SEARCH_BYTES = 1000
MOST_OFFSET = 1_000_000  # hits that are left out: their ids are in memory
MOST_META = 20
TIME = "coalesce(f.recorded_at, f.created_at)"  # what files are sorted by; there is an index of it
# An index has the language that is most spoken; those of the few files with several have one of their own.
_SPOKEN = (
    "(f.language = %(language)s OR (cardinality(f.languages) > 1 AND f.languages @> ARRAY[%(language)s]::text[]))"
)
_ARCHIVE = (
    "f.batch_id IN (SELECT b.batch_id FROM batches AS b WHERE substring(b.archive_path from '[^/]*$') ="
    " %(archive_name)s AND (%(archive_name)s = %(archive)s OR b.archive_path = %(archive)s))"
)
_LABELLED = "EXISTS (SELECT FROM classifications AS c WHERE c.audio_id = f.audio_id AND c.label = %(tag)s)"
_HAS = "EXISTS (SELECT FROM passages AS p WHERE p.audio_id = f.audio_id AND p.words @@ %({})s::tsquery)"
# The same, looked at file by file (PostgreSQL makes no join of what has an OFFSET): for what must not be in a file
# it would first collect all that have it, and to put the joins of many terms in order takes it minutes.
_HAS_ONE_BY_ONE = _HAS.removesuffix(")") + " OFFSET 0)"
_JOINED = (
    4  # terms; of more, the longest alone, which may be the rarest, or none where few files are looked through
)


@dataclass(frozen=True)
class Query:
    """What to search for; what is empty or None asks for nothing.

    `words` as in a web search: all of them, "a phrase", or, -not, fir* for words that begin so. Letters in upper
    and lower case, with and without accents are the same; in a script without spaces (`pipeline.store.words`) any
    part of the text is found. `language` is one that is spoken in the file, if only a little. `tag` is a label of
    any classifier. `since` (included) and `until` (not included) say when the recording was made, or, where that
    is not known, its row; `processed_since` and `processed_until` when its row was made; in UTC. `meta` are keys
    and values that its metadata has, all of them, numbers as they are written. `archive` is the file name of its
    archive, or its path. `order` is by time, the newest first, or by relevance among the newest hits. `before` is
    the time and the id of a file: those that come behind it in the order of time. `status` is that of the file's
    row; without `heard`, files without a transcript are found too.
    """

    words: str = ""
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    language: str = ""
    tag: str = ""
    batch_id: str = ""
    limit: int = 20
    offset: int = 0
    processed_since: datetime.datetime | None = None
    processed_until: datetime.datetime | None = None
    meta: tuple[tuple[str, str], ...] = ()
    archive: str = ""
    order: Literal["time", "relevance"] = "time"
    before: tuple[datetime.datetime, int] | None = None
    status: str = ""
    heard: bool = True

    @property
    def files(self) -> str:
        """Which rows are looked at, in SQL, behind those of `audio_files AS f`."""
        return "JOIN transcripts AS t USING (audio_id)" if self.heard else ""


def check(query: Query) -> None:
    """`Permanent` where PostgreSQL cannot look for it."""
    texts = (query.words, query.language, query.tag, query.batch_id, query.archive, *sum(query.meta, ()))
    for text in texts:
        if not is_storable(text) or len(text.encode()) > MOST_SEARCH_BYTES:
            raise Permanent(f"it is too long to search for ({MOST_SEARCH_BYTES} bytes at most), or no text")
    if len(query.meta) > MOST_META:
        raise Permanent(f"it asks for too much metadata ({MOST_META} values at most)")
    if query.offset > MOST_OFFSET:
        raise Permanent(
            f"it leaves out too many hits ({MOST_OFFSET:,} at most): give a time until which to search"
        )


def conditions(query: Query, few_files: bool = False) -> tuple[list[str], dict[str, Any]]:
    """The conditions on a file (one of a few) and the values in them. Those on its times alone come first."""
    said, terms = _said(read_terms(query.words), few_files)
    with_meta, meta = _described(query.meta)
    asked = {
        **time_conditions(query),
        said: query.words.strip(),
        _SPOKEN: query.language,
        "f.batch_id = %(batch_id)s": query.batch_id,
        _ARCHIVE: query.archive,
        with_meta: query.meta,
        _LABELLED: query.tag,
        "f.status = %(status)s": query.status,
    }
    values = {**vars(query), "archive_name": name_of(query.archive), **terms, **meta}
    if query.before:
        values["before_time"], values["before_id"] = query.before
    return [condition for condition, value in asked.items() if value], values


def time_conditions(query: Query) -> dict[str, Any]:
    """The conditions on the file's times, each with its value."""
    asked = {
        f"{TIME} >= %(since)s": query.since,
        f"{TIME} < %(until)s": query.until,
        "f.created_at >= %(processed_since)s": query.processed_since,
        "f.created_at < %(processed_until)s": query.processed_until,
        f"({TIME}, f.audio_id) < (%(before_time)s, %(before_id)s)": query.before,
    }
    return {condition: value for condition, value in asked.items() if value}


def _described(meta: tuple[tuple[str, str], ...]) -> tuple[str, dict[str, str]]:
    """The condition that the metadata has all these values, and its own values."""
    found: list[str] = []
    values: dict[str, str] = {}
    for key, value in meta:
        ways = []
        for one in _readings(value):
            values[name := f"meta{len(values)}"] = json.dumps({key: one})
            ways.append(f"f.metadata @> %({name})s::jsonb")
        found.append(f"({' OR '.join(ways)})")
    return " AND ".join(found), values


def _readings(value: str) -> list[Any]:
    """What a value may be in JSON: the text itself, and the number or truth that it is."""
    try:
        read = json.loads(value)
    except (ValueError, RecursionError):
        return [value]
    is_number = isinstance(read, int) or (isinstance(read, float) and math.isfinite(read))
    return [value, read] if is_number else [value]


def _said(groups: list[Group], few_files: bool) -> tuple[str, dict[str, str]]:
    """The condition that one of the groups fits a file, and its values. Its terms may be in different passages."""
    values: dict[str, str] = {}

    def has(tsquery: str, is_joined: bool = False) -> str:
        values[name := f"term{len(values)}"] = tsquery
        return (_HAS if is_joined else _HAS_ONE_BY_ONE).format(name)

    wanted = [sorted((term.tsquery() for term in group.wanted), key=len, reverse=True) for group in groups]
    if len(groups) > 1 and all(len(terms) == 1 for terms in wanted) and not any(one.unwanted for one in groups):
        return has(" | ".join(terms[0] for terms in wanted), is_joined=True), values
    fits = []
    for group, terms in zip(groups, wanted, strict=True):
        joined = len(terms) if len(terms) <= _JOINED else int(not few_files)
        conditions = [has(term, is_joined=place < joined) for place, term in enumerate(terms)]
        conditions += [f"NOT {has(term.tsquery())}" for term in group.unwanted]
        fits.append(" AND ".join(conditions))
    found = f"({' OR '.join(fits) or 'false'})"
    if len(fits) > 1 and all(wanted) and not few_files:  # by the index, before each is looked at
        found += f" AND {has(' | '.join(terms[0] for terms in wanted), is_joined=True)}"
    return found, values
