"""The queues and the workers when another Redis takes the place of theirs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.foundation import redis_client
from pipeline.foundation.errors import unavailable_service
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job, JobQueue
from tests.faults.redis_pair import RedisPair, client
from tests.support import replicas
from tests.support.child import is_open
from tests.support.fleet import Fleet
from tests.support.recordings import SPEECH, make_tar
from tests.support.servers import Valkey
from tests.support.steps import BATCH, log_of, refusal, unpack_job, wait_for

QUEUE = "queue:test"


@pytest.fixture(scope="module")
def servers_of_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisPair]:
    folder = tmp_path_factory.mktemp("pair")
    with Valkey(folder / "one") as one, RedisPair(folder / "two", one) as pair:
        yield pair


@pytest.fixture
def pair(servers_of_redis: RedisPair) -> RedisPair:
    """An empty Redis with a replica, behind the address that the workers know."""
    pair = servers_of_redis
    pair.follow() if is_open(pair.replica.port) else pair.repair()
    with client(pair.primary) as primary:
        primary.flushall()
    return pair


@pytest.fixture
def ours(pair: RedisPair) -> Iterator[Any]:
    with contextlib.closing(redis_client.connect(url(pair))) as connected:
        connected.ping()
        yield connected


def url(pair: RedisPair) -> str:
    return f"redis://127.0.0.1:{pair.address.port}/0"


def queue(connected: Any, worker: str = "w1") -> JobQueue:
    return JobQueue(connected, QUEUE, worker)


def claim(of: JobQueue) -> Job:
    """The next job; its claim is repeated as a worker repeats it while Redis is unavailable."""
    for _ in range(3):
        try:
            job = of.claim(0.1)
        except redis.RedisError as error:
            if unavailable_service(error) is None:
                raise
            continue
        if job is not None:
            return job
    raise AssertionError("no job")


def test_a_job_in_progress_is_settled_on_the_new_primary(pair: RedisPair, ours: Any) -> None:
    worker = queue(ours)
    worker.add({"n": 1})
    job = claim(worker)
    pair.planned()
    with pytest.raises(redis.ReadOnlyError):
        worker.settle(job)
    assert worker.in_progress == [job]
    assert worker.settle(job, "queue:next", {"n": 2})
    assert worker.in_progress == []
    with client(pair.primary) as primary:
        assert primary.lrange("queue:next", 0, -1) == ['{"n": 2}']
        assert primary.keys(f"{QUEUE}:working:*") == []


def test_a_claim_that_waits_when_its_server_becomes_a_replica_finds_the_job_on_the_new_one(
    pair: RedisPair, ours: Any
) -> None:
    worker = queue(ours)
    assert worker.claim(0.1) is None
    pair.planned()
    with contextlib.closing(redis_client.connect(url(pair))) as other:
        queue(other, "w2").add({"n": 1})
    assert (claim(worker).fields, worker.in_progress[0].attempts) == ({"n": 1}, 1)


def test_a_claim_that_the_new_primary_has_never_heard_of_is_lost_and_the_job_done_once(
    pair: RedisPair, ours: Any
) -> None:
    worker = queue(ours)
    worker.add({"n": 1})
    pair.wait_until_same(ours)
    pair.link.holds()
    job = claim(worker)
    pair.unplanned()
    with contextlib.closing(redis_client.connect(url(pair))) as other:
        theirs = queue(other, "w2")
        again = claim(theirs)
        assert not worker.settle(job, "queue:next", {"n": 2})
        assert theirs.settle(again, "queue:next", {"n": 2})
        assert other.lrange("queue:next", 0, -1) == ['{"n": 2}']


def test_an_end_that_the_new_primary_has_never_heard_of_costs_the_job_no_attempt(
    pair: RedisPair, ours: Any
) -> None:
    """Its list there says that it is in progress, and its worker knows better: nobody has died."""
    worker = queue(ours)
    worker.add({"n": 1})
    job = claim(worker)
    pair.wait_until_same(ours)
    pair.link.holds()
    assert worker.settle(job)
    pair.unplanned()
    worker._next_look = 0.0  # as a minute later
    again = claim(worker)
    assert (again.payload, again.attempts) == (job.payload, 1)
    assert worker.settle(again)


def test_a_file_is_queued_and_counted_once_when_the_answers_are_lost_in_a_failover(
    pair: RedisPair, ours: Any
) -> None:
    batches, worker = Batches(ours, "here"), queue(ours)
    batches.adopt(BATCH, "archives/a.tar", Job(unpack_job(), 1, "t"))
    batches.open(BATCH, 2)
    file = {"batch_id": BATCH, "audio_id": None, "opus_path": "/a", "original_filename": "a.mp3"}
    pair.address.drop_replies.append(b"a.mp3")
    with pytest.raises(redis.ConnectionError):
        batches.push(BATCH, QUEUE, file)
    pair.planned()
    batches.push(BATCH, QUEUE, file)
    job = claim(worker)
    pair.address.drop_replies.append(b"processed")
    with pytest.raises(redis.ConnectionError):
        batches.settle_job(worker, job, BATCH, "a.mp3", "processed")
    pair.planned()
    batches.settle_job(worker, job, BATCH, "a.mp3", "processed")
    assert ours.mget(f"batch:{BATCH}:processed", f"batch:{BATCH}:failed") == ["1", "0"]
    assert ours.llen(QUEUE) == ours.llen(worker.working) == 0


def test_a_cluster_ends_workers_and_commands_with_one_line(fleet: Fleet, tmp_path: Path) -> None:
    with replicas.cluster(tmp_path / "cluster") as server:
        fleet.changes = {"REDIS_URL": f"redis://127.0.0.1:{server.port}/0"}
        said = f"REDIS_URL: 127.0.0.1:{server.port} runs in cluster mode: "
        worker = fleet.worker("transfer")
        for command in (["status"], ["enqueue", "/a.tar"], ["exporter"]):
            done = fleet.control(*command)
            assert (done.returncode, done.stdout) == (2, "")
            assert f": {said}" in done.stderr.splitlines()[0]
        assert refusal(worker).startswith(said)


def test_workers_go_on_with_the_new_primary_by_themselves(fleet: Fleet, pair: RedisPair, tmp_path: Path) -> None:
    fleet.changes = {
        "REDIS_URL": pair.primary.worker_url.replace(f":{pair.primary.port}/", f":{pair.address.port}/")
    }
    workers = [fleet.worker(role) for role in ("transfer", "unpack", "gpu")]
    wait_for(lambda: all(" ready, " in log_of(worker) for worker in workers), fleet, "the workers")
    pair.planned()
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH})
    assert fleet.control("enqueue", str(tar)).returncode == 0
    done = "SELECT 1 FROM batches WHERE finished_at IS NOT NULL"
    wait_for(lambda: fleet.query(done), fleet, "the recording, transcribed")
    assert fleet.query("SELECT status FROM audio_files") == [("done",)]
