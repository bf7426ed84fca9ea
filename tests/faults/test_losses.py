"""A dose of the lost replies of `python -m tests.faults`."""

from collections.abc import Iterator

import pytest

from tests.faults import losses
from tests.faults.fast_clock import compiler
from tests.faults.rig import Rig

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (Debian: apt install gcc libc6-dev)")


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """The pipeline behind proxies, its workers running."""
    with Rig(tmp_path_factory.mktemp("rig"), speed=20) as rig:
        yield rig


def test_lost_replies_of_redis_lose_and_double_nothing(rig: Rig) -> None:
    trial = losses.lose_replies(rig, "redis", times=2, archives=3, files=6)
    assert trial.findings.lines() == []
    assert trial.replies.keys() >= {"BLMOVE", "begin", "settle", "push", "settle_file", "close"}
