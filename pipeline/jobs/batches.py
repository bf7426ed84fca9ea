"""A batch of files in Redis: who works on it, how far it is, and when its scratch may go.

    batch:{id}:total      files in the archive          batch:{id}:host    host whose scratch holds it
    batch:{id}:processed  files done                    batch:{id}:job     the unpack job, for a take-over
    batch:{id}:failed     files that cannot be done     batch:{id}:queued  filenames pushed to transcription
    batch:{id}:s3_key     the archive                   batch:{id}:settled filenames counted
    batch:{id}:moved      when it last came on: unpacked, or a file queued or settled (s since 1970)
    batches:open          sorted set of batch ids, by start
    batches:finishing     hash batch id -> host: every file is settled, scratch and keys are still there
    hosts:seen            sorted set of hosts, by last sign of life
    hosts:queues          hash transcribe queue -> the host whose files it names
    batches:amiss         JSON: what needs a person (pipeline/operations/self_repair.py)
    batches:stranded      JSON: batches that nobody works on and no machine can queue again, as of the last minutes
    hosts:draining        hash host -> since when it takes no new work

A file is counted once however often it is delivered: its name enters `settled` in the step that moves the
counter and acknowledges its job. No `total` means that the batch is finished (or not opened yet): a late
delivery is dropped and nothing is deleted. A batch belongs to the host that unpacks it; whatever
another host still does for it changes nothing here. Who holds its unpack job may make it its own, or give it up.
"""

import datetime
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim, Permanent
from pipeline.jobs.job_queue import Job, JobQueue, encode

OPEN, FINISHING, HOSTS, QUEUES = "batches:open", "batches:finishing", "hosts:seen", "hosts:queues"
DRAINING, AMISS, STRANDED = "hosts:draining", "batches:amiss", "batches:stranded"
_FIELDS = ("host", "s3_key", "job", "total", "processed", "failed", "settled", "queued", "moved")


def is_id(batch_id: str) -> bool:
    """Whether the text can name a folder and a key."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", batch_id) is not None


def check_id(batch_id: str) -> str:
    """The id, where it is one; `Permanent` otherwise."""
    if not is_id(batch_id):
        raise Permanent(f"batch id {batch_id!r} is invalid: use letters, digits and . _ - only, 100 at most")
    return batch_id


def unpack_job(batch_id: str, s3_key: str, file_count: int | None, archive: str = "") -> dict[str, Any]:
    """The job that has an archive unpacked; `file_count`, and `archive` (its path as it was brought, for people),
    where they are known."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    job = {"batch_id": batch_id, "s3_key": s3_key, "file_count": file_count, "transferred_at": now}
    return {**job, "archive": archive} if archive else job


def keys_of(batch_id: str, *fields: str) -> list[str]:
    """The names of the batch's keys."""
    return [f"batch:{batch_id}:{field}" for field in fields]


def all_queues(redis: Any, names: Iterable[str]) -> list[str]:
    """The queues, and the transcription queues that hosts have entered."""
    return list(dict.fromkeys([*names, *sorted(redis.hkeys(QUEUES))]))


@dataclass
class Batches:
    """The batches as `host` sees them."""

    redis: Any
    host: str

    def __post_init__(self) -> None:
        def script(name: str) -> Any:
            return redis_client.script(self.redis, name)

        self._adopt, self._open, self._push = script("adopt"), script("open"), script("push")
        self._settle_file, self._close = script("settle_file"), script("close")
        self._abandon = script("abandon")
        self._requeue, self._hand_back, self._expire = script("requeue"), script("hand_back"), script("expire")
        self._take_in = script("take_in")

    def adopt(self, batch_id: str, s3_key: str, job: Job, queue: JobQueue | None = None) -> bool:
        """Make the batch this host's own; False where all its files are settled already.

        `LostClaim` where a queue is given and the job is no longer this worker's: whoever has it has the batch.
        """
        keys = [*keys_of(batch_id, *_FIELDS), OPEN, FINISHING, *([queue.working] if queue else [])]
        result = self._adopt(keys=keys, args=[batch_id, self.host, s3_key, job.payload])
        if result == "lost":
            raise LostClaim(f"batch {batch_id} is another worker's to unpack now")
        return bool(result == "adopted")

    def open(self, batch_id: str, total: int) -> None:
        """Start counting to `total` files. `LostClaim` where the batch is another host's."""
        counts = keys_of(batch_id, "host", "total", "processed", "failed")
        keys = [*counts, OPEN, FINISHING, f"batch:{batch_id}:moved"]
        if self._open(keys=keys, args=[batch_id, self.host, total]) == "foreign":
            raise LostClaim(f"batch {batch_id} is another host's now")

    def push(self, batch_id: str, queue_name: str, job: dict[str, Any]) -> None:
        """Queue a converted file for transcription, once. `LostClaim` where the batch is another host's."""
        keys = [*keys_of(batch_id, "host", "queued"), queue_name, f"batch:{batch_id}:moved"]
        if self._push(keys=keys, args=[self.host, job["original_filename"], encode(job)]) == -1:
            raise LostClaim(f"batch {batch_id} is another host's now")

    def queued(self, batch_id: str) -> set[str]:
        """The filenames that were pushed to transcription."""
        return set(self.redis.smembers(f"batch:{batch_id}:queued"))

    def settled(self, batch_id: str) -> set[str]:
        """The filenames that are counted."""
        return set(self.redis.smembers(f"batch:{batch_id}:settled"))

    def wants(self, batch_id: str, filename: str) -> bool:
        """Whether a delivered file is still to be worked on here; if not, its job may be dropped."""
        steps = self.redis.pipeline(transaction=False)
        steps.get(f"batch:{batch_id}:host").exists(f"batch:{batch_id}:total")
        steps.sismember(f"batch:{batch_id}:queued", filename)
        steps.sismember(f"batch:{batch_id}:settled", filename)
        host, counting, queued, settled = redis_client.answers(steps)
        return host == self.host and bool(counting) and bool(queued) and not settled

    def settle(self, batch_id: str, filename: str, outcome: str) -> str:
        """Count a file for which no job is in progress as 'processed' or 'failed'; see `settle_job`."""
        args = [batch_id, self.host, filename, outcome, "", ""]
        return self._settle_file(keys=self._counters(batch_id), args=args)

    def settle_job(
        self, queue: JobQueue, job: Job, batch_id: str, filename: str, outcome: str, dead_letter: str = ""
    ) -> str:
        """Count a file and acknowledge its job in one step, with a dead letter where one is given.

        Gives 'counted', 'complete' (to one caller: the batch's last file), 'lost' where the job is no longer
        this worker's, 'closed' where the batch is finished, 'foreign' where it is another host's.
        """
        keys = [*self._counters(batch_id), queue.working, queue.attempts, queue.dead]
        args = [batch_id, self.host, filename, outcome, job.payload, dead_letter]
        result = self._settle_file(keys=keys, args=args)
        if result == "lost" and outcome == "processed":
            queue.uncount(job)
        queue.drop(job)
        return result

    def _counters(self, batch_id: str) -> list[str]:
        fields = ("host", "total", "processed", "failed", "settled", "moved")
        return [*keys_of(batch_id, *fields), OPEN, FINISHING]

    def finishing(self) -> list[str]:
        """The batches whose files are all settled and whose scratch is on this host."""
        return [batch_id for batch_id, host in self.finishing_hosts().items() if host == self.host]

    def is_finishing(self, batch_id: str) -> bool:
        """Whether the batch's scratch is this host's to delete now."""
        return self.redis.hget(FINISHING, batch_id) == self.host

    def finishing_hosts(self) -> dict[str, str]:
        """The host of each batch whose files are all settled."""
        return dict(self.redis.hgetall(FINISHING))

    def close(self, batch_id: str, host: str = "") -> bool:
        """Forget a batch whose scratch is gone; False where it was not this host's to finish."""
        keys = [FINISHING, OPEN, *keys_of(batch_id, *_FIELDS)]
        return bool(self._close(keys=keys, args=[batch_id, host or self.host]))

    def abandon(self, queue: JobQueue, job: Job, batch_id: str) -> bool:
        """Forget the batch of an unpack job that is failed permanently, whichever host has it; safe to repeat.

        False where this host counts its files, where all of them are settled, or where the claim was lost.
        """
        keys = [*keys_of(batch_id, "host", "total"), OPEN, FINISHING, queue.working, *keys_of(batch_id, *_FIELDS)]
        return bool(self._abandon(keys=keys, args=[batch_id, self.host, job.payload]))

    def requeue(self, unpack_queue: str, job: dict[str, Any]) -> bool:
        """Queue an archive to be unpacked; False where a host has its batch open, or it is being finished."""
        batch_id = job["batch_id"]
        keys = [*keys_of(batch_id, "host"), FINISHING, unpack_queue]
        return bool(self._requeue(keys=keys, args=[batch_id, encode(job)]))

    def hand_back(self, unpack_queue: str, batch_id: str, job: str, *seen: str) -> bool:
        """Take an open batch from its host and have it unpacked again, by whichever host comes first.

        `seen` is its host, and its total, processed and failed as they were seen ('' for none, '*' for any);
        False where it has moved on since.
        """
        keys = [*keys_of(batch_id, "host", "total", "processed", "failed"), OPEN, unpack_queue]
        return bool(self._hand_back(keys=keys, args=[batch_id, *seen, job]))

    def expire(self, batch_id: str, opened: str, host: str) -> bool:
        """Have its host finish an open batch; False where it was opened again, or moved, since it was seen."""
        keys = [OPEN, FINISHING, *keys_of(batch_id, "host")]
        return bool(self._expire(keys=keys, args=[batch_id, opened, host]))

    def is_in_work(self, batch_id: str) -> bool:
        """Whether a host has a batch open, or it is being finished."""
        return bool(self.redis.get(f"batch:{batch_id}:host") or self.redis.hexists(FINISHING, batch_id))

    def is_open(self, batch_id: str) -> bool:
        """Whether a batch is open, on whatever host."""
        return self.redis.zscore(OPEN, batch_id) is not None

    def is_known(self, host: str) -> bool:
        """Whether the host was heard within the last week."""
        return self.redis.zscore(HOSTS, host) is not None

    def check_queue(self, queue_name: str, silent_seconds: int) -> str | None:
        """Enter this host as the one whose files the queue names; says so where another live host has it."""
        self.enter_queue(queue_name)
        owner = str(self.redis.hget(QUEUES, queue_name))
        heard = self.redis.zscore(HOSTS, owner)
        if owner != self.host and heard is not None and owner not in self.silent_hosts(silent_seconds):
            return (
                f"TRANSCRIBE_QUEUE {queue_name!r} is in use on {owner}, and its jobs name files of that host: "
                f"set TRANSCRIBE_QUEUE=queue:transcribe:{self.host} for the unpack and GPU workers of this one"
            )
        self.redis.hset(QUEUES, queue_name, self.host)
        return None

    def enter_queue(self, queue_name: str) -> None:
        """Enter this host as the one whose files the queue names, where none is: Redis may have been wiped."""
        self.redis.hsetnx(QUEUES, queue_name, self.host)

    def take_in(self, queue_name: str) -> dict[str, int]:
        """Take the jobs of this host's other transcription queues into this one, where no live worker reads them:
        the queue has been renamed. Gives the others with the number of jobs of each."""
        taken: dict[str, int] = {}
        for old, host in self.redis.hgetall(QUEUES).items():
            if host == self.host and old != queue_name:
                of_old = [f"{old}:{part}" for part in ("attempts", "delayed", "workers", "dead")]
                jobs = self._take_in(keys=[QUEUES, old, queue_name, *of_old, f"{queue_name}:dead"], args=[host])
                taken |= {old: jobs} if jobs >= 0 else {}
        return taken

    def is_ours(self, batch_id: str) -> bool:
        """Whether this host's scratch of the batch is in use."""
        return self.redis.get(f"batch:{batch_id}:host") == self.host

    def silent_hosts(self, silent_seconds: int) -> list[str]:
        """The other hosts that have been silent that long."""
        now = int(self.redis.time()[0])
        silent = self.redis.zrangebyscore(HOSTS, "-inf", now - silent_seconds)
        return [host for host in silent if host != self.host]
