"""Everything at once: a fleet of three hosts under all mishaps of the field, round after round.

In a round archives come in and mishaps begin at random, several at once. Then the mishaps end, nobody types a
command, and all that was put in is done within two minutes: what a machine can decide it has decided by then, and
the status has nothing to say. At the end the checker has the last word.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.faults.checker import Findings
from tests.faults.field import Field
from tests.faults.mishaps import begin_one
from tests.support.fleet import Fleet

ROUND_SECONDS = 120.0  # of mishaps
EVERY_SECONDS = 2.5  # on average, one begins
PUT_SECONDS = 2.0  # from one archive to the next, at least
CALM_SECONDS = 120.0  # in which everything is done without a command
SWEPT_SECONDS = 60.0  # for what is swept only when it is old enough


@dataclass
class Result:
    """What a run has shown: findings, mishaps by name, the seconds of calm that each round needed, and how much
    work there was."""

    findings: Findings
    played: Counter[str]
    recovery: list[float] = field(default_factory=list)
    archives: int = 0
    files: int = 0


def run(
    fleet: Fleet,
    seed: int,
    minutes: float,
    tell: Callable[[str], object] = str,
    match: str = "",
    most: int = 10**9,
) -> Result:
    """Rounds for so many minutes, or until so many mishaps were played, of those whose name has `match` in it."""
    with Field(fleet, random.Random(f"field {seed}"), tell) as field:
        result = Result(field.found, field.played)
        end = time.monotonic() + 60 * minutes
        while (left := end - time.monotonic()) > 0 and field.played.total() < most:
            storm(field, min(left, ROUND_SECONDS), match)
            result.recovery += calm(field, len(result.recovery) + 1)
        field.found.add(checked(field))
        field.found.lost += field.false_attempts()
        result.archives = len(field.stream.archives)
        result.files = sum(len(archive.files) for archive in field.stream.archives)
        return result


def storm(field: Field, seconds: float, match: str) -> None:
    """Archives and mishaps for so long, then the ends of the mishaps that go on."""
    end = time.monotonic() + seconds
    next_one = 0.0
    while time.monotonic() < end:
        field.put(PUT_SECONDS)
        if time.monotonic() >= next_one:
            next_one = time.monotonic() + field.random.expovariate(1 / EVERY_SECONDS)
            begin_one(field, match)
        field.step()
    while field.playing:
        field.step()


def calm(field: Field, number: int) -> list[float]:
    """Wait until all is done; gives the seconds that it took, where it came to that in time."""
    began, next_look = time.monotonic(), 0.0
    field.note("calm")
    while (passed := time.monotonic() - began) < CALM_SECONDS:
        field.step()
        if time.monotonic() >= next_look:
            if field.is_well():
                field.note(f"well after {passed:.1f} s")
                field.tell(
                    f"round {number}: {field.played.total()} mishaps so far, well after {passed:.1f} s of calm"
                )
                return [passed]
            next_look = time.monotonic() + 1
    left = [*field.check().lines(), *(f"status: {what}" for what in field.troubles())]
    field.wrong(f"round {number}: not well after {CALM_SECONDS:.0f} s of calm:\n" + "\n".join(left))
    return []


def checked(field: Field) -> Findings:
    """What the checker finds, when what is swept has had the time to be swept."""
    end = time.monotonic() + SWEPT_SECONDS
    while (found := field.check()) and time.monotonic() < end:
        for _ in range(100):
            field.step()
    return found
