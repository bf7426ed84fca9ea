"""Runs a worker that sends itself a signal at one of its steps, or finds its GPU broken there.

    python tests/kill_at.py pipeline.batches:Batches.push before 2 KILL unpack_worker.py

The named function is wrapped before the script runs, so the product needs no hooks: before its second
call the signal is sent, or after its second call that has returned. The log then says "signal sent".
Instead of a number, a text: the first call with it in one of its arguments. Instead of a signal: CUDA raises what
CTranslate2 does when the GPU has failed, BROKEN what `pipeline.device` makes of it.
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

sys.path.insert(0, str(Path(__file__).parent.parent))
from pipeline.errors import Broken


def wrap(point: str, when: str, which: str, name: str) -> None:
    """Make a call of `point` (module:attribute) send the signal."""
    module, _, path = point.partition(":")
    owner = importlib.import_module(module)
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, last)
    calls = itertools.count(1)

    def is_it(args: tuple[Any, ...]) -> bool:
        return next(calls) == int(which) if which.isdecimal() else which in repr(args)

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if when == "before" and is_it(args):
            send(name)
        result = function(*args, **kwargs)
        if when == "after" and is_it(args):
            send(name)
        return result

    setattr(owner, last, wrapped)


def send(name: str) -> None:
    """Send this process the signal, or raise the error."""
    print("signal sent", file=sys.stderr, flush=True)
    if name == "CUDA":
        raise RuntimeError("CUDA failed with error unspecified launch failure")
    if name == "BROKEN":
        raise Broken("topics: CUDA failure 719: unspecified launch failure")
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


if __name__ == "__main__":
    point, when, which, name, script, *arguments = sys.argv[1:]
    wrap(point, when, which, name)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
