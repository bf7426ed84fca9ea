"""Runs a worker that sends itself a signal at one of its steps, or finds its GPU broken there.

    python tests/support/kill_at.py pipeline.jobs.batches:Batches.push before 2 KILL unpack_worker.py

The named function is wrapped before the script runs, so the product needs no hooks: before its second
call the signal is sent, or after its second call that has ended. The log then says "signal sent".
Instead of a number, a text: the first call with it in one of its arguments. Instead of a signal: CUDA raises what
CTranslate2 does when the GPU has failed, BROKEN what `pipeline.foundation.device` makes of it, LOST that EC2 is
away. Before a context manager is before its block is entered, after it when the block has been left.
"""

import contextlib
import functools
import importlib
import inspect
import itertools
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from pipeline.foundation.errors import Broken, Outage

PROJECT = Path(__file__).resolve().parents[2]
Hit = Callable[[tuple[Any, ...]], object]
on_hit: Callable[[], object] = bool  # called when the signal is about to be sent


def wrap(point: str, before: Hit, after: Hit) -> None:
    """Have `before(args)` and `after(args)` called around each call of `point` (module:attribute), by
    whatever name a module of the project knows it."""
    module, _, path = point.partition(":")
    owner = importlib.import_module(module)
    *outer, last = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    function = getattr(owner, last)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        before(args)
        try:
            return function(*args, **kwargs)
        finally:
            after(args)

    @functools.wraps(function)
    @contextlib.contextmanager
    def entered(*args: Any, **kwargs: Any) -> Iterator[Any]:
        before(args)
        try:
            with function(*args, **kwargs) as value:
                yield value
        finally:
            after(args)

    is_context = inspect.isgeneratorfunction(getattr(function, "__wrapped__", None))
    wrapped = entered if is_context else called
    setattr(owner, last, wrapped)
    for other in [*sys.modules.values()]:
        if Path(getattr(other, "__file__", None) or "/").is_relative_to(PROJECT):
            for name, value in [*vars(other).items()]:
                if value is function:
                    setattr(other, name, wrapped)


def strike(point: str, when: str, which: str, name: str) -> None:
    """Make a call of `point` send the signal."""
    calls = itertools.count(1)

    def hit(args: tuple[Any, ...]) -> None:
        if next(calls) == int(which) if which.isdecimal() else which in repr(args):
            send(name)

    def miss(_: tuple[Any, ...]) -> None:
        return

    wrap(point, hit if when == "before" else miss, hit if when == "after" else miss)


def send(name: str) -> None:
    """Send this process the signal, or raise the error."""
    print("signal sent", file=sys.stderr, flush=True)
    on_hit()
    if name == "CUDA":
        raise RuntimeError("CUDA failed with error unspecified launch failure")
    if name == "BROKEN":
        raise Broken("topics: CUDA failure 719: unspecified launch failure")
    if name == "LOST":
        raise Outage("EC2", "the connection broke")
    if name == "STOP":  # sent to the process, another thread may take it, and this one go on for a moment
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return
    os.kill(os.getpid(), getattr(signal, f"SIG{name}"))


if __name__ == "__main__":
    point, when, which, name, script, *arguments = sys.argv[1:]
    strike(point, when, which, name)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
