"""Multipart uploads that nobody will finish: a killed worker leaves them, and they are stored and paid for.

OpenStack Swift has no lifecycle rules that would end them.
"""

import datetime
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from botocore.exceptions import ClientError

log = logging.getLogger(__name__)


def abort_stale(
    client: Any, bucket: str, prefixes: Iterable[str], hours: int, now: datetime.datetime | None = None
) -> list[str]:
    """Abort the uploads under the prefixes that have received no part for so many hours; gives their keys."""
    before = (now or datetime.datetime.now(datetime.UTC)) - datetime.timedelta(hours=hours)
    aborted = []
    for prefix in prefixes:
        for key, upload_id in list(_begun_before(client, bucket, prefix, before)):
            try:
                if _last_part(client, bucket, key, upload_id) >= before:
                    continue  # a very large archive on a slow line
                client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") != "NoSuchUpload":  # ended meanwhile
                    raise
                continue
            log.warning("aborted an upload of %s that got no part for %d hours", key, hours)
            aborted.append(key)
    return aborted


def _begun_before(client: Any, bucket: str, prefix: str, before: datetime.datetime) -> Iterator[tuple[str, str]]:
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    for upload in (upload for page in pages for upload in page.get("Uploads", [])):
        if upload["Key"].startswith(prefix) and upload["Initiated"] < before:
            yield upload["Key"], upload["UploadId"]


def _last_part(client: Any, bucket: str, key: str, upload_id: str) -> datetime.datetime:
    pages = client.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
    times = [part["LastModified"] for page in pages for part in page.get("Parts", [])]
    return max(times, default=datetime.datetime.min.replace(tzinfo=datetime.UTC))
