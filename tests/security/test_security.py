"""SECURITY.md holds what it says: each answer has its test, and each file is there."""

import re
import subprocess
import sys

from tests.support.fleet import PROJECT

TEXT = (PROJECT / "SECURITY.md").read_text()


def threats() -> list[list[str]]:
    """The rows of the first table: who, could, answer, test."""
    rows = [line.strip("|\n ").split(" | ") for line in TEXT.split("\n## ")[0].splitlines() if line[:1] == "|"]
    return rows[2:]


def test_every_threat_has_an_answer_and_a_test() -> None:
    assert len(threats()) >= 10
    for row in threats():
        assert re.search(r"`(?:\w+/)?test_\w+\.py::test_\w+`", row[-1]), row
        assert len(row) in (3, 4), row


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`((?:\w+/)?test_\w+\.py)::(\w+)`", TEXT)
    assert len(named) == TEXT.count("::") > 15
    for file, test in named:
        assert f"\ndef {test}(" in (PROJECT / "tests" / file).read_text(), f"{file}::{test}"


def test_every_file_and_setting_that_is_named_exists() -> None:
    for path in re.findall(r"`((?:access|tests|schema)/[\w./-]*)`", TEXT):
        assert (PROJECT / path).exists(), path
    settings = (PROJECT / "example.env").read_text()
    for name in re.findall(r"`([A-Z0-9]+_[A-Z0-9_]+)", TEXT):
        assert f"\n{name}" in settings, name


def test_a_name_cannot_begin_a_line_of_the_log() -> None:
    code = (
        "import logging; from pipeline.foundation import logs; logs.set_up('INFO');"
        "logging.getLogger('x').info('%s failed', 'a\\n2026-01-01 00:00:00 INFO all is well\\r.mp3')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("INFO a\\n2026-01-01 00:00:00 INFO all is well\\r.mp3 failed\n")
