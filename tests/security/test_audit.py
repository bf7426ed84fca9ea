"""tests/audit.py: what is vulnerable fails, and what could not be checked is never called clean."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests import audit
from tests.support.fleet import PROJECT

GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2.1"], "aliases": []}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI and could not be audited: unknown (1)"}


@pytest.mark.parametrize(
    ("packages", "said", "clean"),
    [
        ([GOOD], ["packages: 1 of 1 checked"], True),
        ([GOOD, BAD], ["packages: bad 2.0 has PYSEC-1; fixed in 2.1", "packages: 2 of 2 checked"], False),
        (
            [GOOD, UNKNOWN],
            [
                "packages: 1 of 2 checked",
                "packages: NOT CHECKED: unknown, of which PyPI's JSON API tells nothing here",
            ],
            True,
        ),
        (
            [UNKNOWN] * 6,
            [
                "packages: 0 of 6 checked",
                "packages: NOT CHECKED: 6 packages, of which PyPI's JSON API tells nothing here",
            ],
            True,
        ),
    ],
)
def test_what_pip_audit_says_is_judged(packages: list[dict[str, Any]], said: list[str], clean: bool) -> None:
    assert audit.judge(json.dumps({"dependencies": packages, "fixes": []}), "") == (said, clean)


def test_a_pip_audit_that_gives_no_answer_is_not_called_clean() -> None:
    lines, _ = audit.judge("", "Traceback\nERROR:pip_audit._cli:connection refused\n")
    assert lines == ["packages: NOT CHECKED: pip-audit says ERROR:pip_audit._cli:connection refused"]


def test_bandit_finds_nothing_in_the_code_that_runs_in_production() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import tests.audit as a; raise SystemExit(not a.code())"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
