"""The queue and the batches, in any order of events, beside the model of what they must hold (model.py).

Lines of work stop before each command, so that any other may come between two commands of one call; commands are
lost on their way, done unheard, or come late; processes die where they stand. After every event Redis must hold
what the model says, and every state must be one from which the workers come to an end.

MODEL_CASES=5000 ./test -k faults/test_model    at length, with other cases each time (or LONG_TESTS=1)
"""

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim
from pipeline.jobs.job_queue import Job, encode, heartbeat_key
from pipeline.jobs.lost_hosts import LostHosts
from pipeline.operations import host_drain
from tests.faults.lines import DONE, LATE, UNHEARD, UNSENT, Line, answer
from tests.faults.model import LATER, LOST
from tests.faults.stories import (
    AWAY,
    BATCHES,
    FAILS,
    REFUSED,
    Host,
    Rows,
    Stories,
    enqueue,
    names_in,
    transcribe_queue,
)
from tests.faults.world import FOREGONE, UNPACK, Process, World
from tests.support.servers import Valkey
from tests.support.steps import AT_LENGTH

HOW = st.sampled_from(
    ("settle", "hand on", "retry", "retry later", "give back", "give back later", "keep", "dead_letter")
)
CASES = int(os.environ.get("MODEL_CASES", "3000" if AT_LENGTH else "60"))
AGAIN = st.sampled_from(("hand back", "hand back as seen", "requeue"))
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
            derandomize=not AT_LENGTH and "MODEL_CASES" not in os.environ,
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
        self.world.arrive(which(self.world.client.floating, number))

    @rule()
    def time_passes(self) -> None:
        self.world.time_passes()

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            if not self.world.has_failed:
                self.world.end(*self.world.lines)
                self.come_to_an_end()
        finally:
            self.world.close()

    def come_to_an_end(self) -> None:
        """From here on without faults."""
        raise NotImplementedError


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

    def living(self, number: int) -> Process:
        return which(self.processes.values(), number)

    # --- the queue -------------------------------------------------------------------------------------

    @rule(number=numbers, file=files)
    def add(self, number: int, file: tuple[str, str]) -> None:
        process = self.living(number)
        self.call(process, "add", lambda: process.queue.add(file_job(*file)), (FOREGONE, DONE))

    def claimers(self) -> list[Process]:
        """Who may claim, and will be given something."""
        queue = self.world.model.queues[QUEUE]
        idle = (process for process in self.processes.values() if process.claiming is None)
        return [process for process in idle if queue.waiting or queue.delayed or queue.of(process.id)]

    @precondition(lambda self: self.claimers())
    @rule(number=numbers, kept=st.sampled_from((False, False, True)), way=ways)
    def claim(self, number: int, kept: bool, way: tuple[int, str]) -> None:
        process = which(self.claimers(), number)
        process.claiming = self.world.spawn(process, "claim", lambda: self.claimed(process, kept))
        self.world.run(process.claiming, *way)

    def claimed(self, process: Process, kept: bool = False) -> bool:
        """Claim a job and look at it; gives whether there was one."""
        job = process.queue.claim_kept() if kept else process.queue.claim(1)
        if job is None:
            return False
        model = self.world.model.queues[QUEUE]
        assert (len(model.attempts[job.payload]), model.attempts[job.payload][-1]) == (job.attempts, job.token)
        assert job.payload in model.of(process.id)
        assert any(held is job for held in process.queue.in_progress)
        process.handles.append(job)
        return True

    def holders(self) -> list[tuple[Process, Job]]:
        """Every job that a living process was given, also those that it has left or lost, the last first."""
        return [(process, job) for process in self.processes.values() for job in reversed(process.handles)]

    @precondition(lambda self: self.holders())
    @rule(number=numbers, way=ways, how=HOW)
    def leave(self, number: int, how: str, way: tuple[int, str]) -> None:
        process, job = which(self.holders(), number)
        queue = process.queue

        def work() -> None:
            changed = {
                "settle": lambda: queue.settle(job),
                "hand on": lambda: queue.settle(job, UNPACK, {"n": 1}),
                "retry": lambda: queue.retry(job, 0),
                "retry later": lambda: queue.retry(job, LATER),
                "give back": lambda: queue.give_back(job),
                "give back later": lambda: queue.give_back(job, LATER),
                "keep": lambda: queue.keep(job),
                "dead_letter": lambda: queue.dead_letter(job, "why"),
            }[how]()
            self.left(process, job, changed)

        self.call(process, how, work, way)

    def left(self, process: Process, job: Job, changed: bool) -> None:
        assert answer() or not changed
        assert not any(held is job for held in process.queue.in_progress)

    # --- workers and hosts -----------------------------------------------------------------------------

    @rule(number=numbers, way=ways, lost=st.sampled_from((None, None, *WORKERS)))
    def recover(self, number: int, way: tuple[int, str], lost: str | None) -> None:
        """Take back the jobs of the silent; of one that falls silent now, where there is one."""
        if lost:
            self.world.fall_silent(lost)
        process = self.living(number)
        self.call(process, "recover", process.queue.recover, way)

    @rule(number=numbers, way=ways)
    def beat(self, number: int, way: tuple[int, str]) -> None:
        process = self.living(number)
        self.call(process, "beat", self.world.beat(process), way)

    @rule(number=numbers, how=st.sampled_from(("dies", "stops")), silent=st.booleans(), way=ways)
    def end(self, number: int, how: str, silent: bool, way: tuple[int, str]) -> None:
        """The worker's process ends. It comes again, at once or in a while."""
        process = self.living(number)

        self.world.kill(process)
        if how == "stops":
            self.call(process, how, lambda: self.world.leave(process), way)
        self.world.die(process)
        if silent:
            self.world.fall_silent(process.id)
        self.start(process.id, way)

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
        if not self.processes:
            world.begin(worker, WORKERS[worker], QUEUE)

    # --- batches ---------------------------------------------------------------------------------------

    @rule(number=numbers, batch=batches, way=ways, how=st.sampled_from(
        ("adopt", "open", "unpack", "unpack", "close", "finish")))  # fmt: skip
    def on_batch(self, number: int, batch: str, how: str, way: tuple[int, str]) -> None:
        process = self.living(number)
        ours = process.batches

        def adopt() -> None:
            unpack_job = Job(encode({"batch_id": batch}), 1, "token")
            assert ours.adopt(batch, f"archives/{batch}.tar", unpack_job) is (answer() == "adopted")

        def work() -> None:
            match how:
                case "adopt":
                    adopt()
                case "open":
                    self.fenced(lambda: ours.open(batch, FILES[batch]), "foreign")
                case "unpack":
                    adopt()
                    self.fenced(lambda: ours.open(batch, FILES[batch]), "foreign")
                    for name in sorted(name for of, name in JOBS if of == batch):
                        self.fenced(functools.partial(ours.push, batch, QUEUE, file_job(batch, name)), -1)
                case "close":
                    assert ours.close(batch) is bool(answer())
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

    @rule(number=numbers, file=files, way=ways)
    def push(self, number: int, file: tuple[str, str], way: tuple[int, str]) -> None:
        process = self.living(number)
        ours, job = process.batches, file_job(*file)
        self.call(process, "push", lambda: self.fenced(lambda: ours.push(file[0], QUEUE, job), -1), way)

    @rule(number=numbers, file=files, outcome=outcomes, way=ways)
    def settle_file(self, number: int, file: tuple[str, str], outcome: str, way: tuple[int, str]) -> None:
        process = self.living(number)

        def work() -> None:
            assert process.batches.settle(*file, outcome) == answer()

        self.call(process, "settle file", work, way)

    @precondition(lambda self: self.holders())
    @rule(number=numbers, outcome=outcomes, dead_letter=st.booleans(), way=ways)
    def settle_job(self, number: int, outcome: str, dead_letter: bool, way: tuple[int, str]) -> None:
        process, job = which(self.holders(), number)
        queue = process.queue
        batch, name = job.fields["batch_id"], job.fields["original_filename"]

        def work() -> None:
            text = queue.letter(job, "why") if dead_letter else ""
            result = process.batches.settle_job(queue, job, batch, name, outcome, text)
            assert result == answer() or (result == "lost" and outcome == "processed")  # then it counts no more
            assert not any(held is job for held in queue.in_progress)

        self.call(process, "settle job", work, way)

    @precondition(lambda self: self.holders())
    @rule(number=numbers, way=ways)
    def abandon(self, number: int, way: tuple[int, str]) -> None:
        process, job = which(self.holders(), number)
        batch = job.fields["batch_id"]

        def work() -> None:
            assert process.batches.abandon(process.queue, job, batch) is bool(answer())

        self.call(process, "abandon", work, way)

    @rule(number=numbers, file=files, way=ways)
    def ask(self, number: int, file: tuple[str, str], way: tuple[int, str]) -> None:
        process = self.living(number)
        self.call(process, "ask", lambda: self.wants(process, *file), way)

    def wants(self, process: Process, batch: str, name: str) -> None:
        """A file that no event has touched meanwhile is wanted where it is queued, ours and not settled."""
        events = self.world.events
        wanted = process.batches.wants(batch, name)
        if self.world.events == events + 4:
            now = self.world.model.batches.get(batch)
            is_ours = now is not None and now.host == process.host and now.total is not None
            assert wanted is bool(is_ours and now and name in now.queued - now.settled)

    @rule(number=numbers, lost=st.sampled_from((None, *sorted(set(WORKERS.values())))), way=ways)
    def take_over(self, number: int, lost: str | None, way: tuple[int, str]) -> None:
        """Take over the batches of hosts that are lost; of one that was not heard for long, where there is one."""
        if lost:
            self.world.lose_host(lost)
        process, finished = self.living(number), list[str]()
        self.call(
            process, "take over", lambda: LostHosts(process.batches).take_over(UNPACK, LOST, finished.append), way
        )

    @rule(number=numbers, batch=batches, how=AGAIN, way=ways)
    def queue_again(self, number: int, batch: str, how: str, way: tuple[int, str]) -> None:
        """As an operator does (`pipelinectl drain`, `retry` and `reconcile`)."""
        ours, job = self.living(number).batches, {"batch_id": batch}
        now = self.world.model.batches.get(batch)
        seen = ("*", "*", "*", "*") if how == "hand back" or now is None else (now.host, *now.counts())

        def work() -> None:
            if how == "requeue":
                assert ours.requeue(UNPACK, job) is bool(answer())
            else:
                assert ours.hand_back(UNPACK, batch, encode(job), *seen) is bool(answer())

        self.call(self.living(number), how, work, way)

    # --- the end ---------------------------------------------------------------------------------------

    def come_to_an_end(self) -> None:
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
                world.end(world.spawn(process, "work", functools.partial(self.settle_all, process)))
            if not queue.places():
                break
        assert not queue.places()
        assert not queue.attempts
        world.check()

    def arrive_at_last(self) -> None:
        """What is late finds a job to move, for workers that have claimed since."""
        for process in self.processes.values():
            self.world.end(self.world.spawn(process, "claim", functools.partial(self.claimed, process)))
        for late in list(self.world.client.floating):
            self.world.end(
                self.world.spawn(process, "add", functools.partial(process.queue.add, file_job("one", "0.mp3")))
            )
            self.world.arrive(late)
        for process in self.processes.values():
            process.queue._next_look = 0.0  # a minute has passed

    def settle_all(self, process: Process) -> None:
        while self.claimed(process):
            pass
        for job in process.queue.in_progress:
            process.queue.settle(job)


def test_any_call_at_any_time_does_what_the_model_says(plain: Any) -> None:
    run(lambda: Calls(plain), CASES, 50)


# --- journeys -------------------------------------------------------------------------------------------

FLEET = {"u1": "here", "u2": "here", "g1": "here", "g2": "here", "u3": "there", "g3": "there"}
work_fates = st.sampled_from((DONE, UNSENT, UNHEARD, LATE, FAILS, REFUSED, AWAY))
HOUSEWORK = {  # of whom it is enough in the end
    **dict.fromkeys(("u1", "u3"), ("recover", "finish", "sweep", "take over")),
    **dict.fromkeys(("g1", "g3"), ("recover",)),
}
archives = st.tuples(st.sampled_from(sorted(BATCHES)), st.sampled_from((0, 0, 1)))
stretches = st.one_of(st.just((FOREGONE, DONE)), st.tuples(st.sampled_from((0, 1, 2, 4, 8, 16)), work_fates))


class Journeys(Machine):
    """Archives on their way through the workers of two hosts, each at its own pace, while everything fails."""

    def __init__(self, plain: Any, folder: Path) -> None:
        super().__init__()
        queues = [UNPACK, *(transcribe_queue(host) for host in ("here", "there"))]
        self.world = World(plain, queues)
        scratches = {name: Host(name, folder / name) for name in ("here", "there")}
        self.stories = Stories(self.world, Rows(), scratches)
        self.returns = True
        self.sent: list[str] = []
        for worker in FLEET:
            self.start(worker)

    @initialize(returns=st.booleans(), sent=st.lists(archives, min_size=1, max_size=4))
    def set_out(self, returns: bool, sent: list[tuple[str, int]]) -> None:
        self.returns = returns  # whether `there` does, in the end
        for archive in sent:
            self.enqueue(archive)

    @property
    def processes(self) -> dict[str, Process]:
        return self.world.processes

    # --- events ----------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.sent) < 6)
    @rule(archive=archives)
    def enqueue(self, archive: tuple[str, int]) -> None:
        self.sent.append(archive[0])
        enqueue(self.world, *archive)

    def idle(self) -> list[Process]:
        """Who will find something to work on."""
        found = []
        for process in self.processes.values():
            queue = self.world.model.queues[process.queue.name]
            if self.may_claim(process) and (queue.waiting or queue.of(process.id)):
                found.append(process)
        return found

    def may_claim(self, process: Process) -> bool:
        if process.claiming is not None:
            return False
        if process.id.startswith("u"):
            return not any(line.process is process and line.name.endswith("unpack") for line in self.world.lines)
        return not any(job.attempts > 1 for job in process.queue.in_progress)  # that one is worked on alone

    def take_up(self, process: Process) -> Line:
        """A line that works on the worker's next job."""
        if process.id.startswith("u"):
            process.claiming = self.world.spawn(process, "unpack", lambda: self.stories.unpack(process))
        else:
            process.claiming = self.world.spawn(process, "transcribe", lambda: self.stories.transcribe(process))
        return process.claiming

    @precondition(lambda self: self.idle())
    @rule(number=numbers, way=stretches)
    def work(self, number: int, way: tuple[int, str]) -> None:
        self.world.run(self.take_up(which(self.idle(), number)), *way)

    @precondition(lambda self: self.idle())
    @rule(number=numbers, way=stretches)
    def work_as_well(self, number: int, way: tuple[int, str]) -> None:
        """Most of what happens is work."""
        self.work(number, way)

    @precondition(lambda self: self.world.lines)
    @rule(line=numbers, way=stretches)
    def go_on(self, line: int, way: tuple[int, str]) -> None:
        self.world.run(which(self.world.lines, line), *way)

    @rule(number=numbers, what=st.sampled_from(("beat", "finish", "sweep")), way=stretches)
    def maintain(self, number: int, what: str, way: tuple[int, str]) -> None:
        self.house(which(self.processes.values(), number), what, way)

    @rule(number=numbers, lost=st.sampled_from((None, None, *FLEET)), way=stretches)
    def recover(self, number: int, lost: str | None, way: tuple[int, str]) -> None:
        """Take back the jobs of the silent; of one that falls silent now, where there is one."""
        if lost:
            self.world.fall_silent(lost)
        self.house(which(self.processes.values(), number), "recover", way)

    @rule(number=numbers, lost=st.sampled_from((None, "here", "there")), way=stretches)
    def take_over(self, number: int, lost: str | None, way: tuple[int, str]) -> None:
        """Take over the batches of hosts that are lost; of one that was not heard for long, where there is one."""
        if lost:
            self.world.lose_host(lost)
        self.house(which(self.processes.values(), number), "take over", way)

    @rule(number=numbers, host=st.sampled_from(("here", "there")), way=stretches)
    def hand_back(self, number: int, host: str, way: tuple[int, str]) -> None:
        """An operator has the open batches of a host unpacked elsewhere, or there, while it works on."""
        process = which(self.processes.values(), number)
        work = functools.partial(host_drain.hand_back, self.world.client, host, UNPACK)
        self.world.run(self.world.spawn(process, "hand back", work), *way)

    def house(self, process: Process, what: str, way: tuple[int, str] = (FOREGONE, DONE)) -> None:
        work: Callable[[], Any] = {
            "beat": self.world.beat(process),
            "recover": process.queue.recover,
            "finish": lambda: self.stories.finish(process),
            "sweep": lambda: self.stories.sweep(process),
            "take over": lambda: self.stories.take_over(process),
        }[what]
        self.world.run(self.world.spawn(process, what, work), *way)

    @rule(number=numbers, how=st.sampled_from(("dies", "stops")), returns=st.booleans())
    def end(self, number: int, how: str, returns: bool) -> None:
        """The process of a worker ends, and its next run begins, or not yet."""
        process = which(self.processes.values(), number)
        self.world.kill(process)
        if how == "stops":
            self.world.end(self.world.spawn(process, "leave", lambda: self.world.leave(process)))
        self.world.die(process)
        if returns or not self.processes:
            self.start(process.id)

    @precondition(lambda self: self.missing())
    @rule(number=numbers)
    def come_back(self, number: int) -> None:
        self.start(which(self.missing(), number))

    def missing(self) -> list[str]:
        """The workers that have no process."""
        return [worker for worker in FLEET if worker not in self.processes]

    def start(self, worker: str) -> None:
        host = FLEET[worker]
        self.world.begin(worker, host, UNPACK if worker.startswith("u") else transcribe_queue(host))

    # --- the end ---------------------------------------------------------------------------------------

    def come_to_an_end(self) -> None:
        """Without faults every file comes to its end and every key goes; `there` may be lost for good."""
        self.world.arrive(*self.world.client.floating)
        living = [worker for worker, host in FLEET.items() if self.returns or host == "here"]
        if not self.returns:
            for worker in FLEET.keys() - set(living):
                if process := self.processes.get(worker):
                    self.world.die(process)
                self.world.fall_silent(worker)
            self.world.lose_host("there")
        for worker in self.missing():
            if worker in living:
                self.start(worker)
        for _ in range(ROUNDS):
            self.world.time_passes()
            for worker in living:
                process = self.processes[worker]
                process.queue._next_look = 0.0  # a minute has passed
                for what in ("beat", *HOUSEWORK.get(worker, ())):
                    self.house(process, what)
            self.world.end(*(self.take_up(self.processes[worker]) for worker in living))
            self.world.check()
            if self.is_quiet():
                break
        model = self.world.model
        assert self.is_quiet(), f"{model.batches}, {model.queues[UNPACK]}"
        rows = self.stories.rows
        assert "processing" not in rows.status.values(), rows.status
        failed_permanently = {
            json.loads(json.loads(dead_letter)["job"])["batch_id"]
            for dead_letter in self.world.model.queues[UNPACK].dead
        }
        assert set(self.sent) <= rows.finished | failed_permanently
        for batch in rows.opened:
            assert sorted(rows.of(batch, "done", "failed")) == names_in(batch)
        for worker in living:
            self.house(self.processes[worker], "sweep")
            assert not self.stories.hosts[FLEET[worker]].files, "scratch is left"

    def is_quiet(self) -> bool:
        """Whether nothing is left to do, and no key but of those who live and of what failed."""
        model = self.world.model
        queues = [queue for name, queue in model.queues.items() if self.returns or not name.endswith("there")]
        return not (model.batches or model.finishing or any(queue.places() or queue.attempts for queue in queues))


def test_every_journey_comes_to_its_end(plain: Any, tmp_path: Path) -> None:
    numbers = itertools.count()
    run(lambda: Journeys(plain, tmp_path / str(next(numbers))), CASES, 50)
