"""What a worker counts, and what it tells of that."""

import json
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pipeline.foundation.file_warnings import CODES
from pipeline.foundation.worker_metrics import Busy, Metrics
from tests.support.child import free_port
from tests.support.fleet import Fleet
from tests.support.recordings import DAMAGED, SPEECH, make_tar
from tests.support.steps import exit_status, log_of, rows, unpack_job, upload, wait_for


class Clock:
    """A time that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("pipeline.foundation.worker_metrics.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class FakeGpu:
    """A GPU without its driver."""

    name = "Card"

    def memory(self) -> tuple[int, int]:
        return 3, 8


def test_time_is_counted_once_however_many_are_at_it(clock: Clock) -> None:
    busy = Busy()
    clock.now += 5
    with busy:
        clock.now += 2
        with busy:
            clock.now += 3
        assert busy.seconds() == 5
        clock.now += 1
    clock.now += 50
    assert busy.seconds() == 6


def test_the_hour_forgets_what_is_older(clock: Clock) -> None:
    counts = Metrics("gpu")
    for minute in range(90):
        counts.job("done")
        if minute < 10:
            counts.job("failed")
        counts.job("retried")
        counts.heard(2.5)
        counts.moved("uploading x", 100)
        hour = counts.summary()["hour"]
        if minute == 9:
            assert hour == {"seconds": 540, "done": 10, "failed": 10, "audio_seconds": 25.0, "bytes": 1000}
        clock.now += 60
    assert hour["seconds"] == 3600
    assert (hour["done"], hour["failed"], hour["audio_seconds"], hour["bytes"]) == (60, 0, 150.0, 6000)


def test_samples_do_not_grow_with_the_heartbeats(clock: Clock) -> None:
    counts = Metrics("gpu")
    for _ in range(20_000):
        counts.summary()
        clock.now += 0.5
    assert len(counts._samples) <= 3600 / 5 + 2


def test_a_host_that_slept_for_hours_begins_anew(clock: Clock) -> None:
    counts = Metrics("gpu")
    counts.job("done")
    clock.now += 10_000
    assert counts.summary()["hour"] == {"seconds": 0, "done": 0, "failed": 0, "audio_seconds": 0, "bytes": 0}
    counts.job("done")
    clock.now += 60
    assert counts.summary()["hour"]["done"] == 1


def test_the_share_of_the_gpu_is_that_of_the_last_minute(clock: Clock) -> None:
    counts = Metrics("gpu")
    assert counts.summary()["gpu"] is None
    counts.gpu = FakeGpu()  # type: ignore[assignment]
    for _ in range(30):  # five minutes of full work
        with counts.batch(8, 8):
            clock.now += 10
        reported = counts.summary()["gpu"]
    assert reported == {"name": "Card", "busy": 1.0, "memory_used": 3, "memory": 8}
    for _ in range(3):
        clock.now += 10
        reported = counts.summary()["gpu"]
    assert reported["busy"] == 0.5


def test_only_what_goes_over_the_network_is_moved() -> None:
    counts = Metrics("transfer")
    for what in ("reading a", "checking a", "downloading a"):
        counts.moved(what, 10)
    counts.moved("uploading a", 10)
    counts.moved("uploading a", -10)  # fetched again
    counts.moved("copying a", 1)
    assert counts.summary()["hour"]["bytes"] == 11


def test_warnings_are_counted_by_their_code_from_nought() -> None:
    counts = Metrics("gpu")
    counts.file_warning("gap")
    counts.file_warning("gap")
    name = "audio_pipeline_file_warnings_total"
    reported = {code: counts.registry.get_sample_value(name, {"role": "gpu", "code": code}) for code in CODES}
    assert reported == {**dict.fromkeys(CODES, 0.0), "gap": 2.0}
    assert Metrics("unpack").registry.get_sample_value(name, {"role": "unpack", "code": "gap"}) is None


def test_a_stage_that_fails_has_no_time() -> None:
    counts = Metrics("unpack")
    with counts.stage("queue"):
        pass
    with pytest.raises(ValueError, match="no"), counts.stage("queue"):
        raise ValueError("no")
    labels = {"role": "unpack", "stage": "queue"}
    assert counts.registry.get_sample_value("audio_pipeline_stage_seconds_count", labels) == 1


def test_the_disk_is_found_by_what_there_is_of_the_folder(tmp_path: Path) -> None:
    counts = Metrics("gpu")
    assert counts.disk() is None
    counts.folder = tmp_path / "not" / "yet"
    reported = counts.disk()
    assert reported is not None
    assert 0 < reported["free"] < reported["size"]


def test_counting_costs_microseconds() -> None:
    counts = Metrics("gpu")
    began = time.thread_time()
    for _ in range(1000):
        with counts.batch(3, 8):
            pass
    assert time.thread_time() - began < 1  # a millisecond for each batch, of a second or so, is a thousandth


def scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def test_the_heartbeat_tells_what_the_workers_did(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SPEECH, "bad.mp3": DAMAGED}))
    redis.rpush("queue:unpack", unpack_job(file_count=2), "not a job")
    port = free_port()
    fleet.worker("unpack")
    fleet.worker("gpu", METRICS_LISTEN=f"127.0.0.1:{port}")

    def reported(role: str) -> dict[str, Any]:
        return dict(json.loads(redis.get(f"worker:test-{role}") or '{"hour": {"done": 0, "failed": 0}}'))

    wait_for(lambda: reported("gpu")["hour"]["done"] and reported("unpack")["hour"]["failed"], fleet, "the jobs")
    wait_for(lambda: reported("unpack")["hour"]["done"], fleet, "the archive")
    unpack, gpu = reported("unpack"), reported("gpu")
    assert (unpack["hour"]["done"], unpack["hour"]["failed"], unpack["gpu"]) == (1, 1, None)
    assert unpack["hour"]["bytes"] == (tmp_path / "monday.tar").stat().st_size
    assert (gpu["hour"]["done"], gpu["hour"]["failed"], gpu["gpu"]) == (1, 0, None)
    assert 0 < gpu["hour"]["audio_seconds"] < 60
    assert gpu["hour"]["bytes"] > 1000
    assert abs(gpu["beat"] - int(redis.time()[0])) < 10
    assert 0 < gpu["disk"]["free"] < gpu["disk"]["size"]
    text = scrape(port)
    assert 'audio_pipeline_jobs_total{outcome="done",role="gpu"} 1.0' in text
    assert 'audio_pipeline_batch_fill_ratio_count{role="gpu"} 1.0' in text
    assert 'audio_pipeline_stage_seconds_count{role="gpu",stage="keep"} 1.0' in text
    assert 'worker="test-gpu"' in text
    assert len(rows(fleet)) == 2


def test_an_outage_is_counted_by_its_service(fleet: Fleet) -> None:
    port = free_port()
    fleet.worker("transfer", METRICS_LISTEN=f"127.0.0.1:{port}", EC2_PORT=str(free_port()))
    sought = 'audio_pipeline_retries_total{role="transfer",service="EC2"} '

    def retries() -> float:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)):
                return 0
        return float(scrape(port).partition(sought)[2].split()[0])

    wait_for(lambda: retries() >= 2, fleet, "two tries")


@pytest.mark.parametrize("role", ["transfer", "unpack", "gpu"])
def test_a_port_in_use_is_one_line_and_status_2(fleet: Fleet, role: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        worker = fleet.worker(role, METRICS_LISTEN=f"127.0.0.1:{port}")
        assert exit_status(worker, 60) == 2
        fleet.workers.remove(worker)
    (line,) = [line for line in log_of(worker).splitlines() if line.startswith(f"{role}_worker.py: ")]
    assert line == (
        f"{role}_worker.py: METRICS_LISTEN 127.0.0.1:{port}: Address already in use;"
        " each process needs a port of its own"
    )
    assert "Traceback" not in log_of(worker)


def test_they_are_served_on_ipv6_and_an_address_in_use_is_named_with_brackets() -> None:
    counts, port = Metrics("gpu"), free_port()
    assert counts.serve(("::1", port)) is None
    with urllib.request.urlopen(f"http://[::1]:{port}/metrics", timeout=30) as answer:
        assert b"audio_pipeline_jobs_total" in answer.read()
    assert str(Metrics("gpu").serve(("::1", port))).startswith(
        f"METRICS_LISTEN [::1]:{port}: Address already in use"
    )


def test_a_slow_reader_holds_up_no_other() -> None:
    counts, port = Metrics("gpu"), free_port()
    assert counts.serve(("127.0.0.1", port)) is None
    with socket.create_connection(("127.0.0.1", port)):
        assert "audio_pipeline_jobs_total" in scrape(port)
    threads = [thread for thread in threading.enumerate() if thread.name == "metrics"]
    assert threads
    assert all(thread.daemon for thread in threads)
