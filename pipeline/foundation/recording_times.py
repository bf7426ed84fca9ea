"""When a recording was made, as its name, its tags or a file beside it say so.

All of that was written by others, and by recorders whose clocks were wrong: what cannot be a time, and a time that
cannot be true, is None, so that the next source is asked.
"""

import datetime
import re
from dataclasses import dataclass

EARLIEST = datetime.datetime(1990, 1, 1, tzinfo=datetime.UTC)  # a clock that was never set says 1904, 1970 or 1980
MOST_AHEAD = datetime.timedelta(days=1)  # of the moment when the recording arrived: clocks and zones may be wrong
_DAY = datetime.timedelta(days=1)
_MOST_CHARACTERS = 64
_NUMBER = re.compile(r"[0-9]{9,16}(?:\.[0-9]{1,9})?")
_DATE = re.compile(r"([0-9]{4})[-:/.]?([0-9]{2})[-:/.]?([0-9]{2})")
_REST = re.compile(
    r"[T ]\s*([0-9]{2})[-:._]?([0-9]{2})(?:[-:._]?([0-9]{2})(?:[.,][0-9]{1,9})?)?\s*"
    r"(?:(Z|UTC)|([+-][0-9]{2}):?([0-9]{2}))?"
)
_MILLISECONDS, _MICROSECONDS = 1e11, 1e14  # since 1970: numbers from here on are such; of seconds, the year 5138
_MOST_NUMBER = 1e17


@dataclass(frozen=True)
class Moment:
    """A time in UTC; `is_day`: the beginning of a day of which the hour is not known."""

    at: datetime.datetime
    is_day: bool = False

    def holds(self, other: "Moment") -> bool:
        """Whether this is the day in which the other time lies: then that one says more."""
        return self.is_day and not other.is_day and self.at <= other.at < self.until

    @property
    def until(self) -> datetime.datetime:
        """The end of what this may mean (not included): of a day the next one, of a time itself."""
        return self.at + _DAY if self.is_day else self.at


@dataclass(frozen=True)
class Clock:
    """How times are read: `zone` is that of times that name none, none after `latest` is believed."""

    zone: datetime.tzinfo
    latest: datetime.datetime

    def moment(self, value: object) -> Moment | None:
        """The time that a number (seconds since 1970; large ones milliseconds) or a text (such a number, or a date
        with or without a time, as ISO 8601 and its relatives write it) means; None where it is
        no time, or a wrong one."""
        if isinstance(value, str):
            text = value.strip()
            if len(text) > _MOST_CHARACTERS:
                return None
            found = self._of_number(float(text)) if _NUMBER.fullmatch(text) else self._of_text(text)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = self._of_number(value)
        else:
            return None
        return found if found and EARLIEST <= found.at <= self.latest else None

    def _of_number(self, number: float) -> Moment | None:
        if not 0 < number < _MOST_NUMBER:
            return None
        seconds = number
        if number >= _MILLISECONDS:
            seconds = number / (1e6 if number >= _MICROSECONDS else 1e3)
        return Moment(datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(seconds=seconds))

    def _of_text(self, text: str) -> Moment | None:
        date = _DATE.match(text)
        rest = _REST.fullmatch(text, date.end()) if date else None
        if date is None or (rest is None and date.end() < len(text)):
            return None
        year, month, day = (int(part) for part in date.groups())
        hour, minute, second = (int(part or 0) for part in (rest.groups()[:3] if rest else "000"))
        try:
            there = datetime.datetime(year, month, day, hour, minute, second, tzinfo=self._zone(rest))
            at = there.astimezone(datetime.UTC)
        except (ValueError, OverflowError):  # no such day, or at the end of all time
            return None
        return Moment(at, is_day=rest is None)

    def _zone(self, rest: re.Match[str] | None) -> datetime.tzinfo:
        if rest is None or not (rest[4] or rest[5]):
            return self.zone
        hours = 0 if rest[4] else int(rest[5])
        minutes = 0 if rest[4] else int(rest[6]) * (-1 if rest[5][0] == "-" else 1)
        return datetime.timezone(datetime.timedelta(hours=hours, minutes=minutes))
