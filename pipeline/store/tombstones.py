"""Tombstones: which recordings were deleted and are not to come back. They hold no words, and no name in clear.

A recording is known by its batch and the SHA-256 of its name; where it comes again in another batch, by the
SHA-256 of its bytes. S3 has a tombstone of each too, so that a database which is restored or rebuilt knows them
again:

    tombstones/{batch_id}/{audio_id}.json   of a recording
    tombstones/{batch_id}/archive.json      of an archive
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.store.queries import QUERIES

PREFIX = "tombstones/"
NAMES_AT_A_TIME = 5000  # in one statement, as of an archive


@dataclass(frozen=True)
class Tombstone:
    """What S3 keeps of a deletion. Without a `name_sha256` it is that of an archive."""

    batch_id: str
    deleted_at: str
    name_sha256: str | None = None
    audio_id: int | None = None
    source_sha256: str | None = None
    archive_sha256: str | None = None


def name_sha256(original_filename: str) -> str:
    """By what a tombstone knows the name of a file, as its row had it."""
    return hashlib.sha256(original_filename.encode(errors="backslashreplace")).hexdigest()


def archive_key(batch_id: str) -> str:
    """The S3 key of the tombstone of a batch's archive."""
    return f"{PREFIX}{batch_id}/archive.json"


def ids_of(key: str) -> tuple[str, int | None] | None:
    """The batch and the audio id (None: an archive) of a tombstone's S3 key; None where it is no such key."""
    batch_id, _, name = key.removeprefix(PREFIX).partition("/")
    stem, _, suffix = name.partition(".")
    if not key.startswith(PREFIX) or suffix != "json" or not batch_id:
        return None
    if stem == "archive":
        return batch_id, None
    return (batch_id, int(stem)) if stem.isascii() and stem.isdigit() and len(stem) < 19 else None


def from_json(body: bytes | str) -> Tombstone:
    """The tombstone that is in an object of S3. ValueError where it is none."""
    try:
        found = Tombstone(**json.loads(body))
    except TypeError:
        raise ValueError("it has other fields than a tombstone") from None
    if not isinstance(found.batch_id, str) or not isinstance(found.name_sha256, str | None):
        raise ValueError("it names no batch")
    return found


def deleted_names(
    cursor: Any, batch_id: str, archive_sha256: str | None, names: list[str], digests: Mapping[str, str]
) -> set[str]:
    """Which of the files of an archive were deleted, in this batch or in another; each has its tombstone in this
    batch from here. `digests` are the SHA-256 of their bytes, by name, where they are known."""
    gone: set[str] = set()
    for start in range(0, len(names), NAMES_AT_A_TIME):
        some = names[start : start + NAMES_AT_A_TIME]
        values = {"batch_id": batch_id, "archive_sha256": archive_sha256, "names": some}
        cursor.execute(QUERIES["deleted_names"], {**values, "digests": [digests.get(name) for name in some]})
        gone |= {name for (name,) in cursor.fetchall()}
    return gone


def is_deleted(cursor: Any, batch_id: str, original_filename: str) -> bool:
    """Whether this file of the batch was deleted."""
    digest = name_sha256(original_filename)
    cursor.execute("SELECT FROM tombstones WHERE batch_id = %s AND name_sha256 = %s", (batch_id, digest))
    return bool(cursor.rowcount)


def keep(cursor: Any, found: Iterable[Tombstone]) -> None:
    """Write the tombstones of recordings that PostgreSQL does not have, as those of S3."""
    columns = ("batch_id", "name_sha256", "audio_id", "source_sha256", "archive_sha256", "deleted_at")
    rows = [tuple(getattr(one, column) for column in columns) for one in found if one.name_sha256]
    cursor.executemany(
        f"INSERT INTO tombstones ({', '.join(columns)}) VALUES (%s, %s, %s, %s, %s, %s)"  # nosec B608
        " ON CONFLICT DO NOTHING",
        rows,
    )
