"""Names of files as PostgreSQL, JSON and people can hold them."""

import hashlib
from pathlib import PurePosixPath

MOST_NAME_BYTES = 1024


def readable(name: str) -> str:
    """A member's name as PostgreSQL and JSON can hold it.

    A leading `./` is dropped, bytes that are not UTF-8 become \\xNN, and the end of a name beyond
    `MOST_NAME_BYTES` becomes its SHA-256's first digits, so that an index of PostgreSQL (2,704 bytes) takes it.
    """
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    if len(name.encode()) <= MOST_NAME_BYTES:
        return name
    kept = name.encode()[: MOST_NAME_BYTES - 20].decode("utf-8", "ignore")
    return f"{kept}~{hashlib.sha256(name.encode()).hexdigest()[:12]}{PurePosixPath(name).suffix[:6]}"


def is_storable(name: str) -> bool:
    """Whether a name can be one of `index`: PostgreSQL and its index take it."""
    try:
        return "\0" not in name and len(name.encode()) <= 2 * MOST_NAME_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
