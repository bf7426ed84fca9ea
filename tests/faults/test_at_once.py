"""A fleet under mishaps, a dose of them. `python -m tests.faults fleet` plays all of them for half an hour."""

import random

from tests.faults import at_once
from tests.faults.field import Field
from tests.faults.mishaps import MISHAPS
from tests.support.fleet import Fleet
from tests.support.steps import AT_LENGTH

MINUTES, MATCH = (5.0, "") if AT_LENGTH else (0.1, "worker killed")


def test_whatever_happens_to_a_fleet_all_is_done_without_a_command(fleet: Fleet) -> None:
    result = at_once.run(fleet, seed=1, minutes=MINUTES, tell=print, match=MATCH)
    assert result.findings.lines() == []
    assert result.played.total() > 0
    assert result.archives > 0
    assert max(result.recovery) < at_once.CALM_SECONDS


def test_what_is_left_over_and_a_worker_that_ends_are_findings(fleet: Fleet) -> None:
    with Field(fleet, random.Random(1), print) as field:
        while not all(place.log.exists() and "ready, queue" in place.log.read_text() for place in field.places):
            field.step()
        field.stream.redis.sadd("batch:20010101-000001:queued", "left over")
        field.of("beta")[0].process.kill()  # type: ignore[union-attr]
        while not field.found.stranded:
            field.step()
        (ended,) = field.found.stranded
        assert ended.startswith("beta-transfer ended by itself with status -9")
        assert field.check().leaked == ["Redis still has batch:20010101-000001:queued"]
        assert not field.is_well()


def test_every_mishap_is_of_a_thing_that_another_one_leaves_alone() -> None:
    assert {mishap.touches for mishap in MISHAPS} == {"", "host", "redis", "postgres", "s3", "ec2"}
    assert len({mishap.name for mishap in MISHAPS}) == len(MISHAPS)
