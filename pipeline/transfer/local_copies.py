"""The folder of the archives on their way, one for each transfer worker: what has room there, what is stale.

Only files that are named as the workers name them are ever removed, whatever else lies there.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.foundation import scratch
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import amount

_OURS = re.compile(rf"{scratch.OUR_ID}\.tar(\.part)?")


class Copies:
    """`{root}/{worker id}`, which holds `{batch_id}.tar` and `{batch_id}.tar.part`."""

    def __init__(self, root: Path, worker_id: str) -> None:
        self.root, self.folder = root, root / worker_id

    def path(self, batch_id: str) -> Path:
        """Where the batch's archive is to be."""
        return self.folder / f"{batch_id}.tar"

    def clear(self) -> None:
        """Remove what an earlier run of this worker left of its copies; its jobs copy them again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)  # on a read-only disk, or a mount point, it is still there

    def lack(self, size: int) -> str:
        """What is missing for one more archive of so many bytes, in words; nothing where it has room.

        `Permanent` where the volume is smaller than that. The archives in progress are on it already, and no other
        is being copied at the same time.
        """
        disk = shutil.disk_usage(self.folder)
        if size > disk.total:
            raise Permanent(f"the archive has {size} bytes, the volume of {self.root} {disk.total}")
        return f"{amount(size)} needed in {self.root}, {amount(disk.free)} free" if size > disk.free else ""

    def sweep(self, in_progress: set[str]) -> list[Path]:
        """Remove this worker's files of batches that are not in progress; gives them."""
        return [path for path in _files(self.folder) if _batch(path) not in in_progress and _removed(path)]

    def sweep_others(self, is_gone: Callable[[str], bool], idle_seconds: int) -> list[Path]:
        """Remove old files in the folders of workers that are gone; gives them. Empty folders go too."""
        swept: list[Path] = []
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            if folder == self.folder or folder.is_symlink() or not folder.is_dir() or not is_gone(folder.name):
                continue
            files = _files(folder)
            if all(_idle_seconds(path) >= idle_seconds for path in files):
                swept += [path for path in files if _removed(path)]
            if files:
                with contextlib.suppress(OSError):  # it holds what is not ours
                    folder.rmdir()
        return swept


def _files(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)] if folder.is_dir() else []
    return [path for path in found if path.is_file() and not path.is_symlink()]


def _batch(path: Path) -> str:
    return path.name.partition(".")[0]


def _idle_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _removed(path: Path) -> bool:
    path.unlink(missing_ok=True)
    return True
