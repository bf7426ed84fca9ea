"""Transcripts as JSON and CSV, written as they are read, however many there are."""

import csv
import datetime
import io
import itertools
import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.foundation.file_warnings import FileWarning
from pipeline.speech.transcript import UNINTELLIGIBLE, with_speaker
from pipeline.store import subtitles
from pipeline.store.transcripts import AudioFile

COLUMNS = (
    "audio_id", "batch_id", "original_filename", "created_at", "language", "duration_seconds", "labels", "text",
    "languages", "confidence", "unintelligible_seconds", "channels", "speakers", "warnings", "recorded_at",
    "recorded_from", "archive", "metadata",
)  # fmt: skip
SEGMENT_COLUMNS = (
    "audio_id", "batch_id", "original_filename", "start", "end", "channel", "speaker", "language", "confidence",
    "mark", "text", "recorded_at", "archive",
)  # fmt: skip
_UNSEEN = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs without ink


def json_array(files: Iterable[AudioFile], names: Sequence[str] = ()) -> Iterator[str]:
    """An array with everything of each file; `names` are those of the speakers of its channels."""
    before = "["
    for file in files:
        yield before + "\n" + json.dumps(file.as_dict(names), default=lambda time: time.isoformat())
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def csv_of_files(files: Iterable[AudioFile], names: Sequence[str] = ()) -> Iterator[str]:
    """A row for each file, below the names of the columns."""
    return _csv(COLUMNS, (_file_row(file, names) for file in files))


def csv_of_segments(files: Iterable[AudioFile], names: Sequence[str] = ()) -> Iterator[str]:
    """A row for each segment of the files; `channel` and `speaker` are empty where a file has one channel."""
    return _csv(SEGMENT_COLUMNS, itertools.chain.from_iterable(_segment_rows(file, names) for file in files))


def _csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """A line for each row; text that a spreadsheet would take for a formula has a ' before it."""
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(columns)
    yield line.getvalue()
    for row in rows:
        line.seek(0)
        line.truncate()
        writer.writerow([_cell(row.get(name)) for name in columns])
        yield line.getvalue()


def _file_row(file: AudioFile, names: Sequence[str]) -> dict[str, Any]:
    labels = " ".join(f"{label['label']}:{label['score']:.2f};" for label in file.labels).rstrip(";")
    return {
        **vars(file),
        "created_at": file.created_at.isoformat(),
        "labels": labels,
        "languages": " ".join(file.languages),
        "confidence": _confidence(file),
        "unintelligible_seconds": _unintelligible_seconds(file),
        "speakers": subtitles.turns(file, names),
        "warnings": "; ".join(map(_warning, file.warnings)),
        "recorded_at": _time(file.recorded_at),
        "metadata": json.dumps(file.metadata, ensure_ascii=False, sort_keys=True) if file.metadata else "",
    }


def _segment_rows(file: AudioFile, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    about = {name: vars(file)[name] for name in ("audio_id", "batch_id", "original_filename", "archive")}
    about["recorded_at"] = _time(file.recorded_at)
    for segment in file.segments:
        yield {**about, **with_speaker(segment, names)}


def _time(time: datetime.datetime | None) -> str:
    return "" if time is None else time.isoformat()


def _warning(warning: FileWarning) -> str:
    return warning.code if warning.seconds is None else f"{warning.code}:{warning.seconds:.1f}"


def _confidence(file: AudioFile) -> float | None:
    """The mean confidence of the segments that have one, each counted by its length; None where none has."""
    spoken = [segment for segment in file.segments if segment.get("confidence") is not None]
    weights = [max(segment["end"] - segment["start"], 0.001) for segment in spoken]
    if not spoken:
        return None
    total = sum(segment["confidence"] * weight for segment, weight in zip(spoken, weights, strict=True))
    return round(total / sum(weights), 3)


def _unintelligible_seconds(file: AudioFile) -> float:
    """How many seconds of speech have no text."""
    marked = [segment for segment in file.segments if segment.get("mark") == UNINTELLIGIBLE]
    return round(sum((max(segment["end"] - segment["start"], 0.0) for segment in marked), 0.0), 1)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = subtitles.one_line(value)
    return f"'{text}" if _is_formula(text) else text


def _is_formula(text: str) -> bool:
    """Whether the first sign that is seen begins a formula, in whatever width it is written."""
    seen = (char for char in text if char not in _UNSEEN and unicodedata.category(char)[0] not in "CMZ")
    return unicodedata.normalize("NFKC", next(seen, "")) in ("=", "+", "-", "@")
