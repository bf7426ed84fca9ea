"""Starts workers fast: a process that has imported what they import forks each of them.

A worker spends most of its start on importing libraries. Here that is done once; the worker itself is a process of
its own that reads its settings, connects and works as any other (tests/faults/armed.py). onnxruntime, and what
imports it, is left to the worker: its import starts a thread, which a fork would not have.
"""

import ctypes
import faulthandler
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
import boto3

from tests.faults import armed

POLL_SECONDS = 0.005
_PR_SET_PDEATHSIG = 1


class Nursery:
    """The process that forks, as its user sees it."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                bufsize=0,  # what was read ahead, select would not tell of
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        assert self._process.stdin
        assert self._process.stdout
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._ended: dict[int, int] = {}

    def start(self, words: list[str], environment: dict[str, str], log: Path) -> int:
        """Start tests/faults/armed.py with these words; gives its process id."""
        request = {"words": words, "environment": environment, "log": str(log)}
        self._requests.write(f"{json.dumps(request)}\n".encode())
        while not (pid := self._read()):
            pass
        self._ended.pop(pid, None)  # an earlier worker's: process ids come round
        return pid

    def _read(self) -> int:
        """Take an answer; gives the process that was started, or 0 where it tells of one that has ended."""
        what, pid, status = self._answers.readline().split()
        if what == b"started":
            return int(pid)
        self._ended[int(pid)] = int(status)
        return 0

    def status(self, pid: int) -> int | None:
        """How a worker has ended (a negative signal, or its exit status), or None while it runs."""
        while select.select([self._answers], [], [], 0)[0]:
            self._read()
        return self._ended.get(pid)

    def wait(self, pid: int) -> int:
        """Wait for the end of a worker; gives how it has ended."""
        while pid not in self._ended:
            self._read()
        return self._ended[pid]

    def close(self) -> None:
        """End the process; every worker has to have ended."""
        self._requests.close()
        self._answers.close()
        self._process.wait()


def _serve() -> dict[str, object] | None:
    """Fork a worker for each line of standard input; gives its request in the worker, and None at the end."""
    running = 0
    while True:
        if select.select([0], [], [], POLL_SECONDS)[0]:
            line = sys.stdin.buffer.raw.readline()  # type: ignore[union-attr]
            if not line:
                return None
            request: dict[str, object] = json.loads(line)
            if (pid := os.fork()) == 0:
                return request
            running += 1
            _answer("started", pid, 0)
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            running -= 1
            _answer("ended", pid, os.waitstatus_to_exitcode(status))


def _answer(what: str, pid: int, status: int) -> None:
    os.write(1, f"{what} {pid} {status}\n".encode())


def _become(words: list[str], environment: dict[str, str], log: str) -> None:
    """Make this process the worker that was asked for."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(log).parent)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    empty = os.open(os.devnull, os.O_RDONLY)
    for handle, source in ((0, empty), (1, target), (2, target)):
        os.dup2(source, handle)
    faulthandler.enable()
    sys.argv = [armed.__file__, *words]


LIBRARIES = ("av", "ctranslate2", "faster_whisper", "ffmpeg", "numpy", "tokenizers")
MODULES = (
    "archive", "audio", "batch_ids", "batches", "compression", "conversions", "copies", "copying", "database",
    "finishing", "remote", "sources", "stale_uploads", "watch", "worker",
)  # fmt: skip


def main() -> None:
    for name in (*LIBRARIES, *(f"pipeline.{module}" for module in MODULES)):
        importlib.import_module(name)
    boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")  # its own data
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"{threads} threads run after the imports: a fork would have one of them")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = _serve()
    if request is not None:
        _become(**request)  # type: ignore[arg-type]
        armed.main()


if __name__ == "__main__":
    main()
