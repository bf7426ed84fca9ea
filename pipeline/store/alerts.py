"""The saved searches, and the alerts: the recordings that fitted one when their transcript was written."""

import datetime
from dataclasses import dataclass
from typing import Any

import psycopg2.errors

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_names import is_storable
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES
from pipeline.store.search_terms import Group, read_terms

MOST_SEARCHES = 500  # each new transcript is compared with all of them
MOST_NAME_CHARS, MOST_WORDS_BYTES = 100, 1000
MOST_COUNTED = 1000  # alerts of a search: a page does not wait for millions
ALERTS_AT_A_TIME = 5000  # that are deleted in one transaction


@dataclass(frozen=True)
class Alert:
    """A recording that fitted a saved search; `start` is where in it, in seconds, and `excerpt` what was said
    there. Times are in UTC."""

    alert_id: int
    matched_at: datetime.datetime
    search: str
    audio_id: int
    batch_id: str
    original_filename: str
    start: float | None
    excerpt: str

    def as_dict(self) -> dict[str, Any]:
        """The alert for JSON."""
        return {**vars(self), "matched_at": self.matched_at.isoformat()}


@dataclass(frozen=True)
class KeptSearch:
    """A saved search as people see it, with the number of its alerts; `created_at` is in UTC. `problem` is why it
    matches nothing, "" where it does. `alerts` is one more than `MOST_COUNTED` where there are more."""

    name: str
    words: str
    created_at: datetime.datetime
    alerts: int
    problem: str

    @property
    def counted(self) -> str:
        """The number of its alerts, for people."""
        return f"more than {MOST_COUNTED:,}" if self.alerts > MOST_COUNTED else str(self.alerts)

    def as_dict(self) -> dict[str, Any]:
        """The search for JSON."""
        return {**vars(self), "created_at": self.created_at.isoformat()}


def save_search(database: Database, name: str, words: str) -> None:
    """Keep a search from now on; `Permanent` where it cannot be, or another has this name."""
    _check(name, words)
    with database.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM saved_searches")
        if cursor.fetchone()[0] >= MOST_SEARCHES:
            raise Permanent(f"there are {MOST_SEARCHES} saved searches, and no more may be: remove one first")
        _try_terms(cursor, read_terms(words))
        cursor.execute(
            "INSERT INTO saved_searches (name, words) VALUES (%s, %s) ON CONFLICT DO NOTHING", (name, words)
        )
        if not cursor.rowcount:
            raise Permanent(f"there is a saved search {name} already: remove it first, or choose another name")


def _check(name: str, words: str) -> None:
    if not name.strip() or len(name) > MOST_NAME_CHARS or not name.isprintable():
        raise Permanent(f"the name of a saved search is a line of {MOST_NAME_CHARS} characters at most")
    if not is_storable(words) or len(words.encode()) > MOST_WORDS_BYTES:
        raise Permanent(f"it is too long to search for ({MOST_WORDS_BYTES} bytes at most), or no text")
    groups = read_terms(words)
    if not groups or not all(group.wanted for group in groups):
        raise Permanent("a saved search needs a word that is said, in each part of it that `or` divides")


def _try_terms(cursor: Any, groups: list[Group]) -> None:
    """Have PostgreSQL read every term: what it refuses would keep transcripts from being written."""
    terms = [term.tsquery() for group in groups for term in (*group.wanted, *group.unwanted)]
    try:
        cursor.execute("SELECT %s::text[]::tsquery[]", (terms,))
    except psycopg2.errors.Error as error:
        if not error.pgcode or error.pgcode[:2] not in ("22", "42", "54"):  # the values', not the server's
            raise
        raise Permanent("PostgreSQL cannot search for these words") from None


def remove_search(database: Database, name: str) -> bool:
    """Forget a saved search with its alerts; False where none has this name. In steps, since there may be
    millions of alerts: from the first step on it matches nothing. Repeat it where it was interrupted."""
    with database.transaction() as cursor:
        cursor.execute("UPDATE saved_searches SET words = '' WHERE name = %s RETURNING search_id", (name,))
        found = cursor.fetchone()
    if not found:
        return False
    _delete_alerts(database, found[0])
    with database.transaction() as cursor:  # and with it what a transaction from before the first step has written
        cursor.execute("DELETE FROM saved_searches WHERE search_id = %s", found)
    return True


def _delete_alerts(database: Database, search_id: int) -> None:
    after: int | None = 0
    while after is not None:
        asked = {"search_id": search_id, "after": after, "most": ALERTS_AT_A_TIME}
        with database.transaction() as cursor:
            cursor.execute(QUERIES["delete_some_alerts"], asked)
            (after,) = cursor.fetchone()


def saved_searches(database: Database) -> list[KeptSearch]:
    """The saved searches, by their names."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT name, words, created_at,"
            " (SELECT count(*) FROM (SELECT FROM alerts AS a WHERE a.search_id = s.search_id LIMIT %s) AS few)"
            " FROM saved_searches AS s ORDER BY name",
            (MOST_COUNTED + 1,),
        )
        return [
            KeptSearch(name, words, made.astimezone(datetime.UTC), alerts, _problem(words))
            for name, words, made, alerts in cursor.fetchall()
        ]


def _problem(words: str) -> str:
    """Why the words of a saved search match nothing; "" where they do."""
    if not words:
        return "it is half removed: remove it again"
    try:
        read_terms(words)
    except Permanent as problem:
        return f"unreadable: {problem}"
    return ""


def read_alerts(
    database: Database, search: str = "", since: datetime.datetime | None = None, limit: int = 50, before: int = 0
) -> list[Alert]:
    """The alerts, the newest first: those of one saved search, since a time, with an id lower than `before`."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT a.alert_id, a.matched_at, s.name, a.audio_id, f.batch_id, f.original_filename, a.start,"
            " a.excerpt FROM alerts AS a JOIN saved_searches AS s USING (search_id)"
            " JOIN audio_files AS f USING (audio_id)"
            " WHERE (%(search)s = '' OR s.name = %(search)s) AND (%(before)s = 0 OR a.alert_id < %(before)s)"
            " AND (%(since)s::timestamptz IS NULL OR a.matched_at >= %(since)s)"
            " ORDER BY a.alert_id DESC LIMIT %(limit)s",
            {"search": search, "since": since, "limit": limit, "before": before},
        )
        return [
            Alert(alert_id, matched.astimezone(datetime.UTC), *fields)
            for alert_id, matched, *fields in cursor.fetchall()
        ]
