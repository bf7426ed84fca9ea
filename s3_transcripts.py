"""The transcripts that S3 keeps beside their Opus: a lost database is rebuilt from them.

    processed/{date}/{audio_id}.json   written by the GPU worker; see pipeline/store/transcript_files.py

Every function may be repeated. Errors are those of `s3_utils`.
"""

from collections.abc import Iterator

from botocore.exceptions import ClientError

import config
import s3_utils
from pipeline.foundation.s3_errors import code_of

PREFIX = "processed/"


def put(key: str, body: str) -> None:
    """Keep a transcript (JSON) under its key."""
    if not key.startswith(PREFIX) or not key.endswith(".json"):
        raise ValueError(f"{key} is no transcript's")
    s3_utils.get_s3_client().put_object(
        Bucket=config.S3_BUCKET, Key=key, Body=body.encode(), ContentType="application/json"
    )


def read(key: str) -> bytes | None:
    """What is kept under a key; None where it is gone."""
    try:
        stored = s3_utils.get_s3_client().get_object(Bucket=config.S3_BUCKET, Key=key)
    except ClientError as error:
        if code_of(error) != "NoSuchKey":
            raise
        return None
    with stored["Body"] as body:
        return bytes(body.read())


def listing() -> Iterator[tuple[str, int]]:
    """The key and the size of each transcript and Opus, ascending by key."""
    pages = s3_utils.get_s3_client().get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=config.S3_BUCKET, Prefix=PREFIX):
        yield from ((item["Key"], item["Size"]) for item in page.get("Contents", []))
