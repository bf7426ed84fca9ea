"""A process of its host: when it was started, and what it tells systemd."""

import contextlib
import os
import socket
from pathlib import Path


def boot() -> str:
    """What no other machine has, nor this one after its next boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid: int) -> str | None:
    """When the process started, in clock ticks since boot, with its boot; None where that cannot be read."""
    try:
        return boot() + Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); does nothing where the process is not a unit of Type=notify."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        channel.send(state.replace("\n", " ").encode(errors="replace"))
