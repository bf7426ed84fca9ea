"""Outages, each in the middle of all work: what becomes of the work when the service recovered.

Each is a context manager that takes the rig: inside of it the service is unavailable.
"""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.faults import redis_pair
from tests.faults.checker import Findings
from tests.faults.proxy import Proxy
from tests.faults.rig import NAMES, Rig
from tests.support.child import Server, free_port
from tests.support.servers import Valkey

RECOVERY_SECONDS = 30.0  # in which the first work goes on when a service recovered
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Outage:
    """One fault: the service that is unavailable, and what makes it so as long as the block lasts."""

    service: str  # redis, postgres, s3 or disk
    name: str
    during: Callable[[Rig], AbstractContextManager[None]]

    def __str__(self) -> str:
        return f"{NAMES[self.service]}: {self.name}"


@dataclass(frozen=True)
class Trial:
    """What came of an outage: findings, and the simulated seconds from the service's return until work went on in
    every worker that waited for it (None where all was done by then)."""

    findings: Findings
    recovery: float | None


def attempt(rig: Rig, outage: Outage, seconds: float, archives: int = 6, files: int = 12) -> Trial:
    """Put work in, make the outage for so many simulated seconds when all workers are at it, and see."""
    rig.put_in(archives, files)
    rig.wait_until_all_work(files)
    struck = rig.places()
    with outage.during(rig):
        rig.clock.sleep(seconds)
        before, waiting, done = rig.seen(outage.service), rig.waiting(outage.service, struck), rig.is_quiet()
    recovery = None
    if not done:
        recovery = rig.seconds_to_progress(outage.service, before, waiting, PATIENCE_SECONDS)
    findings = rig.check()
    if recovery is not None and recovery > RECOVERY_SECONDS:
        findings.stranded.append(f"work went on {recovery:.0f} s after the return of {NAMES[outage.service]}")
    return Trial(findings, recovery)


# --- the network -----------------------------------------------------------------------------------------


@contextmanager
def _by_proxy(rig: Rig, service: str, fault: Callable[[Rig, Proxy], None], dead: bool = False) -> Iterator[None]:
    proxy: Proxy = getattr(rig, service)
    fault(rig, proxy)
    try:
        yield
    finally:
        proxy.passes(dead=dead)


def _answers(status: int, _: Rig, proxy: Proxy) -> None:
    proxy.answers(status)


def _network(service: str) -> Iterator[Outage]:
    faults: dict[str, Callable[[Rig, Proxy], None]] = {
        "connections cut": lambda _, proxy: proxy.cuts(),
        "connections reset": lambda _, proxy: proxy.resets(),
        "a black hole, then all goes on": lambda _, proxy: proxy.holds(),
        "a black hole, its connections stay dead": lambda _, proxy: proxy.holds(),
        "each piece 0.2 s late": lambda rig, proxy: proxy.delays(0.2 / rig.clock.speed),
        "answers cut short": lambda rig, proxy: proxy.truncates(rig.random.randrange(400)),
    }
    for status in (503, 500, 403) if service == "s3" else ():
        faults[f"answers {status}"] = partial(_answers, status)
    for name, fault in faults.items():
        yield Outage(service, name, partial(_by_proxy, service=service, fault=fault, dead="dead" in name))


# --- restarts --------------------------------------------------------------------------------------------


@contextmanager
def _restart(rig: Rig, service: str, kill: bool) -> Iterator[None]:
    server: Server = {"redis": rig.fleet.valkey, "postgres": rig.fleet.postgres, "s3": rig.fleet.s3}[service]
    server.kill() if kill else server.stop()
    try:
        yield
    finally:
        server.start()


def _restarts(service: str) -> Iterator[Outage]:
    for name, kill in {"killed, started again": True, "stopped, started again": False}.items():
        yield Outage(service, name, partial(_restart, service=service, kill=kill))


# --- Redis that refuses to write -------------------------------------------------------------------------


@contextmanager
def _read_only(rig: Rig) -> Iterator[None]:
    with redis_pair.client(rig.fleet.valkey) as server:  # the pipeline's own client reads no replica
        server.execute_command("REPLICAOF", "127.0.0.1", free_port())
        try:
            yield
        finally:
            server.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def _full(rig: Rig) -> Iterator[None]:
    rig.client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        rig.client.config_set("maxmemory", 0)


# --- failovers -------------------------------------------------------------------------------------------


@contextmanager
def _planned_failover(rig: Rig) -> Iterator[None]:
    """The primary becomes the replica of the new one; the workers' address is moved at the end."""
    pair = rig.redis_pair()
    pair.planned()
    try:
        yield
    finally:
        _move_address(rig, pair.primary)


@contextmanager
def _lost_primary(rig: Rig) -> Iterator[None]:
    """The primary is killed; at the end the replica takes its place."""
    pair = rig.redis_pair()
    pair.lose_primary()
    try:
        yield
    finally:
        pair.promote()
        _move_address(rig, pair.primary)


@contextmanager
def _network_split(rig: Rig) -> Iterator[None]:
    """Nobody hears the primary any more, which is alive; at the end the replica takes its place."""
    pair = rig.redis_pair()
    rig.redis.holds()
    pair.link.holds()
    try:
        yield
    finally:
        pair.link.cuts()
        pair.promote()
        rig.redis.passes(dead=True)
        _move_address(rig, pair.primary)


def _move_address(rig: Rig, primary: Valkey) -> None:
    """Open connections stay where they are."""
    rig.redis.target_port = primary.port
    rig.ask(primary)


# --- disks -----------------------------------------------------------------------------------------------


@contextmanager
def _no_space(rig: Rig, disk: int) -> Iterator[None]:
    """What another program writes fills the volume, and what becomes free."""
    filler = rig.disks[disk] / ".filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(2**20))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def _read_only_disk(rig: Rig, disk: int) -> Iterator[None]:
    """A read-only view of the volume comes over it: what is open stays so, and nothing new is written.

    It is made beside it: where a worker could write to it, it would not become read-only.
    """
    folder = str(rig.disks[disk])
    aside = f"{folder}.read-only"
    Path(aside).mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", folder, aside], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", aside], check=True)
        subprocess.run(["mount", "--bind", aside, folder], check=True)
    finally:
        subprocess.run(["umount", aside], check=True)
    try:
        assert os.statvfs(folder).f_flag & os.ST_RDONLY
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


# --- the clock -------------------------------------------------------------------------------------------


@contextmanager
def _wrong_clock(rig: Rig, ahead: float) -> Iterator[None]:
    """The workers' wall clock is set, that of Redis is right."""
    rig.workers_clock.set_forward(ahead)
    try:
        yield
    finally:
        rig.workers_clock.set_forward(0)


def _disks() -> Iterator[Outage]:
    for number, name in enumerate(("scratch", "TRANSFER_ROOT")):
        yield Outage("disk", f"{name} is full", partial(_no_space, disk=number))
        yield Outage("disk", f"{name} is read-only", partial(_read_only_disk, disk=number))


OUTAGES = {
    str(outage): outage
    for outage in (
        *(outage for service in ("redis", "postgres", "s3") for outage in _network(service)),
        *_restarts("redis"),
        *_restarts("postgres"),
        Outage("redis", "read-only", _read_only),
        Outage("redis", "full, noeviction", _full),
        *_disks(),
        Outage("clock", "set forward by a day", partial(_wrong_clock, ahead=86400)),
        Outage("clock", "set back by a day", partial(_wrong_clock, ahead=-86400)),
        Outage("clock", "set forward by 50 s", partial(_wrong_clock, ahead=50)),
        Outage("clock", "set back by 50 s", partial(_wrong_clock, ahead=-50)),
    )
}

FAILOVERS = {
    str(outage): outage
    for outage in (
        Outage("redis", "planned failover", _planned_failover),
        Outage("redis", "primary killed, replica promoted", _lost_primary),
        Outage("redis", "network split, replica promoted", _network_split),
    )
}

# Where S3 is Swift, which keeps its objects when it ends.
SWIFT_OUTAGES = {str(outage): outage for outage in _restarts("s3")}
