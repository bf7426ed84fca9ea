"""pipeline/foundation/filename_times.py: what names of recorders, telephone systems and people say."""

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.foundation.filename_times import COMMON, read_forms, read_name
from pipeline.foundation.recording_times import Clock, Moment

CLOCK = Clock(datetime.UTC, datetime.datetime(2024, 3, 20, tzinfo=datetime.UTC))
CALL = Moment(datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC))
MINUTE = Moment(CALL.at.replace(second=0))
DAY = Moment(datetime.datetime(2024, 3, 15, tzinfo=datetime.UTC), is_day=True)


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("metro/2024/3/15/1234-1710512553_855737500.wav", CALL),  # trunk-recorder
        ("1234-1710512553_855737500.0-call_7.wav", CALL),
        ("20240315_142233Metro_Control_TRAFFIC__TO_1234_FROM_5678.mp3", CALL),  # SDRTrunk
        ("monday/out-1000-1001-20240315-092233-1710512553.12.wav", CALL),  # Asterisk: the host's zone is not known
        ("2024-03-15T14-22-33Z.ogg", CALL),
        ("2024-03-15T15-22-33+0100.ogg", CALL),
        ("2024-03-15 14.22.33.m4a", CALL),
        ("Recording 2024-03-15 at 14.22.33.m4a", CALL),
        ("2024/03/15/14-22-33-1234.wav", CALL),
        ("20240315/142233.wav", CALL),
        ("20240315142233.wav", CALL),
        ("PXL_20240315_142233123.mp4", CALL),
        ("20240301_000000/20240315_142233.wav", CALL),  # the last one counts
        ("20240315-142233-1001.wav", CALL),  # and no zone of -10:01
        ("1710512553.wav", CALL),
        ("call_1710512553000.mp3", CALL),
        ("2024-03-15_14-22.wav", MINUTE),
        ("2024-03-15 14h22 budget.wav", MINUTE),
        ("20240315_1422.wav", MINUTE),
        ("20240315-1001-555.wav", DAY),  # an extension, and no time
        ("2024-03-15/call-0001.wav", DAY),
        ("call 2024.03.15.wav", DAY),
    ],
)
def test_a_name_says_when(name: str, moment: Moment) -> None:
    found, _ = read_name(name, COMMON, CLOCK)
    assert found == moment


@pytest.mark.parametrize(
    "name",
    [
        "call.mp3", "1234-0000000005_855737500.wav", "19700101_000000.wav", "20380119_031407.wav",
        "2024-03-21.wav",
        "20241345_142233.wav", "202403151422334455.wav", "5551234567.wav", "15551234567.wav", "zoom1710512553.m4a",
        "", "2024.wav", "٢٠٢٤٠٣١٥_١٤٢٢٣٣.wav",
    ],
)  # fmt: skip
def test_a_name_without_a_time_or_of_a_wrong_clock_says_none(name: str) -> None:
    assert read_name(name, COMMON, CLOCK)[0] is None


def test_a_wrong_clock_in_one_form_leaves_the_others() -> None:
    assert read_name("1234-1999999999_855737500 20240315_142233.wav", COMMON, CLOCK)[0] == CALL


def test_other_parts_of_a_name_are_its_metadata() -> None:
    _, fields = read_name("1234-1710512553_855737500.wav", COMMON, CLOCK)
    assert fields == {"talkgroup": "1234", "frequency": "855737500"}


def test_the_forms_of_a_setting_come_before_the_common_ones() -> None:
    text = (
        r"(?P<day>\d\d)\.(?P<month>\d\d)\.(?P<year>\d\d)_(?P<hour>\d)h(?P<agent>[a-z]+) (?P<queue>support|sales)"
    )
    forms = read_forms(text)
    found, fields = read_name("sales/15.03.24_9hkim-20240101_000000.wav", (*forms, *COMMON), CLOCK)
    assert found == Moment(datetime.datetime(2024, 3, 15, 9, tzinfo=datetime.UTC))
    assert fields == {"agent": "kim", "queue": "sales"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [("(", "no regular expression"), ("[0-9]+", "no named group"), ("(?P<year>[0-9]{4})", "year, month and day")],
)
def test_a_form_that_cannot_be_used_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        read_forms(text)


@given(st.text(alphabet="0123456789-_./ T:Zat+h", max_size=1024))
def test_no_name_is_too_much(name: str) -> None:
    read_name(name, COMMON, CLOCK)


@pytest.mark.parametrize("piece", ["0", "1710512553", "20240315", "2024-03-15 ", "1-", "20240315142233", "-_./"])
def test_no_name_takes_long(piece: str) -> None:
    name = (piece * 1024)[:1024] + "x"
    begin = time.process_time()
    for _ in range(10):
        read_name(name, COMMON, CLOCK)
    assert time.process_time() - begin < 1
