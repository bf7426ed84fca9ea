"""What a stranger meets first: the licence, the version, what is installed, and a Python that does not fit."""

import ast
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name
from packaging.version import Version

from pipeline.foundation import startup
from tests import requirements
from tests.project.test_requirements import brought_by
from tests.support.fleet import PROJECT
from tests.support.steps import AT_LENGTH

SCRIPTS = ["pipelinectl.py", "transfer_worker.py", "unpack_worker.py", "gpu_worker.py"]
MODELS = {"faster-whisper", "ctranslate2", "onnxruntime", "tokenizers", "numpy", "av", "imageio-ffmpeg"}
project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
Done = subprocess.CompletedProcess[str]


def run(*command: str | Path, **changes: str) -> Done:
    """A command in a checkout, with nothing of this environment."""
    environment = {"PATH": os.environ["PATH"], **changes}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def refused_with(done: Done) -> str:
    """The one line that a script refuses with."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def test_the_licence_is_mit() -> None:
    text = (PROJECT / "LICENSE").read_text()
    assert text.startswith("MIT License\n")
    assert "the audio-pipeline authors" in text
    assert project["license"] == "MIT"


# --- version -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_prints_the_version_without_any_setting(script: str) -> None:
    done = run(sys.executable, script, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{script.removesuffix('.py')} {startup.VERSION}\n"


def test_the_version_stands_in_one_place_and_is_one() -> None:
    assert str(Version(startup.VERSION)) == startup.VERSION
    assert "version" in project["dynamic"]
    dynamic = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    assert dynamic["version"] == {"attr": f"{startup.__name__}.VERSION"}


# --- a Python that does not fit ----------------------------------------------------------------------------

AS_IF_OLD = (
    "import runpy, sys; sys.version_info = (3, 8, 10, 'final', 0); sys.argv = sys.argv[1:];"
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_python_that_is_too_old_is_one_line(script: str) -> None:
    line = refused_with(run(sys.executable, "-c", AS_IF_OLD, script, "--help"))
    assert line.startswith(f"{script}: Python 3.11 or later is required; {sys.executable} is 3.8.10")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_environment_is_one_line(script: str) -> None:
    line = refused_with(run(sys.executable, "-S", script, "--help"))
    assert re.match(rf"{script}: {re.escape(sys.executable)} has no package '\w+'", line)


@pytest.mark.parametrize("has_environment", [True, False])
def test_the_line_says_what_to_run_instead(tmp_path: Path, has_environment: bool) -> None:
    shutil.copytree(PROJECT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PROJECT / "pipelinectl.py", tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    if has_environment:
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
    line = refused_with(run(sys.executable, "-S", tmp_path / "pipelinectl.py", "--help"))
    assert line.endswith(f"run it with {python}" if has_environment else "pip install -r requirements.txt")


def test_any_other_error_keeps_its_traceback() -> None:
    code = "import pipeline.foundation.startup; import pipeline.no_such_module"
    done = run(sys.executable, "-c", code)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")


@pytest.mark.parametrize("script", [*SCRIPTS, "pipeline/__init__.py", "pipeline/foundation/startup.py"])
def test_what_says_so_can_be_read_by_old_pythons(script: str) -> None:
    """RHEL 8 has Python 3.6, Ubuntu 20.04 has 3.8; no worker is started by hand on the former."""
    version = (3, 8) if script.endswith("_worker.py") else (3, 6)
    ast.parse((PROJECT / script).read_text(), feature_version=version)


@pytest.mark.parametrize("script", SCRIPTS)
def test_nothing_is_imported_before_the_check(script: str) -> None:
    body = ast.parse((PROJECT / script).read_text()).body
    first = next(line for line in body if isinstance(line, ast.Import | ast.ImportFrom))
    assert ast.unparse(first) == f"import {startup.__name__}"


def bootstrap(folder: Path, python: str) -> str:
    """What tests/bootstrap.sh says where python3 is this program, and no other is installed."""
    for tool in ("ssh", "scp", "setpriv", "flock", "id", "sh"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    if python:
        (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (folder / "python3").chmod(0o755)
    script = f"here={shlex.quote(str(PROJECT))}; . ./tests/bootstrap.sh"
    done = run(str(shutil.which("sh")), "-c", script, PATH=str(folder))
    return refused_with(done)


def test_bootstrap_says_which_python_it_found(tmp_path: Path) -> None:
    line = bootstrap(tmp_path, 'case "$2" in *exit*) exit 1 ;; *) echo python3 is 3.8.10 ;; esac')
    assert line.startswith("Python 3.11 or later is required; python3 is 3.8.10 (")


def test_bootstrap_says_that_it_found_none(tmp_path: Path) -> None:
    line = bootstrap(tmp_path, "")
    assert line.startswith("Python 3.11 or later is required; there is no python3 (")


def test_the_least_python_is_the_same_everywhere() -> None:
    least = ".".join(map(str, startup.LEAST))
    assert project["requires-python"] == f">={least}"
    assert f"Python {least} or later" in (PROJECT / "tests" / "bootstrap.sh").read_text()


# --- what is installed -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_those_of_pyproject(file: str) -> None:
    """Write them anew with `python -m tests.requirements`, then `ansible/lock`."""
    assert requirements.texts()[file] == (PROJECT / file).read_text()


def test_comments_of_pyproject_reach_the_requirements() -> None:
    lines = ["dependencies = [", '    "boto3==1.44.5",  # S3', "    'old; python_version < \"3.14\"',", "]"]
    assert requirements.entries(lines, "dependencies") == ["boto3==1.44.5             # S3",
                                                           'old; python_version < "3.14"']  # fmt: skip


@pytest.mark.parametrize("extra", ["ctl", "web"])
def test_the_operators_tool_comes_without_the_models(extra: str) -> None:
    names = brought_by(requirements.of(extra))
    assert "rich" in names
    assert names & MODELS == set()


def extra_only(folder: Path, extra: str, code: str) -> Done:
    """Run code where only an extra is installed."""
    for name in brought_by(requirements.of(extra)):
        package = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(str(package.locate_file(top)))
    return run(sys.executable, "-S", "-c", code, PYTHONPATH=f"{folder}:{PROJECT}")


def test_ctl_is_enough_for_every_command(tmp_path: Path) -> None:
    code = "import pipelinectl, s3_utils; s3_utils.PREFIXES; pipelinectl.parser([]); import boto3"
    done = extra_only(tmp_path, "ctl", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_web_is_enough_for_the_page(tmp_path: Path) -> None:
    done = extra_only(tmp_path, "web", "import pipelinectl, waitress, pipeline.web.pages; pipelinectl.parser([])")
    assert (done.returncode, done.stderr) == (0, "")


def test_worker_is_enough_for_the_workers(tmp_path: Path) -> None:
    done = extra_only(tmp_path, "worker", "import transfer_worker, unpack_worker, gpu_worker")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_without_its_extra_is_one_line(tmp_path: Path) -> None:
    code = "import sys, pipelinectl; sys.argv = ['pipelinectl', 'web']; sys.exit(pipelinectl.main())"
    assert "has no package" in refused_with(extra_only(tmp_path, "ctl", code))


def test_pip_installs_a_command_that_finds_its_files(tmp_path: Path) -> None:
    if not AT_LENGTH:
        pytest.skip("./test --all: it fetches setuptools")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (PROJECT / name).is_file() and not name.startswith(("bench/", "tests/")):
            (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, tmp_path / "checkout" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path)]
    subprocess.run([*pip, str(tmp_path / "checkout")], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"audio_pipeline-{startup.VERSION}-")
    with zipfile.ZipFile(wheel) as packed:
        found = set(packed.namelist())
    wanted = {str(path.relative_to(PROJECT)) for folder in ("pipeline", "schema")
              for path in (PROJECT / folder).rglob("*") if path.is_file() and path.suffix != ".pyc"}  # fmt: skip
    assert wanted | {"docs/runbook.md", "config.py", "pipelinectl.py", "gpu_worker.py"} <= found
    assert not [name for name in found if name.startswith(("tests/", "bench/"))]


# --- what looks after the project --------------------------------------------------------------------------


def test_every_package_of_the_groups_is_pinned() -> None:
    for one in requirements.everything():
        assert re.fullmatch(r"==[\w.]+", str(one.specifier)), one
    names = [canonicalize_name(one.name) for one in requirements.everything()]
    assert len(names) == len(set(names))


def test_the_hooks_run_what_test_checks_first() -> None:
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())
    hooks = {hook["id"]: hook for repository in config["repos"] for hook in repository["hooks"]}
    assert {hook["language"] for hook in hooks.values()} == {"system"}  # the versions of requirements-dev.txt
    assert {"ruff-check", "ruff-format", "mypy", "requirements"} <= set(hooks)
    for hook in hooks.values():
        program, *arguments = hook["entry"].split()
        assert program.startswith(".venv/bin/")
        assert arguments


def test_stale_requirements_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "PROJECT", tmp_path)
    shutil.copy(PROJECT / "pyproject.toml", tmp_path)
    for name in requirements.texts():
        (tmp_path / name).write_text("")
    monkeypatch.setattr(sys, "argv", ["requirements", "--check"])
    assert requirements.main() == 1
    monkeypatch.setattr(sys, "argv", ["requirements"])
    assert requirements.main() == 0
    assert (tmp_path / "requirements.txt").read_text() == (PROJECT / "requirements.txt").read_text()
    monkeypatch.setattr(sys, "argv", ["requirements", "--check"])
    assert requirements.main() == 0


def test_renovate_looks_after_files_that_exist() -> None:
    settings = json.loads((PROJECT / "renovate.json").read_text())
    named = [
        *settings["ignorePaths"],
        *(
            name
            for rule in settings["packageRules"]
            for name in [*rule.get("matchFileNames", ()), *rule.get("postUpgradeTasks", {}).get("fileFilters", ())]
        ),
    ]
    assert named
    for name in named:
        assert list(PROJECT.glob(name)), name
    packages = {canonicalize_name(one.name) for one in requirements.everything()}
    for rule in settings["packageRules"]:
        assert packages >= set(rule.get("matchPackageNames", ()))
