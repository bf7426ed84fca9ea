"""The status of the fleet: what moves and what is stuck. Redis and PostgreSQL are asked once, nothing is changed.

Redis knows what is to be done and what the workers say of themselves, PostgreSQL what has been done.
"""

import datetime
import json
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import duration
from pipeline.jobs import batches
from pipeline.jobs.job_queue import decode
from pipeline.operations import failures
from pipeline.operations.snapshot import stranded_batches
from pipeline.operations.troubles import DOWN, Trouble, find_troubles, health_of
from pipeline.store.batch_history import archive_names
from pipeline.store.database import Database

SILENT_SECONDS = 60  # after which a host without a heartbeat is not alive
STRANDED_SECONDS = 300  # without a movement of a batch, before its jobs are looked for
REASONS = 10  # the most frequent that are reported
Compare = Callable[[Any, list[str]], Collection[str]]  # Redis and the queues -> stranded batches


@dataclass(frozen=True)
class Status:
    """Everything as rows of plain values; times in seconds (since 1970 where they are moments), sizes in bytes.

    A worker that has died within the last week is listed with `alive` false. `done`, `reasons` and `warnings` are
    None where PostgreSQL was not asked; the `archive` of a batch, its file name, is empty where nobody knows it.
    """

    time: int
    queues: list[dict[str, Any]]
    workers: list[dict[str, Any]]
    hosts: list[dict[str, Any]]
    batches: list[dict[str, Any]]
    done: dict[str, float] | None = None
    reasons: list[dict[str, Any]] | None = None
    warnings: dict[str, Any] | None = None
    amiss: list[dict[str, str]] = field(default_factory=list)  # what needs a person: kind, subject, what
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def health(self) -> str:
        """`healthy`, `degraded` or `down`."""
        return health_of(self.troubles)

    def as_dict(self) -> dict[str, Any]:
        """The status for JSON."""
        return {"health": self.health, **vars(self), "troubles": [vars(trouble) for trouble in self.troubles]}


def read_status(
    redis: Any, queue_names: list[str], database: Database | None = None, compare: Compare = stranded_batches
) -> Status:
    """Read the status of these queues, and of the transcription queues that hosts have entered.

    `compare` finds the stranded batches where the unpack workers do not: who asks often gives a `SeldomCompared`.
    """
    keys = [batches.OPEN, batches.FINISHING, batches.HOSTS, batches.QUEUES, batches.DRAINING]
    keys += [batches.AMISS, batches.STRANDED]
    seen = json.loads(redis_client.script(redis, "overview")(keys=[*keys, *queue_names], args=[]))
    now = int(seen["time"])
    workers = _workers(now, seen)
    rows = [_batch(now, *row) for row in seen["open"]]
    rows += [_finishing(now, *row) for row in seen["finishing"]]
    compared = json.loads(seen["stranded"]) if seen["stranded"] else None
    _mark_stranded(rows, lambda: compare(redis, queue_names) if compared is None else compared)
    started = {row["id"]: row["since"] for row in rows}
    queues = [_queue(now, workers, started, *queue) for queue in seen["queues"]]
    hosts = _hosts(now, seen, workers, rows, queues)
    names = archive_names(database, [row["id"] for row in rows]) if database and rows else {}
    rows = [{**row, "archive": names.get(row["id"], "")} for row in rows]
    done, reasons = read_done(database) if database else (None, None)
    warnings = read_warnings(database) if database else None
    status = Status(now, queues, sorted(workers.values(), key=_worker_order), hosts, rows, done, reasons, warnings)
    status.amiss.extend(json.loads(seen["amiss"] or "[]"))
    status.troubles.extend(find_troubles(queues, status.workers, hosts, rows, status.amiss, done))
    return status


def observe(
    redis: Any,
    queue_names: list[str],
    database: Database | None = None,
    check: Callable[[], object] = bool,
    compare: Compare = stranded_batches,
) -> Status:
    """The status; where a service is unavailable, one that is down and says so, with what the others report.
    `check` is called first, and may find the service unavailable too."""
    try:
        check()
        return read_status(redis, queue_names, database, compare)
    except Exception as error:
        service = unavailable_service(error)
        if service is None:
            raise
        trouble = Trouble(DOWN, f"{service} is unavailable: {' '.join(str(error).split())}", "service-away")
        if service == "Redis":
            return Status(int(time.time()), [], [], [], [], troubles=[trouble])
        now = observe(redis, queue_names, compare=compare)
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
    for name, _, _, _, _, _, of, _ in seen["queues"]:
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


def _batch(now: int, batch_id: str, start: str, host: str, moved: str | None, *counts: str) -> dict[str, Any]:
    total, processed, failed = (int(text) if text else None for text in counts)
    since = int(float(start))
    row: dict[str, Any] = {
        "id": batch_id, "host": host or "", "total": total, "processed": processed, "failed": failed,
        "since": since, "still_seconds": max(0, now - int(moved or since)),
        "state": "open" if total else "unpacking",
    }  # fmt: skip
    settled = settled_files(row)
    passed = now - since
    row["left_seconds"] = round((total - settled) * passed / settled) if total and settled and passed > 0 else None
    return row


def _finishing(now: int, batch_id: str, host: str, moved: str | None = None) -> dict[str, Any]:
    nothing = dict.fromkeys(("total", "processed", "failed", "left_seconds"))
    still = max(0, now - int(moved or now))
    return {"id": batch_id, "host": host, **nothing, "since": 0, "still_seconds": still, "state": "finishing"}


def _mark_stranded(rows: list[dict[str, Any]], stranded: Callable[[], Collection[str]]) -> None:
    """Say which batches have no job left for the rest of their files, of those that have not moved for a while."""
    opened = [row for row in rows if row["state"] != "finishing"]
    if still := [row for row in opened if row["still_seconds"] >= STRANDED_SECONDS]:
        found = stranded()
        for row in still:
            if row["id"] in found:
                row.update(state="stranded", left_seconds=None)


def _queue(
    now: int, workers: dict[str, dict[str, Any]], started: dict[str, int], name: str, host: str,
    waiting: int, delayed: int, dead: int, head: str, of: Any, oldest_dead_letter: str,
) -> dict[str, Any]:  # fmt: skip
    alive = [workers[worker_id] for worker_id, _ in of or [] if workers[worker_id]["alive"]]
    rates = [_per_hour(worker["hour"]) for worker in alive]
    return {
        "name": name, "host": host, "waiting": waiting, "delayed": delayed, "dead": dead,
        "in_work": sum(in_progress for _, in_progress in of or []), "workers": len(alive),
        "oldest_seconds": _age(now, head, started), "dead_seconds": _passed(now, oldest_dead_letter),
        "per_hour": round(sum(rates), 1) if alive else 0.0,
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
    passed = _passed(now, fields.get("transferred_at"))
    return passed if passed is not None or not since else max(0, now - since)


def _passed(now: int, moment: Any) -> int | None:
    """The seconds since a moment, an ISO text; None where it is not one, as in
    another kind of job, or another sender's."""
    with suppress(TypeError, ValueError, OverflowError):
        return max(0, now - int(datetime.datetime.fromisoformat(moment).timestamp()))
    return None


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


def time_left(batch: dict[str, Any]) -> str:
    """How long a batch's row still takes; "-" where an open one gives no estimate, else what is done with it."""
    if batch["left_seconds"] is not None:
        return duration(batch["left_seconds"])
    return "-" if batch["state"] == "open" else str(batch["state"])


def host_state(host: dict[str, Any]) -> str:
    """What a host's row is, in a word."""
    return "silent" if not host["alive"] else "draining" if host["draining"] else "up"
