"""Copies of one job cost it nothing: they are worked on one after the other, whoever claims them and in any order,
and an attempt is a delivery that ended badly."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis.exceptions import ConnectionError as ConnectionErrorOfRedis

from pipeline.foundation import redis_client
from pipeline.jobs.job_queue import Job, JobQueue, heartbeat_key
from tests.jobs.test_job_queue import Proxy
from tests.support.fleet import Fleet
from tests.support.steps import AT_LENGTH

QUEUE = "queue:test"
SOON = 0.01  # a claim that expects nothing
Queues = Callable[[str], JobQueue]


@pytest.fixture
def proxy(fleet: Fleet) -> Iterator[Proxy]:
    proxy = Proxy(fleet.valkey.port)
    yield proxy
    proxy.close()


def claim(queue: JobQueue) -> Job:
    """The next job, which must be there."""
    job = queue.claim(SOON)
    assert job is not None
    return job


def alive(queue: JobQueue) -> JobQueue:
    """The worker's queue; the worker is known, and has a heartbeat."""
    queue.redis.set(heartbeat_key(queue.worker_id), "{}")
    queue.register()
    return queue


def make_due(redis: Any) -> None:
    """Every delay is over."""
    for payload in redis.zrange(f"{QUEUE}:delayed", 0, -1):
        redis.zadd(f"{QUEUE}:delayed", {payload: 0})


def die(redis: Any, queue: JobQueue, by: JobQueue) -> None:
    """The worker's heartbeat runs out, and another one takes back what it had."""
    redis.delete(heartbeat_key(queue.worker_id))
    by.recover()


def left(redis: Any) -> set[str]:
    """What Redis holds beside who is alive."""
    return {key for key in redis.keys("*") if key != f"{QUEUE}:workers" and not key.startswith("worker:")}


def test_six_copies_on_six_workers_are_one_delivery_after_the_other(redis: Any, queue_of: Queues) -> None:
    workers = [alive(queue_of(f"w{n}")) for n in range(6)]
    for worker in workers:
        worker.add({"n": 1})
    for _ in range(2):  # the copies that wait have become one
        found = [(worker, job) for worker in workers if (job := worker.claim(SOON))]
        assert [job.attempts for _, job in found] == [1]
        [(worker, job)] = found
        assert worker.settle(job)
        make_due(redis)
    assert [worker.claim(SOON) for worker in workers] == [None] * 6
    assert left(redis) == set()


def test_a_job_handed_back_again_and_again_counts_nothing(redis: Any, queue_of: Queues) -> None:
    workers = [alive(queue_of(f"w{n}")) for n in range(5)]
    workers[0].add({"n": 1})
    for worker in workers[:4]:
        worker.give_back(claim(worker))
        worker.add({"n": 1})
    found = [job for worker in workers if (job := worker.claim(SOON))]
    assert [job.attempts for job in found] == [1]


def test_a_copy_waits_while_the_job_is_to_be_tried_again_later(redis: Any, queue_of: Queues) -> None:
    """Else the copies would use up its attempts within a second, in which nothing can recover."""
    queue = alive(queue_of("w1"))
    for _ in range(3):
        queue.add({"n": 1})
    assert queue.retry(claim(queue), 1000)
    due = redis.zscore(queue.delayed, '{"n": 1}')
    assert [queue.claim(SOON) for _ in range(3)] == [None] * 3
    assert redis.zscore(queue.delayed, '{"n": 1}') == due
    make_due(redis)
    assert claim(queue).attempts == 2


def test_a_copy_of_what_a_worker_has_in_hand_is_not_begun_beside_it(redis: Any, queue_of: Queues) -> None:
    queue = alive(queue_of("w1"))
    queue.add({"n": 1})
    queue.add({"n": 1})
    first = claim(queue)
    assert queue.claim(SOON) is None
    assert queue.holds(first)
    assert queue.settle(first)
    make_due(redis)
    assert claim(queue).attempts == 1


def test_a_job_queued_while_it_is_in_progress_is_delivered_once_more(redis: Any, queue_of: Queues) -> None:
    """What its sender has changed meanwhile is not lost."""
    first, second = alive(queue_of("w1")), alive(queue_of("w2"))
    first.add({"n": 1})
    job = claim(first)
    first.add({"n": 1})
    assert second.claim(SOON) is None
    assert first.settle(job)
    make_due(redis)
    assert claim(second).attempts == 1


def test_only_a_death_counts_where_there_are_copies(redis: Any, queue_of: Queues) -> None:
    workers = [alive(queue_of(f"w{n}")) for n in range(3)]
    for worker in workers:
        worker.add({"n": 1})
    claim(workers[0])
    assert [worker.claim(SOON) for worker in workers[1:]] == [None, None]
    die(redis, workers[0], by=workers[1])
    assert [worker.claim(SOON) for worker in workers[1:]] == [None, None]  # the job and its copies are one
    make_due(redis)
    assert [job.attempts for worker in workers[1:] if (job := worker.claim(SOON))] == [2]


@pytest.mark.parametrize("end", ["settle", "give_back", "keep"])
def test_a_delivery_that_was_taken_back_and_did_not_end_badly_counts_no_more(
    redis: Any, queue_of: Queues, end: str
) -> None:
    """A worker that was silent is not one that died."""
    silent, other = alive(queue_of("silent")), alive(queue_of("other"))
    silent.add({"n": 1})
    job = claim(silent)
    die(redis, silent, by=other)
    again = claim(other)
    assert again.attempts == 2
    assert getattr(silent, end)(job) is False
    assert getattr(silent, end)(job) is False  # a repeated call counts once
    assert other.retry(again, 0)
    assert claim(other).attempts == 2


def test_a_delivery_that_was_taken_back_and_failed_still_counts(redis: Any, queue_of: Queues) -> None:
    silent, other = alive(queue_of("silent")), alive(queue_of("other"))
    silent.add({"n": 1})
    job = claim(silent)
    die(redis, silent, by=other)
    assert silent.retry(job, 0) is False
    assert claim(other).attempts == 2


def test_a_job_that_was_counted_unheard_and_taken_back_counts_no_more(
    redis: Any, proxy: Proxy, queue_of: Queues
) -> None:
    silent, other = alive(JobQueue(redis_client.connect(proxy.url), QUEUE, "silent")), alive(queue_of("other"))
    silent.add({"n": 0})
    silent.settle(claim(silent))  # the scripts are loaded now
    silent.add({"n": 1})
    proxy.lose = silent._begin.sha.encode()
    with pytest.raises(ConnectionErrorOfRedis):
        silent.claim(SOON)
    die(redis, silent, by=other)
    assert silent.claim_kept() is None
    assert claim(other).attempts == 1


def test_a_copy_that_was_put_off_unheard_leaves_the_job_in_hand_alone(redis: Any, proxy: Proxy) -> None:
    queue = alive(JobQueue(redis_client.connect(proxy.url), QUEUE, "w1"))
    queue.add({"n": 1})
    queue.add({"n": 1})
    job = claim(queue)
    proxy.lose = queue._begin.sha.encode()
    with pytest.raises(ConnectionErrorOfRedis):
        queue.claim(SOON)
    assert proxy.lost == 1
    make_due(redis)
    redis.zincrby(queue.delayed, 2**40, '{"n": 1}')
    assert queue.claim(SOON) is None
    assert queue.holds(job)
    assert queue.settle(job)
    assert redis.zcard(queue.delayed) == 1


def test_what_a_release_before_has_counted_still_counts(redis: Any, queue_of: Queues) -> None:
    queue = alive(queue_of("w1"))
    queue.add({"n": 1})
    redis.hset(queue.attempts, '{"n": 1}', "2:0123456789abcdef")
    job = claim(queue)
    assert job.attempts == 3
    assert queue.give_back(job)
    assert redis.hget(queue.attempts, '{"n": 1}') == "2:0123456789abcdef"


# --- a Redis that forgets its last second ------------------------------------------------------------------


@pytest.mark.parametrize(("end", "attempts"), [("settle", 1), ("dead_letter", 1), ("keep", 1), ("retry", 2)])
def test_an_end_that_redis_forgets_is_none_that_was_bad(
    redis: Any, queue_of: Queues, end: str, attempts: int
) -> None:
    """After a failover the job is in its worker's list again, as if nobody had ended it."""
    queue = alive(queue_of("w1"))
    queue.add({"n": 1})
    job = claim(queue)
    for key in (queue.working, queue.attempts):
        redis.copy(key, f"{key} before")
    assert {
        "settle": lambda: queue.settle(job),
        "dead_letter": lambda: queue.dead_letter(job, "why"),
        "keep": lambda: queue.keep(job),
        "retry": lambda: queue.retry(job, 1000),
    }[end]()
    redis.delete(queue.delayed)
    for key in (queue.working, queue.attempts):
        redis.copy(f"{key} before", key, replace=True)
    queue._next_look = 0.0  # a minute has passed
    assert claim(queue).attempts == attempts


# --- in any order ----------------------------------------------------------------------------------------

WORKERS = ("w1", "w2", "w3", "w4")
NAMES = ("a", "b")
numbers = st.integers(0, 11)


@dataclass
class Run:
    """One run of a worker."""

    queue: JobQueue
    jobs: list[tuple[Job, int]] = field(default_factory=list)  # that it works on, and when each was begun


class Copies(RuleBasedStateMachine):
    """Workers that claim, end, die, stop, fall silent and come again in any order, while equal jobs are queued."""

    client: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.client.flushall()
        self.now = 0
        self.runs = {worker: Run(alive(JobQueue(self.client, QUEUE, worker))) for worker in WORKERS}
        self.bad: Counter[str] = Counter()  # by payload: deliveries since it was last done that ended badly
        self.silent: dict[str, set[str]] = {}  # by payload: deliveries taken back from workers that live
        self.added: dict[str, int] = {}  # when a payload was last queued
        self.done: dict[str, int] = {}  # when the last delivery that was settled had begun

    def at_work(self) -> list[tuple[Run, Job, int]]:
        return [(run, job, begun) for run in self.runs.values() for job, begun in run.jobs]

    def in_progress(self, payload: str) -> list[Job]:
        """The deliveries of a payload whose claim holds."""
        return [job for run, job, _ in self.at_work() if job.payload == payload and run.queue.holds(job)]

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        self.now += 1
        self.runs["w1"].queue.add({"name": name})
        self.added[f'{{"name": "{name}"}}'] = self.now

    @rule(worker=st.sampled_from(WORKERS))
    def claim(self, worker: str) -> None:
        run = self.runs[worker]
        run.queue._next_look = 0.0  # a minute has passed
        run.queue._promote(keys=[run.queue.delayed, QUEUE])
        if not self.client.exists(QUEUE, run.queue.working):
            return  # the server lets a claim of nothing wait for 0.1 s at least
        job = run.queue.claim_kept() or (run.queue.claim(SOON) if self.client.exists(QUEUE) else None)
        if job is None:
            return
        self.now += 1
        others = self.in_progress(job.payload)
        assert others == [] or all(self.is_silent(other) for other in others), "two at a time"
        silent = self.silent.get(job.payload, set())
        assert job.attempts == 1 + self.bad[job.payload] + len(silent), (job, self.bad, silent)
        run.jobs.append((job, self.now))

    def is_silent(self, job: Job) -> bool:
        return job.token in self.silent.get(job.payload, ())

    @precondition(lambda self: self.at_work())
    @rule(
        number=numbers,
        how=st.sampled_from(("settle", "settle", "retry", "retry later", "give back", "dead_letter")),
    )
    def end(self, number: int, how: str) -> None:
        self.leave(*self.at_work()[number % len(self.at_work())], how)

    def leave(self, run: Run, job: Job, begun: int, how: str) -> None:
        run.jobs.remove((job, begun))
        queue = run.queue
        changed = {
            "settle": lambda: queue.settle(job),
            "retry": lambda: queue.retry(job, 0),
            "retry later": lambda: queue.retry(job, 1000),
            "give back": lambda: queue.give_back(job),
            "dead_letter": lambda: queue.dead_letter(job, "why"),
        }[how]()
        if changed and how in ("settle", "dead_letter"):
            self.over(job.payload, begun)
        elif how in ("retry", "retry later", "dead_letter"):
            self.ends_badly(job)
        else:
            self.silent.get(job.payload, set()).discard(job.token)

    def over(self, payload: str, begun: int) -> None:
        self.bad[payload] = 0
        self.silent[payload] = set()
        self.done[payload] = max(begun, self.done.get(payload, 0))

    def ends_badly(self, job: Job) -> None:
        """A delivery that is not known any more, because the job was done by another, cannot count."""
        if job.token in (self.client.hget(f"{QUEUE}:attempts", job.payload) or ""):
            self.bad[job.payload] += 1
        self.silent.get(job.payload, set()).discard(job.token)

    @rule(worker=st.sampled_from(WORKERS), how=st.sampled_from(("dies", "stops")))
    def end_run(self, worker: str, how: str) -> None:
        """The worker's process ends, and its next run begins."""
        run = self.runs[worker]
        for job, _ in run.jobs:
            if how == "dies":
                self.ends_badly(job)
            else:
                run.queue.keep(job)
                self.silent.get(job.payload, set()).discard(job.token)
        self.runs[worker] = Run(alive(JobQueue(self.client, QUEUE, worker)))

    @rule(worker=st.sampled_from(WORKERS), by=st.sampled_from(WORKERS))
    def fall_silent(self, worker: str, by: str) -> None:
        """The worker is not heard for a while, works on, and does not know that its jobs were taken back."""
        if worker == by:
            return
        run = self.runs[worker]
        for job, _ in run.jobs:
            if run.queue.holds(job) and job.token in (self.client.hget(f"{QUEUE}:attempts", job.payload) or ""):
                self.silent.setdefault(job.payload, set()).add(job.token)
        die(self.client, run.queue, by=self.runs[by].queue)
        alive(run.queue)

    @rule()
    def time_passes(self) -> None:
        make_due(self.client)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Whatever is queued is delivered after that, or still to be delivered."""
        places = self.client.lrange(QUEUE, 0, -1) + self.client.zrange(f"{QUEUE}:delayed", 0, -1)
        for worker in WORKERS:
            places += self.client.lrange(f"{QUEUE}:working:{worker}", 0, -1)
        for payload, added in self.added.items():
            assert payload in places or self.done.get(payload, 0) > added, payload

    def teardown(self) -> None:
        """Without faults everything comes to its end, and no count is left."""
        for _ in range(60):
            for worker in WORKERS:
                self.claim(worker)
            for run in self.runs.values():
                while run.jobs:
                    self.leave(run, *run.jobs[0], "settle")
            make_due(self.client)
            if not left(self.client) - {f"{QUEUE}:dead"}:
                return
        raise AssertionError(left(self.client))


def test_copies_cost_a_job_nothing_in_any_order(redis: Any) -> None:
    Copies.client = redis
    run_state_machine_as_test(
        Copies,
        settings=settings(
            max_examples=1000 if AT_LENGTH else 40,
            stateful_step_count=30,
            deadline=None,
            derandomize=not AT_LENGTH,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
