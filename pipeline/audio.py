"""The only caller of ffmpeg: any audio file to mono 16 kHz Opus."""

import contextlib
import errno
import logging
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import uuid
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import ffmpeg

from pipeline import scratch
from pipeline.errors import DISK_ERRNOS, Outage, Permanent, Stop, Stopping

log = logging.getLogger(__name__)

_MOST_PAGE_BYTES = 65_307  # of an Ogg page
_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_RUN = (126, 127)  # what prlimit and shells say of a program that cannot be run
_STOPPED = 255  # ffmpeg's status after SIGTERM or SIGINT
_MOST_WORDS = 2**16  # bytes of what ffmpeg says that are kept: a damaged file can make it say gigabytes
_NO_MEMORY = re.compile(os.strerror(errno.ENOMEM) + "|(?i:out of memory|memory exhausted|MemoryError)")
TOGETHER_SECONDS = 60  # for several small files at once: far more than they need
INTERRUPTIONS = 3  # by a signal, before the file is to blame
SAMPLE_RATE = 16_000  # what Whisper listens to


class UnreadableAudio(Permanent):
    """ffmpeg or the decoder cannot make sound of the file; the message is its own reason."""


class _Interrupted(Exception):
    """A signal has ended ffmpeg: the file may have no part in it."""


@dataclass(frozen=True)
class Converter:
    """How files are converted: the program, the Opus bitrate (kb/s), and the most time (s), memory and Opus (MiB)
    for one file."""

    program: str = "ffmpeg"
    bitrate_kbps: int = 48
    timeout_seconds: int = 3600
    memory_mb: int = 1024
    opus_mb: int = 1024

    def to_opus(self, source: Path, target: Path, stop: Stop) -> None:
        """Convert `source` into `target`, whole or not at all.

        `UnreadableAudio` where ffmpeg refuses the file, `Outage` where it cannot be run: this host would give up
        archive after archive. `Stopping` where `stop` is set meanwhile.
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

    def together(self, files: list[tuple[Path, Path]], stop: Stop) -> bool:
        """Convert small files (source, target) with one ffmpeg, whose start costs as much as seconds of sound.

        False where one of them, or all together, cannot be converted so: then none is.
        """
        try:
            self._convert(files, stop, min(TOGETHER_SECONDS, self.timeout_seconds))
        except (UnreadableAudio, _Interrupted) as error:
            log.debug("%d files have to be converted one by one: %s", len(files), error)
            return False
        return True

    def reason(self, source: Path, target: Path, stop: Stop) -> UnreadableAudio | None:
        """Convert as `to_opus`; gives why the file cannot be converted, or None."""
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
            for _, part in parts:
                self._check(part)
            for (_, part), (_, target) in zip(parts, files, strict=True):
                scratch.sync(part)
                part.rename(target)
            scratch.sync(files[0][1].parent)  # the names too: what is queued must be there after a power cut
        finally:
            for _, part in parts:
                part.unlink(missing_ok=True)

    def _check(self, part: Path) -> None:
        size = part.stat().st_size if part.exists() else 0
        if size == 0 or not _holds_sound(part):
            raise UnreadableAudio("ffmpeg found no sound in it")
        if size >= self.opus_mb * 2**20:  # ffmpeg ends at -fs as if all were well
            raise self._too_large()

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
            except (OSError, Outage, UnreadableAudio) as error:
                return str(error)
        return None

    def _command(self, files: list[tuple[Path, Path]]) -> list[str]:
        """One thread, files only (a playlist must not reach the network), the first audio stream, no tags."""
        outputs = [
            ffmpeg.input(f"file:{source}", protocol_whitelist="file", threads=1)["a:0"].output(
                f"file:{target}", format="opus", acodec="libopus", ac=1, ar=SAMPLE_RATE, threads=1,
                audio_bitrate=f"{self.bitrate_kbps}k", map_metadata=-1, application="voip",
                fs=self.opus_mb * 2**20,
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
        if shutil.which(self.program) is None:  # prlimit would say it in words of its own
            raise Outage("ffmpeg", f"there is no {self.program}")
        process = subprocess.Popen(
            [*self._limits(), *self._command(files)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we end it ourselves
        )
        assert process.stderr is not None
        said = bytearray()
        listening = threading.Thread(target=_keep_the_start, args=(process.stderr, said), daemon=True)
        with process:
            listening.start()
            try:
                _wait(process, listening, stop, seconds)
            except BaseException:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                raise
            finally:
                listening.join()
        messages = said.decode(errors="replace")
        for source, part in files:
            messages = messages.replace(f"file:{source}", "it").replace(f"file:{part}", "its Opus")
        self._judge(process.returncode, messages)

    def _limits(self) -> list[str]:
        """The command in front of ffmpeg that has the kernel hold it to its limits, also when this worker is gone.

        Data rather than address space: that is what it writes to, not what it has mapped. Of CPU time twice the
        longest time, for its two busy threads. Its output ends a little beyond what ffmpeg itself keeps to.
        """
        limits = {
            "data": (resource.RLIMIT_DATA, self.memory_mb * 2**20),
            "cpu": (resource.RLIMIT_CPU, 2 * self.timeout_seconds + 1),
            "fsize": (resource.RLIMIT_FSIZE, (self.opus_mb + 1) * 2**20),
            "core": (resource.RLIMIT_CORE, 0),
        }
        ours = {name: resource.getrlimit(kind)[1] for name, (kind, _) in limits.items()}
        lowest = {
            name: limit if ours[name] == resource.RLIM_INFINITY else min(limit, ours[name])
            for name, (_, limit) in limits.items()
        }
        return ["prlimit", *(f"--{name}={limit}" for name, limit in lowest.items()), "--"]

    def _judge(self, status: int, messages: str) -> None:
        """Raise what ffmpeg's end means; nothing where all is well."""
        if status == 0:
            return
        if status in _NOT_RUN:
            raise Outage("ffmpeg", f"{self.program} cannot be run, status {status}: {messages.strip()}")
        if status == -signal.SIGXFSZ:
            raise self._too_large()
        if status == -signal.SIGXCPU:
            raise UnreadableAudio(f"ffmpeg took {2 * self.timeout_seconds} s of CPU (FFMPEG_TIMEOUT_SECONDS)")
        if _NO_MEMORY.search(messages):
            raise UnreadableAudio(f"ffmpeg needs more than {self.memory_mb} MB of memory (FFMPEG_MAX_MEMORY_MB)")
        if status < 0 or (status == _STOPPED and not messages):
            raise _Interrupted(f"ffmpeg was ended with status {status}")
        raise _failure(status, messages)

    def _too_large(self) -> UnreadableAudio:
        return UnreadableAudio(f"its Opus would be over {self.opus_mb} MB (OPUS_MAX_MB)")


def _wait(process: subprocess.Popen[bytes], listening: threading.Thread, stop: Stop, seconds: float) -> None:
    for waited in range(math.ceil(seconds * 2)):
        listening.join(0.5)  # it ends with ffmpeg, and at once
        if not listening.is_alive():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
                return
        if stop.is_set():
            raise Stopping
        if waited + 1 >= seconds * 2:
            raise UnreadableAudio(f"ffmpeg was not done after {seconds:g} s (FFMPEG_TIMEOUT_SECONDS)")


def _keep_the_start(pipe: BinaryIO, said: bytearray) -> None:
    """Read a pipe to its end, and keep what came first."""
    while chunk := os.read(pipe.fileno(), _MOST_WORDS):
        said += chunk[: _MOST_WORDS - len(said)]


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


def _holds_sound(path: Path) -> bool:
    """Whether sound follows the header pages: of a file without a sample ffmpeg makes the headers alone."""
    with path.open("rb") as file:
        start = file.read(2 * _MOST_PAGE_BYTES)
    return not start.startswith(b"OggS") or b"OpusTags" not in start[start.rfind(b"OggS") :]


def _failure(status: int, messages: str) -> Exception:
    """ffmpeg's own words, without addresses and our paths; a full disk is no fault of the file."""
    for number in DISK_ERRNOS:
        of_its_output = any(os.strerror(number) in line for line in messages.splitlines() if "its Opus" in line)
        if of_its_output or (number in _FULL and os.strerror(number) in messages):
            return OSError(number, "ffmpeg could not write its output")
    words = [re.sub(r"^\[[^]]*\] ", "", line).strip() for line in messages.splitlines()]
    reason = "; ".join(line for line in words if line and not line.startswith("Error opening input file"))
    return UnreadableAudio(f"ffmpeg: {reason[:400] or f'ended with status {status}'}")
