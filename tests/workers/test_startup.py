"""What each worker checks when it starts: one line says what is wrong, and whether it ends (status 2) or waits."""

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.jobs.heartbeat import _ahead
from pipeline.store.database import Database
from tests.support.child import Child
from tests.support.fleet import PROJECT, Fleet
from tests.support.servers import HUSH, GuardedS3
from tests.support.steps import dead, log_of, refusal, wait_for, wait_for_log
from tests.workers.test_config import READY, complaints, run

WORKERS = ("transfer", "unpack", "gpu")
READERS = ("unpack", "gpu")  # of PostgreSQL, and with a scratch


def started(fleet: Fleet, *roles: str, **changes: str) -> dict[str, Child]:
    """One worker of each role, all at once."""
    return {role: fleet.worker(role, **changes) for role in roles}


def refusals(fleet: Fleet, *roles: str, **changes: str) -> set[str]:
    """What the workers have to say; each has ended with status 2."""
    return {refusal(worker) for worker in started(fleet, *roles, **changes).values()}


# --- services ----------------------------------------------------------------------------------------------


def test_each_worker_warns_of_a_redis_that_can_lose_jobs(fleet: Fleet, redis: Any) -> None:
    redis.config_set("appendonly", "no")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        workers = started(fleet, *WORKERS)
        for worker in workers.values():
            wait_for_log(worker, " ready, ")
    finally:
        redis.config_set("appendonly", "yes")
        redis.config_set("maxmemory-policy", "noeviction")
    for worker in workers.values():
        assert " WARNING Redis runs without appendonly: a restart of it loses the queues\n" in log_of(worker)
        evicts = " WARNING Redis may evict jobs: maxmemory-policy is allkeys-lru, set it to noeviction\n"
        assert evicts in log_of(worker)


def test_each_worker_is_silent_about_a_redis_that_loses_nothing(fleet: Fleet) -> None:
    for worker in started(fleet, *WORKERS).values():
        wait_for_log(worker, " ready, ")
        assert "WARNING" not in log_of(worker).replace("transcribing on the CPU", "")


def test_each_worker_names_s3_credentials_that_are_refused(fleet: Fleet, guarded_s3: GuardedS3) -> None:
    said = refusals(
        fleet, *WORKERS,
        S3_ENDPOINT=guarded_s3.endpoint, S3_BUCKET=guarded_s3.bucket, S3_ACCESS_KEY=guarded_s3.access_key,
        S3_SECRET_KEY=f"{HUSH}wrong",
    )  # fmt: skip
    assert said == {
        f"S3_BUCKET 'recordings' at {guarded_s3.endpoint}: the credentials are refused (SignatureDoesNotMatch)"
    }


def test_each_worker_names_a_bucket_that_is_missing(fleet: Fleet) -> None:
    said = refusals(fleet, *WORKERS, S3_BUCKET="nowhere")
    assert said == {f"S3_BUCKET 'nowhere' at {fleet.s3.endpoint}: there is no such bucket"}


@pytest.mark.parametrize(
    "change", [{"S3_BUCKET": "nowhere"}, {"DATABASE_URL": "/nobodys"}, {"REDIS_URL": "/99"}], ids=str
)
def test_a_gpu_worker_says_what_is_wrong_before_it_loads_its_models(fleet: Fleet, change: dict[str, str]) -> None:
    whole = {
        "DATABASE_URL": fleet.postgres.worker_url.replace("/pipeline", "/nobodys"),
        "REDIS_URL": fleet.valkey.url.replace("/0", "/99"),
    }
    worker = fleet.worker("gpu", **{name: whole.get(name, value) for name, value in change.items()})
    assert refusal(worker)
    assert "windows at a time" not in log_of(worker)


def lacking(_database: Database, _fleet: Fleet, _name: str) -> str:
    """A database without tables."""
    return "the schema lacks 001_audio_files.sql, "


def newer(database: Database, fleet: Fleet, name: str) -> str:
    """A database that a later release has changed."""
    database.migrate()
    fleet.postgres.grant(name)
    fleet.postgres.execute("INSERT INTO schema_migrations (name) VALUES ('999_later.sql')", name)
    return "the schema has 999_later.sql, which this release does not know: deploy a newer one"


@pytest.mark.parametrize("wrong", [lacking, newer])
def test_each_worker_names_a_schema_that_is_not_its_own(
    fleet: Fleet, wrong: Callable[[Database, Fleet, str], str]
) -> None:
    name = f"schema{uuid.uuid4().hex[:12]}"
    database = Database(fleet.postgres.new_database(name))
    begins = wrong(database, fleet, name)
    database.close()
    (said,) = refusals(fleet, *READERS, DATABASE_URL=fleet.postgres.worker_url.replace("/pipeline", f"/{name}"))
    assert said.startswith(begins)


# --- the host ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", READERS)
def test_scratch_that_is_not_on_a_volume_of_its_own_is_refused(tmp_path: Path, role: str) -> None:
    settings = {**READY, "REQUIRE_SCRATCH_MOUNT": "1", "SCRATCH_ROOT": "/no-such-volume/scratch"}
    (line,) = (line for line in complaints(run(role, tmp_path, **settings)) if "mount point" in line)
    assert line == (
        "SCRATCH_ROOT is '/no-such-volume/scratch', on the file system of /: none of its parent folders is a mount"
        " point, and REQUIRE_SCRATCH_MOUNT asks for one"
    )


@pytest.mark.parametrize("role", READERS)
def test_scratch_below_a_mount_point_is_accepted(tmp_path: Path, role: str) -> None:
    root = f"/dev/shm/{uuid.uuid4()}/scratch"  # on a volume of its own on every Linux
    settings = {**READY, "REQUIRE_SCRATCH_MOUNT": "1", "SCRATCH_ROOT": root, "S3_BUCKET": ""}
    assert complaints(run(role, tmp_path, **settings)) == ["S3_BUCKET is not set"]


def test_a_clock_that_is_wrong_has_each_worker_wait_until_it_is_right(fleet: Fleet, redis: Any) -> None:
    clock = fleet.folder / "clock"
    tell(clock, 120)
    skewed = [str(PROJECT / "tests" / "support" / "skewed.py"), str(clock)]
    workers = {role: fleet.run([*skewed, str(PROJECT / f"{role}_worker.py")], role) for role in WORKERS}
    for worker in workers.values():
        wait_for_log(worker, "the clock is unavailable, next try in")
        assert ": this host is 120 s ahead of Redis, 60 s are allowed (CLOCK_SKEW_SECONDS)\n" in log_of(worker)
    waiting = {"waiting for the clock"}
    wait_for(lambda: {state["doing"] for state in status(fleet)} == waiting, fleet, "what the status says")
    assert not any(" ready, " in log_of(worker) for worker in workers.values())
    tell(clock, 0)
    for worker in workers.values():
        wait_for_log(worker, " ready, ")
    tell(clock, -120)
    for worker in workers.values():
        wait_for_log(worker, "120 s behind Redis")
    redis.rpush("queue:transfer", "junk")
    wait_for_log(workers["transfer"], "next try in 2 s: this host is 120 s behind Redis")
    assert redis.llen("queue:transfer") == 1
    tell(clock, 50)
    wait_for(lambda: dead(redis, "queue:transfer"), fleet, "the work after the clock was repaired")


def tell(clock: Path, seconds: int) -> None:
    """How wrong the clock is from now on; nobody sees half of it."""
    new = clock.with_suffix(".new")
    new.write_text(str(seconds))
    new.rename(clock)


def status(fleet: Fleet) -> list[dict[str, Any]]:
    """The workers, as pipelinectl shows them."""
    return list(json.loads(fleet.control("status", "--json").stdout)["workers"])


@pytest.mark.parametrize(
    ("asked", "theirs", "answered", "ahead"),
    [
        (100, 100.5, 101, 0),  # within the time that the answer took
        (100, 100, 109, 0),  # however long it took
        (100, 40, 101, 60),
        (100, 200, 101, -99),
    ],
)
def test_a_slow_answer_is_no_skew(asked: float, theirs: float, answered: float, ahead: float) -> None:
    assert _ahead(asked, theirs, answered) == ahead


# --- what others forget ------------------------------------------------------------------------------------


def test_a_host_stays_known_for_its_queue_after_redis_was_wiped(fleet: Fleet, redis: Any) -> None:
    for role in READERS:
        worker = fleet.worker(role, HOST_NAME=f"host-of-{role}", TRANSCRIBE_QUEUE=f"queue:transcribe:{role}")
        wait_for_log(worker, " ready, ")
    redis.flushall()
    known = {f"queue:transcribe:{role}": f"host-of-{role}" for role in READERS}
    wait_for(lambda: redis.hgetall("hosts:queues") == known, fleet, "the hosts' queues")


def test_what_a_worker_writes_is_nobody_elses_to_read(fleet: Fleet) -> None:
    fleet.nursery = None  # it has a umask of its own
    before = os.umask(0)
    try:
        started(fleet, "unpack", "transfer")
    finally:
        os.umask(before)
    for folder in (fleet.folder / "scratch", fleet.folder / "transfer" / "test-transfer"):
        wait_for(folder.exists, fleet, str(folder))
        assert folder.stat().st_mode & 0o077 == 0
