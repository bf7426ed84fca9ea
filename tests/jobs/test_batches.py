"""The batch: every file counted once, one caller notified of the end, and one host that owns it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim, Permanent
from pipeline.jobs import batches
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job, JobQueue, encode
from pipeline.jobs.lost_hosts import LostHosts
from tests.support.fleet import Fleet

ID = "20250622-143052"
S3_KEY = f"archives/{ID}.tar"
TRANSCRIBE = "queue:transcribe"
UNPACK = "queue:unpack"
UNPACK_JOB = Job(encode({"batch_id": ID, "s3_key": S3_KEY, "file_count": 2}), 1, "token")
LONG = 900  # seconds of silence that make a host lost


def file_job(name: str) -> dict[str, Any]:
    return {"batch_id": ID, "audio_id": None, "opus_path": f"/data/{name}.opus", "original_filename": name}


@pytest.fixture
def ours(redis: Any) -> Batches:
    """The batches as this host sees them."""
    return Batches(redis, "here")


@pytest.fixture
def theirs(redis: Any) -> Batches:
    """The batches as another host sees them."""
    return Batches(redis, "there")


def opened(host: Batches, total: int) -> Batches:
    """The host, with the batch open and its files queued as 0.mp3, 1.mp3, ..."""
    assert host.adopt(ID, S3_KEY, UNPACK_JOB)
    host.open(ID, total)
    for n in range(total):
        host.push(ID, TRANSCRIBE, file_job(f"{n}.mp3"))
    return host


def keys_of_batch(redis: Any) -> list[str]:
    return sorted(redis.keys(f"batch:{ID}:*"))


def counts(redis: Any) -> list[str | None]:
    return list(redis.mget(batches.keys_of(ID, "total", "processed", "failed")))


def heard(redis: Any, host: str, seconds_ago: int) -> None:
    redis.zadd(batches.HOSTS, {host: int(redis.time()[0]) - seconds_ago})


# --- the published keys ---------------------------------------------------------------------------------


def test_it_publishes_total_processed_and_s3_key(redis: Any, ours: Batches) -> None:
    opened(ours, 847)
    assert redis.get("batch:20250622-143052:total") == "847"
    assert redis.get("batch:20250622-143052:processed") == "0"
    assert redis.get("batch:20250622-143052:s3_key") == "archives/20250622-143052.tar"
    ours.settle(ID, "0.mp3", "processed")
    ours.settle(ID, "1.mp3", "failed")
    assert redis.get("batch:20250622-143052:processed") == "1"
    assert redis.get("batch:20250622-143052:failed") == "1"


def test_it_lists_an_open_batch(redis: Any, ours: Batches) -> None:
    opened(ours, 1)
    assert redis.zrange("batches:open", 0, -1) == [ID]
    assert ours.is_ours(ID)


# --- counting -------------------------------------------------------------------------------------------


def test_it_counts_a_file_once_however_often_it_is_delivered(redis: Any, ours: Batches) -> None:
    opened(ours, 2)
    assert [ours.settle(ID, "0.mp3", "processed") for _ in range(3)] == ["counted"] * 3
    assert ours.settle(ID, "0.mp3", "failed") == "counted"
    assert counts(redis) == ["2", "1", "0"]
    assert ours.settled(ID) == {"0.mp3"}


def test_it_is_complete_when_processed_and_failed_reach_total(redis: Any, ours: Batches) -> None:
    opened(ours, 3)
    outcomes = [("0.mp3", "processed"), ("1.mp3", "failed"), ("2.mp3", "processed")]
    assert [ours.settle(ID, *outcome) for outcome in outcomes] == ["counted", "counted", "complete"]
    assert counts(redis) == ["3", "2", "1"]
    assert ours.finishing() == [ID]
    assert ours.is_finishing(ID)
    assert redis.zrange(batches.OPEN, 0, -1) == []


def test_it_says_complete_to_one_caller_only(ours: Batches) -> None:
    opened(ours, 1)
    assert [ours.settle(ID, "0.mp3", "processed") for _ in range(3)] == ["complete", "counted", "counted"]


def test_it_says_complete_to_one_of_many_at_once(fleet: Fleet, redis: Any, ours: Batches) -> None:
    callers, files = 8, 40
    opened(ours, files)
    start = threading.Barrier(callers)

    def settle_all(caller: int) -> list[str]:
        host = Batches(redis_client.connect(fleet.valkey.url), "here")
        start.wait()
        outcome = "processed" if caller % 2 else "failed"
        return [host.settle(ID, f"{(n + caller * 5) % files}.mp3", outcome) for n in range(files)]

    with ThreadPoolExecutor(callers) as pool:
        results = [result for results in pool.map(settle_all, range(callers)) for result in results]
    assert results.count("complete") == 1
    assert results.count("counted") == callers * files - 1
    total, processed, failed = map(int, counts(redis))  # type: ignore[arg-type]
    assert processed + failed == total == files


def test_it_changes_nothing_for_a_batch_that_is_not_open(redis: Any, ours: Batches) -> None:
    assert ours.settle(ID, "0.mp3", "processed") == "closed"
    assert redis.keys("*") == []


def test_it_drops_a_late_delivery_after_the_end(redis: Any, ours: Batches) -> None:
    opened(ours, 1)
    queue = JobQueue(redis, TRANSCRIBE, "gpu")
    job = queue.claim(0.01)
    assert job is not None
    ours.settle(ID, "0.mp3", "processed")
    assert ours.close(ID)
    assert ours.settle_job(queue, job, ID, "0.mp3", "processed") == "closed"
    assert redis.keys("*") == [queue.workers]
    assert queue.in_progress == []


def test_it_acknowledges_and_counts_in_one_step(redis: Any, ours: Batches) -> None:
    opened(ours, 2)
    queue = JobQueue(redis, TRANSCRIBE, "gpu")
    first, second = queue.claim(0.01), queue.claim(0.01)
    assert first is not None
    assert second is not None
    assert ours.settle_job(queue, first, ID, "0.mp3", "processed") == "counted"
    assert ours.settle_job(queue, second, ID, "1.mp3", "failed", "letter") == "complete"
    assert not redis.exists(queue.working, queue.attempts)
    assert redis.lrange(queue.dead, 0, -1) == ["letter"]


def test_it_counts_nothing_for_a_worker_that_has_lost_the_job(redis: Any, ours: Batches) -> None:
    opened(ours, 1)
    silent, other = JobQueue(redis, TRANSCRIBE, "silent"), JobQueue(redis, TRANSCRIBE, "other")
    silent.register()
    job = silent.claim(0.01)
    assert job is not None
    other.recover()
    assert ours.settle_job(silent, job, ID, "0.mp3", "failed", "letter") == "lost"
    assert counts(redis) == ["1", "0", "0"]
    assert not redis.exists(other.dead)
    again = other.claim(0.01)
    assert again is not None
    assert ours.settle_job(other, again, ID, "0.mp3", "processed") == "complete"


# --- opening and queueing -------------------------------------------------------------------------------


def test_it_queues_a_file_once(redis: Any, ours: Batches) -> None:
    opened(ours, 2)
    ours.push(ID, TRANSCRIBE, file_job("0.mp3"))
    assert redis.lrange(TRANSCRIBE, 0, -1) == [encode(file_job("0.mp3")), encode(file_job("1.mp3"))]
    assert ours.queued(ID) == {"0.mp3", "1.mp3"}


def test_it_completes_an_empty_batch_at_once(redis: Any, ours: Batches) -> None:
    opened(ours, 0)
    assert ours.finishing() == [ID]
    assert redis.zrange(batches.OPEN, 0, -1) == []


def test_it_keeps_the_counts_when_it_is_opened_again(redis: Any, ours: Batches) -> None:
    opened(ours, 3)
    ours.settle(ID, "0.mp3", "processed")
    ours.settle(ID, "1.mp3", "failed")
    opened(ours, 3)
    assert counts(redis) == ["3", "1", "1"]
    assert redis.llen(TRANSCRIBE) == 3
    assert ours.finishing() == []


def test_it_refuses_to_adopt_a_batch_that_is_finishing(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(ours, 1)
    ours.settle(ID, "0.mp3", "processed")
    before = {key: redis.dump(key) for key in redis.keys("*")}
    assert not ours.adopt(ID, S3_KEY, UNPACK_JOB)
    assert not theirs.adopt(ID, S3_KEY, UNPACK_JOB)
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_a_worker_that_has_lost_its_job_adopts_nothing(redis: Any, ours: Batches, theirs: Batches) -> None:
    late, heir = JobQueue(redis, UNPACK, "late"), JobQueue(redis, UNPACK, "heir")
    late.register()
    redis.rpush(UNPACK, UNPACK_JOB.payload)
    job = late.claim(0.01)
    assert job is not None
    assert theirs.adopt(ID, S3_KEY, job, late)  # it may do so again, as long as the job is its own
    heir.recover()
    again = heir.claim(0.01)
    assert again is not None
    assert ours.adopt(ID, S3_KEY, again, heir)
    ours.open(ID, 2)
    for settled in (False, True):  # while the other one works, and when it has ended
        if settled:
            heir.settle(again)
            ours.settle(ID, "0.mp3", "processed")
            ours.settle(ID, "1.mp3", "processed")
            ours.close(ID)
        before = {key: redis.dump(key) for key in redis.keys("*")}
        with pytest.raises(LostClaim, match=ID):
            theirs.adopt(ID, S3_KEY, job, late)
        assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_a_newer_release_that_finds_more_files_in_the_archive_waits_for_them(redis: Any, ours: Batches) -> None:
    opened(ours, 2)
    ours.settle(ID, "0.mp3", "processed")
    ours.open(ID, 3)
    assert ours.settle(ID, "1.mp3", "processed") == "counted"
    ours.open(ID, 2)  # by an older one again
    assert counts(redis) == ["3", "2", "0"]
    assert ours.settle(ID, "2.mkv", "failed") == "complete"
    ours.open(ID, 4)  # it is over
    assert counts(redis) == ["3", "2", "1"]


# --- another host's -------------------------------------------------------------------------------------


def test_it_starts_anew_when_another_host_adopts_it(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(ours, 2)
    ours.settle(ID, "0.mp3", "processed")
    assert theirs.adopt(ID, S3_KEY, UNPACK_JOB)
    assert counts(redis) == [None, None, None]
    assert theirs.settled(ID) == theirs.queued(ID) == set()
    theirs.open(ID, 2)
    assert counts(redis) == ["2", "0", "0"]
    assert theirs.is_ours(ID)
    assert not ours.is_ours(ID)


def test_it_changes_nothing_in_a_batch_of_another_host(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 2)
    before = {key: redis.dump(key) for key in redis.keys("*")}
    assert ours.settle(ID, "0.mp3", "processed") == "foreign"
    with pytest.raises(LostClaim, match=ID):
        ours.push(ID, TRANSCRIBE, file_job("2.mp3"))
    with pytest.raises(LostClaim, match=ID):
        ours.open(ID, 5)
    assert not ours.close(ID)
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_it_still_acknowledges_the_job_of_a_foreign_file(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(ours, 1)
    queue = JobQueue(redis, TRANSCRIBE, "gpu")
    job = queue.claim(0.01)
    assert job is not None
    theirs.adopt(ID, S3_KEY, UNPACK_JOB)
    theirs.open(ID, 1)
    assert ours.settle_job(queue, job, ID, "0.mp3", "processed") == "foreign"
    assert not redis.exists(queue.working, queue.attempts)
    assert counts(redis) == ["1", "0", "0"]


# --- the end --------------------------------------------------------------------------------------------


def test_it_leaves_no_key_when_it_closes(redis: Any, ours: Batches) -> None:
    opened(ours, 2)
    ours.settle(ID, "0.mp3", "processed")
    assert not ours.close(ID)
    ours.settle(ID, "1.mp3", "failed")
    assert set(keys_of_batch(redis)) == set(batches.keys_of(ID, *batches._FIELDS))
    redis.delete(TRANSCRIBE)
    assert ours.close(ID)
    assert redis.keys("*") == []
    assert not ours.close(ID)


def in_progress(redis: Any) -> tuple[JobQueue, Job]:
    """The queue of a worker that holds the batch's unpack job, and that job."""
    queue = JobQueue(redis, UNPACK, "unpack")
    queue.add(UNPACK_JOB.fields)
    job = queue.claim(0.01)
    assert job is not None
    return queue, job


def keys_but_of_queue(redis: Any) -> list[str]:
    return [key for key in redis.keys("*") if not key.startswith(UNPACK)]


def test_who_gives_an_unpack_job_up_forgets_the_batch_before_it_is_opened(redis: Any, ours: Batches) -> None:
    queue, job = in_progress(redis)
    ours.adopt(ID, S3_KEY, job)
    assert ours.abandon(queue, job, ID)
    assert keys_but_of_queue(redis) == []
    assert ours.abandon(queue, job, ID)
    opened(ours, 1)
    assert not ours.abandon(queue, job, ID)
    assert counts(redis) == ["1", "0", "0"]


def test_who_gives_an_unpack_job_up_forgets_the_batch_of_a_host_that_is_gone(
    redis: Any, ours: Batches, theirs: Batches
) -> None:
    opened(theirs, 2)
    queue, job = in_progress(redis)
    assert ours.abandon(queue, job, ID)
    assert keys_but_of_queue(redis) == [TRANSCRIBE]
    assert theirs.settle(ID, "0.mp3", "processed") == "closed"


def test_only_who_holds_the_unpack_job_forgets_the_batch(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 2)
    queue, job = in_progress(redis)
    queue.keep(job)  # it goes back to the queue
    redis.delete(queue.working)
    before = {key: redis.dump(key) for key in redis.keys("*")}
    assert not ours.abandon(queue, job, ID)
    assert {key: redis.dump(key) for key in redis.keys("*")} == before


def test_what_is_being_finished_is_not_forgotten(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 1)
    theirs.settle(ID, "0.mp3", "processed")
    theirs.close(ID)
    queue, job = in_progress(redis)
    redis.hset(batches.FINISHING, ID, "their row is not yet finished")
    assert not ours.abandon(queue, job, ID)


def test_it_wants_a_file_only_while_it_is_queued_and_not_settled(ours: Batches, theirs: Batches) -> None:
    wanted = []
    for step in (
        lambda: None,
        lambda: ours.adopt(ID, S3_KEY, UNPACK_JOB),
        lambda: ours.open(ID, 1),
        lambda: ours.push(ID, TRANSCRIBE, file_job("0.mp3")),
        lambda: ours.settle(ID, "0.mp3", "processed"),
        lambda: ours.close(ID),
    ):
        step()
        wanted.append(ours.wants(ID, "0.mp3"))
        assert not theirs.wants(ID, "0.mp3")
        assert not ours.wants(ID, "other.mp3")
    assert wanted == [False, False, False, True, False, False]


# --- lost hosts -----------------------------------------------------------------------------------------


def take_over(host: Batches) -> tuple[list[str], list[str]]:
    """The batches taken over, and those of lost hosts that were only finished."""
    finished: list[str] = []
    return LostHosts(host).take_over(UNPACK, LONG, finished.append), finished


def test_it_queues_a_lost_hosts_archive_again_once(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 2)
    heard(redis, "there", LONG + 1)
    assert take_over(ours) == ([ID], [])
    assert take_over(ours) == ([], [])
    assert redis.lrange(UNPACK, 0, -1) == [UNPACK_JOB.payload]
    assert theirs.settle(ID, "0.mp3", "processed") == "foreign"
    assert not theirs.wants(ID, "0.mp3")
    with pytest.raises(LostClaim):
        theirs.push(ID, TRANSCRIBE, file_job("2.mp3"))


def leave_jobs(redis: Any) -> list[str]:
    """The queue of another host with a job waiting, in progress, delayed and dead; gives its keys, sorted."""
    queue = JobQueue(redis, f"{TRANSCRIBE}:there", "gpu")
    redis.hset(batches.QUEUES, queue.name, "there")
    queue.register()
    for name in ("in-hand", "delayed", "dead", "waiting"):
        queue.add(file_job(name))
    for end in (lambda _: True, lambda job: queue.retry(job, 60), lambda job: queue.dead_letter(job, "why")):
        job = queue.claim(0.01)
        assert job is not None
        end(job)
    return sorted(redis.keys(f"{queue.name}*"))


def test_it_drops_what_is_left_in_the_queue_of_a_lost_host(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 1)
    assert len(leave_jobs(redis)) == 6
    heard(redis, "there", LONG + 1)
    assert take_over(ours) == ([ID], [])
    assert redis.keys(f"{TRANSCRIBE}:there*") == [f"{TRANSCRIBE}:there:dead"]
    assert redis.exists(TRANSCRIBE)  # which is no lost host's


@pytest.mark.parametrize("why", ["the host is heard", "a batch is the host's"])
def test_it_keeps_the_queue_of_a_host_that_may_work_on(
    redis: Any, ours: Batches, theirs: Batches, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    keys = leave_jobs(redis)
    heard(redis, "there", LONG + 1)
    lost = ours.silent_hosts(LONG)
    monkeypatch.setattr(ours, "silent_hosts", lambda _: lost)  # it was, a moment ago
    monkeypatch.setattr(redis, "zrange", lambda *_: [])
    if why == "the host is heard":
        heard(redis, "there", LONG - 5)
    else:
        opened(theirs, 1)
    assert take_over(ours) == ([], [])
    assert sorted(redis.keys(f"{TRANSCRIBE}:there*")) == keys
    monkeypatch.undo()
    heard(redis, "there", LONG + 1)
    take_over(ours)
    assert redis.keys(f"{TRANSCRIBE}:there*") == [f"{TRANSCRIBE}:there:dead"]


def test_it_starts_anew_even_where_the_lost_host_itself_unpacks_again(redis: Any, theirs: Batches) -> None:
    opened(theirs, 2)
    theirs.settle(ID, "0.mp3", "processed")
    heard(redis, "there", LONG + 1)
    take_over(Batches(redis, "here"))
    assert theirs.adopt(ID, S3_KEY, UNPACK_JOB)
    assert counts(redis) == [None, None, None]
    assert theirs.queued(ID) == set()


def test_it_lets_one_of_many_take_over(fleet: Fleet, redis: Any, theirs: Batches) -> None:
    opened(theirs, 1)
    heard(redis, "there", LONG + 1)

    def take(n: int) -> list[str]:
        return take_over(Batches(redis_client.connect(fleet.valkey.url), f"host{n}"))[0]

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(take, range(6))) == [[], [], [], [], [], [ID]]
    assert redis.llen(UNPACK) == 1


def test_it_leaves_the_batches_of_live_hosts_and_its_own(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 1)
    heard(redis, "there", LONG - 5)
    heard(redis, "here", LONG + 5)
    assert take_over(ours) == ([], [])
    heard(redis, "there", LONG + 5)
    assert take_over(theirs) == ([], [])
    assert not redis.exists(UNPACK)


def test_it_leaves_a_batch_whose_host_is_heard_again_meanwhile(
    redis: Any, ours: Batches, theirs: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(theirs, 1)
    heard(redis, "there", LONG + 1)
    finishing = ours.finishing_hosts

    def returns() -> dict[str, str]:  # between the look at the hosts and the step that takes over
        heard(redis, "there", 0)
        return finishing()

    monkeypatch.setattr(ours, "finishing_hosts", returns)
    assert take_over(ours) == ([], [])
    assert theirs.is_ours(ID)


def test_it_closes_the_finishing_batches_of_a_lost_host(redis: Any, ours: Batches, theirs: Batches) -> None:
    opened(theirs, 1)
    theirs.settle(ID, "0.mp3", "processed")
    assert take_over(ours) == ([], [])
    heard(redis, "there", LONG + 1)
    assert ours.finishing() == []
    assert take_over(ours) == ([], [ID])
    assert keys_of_batch(redis) == []
    assert theirs.finishing() == []
    assert not redis.exists(UNPACK)


def test_it_closes_a_lost_hosts_batch_only_when_it_is_noted_as_finished(redis: Any, theirs: Batches) -> None:
    opened(theirs, 1)
    theirs.settle(ID, "0.mp3", "processed")
    heard(redis, "there", LONG + 1)

    def refuse(_: str) -> None:
        raise OSError("PostgreSQL is unavailable")

    with pytest.raises(OSError, match="unavailable"):
        LostHosts(Batches(redis, "here")).take_over(UNPACK, LONG, refuse)
    assert theirs.finishing() == [ID]


# --- the name of the queue ------------------------------------------------------------------------------


def test_it_refuses_a_queue_that_names_files_of_another_live_host(
    redis: Any, ours: Batches, theirs: Batches
) -> None:
    assert theirs.check_queue(TRANSCRIBE, LONG) is None
    heard(redis, "there", 5)
    problem = ours.check_queue(TRANSCRIBE, LONG)
    assert problem is not None
    assert "in use on there" in problem
    assert "TRANSCRIBE_QUEUE=queue:transcribe:here" in problem
    assert redis.hget(batches.QUEUES, TRANSCRIBE) == "there"
    assert ours.check_queue(f"{TRANSCRIBE}:here", LONG) is None


def test_it_takes_a_queue_of_its_own_or_of_a_lost_host(redis: Any, ours: Batches, theirs: Batches) -> None:
    heard(redis, "there", LONG + 1)
    theirs.check_queue(TRANSCRIBE, LONG)
    assert ours.check_queue(TRANSCRIBE, LONG) is None
    heard(redis, "here", 0)
    assert ours.check_queue(TRANSCRIBE, LONG) is None
    assert redis.hget(batches.QUEUES, TRANSCRIBE) == "here"


# --- ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_id", [ID, "a", "A.b_c-d", "0" * 100, "a..b"])
def test_it_takes_ids_that_can_be_a_folder(batch_id: str) -> None:
    assert batches.is_id(batch_id)
    assert batches.check_id(batch_id) == batch_id


@pytest.mark.parametrize(
    "batch_id",
    ["", ".", "..", "../x", "/etc", "a/b", "a\0b", "a\n", "\n", " a", "a b", "-rf", ".hidden", "a:b", "ä", "１",
     "a\\b", "*", "0" * 101],
)  # fmt: skip
def test_it_refuses_hostile_ids(batch_id: str) -> None:
    assert not batches.is_id(batch_id)
    with pytest.raises(Permanent, match="batch id"):
        batches.check_id(batch_id)


# --- movement -------------------------------------------------------------------------------------------


def test_each_step_of_a_batch_is_a_movement(redis: Any, ours: Batches) -> None:
    key = f"batch:{ID}:moved"
    for step in (
        lambda: ours.adopt(ID, S3_KEY, UNPACK_JOB),
        lambda: ours.open(ID, 2),
        lambda: ours.push(ID, TRANSCRIBE, file_job("a.mp3")),
        lambda: ours.settle(ID, "a.mp3", "processed"),
    ):
        redis.delete(key)
        step()
        assert abs(int(redis.get(key)) - redis.time()[0]) < 5
    redis.set(key, 1)
    ours.settle(ID, "a.mp3", "processed")  # it is counted already
    assert redis.get(key) == "1"
