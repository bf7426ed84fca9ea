"""backup and rebuild: S3 alone has what a database needs to be as it was."""

import datetime
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import psycopg2.errors
import pytest

import s3_tombstones
import s3_transcripts
from pipeline.jobs.job_queue import heartbeat_key
from pipeline.operations import rebuild as rebuild_module
from pipeline.operations.rebuild import Listed, Rebuild, Rebuilt, listed
from pipeline.store import deletion
from pipeline.store.database import Database
from pipeline.store.search import find
from pipeline.store.search_query import Query
from pipeline.store.transcript_files import TranscriptFiles
from tests.commands.test_pipelinectl import complaint, control, printed
from tests.store.test_transcripts import CUT, TURNED, hear
from tests.support.fleet import Fleet
from tests.support.servers import S3Server
from tests.support.steps import BATCH, add_batch, add_file, object_keys, s3_client, use_s3

OTHER = "20250623-000000"
# All that a file is. What a rebuilt row does not know is when the row was changed last.
STATE = {
    "audio_files": "SELECT to_jsonb(t) - 'updated_at' FROM audio_files AS t ORDER BY audio_id",
    "transcripts": "SELECT to_jsonb(t) FROM transcripts AS t ORDER BY audio_id",
    "passages": "SELECT to_jsonb(t) FROM passages AS t ORDER BY audio_id, position",
    "classifications": "SELECT to_jsonb(t) FROM classifications AS t ORDER BY audio_id, classifier, label",
    "batches": "SELECT to_jsonb(t) - 'finished_at', finished_at IS NULL FROM batches AS t ORDER BY batch_id",
    "tombstones": "SELECT to_jsonb(t) FROM tombstones AS t ORDER BY batch_id, name_sha256",
}
TABLES = f"{', '.join(STATE)}, pending_deletions, holds, alerts, saved_searches, webhook_outbox, audit"


def state(fleet: Fleet) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that a rebuilt database is to have."""
    return {table: fleet.query(sql) for table, sql in STATE.items()}


def lose(fleet: Fleet) -> None:
    """An empty database, whose ids start again."""
    fleet.query(f"TRUNCATE {TABLES} RESTART IDENTITY")


def keep(fleet: Fleet, *audio_ids: int) -> None:
    """The transcripts of these files in S3, as the GPU worker writes them."""
    database = Database(fleet.postgres.url)
    for audio_id in audio_ids:
        TranscriptFiles(database, s3_transcripts.put).keep(audio_id)
        (path,) = fleet.query("SELECT s3_opus_path FROM audio_files WHERE audio_id = %s", audio_id)[0]
        s3_client(fleet).put_object(Bucket=fleet.bucket, Key=path, Body=b"opus")
    database.close()


def rebuilt(fleet: Fleet, database: Database, **changes: Any) -> Rebuilt:
    store = {"listing": s3_transcripts.listing, "read": s3_transcripts.read, "tombstones": s3_tombstones.store()}
    return Rebuild(database, **{**store, **changes}).run("cli:me@here")


def names(fleet: Fleet) -> dict[str, str]:
    return dict(fleet.query("SELECT original_filename, status FROM audio_files ORDER BY 1"))


@pytest.fixture
def heard(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Files of every kind that are done, in two batches; one of the second has failed."""
    use_s3(fleet, monkeypatch)
    add_batch(fleet, BATCH, files=3)
    add_batch(fleet, OTHER, files=2, finished=False)
    fleet.query(
        "UPDATE batches SET archive_path = '/in/caf\\xe9.tar', archive_host = 'ec2', archive_bytes = 10240,"
        " archive_sha256 = repeat('ab', 32), opened_at = '2025-06-22 10:00:00.123456+02' WHERE batch_id = %s",
        BATCH,
    )
    word = {"start": 0.1, "end": 0.30000000000000004, "word": " Straße", "probability": 0.987654321}
    parts = [
        {"text": "Die Straße", "language": "de", "confidence": 0.61, "words": [word], "channel": 1},
        {"text": "[unintelligible]", "mark": "unintelligible", "reason": "it loops", "channel": 2},
        {"text": "火事だ、逃げろ", "language": "ja", "channel": 2},
    ]
    recorded = datetime.datetime(2024, 3, 1, 12, 30, 1, 250000, datetime.UTC)
    ids = [
        hear(fleet, "caf\\xe9 \u202e 1.mp3", *parts, languages=["de", "ja"], channels=2, warnings=[CUT, TURNED],
             labels={"speech": "content", "Siren": "audio_tag"}, recorded=recorded,
             metadata={"talkgroup": 1234, "freq": 851.0125, "note": 'a "b"\n'}),
        hear(fleet, "quiet.mp3", language=None),
        hear(fleet, "b.mp3", "a fire on river road"),
        hear(fleet, "c.mp3", "all is well", batch_id=OTHER),
    ]  # fmt: skip
    add_file(fleet, "broken.mp3", "failed", "it is no sound", batch_id=OTHER)
    fleet.query("UPDATE audio_files SET source_sha256 = repeat('cd', 32) WHERE original_filename = 'b.mp3'")
    keep(fleet, *ids)
    return ids


def test_a_rebuilt_database_is_as_it_was(fleet: Fleet, database: Database, heard: list[int]) -> None:
    fleet.query("DELETE FROM audio_files WHERE status = 'failed'")
    before = state(fleet)
    lose(fleet)
    said = rebuilt(fleet, database)
    assert (dict(said.outcomes), said.problems, said.is_whole) == ({"restored": 4, "left": 0}, {}, True)
    assert state(fleet) == before
    assert [hit.original_filename for hit in find(database, Query("river fire")).hits] == ["b.mp3"]
    assert len(find(database, Query("逃げ")).hits) == 1


def test_every_column_is_in_s3_or_follows_from_what_is(fleet: Fleet, heard: list[int]) -> None:
    """A new column belongs into read_transcript_file.sql and restore_files.sql, or here where it is not missed."""
    kept = json.loads(s3_transcripts.read(f"processed/2025-06-22/{heard[0]}.json") or b"")
    follows = {
        "audio_files": {"status", "error", "updated_at"},
        "transcripts": {"audio_id", "created_at", "indexed_at", "folded_at", "words"},
        "batches": {"batch_id", "finished_at", "archive_deleted_at"},
    }
    for table, columns in follows.items():
        there = {name for (name,) in fleet.query(
            "SELECT column_name FROM information_schema.columns WHERE table_name = %s", table
        )}  # fmt: skip
        assert there - columns <= (kept["batch"] if table == "batches" else kept).keys(), table


def test_it_may_be_repeated_and_reads_again_what_is_missing_alone(
    fleet: Fleet, database: Database, heard: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild_module, "FILES_AT_A_TIME", 1)
    lose(fleet)
    read: list[str] = []

    def breaks(key: str) -> bytes | None:
        read.append(key)
        if len(read) == 3:
            raise ConnectionError("S3 is gone")
        return s3_transcripts.read(key)

    with pytest.raises(ConnectionError):
        rebuilt(fleet, database, read=breaks)
    assert fleet.query("SELECT count(*) FROM audio_files") == [(2,)]
    said = rebuilt(fleet, database, read=breaks)
    assert (said.outcomes["restored"], said.outcomes["left"], len(read)) == (2, 2, 5)
    before = state(fleet)
    assert rebuilt(fleet, database).outcomes == {"left": 4}
    assert state(fleet) == before


def test_new_files_get_ids_above_all_that_s3_knows(fleet: Fleet, database: Database, heard: list[int]) -> None:
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key="processed/2025-06-22/500.opus", Body=b"")
    lose(fleet)
    rebuilt(fleet, database)
    assert add_file(fleet, "new.mp3", "processing", batch_id="new") == 501
    s3_tombstones.put("tombstones/x/900.json", '{"batch_id": "x", "deleted_at": "2025-06-22T00:00:00Z"}')
    rebuilt(fleet, database)
    assert add_file(fleet, "newer.mp3", "processing", batch_id="new") == 901
    rebuilt(fleet, database)
    assert add_file(fleet, "newest.mp3", "processing", batch_id="new") == 902


def test_a_batch_is_finished_where_all_its_files_are_there(
    fleet: Fleet, database: Database, heard: list[int]
) -> None:
    lose(fleet)
    rebuilt(fleet, database)
    found = fleet.query("SELECT batch_id, file_count, finished_at IS NOT NULL FROM batches ORDER BY 1")
    assert found == [(BATCH, 3, True), (OTHER, 2, False)]  # of the other, a file has failed
    assert fleet.query("SELECT count(*) FROM webhook_outbox") == [(0,)]


# --- deleted --------------------------------------------------------------------------------------------


def test_what_was_deleted_stays_deleted(fleet: Fleet, database: Database, heard: list[int]) -> None:
    """S3 has its tombstone, and still its transcript: the deletion was cut short there."""
    deletion.delete_files(database, BATCH, [heard[2]], "cli:me@here")
    ((key, body),) = fleet.query("SELECT tombstone_key, tombstone::text FROM pending_deletions")
    s3_tombstones.put(key, body)
    before = state(fleet)
    lose(fleet)
    said = rebuilt(fleet, database)
    assert (said.outcomes["deleted"], said.outcomes["restored"], said.is_whole) == (1, 3, True)
    after = state(fleet)
    assert after["tombstones"][0][0].keys() == before["tombstones"][0][0].keys()
    assert [row[0]["name_sha256"] for row in after["tombstones"]] == [
        row[0]["name_sha256"] for row in before["tombstones"]
    ]
    assert "b.mp3" not in names(fleet)
    assert find(database, Query("river")).hits == []
    found = fleet.query("SELECT batch_id, file_count, finished_at IS NOT NULL FROM batches ORDER BY 1")
    assert found == [(BATCH, 2, True), (OTHER, 2, False)]
    left = fleet.query("SELECT object_keys FROM pending_deletions")
    assert left == [([f"processed/2025-06-22/{heard[2]}.{kind}" for kind in ("json", "opus")],)]
    rebuilt(fleet, database)
    assert fleet.query("SELECT object_keys FROM pending_deletions") == left


def test_a_restored_dump_loses_what_was_deleted_since(fleet: Fleet, database: Database, heard: list[int]) -> None:
    name = "encode(sha256(convert_to('b.mp3', 'UTF8')), 'hex')"
    ((digest,),) = fleet.query(f"SELECT {name}")
    of = {"batch_id": BATCH, "audio_id": heard[2], "name_sha256": digest, "deleted_at": "2025-06-23T00:00:00Z"}
    s3_tombstones.put(f"tombstones/{BATCH}/{heard[2]}.json", json.dumps(of))
    said = rebuilt(fleet, database)
    assert (said.deleted_again, said.outcomes["deleted"], said.outcomes["left"]) == (1, 1, 3)
    assert "b.mp3" not in names(fleet)


# --- a database with other rows --------------------------------------------------------------------------


def test_it_adds_what_a_restored_dump_lacks(fleet: Fleet, database: Database, heard: list[int]) -> None:
    """At the time of the dump one file was in progress, one had failed, and one was not there."""
    before = state(fleet)
    fleet.query("UPDATE audio_files SET status = 'processing', s3_opus_path = NULL WHERE audio_id = %s", heard[0])
    fleet.query("DELETE FROM transcripts WHERE audio_id = %s", heard[0])
    fleet.query("DELETE FROM classifications WHERE audio_id = %s", heard[0])
    fleet.query("INSERT INTO classifications VALUES (%s, 'content', 'silence', 1)", heard[0])
    fleet.query(
        "UPDATE audio_files SET status = 'failed', error = 'x', s3_opus_path = NULL WHERE audio_id = %s", heard[1]
    )
    fleet.query("DELETE FROM audio_files WHERE audio_id = %s", heard[2])
    fleet.query("UPDATE transcripts SET text = 'as it is here' WHERE audio_id = %s", heard[3])
    fleet.query("UPDATE batches SET finished_at = NULL")
    said = rebuilt(fleet, database)
    assert (said.outcomes["restored"], said.outcomes["left"]) == (3, 1)
    fleet.query("UPDATE transcripts SET text = 'all is well' WHERE audio_id = %s", heard[3])
    assert state(fleet) == before


def test_a_file_with_another_id_is_left_and_one_whose_id_is_taken_is_named(
    fleet: Fleet, database: Database, heard: list[int]
) -> None:
    """The workers have begun before the rebuild."""
    lose(fleet)
    fleet.query(
        "INSERT INTO audio_files (audio_id, batch_id, original_filename)"
        " VALUES (%s, 'x', 'new.mp3'), (90, %s, %s)",
        heard[0], BATCH, "b.mp3",
    )  # fmt: skip
    said = rebuilt(fleet, database)
    assert dict(said.outcomes) == {"taken": 1, "restored": 2, "left": 1}
    key = f"processed/2025-06-22/{heard[0]}.json"
    assert said.problems == {key: f"another file has the id {heard[0]}"}
    assert not said.is_whole
    assert fleet.query("SELECT status FROM audio_files WHERE audio_id IN (90, %s)", heard[0]) == [
        ("processing",), ("processing",)
    ]  # fmt: skip


# --- what cannot be read -----------------------------------------------------------------------------------


def spoiled(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def spoil(body: bytes) -> bytes:
        fields = json.loads(body)
        change(fields)
        return json.dumps(fields).encode()

    return spoil


UNREADABLE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda body: body[:-10], "it is not JSON"),
    "not text": (lambda body: b"\xff" + body, "it is not JSON"),
    "deep": (lambda _: b"[" * 100_000, "it is not JSON"),
    "foreign": (lambda _: b"[1]", "it is no transcript of ours"),
    "later": (spoiled(lambda of: of.update(format=2)), "its format is 2, this release reads 1"),
    "of another": (spoiled(lambda of: of.update(audio_id=77)), "it is of file 77, of 2025-06-22"),
    "without words": (spoiled(lambda of: of.pop("text")), "it lacks text"),
    "without times": (spoiled(lambda of: of["segments"][0].pop("start")), "its segments lack text or start"),
    "with NUL": (spoiled(lambda of: of.update(text="a\0b")), "PostgreSQL cannot hold it: "),
    "with half a character": (spoiled(lambda of: of.update(text="\ud800")), "PostgreSQL cannot hold it: "),
    "with a wrong time": (spoiled(lambda of: of.update(transcribed_at="never")), "PostgreSQL cannot hold it: "),
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_one_that_cannot_be_read_is_named_and_costs_no_other(
    fleet: Fleet, database: Database, heard: list[int], what: str
) -> None:
    spoil, reason = UNREADABLE[what]
    key = f"processed/2025-06-22/{heard[2]}.json"
    body = spoil(s3_transcripts.read(key) or b"")
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key=key, Body=body)
    lose(fleet)
    said = rebuilt(fleet, database)
    assert said.outcomes["restored"] == 3
    ((told, problem),) = said.problems.items()
    assert (told, said.is_whole) == (key, False)
    assert problem.startswith(reason)
    assert "b.mp3" not in names(fleet)


# --- the Opus -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [0, 1, 100_000])
def test_an_opus_that_was_kept_long_enough_is_not_missed(
    fleet: Fleet, database: Database, heard: list[int], days: int
) -> None:
    """Otherwise its row names it, so that reconcile has the file processed again."""
    path = f"processed/2025-06-22/{heard[2]}.opus"
    s3_client(fleet).delete_object(Bucket=fleet.bucket, Key=path)
    lose(fleet)
    rebuilt(fleet, database, opus_days=days)
    found = dict(fleet.query("SELECT audio_id, s3_opus_path FROM audio_files"))
    assert found[heard[2]] == (None if days == 1 else path)
    assert found[heard[3]] == f"processed/2025-06-22/{heard[3]}.opus"


def test_an_opus_lies_behind_its_transcript() -> None:
    objects = ("1.json", "1.opus", "10.json", "11.opus", "x.json", "9.json")
    keys = [f"processed/2025-06-22/{name}" for name in objects]
    assert list(listed((key, 5) for key in keys)) == [
        Listed(keys[0], 5, 1, True),
        Listed(keys[2], 5, 10, False),
        Listed(keys[5], 5, 9, False),
    ]


def test_a_transcript_is_no_stray_and_goes_with_the_opus_of_no_row(fleet: Fleet, heard: list[int]) -> None:
    fleet.query("UPDATE batches SET finished_at = now()")
    said = control(fleet, "reconcile")
    assert (said.returncode, said.stdout) == (0, "S3, PostgreSQL and Redis agree\n")
    fleet.query("DELETE FROM audio_files WHERE audio_id = %s", heard[3])
    before = object_keys(fleet)
    said = control(fleet, "reconcile", "--apply", "--delete-orphans", "--yes")
    assert said.stdout.count("orphan") == 1
    gone = [f"processed/2025-06-22/{heard[3]}.{kind}" for kind in ("json", "opus")]
    assert object_keys(fleet) == [key for key in before if key not in gone]


# --- the commands ---------------------------------------------------------------------------------------------


def test_backup_writes_what_s3_lacks(fleet: Fleet, heard: list[int]) -> None:
    keys = [f"processed/2025-06-22/{audio_id}.json" for audio_id in heard]
    kept = {key: s3_transcripts.read(key) for key in keys}
    for key in keys[1:3]:
        s3_client(fleet).delete_object(Bucket=fleet.bucket, Key=key)
    done = control(fleet, "backup", "--dry-run")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "S3 lacks the transcripts of 2 files of 4: nothing was written\n"
    assert keys[1] not in object_keys(fleet)
    assert printed(control(fleet, "backup")) == "2 transcripts written to S3, of 4 files that are done\n"
    assert {key: s3_transcripts.read(key) for key in keys} == kept
    assert printed(control(fleet, "backup")) == "S3 has the transcripts of all files that are done: 4\n"
    assert json.loads(printed(control(fleet, "backup", "--json"))) == {"files": 4, "missing": 0, "written": 0}


def test_backup_leaves_one_that_was_deleted_meanwhile(fleet: Fleet, database: Database, heard: list[int]) -> None:
    written: list[str] = []
    files = TranscriptFiles(database, lambda key, _: written.append(key))
    deletion.delete_files(database, BATCH, [heard[2]], "cli:me@here")
    assert not files.keep_settled(heard[2])
    files.keep(heard[2])
    assert files.keep_settled(heard[0])
    assert written == [f"processed/2025-06-22/{heard[0]}.json"]


def test_who_deletes_a_file_waits_until_its_transcript_is_written(
    fleet: Fleet, database: Database, heard: list[int]
) -> None:
    """Otherwise the transcript could come into S3 behind the deletion, and stay there."""
    refused: list[str] = []

    def put(_key: str, _body: str) -> None:
        sql = f"SET lock_timeout = 100; DELETE FROM audio_files WHERE audio_id = {heard[2]}"
        with pytest.raises(psycopg2.errors.LockNotAvailable) as error:
            fleet.query(sql)
        refused.append(str(error.value))

    assert TranscriptFiles(database, put).keep_settled(heard[2])
    assert len(refused) == 1
    fleet.query("RESET lock_timeout")


def test_rebuild_tells_what_it_did(fleet: Fleet, heard: list[int]) -> None:
    lose(fleet)
    lines = printed(control(fleet, "rebuild")).splitlines()
    assert lines[0] == "transcripts in S3: 4 restored"
    assert "reconcile --apply" in lines[1]
    assert fleet.query("SELECT action, subject FROM audit") == [("rebuild", fleet.bucket)]
    has = "the database has 4 files already: --merge adds what it lacks, and leaves what is done"
    assert has in complaint(control(fleet, "rebuild"), 1)
    said = json.loads(printed(control(fleet, "rebuild", "--merge", "--json")))
    nothing = {"restored": 0, "deleted": 0, "taken": 0, "unreadable": 0, "deleted_again": 0, "problems": {}}
    assert said == {**nothing, "left": 4}


def test_rebuild_names_what_it_could_not_read(fleet: Fleet, heard: list[int]) -> None:
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key="processed/2025-06-22/77.json", Body=b"{")
    lose(fleet)
    done = control(fleet, "rebuild")
    assert done.returncode == 1
    assert done.stderr == "pipelinectl: processed/2025-06-22/77.json: it is not JSON\n"
    assert done.stdout.startswith("transcripts in S3: 4 restored, 1 cannot be read\n")


def test_rebuild_refuses_while_a_worker_runs(fleet: Fleet, redis: Any, heard: list[int]) -> None:
    lose(fleet)
    redis.zadd("queue:unpack:workers", {"gpu-04:unpack": 1, "dead": 1})
    redis.set(heartbeat_key("gpu-04:unpack"), "{}")
    assert "1 worker still at work (gpu-04:unpack): stop" in complaint(control(fleet, "rebuild"), 1)
    assert fleet.query("SELECT count(*) FROM audio_files") == [(0,)]


def test_rebuild_is_the_owners(fleet: Fleet, heard: list[int]) -> None:
    lose(fleet)
    done = control(fleet, "rebuild", DATABASE_URL=fleet.postgres.worker_url)
    assert done.returncode == 2
    assert "only the role that owns the tables may rebuild" in done.stderr
    assert "Traceback" not in done.stderr
    assert fleet.query("SELECT count(*) FROM audio_files") == [(0,)]


def test_rebuild_works_without_redis(fleet: Fleet, heard: list[int]) -> None:
    lose(fleet)
    done = control(fleet, "rebuild", REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.returncode, done.stderr) == (0, "Redis is unavailable: make sure that no worker runs\n")


# --- S3 ---------------------------------------------------------------------------------------------------------


def test_transcripts_are_put_listed_and_read(s3: S3Server) -> None:
    assert s3_transcripts.read("processed/2025-06-22/1.json") is None
    assert list(s3_transcripts.listing()) == []
    s3_transcripts.put("processed/2025-06-22/1.json", '"é"')
    s3_transcripts.put("processed/2025-06-22/1.json", '"é1"')
    assert s3_transcripts.read("processed/2025-06-22/1.json") == '"é1"'.encode()
    assert list(s3_transcripts.listing()) == [("processed/2025-06-22/1.json", 5)]
    for key in ("archives/x.json", "processed/2025-06-22/1.opus"):
        with pytest.raises(ValueError, match="no transcript"):
            s3_transcripts.put(key, "{}")


def test_a_day_of_speech_needs_little_memory(fleet: Fleet, database: Database) -> None:
    words = [{"start": at / 3, "end": at / 3 + 0.3, "word": " word", "probability": 0.912345} for at in range(30)]
    segment = json.dumps({"start": 0, "end": 9, "text": "word " * 30, "words": words})
    audio_id = hear(fleet, "day.mp3", "x")
    fleet.query(
        "UPDATE transcripts SET segments = (SELECT jsonb_agg(%s::jsonb) FROM generate_series(1, 8640))"
        " WHERE audio_id = %s",
        segment, audio_id,
    )  # fmt: skip
    sizes: list[int] = []
    files = TranscriptFiles(database, lambda _, body: sizes.append(len(body)))
    tracemalloc.start()
    files.keep(audio_id)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes[0] > 15 * 2**20
    assert peak < 3 * sizes[0]
