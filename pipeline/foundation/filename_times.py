"""What the name of a recording says of it: when it was made, and what else its parts are.

A form is a regular expression whose named groups are parts of the time (`PARTS`), or fields of the metadata by any
other name. Forms are tried one after the other, each on the whole name in the archive, folders included; of
several places that fit, the last one counts.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.foundation.recording_times import Clock, Moment

PARTS = frozenset(("epoch", "year", "month", "day", "hour", "minute", "second", "zone"))
Form = re.Pattern[str]
_DAY = frozenset(("year", "month", "day"))

_DATE = r"(?<![0-9])(?P<year>(?:19|20)[0-9]{2})[-_./]?(?P<month>[01][0-9])[-_./]?(?P<day>[0-3][0-9])"
_ZONE = r"(?P<zone>Z|[+-][0-9]{2}:[0-9]{2}|[+][0-9]{4})?"
COMMON: tuple[Form, ...] = tuple(
    re.compile(form)
    for form in (
        # trunk-recorder: 1234-1710512553_855737500.wav
        r"(?:^|/)(?P<talkgroup>[0-9]{1,12})-(?P<epoch>1[0-9]{9})_(?P<frequency>[0-9]{1,12}(?:\.[0-9]{1,6})?)",
        # Asterisk: out-1000-1001-20240315-142233-1710512553.12.wav, where the date is in the zone of the host
        r"(?<![0-9])[0-9]{8}-[0-9]{6}-(?P<epoch>1[0-9]{9})\.[0-9]",
        # 20240315_142233, 2024-03-15T14-22-33Z, 2024/03/15/14.22.33, 2024-03-15 at 14.22.33, 20240315142233123
        _DATE + r"(?:[-_ ]at[-_ ]|[-_./ T]{0,3})(?P<hour>[0-2][0-9])[-_.:h]?(?P<minute>[0-5][0-9])[-_.:m]?"
        r"(?P<second>[0-5][0-9])(?:[-_.,]?[0-9]{3})?" + _ZONE + r"(?![0-9])",
        # 2024-03-15_14-22; 20240315_1422 at the end alone: it may be another number
        _DATE + r"[-_ T](?P<hour>[0-2][0-9])[-.:h](?P<minute>[0-5][0-9])(?![0-9])",
        _DATE + r"[-_ T]?(?P<hour>[0-2][0-9])(?P<minute>[0-5][0-9])(?=\.[A-Za-z0-9]+$|$)",
        # 1710512553.wav, call_1710512553123.mp3
        r"(?<![0-9A-Za-z.])(?P<epoch>1[0-9]{9}(?:[0-9]{3})?)(?![0-9A-Za-z])",
        _DATE + r"(?![0-9])",
    )
)


def read_forms(text: str) -> tuple[Form, ...]:
    """The regular expressions of a setting, with spaces between them; `ValueError` says what is wrong with one."""
    forms = []
    for part in text.split():
        try:
            form = re.compile(part)
        except re.error as error:
            raise ValueError(f"{part} is no regular expression: {error}") from None
        if not form.groupindex:
            raise ValueError(f"{part} has no named group, as (?P<epoch>[0-9]+)")
        if 0 < len(form.groupindex.keys() & _DAY) < len(_DAY):
            raise ValueError(f"{part} has not all of the groups year, month and day")
        forms.append(form)
    return tuple(forms)


def read_name(name: str, forms: Sequence[Form], clock: Clock) -> tuple[Moment | None, dict[str, str]]:
    """The time that a name says (None: none that can be true), and the fields of its metadata."""
    moment: Moment | None = None
    fields: dict[str, str] = {}
    for form in forms:
        found = list(form.finditer(name))
        if not found:
            continue
        others = found[-1].groupdict()
        fields = {key: value for key, value in others.items() if key not in PARTS and value} | fields
        moment = moment or next(_moments(reversed(found), clock), None)
    return moment, fields


def _moments(found: Any, clock: Clock) -> Iterator[Moment]:
    return filter(None, (clock.moment(_time(match.groupdict())) for match in found))


def _time(parts: dict[str, str | None]) -> str:
    """The time as ISO 8601, or as the number that it is; empty where it is no whole one."""
    if epoch := parts.get("epoch"):
        return epoch
    year, month, day = (parts.get(part) or "" for part in ("year", "month", "day"))
    if not (year and month and day):
        return ""
    date = f"{year if len(year) > 2 else f'20{year:0>2}'}-{month:0>2}-{day:0>2}"
    if not parts.get("hour"):
        return date
    hour, minute, second = (parts.get(part) or "" for part in ("hour", "minute", "second"))
    return f"{date}T{hour:0>2}:{minute:0>2}:{second:0>2}{parts.get('zone') or ''}"
