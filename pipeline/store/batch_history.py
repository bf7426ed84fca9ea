"""Batches and their files as PostgreSQL remembers them: open ones and finished ones, the newest first.

A batch is known by its id, and by the archive that it was: its file name, or its whole path. Several may have been
called the same.
"""

import datetime
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipeline.foundation.archive_origin import UNKNOWN, Origin, name_of
from pipeline.foundation.file_names import is_storable
from pipeline.store.database import Database

_NAME = "substring(b.archive_path from '[^/]*$')"  # of the archive; there is an index of it
_BATCHES = (
    "SELECT b.batch_id, b.s3_key, b.file_count, b.host, b.opened_at, b.finished_at, f.done, f.failed,"
    " b.archive_path, b.archive_host, b.archive_bytes, b.archive_sha256"
    " FROM batches AS b CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE status = 'done') AS done,"
    " count(*) FILTER (WHERE status = 'failed') AS failed FROM audio_files WHERE batch_id = b.batch_id) AS f"
)


@dataclass(frozen=True)
class Batch:
    """An archive that was unpacked; `host` is the last that did so, `done` and `failed` are numbers of files,
    times are in UTC. `origin` is which archive it was."""

    batch_id: str
    s3_key: str
    file_count: int
    host: str
    opened_at: datetime.datetime
    finished_at: datetime.datetime | None
    done: int
    failed: int
    origin: Origin = UNKNOWN

    @property
    def archive(self) -> str:
        """The file name of the archive; nothing where it is not known."""
        return name_of(self.origin.path)

    def as_dict(self) -> dict[str, Any]:
        """The batch for JSON, with its archive as `archive`."""
        known = {name: value for name, value in vars(self).items() if name != "origin"}
        of = self.origin
        archive = {"path": of.path or None, "host": of.host, "bytes": of.size, "sha256": of.sha256}
        return {**known, "archive": archive}


@dataclass(frozen=True)
class BatchFile:
    """A file of a batch, without what was heard in it; `warnings` are the codes of what is wrong with it."""

    audio_id: int
    original_filename: str
    status: str
    error: str | None
    duration_seconds: float | None
    language: str | None
    warnings: list[str]


def read_batches(database: Database, before: str = "", limit: int = 50) -> list[Batch]:
    """The newest batches, or the newest of those with a lesser id than `before`."""
    if not is_storable(before):
        return []
    with database.transaction() as cursor:
        cursor.execute(
            f"{_BATCHES} WHERE %(before)s = '' OR b.batch_id < %(before)s"  # nosec B608
            " ORDER BY b.batch_id DESC LIMIT %(limit)s",
            {"before": before, "limit": limit},
        )
        return [_batch(*row) for row in cursor.fetchall()]


def read_batch(database: Database, batch_id: str) -> Batch | None:
    """The batch of this id; None where none was unpacked."""
    if not is_storable(batch_id):
        return None
    with database.transaction() as cursor:
        cursor.execute(f"{_BATCHES} WHERE b.batch_id = %s", (batch_id,))  # nosec B608
        return next((_batch(*row) for row in cursor.fetchall()), None)


def batches_of_archive(database: Database, archive: str, most: int, before: str = "") -> list[Batch]:
    """The newest batches whose archive had this name or path; those with a lesser id than `before`."""
    if not archive or not is_storable(archive) or not is_storable(before):
        return []
    with database.transaction() as cursor:
        cursor.execute(
            f"{_BATCHES} WHERE {_NAME} = %(name)s AND (%(name)s = %(archive)s OR b.archive_path = %(archive)s)"  # nosec B608
            " AND (%(before)s = '' OR b.batch_id < %(before)s) ORDER BY b.batch_id DESC LIMIT %(most)s",
            {"name": name_of(archive), "archive": archive, "most": most, "before": before},
        )
        return [_batch(*row) for row in cursor.fetchall()]


def archive_names(database: Database, batch_ids: Collection[str]) -> dict[str, str]:
    """The file names of the archives of these batches, where they are known."""
    with database.transaction() as cursor:
        cursor.execute(
            f"SELECT b.batch_id, {_NAME} FROM batches AS b"  # nosec B608
            " WHERE b.batch_id = ANY(%s) AND b.archive_path <> ''",
            (list(filter(is_storable, batch_ids)),),
        )
        return dict(cursor.fetchall())


def read_batch_files(
    database: Database, batch_id: str, status: str = "", after: str = "", limit: int = 100
) -> list[BatchFile]:
    """The first files of a batch in the order of their names, all or those of one status; those after a name."""
    if not all(map(is_storable, (batch_id, status, after))):
        return []
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT audio_id, original_filename, status, error, duration_seconds, language,"
            " ARRAY(SELECT DISTINCT warning ->> 'code' FROM jsonb_array_elements(warnings) AS warning ORDER BY 1)"
            " FROM audio_files"
            " WHERE batch_id = %(batch_id)s AND (%(status)s = '' OR status = %(status)s)"
            " AND original_filename > %(after)s ORDER BY original_filename LIMIT %(limit)s",
            {"batch_id": batch_id, "status": status, "after": after, "limit": limit},
        )
        return [BatchFile(*row) for row in cursor.fetchall()]


def _batch(
    batch_id: str, s3_key: str, file_count: int, host: str, opened_at: datetime.datetime,
    finished_at: datetime.datetime | None, done: int, failed: int, *origin: Any,
) -> Batch:  # fmt: skip
    opened, ended = opened_at.astimezone(datetime.UTC), finished_at and finished_at.astimezone(datetime.UTC)
    return Batch(batch_id, s3_key, file_count, host, opened, ended, done, failed, Origin(*origin))
