"""What moves and what is stuck, read from Redis in a few round trips and without SCAN."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import batches, job_queue


@dataclass(frozen=True)
class Status:
    """The queues, workers and open batches, each as rows of plain values.

    A worker that has died or ended within the last week is listed with `alive` false.
    """

    queues: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    batches: list[dict[str, Any]]

    def as_dict(self) -> dict[str, Any]:
        """The status for JSON."""
        return asdict(self)


def read_status(redis: Any, queue_names: list[str]) -> Status:
    """Read the status of these queues, and of the transcription queues that hosts have entered."""
    names = batches.all_queues(redis, queue_names)
    worker_ids = _pipelined(redis, [("zrange", f"{name}:workers", 0, -1) for name in names])
    workers = read_workers(redis, sorted({worker_id for ids in worker_ids for worker_id in ids}))
    queues = [_queue(redis, name, ids) for name, ids in zip(names, worker_ids, strict=True)]
    return Status(queues, workers, open_batches(redis))


def _queue(redis: Any, name: str, worker_ids: list[str]) -> dict[str, Any]:
    commands = [("llen", name), ("zcard", f"{name}:delayed"), ("llen", f"{name}:dead")]
    in_work = [("llen", f"{name}:working:{worker_id}") for worker_id in worker_ids]
    waiting, delayed, dead, *working = _pipelined(redis, [*commands, *in_work])
    return {"name": name, "waiting": waiting, "delayed": delayed, "in_work": sum(working), "dead": dead}


def read_workers(redis: Any, worker_ids: list[str]) -> list[dict[str, Any]]:
    """What each worker says of itself, in the same order."""
    states = _pipelined(redis, [("get", job_queue.heartbeat_key(worker_id)) for worker_id in worker_ids])
    gone = {"host": "", "role": "", "doing": "gone", "since": 0}
    return [
        {"id": worker_id, "alive": state is not None, **(json.loads(state) if state else gone)}
        for worker_id, state in zip(worker_ids, states, strict=True)
    ]


def open_batches(redis: Any) -> list[dict[str, Any]]:
    """The open batches with their host and counts (None before the first), in the order of their start."""
    batch_ids = redis.zrange(batches.OPEN, 0, -1)
    fields = ("host", "s3_key", "total", "processed", "failed")
    rows = _pipelined(redis, [("mget", batches.keys_of(batch_id, *fields)) for batch_id in batch_ids])
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
    return list(steps.execute())
