"""A dose of the outages of `python -m tests.faults`, short and in true time: a busy machine hurries nobody."""

from collections.abc import Iterator

import pytest

from tests.faults.fast_clock import compiler
from tests.faults.outages import FAILOVERS, OUTAGES, attempt
from tests.faults.rig import Rig
from tests.support.steps import AT_LENGTH

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (Debian: apt install gcc libc6-dev)")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The pipeline behind proxies, its workers running."""
    with Rig(tmp_path_factory.mktemp("rig"), speed=1) as rig:
        yield rig


@pytest.mark.parametrize(
    "name",
    [
        "Redis: a black hole, its connections stay dead",
        "PostgreSQL: killed, started again",
        "S3: answers cut short",
        *(["Redis: primary killed, replica promoted"] if AT_LENGTH else []),
    ],
)
def test_after_an_outage_all_is_done_once_and_soon(rig: Rig, name: str) -> None:
    trial = attempt(rig, {**OUTAGES, **FAILOVERS}[name], seconds=12, archives=4, files=6)
    assert trial.findings.lines() == []
