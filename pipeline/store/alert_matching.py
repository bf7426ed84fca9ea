"""Whether a new transcript is what somebody waits for: it is compared with the saved searches, as a search would
compare it, in the transaction that writes it. So none is missed whatever dies, and none is told of twice."""

import bisect
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pipeline.foundation.errors import Permanent, unavailable_service
from pipeline.store.queries import QUERIES
from pipeline.store.search_hits import read_beginning, read_hits
from pipeline.store.search_terms import Group, Term, read_terms

log = logging.getLogger(__name__)
MOST_HITS = 20  # searches that fit a file of which each is shown where it fits: that reads all its segments


@dataclass(frozen=True)
class SavedSearch:
    """A search that each new transcript is compared with: `words` as they are typed into a search."""

    search_id: int
    name: str
    words: str

    @property
    def groups(self) -> list[Group]:
        """What its words ask for; nothing where this release cannot read them."""
        return _groups(self.name, self.words)


def save_alerts(cursor: Any, audio_id: int) -> None:
    """Write an alert, and the event that tells of it, for each saved search that the file fits and that has
    none of it yet. Its passages are written by then, in the same transaction.

    What fails here and is no outage costs the file its alerts, and not its transcript."""
    cursor.execute("SAVEPOINT alerts")
    try:
        _compare(cursor, audio_id)
    except Exception as error:
        if unavailable_service(error):
            raise
        cursor.execute("ROLLBACK TO SAVEPOINT alerts")
        log.exception("file %d could not be compared with the saved searches, and has no alerts", audio_id)
    cursor.execute("RELEASE SAVEPOINT alerts")


def _compare(cursor: Any, audio_id: int) -> None:
    cursor.execute(
        "SELECT search_id, name, words FROM saved_searches AS s WHERE words <> '' AND NOT EXISTS"
        " (SELECT FROM alerts AS a WHERE a.search_id = s.search_id AND a.audio_id = %s) ORDER BY search_id",
        (audio_id,),
    )
    searches = [SavedSearch(*row) for row in cursor.fetchall()]
    held = _held_terms(cursor, audio_id, searches)
    fitting = [search for search in searches if held and _fits(search.groups, held)]
    beginning = _beginning(cursor, audio_id) if len(fitting) > MOST_HITS else {}
    for number, search in enumerate(fitting):
        shown = _hit(cursor, audio_id, search) if number < MOST_HITS else beginning
        cursor.execute(QUERIES["save_alert"], {**vars(search), "audio_id": audio_id, **shown})


def _held_terms(cursor: Any, audio_id: int, searches: list[SavedSearch]) -> set[Term]:
    """The terms of the searches that the file holds. PostgreSQL is asked for phrases alone whose words are all in
    the file: few are, of hundreds of searches."""
    groups = [group for search in searches for group in search.groups]
    terms = {term for group in groups for term in (*group.wanted, *group.unwanted)}
    if not terms:
        return set()
    cursor.execute(QUERIES["words_of_file"], (audio_id,))
    said = sorted(word for (word,) in cursor.fetchall())
    known = frozenset(said)
    possible = {term for term in terms if known.issuperset(term.words[:-1]) and _has_last(term, said, known)}
    phrases = {term.tsquery(): term for term in possible if len(term.words) > 1}
    held = possible.difference(phrases.values())
    if phrases:
        cursor.execute(QUERIES["held_terms"], {"audio_id": audio_id, "terms": list(phrases)})
        held |= {phrases[tsquery] for (tsquery,) in cursor.fetchall()}
    return held


def _has_last(term: Term, said: list[str], known: frozenset[str]) -> bool:
    """Whether the last word of a term, or one that begins so, is among the words of a file, in order."""
    last = term.words[-1]
    if not term.is_open:
        return last in known
    place = bisect.bisect_left(said, last)
    return place < len(said) and said[place].startswith(last)


def _fits(groups: list[Group], held: set[Term]) -> bool:
    """Whether one of the groups fits a file that holds these terms."""
    return any(held.issuperset(group.wanted) and held.isdisjoint(group.unwanted) for group in groups)


def _hit(cursor: Any, audio_id: int, search: SavedSearch) -> dict[str, Any]:
    """Where the search fits the file."""
    (hit,) = read_hits(cursor, [audio_id], search.groups)
    return {"start": hit.start, "excerpt": _plain(hit.excerpt)}


def _beginning(cursor: Any, audio_id: int) -> dict[str, Any]:
    return {"start": None, "excerpt": _plain(read_beginning(cursor, audio_id))}


def _plain(excerpt: list[tuple[str, bool]]) -> str:
    return " ".join("".join(text for text, _ in excerpt).split())


@lru_cache(maxsize=1024)
def _groups(name: str, words: str) -> list[Group]:
    """The groups of a search; none, and once a line of the log, where they cannot be read: another release may
    have saved it."""
    try:
        return read_terms(words)
    except Permanent as problem:
        log.warning("saved search %s cannot be read, and is left out: %s", name, problem)
        return []
