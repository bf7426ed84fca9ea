"""An archive on the operator's own disk becomes a batch, once.

It is known by its SHA-256, so that the same bytes under another name, or queued again, are the same batch. The
steps are those of a transfer, in the same order, and each may be repeated: the batch id is kept (in Redis, then
in S3) before the upload, and the archive is noted as whole after it; its job is queued once, by one step. Whoever
dies between two of them leaves what the same command, run again, goes on with. The id is that of the bytes, at the
time of the file that came first.

    {transfer queue}:local  hash  SHA-256 -> batch id
    {unpack queue}:local    hash  batch id -> queued
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.archive_origin import Origin, as_kept
from pipeline.foundation.checksum import sha256
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import count
from pipeline.jobs.batch_ids import batch_id_of
from pipeline.jobs.batches import unpack_job
from pipeline.jobs.job_queue import encode
from pipeline.unpack import archive, compression


@dataclass
class LocalArchives:
    """What takes archives in. The functions are those of s3_utils; `limits` are the most members, the most bytes
    of an archive and of a file in it."""

    redis: Any
    transfer_queue: str
    unpack_queue: str
    limits: tuple[int, int, int]
    archive_key: Callable[[str], str]
    batch_of_source: Callable[[str], tuple[str | None, bool]]
    note_source: Callable[[str, str, bool], None]
    upload_unless_changed: Callable[[Path, str, str, Origin], str]
    host: str  # this machine

    def __post_init__(self) -> None:
        self._queue_once = redis_client.script(self.redis, "notice")

    def check(self, path: Path) -> int | None:
        """How many audio files a tar holds, None for a compressed one; `Permanent` where it is not a tar,
        OSError where it cannot be read."""
        most_members, most_bytes, most_file_bytes = self.limits
        if not path.is_file():
            raise Permanent("it is no file" if path.exists() else "there is no such file")
        if (size := path.stat().st_size) > most_bytes:
            raise Permanent(f"it has {size} bytes: {most_bytes} are allowed (ARCHIVE_MAX_MB)")
        if compression.kind_of(path):  # the unpack worker makes it plain
            return None
        return len(archive.index(path, most_members, most_file_bytes).members)

    def take(self, path: Path, files: int | None, moved: Callable[[int], object] | None = None) -> tuple[str, str]:
        """Upload a checked archive and queue it, unless that is done already; gives its batch id and, in
        words, what was done.

        `moved(bytes)` is called while it is read. `Permanent` where it changes meanwhile: it is not in S3
        then, where the fleet would find it and queue it.
        """
        changed = int(path.stat().st_mtime)
        digest = sha256(path, moved)
        source = f"local archive, SHA-256 {digest}"
        batch_id, is_whole = self.batch_of_source(source)
        batch_id = batch_id or self._assign(source, digest, changed)
        if not is_whole:
            self.note_source(source, batch_id, False)
            self.upload_unless_changed(path, batch_id, digest, Origin(str(path.absolute()), self.host))
            self.note_source(source, batch_id, True)
        if not self._queue(batch_id, files, path):
            return batch_id, f"is batch {batch_id} already"
        held = "" if files is None else f", {count(files, 'audio file')}"
        return batch_id, f"queued as batch {batch_id}{held}"

    def _queue(self, batch_id: str, files: int | None, path: Path) -> bool:
        """Queue the archive to be unpacked; False where that was done already."""
        archive_path = as_kept(str(path.absolute()))
        job = encode(unpack_job(batch_id, self.archive_key(batch_id), files, archive_path))
        keys = [f"{self.unpack_queue}:local", self.unpack_queue]
        return bool(self._queue_once(keys=keys, args=[batch_id, "queued", job]))

    def _assign(self, source: str, digest: str, changed: int) -> str:
        """The batch id of the archive with this SHA-256: also where it is queued under two names at once."""
        given = f"{self.transfer_queue}:local"
        self.redis.hsetnx(given, digest, batch_id_of(source, changed))
        return str(self.redis.hget(given, digest))
