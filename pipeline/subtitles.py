"""Transcripts as WebVTT, SubRip and plain text: whatever the recording or its name holds, the file stays valid."""

import html
import re
from collections.abc import Iterator
from typing import Any

from pipeline.transcripts import AudioFile

LEAST_MS = 1  # of a cue: it must end after it begins


def vtt(file: AudioFile) -> Iterator[str]:
    """The transcript as WebVTT, in pieces."""
    yield "WEBVTT\n"
    for start, end, text in _cues(file.segments):
        yield f"\n{_time(start, '.')} --> {_time(end, '.')}\n{html.escape(text, quote=False)}\n"


def srt(file: AudioFile) -> Iterator[str]:
    """The transcript as SubRip, in pieces. It knows no escapes: < stays, and a player may take it for a mark."""
    for number, (start, end, text) in enumerate(_cues(file.segments), 1):
        yield f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n\n"


def txt(file: AudioFile) -> Iterator[str]:
    """The transcript as text, a line for each segment, in pieces."""
    for part in [segment["text"] for segment in file.segments] or [file.text]:
        if line := one_line(part):
            yield f"{line}\n"


def one_line(text: str) -> str:
    """The text in one line, without what a terminal or a player would obey."""
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())


def _cues(segments: list[dict[str, Any]]) -> Iterator[tuple[int, int, str]]:
    """Start, end (milliseconds) and text of what was said, in the order of its start."""
    for segment in sorted(segments, key=lambda segment: float(segment["start"])):
        if text := one_line(segment["text"]):
            start = max(0, round(1000 * segment["start"]))
            yield start, max(start + LEAST_MS, round(1000 * segment["end"])), text


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
