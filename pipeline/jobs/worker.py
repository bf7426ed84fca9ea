"""The loop that every worker runs: jobs one by one, signals, heartbeat, and what a failure means.

A worker reads

    for job in worker.jobs():
        with worker.holding(job):
            ...                     # idempotent steps, each external one through worker.until_available(step, ...)

SIGTERM and SIGINT set a flag: the job in progress is finished, or kept, uncounted, for the worker's next run
where it takes long or waits for a service.
The heartbeat is a thread of its own, so that long work does not look like death; it also takes back what
dead workers had in progress.
"""

import argparse
import contextlib
import json
import logging
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pipeline.foundation import logs, redis_client, startup, systemd
from pipeline.foundation.errors import Broken, LostClaim, Outage, Permanent, Stopping, unavailable_service
from pipeline.foundation.metrics import Metrics
from pipeline.jobs import batches, job_queue
from pipeline.jobs.job_queue import Job, JobQueue

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

CLAIM_SECONDS = 1.0  # how long one claim blocks: the longest that SIGTERM waits on an idle worker
MAINTENANCE_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 5.0  # between two tries of a step whose service is unavailable


class Misconfigured(Exception):
    """The worker cannot run as it is set up, and a restart does not change that: one line says why."""


@dataclass(frozen=True)
class Limits:
    """How patient a worker is; seconds but for `attempts`."""

    attempts: int = 3
    retry: int = 30  # before a failed job is tried again
    heartbeat: int = 30  # a worker that is silent so long is dead
    stall: int = 7200  # a step that takes so long is stuck: systemd may restart the process
    clock_skew: int = 60  # the most that our clock and that of Redis may differ


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


class Worker:
    """One process that works on the jobs of one queue."""

    def __init__(
        self, redis_url: str, queue_name: str, role: str, worker_id: str, host: str, limits: Limits
    ) -> None:
        self.redis = redis_client.connect(redis_url)
        self.queue = JobQueue(self.redis, queue_name, worker_id)
        self.role, self.id, self.host, self.limits = role, worker_id, host, limits
        self.metrics = Metrics(role, worker_id, host, queue_name)
        self.stop = StopFlag()
        self.fail_permanently: Callable[[Job, str], Any] = self.bury
        self.ready_for_more: Callable[[], bool] = lambda: True
        self.brings_work = True  # to this host: not while the host drains
        self.maintenance: Callable[[], Any] = lambda: None
        self._doing, self._since, self._moved = "starting", time.time(), time.monotonic()
        self._shown = self._doing
        self._next_maintenance = 0.0
        self._steady_since = time.monotonic()
        self._ahead = 0.0  # seconds, of our clock before that of Redis
        self._failing: set[Callable[..., Any]] = set()  # steps whose service was unavailable when last tried
        self._beating = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)
        self._ended = threading.Event()

    def serve_metrics(self, listen: tuple[str, int] | None) -> None:
        """Answer Prometheus at this address and port from now on, where one is given; `Misconfigured` where that
        cannot be."""
        if listen is not None and (problem := self.metrics.serve(listen)):
            raise Misconfigured(problem)

    # --- the process -----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def running(self, *checks: Callable[[], str | None]) -> Iterator["Worker"]:
        """Signals, identity and heartbeat around the loop; on the way out, what is in progress is kept.

        Each check gives what is wrong, in one line, or None; one that is wrong raises `Misconfigured`.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop.set())
        try:
            with contextlib.suppress(Stopping):  # then there is nothing to do: `jobs` ends at once
                self._enter(checks)
            with contextlib.suppress(Stopping):
                yield self
        except BaseException:
            self._leave(crashed=True)
            raise
        self._leave(crashed=False)

    def _enter(self, checks: Iterable[Callable[[], str | None]]) -> None:
        if problem := self.until_available(redis_client.refusal, self.redis):
            raise Misconfigured(problem)
        self.until_available(self._take_identity)
        self.until_available(redis_client.warn_of_losses, self.redis)
        self.until_available(self._beat)
        self.until_available(self._beat_of_host, if_new=True)
        self._beating.start()
        self.until_available(self._check_clock)
        for check in checks:
            if problem := self.until_available(check):
                raise Misconfigured(problem)
        self.until_available(
            self._beat_of_host
        )  # not before: where all are refused at every start, it loses its batches
        systemd.notify("READY=1")
        log.info("%s ready, queue %s", self.id, self.queue.name)
        self.doing("idle")

    def _leave(self, crashed: bool) -> None:
        """End the heartbeat thread. What is in progress stays in our list: our next run goes on with it, and
        where there is none, others take it back when the heartbeat has run out."""
        systemd.notify("STOPPING=1")
        self._ended.set()
        if self._beating.is_alive():
            self._beating.join()
        try:
            if not crashed:
                for job in list(self.queue.in_progress):
                    self.queue.keep(job)
                self.queue.unregister()
        except Exception as error:
            if not unavailable_service(error):
                raise
            log.warning("Redis is unavailable (%s): an attempt in progress counts", error)
        log.info("%s stopped", self.id)

    def _take_identity(self) -> None:
        """Make sure that no other live process has our id: it would take our jobs for its own."""
        deadline = time.monotonic() + self.limits.heartbeat + 2
        take = redis_client.script(self.redis, "take_identity")
        key, ours, dead = job_queue.heartbeat_key(self.id), self._state(*self.redis.time()), ""
        while held := take(keys=[key], args=[ours, self.limits.heartbeat, dead]):
            other = json.loads(held)
            is_named_so = other["host"] == self.host
            # a heartbeat of another boot is of this machine's last one, or of another machine of our name
            is_here = is_named_so and str(other["started"]).startswith(systemd.boot())
            if is_here and (systemd.started(other["pid"]) != other["started"] or other["pid"] == os.getpid()):
                dead = held  # an earlier run here that has ended, or ourselves, where the answer was lost
                continue
            if is_here or time.monotonic() > deadline:
                if is_named_so and not is_here:
                    raise Misconfigured(f"another machine is HOST_NAME {self.host} too, and works as {self.id}")
                raise Misconfigured(
                    f"process {other['pid']} on {other['host']} already works as {self.id}: set WORKER_ID"
                )
            if self.stop.wait(1):
                raise Stopping

    # --- the heartbeat ---------------------------------------------------------------------------------

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

    def moved(self, _bytes: int = 0) -> None:
        """Say that a long step goes on, and end it with `Stopping` when the worker is to stop."""
        self._moved = time.monotonic()
        if self.stop.is_set():
            raise Stopping

    def _state(self, beat: int, _microseconds: int) -> str:
        """What the heartbeat at a time (seconds, microseconds) says of this worker."""
        state = {
            "role": self.role,
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

    def _beat(self) -> None:
        asked = time.time()
        seconds, microseconds = self.redis.time()
        self._ahead = _ahead(asked, seconds + microseconds / 1e6, time.time())
        state = self._state(seconds, microseconds)
        self.redis.set(job_queue.heartbeat_key(self.id), state, ex=self.limits.heartbeat)
        self.metrics.beat(seconds + microseconds / 1e6)
        self.queue.register()

    def _beat_of_host(self, if_new: bool = False) -> None:
        self.redis.zadd(batches.HOSTS, {self.host: self.redis.time()[0]}, nx=if_new)

    def _beat_until_stopped(self) -> None:
        last = time.monotonic()
        while not self._ended.wait(self.limits.heartbeat / 4):
            if time.monotonic() - last > self.limits.heartbeat:  # this machine stood still, and perhaps all did
                self._steady_since = time.monotonic()
            last = time.monotonic()
            try:
                self._beat()
                self._beat_of_host()
                if self.steady_seconds() >= self.limits.heartbeat:
                    self._take_back()
            except Exception as error:  # the work goes on: whoever takes our jobs meanwhile is fenced off
                self._steady_since = time.monotonic()
                log.warning("no heartbeat: %s", error, exc_info=not unavailable_service(error))
            if time.monotonic() - self._moved < self.limits.stall:
                systemd.notify("WATCHDOG=1")

    def _check_clock(self) -> None:
        """`Outage` while our clock, as the last heartbeat has found it, is wrong: dates come from it, S3 takes no
        signature that is 15 minutes off, and NTP will repair it."""
        if abs(self._ahead) > self.limits.clock_skew:
            where = "ahead of" if self._ahead > 0 else "behind"
            raise Outage(
                "the clock",
                f"this host is {abs(self._ahead):.0f} s {where} Redis, {self.limits.clock_skew} s are allowed"
                " (CLOCK_SKEW_SECONDS)",
            )

    def steady_seconds(self) -> float:
        """How long Redis has heard us without a break. After an outage everybody's heartbeat is gone for a
        moment: who is dead shows only when the living have had the time to be heard again."""
        return time.monotonic() - self._steady_since

    def _take_back(self) -> None:
        for worker_id, jobs in self.queue.recover().items():
            log.warning("took back %d jobs of %s, whose heartbeat is gone", jobs, worker_id)

    # --- the jobs --------------------------------------------------------------------------------------

    def jobs(self) -> Iterator[Job]:
        """Claim jobs until the worker is to stop. A job that has used up its attempts is failed permanently
        here."""
        while not self.stop.is_set():
            self.maintain()
            self.until_available(self._check_clock)
            draining = self.brings_work and self.until_available(self._is_draining)
            if not draining and self.ready_for_more():
                if not self.queue.in_progress:
                    self.doing("idle")
                job = self.until_available(self.queue.claim, CLAIM_SECONDS)
            elif (job := self.until_available(self.queue.claim_kept)) is None:
                self.stop.wait(CLAIM_SECONDS)
            if job is None:
                continue
            if draining or (self.brings_work and self.until_available(self._is_draining)):
                self.until_available(
                    self.queue.give_back, job
                )  # of an earlier run, or just claimed: another host's now
            elif job.attempts > self.limits.attempts:
                with self.holding(job):
                    raise Permanent(f"the worker died {job.attempts - 1} times while it had this job in progress")
            else:
                yield job

    def _is_draining(self) -> bool:
        """Whether this host is to take no new work (`pipelinectl drain`)."""
        draining = bool(self.redis.hexists(batches.DRAINING, self.host))
        if draining and not self.queue.in_progress:
            self.doing("draining: takes no new work")
        return draining

    def maintain(self) -> None:
        """Run the role's housekeeping now and then; what goes wrong there stops no job."""
        if time.monotonic() < self._next_maintenance:
            return
        try:
            self.maintenance()
        except Exception as error:
            foreseen = isinstance(error, Permanent) or unavailable_service(error)
            log.warning("housekeeping: %s", error, exc_info=not foreseen)
        self._next_maintenance = time.monotonic() + MAINTENANCE_SECONDS

    @contextlib.contextmanager
    def holding(self, job: Job) -> Iterator[None]:
        """What becomes of the job when the work on it raises; only `Broken` is raised further."""
        with logs.about(job), self._answering_for(job):
            yield

    @contextlib.contextmanager
    def _answering_for(self, job: Job) -> Iterator[None]:
        try:
            yield
        except Stopping:
            log.info("stopping: %s stays for the next run", job.shown)
        except Broken:
            raise
        except LostClaim as lost:
            log.info("dropped %s: %s", job.shown, lost)
            self.metrics.job("lost")
            self._unless_stopping(self.queue.settle, job)
        except Permanent as error:
            self._fail_permanently(job, str(error))
        except Exception as error:
            if (
                service := unavailable_service(error)
            ) is not None:  # a step that was not wrapped in `until_available`
                log.warning("%s is unavailable (%s): %s waits", service, error, job.shown)
                self.metrics.retried(service)
                self._unless_stopping(self.queue.give_back, job, min(self.limits.retry, int(LONGEST_WAIT_SECONDS)))
            elif job.attempts >= self.limits.attempts:
                log.exception("attempt %d of %s failed", job.attempts, job.shown)
                self._fail_permanently(job, f"{type(error).__name__}: {error}")
            else:
                delay = self.limits.retry
                log.exception("attempt %d of %s failed, next in %d s", job.attempts, job.shown, delay)
                self.metrics.job("retried")
                self._unless_stopping(self.queue.retry, job, delay)

    @contextlib.contextmanager
    def stopping_on_failure(self) -> Iterator[None]:
        """Around the main thread's work: where it ends with an error, other threads do not wait for a service on,
        and the process does not wait for them."""
        try:
            yield
        except BaseException:
            self.stop.set()
            raise

    def _fail_permanently(self, job: Job, reason: str) -> None:
        log.error("gave up %s: %s", job.shown, reason)
        self.metrics.job("failed")
        try:
            self._unless_stopping(self.fail_permanently, job, reason)
        except Exception:
            log.exception("%s could not be failed permanently as it should", job.shown)
            self._unless_stopping(self.bury, job, reason)

    def _unless_stopping(self, step: Callable[..., Any], *args: Any) -> None:
        """Run a step that ends a job; a stop while its service is unavailable leaves the job to `_leave`."""
        with contextlib.suppress(Stopping):
            self.until_available(step, *args)

    def bury(self, job: Job, reason: str) -> None:
        """The plain way to fail: a dead letter."""
        self.queue.bury(job, reason)

    def until_available(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an idempotent step, again and again while its service is unavailable. `Stopping` when asked to stop.

        One try may last minutes: when asked to stop, a step that has just found its service unavailable is not
        begun.
        """
        wait, service, since = 0.5, None, time.monotonic()
        while True:
            if self.stop.is_set() and step in self._failing:
                raise Stopping
            try:
                result = step(*args, **kwargs)
                self._failing.discard(step)
                if service is not None:
                    log.info("%s recovered, after %.0f s", service, time.monotonic() - since)
                return result
            except Exception as error:
                service = unavailable_service(error)
                if service is None:
                    raise
                self._failing.add(step)
                self.metrics.retried(service)
                log.warning("%s is unavailable, next try in %.0f s: %s", service, wait, error)
                self.doing(f"waiting for {service}")
            if self.stop.wait(wait * random.uniform(0.5, 1)):  # nosec B311: not all workers at the same moment
                raise Stopping
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)


def _ahead(asked: float, theirs: float, answered: float) -> float:
    """How far our clock is ahead of another (negative: behind), at the least, where it was asked for its time and
    gave `theirs` before we had it: a slow answer looks like no skew."""
    return max(asked - theirs, 0.0) or min(answered - theirs, 0.0)


def arguments(doc: str | None) -> argparse.Namespace:
    """What the command line says: `log_format`, "" where it is not given; `--help` shows the script's own text."""
    parser = argparse.ArgumentParser(
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Every other setting is an environment variable; example.env lists them.\n"
        "SIGTERM ends the worker after its present job. Exit status 2: the settings are wrong.",
    )
    parser.add_argument("--version", action="version", version=f"{Path(parser.prog).stem} {startup.VERSION}")
    parser.add_argument("--log-format", choices=logs.FORMATS, default="", help="in place of LOG_FORMAT")
    return parser.parse_args()
