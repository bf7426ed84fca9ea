"""pipeline/audio/process_pipes.py: programs that write to pipes, read as they run, and ended with all that they
started."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pipeline.audio.process_pipes import MESSAGES, Ended, Running, TooSlow, running
from pipeline.foundation.errors import Stopping
from tests.support.child import descendants, is_alive, wait_until
from tests.support.fleet import PROJECT

NEVER = threading.Event()


def started(
    script: str, outputs: int = 1, stop: threading.Event = NEVER, seconds: float = 20.0, inputs: Sequence[int] = ()
) -> AbstractContextManager[Running]:
    """A shell script that runs: $1, $2 and so on are the numbers of its outputs."""

    def command(urls: Sequence[str]) -> list[str]:
        assert all(url.startswith("pipe:") for url in urls)
        return ["bash", "-c", script, "script", *(url.removeprefix("pipe:") for url in urls)]

    return running(command, outputs, stop, seconds, inputs)


def read(program: Running) -> dict[int, bytes]:
    """All that it writes, by output."""
    found: dict[int, bytes] = {}
    for number, chunk in program.chunks():
        found[number] = found.get(number, b"") + chunk
    return found


def children() -> set[int]:
    return {pid for pid in descendants(os.getpid()) if is_alive(pid)}


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No child survives, no pipe stays open."""
    before, open_before = children(), set(os.listdir("/proc/self/fd"))
    yield
    wait_until(lambda: children() <= before, "the children's end")
    assert set(os.listdir("/proc/self/fd")) <= open_before  # what an earlier test left may be closed meanwhile


# --- what it writes ----------------------------------------------------------------------------------------


def test_each_output_has_its_number() -> None:
    with started("echo one >&$1; echo two >&$2; echo words >&2; echo nowhere; echo more >&$1", 2) as program:
        assert read(program) == {0: b"one\nmore\n", 1: b"two\n", MESSAGES: b"words\n"}
    assert program.ended.status == 0


def test_a_program_without_outputs_has_its_messages() -> None:
    with started("echo words >&2; exit 3", 0) as program:
        assert read(program) == {MESSAGES: b"words\n"}
    assert program.ended.status == 3


def test_its_threads_do_not_interrupt_each_other() -> None:
    """The kernel's policy for batch work, which its threads and what it starts have from it."""
    with started("while [ $(chrt -p $$ | grep -c BATCH) = 0 ]; do :; done; bash -c 'chrt -p $$ >&'$1") as program:
        assert b"SCHED_BATCH" in read(program)[0]


def test_a_kernel_that_refuses_the_policy_costs_speed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with started("echo one >&$1") as program:
        assert read(program) == {0: b"one\n"}


def test_large_outputs_come_whole_and_side_by_side() -> None:
    """More than a pipe holds, in each: a reader of one after the other would wait for ever."""
    script = "head -c 3000000 /dev/zero >&$2 & head -c 3000000 /dev/zero >&$1; head -c 300000 /dev/zero >&2; wait"
    with started(script, 2) as program:
        assert {number: len(data) for number, data in read(program).items()} == {
            0: 3_000_000, 1: 3_000_000, MESSAGES: 300_000,
        }  # fmt: skip


def test_a_chunk_comes_before_the_program_has_ended() -> None:
    before = children()
    with started("echo first >&$1; kill -STOP $$; echo second >&$1") as program:
        chunks = program.chunks()
        assert next(chunks) == (0, b"first\n")
        assert program.ended == Ended(0, 0)
        (process,) = children() - before
        stat = Path(f"/proc/{process}/stat")
        wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "its stop")
        os.kill(process, signal.SIGCONT)
        assert list(chunks) == [(0, b"second\n")]


def test_it_reads_the_files_that_it_inherits(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("what was in it")
    with (tmp_path / "x").open("rb") as file, started(f"cat <&{file.fileno()} >&$1", inputs=[file.fileno()]) as it:
        assert read(it) == {0: b"what was in it"}


def test_it_inherits_nothing_else(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        os.set_inheritable(file.fileno(), True)
        with started("ls /proc/self/fd >&$1") as program:
            numbers = set(map(int, read(program)[0].split()))
        assert file.fileno() not in numbers
    assert len(numbers) == 5  # standard input, output and error, the pipe, and the folder that ls reads


# --- how it ends -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "status"), [("exit 7", 7), ("kill -9 $$", -9), ("kill -XCPU $$", -24)])
def test_its_end_is_known(ending: str, status: int) -> None:
    with started(f"echo x >&$1; {ending}") as program:
        assert read(program) == {0: b"x\n"}
        assert program.ended.status == status


def test_a_missing_program_is_said_at_once() -> None:
    with pytest.raises(FileNotFoundError), running(lambda _: ["no-such-program"], 3, NEVER, 5):
        pass


def test_a_stop_ends_it_and_all_that_it_has_started() -> None:
    stop = threading.Event()
    with started("sleep 60 & sleep 60 & echo begun >&$1; trap '' TERM; sleep 60; wait", stop=stop) as program:
        chunks = program.chunks()
        assert next(chunks) == (0, b"begun\n")
        stop.set()
        begun = time.monotonic()
        with pytest.raises(Stopping):
            next(chunks)
    assert time.monotonic() - begun < 3


def test_a_stop_is_noticed_however_busy_it_is() -> None:
    stop = threading.Event()
    with started("exec yes >&$1", stop=stop) as program:
        chunks = program.chunks()
        next(chunks)
        stop.set()
        with pytest.raises(Stopping):
            list(chunks)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 60",
        "exec sleep 60 2>&-",
        "while :; do :; done",
        "while sleep 0.1; do echo still here >&$1; done",
        "while sleep 0.1; do echo still here >&2; done",
        "eval \"exec $1>&- 2>&-\"; sleep 60",
        "sleep 60 & exit",
    ],
    ids=["says nothing", "a part of its pipes", "busy", "writes on", "talks on", "closes its pipes", "a helper"],
)  # fmt: skip
def test_it_has_its_time_and_no_more(script: str) -> None:
    begun = time.monotonic()
    with started(script, seconds=1) as program, pytest.raises(TooSlow):
        read(program)
    assert 0.9 < time.monotonic() - begun < 4


def test_the_time_of_the_reader_is_not_its_own() -> None:
    """The disk may be slow."""
    with started("for i in 1 2 3 4; do head -c 200000 /dev/zero >&$1; done", seconds=1) as program:
        count = 0
        for _, chunk in program.chunks():
            count += len(chunk)
            time.sleep(0.3)  # longer, together, than the program may take
    assert count == 800_000
    assert program.ended.status == 0


def test_the_time_of_a_worker_that_was_stopped_is_not_its_own() -> None:
    """SIGSTOP and SIGCONT, or a machine that slept."""
    script = """
import sys, threading
sys.path.insert(0, {project!r})
from pipeline.audio.process_pipes import running
with running(lambda _: ["sh", "-c", "sleep 1; echo words >&2"], 0, threading.Event(), 3) as program:
    print("begun", flush=True)
    print(list(program.chunks()), program.ended.status)
"""
    command = [sys.executable, "-c", script.format(project=str(PROJECT))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "begun\n"
        subprocess.run(["kill", "-STOP", str(worker.pid)], check=True)
        time.sleep(4)
        subprocess.run(["kill", "-CONT", str(worker.pid)], check=True)
        assert worker.stdout.readline() == "[(-1, b'words\\n')] 0\n"


def test_helpers_that_let_go_of_the_pipes_end_with_it(tmp_path: Path) -> None:
    mark = tmp_path / "helper"
    with started(f'eval "sleep 60 $1>&- 2>&- &"; echo $! > {mark}; echo done >&$1') as program:
        assert read(program) == {0: b"done\n"}
        assert program.ended.status == 0
    helper = int(mark.read_text())
    wait_until(lambda: not is_alive(helper), "the helper's end")


def test_who_reads_no_further_ends_it() -> None:
    with started("exec yes >&$1") as program:
        next(program.chunks())
    assert program.ended == Ended(0, 0)


def test_an_error_of_the_reader_ends_it() -> None:
    def fail() -> None:
        with started("exec yes >&$1") as program:
            next(program.chunks())
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()


# --- how much memory it took -------------------------------------------------------------------------------

EAT = f"exec '{sys.executable}' -c 'bytearray(b\"x\") * ({{}} << 20)'"


def test_its_memory_is_known() -> None:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    with started(EAT.format(own + 200)) as program:
        read(program)
    assert own + 200 <= program.ended.peak_memory / 2**20 < own + 300


def test_its_memory_is_not_that_of_the_worker() -> None:
    """Linux counts what the process that forks has as its child's: a worker with a model of gigabytes."""
    kept = bytearray(b"x") * (300 * 2**20)
    with started("exit 1") as program:
        read(program)
    assert program.ended.peak_memory == 0, len(kept)
