"""Any recording to PCM: ffmpeg in a sandbox reads it, and writes the sound of all channels and tags to pipes."""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np

from pipeline.audio import sandbox, tags
from pipeline.audio.ffmpeg_errors import BrokenTimestamps, Interrupted, UnreadableAudio, too_slow
from pipeline.audio.ffmpeg_messages import LEVEL, Messages
from pipeline.audio.pcm import BLOCK_FRAMES, SAMPLE_RATE, Sound, WavReader, take_block, temporary_file
from pipeline.audio.process_pipes import MESSAGES, Ended, Running, TooSlow, running
from pipeline.audio.sound_pieces import LEAST_RATE, Piece
from pipeline.audio.tags import TagsReader
from pipeline.foundation.errors import Outage, Stop

# Containers that keep a time for each packet: a gap between two is silence that was not recorded, or lost. Those
# of the others are counted by the demuxer, or jump where files are joined (MP3, AVI).
TIMED = frozenset(("mov", "matroska", "asf", "flv", "mpegts", "ogg", "amr"))
_FILLED = f"aresample={SAMPLE_RATE}:async=1:first_pts=0"
_PLAIN = f"aresample={SAMPLE_RATE}"
_MOST_GAP_SECONDS, _MOST_GAP_SHARE = 3600, 10  # more time than that, and that share of the sound, is no gap
_SIGXCPU = signal.SIGXCPU
_STOPPED = 255  # its status after SIGTERM or SIGINT
_FULL_MEMORY = 0.8  # of the limit: who has used so much, and failed, wanted more


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
            readers = [TagsReader() for _ in _tagged(tracks)]
            with self._running(tracks, pcm.count + len(readers), stop, seconds) as program:
                self._read(program, messages, pcm, sounds, tracks, readers)
                self._judge(program.ended, messages, tracks, any(sound.frames for sound in sounds))
            if program.ended.status and not messages.errors:  # there is sound, but surely not all of it
                messages.errors.append(f"ffmpeg ended with status {program.ended.status}")
            for sound, one in zip(sounds, messages.inputs, strict=False):
                sound.declared, sound.tracks, sound.pictures = one.declared, one.tracks, one.pictures
            for number, reader in zip(_tagged(tracks), readers, strict=True):
                sounds[number].tags = reader.tags()
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
        with self._running(tracks, pcm.count, stop, self.limits.seconds) as program:
            for number, chunk in program.chunks():
                if number == MESSAGES:
                    messages.feed(chunk)
                    continue
                held += pcm.heard[0].take(chunk)
                frame = 2 * pcm.heard[0].channels or 2
                while len(held) >= frame * BLOCK_FRAMES:  # blocks of the same length in every run
                    yield take_block(held, frame)
            if len(held) >= 2 * pcm.heard[0].channels > 0:
                yield take_block(held, 2 * pcm.heard[0].channels)
            self._judge(program.ended, messages, tracks, pcm.heard[0].frames > 0)

    def _running(
        self, tracks: Sequence[Track], outputs: int, stop: Stop, seconds: float
    ) -> contextlib.AbstractContextManager[Running]:
        paths = [str(path) for path in dict.fromkeys(track.path for track in tracks)]
        limits = {"data": self.limits.memory, "cpu": 2 * self.limits.seconds + 1, "fsize": 0}
        confined = sandbox.command(self.program, paths, limits)
        return running(lambda urls: [*confined, *self._command(tracks, urls)], outputs, stop, seconds)

    def _command(self, tracks: Sequence[Track], urls: Sequence[str]) -> list[str]:
        """One thread, no other protocol than that of files; of gaps also how long the sound is without. Where urls
        are left, the tags of each file go there."""
        outputs, left = [], iter(urls)
        for track in tracks:
            source = _source(track)
            for filtered in (_FILLED, _PLAIN) if track.fills else (_PLAIN,):
                outputs.append(
                    source.output(
                        next(left), format="wav", acodec="pcm_s16le", af=filtered, threads=1, map_metadata=-1,
                        fflags="+bitexact", flush_packets=0,
                    )
                )  # fmt: skip
        inputs = list(dict.fromkeys(track.piece.url(track.path) for track in tracks))
        for number, url in zip(_tagged(tracks), left, strict=False):
            place = inputs.index(tracks[number].piece.url(tracks[number].path))
            outputs.append(
                _source(tracks[number]).output(
                    url, format=tags.FORM, acodec="copy", map_metadata=place, map_chapters=-1, fflags="+bitexact"
                )
            )
        return list(
            ffmpeg.merge_outputs(*outputs)
            .global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", LEVEL)
            .overwrite_output()
            .compile(cmd=self.program)
        )

    def _read(
        self,
        program: Running,
        messages: Messages,
        pcm: "_Outputs",
        sounds: list[Sound],
        tracks: Sequence[Track],
        readers: Sequence[TagsReader],
    ) -> None:
        try:
            for number, chunk in program.chunks():
                if number == MESSAGES:
                    messages.feed(chunk)
                    _check_rates(messages)
                    continue
                if number >= pcm.count:
                    readers[number - pcm.count].take(chunk)
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
            raise Interrupted(status)
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
        self.heard = [WavReader() for _ in self._places]

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

    def pair(self, track: int) -> tuple[WavReader, WavReader | None]:
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


def _source(track: Track) -> Any:
    """A track as ffmpeg's input."""
    return ffmpeg.input(
        track.piece.url(track.path), format=track.piece.format, threads=1,
        protocol_whitelist="file,subfile", max_error_rate=1, err_detect="crccheck", **track.piece.options,
    )[f"a:{track.number}"]  # fmt: skip


def _tagged(tracks: Sequence[Track]) -> list[int]:
    """The numbers of the tracks whose tags are read: the first of each file, if it is there."""
    first: dict[Path, int] = {}
    for number, track in enumerate(tracks):
        if track.number == 0:
            first.setdefault(track.path, number)
    return list(first.values())


def _check_rates(messages: Messages) -> None:
    for one in messages.inputs:
        if one.rates and min(one.rates) < LEAST_RATE:
            raise UnreadableAudio(f"its sample rate is {min(one.rates)} Hz")


def _read_through(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        while file.read(2**20):
            pass
