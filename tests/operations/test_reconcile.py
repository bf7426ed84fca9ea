"""Each thing that can be amiss: planted, found, repaired, and not found again; also while the batch moves on."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import s3_utils
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job, JobQueue
from pipeline.operations import reconcile
from pipeline.operations.failures import read_dead_letters
from pipeline.operations.reconcile import Finding, Reconciler
from pipeline.operations.retry import Retry
from pipeline.store.batch_states import Known, known_batches
from pipeline.store.database import Database
from tests.support.fleet import Fleet
from tests.support.steps import (
    BATCH,
    add_batch,
    add_dead_letter,
    add_file,
    object_keys,
    put,
    rows,
    unpack_job,
)

ARCHIVE = f"archives/{BATCH}.tar"
HOST = "here"


pytestmark = pytest.mark.usefixtures("_s3")


@pytest.fixture
def compare(redis: Any, database: Database) -> Callable[[], list[Finding]]:
    """Everything that is amiss now, as pipelinectl finds it."""
    return lambda: list(reconciler(redis, database).findings())


def reconciler(redis: Any, database: Database, **changes: Any) -> Reconciler:
    s3: dict[str, Any] = {
        "archives": s3_utils.archives,
        "sources": s3_utils.sources,
        "opus": s3_utils.opus_keys,
        "exists": s3_utils.exists,
        "delete_opus": s3_utils.delete_opus,
    }
    return Reconciler(redis, database, "queue:transfer", "queue:unpack", ["queue:transcribe"], **{**s3, **changes})


def only(found: list[Finding], kind: str, subject: str = BATCH) -> Finding:
    assert [(finding.kind, finding.subject) for finding in found] == [(kind, subject)]
    return found[0]


def repair(finding: Finding) -> object:
    assert finding.repair is not None, finding
    return finding.repair()


def queued(redis: Any) -> list[tuple[str, str, Any]]:
    """The unpack jobs that wait: batch id, S3 key, number of files."""
    jobs = [json.loads(job) for job in redis.lrange("queue:unpack", 0, -1)]
    return [(job["batch_id"], job["s3_key"], job["file_count"]) for job in jobs]


ARCHIVE_JOB = (BATCH, ARCHIVE, None)


def open_batch(redis: Any, total: int | None = 2, pushed: int | None = None, host: str = HOST) -> Batches:
    """A batch that a host has adopted, opened, and queued files of."""
    batches = Batches(redis, host)
    redis.zadd("hosts:seen", {host: redis.time()[0]})
    batches.adopt(BATCH, ARCHIVE, Job(unpack_job(), 1, "t"))
    if total is not None:
        batches.open(BATCH, total)
        for number in range(total if pushed is None else pushed):
            batches.push(BATCH, f"queue:transcribe:{host}", file_job(f"{number}.mp3"))
            batches.enter_queue(f"queue:transcribe:{host}")
    return batches


def file_job(name: str) -> dict[str, Any]:
    return {"batch_id": BATCH, "audio_id": None, "opus_path": "/x.opus", "original_filename": name}


def finish(fleet: Fleet, redis: Any, batches: Batches, total: int = 2) -> None:
    """What the workers do until a batch is finished."""
    for number in range(total):
        batches.settle(BATCH, f"{number}.mp3", "processed")
    fleet.query("UPDATE audio_files SET status = 'done'")
    fleet.query("UPDATE batches SET finished_at = now() WHERE batch_id = %s", BATCH)
    batches.close(BATCH)
    redis.delete("queue:unpack", "queue:transcribe:here")


def delete(fleet: Fleet, key: str) -> None:
    s3_utils.get_s3_client().delete_object(Bucket=fleet.bucket, Key=key)


def finished(fleet: Fleet) -> bool:
    ((known,),) = fleet.query("SELECT finished_at IS NOT NULL FROM batches WHERE batch_id = %s", BATCH)
    return bool(known)


# --- batches that nobody works on --------------------------------------------------------------------------


def test_nothing_is_amiss_where_nothing_is(compare: Callable[[], list[Finding]]) -> None:
    assert compare() == []


def test_nothing_is_amiss_with_a_finished_batch(fleet: Fleet, compare: Callable[[], list[Finding]]) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2)
    add_file(fleet, "a.mp3", "failed", "broken")
    put(fleet, f"processed/2025-06-22/{add_file(fleet, 'b.mp3', 'done')}.opus")
    assert compare() == []


def test_an_archive_that_was_never_unpacked_is_queued(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE, "archives/.hidden.tar", "archives/x.txt", "archives/sub/x.tar", "other/x.tar")
    found = only(compare(), "unqueued")
    assert "never unpacked" in found.what
    assert not found.destroys
    assert repair(found)
    assert queued(redis) == [ARCHIVE_JOB]
    assert compare() == []


@pytest.mark.parametrize("is_finished", [False, True])  # True: killed between its two steps, or a late row
def test_a_batch_with_files_to_do_is_queued(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], is_finished: bool
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2, finished=is_finished)
    add_file(fleet, "a.mp3", "processing")
    add_file(fleet, "b.mp3", "failed", "broken")
    found = only(compare(), "unqueued")
    assert "1 file neither" in found.what
    assert repair(found)
    assert queued(redis) == [ARCHIVE_JOB]
    assert not finished(fleet)
    assert compare() == []


def test_a_batch_whose_rows_are_fewer_than_its_files_is_queued(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2, finished=False)
    add_file(fleet, "a.mp3", "failed", "broken")
    assert repair(only(compare(), "unqueued"))
    assert queued(redis) == [ARCHIVE_JOB]


def test_an_archive_from_elsewhere_is_queued_from_there(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    add_batch(fleet, finished=False, s3_key="imports/x.tar")
    add_file(fleet, "a.mp3", "processing")
    put(fleet, "imports/x.tar")
    assert repair(only(compare(), "unqueued"))
    assert queued(redis) == [(BATCH, "imports/x.tar", None)]


@pytest.mark.parametrize(
    "place", ["waiting", "delayed", "in progress", "dead_lettered", "in transfer", "finishing"]
)
def test_a_batch_that_is_somewhere_is_left_alone(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], place: str
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=1, finished=False)
    add_file(fleet, "a.mp3", "processing")
    queue = JobQueue(redis, "queue:transfer" if place == "in transfer" else "queue:unpack", "w")
    queue.register()
    if place == "finishing":
        redis.hset("batches:finishing", BATCH, HOST)
    else:
        redis.rpush(queue.name, unpack_job())
    if place in ("delayed", "in progress", "in transfer", "dead_lettered"):
        job = queue.claim(1)
        assert job is not None
        if place == "delayed":
            queue.retry(job, 600)
        elif place == "dead_lettered":
            queue.dead_letter(job, "broken")
        elif place == "in transfer":
            redis.hset(queue.batch_ids, job.payload, BATCH)
    assert compare() == []


def test_a_batch_id_that_a_transfer_no_longer_has_says_nothing(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    redis.hset("queue:transfer:batch_ids", '{"remote_path": "/x"}', BATCH)
    only(compare(), "unqueued")


@pytest.mark.parametrize("step", ["adopted", "finishing", "finished"])
def test_a_batch_that_somebody_works_on_meanwhile_is_not_queued_beside_it(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], step: str
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2, finished=False)
    for number in range(2):
        add_file(fleet, f"{number}.mp3", "processing")
    found = only(compare(), "unqueued")
    batches = open_batch(redis)
    if step == "finishing":
        for number in range(2):
            batches.settle(BATCH, f"{number}.mp3", "processed")
        redis.delete(f"batch:{BATCH}:host")  # so that only this says so
    elif step == "finished":
        finish(fleet, redis, batches)
    assert repair(found) is False
    assert queued(redis) == []
    assert finished(fleet) is (step == "finished")


def test_a_batch_that_is_settled_and_not_marked_is_marked(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=1, finished=False)
    add_file(fleet, "a.mp3", "failed", "broken")
    assert repair(only(compare(), "unmarked"))
    assert finished(fleet)
    assert (compare(), queued(redis)) == ([], [])


def test_a_batch_that_moves_on_meanwhile_is_not_marked(fleet: Fleet, compare: Callable[[], list[Finding]]) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=1, finished=False)
    add_file(fleet, "a.mp3", "failed", "broken")
    found = only(compare(), "unmarked")
    fleet.query("UPDATE audio_files SET status = 'processing'")  # somebody tries it again
    assert repair(found) is False
    assert not finished(fleet)
    fleet.query("UPDATE audio_files SET status = 'done'")
    assert repair(found)
    assert repair(found) is False


def test_an_archive_that_is_gone_is_reported(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    add_batch(fleet, finished=False)
    add_file(fleet, "a.mp3", "processing")
    found = only(compare(), "archive gone")
    assert f"{ARCHIVE} is not in S3" in found.what
    assert found.repair is None
    put(fleet, ARCHIVE)
    assert repair(only(compare(), "unqueued"))
    assert queued(redis) == [ARCHIVE_JOB]


def test_rows_of_a_batch_that_nobody_knows_are_reported(
    fleet: Fleet, compare: Callable[[], list[Finding]]
) -> None:
    add_file(fleet, "a.mp3", "processing")
    assert ARCHIVE in only(compare(), "archive gone").what


# --- batches that are open ---------------------------------------------------------------------------------


def test_an_open_batch_whose_every_file_is_counted_or_queued_is_left_alone(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=4, finished=False)
    batches = open_batch(redis, 4)
    queue = JobQueue(redis, f"queue:transcribe:{HOST}", "gpu")
    queue.register()
    jobs = [queue.claim(1) for _ in range(3)]
    assert jobs[0]
    assert jobs[1]
    batches.settle_job(queue, jobs[0], BATCH, jobs[0].fields["original_filename"], "failed")
    queue.retry(jobs[1], 600)
    assert compare() == []  # one counted, one delayed, one in progress, one waiting


@pytest.mark.parametrize("named", [False, True])
def test_a_job_counts_on_its_batchs_own_host_alone(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], named: bool
) -> None:
    put(fleet, ARCHIVE)
    open_batch(redis, 1, pushed=0)
    redis.rpush("queue:transcribe", json.dumps(file_job("0.mp3")))
    if named:
        redis.hset("hosts:queues", "queue:transcribe", "another")
    assert bool(compare()) is named


@pytest.mark.parametrize("with_job", [False, True])
def test_a_batch_whose_jobs_are_gone_is_taken_from_its_host_and_queued(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], with_job: bool
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2, finished=False)
    open_batch(redis, 2, pushed=1)
    if not with_job:
        redis.delete(f"batch:{BATCH}:job")
    found = only(compare(), "stranded")
    assert f"open on {HOST}, 0 of 2" in found.what
    assert repair(found)
    assert queued(redis) == [ARCHIVE_JOB]
    assert redis.get(f"batch:{BATCH}:host") == ""
    assert (compare(), repair(found)) == ([], False)
    other = open_batch(redis, 2, host="other")  # whoever takes it begins anew
    assert other.queued(BATCH) == {"0.mp3", "1.mp3"}


def test_two_jobs_of_one_file_are_one(fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]) -> None:
    put(fleet, ARCHIVE)
    open_batch(redis, 2, pushed=1)
    redis.rpush(f"queue:transcribe:{HOST}", json.dumps(file_job("0.mp3")))
    only(compare(), "stranded")


def test_a_batch_that_was_adopted_and_forgotten_is_queued(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    open_batch(redis, None)
    assert repair(only(compare(), "stranded"))
    assert (queued(redis), compare()) == ([ARCHIVE_JOB], [])


def move_host(batches: Batches) -> None:
    batches.redis.set(f"batch:{BATCH}:host", "other")


def move_total(batches: Batches) -> None:
    batches.redis.set(f"batch:{BATCH}:total", 3)


def count_one(batches: Batches) -> None:
    assert batches.settle(BATCH, "0.mp3", "processed") == "counted"


def fail_one(batches: Batches) -> None:
    assert batches.settle(BATCH, "0.mp3", "failed") == "counted"


def finish_all(batches: Batches) -> None:
    batches.redis.zrem("batches:open", BATCH)


@pytest.mark.parametrize("move", [move_host, move_total, count_one, fail_one, finish_all])
def test_a_stranded_batch_that_moves_on_meanwhile_is_left_alone(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], move: Callable[[Batches], None]
) -> None:
    put(fleet, ARCHIVE)
    batches = open_batch(redis, 2, pushed=0)
    found = only(compare(), "stranded")
    move(batches)
    host = redis.get(f"batch:{BATCH}:host")
    assert repair(found) is False
    assert queued(redis) == []
    assert redis.get(f"batch:{BATCH}:host") == host


def test_a_stranded_batch_whose_archive_is_gone_is_reported(
    redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    open_batch(redis, 2, pushed=0)
    assert only(compare(), "archive gone").repair is None


def test_a_batch_without_a_host_whose_job_was_dead_lettered_is_for_a_person(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    open_batch(redis, 2, pushed=0)
    repair(only(compare(), "stranded"))
    redis.delete("queue:unpack")
    only(compare(), "stranded")
    add_dead_letter(redis, "queue:unpack", unpack_job())
    assert compare() == []


def test_an_archive_whose_dead_letter_was_taken_away_is_done_with(
    fleet: Fleet, redis: Any, database: Database, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    add_dead_letter(redis, "queue:unpack", unpack_job())
    dead_letters = read_dead_letters(redis, ["queue:unpack"])
    s3 = (s3_utils.archive_bytes, s3_utils.archive_key)
    Retry(redis, database, "queue:unpack", dead_letters, *s3).abandon(dead_letters[0])
    assert redis.llen("queue:unpack:dead") == 0
    assert compare() == []


@pytest.mark.parametrize("known", [False, True])
def test_a_batch_open_here_and_finished_in_postgresql_is_closed(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], known: bool
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet)
    batches = open_batch(redis, 1)
    if not known:
        redis.delete("hosts:seen")
    assert repair(only(compare(), "left open"))
    if known:  # its host finishes it: the scratch is there
        assert (batches.finishing(), compare()) == ([BATCH], [])
        batches.close(BATCH)
    assert list(redis.scan_iter("batch:*")) == list(redis.scan_iter("batches:*")) == []
    assert compare() == []


def test_a_batch_left_open_that_moves_on_meanwhile_is_not_closed(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet)
    open_batch(redis, 1)
    found = only(compare(), "left open")
    opened = redis.zscore("batches:open", BATCH)

    def is_left_alone() -> bool:
        return repair(found) is False and not redis.exists("batches:finishing")

    redis.zadd("batches:open", {BATCH: opened + 1})  # opened again
    assert is_left_alone()
    redis.zadd("batches:open", {BATCH: opened})
    redis.set(f"batch:{BATCH}:host", "other")  # moved
    assert is_left_alone()
    redis.set(f"batch:{BATCH}:host", HOST)
    add_file(fleet, "a.mp3", "processing")  # tried again
    assert is_left_alone()
    fleet.query("TRUNCATE audio_files CASCADE")
    redis.zrem("batches:open", BATCH)  # finished
    assert is_left_alone()


@pytest.mark.parametrize("is_open", [False, True])
def test_an_archive_that_goes_meanwhile_is_not_queued(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], is_open: bool
) -> None:
    put(fleet, ARCHIVE)
    if is_open:
        open_batch(redis, 2, pushed=1)
    found = only(compare(), "stranded" if is_open else "unqueued")
    delete(fleet, ARCHIVE)
    assert repair(found) is False
    assert queued(redis) == []
    assert redis.get(f"batch:{BATCH}:host") == (HOST if is_open else None)


@pytest.mark.parametrize("is_open", [False, True])
def test_an_archive_from_elsewhere_that_is_gone_is_reported(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], is_open: bool
) -> None:
    add_batch(fleet, files=2, finished=False, s3_key="imports/x.tar")
    add_file(fleet, "a.mp3", "processing")
    if is_open:
        open_batch(redis, 2, pushed=1)
    assert only(compare(), "archive gone").repair is None


def test_a_queue_that_was_renamed_is_reported_where_nobody_takes_its_jobs_along(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    batches = open_batch(redis, 2)
    assert compare() == []
    batches.enter_queue("queue:transcribe:new")
    assert only(compare(), "unread", f"queue:transcribe:{HOST}").what.startswith(f"2 files of {HOST} in a queue")
    redis.zadd(f"queue:transcribe:{HOST}:workers", {"w": 1})
    redis.set("worker:w", "{}")
    assert compare() == []


# --- two sources of one batch ------------------------------------------------------------------------------


@pytest.mark.usefixtures("_s3")
def test_two_sources_of_one_batch_are_reported(fleet: Fleet, compare: Callable[[], list[Finding]]) -> None:
    add_batch(fleet)
    s3_utils.note_source("/a.tar\n10240 1", BATCH, is_whole=True)
    s3_utils.note_source("/b.tar\n10240 2", BATCH, is_whole=False)  # it never came to that
    s3_utils.note_source("/b.tar\n10240 2", "20261124-115901", is_whole=True)
    assert compare() == []
    s3_utils.note_source("/c.tar\n10240 1", BATCH, is_whole=True)
    found = only(compare(), "shared")
    assert found.what.startswith("/a.tar and /c.tar were brought as one batch")
    assert found.repair is None


# --- while it looks ----------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen between the look at Redis and the one at PostgreSQL."""

    def known_after(step: Callable[[], object]) -> None:
        def known(database: Database) -> dict[str, Known]:
            step()
            return known_batches(database)

        monkeypatch.setattr(reconcile, "known_batches", known)

    return known_after


def test_a_batch_that_is_finished_between_the_looks_is_not_amiss(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], between: Callable[..., None]
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2, finished=False)
    batches = open_batch(redis)
    between(lambda: finish(fleet, redis, batches))
    assert compare() == []


def test_a_batch_that_is_opened_between_the_looks_is_not_amiss(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], between: Callable[..., None]
) -> None:
    put(fleet, ARCHIVE)
    redis.rpush("queue:unpack", unpack_job())

    def step() -> None:
        redis.delete("queue:unpack")
        open_batch(redis)
        add_batch(fleet, files=2, finished=False)
        add_file(fleet, "0.mp3", "processing")

    between(step)
    assert compare() == []


def test_an_archive_that_arrives_between_the_looks_is_not_amiss(
    fleet: Fleet, redis: Any, database: Database
) -> None:
    def archives() -> dict[str, str]:
        found = s3_utils.archives()
        put(fleet, ARCHIVE)
        redis.rpush("queue:unpack", unpack_job())
        return found

    assert list(reconciler(redis, database, archives=archives).findings()) == []


def test_a_file_that_is_done_while_the_objects_are_listed_is_not_amiss(
    fleet: Fleet, redis: Any, database: Database
) -> None:
    add_batch(fleet)
    path = f"processed/2025-06-22/{add_file(fleet, 'a.mp3', 'processing')}.opus"

    def opus() -> Iterator[str]:
        put(fleet, path)
        fleet.query("UPDATE audio_files SET status = 'done', s3_opus_path = %s", path)
        return s3_utils.opus_keys()

    found = [finding.kind for finding in reconciler(redis, database, opus=opus).findings()]
    assert found == ["unqueued"] or found == ["archive gone"]  # as it was when PostgreSQL was asked
    assert list(reconciler(redis, database).findings()) == []


def test_a_listing_that_is_behind_makes_nothing_amiss(fleet: Fleet, redis: Any, database: Database) -> None:
    """As OpenStack Swift's may be."""
    put(fleet, ARCHIVE)
    add_batch(fleet, finished=False)
    add_file(fleet, "a.mp3", "processing")
    put(fleet, f"processed/2025-06-22/{add_file(fleet, 'b.mp3', 'done')}.opus")
    empty: Iterable[str] = ()
    behind = reconciler(redis, database, archives=dict, opus=lambda: empty)
    found = only(list(behind.findings()), "unqueued")
    assert repair(found)
    assert queued(redis) == [ARCHIVE_JOB]
    redis.delete("queue:unpack")
    open_batch(redis, 2, pushed=0)
    only(list(behind.findings()), "stranded")


# --- Opus --------------------------------------------------------------------------------------------------


@pytest.fixture
def lost(fleet: Fleet) -> tuple[int, int]:
    """A finished batch with two files that are done; the Opus of the second is gone."""
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2)
    first, second = (add_file(fleet, f"{number}.mp3", "done") for number in range(2))
    put(fleet, f"processed/2025-06-22/{first}.opus")
    return first, second


@pytest.mark.usefixtures("lost")
def test_a_file_whose_opus_is_gone_is_worked_on_again(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    found = only(compare(), "opus gone")
    assert "1 file " in found.what
    assert repair(found)
    assert {name: row[0] for (_, name), row in rows(fleet).items()} == {"0.mp3": "done", "1.mp3": "processing"}
    assert not finished(fleet)
    assert queued(redis) == [ARCHIVE_JOB]
    assert compare() == []


@pytest.mark.usefixtures("lost")
def test_a_batch_with_two_things_amiss_is_queued_once(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    add_file(fleet, "2.mp3", "processing")
    found = compare()
    assert [finding.kind for finding in found] == ["unqueued", "opus gone"]
    assert [repair(finding) for finding in found] == [True, True]
    assert {name: row[0] for (_, name), row in rows(fleet).items() if row[0] == "processing"} == {
        "1.mp3": "processing",
        "2.mp3": "processing",
    }
    assert queued(redis) == [ARCHIVE_JOB]
    assert compare() == []


@pytest.mark.usefixtures("lost")
def test_a_file_whose_opus_and_archive_are_gone_is_reported(
    fleet: Fleet, compare: Callable[[], list[Finding]]
) -> None:
    fleet.query("UPDATE batches SET s3_key = 'archives/none.tar'")
    s3_utils.get_s3_client().delete_object(Bucket=fleet.bucket, Key=ARCHIVE)
    assert only(compare(), "opus gone").repair is None


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("from_elsewhere", [False, True])
def test_a_file_is_not_worked_on_again_when_its_archive_has_gone_meanwhile(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]], from_elsewhere: bool
) -> None:
    key = "imports/x.tar" if from_elsewhere else ARCHIVE
    if from_elsewhere:
        put(fleet, key)
        fleet.query("UPDATE batches SET s3_key = %s", key)
        delete(fleet, ARCHIVE)
    found = only(compare(), "opus gone")
    delete(fleet, key)
    assert repair(found) is False
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    assert queued(redis) == []
    assert only(compare(), "opus gone").repair is None


@pytest.mark.usefixtures("lost")
def test_a_file_that_was_done_does_not_fail_when_it_is_worked_on_again(
    fleet: Fleet, database: Database, compare: Callable[[], list[Finding]]
) -> None:
    repair(only(compare(), "opus gone"))
    before = fleet.query("SELECT s3_opus_path FROM audio_files ORDER BY original_filename")
    database.fail_file(BATCH, "1.mp3", "its archive was failed permanently")
    assert fleet.query("SELECT status, error FROM audio_files") == [("done", None)] * 2
    assert fleet.query("SELECT s3_opus_path FROM audio_files ORDER BY original_filename") == before


@pytest.mark.usefixtures("lost")
@pytest.mark.parametrize("place", ["open", "finishing", "queued"])
def test_a_file_whose_opus_is_gone_waits_while_its_batch_is_in_work(
    redis: Any, compare: Callable[[], list[Finding]], place: str
) -> None:
    if place == "open":
        open_batch(redis)
        redis.rpush("queue:unpack", unpack_job())
    elif place == "finishing":
        redis.hset("batches:finishing", BATCH, HOST)
    else:
        redis.rpush("queue:unpack", unpack_job())
    assert only(compare(), "opus gone").repair is None


@pytest.mark.usefixtures("lost")
def test_a_file_whose_opus_is_gone_is_left_alone_when_its_batch_comes_into_work(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    found = only(compare(), "opus gone")
    open_batch(redis)
    assert repair(found) is False
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    assert (finished(fleet), queued(redis)) == (True, [])


def test_orphans_and_doubles_are_deleted(fleet: Fleet, compare: Callable[[], list[Finding]]) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, files=2)
    done, failed = add_file(fleet, "a.mp3", "done"), add_file(fleet, "b.mp3", "failed", "broken")
    kept = f"processed/2025-06-22/{done}.opus"
    strays = {
        f"processed/2025-06-21/{done}.opus": "doubled",
        f"processed/2025-06-23/{done}.opus": "doubled",
        f"processed/2025-06-22/{failed}.opus": "orphan",
        "processed/2025-06-22/999999.opus": "orphan",
        f"processed/2025-06-22/{'9' * 18}.opus": "orphan",
    }
    foreign = ["processed/notes.txt", "processed/2025-06-22/x.opus", f"processed/2025-06-22/{'9' * 19}.opus"]
    put(fleet, kept, *strays, *foreign)
    found = compare()
    assert {finding.subject: finding.kind for finding in found} == strays
    assert all(finding.destroys for finding in found)
    assert all(repair(finding) for finding in found)
    assert object_keys(fleet, "processed/") == sorted([kept, *foreign])
    assert compare() == []


@pytest.mark.parametrize("status", ["processing", "done"])
def test_an_orphan_that_its_file_comes_to_need_is_kept(
    fleet: Fleet, compare: Callable[[], list[Finding]], status: str
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet)
    key = f"processed/2025-06-22/{add_file(fleet, 'a.mp3', 'failed', 'broken')}.opus"
    put(fleet, key)
    found = only(compare(), "orphan", key)
    fleet.query("UPDATE audio_files SET status = %s, s3_opus_path = %s", status, key if status == "done" else None)
    assert repair(found) is False
    assert object_keys(fleet, "processed/") == [key]


def test_the_opus_of_a_file_in_work_is_none_of_anybodys(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet, finished=False)
    put(fleet, f"processed/2025-06-22/{add_file(fleet, 'a.mp3', 'processing')}.opus")
    open_batch(redis, 1)
    assert compare() == []


def test_a_double_is_kept_while_the_other_one_is_gone(fleet: Fleet, compare: Callable[[], list[Finding]]) -> None:
    put(fleet, ARCHIVE)
    add_batch(fleet)
    double = f"processed/2025-06-30/{add_file(fleet, 'a.mp3', 'done')}.opus"
    put(fleet, double)
    found = {finding.kind: finding for finding in compare()}
    assert set(found) == {"doubled", "opus gone"}
    assert (found["doubled"].subject, found["doubled"].repair) == (double, None)


def test_rows_and_keys_are_paired_in_one_pass() -> None:
    rows_ = [(key, number, BATCH) for number, key in enumerate("bdfg")]
    assert list(reconcile._unpaired(rows_, "abceghi")) == ["a", "c", rows_[1], "e", rows_[2], "h", "i"]
    assert list(reconcile._unpaired([], "ab")) == ["a", "b"]
    assert list(reconcile._unpaired(rows_, "")) == rows_


def test_objects_are_compared_in_pieces(
    fleet: Fleet, compare: Callable[[], list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "ROWS_AT_A_TIME", 3)
    put(fleet, ARCHIVE)
    add_batch(fleet, files=11)
    done = [add_file(fleet, f"{number}.mp3", "done") for number in range(11)]
    keys = [f"processed/2025-06-22/{audio_id}.opus" for audio_id in done]
    strays = [f"processed/2025-06-{day}/{audio_id}.opus" for day in (21, 23) for audio_id in done[:4]]
    put(fleet, *keys[:3], *keys[4:], *strays)
    found = compare()
    assert sorted(finding.subject for finding in found if finding.kind == "doubled") == sorted(strays)
    assert ["1 file " in finding.what for finding in found if finding.kind == "opus gone"] == [True]


# --- hostile data ------------------------------------------------------------------------------------------


def test_garbage_in_every_queue_stops_nothing(
    fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]
) -> None:
    put(fleet, ARCHIVE, "archives/None.tar")
    garbage = [
        b"",
        b"\xff\xfe",
        b"7",
        b"[]",
        b"null",
        b"{}",
        b'{"batch_id": 7}',
        b'{"batch_id": "\\ud800"}',
        b"\x1b[2J",
    ]
    for depth in [*range(200, 1000, 20), 100_000]:
        garbage.append(b'{"batch_id": ' + b"[" * depth + b"]" * depth + b"}")
        garbage.append(b'{"job": ' + b"[" * depth + b"]" * depth + b"}")
    for queue in ("queue:transfer", "queue:unpack", "queue:transcribe"):
        redis.execute_command("RPUSH", queue, *garbage)
        redis.execute_command("RPUSH", f"{queue}:dead", *garbage)
    found = {finding.subject for finding in compare() if finding.kind == "unqueued"}
    assert found == {BATCH, "None"}


def test_names_of_any_kind_are_compared(fleet: Fleet, redis: Any, compare: Callable[[], list[Finding]]) -> None:
    put(fleet, ARCHIVE)
    names = ["\x1b[2J.mp3", "a\nb.mp3", "n" * 300, "'; --"]
    add_batch(fleet, files=len(names), finished=False)
    batches = open_batch(redis, len(names), pushed=0)
    for name in names:
        add_file(fleet, name, "processing")
        batches.push(BATCH, "queue:transcribe", file_job(name))
    assert compare() == []
