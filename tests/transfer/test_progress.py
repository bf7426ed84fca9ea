"""pipeline/transfer/progress.py: bytes, rate and time left, in the log now and then and in the status at once."""

import logging
import threading
from typing import Any

import pytest

from pipeline.foundation.errors import Stopping
from pipeline.foundation.formatting import amount, duration
from pipeline.foundation.worker_metrics import Metrics
from pipeline.transfer.progress import Board, Progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeWorker:
    """What the board needs of a worker."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.stopping = False
        self.metrics = Metrics()

    def doing(self, what: str, how_far: str = "") -> None:
        self.said.append((what, how_far))

    def moved(self, _bytes: int = 0) -> None:
        if self.stopping:
            raise Stopping


def run(progress: Progress, clock: Clock, seconds: int, rate: int) -> None:
    for _ in range(seconds):
        clock.now += 1
        progress.moved(rate)


def test_it_shows_bytes_rate_and_the_time_left() -> None:
    clock = Clock()
    progress = Progress(10_000_000_000, "copying", clock)
    assert str(progress) == "0 B of 10 GB"
    run(progress, clock, 10, 100_000_000)
    assert str(progress) == "1 GB of 10 GB, 100 MB/s, 1 min 30 s left"


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    clock = Clock()
    progress = Progress(100_000_000_000, "copying", clock)
    run(progress, clock, 300, 100_000_000)
    run(progress, clock, 30, 1_000_000)
    assert ", 1 MB/s, " in str(progress)


def test_bytes_that_are_fetched_again_are_taken_back() -> None:
    clock = Clock()
    progress = Progress(1000, "copying", clock)
    run(progress, clock, 2, 400)
    run(progress, clock, 1, -300)
    assert str(progress).startswith("500 B of 1 kB, ")


def test_a_transfer_that_stands_still_has_no_rate() -> None:
    clock = Clock()
    progress = Progress(1000, "copying", clock)
    run(progress, clock, 3, 100)
    clock.now += 60
    progress.moved(0)
    clock.now += 60
    progress.moved(0)
    assert str(progress) == "300 B of 1 kB"


def test_it_logs_every_half_minute_and_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    progress = Progress(100_000_000, "copying /a.tar", clock)
    run(progress, clock, 100, 1_000_000)
    progress.ended()
    assert [record.getMessage() for record in caplog.records] == [
        "copying /a.tar: 30 MB of 100 MB, 1 MB/s, 1 min 10 s left",
        "copying /a.tar: 60 MB of 100 MB, 1 MB/s, 40 s left",
        "copying /a.tar: 90 MB of 100 MB, 1 MB/s, 10 s left",
        "copying /a.tar: done, 100 MB in 1 min 40 s, 1 MB/s",
    ]


def test_a_short_transfer_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    progress = Progress(1000, "copying", clock)
    run(progress, clock, 29, 10)
    progress.ended()
    assert caplog.records == []


def test_many_threads_may_count() -> None:
    progress = Progress(1000, "uploading")
    threads = [threading.Thread(target=lambda: [progress.moved(1) for _ in range(5000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert progress.done == 40_000


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1000, "1 kB"), (999_499, "999 kB"), (999_999, "1 MB"), (5_120_000_000, "5.12 GB"),
     (1_500_000_000_000, "1.5 TB"), (2_000_000_000_000_000, "2000 TB")],
)  # fmt: skip
def test_amounts(count: int, text: str) -> None:
    assert amount(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (4800, "1 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def board() -> tuple[Board, Any]:
    worker = FakeWorker()
    return Board(worker), worker  # type: ignore[arg-type]


def test_the_board_shows_all_that_goes_on_and_what_is_left_of_it() -> None:
    shown, worker = board()
    with shown.follow("copying b", 2000):
        with shown.follow("uploading a", 1000):
            assert worker.said[-1] == (
                "copying b; uploading a",
                "copying b: 0 B of 2 kB; uploading a: 0 B of 1 kB",
            )
        assert worker.said[-1] == ("copying b", "copying b: 0 B of 2 kB")


def test_the_board_forgets_what_failed() -> None:
    shown, worker = board()
    with pytest.raises(OSError, match="full"), shown.follow("copying b", 2000):
        raise OSError("full")
    with shown.follow("copying c", 1000):
        assert worker.said[-1][0] == "copying c"


def test_a_worker_that_is_to_stop_ends_its_transfers() -> None:
    shown, worker = board()
    with shown.follow("copying b", 2000) as moved:
        moved(5)
        worker.stopping = True
        with pytest.raises(Stopping):
            moved(5)
