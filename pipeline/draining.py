"""Emptying a host: it takes no new work, finishes what it has begun, or hands it back.

`hosts:draining` names the hosts; their transfer and unpack workers claim nothing more, their GPU workers go on
with the files that are on the host already.
"""

import json
from dataclasses import dataclass
from typing import Any

from pipeline.batches import DRAINING, FINISHING, OPEN, Batches
from pipeline.job_queue import heartbeat_key
from pipeline.progress import count


@dataclass(frozen=True)
class Work:
    """What a host has left: its open batches with the files that are not settled, and archives in hand."""

    batches: list[str]
    files: int
    archives: int

    def is_some(self) -> bool:
        """Whether there is any."""
        return bool(self.batches or self.archives)

    def __str__(self) -> str:
        batches, files = count(len(self.batches), "batch"), count(self.files, "file")
        return f"{batches} with {files} to do, {count(self.archives, 'archive')} in hand"


def begin(redis: Any, host: str) -> None:
    """Have the host take no new work; safe to repeat."""
    redis.hsetnx(DRAINING, host, redis.time()[0])


def undo(redis: Any, host: str) -> bool:
    """Let the host take work again; False where it was not draining."""
    return bool(redis.hdel(DRAINING, host))


def work_of(redis: Any, host: str, *queues: str) -> Work:
    """What the host has left; `queues` are those whose jobs bring work to a host."""
    open_batches = _of_host(redis, redis.zrange(OPEN, 0, -1), host)
    counts = _counts(redis, open_batches)
    finishing = [batch_id for batch_id, owner in redis.hgetall(FINISHING).items() if owner == host]
    return Work(open_batches + finishing, sum(counts), _in_hand(redis, host, queues))


def hand_back(redis: Any, host: str, unpack_queue: str) -> list[str]:
    """Queue the host's open batches again, for other hosts to begin anew; gives their ids."""
    batches = Batches(redis, host)
    handed = []
    for batch_id in _of_host(redis, redis.zrange(OPEN, 0, -1), host):
        job = redis.get(f"batch:{batch_id}:job")
        if job and batches.hand_back(unpack_queue, batch_id, job, host, "*", "*", "*"):
            handed.append(batch_id)
    return handed


def _of_host(redis: Any, batch_ids: list[str], host: str) -> list[str]:
    owners = redis.mget([f"batch:{batch_id}:host" for batch_id in batch_ids]) if batch_ids else []
    return [batch_id for batch_id, owner in zip(batch_ids, owners, strict=True) if owner == host]


def _counts(redis: Any, batch_ids: list[str]) -> list[int]:
    """How many files of each batch are not settled."""
    steps = redis.pipeline(transaction=False)
    for batch_id in batch_ids:
        steps.mget([f"batch:{batch_id}:{field}" for field in ("total", "processed", "failed")])
    rows = [[int(value or 0) for value in row] for row in steps.execute()]
    return [total - processed - failed for total, processed, failed in rows]


def _in_hand(redis: Any, host: str, queues: tuple[str, ...]) -> int:
    """How many jobs of the queues the host's live workers have in hand; those of dead ones others take back."""
    steps = redis.pipeline(transaction=False)
    for queue in queues:
        workers = redis.zrange(f"{queue}:workers", 0, -1)
        states = redis.mget([heartbeat_key(worker) for worker in workers]) if workers else []
        for worker, state in zip(workers, states, strict=True):
            if state and json.loads(state)["host"] == host:
                steps.llen(f"{queue}:working:{worker}")
    return sum(steps.execute())
