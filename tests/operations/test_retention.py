"""Retention: what is too old goes, in small steps, by one worker; what is on hold, or not old enough, stays."""

import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psycopg2
import pytest

import s3_tombstones
import s3_utils
from pipeline.jobs.job_queue import heartbeat_key
from pipeline.jobs.stop_flag import StopFlag
from pipeline.operations import retention
from pipeline.operations.retention import TURN, Keep, Retention, what_is_due
from pipeline.store import deletion, holds
from pipeline.store.database import Database
from tests.operations.test_deletion import killed_at
from tests.operations.test_reconcile import reconciler
from tests.store.test_deletion import ACTOR, ARCHIVE, done, names
from tests.support.fleet import PROJECT, Fleet
from tests.support.servers import GuardedS3
from tests.support.steps import AT_LENGTH, BATCH, add_batch, add_file, object_keys, put, refusal

OTHER = "20250629-143052"
MakeRetention = Callable[..., Retention]


pytestmark = pytest.mark.usefixtures("_s3")


@pytest.fixture
def made(redis: Any, database: Database) -> MakeRetention:
    """What a worker of this name deletes with these settings."""

    def make(worker: str = "w1", archives: int = 0, opus: int = 0, transcripts: int = 0) -> Retention:
        redis.set(heartbeat_key(worker), "{}")
        process: Any = SimpleNamespace(id=worker, redis=redis, stop=StopFlag())
        return Retention(process, database, s3_tombstones.store(), Keep(archives, opus, transcripts))

    return make


def old(fleet: Fleet, database: Database, name: str, days: int, batch_id: str = BATCH) -> int:
    """A file that was unpacked so many days ago, in a recording that says it is from the year 1990."""
    audio_id = done(fleet, database, name, "hello")
    fleet.query(
        "UPDATE audio_files SET batch_id = %s, recorded_at = '1990-01-01Z',"
        " created_at = now() - %s * interval '1 day' WHERE audio_id = %s",
        batch_id, days, audio_id,
    )  # fmt: skip
    put(fleet, f"processed/2025-06-22/{audio_id}.opus", f"processed/2025-06-22/{audio_id}.json")
    return audio_id


def opus(fleet: Fleet) -> list[int]:
    return sorted(int(key.split("/")[2][:-5]) for key in object_keys(fleet, "processed/") if key.endswith("opus"))


def test_files_that_are_too_old_go_and_leave_tombstones(
    fleet: Fleet, database: Database, made: MakeRetention
) -> None:
    add_batch(fleet, files=2)
    gone, kept = old(fleet, database, "a.mp3", 31), old(fleet, database, "b.mp3", 29)
    failed = add_file(fleet, "c.mp3", "failed")
    fleet.query("UPDATE audio_files SET created_at = '2020-01-01Z' WHERE audio_id = %s", failed)
    made(transcripts=30).look()
    assert names(fleet) == [(BATCH, "b.mp3")]
    assert opus(fleet) == [kept]
    assert object_keys(fleet, "tombstones/") == [f"tombstones/{BATCH}/{one}.json" for one in (gone, failed)]
    assert fleet.query("SELECT actor, action FROM audit") == [("worker:w1", "retention")]


def test_an_opus_that_is_too_old_goes_and_the_transcript_stays(
    fleet: Fleet, redis: Any, database: Database, made: MakeRetention
) -> None:
    add_batch(fleet, files=2)
    put(fleet, ARCHIVE)
    gone, kept = old(fleet, database, "a.mp3", 8), old(fleet, database, "b.mp3", 6)
    made(opus=7).look()
    assert opus(fleet) == [kept]
    assert f"processed/2025-06-22/{gone}.json" in object_keys(fleet)
    assert fleet.query("SELECT status, s3_opus_path FROM audio_files WHERE audio_id = %s", gone) == [
        ("done", None)
    ]
    assert fleet.query("SELECT count(*) FROM transcripts") == [(2,)]
    assert fleet.query("SELECT * FROM tombstones") == []
    assert [one for one in reconciler(redis, database).findings() if one.kind in ("opus gone", "unqueued")] == []
    assert database.start_file(BATCH, "a.mp3").status == "done"  # a late delivery of it does nothing


def test_archives_of_finished_batches_go(fleet: Fleet, database: Database, made: MakeRetention) -> None:
    for batch_id, finished in ((BATCH, True), (OTHER, False), ("new", True)):
        add_batch(fleet, batch_id, finished=finished)
        put(fleet, f"archives/{batch_id}.tar")
    fleet.query("UPDATE batches SET finished_at = now() - interval '31 days' WHERE batch_id = %s", BATCH)
    fleet.query("UPDATE batches SET opened_at = now() - interval '99 days'")
    made(archives=30).look()
    assert object_keys(fleet, "archives/") == [f"archives/{OTHER}.tar", "archives/new.tar"]
    assert s3_tombstones.is_deleted(BATCH)
    assert database.is_finished(BATCH)


def test_what_is_on_hold_stays_until_it_is_released(fleet: Fleet, database: Database, made: MakeRetention) -> None:
    add_batch(fleet, files=1)
    fleet.query("UPDATE batches SET finished_at = '2020-01-01Z'")
    put(fleet, ARCHIVE)
    old(fleet, database, "a.mp3", 99)
    holds.place(database, BATCH, "", ACTOR)
    everything = object_keys(fleet)
    keeping = made(archives=1, opus=1, transcripts=1)
    assert keeping.step() == 0
    assert object_keys(fleet) == everything
    shown = {one.what: (one.kept, one.due, one.on_hold) for one in what_is_due(database, keeping.keep)}
    assert shown == {"files": ("1 days", 0, 1), "Opus": ("1 days", 0, 1), "archives": ("1 days", 0, 1)}
    holds.release(database, BATCH, ACTOR)
    assert [one.due for one in what_is_due(database, keeping.keep)] == [1, 1, 1]
    keeping.look()
    assert (names(fleet), object_keys(fleet, "archives/"), opus(fleet)) == ([], [], [])


def test_a_hold_that_comes_between_the_look_and_the_deletion_is_kept_to(
    fleet: Fleet, database: Database, made: MakeRetention, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_batch(fleet)
    old(fleet, database, "a.mp3", 99)
    delete = deletion.delete_files

    def delete_late(*arguments: Any) -> Any:
        holds.place(database, BATCH, "", ACTOR)
        return delete(*arguments)

    monkeypatch.setattr(deletion, "delete_files", delete_late)
    assert made(transcripts=1).step() == 1
    assert made(transcripts=1).step() == 0
    assert len(names(fleet)) == 1


def test_nothing_is_too_old_by_default(fleet: Fleet, database: Database, made: MakeRetention) -> None:
    add_batch(fleet)
    old(fleet, database, "a.mp3", 9999)
    assert made().step() == 0
    assert [one.kept for one in what_is_due(database, Keep(0, 0, 0))] == ["for ever"] * 3


def test_small_steps_reach_the_end(
    fleet: Fleet, database: Database, made: MakeRetention, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "FILES_AT_A_TIME", 2)
    add_batch(fleet, files=5)
    add_batch(fleet, OTHER, files=1)
    for name in "abcde":
        old(fleet, database, name, 40)
    old(fleet, database, "f", 41, OTHER)
    keeping = made(transcripts=30)
    assert [keeping.step() for _ in range(5)] == [1, 2, 2, 1, 0]
    assert names(fleet) == []


def test_one_worker_has_the_turn(fleet: Fleet, redis: Any, database: Database, made: MakeRetention) -> None:
    add_batch(fleet)
    old(fleet, database, "a.mp3", 40)
    redis.set(heartbeat_key("other"), "{}")
    redis.set(TURN, "other")
    made(transcripts=30).look()
    assert len(names(fleet)) == 1
    redis.delete(heartbeat_key("other"))  # it has died
    made(transcripts=30).look()
    assert names(fleet) == []
    assert redis.get(TURN) == ""
    assert redis.ttl(TURN) > 60


def test_a_worker_ends_what_pipelinectl_has_left(fleet: Fleet, database: Database, made: MakeRetention) -> None:
    add_batch(fleet)
    old(fleet, database, "a.mp3", 1)
    deletion.delete_batch(database, BATCH, ACTOR)
    assert len(opus(fleet)) == 1
    made().look()
    assert opus(fleet) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (deletion, "delete_files"), (deletion, "expire_opus"), (deletion, "drop_archives"), (s3_tombstones, "put"),
        (s3_tombstones, "delete"), (deletion, "forget_pending"),
    ],
)  # fmt: skip
def test_a_turn_that_was_killed_is_ended_by_the_next_worker(
    fleet: Fleet, redis: Any, database: Database, made: MakeRetention, module: Any, name: str, when: str
) -> None:
    kept: list[int] = []  # from time to time
    for number in range(20 if AT_LENGTH else 2):
        redis.flushall()
        fleet.query("TRUNCATE audio_files, batches, tombstones, pending_deletions, audit CASCADE")
        add_batch(fleet, files=2)
        add_batch(fleet, OTHER, files=1)
        fleet.query("UPDATE batches SET finished_at = '2020-01-01Z'")
        put(fleet, ARCHIVE, f"archives/{OTHER}.tar")
        old(fleet, database, "a.mp3", 50)
        old(fleet, database, "b.mp3", 20)
        kept.append(old(fleet, database, "c.mp3", 1, OTHER))

        def work() -> None:
            s3_utils.get_s3_client.cache_clear()
            dying = made("dying", archives=5, opus=10, transcripts=30)
            dying.database = Database(fleet.postgres.url)
            dying.look()

        assert killed_at(work, module, name, when, 1), number
        redis.delete(heartbeat_key("dying"))
        made("w2", archives=5, opus=10, transcripts=30).look()
        assert names(fleet) == [(BATCH, "b.mp3"), (OTHER, "c.mp3")]
        assert (opus(fleet), object_keys(fleet, "archives/")) == (kept, [])
        assert fleet.query("SELECT count(*) FROM pending_deletions") == [(0,)]


# --- rights --------------------------------------------------------------------------------------------------


def test_an_unpack_worker_that_may_not_delete_says_so_at_its_start(fleet: Fleet, database: Database) -> None:
    said = refusal(fleet.worker("unpack", OPUS_KEEP_DAYS="7"))
    assert "the role audio_pipeline may not delete rows of audio_files" in said
    assert "access/retention.sql grants it" in said


def test_the_rights_that_are_documented_are_enough(
    fleet: Fleet, redis: Any, guarded_s3: GuardedS3, monkeypatch: pytest.MonkeyPatch, database: Database
) -> None:
    """With access/retention.sql for PostgreSQL; S3 still refuses."""
    fleet.postgres.execute((PROJECT / "access/retention.sql").read_text().replace(':"role"', "audio_pipeline"))
    try:
        add_batch(fleet)
        old(fleet, database, "a.mp3", 99)
        as_worker = Database(fleet.postgres.worker_url)
        keeping = Retention(
            SimpleNamespace(id="w1", redis=redis, stop=StopFlag()),  # type: ignore[arg-type]
            as_worker, s3_tombstones.store(), Keep(9, 9, 9),
        )  # fmt: skip
        assert keeping.refusal() is None
        keeping.look()
        assert names(fleet) == []
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            holds.release(as_worker, BATCH, ACTOR)
        as_worker.close()
        said = refusal(
            fleet.worker(
                "unpack",
                TRANSCRIPT_KEEP_DAYS="7",
                S3_ENDPOINT=guarded_s3.endpoint,
                S3_BUCKET=guarded_s3.bucket,
                S3_ACCESS_KEY=guarded_s3.access_key,
                S3_SECRET_KEY=guarded_s3.secret_key,
            )
        )
        assert "access/s3-retention-policy.json grants it" in said
    finally:
        fleet.postgres.execute("REVOKE DELETE ON audio_files, pending_deletions FROM audio_pipeline")


def test_an_outage_is_said_once(
    made: MakeRetention, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = made()
    looks = iter([True, True, False])

    def fail() -> None:
        if not next(looks):
            keeping.worker.stop.set()
        raise psycopg2.OperationalError("no answer")

    monkeypatch.setattr(retention, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(keeping, "look", fail)
    with caplog.at_level(logging.WARNING):
        keeping.start()
        for thread in threading.enumerate():
            if thread.name == "retention":
                thread.join(60)
    assert keeping.worker.stop.is_set()
    assert [record.message for record in caplog.records] == ["retention: no answer"]
