"""The transcripts that S3 keeps beside their Opus: a lost database is rebuilt from them.

    processed/{date}/{audio_id}.json   written by the GPU worker; see pipeline/store/transcript_files.py

Every function may be repeated. Errors are those of `s3_utils`.
"""

from collections.abc import Iterator

import s3_utils

PREFIX = "processed/"


def put(key: str, body: str) -> None:
    """Keep a transcript (JSON) under its key."""
    if not key.startswith(PREFIX) or not key.endswith(".json"):
        raise ValueError(f"{key} is no transcript's")
    s3_utils.bucket().put_json(key, body)


def read(key: str) -> bytes | None:
    """What is kept under a key; None where it is gone."""
    return s3_utils.bucket().read_if_there(key)


def listing() -> Iterator[tuple[str, int]]:
    """The key and the size of each transcript and Opus, ascending by key."""
    return s3_utils.bucket().listing(PREFIX)
