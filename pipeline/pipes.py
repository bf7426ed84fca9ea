"""A program that writes to pipes, read as it runs: it needs no right to write a file, and what fails in writing is
known by the error number of our own call."""

import contextlib
import math
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.errors import Stop, Stopping

MESSAGES = -1  # the number of what it writes to standard error
_CHUNK = 2**18


class TooSlow(Exception):
    """The program was not done in its time."""


@dataclass(frozen=True)
class Ended:
    """How the program ended: its exit status (negative: the signal), the most memory that it had (bytes)."""

    status: int
    peak_memory: int


class Running:
    """A program that was started; `chunks` gives what it writes, `ended` is there afterwards."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", pipes: dict[int, int], stop: Stop, seconds: float
    ) -> None:
        self._process, self._pipes, self._stop, self.seconds = process, pipes, stop, seconds
        self.ended = Ended(0, 0)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """What it writes, as it comes: the number of the output (`MESSAGES`), and bytes. `Stopping` where `stop`
        is set meanwhile, `TooSlow` where it is not done in its time, that of the reader not counted."""
        with selectors.DefaultSelector() as selector:
            for number, pipe in self._pipes.items():
                selector.register(pipe, selectors.EVENT_READ, number)
            left = math.ceil(2 * self.seconds)
            while selector.get_map():
                ready = selector.select(0.5)
                if self._stop.is_set():
                    raise Stopping
                left -= not ready
                if left < 0:
                    raise TooSlow
                for key, _ in ready:
                    chunk = os.read(key.fd, _CHUNK)
                    if chunk:
                        yield key.data, chunk
                    else:
                        selector.unregister(key.fd)
        self._wait()

    def _wait(self) -> None:
        """Its pipes are closed: it is ending."""
        handle = os.pidfd_open(self._process.pid)
        with os.fdopen(handle), selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            if not selector.select(self.seconds):
                raise TooSlow
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.ended = Ended(self._process.returncode, used.ru_maxrss * 1024)

    def kill(self) -> None:
        """End it and all that it has started, where it is not done."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextlib.contextmanager
def running(
    command: Callable[[Sequence[str]], list[str]],
    outputs: int,
    stop: Stop,
    seconds: float,
    inputs: Sequence[int] = (),
) -> Iterator[Running]:
    """Start a program and end it with the block. `command` makes its arguments of the URLs (`pipe:7`) that its
    `outputs` are to be written to; it inherits the file descriptors of `inputs`. `seconds`: how long it may
    take."""
    with contextlib.ExitStack() as files:
        readers, writers = [], []
        for _ in range(outputs):
            ends = os.pipe()
            readers.append(files.enter_context(open(ends[0], "rb", buffering=0)))
            writers.append(files.enter_context(open(ends[1], "wb", buffering=0)))
        process = subprocess.Popen(
            command([f"pipe:{writer.fileno()}" for writer in writers]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(*(writer.fileno() for writer in writers), *inputs),
            start_new_session=True,  # Ctrl-C is for us: we end it ourselves
        )
        for writer in writers:
            writer.close()
        assert process.stderr is not None
        messages = files.enter_context(process.stderr)
        pipes = dict(enumerate(reader.fileno() for reader in readers))
        program = Running(process, {MESSAGES: messages.fileno()} | pipes, stop, seconds)
        try:
            yield program
        finally:
            program.kill()
