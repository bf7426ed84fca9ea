"""What failed, as `pipelinectl failures` reads it from PostgreSQL and Redis."""

import datetime
import json
from typing import Any

import pytest

from pipeline.jobs.batches import all_queues
from pipeline.operations.failures import (
    FailedFile,
    Failures,
    Filter,
    WarnedFile,
    failed_among,
    failed_files,
    read_dead_letters,
    read_failures,
    warned_codes,
    warned_files,
)
from pipeline.store.database import Database
from tests.store.test_transcripts import CUT, TURNED
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_dead_letter, add_file, unpack_job, warn

QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]


def file_job(name: str, batch_id: str = BATCH) -> str:
    return json.dumps({"batch_id": batch_id, "audio_id": None, "opus_path": "/x", "original_filename": name})


def read(redis: Any, database: Database, **wanted: Any) -> Failures:
    return read_failures(redis, database, QUEUES, Filter(**wanted))


def names(found: Failures) -> tuple[list[str], list[str]]:
    """The failed files and the dead letters, by what names them."""
    return [file.original_filename for file in found.files], [dead_letter.error for dead_letter in found.jobs]


# --- files -------------------------------------------------------------------------------------------------


def test_failed_files_come_with_their_reason_the_latest_first(fleet: Fleet) -> None:
    """The times are in UTC wherever the server is."""
    old = add_file(fleet, "old.mp3", "failed", "no audio", when="2025-06-22 14:30:52+02")
    new = add_file(fleet, "new.mp3", "failed", None, when="2025-06-23 00:00:00+00")
    add_file(fleet, "done.mp3", "done")
    add_file(fleet, "busy.mp3", "processing")
    database = Database(f"{fleet.postgres.url}?options=-ctimezone%3DAsia/Tokyo")
    found = failed_files(database, Filter())
    database.close()
    assert found == [
        FailedFile(BATCH, "new.mp3", "", "2025-06-23T00:00:00Z", new),
        FailedFile(BATCH, "old.mp3", "no audio", "2025-06-22T12:30:52Z", old),
    ]


def test_odd_names_are_given_as_they_are(fleet: Fleet, redis: Any, database: Database) -> None:
    odd = {"\x1b[2Jevil.mp3", "a\nb.mp3", "n" * 300 + ".mp3", "caf\\xe9.mp3", "%s'; --.mp3"}
    for name in odd:
        add_file(fleet, name, "failed", name)
    found = read(redis, database).files
    assert {file.original_filename for file in found} == {file.error for file in found} == odd


# --- dead letters ------------------------------------------------------------------------------------------


def test_a_dead_letter_says_what_the_worker_wrote(redis: Any, database: Database) -> None:
    dead_letter = add_dead_letter(redis, "queue:unpack", unpack_job(), "it is cut")
    (found,) = read(redis, database).jobs
    assert (found.queue, found.job, found.error) == ("queue:unpack", unpack_job(), "it is cut")
    assert (found.attempts, found.worker, found.time, found.text) == (3, "w", "2025-06-22T14:30:52Z", dead_letter)
    assert found.fields["batch_id"] == BATCH
    assert found.file is None


def test_the_latest_dead_letter_comes_first(redis: Any, database: Database) -> None:
    for day in (22, 24, 23):
        add_dead_letter(redis, "queue:transfer", "{}", f"{day}", f"2025-06-{day}T00:00:00Z")
    assert names(read(redis, database))[1] == ["24", "23", "22"]


def test_equal_jobs_in_two_queues_have_two_ids(redis: Any) -> None:
    for queue in QUEUES:
        add_dead_letter(redis, queue, "{}")
    ids = [dead_letter.id for dead_letter in read_dead_letters(redis, QUEUES)]
    assert len(set(ids)) == 3
    assert ids == [dead_letter.id for dead_letter in read_dead_letters(redis, QUEUES)]


def test_a_file_that_failed_is_listed_once_and_one_that_did_not_by_its_dead_letter(
    fleet: Fleet, redis: Any, database: Database
) -> None:
    add_file(fleet, "failed.mp3", "failed", "it kills")
    add_file(fleet, "done.mp3", "done")
    for name in ("failed.mp3", "done.mp3", "unknown.mp3"):
        add_dead_letter(redis, "queue:transcribe", file_job(name), name)
    add_dead_letter(redis, "queue:transcribe", file_job("failed.mp3", "other-batch"), "of another batch")
    files, dead_letters = names(read(redis, database))
    assert files == ["failed.mp3"]
    assert sorted(dead_letters) == ["done.mp3", "of another batch", "unknown.mp3"]


def test_a_dead_letter_whose_file_cannot_be_one_is_a_dead_letter(redis: Any, database: Database) -> None:
    names_ = ["\0.mp3", "\ud800.mp3", "n" * 9000, 7, None, ["x"], {"x": 1}]
    odd = [(BATCH, name) for name in names_] + [(batch_id, "a.mp3") for batch_id in ("../..", "", "\ud800", 7)]
    for batch_id, name in odd:
        add_dead_letter(redis, "queue:transcribe", json.dumps({"batch_id": batch_id, "original_filename": name}))
    assert [dead_letter.file for dead_letter in read(redis, database).jobs] == [None] * len(odd)


GARBAGE = [
    b"", b"garbage", b"\xff\xfe\x00", b"[]", b"[1]", b"7", b"null", b'"x"', b"{}", b'{"error": "x"}', b"\x1b[2J",
    b"a\nb",
    b'{"job": "x", "error": "x", "attempts": "many", "worker": "w", "time": "t"}',
    b'{"job": "x", "error": "x", "attempts": [], "worker": "w", "time": "t"}',
    b'{"job": "x", "error": "x", "attempts": Infinity, "worker": "w", "time": "t"}',
    b'{"job": "x", "error": "x", "attempts": 1e999, "worker": "w", "time": "t"}',
    b'{"job": "x", "error": "x", "attempts": NaN, "worker": "w", "time": "t"}',
    b'{"job": "x", "error": "x", "attempts": ' + b"9" * 5000 + b', "worker": "w", "time": "t"}',
    b"[" * 100_000, b'{"job":' * 100_000,
]  # fmt: skip


def test_garbage_among_the_letters_is_shown_as_such(redis: Any, database: Database) -> None:
    good = add_dead_letter(redis, "queue:unpack", unpack_job())
    redis.execute_command("RPUSH", "queue:unpack:dead", *GARBAGE)
    first, *bad = read_dead_letters(redis, ["queue:unpack"])
    assert first.text == good
    for dead_letter, garbage in zip(bad, GARBAGE, strict=True):
        assert (dead_letter.error, dead_letter.attempts, dead_letter.file) == ("not a dead letter", 0, None), (
            garbage[:80]
        )
        assert dead_letter.job.encode("utf-8", "surrogateescape") == garbage
    assert len({dead_letter.id for dead_letter in bad}) == len(GARBAGE)
    assert names(read(redis, database))[1] == ["broken", *["not a dead letter"] * len(GARBAGE)]


def test_a_job_that_is_nested_as_deep_as_can_be_stops_nothing(redis: Any, database: Database) -> None:
    depths = [*range(200, 1000, 20), 100_000]
    for depth in depths:
        deep = "[" * depth + "]" * depth
        add_dead_letter(redis, "queue:unpack", f'{{"batch_id": {deep}, "s3_key": {deep}}}', "deep")
        dead_letter = f'{{"job": {deep}, "error": {deep}, "attempts": 1, "worker": 1, "time": 1}}'
        redis.rpush("queue:unpack:dead", dead_letter)
    found = read(redis, database)
    assert len(found.jobs) == 2 * len(depths)
    json.dumps(found.as_dict())


# --- the filter --------------------------------------------------------------------------------------------


@pytest.fixture
def several(fleet: Fleet, redis: Any) -> None:
    """Files and dead letters of two batches, two queues, two days and several reasons."""
    add_file(fleet, "a.mp3", "failed", "ffmpeg: No Audio", when="2025-06-22 00:00:00+00")
    add_file(fleet, "b.mp3", "failed", "100% silent_", "other", when="2025-06-24 00:00:00+00")
    add_dead_letter(redis, "queue:unpack", unpack_job(), "FFMPEG is gone", "2025-06-22T00:00:00Z")
    add_dead_letter(redis, "queue:transfer", '{"remote_path": "/x"}', "1000 silents", "2025-06-24T00:00:00Z")
    add_dead_letter(redis, "queue:transcribe", file_job("b.mp3", "other"), "100% silent_", "2025-06-24T00:00:00Z")


JUNE_24 = datetime.datetime(2025, 6, 24, tzinfo=datetime.UTC)


WANTED: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({}, ["b.mp3", "a.mp3"], ["1000 silents", "FFMPEG is gone"]),
    ({"batch_id": BATCH}, ["a.mp3"], ["FFMPEG is gone"]),
    ({"batch_id": "none"}, [], []),
    ({"reason": "ffmpeg"}, ["a.mp3"], ["FFMPEG is gone"]),
    ({"reason": "NO AUDIO"}, ["a.mp3"], []),
    ({"reason": "100% silent_"}, ["b.mp3"], []),
    ({"queue": "queue:unpack"}, [], ["FFMPEG is gone"]),
    ({"queue": "queue:transcribe"}, [], ["100% silent_"]),
    ({"queue": "queue:unpack", "reason": "silent"}, [], []),
    ({"since": JUNE_24}, ["b.mp3"], ["1000 silents"]),
    ({"since": JUNE_24 + datetime.timedelta(seconds=1)}, [], []),
]


@pytest.mark.usefixtures("several")
def test_the_filter_takes_files_and_letters_alike(redis: Any, database: Database) -> None:
    for wanted, files, dead_letters in WANTED:
        assert names(read(redis, database, **wanted)) == (files, dead_letters), wanted


@pytest.mark.usefixtures("several")
def test_reasons_are_counted_over_files_and_dead_letters(fleet: Fleet, redis: Any, database: Database) -> None:
    add_file(fleet, "c.mp3", "failed", "FFMPEG is gone")
    reasons = read(redis, database).reasons()
    assert reasons[0] == ("FFMPEG is gone", 2)
    assert sorted(reasons[1:]) == [("100% silent_", 1), ("1000 silents", 1), ("ffmpeg: No Audio", 1)]


@pytest.mark.usefixtures("several")
def test_as_json_a_letter_has_its_job_and_not_its_own_text(redis: Any, database: Database) -> None:
    found = read(redis, database, batch_id=BATCH).as_dict()
    assert found["files"] == [
        {
            "batch_id": BATCH,
            "original_filename": "a.mp3",
            "error": "ffmpeg: No Audio",
            "failed_at": "2025-06-22T00:00:00Z",
            "audio_id": 1,
            "archive": "",
        }
    ]
    assert set(found["jobs"][0]) == {"id", "queue", "job", "error", "attempts", "worker", "time"}


def test_the_queues_of_hosts_are_among_all_queues(redis: Any) -> None:
    redis.hset("hosts:queues", mapping={"queue:transcribe:b": "b", "queue:transcribe:a": "a", "queue:unpack": "x"})
    assert all_queues(redis, QUEUES) == [*QUEUES, "queue:transcribe:a", "queue:transcribe:b"]


def test_only_what_has_failed_is_among_the_failed(fleet: Fleet, database: Database) -> None:
    add_file(fleet, "a.mp3", "failed", "x")
    add_file(fleet, "a.mp3", "done", batch_id="other")
    add_file(fleet, "b.mp3", "processing")
    asked = [(BATCH, "a.mp3"), ("other", "a.mp3"), (BATCH, "b.mp3"), (BATCH, "c.mp3")]
    assert failed_among(database, asked) == {(BATCH, "a.mp3")}
    assert failed_among(database, []) == set()


# --- files with warnings -----------------------------------------------------------------------------------


@pytest.fixture
def warned(fleet: Fleet) -> dict[str, int]:
    """Files of two batches and three days with warnings, and others without; gives their ids."""
    ids = {
        "a": add_file(fleet, "a", "done", when="2025-06-22 14:30:52+02"),
        "b": add_file(fleet, "b", "failed", "no speech", "other", when="2025-06-24 00:00:00+00"),
        "c": add_file(fleet, "c", "processing", when="2025-06-23 00:00:00+00"),
        "d": add_file(fleet, "d", "done"),
        "e": add_file(fleet, "e", "failed", "missing_end"),
    }
    warn(fleet, ids["a"], CUT)
    warn(fleet, ids["b"], TURNED, TURNED)
    warn(fleet, ids["c"], TURNED, CUT)
    return ids


def test_files_with_warnings_come_with_them_the_latest_first(database: Database, warned: dict[str, int]) -> None:
    assert warned_files(database, Filter()) == [
        WarnedFile("other", "b", "failed", [TURNED, TURNED], "2025-06-24T00:00:00Z", warned["b"]),
        WarnedFile(BATCH, "c", "processing", [TURNED, CUT], "2025-06-23T00:00:00Z", warned["c"]),
        WarnedFile(BATCH, "a", "done", [CUT], "2025-06-22T12:30:52Z", warned["a"]),
    ]
    assert [file.original_filename for file in warned_files(database, Filter(), 1)] == ["b"]
    assert warned_codes(database, Filter()) == [("inverted_channel", 2), ("missing_end", 2)]


@pytest.mark.usefixtures("warned")
@pytest.mark.parametrize(
    ("wanted", "found", "codes"),
    [
        ({"batch_id": BATCH}, ["c", "a"], {"missing_end": 2, "inverted_channel": 1}),
        ({"reason": "MISSING_END"}, ["c", "a"], {"missing_end": 2, "inverted_channel": 1}),
        ({"reason": "turned over"}, ["b", "c"], {"inverted_channel": 2, "missing_end": 1}),
        ({"reason": "%"}, [], {}),
        ({"since": JUNE_24}, ["b"], {"inverted_channel": 1}),
        ({"since": JUNE_24, "batch_id": BATCH}, [], {}),
    ],
)
def test_the_filter_takes_files_with_warnings(
    database: Database, wanted: dict[str, Any], found: list[str], codes: dict[str, int]
) -> None:
    assert [file.original_filename for file in warned_files(database, Filter(**wanted))] == found
    assert dict(warned_codes(database, Filter(**wanted))) == codes


def test_no_row_from_before_warnings_has_any(fleet: Fleet, database: Database) -> None:
    add_file(fleet, "a.mp3", "done")
    assert (warned_files(database, Filter()), warned_codes(database, Filter())) == ([], [])
