"""A steady stream of small archives of every kind, so that a worker comes to each of its points now and then.

What a worker never meets in a day is put in on purpose: archives that are cut, sources that change while they are
copied, deliveries twice, and what hosts and workers leave that died for good ("lost").
"""

import contextlib
import gzip
import hashlib
import itertools
import json
import os
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.foundation import redis_client
from pipeline.jobs import batches
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from pipeline.store.database import Database
from pipeline.transfer.discovery import Watch
from tests.faults.checker import Archive, File, digest
from tests.support.fleet import Fleet
from tests.support.recordings import DAMAGED, SHORT, SILENCE, WORDS, make_tar, opus, sample
from tests.support.steps import s3_client

LOST_SECONDS = 3600  # how long a lost host or worker has been silent
CHANGING_SECONDS = 30  # at most, where its transfer is not put back for a later try
MOST_WAITING = {"queue:transfer": 3, "queue:unpack": 4}
MOST_FILES, MOST_OPEN = 16, 10


class Stream:
    """Puts archives in; `archives` and `dead_letters` are what tests/faults/checker.py is to expect.

    `hosts` are the names of the hosts that work; the first one has its scratch in `scratch`.
    """

    def __init__(self, fleet: Fleet, hosts: list[str], scratch: Path, rng: random.Random) -> None:
        self.fleet, self.hosts, self.scratch, self.rng = fleet, hosts, scratch, rng
        self.redis: Any = redis_client.connect(fleet.valkey.url)
        self.database = Database(fleet.postgres.url)
        self.s3 = s3_client(fleet)
        self.archives: list[Archive] = []
        self.dead_letters: list[str] = []
        self.folder = fleet.ssh.folder / "by-hand"  # which the watch does not look at
        self.folder.mkdir(exist_ok=True)
        self._late: list[str] = []
        self._numbers = itertools.count(1)
        self._changing: list[tuple[Path, float]] = []
        self._clock = itertools.count(1_700_000_000)

    def close(self) -> None:
        """Leave the servers."""
        self.redis.close()
        self.database.close()

    # --- how much is on the way ------------------------------------------------------------------------

    def wants_more(self) -> bool:
        """Whether little enough waits that another archive may be put in."""
        files = [self.redis.llen(queue_of(host)) for host in self.hosts]
        is_ours = [host in self.hosts for host in self._owners()]
        return (
            all(self.redis.llen(queue) < most for queue, most in MOST_WAITING.items())
            and max(files) < MOST_FILES
            and sum(is_ours) < MOST_OPEN
        )

    def _owners(self) -> list[str]:
        keys = [f"batch:{batch_id}:host" for batch_id in self.redis.zrange(batches.OPEN, 0, -1)]
        return [*filter(None, self.redis.mget(keys or ["-"])), *self.redis.hvals(batches.FINISHING)]

    def put(self, kind: str) -> None:
        """Put in one archive of a kind: the name of one of the methods below."""
        method: Callable[[], None] = getattr(self, kind)
        method()

    def tick(self) -> None:
        """Change the sources that are to change while they are copied."""
        now = time.monotonic()
        for path, _ in self._changing:
            second = next(self._clock)
            with contextlib.suppress(FileNotFoundError):
                os.utime(path, (second, second))
        self._changing = [(path, end) for path, end in self._changing if now < end and not self._is_put_back(path)]

    def _is_put_back(self, path: Path) -> bool:
        job = json.dumps({"remote_path": str(path)})
        return self.redis.zscore("queue:transfer:delayed", job) is not None

    # --- on the EC2 host -------------------------------------------------------------------------------

    def plain(self) -> None:
        """Three files, one of them damaged, queued by an operator."""
        self._enqueue(self._on_host(self.folder, self._files()))

    def watched(self) -> None:
        """An archive that nobody queues: the watch finds it."""
        self._on_host(self.fleet.ssh.folder, self._files())

    def compressed(self) -> None:
        """A gzip archive with a checksum file."""
        archive = self._on_host(self.folder, self._files(), gzip.compress)
        assert archive.source
        checksum = hashlib.sha256(archive.source.read_bytes()).hexdigest()
        Path(f"{archive.source}.sha256").write_text(f"{checksum}  {archive.name}\n")
        self._enqueue(archive)

    def many_files(self) -> None:
        """Files enough to share an ffmpeg."""
        number = next(self._numbers)
        files = {f"{number}-{index}.mp3": File(SILENCE, "") for index in range(7)}
        self._enqueue(self._on_host(self.folder, files))

    def without_audio(self) -> None:
        """Nothing to hear."""
        self._enqueue(self._on_host(self.folder, {}))

    def changing(self) -> None:
        """A source that changes for some seconds, also while it is copied."""
        archive = self._on_host(self.folder, self._files())
        assert archive.source
        self.archives[-1] = replace(archive, changes=True)
        self._changing.append((archive.source, time.monotonic() + CHANGING_SECONDS))
        self._enqueue(archive)

    def cut(self) -> None:
        """An archive without its end: the transfer worker refuses it."""
        self._enqueue(self._on_host(self.folder, self._files(), lambda data: data[:2000], refused=True))

    def missing(self) -> None:
        """A path where there is nothing."""
        path = self.folder / f"{next(self._numbers)}-missing.tar"
        self.archives.append(Archive(path.name, {}, "", path, refused=True))
        self._enqueue(self.archives[-1])

    def half_sent(self) -> None:
        """A source that was noted in S3 as a batch by a worker that died before its archive was there."""
        archive = self._on_host(self.folder, self._files())
        assert archive.source
        state = archive.source.stat()
        source = f"{archive.source}\n{state.st_size} {int(state.st_mtime)}"
        noted = {"source": source, "batch_id": f"20020101-{next(self._numbers):06}", "is_whole": False}
        key = f"sources/{hashlib.sha256(source.encode()).hexdigest()}.json"
        self.s3.put_object(Bucket=self.fleet.bucket, Key=key, Body=json.dumps(noted).encode())
        self._enqueue(archive)

    def of_a_lost_transfer_worker(self) -> None:
        """A transfer that a worker had in progress that died for good."""
        archive = self._on_host(self.folder, self._files())
        self._lose_worker("queue:transfer", json.dumps({"remote_path": str(archive.source)}))

    # --- in S3 -----------------------------------------------------------------------------------------

    def compressed_in_s3(self) -> None:
        """A gzip archive that was put into S3 by hand."""
        batch_id, files = self._in_s3(self._files(), gzip.compress)
        self.redis.rpush("queue:unpack", unpack_job(batch_id, files))

    def cut_in_s3(self) -> None:
        """An archive without its end in S3: the unpack worker refuses it."""
        batch_id, files = self._in_s3(self._files(), lambda data: data[:2000], refused=True)
        self.redis.rpush("queue:unpack", unpack_job(batch_id, files))

    def delivered_twice(self) -> None:
        """Two jobs for one archive at once, equal or not."""
        batch_id, files = self._in_s3(self._files())
        job = unpack_job(batch_id, files)
        other = json.dumps({**json.loads(job), "again": True})
        self.redis.rpush("queue:unpack", job, self.rng.choice([job, other]))

    def miscounted(self) -> None:
        """Two jobs for one archive, of which the second fails what the first has not converted yet.

        Only where one host works: on two, the second job would be refused before the first one has begun there.
        """
        files = {name: File(file.data, file.text, "settled") for name, file in self._files().items()}
        batch_id, count = self._in_s3(files)
        self.redis.rpush("queue:unpack", unpack_job(batch_id, count), unpack_job(batch_id, count + 4))
        self.dead_letters.append(unpack_job(batch_id, count + 4))

    def of_a_lost_unpack_worker(self) -> None:
        """An archive that a worker had in progress that died for good."""
        batch_id, files = self._in_s3(self._files())
        self._lose_worker("queue:unpack", unpack_job(batch_id, files))

    def of_a_lost_host(self) -> None:
        """A batch that a host had open that is lost."""
        files = self._files()
        batch_id, count = self._in_s3(files)
        doomed = self._adopted(batch_id, count)
        if self.rng.random() < 0.5:
            self.database.open_batch(batch_id, archive_key(batch_id), [*files], doomed.host)
            doomed.open(batch_id, count)
        self._lose(doomed)

    def settled_of_a_lost_host(self) -> None:
        """A batch that a lost host only had to finish."""
        batch_id, _ = self._in_s3({})
        doomed = self._adopted(batch_id, 0)
        self.database.open_batch(batch_id, archive_key(batch_id), [], doomed.host)
        doomed.open(batch_id, 0)
        self._lose(doomed)

    # --- on the first host -----------------------------------------------------------------------------

    def bad_opus(self) -> None:
        """A batch that is unpacked, one of whose Opus files cannot be read."""
        self._opened(queue_of(self.hosts[0]))

    def of_a_lost_gpu_worker(self) -> None:
        """Files that a worker had in progress that died for good."""
        queue, worker = queue_of(self.hosts[0]), f"lost-{next(self._numbers)}"
        self._opened(f"{queue}:working:{worker}")
        self.redis.zadd(f"{queue}:workers", {worker: int(time.time()) - LOST_SECONDS})

    def file_delivered_twice(self) -> None:
        """Files that are delivered twice at once, with the same job or another one, and again when their batch is
        long finished."""
        queue = queue_of(self.hosts[0])
        jobs = self._opened(queue)
        others = [json.dumps({**json.loads(job), "again": True}) for job in jobs]
        self.redis.rpush(queue, *self.rng.choice([jobs, others]), *self._late)
        self._late = jobs

    def forgotten(self) -> None:
        """An archive in S3 that Redis knows nothing of."""
        self._in_s3(self._files())

    def bad_file_job(self) -> None:
        """A job of the transcription queue that is none."""
        job = json.dumps({"batch_id": "no batch", "number": next(self._numbers)})
        self.dead_letters.append(job)
        self.redis.rpush(queue_of(self.hosts[0]), job)

    # --- the pieces ------------------------------------------------------------------------------------

    def _files(self) -> dict[str, File]:
        """Speech, silence and a damaged file, under names that no other archive has."""
        number = next(self._numbers)
        name = SHORT[number % 4]
        return {
            f"{number}-call.mp3": File(sample(name), WORDS[name]),
            f"{number}-damaged.mp3": File(DAMAGED, status="failed"),
            f"{number}-quiet.mp3": File(SILENCE, ""),
        }

    def _tar(self, files: dict[str, File]) -> tuple[str, bytes]:
        """A name that is not taken, and a tar of the files that is like no other."""
        number = next(self._numbers)
        path = self.fleet.folder / "stream.tar"
        make_tar(path, {f"{number}.txt": b"not heard", **{name: file.data for name, file in files.items()}})
        return f"{number}.tar", path.read_bytes()

    def _on_host(
        self,
        folder: Path,
        files: dict[str, File],
        change: Callable[[bytes], bytes] = bytes,
        refused: bool = False,
    ) -> Archive:
        """An archive on the EC2 host, written as `change` makes it; it appears whole."""
        name, data = self._tar(files)
        hidden = folder / f".{name}"
        hidden.write_bytes(change(data))
        archive = Archive(name, files, digest(data), folder / name, refused)
        self.archives.append(archive)
        hidden.rename(folder / name)
        return archive

    def _in_s3(
        self, files: dict[str, File], change: Callable[[bytes], bytes] = bytes, refused: bool = False
    ) -> tuple[str, int]:
        """An archive in S3, as `change` makes it; gives its batch id and how many files it has."""
        name, data = self._tar(files)
        batch_id = f"20010101-{int(Path(name).stem):06}"
        stored = change(data)
        self.archives.append(Archive(name, files, digest(stored), refused=refused))
        metadata = {"sha256": digest(stored)}
        self.s3.put_object(Bucket=self.fleet.bucket, Key=archive_key(batch_id), Body=stored, Metadata=metadata)
        return batch_id, len(files)

    def _opened(self, queue: str) -> list[str]:
        """A batch that the first host has unpacked, with a good and a bad Opus; its jobs, which are in `queue`."""
        number = next(self._numbers)
        files = {f"{number}-good.mp3": File(SILENCE, ""), f"{number}-bad.mp3": File(DAMAGED, status="failed")}
        batch_id, count = self._in_s3(files)
        own, folder = Batches(self.redis, self.hosts[0]), self.scratch / batch_id
        folder.mkdir(parents=True)
        own.adopt(batch_id, archive_key(batch_id), Job(unpack_job(batch_id, count), 1, ""))
        self.database.open_batch(batch_id, archive_key(batch_id), [*files], own.host)
        own.open(batch_id, count)
        jobs = []
        for name, file in files.items():
            path = folder / f"{Path(name).stem}.opus"
            path.write_bytes(opus(SILENCE) if file.status == "done" else b"no Opus")
            fields = {"batch_id": batch_id, "audio_id": None, "opus_path": str(path), "original_filename": name}
            own.push(batch_id, queue, fields)
            jobs.append(json.dumps(fields))
        return jobs

    def _enqueue(self, archive: Archive) -> None:
        Watch(self.redis, "queue:transfer").enqueue(str(archive.source))

    def _lose_worker(self, queue: str, job: str) -> None:
        """Leave the job in the hands of a worker that died long ago."""
        worker = f"lost-{next(self._numbers)}"
        self.redis.rpush(f"{queue}:working:{worker}", job)
        self.redis.zadd(f"{queue}:workers", {worker: int(time.time()) - LOST_SECONDS})

    def _adopted(self, batch_id: str, count: int) -> Batches:
        """A host that lives and has made the batch its own."""
        host = Batches(self.redis, f"lost-{next(self._numbers)}")
        self.redis.zadd(batches.HOSTS, {host.host: int(time.time())})
        host.adopt(batch_id, archive_key(batch_id), Job(unpack_job(batch_id, count), 1, ""))
        return host

    def _lose(self, host: Batches) -> None:
        """It has been silent for long."""
        self.redis.zadd(batches.HOSTS, {host.host: int(time.time()) - LOST_SECONDS})


# Every kind of archive, by the method that puts one in, with how often: of 60, say.
KINDS = {
    "plain": 12, "watched": 6, "compressed": 4, "many_files": 4, "without_audio": 2, "changing": 2, "cut": 2,
    "missing": 2, "half_sent": 2, "of_a_lost_transfer_worker": 2, "compressed_in_s3": 3, "cut_in_s3": 3,
    "delivered_twice": 3, "of_a_lost_unpack_worker": 2, "of_a_lost_host": 2, "settled_of_a_lost_host": 2,
    "bad_opus": 3, "forgotten": 2,
    "bad_file_job": 2, "file_delivered_twice": 2, "of_a_lost_gpu_worker": 2,
}  # fmt: skip
ONE_HOST_ONLY = ("miscounted",)


def queue_of(host: str) -> str:
    """The host's transcription queue."""
    return f"queue:transcribe:{host}"


def archive_key(batch_id: str) -> str:
    """The archive's key in S3."""
    return f"archives/{batch_id}.tar"


def unpack_job(batch_id: str, file_count: int) -> str:
    """A job of queue:unpack."""
    job = {"batch_id": batch_id, "s3_key": archive_key(batch_id), "file_count": file_count}
    return json.dumps({**job, "transferred_at": "2026-01-01T00:00:00+00:00"})
