"""The fleet repairs itself: one worker at a time, only what destroys nothing; what is left is reported once."""

import json
import logging
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.jobs.batches import AMISS, STRANDED, Batches
from pipeline.jobs.job_queue import heartbeat_key
from pipeline.jobs.stop_flag import StopFlag
from pipeline.jobs.worker import Limits
from pipeline.operations.reconcile import Finding
from pipeline.operations.self_repair import TURN, SelfRepair
from pipeline.store.database import Database
from tests.operations.test_reconcile import ARCHIVE, finished, open_batch, queued, reconciler
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_file, object_keys, put, rows, wait_for

pytestmark = pytest.mark.usefixtures("_s3")


@pytest.fixture
def repair_of(redis: Any, database: Database) -> Callable[..., SelfRepair]:
    """What a worker of this name does that Redis has heard for so many seconds."""

    def made(worker: str, steady: float = 100.0) -> SelfRepair:
        redis.set(heartbeat_key(worker), "{}")
        process: Any = SimpleNamespace(
            id=worker, redis=redis, stop=StopFlag(), limits=Limits(), steady_seconds=lambda: steady
        )
        return SelfRepair(process, reconciler(redis, database), 60)

    return made


def test_a_stranded_batch_is_queued_again(fleet: Fleet, redis: Any, repair_of: Callable[..., SelfRepair]) -> None:
    put(fleet, ARCHIVE)
    open_batch(redis, 2, pushed=1)
    repair_of("w1").look()
    assert redis.get(f"batch:{BATCH}:host") == ""
    assert [job[0] for job in queued(redis)] == [BATCH]
    assert json.loads(redis.get(AMISS)) == json.loads(redis.get(STRANDED)) == []


def test_one_worker_has_the_turn_and_the_next_one_comes_later(
    fleet: Fleet, redis: Any, repair_of: Callable[..., SelfRepair]
) -> None:
    put(fleet, ARCHIVE)
    redis.set(TURN, "other")
    redis.set(heartbeat_key("other"), "{}")
    repair_of("w1").look()
    assert queued(redis) == []  # another has it
    redis.delete(heartbeat_key("other"))
    repair_of("w1").look()
    assert len(queued(redis)) == 1  # that one is dead
    assert redis.get(TURN) == ""
    assert redis.ttl(TURN) > 50  # more where the comparison took longer than three seconds
    redis.delete("queue:unpack")
    repair_of("w2").look()
    assert queued(redis) == []  # until the next turn
    redis.delete(TURN)
    repair_of("w2").look()
    assert len(queued(redis)) == 1


def test_a_turn_that_an_earlier_run_has_left_is_ours(
    fleet: Fleet, redis: Any, repair_of: Callable[..., SelfRepair]
) -> None:
    put(fleet, ARCHIVE)
    redis.set(TURN, "w1")
    repair_of("w1").look()
    assert len(queued(redis)) == 1


def test_nothing_is_judged_before_all_can_have_been_heard(
    fleet: Fleet, redis: Any, repair_of: Callable[..., SelfRepair]
) -> None:
    put(fleet, ARCHIVE)
    repair_of("w1", steady=29).look()
    assert queued(redis) == []
    assert not redis.exists(TURN)


def test_a_long_comparison_is_followed_by_a_long_rest(
    redis: Any, repair_of: Callable[..., SelfRepair], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter((0.0, 30.0))
    monkeypatch.setattr("pipeline.operations.self_repair.time", SimpleNamespace(monotonic=lambda: next(times)))
    repair_of("w1").look()
    assert 590 < redis.ttl(TURN) <= 600


def test_no_file_fails_and_nothing_in_s3_is_deleted(
    fleet: Fleet, redis: Any, repair_of: Callable[..., SelfRepair]
) -> None:
    put(fleet, ARCHIVE, "processed/2025-06-22/77.opus")  # an orphan
    add_batch(fleet, files=1)
    add_file(fleet, "a.mp3", "done")  # whose Opus is gone
    keys = object_keys(fleet)
    repair_of("w1").look()
    assert (object_keys(fleet), queued(redis)) == (keys, [])
    assert [row[0] for row in rows(fleet).values()] == ["done"]


def test_a_repair_that_destroys_something_is_left_to_a_person(
    redis: Any, repair_of: Callable[..., SelfRepair], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the findings about batches is such a one yet."""
    done: list[str] = []
    found = [
        Finding(kind, BATCH, "it is so", "change it", partial(done.append, kind), destroys=kind == "orphan")
        for kind in ("orphan", "stranded")
    ]
    repair = repair_of("w1")
    monkeypatch.setattr(repair.reconciler, "batch_findings", lambda: iter(found))
    repair.look()
    assert done == ["stranded"]
    assert [row["kind"] for row in json.loads(redis.get(AMISS))] == ["orphan"]


def test_what_a_person_has_to_decide_is_reported_once_and_kept_for_the_status(
    fleet: Fleet, redis: Any, repair_of: Callable[..., SelfRepair], caplog: pytest.LogCaptureFixture
) -> None:
    add_batch(fleet, files=1, finished=False)
    add_file(fleet, "a.mp3", "processing")
    repair = repair_of("w1")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            redis.delete(TURN)
            repair.look()
    assert [message.partition(":")[0] for message in caplog.messages] == [
        f"reconcile cannot repair {BATCH}, archive gone"
    ]
    assert [(row["kind"], row["subject"]) for row in json.loads(redis.get(AMISS))] == [("archive gone", BATCH)]


def test_the_batches_that_are_left_are_kept_while_that_is_fresh(
    redis: Any, repair_of: Callable[..., SelfRepair]
) -> None:
    open_batch(redis, 2, pushed=1)  # its archive is gone
    repair_of("w1").look()
    assert json.loads(redis.get(STRANDED)) == [BATCH]
    assert 120 < redis.ttl(STRANDED) <= 180


def test_an_outage_ends_the_turn_and_nothing_else(
    redis: Any, repair_of: Callable[..., SelfRepair], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> dict[str, str]:
        raise ConnectionRefusedError

    repair = repair_of("w1")
    monkeypatch.setattr(repair.reconciler, "archives", away)
    with pytest.raises(ConnectionRefusedError):
        repair.look()
    assert redis.get(TURN) == ""


def test_the_unpack_workers_do_it_by_themselves(fleet: Fleet, redis: Any) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=0)
    open_batch(redis, 1)
    redis.zadd("hosts:seen", {"here": redis.time()[0]})
    began = time.monotonic()
    fleet.worker("unpack", HOST_NAME="there", RECONCILE_SECONDS="1", HEARTBEAT_SECONDS="2")
    wait_for(lambda: Batches(redis, "here").finishing() == [BATCH], fleet, "the end of a batch that was left open")
    assert finished(fleet)
    assert time.monotonic() - began < 30
