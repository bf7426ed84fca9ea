"""pipeline/unpack/sidecars.py: what trunk-recorder, rdio-scanner and hostile hands write beside a recording."""

import datetime
import json
from typing import Any

import pytest

from pipeline.foundation.recording_times import Clock, Moment
from pipeline.unpack import sidecars

CLOCK = Clock(datetime.UTC, datetime.datetime(2024, 3, 20, tzinfo=datetime.UTC))
CALL = Moment(datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC))
TRUNK_RECORDER = {
    "freq": 855737500, "start_time": 1710512553, "stop_time": 1710512562, "emergency": 0, "encrypted": 0,
    "call_length": 9, "talkgroup": 3083, "talkgroup_tag": "CFD Main", "talkgroup_group": "Fire",
    "short_name": "metro",
    "freqList": [{"freq": 855737500, "time": 1710512553, "pos": 0.0, "len": 9.1, "error_count": 2}],
    "srcList": [{"src": 901234, "time": 1710512553, "pos": 0.0, "emergency": 0, "tag": "Engine 5"}],
}  # fmt: skip
RDIO_SCANNER = {
    "dateTime": "2024-03-15T14:22:33Z", "system": 11, "systemLabel": "RSP25MTL1", "talkgroup": 54241,
    "talkgroupLabel": "TDB A1", "talkgroupTag": "Fire dispatch", "frequency": 774031250, "source": 4424001,
    "sources": [{"pos": 0, "src": 4424001}], "frequencies": [{"freq": 774031250, "pos": 0}],
}  # fmt: skip


def read(content: Any) -> tuple[Moment | None, dict[str, Any]]:
    found = sidecars.read(json.dumps(content).encode(), CLOCK)
    assert found is not None
    return found


@pytest.mark.parametrize("content", [TRUNK_RECORDER, RDIO_SCANNER])
def test_a_recorder_says_when_and_what(content: dict[str, Any]) -> None:
    moment, metadata = read(content)
    assert moment == CALL
    assert metadata == content


def test_the_plain_field_comes_first() -> None:
    assert read({"start_time": 1700000000, "recorded_at": "2024-03-15 14:22:33", "caller": "+49 30 1234"}) == (
        CALL, {"start_time": 1700000000, "recorded_at": "2024-03-15 14:22:33", "caller": "+49 30 1234"},
    )  # fmt: skip


def test_a_wrong_clock_leaves_the_next_field() -> None:
    assert read({"recorded_at": "1970-01-01", "start_time": 4102444800, "dateTime": 1710512553})[0] == CALL
    assert read({"recorded_at": 5})[0] is None


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"5", b'"x"', b"\xff\xfe\0", b"[" * 60000, b'{"a":' * 10000, b"null",
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)  # fmt: skip
def test_what_is_no_object_is_no_sidecar(data: bytes) -> None:
    assert sidecars.read(data, CLOCK) is None


def test_numbers_that_json_does_not_have_are_left_out() -> None:
    assert sidecars.read(b'{"a": NaN, "b": 1e999, "c": -Infinity, "start_time": NaN, "d": 1}', CLOCK) == (
        None, {"d": 1},
    )  # fmt: skip


def test_the_names_of_sidecars() -> None:
    assert sidecars.names_of("a.b/call.1.wav") == ("a.b/call.1.wav.json", "a.b/call.1.json")
    assert sidecars.names_of("a.b/call") == ("a.b/call.json", "a.b/call.json")
