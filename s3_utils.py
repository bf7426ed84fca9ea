"""Archives and Opus files in S3, and the scratch copy of an archive.

    archives/{batch_id}.tar            uploaded by the transfer worker, with its SHA-256 as metadata
    processed/{date}/{audio_id}.opus   uploaded by the GPU worker, kept for good
    sources/{digest}.json              which batch a remote file is, so that it never becomes two

Every function may be repeated: it writes the same bytes under the same name. Errors are boto3's own
(`pipeline.foundation.errors.unavailable_service` tells an outage) or `Permanent` where the object or the batch id
is at fault.
"""

import functools
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError, SSLError
from botocore.handlers import add_expect_header

import config
from pipeline.foundation import scratch
from pipeline.foundation.checksum import HashedFile, sha256
from pipeline.foundation.errors import Outage, Permanent, certificate_problem
from pipeline.jobs.batches import check_id, is_id

PREFIXES = ("archives/", "processed/")
MULTIPART_BYTES = 100 * 2**20  # a larger file goes up in parts
LEAST_PART_BYTES = 16 * 2**20
# Headers that an answer must have, by the request.
_IN_ANSWERS = {"HeadObject": ("Content-Length",), "GetObject": ("Content-Length",), "UploadPart": ("ETag",)}
_FORMS = {"Content-Length": r"\d+", "Content-Range": r"bytes \d+-\d+/\d+", "Last-Modified": ".* GMT"}
MOST_PARTS = 1000  # OpenStack Swift's limit; AWS allows 10,000
Follow = Callable[[str, int], AbstractContextManager[Callable[[int], object] | None]]


def _unwatched(_what: str, _total: int) -> AbstractContextManager[None]:
    return nullcontext()


# Set by a worker: takes what a transfer is and its bytes, and gives what is called with the bytes that moved,
# which may raise `Stopping`.
follow: Follow = _unwatched


@functools.cache
def get_s3_client() -> Any:
    """The S3 client, one for the process: it is made for use by several threads."""
    client = _client(config.S3_ENDPOINT)
    # Its waiting for "100 Continue" hangs for ever where the connection ends in that line, and mixes up answers
    # (https://github.com/boto/botocore/issues/3755).
    client.meta.events.unregister("before-call.s3", add_expect_header)
    client.meta.events.register("before-parse.s3", _refuse_what_was_cut)
    return client


@functools.cache
def _public_client() -> Any:
    """What signs addresses as browsers reach S3."""
    return _client(config.S3_PUBLIC_ENDPOINT)


def _client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=config.S3_ACCESS_KEY,
        aws_secret_access_key=config.S3_SECRET_KEY,
        region_name=config.S3_REGION,
        verify=config.S3_CA_BUNDLE or None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            # botocore's default sends bodies that Swift before 2.35.1 refuses
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "max_attempts": 3},
            connect_timeout=10,
            # of silence: Swift answers within 10 s or fails, and says every 10 s that it still joins the parts
            read_timeout=20,
            tcp_keepalive=True,
            max_pool_connections=16,
        ),
    )


def _refuse_what_was_cut(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    """`Outage` where the connection ended in the headers of an answer, which http.client takes for their end.

    boto3 would take the rest for nothing: an empty list, say; or wait for ever for what it does not find.
    """
    name, headers, body = operation_model.name, response_dict["headers"], response_dict["body"]
    if response_dict["status_code"] >= 300:
        is_whole = name.startswith("Head") or body.rstrip().endswith(b"</Error>")
    elif name.startswith(("List", "Create", "Complete")):
        is_whole = bool(body)
    else:
        is_whole = all(header in headers for header in _IN_ANSWERS.get(name, ()))
    is_whole = is_whole and all(
        re.fullmatch(form, headers[header]) for header, form in _FORMS.items() if header in headers
    )
    if not is_whole:
        raise Outage("S3", f"the answer to {name} is not whole (status {response_dict['status_code']})")


def part_bytes(size: int) -> int:
    """The size of one part of a file of `size` bytes: whole MiB, at most `MOST_PARTS` of them."""
    mebibyte = 2**20
    needed = -(-size // MOST_PARTS)
    return max(LEAST_PART_BYTES, -(-needed // mebibyte) * mebibyte)


def archive_key(batch_id: str) -> str:
    """The S3 key of a batch's archive."""
    return f"archives/{check_id(batch_id)}.tar"


def archive_exists(batch_id: str) -> bool:
    """Whether an archive of this batch id is in S3."""
    return exists(archive_key(batch_id))


def exists(key: str) -> bool:
    """Whether there is an object of this key now; a listing may be behind (OpenStack Swift)."""
    return bool(_head_if_there(key))


def note_source(source: str, batch_id: str, is_whole: bool) -> None:
    """Keep for good which batch a remote file is, and whether its archive is in S3, checked.

    `source` is the file's path and state.
    """
    body = json.dumps({"source": source, "batch_id": check_id(batch_id), "is_whole": is_whole}).encode()
    get_s3_client().put_object(
        Bucket=config.S3_BUCKET, Key=_source_key(source), Body=body, ContentType="application/json"
    )


def batch_of_source(source: str) -> tuple[str | None, bool]:
    """The batch that a remote file is, None where it has none yet, and whether its archive is in S3, checked."""
    try:
        stored = get_s3_client().get_object(Bucket=config.S3_BUCKET, Key=_source_key(source))
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "NoSuchKey":
            raise
        return None, False
    with stored["Body"] as body:
        noted = json.loads(body.read())
    return check_id(noted["batch_id"]), noted["is_whole"] and archive_exists(noted["batch_id"])


def _source_key(source: str) -> str:
    return f"sources/{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()}.json"


def archives() -> dict[str, str]:
    """Every archive in S3: batch id -> S3 key."""
    found = ((key.removeprefix("archives/").removesuffix(".tar"), key) for key in _keys("archives/"))
    return {batch_id: key for batch_id, key in found if is_id(batch_id) and key == f"archives/{batch_id}.tar"}


def opus_keys() -> Iterator[str]:
    """The S3 keys of every Opus, ascending."""
    return _keys("processed/")


def delete_opus(key: str) -> None:
    """Delete an Opus, which may be gone already."""
    if not key.startswith("processed/"):
        raise ValueError(f"{key} is no Opus")
    get_s3_client().delete_object(Bucket=config.S3_BUCKET, Key=key)


def _keys(prefix: str) -> Iterator[str]:
    pages = get_s3_client().get_paginator("list_objects_v2").paginate(Bucket=config.S3_BUCKET, Prefix=prefix)
    return (item["Key"] for page in pages for item in page.get("Contents", []))


def archive_bytes(s3_key: str) -> int:
    """The size of an archive in S3. `Permanent` where it is not there."""
    return int(_head(s3_key)["ContentLength"])


def upload_archive(local_path: Path, batch_id: str) -> str:
    """Upload an archive with its SHA-256 and make sure that it arrived whole; gives its S3 key."""
    key = archive_key(batch_id)
    size = local_path.stat().st_size
    with follow(f"reading {key}", size) as moved:
        digest = sha256(local_path, moved)
    if not _is_stored(key, size, digest):  # of an earlier try, whose answer was lost
        _upload(local_path, key, {"sha256": digest}, "application/x-tar")
        if not _is_stored(key, size, digest):
            raise Outage("S3", f"{key} in S3 is not what was uploaded")
    return key


def download_archive(s3_key: str, batch_id: str) -> Path:
    """Download an archive to `SCRATCH_ROOT/{batch_id}/archive.tar`, checked, whole or not at all."""
    folder = config.SCRATCH_ROOT / check_id(batch_id)
    folder.mkdir(parents=True, exist_ok=True)
    scratch.remove_archive(folder)  # of a download that was killed
    stored = _head(s3_key)
    size = stored["ContentLength"]
    path, part = folder / "archive.tar", folder / "archive.tar.part"
    try:
        with follow(f"downloading {s3_key}", size) as moved, HashedFile(part) as file:
            # the file can seek: for one that cannot, s3transfer 0.19 waits for ever after ten parts
            get_s3_client().download_fileobj(
                config.S3_BUCKET, s3_key, file, Callback=moved, Config=_transfer(size)
            )
        _check_download(file, s3_key, stored)
        part.rename(path)  # not synced to the disk: what a power cut leaves, the next delivery fetches again
    finally:
        part.unlink(missing_ok=True)
    return path


def upload_opus(local_path: Path, audio_id: int, date_str: str) -> str:
    """Upload a file's Opus for good; `date_str` is the row's creation day in UTC (YYYY-MM-DD). Gives its key."""
    key = f"processed/{date_str}/{audio_id}.opus"
    _upload(local_path, key, {}, "audio/ogg")
    return key


def opus_url(key: str, seconds: int) -> str:
    """An address, of S3_PUBLIC_ENDPOINT where that is set, at which anybody gets this Opus for so many seconds."""
    if not key.startswith("processed/"):
        raise ValueError(f"{key} is no Opus")
    where = {"Bucket": config.S3_BUCKET, "Key": key}
    client = _public_client() if config.S3_PUBLIC_ENDPOINT else get_s3_client()
    return str(client.generate_presigned_url("get_object", where, ExpiresIn=seconds))


def download_opus(key: str, path: Path) -> None:
    """Download an Opus to a new file, whole or not at all; `Permanent` where it is not in S3."""
    if not key.startswith("processed/"):
        raise ValueError(f"{key} is no Opus")
    size = _head(key)["ContentLength"]
    try:
        with path.open("xb") as file, follow(f"downloading {key}", size) as moved:
            get_s3_client().download_fileobj(config.S3_BUCKET, key, file, Callback=moved, Config=_transfer(size))
        if (arrived := path.stat().st_size) != size:
            raise Outage("S3", f"{key}: {arrived} bytes arrived of {size}")
    except FileExistsError:
        raise
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def cleanup_scratch(batch_id: str) -> None:
    """Remove `SCRATCH_ROOT/{batch_id}`, which may be gone already. Nothing outside it is ever touched."""
    folder = config.SCRATCH_ROOT / check_id(batch_id)
    if folder.is_symlink():
        folder.unlink()
        return
    shutil.rmtree(folder, onerror=_unless_gone)


def check_bucket() -> str | None:
    """What is wrong with the bucket, the credentials or the certificate, in one line; None where all is well."""
    try:
        get_s3_client().head_bucket(Bucket=config.S3_BUCKET)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code")
        reasons = {"404": "there is no such bucket", "403": "the credentials are refused"}
        if code in reasons:
            return f"S3_BUCKET {config.S3_BUCKET!r} at {config.S3_ENDPOINT}: {reasons[code]}"
        raise
    except SSLError as error:
        if problem := certificate_problem(error):
            return f"S3_ENDPOINT {config.S3_ENDPOINT}: {problem}"
        raise
    return None


def _transfer(size: int) -> TransferConfig:
    return TransferConfig(
        multipart_threshold=MULTIPART_BYTES + 1,
        multipart_chunksize=part_bytes(size),
        max_concurrency=8,
        io_chunksize=2**20,
        max_io_queue=16,  # of these pieces, so many wait to be written
    )


def _upload(path: Path, key: str, metadata: dict[str, str], content_type: str) -> None:
    size = path.stat().st_size
    with follow(f"uploading {key}", size) as moved:
        get_s3_client().upload_file(
            str(path),
            config.S3_BUCKET,
            key,
            Callback=moved,
            ExtraArgs={"Metadata": metadata, "ContentType": content_type},
            Config=_transfer(size),
        )


def _head(key: str) -> Any:
    """What S3 knows of the object; `Permanent` where the bucket is there and the object is not."""
    if stored := _head_if_there(key):
        return stored
    if problem := check_bucket():
        raise Outage("S3", problem)
    raise Permanent(f"{key} is not in the bucket {config.S3_BUCKET}")


def _head_if_there(key: str) -> Any:
    """What S3 knows of the object; None where it is not there."""
    try:
        return get_s3_client().head_object(Bucket=config.S3_BUCKET, Key=key)
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") != "404":
            raise
        return None


def _is_stored(key: str, size: int, digest: str) -> bool:
    """Whether S3 has the object with this size and this SHA-256."""
    stored = _head_if_there(key)
    return bool(stored) and stored["ContentLength"] == size and stored["Metadata"].get("sha256") == digest


def _check_download(file: HashedFile, key: str, stored: Any) -> None:
    if file.hashed != stored["ContentLength"]:  # an answer was cut short, or the archive was replaced meanwhile
        raise Outage("S3", f"{key}: {file.hashed} bytes arrived of {stored['ContentLength']}")
    digest = stored["Metadata"].get("sha256")
    if digest and file.hexdigest() != digest:
        raise OSError(f"{key}: the SHA-256 differs from the one it was uploaded with")


def _unless_gone(_function: object, _path: object, exc_info: Any) -> None:
    if not isinstance(exc_info[1], FileNotFoundError):
        raise exc_info[1]
