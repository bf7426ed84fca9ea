"""What is said of a recording beside its sound: when it was made, a talkgroup, a caller, whatever there is.

It was written by others, and is kept as it is but for what PostgreSQL cannot hold, and within bounds.
"""

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_FIELDS, MOST_ITEMS = 64, 100  # of the whole; of a list or an object in it
MOST_KEY, MOST_TEXT = 100, 1000  # characters
MOST_BYTES = 2**14  # of a file's metadata, as JSON
_MOST_DEPTH = 3
SOURCES = {  # of a recording's time, in words
    "sidecar": "its sidecar",
    "tag": "its tags",
    "name": "its name",
    "mtime": "its time in the archive",
}
_MOST_WHOLE = 2**63


@dataclass(frozen=True)
class Description:
    """When a recording was made (UTC; None: nothing says it), by which source (`sidecar`, `tag`, `name`, `mtime`),
    and the rest that is said of it."""

    recorded_at: datetime.datetime | None = None
    recorded_from: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def bounded(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields that can be kept: what is empty or no JSON is left out, and a field that is too much with those
    before it; long texts and lists are cut."""
    kept: dict[str, Any] = {}
    left = MOST_BYTES
    for key, value in fields.items():
        name, held = storable(str(key)).strip()[:MOST_KEY], _bounded(value, 1)
        size = len(json.dumps({name: held}))
        if name and held not in (None, "", [], {}) and size <= left and len(kept) < MOST_FIELDS:
            kept[name] = held
            left -= size
    return kept


def in_words(value: Any) -> str:
    """A value of the metadata as a line for people."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def key_and_value(given: str) -> tuple[str, str] | None:
    """A field and the value that is asked for, as in talkgroup=1234; None where the text is not of this form."""
    key, sign, value = given.partition("=")
    return (key, value) if sign and key else None


def storable(text: str) -> str:
    """The text without what PostgreSQL cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def _bounded(value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return storable(value[:MOST_TEXT]).strip()
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) < _MOST_WHOLE):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if depth < _MOST_DEPTH and isinstance(value, list):
        return [_bounded(item, depth + 1) for item in value[:MOST_ITEMS]]
    if depth < _MOST_DEPTH and isinstance(value, dict):
        items = list(value.items())[:MOST_ITEMS]
        return {storable(str(key))[:MOST_KEY]: _bounded(item, depth + 1) for key, item in items}
    return None
