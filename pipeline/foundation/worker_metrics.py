"""What a worker has done and how long it took: for Prometheus, on a port of its own, and for its heartbeat.

Each process has one `Metrics`. Counting costs about a microsecond; all else is read when somebody asks.
"""

import contextlib
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline.foundation import file_warnings
from pipeline.foundation.formatting import endpoint
from pipeline.foundation.metrics_server import MetricsServer

if TYPE_CHECKING:
    from pipeline.foundation.gpu import (
        Gpu,  # the NVML behind it takes a while to load, and most processes have no GPU
    )

# What each role counts from its start on, at 0: a rate has to see the first of them too.
STAGES = {
    "transfer": ("copy", "upload"),
    "unpack": ("download", "convert", "queue"),
    "gpu": ("prepare", "compute", "keep"),
}
MOVES = {"transfer": ("copying", "uploading"), "unpack": ("downloading",), "gpu": ("uploading",)}
SERVICES = {
    "transfer": ("Redis", "S3", "EC2", "the disk"),
    "unpack": ("Redis", "S3", "PostgreSQL", "the disk"),
    "gpu": ("Redis", "S3", "PostgreSQL", "the disk"),
}
WEBHOOK_OUTCOMES = {"unpack": ("taken", "refused", "failed")}
JOB_OUTCOMES = ("done", "failed", "retried", "lost")
FILE_OUTCOMES = {"unpack": ("queued", "failed"), "gpu": ("done", "failed")}
FILE_WARNINGS = {"gpu": file_warnings.CODES}
SECONDS = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
HOUR, MINUTE = 3600, 60
SAMPLE_SECONDS = 5  # the least between two samples of what was done by then


class Busy:
    """For how long anybody was at it, however many at a time: `with busy: ...` in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_it, self._since, self._seconds = 0, 0.0, 0.0

    def __enter__(self) -> None:
        with self._lock:
            if not self._at_it:
                self._since = time.monotonic()
            self._at_it += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._at_it -= 1
            if not self._at_it:
                self._seconds += time.monotonic() - self._since

    def seconds(self) -> float:
        """The time so far, with what is going on now."""
        with self._lock:
            return self._seconds + (time.monotonic() - self._since if self._at_it else 0)


@dataclass(frozen=True)
class _Sample:
    """What was done by a time (s, monotonic)."""

    time: float
    done: float
    failed: float
    audio_seconds: float
    bytes: float
    busy_seconds: float


class Metrics(Collector):
    """The counters of one worker. Set `folder`, whose disk it fills, and `gpu`, where it has one."""

    def __init__(self, role: str = "", worker_id: str = "", host: str = "", queue: str = "") -> None:
        self.registry = registry = CollectorRegistry()
        self.folder: Path | None = None
        self.gpu: Gpu | None = None
        self.role, self.computing = role, Busy()
        self._samples = deque([_Sample(time.monotonic(), 0, 0, 0, 0, 0)])

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"audio_pipeline_{name}", text, ("role", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"audio_pipeline_{name}", text, ("role", *labels), buckets=buckets, registry=registry)

        self._jobs = counter(
            "jobs", "Jobs that left this worker: done, failed (for good), retried (to be tried again), lost (taken"
            " back by others).", "outcome",
        )  # fmt: skip
        self._files = counter("files", "Audio files: queued (made Opus), done, failed for good.", "outcome")
        self._file_warnings = counter("file_warnings", "Warnings of audio files that could be read.", "code")
        self._webhooks = counter("webhooks", "Attempts to deliver a webhook: taken, refused, failed.", "outcome")
        self._stages = histogram(
            "stage_seconds",
            "How long a stage took that ended well, waits for services included.",
            SECONDS,
            "stage",
        )
        self._audio = counter("audio_seconds", "Length of the recordings transcribed.")
        self._moved = counter("moved_bytes", "Bytes over the network, those sent again included.", "action")
        self._retries = counter("retries", "Tries that found a service unavailable.", "service")
        self._fill = histogram(
            "batch_fill_ratio", "How full the batches of the model were: windows by the most it takes.", SHARES
        )
        self._beat = Gauge(
            "audio_pipeline_heartbeat_timestamp_seconds", "The last heartbeat that Redis took, by its clock.",
            ("role",), registry=registry,
        )  # fmt: skip
        names = ("role", "worker", "host", "queue")
        about = Gauge("audio_pipeline_worker_info", "Who this is.", names, registry=registry)
        about.labels(role, worker_id, host, queue).set(1)
        ProcessCollector(registry=registry)
        registry.register(self)
        self._begin()

    def _begin(self) -> None:
        role = self.role
        for metric, names in (
            (self._jobs, JOB_OUTCOMES), (self._files, FILE_OUTCOMES.get(role, ())),
            (self._file_warnings, FILE_WARNINGS.get(role, ())),
            (self._stages, STAGES.get(role, ())), (self._moved, MOVES.get(role, ())),
            (self._retries, SERVICES.get(role, ())), (self._webhooks, WEBHOOK_OUTCOMES.get(role, ())),
        ):  # fmt: skip
            for name in names:
                metric.labels(role, name)
        if role == "gpu":
            self._audio.labels(role)
            self._fill.labels(role)

    # --- what is counted -------------------------------------------------------------------------------

    def job(self, outcome: str) -> None:
        """Count a job that leaves this worker (`JOB_OUTCOMES`)."""
        self._jobs.labels(self.role, outcome).inc()

    def file(self, outcome: str) -> None:
        """Count an audio file (`FILE_OUTCOMES`)."""
        self._files.labels(self.role, outcome).inc()

    def file_warning(self, code: str) -> None:
        """Count a warning of an audio file (`pipeline.foundation.file_warnings.CODES`)."""
        self._file_warnings.labels(self.role, code).inc()

    def webhook(self, outcome: str) -> None:
        """Count an attempt to deliver a webhook (`WEBHOOK_OUTCOMES`)."""
        self._webhooks.labels(self.role, outcome).inc()

    def heard(self, seconds: float) -> None:
        """Count a recording of this length as transcribed."""
        self._audio.labels(self.role).inc(seconds)

    def retried(self, service: str) -> None:
        """Count a try that found a service unavailable."""
        self._retries.labels(self.role, service).inc()

    def moved(self, what: str, count: int) -> None:
        """Count bytes of a transfer, as `Board.follow` names it ("uploading archives/..."); what is taken back was
        moved all the same, and what only reads the disk is no transfer."""
        action = what.partition(" ")[0]
        if count > 0 and action in MOVES.get(self.role, ()):
            self._moved.labels(self.role, action).inc(count)

    @contextlib.contextmanager
    def follow(self, what: str, _total: int) -> Iterator[Callable[[int], None]]:
        """Around a transfer that nobody watches: gives what is to be called with the bytes that moved."""
        yield lambda count: self.moved(what, count)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Around a stage (`STAGES`) of one job or file: its time is taken where it ends well."""
        began = time.monotonic()
        yield
        self.took(name, time.monotonic() - began)

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        self._stages.labels(self.role, stage).observe(seconds)

    @contextlib.contextmanager
    def batch(self, windows: int, most: int) -> Iterator[None]:
        """Around a batch of the model: so many windows of the most that it takes."""
        self._fill.labels(self.role).observe(windows / most)
        with self.stage("compute"), self.computing:
            yield

    def beat(self, now: float) -> None:
        """Note a heartbeat that Redis took, by its clock."""
        self._beat.labels(self.role).set(now)

    # --- what is reported ------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """What is read when Prometheus asks."""
        if self.role == "gpu":
            text = "Time in which the model computed, on the GPU or the CPU."
            computed = CounterMetricFamily("audio_pipeline_compute_seconds", text, labels=("role",))
            computed.add_metric((self.role,), self.computing.seconds())
            yield computed
        if self.gpu is not None and (memory := self.gpu.memory()) is not None:
            used, size = memory
            yield self._gauge("gpu_memory_used_bytes", "Memory in use on this worker's GPU, by whomever.", used)
            yield self._gauge("gpu_memory_bytes", "Memory of this worker's GPU.", size)
        if (disk := self.disk()) is not None:
            yield self._gauge("disk_free_bytes", "Free on the disk that this worker fills.", disk["free"])
            yield self._gauge("disk_size_bytes", "Size of the disk that this worker fills.", disk["size"])

    def _gauge(self, name: str, text: str, value: int) -> GaugeMetricFamily:
        gauge = GaugeMetricFamily(f"audio_pipeline_{name}", text, labels=("role",))
        gauge.add_metric((self.role,), value)
        return gauge

    def summary(self) -> dict[str, Any]:
        """The part of the heartbeat that this module writes: `hour`, `disk` and `gpu`; for one thread."""
        now = self._sample()
        while self._samples and now.time - self._samples[0].time > HOUR:
            self._samples.popleft()
        then = self._samples[0] if self._samples else now  # none: this host has slept for hours
        if now.time - (self._samples[-1].time if self._samples else 0) >= SAMPLE_SECONDS:
            self._samples.append(now)
        hour = {
            "seconds": round(now.time - then.time),
            "done": round(now.done - then.done),
            "failed": round(now.failed - then.failed),
            "audio_seconds": round(now.audio_seconds - then.audio_seconds, 1),
            "bytes": round(now.bytes - then.bytes),
        }
        return {"hour": hour, "disk": self.disk(), "gpu": self._gpu_state(now)}

    def _sample(self) -> _Sample:
        done, failed = (_total(self._jobs, outcome=outcome) for outcome in ("done", "failed"))
        busy = self.computing.seconds()
        return _Sample(time.monotonic(), done, failed, _total(self._audio), _total(self._moved), busy)

    def disk(self) -> dict[str, int] | None:
        """Free bytes and size of the disk that the worker fills; None if they are unknown now."""
        if self.folder is None:
            return None
        try:
            there = next(path for path in (self.folder, *self.folder.parents) if path.exists())
            usage = shutil.disk_usage(there)
        except OSError:  # the disk is unavailable, which the work itself finds: the heartbeat goes on
            return None
        return {"free": usage.free, "size": usage.total}

    def _gpu_state(self, now: _Sample) -> dict[str, Any] | None:
        if self.gpu is None:
            return None
        older = [sample for sample in self._samples if now.time - sample.time >= MINUTE]
        then = older[-1] if older else self._samples[0]
        seconds = now.time - then.time
        busy = min(1.0, (now.busy_seconds - then.busy_seconds) / seconds) if seconds else 0.0
        used, size = self.gpu.memory() or (None, None)
        return {"name": self.gpu.name, "busy": round(busy, 3), "memory_used": used, "memory": size}

    def serve(self, listen: tuple[str, int]) -> str | None:
        """Answer Prometheus at this address and port, from now on; gives what is wrong where that cannot be."""
        host, port = listen
        try:
            MetricsServer(listen, self.registry).start()
        except OSError as error:
            return (
                f"METRICS_LISTEN {endpoint(host, port)}: {error.strerror or error};"
                " each process needs a port of its own"
            )
        return None


def _total(counter: Counter, **labels: str) -> float:
    """What a counter has counted under these labels, all others together."""
    return sum(
        sample.value
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
    )
