"""pipeline/store/background_index.py: a worker's thread is hardly held up by it."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.store import background_index
from pipeline.store.background_index import BackgroundIndex


class Clock:
    """The time, and a database that takes some of it for each look."""

    def __init__(self, *found: int | Exception, seconds: float = 0.0) -> None:
        self.now, self.seconds, self.looks = 1000.0, seconds, 0
        self.found = iter(found)

    def monotonic(self) -> float:
        return self.now

    def index_transcripts(self) -> int:
        self.looks += 1
        self.now += self.seconds
        found = next(self.found)
        if isinstance(found, Exception):
            raise found
        return found


def start(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> BackgroundIndex:
    monkeypatch.setattr(background_index, "time", SimpleNamespace(monotonic=clock.monotonic))
    database: Any = clock
    return BackgroundIndex(database)


def test_without_anything_to_index_it_looks_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(20, 3, 0, 0)
    index = start(monkeypatch, clock)
    for _ in range(5):
        index.look()
    assert clock.looks == 3
    clock.now += 60
    index.look()
    assert clock.looks == 4


def test_it_rests_longer_than_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(20, 20, seconds=10)
    index = start(monkeypatch, clock)
    index.look()
    clock.now += 39
    index.look()
    assert clock.looks == 1
    clock.now += 1
    index.look()
    assert clock.looks == 2


def test_what_fails_comes_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(RuntimeError("cancelled"), 1, seconds=25)
    index = start(monkeypatch, clock)
    with pytest.raises(RuntimeError):
        index.look()
    index.look()
    assert clock.looks == 1
    clock.now += 60
    index.look()
    assert clock.looks == 2
