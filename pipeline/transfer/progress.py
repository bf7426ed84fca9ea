"""How far long transfers are: in the log now and then, and in the worker's status all the time."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from pipeline.foundation.formatting import amount, duration
from pipeline.jobs.worker import Worker

log = logging.getLogger(__name__)

LOG_SECONDS = 30  # between two lines of one transfer; one that is over sooner logs nothing
RATE_SECONDS = 30  # the rate is that of the time just gone
STEP_SECONDS = 1


class Progress:
    """The bytes of one transfer. `moved` may be called by several threads, also with bytes taken back."""

    def __init__(self, total: int, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.what, self.done = total, what, 0
        self._clock, self._lock = clock, threading.Lock()
        self._began = self._logged = clock()
        self._seen = deque([(self._began, 0)])  # (time, bytes by then), the oldest about RATE_SECONDS ago

    def moved(self, count: int) -> bool:
        """Count bytes; gives whether it is time to show the progress again."""
        with self._lock:
            self.done += count
            now = self._clock()
            if now - self._seen[-1][0] < STEP_SECONDS:
                return False
            self._seen.append((now, self.done))
            while now - self._seen[1][0] >= RATE_SECONDS:
                self._seen.popleft()
            due = now - self._logged >= LOG_SECONDS
            self._logged = now if due else self._logged
        if due:
            log.info("%s: %s", self.what, str(self))
        return True

    def ended(self) -> None:
        """Log a transfer that has come to its end, where it took long."""
        if (seconds := self._clock() - self._began) >= LOG_SECONDS:
            rate = amount(self.done / seconds)
            log.info("%s: done, %s in %s, %s/s", self.what, amount(self.done), duration(seconds), rate)

    def __str__(self) -> str:
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        text = f"{amount(self.done)} of {amount(self.total)}"
        if now == began or done <= before:
            return text
        rate = (done - before) / (now - began)
        left = duration(max(0, self.total - self.done) / rate)
        return f"{text}, {amount(rate)}/s, {left} left"


class Board:
    """What a worker does at a time, shown as one status."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self._lines: dict[int, tuple[str, str]] = {}  # what, and how far it is
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def follow(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a transfer of so many bytes while it lasts; gives what is to be called with the bytes that moved.

        That call raises `Stopping` when the worker is to stop.
        """
        progress = Progress(total, what)
        self._show(id(progress), what, str(progress))

        def moved(count: int) -> None:
            if progress.moved(count):
                self._show(id(progress), what, str(progress))
            self.worker.metrics.moved(what, count)
            self.worker.moved()

        try:
            yield moved
            progress.ended()
        finally:
            with self._lock:
                del self._lines[id(progress)]
            self._say()

    def _show(self, key: int, what: str, how_far: str) -> None:
        with self._lock:
            self._lines[key] = (what, how_far)
        self._say()

    def _say(self) -> None:
        with self._lock:
            lines = list(self._lines.values())
        if lines:
            whole = "; ".join(f"{what}: {how_far}" for what, how_far in lines)
            self.worker.doing("; ".join(what for what, _ in lines), whole)
