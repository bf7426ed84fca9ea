"""Runs a worker that sends itself a signal at one of its steps.

    python tests/kill_at.py pipeline.batches:Batches.push before 2 KILL unpack_worker.py

The named function is wrapped before the script runs, so the product needs no hooks: before its second
call the signal is sent, or after its second call that has returned. The log then says "signal sent".
"""

import functools
import importlib
import itertools
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any


def wrap(point: str, when: str, number: int, name: str) -> None:
    """Make the `number`th call of `point` (module:attribute) send the signal."""
    module, _, path = point.partition(":")
    owner = importlib.import_module(module)
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, last)
    calls = itertools.count(1)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before" and next(calls) == number:
            send(name)
        result = function(*args, **kwargs)
        if when == "after" and next(calls) == number:
            send(name)
        return result

    setattr(owner, last, wrapped)


def send(name: str) -> None:
    """Send this process the signal."""
    print("signal sent", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


if __name__ == "__main__":
    point, when, number, name, script = sys.argv[1:]
    sys.path.insert(0, str(Path(script).parent))
    wrap(point, when, int(number), name)
    sys.argv = [script]
    runpy.run_path(script, run_name="__main__")
