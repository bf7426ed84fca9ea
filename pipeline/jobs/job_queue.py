"""A queue on Redis lists that loses no job when a worker, its host or the connection dies.

A job is a JSON object in a string. It waits in `{queue}`, is claimed into `{queue}:working:{worker_id}`,
and leaves that list by one script: settled, put back or dead-lettered. Every change is fenced: a worker whose
list no longer holds the job (others took it back, because its heartbeat was gone) changes nothing.
Delivery is at least once. A payload is its job's identity: copies of it are the same work, one after the other.
While one is in a worker's list or delayed, another that is claimed waits among the delayed, where equal ones are
one. So attempts are those of one delivery after the other, however many copies there are. Beside the list:

    {queue}:attempts  hash      job -> "N:tokens": the deliveries that ended badly or are in progress
    {queue}:batch_ids hash      job -> the batch id given to it (transfer jobs), until it is settled
    {queue}:delayed   sorted    jobs to be tried again, by due time
    {queue}:after     hash      what is to be done with the source of a transfer (pipeline/transfer/originals.py)
    {queue}:dead      list      dead letters: job, error, attempts, worker, time
    {queue}:workers   sorted    who has claimed from the queue, by last sign of life
"""

import json
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import Permanent

FORGET_WORKER_SECONDS = 7 * 86400
LOOK_SECONDS = 60  # how often a worker looks whether its list holds what it knows nothing of
LATE_SECONDS = 1200  # how late an unanswered command may reach Redis: Linux sends it for 924 s (tcp_retries2)
COPY_SECONDS = 2  # before a copy of a job that is in progress is looked at again
ENDED_JOBS = 1000  # that a worker remembers: more than it ends in the seconds that a Redis may forget
MOST_SHOWN = 500  # characters of a payload in a log


@dataclass(frozen=True)
class Job:
    """One delivery: `payload` as it stands in the list, `attempts` with this one counted."""

    payload: str
    attempts: int
    token: str

    @property
    def fields(self) -> dict[str, Any]:
        """The payload's fields; empty where it is not a JSON object."""
        return decode(self.payload)

    @property
    def shown(self) -> str:
        """The payload for a log, cut where it is long."""
        return self.payload if len(self.payload) <= MOST_SHOWN else f"{self.payload[:MOST_SHOWN]}..."

    def require(self, **types: type) -> dict[str, Any]:
        """The fields, when those named are there with the given types; `Permanent` otherwise.

        Fields that are not named may hold anything: a newer sender may know more of them.
        """
        fields = self.fields
        if not fields:
            raise Permanent("not a job of this queue: it is not a JSON object with fields")
        wrong = [
            f"{name} is {_wrong_with(fields, name, kind)}"
            for name, kind in types.items()
            if not isinstance(fields.get(name), kind) or fields[name] == ""
        ]
        if wrong:
            raise Permanent(f"not a job of this queue: {', '.join(wrong)}")
        return fields


def _wrong_with(fields: dict[str, Any], name: str, kind: type) -> str:
    if name not in fields:
        return "missing"
    return "empty" if fields[name] == "" else f"not {kind.__name__}"


def encode(fields: dict[str, Any]) -> str:
    """The fields as the text of a job."""
    return json.dumps(fields)


def decode(payload: str) -> dict[str, Any]:
    """The fields of a job; empty where the text is not a JSON object."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def heartbeat_key(worker_id: str) -> str:
    """The key that is there as long as the worker lives."""
    return f"worker:{worker_id}"


@dataclass
class JobQueue:
    """The queue `name` as `worker_id` sees it. One thread claims; the rest may be called by any."""

    redis: Any
    name: str
    worker_id: str
    in_progress: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.working = f"{self.name}:working:{self.worker_id}"
        self.attempts = f"{self.name}:attempts"
        self.batch_ids = f"{self.name}:batch_ids"
        self.delayed = f"{self.name}:delayed"
        self.dead = f"{self.name}:dead"
        self.workers = f"{self.name}:workers"

        def script(name: str) -> Any:
            return redis_client.script(self.redis, name)

        self._begin, self._settle, self._put_back = script("begin"), script("settle"), script("put_back")
        self._dead_letter, self._promote = script("dead_letter"), script("promote")
        self._recover, self._unregister = script("recover"), script("unregister")
        self._lock = threading.Lock()  # of `in_progress`, whose lists are never changed, only replaced
        self._next: tuple[str, str] | None = None  # claimed, but not yet known to be counted
        self._owed_until = 0.0  # a claim that had no answer may come late, and bring a job into our list
        self._next_look = 0.0  # for what an earlier run, a lost reply or a late command has left in our list
        self._ended: deque[Job] = deque(maxlen=ENDED_JOBS)  # what left our hands without a failure

    def add(self, fields: dict[str, Any]) -> None:
        """Append a job."""
        self.redis.rpush(self.name, encode(fields))

    def depth(self) -> int:
        """How many jobs wait, the delayed ones not counted."""
        return int(self.redis.llen(self.name))

    def claim(self, wait_seconds: float) -> Job | None:
        """Take the next job and count the attempt, or give None when there is none for `wait_seconds`.

        What an earlier run of this worker had in progress comes first. A copy of a job in progress is put off, and
        gives None too. After a Redis error call it again: a job that was claimed without our knowing is found,
        within `LOOK_SECONDS` where the command came late.
        """
        return self.claim_kept() or self._count(self._move(wait_seconds))

    def claim_kept(self) -> Job | None:
        """Take a job that is in this worker's list already: kept by an earlier run, or claimed unawares."""
        return self._count(None if self._next else self._stray())

    def _count(self, payload: str | None) -> Job | None:
        """Count the attempt on a job that is in our list; again, where the answer was lost."""
        if payload is not None:
            self._next = (payload, uuid.uuid4().hex)
        if self._next is None:
            return None
        payload, token = self._next
        in_hand = sum(held.payload == payload for held in self.in_progress)
        keys = [self.working, self.attempts, self.workers, self.delayed]
        attempts = self._begin(keys=keys, args=[payload, token, self.worker_id, in_hand, COPY_SECONDS])
        job = Job(payload, attempts, token)
        if attempts == 0:  # taken back, perhaps when it was counted; or the claim of the one in hand is ours again
            self.uncount(job)
            self._next_look = 0.0
        self._next = None
        if attempts < 1:
            return None
        with self._lock:
            self.in_progress = [*self.in_progress, job]
        return job

    def _move(self, wait_seconds: float) -> str | None:
        self._promote(keys=[self.delayed, self.name])
        try:
            payload: str | None = self.redis.blmove(self.name, self.working, wait_seconds, "LEFT", "RIGHT")
        except BaseException:
            self._next_look, self._owed_until = 0.0, time.monotonic() + LATE_SECONDS
            raise
        return payload

    def _stray(self) -> str | None:
        if time.monotonic() < self._next_look:
            return None
        in_progress = self.in_progress  # as it is before we look: what is settled meanwhile is no stray
        ours = self.redis.lrange(self.working, 0, -1)
        for job in in_progress:
            if job.payload in ours:
                ours.remove(job.payload)
        self._next_look = 0.0 if len(ours) > 1 else time.monotonic() + LOOK_SECONDS
        if not ours:
            return None
        with self._lock:
            ended = [job for job in self._ended if job.payload == ours[0]]
        for job in ended:  # Redis has lost its last writes, our end of it too: nobody died
            self.uncount(job)
        return ours[0]

    def settle(
        self,
        job: Job,
        next_queue: str = "",
        next_job: dict[str, Any] | None = None,
        note: tuple[str, str, str] = ("", "", ""),
    ) -> bool:
        """Acknowledge the job and, in the same step, queue the next one and write a note (a hash, its field and
        the value) of what is still to be done; False where the claim was lost: then nothing changes but that this
        delivery, which did not end badly, counts no more."""
        next_payload = encode(next_job) if next_job else ""
        # where there is nothing to queue or to note, a key that is not used: Redis lets nobody name an empty one
        keys = [self.working, self.attempts, self.batch_ids, next_queue or self.name, note[0] or self.name]
        settled = self._settle(keys=keys, args=[job.payload, next_payload, *note[1:]])
        if not settled:
            self.uncount(job)
        return self._leave(job, settled)

    def retry(self, job: Job, delay_seconds: int) -> bool:
        """Put the job back for a later attempt; this one counts."""
        return self._back(job, delay_seconds, "")

    def give_back(self, job: Job, delay_seconds: int = 0) -> bool:
        """Put the job back as if it had not been claimed."""
        return self._back(job, delay_seconds, job.token)

    def keep(self, job: Job) -> bool:
        """Leave the job, uncounted, in our list, for our next run or a later claim of this one; others take it
        once the heartbeat is gone."""
        kept = self._back(job, -1, job.token)
        self._next_look = 0.0
        return kept

    def _back(self, job: Job, delay_seconds: int, uncounted: str) -> bool:
        return self._leave(job, self._return(job, delay_seconds, uncounted), has_failed=not uncounted)

    def uncount(self, job: Job) -> None:
        """Count a delivery no more whose claim is lost: its worker lives, and it did not end badly."""
        self._return(job, -1, job.token)

    def _return(self, job: Job, delay_seconds: int, uncounted: str) -> int:
        keys = [self.working, self.attempts, self.name, self.delayed]
        return int(self._put_back(keys=keys, args=[job.payload, delay_seconds, uncounted]))

    def dead_letter(self, job: Job, error: str) -> bool:
        """Move the job to the dead letters."""
        keys = [self.working, self.attempts, self.dead]
        dead_lettered = self._dead_letter(keys=keys, args=[job.payload, self.letter(job, error)])
        return self._leave(job, dead_lettered, has_failed=not dead_lettered)

    def letter(self, job: Job, error: str) -> str:
        """The dead letter of a job: what failed, why, after how many attempts, where and when (UTC)."""
        return json.dumps(
            {
                "job": job.payload,
                "error": error,
                "attempts": job.attempts,
                "worker": self.worker_id,
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )

    def drop(self, job: Job, has_failed: bool = False) -> None:
        """Forget a job that another script has acknowledged, or whose claim was lost."""
        with self._lock:
            self.in_progress = [held for held in self.in_progress if held is not job]
            self._ended.extend([] if has_failed else [job])

    def _leave(self, job: Job, changed: int, has_failed: bool = False) -> bool:
        self.drop(job, has_failed)
        return bool(changed)

    def holds(self, job: Job) -> bool:
        """Whether the job is in our list still: where it is not, its claim is lost."""
        return self.redis.lpos(self.working, job.payload) is not None

    def recover(self) -> dict[str, int]:
        """Take back the jobs of every worker without a heartbeat: worker id -> number of jobs."""
        taken = {}
        for worker_id in self.redis.zrange(self.workers, 0, -1):
            keys = [heartbeat_key(worker_id), f"{self.name}:working:{worker_id}", self.name]
            if worker_id != self.worker_id and (jobs := int(self._recover(keys=keys, args=[]))):
                taken[worker_id] = jobs
        long_gone = int(self.redis.time()[0]) - FORGET_WORKER_SECONDS
        self.redis.zremrangebyscore(self.workers, "-inf", long_gone)
        return taken

    def unregister(self) -> bool:
        """Forget this worker, which claims no more; False where it may have jobs in progress that others must
        find."""
        if time.monotonic() < self._owed_until:
            return False
        keys = [self.working, self.workers, heartbeat_key(self.worker_id)]
        return bool(self._unregister(keys=keys, args=[self.worker_id]))

    def register(self) -> None:
        """Enter this worker among those whose list is taken back when they are silent."""
        self.redis.zadd(self.workers, {self.worker_id: int(self.redis.time()[0])})
