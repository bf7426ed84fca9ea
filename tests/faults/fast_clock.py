"""A clock that runs faster, so that an outage of ten minutes takes half a minute: for the workers and for Valkey.

What it does: `fast_clock.c` is loaded into the programs before all else (LD_PRELOAD). Their clocks run so many
times as fast, and every wait that has an end (sleeps, polls, sockets, locks) ends so many times as soon. The code
of the product, its settings and those of its libraries are what they are in production.

What it does not: the machine is no faster. A step that computes for a second takes twenty of simulated time, so
what is measured in simulated seconds is more than it truly is, never less. PostgreSQL, S3, the SSH host, ffmpeg
where it is linked statically, and the kernel (TCP's own timers, times of files) keep the true time.

(libfaketime does the same for most programs, but not for Python since 3.11: its timed locks hang.
https://github.com/wolfcw/libfaketime/issues/390)
"""

import ctypes
import mmap
import shutil
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


class _Shared(ctypes.Structure):
    """`struct clock` of fast_clock.c."""

    _fields_ = (
        ("origin", ctypes.c_int64),
        ("wall", ctypes.c_int64),
        ("set_by", ctypes.c_int64),
        ("speed", ctypes.c_double),
    )


def compiler() -> str | None:
    """The C compiler of this machine, if it has one."""
    return shutil.which("cc") or shutil.which("gcc")


class FastClock:
    """One clock for all programs that get its `environment`; true time goes on in this process."""

    def __init__(self, folder: Path, speed: float = 1.0, name: str = "clock") -> None:
        """Compile the library into `folder` and start the clock there; `RuntimeError` without a compiler."""
        self.speed, self.file, self.library = speed, folder / name, folder / "fast_clock.so"
        if not self.library.exists():
            if (program := compiler()) is None:
                raise RuntimeError("a C compiler is needed (Debian, Ubuntu: apt install gcc libc6-dev)")
            command = [program, "-O2", "-shared", "-fPIC", "-o", str(self.library), str(SOURCE)]
            subprocess.run(command, check=True)
        with self.file.open("w+b") as file:
            file.truncate(ctypes.sizeof(_Shared))
            self._memory = mmap.mmap(file.fileno(), ctypes.sizeof(_Shared))
        self._shared = _Shared.from_buffer(self._memory)
        self._shared.origin, self._shared.wall = time.monotonic_ns(), time.time_ns()
        self._shared.set_by, self._shared.speed = 0, speed

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to have this clock."""
        return {"LD_PRELOAD": str(self.library), "FAST_CLOCK": str(self.file)}

    def set_forward(self, seconds: float) -> None:
        """Set the wall clock so far from the right time (backward where it is less than 0), as an operator or NTP
        does: waits are not touched."""
        self._shared.set_by = int(seconds * 1_000_000_000)

    def now(self) -> float:
        """Seconds on the simulated monotonic clock."""
        origin = self._shared.origin / 1e9
        return origin + (time.monotonic() - origin) * self.speed

    def wall(self) -> float:
        """Seconds since 1970 on the simulated wall clock, as it is set."""
        passed = (time.monotonic_ns() - self._shared.origin) * self.speed
        return float(self._shared.wall + self._shared.set_by + passed) / 1e9

    def sleep(self, seconds: float) -> None:
        """Wait so many simulated seconds."""
        time.sleep(seconds / self.speed)
