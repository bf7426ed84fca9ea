"""Sidecars: a JSON file beside a recording in its archive that says what is known of it.

`call.json` or `call.wav.json` beside `call.wav`, as trunk-recorder, the exports of rdio-scanner and others write
them: one object whose fields become the metadata, one of which is when the recording was made.
"""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from pipeline.foundation.file_metadata import bounded
from pipeline.foundation.recording_times import Clock, Moment

SUFFIX = ".json"
MOST_BYTES = 2**16
# In lower case, the surest first: a plain one, trunk-recorder's, rdio-scanner's, and what others use.
_TIMES = ("recorded_at", "start_time", "start_time_ms", "datetime", "starttime", "recordedat", "timestamp")


def names_of(name: str) -> tuple[str, str]:
    """What the sidecars of a recording may be called, the surer one first."""
    path = PurePosixPath(name)
    return f"{name}{SUFFIX}", f"{name.removesuffix(path.suffix)}{SUFFIX}"


def read(data: bytes, clock: Clock) -> tuple[Moment | None, dict[str, Any]] | None:
    """When the recording was made (None: not said, or nothing that can be true), and its metadata; None where this
    is no sidecar that can be read."""
    try:
        fields = json.loads(data, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict):
        return None
    return _moment(fields, clock), bounded(fields)


def _moment(fields: Mapping[str, Any], clock: Clock) -> Moment | None:
    lowered = {key.lower(): value for key, value in fields.items()}
    moments = (clock.moment(lowered[name]) for name in _TIMES if name in lowered)
    return next(filter(None, moments), None)
