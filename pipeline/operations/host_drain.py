"""Emptying a host: it takes no new work, finishes what it has begun, or hands it back.

`hosts:draining` names the hosts; their transfer and unpack workers claim nothing more, their GPU workers go on
with the files that are on the host already.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.formatting import count
from pipeline.jobs.batches import DRAINING, OPEN, Batches, keys_of
from pipeline.jobs.job_queue import heartbeat_key


@dataclass(frozen=True)
class Work:
    """What a host has left: its open batches with the files that are not settled, and archives in progress."""

    batches: list[str]
    files: int
    archives: int

    def is_some(self) -> bool:
        """Whether there is any."""
        return bool(self.batches or self.archives)

    def __str__(self) -> str:
        batches, files = count(len(self.batches), "batch"), count(self.files, "file")
        return f"{batches} with {files} to do, {count(self.archives, 'archive')} in progress"


def begin(redis: Any, host: str) -> None:
    """Have the host take no new work; safe to repeat."""
    redis.hsetnx(DRAINING, host, redis.time()[0])


def undo(redis: Any, host: str) -> bool:
    """Let the host take work again; False where it was not draining."""
    return bool(redis.hdel(DRAINING, host))


def work_of(redis: Any, host: str, *queues: str) -> Work:
    """What the host has left; `queues` are those whose jobs bring work to a host."""
    rows = [row for row in open_batches(redis) if row["host"] == host]
    files = sum((row["total"] or 0) - (row["processed"] or 0) - (row["failed"] or 0) for row in rows)
    batch_ids = [row["id"] for row in rows] + Batches(redis, host).finishing()
    return Work(batch_ids, files, _in_progress(redis, host, queues))


def hand_back(
    redis: Any, host: str, unpack_queue: str, wanted: Callable[[dict[str, Any]], object] = bool
) -> list[str]:
    """Queue the host's open batches again, or those that are `wanted` (rows of `open_batches`), for whichever host
    comes first to start again; gives their ids."""
    batches = Batches(redis, host)
    handed = []
    for batch_id in [row["id"] for row in open_batches(redis) if row["host"] == host and wanted(row)]:
        job = redis.get(f"batch:{batch_id}:job")
        if job and batches.hand_back(unpack_queue, batch_id, job, host, "*", "*", "*"):
            handed.append(batch_id)
    return handed


def _in_progress(redis: Any, host: str, queues: tuple[str, ...]) -> int:
    """How many jobs of the queues the host's live workers have in progress; others take back those of dead
    ones."""
    steps = redis.pipeline(transaction=False)
    for queue in queues:
        for worker in _read_workers(redis, redis.zrange(f"{queue}:workers", 0, -1)):
            if worker["alive"] and worker["host"] == host:
                steps.llen(f"{queue}:working:{worker['id']}")
    return sum(redis_client.answers(steps))


def _read_workers(redis: Any, worker_ids: list[str]) -> list[dict[str, Any]]:
    """What each worker reports in its heartbeat, in the same order."""
    states = _pipelined(redis, [("get", heartbeat_key(worker_id)) for worker_id in worker_ids])
    gone = {"host": "", "role": "", "doing": "gone", "since": 0}
    return [
        {"id": worker_id, "alive": state is not None, **(json.loads(state) if state else gone)}
        for worker_id, state in zip(worker_ids, states, strict=True)
    ]


def open_batches(redis: Any) -> list[dict[str, Any]]:
    """The open batches with their host and counts (None before the first), in the order of their start."""
    batch_ids = redis.zrange(OPEN, 0, -1)
    fields = ("host", "s3_key", "total", "processed", "failed")
    rows = _pipelined(redis, [("mget", keys_of(batch_id, *fields)) for batch_id in batch_ids])
    return [
        {"id": batch_id, "host": host, "s3_key": key, **dict(zip(fields[2:], map(_number, counts), strict=True))}
        for batch_id, (host, key, *counts) in zip(batch_ids, rows, strict=True)
    ]


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _pipelined(redis: Any, commands: list[tuple[Any, ...]]) -> list[Any]:
    steps = redis.pipeline(transaction=False)
    for name, *arguments in commands:
        getattr(steps, name)(*arguments)
    return redis_client.answers(steps)
