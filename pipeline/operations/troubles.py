"""What is wrong with the fleet: judged from the rows of its status, with the thresholds.

Each trouble refers to an entry of docs/runbook.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.foundation.formatting import amount, count, duration

RESTART_SECONDS = 300  # of silence that a host's restart may take
DEAD_LETTER_SECONDS = 3600  # an older dead letter has been left alone
STILL_SECONDS = 6 * 3600  # without a movement of any batch of a host: a file takes as long at most
MOST_NAMED = 3  # batches of one trouble
PATIENCE_SECONDS = 600  # of waiting for room on the disk, which is nothing wrong by itself
FULL_SHARE = 0.05  # of a disk that is nearly full: so much is free
MANY_FAILURES, LEAST_FAILURES = 0.1, 10  # of the files of an hour: this share, and so many
HEALTHY, DEGRADED, DOWN = "healthy", "degraded", "down"
Row = dict[str, Any]  # of a status


@dataclass(frozen=True)
class Trouble:
    """What an operator should know: how bad it is (`down` or `degraded`), what it is, and where to read on."""

    level: str
    what: str
    see: str


def health_of(troubles: list[Trouble]) -> str:
    """`healthy`, `degraded` or `down`: the worst level of the troubles."""
    levels = {trouble.level for trouble in troubles}
    return DOWN if DOWN in levels else DEGRADED if levels else HEALTHY


def find_troubles(
    queues: list[Row], workers: list[Row], hosts: list[Row], batches: list[Row], amiss: list[dict[str, str]],
    done: dict[str, float] | None,
) -> list[Trouble]:  # fmt: skip
    """What is wrong, the worst first."""
    found = [
        *_of_queues(queues, hosts), *_of_workers(workers), *_of_hosts(hosts), *_of_batches(batches, amiss),
        *_of_files(done),
    ]  # fmt: skip
    return sorted(found, key=lambda trouble: trouble.level != DOWN)


def _of_queues(queues: list[Row], hosts: list[Row]) -> Iterator[Trouble]:
    heard = {host["name"]: host["heard_seconds"] or 0 for host in hosts}
    for queue in queues:
        jobs = queue["waiting"] + queue["in_work"] + queue["delayed"]
        if jobs and not queue["workers"]:
            starting = heard.get(queue["host"], RESTART_SECONDS) < RESTART_SECONDS
            what = f"{queue['name']}: {count(jobs, 'job')} and no worker"
            yield Trouble(DEGRADED if starting else DOWN, what, "no-worker")
        age = queue["dead_seconds"]  # None where somebody else wrote the dead letter
        if queue["dead"] and (age is None or age > DEAD_LETTER_SECONDS):
            oldest = "" if age is None else f", the oldest for {duration(age)}"
            what = f"{queue['name']}: {count(queue['dead'], 'dead letter')}{oldest}"
            yield Trouble(DEGRADED, what, "AudioPipelineDeadLetters")


def _of_workers(workers: list[Row]) -> Iterator[Trouble]:
    for worker in workers:
        if not worker["alive"]:
            yield Trouble(DEGRADED, f"{worker['id']} is gone: no heartbeat", "worker-gone")
        elif _waits_too_long(worker):
            what = f"{worker['id']}: {worker['doing']}, for {duration(worker['since_seconds'] or 0)}"
            yield Trouble(DEGRADED, what, "worker-waits")
    at_work = [worker for worker in workers if worker["alive"]]
    if at_work and all(_waits_for_service(worker) for worker in at_work):
        yield Trouble(DOWN, "every worker waits for a service", "service-away")


def _waits_for_service(worker: Row) -> bool:
    """`Worker.until_available` says so."""
    doing = str(worker["doing"])
    return doing.startswith("waiting for ") and not doing.startswith(
        ("waiting for disk", "waiting for transcription", "waiting for a GPU worker")
    )


def _waits_too_long(worker: Row) -> bool:
    doing = str(worker["doing"])
    if doing.startswith("waiting for transcription"):  # it has unpacked enough
        return False
    if doing.startswith("waiting for disk"):
        return (worker["since_seconds"] or 0) > PATIENCE_SECONDS
    return doing.startswith("waiting")


def _of_hosts(hosts: list[Row]) -> Iterator[Trouble]:
    for host in hosts:
        if not host["alive"] and host["batches"]:
            silence = duration(host["heard_seconds"] or 0)
            what = f"{host['name']} is silent for {silence} and has {count(host['batches'], 'open batch')}"
            yield Trouble(DEGRADED, what, "host-silent")
        if (disk := host["disk"]) and disk["free"] < FULL_SHARE * disk["size"]:
            what = f"{host['name']}: {amount(disk['free'])} of {amount(disk['size'])} of its disk is free"
            yield Trouble(DEGRADED, what, "disk-full")


def _of_batches(batches: list[Row], amiss: list[dict[str, str]]) -> Iterator[Trouble]:
    stranded = [row["id"] for row in batches if row["state"] == "stranded"]
    if stranded:
        named = ", ".join(stranded[:MOST_NAMED]) + (", ..." if len(stranded) > MOST_NAMED else "")
        what = f"{count(len(stranded), 'open batch')} without a job for the rest of the files: {named}"
        yield Trouble(DEGRADED, what, "batch-stranded")
    for host, still in still_hosts(batches).items():
        if still >= STILL_SECONDS:
            where = f"of {host}" if host else "without a host"
            yield Trouble(DEGRADED, f"no open batch {where} has moved for {duration(still)}", "batch-still")
    for of in amiss[:MOST_NAMED]:
        yield Trouble(DEGRADED, f"{of['subject']}, {of['kind']}: {of['what']}", "needs-a-person")


def still_hosts(batches: list[Row]) -> dict[str, int]:
    """Host -> seconds since any of its open batches has moved; "" are those that no host has."""
    youngest: dict[str, int] = {}
    for row in batches:
        youngest[row["host"]] = min(row["still_seconds"], youngest.get(row["host"], row["still_seconds"]))
    return youngest


def _of_files(done: dict[str, float] | None) -> Iterator[Trouble]:
    if done and done["failed"] >= max(LEAST_FAILURES, MANY_FAILURES * done["files"]):
        what = f"{done['failed']} of {done['files']} files of the last hour have failed"
        yield Trouble(DEGRADED, what, "many-failures")
