"""What a test starts is forked, and fares as what an operator starts."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.child import is_alive, wait_until
from tests.support.fleet import Fleet
from tests.support.nursery import Forked, Nursery
from tests.support.steps import AT_LENGTH, exit_status, wait_for_log

ENDS = {
    "sys.exit()": (0, ""),
    "sys.exit(3)": (3, ""),
    "sys.exit('no')": (1, "no\n"),
    "raise ValueError('x')": (1, "ValueError: x\n"),
    "os.kill(os.getpid(), 9)": (-9, ""),
    "atexit.register(print, 'last', file=sys.stderr)": (0, "last\n"),
    "threading.Thread(target=lambda: (time.sleep(0.1), print('late', file=sys.stderr))).start()": (0, "late\n"),
}


@pytest.fixture
def nursery(tmp_path: Path) -> Nursery:
    """One of the test's own."""
    return Nursery(tmp_path / "nursery.log")


@pytest.mark.skipif(AT_LENGTH, reason="at length everything starts as the operator's does")
def test_the_scripts_of_a_test_are_forked(fleet: Fleet) -> None:
    worker = fleet.worker("transfer")
    assert isinstance(worker.process, Forked)
    wait_for_log(worker, " ready, ")
    worker.process.terminate()
    assert exit_status(worker) == 0


def test_it_ends_as_python_does(nursery: Nursery, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    for code, (status, said) in ENDS.items():
        script.write_text(f"import atexit, os, sys, threading, time\n{code}\n")
        err = tmp_path / f"{len(list(tmp_path.iterdir()))}.err"
        process = nursery.start([str(script)], tmp_path, {**os.environ}, tmp_path / "out", err)
        assert process.wait(60) == status, code
        assert err.read_text().endswith(said), code
    nursery.close()


def test_it_is_waited_for_and_reported(nursery: Nursery, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\nprint(sys.argv[1], os.environ['X'], os.getcwd(), flush=True)\ntime.sleep(60)\n"
    )
    process = nursery.start([str(script), "a"], tmp_path, {"X": "1"}, tmp_path / "out")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    wait_until(lambda: (tmp_path / "out").read_text() == f"a 1 {tmp_path}\n", "what it says")
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.kill()  # it is gone: nothing happens
    nursery.close()


def test_the_end_of_the_nursery_is_reported_and_ends_what_it_forked(nursery: Nursery, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import time\ntime.sleep(60)\n")
    process = nursery.start([str(script)], tmp_path, {}, tmp_path / "out")
    nursery._process.kill()
    for ask in (process.wait, lambda: nursery.start([str(script)], tmp_path, {}, tmp_path / "out")):
        with pytest.raises((RuntimeError, BrokenPipeError)):
            ask()
    wait_until(lambda: not is_alive(process.pid), "its end")
