"""The only caller of ffmpeg: any audio file to mono 16 kHz Opus."""

import errno
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

_MOST_PAGE_BYTES = 65_307  # of an Ogg page
_STOPPED = 255  # ffmpeg's status after SIGTERM or SIGINT
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
                self._convert(source, target, stop)
                return
            except _Interrupted as error:  # by who stops us too, or by a machine without memory
                if stop.is_set():
                    raise Stopping from None
                reason = str(error)
        raise UnreadableAudio(f"{reason}, {INTERRUPTIONS} times")

    def _convert(self, source: Path, target: Path, stop: Stop) -> None:
        # A name of its own: the ffmpeg of a worker that was killed may still be writing to another one.
        part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            self._run(source, part, stop)
            if not part.exists() or part.stat().st_size == 0:
                raise UnreadableAudio("ffmpeg found no sound in it")
            scratch.sync(part)
            part.rename(target)
        finally:
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

    def _command(self, source: Path, target: Path) -> list[str]:
        """One thread, files only (a playlist must not reach the network), the first audio stream, no tags."""
        stream = ffmpeg.input(f"file:{source}", protocol_whitelist="file", threads=1)
        output = stream.audio.output(
            f"file:{target}", format="opus", acodec="libopus", ac=1, ar=SAMPLE_RATE, threads=1,
            audio_bitrate=f"{self.bitrate_kbps}k", map_metadata=-1, application="voip",
        )  # fmt: skip
        return (
            output.global_args("-nostdin", "-hide_banner", "-loglevel", "error")
            .overwrite_output()
            .compile(cmd=self.program)
        )

    def _run(self, source: Path, part: Path, stop: Stop) -> None:
        process = subprocess.Popen(
            self._command(source, part),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we end it ourselves
        )
        messages = ""
        for waited in range(math.ceil(self.timeout_seconds * 2)):
            try:
                messages = process.communicate(timeout=0.5)[1].decode(errors="replace")
                break
            except subprocess.TimeoutExpired:
                if stop.is_set() or waited + 1 >= self.timeout_seconds * 2:
                    process.kill()
                    process.communicate()
                    if stop.is_set():
                        raise Stopping from None
                    raise UnreadableAudio(f"ffmpeg was not done after {self.timeout_seconds} s") from None
        if process.returncode < 0 or process.returncode == _STOPPED:
            raise _Interrupted(f"ffmpeg was ended with status {process.returncode}")
        if process.returncode != 0:
            raise _failure(
                process.returncode, messages.replace(f"file:{source}", "it").replace(f"file:{part}", "its Opus")
            )


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
