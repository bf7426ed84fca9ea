"""A search over all transcripts: which files it finds, how many, and what they have in common.

It gives the newest files first, or the most relevant of the newest: to rank every hit of a common word, of which
there are hundreds of thousands, takes seconds. The newest files are looked through; only where they hold too few
hits is the index of words asked for all.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.store.database import Database
from pipeline.store.queries import QUERIES
from pipeline.store.search_hits import Hit, read_hits
from pipeline.store.search_query import TIME, Query, check, conditions, time_conditions
from pipeline.store.search_terms import Group, read_terms, tsqueries
from pipeline.store.suggestions import suggestion

MOST_COUNTED = 1000  # hits that are counted one by one
_WINDOW = 2000  # files; a word that is in one of a hundred is found in them
_RANKED_WINDOW, _RANKED = 10_000, 200  # files, for a search by relevance, and hits that are enough of them
_RANKED_PASSAGES = 5  # of a file; an hour has sixty
_NEWEST = "ORDER BY f.time DESC, f.audio_id DESC LIMIT %(wanted)s"


@dataclass(frozen=True)
class Count:
    """How many of the hits have a value; `name` is that of the archive, where the value is a batch."""

    value: str
    files: int
    name: str = ""


@dataclass(frozen=True)
class Found:
    """What a search has found. `hits` are those to show; `total` is how many there are, or more than that where
    `is_more`. `facets` are the most frequent values among the newest `faceted` hits, by what they are of: label,
    language, batch, day (UTC), meta (key=value). `suggestion` is what may have been meant where nothing was found.
    """

    hits: list[Hit]
    total: int
    is_more: bool
    facets: dict[str, list[Count]]
    faceted: int
    suggestion: str

    def summary(self) -> dict[str, Any]:
        """What there is beside the hits, for JSON."""
        facets = {facet: [asdict(one) for one in counts] for facet, counts in self.facets.items()}
        return {
            "total": self.total, "is_more": self.is_more, "facets": facets, "faceted": self.faceted,
            "suggestion": self.suggestion,
        }  # fmt: skip


def find(database: Database, query: Query) -> Found:
    """What the query asks for; `Permanent` where PostgreSQL cannot look for it."""
    check(query)
    groups = read_terms(query.words)
    with database.transaction() as cursor:
        _give_memory(cursor)
        audio_ids, total = _newest(cursor, query)
        if total is None:
            total = _count(cursor, query)
        counted = audio_ids[:MOST_COUNTED]
        return Found(
            hits=read_hits(cursor, _page(cursor, query, audio_ids, groups), groups),
            total=min(total, MOST_COUNTED),
            is_more=total > MOST_COUNTED,
            facets=_facets(cursor, counted),
            faceted=len(counted),
            suggestion="" if total else suggestion(cursor, query.words, groups),
        )


def search(database: Database, query: Query) -> list[Hit]:
    """The hits of `find`, without what they have in common."""
    check(query)
    groups = read_terms(query.words)
    with database.transaction() as cursor:
        _give_memory(cursor)
        audio_ids, _ = _newest(cursor, query)
        return read_hits(cursor, _page(cursor, query, audio_ids, groups), groups)


def newest_files(cursor: Any, query: Query) -> list[int]:
    """The ids of the files that the query asks for, the newest first; as many as it wants. `Permanent` as for
    `find`."""
    check(query)
    _give_memory(cursor)
    audio_ids, _ = _newest(cursor, query)
    return audio_ids[query.offset : query.offset + query.limit]


def is_indexed(database: Database) -> bool:
    """Whether a search looks at every transcript: after an update, those from before it are indexed one by one."""
    with database.transaction() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM transcripts WHERE folded_at IS DISTINCT FROM created_at)")
        return not cursor.fetchone()[0]


def _give_memory(cursor: Any) -> None:
    cursor.execute("SET LOCAL work_mem = '32MB'")  # or the places of a common word are kept by page only


def _newest(cursor: Any, query: Query) -> tuple[list[int], int | None]:
    """The ids of the newest files that are found, at least as many as the page needs; and how many there are in
    all (or more than MOST_COUNTED), where that is known by then."""
    needed = max(_RANKED if is_ranked(query) else 0, query.offset + query.limit)
    wanted = max(MOST_COUNTED + 1, needed)
    if not query.batch_id and not query.archive:
        audio_ids, looked_through = _in_window(cursor, query, wanted)
        is_all = looked_through < _window(query)
        if is_all or len(audio_ids) >= needed:
            return audio_ids, len(audio_ids) if is_all or len(audio_ids) > MOST_COUNTED else None
    # The conditions are our own; what was asked for goes in as values.
    asked, values = conditions(query)
    # as a whole: with the limit in sight, PostgreSQL may go through all files by date for a rare word
    cursor.execute(
        f"WITH f AS MATERIALIZED (SELECT f.audio_id, {TIME} AS time FROM audio_files AS f"  # nosec B608
        f" {query.files} WHERE {_all(asked)})"
        f" SELECT f.audio_id, (SELECT count(*) FROM f) FROM f {_NEWEST}",
        {**values, "wanted": wanted},
    )
    rows = cursor.fetchall()
    return [audio_id for audio_id, _ in rows], rows[0][1] if rows else 0


def _in_window(cursor: Any, query: Query, wanted: int) -> tuple[list[int], int]:
    """The ids of those among the newest files that are found; and how many files were looked through."""
    asked, values = conditions(query, few_files=True)
    cursor.execute(
        f"WITH f AS MATERIALIZED (SELECT f.*, {TIME} AS time FROM audio_files AS f"  # nosec B608
        f" WHERE {_all(time_conditions(query))} ORDER BY {TIME} DESC, f.audio_id DESC LIMIT {_window(query)})"
        f" SELECT f.audio_id FROM f {query.files} WHERE {_all(asked)} {_NEWEST}",
        {**values, "wanted": wanted},
    )
    audio_ids = [audio_id for (audio_id,) in cursor.fetchall()]
    cursor.execute(
        f"SELECT count(*) FROM (SELECT FROM audio_files AS f WHERE {_all(time_conditions(query))}"  # nosec B608
        f" LIMIT {_window(query)}) AS newest",
        values,
    )
    return audio_ids, cursor.fetchone()[0]


def _window(query: Query) -> int:
    """How many of the newest files are looked through before the index is asked."""
    return (_RANKED_WINDOW if is_ranked(query) else _WINDOW) + 10 * (query.limit + query.offset)


def _all(conditions: Sequence[str] | dict[str, Any]) -> str:
    return " AND ".join(conditions) or "true"


def _count(cursor: Any, query: Query) -> int:
    """How many files are found, as far as they are counted."""
    asked, values = conditions(query)
    cursor.execute(
        f"SELECT count(*) FROM (SELECT FROM audio_files AS f {query.files}"  # nosec B608
        f" WHERE {_all(asked)} LIMIT {MOST_COUNTED + 1}) AS found",
        values,
    )
    return int(cursor.fetchone()[0])


def is_ranked(query: Query) -> bool:
    """Whether the hits of the query come in the order of their relevance: without words there is none."""
    return query.order == "relevance" and bool(query.words.strip())


def _page(cursor: Any, query: Query, audio_ids: list[int], groups: list[Group]) -> list[int]:
    """The ids to show, of those that were found."""
    if is_ranked(query):
        audio_ids = _ranked(cursor, audio_ids[:MOST_COUNTED], groups)
    return audio_ids[query.offset : query.offset + query.limit]


def _ranked(cursor: Any, audio_ids: list[int], groups: list[Group]) -> list[int]:
    """The ids, those first of which a passage has the words often and close together."""
    asked = {
        "audio_ids": audio_ids,
        **tsqueries(groups),
        "passages": _RANKED_PASSAGES,
    }
    cursor.execute(QUERIES["search_ranks"], asked)
    return [audio_id for (audio_id,) in cursor.fetchall()]


def _facets(cursor: Any, audio_ids: list[int]) -> dict[str, list[Count]]:
    facets: dict[str, list[Count]] = {name: [] for name in ("label", "language", "batch", "day", "meta")}
    cursor.execute(QUERIES["search_facets"], {"audio_ids": audio_ids})
    for facet, value, files, name in cursor.fetchall():
        facets[facet].append(Count(value, files, name))
    return facets
