"""One remote file on its way to this disk: copied by scp, and gone on with where the connection broke.

scp may write blocks out of their order, so what came just before the break is fetched once more. The rest is
read by `tail`, as SFTP's own `reget` cannot name every file. Whatever way it came, the file counts only when
the source is still the one that the copy was begun from.
"""

import contextlib
import errno
import logging
import os
import re
import select
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.foundation.checksum import sha256
from pipeline.foundation.errors import Outage, Permanent, Stop, Stopping, unavailable_service
from pipeline.transfer.framing import Frame, as_input
from pipeline.transfer.ssh import COMMAND_FAILED, MALFORMED, FileState, RemoteHost, Unclear

log = logging.getLogger(__name__)

OVERLAP = 64 * 2**20  # fetched again after a break: more than scp has on the way at a time
TRIES = 3  # copies of a file that changes meanwhile
_POLL_SECONDS = 0.5
_READ = 2**20
_TRIAL = bytes(2**20)  # that are written where a copy could perhaps not be


class Copy:
    """The copy of `path` to `target`, which is there whole or not at all. `state` follows the source."""

    def __init__(self, host: RemoteHost, path: str, state: FileState, target: Path) -> None:
        self.host, self.path, self.state, self.target = host, path, state, target
        self.part = target.with_name(f"{target.name}.part")
        self._broken_off = False  # the part is ours, from before the connection broke
        self._is_fetched = self._is_resumed = False
        self._was_unclear = False
        self._reported = 0

    def fetch(self, stop: Stop, moved: Callable[[int], object] = int) -> None:
        """Do the long part of `run` ahead of it. What is raised, and another call after it, are as there.

        `moved(bytes)` is called as the file grows, with less than 0 where some of it is fetched again.
        """
        with self._keeping():
            self._is_resumed = self._bring(stop, moved)
            self._is_fetched = True

    def run(self, stop: Stop, moved: Callable[[int], object] = int) -> None:
        """Copy the file; `Stopping` where `stop` is set meanwhile. After an `Outage`, another call goes on.

        The copy is not synced to the disk: what a power cut leaves, the worker's next run removes.
        """
        with self._keeping():
            for _ in range(TRIES):
                if not self._is_fetched:
                    self._is_resumed = self._bring(stop, moved)
                self._is_fetched = False
                if self._is_whole(self._is_resumed):
                    self.part.rename(self.target)
                    return
                self.discard()
            raise OSError(f"{self.path} was changed each of the {TRIES} times that it was copied")

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Keep what there is of the copy through an outage, and through nothing else."""
        try:
            yield
        except Outage:
            self._broken_off = self.part.exists()
            raise
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what there is of a copy that has not ended well."""
        self.part.unlink(missing_ok=True)
        self._broken_off = self._is_fetched = False

    def remove(self) -> None:
        """Remove the copy, whole or not: it is needed no more."""
        self.discard()
        self.target.unlink(missing_ok=True)

    def _bring(self, stop: Stop, moved: Callable[[int], object]) -> bool:
        """Copy the file, or the rest of it; gives whether it was the rest."""
        if self._broken_off and not self._has_changed():
            self._append(stop, moved)
            return True
        self.discard()
        self._scp(stop, moved)
        return False

    def _has_changed(self) -> bool:
        """Whether the source is another file than before; from now on it is this one that is copied."""
        before, self.state = self.state, self.host.stat(self.path)
        changed = str(before) != str(self.state)  # its checksum file may come later than itself
        if changed:
            log.warning("%s has changed (%s, was %s): it is copied again", self.path, self.state, before)
        return changed

    def _is_whole(self, resumed: bool) -> bool:
        """Whether the copy is what the source is now."""
        try:
            if self._has_changed():
                return False
        except Permanent:  # it went after it was read to its end
            if resumed:
                raise
        size = self.part.stat().st_size
        if size != self.state.size:
            raise OSError(f"{self.path}: {size} bytes arrived of {self.state.size}")
        known = self.state.sha256 not in ("", MALFORMED)
        if resumed and known and sha256(self.part) != self.state.sha256:
            log.warning("%s: the SHA-256 of the pieces differs from its file's: it is copied again", self.path)
            return False
        return True

    def _tell(self, moved: Callable[[int], object]) -> None:
        size = self.part.stat().st_size if self.part.exists() else 0
        if size != self._reported:
            count, self._reported = size - self._reported, size
            moved(count)

    def _scp(self, stop: Stop, moved: Callable[[int], object]) -> None:
        # -s: by SFTP, so that no remote shell reads the path; SFTP still expands patterns in it
        pattern = re.sub(r"([\\*?\[\]{}])", r"\\\1", self.path)
        host = f"[{self.host.host}]" if ":" in self.host.host else self.host.host  # an IPv6 address
        source = f"{self.host.user}@{host}:{pattern}"
        options = ["-s", "-P", str(self.host.port), *self.host.options()]

        def goes_on(process: subprocess.Popen[bytes]) -> bool:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
            self._tell(moved)
            return process.returncode is None

        self._run(["scp", *options, "--", source, str(self.part)], stop, goes_on)

    def _append(self, stop: Stop, moved: Callable[[int], object]) -> None:
        """Fetch what follows the part, and a little of what it ends with."""
        offset = max(0, self.part.stat().st_size - OVERLAP)
        os.truncate(self.part, offset)
        log.info("%s: going on from byte %d of %d", self.path, offset, self.state.size)
        frame = Frame()
        tail = frame.before(f"tail -c +{offset + 1} -- {shlex.quote(self.path)}")
        with self.part.open("ab", buffering=0) as file, as_input(tail) as script:

            def goes_on(process: subprocess.Popen[bytes]) -> bool:
                assert process.stdout
                if not select.select([process.stdout], [], [], _POLL_SECONDS)[0]:
                    return True
                data = os.read(process.stdout.fileno(), _READ)
                have = file.tell()
                _write(file.fileno(), frame.rest(data)[: max(0, self.state.size - have)])  # a shell may add a word
                self._tell(moved)
                return bool(data)

            self._run(self.host.shell(), stop, goes_on, stdin=script, stdout=subprocess.PIPE)

    def _run(
        self,
        command: list[str],
        stop: Stop,
        goes_on: Callable[[subprocess.Popen[bytes]], bool],
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
    ) -> None:
        """Run a command until `goes_on` is false; whatever happens, it has ended then."""
        with open(os.memfd_create("messages"), "w+b") as messages:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=messages,
                start_new_session=True,  # scp runs an ssh, and both are to end together
            )
            with process, _ending(process):
                while goes_on(process):
                    if stop.is_set():
                        raise Stopping
                process.wait()
            messages.seek(0)
            text = messages.read().decode(errors="replace").strip()
        if process.returncode != 0 and stop.is_set():  # who stops us may have stopped scp too
            raise Stopping
        self._judge(process.returncode, text)

    def _judge(self, status: int, messages: str) -> None:
        """Raise what the exit status of scp or ssh means: by the system's own word for this disk, by the host's
        numbers for the rest."""
        if status == COMMAND_FAILED:
            self._try_disk()
        try:
            self.host.check(status, messages, self.path)
        except Unclear as error:
            if self._lack() > 0:  # the file system keeps a little for root, which the trial may have had
                raise OSError(errno.ENOSPC, f"{self.part.parent} has no room for the rest of the file") from error
            if self._was_unclear:
                raise
            self._was_unclear = True  # somebody ended scp; what comes again has another cause
            raise Outage("EC2", str(error)) from error

    def _try_disk(self) -> None:
        """Write a little beside the copy: the system's own error where that cannot be."""
        try:
            with tempfile.TemporaryFile(dir=self.part.parent, buffering=0) as file:
                _write(file.fileno(), _TRIAL)
                os.fsync(file.fileno())
        except OSError as error:
            number = error.errno if unavailable_service(error) else errno.EIO
            raise OSError(number, f"{self.part.parent} cannot be written: {error.strerror}") from error

    def _lack(self) -> int:
        """Bytes that the volume lacks for the rest of the file."""
        volume = os.statvfs(self.part.parent)
        have = self.part.stat().st_size if self.part.exists() else 0
        return self.state.size - have - volume.f_bavail * volume.f_frsize


@contextlib.contextmanager
def _ending(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Kill the process and its group where the block is left before its end."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _write(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]
