"""How ffmpeg fails with a file: the file is unreadable, its times are, or somebody has ended ffmpeg."""

import signal

from pipeline.foundation.errors import Permanent

# What a program brings upon itself; the other signals come from outside, SIGKILL from a kernel without memory.
_CRASHES = {
    -number
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS,
                   signal.SIGTRAP)
}  # fmt: skip


class UnreadableAudio(Permanent):
    """ffmpeg can make no sound of the file; the message is its own reason."""


def too_slow(seconds: float) -> UnreadableAudio:
    """What a file is failed with on which ffmpeg worked for longer than it may."""
    return UnreadableAudio(f"ffmpeg did not finish within {seconds:g} s (FFMPEG_TIMEOUT_SECONDS)")


class Interrupted(Exception):
    """A signal has ended ffmpeg, or it was told to stop: the file may have no part in it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.is_a_crash = status in _CRASHES


class BrokenTimestamps(Exception):
    """The times of the packets cannot be right: the sound has to be taken as it comes."""
