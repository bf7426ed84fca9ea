"""The queue: in order, one at a time, fenced, and nothing lost when a connection or a worker dies."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.exceptions import ConnectionError as ConnectionErrorOfRedis
from redis.exceptions import OutOfMemoryError

from pipeline.foundation import redis_client
from pipeline.foundation.errors import Permanent
from pipeline.jobs import job_queue
from pipeline.jobs.job_queue import Job, JobQueue
from tests.support.fleet import Fleet

QUEUE = "queue:test"
SOON = 0.01  # a claim that expects nothing
Queues = Callable[[str], JobQueue]


def claim(queue: JobQueue) -> Job:
    """The next job, which must be there."""
    job = queue.claim(SOON)
    assert job is not None
    return job


def numbers(redis: Any, key: str) -> list[int]:
    """The `n` of the jobs in a list."""
    return [json.loads(payload)["n"] for payload in redis.lrange(key, 0, -1)]


def snapshot(redis: Any) -> dict[str, str]:
    """Everything that Redis holds, to see that nothing changed."""
    return {key: redis.dump(key) for key in redis.keys("*")}


# --- claims ---------------------------------------------------------------------------------------------


def test_it_gives_jobs_first_in_first_out(queue_of: Queues) -> None:
    queue = queue_of("w1")
    for n in range(3):
        queue.add({"n": n})
    assert queue.depth() == 3
    assert [claim(queue).fields["n"] for _ in range(3)] == [0, 1, 2]
    assert queue.claim(SOON) is None


def test_it_counts_the_attempt_before_the_work(redis: Any, queue_of: Queues) -> None:
    queue_of("w1").add({"n": 1})
    for attempt in (1, 2, 3):  # each run dies with the job in progress
        job = claim(queue_of("w1"))
        assert job.attempts == attempt
        assert redis.hget(f"{QUEUE}:attempts", job.payload).startswith(f"{attempt}:")


def test_it_counts_a_delivery_once_when_the_count_is_repeated(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    redis.rpush(queue.working, "job")
    begin = redis_client.script(redis, "begin")
    keys = [queue.working, queue.attempts, queue.workers, queue.delayed]
    counts = [begin(keys=keys, args=["job", token, "w1", 0, 1]) for token in ("a", "a", "b")]
    assert counts == [1, 1, 2]


def test_it_does_not_count_a_job_that_was_taken_back_before(redis: Any, queue_of: Queues) -> None:
    begin = redis_client.script(redis, "begin")
    keys = [f"{QUEUE}:working:w1", f"{QUEUE}:attempts", f"{QUEUE}:workers", f"{QUEUE}:delayed"]
    assert begin(keys=keys, args=["job", "token", "w1", 0, 1]) == 0
    assert not redis.keys("*")


def test_it_finds_what_its_last_run_had_in_progress_first_and_in_order(queue_of: Queues) -> None:
    for n in range(3):
        queue_of("w1").add({"n": n})
    died = queue_of("w1")
    claim(died)
    claim(died)
    born = queue_of("w1")
    assert [(job.fields["n"], job.attempts) for job in (claim(born), claim(born), claim(born))] == [
        (0, 2), (1, 2), (2, 1)
    ]  # fmt: skip
    assert born.claim(SOON) is None


# --- lost replies ---------------------------------------------------------------------------------------


class Proxy:
    """TCP to `port` that breaks the connection instead of passing on the reply to a command with `lose`."""

    def __init__(self, port: int) -> None:
        self.target, self.lose, self.lost = port, b"", 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def close(self) -> None:
        for sock in self._open:
            _shut(sock)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._open += [client, server]
            threading.Thread(target=self._serve, args=(client, server), daemon=True).start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """One request, one reply: enough for a client that pipelines nothing larger than a packet."""
        try:
            while request := client.recv(2**16):
                server.sendall(request)
                reply = server.recv(2**16)
                if self.lose and self.lose in request:
                    self.lose, self.lost = b"", self.lost + 1
                    break
                client.sendall(reply)
        except OSError:
            pass
        _shut(client)
        _shut(server)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[Proxy]:
    proxy = Proxy(fleet.valkey.port)
    yield proxy
    proxy.close()


def test_it_finds_a_job_that_was_moved_while_the_reply_was_lost(redis: Any, proxy: Proxy) -> None:
    queue = JobQueue(redis_client.connect(proxy.url), QUEUE, "w1")
    for n in range(3):
        queue.add({"n": n})
    held = claim(queue)
    proxy.lose = b"BLMOVE"
    with pytest.raises(ConnectionErrorOfRedis):
        queue.claim(SOON)
    assert proxy.lost == 1
    assert numbers(redis, queue.working) == [0, 1]
    found = claim(queue)
    assert (found.fields["n"], found.attempts) == (1, 1)
    assert claim(queue).fields["n"] == 2
    assert queue.settle(held)
    assert queue.settle(found)


def test_it_finds_a_lost_duplicate_of_the_job_in_hand(redis: Any, proxy: Proxy) -> None:
    queue = JobQueue(redis_client.connect(proxy.url), QUEUE, "w1")
    queue.add({"n": 0})
    queue.add({"n": 0})
    job = claim(queue)
    proxy.lose = b"BLMOVE"
    with pytest.raises(ConnectionErrorOfRedis):
        queue.claim(SOON)
    assert queue.claim_kept() is None
    assert (numbers(redis, queue.working), redis.zcard(queue.delayed)) == ([0], 1)
    assert queue.settle(job)


def test_it_counts_once_when_the_reply_to_the_count_was_lost(proxy: Proxy) -> None:
    queue = JobQueue(redis_client.connect(proxy.url), QUEUE, "w1")
    queue.add({"n": 0})
    assert queue.claim(SOON) is not None  # the scripts are loaded now
    queue.add({"n": 1})
    proxy.lose = queue._begin.sha.encode()
    with pytest.raises(ConnectionErrorOfRedis):
        queue.claim(SOON)
    job = claim(queue)
    assert (job.fields["n"], job.attempts) == (1, 1)


def test_it_gives_nothing_where_the_job_was_taken_back_before_the_count(
    redis: Any, proxy: Proxy, queue_of: Queues
) -> None:
    silent, other = JobQueue(redis_client.connect(proxy.url), QUEUE, "silent"), queue_of("other")
    silent.register()
    silent.add({"n": 0})
    silent.settle(claim(silent))  # the scripts are loaded now
    silent.add({"n": 1})
    proxy.lose = silent._begin.sha.encode()
    with pytest.raises(ConnectionErrorOfRedis):
        silent.claim(SOON)
    assert other.recover() == {"silent": 1}
    held = claim(other)
    assert silent.claim(SOON) is None
    assert silent.in_progress == []
    assert other.settle(held)


def test_it_hands_on_once_when_the_reply_to_the_settling_was_lost(redis: Any, proxy: Proxy) -> None:
    queue = JobQueue(redis_client.connect(proxy.url), QUEUE, "w1")
    queue.add({"n": 0})
    queue.add({"n": 1})
    assert queue.settle(claim(queue), "queue:next", {"n": 10})  # the script is loaded now
    job = claim(queue)
    proxy.lose = queue._settle.sha.encode()
    with pytest.raises(ConnectionErrorOfRedis):
        queue.settle(job, "queue:next", {"n": 11})
    assert queue.settle(job, "queue:next", {"n": 11}) is False
    assert numbers(redis, "queue:next") == [10, 11]


def test_it_loses_nothing_while_redis_is_full(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    queue.add({"n": 2})
    job = claim(queue)
    redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            queue.claim(SOON)
        assert queue.settle(job, "queue:next", {"n": 10})
    finally:
        redis.config_set("maxmemory", "0")
    assert numbers(redis, "queue:next") == [10]
    second = claim(queue)
    assert (second.fields["n"], second.attempts) == (2, 1)


# --- leaving the list -----------------------------------------------------------------------------------


def test_it_hands_on_to_the_next_queue_with_the_acknowledgement(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    job = claim(queue)
    assert queue.settle(job, "queue:next", {"n": 2})
    assert numbers(redis, "queue:next") == [2]
    assert sorted(redis.keys("*")) == ["queue:next", queue.workers]
    assert queue.in_progress == []


def test_it_forgets_the_batch_id_of_a_settled_job(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    job = claim(queue)
    redis.hset(queue.batch_ids, job.payload, "20260101-000000")
    assert queue.settle(job)
    assert not redis.exists(queue.batch_ids)


LEAVING: dict[str, Callable[[JobQueue, Job], bool]] = {
    "settle": lambda queue, job: queue.settle(job, "queue:next", {"n": 9}),
    "retry": lambda queue, job: queue.retry(job, 5),
    "retry_now": lambda queue, job: queue.retry(job, 0),
    "give_back": lambda queue, job: queue.give_back(job),
    "keep": lambda queue, job: queue.keep(job),
    "dead_letter": lambda queue, job: queue.dead_letter(job, "why"),
}


@pytest.mark.parametrize("leave", LEAVING.values(), ids=LEAVING)
def test_it_changes_nothing_for_a_job_that_another_worker_took_back(
    redis: Any, queue_of: Queues, leave: Callable[[JobQueue, Job], bool]
) -> None:
    silent, other = queue_of("silent"), queue_of("other")
    silent.register()
    silent.add({"n": 1})
    job = claim(silent)
    assert other.recover() == {"silent": 1}
    again = claim(other)
    before = snapshot(redis)
    assert leave(silent, job) is False
    assert snapshot(redis).keys() == before.keys()
    redis.delete(silent.attempts)  # whether that delivery counts: tests/jobs/test_duplicates.py
    before.pop(silent.attempts)
    assert snapshot(redis) == before
    assert silent.in_progress == []
    assert (again.attempts, other.settle(again)) == (2, True)


def test_it_lets_one_of_two_workers_settle_a_job(redis: Any, queue_of: Queues) -> None:
    silent, other = queue_of("silent"), queue_of("other")
    silent.register()
    silent.add({"n": 1})
    jobs = [(silent, claim(silent))]
    other.recover()
    jobs.append((other, claim(other)))
    assert [queue.settle(job, "queue:next", {"n": 2}) for queue, job in jobs] == [False, True]
    assert [queue.settle(job, "queue:next", {"n": 2}) for queue, job in jobs] == [False, False]
    assert numbers(redis, "queue:next") == [2]


def test_it_keeps_a_job_uncounted_for_its_next_run(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    queue.add({"n": 2})
    assert queue.keep(claim(queue))
    assert numbers(redis, queue.working) == [1]
    first = claim(queue_of("w1"))
    assert (first.fields["n"], first.attempts) == (1, 1)


def test_it_uncounts_only_the_delivery_in_hand(queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    assert queue.retry(claim(queue), 0)
    second = claim(queue)
    assert second.attempts == 2
    assert queue.give_back(second)
    assert claim(queue).attempts == 2


def test_it_uncounts_once_when_keeping_is_repeated(queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    queue.retry(claim(queue), 0)
    job = claim(queue)
    assert queue.keep(job)
    assert queue.keep(job)
    assert claim(queue_of("w1")).attempts == 2


def test_it_gives_back_to_the_front_uncounted(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    queue.add({"n": 2})
    assert queue.give_back(claim(queue))
    assert numbers(redis, QUEUE) == [1, 2]
    assert not redis.exists(queue.attempts)


def test_it_settles_identical_jobs_one_by_one(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    queue.add({"n": 1})
    job = claim(queue)
    assert queue.settle(job)
    assert queue.settle(job) is False
    assert numbers(redis, QUEUE) == [1]
    assert claim(queue).attempts == 1


def test_it_buries_with_all_that_explains_the_failure(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    queue.retry(claim(queue), 0)
    job = claim(queue)
    assert queue.dead_letter(job, "no such file")
    [dead_letter] = [json.loads(text) for text in redis.lrange(queue.dead, 0, -1)]
    assert dead_letter.pop("time").endswith("Z")
    assert dead_letter == {"job": job.payload, "error": "no such file", "attempts": 2, "worker": "w1"}
    assert sorted(redis.keys("*")) == [queue.dead, queue.workers]


# --- delays ---------------------------------------------------------------------------------------------


def test_it_delivers_a_delayed_job_when_it_is_due_and_not_before(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.add({"n": 1})
    job = claim(queue)
    assert queue.retry(job, 1000)
    assert redis.zscore(queue.delayed, job.payload) == pytest.approx(int(redis.time()[0]) + 1000, abs=2)
    assert queue.claim(SOON) is None
    redis.zincrby(queue.delayed, -1002, job.payload)
    again = claim(queue)
    assert (again.payload, again.attempts) == (job.payload, 2)
    assert not redis.exists(queue.delayed)


# --- dead workers ---------------------------------------------------------------------------------------


def test_it_takes_back_the_jobs_of_a_dead_worker_in_order_to_the_front(redis: Any, queue_of: Queues) -> None:
    dead, live = queue_of("dead"), queue_of("live")
    dead.register()
    for n in range(4):
        dead.add({"n": n})
    claim(dead)
    claim(dead)
    assert live.recover() == {"dead": 2}
    assert numbers(redis, QUEUE) == [0, 1, 2, 3]
    assert live.recover() == {}
    assert claim(live).attempts == 2


def test_it_leaves_the_jobs_of_a_live_worker_and_its_own(redis: Any, queue_of: Queues) -> None:
    live, other = queue_of("live"), queue_of("other")
    for n, queue in enumerate((live, other)):
        queue.register()
        queue.add({"n": n})
        claim(queue)
    redis.set(job_queue.heartbeat_key("live"), "{}")
    assert other.recover() == {}
    assert [numbers(redis, live.working), numbers(redis, other.working)] == [[0], [1]]


def test_it_forgets_workers_that_are_long_gone(redis: Any, queue_of: Queues) -> None:
    now = int(redis.time()[0])
    ages = {"old": job_queue.FORGET_WORKER_SECONDS + 10, "young": job_queue.FORGET_WORKER_SECONDS - 10}
    redis.zadd(f"{QUEUE}:workers", {name: now - age for name, age in ages.items()})
    queue_of("w1").register()
    queue_of("w1").recover()
    assert redis.zrange(f"{QUEUE}:workers", 0, -1) == ["young", "w1"]


def test_it_forgets_no_worker_that_still_has_a_job_in_hand(redis: Any, queue_of: Queues) -> None:
    gone, born = queue_of("gone"), queue_of("born")  # the whole fleet was off for more than a week
    gone.add({"n": 1})
    claim(gone)
    redis.zadd(gone.workers, {"gone": int(redis.time()[0]) - job_queue.FORGET_WORKER_SECONDS - 10})
    born.register()
    assert born.recover() == {"gone": 1}


# --- payloads -------------------------------------------------------------------------------------------


def test_it_says_what_is_wrong_with_a_job() -> None:
    job = Job('{"name": "", "count": "3", "extra": null}', 1, "token")
    with pytest.raises(Permanent) as caught:
        job.require(name=str, count=int, place=str)
    assert str(caught.value) == (
        "not a job of this queue: name is empty, count is not int, place is missing"
    )  # fmt: skip


@pytest.mark.parametrize("payload", ["", "not JSON", "[1]", "null", '"text"', "{", "\ud800", "[" * 100_000])
def test_it_refuses_what_is_no_json_object(payload: str) -> None:
    with pytest.raises(Permanent, match="not a JSON object"):
        Job(payload, 1, "token").require(name=str)


def test_it_gives_the_fields_with_those_that_a_newer_sender_adds() -> None:
    assert Job('{"name": "a", "new": [1]}', 1, "").require(name=str) == {"name": "a", "new": [1]}


# --- against a model ------------------------------------------------------------------------------------

WORKERS = ("w1", "w2", "w3")


class QueueMachine(RuleBasedStateMachine):
    """Any order of claims, settlings and deaths, beside plain lists that say where each job must be."""

    client: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.queues = {name: self._run_of(name) for name in WORKERS}
        self.count = 0
        self.waiting: list[str] = []
        self.delayed: list[str] = []
        self.done: list[str] = []
        self.dead_lettered: list[str] = []
        self.working: dict[str, list[str]] = {name: [] for name in WORKERS}
        self.left_over: dict[str, list[str]] = {name: [] for name in WORKERS}  # by an earlier run
        self.held: dict[str, list[Job]] = {name: [] for name in WORKERS}  # with those lost or left already
        self.attempts: dict[str, list[str]] = {}  # the deliveries that count

    def _run_of(self, name: str) -> JobQueue:
        queue = JobQueue(self.client, QUEUE, name)
        self.client.set(job_queue.heartbeat_key(name), "{}")
        queue.register()
        return queue

    @rule()
    def add(self) -> None:
        self.count += 1
        self.queues["w1"].add({"n": self.count})
        self.waiting.append(job_queue.encode({"n": self.count}))

    @rule(name=st.sampled_from(WORKERS))
    def claim_next(self, name: str) -> None:
        if self.left_over[name]:
            payload = self.left_over[name].pop(0)
        elif self.waiting:
            payload = self.waiting.pop(0)
            self.working[name].append(payload)
        else:
            return  # the server lets a claim of nothing wait for 0.1 s at least
        if any(job.payload == payload for job in self.queues[name].in_progress):
            assert self.queues[name].claim(SOON) is None  # it was taken back, and is the worker's again
            return
        job = claim(self.queues[name])
        self.attempts.setdefault(payload, []).append(job.token)
        assert (job.payload, job.attempts) == (payload, len(self.attempts[payload]))
        self.held[name].append(job)

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), how=st.sampled_from(("settle", "retry", "later", "give_back", "dead_letter")))
    def leave(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from([name for name in WORKERS if self.held[name]]))
        job = data.draw(st.sampled_from(self.held[name]))  # perhaps one that has left, or was taken back
        is_ours = job.payload in self.working[name]
        assert getattr(self, f"_{how}")(self.queues[name], job, is_ours) is is_ours
        if is_ours:
            self.working[name].remove(job.payload)

    def _settle(self, queue: JobQueue, job: Job, is_ours: bool) -> bool:
        if is_ours:
            self.done.append(job.payload)
            self.attempts.pop(job.payload, None)
        self._uncount(job)
        return queue.settle(job)

    def _dead_letter(self, queue: JobQueue, job: Job, is_ours: bool) -> bool:
        if is_ours:
            self.dead_lettered.append(job.payload)
            self.attempts.pop(job.payload, None)
        return queue.dead_letter(job, "why")

    def _retry(self, queue: JobQueue, job: Job, is_ours: bool) -> bool:
        if is_ours:
            self.waiting.insert(0, job.payload)
        return queue.retry(job, 0)

    def _later(self, queue: JobQueue, job: Job, is_ours: bool) -> bool:
        if is_ours:
            self.delayed.append(job.payload)
        return queue.retry(job, 1000)

    def _give_back(self, queue: JobQueue, job: Job, is_ours: bool) -> bool:
        if is_ours:
            self.waiting.insert(0, job.payload)
        self._uncount(job)
        return queue.give_back(job)

    def _uncount(self, job: Job) -> None:
        counted = self.attempts.get(job.payload, [])
        if job.token in counted:
            counted.remove(job.token)
        if not counted:
            self.attempts.pop(job.payload, None)

    @precondition(lambda self: self.delayed)
    @rule()
    def time_passes(self) -> None:
        for rank, payload in enumerate(self.delayed):
            self.client.zadd(f"{QUEUE}:delayed", {payload: rank}, xx=True)
        self.queues["w1"]._promote(keys=[f"{QUEUE}:delayed", QUEUE])
        self.waiting += self.delayed
        self.delayed = []

    @rule(name=st.sampled_from(WORKERS))
    def stop_and_start(self, name: str) -> None:
        for job in list(self.queues[name].in_progress):
            self._uncount(job)
            assert self.queues[name].keep(job) is (job.payload in self.working[name])
        self._start(name)

    @rule(name=st.sampled_from(WORKERS))
    def die_and_start(self, name: str) -> None:
        self._start(name)

    def _start(self, name: str) -> None:
        self.queues[name] = self._run_of(name)
        self.left_over[name] = list(self.working[name])
        self.held[name] = []

    @rule(name=st.sampled_from(WORKERS), by=st.sampled_from(WORKERS))
    def fall_silent(self, name: str, by: str) -> None:
        """The worker lives on and does not know that its jobs were taken back."""
        self.client.delete(job_queue.heartbeat_key(name))
        taken = self.queues[by].recover()
        self.client.set(job_queue.heartbeat_key(name), "{}")
        if by == name or not self.working[name]:
            assert taken == {}
            return
        assert taken == {name: len(self.working[name])}
        self.waiting = self.working[name] + self.waiting
        self.working[name], self.left_over[name] = [], []

    @invariant()
    def every_job_is_where_the_model_says_and_nowhere_else(self) -> None:
        steps = self.client.pipeline(transaction=False)
        for key in (QUEUE, f"{QUEUE}:dead", *(f"{QUEUE}:working:{name}" for name in WORKERS)):
            steps.lrange(key, 0, -1)
        steps.zrange(f"{QUEUE}:delayed", 0, -1).hgetall(f"{QUEUE}:attempts")
        waiting, dead, *working, delayed, attempts = steps.execute()
        assert waiting == self.waiting
        assert working == [self.working[name] for name in WORKERS]
        assert sorted(delayed) == sorted(self.delayed)
        assert [json.loads(dead_letter)["job"] for dead_letter in dead] == self.dead_lettered
        written = {job: f"{len(tokens)}:{' '.join([*tokens, ''])}" for job, tokens in self.attempts.items()}
        assert attempts == written

    @invariant()
    def no_job_is_lost_and_none_is_done_twice(self) -> None:
        in_progress = [payload for payloads in self.working.values() for payload in payloads]
        everywhere = [*self.waiting, *self.delayed, *in_progress, *self.done, *self.dead_lettered]
        assert sorted(everywhere) == sorted(job_queue.encode({"n": n + 1}) for n in range(self.count))


def test_it_keeps_every_job_through_any_order_of_events(redis: Any) -> None:
    QueueMachine.client = redis
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- unregister --------------------------------------------------------------------------------------------


def test_a_worker_with_nothing_in_progress_is_forgotten(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.register()
    redis.set(job_queue.heartbeat_key("w1"), "{}")
    assert queue.claim(0.01) is None
    assert queue.unregister()
    assert not redis.exists(job_queue.heartbeat_key("w1"))
    assert redis.zrange("queue:test:workers", 0, -1) == []


def test_a_worker_that_keeps_a_job_is_not_forgotten(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.register()
    queue.add({"n": 1})
    job = queue.claim(0.1)
    assert job is not None
    queue.keep(job)
    assert not queue.unregister()
    assert queue_of("w2").recover() == {"w1": 1}


def test_a_worker_whose_claim_was_not_answered_is_not_forgotten(
    redis: Any, queue_of: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = queue_of("w1")
    queue.register()
    assert queue.claim(0.01) is None

    def lost(*_: object) -> None:
        raise ConnectionErrorOfRedis("lost")

    monkeypatch.setattr(queue.redis, "blmove", lost)
    with pytest.raises(ConnectionErrorOfRedis):
        queue.claim(0.01)
    assert not queue.unregister()
    late = time.monotonic() + job_queue.LATE_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: late)
    assert queue.unregister()  # by now it has come, or never will


def test_jobs_that_arrive_in_the_list_unawares_keep_the_worker_known(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.register()
    assert queue.claim(0.01) is None
    redis.rpush(queue.working, '{"n": 1}')
    assert not queue.unregister()
    assert redis.zrange("queue:test:workers", 0, -1) == ["w1"]


def test_a_worker_that_redis_has_forgotten_is_known_again_with_its_next_job(redis: Any, queue_of: Queues) -> None:
    queue = queue_of("w1")
    queue.register()
    redis.flushall()
    queue.add({"n": 1})
    assert queue.claim(1)
    assert redis.zrange("queue:test:workers", 0, -1) == ["w1"]
    assert queue_of("w2").recover() == {"w1": 1}
