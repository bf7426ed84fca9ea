"""pipelinectl exporter: queues, open batches, dead letters, workers and hosts for Prometheus."""

import argparse
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import config
from pipeline.commands import common
from pipeline.foundation import logs, redis_client, systemd
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import endpoint, printable
from pipeline.foundation.metrics_server import MetricsServer
from pipeline.operations.snapshot import SeldomCompared
from pipeline.operations.status import Status, read_status
from pipeline.operations.troubles import still_hosts

DESCRIPTION = """Serve queues, open batches, dead letters, workers and hosts to Prometheus, as http://ADDRESS/metrics,
until Ctrl-C. It needs Redis alone; what each worker does, workers serve themselves where METRICS_LISTEN is set."""

LISTEN = "127.0.0.1:9100"
ANSWER_SECONDS = 4  # Prometheus waits 10 s where nothing else is said, and some are set to 5
log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Answer Prometheus until the process is ended."""
    logs.set_up(config.LOG_LEVEL, config.LOG_FORMAT)
    registry = CollectorRegistry()
    registry.register(Exporter(connect(), common.QUEUES))
    host, port = arguments.listen
    try:
        MetricsServer(arguments.listen, registry).start()
    except OSError as error:
        common.reject(f"--listen {endpoint(host, port)}: {error.strerror or error}")
    common.say(f"http://{endpoint(host, port)}/metrics")
    systemd.notify("READY=1")
    threading.Event().wait()


def connect() -> Any:
    """The Redis of the settings; ends with status 2 where it refuses us. One that is unavailable is reported at
    each scrape: without an exporter Prometheus would report the wrong thing as down."""
    config.require(*config.REDIS)
    redis = redis_client.connect(config.REDIS_URL, timeout=ANSWER_SECONDS)
    try:
        problem = redis_client.refusal(redis)
    except Exception as error:
        if unavailable_service(error) is None:
            raise
        return redis
    if problem:
        config.refuse(problem)
    return redis


class Exporter(Collector):
    """Reads the status anew at each scrape, and reports within `ANSWER_SECONDS` if that fails."""

    def __init__(self, redis: Any, queues: list[str]) -> None:
        self._read = partial(read_status, redis, queues, compare=SeldomCompared())
        self._reader, self._lock = ThreadPoolExecutor(1), threading.Lock()
        self._answer: Future[Status] | None = None

    def describe(self) -> list[Metric]:
        """Nothing ahead of a scrape: the registry would ask Redis for it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges; only `audio_pipeline_redis_up`, as 0, while Redis is unavailable."""
        up = GaugeMetricFamily("audio_pipeline_redis_up", "Whether Redis answers.")
        try:
            status = self._asked().result(ANSWER_SECONDS)
        except Exception as error:
            is_late = isinstance(error, TimeoutError)
            if unavailable_service(error) is None and not is_late:
                raise
            log.warning("Redis is unavailable: %s", f"no answer within {ANSWER_SECONDS} s" if is_late else error)
            up.add_metric((), 0)
            yield up
            return
        up.add_metric((), 1)
        yield up
        yield from gauges(status)

    def _asked(self) -> "Future[Status]":
        """The status that is being read now: scrapes of a Redis that hangs do not pile up."""
        with self._lock:
            if self._answer is None or self._answer.done():
                self._answer = self._reader.submit(self._read)
            return self._answer


def gauges(status: Status) -> list[GaugeMetricFamily]:
    """The status as gauges."""
    jobs = _gauge(
        "queue_jobs", "Jobs of a queue: waiting, delayed (to be tried again), in_work.", "queue", "state"
    )
    dead = _gauge("dead_letters", "Jobs that were failed permanently.", "queue")
    oldest = _gauge("queue_oldest_seconds", "How long the next job has waited, where that is known.", "queue")
    for queue in status.queues:
        name = printable(queue["name"])  # a host's, which anybody may have written to Redis
        for state in ("waiting", "delayed", "in_work"):
            jobs.add_metric((name, state), queue[state])
        dead.add_metric((name,), queue["dead"])
        if queue["oldest_seconds"] is not None:
            oldest.add_metric((name,), queue["oldest_seconds"])
    workers = _gauge(
        "workers", "Workers: alive, or gone within the last week without a clean end.", "role", "state"
    )
    alive = Counter(worker["role"] for worker in status.workers if worker["alive"])
    for role in ("transfer", "unpack", "gpu"):
        workers.add_metric((role, "alive"), alive[role])
    workers.add_metric(("", "gone"), sum(not worker["alive"] for worker in status.workers))
    hosts = _gauge(
        "hosts", "Hosts with workers or batches: alive, silent, draining (they take no new work).", "state"
    )
    hosts.add_metric(("alive",), sum(host["alive"] for host in status.hosts))
    hosts.add_metric(("silent",), sum(not host["alive"] for host in status.hosts))
    hosts.add_metric(("draining",), sum(host["draining"] for host in status.hosts))
    opened = _gauge("batches_open", "Batches that are open.")
    opened.add_metric((), len(status.batches))
    files = _gauge("batch_files", "Files of the open batches: all, done, failed.", "state")
    for state, field in (("all", "total"), ("done", "processed"), ("failed", "failed")):
        files.add_metric((state,), sum(batch[field] or 0 for batch in status.batches))
    stranded = _gauge("batches_stranded", "Open batches without a job for the rest of their files.")
    stranded.add_metric((), sum(batch["state"] == "stranded" for batch in status.batches))
    amiss = _gauge("batches_amiss", "What the last comparison of the fleet has left for a person, 20 at most.")
    amiss.add_metric((), len(status.amiss))
    still = _gauge("batches_still_seconds", "How long no open batch has moved, of the host where that is longest.")
    still.add_metric((), max(still_hosts(status.batches).values(), default=0))
    return [jobs, dead, oldest, workers, hosts, opened, files, stranded, amiss, still]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"audio_pipeline_{name}", text, labels=labels)


def add(commands: Any) -> None:
    """Its arguments."""
    exporting = commands.add_parser("exporter", help="serve the status to Prometheus", description=DESCRIPTION)
    exporting.add_argument(
        "--listen", type=common.address, default=LISTEN, metavar="ADDRESS", help=f"default: {LISTEN}"
    )
    exporting.set_defaults(run=run)
