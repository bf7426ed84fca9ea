"""pipeline/jobs/batch_ids.py: one id for each source, never one for two, whatever Redis remembers."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.foundation.errors import LostClaim
from pipeline.foundation.scratch import OUR_ID
from pipeline.jobs.batch_ids import BatchIds, batch_id_of
from pipeline.jobs.batches import check_id
from pipeline.jobs.job_queue import Job, JobQueue

NOON = 1795521600  # 2026-11-24 12:00:00 UTC
SOURCE = f"/a.tar\n10240 {NOON}"


@pytest.fixture
def queue(queue_of: Callable[[str], JobQueue]) -> JobQueue:
    return queue_of("w1")


@pytest.fixture
def ids(redis: Any, queue: JobQueue) -> BatchIds:
    return BatchIds(redis, queue)


def claim(queue: JobQueue, path: str) -> Job:
    """Queue a path and claim its job."""
    queue.add({"remote_path": path})
    job = queue.claim(0.1)
    assert job is not None
    return job


def test_the_id_is_the_time_in_utc_and_a_digest() -> None:
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    assert batch_id_of(SOURCE, NOON) == f"20261124-120000-{digest[:12]}"


def test_a_source_has_one_id() -> None:
    assert batch_id_of(SOURCE, NOON) == batch_id_of(SOURCE, NOON)


def test_a_burst_of_archives_of_one_second_gets_an_id_each() -> None:
    given_ids = {batch_id_of(f"/{number}.tar\n10240 {NOON}", NOON) for number in range(10_000)}
    assert len(given_ids) == 10_000


@given(st.text(), st.integers())
def test_whatever_the_source_and_its_time_the_id_is_one_of_ours(source: str, changed: int) -> None:
    batch_id = check_id(batch_id_of(source, changed))
    assert re.fullmatch(OUR_ID, batch_id)


@pytest.mark.parametrize(("changed", "day"), [(-1, "19700101-000000"), (10**20, "99991231-235959")])
def test_a_time_that_no_calendar_has_is_the_nearest(changed: int, day: str) -> None:
    assert batch_id_of(SOURCE, changed).startswith(day)


def test_a_name_that_is_no_utf8_has_an_id_of_its_own() -> None:
    assert batch_id_of("/\udcff.tar\n1 2", 2) != batch_id_of("/\udcfe.tar\n1 2", 2)


def test_the_batch_of_a_job_is_noted_until_it_is_settled(ids: BatchIds, queue: JobQueue, redis: Any) -> None:
    job = claim(queue, "/a.tar")
    for batch_id in ("20261124-120000-0", "20261124-120000-1"):  # the file changed while it was copied
        ids.assign(job, batch_id)
        assert redis.hgetall(queue.batch_ids) == {job.payload: batch_id}
    assert queue.settle(job)
    assert not redis.exists(queue.batch_ids)


def test_a_worker_that_has_lost_the_job_notes_nothing(
    redis: Any, queue: JobQueue, queue_of: Callable[[str], JobQueue]
) -> None:
    heir = queue_of("w2")
    queue.register()
    job = claim(queue, "/a.tar")
    heir.recover()  # the first worker is silent
    again = heir.claim(0.1)
    assert again is not None
    assert heir.settle(again)
    with pytest.raises(LostClaim):
        BatchIds(redis, queue).assign(job, "20261124-120000-0")
    assert not redis.exists(queue.batch_ids)
