"""Files that a command writes: whole or not at all, and never over another."""

import contextlib
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

_MOST_STEM = 40  # characters, of 4 bytes at most: with the rest below the 255 bytes of a file name


class Unwritable(Exception):
    """The file cannot be written: the message says why, in one line."""


@contextlib.contextmanager
def whole_file(path: Path, force: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` when the block ends well.

    `Unwritable` where there is a file already and `force` is not given, or the folder cannot be written to.
    """
    if not force and os.path.lexists(path):
        raise Unwritable(f"{path} is there already: --force writes over it")
    if path.is_dir():
        raise Unwritable(f"{path} is a folder")
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        yield part
        if force:
            part.replace(path)
        else:
            os.link(part, path)  # which, unlike a rename, never takes another's place
    except FileExistsError:
        raise Unwritable(f"{path} is there already: --force writes over it") from None
    except OSError as error:
        raise Unwritable(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):  # nor is there a folder
            part.unlink(missing_ok=True)


def safe_name(original_filename: str, audio_id: int, suffix: str) -> str:
    """A file name for what is made of a recording: what is harmless in its own name, and its id, so that no two
    are the same on any file system."""
    stem, dot, _ = original_filename.rpartition(".")
    plain = re.sub(r"[^\w+=@,-]+", "_", stem if dot else original_filename).strip("_-")
    return f"{plain[:_MOST_STEM].strip('_-') or 'recording'}-{audio_id}.{suffix}"
