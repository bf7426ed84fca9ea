"""Shell completion of pipelinectl, and its suggestions where a command or a batch is mistyped."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import pipelinectl
from pipeline.commands import common
from pipeline.store.database import Database
from tests.support.fleet import Fleet
from tests.support.steps import add_batch

IDS = ("20250622-143052", "20250622-091500", "20250623-080000")
AS_BASH = 'eval "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _pipelinectl; echo "${COMPREPLY[*]}"'
AS_ZSH = "autoload -Uz compinit; compinit -D -u; " + AS_BASH.replace("; shift;", "; emulate sh; shift;")
SHELLS = {"bash": ["bash", "--norc", "-c", AS_BASH], "zsh": ["zsh", "-f", "-c", AS_ZSH]}


@pytest.fixture(params=sorted(SHELLS))
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"there is no {request.param}")
    return str(request.param)


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    given = ["completion", shell]
    arguments = pipelinectl.parser(given).parse_args(given)
    assert not arguments.run(arguments)
    return capsys.readouterr().out


def completed(shell: str, text: str, *words: str) -> list[str]:
    """What the shell offers for the last of these words."""
    done = subprocess.run([*SHELLS[shell], shell, text, *words], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [word for word in done.stdout.split() if word.startswith(words[-1])]  # zsh itself leaves out the others


def test_commands_are_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert completed(shell, text, "pipelinectl", "re") == ["retry", "reconcile"]
    assert completed(shell, text, "pipelinectl", "") == [*pipelinectl.COMMANDS, "--help", "--version"]
    assert completed(shell, text, "pipelinectl", "--v") == ["--version"]


def test_options_are_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert completed(shell, text, "pipelinectl", "status", "--w") == ["--watch"]
    assert {"--reason", "--warnings", "--help"} <= set(completed(shell, text, "pipelinectl", "failures", ""))
    assert completed(shell, text, "pipelinectl", "failures", "--reason", "") == []
    assert completed(shell, text, "pipelinectl", "status", "--watch", "--l") == ["--limit"]  # it needs no value
    assert completed(shell, text, "pipelinectl", "dance", "--") == []


def test_values_are_completed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert completed(shell, text, "pipelinectl", "export", "--format", "v") == ["vtt"]
    assert completed(shell, text, "pipelinectl", "completion", "b") == ["bash", "batches"]


def test_batches_are_completed(shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = tmp_path / "pipelinectl"
    command.write_text(f"#!/bin/sh\n[ $* = completion ] || printf '%s\\n' {shlex.join(IDS)}\necho noise >&2\n")
    command.chmod(0o755)
    text = script(shell, capsys)
    for words in (["retry", "20250622-"], ["failures", "--batch", "20250622-"]):
        assert completed(shell, text, str(command), *words) == list(IDS[:2])


def test_services_that_are_down_cost_no_more_than_a_moment(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pipelinectl").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "pipelinectl").chmod(0o755)
    assert completed(shell, script(shell, capsys), str(tmp_path / "pipelinectl"), "retry", "") == []


@pytest.mark.parametrize("command", pipelinectl.COMMANDS)
def test_every_option_of_every_command_is_completed(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pipelinectl.parser([command]).parse_args([command, "--help"])
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE))
    assert set(completed("bash", script("bash", capsys), "pipelinectl", command, "--")) == options


def test_batches_are_those_of_both_services(fleet: Fleet, redis: Any) -> None:
    redis.zadd("batches:open", {IDS[2]: 1})
    add_batch(fleet, IDS[0])
    done = fleet.control("completion", "batches")
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) >= {IDS[0], IDS[2]}


# --- did you mean ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "known", "said"),
    [
        ("statsu", ["status", "search"], ": did you mean status?"),
        ("20250622-143025", IDS, f": did you mean {IDS[0]}?"),
        ("20250622", IDS, f": did you mean {IDS[0]} or {IDS[1]}?"),
        ("20240101-000000", IDS, ""),
        ("", IDS, ""),
        ("\udcff", IDS, ""),
    ],
)
def test_what_is_close_is_suggested(given: str, known: list[str], said: str) -> None:
    assert common.did_you_mean(given, known) == said


@pytest.mark.parametrize("given", ["statsu", "stat", "serach", "retyr"])
def test_a_mistyped_command_is_one_line_below_the_usage(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        pipelinectl.parser([given])
    told = capsys.readouterr()
    assert (ended.value.code, told.out) == (2, "")
    assert told.err.startswith("usage: ")
    (line,) = [line for line in told.err.splitlines() if "did you mean" in line]
    assert line.endswith("?")


def test_a_command_that_nothing_is_like_points_at_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pipelinectl.parser(["xyzzy"])
    assert "no command 'xyzzy': see --help" in capsys.readouterr().err


def test_a_batch_that_exists_is_not_suggested(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, IDS[0])
    assert common.batch_hint(database, IDS[0]) == ""
    assert common.batch_hint(database, "20250622-143025") == f": did you mean {IDS[0]}?"
    assert common.batch_hint(database, "\0") == ""


@pytest.mark.parametrize("command", ["retry", "search word --batch", "export --format json --batch"])
def test_a_batch_that_is_mistyped(fleet: Fleet, command: str) -> None:
    add_batch(fleet, IDS[0])
    done = fleet.control(*command.split(), "20250622-143025")
    assert done.returncode in (1, 2)
    (line,) = done.stderr.splitlines()
    assert line.endswith(f": did you mean {IDS[0]}?")
