"""What goes wrong with a fleet in the field, each for some seconds; several go on at once (tests/faults/field.py).

Each is a generator that takes the field and what it touches, and yields the seconds that it waits. When it has
ended, what it touched is healthy again.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from tests.faults.field import HOSTS, Field, Place
from tests.faults.proxy import Proxy
from tests.support.child import Server

LONGEST_SECONDS = 15.0  # of most of them
Play = Callable[[Field, str], Iterator[float]]


@dataclass(frozen=True)
class Mishap:
    """What it is called, what it touches ("host": one of them; "": nothing), how often it comes, its course."""

    name: str
    touches: str
    weight: int
    play: Play


def _seconds(field: Field, most: float = LONGEST_SECONDS) -> float:
    return field.random.uniform(0.5, most)


def _one_of(field: Field, host: str) -> Place:
    return field.random.choice(field.of(host))


def _back(places: list[Place]) -> None:
    """Whoever keeps them running starts them again."""
    for place in places:
        place.is_wanted = True


# --- workers and hosts -----------------------------------------------------------------------------------


def _kill_worker(field: Field, host: str) -> Iterator[float]:
    """As the kernel does it when memory is short, or as systemd does it: with all that it has started."""
    place = _one_of(field, host)
    field.kill(place, with_children=field.random.random() < 0.5)
    yield _seconds(field, 3)
    _back([place])


def _kill_host(field: Field, host: str) -> Iterator[float]:
    """Its power is gone; its disk is there again when it comes back."""
    for place in field.of(host):
        field.kill(place)
    yield _seconds(field, 25)  # more than HOST_LOST_SECONDS now and then
    _back(field.of(host))


def _freeze(places: list[Place], field: Field, seconds: float) -> Iterator[float]:
    for place in places:
        field.signal(place, signal.SIGSTOP)
    yield seconds
    for place in places:
        field.signal(place, signal.SIGCONT)


def _freeze_worker(field: Field, host: str) -> Iterator[float]:
    yield from _freeze([_one_of(field, host)], field, _seconds(field))


def _freeze_host(field: Field, host: str) -> Iterator[float]:
    """A virtual machine that is moved."""
    yield from _freeze(field.of(host), field, _seconds(field, 25))


def _restart_worker(field: Field, host: str) -> Iterator[float]:
    place = _one_of(field, host)
    yield from field.stop([place])
    yield _seconds(field, 3)
    _back([place])


def _restart_host(field: Field, host: str) -> Iterator[float]:
    """As a deploy does it."""
    yield from field.stop(field.of(host))
    yield _seconds(field, 20)
    _back(field.of(host))


def _drain(field: Field, host: str, how: tuple[str, ...] = ()) -> Iterator[float]:
    yield from field.command("drain", host, *how)
    yield _seconds(field)
    yield from _undone(field, host)


def _undone(field: Field, host: str) -> Iterator[float]:
    """The operator says --undo until the command could do it."""
    while "redis" in field.unreachable_now() or host in field.draining():
        yield from field.command("drain", host, "--undo")
        yield 1.0


# --- services --------------------------------------------------------------------------------------------


def _by_proxy(
    field: Field, _: str, of: Callable[[Field], Proxy], fault: Callable[[Proxy], None]
) -> Iterator[float]:
    fault(of(field))
    yield _seconds(field)
    of(field).passes(dead=field.random.random() < 0.5)


def _down(field: Field, name: str, of: Callable[[Field], Server], kill: bool) -> Iterator[float]:
    server = of(field)
    with field.without(name):
        server.kill() if kill else server.stop()
        yield _seconds(field)
        server.start()


def _planned(field: Field, name: str) -> Iterator[float]:
    with field.without(name):
        field.redis.planned()
    yield 1.0


def _unplanned(field: Field, name: str, lost_seconds: float = 0.0) -> Iterator[float]:
    with field.without(name):
        field.redis.lose_primary(field.random.random() * lost_seconds)
        yield _seconds(field)
        field.redis.promote()
        yield _seconds(field, 5)
        field.redis.repair()


# --- operators -------------------------------------------------------------------------------------------


def _retry(field: Field, _: str) -> Iterator[float]:
    """A batch with failed files, whatever it is doing now."""
    if "postgres" in field.unreachable_now():
        return
    batches = field.fleet.query("SELECT DISTINCT batch_id FROM audio_files WHERE status = 'failed'")
    if batches:
        yield from field.command("retry", field.random.choice(batches)[0])


def _retry_dead_letters(field: Field, _: str) -> Iterator[float]:
    yield from field.command("retry", "--queue", "queue:unpack", "--yes")


def _reconcile(field: Field, _: str) -> Iterator[float]:
    yield from field.command("reconcile", "--apply")


def _look(field: Field, _: str) -> Iterator[float]:
    yield from field.command("status")


# --- all of them -----------------------------------------------------------------------------------------


def _network(name: str, service: str, of: Callable[[Field], Proxy]) -> Iterator[Mishap]:
    faults: dict[str, Callable[[Proxy], None]] = {
        "connections cut": Proxy.cuts,
        "connections reset": Proxy.resets,
        "a black hole": Proxy.holds,
        "each piece 0.2 s late": lambda proxy: proxy.delays(0.2),
        "answers cut short": lambda proxy: proxy.truncates(200),
    }
    if service == "s3":
        faults |= {
            "answers 503": lambda proxy: proxy.answers(503),
            "answers 500": lambda proxy: proxy.answers(500),
        }
    for what, fault in faults.items():
        yield Mishap(f"{name}: {what}", service, 2, partial(_by_proxy, of=of, fault=fault))


MISHAPS = (
    Mishap("worker killed", "host", 16, _kill_worker),
    Mishap("host killed", "host", 6, _kill_host),
    Mishap("worker stopped (SIGSTOP)", "host", 8, _freeze_worker),
    Mishap("host stopped (SIGSTOP)", "host", 6, _freeze_host),
    Mishap("worker restarted", "host", 6, _restart_worker),
    Mishap("host restarted", "host", 5, _restart_host),
    Mishap("host drained", "host", 3, _drain),
    Mishap("host drained, its batches handed back", "host", 3, partial(_drain, how=("--hand-back", "--yes"))),
    *_network("Redis", "redis", lambda field: field.redis.address),
    *_network("PostgreSQL", "postgres", lambda field: field.postgres),
    *_network("S3", "s3", lambda field: field.s3),
    Mishap("Redis: killed, started again", "redis", 3, partial(_down, of=lambda f: f.redis.primary, kill=True)),
    Mishap("Redis: planned failover", "redis", 5, _planned),
    Mishap("Redis: unplanned failover", "redis", 5, _unplanned),
    Mishap("Redis: failover, last second lost", "redis", 4, partial(_unplanned, lost_seconds=1.0)),
    Mishap("PostgreSQL: killed", "postgres", 3, partial(_down, of=lambda f: f.fleet.postgres, kill=True)),
    Mishap("PostgreSQL: restarted", "postgres", 3, partial(_down, of=lambda f: f.fleet.postgres, kill=False)),
    Mishap("EC2 host: killed", "ec2", 4, partial(_down, of=lambda f: f.fleet.ssh, kill=True)),
    Mishap("retry of a batch", "", 6, _retry),
    Mishap("retry of dead letters", "", 3, _retry_dead_letters),
    Mishap("reconcile --apply", "", 4, _reconcile),
    Mishap("status", "", 3, _look),
)


def begin_one(field: Field, match: str = "") -> None:
    """Have one of the mishaps whose name has this in it begin, where what it touches is healthy."""
    wanted = [mishap for mishap in MISHAPS if match in mishap.name]
    mishap = field.random.choices(wanted, [mishap.weight for mishap in wanted])[0]
    touches = field.random.choice(HOSTS) if mishap.touches == "host" else mishap.touches
    if not touches or touches not in field.busy():
        field.play(mishap.name, touches, mishap.play(field, touches))
