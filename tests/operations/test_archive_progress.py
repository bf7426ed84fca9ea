"""How far an archive is, from the queue of transfers to its last file."""

import json
from typing import Any

import pytest

from pipeline.jobs.batch_ids import batch_id_of, source_of
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from pipeline.operations.archive_progress import LOOKS_UNTIL_LOST, Followed, Progress, Tracker, find_unpacked
from pipeline.operations.failures import read_dead_letters
from pipeline.store.database import Database
from pipeline.transfer.discovery import Watch
from pipeline.transfer.ssh import FileState
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_dead_letter, add_file, unpack_job

PATH = "/recordings/monday.tar"
JOB = json.dumps({"remote_path": PATH})
QUEUES = ("queue:transfer", "queue:unpack")
BY_PATH, BY_ID = Followed(PATH), Followed(batch_id=BATCH)


def tracker(redis: Any, database: Database, **fields: Any) -> Tracker:
    return Tracker(redis, database, *QUEUES, lambda path, state: batch_id_of(source_of(path, state), 0), **fields)


@pytest.fixture
def follow(redis: Any, database: Database) -> Tracker:
    return tracker(redis, database)


def look(follow: Tracker, archive: Followed) -> Progress:
    (progress,) = follow.look([archive])
    return progress


def test_an_archive_by_its_path_until_its_batch_is_known(fleet: Fleet, redis: Any, follow: Tracker) -> None:
    watch = Watch(redis, "queue:transfer")
    watch.enqueue(PATH)
    assert look(follow, BY_PATH) == Progress("waiting for its transfer")
    redis.hset("queue:transfer:batch_ids", JOB, BATCH)
    assert look(follow, BY_PATH) == Progress("in transfer", BATCH)
    state = FileState(7, 0)
    watch.mark(PATH, state)  # as its transfer does, and settles the job then
    assert look(follow, BY_PATH).what == "in transfer"
    redis.hdel("queue:transfer:batch_ids", JOB)
    brought = batch_id_of(source_of(PATH, state), 0)
    assert look(follow, BY_PATH) == Progress("waiting to be unpacked", brought)
    add_batch(fleet, brought, files=0)
    assert look(follow, BY_PATH) == Progress("finished: 0 files done, 0 failed", brought, is_over=True)


def test_a_path_that_cannot_be_brought_has_failed(redis: Any, database: Database, follow: Tracker) -> None:
    """Its dead letter counts, whatever else was noted before; one of an earlier try does not."""
    Watch(redis, "queue:transfer").enqueue(PATH)
    add_dead_letter(redis, "queue:transfer", JOB, "no such file")
    (dead_letter,) = (found.id for found in read_dead_letters(redis, ["queue:transfer"]))
    progress = look(follow, BY_PATH)
    assert (progress.is_over, progress.has_failed) == (True, True)
    assert progress.what == f"failed permanently: no such file (dead letter {dead_letter})"
    Watch(redis, "queue:transfer").mark(PATH, FileState(7, 0))
    assert look(follow, BY_PATH).has_failed
    Watch(redis, "queue:transfer").enqueue(PATH)
    again = tracker(redis, database, ignored=frozenset([dead_letter]))
    assert look(again, BY_PATH) == Progress("waiting for its transfer")


def test_a_path_that_redis_has_forgotten_is_not_waited_for_for_ever(redis: Any, follow: Tracker) -> None:
    for _ in range(LOOKS_UNTIL_LOST - 1):
        assert look(follow, BY_PATH) == Progress("not known to Redis")  # a dead letter may be about to come
    assert look(follow, BY_PATH).has_failed
    Watch(redis, "queue:transfer").enqueue(PATH)
    assert not look(follow, BY_PATH).is_over
    redis.delete("queue:transfer:seen")
    assert not look(follow, BY_PATH).is_over


def test_a_batch_from_its_archive_to_its_last_file(fleet: Fleet, redis: Any, follow: Tracker) -> None:
    batches = Batches(redis, "gpu-04")
    assert look(follow, BY_ID) == Progress("waiting to be unpacked", BATCH)
    batches.adopt(BATCH, "archives/a.tar", Job(unpack_job(), 1, "t"))
    assert look(follow, BY_ID) == Progress("being unpacked on gpu-04", BATCH)
    add_batch(fleet, files=3, finished=False)
    batches.open(BATCH, 3)
    batches.settle(BATCH, "a", "processed")
    batches.settle(BATCH, "b", "failed")
    assert look(follow, BY_ID) == Progress("2 of 3 files settled on gpu-04, 1 failed", BATCH, 3, 2)
    batches.settle(BATCH, "c", "processed")
    assert look(follow, BY_ID) == Progress("finishing", BATCH)
    for name, status in (("a", "done"), ("b", "failed"), ("c", "done")):
        add_file(fleet, name, status)
    fleet.query("UPDATE batches SET finished_at = now()")
    what = "finished: 2 files done, 1 failed"
    assert look(follow, BY_ID) == Progress(what, BATCH, 3, 3, is_over=True, has_failed=True)


def test_an_archive_that_cannot_be_unpacked_has_failed(redis: Any, follow: Tracker) -> None:
    add_dead_letter(redis, "queue:unpack", unpack_job("other"), "it is cut")
    assert not look(follow, BY_ID).is_over
    add_dead_letter(redis, "queue:unpack", unpack_job(), "it is cut")
    assert look(follow, BY_ID).has_failed
    Batches(redis, "gpu-04").adopt(BATCH, "archives/a.tar", Job(unpack_job(), 1, "t"))  # it was queued again
    assert not look(follow, BY_ID).is_over


def test_archives_on_their_way_are_found_by_what_they_are_called(redis: Any) -> None:
    def found(given: str) -> list[Followed]:
        return find_unpacked(redis, *QUEUES, given)

    Watch(redis, "queue:transfer").enqueue("/in/waiting.tar")
    redis.hset("queue:transfer:batch_ids", json.dumps({"remote_path": "/in/copied.tar"}), BATCH)
    redis.rpush("queue:unpack", unpack_job(archive="/in/brought.tar"), "no job", unpack_job(archive=7))
    add_dead_letter(redis, "queue:unpack", unpack_job("dead", archive="/in/damaged.tar"), "it is cut")
    for name in ("waiting.tar", "/in/waiting.tar"):
        assert found(name) == [Followed("/in/waiting.tar")]
    assert found("copied.tar") == [Followed("/in/copied.tar")]
    assert found("brought.tar") == found(BATCH) == [Followed("/in/brought.tar", BATCH)]
    assert found("damaged.tar") == found("dead") == [Followed("/in/damaged.tar", "dead")]
    assert found("other.tar") == found("in") == found("/in/other.tar") == []
    Watch(redis, "queue:transfer").mark("/in/other.tar", FileState(7, 0))
    assert found("/in/other.tar") == [Followed("/in/other.tar")]
