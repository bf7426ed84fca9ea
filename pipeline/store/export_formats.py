"""The formats of export, for the command line and the page: their names, and how transcripts are written."""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.foundation.file_names import safe_folder, safe_name
from pipeline.store import export_tables, subtitles
from pipeline.store.transcripts import AudioFile

Files = Iterable[AudioFile]
Names = Sequence[str]  # of the speakers of a recording's channels


@dataclass(frozen=True)
class Format:
    """A format: its name, the suffix of its files, its media type, and what writes recordings as text, piece by
    piece. Where it is `is_for_each`, several recordings are a file each; of the others, one file has them all."""

    name: str
    suffix: str
    media_type: str
    write: Callable[[Files, Names], Iterator[str]]
    is_for_each: bool = False

    @property
    def title(self) -> str:
        """What it is called on the page."""
        return self.name if self.name == self.suffix else f"{self.suffix} of {self.name}"

    def encoded(self, files: Files, names: Names = ()) -> Generator[bytes, None, None]:
        """The recordings as UTF-8, piece by piece; `names` are those of the speakers of their channels."""
        return (piece.encode("utf-8", "backslashreplace") for piece in self.write(files, names))

    def path_of(self, file: AudioFile) -> str:
        """Where the recording's file is, among those of others: {batch}/{name}-{audio id}.{suffix}. No two are the
        same, and none leads out of it."""
        return f"{safe_folder(file.batch_id)}/{safe_name(file.original_filename, file.audio_id, self.suffix)}"


def _for_each(write: Callable[[AudioFile, Names], Iterator[str]]) -> Callable[[Files, Names], Iterator[str]]:
    return lambda files, names: itertools.chain.from_iterable(write(file, names) for file in files)


FORMATS = {
    found.name: found
    for found in (
        Format("txt", "txt", "text/plain", _for_each(subtitles.txt), is_for_each=True),
        Format("vtt", "vtt", "text/vtt", _for_each(subtitles.vtt), is_for_each=True),
        Format("srt", "srt", "application/x-subrip", _for_each(subtitles.srt), is_for_each=True),
        Format("json", "json", "application/json", export_tables.json_array),
        Format("csv", "csv", "text/csv", export_tables.csv_of_files),
        Format("segments", "csv", "text/csv", export_tables.csv_of_segments),
    )
}
