"""A deletion is one transaction: all of a file goes, a tombstone without words stays, nobody makes a row again."""

import datetime
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg2
import pytest

from pipeline.foundation.archive_origin import Origin
from pipeline.store import deletion, holds
from pipeline.store.alerts import save_search
from pipeline.store.audit import Wanted, read_entries
from pipeline.store.database import GONE, Database
from pipeline.store.deletion import Refused
from pipeline.store.tombstones import name_sha256
from tests.store.test_alerts import write
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_file

ARCHIVE = f"archives/{BATCH}.tar"
ACTOR = "cli:ann@ops"
TABLES = ("audio_files", "transcripts", "passages", "classifications", "alerts", "webhook_outbox")


def rows_of(fleet: Fleet) -> dict[str, int]:
    """How many rows each table has that holds what was said or heard."""
    return {table: fleet.query(f"SELECT count(*) FROM {table}")[0][0] for table in TABLES}


def keys(fleet: Fleet) -> list[str]:
    """What is still to be deleted in S3."""
    found = fleet.query("SELECT object_keys FROM pending_deletions ORDER BY pending_id")
    return sorted({key for (some,) in found for key in some})


def done(fleet: Fleet, database: Database, name: str, *texts: str) -> int:
    """A file in which this was heard, whose Opus is kept; gives its id."""
    audio_id = write(fleet, database, name, *texts)
    fleet.query("INSERT INTO classifications VALUES (%s, 'content', 'speech', 1)", audio_id)
    database.update_audio_s3_path(audio_id, f"processed/2025-06-22/{audio_id}.opus")
    fleet.query("UPDATE audio_files SET created_at = '2025-06-22 10:00Z' WHERE audio_id = %s", audio_id)
    return audio_id


def test_a_file_goes_with_all_that_it_has(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, files=2)
    save_search(database, "fires", "fire")
    gone = done(fleet, database, "a.mp3", "there is a fire")
    kept = done(fleet, database, "b.mp3", "another fire")
    assert rows_of(fleet)["webhook_outbox"] == 2
    found = deletion.delete_files(database, BATCH, [gone], ACTOR)
    assert (found.files, found.archive) == (1, False)
    assert set(rows_of(fleet).values()) == {1}
    assert fleet.query("SELECT audio_id FROM audio_files") == [(kept,)]
    assert fleet.query("SELECT data ->> 'audio_id' FROM webhook_outbox") == [(str(kept),)]
    assert fleet.query("SELECT file_count, archive_deleted_at FROM batches") == [(1, None)]
    assert keys(fleet) == [f"processed/2025-06-22/{gone}.json", f"processed/2025-06-22/{gone}.opus"]


def test_what_stays_of_a_file_has_no_words_and_no_name(fleet: Fleet, database: Database) -> None:
    add_batch(fleet)
    gone = done(fleet, database, "jane-doe.mp3", "the secret fire")
    fleet.query("UPDATE audio_files SET source_sha256 = %s", "0a" * 32)
    deletion.delete_files(database, BATCH, [gone], ACTOR)
    ((key, text),) = fleet.query(
        "SELECT tombstone_key, tombstone::text FROM pending_deletions WHERE audio_id IS NOT NULL"
    )
    assert key == f"tombstones/{BATCH}/{gone}.json"
    left = json.loads(text)
    assert datetime.datetime.fromisoformat(left.pop("deleted_at")).tzinfo
    assert left == {
        "batch_id": BATCH, "audio_id": gone, "name_sha256": name_sha256("jane-doe.mp3"),
        "source_sha256": "0a" * 32, "archive_sha256": None,
    }  # fmt: skip
    everything = "".join(
        str(fleet.query(f"SELECT * FROM {table}")) for table in ("tombstones", "audit", "batches")
    )
    assert "jane" not in everything + text
    assert "secret" not in everything + text


def test_the_last_file_takes_the_archive_along(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, files=2)
    one, other = (done(fleet, database, name, "hello") for name in ("a.mp3", "b.mp3"))
    assert not deletion.delete_files(database, BATCH, [one], ACTOR).archive
    assert deletion.delete_files(database, BATCH, [other], ACTOR).archive
    assert ARCHIVE in keys(fleet)
    assert deletion.delete_files(database, BATCH, [other], ACTOR) == deletion.Deleted(0, False)


def test_an_archive_that_was_queued_from_another_place_is_left(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, s3_key="shared/other.tar")
    assert not deletion.delete_files(database, BATCH, [done(fleet, database, "a.mp3", "hello")], ACTOR).archive
    assert all(key.startswith("processed/") for key in keys(fleet))


@pytest.mark.parametrize("what", ["file", "batch"])
def test_what_is_in_progress_or_on_hold_is_refused_wholly(fleet: Fleet, database: Database, what: str) -> None:
    add_batch(fleet, files=2)
    ids = [done(fleet, database, "a.mp3", "hello"), add_file(fleet, "b.mp3", "processing")]

    def delete() -> Any:
        if what == "file":
            return deletion.delete_files(database, BATCH, ids, ACTOR)
        return deletion.delete_batch(database, BATCH, ACTOR)

    with pytest.raises(Refused, match=f"1 file of batch {BATCH} still in progress: {ids[1]}"):
        delete()
    fleet.query("UPDATE audio_files SET status = 'failed' WHERE audio_id = %s", ids[1])
    assert holds.place(database, BATCH, "case 12", ACTOR)
    with pytest.raises(Refused, match="on hold: case 12"):
        delete()
    assert (rows_of(fleet)["audio_files"], keys(fleet)) == (2, [])
    assert fleet.query("SELECT * FROM tombstones") == []
    assert holds.release(database, BATCH, ACTOR)
    assert delete().files == 2


def test_who_deleted_what_is_in_the_audit_log(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, files=2)
    one, _ = (done(fleet, database, name, "hello") for name in ("a.mp3", "b.mp3"))
    deletion.delete_files(database, BATCH, [one], ACTOR)
    deletion.delete_batch(database, BATCH, "cli:bob@ops")
    newest, oldest = read_entries(database, 10)
    assert (newest.actor, newest.action, newest.subject, newest.detail["archive"]) == (
        "cli:bob@ops", "delete", BATCH, True,
    )  # fmt: skip
    assert (oldest.actor, oldest.detail) == (ACTOR, {"files": 1, "audio_ids": [one], "archive": False})
    assert [entry.actor for entry in read_entries(database, 10, wanted=Wanted(actor=ACTOR))] == [ACTOR]
    assert read_entries(database, 10, wanted=Wanted(action="hold")) == []
    assert len(read_entries(database, 10, wanted=Wanted(subject=BATCH, since=oldest.at))) == 2
    assert read_entries(database, 10, wanted=Wanted(until=oldest.at)) == []


# --- nobody makes a row again --------------------------------------------------------------------------------


@pytest.fixture
def gone(fleet: Fleet, database: Database) -> str:
    """A file that was deleted, of a batch that has another."""
    add_batch(fleet, files=2)
    fleet.query("UPDATE batches SET archive_sha256 = %s", "ab" * 32)
    add_file(fleet, "b.mp3", "done")
    audio_id = done(fleet, database, "a.mp3", "hello")
    fleet.query("UPDATE audio_files SET source_sha256 = %s WHERE audio_id = %s", "0a" * 32, audio_id)
    deletion.delete_files(database, BATCH, [audio_id], ACTOR)
    return "a.mp3"


def names(fleet: Fleet) -> list[tuple[str, str]]:
    return fleet.query("SELECT batch_id, original_filename FROM audio_files ORDER BY 1, 2")


def test_a_late_delivery_makes_no_row(fleet: Fleet, database: Database, gone: str) -> None:
    assert database.start_file(BATCH, gone) is GONE
    database.fail_file(BATCH, gone, "broken")
    assert names(fleet) == [(BATCH, "b.mp3")]
    assert database.start_file(BATCH, "c.mp3").status == "processing"


def test_the_same_archive_makes_no_row(fleet: Fleet, database: Database, gone: str) -> None:
    assert database.open_batch(BATCH, ARCHIVE, [gone, "b.mp3"], "here") == {gone}
    assert names(fleet) == [(BATCH, "b.mp3")]
    assert fleet.query("SELECT file_count FROM batches") == [(1,)]


def test_the_same_bytes_under_another_name_make_no_row(fleet: Fleet, database: Database, gone: str) -> None:
    digests = {"x/renamed.mp3": "0a" * 32, "new.mp3": "0b" * 32}
    assert database.open_batch("later", "archives/later.tar", [*digests], "here", digests=digests) == {
        "x/renamed.mp3"
    }
    assert names(fleet) == [(BATCH, "b.mp3"), ("later", "new.mp3")]
    tombstone = "SELECT audio_id, source_sha256 FROM tombstones WHERE batch_id = 'later' AND name_sha256 = %s"
    assert fleet.query(tombstone, name_sha256("x/renamed.mp3")) == [(None, "0a" * 32)]
    assert database.start_file("later", "x/renamed.mp3") is GONE


def test_of_a_file_whose_digest_is_not_known_the_same_archive_is_enough(
    fleet: Fleet, database: Database, gone: str
) -> None:
    fleet.query("UPDATE tombstones SET source_sha256 = NULL")
    again = Origin("/r/again.tar", "ec2", 12, "ab" * 32)
    digests = {gone: "0a" * 32, "b.mp3": "0b" * 32}
    other = Origin("/r/other.tar", "ec2", 12, "cd" * 32)
    assert database.open_batch("other", "archives/other.tar", [*digests], "here", other, digests) == set()
    assert database.open_batch("later", "archives/later.tar", [*digests], "here", again, digests) == {gone}
    digests = {"copy.mp3": "0a" * 32}  # which is known from here
    third = Origin("/r/third.tar", "ec2", 12, "ef" * 32)
    assert database.open_batch("third", "archives/third.tar", [*digests], "here", third, digests) == {*digests}


def test_an_archive_of_which_all_was_deleted_goes_when_its_batch_is_finished(
    fleet: Fleet, database: Database, gone: str
) -> None:
    digests = {"again.mp3": "0a" * 32}
    for _ in range(2):  # delivered twice
        assert database.open_batch("later", "archives/later.tar", [*digests], "here", digests=digests) == {
            *digests
        }
    of_archive = [one for one in deletion.pending(database, 0, 99) if "later" in one.keys[0]]
    assert of_archive == []  # a worker may still fetch it
    database.finish_batch("later")
    of_archive = [one for one in deletion.pending(database, 0, 99) if "later" in one.keys[0]]
    assert {tuple(one.keys) for one in of_archive} == {("archives/later.tar",)}


def test_a_file_that_was_there_before_as_the_same_bytes_stays(fleet: Fleet, database: Database, gone: str) -> None:
    add_batch(fleet, "earlier")
    add_file(fleet, "copy.mp3", "done", batch_id="earlier")
    digests = {"copy.mp3": "0a" * 32}
    assert database.open_batch("earlier", "archives/earlier.tar", [*digests], "here", digests=digests) == set()


@pytest.mark.parametrize("make", ["start_file", "fail_file", "open_batch"])
def test_no_row_is_made_beside_a_deletion(fleet: Fleet, database: Database, make: str) -> None:
    """The worker comes while the deletion is under way, and waits for its end."""
    add_batch(fleet, files=2)
    audio_id = done(fleet, database, "a.mp3", "hello")
    ways: dict[str, Callable[[], object]] = {
        "start_file": lambda: database.start_file(BATCH, "a.mp3"),
        "fail_file": lambda: database.fail_file(BATCH, "a.mp3", "broken"),
        "open_batch": lambda: database.open_batch(BATCH, ARCHIVE, ["a.mp3"], "here"),
    }
    made = ways[make]
    with psycopg2.connect(fleet.postgres.url) as connection, connection.cursor() as cursor:
        deletion._lock(cursor, BATCH)
        found = deletion._settled(cursor, BATCH, [audio_id])
        with ThreadPoolExecutor(1) as worker:
            if make != "fail_file":
                work = worker.submit(made)
                _wait_for_lock(fleet)
                deletion._delete(cursor, BATCH, found, ACTOR, "delete")
            else:  # its INSERT finds the row gone, its snapshot is from before the tombstone
                deletion._delete(cursor, BATCH, found, ACTOR, "delete")
                work = worker.submit(made)
                _wait_for_lock(fleet)
            connection.commit()
            work.result(20)
    connection.close()
    assert names(fleet) == []


def _wait_for_lock(fleet: Fleet) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'pipeline'"
    for _ in range(200):
        if fleet.query(waiting)[0][0]:
            return
        threading.Event().wait(0.02)
    raise AssertionError("nobody waits for the deletion")


def test_an_opus_that_came_after_the_deletion_is_deleted_too(fleet: Fleet, database: Database) -> None:
    add_batch(fleet)
    audio_id = done(fleet, database, "a.mp3", "hello")
    deletion.delete_files(database, BATCH, [audio_id], ACTOR)
    fleet.query("DELETE FROM pending_deletions")  # it is carried out
    database.update_audio_s3_path(audio_id, f"processed/2025-06-22/{audio_id}.opus")
    assert keys(fleet) == [f"processed/2025-06-22/{audio_id}.json", f"processed/2025-06-22/{audio_id}.opus"]
    database.update_audio_s3_path(10**9, "processed/2025-06-22/1000000000.opus")  # never deleted: reconcile's
    assert len(keys(fleet)) == 2


# --- rights --------------------------------------------------------------------------------------------------


def test_the_workers_may_not_delete_and_are_told_what_grants_it(fleet: Fleet, database: Database) -> None:
    as_worker = Database(fleet.postgres.worker_url)
    add_batch(fleet)
    audio_id = done(fleet, database, "a.mp3", "hello")
    assert deletion.lack_of_rights(database) is None
    said = deletion.lack_of_rights(as_worker) or ""
    assert "audio_pipeline may not delete rows of audio_files and pending_deletions" in said
    assert "access/retention.sql" in said
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        deletion.delete_files(as_worker, BATCH, [audio_id], ACTOR)
    assert holds.place(as_worker, BATCH, "", ACTOR)
    assert "may not release" in (holds.may_release(as_worker) or "")
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        holds.release(as_worker, BATCH, ACTOR)
    assert not holds.place(database, BATCH, "", ACTOR)
    assert [(hold.batch_id, hold.actor) for hold in holds.read_holds(database)] == [(BATCH, ACTOR)]
    as_worker.close()
