"""Deletion in PostgreSQL: one transaction, from which on the recordings are gone for everybody.

It writes the tombstones, deletes the rows with all that hangs on them, notes what is to be deleted in S3 and
what was done in the audit log. What is left is in `pending_deletions`, and is done by
`pipeline/operations/deletion.py`, now or after a crash: each of its steps may be repeated.

Whoever makes a row locks the batch's row first, or looks for the tombstone once more when its own is new
(`Database.start_file`): so none is made beside a deletion.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import count
from pipeline.store import audit
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES

MOST_NOTED = 1000  # audio ids in an entry of the audit log


class Refused(Permanent):
    """It is not deleted: it is on hold, or still in progress."""


@dataclass(frozen=True)
class Deleted:
    """How many files of a batch are gone, and whether its archive is to go."""

    files: int
    archive: bool


@dataclass(frozen=True)
class Pending:
    """What is to be done in S3 for a deletion: the tombstone first, then the keys."""

    pending_id: int
    keys: list[str]
    tombstone_key: str | None
    tombstone: str | None  # JSON


def delete_files(
    database: Database, batch_id: str, audio_ids: list[int], actor: str, action: str = "delete"
) -> Deleted:
    """Delete these files of a batch; the archive too, where nothing of the batch is kept then.

    Those that are gone already are left out. `Refused` where the batch is on hold, or a file is in progress.
    """
    with database.long_transaction() as cursor:
        _lock(cursor, batch_id)
        return _delete(cursor, batch_id, _settled(cursor, batch_id, audio_ids), actor, action)


def delete_batch(database: Database, batch_id: str, actor: str) -> Deleted:
    """Delete every file of a batch, and its archive. `Refused` as for `delete_files`."""
    with database.long_transaction() as cursor:
        if not _lock(cursor, batch_id):  # it was never opened: then it never will be
            _insert_ended(cursor, batch_id)
        return _delete(cursor, batch_id, _settled(cursor, batch_id, None), actor, "delete", is_whole=True)


def delete_again(database: Database, batch_id: str, names: list[str], actor: str) -> Deleted:
    """Delete the files of a batch whose names have these SHA-256 and which were deleted before, as a restored
    backup has them: also such on hold, or in progress."""
    with database.long_transaction() as cursor:
        cursor.execute("SELECT FROM batches WHERE batch_id = %s FOR UPDATE", (batch_id,))
        cursor.execute(
            "SELECT audio_id FROM audio_files WHERE batch_id = %s"
            " AND encode(sha256(convert_to(original_filename, 'UTF8')), 'hex') = ANY(%s) FOR UPDATE",
            (batch_id, names),
        )
        audio_ids = [audio_id for (audio_id,) in cursor.fetchall()]
        return _delete(cursor, batch_id, audio_ids, actor, "delete again") if audio_ids else Deleted(0, False)


def drop_again(database: Database, batch_id: str) -> None:
    """Note that the archive of a batch was deleted before: it is to be deleted again, if it is there. A batch that
    PostgreSQL does not know is one that has ended: a job for it is dropped."""
    with database.transaction() as cursor:
        _insert_ended(cursor, batch_id)
        _drop(cursor, [batch_id], finish=False)


def drop_archives(database: Database, batch_ids: list[str], actor: str, action: str) -> list[str]:
    """Note that the archives of these batches are to be deleted in S3; gives those of which it was not noted."""
    with database.transaction() as cursor:
        for batch_id in sorted(batch_ids):
            _lock(cursor, batch_id)
        dropped = _drop(cursor, batch_ids)
        for batch_id in dropped:
            audit.note(cursor, actor, action, batch_id, {"archive": True})
        return dropped


def expire_opus(database: Database, days: int, most: int, actor: str) -> int:
    """Forget the oldest Opus that were made before so many days, whose batch is not on hold; they are to be
    deleted in S3 then. Gives how many."""
    with database.transaction() as cursor:
        cursor.execute(QUERIES["expire_opus"], {"days": days, "most": most})
        expired = int(cursor.fetchone()[0])
        if expired:
            audit.note(cursor, actor, "retention", "opus", {"files": expired, "days": days})
        return expired


def pending(database: Database, after: int, most: int) -> list[Pending]:
    """The first of what is still to be done in S3, behind `after`; nothing of it is in use."""
    with database.transaction() as cursor:
        cursor.execute(QUERIES["due_deletions"], {"after": after, "most": most})
        return [Pending(*row) for row in cursor.fetchall()]


def count_pending(database: Database) -> int:
    """How many deletions are still to be done in S3."""
    with database.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM pending_deletions")
        return int(cursor.fetchone()[0])


def forget_pending(database: Database, pending_ids: list[int]) -> None:
    """Note that these are done."""
    with database.transaction() as cursor:
        cursor.execute("DELETE FROM pending_deletions WHERE pending_id = ANY(%s::bigint[])", (pending_ids,))


def lack_of_rights(database: Database) -> str | None:
    """What the role of the connection lacks to delete, in one line; None where it may."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT current_user, array_remove(ARRAY["
            " CASE WHEN NOT has_table_privilege('audio_files', 'DELETE') THEN 'audio_files' END,"
            " CASE WHEN NOT has_table_privilege('pending_deletions', 'DELETE') THEN 'pending_deletions' END"
            "], NULL)"
        )
        role, tables = cursor.fetchone()
    if not tables:
        return None
    where = " and ".join(tables)
    return f"DATABASE_URL: the role {role} may not delete rows of {where}: access/retention.sql grants it"


def _lock(cursor: Any, batch_id: str) -> bool:
    """Lock the batch against those that make rows; False where it has none. `Refused` where it is on hold."""
    cursor.execute("SELECT FROM batches WHERE batch_id = %s FOR UPDATE", (batch_id,))
    is_there = bool(cursor.rowcount)
    cursor.execute("SELECT reason FROM holds WHERE batch_id = %s", (batch_id,))
    if row := cursor.fetchone():
        why = f": {row[0]}" if row[0] else ""
        raise Refused(f"batch {batch_id} is on hold{why}; `pipelinectl.py release` ends that")
    return is_there


def _settled(cursor: Any, batch_id: str, audio_ids: list[int] | None) -> list[int]:
    """The ids of these files, or of all, which are locked; `Refused` where one is in progress."""
    cursor.execute(
        "SELECT audio_id, status FROM audio_files WHERE batch_id = %(batch_id)s"
        " AND (%(audio_ids)s::bigint[] IS NULL OR audio_id = ANY(%(audio_ids)s::bigint[]))"
        " ORDER BY audio_id FOR UPDATE",
        {"batch_id": batch_id, "audio_ids": audio_ids},
    )
    rows = cursor.fetchall()
    if busy := [audio_id for audio_id, status in rows if status == "processing"]:
        which = ", ".join(map(str, busy[:5])) + (", ..." if len(busy) > 5 else "")
        raise Refused(f"{count(len(busy), 'file')} of batch {batch_id} still in progress: {which}")
    return [audio_id for audio_id, _ in rows]


def _delete(
    cursor: Any, batch_id: str, audio_ids: list[int], actor: str, action: str, is_whole: bool = False
) -> Deleted:
    """Delete files that are locked; and the archive where none is left, or, of `is_whole`, none that has a row."""
    if audio_ids:
        cursor.execute(QUERIES["bury_files"], {"audio_ids": audio_ids})
        cursor.execute(QUERIES["delete_files"], {"audio_ids": audio_ids})
    cursor.execute(
        "SELECT FROM batches WHERE batch_id = %(batch_id)s AND (%(is_whole)s OR file_count = 0)"
        " AND NOT EXISTS (SELECT FROM audio_files WHERE batch_id = %(batch_id)s)",
        {"batch_id": batch_id, "is_whole": is_whole},
    )
    archive = bool(cursor.rowcount) and bool(_drop(cursor, [batch_id]))
    if audio_ids or archive:
        detail = {"files": len(audio_ids), "audio_ids": audio_ids[:MOST_NOTED], "archive": archive}
        audit.note(cursor, actor, action, batch_id, detail)
    return Deleted(len(audio_ids), archive)


def _insert_ended(cursor: Any, batch_id: str) -> None:
    cursor.execute(
        "INSERT INTO batches (batch_id, s3_key, file_count, host, finished_at)"
        " SELECT %(batch_id)s, %(s3_key)s, count(*), '', CASE WHEN count(*) = 0 THEN now() END"
        " FROM audio_files WHERE batch_id = %(batch_id)s ON CONFLICT DO NOTHING",
        {"batch_id": batch_id, "s3_key": f"archives/{batch_id}.tar"},
    )


def _drop(cursor: Any, batch_ids: list[str], finish: bool = True) -> list[str]:
    cursor.execute(QUERIES["drop_archives"], {"batch_ids": batch_ids, "finish": finish})
    return [batch_id for (batch_id,) in cursor.fetchall()]
