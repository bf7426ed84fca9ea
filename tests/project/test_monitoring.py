"""The files of monitoring/: checked by promtool, and seen working with a real Prometheus beside real workers."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.commands.exporter import ANSWER_SECONDS
from tests.support.child import Child, Server, free_port, wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import DAMAGED, SPEECH, make_tar
from tests.support.steps import add_dead_letter, log_of, wait_for

MONITORING = PROJECT / "monitoring"
ALERTS = MONITORING / "alerts.yml"
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
NAME = re.compile(r"\b(?:audio_pipeline_\w+|audio_pipeline:\w+:\w+|up)\b(?=[\s{\[)]|$)")
HAS_PROMETHEUS = shutil.which("prometheus") and shutil.which("promtool")
needs_prometheus = pytest.mark.skipif(not HAS_PROMETHEUS, reason="no promtool: apt install prometheus")


def expressions() -> dict[str, str]:
    """Every query of the alerts and of the dashboard, by what asks it."""
    found = {rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    return found


class Prometheus(Server):
    """Debian's Prometheus with the example's rules, which asks these ports every half second."""

    def __init__(self, folder: Path, exporter: int, workers: list[int]) -> None:
        super().__init__(folder)
        example = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
        example["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
        example["rule_files"] = [str(ALERTS)]
        for scraped, ports in zip(example["scrape_configs"], ([exporter], workers), strict=True):
            scraped["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(example))

    def _set_up(self) -> list[Child]:
        options = [
            f"--config.file={self.folder}/prometheus.yml", f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip
        return [Child(["prometheus", *options], self.folder / "prometheus.txt")]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series that a query gives now; HTTPError where it is no query."""
        address = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return list(json.load(answer)["data"]["result"])


@needs_prometheus
@pytest.mark.parametrize(
    "check",
    [
        ("check", "rules", "monitoring/alerts.yml"),
        ("check", "config", "--syntax-only", "monitoring/prometheus.yml"),
        ("test", "rules", "tests/alerts_test.yml"),
    ],
    ids=["rules", "config", "alerts"],
)
def test_promtool_finds_no_fault(check: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *check], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_and_says_what_to_do() -> None:
    tests = yaml.safe_load((PROJECT / "tests" / "alerts_test.yml").read_text())["tests"]
    names = {test["name"] for test in tests}
    alerts = [rule for rule in RULES if "alert" in rule]
    assert len(alerts) >= 10
    assert names == {f"{rule['alert']} {ends}" for rule in alerts for ends in ("fires", "is silent")}
    for rule in alerts:
        notes = rule["annotations"]
        assert set(notes) == {"summary", "action", "runbook_url"}
        assert all(note and "\n" not in note for note in notes.values())
        assert notes["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_dashboard_is_whole() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) >= 10
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource"]


@pytest.fixture
def exporter(fleet: Fleet) -> int:
    """The port of a running `pipelinectl exporter`."""
    return start_exporter(fleet)


def start_exporter(fleet: Fleet, host: str = "127.0.0.1") -> int:
    port = free_port()
    child = fleet.run([str(PROJECT / "pipelinectl.py"), "exporter", "--listen", f"{host}:{port}"], "exporter")
    wait_for(lambda: f"http://{host}:{port}/metrics" in log_of(child), fleet, "the exporter")
    return port


@contextlib.contextmanager
def standing_still(server: Server) -> Iterator[None]:
    """The server takes connections, since the kernel does, and answers nothing."""
    (process,) = (child.process for child in server.children)
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_the_exporter_tells_of_queues_workers_and_batches(fleet: Fleet, redis: Any, exporter: int) -> None:
    redis.rpush("queue:unpack", "a", "b")
    add_dead_letter(redis, "queue:transfer", "{}")
    assert 'audio_pipeline_queue_jobs{queue="queue:unpack",state="waiting"} 2.0' in page(exporter)
    assert 'audio_pipeline_dead_letters{queue="queue:transfer"} 1.0' in page(exporter)
    assert 'audio_pipeline_workers{role="gpu",state="alive"} 0.0' in page(exporter)
    worker = fleet.worker("transfer")
    wait_for(lambda: " ready, " in log_of(worker), fleet, "the worker")
    assert 'audio_pipeline_workers{role="transfer",state="alive"} 1.0' in page(exporter)
    assert 'audio_pipeline_hosts{state="alive"} 1.0' in page(exporter)
    assert "audio_pipeline_redis_up 1.0" in page(exporter)


def test_the_exporter_obeys_no_name(redis: Any, exporter: int) -> None:
    """Whoever reaches Redis may name a queue; half of a surrogate pair has no UTF-8."""
    redis.hset("hosts:queues", 'queue:\udce9"\n\x1b]0;owned\u202e{}' + "x" * 300, "here")
    (line,) = [line for line in page(exporter).splitlines() if "dead_letters" in line and "owned" in line]
    assert line.startswith(r'audio_pipeline_dead_letters{queue="queue:\\udce9\"\\n\\x1b]0;owned\\u202e{}xxx')
    assert line.endswith('x"} 0.0')


def test_the_exporter_says_when_redis_is_unavailable_and_goes_on(fleet: Fleet, exporter: int) -> None:
    fleet.valkey.kill()
    try:
        text = page(exporter)
        assert "audio_pipeline_redis_up 0.0" in text
        assert "queue_jobs" not in text
    finally:
        fleet.valkey.start()
    wait_until(lambda: "audio_pipeline_redis_up 1.0" in page(exporter), "its return")


def test_a_redis_that_hangs_is_reported_within_5_seconds_however_many_ask(fleet: Fleet, exporter: int) -> None:
    with standing_still(fleet.valkey), ThreadPoolExecutor(3) as scrapers:
        began = time.monotonic()
        pages = list(scrapers.map(page, [exporter] * 3))
        assert time.monotonic() - began < 5
    assert all("audio_pipeline_redis_up 0.0" in text for text in pages)
    wait_until(lambda: "audio_pipeline_redis_up 1.0" in page(exporter), "its return")


def test_the_exporter_starts_while_redis_is_unavailable_and_says_so(fleet: Fleet) -> None:
    """Where it did not, a reboot during an outage would look like a lost exporter."""
    with standing_still(fleet.valkey):
        port = start_exporter(fleet)
        assert "audio_pipeline_redis_up 0.0" in page(port)
    wait_until(lambda: "audio_pipeline_redis_up 1.0" in page(port), "its return")


def test_the_exporter_listens_on_ipv6(fleet: Fleet) -> None:
    port = start_exporter(fleet, "[::1]")
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=30) as answer:
        assert b"audio_pipeline_redis_up 1.0" in answer.read()


@pytest.mark.parametrize(
    ("listen", "reason"),
    [("nonsense", "'nonsense' is no address and port"), ("127.0.0.1:0", "is no address and port")],
)
def test_the_exporter_refuses_an_address_that_is_none(fleet: Fleet, listen: str, reason: str) -> None:
    done = fleet.control("exporter", "--listen", listen)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_the_exporter_refuses_a_port_in_use(fleet: Fleet) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        done = fleet.control("exporter", "--listen", f"127.0.0.1:{other.getsockname()[1]}")
    assert done.returncode == 2
    assert "Address already in use" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_prometheus_waits_longer_than_the_exporter_takes() -> None:
    example = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["global"]
    interval, timeout = (int(example[name].removesuffix("s")) for name in ("scrape_interval", "scrape_timeout"))
    assert ANSWER_SECONDS < 5 < timeout <= interval


@needs_prometheus
def test_what_alerts_and_dashboard_ask_for_is_there(
    fleet: Fleet, redis: Any, exporter: int, tmp_path: Path
) -> None:
    ports = {role: free_port() for role in ("transfer", "unpack", "gpu")}
    with Prometheus(tmp_path / "prometheus", exporter, list(ports.values())) as prometheus:
        for role, port in ports.items():
            fleet.worker(role, METRICS_LISTEN=f"127.0.0.1:{port}")
        wait_until(lambda: len(prometheus.ask("up == 1")) == 4, "every target")
        tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH, "b.mp3": SPEECH, "bad.mp3": DAMAGED})
        fleet.control("enqueue", str(tar))
        done = 'sum(audio_pipeline_files_total{outcome="done"}) == 2'
        wait_for(lambda: prometheus.ask(done), fleet, "the files")
        wait_for(
            lambda: prometheus.ask('sum(audio_pipeline_files_total{outcome="failed"}) == 1'), fleet, "the other"
        )
        shown = "sum(increase(audio_pipeline_batch_fill_ratio_count[5m])) > 0"
        wait_for(lambda: prometheus.ask(shown), fleet, "a rate of the batches")
        missing = {
            f"{name} of {asker}"
            for asker, query in expressions().items()
            for name in NAME.findall(query)
            if not prometheus.ask(f"count({name})")
        }
        assert missing == set()
        nothing = [
            panel["title"]
            for panel in DASHBOARD["panels"]
            for target in panel["targets"]
            if not prometheus.ask(target["expr"])
        ]
        assert nothing == []
        for query in expressions().values():
            prometheus.ask(query)  # HTTPError where Prometheus does not understand it
        factor = "sum(audio_pipeline:realtime_factor:rate5m) > 0"
        wait_for(lambda: prometheus.ask(factor), fleet, "the recorded rate")
        firing = prometheus.ask('ALERTS{alertstate="firing"}')
        assert firing == []


def test_every_query_names_metrics() -> None:
    assert all(NAME.findall(query) for query in expressions().values())
