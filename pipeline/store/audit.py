"""Who did what, and when: the audit log. It holds no words of a recording."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.store.database import Database

MOST_TEXT = 500  # characters of an actor, an action or a subject
_NUL = "\0"  # PostgreSQL cannot hold it


@dataclass(frozen=True)
class Entry:
    """What was done; `at` is in UTC."""

    audit_id: int
    at: datetime.datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The entry for JSON."""
        return {**vars(self), "at": self.at.isoformat()}


@dataclass(frozen=True)
class Wanted:
    """Which entries: what is empty or None asks for nothing; `since` is included, `until` is not."""

    actor: str = ""
    action: str = ""
    subject: str = ""
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None


def note(
    cursor: Any, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None,
    at: datetime.datetime | None = None,
) -> None:  # fmt: skip
    """Write an entry in the transaction of the cursor: it is there exactly where what it tells of was done. `at`
    is for what was done before; otherwise it is done now."""
    texts = [_kept(text) for text in (actor, action, subject)]
    cursor.execute(
        "INSERT INTO audit (at, actor, action, subject, detail) VALUES (coalesce(%s, now()), %s, %s, %s, %s)",
        (at, *texts, json.dumps(detail) if detail else None),
    )


def _kept(text: str) -> str:
    return text.replace(_NUL, "")[:MOST_TEXT].encode(errors="replace").decode()


def read_entries(database: Database, limit: int, before: int = 0, wanted: Wanted = Wanted()) -> list[Entry]:
    """The newest entries first that are wanted, at most `limit`; below the entry `before`, where it is not 0."""
    asked = {
        "audit_id < %(before)s": before, "actor = %(actor)s": wanted.actor, "action = %(action)s": wanted.action,
        "subject = %(subject)s": wanted.subject, "at >= %(since)s": wanted.since, "at < %(until)s": wanted.until,
    }  # fmt: skip
    conditions = " AND ".join(condition for condition, value in asked.items() if value) or "true"
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT audit_id, at, actor, action, subject, coalesce(detail, '{}') FROM audit"  # nosec B608
            f" WHERE {conditions} ORDER BY audit_id DESC LIMIT %(limit)s",
            {**vars(wanted), "before": before, "limit": limit},
        )
        return [Entry(*row) for row in cursor.fetchall()]
