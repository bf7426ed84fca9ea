"""Where this checkout keeps what it installs and downloads. tests/bootstrap.sh asks before anything is installed.

    python3 tests/places.py cache     prints the cache folder
    python3 tests/places.py state     prints the folder of virtual environments and the tools' caches
    python3 tests/places.py home      prints the user's home

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
    return cache_folder(project) / "checkouts" / name_of(project)


def name_of(project: Path) -> str:
    """The name of the checkout's folder there."""
    return f"{project.name}-{hashlib.sha256(os.fsencode(project)).hexdigest()[:8]}"


def home_folder() -> Path:
    """HOME, where it is this user's; sudo may leave it as that of another."""
    home = Path(os.environ.get("HOME", ""))
    return home if home.is_absolute() and may_write(home) else Path(pwd.getpwuid(os.geteuid()).pw_dir)


def _user_cache() -> Path:
    """XDG_CACHE_HOME, where it is this user's, or .cache at home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return named if named.is_absolute() and may_write(named) else home_folder() / ".cache"


if __name__ == "__main__":
    print({"cache": cache_folder, "state": state_folder, "home": home_folder}[sys.argv[1]]())
