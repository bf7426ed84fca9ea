"""Holds: batches of which nothing is deleted, by nobody, until they are released."""

import datetime
from dataclasses import dataclass, replace
from typing import Any

from pipeline.store import audit
from pipeline.store.database import Database


@dataclass(frozen=True)
class Hold:
    """A batch on hold, why, by whom, and since when (UTC)."""

    batch_id: str
    reason: str
    actor: str
    created_at: datetime.datetime

    def as_dict(self) -> dict[str, Any]:
        """The hold for JSON."""
        return {**vars(self), "created_at": self.created_at.isoformat()}


def place(database: Database, batch_id: str, reason: str, actor: str) -> bool:
    """Put a batch on hold; False where it is already. A deletion that has begun ends first."""
    with database.transaction() as cursor:
        cursor.execute("SELECT FROM batches WHERE batch_id = %s FOR UPDATE", (batch_id,))
        cursor.execute(
            "INSERT INTO holds (batch_id, reason, actor) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            (batch_id, reason, actor),
        )
        is_new = bool(cursor.rowcount)
        if is_new:
            audit.note(cursor, actor, "hold", batch_id, {"reason": reason} if reason else None)
        return is_new


def release(database: Database, batch_id: str, actor: str) -> bool:
    """End the hold of a batch; False where there is none."""
    with database.transaction() as cursor:
        cursor.execute("DELETE FROM holds WHERE batch_id = %s", (batch_id,))
        was_held = bool(cursor.rowcount)
        if was_held:
            audit.note(cursor, actor, "release", batch_id)
        return was_held


def may_release(database: Database) -> str | None:
    """What the role of the connection lacks to release a batch, in one line; None where it may."""
    with database.transaction() as cursor:
        cursor.execute("SELECT current_user, has_table_privilege('holds', 'DELETE')")
        role, may = cursor.fetchone()
    if may:
        return None
    return f"DATABASE_URL: the role {role} may not release: use that of the owner of the tables"


def read_holds(database: Database) -> list[Hold]:
    """Every hold, the newest first."""
    with database.transaction() as cursor:
        cursor.execute("SELECT batch_id, reason, actor, created_at FROM holds ORDER BY created_at DESC, batch_id")
        found = [Hold(*row) for row in cursor.fetchall()]
    return [replace(hold, created_at=hold.created_at.astimezone(datetime.UTC)) for hold in found]
