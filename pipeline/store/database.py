"""The rows in PostgreSQL. Every method is one transaction and may be repeated."""

import datetime
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import psycopg2.errors

from pipeline.audio.tags import Tagged
from pipeline.foundation.archive_origin import UNKNOWN, Origin
from pipeline.foundation.errors import Outage
from pipeline.foundation.file_metadata import Description, storable
from pipeline.foundation.file_warnings import FileWarning, as_json
from pipeline.speech.transcript import Label, Segment, Transcript
from pipeline.store import tombstones
from pipeline.store.alert_matching import save_alerts
from pipeline.store.connection_pool import ANSWER_SECONDS, CONNECTIONS, ConnectionPool
from pipeline.store.online_indexes import CONCURRENT, build
from pipeline.store.queries import QUERIES
from pipeline.store.words import passages

SCHEMA = Path(__file__).parents[2] / "schema"
ADDITIVE = ".additive.sql"  # ends the name of a file of schema/ that code from before it does not notice
# Rows of a statement: a slow server ends it in time, however large the archive or long the recording.
NAMES_AT_A_TIME, PASSAGES_AT_A_TIME = 5000, 500
TRANSCRIPTS_AT_A_TIME = 20  # that are indexed in one transaction; of an hour each, they have 1,200 passages
LOCK_SECONDS = 15  # that `migrate` waits for a table that is in use: whoever asks for it meanwhile waits behind it
DEADLOCK_ATTEMPTS = 3  # to apply a file of the schema, where the server breaks deadlocks with others by failing it
_OPTIONAL = ("mark", "reason", "channel")  # fields of a segment that are not stored where they are None
_NEWEST = 2**63 - 1  # above every id
_LOCK = 0x617564696F  # "audio": the advisory lock that lets one process at a time apply the schema


@dataclass(frozen=True)
class AudioRow:
    """A file's row: its id, its status, the day (UTC, YYYY-MM-DD) of its S3 key, why it has failed, and when the
    row was made."""

    audio_id: int
    status: str
    date: str
    error: str | None
    created_at: datetime.datetime


GONE = AudioRow(0, "deleted", "", None, datetime.datetime.min.replace(tzinfo=datetime.UTC))


class Database:
    """The statements on the rows of files and batches, and the schema; all threads of a process may share one."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self._pool = ConnectionPool(url, connections)
        self._index_below = _NEWEST  # where `index_transcripts` goes on

    def transaction(self, answer_seconds: float | None = ANSWER_SECONDS) -> AbstractContextManager[Any]:
        """A cursor in a transaction, which ends with the block; an outage where the server is silent so long."""
        return self._pool.transaction(answer_seconds)

    def long_transaction(self) -> AbstractContextManager[Any]:
        """As `transaction`, with statements that may take any time."""
        return self._pool.long_transaction()

    def refusal(self) -> str | None:
        """Why the server refuses us, in one line; None where it takes us. For a start alone."""
        return self._pool.refusal()

    def close(self) -> None:
        """Close the connections that are not in use; the next call makes a new one."""
        self._pool.close()

    def start_file(self, batch_id: str, original_filename: str) -> AudioRow:
        """The file's row, made as one in progress where it is missing; one that is settled stays so. `GONE` where
        the file was deleted."""
        with self.transaction() as cursor:
            row = _make_row(cursor, "start_file", batch_id, original_filename)
            return AudioRow(*row) if row else GONE

    def save_result(
        self,
        audio_id: int,
        transcript: Transcript,
        labels: list[Label],
        warnings: Sequence[FileWarning] = (),
        tagged: Tagged | None = None,
    ) -> None:
        """Write what was heard, what is wrong with the recording and what its tags say: columns of the row,
        transcript, labels."""
        noted = json.dumps([_storable_fields(warning) for warning in as_json(warnings)]) if warnings else None
        segments = [_segment(part) for part in transcript.segments]
        with self.transaction() as cursor:
            languages = transcript.languages or None
            cursor.execute(
                "UPDATE audio_files SET duration_seconds = %s, channels = %s, language = %s, languages = %s,"
                " warnings = %s::jsonb, updated_at = now() WHERE audio_id = %s",
                (
                    transcript.duration_seconds,
                    transcript.channels,
                    transcript.language,
                    languages,
                    noted,
                    audio_id,
                ),
            )
            if tagged:
                _save_tags(cursor, audio_id, tagged)
            row = {"audio_id": audio_id, "text": storable(transcript.text), "model": transcript.model}
            cursor.execute(QUERIES["save_transcript"], {**row, "segments": json.dumps(segments)})
            save_passages(cursor, {audio_id: segments})
            cursor.execute("DELETE FROM classifications WHERE audio_id = %s", (audio_id,))
            cursor.executemany(
                "INSERT INTO classifications (audio_id, classifier, label, score) VALUES (%s, %s, %s, %s)",
                [(audio_id, label.classifier, label.name, label.score) for label in labels],
            )
            save_alerts(cursor, audio_id)

    def index_transcripts(self) -> int:
        """Make the passages of transcripts that have none of their text yet, some of the newest; gives how many.

        Such are the rows of a release from before the passages, or from before accents were left out of their
        words: then those of plain ASCII stay as they are. Safe in several processes at once.
        """
        with self.transaction() as cursor:
            for below in dict.fromkeys((self._index_below, _NEWEST)):  # then those that were skipped, or are new
                limits = {"below": below, "most": TRANSCRIPTS_AT_A_TIME}
                cursor.execute(QUERIES["transcripts_to_index"], limits)
                if found := cursor.fetchall():
                    break
            segments_of = {
                audio_id: segments
                for audio_id, segments, is_indexed in found
                if not (is_indexed and all(segment["text"].isascii() for segment in segments))
            }
            save_passages(cursor, segments_of)
            cursor.execute(
                "UPDATE transcripts SET indexed_at = created_at, folded_at = created_at WHERE audio_id = ANY(%s)",
                ([audio_id for audio_id, _, _ in found],),
            )
        self._index_below = min((audio_id for audio_id, _, _ in found), default=_NEWEST)
        return len(found)

    def update_audio_s3_path(self, audio_id: int, s3_opus_path: str) -> None:
        """The last step of a file: its Opus is kept, its row is done. Where the file was deleted meanwhile, the
        Opus is to be deleted."""
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE audio_files SET s3_opus_path = %s, status = 'done', error = NULL, updated_at = now()"
                " WHERE audio_id = %s",
                (s3_opus_path, audio_id),
            )
            if not cursor.rowcount:
                cursor.execute(QUERIES["late_opus"], {"audio_id": audio_id, "key": s3_opus_path})

    def fail_file(self, batch_id: str, original_filename: str, error: str) -> None:
        """Mark a file as failed with the reason, unless it is done or was deleted."""
        with self.transaction() as cursor:
            _make_row(cursor, "fail_file", batch_id, original_filename, storable(error))

    def open_batch(
        self, batch_id: str, s3_key: str, names: list[str], host: str, origin: Origin = UNKNOWN,
        digests: Mapping[str, str] = MappingProxyType({}),
    ) -> set[str]:  # fmt: skip
        """Note that an archive with these audio files is being unpacked on `host`; each has its row from here,
        but for those that were deleted, whose names it gives. `digests` are the SHA-256 of their bytes, by
        name."""
        row = {"batch_id": batch_id, "s3_key": s3_key, "file_count": len(names), "host": host}
        row |= {"path": origin.path, "origin_host": origin.host, "size": origin.size, "sha256": origin.sha256}
        with self.transaction() as cursor:
            cursor.execute(QUERIES["open_batch"], row)  # and lock it, against a deletion
            gone = tombstones.deleted_names(cursor, batch_id, origin.sha256, names, digests)
            kept = [name for name in names if name not in gone]
            for start in range(0, len(kept), NAMES_AT_A_TIME):
                some = kept[start : start + NAMES_AT_A_TIME]
                values = {"batch_id": batch_id, "names": some, "digests": [digests.get(name) for name in some]}
                cursor.execute(QUERIES["open_files"], values)
            if gone:
                cursor.execute("UPDATE batches SET file_count = %s WHERE batch_id = %s", (len(kept), batch_id))
            if gone and not kept:  # of its archive nothing is to be kept
                cursor.execute(QUERIES["drop_archives"], {"batch_ids": [batch_id], "finish": False})
            return gone

    def opened_at(self, batch_id: str) -> datetime.datetime:
        """When the batch was opened first (UTC): no recording of it is newer."""
        with self.transaction() as cursor:
            cursor.execute("SELECT opened_at FROM batches WHERE batch_id = %s", (batch_id,))
            return cast(datetime.datetime, cursor.fetchone()[0]).astimezone(datetime.UTC)

    def describe_files(self, batch_id: str, descriptions: Mapping[str, Description]) -> None:
        """Note what is known of some files of a batch, by their names, unless they were heard already."""
        with self.transaction() as cursor:
            cursor.execute(
                QUERIES["describe_files"],
                {
                    "batch_id": batch_id,
                    "names": list(descriptions),
                    "times": [found.recorded_at for found in descriptions.values()],
                    "sources": [found.recorded_from for found in descriptions.values()],
                    "metadata": [_json_or_null(found.metadata) for found in descriptions.values()],
                },
            )

    def unsettled_files(self, batch_id: str) -> list[str]:
        """The batch's files that are neither done nor failed."""
        with self.transaction() as cursor:
            cursor.execute(
                "SELECT original_filename FROM audio_files WHERE batch_id = %s AND status = 'processing'"
                " ORDER BY audio_id",
                (batch_id,),
            )
            return [name for (name,) in cursor.fetchall()]

    def finish_batch(self, batch_id: str) -> None:
        """Note that every file of the batch is done or failed."""
        with self.transaction() as cursor:
            cursor.execute(QUERIES["finish_batch"], {"batch_id": batch_id, "whatever": True})

    def is_finished(self, batch_id: str) -> bool:
        """Whether every file of the batch is done or failed."""
        with self.transaction() as cursor:
            cursor.execute("SELECT 1 FROM batches WHERE batch_id = %s AND finished_at IS NOT NULL", (batch_id,))
            return cursor.fetchone() is not None

    def settled_files(self, batch_id: str) -> dict[str, str]:
        """The batch's files that need no more work: name -> 'processed' or 'failed', as Redis counts them."""
        with self.transaction() as cursor:
            cursor.execute(
                "SELECT original_filename, CASE status WHEN 'done' THEN 'processed' ELSE 'failed' END"
                " FROM audio_files WHERE batch_id = %s AND status IN ('done', 'failed')",
                (batch_id,),
            )
            return dict(cursor.fetchall())

    def check_schema(self) -> str | None:
        """What is wrong with the server or its schema, in one line; None where the schema is the code's.

        So it is where a newer release has only added to it: releases may change host by host, and back.
        """
        if problem := self.refusal():
            return problem
        with self.transaction() as cursor:
            cursor.execute("SELECT to_regclass('schema_migrations')")
            applied = set()
            if cursor.fetchone()[0] is not None:
                cursor.execute("SELECT name FROM schema_migrations")
                applied = {name for (name,) in cursor.fetchall()}
        ours = {path.name for path in SCHEMA.glob("*.sql")}
        if missing := sorted(ours - applied):
            return f"the schema lacks {', '.join(missing)}: run `python pipelinectl.py migrate`"
        if newer := sorted(name for name in applied - ours if not name.endswith(ADDITIVE)):
            return f"the schema has {', '.join(newer)}, which this release does not know: deploy a newer one"
        return None

    def migrate(self, say: Callable[[str], None] = lambda _: None) -> list[str]:
        """Apply the files of `schema/` that are not applied yet, each wholly or not at all; gives their names.
        `say` is told how far the indexes are that take long.

        `Outage` where somebody reads a table for long, as an export does: the workers must not wait for that.
        What is applied by then stays so, and the next call goes on behind it.
        """
        return [path.name for path in sorted(SCHEMA.glob("*.sql")) if self._apply_file(path, say)]

    def _apply_file(self, path: Path, say: Callable[[str], None]) -> bool:
        if path.name.endswith(CONCURRENT):
            return build(self._pool, path, say)
        return self._apply(path, DEADLOCK_ATTEMPTS)

    def _apply(self, path: Path, attempts: int) -> bool:
        """Apply a file of the schema, unless it is applied. In a transaction of its own: with the locks of several
        files, in an order that no worker knows, it would deadlock with a fleet at work."""
        try:
            with self.long_transaction() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
                cursor.execute("SET LOCAL lock_timeout = %s", (1000 * LOCK_SECONDS,))
                cursor.execute(
                    "CREATE TABLE IF NOT EXISTS schema_migrations"
                    " (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
                )
                cursor.execute("SELECT FROM schema_migrations WHERE name = %s", (path.name,))
                if cursor.fetchone() is not None:
                    return False
                cursor.execute(path.read_text())
                cursor.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (path.name,))
                return True
        except (psycopg2.errors.LockNotAvailable, psycopg2.errors.DeadlockDetected) as error:
            if isinstance(error, psycopg2.errors.DeadlockDetected) and attempts > 1:
                return self._apply(path, attempts - 1)
            reason = f"nothing was changed by {path.name}: a table is in use, by an export perhaps"
            raise Outage("PostgreSQL", reason) from error


def _make_row(
    cursor: Any, query: str, batch_id: str, name: str, error: str | None = None
) -> tuple[Any, ...] | None:
    """What the query gives of a row that it makes or changes; None where it was deleted, or stays as it is."""
    cursor.execute(QUERIES[query], {"batch_id": batch_id, "original_filename": name, "error": error})
    is_new, *found = cursor.fetchone() or (None,)
    if is_new and tombstones.is_deleted(cursor, batch_id, name):  # perhaps while the query waited for that
        cursor.connection.rollback()
        return None
    return tuple(found)


def save_passages(cursor: Any, segments_of: dict[int, list[dict[str, Any]]]) -> None:
    """Write the passages of transcripts, given by their ids, in place of those that are there."""
    cursor.execute("DELETE FROM passages WHERE audio_id = ANY(%s)", (list(segments_of),))
    rows = [
        (audio_id, passage.position, passage.start, passage.tsvector())
        for audio_id, segments in segments_of.items()
        for passage in passages(segments)
    ]
    for start in range(0, len(rows), PASSAGES_AT_A_TIME):
        columns = zip(*rows[start : start + PASSAGES_AT_A_TIME], strict=True)
        cursor.execute(QUERIES["save_passages"], [list(column) for column in columns])


def _save_tags(cursor: Any, audio_id: int, tagged: Tagged) -> None:
    moment = tagged.moment
    times = {"at": moment and moment.at, "until": moment and moment.until}
    metadata = json.dumps(tagged.metadata)
    cursor.execute(QUERIES["save_tags"], {"audio_id": audio_id, "metadata": metadata, **times})


def _json_or_null(fields: dict[str, Any]) -> str | None:
    return json.dumps(fields) if fields else None


def _segment(segment: Segment) -> dict[str, Any]:
    """The segment as it stands in `transcripts`; `mark`, `reason` and `channel` only where it has them."""
    words = [_storable_fields(vars(word)) for word in segment.words or ()]
    fields = _storable_fields({**vars(segment), "words": words})
    return {name: value for name, value in fields.items() if name not in _OPTIONAL or value is not None}


def _storable_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: storable(value) if isinstance(value, str) else value for name, value in fields.items()}
