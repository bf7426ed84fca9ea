"""Any recording to Opus: the channels that are worth keeping, at 16 kHz, and what was damaged.

    recording ─▶ its container, by its bytes ─▶ ffmpeg in a sandbox ─▶ PCM ─▶ channels ─▶ ffmpeg ─▶ Opus

Only the decoder sees what others have written. The encoder reads our own PCM: where it fails, it is not the file.
"""

import contextlib
import logging
import math
import subprocess
import tempfile
import threading
import time
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline.audio import damage, sandbox
from pipeline.audio.byte_ranges import pieces
from pipeline.audio.conversion_report import Report
from pipeline.audio.decoder import Decoder, Limits, Track
from pipeline.audio.encoder import Encoder
from pipeline.audio.ffmpeg_errors import BrokenTimestamps, Interrupted, UnreadableAudio, too_slow
from pipeline.audio.ffmpeg_program import pinned_ffmpeg
from pipeline.audio.pcm import MOST_CHANNELS, SAMPLE_RATE, Sound, temporary_file
from pipeline.audio.process_pipes import TooSlow
from pipeline.audio.sound_pieces import Pieces
from pipeline.foundation.errors import Outage, Stop, Stopping
from pipeline.foundation.file_warnings import FileWarning

__all__ = ["Converter", "Report", "UnreadableAudio"]

log = logging.getLogger(__name__)

_MOST_TRACKS = 8
TOGETHER_SECONDS = 60  # for several small files at once: far more than they need
FILL_SECONDS, FILL_BYTES = 8, 50_000  # for a file with times of its packets, and for so many bytes a second more
INTERRUPTIONS = 3  # by a signal, before anybody is to blame
KILLED_SECONDS = 600  # that a file waits for the memory of its host
_KILLED = "the host"
FAILURES = 2  # of an ffmpeg that works with other sound, likewise


@dataclass(frozen=True)
class Converter:
    """How files are converted: the program, the Opus bitrate (kb/s) of each channel, the most time (s), memory and
    Opus (MiB) for one file, and which channels are kept (`channels.MODES`)."""

    program: str = field(default_factory=pinned_ffmpeg)
    bitrate_kbps: int = 48
    timeout_seconds: int = 3600
    memory_mb: int = 1024
    opus_mb: int = 1024
    channels: str = "auto"
    # Since when ffmpeg is killed with a file, again and again.
    _killed: dict[Path, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def to_opus(self, source: Path, target: Path, stop: Stop) -> Report:
        """Convert `source` into `target`, whole or not at all; its report is beside it.

        `UnreadableAudio` where no sound can be had of the file, `Outage` where ffmpeg cannot be run: this host
        would fail archive after archive. `Stopping` where `stop` is set meanwhile.
        """
        for _ in range(FAILURES):
            try:
                return self._convert(source, target, stop)
            except Outage as error:  # is it this host that fails, or this file?
                if error.service == _KILLED or self.problem():
                    raise
                reason = str(error)
        raise UnreadableAudio(f"ffmpeg fails with this file alone: {reason}")

    def together(self, files: list[tuple[Path, Path]], stop: Stop) -> list[Report] | None:
        """Convert small files (source, target) at once, because ffmpeg's start costs as much as seconds of sound.

        None where something is wrong or unusual with one of them: then none is converted.
        """
        found = [pieces(source) for source, _ in files]
        if any(one.problem or one.warnings or len(one.all) > 1 for one in found):
            return None
        tracks = [Track(source, one.all[0]) for (source, _), one in zip(files, found, strict=True)]
        seconds = min(TOGETHER_SECONDS, self.timeout_seconds)
        try:
            with self._decoder.sounds(tracks, files[0][1].parent, stop, seconds) as sounds:
                if not all(_is_plain(sound, one) for sound, one in zip(sounds, found, strict=True)):
                    return None
                return self._encoder.encode(
                    [(*file, sound, []) for file, sound in zip(files, sounds, strict=True)], stop
                )
        except (UnreadableAudio, Interrupted, BrokenTimestamps, Outage) as error:
            log.debug("%d files have to be converted one by one: %s", len(files), error)
            return None

    def sound(self, opus: Path, stop: Stop) -> Iterator[np.ndarray]:
        """What is heard in a file, as an Opus of ours: frames by channels (16 bits, 16 kHz), about 10 s at a time.
        It is decoded in a process of its own: what a decoder dies of costs one file. Raises as `to_opus`."""
        found = pieces(opus)
        if found.problem:
            raise UnreadableAudio(found.problem)
        try:
            yield from self._decoder.blocks(opus, found.all[0].format, stop)
            self._killed.pop(opus, None)
        except Interrupted as error:
            raise Stopping if stop.is_set() else self._meaning(error, opus, "") from error
        except TooSlow:
            raise too_slow(self.timeout_seconds) from None

    def version(self) -> str:
        """What the program calls itself: `ffmpeg version 9.0.2`."""
        done = subprocess.run([self.program, "-version"], capture_output=True, check=False, timeout=60)
        return " ".join(done.stdout.decode(errors="replace").split()[:3])

    def log_version(self) -> None:
        """Say which ffmpeg it is, and what this kernel lacks to confine it."""
        log.info("%s", self.version())
        if lack := sandbox.missing():
            log.warning("ffmpeg is less confined than it should be: this kernel has no %s", lack)

    def problem(self) -> str | None:
        """Why the program cannot do this work, found by a trial; None where it can."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return replace(self, channels="split")._trial(Path(folder))
            except (OSError, Outage, UnreadableAudio) as error:
                return str(error)

    def _trial(self, folder: Path) -> str | None:
        """What ffmpeg does otherwise than it must: with three channels, and with pauses that were not recorded."""
        never, opus = threading.Event(), folder / "trial.opus"
        times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
        three = np.stack([8000 * np.sin(2 * np.pi * tone * times) for tone in (300, 500, 700)], axis=1)
        with wave.open(str(folder / "trial.wav"), "wb") as sound:
            sound.setnchannels(3)
            sound.setsampwidth(2)
            sound.setframerate(SAMPLE_RATE)
            sound.writeframes(three.astype("<i2").tobytes())
        pause = (b"\x3c" + bytes(31)) * 25 + b"\x7c" * 50 + (b"\x3c" + bytes(31)) * 25  # AMR: 0.5, 1 and 0.5 s
        (folder / "trial.amr").write_bytes(b"#!AMR\n" + pause)
        report = self._convert(folder / "trial.wav", opus, never)
        heard = sum(len(block) for block in self.sound(opus, never)) / SAMPLE_RATE
        if report.channels != 3 or not math.isclose(heard, 1, abs_tol=0.1):
            return f"of 1 s with 3 channels it makes {heard:.1f} s with {report.channels}"
        report = self._convert(folder / "trial.amr", opus, never)
        return None if math.isclose(report.seconds, 2, abs_tol=0.1) else f"of 2 s it makes {report.seconds:.1f} s"

    @property
    def _decoder(self) -> Decoder:
        pcm = self.opus_mb * 2**20 * 8 // (self.bitrate_kbps * 1000) * SAMPLE_RATE * 2
        return Decoder(self.program, Limits(self.timeout_seconds, self.memory_mb * 2**20, pcm))

    @property
    def _encoder(self) -> Encoder:
        return Encoder(self.program, self.bitrate_kbps, self.timeout_seconds, self.opus_mb, self.channels)

    def _convert(self, source: Path, target: Path, stop: Stop) -> Report:
        last: Interrupted | None = None
        for _ in range(INTERRUPTIONS):
            try:
                report = self._to_opus(source, target, stop)
                self._killed.pop(source, None)
                return report
            except Interrupted as error:  # by who stops us too
                if stop.is_set():
                    raise Stopping from None
                last = error
        assert last is not None
        raise self._meaning(last, source, f", {INTERRUPTIONS} times") from None

    def _meaning(self, error: Interrupted, source: Path, times: str) -> Outage | UnreadableAudio:
        """What it means that ffmpeg was ended: a crash is the file's; a kill is the host's, unless it comes again
        and again for minutes, with this file while ffmpeg does its work with other sound."""
        if error.is_a_crash:
            return UnreadableAudio(f"ffmpeg was ended with status {error.status}{times}")
        since = self._killed.setdefault(source, time.monotonic())
        if time.monotonic() - since < KILLED_SECONDS or self.problem():
            said = f"ffmpeg was ended with status {error.status}{times}: this host may have no memory left"
            return Outage(_KILLED, said)
        del self._killed[source]
        return UnreadableAudio(
            f"ffmpeg was ended with status {error.status} for {KILLED_SECONDS} s, with this file alone"
        )

    def _to_opus(self, source: Path, target: Path, stop: Stop) -> Report:
        found = pieces(source)
        if found.problem:
            raise UnreadableAudio(found.problem)
        with contextlib.ExitStack() as files:
            sound, warnings = self._sound(files, source, found, target.parent, stop)
            return self._encoder.encode([(source, target, sound, warnings)], stop)[0]

    def _sound(
        self, files: contextlib.ExitStack, source: Path, found: Pieces, folder: Path, stop: Stop
    ) -> tuple[Sound, list[FileWarning]]:
        """All the sound of a file, and what is wrong with it."""

        warnings = list(found.warnings)

        def read(tracks: Sequence[Track]) -> list[Sound]:
            seconds: float = self.timeout_seconds
            if any(track.fills for track in tracks):  # ffmpeg never ends where times jump back and forth
                seconds = min(seconds, FILL_SECONDS + source.stat().st_size / FILL_BYTES)
            return files.enter_context(self._decoder.sounds(tracks, folder, stop, seconds))

        def decode(tracks: Sequence[Track]) -> list[Sound]:
            try:
                return read(tracks)
            except BrokenTimestamps as error:
                warnings.append(damage.broken_timestamps(str(error)))
                return read([replace(track, is_timed=False) for track in tracks])

        tracks = [Track(source, piece) for piece in found.all]
        sounds = decode(tracks)
        self._decoder.check_length(sum(piece.seconds or 0 for piece in found.all), max(map(_channels, sounds)))
        for sound, piece in zip(sounds, found.all, strict=True):
            damage.complete(sound, piece)
        warnings += damage.found(sounds, found.all, found.share)
        if len(sounds) == 1 and sounds[0].tracks > 1:
            count = min(sounds[0].tracks, _MOST_TRACKS)
            others = [replace(tracks[0], number=number) for number in range(1, count)]
            with contextlib.suppress(UnreadableAudio):
                sounds += decode(others)
            while sum(map(_channels, sounds)) > MOST_CHANNELS:
                sounds.pop()
            warnings += damage.ignored_tracks(sounds[0].tracks, len(sounds))
            return self._joined(files, sounds, folder, damage.side_by_side), warnings
        warnings += damage.ignored_tracks(max(sound.tracks for sound in sounds), 1)
        return self._joined(files, sounds, folder, damage.in_turn), warnings

    def _joined(
        self, files: contextlib.ExitStack, sounds: list[Sound], folder: Path, join: "damage.Join"
    ) -> Sound:
        if len(sounds) == 1:
            return sounds[0]
        whole = Sound(temporary_file(files, folder), tags=sounds[0].tags)
        join(sounds, whole)
        return whole


def _is_plain(sound: Sound, found: Pieces) -> bool:
    """Whether nothing is wrong or unusual with a file."""
    return bool(sound.frames) and sound.tracks == 1 and not damage.found([sound], found.all, found.share)


def _channels(sound: Sound) -> int:
    return sound.channels
