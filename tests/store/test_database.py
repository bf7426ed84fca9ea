"""The rows: one for each file however often delivered, the day in UTC, and a schema that may be applied again."""

import itertools
import json
import os
import random
import shutil
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pipeline.foundation.errors import Outage, unavailable_service
from pipeline.foundation.file_warnings import FileWarning
from pipeline.speech.transcript import Label, Segment, Transcript, Word
from pipeline.store import connection_pool
from pipeline.store import database as database_module
from pipeline.store.database import Database
from pipeline.store.search import is_indexed, search
from pipeline.store.search_query import Query
from pipeline.store.transcripts import find_files
from tests.store.test_transcripts import CUT, TURNED
from tests.support.child import free_port, wait_until
from tests.support.fleet import Fleet

BATCH = "20250622-143052"
OURS = sorted(path.name for path in database_module.SCHEMA.glob("*.sql"))


def transcript(text: str = "hello", segments: list[Segment] | None = None) -> Transcript:
    heard = [Segment(0.0, 1.5, text, -0.2, 0.01)] if segments is None else segments
    return Transcript(text, heard, "en", 2.0, 1.5, -20.0, "tiny")


def run(url: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Run a statement as somebody else."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture
def empty_url(fleet: Fleet) -> str:
    """A database without any table."""
    return fleet.postgres.new_database(f"test-{uuid.uuid4().hex[:12]}")


@pytest.fixture
def empty(empty_url: str) -> Iterator[Database]:
    database = Database(empty_url)
    yield database
    database.close()


def at_once(count: int, step: Callable[[int], Any]) -> list[Any]:
    """The results of a step that as many threads take together."""
    barrier = threading.Barrier(count)

    def together(n: int) -> Any:
        barrier.wait()
        return step(n)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(together, range(count)))


# --- the schema -----------------------------------------------------------------------------------------


def test_it_applies_the_schema_once(empty: Database) -> None:
    assert empty.migrate() == OURS
    assert empty.migrate() == []
    assert empty.check_schema() is None
    assert empty.start_file(BATCH, "a.mp3").audio_id == 1


def test_it_applies_the_schema_once_when_two_apply_it(empty_url: str) -> None:
    def migrate(_: int) -> list[str]:
        database = Database(empty_url)
        try:
            return database.migrate()
        finally:
            database.close()

    assert sorted(itertools.chain(*at_once(4, migrate))) == OURS


def test_it_applies_the_schema_over_tables_that_were_made_by_hand(empty_url: str, empty: Database) -> None:
    run(empty_url, (database_module.SCHEMA / "001_audio_files.sql").read_text())
    run(empty_url, "ALTER TABLE audio_files ADD COLUMN s3_opus_path TEXT;")
    path = "processed/2025-06-22/1.opus"
    run(empty_url, "INSERT INTO audio_files (batch_id, original_filename, s3_opus_path, status)"
                   " VALUES (%s, 'old.mp3', %s, 'done')", BATCH, path)  # fmt: skip
    assert empty.migrate() == OURS
    assert empty.check_schema() is None
    assert empty.start_file(BATCH, "old.mp3").status == "done"
    assert run(empty_url, "SELECT s3_opus_path FROM audio_files") == [(path,)]


def test_it_adds_the_column_to_a_table_without_it(empty_url: str, empty: Database) -> None:
    run(empty_url, (database_module.SCHEMA / "001_audio_files.sql").read_text())
    empty.migrate()
    row = empty.start_file(BATCH, "a.mp3")
    empty.update_audio_s3_path(row.audio_id, "key")
    assert run(empty_url, "SELECT s3_opus_path FROM audio_files") == [("key",)]


def test_code_from_before_the_languages_works_on_beside_them(empty_url: str, empty: Database) -> None:
    empty.migrate()
    run(empty_url, "INSERT INTO audio_files (batch_id, original_filename, language) VALUES ('b', 'a.mp3', 'de')")
    (file,) = find_files(empty, "b")
    assert (file.language, file.languages) == ("de", ["de"])
    run(empty_url, "UPDATE audio_files SET language = NULL")
    assert find_files(empty, "b")[0].languages == []


def test_code_from_before_the_channels_works_on_beside_them(empty_url: str, empty: Database) -> None:
    empty.migrate()
    run(empty_url, "INSERT INTO audio_files (batch_id, original_filename, language) VALUES ('b', 'a.mp3', 'de')")
    segments = '[{"start": 0, "end": 1, "text": "hello"}]'
    run(empty_url, "INSERT INTO transcripts (audio_id, text, segments, model)"
                   " SELECT audio_id, 'hello', %s, 'tiny' FROM audio_files", segments)  # fmt: skip
    (file,) = find_files(empty, "b")
    assert (file.channels, file.warnings) == (1, [])
    assert file.segments == [{"start": 0, "end": 1, "text": "hello"}]


OLD_TRANSCRIPT = """INSERT INTO transcripts (audio_id, text, segments, model) VALUES (%s, %s, %s, 'tiny')
ON CONFLICT (audio_id) DO UPDATE SET text = excluded.text, segments = excluded.segments, created_at = now()"""


def start_as_before(url: str, name: str) -> int:
    """The row of a file as code from before the tombstones makes it; gives its id."""
    make = (
        "INSERT INTO audio_files (batch_id, original_filename) VALUES ('b', %s)"
        " ON CONFLICT (batch_id, original_filename) DO UPDATE SET updated_at = now() RETURNING audio_id"
    )
    ((audio_id,),) = run(url, make, name)
    return int(audio_id)


def write_as_before(url: str, database: Database, name: str, text: str) -> None:
    """A transcript as code from before the passages writes it."""
    audio_id = start_as_before(url, name)
    run(url, OLD_TRANSCRIPT, audio_id, text, json.dumps([{"start": 0, "end": 1, "text": text}]))


def test_transcripts_of_an_older_release_are_indexed_later(
    empty_url: str, empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in sorted(database_module.SCHEMA.glob("00[1-7]*.sql")):
        run(empty_url, path.read_text())
    for number in range(5):
        write_as_before(empty_url, empty, f"{number}.mp3", f"fire {number}")
    assert OURS[-1] in empty.migrate()
    monkeypatch.setattr(database_module, "TRANSCRIPTS_AT_A_TIME", 2)
    assert not is_indexed(empty)
    steps = []
    while done := empty.index_transcripts():
        steps.append((done, [hit.original_filename for hit in search(empty, Query("fire"))]))
    assert steps == [
        (2, ["4.mp3", "3.mp3"]),
        (2, ["4.mp3", "3.mp3", "2.mp3", "1.mp3"]),
        (1, ["4.mp3", "3.mp3", "2.mp3", "1.mp3", "0.mp3"]),
    ]
    assert is_indexed(empty)


def test_code_from_before_the_passages_works_on_beside_them(empty_url: str, empty: Database) -> None:
    empty.migrate()
    write_as_before(empty_url, empty, "a.mp3", "fire")
    assert run(empty_url, "SELECT count(*) FROM transcripts WHERE words @@ 'fire'") == [(1,)]
    assert empty.index_transcripts() == 1
    write_as_before(empty_url, empty, "a.mp3", "a flood")  # delivered again
    assert run(empty_url, "SELECT words::text FROM transcripts") == [("'a':1 'flood':2",)]
    assert not is_indexed(empty)
    assert empty.index_transcripts() == 1
    assert (search(empty, Query("fire")), len(search(empty, Query("flood")))) == ([], 1)
    write_as_before(empty_url, empty, "long.mp3", "".join(map(chr, range(0x4E00, 0x9E00))) * 50)
    assert empty.index_transcripts() == 1


def write_with_accents(url: str, database: Database, name: str, text: str) -> int:
    """A transcript and its passage as code from before the accents were left out writes them; gives its id."""
    audio_id = database.start_file("b", name).audio_id
    run(url, OLD_TRANSCRIPT, audio_id, text, json.dumps([{"start": 0, "end": 1, "text": text}]))
    run(url, "UPDATE transcripts SET indexed_at = created_at WHERE audio_id = %s", audio_id)
    run(url, "DELETE FROM passages WHERE audio_id = %s", audio_id)
    run(url, "INSERT INTO passages VALUES (%s, 0, 0, to_tsvector('simple', %s))", audio_id, text)
    return audio_id


def test_words_with_accents_of_the_previous_release_are_indexed_again(empty_url: str, empty: Database) -> None:
    empty.migrate()
    plain = write_with_accents(empty_url, empty, "plain.mp3", "a fire")
    accent = write_with_accents(empty_url, empty, "accent.mp3", "un café")
    where = "SELECT ctid::text FROM passages WHERE audio_id = %s"
    before = run(empty_url, where, plain)
    assert not is_indexed(empty)
    assert search(empty, Query("cafe")) == []
    assert empty.index_transcripts() == 2
    assert is_indexed(empty)
    assert [hit.audio_id for hit in search(empty, Query("cafe"))] == [accent]
    assert [hit.audio_id for hit in search(empty, Query("fire"))] == [plain]
    assert run(empty_url, where, plain) == before  # nothing to do
    write_with_accents(empty_url, empty, "accent.mp3", "une forêt")  # delivered again, to a worker of that release
    assert not is_indexed(empty)
    assert empty.index_transcripts() == 1
    assert [hit.audio_id for hit in search(empty, Query("foret"))] == [accent]
    assert empty.index_transcripts() == 0


def test_several_index_the_same_transcripts_once(empty_url: str, empty: Database) -> None:
    empty.migrate()
    for number in range(60):
        write_as_before(empty_url, empty, f"{number}.mp3", "fire")

    def index(_: int) -> int:
        database = Database(empty_url)
        try:
            return sum(iter(database.index_transcripts, 0))
        finally:
            database.close()

    assert sum(at_once(4, index)) == 60
    assert is_indexed(empty)
    assert run(empty_url, "SELECT count(*), count(DISTINCT audio_id) FROM passages") == [(60, 60)]


def test_it_does_not_keep_the_workers_waiting_behind_a_long_reader(
    empty_url: str, empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.migrate()
    run(empty_url, "DELETE FROM schema_migrations WHERE name = '005_search.sql'")
    monkeypatch.setattr(database_module, "LOCK_SECONDS", 1)
    reader = psycopg2.connect(empty_url)
    with ThreadPoolExecutor(1) as pool:
        try:
            with reader.cursor() as cursor:
                cursor.execute("SELECT FROM transcripts")
            migrating = pool.submit(empty.migrate)
            error = migrating.exception(10)
        finally:
            reader.close()
    assert isinstance(error, Outage)
    assert str(error).startswith("nothing was changed by 005_search.sql: a table is in use")
    assert empty.migrate() == ["005_search.sql"]


SAVE_AS_BEFORE = "UPDATE audio_files SET duration_seconds = 1 WHERE audio_id = %s;" + OLD_TRANSCRIPT


def test_it_is_applied_while_workers_of_the_previous_release_save_results(
    empty_url: str, empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in OURS[:7]:
        shutil.copy(database_module.SCHEMA / name, tmp_path)
    with monkeypatch.context() as previous:
        previous.setattr(database_module, "SCHEMA", tmp_path)
        assert empty.migrate() == OURS[:7]
    audio_ids = [start_as_before(empty_url, f"{number}.mp3") for number in range(8)]
    done, started = threading.Event(), threading.Barrier(len(audio_ids) + 1)

    def save_results(audio_id: int) -> None:
        connection = psycopg2.connect(empty_url)
        try:
            with connection.cursor() as cursor:
                for number in itertools.count():
                    cursor.execute(SAVE_AS_BEFORE, (audio_id, audio_id, f"fire {number}", "[]"))
                    connection.commit()
                    if number == 0:
                        started.wait()
                    if done.is_set():
                        return
        finally:
            connection.close()

    with ThreadPoolExecutor(len(audio_ids)) as pool:
        saving = [pool.submit(save_results, audio_id) for audio_id in audio_ids]
        try:
            started.wait()
            assert empty.migrate() == OURS[7:]
        finally:
            done.set()
    assert [future.exception() for future in saving] == [None] * len(audio_ids)


LOCKS = """LOCK TABLE transcripts IN ACCESS EXCLUSIVE MODE; SELECT pg_advisory_xact_lock(7);
LOCK TABLE audio_files IN SHARE MODE"""


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_deadlock_changes_nothing_and_is_tried_again(
    empty_url: str, empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    empty.migrate()
    audio_id = empty.start_file("b", "a.mp3").audio_id
    (tmp_path / "999_locks.sql").write_text(LOCKS)
    monkeypatch.setattr(database_module, "SCHEMA", tmp_path)
    monkeypatch.setattr(database_module, "DEADLOCK_ATTEMPTS", attempts)
    writer = psycopg2.connect(empty_url, options="-c deadlock_timeout=1h")  # it is not the one to fail
    gate = psycopg2.connect(empty_url)

    def waits(kind: str) -> None:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = %s AND database ="
        database = " (SELECT oid FROM pg_database WHERE datname = current_database())"
        wait_until(lambda: run(empty_url, waiting + database, kind) == [(1,)], f"someone who waits for {kind}")

    def save() -> None:
        with writer, writer.cursor() as cursor:
            cursor.execute("UPDATE audio_files SET duration_seconds = 1")
            cursor.execute(OLD_TRANSCRIPT, (audio_id, "fire", "[]"))

    with ThreadPoolExecutor(2) as pool:
        try:
            with gate.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_xact_lock(7)")
            migrating = pool.submit(empty.migrate)
            waits("advisory")
            saving = pool.submit(save)
            waits("relation")
        finally:
            gate.close()
        error = migrating.exception(20)
        saving.result(60)
    writer.close()
    if attempts == 1:
        assert isinstance(error, Outage)
        assert str(error).startswith("nothing was changed by 999_locks.sql: a table is in use")
        assert empty.migrate() == ["999_locks.sql"]
    else:
        assert migrating.result() == ["999_locks.sql"]


def test_it_goes_on_behind_the_files_that_were_applied(
    empty_url: str, empty: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "1.sql").write_text("CREATE TABLE one ()")
    (tmp_path / "2.sql").write_text("CREATE TABLE two (); SELECT 1 / 0")
    monkeypatch.setattr(database_module, "SCHEMA", tmp_path)
    with pytest.raises(psycopg2.DataError):
        empty.migrate()
    assert run(empty_url, "SELECT to_regclass('one')::text, to_regclass('two')::text") == [("one", None)]
    (tmp_path / "2.sql").write_text("CREATE TABLE two ()")
    assert empty.migrate() == ["2.sql"]


def test_it_says_what_is_wrong_with_the_schema(empty_url: str, empty: Database) -> None:
    hint = "run `python pipelinectl.py migrate`"
    assert empty.check_schema() == f"the schema lacks {', '.join(OURS)}: {hint}"
    empty.migrate()
    run(empty_url, "DELETE FROM schema_migrations WHERE name = %s", OURS[-1])
    assert empty.check_schema() == f"the schema lacks {OURS[-1]}: {hint}"
    empty.migrate()
    run(empty_url, "INSERT INTO schema_migrations (name) VALUES ('999_later.sql')")
    assert empty.check_schema() == (
        "the schema has 999_later.sql, which this release does not know: deploy a newer one"
    )


def test_it_takes_a_schema_to_which_a_newer_release_has_only_added(empty_url: str, empty: Database) -> None:
    empty.migrate()
    run(empty_url, "INSERT INTO schema_migrations (name) VALUES ('998_column.additive.sql')")
    assert empty.check_schema() is None
    run(empty_url, "INSERT INTO schema_migrations (name) VALUES ('999_later.sql')")
    assert "has 999_later.sql, which" in (empty.check_schema() or "")


def test_a_large_archive_is_opened_by_a_slow_server_too(
    empty_url: str, empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty.migrate()
    run(empty_url, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
                   " $$ BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END $$")  # fmt: skip
    run(empty_url, "CREATE TRIGGER slow BEFORE INSERT ON audio_files FOR EACH ROW EXECUTE FUNCTION slow()")
    monkeypatch.setattr(connection_pool, "STATEMENT_SECONDS", 1)
    monkeypatch.setattr(database_module, "NAMES_AT_A_TIME", 100, raising=False)
    slow = Database(empty_url)
    slow.open_batch(BATCH, "archives/x.tar", [f"{number}.mp3" for number in range(1000)], "here")
    slow.close()
    assert run(empty_url, "SELECT count(*) FROM audio_files") == [(1000,)]


# --- files ----------------------------------------------------------------------------------------------


def test_it_makes_one_row_for_a_file_delivered_twice(fleet: Fleet, database: Database) -> None:
    first = database.start_file(BATCH, "a.mp3")
    assert database.start_file(BATCH, "a.mp3") == first
    assert first.status == "processing"
    assert database.start_file(BATCH, "b.mp3").audio_id != first.audio_id
    assert database.start_file("other", "a.mp3").audio_id != first.audio_id
    assert fleet.query("SELECT count(*) FROM audio_files") == [(3,)]


def test_it_makes_one_row_for_a_file_delivered_to_many_at_once(fleet: Fleet) -> None:
    def start(_: int) -> int:
        database = Database(fleet.postgres.url)
        try:
            return database.start_file(BATCH, "a.mp3").audio_id
        finally:
            database.close()

    assert len(set(at_once(8, start))) == 1
    assert fleet.query("SELECT count(*) FROM audio_files") == [(1,)]


def test_it_leaves_a_done_file_done(fleet: Fleet, database: Database) -> None:
    row = database.start_file(BATCH, "a.mp3")
    database.update_audio_s3_path(row.audio_id, "key")
    database.fail_file(BATCH, "a.mp3", "too late")
    assert database.start_file(BATCH, "a.mp3").status == "done"
    assert fleet.query("SELECT status, error, s3_opus_path FROM audio_files") == [("done", None, "key")]


def test_it_marks_a_file_as_failed_with_the_last_reason(fleet: Fleet, database: Database) -> None:
    database.fail_file(BATCH, "a.mp3", "no row yet")
    database.fail_file(BATCH, "a.mp3", "ffmpeg: no sound")
    assert fleet.query("SELECT status, error FROM audio_files") == [("failed", "ffmpeg: no sound")]


def test_a_failed_file_that_is_worked_on_again_stays_failed_until_it_is_done(
    fleet: Fleet, database: Database
) -> None:
    """A worker that wakes when its batch is finished elsewhere may begin it, and then drop it."""
    database.fail_file(BATCH, "a.mp3", "once")
    row = database.start_file(BATCH, "a.mp3")
    assert row.status == "failed"
    assert fleet.query("SELECT status, error FROM audio_files") == [("failed", "once")]
    database.update_audio_s3_path(row.audio_id, "key")
    assert fleet.query("SELECT status, error FROM audio_files") == [("done", None)]


@pytest.mark.parametrize(
    ("zone", "created", "day"),
    [
        ("Pacific/Auckland", "2026-03-01 23:59:59+00", "2026-03-01"),
        ("America/Los_Angeles", "2026-03-02 00:00:01+00", "2026-03-02"),
    ],
)
def test_it_gives_the_day_of_creation_in_utc(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, zone: str, created: str, day: str
) -> None:
    monkeypatch.setenv("PGTZ", zone)  # libpq asks for this session timezone
    database = Database(fleet.postgres.url)
    database.start_file(BATCH, "a.mp3")
    fleet.query("UPDATE audio_files SET created_at = %s", created)
    assert database.start_file(BATCH, "a.mp3").date == day
    database.close()


# --- results --------------------------------------------------------------------------------------------


def test_it_keeps_one_transcript_and_the_latest_labels(fleet: Fleet, database: Database) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    labels = [Label("content", "other", 1.0), Label("content", "silence", 0.1)]
    database.save_result(audio_id, transcript("first"), labels)
    database.save_result(audio_id, transcript("second"), [Label("content", "speech", 0.75)])
    assert fleet.query("SELECT audio_id, text, segments, model FROM transcripts") == [
        (
            audio_id,
            "second",
            [
                {
                    "start": 0.0, "end": 1.5, "text": "second", "language": None, "confidence": None,
                    "avg_logprob": -0.2, "no_speech_prob": 0.01, "words": [],
                }
            ],
            "tiny",
        )
    ]  # fmt: skip
    assert fleet.query("SELECT classifier, label, score FROM classifications") == [("content", "speech", 0.75)]
    assert fleet.query("SELECT duration_seconds, language, status FROM audio_files") == [(2.0, "en", "processing")]


def test_it_keeps_everything_of_a_segment(fleet: Fleet, database: Database) -> None:
    words = [Word(0.0, 0.7, "good", 0.9), Word(0.7, 1.5, "day", 0.8)]
    segments = [
        Segment(0.0, 1.5, "good day", -0.2, 0.01, words, "en", 0.85),
        Segment(2.0, 6.0, "[unintelligible, 4 s]", None, None, [], "de", None, "unintelligible", "it loops"),
        Segment(6.0, 7.0, "ja", -0.3, 0.1, [], "de", 0.4, "repeated"),
    ]
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript("good day ja", segments), [])
    assert fleet.query("SELECT segments FROM transcripts")[0][0] == [
        {
            "start": 0.0, "end": 1.5, "text": "good day", "language": "en", "confidence": 0.85,
            "avg_logprob": -0.2, "no_speech_prob": 0.01, "words": [
                {"start": 0.0, "end": 0.7, "word": "good", "probability": 0.9},
                {"start": 0.7, "end": 1.5, "word": "day", "probability": 0.8},
            ],
        },
        {
            "start": 2.0, "end": 6.0, "text": "[unintelligible, 4 s]", "language": "de", "confidence": None,
            "avg_logprob": None, "no_speech_prob": None, "words": [], "mark": "unintelligible",
            "reason": "it loops",
        },
        {
            "start": 6.0, "end": 7.0, "text": "ja", "language": "de", "confidence": 0.4, "avg_logprob": -0.3,
            "no_speech_prob": 0.1, "words": [], "mark": "repeated",
        },
    ]  # fmt: skip


@pytest.mark.parametrize(("given", "kept"), [(["en", "de"], ["en", "de"]), (["en"], ["en"]), ([], None)])
def test_it_keeps_every_language(
    fleet: Fleet, database: Database, given: list[str], kept: list[str] | None
) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, replace(transcript(), languages=["fr", "en"]), [])
    database.save_result(audio_id, replace(transcript(), languages=given), [])
    assert fleet.query("SELECT language, languages FROM audio_files") == [("en", kept)]


def test_it_keeps_the_channels_of_a_file_and_of_its_segments(fleet: Fleet, database: Database) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript(), [])
    assert fleet.query("SELECT channels FROM audio_files") == [(1,)]
    assert "channel" not in fleet.query("SELECT segments FROM transcripts")[0][0][0]
    segments = [replace(Segment(0.0, 1.5, "hello", -0.2, 0.01), channel=channel) for channel in (1, 2)]
    database.save_result(audio_id, replace(transcript("hello hello", segments), channels=2), [])
    assert fleet.query("SELECT channels FROM audio_files") == [(2,)]
    ((stored,),) = fleet.query("SELECT segments FROM transcripts")
    assert [segment["channel"] for segment in stored] == [1, 2]


def test_it_keeps_the_warnings_of_the_last_result(fleet: Fleet, database: Database) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript(), [], [TURNED])
    database.save_result(audio_id, transcript(), [], [CUT, TURNED])
    assert fleet.query("SELECT warnings FROM audio_files") == [
        (
            [
                {"code": "missing_end", "seconds": 5.5, "message": CUT.message},
                {"code": "inverted_channel", "seconds": None, "message": TURNED.message},
            ],
        )
    ]
    assert find_files(database, BATCH, "a.mp3")[0].warnings == [CUT, TURNED]
    database.save_result(audio_id, transcript(), [])
    assert fleet.query("SELECT warnings FROM audio_files") == [(None,)]


def test_nothing_but_a_result_changes_the_warnings(database: Database) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript(), [], [CUT])
    database.fail_file(BATCH, "a.mp3", "once")
    database.start_file(BATCH, "a.mp3")
    database.open_batch(BATCH, "archives/x.tar", ["a.mp3"], "here")
    database.update_audio_s3_path(audio_id, "key")
    assert find_files(database, BATCH)[0].warnings == [CUT]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -float("inf")])
def test_every_warning_can_be_stored(database: Database, seconds: float) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript(), [], [FileWarning("gap", seconds, "a\0b\ud800")])
    assert find_files(database, BATCH)[0].warnings == [FileWarning("gap", None, "ab\\ud800")]


def test_the_newest_files_with_warnings_are_found_by_an_index(database: Database) -> None:
    with database.transaction() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # which an empty table is read by
        cursor.execute(
            "EXPLAIN SELECT audio_id FROM audio_files WHERE warnings IS NOT NULL"
            " ORDER BY updated_at DESC, audio_id DESC LIMIT 50"
        )
        plan = cursor.fetchall()
    assert "audio_files_warned" in str(plan)
    assert "Sort" not in str(plan)


def test_it_keeps_the_old_result_whole_where_a_new_one_fails(fleet: Fleet, database: Database) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript("first"), [Label("content", "speech", 1.0)])
    twice = [Label("content", "other", 1.0)] * 2
    with pytest.raises(psycopg2.IntegrityError):
        database.save_result(audio_id, transcript("second"), twice)
    assert fleet.query("SELECT text FROM transcripts") == [("first",)]
    assert fleet.query("SELECT label FROM classifications") == [("speech",)]


def test_it_drops_nul_characters(fleet: Fleet, database: Database) -> None:
    database.fail_file(BATCH, "a.mp3", "bad\0byte")
    assert fleet.query("SELECT error FROM audio_files") == [("badbyte",)]
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript("a\0b", []), [])
    assert fleet.query("SELECT text FROM transcripts") == [("ab",)]


def spoken(count: int, alphabet: range, length: int) -> list[Segment]:
    """Segments of as many texts of such characters, no two alike."""
    drawn = random.Random(19)
    return [
        Segment(number, number + 1, "".join(chr(drawn.choice(alphabet)) for _ in range(length)), -0.2, 0.01)
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "segments",
    [
        spoken(5000, range(0x4E00, 0x4F00), 80),  # a day of random Chinese
        spoken(5000, range(0xE01, 0xE2F), 80),  # of Thai
        spoken(1, range(0x20000, 0x2A6DF), 300_000),  # nothing that was ever said so
        [Segment(0, 1, " ".join(f"w{number}" for number in range(120_000)), None, None)],
    ],
    ids=["chinese", "thai", "one segment", "one segment of many words"],
)
def test_no_transcript_is_too_long_to_be_kept(fleet: Fleet, database: Database, segments: list[Segment]) -> None:
    text = " ".join(segment.text for segment in segments)
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript(text, segments), [])
    assert fleet.query("SELECT text = %s, jsonb_array_length(segments) FROM transcripts", text) == [
        (True, len(segments))
    ]
    last = segments[-1].text[:80].split()[0]
    assert [hit.start for hit in search(database, Query(last))] == [segments[-1].start]


def test_a_new_result_takes_the_place_of_the_old_in_the_index(fleet: Fleet, database: Database) -> None:
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript("long ago", spoken(100, range(0x61, 0x6A), 80)), [])
    database.save_result(audio_id, transcript("a fire"), [])
    assert fleet.query("SELECT audio_id, position, start, words::text FROM passages") == [
        (audio_id, 0, 0.0, "'a':1 'fire':2")
    ]
    assert is_indexed(database)
    database.save_result(audio_id, transcript("", []), [])
    assert fleet.query("SELECT count(*) FROM passages") == [(0,)]


@pytest.mark.parametrize(("odd", "kept"), [("a\0b", "ab"), ("a\ud800", "a\\ud800")])
def test_every_text_of_a_segment_can_be_stored(fleet: Fleet, database: Database, odd: str, kept: str) -> None:
    segment = Segment(0.0, 1.5, odd, None, None, [Word(0.0, 1.0, odd, 0.5)], odd, 0.5, odd, odd)
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript("", [segment]), [])
    ((segments,),) = fleet.query("SELECT segments FROM transcripts")
    fields = segments[0]
    assert [fields[name] for name in ("text", "language", "mark", "reason")] == [kept] * 4
    assert fields["words"][0]["word"] == kept


def test_it_stores_halves_of_surrogate_pairs_readably(fleet: Fleet, database: Database) -> None:
    database.fail_file(BATCH, "a.mp3", "bad \udcff")
    assert fleet.query("SELECT error FROM audio_files") == [("bad \\udcff",)]
    audio_id = database.start_file(BATCH, "a.mp3").audio_id
    database.save_result(audio_id, transcript("a\ud800"), [])
    assert fleet.query("SELECT text, segments->0->>'text' FROM transcripts") == [("a\\ud800", "a\\ud800")]


def test_it_lists_the_files_that_need_no_more_work(database: Database) -> None:
    done = database.start_file(BATCH, "done.mp3")
    database.update_audio_s3_path(done.audio_id, "key")
    database.fail_file(BATCH, "failed.mp3", "why")
    database.start_file(BATCH, "processing.mp3")
    database.fail_file("other", "other.mp3", "why")
    assert database.settled_files(BATCH) == {"done.mp3": "processed", "failed.mp3": "failed"}
    assert database.settled_files("unknown") == {}


def test_it_blames_the_job_for_a_name_too_long_for_the_index(database: Database) -> None:
    name = "".join(uuid.uuid4().hex for _ in range(200))  # an archive may name a member so
    with pytest.raises(psycopg2.Error) as caught:
        database.start_file(BATCH, name)
    assert unavailable_service(caught.value) is None


# --- batches --------------------------------------------------------------------------------------------


def test_it_finishes_a_batch_once(fleet: Fleet, database: Database) -> None:
    assert not database.is_finished(BATCH)
    database.open_batch(BATCH, "key", ["a.mp3", "b.mp3", "c.mp3"], "here")
    assert not database.is_finished(BATCH)
    database.finish_batch(BATCH)
    first = fleet.query("SELECT finished_at FROM batches")
    database.finish_batch(BATCH)
    assert database.is_finished(BATCH)
    assert fleet.query("SELECT finished_at FROM batches") == first
    assert not database.is_finished("other")


def test_it_does_not_open_a_finished_batch_again(fleet: Fleet, database: Database) -> None:
    database.open_batch(BATCH, "key", ["a.mp3", "b.mp3", "c.mp3"], "here")
    database.finish_batch(BATCH)
    database.open_batch(BATCH, "key2", ["a.mp3", "b.mp3", "c.mp3", "d.mp3"], "there")
    assert database.is_finished(BATCH)
    assert fleet.query("SELECT batch_id, s3_key, file_count, host FROM batches") == [(BATCH, "key2", 4, "there")]


def test_every_file_of_an_open_batch_has_its_row(fleet: Fleet, database: Database) -> None:
    database.open_batch(BATCH, "key", ["b.mp3", "a.mp3", "c.mp3"], "here")
    database.fail_file(BATCH, "c.mp3", "no sound")
    row = database.start_file(BATCH, "b.mp3")
    database.open_batch(BATCH, "key", ["b.mp3", "a.mp3", "c.mp3"], "there")  # delivered again
    assert database.unsettled_files(BATCH) == ["b.mp3", "a.mp3"]
    database.update_audio_s3_path(row.audio_id, "key")
    assert database.unsettled_files(BATCH) == ["a.mp3"]
    assert fleet.query("SELECT count(*) FROM audio_files") == [(3,)]


# --- connections ----------------------------------------------------------------------------------------


def test_many_threads_share_few_connections(fleet: Fleet) -> None:
    database = Database(fleet.postgres.url, connections=2)
    with ThreadPoolExecutor(12) as pool:
        names = [f"{number}.mp3" for number in range(60)]
        ids = list(pool.map(lambda name: database.start_file(BATCH, name).audio_id, names))
    assert len(set(ids)) == 60
    open_now = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'audio-pipeline'"
    assert fleet.query(open_now) == [(2,)]
    database.close()
    wait_until(lambda: fleet.query(open_now) == [(0,)], "the end of the connections")


def test_a_silent_server_is_unavailable_and_signals_are_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing; libpq by itself would wait for ever."""
    monkeypatch.setattr("pipeline.store.connection_pool._Connection.answer_seconds", 0.5)
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://user@127.0.0.1:{server.getsockname()[1]}/x"
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        with pytest.raises(psycopg2.OperationalError, match="no answer") as caught:
            Database(url).start_file(BATCH, "a.mp3")
    signal.signal(signal.SIGUSR1, before)
    assert unavailable_service(caught.value) == "PostgreSQL"
    assert heard == [signal.SIGUSR1]


def test_the_next_host_is_tried_where_the_first_is_silent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.connection_pool._Connection.answer_seconds", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{fleet.postgres.port}"
        database = Database(fleet.postgres.url.replace(f"127.0.0.1:{fleet.postgres.port}", hosts))
        assert database.start_file(BATCH, "a.mp3").status == "processing"
    database.close()


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as there:
        try:
            there.bind(("::1", 0))
        except OSError:
            return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    "hosts", ["[::1]:{port}", "[::1]:{closed},[::1]:{port}", "[::1]:{closed},127.0.0.1:{port}"]
)
def test_a_host_may_be_an_address_of_ipv6(fleet: Fleet, hosts: str) -> None:
    there = hosts.format(port=fleet.postgres.port, closed=free_port())
    database = Database(fleet.postgres.url.replace(f"127.0.0.1:{fleet.postgres.port}", there))
    assert database.start_file(BATCH, "a.mp3").status == "processing"
    database.close()


def test_the_server_fails_before_we_do(database: Database) -> None:
    with database.transaction() as cursor:
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("25s",)


def test_where_no_connection_comes_free_postgresql_is_unavailable(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.connection_pool.ANSWER_SECONDS", 0.2)
    database = Database(fleet.postgres.url, connections=1)
    with database.transaction(), pytest.raises(psycopg2.OperationalError, match="came free") as caught:
        database.start_file(BATCH, "a.mp3")
    assert unavailable_service(caught.value) == "PostgreSQL"
    database.close()


def test_a_server_that_falls_silent_is_unavailable(fleet: Fleet, database: Database) -> None:
    with pytest.raises(psycopg2.OperationalError, match="no answer"), database.transaction(0.5) as cursor:
        cursor.execute("SELECT pg_sleep(20)")
    assert database.start_file(BATCH, "a.mp3").status == "processing"


# --- outages --------------------------------------------------------------------------------------------


def test_it_connects_again_after_the_connection_was_lost(fleet: Fleet, database: Database) -> None:
    row = database.start_file(BATCH, "a.mp3")
    fleet.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'audio-pipeline'")
    with pytest.raises(psycopg2.Error) as caught:
        database.start_file(BATCH, "a.mp3")
    assert unavailable_service(caught.value) == "PostgreSQL"
    assert database.start_file(BATCH, "a.mp3") == row


def test_it_goes_on_after_an_error_of_the_job(database: Database) -> None:
    with pytest.raises(psycopg2.IntegrityError):
        database.save_result(12345, transcript(), [])
    assert database.start_file(BATCH, "a.mp3").status == "processing"
