"""Where every batch is in Redis at one moment: open, being finished, in transfer, in a queue, or a dead letter."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.jobs.batches import FINISHING, OPEN, QUEUES
from pipeline.jobs.job_queue import decode

SELDOM_SECONDS = 300  # between two looks at every job, by who asks often


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is open in Redis, as it was seen."""

    id: str
    opened: str
    host: str
    total: str
    processed: str
    failed: str
    job: str

    @property
    def settled(self) -> int:
        """How many of its files are done or failed."""
        return int(self.processed or 0) + int(self.failed or 0)

    @property
    def counted(self) -> str:
        """How many of its files are settled, in words."""
        return f"{self.settled} of {self.total}" if self.total else "none"


@dataclass(frozen=True)
class Snapshot:
    """Where every batch was at one moment."""

    open: dict[str, OpenBatch]
    finishing: set[str]
    in_transfer: set[str]
    to_unpack: set[str]
    to_transcribe: dict[str, tuple[str, Counter[str]]]  # queue -> its host, batch id -> files with a job in it
    dead_lettered: set[str]  # whose unpack job is a dead letter

    def is_stranded(self, batch: OpenBatch) -> bool:
        """Whether nobody will end an open batch: some of its files have no job, nor has its archive."""
        if self.has_archive_job(batch):
            return False
        return not batch.total or batch.settled + self._jobs(batch) < int(batch.total)

    def has_archive_job(self, batch: OpenBatch) -> bool:
        """Whether the archive of an open batch is to be unpacked, or is a dead letter, which `failures` shows."""
        return batch.id in self.to_unpack or (batch.id in self.dead_lettered and not batch.host)

    def _jobs(self, batch: OpenBatch) -> int:
        """How many files of an open batch have a job on its own host; those on another are dropped there."""
        return sum(files[batch.id] for host, files in self.to_transcribe.values() if host in ("", batch.host))


def read_snapshot(
    redis: Any, transfer_queue: str, unpack_queue: str, transcribe_queues: Iterable[str]
) -> Snapshot:
    """Where every batch is, read in one step; the transcription queues that hosts have entered are read too."""
    owners = redis.hgetall(QUEUES)
    names = list(dict.fromkeys([*transcribe_queues, *owners]))
    keys = [OPEN, FINISHING, f"{transfer_queue}:batch_ids", transfer_queue, unpack_queue, *names]
    opened, finishing, given, found = redis_client.script(redis, "snapshot")(keys=keys, args=[])
    (transfers, _), (to_unpack, dead_lettered), *to_transcribe = found
    assigned = dict(zip(given[::2], given[1::2], strict=True))
    return Snapshot(
        {row[0]: OpenBatch(*row) for row in opened},
        set(finishing),
        {assigned[job] for job in transfers if job in assigned},
        {_batch_id(job) for job in to_unpack},
        {
            name: (owners.get(name, ""), _files_of_batches(jobs))
            for name, (jobs, _) in zip(names, to_transcribe, strict=True)
        },
        {_batch_id(decode(dead_letter).get("job")) for dead_letter in dead_lettered},
    )


def stranded_batches(redis: Any, queue_names: list[str]) -> set[str]:
    """The open batches that nobody will end, by reading every job: 200,000 take half a second of Redis."""
    seen = read_snapshot(redis, queue_names[0], queue_names[1], queue_names[2:])
    return {batch.id for batch in seen.open.values() if seen.is_stranded(batch)}


class SeldomCompared:
    """`stranded_batches` for who asks often: what they were `SELDOM_SECONDS` ago at most."""

    def __init__(self) -> None:
        self._found: set[str] = set()
        self._next = 0.0

    def __call__(self, redis: Any, queue_names: list[str]) -> set[str]:
        """The open batches that nobody would end when it was last looked."""
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + SELDOM_SECONDS  # before it: others that ask meanwhile do not do it too
            self._found = stranded_batches(redis, queue_names)
        return self._found


def _batch_id(job: object) -> str:
    """The batch id in a job, which may hold anything."""
    return _text(decode(job).get("batch_id")) if isinstance(job, str) else ""


def _files_of_batches(jobs: list[str]) -> Counter[str]:
    """Batch id -> how many of its files have a job among these."""
    files = {(_text(of.get("batch_id")), _text(of.get("original_filename"))) for of in map(decode, jobs)}
    return Counter(batch_id for batch_id, _ in files)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
