"""pipelinectl status: what it shows of a fleet in every state, and how well it says the fleet is."""

import contextlib
import datetime
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis as redis_py
from rich.console import Console

from pipeline.commands.status import fitting
from pipeline.jobs.batches import HOSTS, STRANDED, Batches
from pipeline.jobs.job_queue import JobQueue, heartbeat_key
from pipeline.operations import snapshot
from pipeline.operations.snapshot import SeldomCompared
from pipeline.operations.status import read_status
from pipeline.store.database import Database
from tests.support.child import free_port, wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.steps import add_dead_letter, add_file, unpack_job

COLUMNS = 80
BATCH = "20261124-115900"
HOSTILE = "<b>\x1b[31m\u202e\nrm -rf /\udce9 " + "x" * 300


def status(fleet: Fleet, *arguments: str, code: int, **changes: str) -> str:
    done = fleet.control("status", *arguments, COLUMNS=str(COLUMNS), **changes)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    return done.stdout


def as_json(fleet: Fleet, code: int) -> dict[str, Any]:
    now: dict[str, Any] = json.loads(status(fleet, "--json", code=code))
    return now


def live(redis: Any, worker_id: str, host: str, role: str, queue: str, **changes: Any) -> JobQueue:
    """A worker that was heard a moment ago."""
    now = redis.time()[0]
    state = {
        "role": role, "host": host, "pid": 1, "started": "x", "queue": queue, "doing": "idle", "since": now,
        "beat": now, "hour": None, "disk": None, "gpu": None, **changes,
    }  # fmt: skip
    redis.set(heartbeat_key(worker_id), json.dumps(state))
    redis.zadd(HOSTS, {host: now})
    worker = JobQueue(redis, queue, worker_id)
    worker.register()
    return worker


def open_a_batch(redis: Any, host: str = "gpu-01", settled: int = 3) -> None:
    unpack = JobQueue(redis, "queue:unpack", f"{host}-unpack")
    unpack.add({"batch_id": BATCH, "s3_key": f"archives/{BATCH}.tar"})
    job = unpack.claim(0.1)
    assert job is not None
    batches = Batches(redis, host)
    assert batches.adopt(BATCH, f"archives/{BATCH}.tar", job)
    batches.open(BATCH, 847)
    batches.check_queue(f"queue:transcribe:{host}", 900)
    for number in range(settled):
        name = f"{number}.mp3"
        batches.push(BATCH, f"queue:transcribe:{host}", {"batch_id": BATCH, "original_filename": name})
        assert batches.settle(BATCH, name, "failed" if number else "processed") == "counted"
    unpack.settle(job)


@pytest.fixture
def busy(redis: Any) -> None:
    """Queues with jobs in every state, an open batch, and all workers at work."""
    transfer = live(
        redis, "ec2-transfer", "ec2", "transfer", "queue:transfer", doing="copying /2.tar as 20261124-120000",
        since=redis.time()[0] - 42,
    )  # fmt: skip
    for number in range(5):
        transfer.add({"remote_path": f"/{number}.tar"})
    for step in (
        lambda job: transfer.retry(job, 600),
        lambda job: transfer.dead_letter(job, "down"),
        lambda _: None,
    ):
        job = transfer.claim(0.1)
        assert job is not None
        step(job)
    open_a_batch(redis)
    redis.zadd("batches:open", {BATCH: redis.time()[0] - 600})
    live(redis, "gpu-01-unpack", "gpu-01", "unpack", "queue:unpack", disk={"free": 4 * 10**11, "size": 10**12})
    live(
        redis, "gpu-01-gpu", "gpu-01", "gpu", "queue:transcribe:gpu-01",
        hour={"seconds": 1800, "done": 300, "failed": 3, "audio_seconds": 3600.0, "bytes": 0},
        gpu={"name": "A100", "busy": 0.934, "memory_used": 10**10, "memory": 4 * 10**10},
    )  # fmt: skip


# --- a fleet that is well ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("busy")
def test_it_has_every_number_as_json(fleet: Fleet) -> None:
    now = as_json(fleet, 0)
    assert (now["health"], now["troubles"]) == ("healthy", [])
    names = ("waiting", "delayed", "in_work", "dead", "workers", "per_hour")
    assert {queue["name"]: [queue[name] for name in names] for queue in now["queues"]} == {
        "queue:transfer": [2, 1, 1, 1, 1, 0],
        "queue:unpack": [0, 0, 0, 0, 1, 0],
        "queue:transcribe": [0, 0, 0, 0, 0, 0],
        "queue:transcribe:gpu-01": [3, 0, 0, 0, 1, 606],
    }
    waited = {queue["name"]: queue["oldest_seconds"] for queue in now["queues"]}
    assert 600 <= waited["queue:transcribe:gpu-01"] < 660  # since its batch was begun
    assert (waited["queue:transfer"], waited["queue:unpack"]) == (None, None)
    assert {worker["id"]: worker["alive"] for worker in now["workers"]} == {
        "ec2-transfer": True, "gpu-01-gpu": True, "gpu-01-unpack": True,
    }  # fmt: skip
    assert all(0 <= worker["heard_seconds"] < 60 for worker in now["workers"])
    (batch,) = now["batches"]
    names = ("id", "host", "total", "processed", "failed", "state")
    assert [batch[name] for name in names] == [BATCH, "gpu-01", 847, 1, 2, "open"]
    assert 844 * 600 / 3 <= batch["left_seconds"] < 844 * 660 / 3
    hosts = {host["name"]: host for host in now["hosts"]}
    assert hosts.keys() == {"ec2", "gpu-01"}
    names = ("alive", "draining", "workers", "batches", "files", "disk")
    of_disk = {"free": 4 * 10**11, "size": 10**12}
    assert [hosts["gpu-01"][name] for name in names] == [True, False, 2, 1, 3, of_disk]
    assert [gpu["busy"] for gpu in hosts["gpu-01"]["gpus"]] == [0.934]
    assert (now["done"], now["reasons"]) == ({"files": 0, "failed": 0, "audio_seconds": 0}, [])


@pytest.mark.usefixtures("busy")
def test_it_fits_into_80_columns_and_says_all(fleet: Fleet) -> None:
    text = status(fleet, code=0)
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= COLUMNS
    assert "\x1b" not in text
    assert lines[0].startswith("healthy, ")
    assert lines[0].endswith("; last hour: 0 files, 0 failed, 0 s of audio")
    assert lines[1] == "  1 dead letter: see `failures` [AudioPipelineDeadLetters]"
    assert line_of(lines, "queue:transfer ")[1:] == ["2", "1", "1", "1", "0.0"]
    assert line_of(lines, "queue:transcribe:gpu-01")[1:5] == ["3", "0", "0", "0"]
    assert line_of(lines, "queue:transcribe:gpu-01")[-1] == "606.0"
    assert line_of(lines, "ec2-transfer ")[-4:] == ["copying", "/2.tar", "as", "20261124-120000"]
    assert line_of(lines, "gpu-01 ")[1:] == ["up", "1", "3", "400", "GB", "of", "1", "TB", "93", "%"]
    assert line_of(lines, BATCH)[1:5] == ["gpu-01", "." * 12, "3/847", "2"]
    assert line_of(lines, BATCH)[-4] in ("46", "47")


def line_of(lines: list[str], start: str) -> list[str]:
    """The words of the only line that begins so."""
    (line,) = (line for line in lines if f"{line} ".startswith(start))
    return line.split()


def test_an_empty_redis_is_well(fleet: Fleet) -> None:
    now = as_json(fleet, 0)
    assert [queue["name"] for queue in now["queues"]] == ["queue:transfer", "queue:unpack", "queue:transcribe"]
    assert (now["workers"], now["batches"], now["hosts"]) == ([], [], [])
    assert "workers: 0" in status(fleet, code=0)


def test_it_does_without_postgresql(fleet: Fleet) -> None:
    assert "last hour" not in status(fleet, code=0, DATABASE_URL="")


@pytest.mark.usefixtures("busy")
def test_it_changes_nothing(fleet: Fleet) -> None:
    with redis_py.Redis.from_url(fleet.valkey.url) as raw:  # DUMP answers in bytes
        before = {key: raw.dump(key) for key in raw.scan_iter()}
        status(fleet, code=0)
        status(fleet, "--json", code=0)
        assert {key: raw.dump(key) for key in raw.scan_iter()} == before


def test_the_oldest_unpack_job_waits_since_its_transfer(fleet: Fleet, redis: Any) -> None:
    unpack = live(redis, "gpu-01-unpack", "gpu-01", "unpack", "queue:unpack")
    for sent in ("2026-11-24T11:59:00+00:00", "2026-11-24T12:59:00+00:00"):
        unpack.add({"batch_id": BATCH, "s3_key": "x", "transferred_at": sent})
    assert unpack.depth() == 2
    (queue,) = (queue for queue in as_json(fleet, 0)["queues"] if queue["name"] == "queue:unpack")
    first = datetime.datetime(2026, 11, 24, 11, 59, tzinfo=datetime.UTC).timestamp()
    assert abs(queue["oldest_seconds"] - (time.time() - first)) < 60


@pytest.mark.parametrize("sent", ["yesterday", None, 10**400, "9999-12-31T23:59:59-23:59"])
def test_a_job_with_another_time_has_no_age(fleet: Fleet, redis: Any, sent: Any) -> None:
    unpack = live(redis, "gpu-01-unpack", "gpu-01", "unpack", "queue:unpack")
    unpack.add({"batch_id": BATCH, "transferred_at": sent})
    (queue,) = (queue for queue in as_json(fleet, 0)["queues"] if queue["name"] == "queue:unpack")
    assert queue["oldest_seconds"] in (None, 0)


def test_what_was_done_and_what_failed(fleet: Fleet, redis: Any) -> None:
    fleet.query("""
        INSERT INTO audio_files (batch_id, original_filename, status, error, duration_seconds, updated_at) VALUES
        ('b', '1', 'done', NULL, 1800, now()), ('b', '2', 'done', NULL, 1800, now() - interval '50 minutes'),
        ('b', '3', 'done', NULL, 1800, now() - interval '70 minutes'),
        ('b', '4', 'failed', 'no audio', NULL, now()),
        ('b', '5', 'failed', 'no audio', NULL, now() - interval '20 hours'),
        ('b', '6', 'failed', 'cut', NULL, now() - interval '20 hours'),
        ('b', '7', 'failed', 'old', NULL, now() - interval '25 hours'), ('b', '8', 'processing', NULL, NULL, now())
        RETURNING 1""")
    now = as_json(fleet, 0)
    assert now["done"] == {"files": 3, "failed": 1, "audio_seconds": 3600}
    assert now["reasons"] == [{"reason": "no audio", "files": 2}, {"reason": "cut", "files": 1}]
    text = status(fleet, code=0)
    assert "last hour: 3 files, 1 failed, 1 h 0 min of audio" in " ".join(text.split())
    assert line_of(text.splitlines(), "2 ") == ["2", "no", "audio"]


def test_what_has_warnings(fleet: Fleet) -> None:
    """Warnings are no trouble: the fleet is well."""
    both, one = '[{"code": "gap"}, {"code": "missing_end"}, {"code": "gap"}]', '[{"code": "gap"}]'
    assert as_json(fleet, 0)["warnings"] == {"files": 0, "codes": {}}
    assert "warnings" not in status(fleet, code=0)
    fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, status, updated_at, warnings) VALUES"
        " ('b', '1', 'done', now(), %s), ('b', '2', 'failed', now() - interval '23 hours', %s),"
        " ('b', '3', 'done', now() - interval '25 hours', %s), ('b', '4', 'done', now(), NULL)",
        both, one, one,
    )  # fmt: skip
    assert as_json(fleet, 0)["warnings"] == {"files": 2, "codes": {"gap": 2, "missing_end": 1}}
    lines = status(fleet, code=0).splitlines()
    assert lines[1] == "  2 files of the last day with warnings: see `failures --warnings`"
    rows = [line.rstrip() for line in lines[lines.index("warnings in the last day: 2") + 2 :]]
    assert rows == ["2      gap", "1      missing_end"]


# --- a fleet that is not -----------------------------------------------------------------------------------


def troubles(fleet: Fleet, code: int) -> list[tuple[str, str]]:
    """What is wrong, as JSON and, word for word, as text."""
    found = as_json(fleet, code)["troubles"]
    words = " ".join(without_numbers(status(fleet, code=code)).split())
    assert all(without_numbers(f"{trouble['what']} [{trouble['see']}]") in words for trouble in found), words
    return [(trouble["see"], trouble["what"]) for trouble in found]


def without_numbers(text: str) -> str:
    """Between two looks a second may pass."""
    return re.sub(r"[0-9]+", "0", text)


@pytest.mark.usefixtures("busy")
def test_a_batch_without_a_job_for_the_rest_is_stranded(fleet: Fleet, redis: Any) -> None:
    assert troubles(fleet, 0) == []  # it has just moved: a worker may be about to queue the rest
    redis.set(f"batch:{BATCH}:moved", redis.time()[0] - 301)
    what = f"1 open batch without a job for the rest of the files: {BATCH}"
    assert troubles(fleet, 1) == [("batch-stranded", what)]
    assert line_of(status(fleet, code=1).splitlines(), BATCH)[-1] == "stranded"
    redis.rpush("queue:unpack", json.dumps({"batch_id": BATCH, "s3_key": "x"}))
    assert troubles(fleet, 0) == []


@pytest.mark.usefixtures("busy")
def test_what_the_unpack_workers_have_compared_is_not_compared_again(fleet: Fleet, redis: Any) -> None:
    redis.set(f"batch:{BATCH}:moved", redis.time()[0] - 301)
    redis.set(STRANDED, "[]")
    assert troubles(fleet, 0) == []
    redis.set(STRANDED, json.dumps([BATCH, "finished-meanwhile"]))
    what = f"1 open batch without a job for the rest of the files: {BATCH}"
    assert troubles(fleet, 1) == [("batch-stranded", what)]


@pytest.mark.usefixtures("busy")
def test_who_asks_often_reads_every_job_seldom(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(snapshot, "time", SimpleNamespace(monotonic=lambda: now))
    compare = SeldomCompared()

    def stranded() -> list[str]:
        seen = read_status(redis, ["queue:transfer", "queue:unpack", "queue:transcribe"], compare=compare)
        return sorted(row["id"] for row in seen.batches if row["state"] == "stranded")

    redis.set(f"batch:{BATCH}:moved", redis.time()[0] - 301)
    assert stranded() == [BATCH]
    redis.zadd("batches:open", {"another": redis.time()[0] - 86400})
    now += 299
    assert stranded() == [BATCH]
    now += 1
    assert stranded() == [BATCH, "another"]


@pytest.mark.usefixtures("busy")
def test_many_stranded_batches_are_one_trouble(fleet: Fleet, redis: Any) -> None:
    for number in range(5):
        redis.zadd("batches:open", {f"b{number}": redis.time()[0] - 86400})
    ((see, what), *_) = troubles(fleet, 1)
    assert (see, what) == (
        "batch-stranded", "5 open batches without a job for the rest of the files: b0, b1, b2, ..."
    )  # fmt: skip


@pytest.mark.usefixtures("busy")
def test_a_host_whose_batches_do_not_move_is_reported(fleet: Fleet, redis: Any) -> None:
    long_ago = redis.time()[0] - 7 * 3600
    redis.rpush("queue:unpack", *(json.dumps({"batch_id": name, "s3_key": "x"}) for name in (BATCH, "other")))
    redis.set(f"batch:{BATCH}:moved", long_ago)
    redis.hset("batches:finishing", "other", "gpu-01")
    redis.set("batch:other:moved", redis.time()[0])
    assert troubles(fleet, 0) == []  # another one of its batches moves
    redis.set("batch:other:moved", long_ago)
    assert troubles(fleet, 1) == [("batch-still", "no open batch of gpu-01 has moved for 7 h 0 min")]


@pytest.mark.usefixtures("busy")
def test_what_the_fleet_cannot_repair_is_reported(fleet: Fleet, redis: Any) -> None:
    rows = [{"kind": "archive gone", "subject": f"b{number}", "what": "it is not in S3"} for number in range(9)]
    redis.set("batches:amiss", json.dumps(rows))
    found = troubles(fleet, 1)
    assert found == [("needs-a-person", f"b{number}, archive gone: it is not in S3") for number in range(3)]
    assert len(as_json(fleet, 1)["amiss"]) == 9


@pytest.mark.usefixtures("busy")
def test_a_worker_without_heartbeat_is_gone(fleet: Fleet, redis: Any) -> None:
    live(redis, "gpu-01-gpu2", "gpu-01", "gpu", "queue:transcribe:gpu-01")
    redis.delete(heartbeat_key("gpu-01-gpu2"))
    assert troubles(fleet, 1) == [("worker-gone", "gpu-01-gpu2 is gone: no heartbeat")]
    assert line_of(status(fleet, code=1).splitlines(), "gpu-01-gpu2 ") == ["gpu-01-gpu2", "gone"]


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize(
    ("doing", "seconds", "what"),
    [
        ("waiting for S3", 90, "gpu-02-gpu: waiting for S3, for 1 min 3"),
        ("waiting: 6 runs in a row have died with no file done", 5, "gpu-02-gpu: waiting: 6 runs in a row"),
        (
            "waiting for disk: 20 MB free of 1024",
            700,
            "gpu-02-gpu: waiting for disk: 20 MB free of 1024, for 11 min",
        ),
        ("waiting for disk: 20 MB free of 1024", 300, None),
        ("waiting for transcription: 5000 files queued", 7000, None),
    ],
)
def test_a_worker_waits(fleet: Fleet, redis: Any, doing: str, seconds: int, what: str | None) -> None:
    since = redis.time()[0] - seconds
    live(redis, "gpu-02-gpu", "gpu-02", "gpu", "queue:transcribe", doing=doing, since=since)
    found = troubles(fleet, 1 if what else 0)
    assert [see for see, _ in found] == (["worker-waits"] if what else [])
    assert all(text.startswith(what or "-") for _, text in found)


def test_when_all_wait_the_fleet_is_broken(fleet: Fleet, redis: Any) -> None:
    for name in ("a", "b"):
        live(redis, name, "gpu-01", "unpack", "queue:unpack", doing="waiting for PostgreSQL")
    assert troubles(fleet, 2)[0] == ("service-away", "every worker waits for a service")


def test_unpack_workers_that_wait_for_gpu_workers_are_no_outage(fleet: Fleet, redis: Any) -> None:
    live(redis, "a", "gpu-01", "unpack", "queue:unpack", doing="waiting for a GPU worker: none was heard")
    assert [see for see, _ in troubles(fleet, 1)] == ["worker-waits"]


@pytest.mark.usefixtures("busy")
def test_a_silent_host_has_open_batches(fleet: Fleet, redis: Any) -> None:
    for worker in ("gpu", "unpack"):
        redis.delete(heartbeat_key(f"gpu-01-{worker}"))
    redis.zadd(HOSTS, {"gpu-01": redis.time()[0] - 600})
    found = troubles(fleet, 2)
    assert ("host-silent", "gpu-01 is silent for 10 min 0 s and has 1 open batch") in [
        (see, re.sub(r"[0-9] s ", "0 s ", what)) for see, what in found
    ]
    assert found[0] == ("no-worker", "queue:transcribe:gpu-01: 3 jobs and no worker")


@pytest.mark.usefixtures("busy")
def test_a_host_that_starts_again_is_not_yet_broken(fleet: Fleet, redis: Any) -> None:
    redis.zrem("queue:transcribe:gpu-01:workers", "gpu-01-gpu")
    redis.zadd(HOSTS, {"gpu-01": redis.time()[0] - 200})
    assert troubles(fleet, 1) == [("no-worker", "queue:transcribe:gpu-01: 3 jobs and no worker")]


def test_jobs_without_workers_are_broken(fleet: Fleet, redis: Any) -> None:
    JobQueue(redis, "queue:transfer", "x").add({"remote_path": "/a"})
    assert troubles(fleet, 2) == [("no-worker", "queue:transfer: 1 job and no worker")]


def test_a_disk_is_nearly_full(fleet: Fleet, redis: Any) -> None:
    live(redis, "u", "gpu-01", "unpack", "queue:unpack", disk={"free": 4 * 10**10, "size": 10**12})
    assert troubles(fleet, 1) == [("disk-full", "gpu-01: 40 GB of 1 TB of its disk is free")]


@pytest.mark.parametrize(("failed", "done", "code"), [(10, 90, 1), (10, 91, 0), (9, 0, 0)])
def test_many_files_fail(fleet: Fleet, failed: int, done: int, code: int) -> None:
    fleet.query(f"""
        INSERT INTO audio_files (batch_id, original_filename, status)
        SELECT 'b', n, CASE WHEN n <= {failed} THEN 'failed' ELSE 'done' END
        FROM generate_series(1, {failed + done}) AS n RETURNING 1""")
    what = f"{failed} of {failed + done} files of the last hour have failed"
    assert troubles(fleet, code) == ([("many-failures", what)] if code else [])


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_redis_that_is_unavailable_is_broken(fleet: Fleet, arguments: tuple[str, ...]) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    text = status(fleet, *arguments, code=2, REDIS_URL=url)
    assert "Redis is unavailable" in text
    assert "hunter2" not in text
    assert "queues:" not in text  # nothing is known of them, which is not that there are none
    assert "workers:" not in text


@pytest.mark.usefixtures("busy")
def test_the_most_urgent_comes_first(fleet: Fleet) -> None:
    add_file(fleet, "x.mp3", "failed", "no audio")
    text = status(fleet, code=0)
    titles = ("dead letter", "open batches", "failed in", "queues", "workers", "hosts")
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


@pytest.mark.parametrize("height", [24, 50])
def test_a_watch_fits_on_the_screen(fleet: Fleet, redis: Any, height: int) -> None:
    for number in range(30):
        live(redis, f"w{number:02}", f"gpu-{number:02}", "unpack", "queue:unpack")
        batch = f"20261124-1159{number:02}"
        redis.zadd("batches:open", {batch: redis.time()[0]})
        redis.set(f"batch:{batch}:total", 9)
        add_file(fleet, f"{number}.mp3", "failed", f"reason {number % 8}")
    screen = Console(width=COLUMNS, height=height, force_terminal=True)
    now = read_status(redis, ["queue:transfer", "queue:unpack"], Database(fleet.postgres.worker_url))
    lines = screen.render_lines(fitting(now, 40, screen))
    text = ["".join(part.text for part in line) for line in lines]
    assert height - 6 <= len(lines) <= height
    assert any(line.startswith("open batches: 30, the first ") for line in text)
    assert any(line.startswith("failed in the last day: 8") for line in text)


def test_an_open_batch_without_an_estimate_says_so(fleet: Fleet, redis: Any) -> None:
    open_a_batch(redis, settled=0)
    live(redis, "gpu-01-unpack", "gpu-01", "unpack", "queue:unpack")
    assert line_of(status(fleet, code=0).splitlines(), BATCH)[-2:] == ["0", "-"]


@pytest.mark.usefixtures("busy")
def test_a_postgresql_that_is_unavailable_is_broken_and_the_rest_is_shown(fleet: Fleet) -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/x"
    text = status(fleet, code=2, DATABASE_URL=url)
    assert "PostgreSQL is unavailable" in text
    assert line_of(text.splitlines(), "queue:transfer ")[1:] == ["2", "1", "1", "1", "0.0"]
    assert "hunter2" not in text


def test_hostile_names_are_shown_and_not_obeyed(fleet: Fleet, redis: Any) -> None:
    live(redis, HOSTILE, HOSTILE, "gpu", "queue:transcribe", doing=f"copying [red]/a[/red] [/b]{HOSTILE}")
    live(redis, "b", "b", "gpu", "queue:transcribe", doing=f"waiting for {HOSTILE}")
    live(redis, "t", "b", "transfer", "queue:transfer").add({"remote_path": HOSTILE})
    fleet.query(r"INSERT INTO audio_files (batch_id, original_filename, status, error)"
                r" VALUES ('b', 'x', 'failed', E'<b>\x1b[31m\n') RETURNING 1")  # fmt: skip
    text = status(fleet, code=1)
    assert max(len(line) for line in text.splitlines()) <= COLUMNS
    assert "\\x1b" in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert as_json(fleet, 1)["workers"][0]["alive"]


def test_text_in_brackets_is_shown_as_it_is(fleet: Fleet, redis: Any) -> None:
    live(redis, "w", "h", "transfer", "queue:transfer", doing="copying [red]/a[/red] [/b].tar")
    assert "copying [red]/a[/red] [/b].tar" in status(fleet, code=0)


def test_long_tables_are_cut_and_say_so(fleet: Fleet, redis: Any) -> None:
    for number in range(50):
        live(redis, f"w{number:02}", "gpu-01", "unpack", "queue:unpack")
    text = status(fleet, code=0)
    assert "workers: 50, the first 40" in text
    assert sum(re.match("w[0-9]", line) is not None for line in text.splitlines()) == 40
    assert "w49" in status(fleet, "--limit", "50", code=0)


def test_an_outage_while_it_watches_is_shown_and_over(fleet: Fleet) -> None:
    here, there = pty.openpty()
    environment = {**os.environ, **fleet.settings(), "TERM": "xterm", "COLUMNS": "80", "LINES": "50"}
    command = [sys.executable, str(PROJECT / "pipelinectl.py"), "status", "--watch", "1"]
    seen = bytearray()
    os.set_blocking(here, False)

    def has(text: str) -> bool:
        with contextlib.suppress(BlockingIOError):
            seen.extend(os.read(here, 65536))
        return text.encode() in seen

    def hears_ctrl_c() -> None:  # which whoever runs the tests in the background has it ignore
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        command, stdout=there, stderr=there, env=environment, preexec_fn=hears_ctrl_c
    ) as process:
        wait_until(lambda: has("healthy, "), "the first look", 30)
        fleet.valkey.stop()
        try:
            wait_until(lambda: has("Redis is unavailable"), "the outage", 30)
        finally:
            fleet.valkey.start()
        seen.clear()
        wait_until(lambda: has("healthy, "), "the end of the outage", 30)
        process.send_signal(signal.SIGINT)
    os.close(there)
    os.close(here)
    assert process.returncode == 130


@pytest.mark.parametrize("age", [3500, 3700])
def test_a_dead_letter_that_nobody_looks_at_for_an_hour(fleet: Fleet, redis: Any, age: int) -> None:
    for seconds in (age, 5):
        at = datetime.datetime.fromtimestamp(redis.time()[0] - seconds, datetime.UTC)
        error = '"time": "1999-01-01T00:00:00Z"}'
        add_dead_letter(redis, "queue:unpack", unpack_job(), error, f"{at:%Y-%m-%dT%H:%M:%SZ}")
    found = troubles(fleet, 1 if age > 3600 else 0)
    what = "queue:unpack: 2 dead letters, the oldest for 1 h 1 min"
    assert found == ([("AudioPipelineDeadLetters", what)] if age > 3600 else [])


@pytest.mark.parametrize("garbage", [b"{}", b"\xff", b'"time": "9999"}', b'"time": "2026-13-45T99:99:99Z"}'])
def test_a_dead_letter_without_a_time_is_old(fleet: Fleet, redis: Any, garbage: bytes) -> None:
    redis.rpush("queue:unpack:dead", garbage)
    assert troubles(fleet, 1) == [("AudioPipelineDeadLetters", "queue:unpack: 1 dead letter")]
