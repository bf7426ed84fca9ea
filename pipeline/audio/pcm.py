"""The sound of a recording while it is worked on: PCM, 16 kHz, 16 bits. What is kept and heard has no more.

A file's sound is in a temporary file without a name, which is gone when it is closed, or with the process.
"""

import contextlib
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.audio.ffmpeg_errors import UnreadableAudio

SAMPLE_RATE = 16_000  # what Whisper listens to
MOST_CHANNELS = 64
BLOCK_FRAMES = 10 * SAMPLE_RATE
_HEADER_BYTES = 4096  # in which the header of the PCM ends


@dataclass
class Sound:
    """The PCM of a track: `channels`, and how many `frames` of them `file` holds, from its start.

    `plain_frames`: how many there are without the silence in gaps; `declared`: what the container says (seconds);
    `tracks` and `pictures`: how many of them the file has; `errors`: what the decoder said; `tags`: those of the
    file, where this is its first track.
    """

    file: BinaryIO
    channels: int = 0
    frames: int = 0
    plain_frames: int | None = None
    declared: float | None = None
    tracks: int = 1
    pictures: int = 0
    errors: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / SAMPLE_RATE

    def blocks(self) -> Iterator[np.ndarray]:
        """The sound, frames by channels (16 bits), some seconds at a time."""
        self.file.seek(0)
        left = self.frames
        while left:
            count = min(left, BLOCK_FRAMES)
            data = self.file.read(count * self.channels * 2)
            yield np.frombuffer(data, "<i2").reshape(-1, self.channels)
            left -= count

    def add(self, block: np.ndarray) -> None:
        """Append some frames."""
        self.file.write(block.astype("<i2").tobytes())
        self.frames += len(block)


class WavReader:
    """Takes the WAV that ffmpeg writes: its header says how many channels there are."""

    def __init__(self) -> None:
        self.channels, self.bytes = 0, 0
        self._head = b""

    def take(self, chunk: bytes) -> bytes:
        """The sound in the next bytes."""
        if self.channels:
            self.bytes += len(chunk)
            return chunk
        self._head += chunk
        place = self._head.find(b"data", 36)
        if place < 0 or len(self._head) < place + 8:
            if len(self._head) > _HEADER_BYTES:
                raise UnreadableAudio("ffmpeg wrote no sound")
            return b""
        self.channels = struct.unpack("<H", self._head[22:24])[0]
        if not 0 < self.channels <= MOST_CHANNELS:
            raise UnreadableAudio(f"it has {self.channels} channels: {MOST_CHANNELS} are read at most")
        sound, self._head = self._head[place + 8 :], b""
        self.bytes += len(sound)
        return sound

    @property
    def frames(self) -> int:
        """How many there are by now."""
        return self.bytes // (2 * self.channels) if self.channels else 0


def temporary_file(files: contextlib.ExitStack, folder: Path) -> BinaryIO:
    """A file without a name on the folder's disk, until `files` ends."""
    return files.enter_context(tempfile.TemporaryFile(dir=folder))


def take_block(held: bytearray, frame: int) -> np.ndarray:
    """Take a block out of what is held, or the whole frames where there are fewer."""
    whole = min(len(held) // frame, BLOCK_FRAMES) * frame
    block = np.frombuffer(bytes(held[:whole]), "<i2").reshape(-1, frame // 2)
    del held[:whole]
    return block
