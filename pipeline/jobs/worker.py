"""The loop that every worker runs: jobs one by one, signals, and what a failure means.

A worker reads

    for job in worker.jobs():
        with worker.holding(job):
            ...                     # idempotent steps on services that worker.retrying(...) has wrapped

SIGTERM and SIGINT set a flag: the job in progress is finished, or kept, uncounted, for the worker's next run
where it takes long or waits for a service.
"""

import argparse
import contextlib
import errno
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from pipeline.foundation import logs, redis_client, scratch, startup, systemd
from pipeline.foundation.errors import (
    Broken,
    LostClaim,
    Misconfigured,
    PartialOutage,
    Permanent,
    Stopping,
    unavailable_service,
)
from pipeline.foundation.worker_metrics import Metrics
from pipeline.jobs import batches
from pipeline.jobs.heartbeat import Heartbeat
from pipeline.jobs.job_queue import Job, JobQueue
from pipeline.jobs.outage_retry import LONGEST_WAIT_SECONDS, OutageRetry
from pipeline.jobs.stop_flag import StopFlag

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

CLAIM_SECONDS = 1.0  # how long one claim blocks: the longest that SIGTERM waits on an idle worker
MAINTENANCE_SECONDS = 2.0


@dataclass(frozen=True)
class Limits:
    """How patient a worker is; seconds but for `attempts`."""

    attempts: int = 3
    retry: int = 30  # before a failed job is tried again
    heartbeat: int = 30  # a worker that is silent so long is dead
    stall: int = 7200  # a step that takes so long is stuck: systemd may restart the process
    clock_skew: int = 60  # the most that our clock and that of Redis may differ


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
        patience = (limits.heartbeat, limits.stall, limits.clock_skew)
        self.heartbeat = Heartbeat(self.queue, self.metrics, host, self.stop, *patience)
        self.fail_permanently: Callable[[Job, str], Any] = self.dead_letter
        self.ready_for_more: Callable[[], bool] = lambda: True
        self.brings_work = True  # to this host: not while the host drains
        self.maintenance: Callable[[], Any] = lambda: None
        self._idle = "idle"  # or what keeps the maintenance from bringing work
        self._next_maintenance = 0.0
        self._outages = OutageRetry(self.stop, self._wait_for, self.unavailable)
        self._has_identity = self._was_ready = False

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
        self.until_available(self.heartbeat.take_identity)
        self._has_identity = True
        self.until_available(redis_client.warn_of_losses, self.redis)
        self.until_available(self.heartbeat.beat)
        self.until_available(self.heartbeat.beat_of_host, if_new=True)
        self.heartbeat.start()
        self.until_available(self.heartbeat.check_clock)
        for check in checks:
            if problem := self.until_available(check):
                raise Misconfigured(problem)
        # not before: where all are refused at every start, the host is to lose its batches
        self.until_available(self.heartbeat.beat_of_host)
        systemd.notify("READY=1")
        log.info("%s ready, queue %s", self.id, self.queue.name)
        self._was_ready = True
        self.doing("idle")

    def _leave(self, crashed: bool) -> None:
        """End the heartbeat thread. What is in progress stays in our list: our next run goes on with it, and
        where there is none, others take it back when the heartbeat has run out."""
        systemd.notify("STOPPING=1")
        self.heartbeat.end()
        try:
            if self._has_identity and not crashed:  # or another process has it
                for job in list(self.queue.in_progress):
                    self.queue.keep(job)
                self.queue.unregister()
        except Exception as error:
            if not unavailable_service(error):
                raise
            log.warning("Redis is unavailable (%s): an attempt in progress counts", error)
        if self._was_ready:
            log.info("%s stopped", self.id)

    # --- what it says of itself ------------------------------------------------------------------------

    def doing(self, text: str, how_far: str = "") -> None:
        """Say what the worker does now (`Heartbeat.doing`)."""
        self.heartbeat.doing(text, how_far)

    def moved(self, _bytes: int = 0) -> None:
        """Say that a long step goes on, and end it with `Stopping` when the worker is to stop."""
        self.heartbeat.moved()
        if self.stop.is_set():
            raise Stopping

    def steady_seconds(self) -> float:
        """How long Redis has heard us without a break (`Heartbeat.steady_seconds`)."""
        return self.heartbeat.steady_seconds()

    # --- the jobs --------------------------------------------------------------------------------------

    def jobs(self) -> Iterator[Job]:
        """Claim jobs until the worker is to stop. A job that has used up its attempts is failed permanently
        here."""
        while not self.stop.is_set():
            self.maintain()
            self.until_available(self.heartbeat.check_clock)
            draining = self.brings_work and self.until_available(self._is_draining)
            if not draining and self.ready_for_more():
                if not self.queue.in_progress:
                    self.doing(self._idle)
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
                    raise Permanent(f"the worker died with this job in progress, at attempt {job.attempts - 1}")
            else:
                yield job

    def _is_draining(self) -> bool:
        """Whether this host is to take no new work (`pipelinectl drain`)."""
        draining = bool(self.redis.hexists(batches.DRAINING, self.host))
        if draining and not self.queue.in_progress:
            self.doing("draining: takes no new work")
        return draining

    def maintain(self) -> None:
        """Run the role's maintenance now and then; what goes wrong there stops no job; the status says it."""
        if time.monotonic() < self._next_maintenance:
            return
        try:
            with self._outages.once():
                self.maintenance()
        except Stopping:
            raise
        except Exception as error:
            service = unavailable_service(error)
            foreseen = isinstance(error, Permanent) or service
            log.warning("maintenance: %s", error, exc_info=not foreseen)
            self._idle = f"waiting for {service}" if service else "waiting: maintenance fails"
            if service:
                self.metrics.retried(service)
        else:
            self._idle = "idle"
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
        except ImportError as error:  # whatever file is in progress, its next delivery needs another process
            log.critical("%s: the release under this process was changed, or is damaged: it ends", error)
            self._unless_stopping(self.queue.keep, job)
            raise Broken(str(error)) from error
        except LostClaim as lost:
            log.info("dropped %s: %s", job.shown, lost)
            self.metrics.job("lost")
            self._unless_stopping(self.queue.settle, job)
        except Permanent as error:
            self._fail_permanently(job, str(error))
        except Exception as error:
            if (
                service := self.unavailable(error)
            ) is not None:  # a step that was not wrapped in `until_available`
                log.warning("%s is unavailable (%s): %s waits", service, error, job.shown)
                self.metrics.retried(service)
                soon = min(self.limits.retry, int(LONGEST_WAIT_SECONDS))
                delay = self.limits.retry if isinstance(error, PartialOutage) else soon
                self._unless_stopping(self.queue.give_back, job, delay)
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
        log.error("failed permanently: %s: %s", job.shown, reason)
        self.metrics.job("failed")
        try:
            self._unless_stopping(self.fail_permanently, job, reason)
        except Exception:
            log.exception("%s could not be failed permanently as it should", job.shown)
            self._unless_stopping(self.dead_letter, job, reason)

    def _unless_stopping(self, step: Callable[..., Any], *args: Any) -> None:
        """Run a step that ends a job; a stop while its service is unavailable leaves the job to `_leave`."""
        with contextlib.suppress(Stopping):
            self.until_available(step, *args)

    def dead_letter(self, job: Job, reason: str) -> None:
        """The plain way to fail: a dead letter."""
        self.queue.dead_letter(job, reason)

    def until_available(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an idempotent step, again while its service is unavailable (`OutageRetry.until_available`)."""
        return self._outages.until_available(step, *args, **kwargs)

    def retrying(self, service: T) -> T:
        """The same service, each call of which waits while it is unavailable."""
        return self._outages.retrying(service)

    def unavailable(self, error: BaseException) -> str | None:
        """As `unavailable_service`; but a file that cannot be read, on a disk that works, fails its job alone."""
        folder = self.metrics.folder
        if isinstance(error, OSError) and error.errno == errno.EIO and folder and scratch.works(folder):
            return None
        return unavailable_service(error)

    def _wait_for(self, service: str) -> None:
        self.metrics.retried(service)
        self.doing(f"waiting for {service}")


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
