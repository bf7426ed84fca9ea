"""pipeline/jobs/batch_ids.py: one id for each transfer job, never one for two."""

import datetime
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim
from pipeline.jobs.batch_ids import RESERVED_SECONDS, BatchIds
from pipeline.jobs.job_queue import Job, JobQueue, encode
from tests.support.fleet import Fleet

NOON = datetime.datetime(2026, 11, 24, 12, 0, 0, tzinfo=datetime.UTC)


def nothing(_batch_id: str) -> bool:
    """No archive is kept."""
    return False


@pytest.fixture
def queue(queue_of: Callable[[str], JobQueue]) -> JobQueue:
    return queue_of("w1")


@pytest.fixture
def ids(redis: Any, queue: JobQueue) -> BatchIds:
    return BatchIds(redis, queue, nothing)


def claim(queue: JobQueue, path: str) -> Job:
    """Queue a path and claim its job."""
    queue.add({"remote_path": path})
    job = queue.claim(0.1)
    assert job is not None
    return job


def hold(queue: JobQueue, path: str) -> Job:
    """A job for the path in the worker's own list, as it may be in several at once."""
    job = Job(encode({"remote_path": path}), 1, "t")
    queue.redis.rpush(queue.working, job.payload)
    return job


def test_the_id_is_the_time_in_utc(ids: BatchIds, queue: JobQueue) -> None:
    assert ids.assign(claim(queue, "/a.tar"), NOON) == "20261124-120000"


def test_another_time_zone_gives_the_same_id(ids: BatchIds, queue: JobQueue) -> None:
    tokyo = NOON.astimezone(datetime.timezone(datetime.timedelta(hours=9)))
    assert ids.assign(claim(queue, "/a.tar"), tokyo) == "20261124-120000"


def test_without_a_given_time_it_is_now(ids: BatchIds, queue: JobQueue) -> None:
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    batch_id = ids.assign(claim(queue, "/a.tar"))
    assert re.fullmatch(r"\d{8}-\d{6}", batch_id)
    given = datetime.datetime.strptime(batch_id, "%Y%m%d-%H%M%S").replace(tzinfo=datetime.UTC)
    assert before <= given <= datetime.datetime.now(datetime.UTC)


def test_seconds_carry_over_into_the_next_day(ids: BatchIds, queue: JobQueue) -> None:
    midnight = datetime.datetime(2026, 12, 31, 23, 59, 59, 999_999, tzinfo=datetime.UTC)
    given = [ids.assign(claim(queue, path), midnight) for path in ("/a.tar", "/b.tar")]
    assert given == ["20261231-235959", "20270101-000000"]


@contextmanager
def worker(fleet: Fleet, number: int) -> Iterator[tuple[BatchIds, JobQueue]]:
    """What one transfer worker has: a connection and a working list of its own."""
    client = redis_client.connect(fleet.valkey.url)
    queue = JobQueue(client, "queue:test", f"w{number}")
    yield BatchIds(client, queue, nothing), queue
    client.close()


def test_fifty_jobs_of_one_second_get_fifty_ids(fleet: Fleet) -> None:
    def work(number: int) -> list[str]:
        with worker(fleet, number) as (ids, queue):
            return [ids.assign(hold(queue, f"/{number}/{path}.tar"), NOON) for path in range(10)]

    with ThreadPoolExecutor(5) as pool:
        given = [batch_id for some in pool.map(work, range(5)) for batch_id in some]
    assert len(set(given)) == 50
    assert min(given) == "20261124-120000"
    assert max(given) == "20261124-120049"


def test_one_job_delivered_to_several_workers_gets_one_id(fleet: Fleet) -> None:
    def work(number: int) -> str:
        with worker(fleet, number) as (ids, queue):
            return ids.assign(hold(queue, "/a.tar"), NOON + datetime.timedelta(seconds=number))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(work, range(8)))) == 1


def test_two_deliveries_at_the_same_moment_get_one_id(redis: Any, queue: JobQueue) -> None:
    job, others = claim(queue, "/a.tar"), []

    def meanwhile(_batch_id: str) -> bool:
        """Asked after the first delivery found no id, and before it reserves one."""
        others.append(BatchIds(redis, queue, nothing).assign(job, NOON - datetime.timedelta(hours=1)))
        return False

    assert BatchIds(redis, queue, meanwhile).assign(job, NOON) == others[0] == "20261124-110000"


def test_a_job_keeps_its_id_when_it_is_delivered_again(
    ids: BatchIds, queue: JobQueue, queue_of: Callable[[str], JobQueue]
) -> None:
    job = claim(queue, "/a.tar")
    first = ids.assign(job, NOON)
    for step in ("give_back", "retry", "keep"):
        held_by = ids.queue
        held_by.retry(job, 0) if step == "retry" else getattr(held_by, step)(job)
        ids.queue = queue_of("w1")  # the worker's next run
        delivered = ids.queue.claim(0.1)
        assert delivered is not None
        job = delivered
        assert ids.assign(job, NOON + datetime.timedelta(hours=5)) == first


def test_a_settled_job_fails_its_id_and_nobody_else_gets_it(ids: BatchIds, queue: JobQueue) -> None:
    job = claim(queue, "/a.tar")
    first = ids.assign(job, NOON)
    assert queue.settle(job)
    assert ids.assign(claim(queue, "/a.tar"), NOON) == "20261124-120001" != first
    assert ids.assign(claim(queue, "/b.tar"), NOON) == "20261124-120002"


def test_an_id_stays_reserved_until_its_archive_is_surely_kept(ids: BatchIds, queue: JobQueue, redis: Any) -> None:
    batch_id = ids.assign(claim(queue, "/a.tar"), NOON)
    left = redis.ttl(f"{queue.batch_ids}:{batch_id}")
    assert RESERVED_SECONDS - 60 < left <= RESERVED_SECONDS
    assert RESERVED_SECONDS >= 3600


def test_an_id_whose_archive_is_kept_is_not_given_again(redis: Any, queue: JobQueue) -> None:
    kept = {"20261124-120000", "20261124-120001", "20261124-120003"}
    ids = BatchIds(redis, queue, kept.__contains__)
    assert ids.assign(claim(queue, "/a.tar"), NOON) == "20261124-120002"
    assert ids.assign(claim(queue, "/b.tar"), NOON) == "20261124-120004"


def test_a_job_keeps_its_id_also_when_its_archive_is_kept_already(redis: Any, queue: JobQueue) -> None:
    kept: set[str] = set()
    ids = BatchIds(redis, queue, kept.__contains__)
    job = claim(queue, "/a.tar")
    kept.add(ids.assign(job, NOON))
    assert {ids.assign(job, NOON)} == kept


def test_a_clock_that_is_set_back_gives_no_id_twice(ids: BatchIds, queue: JobQueue) -> None:
    given = []
    for number, seconds in enumerate((0, 1, 2, 0, 1, -1, -1, 0)):
        moment = NOON + datetime.timedelta(seconds=seconds)
        given.append(ids.assign(claim(queue, f"/{number}.tar"), moment))
    assert len(set(given)) == len(given)


def test_the_loss_of_the_reservations_gives_no_kept_id(redis: Any, queue: JobQueue) -> None:
    kept = {BatchIds(redis, queue, nothing).assign(claim(queue, "/a.tar"), NOON)}
    redis.flushall()
    ids = BatchIds(redis, queue, kept.__contains__)
    assert ids.assign(claim(queue, "/b.tar"), NOON) not in kept


def test_a_worker_that_has_lost_the_job_gets_no_second_id_for_it(
    redis: Any, queue: JobQueue, queue_of: Callable[[str], JobQueue]
) -> None:
    late, heir = BatchIds(redis, queue, nothing), BatchIds(redis, queue_of("w2"), nothing)
    queue.register()
    job = claim(queue, "/a.tar")
    heir.queue.recover()  # the first worker is silent
    again = heir.queue.claim(0.1)
    assert again is not None
    first = heir.assign(again, NOON)
    assert late.assign(job, NOON) == first  # the same, as long as the job is in progress
    assert heir.queue.settle(again)
    for give in (lambda: late.assign(job, NOON), lambda: late.keep(job, first)):
        with pytest.raises(LostClaim):
            give()
    assert not redis.exists(queue.batch_ids)
