"""The ffmpeg that is installed with us: the static build of imageio-ffmpeg, pinned by the requirements."""

import importlib.util
import shutil
from pathlib import Path


def pinned_ffmpeg() -> str:
    """The path of the ffmpeg that imageio-ffmpeg brings; empty where it has none for this machine.

    Its own `get_ffmpeg_exe` would take another program where a variable or PATH names one, and start it to see.
    """
    package = importlib.util.find_spec("imageio_ffmpeg")
    folders = (package.submodule_search_locations if package else None) or []
    programs = [str(path) for folder in folders for path in Path(folder, "binaries").glob("ffmpeg-*")]
    return next(filter(shutil.which, programs), "")
