"""Archives and Opus files in S3, and the scratch copy of an archive.

    archives/{batch_id}.tar            uploaded by the transfer worker; its SHA-256 and origin are metadata
    processed/{date}/{audio_id}.opus   uploaded by the GPU worker, kept for good; beside it s3_transcripts.py's
    sources/{digest}.json              which batch a remote file is, so that it never becomes two

Every function may be repeated: it writes the same bytes under the same name. Errors are boto3's own
(`pipeline.foundation.errors.unavailable_service` tells an outage) or `Permanent` where the object or the batch id
is at fault.
"""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError, SSLError

import config
from pipeline.foundation import s3_client, scratch
from pipeline.foundation.archive_origin import UNKNOWN, Origin, from_metadata, to_metadata
from pipeline.foundation.checksum import ExpectedFile, HashedFile, sha256
from pipeline.foundation.errors import Outage, Permanent, certificate_problem
from pipeline.foundation.s3_errors import check_key, code_of, refused_setting, status_of
from pipeline.foundation.s3_objects import Bucket
from pipeline.foundation.s3_parts import transfer_config
from pipeline.jobs.batches import check_id, is_id

PREFIXES = ("archives/", "processed/")
READERS = 16  # of small objects, at once
Upload = Callable[[Path, str, dict[str, str], str], None]
Follow = Callable[[str, int], AbstractContextManager[Callable[[int], object] | None]]


def _unwatched(_what: str, _total: int) -> AbstractContextManager[None]:
    return nullcontext()


# Set by a worker: takes what a transfer is and its bytes, and gives what is called with the bytes that moved,
# which may raise `Stopping`.
follow: Follow = _unwatched
# Set before the first request by a command for which a person waits.
patience = s3_client.OF_A_WORKER


@functools.cache
def get_s3_client() -> Any:
    """The S3 client, one for the process: it is made for use by several threads."""
    return _client(config.S3_ENDPOINT, patience)


def bucket() -> Bucket:
    """The bucket of the settings, for small objects."""
    return Bucket(get_s3_client(), config.S3_BUCKET)


@functools.cache
def _public_client() -> Any:
    """What signs addresses as browsers reach S3."""
    return _client(config.S3_PUBLIC_ENDPOINT, patience)


def _client(endpoint: str, patience: s3_client.Patience) -> Any:
    ca_bundle = config.S3_CA_BUNDLE or None
    return s3_client.connect(
        endpoint, config.S3_ACCESS_KEY, config.S3_SECRET_KEY, config.S3_REGION, ca_bundle, patience
    )


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
    bucket().put_json(
        _source_key(source), json.dumps({"source": source, "batch_id": check_id(batch_id), "is_whole": is_whole})
    )


def batch_of_source(source: str) -> tuple[str | None, bool]:
    """The batch that a remote file is, None where it has none yet, and whether its archive is in S3, checked."""
    body = bucket().read_if_there(_source_key(source))
    if body is None:
        return None, False
    noted = json.loads(body)
    return check_id(noted["batch_id"]), noted["is_whole"] and archive_exists(noted["batch_id"])


def sources() -> Iterator[tuple[str, str, bool]]:
    """What is noted of each remote file: its path and state, its batch id, and whether its archive is in S3."""

    def noted_in(key: str) -> tuple[str, str, bool]:
        noted = json.loads(bucket().read(key))
        return str(noted["source"]), str(noted["batch_id"]), bool(noted["is_whole"])

    with ThreadPoolExecutor(READERS) as readers:
        yield from readers.map(noted_in, list(_keys("sources/")))


def _source_key(source: str) -> str:
    return f"sources/{hashlib.sha256(source.encode('utf-8', 'surrogateescape')).hexdigest()}.json"


def archives() -> dict[str, str]:
    """Every archive in S3: batch id -> S3 key."""
    found = ((key.removeprefix("archives/").removesuffix(".tar"), key) for key in _keys("archives/"))
    return {batch_id: key for batch_id, key in found if is_id(batch_id) and key == f"archives/{batch_id}.tar"}


def opus_keys() -> Iterator[str]:
    """The S3 keys of every Opus, ascending."""
    return (key for key in _keys("processed/") if not key.endswith(".json"))  # their transcripts


def delete_opus(key: str) -> None:
    """Delete an Opus, and the transcript beside it before; they may be gone already."""
    if not key.startswith("processed/"):
        raise ValueError(f"{key} is no Opus")
    for name in (f"{key.removesuffix('.opus')}.json", key):
        bucket().delete(name)


def _keys(prefix: str) -> Iterator[str]:
    return (key for key, _ in bucket().listing(prefix))


def archive_bytes(s3_key: str) -> int:
    """The size of an archive in S3. `Permanent` where it is not there."""
    return int(_head(s3_key)["ContentLength"])


def archive_origin(s3_key: str) -> Origin:
    """Where an archive in S3 came from, and its size and SHA-256. `Permanent` where it is not there."""
    stored = _head(s3_key)
    return from_metadata(stored["Metadata"], int(stored["ContentLength"]))


def upload_archive(local_path: Path, batch_id: str, *, origin: Origin = UNKNOWN) -> str:
    """Upload an archive with its SHA-256 and origin and make sure that it arrived whole; gives its S3 key.

    `Permanent` where S3 has another archive of this id: none is ever overwritten by other bytes.
    """
    with follow(f"reading {archive_key(batch_id)}", local_path.stat().st_size) as moved:
        digest = sha256(local_path, moved)
    return _keep_archive(local_path, batch_id, {"sha256": digest, **to_metadata(origin)}, _upload)


def upload_unless_changed(local_path: Path, batch_id: str, digest: str, origin: Origin = UNKNOWN) -> str:
    """As `upload_archive`, of a file that others may write to, whose SHA-256 was `digest`.

    `Permanent` where it is another one by the end of the upload: S3 has nothing of it then.
    """
    return _keep_archive(local_path, batch_id, {"sha256": digest, **to_metadata(origin)}, _upload_unless_changed)


def _keep_archive(local_path: Path, batch_id: str, metadata: dict[str, str], upload: Upload) -> str:
    key, size, digest = archive_key(batch_id), local_path.stat().st_size, metadata["sha256"]
    stored = _head_if_there(key)  # of an earlier try, whose answer was lost
    if stored and stored["Metadata"].get("sha256") != digest:
        raise Permanent(f"{key} is in S3 already, with other bytes: it is not overwritten")
    if not stored or stored["ContentLength"] != size:
        upload(local_path, key, metadata, "application/x-tar")
        if not _is_stored(key, size, digest):
            raise Outage("S3", f"{key} in S3 is not what was uploaded")
    return key


def download_archive(s3_key: str, batch_id: str) -> Path:
    """Download an archive to `SCRATCH_ROOT/{batch_id}/archive.tar`, checked, whole or not at all."""
    folder = config.SCRATCH_ROOT / check_id(batch_id)
    folder.mkdir(parents=True, exist_ok=True)
    scratch.remove_archive(folder)  # of a download that was killed
    stored = _head(s3_key)
    size, path, part = stored["ContentLength"], folder / "archive.tar", folder / "archive.tar.part"
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
    """What is wrong with the bucket, its region, the credentials or the certificate, in one line; None where all
    is well. `Outage` where S3 does not agree with our clock."""
    try:
        # Once: a worker asks again, and a person is told. Not by HEAD: see `_asked_by_get`.
        _client(config.S3_ENDPOINT, s3_client.OF_A_PERSON).list_objects_v2(Bucket=config.S3_BUCKET, MaxKeys=1)
    except ClientError as error:
        return refused_setting(error, config.S3_BUCKET, config.S3_ENDPOINT, config.S3_REGION)
    except SSLError as error:
        if problem := certificate_problem(error):
            return f"S3_ENDPOINT {config.S3_ENDPOINT}: {problem}"
        raise
    return None


def _transfer(size: int) -> TransferConfig:
    return transfer_config(size, patience.tries)


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


def _upload_unless_changed(path: Path, key: str, metadata: dict[str, str], content_type: str) -> None:
    size = path.stat().st_size
    with path.open("rb") as file, follow(f"uploading {key}", size) as moved:
        get_s3_client().upload_fileobj(
            ExpectedFile(file, metadata["sha256"]),
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
    raise Permanent(f"{key} is not in the bucket {config.S3_BUCKET}")


def _head_if_there(key: str) -> Any:
    """What S3 knows of the object; None where it is not there, `Permanent` where it cannot be."""
    check_key(key)
    try:
        return get_s3_client().head_object(Bucket=config.S3_BUCKET, Key=key)
    except ClientError as error:
        if status_of(error) >= 500:
            raise
        return _asked_by_get(key)


def _asked_by_get(key: str) -> Any:
    """As `_head_if_there`, after S3 has refused a HEAD; raises why it is refused, where it is not only not there.

    A HEAD is answered without a body, and so without a code: 404 may be a proxy's, 400 the region's or the key's.
    """
    try:
        stored = get_s3_client().get_object(Bucket=config.S3_BUCKET, Key=key)
    except ClientError as error:
        if code_of(error) == "NoSuchKey":
            return None
        if problem := check_bucket():
            raise Outage("S3", problem) from error
        if status_of(error) == 400:  # of this key alone
            raise Permanent(f"S3 refuses the key {key!r} ({code_of(error)})") from error
        raise
    stored["Body"].close()  # another process has just uploaded it
    return stored


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
