"""How the fleet is: what moves, what is stuck and why. Redis and PostgreSQL are asked once, nothing is changed.

Redis knows what is to be done and what the workers say of themselves, PostgreSQL what has been done.
"""

import datetime
import json
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import amount, count, duration
from pipeline.jobs import batches, job_queue
from pipeline.jobs.job_queue import decode
from pipeline.operations import failures
from pipeline.store.database import Database

SILENT_SECONDS = 60  # a host that was not heard so long does not live
RESTART_SECONDS = 300  # of silence that a host's new start may take
PATIENCE_SECONDS = 600  # of waiting for room on the disk, which is nothing wrong by itself
FULL_SHARE = 0.05  # of a disk that is nearly full: so much is free
MANY_FAILURES, LEAST_FAILURES = 0.1, 10  # of the files of an hour: this share, and so many
REASONS = 10  # the most frequent that are told
DOWN, DEGRADED = "down", "degraded"


@dataclass(frozen=True)
class Trouble:
    """What an operator should know: how bad it is (`broken` or `degraded`), what it is, and where to read on."""

    level: str
    what: str
    see: str


@dataclass(frozen=True)
class Status:
    """Everything as rows of plain values; times in seconds (since 1970 where they are moments), sizes in bytes.

    A worker that has died within the last week is listed with `alive` false. `done`, `reasons` and `warnings` are
    None where PostgreSQL was not asked.
    """

    time: int
    queues: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    hosts: list[dict[str, Any]]
    batches: list[dict[str, Any]]
    done: dict[str, float] | None = None
    reasons: list[dict[str, Any]] | None = None
    warnings: dict[str, Any] | None = None
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def health(self) -> str:
        """`well`, `degraded` or `broken`."""
        levels = {trouble.level for trouble in self.troubles}
        return DOWN if DOWN in levels else DEGRADED if levels else "healthy"

    def as_dict(self) -> dict[str, Any]:
        """The status for JSON."""
        return {"health": self.health, **vars(self), "troubles": [vars(trouble) for trouble in self.troubles]}


def read_status(redis: Any, queue_names: list[str], database: Database | None = None) -> Status:
    """Read the status of these queues, and of the transcription queues that hosts have entered."""
    keys = [batches.OPEN, batches.FINISHING, batches.HOSTS, batches.QUEUES, batches.DRAINING]
    seen = json.loads(redis_client.script(redis, "overview")(keys=[*keys, *queue_names], args=[]))
    now = int(seen["time"])
    workers = _workers(now, seen)
    rows = [_batch(now, *row) for row in seen["open"]]
    rows += [_finishing(batch_id, host) for batch_id, host in seen["finishing"]]
    started = {row["id"]: row["since"] for row in rows}
    queues = [_queue(now, workers, started, *queue) for queue in seen["queues"]]
    hosts = _hosts(now, seen, workers, rows, queues)
    done, reasons = read_done(database) if database else (None, None)
    warnings = read_warnings(database) if database else None
    status = Status(now, queues, sorted(workers.values(), key=_worker_order), hosts, rows, done, reasons, warnings)
    status.troubles.extend(_troubles(status))
    return status


def observe(
    redis: Any, queue_names: list[str], database: Database | None = None, check: Callable[[], object] = bool
) -> Status:
    """The status; where a service is unavailable, one that is broken and says so, with what the others tell.
    `check` is called first, and may find it unavailable too."""
    try:
        check()
        return read_status(redis, queue_names, database)
    except Exception as error:
        service = unavailable_service(error)
        if service is None:
            raise
        trouble = Trouble(DOWN, f"{service} is unavailable: {' '.join(str(error).split())}", "service-away")
        if service == "Redis":
            return Status(int(time.time()), [], [], [], [], troubles=[trouble])
        now = observe(redis, queue_names)
        now.troubles.insert(0, trouble)
        return now


def read_done(database: Database) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """What was settled within an hour (files, failed, audio_seconds), and the reasons of a day's failures."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE status = 'failed'), coalesce(sum(duration_seconds), 0)"
            " FROM audio_files WHERE status <> 'processing' AND updated_at > now() - interval '1 hour'"
        )
        files, failed, audio_seconds = cursor.fetchone()
        cursor.execute(
            "SELECT coalesce(error, ''), count(*) FROM audio_files"
            " WHERE status = 'failed' AND updated_at > now() - interval '1 day'"
            " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %s",
            (REASONS,),
        )
        reasons = [{"reason": reason, "files": number} for reason, number in cursor.fetchall()]
    return {"files": files, "failed": failed, "audio_seconds": audio_seconds}, reasons


def read_warnings(database: Database) -> dict[str, Any]:
    """How many files of a day have warnings (`files`), and how many have each of them (`codes`)."""
    with database.transaction() as cursor:
        cursor.execute(
            f"SELECT {failures.CODES}, count(*) FROM audio_files"  # nosec B608
            " WHERE warnings IS NOT NULL AND updated_at > now() - interval '1 day' GROUP BY 1"
        )
        groups = cursor.fetchall()
    return {"files": sum(number for _, number in groups), "codes": dict(failures.count_codes(groups))}


# --- the rows ------------------------------------------------------------------------------------------------


def _workers(now: int, seen: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each worker that has claimed from a queue within a week."""
    found = {}
    for name, _, _, _, _, _, of in seen["queues"]:
        for worker_id, _ in of or []:
            said = seen["workers"][worker_id]
            row = {"id": worker_id, "alive": bool(said), "queue": name, **_GONE, **(decode(said) if said else {})}
            row["heard_seconds"] = max(0, now - row["beat"]) if row["beat"] else None
            row["since_seconds"] = max(0, now - row["since"]) if row["since"] else None
            found[worker_id] = row
    return found


_GONE = {
    "host": "", "role": "", "doing": "gone", "since": 0, "beat": 0, "hour": None, "disk": None, "gpu": None,
}  # fmt: skip


def _worker_order(worker: dict[str, Any]) -> tuple[Any, ...]:
    return worker["alive"], worker["host"], worker["role"], worker["id"]


def _batch(now: int, batch_id: str, start: str, host: str, *counts: str) -> dict[str, Any]:
    total, processed, failed = (int(text) if text else None for text in counts)
    since = int(float(start))
    row: dict[str, Any] = {
        "id": batch_id, "host": host or "", "total": total, "processed": processed, "failed": failed,
        "since": since, "state": "open" if total else "unpacking",
    }  # fmt: skip
    settled = settled_files(row)
    passed = now - since
    row["left_seconds"] = round((total - settled) * passed / settled) if total and settled and passed > 0 else None
    return row


def _finishing(batch_id: str, host: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("total", "processed", "failed", "left_seconds"))
    return {"id": batch_id, "host": host, **nothing, "since": 0, "state": "finishing"}


def _queue(
    now: int, workers: dict[str, dict[str, Any]], started: dict[str, int], name: str, host: str,
    waiting: int, delayed: int, dead: int, head: str, of: Any,
) -> dict[str, Any]:  # fmt: skip
    alive = [workers[worker_id] for worker_id, _ in of or [] if workers[worker_id]["alive"]]
    rates = [_per_hour(worker["hour"]) for worker in alive]
    return {
        "name": name, "host": host, "waiting": waiting, "delayed": delayed, "dead": dead,
        "in_work": sum(in_progress for _, in_progress in of or []), "workers": len(alive),
        "oldest_seconds": _age(now, head, started), "per_hour": round(sum(rates), 1) if alive else 0.0,
    }  # fmt: skip


def _per_hour(hour: dict[str, float] | None) -> float:
    """Jobs in an hour at the rate of the last hour, or of the time since the worker started."""
    if not hour or hour["seconds"] < 1:
        return 0.0
    return 3600 * (hour["done"] + hour["failed"]) / hour["seconds"]


def _age(now: int, head: str, started: dict[str, int]) -> int | None:
    """How long the next job of a queue has waited: an unpack job since its transfer, a file since its batch was
    begun; None where nothing tells, as with a transfer job."""
    fields = decode(head)
    since = started.get(str(fields.get("batch_id")))
    with suppress(KeyError, TypeError, ValueError, OverflowError):  # another kind of job, or another sender's
        since = int(datetime.datetime.fromisoformat(fields["transferred_at"]).timestamp())
    return None if not since else max(0, now - since)


def _hosts(
    now: int, seen: dict[str, Any], workers: dict[str, dict[str, Any]], rows: list[dict[str, Any]],
    queues: list[dict[str, Any]],
) -> list[dict[str, Any]]:  # fmt: skip
    """The hosts that were heard within a week and have workers or batches."""
    draining = dict(seen["draining"])
    own = defaultdict(list)
    for worker in workers.values():
        if worker["alive"]:
            own[worker["host"]].append(worker)
    of_host: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        of_host[row["host"]] += 1
    files = {queue["host"]: queue["waiting"] + queue["in_work"] for queue in queues if queue["host"]}
    heard = {name: int(float(at)) for name, at in seen["hosts"]}
    return [
        {
            "name": name, "alive": bool(own[name]) or now - heard.get(name, 0) < SILENT_SECONDS,
            "heard_seconds": max(0, now - heard[name]) if name in heard else None, "draining": name in draining,
            "workers": len(own[name]), "batches": of_host[name], "files": files.get(name, 0),
            "disk": next((worker["disk"] for worker in own[name] if worker["disk"]), None),
            "gpus": [worker["gpu"] for worker in own[name] if worker["gpu"]],
        }
        for name in sorted({*heard, *own, *of_host} - {""})
        if own[name] or of_host[name]
    ]  # fmt: skip


def settled_files(batch: dict[str, Any]) -> int:
    """How many files of a batch's row need no more work."""
    return (batch["processed"] or 0) + (batch["failed"] or 0)


def host_state(host: dict[str, Any]) -> str:
    """What a host's row is, in a word."""
    return "silent" if not host["alive"] else "draining" if host["draining"] else "up"


# --- what is wrong -------------------------------------------------------------------------------------------


def _troubles(status: Status) -> list[Trouble]:
    """What is wrong, the worst first."""
    heard = {host["name"]: host["heard_seconds"] or 0 for host in status.hosts}
    found = []
    for queue in status.queues:
        jobs = queue["waiting"] + queue["in_work"] + queue["delayed"]
        if jobs and not queue["workers"]:
            starting = heard.get(queue["host"], RESTART_SECONDS) < RESTART_SECONDS
            what = f"{queue['name']}: {count(jobs, 'job')} and no worker"
            found.append(Trouble(DEGRADED if starting else DOWN, what, "no-worker"))
    for worker in status.workers:
        if not worker["alive"]:
            found.append(Trouble(DEGRADED, f"{worker['id']} is gone: no heartbeat", "worker-gone"))
        elif _waits_too_long(worker):
            what = f"{worker['id']}: {worker['doing']}, for {duration(worker['since_seconds'] or 0)}"
            found.append(Trouble(DEGRADED, what, "worker-waits"))
    at_work = [worker for worker in status.workers if worker["alive"]]
    if at_work and all(_waits_for_service(worker) for worker in at_work):
        found.append(Trouble(DOWN, "every worker waits for a service", "service-away"))
    for host in status.hosts:
        if not host["alive"] and host["batches"]:
            silence = duration(host["heard_seconds"] or 0)
            what = f"{host['name']} is silent for {silence} and has {count(host['batches'], 'open batch')}"
            found.append(Trouble(DEGRADED, what, "host-silent"))
        if (disk := host["disk"]) and disk["free"] < FULL_SHARE * disk["size"]:
            what = f"{host['name']}: {amount(disk['free'])} of {amount(disk['size'])} of its disk is free"
            found.append(Trouble(DEGRADED, what, "disk-full"))
    if status.done and status.done["failed"] >= max(LEAST_FAILURES, MANY_FAILURES * status.done["files"]):
        what = f"{status.done['failed']} of {status.done['files']} files of the last hour have failed"
        found.append(Trouble(DEGRADED, what, "many-failures"))
    return sorted(found, key=lambda trouble: trouble.level != DOWN)


def _waits_for_service(worker: dict[str, Any]) -> bool:
    """`Worker.until_available` says so."""
    doing = str(worker["doing"])
    return doing.startswith("waiting for ") and not doing.startswith(
        ("waiting for disk", "waiting for transcription", "waiting for a GPU worker")
    )


def _waits_too_long(worker: dict[str, Any]) -> bool:
    doing = str(worker["doing"])
    if doing.startswith("waiting for transcription"):  # it has unpacked enough
        return False
    if doing.startswith("waiting for disk"):
        return (worker["since_seconds"] or 0) > PATIENCE_SECONDS
    return doing.startswith("waiting")


# --- for others ----------------------------------------------------------------------------------------------


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
    return redis_client.answers(steps)
