"""Any recording to PCM: ffmpeg in a sandbox reads it and writes the sound of all channels to pipes.

16 kHz, 16 bits: what is kept and heard has no more. A file's sound goes to a temporary file without a name beside
it, which is gone when it is closed, or with the process.
"""

import contextlib
import signal
import struct
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import ffmpeg
import numpy as np

from pipeline.audio import sandbox
from pipeline.audio.byte_ranges import LEAST_RATE, Piece
from pipeline.audio.ffmpeg_messages import LEVEL, Messages
from pipeline.audio.process_pipes import MESSAGES, Ended, Running, TooSlow, running
from pipeline.foundation.errors import Outage, Permanent, Stop

SAMPLE_RATE = 16_000  # what Whisper listens to
MOST_CHANNELS = 64
# Containers that keep a time for each packet: a gap between two is silence that was not recorded, or lost. Those
# of the others are counted by the demuxer, or jump where files are joined (MP3, AVI).
TIMED = frozenset(("mov", "matroska", "asf", "flv", "mpegts", "ogg", "amr"))
_FILLED = f"aresample={SAMPLE_RATE}:async=1:first_pts=0"
_PLAIN = f"aresample={SAMPLE_RATE}"
_MOST_GAP_SECONDS, _MOST_GAP_SHARE = 3600, 10  # more time than that, and that share of the sound, is no gap
_HEADER_BYTES = 4096  # in which the header of the PCM ends
_BLOCK_FRAMES = 10 * SAMPLE_RATE
_SIGXCPU = signal.SIGXCPU
_STOPPED = 255  # its status after SIGTERM or SIGINT
_FULL_MEMORY = 0.8  # of the limit: who has used so much, and failed, wanted more


class UnreadableAudio(Permanent):
    """ffmpeg can make no sound of the file; the message is its own reason."""


def too_slow(seconds: float) -> UnreadableAudio:
    """What a file is failed with on which ffmpeg worked for longer than it may."""
    return UnreadableAudio(f"ffmpeg was not done after {seconds:g} s (FFMPEG_TIMEOUT_SECONDS)")


class Interrupted(Exception):
    """A signal has ended ffmpeg: the file may have no part in it."""


class BrokenTimestamps(Exception):
    """The times of the packets cannot be right: the sound has to be taken as it comes."""


@dataclass(frozen=True)
class Limits:
    """The most time (s), memory (bytes) and PCM (bytes) for a file."""

    seconds: int
    memory: int
    pcm: int


@dataclass
class Track:
    """What to decode: a piece of a file, and which of its tracks of sound; `is_timed`: gaps become silence."""

    path: Path
    piece: Piece
    number: int = 0
    is_timed: bool = True

    @property
    def fills(self) -> bool:
        """Whether gaps are filled."""
        return self.is_timed and self.piece.format in TIMED


@dataclass
class Sound:
    """The PCM of a track: `channels`, and how many `frames` of them `file` holds, from its start.

    `plain_frames`: how many there are without the silence in gaps; `declared`: what the container says (seconds);
    `tracks` and `pictures`: how many of them the file has; `errors`: what the decoder said.
    """

    file: BinaryIO
    channels: int = 0
    frames: int = 0
    plain_frames: int | None = None
    declared: float | None = None
    tracks: int = 1
    pictures: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / SAMPLE_RATE

    def blocks(self) -> Iterator[np.ndarray]:
        """The sound, frames by channels (16 bits), some seconds at a time."""
        self.file.seek(0)
        left = self.frames
        while left:
            count = min(left, _BLOCK_FRAMES)
            data = self.file.read(count * self.channels * 2)
            yield np.frombuffer(data, "<i2").reshape(-1, self.channels)
            left -= count

    def add(self, block: np.ndarray) -> None:
        """Append some frames."""
        self.file.write(block.astype("<i2").tobytes())
        self.frames += len(block)


class _Pcm:
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
        return self.bytes // (2 * self.channels) if self.channels else 0


@dataclass(frozen=True)
class Decoder:
    """ffmpeg as a decoder: the program, and its limits."""

    program: str
    limits: Limits

    @contextlib.contextmanager
    def sounds(self, tracks: Sequence[Track], folder: Path, stop: Stop, seconds: float) -> Iterator[list[Sound]]:
        """Decode these, all at once; gives the sound of each, until the block ends.

        `UnreadableAudio` where ffmpeg makes nothing of one, `Interrupted` where a signal ends it, `Outage` where
        it cannot be run, `OSError` where the disk fails, `BrokenTimestamps`, `Stopping`.
        """
        with contextlib.ExitStack() as files:
            sounds = [Sound(temporary_file(files, folder)) for _ in tracks]
            messages, pcm = Messages(), _Outputs(tracks)
            with self._running(tracks, pcm, stop, seconds) as program:
                self._read(program, messages, pcm, sounds, tracks)
                self._judge(program.ended, messages, tracks, any(sound.frames for sound in sounds))
            if program.ended.status and not messages.errors:  # there is sound, but surely not all of it
                messages.errors.append(f"ffmpeg ended with status {program.ended.status}")
            for sound, one in zip(sounds, messages.inputs, strict=False):
                sound.declared, sound.tracks, sound.pictures = one.declared, one.tracks, one.pictures
            for sound in sounds:
                sound.errors = messages.errors
            yield sounds

    def check_length(self, seconds: float, channels: int) -> None:
        """`UnreadableAudio` where so much sound is too much for an Opus."""
        self._check_bytes(round(seconds * SAMPLE_RATE) * 2 * channels)

    def _check_bytes(self, count: int) -> None:
        if count > self.limits.pcm:
            raise UnreadableAudio("its Opus would be too large (OPUS_MAX_MB)")

    def blocks(self, path: Path, form: str, stop: Stop) -> Iterator[np.ndarray]:
        """Decode the sound of a file, frames by channels (16 bits), about 10 s at a time, with no file in between.
        Raises as `sounds`."""
        tracks = [Track(path, Piece(form), is_timed=False)]
        messages, pcm, held = Messages(), _Outputs(tracks), bytearray()
        with self._running(tracks, pcm, stop, self.limits.seconds) as program:
            for number, chunk in program.chunks():
                if number == MESSAGES:
                    messages.feed(chunk)
                    continue
                held += pcm.heard[0].take(chunk)
                frame = 2 * pcm.heard[0].channels or 2
                while len(held) >= frame * _BLOCK_FRAMES:  # blocks of the same length in every run
                    yield _frames(held, frame)
            if len(held) >= 2 * pcm.heard[0].channels > 0:
                yield _frames(held, 2 * pcm.heard[0].channels)
            self._judge(program.ended, messages, tracks, pcm.heard[0].frames > 0)

    def _running(
        self, tracks: Sequence[Track], pcm: "_Outputs", stop: Stop, seconds: float
    ) -> contextlib.AbstractContextManager[Running]:
        paths = [str(path) for path in dict.fromkeys(track.path for track in tracks)]
        limits = {"data": self.limits.memory, "cpu": 2 * self.limits.seconds + 1, "fsize": 0}
        confined = sandbox.command(self.program, paths, limits)
        return running(lambda urls: [*confined, *self._command(tracks, urls)], pcm.count, stop, seconds)

    def _command(self, tracks: Sequence[Track], urls: Sequence[str]) -> list[str]:
        """One thread, no other protocol than that of files, no tags; of gaps also how long the sound is
        without."""
        outputs, left = [], iter(urls)
        for track in tracks:
            source = ffmpeg.input(
                track.piece.url(track.path), format=track.piece.format, threads=1,
                protocol_whitelist="file,subfile", max_error_rate=1, err_detect="crccheck", **track.piece.options,
            )[f"a:{track.number}"]  # fmt: skip
            for filtered in (_FILLED, _PLAIN) if track.fills else (_PLAIN,):
                outputs.append(
                    source.output(
                        next(left), format="wav", acodec="pcm_s16le", af=filtered, threads=1, map_metadata=-1,
                        fflags="+bitexact",
                    )
                )  # fmt: skip
        return list(
            ffmpeg.merge_outputs(*outputs)
            .global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", LEVEL)
            .overwrite_output()
            .compile(cmd=self.program)
        )

    def _read(
        self, program: Running, messages: Messages, pcm: "_Outputs", sounds: list[Sound], tracks: Sequence[Track]
    ) -> None:
        try:
            for number, chunk in program.chunks():
                if number == MESSAGES:
                    messages.feed(chunk)
                    _check_rates(messages)
                    continue
                track, is_plain = pcm.of(number)
                data = pcm.heard[number].take(chunk)
                if not is_plain:
                    sounds[track].file.write(data)
                    self._check_bytes(pcm.kept_bytes)
                pcm.check_gap(track)
        except TooSlow:
            if any(track.fills for track in tracks):
                raise BrokenTimestamps("they cannot be followed") from None
            raise too_slow(program.seconds) from None
        messages.close()
        for number, sound in enumerate(sounds):
            heard, plain = pcm.pair(number)
            sound.channels, sound.frames = heard.channels, heard.frames
            sound.plain_frames = plain.frames if plain else None
            sound.file.flush()
            if tracks[number].fills and plain and heard.frames < plain.frames - SAMPLE_RATE // 10:
                raise BrokenTimestamps("times go back: sound would be lost")

    def _judge(self, ended: Ended, messages: Messages, tracks: Sequence[Track], has_sound: bool) -> None:
        """Raise what ffmpeg's end means; nothing where there is sound: what is damaged in it is known
        otherwise."""
        status = ended.status
        if status in sandbox.NOT_RUN:
            raise Outage("ffmpeg", f"{self.program} cannot be run, status {status}: {messages.reason({})}")
        if status == -_SIGXCPU:
            raise UnreadableAudio(f"ffmpeg took {2 * self.limits.seconds} s of CPU (FFMPEG_TIMEOUT_SECONDS)")
        if status < 0 or (status == _STOPPED and not messages.errors):
            raise Interrupted(f"ffmpeg was ended with status {status}")
        if has_sound and not status and not messages.errors:
            return
        for track in tracks:
            _read_through(track.path)  # where the disk fails, the file is not to blame
        if has_sound:
            return
        if status and ended.peak_memory > _FULL_MEMORY * self.limits.memory:
            most = self.limits.memory // 2**20
            raise UnreadableAudio(f"ffmpeg needs more than {most} MB of memory (FFMPEG_MAX_MEMORY_MB)")
        hidden = {name: "it" for track in tracks for name in (track.piece.url(track.path), str(track.path))}
        reason = messages.reason(hidden)
        if status:
            raise UnreadableAudio(f"ffmpeg: {reason or f'ended with status {status}'}")
        raise UnreadableAudio(f"ffmpeg found no sound in it{reason and ': '}{reason}")


class _Outputs:
    """The outputs of a run of ffmpeg: for each track one, and one more where gaps are filled."""

    def __init__(self, tracks: Sequence[Track]) -> None:
        self._places = [
            (number, is_plain)
            for number, track in enumerate(tracks)
            for is_plain in ((False, True) if track.fills else (False,))
        ]
        self.heard = [_Pcm() for _ in self._places]

    @property
    def count(self) -> int:
        return len(self._places)

    @property
    def kept_bytes(self) -> int:
        """How much there is of all tracks, those without the silence in gaps not counted."""
        return sum(
            heard.bytes for heard, (_, is_plain) in zip(self.heard, self._places, strict=True) if not is_plain
        )

    def of(self, output: int) -> tuple[int, bool]:
        """The number of the track, and whether it is the sound without the silence in gaps."""
        return self._places[output]

    def pair(self, track: int) -> tuple[_Pcm, _Pcm | None]:
        """The outputs of a track."""
        one = [heard for heard, place in zip(self.heard, self._places, strict=True) if place[0] == track]
        return one[0], one[1] if len(one) > 1 else None

    def check_gap(self, track: int) -> None:
        """`BrokenTimestamps` where more silence would be filled in than anybody leaves out."""
        filled, plain = self.pair(track)
        if plain is None or not plain.channels:
            return
        gap = (filled.frames - plain.frames) / SAMPLE_RATE
        if gap > max(_MOST_GAP_SECONDS, _MOST_GAP_SHARE * plain.frames / SAMPLE_RATE):
            raise BrokenTimestamps(f"{gap:.0f} s of silence")


def temporary_file(files: contextlib.ExitStack, folder: Path) -> BinaryIO:
    """A file without a name on the folder's disk, until `files` ends."""
    return files.enter_context(tempfile.TemporaryFile(dir=folder))


def _frames(held: bytearray, frame: int) -> np.ndarray:
    """Take a block out of what is held, or the whole frames where there are fewer."""
    whole = min(len(held) // frame, _BLOCK_FRAMES) * frame
    block = np.frombuffer(bytes(held[:whole]), "<i2").reshape(-1, frame // 2)
    del held[:whole]
    return block


def _check_rates(messages: Messages) -> None:
    for one in messages.inputs:
        if one.rates and min(one.rates) < LEAST_RATE:
            raise UnreadableAudio(f"its sample rate is {min(one.rates)} Hz")


def _read_through(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(2**20):
            pass
