"""The builds of ffmpeg that tests run on: the one that requirements.txt pins, and the distribution's beside it."""

import functools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import config
from pipeline.audio.ffmpeg_program import pinned_ffmpeg

if not pinned_ffmpeg():  # imageio-ffmpeg has none for this machine: one has to be named
    config.require("FFMPEG")
PINNED = Path(pinned_ffmpeg() or config.FFMPEG)
DISTRIBUTION = Path("/usr/bin/ffmpeg")


@functools.cache
def version(program: Path) -> str:
    """The version that an ffmpeg says it is, as 5.1.9."""
    done = subprocess.run([program, "-version"], capture_output=True, text=True, check=True, timeout=30)
    found = re.match(r"ffmpeg version n?([\d.]*\d|\S+)", done.stdout)
    assert found, done.stdout[:200]
    return found[1]


def others() -> list[Path]:
    """The ffmpegs beside the pinned one: that of the distribution, where it is installed."""
    return [DISTRIBUTION] if DISTRIBUTION.is_file() and not DISTRIBUTION.samefile(PINNED) else []


def _parameters() -> list[Any]:
    missing = pytest.mark.skip(reason=f"there is no {DISTRIBUTION} (Debian, Ubuntu: apt install ffmpeg)")
    builds = [pytest.param(program, id=version(program)) for program in (PINNED, *others())]
    return builds if others() else [*builds, pytest.param(DISTRIBUTION, id="distribution", marks=missing)]


# Gives a test the argument `ffmpeg`, the path of each of them: @every_ffmpeg
every_ffmpeg = pytest.mark.parametrize("ffmpeg", _parameters())
