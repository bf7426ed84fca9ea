"""The loop: what a failure means for a job, how a worker ends, and who it is while it lives."""

import dataclasses
import errno
import hashlib
import importlib
import json
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import exceptions as redis_errors

from pipeline.foundation.errors import Broken, LostClaim, Misconfigured, Outage, PartialOutage, Permanent, Stopping
from pipeline.foundation.systemd import notify
from pipeline.jobs import job_queue
from pipeline.jobs.job_queue import Job, JobQueue
from pipeline.jobs.worker import Limits, Worker
from tests.faults.proxy import Proxy
from tests.support.child import Child, free_port, is_alive, wait_until
from tests.support.disks import unreadable
from tests.support.fleet import PROJECT, Fleet
from tests.support.servers import Valkey

QUEUE = "queue:test"
LIMITS = Limits(attempts=3, retry=1000, heartbeat=4, stall=60)
AWAY = Outage("the model", "no memory")

# A worker whose job is to wait for the file that the job names.
SCRIPT = """
import logging, pathlib, sys, time
from pipeline.jobs.worker import Limits, Worker
logging.basicConfig(level="INFO")
url, worker_id, heartbeat = sys.argv[1:]
worker = Worker(url, "queue:test", "test", worker_id, "here", Limits(heartbeat=int(heartbeat)))
with worker.running():
    for job in worker.jobs():
        with worker.holding(job):
            worker.doing("working")
            while not pathlib.Path(job.fields["wait_for"]).exists():
                time.sleep(0.02)
            worker.until_available(worker.queue.settle, job)
"""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The handlers as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def make(fleet: Fleet, worker_id: str = "w1", limits: Limits = LIMITS, host: str = "here") -> Worker:
    return Worker(fleet.valkey.url, QUEUE, "test", worker_id, host, limits)


@pytest.fixture
def worker(fleet: Fleet) -> Worker:
    return make(fleet)


def claimed(worker: Worker, attempts: int = 1) -> Job:
    """A job in progress, delivered for the nth time."""
    worker.queue.add({"n": 1})
    for _ in range(attempts - 1):
        job = worker.queue.claim(0.01)
        assert job is not None
        worker.queue.retry(job, 0)
    job = worker.queue.claim(0.01)
    assert job is not None
    return job


def work(worker: Worker, step: Callable[[Job], Any]) -> None:
    """Run the worker until the step, or something else, has set its stop; what the step asserts ends it too."""
    failures: list[Exception] = []
    with worker.running():
        for job in worker.jobs():
            with worker.holding(job):
                try:
                    step(job)
                except (AssertionError, TimeoutError) as error:
                    failures.append(error)
                    worker.stop.set()
    if failures:
        raise failures[0]


def child(fleet: Fleet, worker_id: str = "w1", heartbeat: int = 4, url: str = "") -> Child:
    """The script above in a process of its own."""
    arguments = [url or fleet.valkey.url, worker_id, str(heartbeat)]
    return fleet.run(["-c", SCRIPT, *arguments], f"child-{worker_id}", PYTHONPATH=str(PROJECT))


def heartbeat_of(redis: Any, worker_id: str = "w1") -> dict[str, Any]:
    return dict(json.loads(redis.get(job_queue.heartbeat_key(worker_id)) or "{}"))


def fail() -> None:
    raise AWAY


def where(redis: Any) -> dict[str, int]:
    """How many jobs lie in each place."""
    places = {
        "waiting": redis.llen(QUEUE),
        "working": redis.llen(f"{QUEUE}:working:w1"),
        "delayed": redis.zcard(f"{QUEUE}:delayed"),
        "dead": redis.llen(f"{QUEUE}:dead"),
        "counted": redis.hlen(f"{QUEUE}:attempts"),
    }
    return {place: jobs for place, jobs in places.items() if jobs}


# --- a release that changes ------------------------------------------------------------------------------


def test_an_import_that_fails_ends_the_process_and_costs_no_attempt(worker: Worker, redis: Any) -> None:
    for run in range(LIMITS.attempts + 1):
        job = claimed(worker) if run == 0 else worker.queue.claim(0.01)
        assert job is not None
        assert job.attempts == 1
        with pytest.raises(Broken, match="No module named 'gone'"), worker.holding(job):
            importlib.import_module("gone")
    assert where(redis) == {"working": 1}


# --- a file that cannot be read --------------------------------------------------------------------------


def test_a_bad_place_of_the_disk_fails_the_file_that_lies_there(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    worker = make(fleet, limits=dataclasses.replace(LIMITS, retry=0))
    worker.metrics.folder = tmp_path
    bad = tmp_path / "bad"
    bad.touch()
    with unreadable(bad):
        patience = threading.Timer(30, worker.stop.set)  # or it would be waited for, for ever
        patience.start()
        with pytest.raises(OSError, match="Input/output error"):
            worker.until_available(bad.read_bytes)
        patience.cancel()
        for attempt in range(LIMITS.attempts):
            job = claimed(worker) if attempt == 0 else worker.queue.claim(0.01)
            assert job is not None
            with worker.holding(job):
                bad.read_bytes()
    (dead_letter,) = map(json.loads, redis.lrange(f"{QUEUE}:dead", 0, -1))
    assert dead_letter["error"] == "OSError: [Errno 5] Input/output error"


def test_a_disk_that_fails_is_waited_for(worker: Worker, redis: Any, tmp_path: Path) -> None:
    worker.metrics.folder = tmp_path / "gone"
    failure = OSError(errno.EIO, "Input/output error")
    assert worker.unavailable(failure) == "the disk"
    with worker.holding(claimed(worker)):
        raise failure
    assert where(redis) == {"delayed": 1}
    worker.metrics.folder = tmp_path
    assert worker.unavailable(OSError(errno.ENOSPC, "full")) == "the disk"


# --- outlasting an outage -------------------------------------------------------------------------------


def test_it_tries_again_until_the_service_is_back(worker: Worker) -> None:
    failures: list[Exception] = [AWAY]

    def step(answer: str) -> str:
        if failures:
            raise failures.pop()
        assert worker.heartbeat._doing == "waiting for the model"
        return answer

    assert worker.until_available(step, answer="done") == "done"


def test_it_survives_a_redis_that_is_killed(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey") as valkey:
        worker = Worker(valkey.url, QUEUE, "test", "w1", "here", LIMITS)
        worker.redis.config_set("appendfsync", "always")  # else a busy disk may delay the claim beyond the kill
        job = claimed(worker)
        valkey.kill()

        def settle() -> bool:
            try:
                return worker.queue.settle(job)
            except redis_errors.ConnectionError:
                valkey.start()
                raise

        assert worker.until_available(settle) is True
        assert where(worker.redis) == {}


def test_it_stops_waiting_when_it_is_asked_to_stop(worker: Worker) -> None:
    tries: list[int] = []

    def step() -> None:
        if tries:
            pytest.fail("it was tried again")
        tries.append(1)
        worker.stop.set()
        raise AWAY

    with pytest.raises(Stopping):
        worker.until_available(step)


def test_it_begins_no_step_whose_service_was_just_away_when_it_is_to_stop(worker: Worker) -> None:
    """A step may wait minutes for a service that hangs, and many may stand in line."""
    tried: list[str] = []

    def step() -> None:
        tried.append("step")
        raise AWAY

    worker.stop.set()
    for _ in range(3):
        with pytest.raises(Stopping):
            worker.until_available(step)
    assert tried == ["step"]
    assert worker.until_available(lambda: "another") == "another"


def test_it_does_not_repeat_a_step_that_fails_by_the_jobs_fault(worker: Worker) -> None:
    tries: list[int] = []

    def step() -> None:
        if tries:
            pytest.fail("it was tried again")
        tries.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        worker.until_available(step)


def test_it_waits_longer_each_time_and_never_too_long(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return len(waits) == 9

    def step() -> None:
        raise AWAY

    monkeypatch.setattr(worker.stop, "wait", wait)
    with pytest.raises(Stopping):
        worker.until_available(step)
    longest = [0.5, 1, 2, 4, 5, 5, 5, 5, 5]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True)), waits


# --- what a failure means -------------------------------------------------------------------------------


def test_it_fails_a_job_that_can_never_succeed_at_once(redis: Any, worker: Worker) -> None:
    with worker.holding(claimed(worker)):
        raise Permanent("no such file")
    assert where(redis) == {"dead": 1}
    dead_letter = json.loads(redis.lindex(f"{QUEUE}:dead", 0))
    assert (dead_letter["error"], dead_letter["attempts"]) == ("no such file", 1)


@pytest.mark.parametrize(
    ("attempt", "place"), [(1, {"delayed": 1, "counted": 1}), (2, {"delayed": 1, "counted": 1}), (3, {"dead": 1})]
)
def test_it_retries_a_failed_job_until_the_last_attempt(
    redis: Any, worker: Worker, attempt: int, place: dict[str, int]
) -> None:
    with worker.holding(claimed(worker, attempt)):
        raise ValueError("odd")
    assert where(redis) == place
    if attempt == 3:
        assert json.loads(redis.lindex(f"{QUEUE}:dead", 0))["error"] == "ValueError: odd"


def test_it_tells_the_role_of_a_job_that_it_gives_up(worker: Worker) -> None:
    notified: list[tuple[Job, str]] = []
    worker.fail_permanently = lambda job, reason: notified.append((job, reason))
    job = claimed(worker)
    with worker.holding(job):
        raise Permanent("why")
    assert notified == [(job, "why")]


@pytest.mark.parametrize("attempt", [1, 3])
def test_it_gives_a_job_back_uncounted_when_a_service_is_unavailable(
    redis: Any, worker: Worker, attempt: int
) -> None:
    with worker.holding(claimed(worker, attempt)):
        raise AWAY
    assert where(redis) == {"delayed": 1} | ({"counted": 1} if attempt > 1 else {})
    redis.zadd(f"{QUEUE}:delayed", dict.fromkeys(redis.zrange(f"{QUEUE}:delayed", 0, -1), 0))
    again = worker.queue.claim(0.01)
    assert again is not None
    assert again.attempts == attempt


def test_a_job_that_waits_alone_is_retried_no_sooner_than_a_failed_one(redis: Any, worker: Worker) -> None:
    """Others may go on: hundreds of its kind are not to hold them up."""
    with worker.holding(claimed(worker)):
        raise PartialOutage("EC2", "a volume is not mounted")
    ((_, due),) = redis.zrange(f"{QUEUE}:delayed", 0, -1, withscores=True)
    assert due - redis.time()[0] > LIMITS.retry - 60
    assert where(redis) == {"delayed": 1}


def test_it_drops_a_job_that_is_somebody_elses(redis: Any, worker: Worker) -> None:
    with worker.holding(claimed(worker)):
        raise LostClaim("batch is another host's")
    assert where(redis) == {}


def test_it_buries_a_job_that_cannot_be_failed_permanently(redis: Any, worker: Worker) -> None:
    def refuse(job: Job, reason: str) -> None:
        raise ValueError("PostgreSQL takes no such name")

    worker.fail_permanently = refuse
    with worker.holding(claimed(worker)):
        raise Permanent("why")
    assert where(redis) == {"dead": 1}


def test_it_fails_a_job_that_killed_its_worker_too_often(redis: Any, fleet: Fleet) -> None:
    claimed(make(fleet), 3)  # and the worker dies
    worker = make(fleet)

    def fail_permanently(job: Job, reason: str) -> None:
        worker.dead_letter(job, reason)
        worker.stop.set()

    worker.fail_permanently = fail_permanently
    work(worker, lambda job: pytest.fail("it was worked on"))
    assert where(redis) == {"dead": 1}
    assert "died with this job in progress, at attempt 3" in json.loads(redis.lindex(f"{QUEUE}:dead", 0))["error"]


# --- the loop -------------------------------------------------------------------------------------------


def test_it_keeps_the_job_in_progress_uncounted_when_it_stops(redis: Any, worker: Worker) -> None:
    worker.queue.add({"n": 1})

    def step(job: Job) -> None:
        worker.stop.set()
        worker.until_available(fail)

    work(worker, step)
    assert where(redis) == {"working": 1}
    again = JobQueue(redis, QUEUE, "w1").claim(0.01)
    assert again is not None
    assert again.attempts == 1


def test_it_counts_the_attempt_when_it_crashes(redis: Any, worker: Worker) -> None:
    worker.queue.add({"n": 1})

    def crash() -> None:
        with worker.running():
            for _ in worker.jobs():
                raise MemoryError

    with pytest.raises(MemoryError):
        crash()
    assert where(redis) == {"working": 1, "counted": 1}


def test_it_settles_jobs_one_after_the_other(redis: Any, worker: Worker) -> None:
    for n in range(3):
        worker.queue.add({"n": n})
    done = []

    def step(job: Job) -> None:
        done.append(job.fields["n"])
        worker.queue.settle(job)
        if len(done) == 3:
            worker.stop.set()

    work(worker, step)
    assert done == [0, 1, 2]
    assert where(redis) == {}


def test_it_claims_nothing_while_there_is_no_room(redis: Any, worker: Worker) -> None:
    worker.queue.add({"n": 1})

    def ready() -> bool:
        worker.stop.set()
        return False

    worker.ready_for_more = ready
    work(worker, lambda job: pytest.fail("it was claimed"))
    assert where(redis) == {"waiting": 1}


def test_it_works_on_when_maintenance_fails(redis: Any, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    worker.queue.add({"n": 1})
    worker.maintenance = fail

    def step(job: Job) -> None:
        worker.queue.settle(job)
        worker.stop.set()

    work(worker, step)
    assert where(redis) == {}
    assert "maintenance: no memory" in caplog.text


def test_it_refuses_to_run_when_a_check_fails(redis: Any, worker: Worker) -> None:
    def run() -> None:
        with worker.running(lambda: None, lambda: "the bucket is missing"):
            pytest.fail("it ran")

    redis.zadd("hosts:seen", {"here": 17})
    with pytest.raises(Misconfigured, match="the bucket is missing"):
        run()
    assert redis.zscore("hosts:seen", "here") == 17  # systemd starts it for ever: others must get its batches


def test_it_finishes_the_job_in_progress_after_sigterm(redis: Any, fleet: Fleet, tmp_path: Path) -> None:
    for name in ("first", "second"):
        JobQueue(redis, QUEUE, "w1").add({"wait_for": str(tmp_path / name)})
    process = child(fleet)
    wait_until(lambda: heartbeat_of(redis) != {} and redis.llen(QUEUE) == 1, "the first job in progress")
    assert process.process is not None
    process.process.send_signal(signal.SIGTERM)
    (tmp_path / "first").touch()
    assert process.process.wait(60) == 0
    assert where(redis) == {"waiting": 1}


def test_it_ends_well_when_it_is_stopped_before_redis_answers(fleet: Fleet) -> None:
    process = child(fleet, url=f"redis://127.0.0.1:{free_port()}/0")
    assert process.process is not None
    wait_until(lambda: "Redis is unavailable" in process.log.read_text(), "the wait for Redis")
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(60) == 0, process.log.read_text()


def test_it_says_that_it_stopped_only_where_it_was_ready(
    fleet: Fleet, redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    worker = make(fleet)
    with pytest.raises(Misconfigured, match="no such model"), worker.running(lambda: "no such model"):
        pytest.fail("it is not ready")
    assert "stopped" not in caplog.text
    stopped = make(fleet)
    stopped.stop.set()
    with stopped.running():
        pass
    assert caplog.text.count("w1 stopped") == caplog.text.count("w1 ready") == 1


# --- identity -------------------------------------------------------------------------------------------


def test_it_refuses_an_id_that_a_live_process_has(redis: Any, fleet: Fleet) -> None:
    holder = child(fleet)
    wait_until(lambda: heartbeat_of(redis) != {}, "the heartbeat of the first")
    before = heartbeat_of(redis)
    started = time.monotonic()
    with pytest.raises(Misconfigured, match=f"process {before['pid']} on here already works as w1: set WORKER_ID"):
        work(make(fleet), lambda job: None)
    assert time.monotonic() - started < 2
    assert heartbeat_of(redis) == before
    holder.require_running()


def test_it_takes_over_the_id_of_a_dead_process_at_once(redis: Any, fleet: Fleet) -> None:
    JobQueue(redis, QUEUE, "w1").add({"wait_for": "/never"})
    killed = child(fleet, heartbeat=600)
    wait_until(lambda: where(redis) == {"working": 1, "counted": 1}, "the job in progress")
    killed.kill()
    assert not is_alive(heartbeat_of(redis)["pid"])
    worker = make(fleet)
    attempts = []

    def step(job: Job) -> None:
        attempts.append(job.attempts)
        assert heartbeat_of(redis)["pid"] == os.getpid()
        worker.queue.settle(job)
        worker.stop.set()

    started = time.monotonic()
    work(worker, step)
    assert time.monotonic() - started < 2
    assert attempts == [2]
    assert heartbeat_of(redis) == {}  # it has ended with nothing in progress


def test_it_waits_for_the_end_of_a_heartbeat_from_another_host(
    redis: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = json.dumps({"host": "there", "pid": os.getpid(), "started": "then"})
    redis.set(job_queue.heartbeat_key("w1"), state, px=300)
    worker = make(fleet)
    monkeypatch.setattr(worker.stop, "wait", lambda seconds: time.sleep(0.1))
    worker.heartbeat.take_identity()
    assert heartbeat_of(redis)["host"] == worker.host


def test_it_knows_itself_where_the_answer_to_its_first_heartbeat_was_lost(redis: Any, fleet: Fleet) -> None:
    worker = make(fleet)
    with Proxy(fleet.valkey.port) as proxy:
        worker.redis.connection_pool.connection_kwargs["port"] = proxy.port
        script = Path(job_queue.__file__).parent / "lua" / "take_identity.lua"
        worker.redis.script_load(script.read_text())
        proxy.drop_replies = [hashlib.sha1(script.read_bytes()).hexdigest().encode()]
        worker.until_available(worker.heartbeat.take_identity)
        assert proxy.drop_replies == []
    assert heartbeat_of(redis)["pid"] == os.getpid()


def test_it_refuses_an_id_that_another_host_keeps_alive(redis: Any, fleet: Fleet) -> None:
    redis.set(job_queue.heartbeat_key("w1"), json.dumps({"host": "there", "pid": 7, "started": "then"}))
    worker = make(fleet, limits=Limits(heartbeat=-3))  # its patience is over at once
    with pytest.raises(Misconfigured, match="process 7 on there already works as w1"):
        worker.heartbeat.take_identity()


def test_it_leaves_the_id_of_another_alone_when_it_is_stopped_meanwhile(redis: Any, fleet: Fleet) -> None:
    state = json.dumps({"host": "there", "pid": 7, "started": "then"})
    redis.set(job_queue.heartbeat_key("w1"), state)
    redis.zadd(f"{QUEUE}:workers", {"w1": 1})
    worker = make(fleet)
    worker.stop.set()
    with worker.running():
        assert list(worker.jobs()) == []
    assert redis.get(job_queue.heartbeat_key("w1")) == state
    assert redis.zscore(f"{QUEUE}:workers", "w1") == 1


def test_it_refuses_an_id_that_another_machine_of_the_same_name_keeps_alive(redis: Any, fleet: Fleet) -> None:
    """To look for its process here would say that it is dead."""
    held = {"host": "here", "pid": 2**22 + 1, "started": "of another boot"}
    redis.set(job_queue.heartbeat_key("w1"), json.dumps(held))
    worker = make(fleet, limits=Limits(heartbeat=-3))
    with pytest.raises(Misconfigured, match="another machine also has HOST_NAME here, and works as w1"):
        worker.heartbeat.take_identity()
    assert heartbeat_of(redis) == held


def test_it_waits_for_the_end_of_its_heartbeat_from_before_a_reboot(
    redis: Any, fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {"host": "here", "pid": os.getpid(), "started": "of another boot"}
    redis.set(job_queue.heartbeat_key("w1"), json.dumps(held), px=300)
    worker = make(fleet)
    monkeypatch.setattr(worker.stop, "wait", lambda seconds: time.sleep(0.1))
    worker.heartbeat.take_identity()
    assert heartbeat_of(redis)["started"] != held["started"]


# --- the heartbeat --------------------------------------------------------------------------------------


def test_it_beats_and_takes_back_dead_workers_jobs_while_a_job_blocks(redis: Any, fleet: Fleet) -> None:
    worker = make(fleet, limits=Limits(heartbeat=1))
    worker.queue.add({"n": "ours"})
    dead = JobQueue(redis, QUEUE, "dead")

    def block(job: Job) -> None:
        dead.add({"n": "theirs"})
        assert dead.claim(0.01) is not None
        dead.register()
        wait_until(lambda: redis.llen(QUEUE) == 1, "the job of the dead worker")
        end = time.monotonic() + 1.2  # longer than a heartbeat lasts
        while time.monotonic() < end:
            assert redis.exists(job_queue.heartbeat_key("w1"))
            time.sleep(0.05)
        assert redis.zscore("hosts:seen", "here") is not None
        worker.queue.settle(job)
        worker.stop.set()

    work(worker, block)
    assert where(redis)["waiting"] == 1


def test_it_beats_again_after_redis_was_away(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey") as valkey:
        worker = Worker(valkey.url, QUEUE, "test", "w1", "here", Limits(heartbeat=1))
        worker.queue.add({"n": 1})

        def step(job: Job) -> None:
            valkey.kill()
            time.sleep(0.3)  # a beat fails
            valkey.start()
            worker.redis.delete(job_queue.heartbeat_key("w1"))
            wait_until(lambda: bool(worker.redis.exists(job_queue.heartbeat_key("w1"))), "a heartbeat")
            assert worker.queue.settle(job)
            worker.stop.set()

        work(worker, step)
        assert where(worker.redis) == {}


def test_after_an_outage_nobody_is_dead_until_the_living_could_be_heard(tmp_path: Path) -> None:
    """Redis was unavailable for longer than a heartbeat lasts: every heartbeat is gone when it has recovered."""
    with Valkey(tmp_path / "valkey") as valkey:
        worker = Worker(valkey.url, QUEUE, "test", "w1", "here", Limits(heartbeat=2))
        worker.queue.add({"n": "ours"})
        other = JobQueue(worker.redis, QUEUE, "w2")
        other.add({"n": "theirs"})

        def step(job: Job) -> None:
            assert other.claim(1) is not None
            other.register()
            valkey.kill()
            time.sleep(1)  # beats fail
            valkey.start()

            def is_steady() -> bool:
                waiting = worker.redis.llen(QUEUE)
                steady = worker.steady_seconds()  # looked at last: it is no less than it was
                assert waiting == 0 or steady >= 2  # until then w2 could still be heard
                return steady > 1.5

            wait_until(is_steady, "a while without a break")
            wait_until(lambda: worker.redis.llen(QUEUE) == 1, "the job of w2, which stays silent")
            worker.queue.settle(job)
            worker.stop.set()

        work(worker, step)


def test_a_long_step_says_that_it_goes_on_and_ends_when_the_worker_is_to_stop(worker: Worker) -> None:
    worker.heartbeat._moved = 0.0
    worker.moved(17)
    assert worker.heartbeat._moved > 0
    worker.stop.set()
    with pytest.raises(Stopping):
        worker.moved(1)


def test_it_shows_what_it_does(redis: Any, worker: Worker) -> None:
    worker.doing("reading a.mp3")
    worker.heartbeat.beat()
    state = heartbeat_of(redis)
    assert (state["role"], state["host"], state["pid"]) == ("test", "here", os.getpid())
    assert (state["queue"], state["doing"]) == (QUEUE, "reading a.mp3")
    assert redis.ttl(job_queue.heartbeat_key("w1")) in (LIMITS.heartbeat - 1, LIMITS.heartbeat)


def test_it_warns_of_settings_that_lose_jobs(redis: Any, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        worker.stop.set()
        work(worker, lambda job: None)
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "Redis may evict jobs: maxmemory-policy is allkeys-lru, set it to noeviction"
    ]


# --- systemd --------------------------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """systemd's end of the notification socket."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    address = str(tmp_path / "notify") if request.param == "path" else f"@test-{os.getpid()}"
    listener.bind(address.replace("@", "\0"))
    listener.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    yield listener
    listener.close()


def notified(listener: Any) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(listener.recv(4096).decode())
        except BlockingIOError:
            return messages


def test_systemd_is_notified_of_any_path(worker: Worker, systemd: Any) -> None:
    worker.doing("copying half \ud800.tar")
    assert notified(systemd) == ["STATUS=copying half ?.tar"]


def test_it_tells_systemd_how_it_is(fleet: Fleet, systemd: Any) -> None:
    worker = make(fleet, limits=Limits(heartbeat=1))
    worker.queue.add({"n": 1})
    messages: list[str] = []

    def is_watched() -> bool:
        messages.extend(notified(systemd))
        return "WATCHDOG=1" in messages

    def step(job: Job) -> None:
        worker.doing("reading\na.mp3")
        wait_until(is_watched, "the watchdog")
        worker.queue.settle(job)
        worker.stop.set()

    work(worker, step)
    messages += notified(systemd)
    assert [message for message in messages if message != "WATCHDOG=1"] == [
        "READY=1", "STATUS=idle", "STATUS=reading a.mp3", "STOPPING=1"
    ]  # fmt: skip


def test_it_lets_systemd_restart_a_worker_that_is_stuck(fleet: Fleet, systemd: Any) -> None:
    worker = make(fleet, limits=Limits(heartbeat=1, stall=0))
    worker.queue.add({"n": 1})

    def step(job: Job) -> None:
        worker.redis.delete(job_queue.heartbeat_key("w1"))
        wait_until(lambda: bool(worker.redis.exists(job_queue.heartbeat_key("w1"))), "a heartbeat")
        worker.queue.settle(job)
        worker.stop.set()

    work(worker, step)
    assert "WATCHDOG=1" not in notified(systemd)


@pytest.mark.parametrize("address", ["", "/not/there"])
def test_it_needs_no_systemd(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")
