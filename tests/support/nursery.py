"""Starts scripts of the project fast: a process that has imported what they import forks each of them.

A worker spends most of its start on importing libraries. Here that is done once; the script itself is a process of
its own that reads its settings, connects and works as any other. What it has of the process that forked it is its
command line and its environment in /proc, its umask and its peak of memory: a test of those starts it as the
operator does (`fleet.nursery = None`).

onnxruntime, and what imports it, is left to the scripts: its import starts a thread, which a fork would not have.
"""

import atexit
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1
PROJECT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "av", "boto3", "ctranslate2", "faster_whisper", "ffmpeg", "numpy", "prometheus_client", "psycopg2", "redis",
    "rich.console", "rich.live", "rich.progress", "rich.table", "tokenizers",
)  # fmt: skip
MODULES = (
    "audio.converter", "jobs.batch_completion", "jobs.batch_ids", "jobs.batches", "jobs.worker", "store.database",
    "transfer.discovery", "transfer.local_copies", "transfer.originals", "transfer.scp", "transfer.ssh",
    "transfer.stale_uploads", "unpack.archive", "unpack.compression", "unpack.conversion_pool",
)  # fmt: skip


class Forked:
    """A script that was started, with what subprocess.Popen has of it."""

    def __init__(self, pid: int, nursery: "Nursery") -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._nursery = nursery

    def poll(self) -> int | None:
        """How it has ended (a negative signal, or its exit status), or None while it runs."""
        with self._nursery.changed:
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; gives how it has ended. `subprocess.TimeoutExpired` after so many seconds."""
        nursery = self._nursery
        with nursery.changed:
            if not nursery.changed.wait_for(lambda: self.returncode is not None or nursery.has_ended, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            if self.returncode is None:
                raise RuntimeError("the nursery has ended: its log says why")
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ends just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks, as its user sees it. It ends with its user, and what it has forked with it."""

    def __init__(self, log: Path) -> None:
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C at the terminal does not reach it
            )
        assert self._process.stdin
        assert self._process.stdout
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._running: dict[int, Forked] = {}
        self._started: dict[int, Forked] = {}  # by the number of the request
        self._numbers = itertools.count()
        self.has_ended = False
        self._asking = threading.Lock()
        self.changed = threading.Condition()
        self._listening = threading.Thread(target=self._listen, name="nursery", daemon=True)
        self._listening.start()

    def start(
        self, script: list[str], folder: Path, environment: dict[str, str], out: Path, err: Path | None = None
    ) -> Forked:
        """Start a script with its arguments in a folder; it writes to `out`, or to `err` its errors."""
        places = {"folder": str(folder), "out": str(out), "err": str(err or out)}
        with self._asking:
            number = next(self._numbers)
            request = {"number": number, "script": script, "environment": environment, **places}
            self._requests.write(f"{json.dumps(request)}\n".encode())
            self._requests.flush()
            with self.changed:
                self.changed.wait_for(lambda: number in self._started or self.has_ended)
                if number not in self._started:
                    raise RuntimeError("the nursery has ended: its log says why")
                return self._started.pop(number)

    def _listen(self) -> None:
        for line in self._answers:
            what, pid, number = line.split()
            with self.changed:
                if what == b"started":
                    self._running[int(pid)] = self._started[int(number)] = Forked(int(pid), self)
                else:
                    self._running.pop(int(pid)).returncode = int(number)
                self.changed.notify_all()
        with self.changed:
            self.has_ended = True
            self.changed.notify_all()

    def close(self) -> None:
        """End the process; every script must have ended."""
        self._requests.close()
        self._process.wait()
        self._listening.join()
        self._answers.close()


def _serve() -> dict[str, Any] | None:
    """Fork a script for each line of standard input; gives its request in the script, and None at the end."""
    running: dict[int, int] = {}  # pidfd -> process
    while True:
        ready, _, _ = select.select([0, *running], [], [])
        for handle in ready:
            if handle:
                _, status = os.waitpid(running[handle], 0)
                _answer("ended", running.pop(handle), os.waitstatus_to_exitcode(status))
                os.close(handle)
        if 0 in ready:
            line = b""
            while not line.endswith(b"\n"):  # there is one at a time
                if not (read := os.read(0, 2**20)):
                    return None
                line += read
            request: dict[str, Any] = json.loads(line)
            number = request.pop("number")
            if (pid := os.fork()) == 0:
                for handle in running:
                    os.close(handle)
                return request
            running[os.pidfd_open(pid)] = pid
            _answer("started", pid, number)


def _answer(what: str, pid: int, number: int) -> None:
    os.write(1, f"{what} {pid} {number}\n".encode())


def _become(script: list[str], environment: dict[str, str], folder: str, out: str, err: str) -> None:
    """Make this process the script that was asked for, as `python SCRIPT` would."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    for handle, path in ((1, out), (2, err)):
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(target, handle)
        os.close(target)
    if "PYTHONFAULTHANDLER" in environment:
        faulthandler.enable()
    sys.argv = script
    sys.path[0] = str(Path(script[0]).parent)
    _end(_run(script[0]))


def _run(script: str) -> int:
    """Run the script; gives the exit status."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException as error:  # noqa: BLE001  # as the interpreter does it
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def _end(status: int) -> None:
    """End as the interpreter does, but for taking everything to pieces: that would copy most of what is shared."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


def main() -> None:
    sys.path[0] = str(PROJECT)
    for name in (*LIBRARIES, *(f"pipeline.{module}" for module in MODULES)):
        importlib.import_module(name)
    import boto3

    boto3.client("s3", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")  # its own data
    gc.collect()
    gc.freeze()  # the scripts' collections leave it alone, and so its pages are shared
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise RuntimeError(f"{threads} threads run after the imports: a fork would have one of them")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = _serve()
    if request is not None:
        _become(**request)


if __name__ == "__main__":
    main()
