"""Another try: what is queued, what PostgreSQL says then, which dead letters go, and what is refused."""

import json
from typing import Any

import pytest

import s3_utils
from pipeline.foundation.errors import Permanent
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from pipeline.operations import retry
from pipeline.operations.failures import DeadLetter, read_dead_letters
from pipeline.operations.retry import Retry, Unknown
from pipeline.store.database import Database
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_dead_letter, add_file, put, rows, unpack_job, use_s3

QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]
ARCHIVE = f"archives/{BATCH}.tar"
CUT = "it is cut"


@pytest.fixture(autouse=True)
def _s3(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(fleet, monkeypatch)
    put(fleet, ARCHIVE)


def retrying(redis: Any, database: Database) -> Retry:
    """As pipelinectl makes it, with the dead letters of now."""
    dead_letters = read_dead_letters(redis, QUEUES)
    return Retry(redis, database, "queue:unpack", dead_letters, s3_utils.archive_bytes, s3_utils.archive_key)


def only(dead_letters: list[DeadLetter]) -> DeadLetter:
    (dead_letter,) = dead_letters
    return dead_letter


def file_job(name: str) -> str:
    fields = {"batch_id": BATCH, "audio_id": None, "opus_path": "/x.opus", "original_filename": name}
    return json.dumps(fields)


def queued(redis: Any, queue: str = "queue:unpack") -> list[dict[str, Any]]:
    return [json.loads(job) for job in redis.lrange(queue, 0, -1)]


def statuses(fleet: Fleet) -> dict[str, tuple[Any, ...]]:
    return {name: row[:2] for (_, name), row in rows(fleet).items()}


def is_finished(fleet: Fleet) -> bool:
    ((finished,),) = fleet.query("SELECT finished_at IS NOT NULL FROM batches")
    return bool(finished)


def adopt(redis: Any, host: str = "here") -> Batches:
    batches = Batches(redis, host)
    batches.adopt(BATCH, ARCHIVE, Job(unpack_job(), 1, "t"))
    return batches


@pytest.fixture
def failed(fleet: Fleet, redis: Any) -> None:
    """A finished batch with two failed files, each with a dead letter, and one that is done; and another's."""
    add_batch(fleet, files=3)
    for name in ("a.mp3", "b.mp3"):
        add_file(fleet, name, "failed", "broken")
        add_dead_letter(redis, "queue:transcribe", file_job(name))
    add_file(fleet, "c.mp3", "done")
    add_dead_letter(redis, "queue:transcribe", file_job("c.mp3").replace(BATCH, "other"))


# --- a batch -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("failed")
def test_a_batch_is_queued_and_its_failed_files_are_to_be_done(
    fleet: Fleet, redis: Any, database: Database
) -> None:
    assert retrying(redis, database).batch(BATCH) == f"2 files of batch {BATCH}"
    (job,) = queued(redis)
    assert (job["batch_id"], job["s3_key"], job["file_count"]) == (BATCH, ARCHIVE, None)
    assert statuses(fleet) == {
        "a.mp3": ("processing", None),
        "b.mp3": ("processing", None),
        "c.mp3": ("done", None),
    }
    assert not is_finished(fleet)
    assert only(read_dead_letters(redis, QUEUES)).fields["batch_id"] == "other"


@pytest.mark.usefixtures("failed")
def test_one_file_alone_is_to_be_done(fleet: Fleet, redis: Any, database: Database) -> None:
    assert retrying(redis, database).batch(BATCH, ["b.mp3"]) == f"1 file of batch {BATCH}"
    assert statuses(fleet) == {
        "a.mp3": ("failed", "broken"),
        "b.mp3": ("processing", None),
        "c.mp3": ("done", None),
    }
    assert len(queued(redis)) == 1
    left = {dead_letter.fields["original_filename"] for dead_letter in read_dead_letters(redis, QUEUES)}
    assert left == {"a.mp3", "c.mp3"}


@pytest.mark.usefixtures("failed")
def test_a_file_is_tried_again_by_its_dead_letter(fleet: Fleet, redis: Any, database: Database) -> None:
    again = retrying(redis, database)
    assert again.dead_letter(again.dead_letters[0]) == f"1 file of batch {BATCH}"
    assert statuses(fleet)["a.mp3"] == ("processing", None)
    assert len(queued(redis)) == 1
    assert redis.llen("queue:transcribe:dead") == 2


@pytest.mark.usefixtures("failed")
def test_an_archive_from_elsewhere_is_fetched_from_there(fleet: Fleet, redis: Any, database: Database) -> None:
    fleet.query("UPDATE batches SET s3_key = 'imports/x.tar'")
    with pytest.raises(Permanent, match=r"imports/x\.tar is not in the bucket"):
        retrying(redis, database).batch(BATCH)
    put(fleet, "imports/x.tar")
    retrying(redis, database).batch(BATCH)
    assert [job["s3_key"] for job in queued(redis)] == ["imports/x.tar"]


@pytest.mark.usefixtures("failed")
def test_what_has_not_failed_is_refused_and_nothing_changes(fleet: Fleet, redis: Any, database: Database) -> None:
    before = statuses(fleet)
    for wrong, problem in (
        (["c.mp3"], r"c\.mp3 has not failed: it is done"),
        (["a.mp3", "x.mp3"], f"batch {BATCH} has no file x.mp3: did you mean b.mp3 or a.mp3"),
        (["\udcff.mp3"], "has no file \udcff.mp3"),
        (["\x1b[2J", "\0"], "has no file \0, \x1b"),
    ):
        with pytest.raises(Permanent, match=problem.replace("[", r"\[")) as refused:
            retrying(redis, database).batch(BATCH, wrong)
        assert isinstance(refused.value, Unknown) == ("has no file" in problem)
    for names in (None, ["a.mp3"]):
        with pytest.raises(Unknown, match="there is no batch 20250622-143059"):
            retrying(redis, database).batch("20250622-143059", names)
    for batch_id in ("../x", "", "a b", "\udcff", "x" * 101):
        with pytest.raises(Permanent, match="is invalid"):
            retrying(redis, database).batch(batch_id)
    assert (statuses(fleet), queued(redis), is_finished(fleet)) == (before, [], True)


def test_a_batch_without_failed_files_is_refused(fleet: Fleet, redis: Any, database: Database) -> None:
    add_batch(fleet)
    add_file(fleet, "a.mp3", "done")
    with pytest.raises(Permanent, match="no failed files"):
        retrying(redis, database).batch(BATCH)
    assert queued(redis) == []


@pytest.mark.usefixtures("failed")
def test_a_batch_whose_archive_is_gone_is_refused_and_stays_as_it_is(
    fleet: Fleet, redis: Any, database: Database
) -> None:
    fleet.query("UPDATE batches SET s3_key = 'archives/gone.tar'")
    with pytest.raises(Permanent, match="is not in the bucket"):
        retrying(redis, database).batch(BATCH)
    assert (statuses(fleet)["a.mp3"], queued(redis), is_finished(fleet)) == (("failed", "broken"), [], True)


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("finishing", [False, True])
def test_a_batch_in_work_is_refused_and_stays_as_it_is(
    fleet: Fleet, redis: Any, database: Database, finishing: bool
) -> None:
    adopt(redis)
    if finishing:
        Batches(redis, "here").open(BATCH, 0)
        redis.delete(f"batch:{BATCH}:host")  # so that only this says so
    again = retrying(redis, database)
    with pytest.raises(Permanent, match="is in progress"):
        again.batch(BATCH)
    with pytest.raises(Permanent, match="is in progress"):
        again.dead_letter(again.dead_letters[0])
    assert (statuses(fleet)["a.mp3"], queued(redis), redis.llen("queue:transcribe:dead")) == (
        ("failed", "broken"),
        [],
        3,
    )


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("finishing", [False, True])
def test_a_batch_that_comes_into_work_meanwhile_is_not_queued_beside_it(
    redis: Any, database: Database, monkeypatch: pytest.MonkeyPatch, finishing: bool
) -> None:
    real = retry.reopen

    def meanwhile(*args: Any) -> None:
        real(*args)
        adopt(redis)
        if finishing:
            Batches(redis, "here").open(BATCH, 0)
            redis.delete(f"batch:{BATCH}:host")

    monkeypatch.setattr(retry, "reopen", meanwhile)
    with pytest.raises(Permanent, match="just come into work"):
        retrying(redis, database).batch(BATCH)
    assert queued(redis) == []
    assert redis.llen("queue:transcribe:dead") == 3


@pytest.mark.usefixtures("failed")
def test_a_batch_that_no_host_has_any_more_can_be_tried_again(redis: Any, database: Database) -> None:
    """Its host was lost, and its archive was a dead letter after that."""
    adopt(redis).open(BATCH, 3)
    assert Batches(redis, "").hand_back("queue:unpack", BATCH, "{}", "here", "3", "0", "0")
    redis.delete("queue:unpack")
    assert retrying(redis, database).batch(BATCH) == f"2 files of batch {BATCH}"
    assert len(queued(redis)) == 1


# --- dead letters ------------------------------------------------------------------------------------------


def test_an_archive_that_was_never_unpacked_is_queued_by_its_dead_letter(redis: Any, database: Database) -> None:
    for _ in range(2):  # delivered twice, dead-lettered twice
        add_dead_letter(redis, "queue:unpack", unpack_job(file_count=7), CUT)
    again = retrying(redis, database)
    assert again.dead_letter(again.dead_letters[0]) == f"batch {BATCH}"
    (job,) = queued(redis)
    assert (job["batch_id"], job["s3_key"], job["file_count"]) == (BATCH, ARCHIVE, None)
    assert (redis.llen("queue:unpack:dead"), again.dead_letters) == (0, [])


def test_an_archive_that_was_never_unpacked_is_queued_by_its_batch(redis: Any, database: Database) -> None:
    add_dead_letter(redis, "queue:unpack", unpack_job("other"), CUT)
    add_dead_letter(redis, "queue:unpack", unpack_job(), CUT)
    assert retrying(redis, database).batch(BATCH) == f"batch {BATCH}"
    assert [job["batch_id"] for job in queued(redis)] == [BATCH]
    assert only(read_dead_letters(redis, QUEUES)).fields["batch_id"] == "other"


@pytest.mark.parametrize("by", ["batch", "dead letter"])
def test_a_letter_stays_while_its_archive_is_not_there(redis: Any, database: Database, by: str) -> None:
    add_dead_letter(redis, "queue:unpack", unpack_job("other"), CUT)
    again = retrying(redis, database)
    with pytest.raises(Permanent, match="is not in the bucket"):
        again.batch("other") if by == "batch" else again.dead_letter(again.dead_letters[0])
    assert (queued(redis), redis.llen("queue:unpack:dead")) == ([], 1)


@pytest.mark.usefixtures("failed")
@pytest.mark.parametrize("by", ["batch", "dead letter"])
def test_the_letter_of_an_archive_goes_with_the_files_of_its_batch(
    fleet: Fleet, redis: Any, database: Database, by: str
) -> None:
    add_dead_letter(redis, "queue:unpack", unpack_job(), CUT)
    add_dead_letter(redis, "queue:unpack", unpack_job("other"), CUT)
    again = retrying(redis, database)
    dead_letter = next(dead_letter for dead_letter in again.dead_letters if dead_letter.job == unpack_job())
    assert (again.batch(BATCH) if by == "batch" else again.dead_letter(dead_letter)) == f"2 files of batch {BATCH}"
    assert len(queued(redis)) == 1
    assert [dead_letter.fields["batch_id"] for dead_letter in read_dead_letters(redis, ["queue:unpack"])] == [
        "other"
    ]


def test_the_letter_of_a_file_that_is_done_goes_and_nothing_is_queued(
    fleet: Fleet, redis: Any, database: Database
) -> None:
    add_file(fleet, "a.mp3", "done")
    add_dead_letter(redis, "queue:transcribe", file_job("a.mp3"))
    again = retrying(redis, database)
    assert "has not failed" in again.dead_letter(again.dead_letters[0])
    assert (queued(redis), redis.llen("queue:transcribe:dead")) == ([], 0)


OTHERS = [
    ("queue:transfer", '{"remote_path": "/monday.tar"}'),
    ("queue:transcribe", '{"batch_id": "x"}'),
    ("queue:unpack", "no JSON"),
    ("queue:unpack", '{"batch_id": "../x", "s3_key": "archives/x.tar"}'),
    ("queue:unpack", '{"batch_id": "x", "s3_key": ""}'),
    ("queue:unpack", '{"batch_id": "x", "s3_key": "\\ud800"}'),
    ("queue:unpack", json.dumps({"batch_id": "x", "s3_key": "k" * 1025})),
    ("queue:unpack", '{"batch_id": ["x"], "s3_key": "archives/x.tar"}'),
    ("queue:unpack", '{"batch_id": "x", "s3_key": 7}'),
]


def test_any_other_job_goes_back_to_its_queue_as_it_was(redis: Any, database: Database) -> None:
    for queue, job in OTHERS:
        redis.delete(queue)
        add_dead_letter(redis, queue, job)
        again = retrying(redis, database)
        assert again.dead_letter(only(again.dead_letters)) == f"{job} in {queue}"
        assert redis.lrange(queue, 0, -1) == [job]
        assert (redis.llen(f"{queue}:dead"), again.dead_letters) == (0, [])


def test_garbage_goes_back_byte_for_byte(redis: Any, database: Database) -> None:
    redis.execute_command("RPUSH", "queue:unpack:dead", b"\xff\xfe garbage \x00")
    again = retrying(redis, database)
    again.dead_letter(only(again.dead_letters))
    assert redis.execute_command("LRANGE", "queue:unpack", 0, -1) == ["\udcff\udcfe garbage \x00"]
    assert redis.llen("queue:unpack:dead") == 0


def test_a_letter_that_somebody_else_has_taken_is_not_queued_again(redis: Any, database: Database) -> None:
    add_dead_letter(redis, "queue:transfer", '{"remote_path": "/monday.tar"}')
    first, second = retrying(redis, database), retrying(redis, database)
    first.dead_letter(only(first.dead_letters))
    second.dead_letter(only(second.dead_letters))
    assert len(queued(redis, "queue:transfer")) == 1


def test_of_two_equal_letters_one_is_taken(redis: Any, database: Database) -> None:
    for _ in range(2):
        add_dead_letter(redis, "queue:transfer", '{"remote_path": "/monday.tar"}')
    again = retrying(redis, database)
    again.dead_letter(again.dead_letters[0])
    assert redis.llen("queue:transfer:dead") == len(again.dead_letters) == 1
