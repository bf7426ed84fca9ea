"""Files that a command writes: whole or not at all, and never over another."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


class Unwritable(Exception):
    """The file cannot be written: the message says why, in one line. `exit_status` is 2 where that lies in its
    path, 1 where it does not, as on a full disk."""

    def __init__(self, message: str, exit_status: int = 2) -> None:
        super().__init__(message)
        self.exit_status = exit_status


@contextlib.contextmanager
def whole_file(path: Path, force: bool = False) -> Iterator[Path]:
    """A path beside `path` to write to, which becomes `path` when the block ends well.

    `Unwritable` where there is a file already and `force` is not given, or the folder cannot be written to.
    """
    _check(path, force)
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
        raise Unwritable(f"{path} cannot be written: {error.strerror or error}", 1) from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _check(path: Path, force: bool) -> None:
    """`Unwritable` where nothing can be written to the path: said before anything is read for it."""
    try:
        is_there = bool(path.lstat())
    except FileNotFoundError:
        is_there = False
    except OSError as error:  # as of a name that is too long
        raise Unwritable(f"{path} cannot be written: {error.strerror or error}") from None
    if path.is_dir():
        raise Unwritable(f"{path} is a folder: name a file in it")
    if is_there and not force:
        raise Unwritable(f"{path} is there already: --force writes over it")
    if not path.parent.is_dir():
        raise Unwritable(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise Unwritable(f"{path} cannot be written: this user may not write to {path.parent}")
