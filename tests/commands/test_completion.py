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
from pipeline.foundation.formatting import did_you_mean
from pipeline.store.database import Database
from tests.store.test_transcripts import hear
from tests.support.fleet import Fleet
from tests.support.steps import add_batch, add_file

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
    assert completed(shell, text, "pipelinectl", "reco") == ["reconcile"]
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
        ("siren", ["Speech", "Siren"], ": did you mean Siren?"),
        ("SIRN", ["Speech", "Siren"], ": did you mean Siren?"),
    ],
)
def test_what_is_close_is_suggested(given: str, known: list[str], said: str) -> None:
    assert did_you_mean(given, known) == said


@pytest.mark.parametrize("given", ["statsu", "stat", "serach", "retyr"])
def test_a_mistyped_command_is_one_line_below_the_usage(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        pipelinectl.parser([given])
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert output.err.startswith("usage: ")
    (line,) = [line for line in output.err.splitlines() if "did you mean" in line]
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


SLIPS = {
    "retry 20250622-143025": f"there is no batch 20250622-143025: did you mean {IDS[0]}?",
    "retry 20250622-143025 a.mp3": f"there is no batch 20250622-143025: did you mean {IDS[0]}?",
    f"retry {IDS[0]} call8.mp3": f"batch {IDS[0]} has no file call8.mp3: did you mean call7.mp3?",
    "retry --queue queue:unpak --yes": "there is no queue queue:unpak: did you mean queue:unpack?",
    "search word --batch 20250622-143025": f"did you mean {IDS[0]}?",
    "export --format json --batch 20250622-143025": f"did you mean {IDS[0]}?",
    "failures --batch 20250622-143025": f"did you mean {IDS[0]}?",
    "failures --warnings --batch 20250622-143025": f"did you mean {IDS[0]}?",
    "failures --queue transfer": "there is no queue transfer: there are queue:transfer, queue:unpack, queue:",
    "search --tag siren": "no recording has the label siren: did you mean Siren?",
    "search word --tag Music": "no recording has the label Music: the known ones are Siren, speech",
    "export --format csv --tag Sirne": "no recording has the label Sirne: did you mean Siren?",
    "search --language english": "no recording is in the language english: the known ones are de, en, fr",
    "export --format csv --language xx": "no recording is in the language xx: the known ones are de, en, fr",
    "show 999": "there is no file 999",
    f"show {'9' * 2000}": "there is no file 999",
    f"export {'9' * 2000} --format txt": "there is no file 999",
}


def test_what_does_not_exist_is_rejected(fleet: Fleet) -> None:
    """An empty answer would hide the slip."""
    add_batch(fleet, IDS[0])
    add_file(fleet, "call7.mp3", "failed", "no sound", batch_id=IDS[0])
    hear(fleet, "a.mp3", "word", batch_id=IDS[0], labels={"Siren": "audio_tag", "speech": "content"})
    hear(fleet, "b.mp3", "mot", batch_id=IDS[0], language="fr", languages=["fr", "de"])
    for command, expected in SLIPS.items():
        done = fleet.control(*command.split())
        assert (done.returncode, done.stdout) == (2, ""), (command, done)
        line = done.stderr.splitlines()[-1]
        assert expected in line, command
        assert len(line) < 400


def test_what_exists_is_no_slip_where_nothing_is_found(fleet: Fleet) -> None:
    add_batch(fleet, IDS[0])
    hear(fleet, "a.mp3", "word", batch_id=IDS[0], labels={"Siren": "audio_tag"}, languages=["en", "de"])
    for command in (
        "search nothing --tag Siren", "search nothing --language de", f"failures --batch {IDS[0]}",
        f"failures --warnings --batch {IDS[0]}", "failures --queue queue:unpack",
        f"export --format csv --search nothing --tag Siren --language en --batch {IDS[0]}",
    ):  # fmt: skip
        done = fleet.control(*command.split())
        assert done.returncode == 0, (command, done.stderr)
