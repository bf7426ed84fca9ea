"""The queue and the batches, in any order of events, beside the model of what they must hold (model.py).

Lines of work stop before each command, so that any other may come between two commands of one call; commands are
lost on their way, done unheard, or come late; processes die where they stand. After every event Redis must hold
what the model says, and every state must be one from which the workers come to an end.

MODEL_CASES=5000 ./test -k faults/test_model    at length, with other cases each time (or LONG_TESTS=1)
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from pipeline import redis_client
from pipeline.errors import LostClaim
from pipeline.job_queue import Job, encode, heartbeat_key
from tests.faults.lines import DONE, LATE, UNHEARD, UNSENT, answer
from tests.faults.model import LATER, LOST
from tests.faults.world import FOREGONE, UNPACK, Process, World
from tests.servers import Valkey

HOW = st.sampled_from(
    ("settle", "hand on", "retry", "retry later", "give back", "give back later", "keep", "bury")
)
LONG = os.environ.get("LONG_TESTS") == "1"
CASES = int(os.environ.get("MODEL_CASES", "3000" if LONG else "150"))
QUEUE = "queue:transcribe"
ROUNDS = 60  # of every worker without a fault: by then all must be quiet

fates = st.sampled_from((DONE, UNSENT, UNHEARD, LATE))
# How many steps a line takes at once, and what becomes of the step after them.
ways = st.one_of(st.just((FOREGONE, DONE)), st.tuples(st.integers(0, 5), fates))
numbers = st.integers(0, 11)


def which(choices: Any, number: int) -> Any:
    """One of them, by a number of any size."""
    choices = list(choices)
    return choices[number % len(choices)]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def plain(valkey: Valkey) -> Iterator[Any]:
    client = redis_client.connect(valkey.url)
    yield client
    client.close()


def run(machine: Any, cases: int, steps: int) -> None:
    run_machine(
        machine,
        settings=settings(
            max_examples=cases,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=not LONG and "MODEL_CASES" not in os.environ,
            suppress_health_check=list(HealthCheck),
        ),
    )


class Machine(RuleBasedStateMachine):
    """What both machines share: time, late commands, and lines that go on."""

    world: World

    @precondition(lambda self: self.world.lines)
    @rule(line=numbers, way=ways)
    def go_on(self, line: int, way: tuple[int, str]) -> None:
        self.world.run(which(self.world.lines, line), *way)

    @precondition(lambda self: self.world.client.floating)
    @rule(number=numbers)
    def arrive(self, number: int) -> None:
        """A command reaches the server whose client has long given it up."""
        floating = self.world.client.floating
        floating.pop(number % len(floating))()

    @rule()
    def time_passes(self) -> None:
        self.world.time_passes()

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        self.world.check()


# --- calls ----------------------------------------------------------------------------------------------

WORKERS = {"w1": "here", "w2": "here", "w3": "there"}
FILES = {"empty": 0, "one": 1, "three": 3}
JOBS = [(batch, f"{n}.mp3") for batch, total in FILES.items() for n in range(total)]
workers, files, batches = st.sampled_from(sorted(WORKERS)), st.sampled_from(JOBS), st.sampled_from(sorted(FILES))
outcomes = st.sampled_from(("processed", "failed"))


def file_job(batch: str, name: str) -> dict[str, Any]:
    return {"batch_id": batch, "audio_id": None, "opus_path": f"/data/{batch}/{name}", "original_filename": name}


class Calls(Machine):
    """Any call of `JobQueue` and `Batches` at any time, in the worst order: of late and repeated acknowledgements,
    by workers that were taken for dead, by hosts that have lost their batch."""

    def __init__(self, plain: Any) -> None:
        super().__init__()
        self.world = World(plain, [QUEUE, UNPACK])
        for worker, host in WORKERS.items():
            self.world.begin(worker, host, QUEUE)

    def call(self, process: Process, name: str, work: Callable[[], Any], way: tuple[int, str]) -> None:
        self.world.run(self.world.spawn(process, name, work), *way)

    @property
    def processes(self) -> dict[str, Process]:
        return self.world.processes

    # --- the queue -------------------------------------------------------------------------------------

    @rule(worker=workers, file=files)
    def add(self, worker: str, file: tuple[str, str]) -> None:
        if process := self.processes.get(worker):
            self.call(process, "add", lambda: process.queue.add(file_job(*file)), (FOREGONE, DONE))

    @rule(worker=workers, kept=st.booleans(), way=ways)
    def claim(self, worker: str, kept: bool, way: tuple[int, str]) -> None:
        process = self.processes.get(worker)
        if process is not None and process.claiming is None:
            process.claiming = self.world.spawn(process, "claim", lambda: self.claimed(process, kept))
            self.world.run(process.claiming, *way)

    def claimed(self, process: Process, kept: bool = False) -> bool:
        """Claim a job and look at it; gives whether there was one."""
        job = process.queue.claim_kept() if kept else process.queue.claim(1)
        if job is None:
            return False
        model = self.world.model.queues[QUEUE]
        assert model.attempts[job.payload] == (job.attempts, job.token)
        assert job.payload in model.of(process.id)
        assert any(held is job for held in process.queue.in_hand)
        process.handles.append(job)
        if job.payload in process.left_over:
            process.left_over.remove(job.payload)
        return True

    @rule(worker=workers, number=numbers, way=ways, how=HOW)
    def leave(self, worker: str, number: int, how: str, way: tuple[int, str]) -> None:
        process = self.processes.get(worker)
        if process is None or not process.handles:
            return
        queue, job = process.queue, which(process.handles, number)

        def work() -> None:
            changed = {
                "settle": lambda: queue.settle(job),
                "hand on": lambda: queue.settle(job, UNPACK, {"n": 1}),
                "retry": lambda: queue.retry(job, 0),
                "retry later": lambda: queue.retry(job, LATER),
                "give back": lambda: queue.give_back(job),
                "give back later": lambda: queue.give_back(job, LATER),
                "keep": lambda: queue.keep(job),
                "bury": lambda: queue.bury(job, "why"),
            }[how]()
            self.left(process, job, changed)

        self.call(process, how, work, way)

    def left(self, process: Process, job: Job, changed: bool) -> None:
        assert changed is bool(answer())
        assert not any(held is job for held in process.queue.in_hand)

    @rule(worker=workers, way=ways)
    def recover(self, worker: str, way: tuple[int, str]) -> None:
        if process := self.processes.get(worker):
            self.call(process, "recover", process.queue.recover, way)

    # --- workers and hosts -----------------------------------------------------------------------------

    @rule(worker=workers)
    def fall_silent(self, worker: str) -> None:
        self.world.fall_silent(worker)

    @rule(worker=workers, way=ways)
    def beat(self, worker: str, way: tuple[int, str]) -> None:
        if process := self.processes.get(worker):
            self.call(process, "beat", self.world.beat(process), way)

    @rule(worker=workers)
    def die(self, worker: str) -> None:
        if process := self.processes.get(worker):
            self.world.die(process)

    @rule(worker=workers)
    def stop(self, worker: str) -> None:
        """As on SIGTERM: what is in hand is kept, uncounted."""
        process = self.processes.get(worker)
        if process is None:
            return
        self.world.kill(process)

        def work() -> None:
            for job in list(process.queue.in_hand):
                self.left(process, job, process.queue.keep(job))

        self.call(process, "stop", work, (FOREGONE, DONE))
        self.world.die(process)

    @rule(worker=workers, way=ways)
    def start(self, worker: str, way: tuple[int, str]) -> None:
        """Another run of the worker: after its death, or beside one that lives, once its heartbeat has run out."""
        world = self.world
        process = world.process(worker, WORKERS[worker], QUEUE)

        def work() -> None:
            held = take(keys=[heartbeat_key(worker)], args=[process.state, 3600, ""])
            if held is not None and held not in world.alive:
                held = take(keys=[heartbeat_key(worker)], args=[process.state, 3600, held])
            if held is None:
                world.enter(process)

        take = redis_client.script(world.client, "take_identity")
        self.call(process, "start", work, way)

    # --- batches ---------------------------------------------------------------------------------------

    @rule(worker=workers, batch=batches, way=ways, how=st.sampled_from(
        ("adopt", "open", "close", "abandon", "finish")))  # fmt: skip
    def on_batch(self, worker: str, batch: str, how: str, way: tuple[int, str]) -> None:
        process = self.processes.get(worker)
        if process is None:
            return
        ours = process.batches

        def work() -> None:
            match how:
                case "adopt":
                    unpack_job = Job(encode({"batch_id": batch}), 1, "token")
                    assert ours.adopt(batch, f"archives/{batch}.tar", unpack_job) is (answer() == "adopted")
                case "open":
                    self.fenced(lambda: ours.open(batch, FILES[batch]), "foreign")
                case "close":
                    assert ours.close(batch) is bool(answer())
                case "abandon":
                    assert ours.abandon(batch) is bool(answer())
                case "finish":
                    for finished in ours.finishing():
                        if ours.is_finishing(finished):
                            ours.close(finished)

        self.call(process, how, work, way)

    def fenced(self, call: Callable[[], None], foreign: Any) -> None:
        """A call that is refused to a host that does not own the batch, and to no other."""
        try:
            call()
        except LostClaim:
            assert answer() == foreign
        else:
            assert answer() != foreign

    @rule(worker=workers, file=files, way=ways)
    def push(self, worker: str, file: tuple[str, str], way: tuple[int, str]) -> None:
        if process := self.processes.get(worker):
            ours, job = process.batches, file_job(*file)
            self.call(process, "push", lambda: self.fenced(lambda: ours.push(file[0], QUEUE, job), -1), way)

    @rule(worker=workers, file=files, outcome=outcomes, way=ways)
    def settle_file(self, worker: str, file: tuple[str, str], outcome: str, way: tuple[int, str]) -> None:
        process = self.processes.get(worker)
        if process is None:
            return

        def work() -> None:
            assert process.batches.settle(*file, outcome) == answer()

        self.call(process, "settle file", work, way)

    @rule(worker=workers, number=numbers, outcome=outcomes, letter=st.booleans(), way=ways)
    def settle_job(self, worker: str, number: int, outcome: str, letter: bool, way: tuple[int, str]) -> None:
        process = self.processes.get(worker)
        if process is None or not process.handles:
            return
        queue, job = process.queue, which(process.handles, number)
        batch, name = job.fields["batch_id"], job.fields["original_filename"]

        def work() -> None:
            text = queue.letter(job, "why") if letter else ""
            assert process.batches.settle_job(queue, job, batch, name, outcome, text) == answer()
            assert not any(held is job for held in queue.in_hand)

        self.call(process, "settle job", work, way)

    @rule(worker=workers, file=files, way=ways)
    def ask(self, worker: str, file: tuple[str, str], way: tuple[int, str]) -> None:
        if process := self.processes.get(worker):
            self.call(process, "ask", lambda: self.wants(process, *file), way)

    def wants(self, process: Process, batch: str, name: str) -> None:
        """A file that no event has touched meanwhile is wanted where it is queued, ours and not settled."""
        events = self.world.events
        wanted = process.batches.wants(batch, name)
        if self.world.events == events + 4:
            now = self.world.model.batches.get(batch)
            is_ours = now is not None and now.host == process.host and now.total is not None
            assert wanted is bool(is_ours and now and name in now.queued - now.settled)

    @rule(host=st.sampled_from(sorted(set(WORKERS.values()))))
    def lose_host(self, host: str) -> None:
        self.world.lose_host(host)

    @rule(worker=workers, way=ways)
    def take_over(self, worker: str, way: tuple[int, str]) -> None:
        process = self.processes.get(worker)
        if process is None:
            return
        finished: list[str] = []
        self.call(process, "take over", lambda: process.batches.take_over(UNPACK, LOST, finished.append), way)

    # --- the end ---------------------------------------------------------------------------------------

    def teardown(self) -> None:
        try:
            self.world.end(*self.world.lines)
            self.all_is_settled_in_the_end()
        finally:
            self.world.close()

    def all_is_settled_in_the_end(self) -> None:
        """The workers that live, and one that starts, settle every job, however it was left."""
        world, queue = self.world, self.world.model.queues[QUEUE]
        for worker in WORKERS.keys() - self.processes.keys():
            world.fall_silent(worker)
        if not self.processes:
            world.begin("w1", "here", QUEUE)
        self.arrive_at_last()
        for _ in range(ROUNDS):
            world.time_passes()
            for process in list(self.processes.values()):
                world.end(world.spawn(process, "beat", world.beat(process)))
                world.end(world.spawn(process, "recover", process.queue.recover))
                world.end(world.spawn(process, "work", partial(self.settle_all, process)))
            if not queue.places():
                break
        assert not queue.places()
        assert not queue.attempts
        world.check()

    def arrive_at_last(self) -> None:
        """What is late finds a job to move, for workers that have claimed since."""
        for process in self.processes.values():
            self.world.end(self.world.spawn(process, "claim", partial(self.claimed, process)))
        for late in self.world.client.floating:
            self.world.end(self.world.spawn(process, "add", partial(process.queue.add, file_job("one", "0.mp3"))))
            late()
        for process in self.processes.values():
            process.queue._next_look = 0.0  # a minute has passed

    def settle_all(self, process: Process) -> None:
        while self.claimed(process):
            pass
        for job in process.queue.in_hand:
            process.queue.settle(job)


def test_any_call_at_any_time_does_what_the_model_says(plain: Any) -> None:
    run(lambda: Calls(plain), CASES, 50)
