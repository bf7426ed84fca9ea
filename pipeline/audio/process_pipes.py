"""A program that writes to pipes, read as it runs: it needs no right to write a file, and what fails in writing is
known by the error number of our own call."""

import contextlib
import os
import resource
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from pipeline.foundation.errors import Stop, Stopping

MESSAGES = -1  # the number of what it writes to standard error
_CHUNK = 2**18
_LOOK_SECONDS = 0.5  # between looks at whether to stop


class TooSlow(Exception):
    """The program was not done in its time."""


@dataclass(frozen=True)
class Ended:
    """How the program ended: its exit status (negative: the signal), the most memory that it had (bytes; 0 where
    it is not known, because this process had more when it started it)."""

    status: int
    peak_memory: int


class Running:
    """A program that was started; `chunks` gives what it writes, `ended` is there afterwards."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", pipes: dict[int, int], stop: Stop, seconds: float
    ) -> None:
        self._process, self._pipes, self._stop, self.seconds = process, pipes, stop, seconds
        self._left = seconds
        # Linux counts the memory of the process that forked as the child's, until it becomes the program.
        self._forked_with = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        self.ended = Ended(0, 0)

    def chunks(self) -> Iterator[tuple[int, bytes]]:
        """What it writes, as it comes: the number of the output (`MESSAGES`), and bytes. `Stopping` where `stop`
        is set meanwhile, `TooSlow` where it is not done in its time, that of the reader not counted."""
        with selectors.DefaultSelector() as selector:
            for number, pipe in self._pipes.items():
                selector.register(pipe, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in self._select(selector):
                    chunk = os.read(key.fd, _CHUNK)
                    if chunk:
                        yield key.data, chunk
                    else:
                        selector.unregister(key.fd)
        self._wait()

    def _select(self, selector: selectors.BaseSelector) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait a little for the program; what is ready."""
        before = time.monotonic()
        ready = selector.select(min(_LOOK_SECONDS, self._left))
        # Where this process was stopped meanwhile, the program had no more time than that.
        self._left -= min(time.monotonic() - before, _LOOK_SECONDS)
        if self._stop.is_set():
            raise Stopping
        if self._left <= 0:
            raise TooSlow
        return ready

    def _wait(self) -> None:
        """Its pipes are closed: it is ending, and what it has started ends with it."""
        handle = os.pidfd_open(self._process.pid)
        with os.fdopen(handle), selectors.DefaultSelector() as selector:
            selector.register(handle, selectors.EVENT_READ)
            while not self._select(selector):
                pass
        self._kill_group()
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        memory = used.ru_maxrss if used.ru_maxrss > self._forked_with else 0
        self.ended = Ended(self._process.returncode, memory * 1024)

    def kill(self) -> None:
        """End it and all that it has started, where it is not done."""
        if self._process.returncode is None:
            self._kill_group()
            self._process.wait()

    def _kill_group(self) -> None:
        """While it is not waited for, the number of its group is nobody else's."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


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
        _schedule_as_batch(process.pid)
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


def _schedule_as_batch(process: int) -> None:
    """Have the kernel let a thread of this program go on when it wakes another one: ffmpeg's threads hand sound on
    in pieces of 20 ms, and changing threads for each of them takes a tenth of its CPU."""
    with contextlib.suppress(OSError):  # a matter of speed alone
        os.sched_setscheduler(process, os.SCHED_BATCH, os.sched_param(0))
