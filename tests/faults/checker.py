"""What came of the archives that were put in: what was lost, doubled, stranded or leaked, in plain sentences.

One look at S3, PostgreSQL, Redis and the disk, when all is quiet:

    lost      a file without its row, transcript, label or sound; an archive that is not in S3
    doubled   two rows, transcripts, objects or batches of one thing; a file that was counted twice
    stranded  what still waits for somebody: jobs, batches, rows, sources; dead letters that were not expected
    leaked    what nobody needs any more: scratch, locks, copies, Redis keys, objects, parts of uploads

Every key in Redis has to be explained, and so has every object in the bucket and every entry of the folders.
"""

import contextlib
import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.foundation import redis_client
from pipeline.jobs import batches
from tests.support.fleet import Fleet
from tests.support.recordings import make_tar, opus
from tests.support.steps import object_keys, s3_client


@dataclass(frozen=True)
class File:
    """A file as it lies in its archive, and what is to become of it: `done`, with this text where one is given,
    `failed`, or `settled`, which is either."""

    data: bytes
    text: str | None = None
    status: str = "done"


@dataclass(frozen=True)
class Archive:
    """An archive as it was put in: its content distinguishes it from all others.

    `files` by their names, `sha256` of what is to be in S3 (the plain tar, where a transfer worker brings it),
    `source` where it lay on the EC2 host (None: it was put into S3). One that is `refused` ends as a dead letter;
    it has no `sha256` where it was never anywhere. One that `changes` on the host may have done so after
    it was copied: then it is rightly left there.
    """

    name: str
    files: dict[str, File]
    sha256: str
    source: Path | None = None
    refused: bool = False
    changes: bool = False


def make_archive(path: Path, files: dict[str, File], on_host: bool = True, refused: bool = False) -> Archive:
    """Write a plain tar of the files to `path`, on the EC2 host where `on_host`; gives the archive."""
    make_tar(path, {name: file.data for name, file in files.items()})
    return Archive(path.name, files, digest(path.read_bytes()), path if on_host else None, refused)


@dataclass
class Findings:
    """What is not as it must be, in sentences."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stranded: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.lines())

    def lines(self) -> list[str]:
        """All of them, each with its kind."""
        kinds = {"lost": self.lost, "doubled": self.doubled, "stranded": self.stranded, "leaked": self.leaked}
        return [f"{kind}: {sentence}" for kind, sentences in kinds.items() for sentence in sentences]

    def add(self, others: "Findings") -> None:
        """Add what was found elsewhere to these."""
        for kind, sentences in vars(others).items():
            getattr(self, kind).extend(sentences)

    def __str__(self) -> str:
        return "\n".join(self.lines()) or "nothing is lost, doubled, stranded or leaked"


class Row(NamedTuple):
    """A row of audio_files with what belongs to it."""

    batch_id: str
    name: str
    audio_id: int
    status: str
    error: str | None
    key: str | None
    day: str
    transcripts: int
    text: str | None
    labels: int


_ROWS = """
SELECT batch_id, original_filename, audio_id, status, error, s3_opus_path,
       to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD'),
       (SELECT count(*) FROM transcripts t WHERE t.audio_id = a.audio_id),
       (SELECT min(text) FROM transcripts t WHERE t.audio_id = a.audio_id),
       (SELECT count(*) FROM classifications c WHERE c.audio_id = a.audio_id AND classifier = 'content')
FROM audio_files a ORDER BY audio_id
"""


def check(
    fleet: Fleet,
    archives: Collection[Archive],
    scratch: Collection[Path] = (),
    transfer: Collection[Path] = (),
    expected_dead_letters: Collection[str] = (),
) -> Findings:
    """Compare what is there with what was put in.

    `scratch` and `transfer` are the folders of all hosts, where the fleet's settings do not name the only ones.
    `expected_dead_letters` are the jobs that are to be failed permanently, beside those of archives that are
    refused and of files that fail. Two archives with the same content are a ValueError: nobody could tell which of
    them was lost.
    """
    digests = [archive.sha256 for archive in archives if archive.sha256]
    if len(set(digests)) < len(digests):
        raise ValueError("two archives have the same content")
    found, settings = Findings(), fleet.settings()
    rows = [Row(*row) for row in fleet.query(_ROWS)]
    objects = _objects(fleet)
    dead_letters = _dead_letters(fleet)
    batch_of = _match(archives, objects, rows, found)
    for archive in archives:
        _check_archive(archive, batch_of.get(archive.name, []), dead_letters, found)
        _check_source(archive, settings.get("EC2_AFTER_UPLOAD", "keep"), found)
    _check_files(archives, batch_of, rows, objects, found)
    _check_batches(fleet, archives, batch_of, found)
    _check_objects(objects, rows, batch_of, found)
    _check_dead_letters(dead_letters, archives, batch_of, expected_dead_letters, found)
    _check_redis(fleet, dead_letters, found)
    _check_uploads(fleet, found)
    _check_folders(
        scratch or [Path(settings["SCRATCH_ROOT"])], transfer or [Path(settings["TRANSFER_ROOT"])], found
    )
    return found


def is_quiet(fleet: Fleet, archives: Collection[Archive]) -> bool:
    """Whether nothing is in motion any more: each archive's batch is finished or failed permanently, nothing waits
    in Redis.

    What is stranded for good is never quiet: give the waiting an end, and let `check` say what it was.
    """
    if fleet.query("SELECT count(finished_at) FROM batches")[0][0] < sum(
        not archive.refused for archive in archives
    ):
        return False
    failed_permanently = [
        dead_letter for dead_letter in _dead_letters(fleet) if "original_filename" not in dead_letter.job
    ]
    if len(failed_permanently) < sum(archive.refused for archive in archives):
        return False
    found = Findings()
    _check_redis(fleet, [], found)
    return not found.stranded and not any(key.startswith("Redis still has batch:") for key in found.leaked)


# --- archives and their batches ------------------------------------------------------------------------


def _match(
    archives: Collection[Archive], objects: dict[str, bytes], rows: list[Row], found: Findings
) -> dict[str, list[str]]:
    """The batches of each archive, by the content of its object; of one whose object has gone, by its files."""
    batch_of: dict[str, list[str]] = defaultdict(list)
    by_digest = {archive.sha256: archive for archive in archives}
    stored = {key: data for key, data in objects.items() if key.startswith("archives/")}
    for key, data in stored.items():
        archive = by_digest.get(digest(data))
        if archive is None:
            found.doubled.append(f"{key} is none of the archives that were put in")
        else:
            batch_of[archive.name].append(key.removeprefix("archives/").removesuffix(".tar"))
    names: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        names[row.batch_id].add(row.name)
    for batch_id in names.keys() - {batch_id for ids in batch_of.values() for batch_id in ids}:
        same = [a for a in archives if names[batch_id] <= a.files.keys() and a.name not in batch_of]
        if len(same) == 1:
            batch_of[same[0].name].append(batch_id)
            found.lost.append(f"{same[0].name}: archives/{batch_id}.tar has disappeared from S3")
    return dict(batch_of)


def _check_archive(
    archive: Archive, batch_ids: list[str], dead_letters: list["DeadLetter"], found: Findings
) -> None:
    if len(batch_ids) > 1:
        found.doubled.append(f"{archive.name} became {len(batch_ids)} batches: {', '.join(sorted(batch_ids))}")
    if archive.refused:
        if not any(_is_about(dead_letter, archive, batch_ids) for dead_letter in dead_letters):
            found.lost.append(f"{archive.name} was to be refused and has no dead letter")
    elif not batch_ids:
        found.lost.append(f"{archive.name} is not in S3")


def _check_source(archive: Archive, after: str, found: Findings) -> None:
    """What the EC2 host has of it, by EC2_AFTER_UPLOAD."""
    path = archive.source
    if path is None or not archive.sha256:
        return
    if archive.refused or after == "keep":
        if not path.exists():
            found.lost.append(f"{archive.name} has disappeared from the EC2 host")
        return
    if archive.changes:
        return
    for kept in (path, Path(f"{path}.sha256")):
        if kept.exists():
            found.stranded.append(f"{kept.name} is still on the EC2 host (EC2_AFTER_UPLOAD={after})")
    if after == "rename" and not path.with_name(f"{path.name}.done").exists():
        found.lost.append(f"{archive.name}.done is not on the EC2 host")


def _check_batches(
    fleet: Fleet, archives: Collection[Archive], batch_of: dict[str, list[str]], found: Findings
) -> None:
    """PostgreSQL's table of batches."""
    known = {
        batch_id: (count, finished)
        for batch_id, count, finished in fleet.query("SELECT batch_id, file_count, finished_at FROM batches")
    }
    for archive in archives:
        for batch_id in batch_of.get(archive.name, []):
            if batch_id not in known:
                if not archive.refused:
                    found.lost.append(f"{archive.name}: batch {batch_id} was never opened")
                continue
            count, finished = known[batch_id]
            if finished is None and not archive.refused:
                found.stranded.append(f"{archive.name}: batch {batch_id} has no finished_at")
            if count != len(archive.files):
                found.lost.append(f"{archive.name}: batch {batch_id} says {count} files of {len(archive.files)}")
    for batch_id in known.keys() - {batch_id for ids in batch_of.values() for batch_id in ids}:
        found.doubled.append(f"batch {batch_id} is of no archive that was put in")


# --- files ---------------------------------------------------------------------------------------------


def _check_files(
    archives: Collection[Archive],
    batch_of: dict[str, list[str]],
    rows: list[Row],
    objects: dict[str, bytes],
    found: Findings,
) -> None:
    """Each file that was put in, and each row that was not asked for."""
    of_batch: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        of_batch[row.batch_id][row.name].append(row)
    asked = {batch_id for ids in batch_of.values() for batch_id in ids}
    for batch_id in of_batch.keys() - asked:
        for name in of_batch[batch_id]:
            found.doubled.append(f"{name} has a row in batch {batch_id}, which is of no archive that was put in")
    for archive in archives:
        batch_ids = batch_of.get(archive.name, [])
        for batch_id in batch_ids:
            for name in of_batch[batch_id].keys() - archive.files.keys():
                found.doubled.append(f"{archive.name}: {name} has a row and is not in the archive")
        for name, file in archive.files.items() if batch_ids and not archive.refused else ():
            _check_file(
                f"{archive.name}: {name}",
                file,
                [row for batch_id in batch_ids for row in of_batch[batch_id][name]],
                objects,
                found,
            )


def _check_file(what: str, file: File, rows: list[Row], objects: dict[str, bytes], found: Findings) -> None:
    if not rows:
        found.lost.append(f"{what} has no row")
        return
    if len(rows) > 1:
        found.doubled.append(f"{what} has {len(rows)} rows")
    for row in rows:
        if row.transcripts > 1:
            found.doubled.append(f"{what} has {row.transcripts} transcripts")
        if row.labels > 1:
            found.doubled.append(f"{what} has {row.labels} labels of what it holds")
        if row.status == "processing":
            found.stranded.append(f"{what} is still processing")
        elif file.status not in (row.status, "settled"):
            found.lost.append(f"{what} is {row.status}, not {file.status} ({row.error})")
        elif row.status == "failed" and not row.error:
            found.lost.append(f"{what} is failed without a reason")
        elif row.status == "done":
            found.lost += [f"{what} {problem}" for problem in _missing(file, row, objects)]


def _missing(file: File, row: Row, objects: dict[str, bytes]) -> Iterator[str]:
    """What a row that is done lacks."""
    if not row.transcripts:
        yield "is done without a transcript"
    elif file.text is not None and row.text != file.text:
        yield f"reads {row.text!r}, not {file.text!r}"
    if not row.labels:
        yield "is done without a label of what it holds"
    if row.key is None or row.key not in objects:
        yield f"is done without its Opus in S3 ({row.key})"
        return
    kept = objects.get(transcript_key(row.key))
    if kept is None:
        yield "is done without its transcript in S3"
    elif row.transcripts and json.loads(kept)["text"] != row.text:
        yield f"reads {json.loads(kept)['text']!r} in S3, not {row.text!r}"
    if row.key != f"processed/{row.day}/{row.audio_id}.opus":
        yield f"is kept as {row.key}, and its row is {row.audio_id} of {row.day}"
    sound = sound_of(objects[row.key])
    if sound is None:
        yield f"is not whole in S3 ({row.key})"
    elif sound != sound_of(opus(file.data)):
        yield f"is another sound in S3 ({row.key})"


def transcript_key(key: str) -> str:
    """Where the transcript is kept beside this Opus."""
    return f"{key.removesuffix('.opus')}.json"


def sound_of(data: bytes) -> bytes | None:
    """The pages of an Ogg file (RFC 3533, section 6) without what differs from one conversion to the next:
    serial number and checksum. None where it is not whole."""
    pages, at, is_last = bytearray(data), 0, False
    while at < len(pages):
        if pages[at : at + 4] != b"OggS" or at + 27 > len(pages):
            return None
        end = at + 27 + pages[at + 26]
        end += sum(pages[at + 27 : end])
        if end > len(pages):
            return None
        is_last = bool(pages[at + 5] & 4)
        pages[at + 14 : at + 18] = pages[at + 22 : at + 26] = bytes(4)
        at = end
    return bytes(pages) if is_last else None


# --- S3 ------------------------------------------------------------------------------------------------


def _objects(fleet: Fleet) -> dict[str, bytes]:
    """Everything in the bucket."""
    client, keys = s3_client(fleet), object_keys(fleet)

    def read(key: str) -> bytes:
        data: bytes = client.get_object(Bucket=fleet.bucket, Key=key)["Body"].read()
        return data

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(keys, pool.map(read, keys), strict=True))


def _check_objects(
    objects: dict[str, bytes], rows: list[Row], batch_of: dict[str, list[str]], found: Findings
) -> None:
    """Objects that no row names."""
    batch_ids = {batch_id for ids in batch_of.values() for batch_id in ids}
    named = {row.key for row in rows if row.status == "done"}
    named |= {transcript_key(key) for key in named if key}
    with_object = {row.audio_id for row in rows if row.status == "done" and row.key in objects}
    for key in objects.keys() - named:
        if key.startswith("archives/"):
            continue
        if key.startswith("sources/"):
            batch_id = json.loads(objects[key])["batch_id"]
            if batch_id not in batch_ids:
                found.leaked.append(f"{key} in S3 names {batch_id}, which is no batch")
            continue
        stem = Path(key).stem
        if key.startswith("processed/") and stem.isdecimal() and int(stem) in with_object:
            found.doubled.append(f"{key} is a second object of row {stem}")
        else:
            found.leaked.append(f"{key} in S3 is of no row that is done")


def _check_uploads(fleet: Fleet, found: Findings) -> None:
    pages = s3_client(fleet).get_paginator("list_multipart_uploads").paginate(Bucket=fleet.bucket)
    for upload in (upload for page in pages for upload in page.get("Uploads", [])):
        found.leaked.append(f"an upload of {upload['Key']} is still open in S3")


# --- dead letters --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeadLetter:
    """A dead letter: its queue, the job as text and as fields, the reason."""

    queue: str
    payload: str
    job: dict[str, Any]
    error: str


def _dead_letters(fleet: Fleet) -> list[DeadLetter]:
    """All dead letters."""
    dead_letters = []
    with _redis(fleet) as redis:
        for key in redis.scan_iter("*:dead", count=1000):
            for dead_letter in map(json.loads, redis.lrange(key, 0, -1)):
                payload = dead_letter["job"]
                try:
                    job = json.loads(payload)
                except ValueError:
                    job = {}
                job = job if isinstance(job, dict) else {}
                dead_letters.append(DeadLetter(key.removesuffix(":dead"), payload, job, dead_letter["error"]))
    return dead_letters


def _is_about(dead_letter: DeadLetter, archive: Archive, batch_ids: list[str]) -> bool:
    """Whether the dead letter fails this archive, as a transfer or as a batch."""
    if "original_filename" in dead_letter.job:
        return False
    is_source = archive.source is not None and dead_letter.job.get("remote_path") == str(archive.source)
    return is_source or dead_letter.job.get("batch_id") in batch_ids


def _check_dead_letters(
    dead_letters: list[DeadLetter],
    archives: Collection[Archive],
    batch_of: dict[str, list[str]],
    expected: Collection[str],
    found: Findings,
) -> None:
    """Letters are expected of archives that are refused and of files that fail, and of the jobs that are named."""
    failing = {
        (batch_id, name)
        for archive in archives
        for batch_id in batch_of.get(archive.name, [])
        for name, file in archive.files.items()
        if file.status != "done"
    }
    for dead_letter in dead_letters:
        of_file = (dead_letter.job.get("batch_id"), dead_letter.job.get("original_filename")) in failing
        of_archive = any(a.refused and _is_about(dead_letter, a, batch_of.get(a.name, [])) for a in archives)
        if not of_file and not of_archive and dead_letter.payload not in expected:
            found.stranded.append(
                f"{dead_letter.queue}: failed permanently: {dead_letter.payload}: {dead_letter.error}"
            )
    for (queue, payload), count in Counter(
        (dead_letter.queue, dead_letter.payload) for dead_letter in dead_letters
    ).items():
        if count > 1:
            found.doubled.append(f"{queue} has {count} dead letters of {payload}")


# --- Redis ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _redis(fleet: Fleet) -> Iterator[Any]:
    client = redis_client.connect(fleet.valkey.url)
    try:
        yield client
    finally:
        client.close()


# Keys that stay when all is done: who was seen when, what the watch has seen, who has looked for what is amiss.
STAYS = (
    "hosts:seen", "hosts:queues", "batches:amiss", "batches:stranded", "batches:reconcile", "batches:announced",
)  # fmt: skip
STAYS_OF_A_QUEUE = ("workers", "seen", "looks", "volumes", "dead")


def _check_redis(fleet: Fleet, dead_letters: list[DeadLetter], found: Findings) -> None:
    """Every key: it stays, or somebody is to work on it, or nobody needs it."""
    dead_lettered = {dead_letter.payload for dead_letter in dead_letters}
    with _redis(fleet) as redis:
        moving = _check_open_batches(redis, found)
        queues = {"queue:transfer", "queue:unpack", "queue:transcribe", *redis.hkeys(batches.QUEUES)}
        for key in sorted(redis.scan_iter(count=1000)):
            if key in (*STAYS, batches.OPEN, batches.FINISHING) or key.startswith("worker:"):
                continue
            if key.startswith("batch:"):
                if key.removeprefix("batch:").rpartition(":")[0] not in moving:
                    found.leaked.append(f"Redis still has {key}")
                continue
            queue = max(
                (name for name in queues if key == name or key.startswith(f"{name}:")), key=len, default=""
            )
            _check_key(redis, key, key.removeprefix(queue)[1:] if queue else None, dead_lettered, found)


def _check_key(redis: Any, key: str, part: str | None, dead_lettered: set[str], found: Findings) -> None:
    """One key of a queue; `part` is what follows the queue's name, None where it is of no queue."""
    if part in STAYS_OF_A_QUEUE:
        return
    if part == "" or (part or "").startswith("working:"):
        found.stranded += [f"{key} holds the job {job}" for job in redis.lrange(key, 0, -1)]
    elif part == "delayed":
        found.stranded += [f"{key} holds the job {job}" for job in redis.zrange(key, 0, -1)]
    elif part == "after":
        found.stranded += [f"{key} still has to do with {path}" for path in redis.hkeys(key)]
    elif part == "attempts":
        found.leaked += [f"{key} still counts {job}" for job in redis.hkeys(key)]
    elif part == "batch_ids":  # that of a dead-lettered job is for the day when it is queued again
        found.leaked += [f"{key} still has {job}" for job in redis.hkeys(key) if job not in dead_lettered]
    else:
        found.leaked.append(f"Redis still has {key}")


def _check_open_batches(redis: Any, found: Findings) -> set[str]:
    """Open and finishing batches; gives their ids."""
    opened, finishing = redis.zrange(batches.OPEN, 0, -1), redis.hgetall(batches.FINISHING)
    found.stranded += [f"batch {batch_id} is open" for batch_id in opened]
    found.stranded += [f"batch {batch_id} is to be finished by {host}" for batch_id, host in finishing.items()]
    for batch_id in {*opened, *finishing}:
        counts = redis.mget(batches.keys_of(batch_id, "processed", "failed"))
        counted, files = sum(int(count or 0) for count in counts), redis.scard(f"batch:{batch_id}:settled")
        if counted != files:
            found.doubled.append(f"batch {batch_id} counts {counted} files, and {files} were settled")
    return {*opened, *finishing}


# --- the disk ------------------------------------------------------------------------------------------


def _check_folders(scratch: Collection[Path], transfer: Collection[Path], found: Findings) -> None:
    for root in scratch:
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            what = "a lock" if path.name.endswith(".lock") else "a folder" if path.is_dir() else "a file"
            inside = ", ".join(sorted(inner.name for inner in path.iterdir())[:5]) if path.is_dir() else ""
            found.leaked.append(f"{what} is left in scratch: {path}{inside and f' with {inside}'}")
    for root in transfer:
        for path in sorted(path for path in root.rglob("*") if not path.is_dir()):
            found.leaked.append(f"a copy is left in TRANSFER_ROOT: {path}")


def digest(data: bytes) -> str:
    """The SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
