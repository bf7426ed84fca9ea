"""Files without what was heard in them: one, or those that a query asks for, the newest first."""

import datetime
from dataclasses import dataclass
from typing import Any

from pipeline.foundation.archive_origin import name_of
from pipeline.foundation.file_warnings import FileWarning, as_json, from_json
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES
from pipeline.store.search import newest_files
from pipeline.store.search_query import Query

MOST_ID = 2**63 - 1


@dataclass(frozen=True)
class ListedFile:
    """A file's row with its labels, as `transcripts.AudioFile` has them, and whether it has a transcript. Times
    are in UTC."""

    audio_id: int
    batch_id: str
    archive: str
    original_filename: str
    status: str
    error: str | None
    duration_seconds: float | None
    channels: int
    language: str | None
    languages: list[str]
    recorded_at: datetime.datetime | None
    recorded_from: str | None
    created_at: datetime.datetime
    updated_at: datetime.datetime
    has_transcript: bool
    s3_opus_path: str | None
    labels: list[dict[str, Any]]
    warnings: list[FileWarning]
    metadata: dict[str, Any]

    @property
    def time(self) -> datetime.datetime:
        """When it was recorded; or when its row was made, where that is not known."""
        return self.recorded_at or self.created_at

    def as_dict(self) -> dict[str, Any]:
        """The file for JSON."""
        return {**vars(self), "warnings": as_json(self.warnings)}


def list_files(database: Database, query: Query) -> list[ListedFile]:
    """The files that the query asks for, the newest first; those without a transcript too where it is not `heard`.
    `Permanent` where PostgreSQL cannot look for it."""
    with database.transaction() as cursor:
        return _read(cursor, newest_files(cursor, query))


def listed_file(database: Database, audio_id: int) -> ListedFile | None:
    """The file of this id; None where there is none."""
    if not 0 <= audio_id <= MOST_ID:
        return None
    with database.transaction() as cursor:
        return next(iter(_read(cursor, [audio_id])), None)


def _read(cursor: Any, audio_ids: list[int]) -> list[ListedFile]:
    cursor.execute(QUERIES["list_files"], {"audio_ids": audio_ids})
    columns = [column.name for column in cursor.description]
    return [_file(dict(zip(columns, row, strict=True))) for row in cursor.fetchall()]


def _file(row: dict[str, Any]) -> ListedFile:
    times = ("recorded_at", "created_at", "updated_at")
    row |= {name: row[name] and row[name].astimezone(datetime.UTC) for name in times}
    metadata = row["metadata"] if isinstance(row["metadata"], dict) else {}
    row |= {"metadata": metadata, "warnings": from_json(row["warnings"])}
    return ListedFile(archive=name_of(row.pop("archive_path")), **row)
