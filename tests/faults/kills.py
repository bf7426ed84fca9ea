"""SIGKILL over and over: several workers of each kind, on one or two hosts, over a stream of archives.

A supervisor keeps the workers running, each armed to die at a point or at an instant, and starts what has died at
once. When enough have died it lets them work until all is quiet, and the checker has the last word.

Kills by chance count as attempts, so MAX_ATTEMPTS is out of reach here: what becomes of a job that kills its
worker each time is another part (tests/faults/scenarios.py).

Recovery is the time from a kill to the next sign of progress of that role: the next job that any of its workers
acknowledges (done and handed on, or failed permanently). Where the stream has no job for the role, that waiting is
in it.
"""

import bisect
import contextlib
import itertools
import math
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import stream, told
from tests.faults.checker import Findings, check, is_quiet
from tests.faults.points import FUNCTIONS, Point, points
from tests.faults.stream import Stream
from tests.support.child import descendants, end_all
from tests.support.fleet import PROJECT, Fleet
from tests.support.nursery import Forked, Nursery
from tests.support.webhook_receiver import WebhookReceiver

SETTINGS = {
    "MAX_ATTEMPTS": "1000000",
    "RETRY_SECONDS": "1",
    "HEARTBEAT_SECONDS": "4",
    "HOST_LOST_SECONDS": "8",
    "RECONCILE_SECONDS": "2",
    "EC2_AFTER_UPLOAD": "delete",
    "EC2_WATCH_SECONDS": "1",
    "CONVERT_JOBS": "1",
    "WHISPER_BATCH_SIZE": "4",
}
ARMED = str(PROJECT / "tests" / "faults" / "armed.py")
LIVES = 3.0  # how long a worker lives on average that is killed at an instant, in times that one needs to start
PATIENCE_SECONDS = 10.0  # for a point at a call that may never come; then the first call is asked for
Crew = dict[str, dict[str, int]]  # host -> role -> how many workers
QUIET_SECONDS = 180.0  # for what is left when the killing has ended
STOP_SECONDS = 30.0
SWEPT_SECONDS = 60.0  # for what is swept only when it is old enough


@dataclass
class Slot:
    """A worker that is to run: what it is, and how it is armed now."""

    role: str
    host: str
    name: str
    settings: dict[str, str]
    marks: Path
    log: Path
    process: Forked | None = None  # that runs
    point: Point | None = None
    which: int = 1
    started: float = 0.0
    dies_at: float = math.inf
    ends_at: float = math.inf  # by SIGTERM, which brings it to some of the points

    def marked(self, what: str, of_this_run: bool = True) -> list[float]:
        """The times of such marks (s, monotonic), of the run that is going on or of all."""
        with contextlib.suppress(FileNotFoundError):
            marks = [line.split() for line in self.marks.read_text().splitlines()]
            process = self.process.pid if self.process else 0
            return [
                float(when)
                for when, pid, mark in marks
                if mark == what and (int(pid) == process or not of_this_run)
            ]
        return []


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: when (s, monotonic), of which worker, at which point (None: at a random instant)."""

    when: float
    role: str
    worker: str
    point: Point | None = None


@dataclass
class Result:
    """What a run has shown."""

    kills: list[Kill]
    findings: Findings
    recovery: dict[Kill, float]
    archives: int
    files: int
    seconds: float
    unreached: list[Point] = field(default_factory=list)


class Instants:
    """Arms each worker to die at a random instant."""

    pause = 0.2  # seconds from one archive to the next, at least

    def __init__(self, rng: random.Random, kills: int) -> None:
        self.rng, self.left = rng, kills
        self.start_seconds = 1.0  # of late: other programs on the machine make it more

    def __str__(self) -> str:
        return f"{self.left} to come, {self.start_seconds:.1f} s to start"

    def is_done(self) -> bool:
        """Whether enough have died."""
        return self.left <= 0

    def arm(self, slot: Slot) -> None:
        """Say how a worker that is about to start is to die."""
        slot.dies_at = time.monotonic() + self.rng.expovariate(1 / (LIVES * self.start_seconds))

    def killed(self, slot: Slot) -> None:
        """Count a death."""
        self.left -= 1
        if ready := slot.marked("ready"):
            self.start_seconds += (ready[-1] - slot.started - self.start_seconds) / 20

    def is_past(self, _slot: Slot) -> bool:
        """Whether a worker is armed with what is no longer wanted."""
        return False

    def functions(self) -> list[str]:
        """The functions that workers die at now."""
        return []

    def kinds(self) -> list[str]:
        """The archives that are needed beside the usual ones."""
        return []


class EveryPoint:
    """Arms the workers of each role with one of its points, until enough have died there; then with the next."""

    pause = 0.4

    def __init__(self, rng: random.Random, trials: int, chosen: list[Point], patience: float) -> None:
        self.rng, self.trials, self.patience = rng, trials, patience
        self.deaths: Counter[Point] = Counter()
        self.waiting = {role: deque(point for point in chosen if point.role == role) for role in FUNCTIONS}
        self.most_calls: dict[str, int] = {}
        self.since: dict[Point, float] = {}
        self.unreached: list[Point] = []

    def present(self, role: str) -> Point | None:
        """The point at which workers of the role die now; one that nobody comes to is failed permanently after a
        while."""
        waiting = self.waiting[role]
        while waiting:
            point = waiting[0]
            now = time.monotonic()
            self.since.setdefault(point, now)
            if self.deaths[point] < self.trials:
                if now - self.since[point] < self.patience:
                    return point
                self.unreached.append(point)
            waiting.popleft()
        return None

    def __str__(self) -> str:
        present = [str(self.present(role)) for role in FUNCTIONS]
        return f"{sum(map(len, self.waiting.values()))} points to come, now {', '.join(present)}"

    def is_done(self) -> bool:
        """Whether enough have died at every point."""
        return all(self.present(role) is None for role in FUNCTIONS)

    def arm(self, slot: Slot) -> None:
        """Say how a worker that is about to start is to die."""
        slot.point = self.present(slot.role)
        if slot.point is None:
            return
        if slot.point.function in AT_A_STOP:
            slot.ends_at = time.monotonic() + self.rng.uniform(1, 5)
            return
        most = self.most_calls.setdefault(slot.point.function, 3)
        slot.which = self.rng.randint(1, most)
        slot.dies_at = math.inf
        if slot.which > 1:  # some functions are called once in a process
            slot.dies_at = time.monotonic() + PATIENCE_SECONDS

    def killed(self, slot: Slot) -> None:
        """Count a death."""
        if slot.point is None:
            return
        if slot.dies_at <= time.monotonic():  # it waited for a call that did not come
            self.most_calls[slot.point.function] = 1
        if not slot.marked("hit"):
            return
        self.deaths[slot.point] += 1
        self.since[slot.point] = time.monotonic()

    def is_past(self, slot: Slot) -> bool:
        """Whether a worker is armed with what is no longer wanted."""
        return slot.point is not None and slot.point != self.present(slot.role)

    def kinds(self) -> list[str]:
        """The archives that bring the workers to the present points."""
        return [kind for function in self.functions() for kind in PROVOKED_BY.get(function, ())]

    def functions(self) -> list[str]:
        """The functions that workers die at now."""
        present = [self.present(role) for role in FUNCTIONS]
        return [point.function for point in present if point]


AT_A_STOP = ("pipeline.jobs.job_queue:JobQueue.keep", "pipeline.jobs.job_queue:JobQueue.unregister")
REFUSED_AT = "pipeline.store.webhook_outbox:mark_failed"  # a worker comes to it where the receiver takes nothing
# Archives without which a worker hardly comes to a function.
PROVOKED_BY = {
    "pipeline.jobs.job_queue:JobQueue.recover": ("of_a_lost_transfer_worker", "of_a_lost_unpack_worker"),
    "pipeline.jobs.job_queue:JobQueue.dead_letter": ("cut", "cut_in_s3", "bad_file_job"),
    "pipeline.jobs.job_queue:JobQueue.retry": ("changing",),
    "pipeline.jobs.job_queue:JobQueue.settle": ("file_delivered_twice",),
    "pipeline.jobs.job_queue:JobQueue.give_back": ("delivered_twice", "file_delivered_twice"),
    "pipeline.transfer.discovery:Watch._queue": ("watched",),
    "pipeline.transfer.discovery:Watch.forget": ("missing",),
    "pipeline.unpack.compression:_decompress": ("compressed", "compressed_in_s3"),
    "pipeline.unpack.compression:make_plain": ("compressed", "compressed_in_s3"),
    "transfer_worker:Transferrer.fail_permanently": ("cut", "missing"),
    "pipeline.audio.converter:Converter.together": ("many_files",),
    "pipeline.jobs.batches:Batches.abandon": ("cut_in_s3",),
    "pipeline.foundation.scratch:remove_archive": ("miscounted",),
    "unpack_worker:Unpacker._fail_the_rest": ("miscounted",),
    "unpack_worker:Unpacker.fail_permanently": ("cut_in_s3",),
    "pipeline.jobs.lost_hosts:LostHosts.take_over": ("of_a_lost_host", "settled_of_a_lost_host"),
    "pipeline.store.batch_states:unfinish": ("forgotten",),
    "pipeline.store.webhook_outbox:note_dead_letters": ("cut_in_s3", "bad_file_job"),
    "pipeline.jobs.batches:Batches.requeue": ("forgotten",),
    "gpu_worker:TranscriptionWorker.fail_permanently": ("bad_opus", "bad_file_job"),
}


class Supervisor:
    """Keeps workers running over a stream of archives, and kills them as `plan` says."""

    def __init__(self, fleet: Fleet, crew: Crew, plan: Instants | EveryPoint, seed: int) -> None:
        self.fleet, self.plan, self.rng = fleet, plan, random.Random(seed)
        self.receiver = WebhookReceiver()
        fleet.changes = {**SETTINGS, **told.settings(self.receiver)}
        told.save_search(fleet)
        self.folder = fleet.folder
        (self.folder / "tmp").mkdir()
        self.nursery = Nursery(self.folder / "nursery.log")
        self.slots = list(self._slots(crew))
        self.stream = Stream(fleet, [*crew], self.folder / next(iter(crew)), self.rng)
        self.hosts = [*crew]
        self.kills: list[Kill] = []
        self.tell: Callable[[str], object] = lambda _: None
        kinds = dict(stream.KINDS)
        if len(crew) == 1:
            kinds |= dict.fromkeys(stream.ONE_HOST_ONLY, 2)
        self._kinds = [kind for kind, often in kinds.items() for _ in range(often)]
        self._possible = set(self._kinds)
        self._next_put = self._next_word = 0.0

    def _slots(self, crew: Crew) -> Iterator[Slot]:
        for host, roles in crew.items():
            settings = {
                "HOST_NAME": host,
                "SCRATCH_ROOT": str(self.folder / host),
                "TRANSCRIBE_QUEUE": stream.queue_of(host),
                "TRANSFER_ROOT": str(self.folder / "transfer"),
                "TMPDIR": str(self.folder / "tmp"),
            }
            for role, number in itertools.chain.from_iterable(
                [(role, number) for number in range(count)] for role, count in roles.items()
            ):
                name = f"{host}-{role}-{number}"
                yield Slot(role, host, name, settings, self.folder / f"{name}.marks", self.folder / f"{name}.log")

    # --- the run ---------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Kill until the plan is done, let the rest be done, check."""
        begun = time.monotonic()
        try:
            with self.receiver:
                while not self.plan.is_done():
                    self.step(armed=True)
                findings = self.end()
        finally:
            self.stop()
            self.stream.close()
        archives = self.stream.archives
        unreached = self.plan.unreached if isinstance(self.plan, EveryPoint) else []
        files = sum(len(archive.files) for archive in archives)
        seconds = time.monotonic() - begun
        return Result(self.kills, findings, self.recovery(), len(archives), files, seconds, unreached)

    def step(self, armed: bool) -> None:
        """Look after each worker once, and after the stream."""
        for slot in self.slots:
            now = time.monotonic()
            if slot.process is None:
                self.start(slot, armed)
            elif (status := slot.process.poll()) is not None:
                self.dead_letter(slot, status)
            elif now >= slot.dies_at or (armed and self.plan.is_past(slot)):
                self.kill(slot)
            elif now >= slot.ends_at and slot.marked("ready"):
                slot.ends_at = math.inf
                slot.process.terminate()
        self.receiver.status = 500 if REFUSED_AT in self.plan.functions() else 204
        self.stream.tick()
        if armed and time.monotonic() >= self._next_put and self.stream.wants_more():
            self._next_put = time.monotonic() + self.plan.pause
            wanted = [kind for kind in self.plan.kinds() if kind in self._possible]
            self.stream.put(self.rng.choice(wanted if wanted and self.rng.random() < 0.5 else self._kinds))
        time.sleep(0.01)

    def start(self, slot: Slot, armed: bool) -> None:
        """Start a worker, armed as the plan says."""
        slot.point, slot.which, slot.started = None, 1, time.monotonic()
        slot.dies_at = slot.ends_at = math.inf
        if armed:
            self.plan.arm(slot)
        words = [ARMED, str(PROJECT / f"{slot.role}_worker.py")]
        if slot.point is not None:
            if slot.point.function == "pipeline.transfer.scp:Copy._append":  # only after a connection that broke
                words += ["pipeline.transfer.scp:Copy._scp", "after", "1", "LOST"]
            words += [slot.point.function, slot.point.when, str(slot.which), "KILL"]
        environment = self.fleet.environment(
            WORKER_ID=f"test-{slot.name}", MARKS=str(slot.marks), PYTHONFAULTHANDLER="1", **slot.settings
        )
        slot.process = self.nursery.start(words, self.folder, environment, slot.log)

    def kill(self, slot: Slot) -> None:
        """SIGKILL a worker now: alone, as the kernel does when memory is short, or with its children, as systemd
        does."""
        assert slot.process is not None
        children = descendants(slot.process.pid) if self.rng.random() < 0.5 else []
        for pid in (slot.process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        slot.process.wait()
        self._died(slot, None)

    def dead_letter(self, slot: Slot, status: int) -> None:
        """Take note of a worker that has ended: killed at its point, or else something is wrong."""
        if status == 0 and slot.point is not None:  # there was nothing to keep at its SIGTERM
            slot.process = None
            return
        if status != -signal.SIGKILL or not slot.marked("hit"):
            log = "\n".join(slot.log.read_text(errors="replace").splitlines()[-20:])
            raise RuntimeError(f"{slot.name} ended by itself with status {status}:\n{log}")
        self._died(slot, slot.point)

    def _died(self, slot: Slot, point: Point | None) -> None:
        self.kills.append(Kill(time.monotonic(), slot.role, slot.name, point))
        self.plan.killed(slot)
        slot.process = None
        if time.monotonic() >= self._next_word:
            self._next_word = time.monotonic() + 20
            self.tell(f"{len(self.kills)} kills, {len(self.stream.archives)} archives, {self.plan}")

    def end(self) -> Findings:
        """Let everything be done by workers that are not armed; gives what the checker finds."""
        for slot in self.slots:
            slot.dies_at = math.inf if slot.point is None else 0.0  # it may yet come to its point
        deadline = time.monotonic() + QUIET_SECONDS
        while not is_quiet(self.fleet, self.stream.archives) and time.monotonic() < deadline:
            for _ in range(50):
                self.step(armed=False)
        deadline = time.monotonic() + SWEPT_SECONDS
        while (found := self.check()) and time.monotonic() < deadline:
            for _ in range(200):
                self.step(armed=False)
        return found

    def check(self) -> Findings:
        """What the checker finds now."""
        scratch = [self.folder / host for host in self.hosts]
        found = check(self.fleet, self.stream.archives, scratch, expected_dead_letters=self.stream.dead_letters)
        found.add(told.check_soon(self.fleet, self.receiver))
        return found

    def stop(self) -> None:
        """End what runs; one that does not end at SIGTERM is an error."""
        end_all([(slot.process, slot.log) for slot in self.slots if slot.process is not None], STOP_SECONDS)
        self.nursery.close()

    # --- what was measured -----------------------------------------------------------------------------

    def recovery(self) -> dict[Kill, float]:
        """Seconds from each kill to the next acknowledgement by a worker of its role."""
        acks: dict[str, list[float]] = {role: [] for role in FUNCTIONS}
        for slot in self.slots:
            acks[slot.role] += slot.marked("ack", of_this_run=False)
        for times in acks.values():
            times.sort()
        after = {kill: bisect.bisect(acks[kill.role], kill.when) for kill in self.kills}
        return {
            kill: acks[kill.role][place] - kill.when
            for kill, place in after.items()
            if place < len(acks[kill.role])
        }


TWO_HOSTS = {"alpha": {"transfer": 2, "unpack": 1, "gpu": 2}, "beta": {"unpack": 1, "gpu": 1}}
ONE_HOST = {"alpha": {"transfer": 2, "unpack": 2, "gpu": 2}}
ONE_OF_EACH = {"alpha": {"transfer": 1, "unpack": 1, "gpu": 1}}


def kill_at_instants(fleet: Fleet, seed: int, kills: int, tell: Callable[[str], object] = str) -> Result:
    """So many SIGKILLs at random instants, over two hosts."""
    supervisor = Supervisor(fleet, TWO_HOSTS, Instants(random.Random(f"instants {seed}"), kills), seed)
    supervisor.tell = tell
    return supervisor.run()


def kill_at_points(
    fleet: Fleet,
    seed: int,
    trials: int,
    chosen: list[Point] | None = None,
    tell: Callable[[str], object] = str,
    crew: Crew = ONE_HOST,
    patience: float = 120.0,
) -> Result:
    """So many SIGKILLs at each of the points (all of them by default), on one host; one that no worker comes to
    within `patience` seconds is noted as unreached."""
    everything = [point for role in FUNCTIONS for point in points(role)]
    plan = EveryPoint(random.Random(f"points {seed}"), trials, everything if chosen is None else chosen, patience)
    supervisor = Supervisor(fleet, crew, plan, seed)
    supervisor.tell = tell
    return supervisor.run()
