"""What is damaged or missing in a recording that could be read: `audio_files.warnings`."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MISSING_END = "missing_end"  # it ends before the time that it declares
DECODE_ERRORS = "decode_errors"  # parts of it could not be decoded
GAP = "gap"  # its timestamps leave time out, which is silence now
WRONG_HEADER = "wrong_header"  # its header says something else than is there
IGNORED_TRACK = "ignored_track"  # it has a second track, which was not read
INVERTED_CHANNEL = "inverted_channel"  # a channel was the other one turned over
SILENT_CHANNEL = "silent_channel"  # a channel without any sound was left out
CODES = (MISSING_END, DECODE_ERRORS, GAP, WRONG_HEADER, IGNORED_TRACK, INVERTED_CHANNEL, SILENT_CHANNEL)


@dataclass(frozen=True)
class FileWarning:
    """One thing that is wrong with a recording.

    `code` is one of `CODES`, `seconds` how much sound is lost (None: none, or unknown), `message` a sentence.
    """

    code: str
    seconds: float | None
    message: str

    @property
    def lost(self) -> str:
        """How much sound is lost, for people; "" where that is none, or unknown."""
        return "" if self.seconds is None else f"{self.seconds:.1f} s lost"

    def __str__(self) -> str:
        return f"{', '.join(filter(None, (self.code, self.lost)))}: {self.message}"


def as_json(warnings: Iterable[FileWarning]) -> list[dict[str, Any]]:
    """The warnings as `audio_files.warnings` has them: [{code, seconds, message}]."""
    return [{**vars(warning), "seconds": _finite(warning.seconds)} for warning in warnings]


def from_json(warnings: Iterable[Mapping[str, Any]] | None) -> list[FileWarning]:
    """The warnings of a row; none where it is NULL. Other fields, of a later release, are not read."""
    return [
        FileWarning(warning["code"], warning.get("seconds"), warning.get("message", ""))
        for warning in warnings or ()
    ]


def _finite(seconds: float | None) -> float | None:
    """The seconds where JSON has a number for them."""
    return seconds if seconds is not None and math.isfinite(seconds) else None
