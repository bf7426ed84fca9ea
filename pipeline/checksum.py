"""The SHA-256 of large files, which a worker that is to stop need not wait for."""

import hashlib
from collections.abc import Callable
from pathlib import Path

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
