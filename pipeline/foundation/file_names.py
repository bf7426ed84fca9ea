"""Names of files as PostgreSQL, JSON and people can hold them."""

import hashlib
import re
from pathlib import PurePosixPath

MOST_NAME_BYTES = 1024
_MOST_STEM = 40  # characters, of 4 bytes at most: with the rest below the 255 bytes of a file name


def readable(name: str) -> str:
    """A member's name as PostgreSQL and JSON can hold it.

    A leading `./` is dropped, bytes that are not UTF-8 become \\xNN, and the end of a name beyond
    `MOST_NAME_BYTES` becomes its SHA-256's first digits, so that an index of PostgreSQL (2,704 bytes) takes it.
    """
    name = re.sub(r"\A(?:\./+)+", "", name)
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


def safe_name(original_filename: str, audio_id: int, suffix: str) -> str:
    """A file name for what is made of a recording: what is harmless in its own name, and its id, so that no two
    are the same on any file system."""
    stem, dot, _ = original_filename.rpartition(".")
    plain = re.sub(r"[^\w+=@,-]+", "_", stem if dot else original_filename).strip("_-")
    return f"{plain[:_MOST_STEM].strip('_-') or 'recording'}-{audio_id}.{suffix}"


def safe_folder(batch_id: str) -> str:
    """The name of a folder for what is made of a batch."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", batch_id) or "_"
