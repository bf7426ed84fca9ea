"""Getting at what was heard: one file, the files of a batch, every file that a search asks for."""

import datetime
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.foundation.archive_origin import name_of
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.file_warnings import FileWarning, as_json, from_json
from pipeline.speech.transcript import with_speaker
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES
from pipeline.store.search_query import TIME, Query, check, conditions

_ROWS = 20  # that are read at a time: the words of an hour take a megabyte


@dataclass(frozen=True)
class AudioFile:
    """A file's row with its transcript and labels; without a transcript `text` and `model` are empty.

    Times are in UTC. A segment is what `pipeline.speech.transcript.Segment` says (one of an older row has no
    language and no confidence), a label {classifier, label, score}. `languages` are all that are spoken, the most
    spoken first; `channels` is how many the Opus has, `warnings` what is damaged or missing in the recording.
    `recorded_at` is when it was made, where that is known, from a sidecar, tag, name or mtime (`recorded_from`);
    `metadata` is what else they say, `archive` the file name of its archive, empty where that is not known.
    """

    audio_id: int
    batch_id: str
    original_filename: str
    status: str
    error: str | None
    duration_seconds: float | None
    language: str | None
    languages: list[str]
    created_at: datetime.datetime
    updated_at: datetime.datetime
    s3_opus_path: str | None
    text: str
    segments: list[dict[str, Any]]
    model: str
    labels: list[dict[str, Any]]
    channels: int = 1
    warnings: list[FileWarning] = field(default_factory=list)
    recorded_at: datetime.datetime | None = None
    recorded_from: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    archive: str = ""

    def as_dict(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """The file for JSON; `names` are those of the speakers of its channels."""
        segments = [with_speaker(segment, names) for segment in self.segments]
        return {**vars(self), "segments": segments, "warnings": as_json(self.warnings)}


def read_file(database: Database, audio_id: int) -> AudioFile | None:
    """The file of this id; None where there is none."""
    if not 0 <= audio_id < 2**63:
        return None
    with database.transaction() as cursor:
        cursor.execute(f"{QUERIES['read_files']} WHERE f.audio_id = %s", (audio_id,))
        return next((_file(row) for row in cursor.fetchall()), None)


def find_files(
    database: Database, batch_id: str, name: str = "", limit: int = 1000, offset: int = 0
) -> list[AudioFile]:
    """The files of a batch in the order of their ids, or the one of this name."""
    if not (is_storable(batch_id) and is_storable(name)):
        return []
    with database.transaction() as cursor:
        cursor.execute(
            f"{QUERIES['read_files']} WHERE f.batch_id = %(batch_id)s"
            " AND (%(name)s = '' OR f.original_filename = %(name)s)"
            " ORDER BY f.audio_id LIMIT %(limit)s OFFSET %(offset)s",
            {"batch_id": batch_id, "name": name, "limit": limit, "offset": offset},
        )
        return [_file(row) for row in cursor.fetchall()]


def read_history(database: Database, audio_id: int) -> dict[str, datetime.datetime | None]:
    """When the file's batch was opened and finished, its row made and changed, its transcript written (UTC)."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT b.opened_at, f.created_at, t.created_at, f.updated_at, b.finished_at FROM audio_files AS f"
            " LEFT JOIN transcripts AS t USING (audio_id) LEFT JOIN batches AS b USING (batch_id)"
            " WHERE f.audio_id = %s",
            (audio_id,),
        )
        times = cursor.fetchone() or (None,) * 5
    names = ("batch opened", "row made", "transcript written", "last changed", "batch finished")
    return {name: time and time.astimezone(datetime.UTC) for name, time in zip(names, times, strict=True)}


def every_file(database: Database, query: Query) -> Generator[AudioFile, None, None]:
    """Every file with a transcript that the query asks for, the oldest first, as they were when this began;
    its limit and offset are not looked at. A few are in memory at a time. `Permanent` as for `search`."""
    check(query)
    return _every_file(database, query)


def _every_file(database: Database, query: Query) -> Generator[AudioFile, None, None]:
    asked, values = conditions(query)
    with database.long_transaction() as cursor, cursor.connection.cursor("every_file") as rows:
        rows.itersize = _ROWS
        rows.execute(
            f"{QUERIES['read_files']} WHERE {' AND '.join(['t.audio_id IS NOT NULL', *asked])}"
            f" ORDER BY {TIME}, f.audio_id",
            values,
        )
        for row in rows:
            yield _file(row)


def _file(row: tuple[Any, ...]) -> AudioFile:
    *known, warnings, recorded_at, recorded_from, metadata, archive_path = row
    file = AudioFile(*known)
    utc = {name: getattr(file, name).astimezone(datetime.UTC) for name in ("created_at", "updated_at")}
    return replace(
        file,
        **utc,
        warnings=from_json(warnings),
        recorded_at=recorded_at and recorded_at.astimezone(datetime.UTC),
        recorded_from=recorded_from,
        metadata=metadata if isinstance(metadata, dict) else {},
        archive=name_of(archive_path),
    )
