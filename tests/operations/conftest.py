"""What the tests of operations share."""

from collections.abc import Iterator

import pytest

import s3_utils
from tests.support.fleet import Fleet
from tests.support.steps import use_s3


@pytest.fixture
def _s3(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process's own `s3_utils` pointed at the fleet."""
    use_s3(fleet, monkeypatch)
    yield
    s3_utils.get_s3_client.cache_clear()
