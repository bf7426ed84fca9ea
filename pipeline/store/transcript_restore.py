"""Rows from the transcripts that S3 keeps (`pipeline/store/transcript_files.py`), for a lost database."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg2

from pipeline.store.database import Database, save_passages
from pipeline.store.queries import QUERIES

FORMAT = 1  # of the JSON; read_transcript_file.sql writes it
RESTORED, DELETED, LEFT, TAKEN = "restored", "deleted", "left", "taken"
_KEY = re.compile(r"processed/\d{4}-\d{2}-\d{2}/(\d{1,18})\.json", re.ASCII)
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "audio_id": int, "batch_id": str, "original_filename": str, "created_at": str, "transcribed_at": str,
    "model": str, "text": str, "segments": list, "labels": list,
}  # fmt: skip


class Unreadable(Exception):
    """An object in S3 is no transcript that this release reads: the message says why, in one line."""


@dataclass(frozen=True)
class TranscriptFile:
    """What an object in S3 says of a file: `body` is all of it, as JSON."""

    key: str
    audio_id: int
    batch_id: str
    created_at: str
    body: str
    segments: list[dict[str, Any]]


def audio_id_of(key: str) -> int | None:
    """Whose transcript is kept under this S3 key; None where it is no such key."""
    match = _KEY.fullmatch(key)
    return int(match[1]) if match else None


def read_transcript_file(key: str, body: bytes) -> TranscriptFile:
    """The file whose transcript this object is. `Unreadable` where it is cut, foreign or of a later release."""
    try:
        text = body.decode()
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise Unreadable("it is not JSON") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("format"), int):
        raise Unreadable("it is no transcript of ours")
    if fields["format"] != FORMAT:
        raise Unreadable(f"its format is {fields['format']}, this release reads {FORMAT}")
    if wrong := [name for name, kind in _FIELDS.items() if not isinstance(fields.get(name), kind)]:
        raise Unreadable(f"it lacks {', '.join(wrong)}")
    if not all(map(_is_segment, fields["segments"])):
        raise Unreadable("its segments lack text or start")
    if key != f"processed/{fields['created_at'][:10]}/{fields['audio_id']}.json":
        raise Unreadable(f"it is of file {fields['audio_id']}, of {fields['created_at'][:10]}")
    return TranscriptFile(
        key, fields["audio_id"], fields["batch_id"], fields["created_at"], text, fields["segments"]
    )


def _is_segment(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("text"), str)
        and isinstance(value.get("start"), int | float)
    )


def reserve_ids(database: Database, highest: int) -> None:
    """Have new files get ids above this one, and above all that are there. Only the owner of the tables may."""
    with database.transaction() as cursor:
        cursor.execute("SELECT pg_get_serial_sequence('audio_files', 'audio_id')")
        (sequence,) = cursor.fetchone()
        cursor.execute(
            "SELECT setval(%(sequence)s::regclass, greatest(1, %(highest)s,"
            " (SELECT max(audio_id) FROM audio_files), pg_sequence_last_value(%(sequence)s::regclass)))",
            {"sequence": sequence, "highest": highest},
        )


def count_rows(database: Database) -> int:
    """How many files the database has."""
    with database.long_transaction() as cursor:
        cursor.execute("SELECT count(*) FROM audio_files")
        return int(cursor.fetchone()[0])


def done_ids(database: Database, audio_ids: Collection[int]) -> set[int]:
    """Which of these files are done already."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT audio_id FROM audio_files WHERE audio_id = ANY(%s::bigint[]) AND status = 'done'",
            (list(audio_ids),),
        )
        return {audio_id for (audio_id,) in cursor.fetchall()}


def restore(database: Database, files: list[TranscriptFile], expired: Collection[int]) -> dict[int, str]:
    """Write the rows of some files, with their batches, transcripts, passages and labels; gives what became of
    each, by its id: `RESTORED`, `DELETED`, `LEFT` or `TAKEN` (its id, by another file). It may be repeated.

    The Opus of those in `expired` is not kept any more. `Unreadable` where PostgreSQL cannot hold what a file
    says: nothing was written then.
    """
    try:
        with database.long_transaction() as cursor:
            return _restore(cursor, files, list(expired))
    except (psycopg2.DataError, psycopg2.IntegrityError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise Unreadable(f"PostgreSQL cannot hold it: {reason}") from None


def _restore(cursor: Any, files: list[TranscriptFile], expired: list[int]) -> dict[int, str]:
    bodies = [file.body for file in files]
    cursor.execute(QUERIES["restore_batches"], {"bodies": bodies})
    cursor.execute(QUERIES["restore_files"], {"bodies": bodies, "expired": expired})
    outcomes: dict[int, str] = dict(cursor.fetchall())
    restored = [file for file in files if outcomes[file.audio_id] == RESTORED]
    ids, bodies = [file.audio_id for file in restored], [file.body for file in restored]
    cursor.execute(QUERIES["restore_transcripts"], {"bodies": bodies})
    save_passages(cursor, {file.audio_id: file.segments for file in restored})
    cursor.execute("DELETE FROM classifications WHERE audio_id = ANY(%s)", (ids,))
    cursor.execute(QUERIES["restore_labels"], {"bodies": bodies})
    cursor.execute(QUERIES["restore_ends"], {"batch_ids": [file.batch_id for file in files]})
    buried = [file for file in files if outcomes[file.audio_id] == DELETED]
    values = {"audio_ids": [file.audio_id for file in buried], "keys": [file.key for file in buried]}
    cursor.execute(QUERIES["bury_objects"], values)
    return outcomes
