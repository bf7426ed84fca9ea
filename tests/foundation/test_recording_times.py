"""pipeline/foundation/recording_times.py: times as others write them, and none that cannot be true."""

import datetime
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.foundation.recording_times import EARLIEST, Clock, Moment

ARRIVED = datetime.datetime(2024, 3, 20, tzinfo=datetime.UTC)
UTC = Clock(datetime.UTC, ARRIVED)
BERLIN = Clock(zoneinfo.ZoneInfo("Europe/Berlin"), ARRIVED)
CALL = datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    "value",
    [
        1710512553, 1710512553.0, "1710512553", 1710512553000, "1710512553000", 1710512553000000,
        "2024-03-15T14:22:33Z",
        "2024-03-15 14:22:33", "2024-03-15T14:22:33.000000Z", "2024-03-15T15:22:33+01:00", "20240315T142233",
        "2024:03:15 14:22:33", "2024/03/15 14:22:33", "2024-03-15 09:22:33 -0500", "2024-03-15T14-22-33",
        " 2024-03-15 14:22:33.123 ", "2024-03-15 14:22:33 UTC",
    ],
)  # fmt: skip
def test_a_time_is_read_as_it_is_written(value: object) -> None:
    assert UTC.moment(value) == Moment(CALL)


def test_a_time_without_a_zone_is_that_of_the_source() -> None:
    assert BERLIN.moment("2024-03-15 15:22:33") == Moment(CALL)
    assert BERLIN.moment("2023-07-01 16:22:33") == Moment(
        datetime.datetime(2023, 7, 1, 14, 22, 33, tzinfo=datetime.UTC)
    )
    assert BERLIN.moment("2024-03-15 14:22:33Z") == Moment(CALL)


def test_of_a_day_no_more_is_known_than_that() -> None:
    day = BERLIN.moment("2024-03-15")
    assert day == Moment(datetime.datetime(2024, 3, 14, 23, tzinfo=datetime.UTC), is_day=True)
    assert day.holds(Moment(CALL))
    assert not day.holds(Moment(CALL + datetime.timedelta(days=1)))
    assert not day.holds(Moment(day.at, is_day=True))
    assert not Moment(CALL).holds(Moment(CALL))


@pytest.mark.parametrize(
    "value",
    [
        0, 1, 315964800, "1970-01-01T00:00:00Z", "1904-01-01T00:00:00.000000Z", "1980-01-01",
        "1989-12-31 23:59:59",
        2**31 - 1, "2038-01-19 03:14:07", "2024-03-20 00:00:01", "9999-12-31", 4102444800,
    ],
)  # fmt: skip
def test_a_wrong_clock_is_no_source(value: object) -> None:
    assert UTC.moment(value) is None


@pytest.mark.parametrize(
    "value",
    [
        None, True, [], {}, "", "2024", "2024-03", "2024-13-01", "2024-02-30", "noon", "2024-03-15 25:00",
        "1" * 400,
        float("nan"), float("inf"), 10**400, -1710512553, "2024-03-15T14:22:33+99:99", "2024-03-15 14:22:33 then",
        "0000-00-00", "9" * 16, "٢٠٢٤-٠٣-١٥", "2024-03-15 14:22:33\0",
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_what_is_no_time_is_none(value: object) -> None:
    assert UTC.moment(value) is None


@given(st.one_of(st.text(), st.integers(), st.floats(), st.datetimes().map(str), st.binary()))
def test_whatever_is_written_gives_a_time_that_can_be_true_or_none(value: object) -> None:
    for clock in (UTC, BERLIN):
        found = clock.moment(value)
        assert found is None or EARLIEST <= found.at <= ARRIVED
