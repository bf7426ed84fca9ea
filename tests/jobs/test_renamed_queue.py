"""TRANSCRIBE_QUEUE is renamed while batches are open: the jobs in the old queue are taken along."""

import json
from typing import Any

import pytest

from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import JobQueue, heartbeat_key
from tests.support.fleet import Fleet
from tests.support.recordings import SPEECH, make_tar
from tests.support.steps import wait_for, wait_for_log

OLD, NEW = "queue:transcribe", "queue:transcribe:new"


def renamed(redis: Any, reads: str = "") -> Batches:
    """A host with jobs in every place of a queue, whose worker is dead, or alive and reading `reads`."""
    here = Batches(redis, "here")
    here.enter_queue(OLD)
    worker = JobQueue(redis, OLD, "here-gpu")
    worker.register()
    for number in range(4):
        worker.add({"n": number})
    for step in (lambda job: worker.retry(job, 600), lambda job: worker.dead_letter(job, "bad"), lambda _: None):
        job = worker.claim(0.1)
        assert job is not None
        step(job)
    if reads:
        redis.set(heartbeat_key("here-gpu"), json.dumps({"queue": reads}))
    return here


@pytest.mark.parametrize("reads", ["", NEW])
def test_jobs_and_dead_letters_are_taken_along(redis: Any, reads: str) -> None:
    here = renamed(redis, reads)
    here.enter_queue(NEW)
    assert here.take_in(NEW) == {OLD: 3}
    assert sorted(json.loads(job)["n"] for job in redis.lrange(NEW, 0, -1)) == [0, 2, 3]
    assert set(redis.scan_iter("queue:*")) == {NEW, f"{NEW}:dead"}
    assert redis.hgetall("hosts:queues") == {NEW: "here"}
    assert here.take_in(NEW) == {}


@pytest.mark.parametrize("said", [json.dumps({"queue": OLD}), "garbage", "[]"])
def test_a_queue_that_a_live_worker_may_read_stays(redis: Any, said: str) -> None:
    here = renamed(redis)
    redis.set(heartbeat_key("here-gpu"), said)
    assert here.take_in(NEW) == {}
    assert redis.llen(OLD) == 1


def test_the_queue_of_another_host_stays(redis: Any) -> None:
    renamed(redis)
    assert Batches(redis, "there").take_in(NEW) == {}
    assert redis.llen(OLD) == 1


def test_a_batch_that_is_open_when_the_queue_is_renamed_is_finished(fleet: Fleet, redis: Any) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH})
    fleet.control("enqueue", str(tar))
    transfer, unpack = fleet.worker("transfer"), fleet.worker("unpack")
    wait_for(lambda: redis.llen(OLD) == 1, fleet, "a file to transcribe")
    transfer.stop()
    unpack.stop()
    for role in ("unpack", "gpu"):
        worker = fleet.worker(role, TRANSCRIBE_QUEUE=NEW)
        if role == "unpack":
            wait_for_log(worker, f"1 jobs of {OLD} are in {NEW} now")
    wait_for(lambda: fleet.query("SELECT count(finished_at) FROM batches") == [(1,)], fleet, "the batch", 60)
