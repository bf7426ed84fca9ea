"""pipelinectl export: transcripts as text, subtitles, JSON or CSV."""

import argparse
import csv
import io
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import config
from pipeline.commands import choosing, common
from pipeline.commands.files import Unwritable, safe_name, whole_file
from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_warnings import FileWarning
from pipeline.foundation.formatting import count
from pipeline.speech.transcript import UNINTELLIGIBLE
from pipeline.store import subtitles
from pipeline.store.database import Database
from pipeline.store.transcripts import AudioFile, Query, every_file, with_speaker

DESCRIPTION = """Write transcripts: of a file (its audio id, or its batch and name), a batch, or what a search and
the options take, the oldest first. txt, vtt and srt of several go into a folder: {batch}/{name}-{audio id}.vtt.
json is an array, csv a row for each file; both are written as they are read, however many there are. In txt, vtt
and srt [?] is behind text that is uncertain, [repeated] behind what Whisper repeated, and [unintelligible, 4 s]
stands for speech without text. The speakers of a recording with several channels are told apart, by the names in
CHANNEL_NAMES: voices in vtt, "caller: " before the text in txt and srt, a field of each segment in json, a column
(speakers) in csv. With --segments csv has a row for each segment, with its channel and speaker."""

COLUMNS = (
    "audio_id", "batch_id", "original_filename", "created_at", "language", "duration_seconds", "labels", "text",
    "languages", "confidence", "unintelligible_seconds", "channels", "speakers", "warnings",
)  # fmt: skip
SEGMENT_COLUMNS = (
    "audio_id", "batch_id", "original_filename", "start", "end", "channel", "speaker", "language", "confidence",
    "mark", "text",
)  # fmt: skip
_FORMULA = re.compile(r"[=+\-@\t\r\n]")
PER_FILE: dict[str, Callable[[AudioFile, Sequence[str]], Iterator[str]]] = {
    "txt": subtitles.txt, "vtt": subtitles.vtt, "srt": subtitles.srt,
}  # fmt: skip


@dataclass
class Counted:
    """Files on their way through, and how many they were."""

    files: Iterable[AudioFile]
    number: int = 0

    def __iter__(self) -> Iterator[AudioFile]:
        for file in self.files:
            self.number += 1
            yield file


def run(arguments: argparse.Namespace) -> int:
    """Write what was asked for; gives the exit status."""
    output = arguments.output and Path(arguments.output)
    if arguments.segments and arguments.format != "csv":
        common.reject("--segments is for csv")
    kind = "segments" if arguments.segments else arguments.format
    is_folder = arguments.format not in ("json", "csv") and not is_one_file(arguments)
    if is_folder and output is None:
        common.reject(f"{arguments.format} is a file for each recording: name a folder with --output")
    try:
        with common.connect_database() as database:
            files = Counted(chosen(database, arguments))
            if output is not None and is_folder:
                into_folder(files, output, arguments)
            elif output is None:
                for piece in pieces(files, kind):
                    sys.stdout.write(piece)
                return 0
            else:
                with (
                    whole_file(output, arguments.force) as part,
                    part.open("x", encoding="utf-8", newline="") as file,
                ):
                    file.writelines(pieces(files, kind))
    except Unwritable as problem:
        common.complain(str(problem))
        return 1
    except Permanent as problem:
        common.reject(str(problem))
    common.say(f"{count(files.number, 'transcript')} in {output}")
    return 0


def is_one_file(arguments: argparse.Namespace) -> bool:
    """Whether the arguments name one file: an audio id, or a batch and a name."""
    return len(arguments.what) == 2 or (len(arguments.what) == 1 and arguments.what[0].isdecimal())


def chosen(database: Database, arguments: argparse.Namespace) -> Iterable[AudioFile]:
    """The files that the arguments ask for; ends with status 2 where they name none."""
    query = choosing.query_of(arguments, [arguments.search or ""])
    filtered = query != Query()
    if is_one_file(arguments):
        if filtered:
            common.reject("name a file or a search, not both")
        file = choosing.file_of(database, arguments.what)
        if not file.model:
            raise Permanent(f"{file.original_filename} has no transcript: it is {file.status}")
        return [file]
    if len(arguments.what) > 2 or (arguments.what and arguments.batch):
        common.reject("name one file (an audio id, or a batch and a name), or one batch")
    if not arguments.what and not filtered and not arguments.all:
        common.reject("name a file, a batch or a search (--search, --since, --tag and so on), or say --all")
    if arguments.what:
        arguments.batch = arguments.what[0]
        query = choosing.query_of(arguments, [arguments.search or ""])
    choosing.require_batch(database, query.batch_id)
    return every_file(database, query)


def pieces(files: Iterable[AudioFile], kind: str) -> Iterator[str]:
    """The text of the whole export; the kind is a format, or `segments`."""
    if kind == "json":
        yield from as_json(files)
    elif kind == "csv":
        yield from as_csv(COLUMNS, map(file_row, files))
    elif kind == "segments":
        yield from as_csv(SEGMENT_COLUMNS, itertools.chain.from_iterable(map(segment_rows, files)))
    else:
        for file in files:
            yield from PER_FILE[kind](file, config.CHANNEL_NAMES)


def as_json(files: Iterable[AudioFile]) -> Iterator[str]:
    """An array of the files."""
    before = "["
    for file in files:
        yield before + "\n" + json.dumps(file.as_dict(config.CHANNEL_NAMES), default=lambda time: time.isoformat())
        before = ","
    yield "[]\n" if before == "[" else "\n]\n"


def as_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> Iterator[str]:
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


def file_row(file: AudioFile) -> dict[str, Any]:
    """The row of a file."""
    labels = " ".join(f"{label['label']}:{label['score']:.2f};" for label in file.labels).rstrip(";")
    return {
        **vars(file),
        "created_at": file.created_at.isoformat(),
        "labels": labels,
        "languages": " ".join(file.languages),
        "confidence": confidence(file),
        "unintelligible_seconds": unintelligible_seconds(file),
        "speakers": subtitles.turns(file, config.CHANNEL_NAMES),
        "warnings": "; ".join(map(_warning, file.warnings)),
    }


def segment_rows(file: AudioFile) -> Iterator[dict[str, Any]]:
    """The rows of a file's segments; `channel` and `speaker` are empty where it has one channel."""
    about = {name: vars(file)[name] for name in ("audio_id", "batch_id", "original_filename")}
    for segment in file.segments:
        yield {**about, **with_speaker(segment, config.CHANNEL_NAMES)}


def _warning(warning: FileWarning) -> str:
    return warning.code if warning.seconds is None else f"{warning.code}:{warning.seconds:.1f}"


def confidence(file: AudioFile) -> float | None:
    """The mean confidence of the segments that have one, each counted by its length; None where none has."""
    spoken = [segment for segment in file.segments if segment.get("confidence") is not None]
    weights = [max(segment["end"] - segment["start"], 0.001) for segment in spoken]
    if not spoken:
        return None
    total = sum(segment["confidence"] * weight for segment, weight in zip(spoken, weights, strict=True))
    return round(total / sum(weights), 3)


def unintelligible_seconds(file: AudioFile) -> float:
    """How many seconds of speech have no text."""
    marked = [segment for segment in file.segments if segment.get("mark") == UNINTELLIGIBLE]
    return round(sum((max(segment["end"] - segment["start"], 0.0) for segment in marked), 0.0), 1)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = subtitles.one_line(value)
    return f"'{text}" if _FORMULA.match(text) else text


def into_folder(files: Iterable[AudioFile], folder: Path, arguments: argparse.Namespace) -> None:
    """A file for each recording, in a folder for each batch. Without --force the folder has to be new or empty."""
    try:
        if folder.exists() and not folder.is_dir():
            raise Unwritable(f"{folder} is no folder")
        if folder.is_dir() and any(folder.iterdir()) and not arguments.force:
            raise Unwritable(f"{folder} is not empty: --force writes over what is there")
        for file in files:
            batch = folder / (re.sub(r"[^A-Za-z0-9_-]", "_", file.batch_id) or "_")
            os.makedirs(batch, exist_ok=True)
            path = batch / safe_name(file.original_filename, file.audio_id, arguments.format)
            with (
                whole_file(path, arguments.force) as part,
                part.open("x", encoding="utf-8", newline="") as target,
            ):
                target.writelines(PER_FILE[arguments.format](file, config.CHANNEL_NAMES))
    except OSError as error:
        raise Unwritable(f"{error.filename or folder} cannot be written: {error.strerror or error}") from None


def add(commands: Any) -> None:
    """Its arguments."""
    exporting = commands.add_parser(
        "export", help="write transcripts as text, subtitles, JSON or CSV", description=DESCRIPTION
    )
    of = "AUDIO_ID | BATCH [NAME]"
    exporting.add_argument("what", nargs="*", type=common.text, metavar=of, help="a file, or a batch")
    exporting.add_argument("--search", type=common.text, metavar="WORDS", help="in which these were said")
    choosing.add_filter(exporting)
    exporting.add_argument("--all", action="store_true", help="every transcript")
    exporting.add_argument("--format", required=True, choices=("txt", "vtt", "srt", "json", "csv"))
    exporting.add_argument("--segments", action="store_true", help="csv with a row for each segment")
    exporting.add_argument("--output", metavar="PATH", help="a file, or a folder (standard output)")
    exporting.add_argument("--force", action="store_true", help="write over files that are there")
    exporting.set_defaults(run=run)
