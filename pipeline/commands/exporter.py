"""pipelinectl exporter: queues, open batches, dead letters, workers and hosts for Prometheus."""

import argparse
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import config
from pipeline.commands import common
from pipeline.foundation import logs, systemd
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import printable
from pipeline.operations.status import Status, read_status

DESCRIPTION = """Serve queues, open batches, dead letters, workers and hosts to Prometheus, as http://ADDRESS/metrics,
until Ctrl-C. It needs Redis alone; what each worker does, workers serve themselves where METRICS_LISTEN is set."""

LISTEN = "127.0.0.1:9100"
log = logging.getLogger(__name__)


def run(arguments: argparse.Namespace) -> None:
    """Answer Prometheus until the process is ended."""
    logs.set_up(config.LOG_LEVEL, config.LOG_FORMAT)
    redis = common.connect()
    registry = CollectorRegistry()
    registry.register(Exporter(redis, common.QUEUES))
    host, port = arguments.listen
    try:
        start_http_server(port, host, registry)
    except OSError as error:
        common.reject(f"--listen {host}:{port}: {error.strerror or error}")
    common.say(f"http://{host}:{port}/metrics")
    systemd.notify("READY=1")
    threading.Event().wait()


class Exporter(Collector):
    """Reads the status anew at each scrape."""

    def __init__(self, redis: Any, queues: list[str]) -> None:
        self.redis, self.queues = redis, queues

    def describe(self) -> list[Metric]:
        """Nothing ahead of a scrape: the registry would ask Redis for it."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges; `audio_pipeline_redis_up` alone is told, as 0, while Redis is unavailable."""
        up = GaugeMetricFamily("audio_pipeline_redis_up", "Whether Redis answers.")
        try:
            status = read_status(self.redis, self.queues)
        except Exception as error:
            if unavailable_service(error) is None:
                raise
            log.warning("%s is unavailable: %s", unavailable_service(error), error)
            up.add_metric((), 0)
            yield up
            return
        up.add_metric((), 1)
        yield up
        yield from gauges(status)


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
    return [jobs, dead, oldest, workers, hosts, opened, files]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"audio_pipeline_{name}", text, labels=labels)


def add(commands: Any) -> None:
    """Its arguments."""
    exporting = commands.add_parser("exporter", help="serve the status to Prometheus", description=DESCRIPTION)
    exporting.add_argument(
        "--listen", type=common.address, default=LISTEN, metavar="ADDRESS", help=f"default: {LISTEN}"
    )
    exporting.set_defaults(run=run)
