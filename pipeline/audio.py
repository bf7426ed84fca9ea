"""The only caller of ffmpeg: any audio file to mono 16 kHz Opus."""

import errno
import logging
import math
import os
import re
import subprocess
import tempfile
import threading
import uuid
import wave
from dataclasses import dataclass
from pathlib import Path

import ffmpeg

from pipeline import scratch
from pipeline.errors import Permanent, Stop, Stopping

log = logging.getLogger(__name__)

_MOST_PAGE_BYTES = 65_307  # of an Ogg page
_STOPPED = 255  # ffmpeg's status after SIGTERM or SIGINT
TOGETHER_SECONDS = 60  # for several small files at once: far more than they need
INTERRUPTIONS = 3  # by a signal, before the file is to blame
SAMPLE_RATE = 16_000  # what Whisper listens to


class UnreadableAudio(Permanent):
    """ffmpeg or the decoder cannot make sound of the file; the message is its own reason."""


class _Interrupted(Exception):
    """A signal has ended ffmpeg: the file may have no part in it."""


@dataclass(frozen=True)
class Converter:
    """How files are converted: the program, the Opus bitrate (kb/s) and the longest time (s) for one file."""

    program: str = "ffmpeg"
    bitrate_kbps: int = 32
    timeout_seconds: int = 3600

    def to_opus(self, source: Path, target: Path, stop: Stop) -> None:
        """Convert `source` into `target`, whole or not at all.

        `UnreadableAudio` where ffmpeg refuses the file, `Stopping` where `stop` is set meanwhile.
        """
        for _ in range(INTERRUPTIONS):
            try:
                self._convert([(source, target)], stop, self.timeout_seconds)
                return
            except _Interrupted as error:  # by who stops us too, or by a machine without memory
                if stop.is_set():
                    raise Stopping from None
                reason = str(error)
        raise UnreadableAudio(f"{reason}, {INTERRUPTIONS} times")

    def each_to_opus(self, files: list[tuple[Path, Path]], stop: Stop) -> list[UnreadableAudio | None]:
        """Convert small files (source, target), each whole or not at all; gives why each has failed, or None.

        One ffmpeg does them all. Where it fails, each is converted alone, so that only the cause fails, with its
        own reason.
        """
        if len(files) > 1:
            try:
                self._convert(files, stop, min(TOGETHER_SECONDS, self.timeout_seconds))
                return [None] * len(files)
            except (UnreadableAudio, _Interrupted) as error:
                log.debug("%d files are converted one by one: %s", len(files), error)
        return [self._reason(source, target, stop) for source, target in files]

    def _reason(self, source: Path, target: Path, stop: Stop) -> UnreadableAudio | None:
        try:
            self.to_opus(source, target, stop)
        except UnreadableAudio as error:
            return error
        return None

    def _convert(self, files: list[tuple[Path, Path]], stop: Stop, seconds: float) -> None:
        # A name of its own: the ffmpeg of a worker that was killed may still be writing to another one.
        token = uuid.uuid4().hex[:8]
        parts = [(source, target.with_name(f"{target.name}.{token}.part")) for source, target in files]
        try:
            self._run(parts, stop, seconds)
            if not all(part.exists() and part.stat().st_size for _, part in parts):
                raise UnreadableAudio("ffmpeg found no sound in it")
            for (_, part), (_, target) in zip(parts, files, strict=True):
                scratch.sync(part)
                part.rename(target)
        finally:
            for _, part in parts:
                part.unlink(missing_ok=True)

    def problem(self) -> str | None:
        """Why the program cannot do this work, found by a trial; None where it can."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "trial.wav")
            with wave.open(str(source), "wb") as sound:
                sound.setnchannels(1)
                sound.setsampwidth(2)
                sound.setframerate(SAMPLE_RATE)
                sound.writeframes(bytes(SAMPLE_RATE // 5))
            try:
                self.to_opus(source, Path(folder, "trial.opus"), threading.Event())
            except (OSError, UnreadableAudio) as error:
                return str(error)
        return None

    def _command(self, files: list[tuple[Path, Path]]) -> list[str]:
        """One thread, files only (a playlist must not reach the network), the first audio stream, no tags."""
        outputs = [
            ffmpeg.input(f"file:{source}", protocol_whitelist="file", threads=1)["a:0"].output(
                f"file:{target}", format="opus", acodec="libopus", ac=1, ar=SAMPLE_RATE, threads=1,
                audio_bitrate=f"{self.bitrate_kbps}k", map_metadata=-1, application="voip",
            )
            for source, target in files
        ]  # fmt: skip
        return (
            ffmpeg.merge_outputs(*outputs)
            .global_args("-nostdin", "-hide_banner", "-loglevel", "error")
            .overwrite_output()
            .compile(cmd=self.program)
        )

    def _run(self, files: list[tuple[Path, Path]], stop: Stop, seconds: float) -> None:
        process = subprocess.Popen(
            self._command(files),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we end it ourselves
        )
        messages = ""
        for waited in range(math.ceil(seconds * 2)):
            try:
                messages = process.communicate(timeout=0.5)[1].decode(errors="replace")
                break
            except subprocess.TimeoutExpired:
                if stop.is_set() or waited + 1 >= seconds * 2:
                    process.kill()
                    process.communicate()
                    if stop.is_set():
                        raise Stopping from None
                    raise UnreadableAudio(f"ffmpeg was not done after {seconds:g} s") from None
        if process.returncode < 0 or process.returncode == _STOPPED:
            raise _Interrupted(f"ffmpeg was ended with status {process.returncode}")
        if process.returncode != 0:
            for source, part in files:
                messages = messages.replace(f"file:{source}", "it").replace(f"file:{part}", "its Opus")
            raise _failure(process.returncode, messages)


def ends_whole(path: Path) -> bool:
    """Whether an Ogg file ends with its last page (RFC 3533, section 6): a decoder does not miss what is cut."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2 * _MOST_PAGE_BYTES))
        tail = file.read()
    start = tail.rfind(b"OggS")
    while start >= 0:
        page = tail[start:]
        if len(page) >= 27 and len(page) == 27 + page[26] + sum(page[27 : 27 + page[26]]):
            return bool(page[5] & 4)  # the end-of-stream flag
        start = tail.rfind(b"OggS", 0, start)  # those four bytes may also occur in the sound
    return False


def _failure(status: int, messages: str) -> Exception:
    """ffmpeg's own words, without addresses and our paths; a full disk is no fault of the file."""
    if os.strerror(errno.ENOSPC) in messages:
        return OSError(errno.ENOSPC, "ffmpeg found no room for its output")
    words = [re.sub(r"^\[[^]]*\] ", "", line).strip() for line in messages.splitlines()]
    reason = "; ".join(line for line in words if line and not line.startswith("Error opening input file"))
    return UnreadableAudio(f"ffmpeg: {reason[:400] or f'ended with status {status}'}")
