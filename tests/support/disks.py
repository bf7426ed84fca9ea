"""A small volume of a test's own."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(folder: Path, size: str, lazy: bool = False) -> Iterator[bool]:
    """A volume of this size (64k, 8m) at the folder, until the block ends; False, and a plain folder, where this
    user may not mount.

    It must not be in use at the end, unless it may go `lazy`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            how = "--lazy" if lazy else "--recursive"
            subprocess.run(["umount", how, str(folder)], check=True)


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A file on a bad place of the disk: reading it ends with EIO, until the block ends. The test is skipped where
    this user may not mount."""
    memory = f"/proc/{os.getpid()}/mem"  # whose first page nobody has
    mount = ["mount", "--bind", memory, str(path)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextlib.contextmanager
def small_disk(folder: Path, size: str, lazy: bool = False) -> Iterator[Path]:
    """As `mounted`; the test is skipped where this user may not mount. Gives the folder."""
    with mounted(folder, size, lazy) as is_mounted:
        if not is_mounted:
            pytest.skip("this user may not mount a small disk")
        yield folder
