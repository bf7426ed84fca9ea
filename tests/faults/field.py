"""Three hosts with all their workers and the services that they share, run as in the field.

Redis is a pair with one address, PostgreSQL and S3 are reached through proxies, the EC2 host is a server that can
go away. Each worker is kept running as systemd does it: what ends is started again, and the end of one that nobody
asked to end is a finding.

What goes wrong is a mishap (tests/faults/mishaps.py), played as a generator that yields how long it waits, so that
many of them go on at once. Two of them never touch one service or one host at once.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pipeline.foundation import redis_client
from pipeline.jobs.batches import DRAINING
from pipeline.operations.status import read_status
from pipeline.store.database import Database
from tests.faults import stream
from tests.faults.checker import Findings, check, is_quiet
from tests.faults.proxy import Proxy
from tests.faults.redis_pair import RedisPair
from tests.faults.stream import Stream
from tests.support.child import descendants, end_all
from tests.support.fleet import PROJECT, Fleet
from tests.support.nursery import Forked, Nursery

HOSTS = ("alpha", "beta", "gamma")
ROLES = ("transfer", "unpack", "gpu")
QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]
SETTINGS = {
    "MAX_ATTEMPTS": "1000000",  # deaths by chance are attempts, and not the file's fault
    "RETRY_SECONDS": "1",
    "HEARTBEAT_SECONDS": "4",
    "HOST_LOST_SECONDS": "10",
    "RECONCILE_SECONDS": "20",
    "EC2_AFTER_UPLOAD": "delete",
    "EC2_WATCH_SECONDS": "2",
    "CONVERT_JOBS": "1",
    "WHISPER_BATCH_SIZE": "4",
}
STOP_SECONDS = 60.0  # in which a worker ends at SIGTERM, whatever is unavailable
COMMAND_SECONDS = 120.0
RESTART_SECONDS = 5.0
MOST_FOUND = 20


@dataclass
class Place:
    """A worker that is to run: where, and its process while it does."""

    role: str
    host: str
    settings: dict[str, str]
    log: Path
    process: Forked | None = None
    is_wanted: bool = True  # systemd starts it whenever it does not run
    not_before: float = 0.0


@dataclass
class Playing:
    """A mishap that goes on: what it touches, and when it takes its next step (s, monotonic)."""

    touches: str
    steps: Iterator[float]
    due: float = 0.0


class Field:
    """The fleet, its proxies and its workers; a context manager."""

    def __init__(self, fleet: Fleet, rng: random.Random, tell: Callable[[str], object]) -> None:
        self.fleet, self.folder, self.random = fleet, fleet.folder, rng
        self.tell = tell
        self.found = Findings()  # beside what the checker finds
        self.played = Counter[str]()
        self.playing: list[Playing] = []
        self.unreachable = Counter[str]()  # servers that are not there, also past the proxies
        self._numbers = itertools.count(1)
        self._next_put = 0.0
        self._kinds = [kind for kind, often in stream.KINDS.items() for _ in range(often)]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        fleet, enter = self.fleet, self._stack.enter_context
        self.redis = enter(RedisPair(self.folder / "replica", fleet.valkey))
        self.postgres, self.s3 = enter(Proxy(fleet.postgres.port)), enter(Proxy(fleet.s3.port))
        through = {
            "REDIS_URL": (fleet.valkey.port, self.redis.address),
            "DATABASE_URL": (fleet.postgres.port, self.postgres),
            "S3_ENDPOINT": (fleet.s3.port, self.s3),
        }
        known = fleet.settings()
        urls = {name: known[name].replace(f":{port}", f":{proxy.port}") for name, (port, proxy) in through.items()}
        fleet.changes = {**SETTINGS, **urls}
        (self.folder / "tmp").mkdir()
        self.nursery = Nursery(self.folder / "nursery.log")
        self.places = [self._place(host, role) for host in HOSTS for role in ROLES]
        self.stream = Stream(fleet, [*HOSTS], self.scratch(HOSTS[0]), self.random)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stream.close()
            end_all([(of.process, of.log) for of in self.places if of.process is not None], STOP_SECONDS)
            self.nursery.close()
        finally:
            self._stack.close()

    def _place(self, host: str, role: str) -> Place:
        name = f"{host}-{role}"
        settings = {
            "HOST_NAME": host,
            "WORKER_ID": name,
            "SCRATCH_ROOT": str(self.scratch(host)),
            "TRANSFER_ROOT": str(self.folder / f"{host}-transfer"),
            "TRANSCRIBE_QUEUE": stream.queue_of(host),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONFAULTHANDLER": "1",
        }
        return Place(role, host, settings, self.folder / f"{name}.log")

    def scratch(self, host: str) -> Path:
        """The scratch of a host."""
        return self.folder / host

    def note(self, text: str) -> None:
        """Note what happens in events.log, with the time."""
        with (self.folder / "events.log").open("a") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def wrong(self, what: str) -> None:
        """Something that the checker does not see is not as it must be."""
        self.note(f"FOUND {what}")
        self.tell(what)
        self.found.stranded.append(what)
        if len(self.found.stranded) > MOST_FOUND:
            raise RuntimeError(f"{MOST_FOUND} findings are enough: {self.folder}/events.log has all of them")

    # --- time ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Look after every worker, every mishap that goes on, and the archives that change meanwhile."""
        for place in self.places:
            self._look_after(place)
        now = time.monotonic()
        for one in [one for one in self.playing if now >= one.due]:
            if (wait := next(one.steps, None)) is None:
                self.playing.remove(one)
            else:
                one.due = time.monotonic() + wait
        if "redis" not in self.unreachable_now():
            self.stream.tick()
        time.sleep(0.02)

    def play(self, name: str, touches: str, steps: Iterator[float]) -> None:
        """Have a mishap begin."""
        self.played[name] += 1
        self.note(f"{name}{touches and f' ({touches})'}")
        self.playing.append(Playing(touches, steps))

    def busy(self) -> set[str]:
        """The services and hosts that a mishap touches now."""
        return {one.touches for one in self.playing}

    def unreachable_now(self) -> set[str]:
        """The servers that are not there now."""
        return {name for name, count in self.unreachable.items() if count}

    @contextlib.contextmanager
    def without(self, server: str) -> Iterator[None]:
        """A server is not there in the block; afterwards it is another one, or knows no old connections."""
        self.unreachable[server] += 1
        try:
            yield
        finally:
            self.unreachable[server] -= 1
            self.fleet.valkey = self.redis.primary
            if server == "redis":
                self.stream.redis.close()
                self.stream.redis = redis_client.connect(self.fleet.valkey.url)
            if server == "postgres":
                self.stream.database.close()
                self.stream.database = Database(self.fleet.postgres.url)

    def put(self, pause: float) -> None:
        """Put an archive in where the last one came long enough ago, the servers are there and little waits.

        Whoever puts it in waits until the replica knows of it: what a failover may lose is the workers' to bear.
        """
        if time.monotonic() < self._next_put or self.unreachable_now() or not self.stream.wants_more():
            return
        self._next_put = time.monotonic() + pause
        kind = self.random.choice(self._kinds)
        self.note(f"put {kind}")
        self.stream.put(kind)
        if "redis" not in self.busy():
            self.redis.wait_until_same(self.stream.redis)

    # --- workers ---------------------------------------------------------------------------------------

    def _look_after(self, place: Place) -> None:
        if place.process is not None and (status := place.process.poll()) is not None:
            place.process, place.not_before = None, time.monotonic() + RESTART_SECONDS
            log = "\n".join(place.log.read_text(errors="replace").splitlines()[-25:])
            self.wrong(f"{place.log.stem} ended by itself with status {status}:\n{log}")
        if place.process is None and place.is_wanted and time.monotonic() >= place.not_before:
            script = [str(PROJECT / f"{place.role}_worker.py")]
            environment = self.fleet.environment(**place.settings)
            place.process = self.nursery.start(script, self.folder, environment, place.log)

    def of(self, host: str) -> list[Place]:
        """The workers of a host."""
        return [place for place in self.places if place.host == host]

    def signal(self, place: Place, number: signal.Signals, with_children: bool = True) -> None:
        """Send a worker a signal, and with it all that it has started."""
        if place.process is None:
            return
        children = descendants(place.process.pid) if with_children else []
        place.process.send_signal(number)
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self, place: Place, with_children: bool = True) -> None:
        """SIGKILL a worker."""
        place.is_wanted = False
        if place.process is not None:
            self.signal(place, signal.SIGKILL, with_children)
            place.process.wait()
            place.process = None

    def stop(self, places: list[Place]) -> Iterator[float]:
        """SIGTERM workers and wait for their ends, which come in time."""
        for place in places:
            place.is_wanted = False
        running = [(place, place.process) for place in places if place.process is not None]
        for place, process in running:
            place.process = None  # its end is awaited here
            process.terminate()
        end = time.monotonic() + STOP_SECONDS
        while any(process.poll() is None for _, process in running) and time.monotonic() < end:
            yield 0.1
        for place, process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGABRT)  # for PYTHONFAULTHANDLER
                process.wait()
                self.wrong(f"{place.log.stem} ignored SIGTERM:\n{place.log.read_text(errors='replace')[-6000:]}")
            elif process.poll() not in (0, -signal.SIGTERM):  # which may come before it is heard
                log = place.log.read_text(errors="replace")[-3000:]
                self.wrong(f"{place.log.stem} ended with status {process.poll()} at SIGTERM:\n{log}")

    # --- commands --------------------------------------------------------------------------------------

    def command(self, *arguments: str) -> Iterator[float]:
        """Run pipelinectl, as a generator. It may refuse; it may neither crash nor hang."""
        number = next(self._numbers)
        out = self.folder / f"command-{number}.txt"
        script = [str(PROJECT / "pipelinectl.py"), *arguments]
        process = self.nursery.start(script, self.folder, self.fleet.environment(PYTHONFAULTHANDLER="1"), out)
        end = time.monotonic() + COMMAND_SECONDS
        while process.poll() is None and time.monotonic() < end:
            yield 0.2
        what = f"pipelinectl {' '.join(arguments)}"
        if process.poll() is None:
            process.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            self.wrong(f"{what} does not end:\n{out.read_text(errors='replace')[-3000:]}")
        text = out.read_text(errors="replace")
        self.note(f"{what}: {process.poll()}: {' / '.join(text.split(chr(10))[:6])[:400]}")
        if "Traceback" in text:
            self.wrong(f"{what} crashed:\n{text[-3000:]}")

    # --- how it is -------------------------------------------------------------------------------------

    def is_well(self) -> bool:
        """Whether everything that was put in is done, and the status has nothing to say."""
        return is_quiet(self.fleet, self.stream.archives) and not self.troubles()

    def draining(self) -> list[str]:
        """The hosts that take no new work, as the Redis of this moment says; none where it is not there."""
        return [] if "redis" in self.unreachable_now() else self.stream.redis.hkeys(DRAINING)

    def troubles(self) -> list[str]:
        """What the status tells of, but for what was put in: damaged files, and what lost workers have left."""
        database = Database(self.fleet.postgres.url)
        try:
            seen = read_status(self.stream.redis, QUEUES, database)
        finally:
            database.close()
        reported = [trouble.what for trouble in seen.troubles if trouble.see != "many-failures"]
        return [what for what in reported if not what.startswith("lost-")]

    def false_attempts(self) -> list[str]:
        """Attempts that failed, but for those on archives that change while they are copied: here an attempt fails
        for an outage, and an outage fails none."""
        changing = [str(archive.source) for archive in self.stream.archives if archive.changes]
        lines = (line for of in self.places for line in of.log.read_text(errors="replace").splitlines())
        failed = (line for line in lines if re.search(r" attempt \d+ of .* failed, next in ", line))
        return [line for line in failed if not any(json.dumps(path) in line for path in changing)]

    def check(self) -> Findings:
        """What the checker finds now."""
        scratch = [self.scratch(host) for host in HOSTS]
        transfer = [self.folder / f"{host}-transfer" for host in HOSTS]
        return check(self.fleet, self.stream.archives, scratch, transfer, self.stream.dead_letters)
