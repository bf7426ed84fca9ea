"""The flag that SIGTERM sets, which any thread can wait for."""

import os
import select


class StopFlag:
    """Set by a signal handler, waited for by any thread.

    threading.Event is not for signal handlers: one that interrupts `wait` in the same thread may deadlock.
    """

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Ask to stop; for good."""
        if not self._set:
            self._set = True
            os.write(self._write, b".")  # never read: the pipe stays readable

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait so long, or until asked to stop; gives whether to stop."""
        return bool(select.select([self._read], [], [], seconds)[0])
