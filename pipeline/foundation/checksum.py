"""The SHA-256 of large files, read in steps between which a worker may stop, or taken as they arrive or leave."""

import hashlib
import heapq
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.foundation.errors import Permanent

_BLOCK = 2**20


def sha256(path: Path, moved: Callable[[int], object] | None = None) -> str:
    """The file's SHA-256 in hexadecimal. `moved(bytes)` is called on the way, and may raise."""
    digest, block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            if moved is not None:
                moved(count)
    return digest.hexdigest()


class ExpectedFile:
    """A file as a stream that comes to its end only where its SHA-256 is the one that is expected.

    Who sends it cannot go back in it, and so sends the bytes that were hashed, each read once.
    """

    def __init__(self, file: BinaryIO, expected: str) -> None:
        self._file, self._expected, self._digest = file, expected, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """So many bytes, or all; fewer at the end, where it is `Permanent` that the SHA-256 is another one."""
        data = self._file.read(size)
        self._digest.update(data)
        if (size < 0 or len(data) < size) and self._digest.hexdigest() != self._expected:
            raise Permanent("it changed while it was read")
        return data


class HashedFile(io.BufferedRandom):
    """A new file whose pieces one thread writes in any order, and whose SHA-256 follows them from its beginning.

    A piece that comes ahead of a gap is read back (from the page cache, as a rule) once the gap is filled. What is
    hashed is never written again, so that the SHA-256 is that of the bytes in the file. Memory: one block.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w+"))
        self.hashed = 0  # bytes from the beginning without a gap
        self._digest, self._block = hashlib.sha256(), memoryview(bytearray(_BLOCK))
        self._ahead: list[tuple[int, int]] = []  # a heap: from, to

    def write(self, data: Any) -> int:
        """Write bytes at the position, but for those that are hashed already; gives how many were given."""
        start = self.tell()
        fresh = memoryview(data)[max(0, self.hashed - start) :]
        if fresh:
            self.seek(start + len(data) - len(fresh))
            super().write(fresh)
            if start > self.hashed:
                heapq.heappush(self._ahead, (start, start + len(fresh)))
            else:
                self._digest.update(fresh)
                self.hashed += len(fresh)
        self._catch_up()
        self.seek(start + len(data))
        return len(data)

    def hexdigest(self) -> str:
        """The SHA-256 of the first `hashed` bytes in hexadecimal."""
        return self._digest.hexdigest()

    def _catch_up(self) -> None:
        while self._ahead and self._ahead[0][0] <= self.hashed:
            _, end = heapq.heappop(self._ahead)
            self.seek(self.hashed)
            while self.hashed < end:
                count = self.readinto(self._block[: end - self.hashed])
                if not count:
                    raise OSError(f"{self.name!r} lost bytes that were written")
                self._digest.update(self._block[:count])
                self.hashed += count
