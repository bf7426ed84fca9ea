"""The scratch folder of this host: who may touch a batch's files now, how much room is left, what is orphaned.

Everything that works on a batch's files on this host holds the batch's lock: a file beside its folder,
locked with flock(2), which the kernel releases when the holder dies.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_LOCK = ".lock"
_TRIAL = bytes(2**20)
# What a disk may say today and not tomorrow; a wrong path, or rights that are missing, stay.
PASSING_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE}
OUR_ID = r"\d{8}-\d{6}(-[0-9a-f]{12})?"  # the shape of our own batch ids: nothing else is ever swept


@contextlib.contextmanager
def locked(root: Path, batch_id: str) -> Iterator[bool]:
    """Hold the batch's lock on this host; gives False at once where another process holds it."""
    path = root / f".{batch_id}{_LOCK}"  # no batch id begins with a dot
    root.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            yield False
            return
        if _same_file(handle, path):
            break
        os.close(handle)  # the last holder has removed the file between our open and our lock
    try:
        yield True
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:  # also on a disk that has become read-only: this process lives on, and must get the lock again
            os.close(handle)


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def mount_point(path: Path) -> Path:
    """Where the file system that `path` is on, or is to be made on, is mounted.

    As `os.path.ismount` sees it: a folder that is bound to itself (systemd does so) is no mount point.
    """
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if os.path.ismount(folder))


def free_mb(root: Path) -> int:
    """Free space below `root`, which is made where it is missing, in MiB."""
    root.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(root).free // 2**20


def works(root: Path) -> bool:
    """Whether the disk of a folder takes a mebibyte, and gives it back."""
    try:
        with tempfile.TemporaryFile(dir=root, buffering=0) as file:
            written = file.write(_TRIAL)
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # or it would come from memory
            file.seek(0)
            return file.read(written) == _TRIAL
    except OSError:
        return False


def remove_archive(folder: Path) -> None:
    """Remove a batch's archive, what of it is on its way, and files taken out of it; the Opus stays."""
    for pattern in ("archive.tar", "archive.tar.part*", "*.source"):
        for path in folder.glob(pattern):
            if path.suffix != ".opus":
                path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have the file's bytes, or the folder's names, on the disk before anything says that they are."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _idle_seconds(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:  # finished meanwhile
        return 0.0


def sweep(
    root: Path, idle_seconds: int, in_use: Callable[[str], bool], remove: Callable[[str], object]
) -> list[str]:
    """Remove the folders and locks of batches that this host no longer works on; gives their ids.

    A folder goes when nothing changed in it for `idle_seconds`, nobody holds its lock and `in_use(id)` is false:
    what another host has taken over, or a crash has left behind. A lock that nobody holds goes at once.
    """
    swept = []
    for entry in os.scandir(root) if root.is_dir() else ():
        batch_id = entry.name.removeprefix(".").removesuffix(_LOCK)
        if not re.fullmatch(OUR_ID, batch_id):
            continue
        if entry.name == batch_id and _idle_seconds(entry) < idle_seconds:
            continue
        with locked(root, batch_id) as held:
            if held and entry.is_dir(follow_symlinks=False) and not in_use(batch_id):
                remove(batch_id)
                swept.append(batch_id)
    return swept
