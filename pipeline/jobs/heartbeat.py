"""The heartbeat of a worker: it tells the fleet that the worker lives, and what it does.

It is a thread of its own, so that long work does not look like death. The first heartbeat claims the worker's id;
the later ones also take back what dead workers had in progress, and tell systemd that the work goes on.
"""

import json
import logging
import os
import threading
import time

from pipeline.foundation import redis_client, systemd
from pipeline.foundation.errors import Misconfigured, Outage, Stopping, unavailable_service
from pipeline.foundation.worker_metrics import Metrics
from pipeline.jobs import batches, job_queue
from pipeline.jobs.job_queue import JobQueue
from pipeline.jobs.stop_flag import StopFlag

log = logging.getLogger(__name__)


class Heartbeat:
    """The heartbeat of one worker: without it for `seconds`, it counts as dead.

    A step that takes `stall` seconds is stuck; our clock and that of Redis may differ by `clock_skew` seconds.
    """

    def __init__(
        self,
        queue: JobQueue,
        metrics: Metrics,
        host: str,
        stop: StopFlag,
        seconds: int,
        stall: int,
        clock_skew: int,
    ) -> None:
        self.queue, self.redis, self.id, self.host = queue, queue.redis, queue.worker_id, host
        self.metrics, self.stop = metrics, stop
        self.seconds, self.stall, self.clock_skew = seconds, stall, clock_skew
        self._doing, self._since, self._moved = "starting", time.time(), time.monotonic()
        self._shown = self._doing
        self._steady_since = time.monotonic()
        self._ahead = 0.0  # seconds, of our clock before that of Redis
        self._thread = threading.Thread(target=self._beat_until_ended, name="heartbeat", daemon=True)
        self._ended = threading.Event()

    def start(self) -> None:
        """Beat from now on."""
        self._thread.start()

    def end(self) -> None:
        """End the thread, where it was started."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    # --- the worker's id -------------------------------------------------------------------------------

    def take_identity(self) -> None:
        """Make sure that no other live process has our id: it would take our jobs for its own."""
        deadline = time.monotonic() + self.seconds + 2
        take = redis_client.script(self.redis, "take_identity")
        key, ours, dead = job_queue.heartbeat_key(self.id), self._state(*self.redis.time()), ""
        while held := take(keys=[key], args=[ours, self.seconds, dead]):
            other = json.loads(held)
            is_named_so = other["host"] == self.host
            # a heartbeat of another boot is of this machine's last one, or of another machine of our name
            is_here = is_named_so and str(other["started"]).startswith(systemd.boot())
            if is_here and (systemd.started(other["pid"]) != other["started"] or other["pid"] == os.getpid()):
                dead = held  # an earlier run here that has ended, or ourselves, where the answer was lost
                continue
            if is_here or time.monotonic() > deadline:
                if is_named_so and not is_here:
                    raise Misconfigured(f"another machine also has HOST_NAME {self.host}, and works as {self.id}")
                raise Misconfigured(
                    f"process {other['pid']} on {other['host']} already works as {self.id}: set WORKER_ID"
                )
            if self.stop.wait(1):
                raise Stopping

    # --- what it says ----------------------------------------------------------------------------------

    def doing(self, text: str, how_far: str = "") -> None:
        """Say what the worker does now: it shows in `pipelinectl status` and in `systemctl status`.

        `how_far` is shown in its place, and may change without being something new.
        """
        self._moved = time.monotonic()
        if text != self._doing:
            self._doing, self._since = text, time.time()
        shown = how_far or text
        if shown != self._shown:
            self._shown = shown
            systemd.notify(f"STATUS={shown}")

    def moved(self) -> None:
        """Say that a long step goes on: it is not stuck."""
        self._moved = time.monotonic()

    def _state(self, beat: int, _microseconds: int) -> str:
        """What the heartbeat at a time (seconds, microseconds) says of this worker."""
        state = {
            "role": self.metrics.role,
            "host": self.host,
            "pid": os.getpid(),
            "started": systemd.started(os.getpid()),
            "queue": self.queue.name,
            "doing": self._shown,
            "since": int(self._since),
            "beat": beat,
            **self.metrics.summary(),
        }
        return json.dumps(state)

    def beat(self) -> None:
        """Tell the fleet once that the worker lives, and compare the clocks."""
        asked = time.time()
        seconds, microseconds = self.redis.time()
        self._ahead = _ahead(asked, seconds + microseconds / 1e6, time.time())
        state = self._state(seconds, microseconds)
        self.redis.set(job_queue.heartbeat_key(self.id), state, ex=self.seconds)
        self.metrics.beat(seconds + microseconds / 1e6)
        self.queue.register()

    def beat_of_host(self, if_new: bool = False) -> None:
        """Tell the fleet once that the host lives: else its batches go to others. `if_new`: only a new one."""
        self.redis.zadd(batches.HOSTS, {self.host: self.redis.time()[0]}, nx=if_new)

    def _beat_until_ended(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self.seconds / 4):
            if time.monotonic() - last > self.seconds:  # this machine stood still, and perhaps all did
                self._steady_since = time.monotonic()
            last = time.monotonic()
            try:
                self.beat()
                self.beat_of_host()
                if self.steady_seconds() >= self.seconds:
                    self._take_back()
            except Exception as error:  # the work goes on: whoever takes our jobs meanwhile is fenced off
                self._steady_since = time.monotonic()
                log.warning("no heartbeat: %s", error, exc_info=not unavailable_service(error))
            if time.monotonic() - self._moved < self.stall:
                systemd.notify("WATCHDOG=1")

    # --- what it finds ---------------------------------------------------------------------------------

    def check_clock(self) -> None:
        """`Outage` while our clock, as the last heartbeat has found it, is wrong: dates come from it, S3 takes no
        signature that is 15 minutes off, and NTP will repair it."""
        if abs(self._ahead) > self.clock_skew:
            where = "ahead of" if self._ahead > 0 else "behind"
            raise Outage(
                "the clock",
                f"this host is {abs(self._ahead):.0f} s {where} Redis, {self.clock_skew} s are allowed"
                " (CLOCK_SKEW_SECONDS)",
            )

    def steady_seconds(self) -> float:
        """How long Redis has heard us without a break. After an outage everybody's heartbeat is gone for a
        moment: who is dead shows only when the living have had the time to be heard again."""
        return time.monotonic() - self._steady_since

    def _take_back(self) -> None:
        for worker_id, jobs in self.queue.recover().items():
            log.warning("took back %d jobs of %s, whose heartbeat is gone", jobs, worker_id)


def _ahead(asked: float, theirs: float, answered: float) -> float:
    """How far our clock is ahead of another (negative: behind), at the least, where it was asked for its time and
    gave `theirs` before we had it: a slow answer looks like no skew."""
    return max(asked - theirs, 0.0) or min(answered - theirs, 0.0)
