"""pipeline/unpack/descriptions.py: which source of a recording's time counts, and what else is said of it."""

import datetime
import json
import os
import zoneinfo
from pathlib import Path

import pytest

from pipeline.foundation.file_metadata import Description
from pipeline.foundation.filename_times import COMMON
from pipeline.foundation.recording_times import Clock
from pipeline.unpack.archive import Member
from pipeline.unpack.descriptions import describe, parts

CLOCK = Clock(datetime.UTC, datetime.datetime(2024, 3, 20, tzinfo=datetime.UTC))
BERLIN = Clock(zoneinfo.ZoneInfo("Europe/Berlin"), CLOCK.latest)
CALL = datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC)
CHANGED = datetime.datetime(2024, 3, 15, 23, 0, 1, tzinfo=datetime.UTC)
NAMED = "20240315_142233.wav"


def described(
    folder: Path, name: str, changed: int | None = None, sidecar: bytes = b"", clock: Clock = CLOCK
) -> Description:
    path = folder / "archive.tar"
    path.write_bytes(b"in front" + sidecar)
    place = (8, len(sidecar)) if sidecar else None
    with path.open("rb") as archive:
        return describe(archive, Member(name, "x", 0, 1, None, changed, place), COMMON, clock)


def told(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_the_sidecar_counts_before_the_name_and_the_name_before_the_time_of_the_member(tmp_path: Path) -> None:
    changed = int(CHANGED.timestamp())
    sidecar = told(start_time=1710512000, talkgroup=1234)
    found = described(tmp_path, NAMED, changed, sidecar)
    assert found.recorded_from == "sidecar"
    assert found.recorded_at == datetime.datetime.fromtimestamp(1710512000, datetime.UTC)
    assert found.metadata == {"start_time": 1710512000, "talkgroup": 1234}
    assert described(tmp_path, NAMED, changed) == Description(CALL, "name")
    assert described(tmp_path, "call.wav", changed) == Description(CHANGED, "mtime")
    assert described(tmp_path, "call.wav") == Description()


@pytest.mark.parametrize("wrong", [0, 5, 2**31 - 1, 4102444800, 2**88, 600000000])
def test_a_wrong_clock_leaves_the_next_source(tmp_path: Path, wrong: int) -> None:
    changed = int(CHANGED.timestamp())
    assert described(tmp_path, NAMED, changed, told(start_time=wrong)).recorded_from == "name"
    name = f"1234-{wrong:010}_855737500.wav"
    assert described(tmp_path, name, changed, told(start_time=wrong)).recorded_from == "mtime"
    assert described(tmp_path, name, wrong, told(start_time=wrong)).recorded_at is None


def test_of_a_day_alone_the_time_on_that_day_is_taken(tmp_path: Path) -> None:
    changed = int(CHANGED.timestamp())
    assert described(tmp_path, "2024-03-15.wav", changed) == Description(CHANGED, "mtime")
    day = datetime.datetime(2024, 3, 14, tzinfo=datetime.UTC)
    assert described(tmp_path, "2024-03-14.wav", changed) == Description(day, "name")
    # 23:00:01 UTC is the next day in Berlin
    there = datetime.datetime(2024, 3, 14, 23, tzinfo=datetime.UTC)
    assert described(tmp_path, "2024-03-15.wav", changed, clock=BERLIN) == Description(there, "name")
    found = described(tmp_path, NAMED, None, told(recorded_at="2024-03-15"))
    assert (found.recorded_at, found.recorded_from) == (CALL, "name")


def test_the_sidecar_says_more_than_the_name(tmp_path: Path) -> None:
    found = described(tmp_path, "1234-1710512553_855737500.wav", None, told(talkgroup=1234, tag="Fire"))
    assert found == Description(CALL, "name", {"talkgroup": 1234, "frequency": "855737500", "tag": "Fire"})


@pytest.mark.parametrize("sidecar", [b"{", b"[1]", b"\xff", b"[" * 9999, b'{"recorded_at": {"a": 1}}'])
def test_a_sidecar_that_cannot_be_read_leaves_the_name(tmp_path: Path, sidecar: bytes) -> None:
    assert described(tmp_path, NAMED, None, sidecar).recorded_at == CALL


def test_an_archive_that_was_cut_meanwhile_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "archive.tar"
    path.write_bytes(told(start_time=1710512000))
    with path.open("rb") as archive:
        os.truncate(path, 5)
        found = describe(archive, Member(NAMED, "x", 0, 1, None, None, (0, 25)), COMMON, CLOCK)
    assert found == Description(CALL, "name")


def test_members_are_described_some_at_a_time() -> None:
    members = [Member(str(number), "x", 0, 1) for number in range(7)]
    assert [len(some) for some in parts(members, 3)] == [3, 3, 1]
