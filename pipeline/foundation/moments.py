"""Moments as people and programs write them: 24h ago, a day, or a time; what has no zone is UTC."""

import datetime
import re

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


def moment(given: str) -> datetime.datetime:
    """The moment so long ago (30m, 24h, 7d), or that day or time (ISO 8601), in UTC; ValueError for other text."""
    try:
        if match := re.fullmatch(r"([0-9]{1,5})([mhd])", given):
            ago = datetime.timedelta(**{_UNITS[match[2]]: int(match[1])})
            return datetime.datetime.now(datetime.UTC) - ago
        when = datetime.datetime.fromisoformat(given)
        return (when if when.tzinfo else when.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{given[:40]!r} is no time: give 24h, 7d or 2025-06-22") from None
