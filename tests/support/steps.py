"""What the tests of the workers do with a fleet: put work in at one stage, wait, look at what came out."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

import config
import s3_utils
from pipeline.foundation.file_warnings import FileWarning, as_json
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from tests.support.child import Child, wait_until
from tests.support.fleet import PROJECT, Fleet

AT_LENGTH = os.environ.get("LONG_TESTS") == "1"  # ./test --all: no dose, all of it
BATCH = "20250622-143052"


def s3_client(fleet: Fleet) -> Any:
    """A client of the fleet's S3."""
    return boto3.client(
        "s3",
        endpoint_url=fleet.s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=fleet.s3.access_key,
        aws_secret_access_key=fleet.s3.secret_key,
    )


def object_keys(fleet: Fleet, prefix: str = "") -> list[str]:
    """The keys in the fleet's bucket that begin so."""
    pages = s3_client(fleet).get_paginator("list_objects_v2").paginate(Bucket=fleet.bucket, Prefix=prefix)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def use_s3(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point this process's own s3_utils at the fleet."""
    for name in ("S3_ENDPOINT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_BUCKET"):
        monkeypatch.setattr(config, name, fleet.settings()[name])
    s3_utils.get_s3_client.cache_clear()


def unpack_job(batch_id: str = BATCH, **fields: Any) -> str:
    """A job of queue:unpack as the transfer worker writes it."""
    job = {"batch_id": batch_id, "s3_key": f"archives/{batch_id}.tar", "file_count": None}
    return json.dumps({**job, "transferred_at": "2025-06-22T14:30:52+00:00", **fields})


def upload(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, tar: Path, batch_id: str = BATCH) -> None:
    """Put an archive into S3 as the transfer worker does."""
    use_s3(fleet, monkeypatch)
    s3_utils.upload_archive(tar, batch_id)


def open_batch(fleet: Fleet, redis: Any, host: str, files: dict[str, bytes], batch_id: str = BATCH) -> list[str]:
    """A batch as the unpack worker leaves it: its Opus in scratch, its files queued. Gives their jobs."""
    folder = fleet.folder / "scratch" / batch_id
    folder.mkdir(parents=True)
    batches = Batches(redis, host)
    batches.adopt(batch_id, f"archives/{batch_id}.tar", Job(unpack_job(batch_id), 1, "t"))
    fleet.query(
        "INSERT INTO batches (batch_id, s3_key, file_count, host) VALUES (%s, %s, %s, %s)",
        batch_id, f"archives/{batch_id}.tar", len(files), host,
    )  # fmt: skip
    batches.open(batch_id, len(files))
    for name, data in files.items():
        path = folder / f"{Path(name).stem}.opus"
        path.write_bytes(data)
        fields = {"batch_id": batch_id, "audio_id": None, "opus_path": str(path), "original_filename": name}
        batches.push(batch_id, "queue:transcribe", fields)
    return list(redis.lrange("queue:transcribe", 0, -1))


def add_batch(
    fleet: Fleet, batch_id: str = BATCH, files: int = 1, finished: bool = True, s3_key: str = ""
) -> None:
    """A batch's row as it is once its archive was opened; with finished, as it is at the end."""
    fleet.query(
        "INSERT INTO batches (batch_id, s3_key, file_count, host, finished_at)"
        " VALUES (%s, %s, %s, 'here', CASE WHEN %s THEN now() END)",
        batch_id, s3_key or f"archives/{batch_id}.tar", files, finished,
    )  # fmt: skip


def add_file(
    fleet: Fleet, name: str, status: str, error: str | None = None, batch_id: str = BATCH, when: str = "now"
) -> int:
    """A file's row, with its S3 key where it is done; gives its audio id."""
    ((audio_id,),) = fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, status, error, updated_at)"
        " VALUES (%s, %s, %s, %s, %s) RETURNING audio_id",
        batch_id, name, status, error, when,
    )  # fmt: skip
    if status == "done":
        key = f"processed/2025-06-22/{audio_id}.opus"
        fleet.query("UPDATE audio_files SET s3_opus_path = %s WHERE audio_id = %s", key, audio_id)
    return int(audio_id)


def warn(fleet: Fleet, audio_id: int, *warnings: FileWarning) -> None:
    """Give a file's row these warnings."""
    fleet.query(
        "UPDATE audio_files SET warnings = %s WHERE audio_id = %s", json.dumps(as_json(warnings)), audio_id
    )


def add_dead_letter(
    redis: Any, queue: str, job: str, error: str = "broken", time: str = "2025-06-22T14:30:52Z"
) -> str:
    """A dead letter as the worker that failed a job permanently writes it."""
    dead_letter = json.dumps({"job": job, "error": error, "attempts": 3, "worker": "w", "time": time})
    redis.rpush(f"{queue}:dead", dead_letter)
    return dead_letter


def put(fleet: Fleet, *keys: str) -> None:
    """Objects in the fleet's bucket."""
    for key in keys:
        s3_client(fleet).put_object(Bucket=fleet.bucket, Key=key, Body=b"x")


def is_idle(redis: Any, queue: str) -> bool:
    """Whether nothing waits, is delayed or is in progress in the queue."""
    workers = redis.zrange(f"{queue}:workers", 0, -1)
    waiting = redis.llen(queue) + redis.zcard(f"{queue}:delayed")
    return not waiting and not any(redis.llen(f"{queue}:working:{worker}") for worker in workers)


def faulty_worker(fleet: Fleet, role: str, fault: str, **changes: str) -> Child:
    """Start a worker with a fault of kill_at.py: `pipeline.jobs.batches:Batches.push before 2 KILL`."""
    kill_at = str(PROJECT / "tests" / "support" / "kill_at.py")
    return fleet.run([kill_at, *fault.split(), str(PROJECT / f"{role}_worker.py")], role, **changes)


def kill_worker(fleet: Fleet, role: str, point: str) -> None:
    """Run a worker that dies of SIGKILL at a point: `pipeline.jobs.batches:Batches.push before 2`."""
    victim = faulty_worker(fleet, role, f"{point} KILL")
    assert exit_status(victim) == -9, log_of(victim)
    fleet.workers.remove(victim)


def wait_for(done: Callable[[], object], fleet: Fleet, what: str, seconds: float = 60) -> None:
    """Wait for the condition; a worker that has ended by itself fails the test with its log."""

    def check() -> bool:
        for worker in fleet.workers:
            worker.require_running()
        return bool(done())

    wait_until(check, what, seconds)


def log_of(worker: Child) -> str:
    """What the worker has logged so far."""
    return worker.log.read_text(errors="replace")


def wait_for_log(worker: Child, text: str, seconds: float = 30) -> None:
    """Wait until the worker has logged the text."""
    wait_until(lambda: text in log_of(worker), f"{text!r} in {worker.log}", seconds)


def exit_status(worker: Child, seconds: float = 60) -> int:
    """How the worker ended; waits for it."""
    assert worker.process is not None
    return worker.process.wait(seconds)


def refusal(worker: Child) -> str:
    """The one line of a worker that has ended because of its settings; where one of them alone tells that it is
    wrong, `example.env` is named behind it."""
    assert exit_status(worker) == 2, log_of(worker)
    script = f"{Path(worker.command[-1]).name}: "
    lines = [line.removeprefix(script) for line in log_of(worker).splitlines() if line.startswith(script)]
    assert len(lines) == 1 or "example.env" in lines[1], log_of(worker)
    assert len(lines) <= 2, log_of(worker)
    assert "Traceback" not in log_of(worker)
    return lines[0]


def dead(redis: Any, queue: str) -> list[dict[str, Any]]:
    """The queue's dead letters."""
    return [json.loads(dead_letter) for dead_letter in redis.lrange(f"{queue}:dead", 0, -1)]


def rows(fleet: Fleet) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Every row: (batch id, filename) -> status, error, text, S3 key. Two rows of one file fail here."""
    found = fleet.query(
        "SELECT batch_id, original_filename, status, error, text, s3_opus_path"
        " FROM audio_files LEFT JOIN transcripts USING (audio_id)"
    )
    assert len({row[:2] for row in found}) == len(found)
    return {row[:2]: row[2:] for row in found}


def now() -> float:
    """Seconds on the monotonic clock."""
    return time.monotonic()
