"""The events that the receiver of webhooks is to be told of. `sql/finish_batch.sql` and `sql/save_alert.sql` write
them, in the transaction of what they tell of; those of dead letters are written here."""

import datetime
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pipeline.store.database import Database
from pipeline.store.queries import QUERIES

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 30, 3600  # before the second attempt, and before a late one
GIVE_UP_SECONDS = 86400  # after the first attempt
KEEP_DAYS, KEEP_LONG_DAYS = 7, 90  # what was delivered; what failed, and dead letters, which may still be there
MOST_AT_ONCE = 5000  # events that one statement deletes: it may take seconds only
DEAD_LETTER = "job.dead_lettered"
_STATE = (
    "CASE WHEN next_attempt_at IS NOT NULL THEN 'waiting' WHEN delivered_at IS NOT NULL THEN 'delivered'"
    " ELSE 'failed' END"
)


@dataclass(frozen=True)
class Event:
    """What happened: `event_id` is the same at each attempt to deliver it, `created_at` (UTC) when it was."""

    event_id: str
    type: str
    data: dict[str, Any]
    created_at: datetime.datetime

    def body(self) -> bytes:
        """The event as the receiver gets it: JSON, in ASCII."""
        time = self.created_at.astimezone(datetime.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return json.dumps({"id": self.event_id, "type": self.type, "time": time, "data": self.data}).encode()


@dataclass(frozen=True)
class Delivery:
    """How far the delivery of an event is: its `state` is waiting, delivered or failed, `error` that of the last
    attempt. Times are in UTC."""

    event_id: str
    type: str
    data: dict[str, Any]
    created_at: datetime.datetime
    state: str
    attempts: int
    next_attempt_at: datetime.datetime | None
    error: str | None

    def as_dict(self) -> dict[str, Any]:
        """The delivery for JSON."""
        following = self.next_attempt_at and self.next_attempt_at.isoformat()
        return {**vars(self), "created_at": self.created_at.isoformat(), "next_attempt_at": following}


def dead_letter_id(queue: str, text: str) -> str:
    """The id of the event that tells of a dead letter, given as it stands in `{queue}:dead`."""
    return hashlib.sha256(f"{queue}\0{text}".encode("utf-8", "surrogateescape")).hexdigest()[:32]


def note_dead_letters(database: Database, letters: dict[str, dict[str, Any]]) -> None:
    """Write the event of each dead letter, given by its id, that has none yet. The values have to be storable."""
    with database.transaction() as cursor:
        cursor.execute("SELECT event_id FROM webhook_outbox WHERE event_id = ANY(%s)", (list(letters),))
        known = {event_id for (event_id,) in cursor.fetchall()}
        new = {key: json.dumps(data) for key, data in letters.items() if key not in known}
        if new:
            cursor.execute(
                "INSERT INTO webhook_outbox (event_id, type, data) SELECT event_id, %s, data"
                " FROM unnest(%s::text[], %s::jsonb[]) AS told (event_id, data) ON CONFLICT DO NOTHING",
                (DEAD_LETTER, list(new), list(new.values())),
            )


def claim(database: Database) -> Event | None:
    """The event that has been due for longest, for the caller to deliver; None where none is due. Unless it says
    how that went, the event is due again after a pause."""
    with database.transaction() as cursor:
        cursor.execute(QUERIES["claim_webhook"], {"first": FIRST_PAUSE_SECONDS, "longest": LONGEST_PAUSE_SECONDS})
        row = cursor.fetchone()
        return Event(*row) if row else None


def mark_delivered(database: Database, event_id: str) -> None:
    """Note that the receiver has taken an event."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE webhook_outbox SET delivered_at = now(), next_attempt_at = NULL, error = NULL"
            " WHERE event_id = %s",
            (event_id,),
        )


def mark_failed(database: Database, event_id: str, error: str) -> bool:
    """Note why an attempt failed; True where it was the last, a day after the first."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE webhook_outbox SET error = %s, next_attempt_at = CASE WHEN tried_since >= now() - %s *"
            " interval '1 second' THEN next_attempt_at END"
            " WHERE event_id = %s AND delivered_at IS NULL RETURNING next_attempt_at IS NULL",
            (error, GIVE_UP_SECONDS, event_id),
        )
        row = cursor.fetchone()
        return bool(row and row[0])


def prune(database: Database, is_unused: bool) -> None:
    """Forget delivered events after a week, failed ones and dead letters after three months; with `is_unused`, as
    there is no receiver here, those too that have been due for a week, unless any was tried by somebody else."""
    values = {"days": KEEP_DAYS, "long_days": KEEP_LONG_DAYS, "dead_letter": DEAD_LETTER, "most": MOST_AT_ONCE}
    number = MOST_AT_ONCE
    while number == MOST_AT_ONCE:
        with database.transaction() as cursor:
            cursor.execute(QUERIES["prune_webhooks"], {**values, "is_unused": is_unused})
            number = cursor.rowcount


def retry(database: Database, event_ids: list[str]) -> int:
    """Have events delivered once more that failed, these or all of them (an empty list); gives how many."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE webhook_outbox SET next_attempt_at = now(), attempts = 0, tried_since = NULL"
            " WHERE delivered_at IS NULL"
            " AND (event_id = ANY(%(ids)s) OR (%(ids)s = '{}' AND next_attempt_at IS NULL))",
            {"ids": event_ids},
        )
        return int(cursor.rowcount)


def read_deliveries(database: Database, limit: int, is_all: bool = False) -> list[Delivery]:
    """The newest events that are not delivered, or, with `is_all`, of all that are known."""
    with database.transaction() as cursor:
        cursor.execute(
            f"SELECT event_id, type, data, created_at, {_STATE}, attempts, next_attempt_at, error"  # nosec B608
            " FROM webhook_outbox WHERE %s OR delivered_at IS NULL ORDER BY created_at DESC, event_id LIMIT %s",
            (is_all, limit),
        )
        return [
            Delivery(key, kind, data, made.astimezone(datetime.UTC), state, attempts, due, error)
            for key, kind, data, made, state, attempts, due, error in cursor.fetchall()
        ]


def count_deliveries(database: Database) -> dict[str, int]:
    """How many events are waiting, delivered and failed."""
    with database.transaction() as cursor:
        cursor.execute(f"SELECT {_STATE}, count(*) FROM webhook_outbox GROUP BY 1")  # nosec B608
        return {"waiting": 0, "delivered": 0, "failed": 0, **dict(cursor.fetchall())}
