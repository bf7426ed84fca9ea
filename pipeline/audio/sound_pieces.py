"""The stretches of a file that hold its sound, and how each of them is given to ffmpeg."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.foundation.file_warnings import FileWarning

LEAST_RATE, MOST_RATE = 1_000, 1_000_000  # Hz; outside them it is no sound, but an attack on our time
MOST_PIECES = 64  # of one file


@dataclass(frozen=True)
class Piece:
    """The bytes from `start` to before `end` of a file (None: all of it, as it is), read as `format`, ffmpeg's
    name of a demuxer, with its `options`. `seconds`: how long it is, where we have counted; what is missing is
    silence that was not recorded."""

    format: str
    start: int | None = None
    end: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def url(self, path: Path) -> str:
        """What to give ffmpeg as its input."""
        if self.start is None:
            return f"file:{path}"
        return f"subfile,,start,{self.start},end,{self.end},,:file:{path}"


@dataclass(frozen=True)
class Pieces:
    """The stretches of sound in a file, in order, and what is wrong with their headers.

    `problem`: why there is no sound to be had. `share`: how much there is of the bytes that its header counts.
    """

    all: list[Piece] = field(default_factory=list)
    warnings: list[FileWarning] = field(default_factory=list)
    problem: str | None = None
    share: float = 1.0


def behind_tags(form: str, begin: int, size: int) -> Piece:
    """The whole file but for the ID3 tags in front of it."""
    return Piece(form, begin, size) if begin else Piece(form)


def at(file: BinaryIO, offset: int, count: int) -> bytes:
    """So many bytes of a file from there on, or those that there are."""
    file.seek(offset)
    return file.read(count)
