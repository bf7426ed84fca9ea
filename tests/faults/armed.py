"""Runs a worker as its script does, with faults at some of its points, and notes how it fares.

    MARKS=FILE python tests/faults/armed.py unpack_worker.py pipeline.jobs.batches:Batches.push after 2 KILL

What follows the script is as for tests/support/kill_at.py, and may be repeated. Each mark is a line: seconds on
the system's monotonic clock, process id, and `ready` (the worker has started), `hit` (a fault strikes) or `ack` (a
job was acknowledged, a sign of progress).
With EFFECTS=FILE every side effect of the worker is noted too (tests/faults/effects.py).
"""

import functools
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import JobQueue
from tests.faults import effects
from tests.support import kill_at

FAULT_WORDS = 4  # point, when, which, signal


def note_acknowledgements(mark: Callable[[str], object]) -> None:
    """Mark each job that leaves the worker's hands for good."""

    def noting(owner: type, name: str, is_ack: Callable[[Any], bool]) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def noted(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            if is_ack(result):
                mark("ack")
            return result

        setattr(owner, name, noted)

    noting(JobQueue, "settle", bool)
    noting(JobQueue, "dead_letter", bool)
    noting(Batches, "settle_job", lambda result: result in ("counted", "complete"))


def main() -> None:
    script, *words = sys.argv[1:]
    worker = importlib.import_module(Path(script).stem)
    if "MARKS" in os.environ:
        marks = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

        def mark(what: str) -> None:
            os.write(marks, f"{time.monotonic():.3f} {os.getpid()} {what}\n".encode())  # one write is whole

        note_acknowledgements(mark)
        kill_at.wrap("pipeline.jobs.worker:Worker._enter", bool, lambda _: mark("ready"))
        kill_at.on_hit = lambda: mark("hit")
    if "EFFECTS" in os.environ:
        effects.note(Path(script).stem.removesuffix("_worker"), Path(os.environ["EFFECTS"]))
    for start in range(0, len(words), FAULT_WORDS):
        kill_at.strike(*words[start : start + FAULT_WORDS])
    sys.argv = [script]
    sys.exit(worker.main())


if __name__ == "__main__":
    main()
