"""requirements.txt alone brings all that the workers run, ffmpeg too."""

import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.ffmpegs import version
from tests.support.fleet import PROJECT
from tests.support.steps import AT_LENGTH


def named_in(file: str) -> list[Requirement]:
    """What a requirements file asks for, without the files that it includes."""
    lines = [line.partition(" #")[0].strip() for line in (PROJECT / file).read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def brought_by(wanted: list[Requirement]) -> set[str]:
    """The packages that come with these, of those that are installed here."""
    found: set[str] = set()
    waiting = list(wanted)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        waiting += map(Requirement, importlib.metadata.requires(name) or ())
    return found


def linked(folder: Path) -> tuple[list[str], Path]:
    """A Python that has nothing but requirements.txt, as it is installed here, and where that is."""
    for name in brought_by(named_in("requirements.txt")):
        package = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(package.locate_file(top)))
    return [sys.executable, "-S"], folder


def installed(folder: Path) -> tuple[list[str], Path]:
    """A Python of a virtual environment in which pip has installed requirements.txt."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    command = [python, "-m", "pip", "install", "--quiet", "-r", str(PROJECT / "requirements.txt")]
    subprocess.run(command, check=True)
    return [python], folder


long = pytest.mark.skipif(not AT_LENGTH, reason="./test --all: it fetches some hundred MB")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("make", [linked, pytest.param(installed, marks=long)])
def test_requirements_txt_alone_brings_the_ffmpeg_that_config_finds(
    tmp_path: Path, make: Callable[[Path], tuple[list[str], Path]]
) -> None:
    python, folder = make(tmp_path)
    code = "import config; config.require('FFMPEG'); print(config.FFMPEG)"
    environment = {"PATH": "/none", "PYTHONPATH": f"{folder}:{PROJECT}"}
    done = subprocess.run(
        [*python, "-c", code], env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    program = Path(done.stdout.strip())
    assert program.is_relative_to(folder)
    assert re.fullmatch(r"[1-9]\d*\.[\d.]+", version(program))
    assert os.access(program, os.X_OK)


def test_what_the_workers_run_is_pinned_in_one_file() -> None:
    workers, developers = ({canonicalize_name(one.name) for one in named_in(file)}
                           for file in ("requirements.txt", "requirements-dev.txt"))  # fmt: skip
    assert "imageio-ffmpeg" in workers
    assert workers & developers == set()
