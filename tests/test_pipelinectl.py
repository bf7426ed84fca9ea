"""pipelinectl.py: what the operator types, sees and pipes."""

import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest
import redis as redis_py

from pipeline.batches import Batches
from pipeline.job_queue import JobQueue, heartbeat_key
from tests.child import free_port
from tests.fleet import PROJECT, Fleet

Done = subprocess.CompletedProcess[str]
COLUMNS = 80


def control(fleet: Fleet, *arguments: str, **changes: str) -> Done:
    return fleet.control(*arguments, COLUMNS=str(COLUMNS), **changes)


def printed(done: Done) -> str:
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def complaint(done: Done, status: int) -> str:
    """The one line on stderr; no secret in it."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("pipelinectl")
    assert "hunter2" not in line
    return line


def refusal(done: Done) -> str:
    """The first of the two lines that go with exit status 2; no secret in it."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    line, hint = done.stderr.splitlines()
    assert "example.env" in hint
    assert "hunter2" not in line
    return line


# --- help --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["-h"]])
def test_help_shows_every_command_with_examples(fleet: Fleet, arguments: list[str]) -> None:
    text = printed(control(fleet, *arguments))
    for word in ("enqueue", "status", "migrate", "--json", "exit status", "examples:"):
        assert word in text


@pytest.mark.parametrize("command", ["enqueue", "status", "migrate"])
def test_every_command_has_help(fleet: Fleet, command: str) -> None:
    assert f"pipelinectl.py {command}" in printed(control(fleet, command, "--help"))


@pytest.mark.parametrize("arguments", [[], ["dance"], ["enqueue"], ["status", "now"], ["migrate", "--json"]])
def test_wrong_arguments_give_the_usage(fleet: Fleet, arguments: list[str]) -> None:
    done = control(fleet, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: pipelinectl.py")
    assert "Traceback" not in done.stderr


# --- migrate -----------------------------------------------------------------------------------------------


def test_migrate_makes_the_tables_and_may_be_repeated(fleet: Fleet) -> None:
    url = fleet.postgres.new_database(f"migrate{time.time_ns()}")
    first = printed(control(fleet, "migrate", DATABASE_URL=url))
    assert first.startswith("applied ")
    assert first.index("001_audio_files") < first.index("002_s3_opus_path")
    assert printed(control(fleet, "migrate", DATABASE_URL=url)) == "the schema is up to date\n"


def test_migrate_needs_no_redis(fleet: Fleet) -> None:
    printed(control(fleet, "migrate", REDIS_URL=""))


# --- enqueue -----------------------------------------------------------------------------------------------


def test_enqueue_queues_exactly_the_paths(fleet: Fleet, redis: Any) -> None:
    paths = ["/recordings/monday.tar", "/recordings/two words.tar", "/in/ümläut \"'$x.tar"]
    assert printed(control(fleet, "enqueue", *paths)) == "".join(f"queued {path}\n" for path in paths)
    jobs = [json.loads(job) for job in redis.lrange("queue:transfer", 0, -1)]
    assert jobs == [{"remote_path": path} for path in paths]


def test_enqueue_uses_the_queue_that_is_set(fleet: Fleet, redis: Any) -> None:
    printed(control(fleet, "enqueue", "/a.tar", TRANSFER_QUEUE="queue:other"))
    assert redis.lrange("queue:other", 0, -1) == ['{"remote_path": "/a.tar"}']
    assert redis.llen("queue:transfer") == 0


def test_enqueue_takes_a_path_that_is_not_utf8(fleet: Fleet, redis: Any) -> None:
    done = control(fleet, "enqueue", "/caf\udce9.tar", "/b.tar", PYTHONIOENCODING="utf-8:strict")
    assert (done.returncode, done.stderr) == (0, "")
    jobs = [json.loads(job) for job in redis.lrange("queue:transfer", 0, -1)]
    assert jobs == [{"remote_path": "/caf\udce9.tar"}, {"remote_path": "/b.tar"}]


# --- status ------------------------------------------------------------------------------------------------


@pytest.fixture
def busy(fleet: Fleet, redis: Any) -> None:
    """Three queues with jobs in every state, two workers of which one is gone, and an open batch."""
    transfer = JobQueue(redis, "queue:transfer", "ec2-transfer")
    for number in range(5):
        transfer.add({"remote_path": f"/{number}.tar"})
    for step in (lambda job: transfer.retry(job, 600), lambda job: transfer.bury(job, "broken"), lambda _: None):
        job = transfer.claim(0.1)
        assert job is not None
        step(job)
    transfer.register()
    JobQueue(redis, "queue:unpack", "gpu-01-unpack").register()
    state = {"role": "transfer", "host": "ec2", "pid": 1, "started": "x", "queue": "queue:transfer"}
    alive = {**state, "doing": "copying /2.tar as 20261124-120000", "since": int(time.time()) - 42}
    redis.set(heartbeat_key("ec2-transfer"), json.dumps(alive))
    open_a_batch(redis)


def open_a_batch(redis: Any) -> None:
    unpack = JobQueue(redis, "queue:unpack", "gpu-01-unpack")
    unpack.add({"batch_id": "20261124-115900", "s3_key": "archives/20261124-115900.tar"})
    job = unpack.claim(0.1)
    assert job is not None
    batches = Batches(redis, "gpu-01")
    assert batches.adopt("20261124-115900", "archives/20261124-115900.tar", job)
    batches.open("20261124-115900", 847)
    batches.check_queue("queue:transcribe:gpu-01", 900)
    for number in range(3):
        name = f"{number}.mp3"
        batches.push("20261124-115900", "queue:transcribe:gpu-01", {"original_filename": name})
        assert batches.settle("20261124-115900", name, "failed" if number else "processed") == "counted"


@pytest.mark.usefixtures("busy")
def test_status_as_json_has_every_number(fleet: Fleet) -> None:
    now = json.loads(printed(control(fleet, "status", "--json")))
    queues = {queue.pop("name"): queue for queue in now["queues"]}
    assert queues == {
        "queue:transfer": {"waiting": 2, "delayed": 1, "in_work": 1, "dead": 1},
        "queue:unpack": {"waiting": 0, "delayed": 0, "in_work": 1, "dead": 0},
        "queue:transcribe": {"waiting": 0, "delayed": 0, "in_work": 0, "dead": 0},
        "queue:transcribe:gpu-01": {"waiting": 3, "delayed": 0, "in_work": 0, "dead": 0},
    }
    workers = {worker["id"]: worker for worker in now["workers"]}
    assert set(workers) == {"ec2-transfer", "gpu-01-unpack"}
    assert workers["ec2-transfer"]["alive"]
    assert workers["ec2-transfer"]["host"] == "ec2"
    assert not workers["gpu-01-unpack"]["alive"]
    (batch,) = now["batches"]
    assert {name: str(batch[name]) for name in ("id", "host", "total", "processed", "failed")} == {
        "id": "20261124-115900", "host": "gpu-01", "total": "847", "processed": "1", "failed": "2",
    }  # fmt: skip


@pytest.mark.usefixtures("busy")
def test_numbers_are_numbers_in_json(fleet: Fleet) -> None:
    (batch,) = json.loads(printed(control(fleet, "status", "--json")))["batches"]
    assert [batch[name] for name in ("total", "processed", "failed")] == [847, 1, 2]


@pytest.mark.usefixtures("busy")
def test_status_fits_into_80_columns_and_says_all(fleet: Fleet) -> None:
    text = printed(control(fleet, "status"))
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= COLUMNS
    assert "\x1b" not in text
    assert line_of(lines, "queue:transfer ")[1:] == ["2", "1", "1", "1"]
    assert line_of(lines, "queue:transcribe:gpu-01")[1:] == ["3", "0", "0", "0"]
    assert "copying /2.tar as 20261124-120000" in text
    assert line_of(lines, "gpu-01-unpack")[-1] == "gone"
    assert line_of(lines, "20261124-115900") == ["20261124-115900", "gpu-01", "847", "1", "2"]
    seconds = [int(word) for word in line_of(lines, "ec2-transfer ") if word.isdecimal()]
    assert any(42 <= number < 60 for number in seconds)


def line_of(lines: list[str], start: str) -> list[str]:
    """The words of the only line that begins so."""
    (line,) = (line for line in lines if f"{line} ".startswith(start))
    return line.split()


def test_text_in_brackets_is_shown_as_it_is(fleet: Fleet, redis: Any) -> None:
    JobQueue(redis, "queue:transfer", "w").register()
    state = {"role": "transfer", "host": "h", "doing": "copying [red]/a[/red] [/b].tar", "since": int(time.time())}
    redis.set(heartbeat_key("w"), json.dumps(state))
    assert "copying [red]/a[/red] [/b].tar" in printed(control(fleet, "status"))


def test_status_of_an_empty_redis(fleet: Fleet) -> None:
    now = json.loads(printed(control(fleet, "status", "--json")))
    assert [queue["name"] for queue in now["queues"]] == ["queue:transfer", "queue:unpack", "queue:transcribe"]
    assert (now["workers"], now["batches"]) == ([], [])
    assert "workers: 0" in printed(control(fleet, "status"))


@pytest.mark.usefixtures("busy")
def test_status_changes_nothing(fleet: Fleet) -> None:
    with redis_py.Redis.from_url(fleet.valkey.url) as raw:  # DUMP answers in bytes
        before = {key: raw.dump(key) for key in raw.scan_iter()}
        printed(control(fleet, "status"))
        printed(control(fleet, "status", "--json"))
        assert {key: raw.dump(key) for key in raw.scan_iter()} == before


# --- what goes wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["enqueue", "/a.tar"]])
def test_redis_away_is_one_line_and_status_1(fleet: Fleet, arguments: list[str]) -> None:
    url = f"redis://user:hunter2@127.0.0.1:{free_port()}/0"
    assert "Redis is away" in complaint(control(fleet, *arguments, REDIS_URL=url), 1)


@pytest.mark.parametrize(("change", "reason"), [("user:hunter2@", "password"), ("", "DB index")])
@pytest.mark.parametrize("command", [["status"], ["enqueue", "/a.tar"]])
def test_a_redis_that_refuses_is_named_with_status_2(
    fleet: Fleet, command: list[str], change: str, reason: str
) -> None:
    url = fleet.valkey.url.replace("redis://", f"redis://{change}").replace("/0", "/0" if change else "/99")
    line = refusal(control(fleet, *command, REDIS_URL=url))
    assert "REDIS_URL" in line
    assert reason in line


def test_postgresql_away_is_one_line_and_status_1(fleet: Fleet) -> None:
    url = f"postgresql://user:hunter2@127.0.0.1:{free_port()}/x"
    assert "PostgreSQL is away" in complaint(control(fleet, "migrate", DATABASE_URL=url), 1)


def test_a_missing_database_is_one_line(fleet: Fleet) -> None:
    url = fleet.postgres.url.replace("postgres@", "postgres:hunter2@") + "-of-nobody"
    assert "of-nobody" in refusal(control(fleet, "migrate", DATABASE_URL=url))


def test_an_empty_path_is_refused_and_queues_nothing(fleet: Fleet, redis: Any) -> None:
    assert "empty" in refusal(control(fleet, "enqueue", "/a.tar", ""))
    assert redis.llen("queue:transfer") == 0


def test_a_reader_that_goes_away_is_no_traceback(fleet: Fleet) -> None:
    done = subprocess.run(
        f"{sys.executable} {PROJECT}/pipelinectl.py status --json | true",
        shell=True, capture_output=True, text=True, check=False, env={**os.environ, **fleet.settings()},
    )  # fmt: skip
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "name"),
    [(["status"], "REDIS_URL"), (["enqueue", "/a"], "REDIS_URL"), (["migrate"], "DATABASE_URL")],
)
def test_a_missing_setting_is_named_with_status_2(fleet: Fleet, arguments: list[str], name: str) -> None:
    done = control(fleet, *arguments, **{name: ""})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0] == f"pipelinectl.py: {name} is not set"


@pytest.mark.parametrize(
    ("command", "name", "value"),
    [
        ("status", "REDIS_URL", "user:hunter2@127.0.0.1:6379"),
        ("migrate", "DATABASE_URL", "user:hunter2@127.0.0.1/x"),
    ],
)
def test_an_address_that_is_none_is_named_with_status_2(fleet: Fleet, command: str, name: str, value: str) -> None:
    done = control(fleet, command, **{name: value})
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
    assert "hunter2" not in done.stderr
