"""What is written of a recording beside its sound: the same however often it comes, and in whichever order."""

import datetime
import json
from dataclasses import replace
from typing import Any

import pytest

from pipeline.audio.tags import Tagged
from pipeline.foundation.file_metadata import Description
from pipeline.foundation.recording_times import Moment
from pipeline.store.database import Database
from tests.store.test_database import BATCH, transcript

CALL = datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
DAY = Moment(datetime.datetime(2024, 3, 15, tzinfo=datetime.UTC), is_day=True)


def known(database: Database, name: str = "a.mp3") -> tuple[Any, ...]:
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT recorded_at, recorded_from, metadata FROM audio_files"
            " WHERE batch_id = %s AND original_filename = %s",
            (BATCH, name),
        )
        at, source, metadata = cursor.fetchone()
        return at and at.astimezone(datetime.UTC), source, metadata


def opened(database: Database, *names: str) -> Database:
    database.open_batch(BATCH, f"archives/{BATCH}.tar", list(names) or ["a.mp3"], "gpu-01")
    return database


def heard(database: Database, tagged: Tagged | None) -> tuple[Any, ...]:
    database.save_result(database.start_file(BATCH, "a.mp3").audio_id, transcript(), [], (), tagged)
    return known(database)


def test_files_are_described_before_they_are_opened(database: Database) -> None:
    opened(database, "a.mp3", "b.mp3", "c.mp3")
    found = {
        "a.mp3": Description(CALL, "sidecar", {"talkgroup": 1234, "tag": "Müller \U0001f692"}),
        "b.mp3": Description(CALL, "mtime"),
        "c.mp3": Description(),
        "unknown.mp3": Description(CALL, "name"),
    }
    for _ in range(2):
        database.describe_files(BATCH, found)
        assert known(database) == (CALL, "sidecar", {"talkgroup": 1234, "tag": "Müller \U0001f692"})
        assert known(database, "b.mp3") == (CALL, "mtime", None)
        assert known(database, "c.mp3") == (None, None, None)


def test_a_delivery_again_changes_what_is_not_heard_yet_alone(database: Database) -> None:
    opened(database)
    database.describe_files(BATCH, {"a.mp3": Description(CALL, "name")})
    database.describe_files(BATCH, {"a.mp3": Description(CALL + HOUR, "name", {"a": 1})})
    assert known(database) == (CALL + HOUR, "name", {"a": 1})
    assert heard(database, Tagged(Moment(CALL), {"title": "x"})) == (CALL, "tag", {"a": 1, "title": "x"})
    database.describe_files(BATCH, {"a.mp3": Description(CALL + HOUR, "name", {"a": 1})})
    assert known(database) == (CALL, "tag", {"a": 1, "title": "x"})


@pytest.mark.parametrize("source", ["name", "mtime", None])
def test_tags_count_before_name_and_time_of_the_member(database: Database, source: str | None) -> None:
    opened(database)
    database.describe_files(BATCH, {"a.mp3": Description(CALL + HOUR if source else None, source)})
    for _ in range(2):
        assert heard(database, Tagged(Moment(CALL))) == (CALL, "tag", None)


def test_a_sidecar_counts_before_the_tags(database: Database) -> None:
    opened(database)
    database.describe_files(BATCH, {"a.mp3": Description(CALL, "sidecar", {"talkgroup": 1, "title": "theirs"})})
    said = Tagged(Moment(CALL + HOUR), {"title": "tag", "artist": "5678"})
    assert heard(database, said) == (CALL, "sidecar", {"talkgroup": 1, "title": "theirs", "artist": "5678"})


def test_a_tag_with_a_day_alone_leaves_a_time_on_that_day(database: Database) -> None:
    opened(database)
    database.describe_files(BATCH, {"a.mp3": Description(CALL, "name")})
    assert heard(database, Tagged(DAY)) == (CALL, "name", None)
    database.save_result(database.start_file(BATCH, "a.mp3").audio_id, transcript(), [])
    other = replace(DAY, at=DAY.at - 24 * HOUR)
    for _ in range(2):
        assert heard(database, Tagged(other)) == (other.at, "tag", None)


def test_tags_without_a_time_leave_it(database: Database) -> None:
    opened(database)
    database.describe_files(BATCH, {"a.mp3": Description(CALL, "mtime")})
    assert heard(database, Tagged(None, {"title": "x"})) == (CALL, "mtime", {"title": "x"})
    assert heard(database, None) == (CALL, "mtime", {"title": "x"})


def test_a_row_of_an_earlier_release_gets_the_tags(database: Database) -> None:
    database.start_file(BATCH, "a.mp3")
    assert heard(database, Tagged(Moment(CALL), {"title": "x"})) == (CALL, "tag", {"title": "x"})


def test_a_batch_was_opened_when_it_was_opened_first(database: Database) -> None:
    first = opened(database).opened_at(BATCH)
    assert opened(database).opened_at(BATCH) == first
    assert abs(datetime.datetime.now(datetime.UTC) - first) < HOUR


def test_metadata_is_found_by_its_fields(database: Database) -> None:
    opened(database)
    database.describe_files(BATCH, {"a.mp3": Description(None, None, {"talkgroup": 1234})})
    with database.transaction() as cursor:
        cursor.execute("SELECT count(*) FROM audio_files WHERE metadata @> %s", (json.dumps({"talkgroup": 1234}),))
        assert cursor.fetchone()[0] == 1
