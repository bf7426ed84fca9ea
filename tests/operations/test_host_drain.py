"""Emptying a host: what its workers claim then, what it has left, and what others get."""

import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.jobs import worker as worker_module
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job, JobQueue, heartbeat_key
from pipeline.jobs.worker import Limits, Worker
from pipeline.operations import host_drain
from tests.support.child import wait_until
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, unpack_job

QUEUE = "queue:unpack"
HOST = "here"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def worker(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(worker_module, "CLAIM_SECONDS", 0.2)
    return Worker(fleet.valkey.url, QUEUE, "unpack", "w", HOST, Limits(attempts=3, retry=1000, heartbeat=4))


def jobs_until(worker: Worker, stop: Any) -> list[str]:
    """The jobs that the worker works on until `stop`, which is asked each time it keeps house, is true."""
    worked_on = []

    def look() -> None:
        worker._next_maintenance = 0  # at every turn
        if stop():
            worker.stop.set()

    worker.maintenance = look
    with worker.running():
        for job in worker.jobs():
            worked_on.append(job.payload)
            worker.queue.settle(job)
    return worked_on


def turns(number: int) -> Any:
    """True when it has been asked more often."""
    left = iter(range(number))
    return lambda: next(left, None) is None


def open_batch(redis: Any, batch_id: str, host: str = HOST, total: int = 3) -> Batches:
    batches = Batches(redis, host)
    batches.adopt(batch_id, "s3", Job(unpack_job(batch_id), 1, "t"))
    batches.open(batch_id, total)
    return batches


# --- what a worker claims ----------------------------------------------------------------------------------


def test_a_worker_of_a_draining_host_claims_nothing_and_says_why(redis: Any, worker: Worker) -> None:
    host_drain.begin(redis, HOST)
    redis.rpush(QUEUE, "a")
    assert jobs_until(worker, turns(2)) == []
    assert redis.lrange(QUEUE, 0, -1) == ["a"]
    assert worker.heartbeat._doing == "draining: takes no new work"


def test_another_hosts_worker_claims(redis: Any, worker: Worker) -> None:
    host_drain.begin(redis, "other")
    redis.rpush(QUEUE, "a")
    assert jobs_until(worker, lambda: not redis.llen(QUEUE)) == ["a"]


def test_it_claims_again_when_the_draining_is_undone(redis: Any, worker: Worker) -> None:
    host_drain.begin(redis, HOST)
    redis.rpush(QUEUE, "a")
    asked = turns(1)

    def stop() -> bool:
        if asked():
            host_drain.undo(redis, HOST)
        return not redis.llen(QUEUE)

    assert jobs_until(worker, stop) == ["a"]


def test_a_worker_that_brings_no_work_goes_on(redis: Any, worker: Worker) -> None:
    host_drain.begin(redis, HOST)
    worker.brings_work = False
    redis.rpush(QUEUE, "a", "b")
    assert jobs_until(worker, lambda: not redis.llen(QUEUE)) == ["a", "b"]


def test_a_job_kept_for_the_next_run_goes_back_uncounted(redis: Any, worker: Worker) -> None:
    host_drain.begin(redis, HOST)
    redis.rpush(QUEUE, "second")
    redis.rpush(f"{QUEUE}:working:w", "kept")
    assert jobs_until(worker, lambda: redis.llen(QUEUE) == 2) == []
    assert redis.lrange(QUEUE, 0, -1) == ["kept", "second"]  # the first to be claimed elsewhere
    assert not redis.exists(f"{QUEUE}:working:w", f"{QUEUE}:attempts")


def test_a_kept_job_that_has_used_up_its_attempts_is_not_failed_permanently_by_a_draining_host(
    redis: Any, worker: Worker
) -> None:
    host_drain.begin(redis, HOST)
    redis.rpush(f"{QUEUE}:working:w", "kept")
    redis.hset(f"{QUEUE}:attempts", "kept", "3:x")
    assert jobs_until(worker, lambda: redis.llen(QUEUE)) == []
    assert redis.hget(f"{QUEUE}:attempts", "kept") == "3:x"
    assert not redis.exists(f"{QUEUE}:dead")


def test_a_job_that_comes_while_the_worker_waits_for_one_goes_back(
    redis: Any, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asked whether its host drains before it began to wait."""
    monkeypatch.setattr(worker_module, "CLAIM_SECONDS", 5)

    def drain_and_queue() -> None:
        wait_until(lambda: redis.info("clients")["blocked_clients"] == 1, "the worker waits")
        host_drain.begin(redis, HOST)
        redis.rpush(QUEUE, "late")

    thread = threading.Thread(target=drain_and_queue)
    seen = turns(1)

    def stop() -> bool:
        if not thread.ident:
            thread.start()
        return bool(redis.hexists("hosts:draining", HOST)) and seen()

    assert jobs_until(worker, stop) == []
    thread.join()
    assert redis.lrange(QUEUE, 0, -1) == ["late"]
    assert not redis.exists(f"{QUEUE}:working:w", f"{QUEUE}:attempts")


# --- what a host has left ----------------------------------------------------------------------------------


def test_since_when_a_host_drains_is_kept(redis: Any) -> None:
    redis.hset("hosts:draining", HOST, 7)
    host_drain.begin(redis, HOST)
    assert redis.hgetall("hosts:draining") == {HOST: "7"}
    assert host_drain.undo(redis, HOST)
    assert not host_drain.undo(redis, HOST)
    host_drain.begin(redis, HOST)
    assert abs(int(redis.hget("hosts:draining", HOST)) - int(redis.time()[0])) < 60


def test_a_host_without_work_has_none(redis: Any) -> None:
    left = host_drain.work_of(redis, HOST, QUEUE)
    assert (left.batches, left.files, left.archives, left.is_some()) == ([], 0, 0, False)


def test_the_work_of_a_host_is_its_batches_and_its_live_workers_archives(redis: Any) -> None:
    mine = open_batch(redis, "a")
    open_batch(redis, "b")
    open_batch(redis, "c", "other")
    mine.settle("a", "x", "processed")
    mine.settle("a", "y", "failed")
    mine.open("d", 0) if mine.adopt("d", "s3", Job("{}", 1, "t")) else None  # finishing
    for worker_id, host, lives in (("w1", HOST, True), ("w2", HOST, False), ("w3", "other", True)):
        for queue in (QUEUE, "queue:transfer"):
            JobQueue(redis, queue, worker_id).register()
            redis.rpush(f"{queue}:working:{worker_id}", "job")
        if lives:
            redis.set(heartbeat_key(worker_id), json.dumps({"host": host}))
    left = host_drain.work_of(redis, HOST, QUEUE, "queue:transfer")
    assert sorted(left.batches) == ["a", "b", "d"]
    assert (left.files, left.archives, left.is_some()) == (4, 2, True)
    assert str(left) == "3 batches with 4 files to do, 2 archives in progress"


@pytest.mark.parametrize("what", ["open", "finishing", "in progress"])
def test_any_of_it_is_work(redis: Any, what: str) -> None:
    if what == "in progress":
        JobQueue(redis, QUEUE, "w").register()
        redis.rpush(f"{QUEUE}:working:w", "job")
        redis.set(heartbeat_key("w"), json.dumps({"host": HOST}))
    else:
        open_batch(redis, "a", total=1 if what == "open" else 0)
    assert host_drain.work_of(redis, HOST, QUEUE).is_some()


# --- what others get ---------------------------------------------------------------------------------------


def test_open_batches_are_queued_for_others_which_begin_anew(redis: Any) -> None:
    mine = open_batch(redis, BATCH)
    mine.settle(BATCH, "x", "processed")
    open_batch(redis, "c", "other")
    mine.open("d", 0) if mine.adopt("d", "s3", Job("{}", 1, "t")) else None  # finishing: this host has to
    assert host_drain.hand_back(redis, HOST, QUEUE) == [BATCH]
    assert redis.lrange(QUEUE, 0, -1) == [unpack_job()]
    assert not mine.is_ours(BATCH)
    assert Batches(redis, "other").is_ours("c")
    assert mine.finishing() == ["d"]
    assert mine.settle(BATCH, "y", "processed") == "foreign"
    assert host_drain.hand_back(redis, HOST, QUEUE) == []
    open_batch(redis, BATCH, "other")
    assert redis.mget(f"batch:{BATCH}:total", f"batch:{BATCH}:processed") == ["3", "0"]


def test_a_batch_that_another_host_took_meanwhile_is_not_handed_back(redis: Any) -> None:
    mine = open_batch(redis, BATCH)
    redis.set(f"batch:{BATCH}:host", "other")
    assert not mine.hand_back(QUEUE, BATCH, unpack_job(), HOST, "*", "*", "*")
    assert redis.get(f"batch:{BATCH}:host") == "other"
    assert redis.llen(QUEUE) == 0


def test_a_batch_that_ended_meanwhile_is_not_handed_back(redis: Any) -> None:
    mine = open_batch(redis, BATCH)
    redis.zrem("batches:open", BATCH)
    assert not mine.hand_back(QUEUE, BATCH, unpack_job(), HOST, "*", "*", "*")
    assert redis.llen(QUEUE) == 0


def test_a_host_without_batches_hands_nothing_back(redis: Any) -> None:
    assert host_drain.hand_back(redis, HOST, QUEUE) == []
