"""What a deletion does in S3: it keeps a tombstone there, and deletes objects.

    tombstones/{batch_id}/{audio_id}.json   a recording that is not to come back (pipeline/store/tombstones.py)
    tombstones/{batch_id}/archive.json      an archive that is not to come back

Every function may be repeated. Errors are those of `s3_utils`.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import ClientError

import config
import s3_utils
from pipeline.foundation.s3_errors import code_of, status_of
from pipeline.operations.deletion import Store
from pipeline.store import tombstones
from pipeline.store.tombstones import Tombstone

DELETABLE = ("archives/", "processed/")  # nothing else is ever deleted
_PROBE = "processed/may-delete"  # there is no such object


def put(key: str, body: str) -> None:
    """Keep a tombstone (JSON) under its key."""
    if tombstones.ids_of(key) is None:
        raise ValueError(f"{key} is no tombstone's")
    s3_utils.bucket().put_json(key, body)


def delete(key: str) -> None:
    """Delete an object of `archives/` or `processed/`, which may be gone already."""
    if not key.startswith(DELETABLE):
        raise ValueError(f"{key} is neither an archive nor made of a recording")
    s3_utils.bucket().delete(key)


def keys() -> Iterator[str]:
    """The keys of all tombstones, ascending."""
    return (key for key, _ in s3_utils.bucket().listing(tombstones.PREFIX) if tombstones.ids_of(key))


def read(keys: list[str]) -> list[Tombstone]:
    """The tombstones under these keys. ValueError where an object is none."""

    def read_one(key: str) -> Tombstone:
        return tombstones.from_json(s3_utils.bucket().read(key))

    with ThreadPoolExecutor(s3_utils.READERS) as readers:
        return list(readers.map(read_one, keys))


def is_deleted(batch_id: str) -> bool:
    """Whether the archive of this batch was deleted, and is not to come back."""
    return s3_utils.exists(tombstones.archive_key(batch_id))


def batch_of_source(source: str) -> tuple[str | None, bool]:
    """As that of `s3_utils`; an archive that was deleted counts as one that is there: it is not brought again."""
    batch_id, is_whole = s3_utils.batch_of_source(source)
    return batch_id, is_whole or (batch_id is not None and is_deleted(batch_id))


def lack_of_rights() -> str | None:
    """Why S3 does not let us delete, in one line; None where it does."""
    try:
        delete(_PROBE)
    except ClientError as error:
        if status_of(error) != 403:
            raise
        grants = "access/s3-retention-policy.json grants it"
        return f"S3 does not let S3_ACCESS_KEY delete in {config.S3_BUCKET} ({code_of(error)}): {grants}"
    return None


def store() -> Store:
    """The functions above, for who deletes."""
    return Store(put, delete, keys, read, lack_of_rights)
