"""What a host says of one path, asked by SFTP: in numbers (draft-ietf-secsh-filexfer-02, section 7).

scp and a remote shell have words alone for why they failed, and a file's name may be among them.
"""

import os
import stat
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

OK, NO_SUCH_FILE, PERMISSION_DENIED, BAD_MESSAGE = 0, 2, 3, 5  # the last is OpenSSH's for a name too long
_REFUSED = (NO_SUCH_FILE, PERMISSION_DENIED, BAD_MESSAGE)  # any other status may be of all files there alike
_INIT, _VERSION, _OPEN, _OPENDIR, _STAT = 1, 2, 3, 11, 17
_STATUS, _HANDLE, _ATTRS = 101, 102, 105
_SIZE, _OWNER, _PERMISSIONS = 1, 2, 4  # flags: which attributes follow
_READ = 1
_MOST_BYTES = 2**18  # of a packet


class Lost(Exception):
    """The connection failed, or there is no SFTP at its other end."""


@dataclass(frozen=True)
class Found:
    """What has become of asking for a path: the status, and of what is there its mode (as `stat` has it)."""

    status: int
    mode: int = 0

    @property
    def is_refused(self) -> bool:
        """Whether it is the path's own fault: it is not there, or not for us."""
        return self.status in _REFUSED

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)


def find(command: list[str], path: str, seconds: float) -> Found:
    """Look for a path, and open it for reading where it is a file or a folder; `command` connects to the server.

    `Lost` where the host does not answer in that time, or not in SFTP.
    """
    with _running(command, seconds) as (to, answers):
        try:
            _send(to, _INIT, struct.pack(">I", 3))
            if _receive(answers)[0] != _VERSION:
                raise Lost("the host does not offer SFTP")
            name = os.fsencode(path)
            found = _ask(to, answers, 1, _STAT, _text(name))
            if found.is_file:
                opened = _ask(to, answers, 2, _OPEN, _text(name) + struct.pack(">II", _READ, 0))
            elif found.is_folder:
                opened = _ask(to, answers, 2, _OPENDIR, _text(name))
            else:
                return found
            return Found(opened.status, found.mode)
        except (OSError, EOFError, struct.error) as error:
            raise Lost("the host does not answer by SFTP") from error


@contextmanager
def _running(command: list[str], seconds: float) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The pipes to and from a program, which has ended with the block, and earlier after so long."""
    process = subprocess.Popen(
        command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin
    assert process.stdout
    timer = threading.Timer(seconds, process.kill)
    with process:
        try:
            timer.start()
            yield process.stdin, process.stdout
        finally:
            timer.cancel()
            process.kill()


def _ask(to: IO[bytes], answers: IO[bytes], number: int, kind: int, body: bytes) -> Found:
    _send(to, kind, struct.pack(">I", number) + body)
    answer, content = _receive(answers)
    (asked,) = struct.unpack_from(">I", content)
    if asked != number:
        raise Lost("the host does not offer SFTP")
    if answer == _STATUS:
        return Found(*struct.unpack_from(">I", content, 4))
    return Found(OK, _mode(content[4:]) if answer == _ATTRS else 0)


def _mode(attributes: bytes) -> int:
    (flags,) = struct.unpack_from(">I", attributes)
    if not flags & _PERMISSIONS:
        return 0
    offset = 4 + (8 if flags & _SIZE else 0) + (8 if flags & _OWNER else 0)
    return int(struct.unpack_from(">I", attributes, offset)[0])


def _send(to: IO[bytes], kind: int, body: bytes) -> None:
    packet = struct.pack(">IB", len(body) + 1, kind) + body
    while packet:
        packet = packet[to.write(packet) :]


def _receive(answers: IO[bytes]) -> tuple[int, bytes]:
    (length,) = struct.unpack(">I", _exactly(answers, 4))
    if not 0 < length <= _MOST_BYTES:
        raise Lost("the host does not offer SFTP")
    packet = _exactly(answers, length)
    return packet[0], packet[1:]


def _exactly(answers: IO[bytes], count: int) -> bytes:
    data = b""
    while len(data) < count:
        if not (more := answers.read(count - len(data))):
            raise EOFError
        data += more
    return data


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
