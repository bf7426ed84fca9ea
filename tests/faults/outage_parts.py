"""The parts of `python -m tests.faults` about outages: each gives rows for the table."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tests.conftest import SWIFT_BIN
from tests.faults import losses, table
from tests.faults.checker import Findings
from tests.faults.outages import FAILOVERS, OUTAGES, SWIFT_OUTAGES, Outage, attempt
from tests.faults.rig import NAMES, Rig
from tests.faults.table import Row

SPEED = 20.0  # simulated seconds in a true one
LENGTHS = (5.0, 60.0, 600.0)  # of outages, simulated seconds
# In true time: that the fast clock does not lie.
TRUE_LENGTHS = {
    "Redis: a black hole, its connections stay dead": 600.0,
    "PostgreSQL: a black hole, its connections stay dead": 600.0,
    "S3: a black hole, its connections stay dead": 600.0,
    "Redis: killed, started again": 120.0,
    "PostgreSQL: killed, started again": 120.0,
    "S3: answers 503": 120.0,
    "the disk: scratch is full": 120.0,
}
TIMES = 20  # that replies of each kind are lost


class Play(Protocol):
    """What tests/faults/__main__.py asks for."""

    folder: Path
    seed: int
    match: str
    say: Callable[[str], object]
    notes: list[str]


class Result(Protocol):
    """What came of a trial."""

    @property
    def findings(self) -> Findings: ...


T = TypeVar("T", bound=Result)


class Rigs:
    """One rig for many trials, and a new one after a trial that has left something behind."""

    def __init__(self, play: Play, name: str, speed: float, swift: bool = False) -> None:
        self.play, self.name, self.speed, self.swift = play, name, speed, swift
        self.number = 0
        self._rig: Rig | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Rigs":
        return self

    def __exit__(self, *_: object) -> None:
        self._drop(keep=False)

    def trial(self, what: str, work: Callable[[Rig], T]) -> T:
        """Do it with the rig, and say what was found."""
        self.play.say(f"{what} ...")
        if self._rig is None:
            self.number += 1
            folder = self.play.folder / f"{self.name}-{self.number}"
            swift = SWIFT_BIN if self.swift else None
            self._rig = self._stack.enter_context(Rig(folder, self.speed, self.play.seed + self.number - 1, swift))
        try:
            result = work(self._rig)
        except BaseException:
            self._drop(keep=True)
            raise
        for line in result.findings.lines():
            self.play.say(f"{what}: {line}")
        if result.findings:
            self._drop(keep=True)
        return result

    def _drop(self, keep: bool) -> None:
        self._stack.close()
        if self._rig is not None and not keep:
            shutil.rmtree(self._rig.folder, ignore_errors=True)
        self._rig = None


def _row(
    rigs: Rigs, outage: Outage, lengths: tuple[float, ...], shown: str, archives: int = 6, files: int = 12
) -> Row:
    found, recovery = Findings(), []
    for seconds in lengths:
        work = partial(attempt, outage=outage, seconds=seconds, archives=archives, files=files)
        trial = rigs.trial(f"{outage}, {seconds:.0f} s", work)
        found.add(trial.findings)
        recovery += [] if trial.recovery is None else [trial.recovery]
    return table.row(f"{outage}, {shown}", len(lengths), found, recovery)


def simulated(play: Play) -> Iterator[Row]:
    """Every outage, 5 s, 1 min and 10 min long on the fast clock."""
    for swift, chosen in ((False, OUTAGES), (True, SWIFT_OUTAGES)):
        with Rigs(play, "swift" if swift else "outage", SPEED, swift) as rigs:
            for name, outage in chosen.items():
                if play.match in name:
                    yield _row(rigs, outage, LENGTHS, "5 s, 1 min, 10 min")
    play.notes.append(f"seed {play.seed}; clocks of workers and Redis {SPEED:.0f} times as fast")
    play.notes.append("MAX_ATTEMPTS=1; 6 archives of 12 files for each outage; recovery in simulated seconds")


def in_true_time(play: Play) -> Iterator[Row]:
    """Some of the outages in their true length."""
    with Rigs(play, "true-outage", 1.0) as rigs:
        for name, seconds in TRUE_LENGTHS.items():
            if play.match in name:
                yield _row(rigs, OUTAGES[name], (seconds,), f"{seconds / 60:.0f} min in true time")
    play.notes.append(f"seed {play.seed}; MAX_ATTEMPTS=1")


def lost_replies(play: Play) -> Iterator[Row]:
    """The replies to single requests lost."""
    with Rigs(play, "replies", 10.0) as rigs:
        for service in losses.REPLIES:
            name = NAMES[service]
            if play.match not in f"{name}: replies lost":
                continue
            work = partial(losses.lose_replies, service=service, times=TIMES)
            trial = rigs.trial(f"{name}: replies lost", work)
            play.notes.append(f"{name}: {', '.join(f'{kind} {count}' for kind, count in trial.replies.items())}")
            fault = f"{name}: replies lost, to {len(trial.replies)} kinds of request"
            yield table.row(fault, sum(trial.replies.values()), trial.findings)


def failovers(play: Play) -> Iterator[Row]:
    """Another Redis takes the place of the primary, again and again, once after ten minutes."""
    lengths = [600.0, *(float(play.seed + 3 * number) for number in range(TIMES - 1))]
    with Rigs(play, "failover", SPEED) as rigs:
        for name, outage in FAILOVERS.items():
            if play.match in name:
                yield _row(rigs, outage, tuple(lengths), f"after {play.seed} s to 10 min", archives=4, files=6)
    play.notes.append(f"seed {play.seed}; clocks of workers and Redis {SPEED:.0f} times as fast")
    play.notes.append("MAX_ATTEMPTS=1; 4 archives of 6 files for each failover; recovery in simulated seconds")


def wiped(play: Play) -> Iterator[Row]:
    """Redis wiped, and rebuilt by the workers."""
    with Rigs(play, "wiped", SPEED) as rigs:
        what = "Redis wiped in the middle of 20 open batches"
        yield table.row(what, 1, rigs.trial(what, losses.wipe_redis).findings)


PARTS: dict[str, Callable[[Any], Iterator[Row]]] = {
    "outages": simulated,
    "true-outages": in_true_time,
    "lost-replies": lost_replies,
    "failovers": failovers,
    "wiped": wiped,
}
