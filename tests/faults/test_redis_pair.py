"""The pair of Redis servers whose primary changes: what is lost, and where connections lead."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.foundation import redis_client
from tests.faults.redis_pair import RedisPair, client
from tests.support.child import wait_until
from tests.support.servers import Valkey


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[RedisPair]:
    with Valkey(tmp_path / "first") as first, RedisPair(tmp_path / "second", first) as both:
        yield both


def connect(pair: RedisPair) -> Any:
    return redis_client.connect(f"redis://127.0.0.1:{pair.address.port}")


def test_a_planned_failover_loses_nothing_and_leaves_connections_on_the_old_server(pair: RedisPair) -> None:
    old = connect(pair)
    old.set("written", "before")
    pair.planned()
    with pytest.raises(redis.ReadOnlyError):
        old.set("written", "after")
    new = connect(pair)
    assert new.get("written") == "before"
    new.set("written", "after")
    pair.planned()
    assert old.get("written") == "after"  # which is the primary again


def test_an_unplanned_failover_loses_what_was_written_while_the_link_held(pair: RedisPair) -> None:
    with client(pair.primary) as first:
        first.set("kept", "1")
        pair.wait_until_same(first)
    pair.link.holds()
    connect(pair).set("lost", "1")
    pair.unplanned(0.1)
    asked = connect(pair)
    assert asked.mget("kept", "lost") == ["1", None]
    pair.repair()
    asked.set("new", "1")
    with client(pair.replica) as follower:
        wait_until(lambda: follower.mget("kept", "lost", "new") == ["1", None, "1"], "the replica")
