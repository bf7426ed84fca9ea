"""pipelinectl export: transcripts as text, subtitles, JSON or CSV, also many of them in a zip archive."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import config
from pipeline.commands import choosing, common
from pipeline.commands.files import Unwritable, whole_file
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import count
from pipeline.store.batch_history import read_batch
from pipeline.store.database import Database
from pipeline.store.export_formats import FORMATS, Format
from pipeline.store.export_zip import zipped
from pipeline.store.search_query import Query
from pipeline.store.transcripts import AudioFile, every_file

DESCRIPTION = """Write transcripts: of a file (its audio id, or its batch and name), a batch, or what a search and
the options take, the oldest first. txt, vtt and srt of several go into a folder, or with --zip into a zip
archive: {batch}/{name}-{audio id}.vtt. json is an array, csv a row for each file. All are written as they are
read, however many there are. In txt, vtt and srt [?] is behind text that is uncertain, [repeated] behind what
Whisper repeated, and [unintelligible, 4 s] marks speech without text. The speakers of a recording with
several channels are distinguished by the names in CHANNEL_NAMES: voices in vtt, "caller: " before the text in txt
and srt, a field of each segment in json, a column (speakers) in csv. With --segments csv has a row for each
segment, with its channel and speaker."""


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
    form = format_of(arguments)
    is_folder = form.is_for_each and not arguments.zip and not is_one_file(arguments)
    if is_folder and output is None:
        common.reject(f"{form.name} is a file for each recording: name a folder with --output, or say --zip")
    if arguments.zip and output is None and sys.stdout.isatty():
        common.reject("a zip archive is nothing for a terminal: name a file with --output")
    try:
        with common.connect_database() as database:
            files = Counted(chosen(database, arguments))
            if output is not None and is_folder:
                into_folder(files, output, form, arguments.force)
            elif output is None:
                write(files, form, sys.stdout.buffer, arguments.zip)
                return 0
            else:
                with whole_file(output, arguments.force) as part, part.open("xb") as file:
                    write(files, form, file, arguments.zip)
    except Unwritable as problem:
        common.complain(str(problem))
        return problem.exit_status
    except Permanent as problem:
        common.reject(str(problem))
    common.say(f"{count(files.number, 'transcript')} in {output}")
    return 0


def format_of(arguments: argparse.Namespace) -> Format:
    """The format; ends with status 2 where the options do not go with it."""
    if arguments.segments and arguments.format != "csv":
        common.reject("--segments is for csv")
    form = FORMATS["segments" if arguments.segments else arguments.format]
    if arguments.zip and not form.is_for_each:
        common.reject(f"--zip is for a format with a file for each recording: {form.name} has all in one")
    return form


def is_one_file(arguments: argparse.Namespace) -> bool:
    """Whether the arguments name one file: an audio id, or a batch and a name."""
    return len(arguments.what) == 2 or (len(arguments.what) == 1 and arguments.what[0].isdecimal())


def chosen(database: Database, arguments: argparse.Namespace) -> Iterable[AudioFile]:
    """The files that the arguments ask for; ends with status 2 where they name none."""
    query = choosing.query_of(arguments, [arguments.search or ""])
    filtered = query != Query()
    if arguments.all and (filtered or arguments.what):
        common.reject("--all takes every transcript: leave it out, or the rest")
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
    query = replace(query, batch_id=choosing.batch_id_of(database, query.batch_id))
    choosing.require_known(database, query)
    warn_of_the_rest(database, query.batch_id)
    return every_file(database, query)


def warn_of_the_rest(database: Database, batch_id: str) -> None:
    """Say where files of a batch are still in progress, and have no transcript yet."""
    batch = read_batch(database, batch_id) if batch_id else None
    if batch and (rest := batch.file_count - batch.done - batch.failed) > 0:
        common.complain(f"batch {batch_id}: {count(rest, 'file')} still in progress, without a transcript yet")


def write(files: Iterable[AudioFile], form: Format, target: IO[bytes], is_zip: bool) -> None:
    """Write the files to an open file, as they are read."""
    if is_zip:
        target.writelines(zipped(files, form, config.CHANNEL_NAMES))
    else:
        target.writelines(form.encoded(files, config.CHANNEL_NAMES))


def into_folder(files: Iterable[AudioFile], folder: Path, form: Format, force: bool) -> None:
    """A file for each recording, in a folder for each batch. Without `force` the folder has to be new or empty."""
    try:
        if folder.exists() and not folder.is_dir():
            raise Unwritable(f"{folder} is no folder")
        if folder.is_dir() and any(folder.iterdir()) and not force:
            raise Unwritable(f"{folder} is not empty: --force writes over what is there")
        for file in files:
            path = folder / form.path_of(file)
            os.makedirs(path.parent, exist_ok=True)
            with whole_file(path, force) as part, part.open("xb") as target:
                write([file], form, target, is_zip=False)
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
    exporting.add_argument("--format", required=True, choices=[name for name in FORMATS if name != "segments"])
    exporting.add_argument("--segments", action="store_true", help="csv with a row for each segment")
    exporting.add_argument("--zip", action="store_true", help="a zip archive in place of a folder")
    exporting.add_argument("--output", metavar="PATH", help="a file, or a folder (standard output)")
    exporting.add_argument("--force", action="store_true", help="write over files that are there")
    exporting.set_defaults(run=run)
