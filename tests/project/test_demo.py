"""The command line of ./demo. tests/project/test_places.py runs it."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import config
from tests import demo, downloads
from tests.downloads import DownloadError, Say
from tests.support import demo_report
from tests.support.fleet import Fleet


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """What is taken for an archive."""
    (tmp_path / "my.tar").touch()
    return str(tmp_path / "my.tar")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a Whisper model is fetched into."""

    def fetch(name: str, say: Say) -> Path:
        say(f"fetching {name}")
        return tmp_path / name

    monkeypatch.setattr(downloads, "whisper_model", fetch)
    return tmp_path


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[argparse.Namespace]:
    """What the demonstration was run with; nothing is started."""
    given: list[argparse.Namespace] = []

    def run(arguments: argparse.Namespace, folder: Path, console: Console) -> bool:
        given.append(arguments)
        return True

    monkeypatch.setattr(demo, "run", run)
    return given


def main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["./demo", *arguments])
    return demo.main()


def test_a_whisper_model_is_fetched_and_taken(
    archive: str,
    model: Path,
    ran: list[argparse.Namespace],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(monkeypatch, "--whisper", "base", archive) == 0
    assert ran[0].model == model / "base"
    assert capsys.readouterr().out == "fetching base\n"


def test_a_missing_ffmpeg_is_reported_before_anything_starts(
    archive: str,
    ran: list[argparse.Namespace],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(config, "FFMPEG", "/no/such/ffmpeg")
    with pytest.raises(SystemExit) as end:
        main(monkeypatch, archive)
    assert (end.value.code, ran) == (2, [])
    assert capsys.readouterr().err.startswith("demo: FFMPEG is '/no/such/ffmpeg': there is no such program")


def test_an_archive_without_a_model_is_run_with_the_toy_and_a_word_of_warning(
    archive: str,
    ran: list[argparse.Namespace],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(monkeypatch, archive) == 0
    assert ran[0].model is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "36 words" in line
    assert "--whisper base (multilingual, 133 MB to fetch) or --whisper tiny.en (English, 71 MB)" in line


def test_a_path_that_somebody_else_queues_is_no_archive_of_the_demo(fleet: Fleet, redis: Any) -> None:
    ours = Path("/recordings/1-monday.tar")
    for job in ('{"remote_path": "/wrong.tar"}', f'{{"remote_path": "{ours}"}}', '{"batch_id": "b"}', "junk"):
        queue = "queue:transfer" if "path" in job else "queue:unpack"
        redis.rpush(f"{queue}:dead", json.dumps({"job": job, "error": "why"}))
    found = demo_report.dead_letters(fleet, [ours])
    assert [line.partition(": ")[2] for line in found] == [
        f'{{"remote_path": "{ours}"}}: why', '{"batch_id": "b"}: why', "junk: why",
    ]  # fmt: skip


def test_the_samples_come_without_a_warning(
    ran: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(monkeypatch) == 0
    assert len(ran) == 1
    assert capsys.readouterr().out == ""


def test_a_model_that_cannot_be_fetched_is_one_line(
    ran: list[argparse.Namespace], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(name: str, say: Say) -> Path:
        raise DownloadError(f"{name} could not be fetched")

    monkeypatch.setattr(downloads, "whisper_model", fail)
    assert main(monkeypatch, "--whisper", "tiny.en") == 2
    assert capsys.readouterr().err == "./demo: tiny.en could not be fetched\n"
    assert ran == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--whisper", "base", "--model", "."], "argument --model: not allowed with argument --whisper"),
        (["--whisper", "large"], "argument --whisper: invalid choice: 'large'"),
        (["--model", "."], ". is not a Whisper model in CTranslate2 format: model.bin is missing"),
        (["no-such.tar"], "there is no file no-such.tar"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str],
    complaint: str,
    ran: list[argparse.Namespace],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end:
        main(monkeypatch, *arguments)
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err
    assert ran == []
