"""Where this checkout keeps what it installs and downloads. tests/bootstrap.sh asks before anything is installed.

    python3 tests/places.py cache     prints the cache folder
    python3 tests/places.py state     prints the folder of virtual environments and the tools' caches

It needs the standard library only, and makes no folder.
"""

import hashlib
import os
import pwd
import sys
from pathlib import Path

PROJECT = Path(__file__).absolute().parent.parent  # as tests/bootstrap.sh names it


def may_write(folder: Path) -> bool:
    """Whether this user may write to the folder, or make it. Root leaves other users' folders alone: what it made
    there, as under sudo, would be in the way of their next run without it."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return False
    return os.geteuid() != 0 or folder.stat().st_uid == 0


def cache_folder(project: Path = PROJECT) -> Path:
    """What AUDIO_PIPELINE_CACHE names; else `.cache` of the checkout, where this user may write to it; else
    audio-pipeline in the user's cache folder."""
    if named := os.environ.get("AUDIO_PIPELINE_CACHE"):
        return Path(named).expanduser().absolute()
    if may_write(project / ".cache"):
        return project / ".cache"
    return _user_cache() / "audio-pipeline"


def state_folder(project: Path = PROJECT) -> Path:
    """The checkout, where this user may write to it; else a folder of its own in the cache folder."""
    if may_write(project):
        return project
    digest = hashlib.sha256(os.fsencode(project)).hexdigest()[:8]
    return cache_folder(project) / "checkouts" / f"{project.name}-{digest}"


def _user_cache() -> Path:
    """XDG_CACHE_HOME or .cache at home, as it is this user's: sudo may leave both as those of another."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute() and may_write(named):
        return named
    home = Path(os.environ.get("HOME", ""))
    if not home.is_absolute() or not may_write(home):
        home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    return home / ".cache"


if __name__ == "__main__":
    print({"cache": cache_folder, "state": state_folder}[sys.argv[1]]())
