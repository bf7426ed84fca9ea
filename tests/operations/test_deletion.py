"""What a deletion leaves to do in S3 is done by whoever comes next, wherever the process died; what a
backup brings back is deleted again."""

import os
import random
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import s3_tombstones
import s3_utils
from pipeline.operations import deletion as in_s3
from pipeline.operations.deletion import apply_tombstones, carry_out
from pipeline.operations.failures import read_dead_letters
from pipeline.operations.retry import Retry
from pipeline.store import deletion, holds
from pipeline.store.database import GONE, Database
from pipeline.store.tombstones import from_json, ids_of
from tests.operations.test_reconcile import reconciler
from tests.store.test_deletion import ACTOR, ARCHIVE, done, keys, names
from tests.support.fleet import Fleet
from tests.support.steps import AT_LENGTH, BATCH, add_batch, add_file, object_keys, put

KILLS = 20
# Before and after each side effect of a deletion.
POINTS = [
    (deletion, "delete_batch"), (s3_tombstones, "put"), (s3_tombstones, "delete"), (deletion, "forget_pending"),
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("_s3")


@pytest.fixture
def ids(fleet: Fleet, database: Database) -> list[int]:
    """Three files of a finished batch, with all that they have in S3."""
    add_batch(fleet, files=3)
    audio_ids = [done(fleet, database, name, "hello") for name in ("a.mp3", "b.mp3", "c.mp3")]
    put(fleet, ARCHIVE, *(f"processed/2025-06-22/{one}.{end}" for one in audio_ids for end in ("opus", "json")))
    return audio_ids


def delete_all(fleet: Fleet) -> None:
    """What `pipelinectl delete BATCH` does, in a process of its own."""
    database = Database(fleet.postgres.url)
    s3_utils.get_s3_client.cache_clear()
    deletion.delete_batch(database, BATCH, ACTOR)
    carry_out(database, s3_tombstones.store())


def killed_at(work: Callable[[], object], module: Any, name: str, when: str, call: int) -> bool:
    """Whether a process was killed that does the work: before or after that call of a function."""
    child = os.fork()
    if child == 0:
        calls = 0
        function = getattr(module, name)

        def called(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if (here := calls == call) and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments)
            if here:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(module, name, called)
        try:
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("module", "name"), POINTS, ids=[name for _, name in POINTS])
def test_a_deletion_that_was_killed_is_ended_by_the_next(
    fleet: Fleet, database: Database, module: Any, name: str, when: str
) -> None:
    chance = random.Random(name + when)
    most = {"put": 4, "delete": 7}.get(name, 1)
    for number in range(KILLS if AT_LENGTH else 3):
        fleet.query("TRUNCATE audio_files, batches, tombstones, pending_deletions, audit CASCADE")
        add_batch(fleet, files=3)
        audio_ids = [done(fleet, database, f"{of}.mp3", "hello") for of in "abc"]
        put(
            fleet, ARCHIVE, *(f"processed/2025-06-22/{one}.{end}" for one in audio_ids for end in ("opus", "json"))
        )
        call = chance.randint(1, most)
        assert killed_at(partial(delete_all, fleet), module, name, when, call), (number, call)
        is_committed = (name, when) != ("delete_batch", "before")
        assert len(names(fleet)) == (0 if is_committed else 3)
        assert fleet.query("SELECT count(*) FROM tombstones") == [(3 if is_committed else 0,)]
        assert fleet.query("SELECT count(*) FROM audit") == [(int(is_committed),)]
        if not is_committed:
            deletion.delete_batch(database, BATCH, ACTOR)
        carry_out(database, s3_tombstones.store())
        assert object_keys(fleet, "processed/") == object_keys(fleet, "archives/") == keys(fleet) == []
        assert {f"tombstones/{BATCH}/{one}.json" for one in [*audio_ids, "archive"]} <= {
            *object_keys(fleet, "tombstones/")
        }


def test_the_tombstone_is_there_before_anything_goes(
    fleet: Fleet, database: Database, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    deletion.delete_files(database, BATCH, ids[:1], ACTOR)
    seen = []
    monkeypatch.setattr(s3_tombstones, "delete", lambda key: seen.append((key, object_keys(fleet, "tombstones/"))))
    assert carry_out(database, s3_tombstones.store()) == 1
    assert [found for _, found in seen] == [[f"tombstones/{BATCH}/{ids[0]}.json"]] * 2


def test_an_archive_whose_files_are_tried_again_waits(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, files=1)
    add_file(fleet, "a.mp3", "failed")
    put(fleet, ARCHIVE)
    assert deletion.drop_archives(database, [BATCH], ACTOR, "retention") == [BATCH]
    fleet.query("UPDATE audio_files SET status = 'processing'")  # `retry`
    assert carry_out(database, s3_tombstones.store()) == 0
    assert object_keys(fleet, "archives/") == [ARCHIVE]
    fleet.query("UPDATE audio_files SET status = 'done'")
    assert carry_out(database, s3_tombstones.store()) == 1
    assert object_keys(fleet, "archives/") == []


def test_nothing_else_is_ever_deleted_in_s3(fleet: Fleet) -> None:
    for key in ("sources/a.json", "tombstones/a/1.json", "x"):
        with pytest.raises(ValueError, match="neither an archive nor"):
            s3_tombstones.delete(key)
    with pytest.raises(ValueError, match="no tombstone"):
        s3_tombstones.put("processed/1.json", "{}")


def test_only_tombstones_are_read_as_such(fleet: Fleet) -> None:
    assert ids_of(f"tombstones/{BATCH}/12.json") == (BATCH, 12)
    assert ids_of(f"tombstones/{BATCH}/archive.json") == (BATCH, None)
    for key in (
        "tombstones/x.json",
        f"tombstones/{BATCH}/12.txt",
        "tombstones//1.json",
        f"sources/{BATCH}/12.json",
    ):
        assert ids_of(key) is None
    for body in ("[]", "{", '{"batch_id": 1, "deleted_at": "x"}', '{"batch_id": "a", "more": 1}'):
        with pytest.raises(ValueError, match=r"."):
            from_json(body)


# --- nothing brings it back ----------------------------------------------------------------------------------


def test_retry_does_not_bring_it_back(fleet: Fleet, redis: Any, database: Database) -> None:
    add_batch(fleet, files=2)
    gone, _ = add_file(fleet, "a.mp3", "failed"), add_file(fleet, "b.mp3", "failed")
    put(fleet, ARCHIVE)
    deletion.delete_files(database, BATCH, [gone], ACTOR)
    retrying = Retry(
        redis,
        database,
        "queue:unpack",
        read_dead_letters(redis, []),
        s3_utils.archive_origin,
        s3_utils.archive_key,
    )
    assert retrying.batch(BATCH) == f"1 file of batch {BATCH}"
    assert database.open_batch(BATCH, ARCHIVE, ["a.mp3", "b.mp3"], "here") == {"a.mp3"}
    assert names(fleet) == [(BATCH, "b.mp3")]


def test_reconcile_does_not_bring_it_back(fleet: Fleet, redis: Any, database: Database, ids: list[int]) -> None:
    """Neither what S3 still has of a deletion, nor its end, makes work."""
    deletion.delete_files(database, BATCH, ids[:1], ACTOR)
    fleet.query("UPDATE batches SET finished_at = NULL")  # the last step of the batch was lost
    (finding,) = [one for one in reconciler(redis, database).findings() if not one.destroys]
    assert (finding.kind, finding.repair and finding.repair()) == ("unmarked", True)
    carry_out(database, s3_tombstones.store())
    assert list(reconciler(redis, database).findings()) == []
    deletion.delete_batch(database, BATCH, ACTOR)
    carry_out(database, s3_tombstones.store())
    assert list(reconciler(redis, database).findings()) == []
    assert redis.llen("queue:unpack") == 0


def backup(fleet: Fleet) -> list[tuple[Any, ...]]:
    return fleet.query("SELECT audio_id, batch_id, original_filename, status, s3_opus_path FROM audio_files")


def restore(fleet: Fleet, rows: list[tuple[Any, ...]]) -> None:
    """PostgreSQL as it was before the deletion, which it knows nothing of."""
    fleet.query("TRUNCATE audio_files, batches, tombstones, pending_deletions, audit CASCADE")
    add_batch(fleet, files=len(rows))
    for row in rows:
        fleet.query(
            "INSERT INTO audio_files (audio_id, batch_id, original_filename, status, s3_opus_path)"
            " VALUES (%s, %s, %s, %s, %s)",
            *row,
        )


def test_a_restored_backup_does_not_bring_it_back(fleet: Fleet, database: Database, ids: list[int]) -> None:
    before = backup(fleet)
    deletion.delete_files(database, BATCH, ids[:1], ACTOR)
    carry_out(database, s3_tombstones.store())
    restore(fleet, before)
    holds.place(database, BATCH, "", ACTOR)  # what was deleted before goes whatever has come since
    put(fleet, f"processed/2025-06-22/{ids[0]}.opus")  # S3 was restored too
    assert apply_tombstones(database, s3_tombstones.store(), ACTOR) == 1
    assert names(fleet) == [(BATCH, "b.mp3"), (BATCH, "c.mp3")]
    assert fleet.query("SELECT file_count FROM batches") == [(2,)]
    assert fleet.query("SELECT action FROM audit ORDER BY audit_id DESC LIMIT 1") == [("delete again",)]
    carry_out(database, s3_tombstones.store())
    assert f"processed/2025-06-22/{ids[0]}.opus" not in object_keys(fleet)
    assert apply_tombstones(database, s3_tombstones.store(), ACTOR) == 0  # and again


def test_a_restored_backup_does_not_bring_a_batch_back(fleet: Fleet, database: Database, ids: list[int]) -> None:
    before = backup(fleet)
    deletion.delete_batch(database, BATCH, ACTOR)
    carry_out(database, s3_tombstones.store())
    restore(fleet, before)
    put(fleet, ARCHIVE)
    assert apply_tombstones(database, s3_tombstones.store(), ACTOR) == 3
    carry_out(database, s3_tombstones.store())
    assert (names(fleet), object_keys(fleet, "archives/")) == ([], [])


def test_a_rebuilt_database_knows_what_was_deleted(fleet: Fleet, database: Database, ids: list[int]) -> None:
    deletion.delete_files(database, BATCH, ids[:1], ACTOR)
    carry_out(database, s3_tombstones.store())
    fleet.query("TRUNCATE audio_files, batches, tombstones, pending_deletions, audit CASCADE")
    assert apply_tombstones(database, s3_tombstones.store(), ACTOR) == 0
    assert database.open_batch(BATCH, ARCHIVE, ["a.mp3", "b.mp3"], "here") == {"a.mp3"}
    assert database.start_file(BATCH, "a.mp3") is GONE


def test_an_empty_database_knows_which_archives_were_deleted(
    fleet: Fleet, database: Database, ids: list[int]
) -> None:
    deletion.delete_batch(database, BATCH, ACTOR)
    carry_out(database, s3_tombstones.store())
    fleet.query("TRUNCATE audio_files, batches, tombstones, pending_deletions, audit CASCADE")
    apply_tombstones(database, s3_tombstones.store(), ACTOR)
    assert database.is_finished(BATCH)  # a job for it is dropped
    assert s3_tombstones.is_deleted(BATCH)


def test_tombstones_are_read_once_where_postgresql_has_them(
    fleet: Fleet, database: Database, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    deletion.delete_batch(database, BATCH, ACTOR)
    carry_out(database, s3_tombstones.store())
    read: list[list[str]] = []
    monkeypatch.setattr(s3_tombstones, "read", read.append)
    monkeypatch.setattr(in_s3, "_KEYS_AT_A_TIME", 2)
    assert apply_tombstones(database, s3_tombstones.store(), ACTOR) == 0
    assert read == []


def test_a_remote_file_whose_archive_was_deleted_is_not_brought_again(
    fleet: Fleet, database: Database, ids: list[int]
) -> None:
    s3_utils.note_source("/r/monday.tar 12 1750000000", BATCH, True)
    deletion.delete_batch(database, BATCH, ACTOR)
    carry_out(database, s3_tombstones.store())
    assert s3_utils.batch_of_source("/r/monday.tar 12 1750000000") == (BATCH, False)
    assert s3_tombstones.batch_of_source("/r/monday.tar 12 1750000000") == (BATCH, True)
    assert s3_tombstones.batch_of_source("/r/other.tar") == (None, False)
