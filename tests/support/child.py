"""A server as child processes: they log to files, end with their parent, and can be started again.

`setpriv` (util-linux) sets the parent-death signal. The kernel sends it when the *thread* that started
the child ends, so start servers from the main thread.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.support.nursery import Forked, Nursery

Process = subprocess.Popen[bytes] | Forked
START_SECONDS = 60.0
STOP_SECONDS = 10.0


def free_port() -> int:
    """A loopback port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def is_open(port: int) -> bool:
    """Whether something listens on the loopback port."""
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_until(done: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Ask every few milliseconds until it is done; TimeoutError after the deadline."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds:g} seconds")
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and is not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """The process's children, their children and so on: also those that left its process group."""
    found = []
    for child in children_of(pid):
        found += [child, *descendants(child)]
    return found


def children_of(pid: int) -> list[int]:
    """The process's children; none where it has ended."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:  # the process has ended
        return found
    for thread in threads:
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def end_all(running: list[tuple[Process, Path]], seconds: float) -> None:
    """End processes, each with its log, at once. RuntimeError where one does not end within so many seconds, with
    the tracebacks of its threads where it has PYTHONFAULTHANDLER."""
    for process, _ in running:
        process.terminate()
        process.send_signal(signal.SIGCONT)  # it may have been stopped
    stuck = []
    for process, log in running:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            process.send_signal(signal.SIGCONT)  # it may have been stopped since
            process.wait()
            stuck.append(f"{log.stem} ignored SIGTERM:\n{log.read_text()[-6000:]}")
    if stuck:
        raise RuntimeError("\n".join(stuck))


class ServerError(RuntimeError):
    """A server that did not start: which one, why, and where its log is; one line."""


def last_complaint(log: Path) -> str:
    """What a log says of why its program ended: the last line of an error, or the last line; "" if it has none."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    errors = [line for line in lines if re.search(r"(?i)\b(error|fatal|panic)\b|: error:|Error: ", line)]
    return (errors or lines or [""])[-1][:500]


class Child:
    """A command that runs until it is stopped or killed."""

    def __init__(
        self,
        command: list[str],
        log: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        setpriv: tuple[str, ...] = (),
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        nursery: Nursery | None = None,
    ) -> None:
        """`nursery`: what starts the command, which is a script of Python then and its arguments."""
        self.nursery = nursery
        self.script = command
        self.command = ["setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG"), *setpriv, *command]
        self.log = log
        self.folder = folder or log.parent
        self.stop_signal = stop_signal
        self.environment = environment  # None: as this process's
        self.process: Process | None = None

    def start(self) -> None:
        """Start it in a process group of its own: Ctrl-C at the terminal does not reach it."""
        if self.nursery is not None:
            self.log.touch()  # as below: whoever reads it finds it
            self.process = self.nursery.start(self.script, self.folder, self.environment or {}, self.log)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def require_running(self) -> None:
        """RuntimeError with the end of the log where the process has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-15:]
            what = f"{self.log.stem} ended with status {self.process.returncode}"
            raise RuntimeError("\n".join([what, *lines]))

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        self.process = None

    def kill(self) -> None:
        """SIGKILL it with all its descendants, as a power cut would, and wait until they are gone."""
        if self.process is None:
            return
        pids = [self.process.pid, *descendants(self.process.pid)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not any(map(is_alive, pids)), f"the end of {self.log.stem}")
        self.process = None


class Server:
    """A port of its own, and the children that serve there."""

    title = ""  # its name in messages, in place of that of its class
    client_errors: tuple[type[Exception], ...] = ()  # of what asks whether it answers

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.children: list[Child] = []

    def start(self) -> Self:
        """Start it and wait until it answers. ServerError where it does not: nothing of it runs then."""
        with self.starting():
            if is_open(self.port):  # some servers would share the port with a stranger and say nothing
                raise RuntimeError(f"port {self.port} is already served")
            if not self.children:
                self.children = self._set_up()
            for child in self.children:
                child.start()
            wait_until(self._answers, "no answer", START_SECONDS)
        return self

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Make a ServerError of what goes wrong meanwhile, and let nothing of it run then."""
        expected: tuple[type[Exception], ...] = (OSError, RuntimeError, subprocess.SubprocessError)
        try:
            yield
        except ServerError:
            raise
        except (*expected, *self.client_errors) as error:
            ended = [child.log for child in self.children if child.process and child.process.poll() is not None]
            logs = ended or sorted(self.folder.rglob("*.log"), key=lambda log: log.stat().st_mtime, reverse=True)
            self.kill()
            why = [str(error).strip().partition("\n")[0], *(filter(None, map(last_complaint, logs[:1])))]
            where = f"; its log is {logs[0]}" if logs else ""
            title = self.title or type(self).__name__
            raise ServerError(f"{title} did not start: {': '.join(why)}{where}") from error

    def stop(self) -> None:
        for child in reversed(self.children):
            child.stop()

    def kill(self) -> None:
        for child in reversed(self.children):
            child.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def _set_up(self) -> list[Child]:
        """Write what the server needs and return what serves."""
        raise NotImplementedError

    def _ready(self) -> bool:
        """Whether the server answers."""
        return is_open(self.port)

    def _answers(self) -> bool:
        for child in self.children:
            child.require_running()
        return self._ready()
