"""Worker processes on a real Valkey beside the model of it: what the tests of the model share."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ConnectionError as Away

from pipeline.jobs.batches import HOSTS, Batches
from pipeline.jobs.job_queue import Job, JobQueue, heartbeat_key
from tests.faults.lines import DONE, Client, Gone, Line
from tests.faults.model import LOST, Dump, Model, Queue, load_scripts

UNPACK = "queue:unpack"
FOREGONE = 300  # steps of a line at once: more than any needs that waits for no other


@dataclass
class Process:
    """One run of a worker."""

    id: str
    host: str
    queue: JobQueue
    batches: Batches
    state: str  # what its heartbeat says
    claiming: Line | None = None  # the one thread that claims
    left_over: list[str] = field(default_factory=list)  # by the run before it
    has_twin: bool = False  # another run has the same id, and lives
    handles: list[Job] = field(default_factory=list)  # every job that it was given


class World:
    """Valkey, its model, and the processes. `plain` is a client of the empty server, for the test's own steps."""

    def __init__(self, plain: Any, queues: Iterable[str]) -> None:
        self.plain = plain
        plain.flushall()
        self.model = Model(load_scripts(plain), {name: Queue(name) for name in queues})
        self.client = Client(self.observe, connection_pool=plain.connection_pool)
        self._dump = Dump(plain)
        self.processes: dict[str, Process] = {}
        self.lines: list[Line] = []  # those that have not ended
        self.runs, self.alive = 0, set[str]()  # of processes, by their state
        self.has_failed = False
        self.events = 0  # commands that the server has done

    # --- processes -------------------------------------------------------------------------------------

    def process(self, worker: str, host: str, queue: str) -> Process:
        """A run of a worker that has not entered yet."""
        self.runs += 1
        state = f"run {self.runs}"
        self.alive.add(state)
        return Process(worker, host, JobQueue(self.client, queue, worker), Batches(self.client, host), state)

    def enter(self, process: Process) -> None:
        """The process has its identity: it is the worker from here. One that lives on under the same is a twin."""
        if twin := self.processes.pop(process.id, None):
            twin.has_twin = process.has_twin = True
            self.processes[f"{twin.id}, {twin.state}"] = twin
        process.left_over = list(self.model.queues[process.queue.name].of(process.id))
        self.processes[process.id] = process
        self.beat(process)()

    def begin(self, worker: str, host: str, queue: str) -> Process:
        """Start a worker, or start it again."""
        process = self.process(worker, host, queue)
        self.end(self.spawn(process, "start", lambda: self.enter(process)))
        return process

    def beat(self, process: Process) -> Callable[[], None]:
        """What the heartbeat thread does, as work for a line."""

        def work() -> None:
            self.client.set(heartbeat_key(process.id), process.state)
            self.client.zadd(HOSTS, {process.host: int(self.plain.time()[0])})
            process.queue.register()

        return work

    def fall_silent(self, worker: str) -> None:
        """The worker's heartbeat runs out, whether it lives or not."""
        self.plain.delete(heartbeat_key(worker))
        self.model.heartbeats.pop(worker, None)

    def lose_host(self, host: str) -> None:
        """The host was not heard for long."""
        if host in self.model.hosts:
            self.plain.zadd(HOSTS, {host: int(self.plain.time()[0]) - LOST - 1})
            self.model.hosts[host] = "lost"

    def die(self, process: Process) -> None:
        """Kill the process where it stands."""
        self.kill(process)
        self.alive.discard(process.state)
        self.processes = {name: other for name, other in self.processes.items() if other is not process}

    def kill(self, process: Process) -> None:
        """Kill the lines of the process where they stand."""
        for line in [line for line in self.lines if line.process is process]:
            line.die()
            self._look(line)

    def arrive(self, *late: tuple[Any, Callable[[], Any]]) -> None:
        """These commands reach the server."""
        for command in late:
            self.client.floating.remove(command)
            command[1]()

    def leave(self, process: Process) -> None:
        """End as on SIGTERM (in a line): what is in progress is kept, uncounted. What this worker has sent and is
        late has arrived by now, or never does."""
        self.arrive(*(late for late in self.client.floating if late[0].id == process.id))
        for job in list(process.queue.in_progress):
            process.queue.keep(job)
        process.queue.unregister()

    def time_passes(self) -> None:
        """Every delay is over."""
        for queue in self.model.queues.values():
            if made := queue.time_passes():
                self.plain.zadd(f"{queue.name}:delayed", dict(made))

    def close(self) -> None:
        """Kill every line."""
        for line in list(self.lines):
            line.die()

    # --- lines -----------------------------------------------------------------------------------------

    def spawn(self, process: Process, name: str, work: Callable[[], Any]) -> Line:
        """A new line of the process, standing before its first step."""
        line = Line(process, f"{process.id} {name}", work)
        self.lines.append(line)
        self._look(line)
        return line

    def step(self, line: Line, fate: str = DONE) -> None:
        """Let the line take its next step."""
        line.step(fate)
        self._look(line)

    def run(self, line: Line, steps: int, fate: str = DONE) -> None:
        """Let the line take so many steps, and go on to the first after them that can have this fate."""
        for n in range(steps if fate == DONE else FOREGONE):
            if line.ended:
                return
            if n >= steps and fate in line.fates:
                self.step(line, fate)
                return
            self.step(line)

    def end(self, *lines: Line) -> None:
        """Let the lines go on in turn, without faults, until all have ended."""
        left = list(lines)
        for _ in range(10 * FOREGONE):
            left = [line for line in left if not line.ended]
            if not left:
                return
            for line in left:
                self.step(line)
        raise AssertionError(f"these do not end: {[str(line) for line in left]}")

    def _look(self, line: Line) -> None:
        if not line.ended:
            return
        self.lines.remove(line)
        if line.process.claiming is line:
            line.process.claiming = None
        if line.error is not None and not isinstance(line.error, (Away, Gone)):
            self.has_failed = True
            raise line.error

    # --- what happened ---------------------------------------------------------------------------------

    def observe(self, process: Process, command: tuple[Any, ...], answer: Any) -> None:
        """After each command that the server has done for a process."""
        self.events += 1
        name, args = self.model.observe(process, command, answer)
        if name == "BLMOVE" and not process.has_twin:
            assert not process.left_over, f"{process.id} claims before it has taken up what its last run left"
        if name == "begin" and args[0] in process.left_over:
            process.left_over.remove(args[0])
        for other in self.processes.values():
            jobs = self.model.queues[other.queue.name].of(other.id)
            other.left_over = [job for job in other.left_over if job in jobs]

    def check(self) -> None:
        """Redis is as the model says, and the model as it must always be."""
        real, expected = self._dump.content(), self.model.content()
        with self.failing():
            assert real == expected, {
                key: (real.get(key), expected.get(key))
                for key in sorted(real.keys() | expected.keys())
                if real.get(key) != expected.get(key)
            }
            self.model.check()

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """Remember that something went wrong: what comes after it means nothing."""
        try:
            yield
        except BaseException:
            self.has_failed = True
            raise
