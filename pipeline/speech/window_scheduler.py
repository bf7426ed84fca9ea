"""Which thread works on what next: files wait to be prepared, their windows to share a batch on the device.

One lock guards it, and what the threads note in the files, their channels and rows. Whoever submits waits while
enough files are ahead, a preparer while enough windows are ready, a batch while more windows are coming.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic

from pipeline.foundation.errors import Stop, Stopping
from pipeline.speech.files_in_progress import Channel, File, Key, Row

READY_BATCHES = 3  # windows prepared ahead: enough to choose rows of similar length from


class WindowScheduler(Generic[Key]):
    """What waits and what is in progress, for so many threads that prepare, and batches that are computed at once.

    `changed` is the lock, and is notified of every change.
    """

    def __init__(self, preparers: int, batches_at_once: int, batch_size: int, batch_wait_seconds: float) -> None:
        """`batch_wait_seconds`: how long a batch that is not full waits while more files are being prepared."""
        self.changed = threading.Condition()
        self.batch_size, self._wait = batch_size, batch_wait_seconds
        self._preparers, self._batches_at_once = preparers, batches_at_once
        self._most_ready = READY_BATCHES * batch_size
        self._submitted: deque[Channel[Key]] = deque()
        self._ready: list[Row[Key]] = []
        self._preparing = self._computing = self._undelivered = 0
        self._ending = False
        self._failure: BaseException | None = None

    # --- files -----------------------------------------------------------------------------------------

    def submit(self, file: File[Key], stop: Stop | None) -> None:
        """Take a file in; waits while enough are ahead. `Stopping` where `stop` is set meanwhile."""
        with self.changed:
            self._await(lambda: len(self._submitted) < self._preparers, stop)
            self._submitted += file.channels
            self._undelivered += 1
            self.changed.notify_all()

    def next_channel(self) -> Channel[Key] | None:
        """The next channel to prepare; None when the engine ends."""
        with self.changed:
            while not self._submitted and not self._ending:
                self.changed.wait()
            if self._ending:
                return None
            self._preparing += 1
            self.changed.notify_all()
            return self._submitted.popleft()

    def prepared(self) -> None:
        """A channel is prepared, or never will be."""
        with self.changed:
            self._preparing -= 1
            self.changed.notify_all()

    def delivered(self) -> None:
        """A file is delivered."""
        with self.changed:
            self._undelivered -= 1
            self.changed.notify_all()

    def drain(self, stop: Stop | None) -> None:
        """Wait until every file that was submitted is delivered. `Stopping` where `stop` is set meanwhile."""
        with self.changed:
            self._await(lambda: not self._undelivered, stop)

    # --- windows ---------------------------------------------------------------------------------------

    def add(self, row: Row[Key]) -> bool:
        """Put a window among those that are ready; waits while they are enough. False where its file is over."""
        with self.changed:
            while len(self._ready) >= self._most_ready and not self._ending:
                self.changed.wait()
            if self._ending or row.channel.over:
                return False
            self._ready.append(row)
            self.changed.notify_all()
            return True

    def replace(self, row: Row[Key], parts: list[Row[Key]]) -> None:
        """Have these take the place of a window that is not heard as it is."""
        with self.changed:
            row.has_left = True
            if not row.channel.over:
                row.channel.more_parts += len(parts) - 1
                self._ready += parts
            self.changed.notify_all()

    def drop(self, file: File[Key]) -> None:
        """Forget the windows of a file that are ready."""
        with self.changed:
            self._ready = [row for row in self._ready if row.channel.file is not file]

    def next_rows(self) -> list[Row[Key]]:
        """The next batch: the row that waits longest, and those whose length is nearest to its own, because a
        batch is decoded for as long as its longest text. None when the engine ends."""
        deadline: float | None = None
        with self.changed:
            while not self._ending:
                if rows := self._ready:
                    now = time.monotonic()
                    deadline = deadline or now + self._wait
                    if len(rows) >= self.batch_size or now >= deadline or not self._more_is_coming():
                        break
                self.changed.wait(deadline and deadline - now)
            else:
                return []
            length = rows[0].window.seconds
            nearest = sorted(rows, key=lambda row: abs(row.window.seconds - length))
            rows = nearest[: self._share(len(rows))]
            self._ready = [row for row in self._ready if row not in rows]
            self._computing += 1
            self.changed.notify_all()
            return rows

    def _share(self, ready: int) -> int:
        """How many of the rows that are ready to take: the last ones are shared with idle threads."""
        if self._more_is_coming():
            return self.batch_size
        idle = self._batches_at_once - self._computing
        return min(self.batch_size, -(-ready // max(1, idle)))

    def _more_is_coming(self) -> bool:
        return bool(self._submitted or self._preparing)

    def computed(self) -> None:
        """A batch is computed."""
        with self.changed:
            self._computing -= 1

    # --- the end ---------------------------------------------------------------------------------------

    def end(self) -> None:
        """Have every thread end with what it is at."""
        with self.changed:
            self._ending = True
            self.changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """End because of this: the next call from outside raises it."""
        with self.changed:
            self._failure = self._failure or error
            self._ending = True
            self.changed.notify_all()

    def is_set(self) -> bool:
        """Whether the engine ends: what a decoder asks."""
        return self._ending

    def check(self) -> None:
        """Raise what has ended the engine, where something has."""
        if self._failure is not None:
            raise self._failure

    def _await(self, condition: Callable[[], bool], stop: Stop | None) -> None:
        while not condition():
            if self._failure is None:
                self.changed.wait(0.2)
            self.check()
            if stop is not None and stop.is_set():
                raise Stopping
        self.check()
