"""What a command on the host prints, apart from all that login shells, banners and messages of the day print.

The command goes to a plain shell's standard input, so that no login shell has to read a quote, and its answer
is between two marks that nobody can know beforehand.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from typing import IO

SHELL = "/bin/sh"
_MOST_CHARACTERS = 2000


class Frame:
    """The marks of one command."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(16)
        self._begin = f"<{self.mark}>".encode()
        self._ahead: bytes | None = b""  # what was read piece by piece, until the mark was among it

    def around(self, command: str) -> bytes:
        """The script that runs a command between both marks; the second one holds its exit status."""
        end = f"printf '<%s %d>' {self.mark} $?"
        return os.fsencode(f"{self._start()}{{ {command}\n}} </dev/null\n{end}\n")

    def before(self, command: str) -> bytes:
        """The script that runs a command, the last one, after the first mark: the rest is what it prints."""
        return os.fsencode(f"{self._start()}exec {command} </dev/null\n")

    def _start(self) -> str:
        return f"printf '<%s>' {self.mark}\n"

    def read(self, output: bytes) -> tuple[int | None, bytes | None]:
        """The command's exit status and what it printed. The status is None where it did not come to its end;
        both are None where it did not begin."""
        _, begun, rest = output.partition(self._begin)
        if not begun:
            return None, None
        whole = re.match(rb"(.*)<%s (\d+)>" % self.mark.encode(), rest, re.DOTALL)
        return (int(whole[2]), whole[1]) if whole else (None, rest)

    def rest(self, piece: bytes) -> bytes:
        """Of an output that is read piece by piece: what of this piece comes after the first mark."""
        if self._ahead is None:
            return piece
        ahead = self._ahead + piece
        _, begun, after = ahead.partition(self._begin)
        self._ahead = None if begun else ahead[-len(self._begin) :]
        return after


@contextlib.contextmanager
def as_input(script: bytes) -> Iterator[IO[bytes]]:
    """The script as a file that a program can have for its standard input."""
    with open(os.memfd_create("script"), "w+b") as file:
        file.write(script)
        file.seek(0)
        yield file


def words(*said: str) -> str:
    """All that was said, in one line; of very much, the beginning and the end."""
    lines = [line.strip() for text in said for line in text.splitlines()]
    line = "; ".join(filter(None, lines))
    half = _MOST_CHARACTERS // 2
    return line if len(line) <= _MOST_CHARACTERS else f"{line[:half]} ... {line[-half:]}"
