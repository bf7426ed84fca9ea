"""Faults with a plot, a few of them. `python -m tests.faults` plays all."""

import pytest

from tests.faults import scenarios
from tests.support.fleet import Fleet


def test_a_poison_alone_is_failed_and_after_three_deaths(fleet: Fleet) -> None:
    found, recovery = scenarios.poison(fleet, files=40)
    assert found.lines() == []
    assert len(recovery) == 3


@pytest.mark.parametrize(
    ("role", "place"),
    [
        ("transfer", "before pipeline.jobs.batch_ids:BatchIds.assign"),
        ("unpack", "before pipeline.jobs.batches:Batches.push"),
        ("gpu", "before pipeline.store.database:Database.save_result"),
    ],
)
def test_a_worker_that_wakes_after_it_lost_its_work_changes_nothing(fleet: Fleet, role: str, place: str) -> None:
    assert place in scenarios.STOPPED_AT[role]
    found, _ = scenarios.two_owners(fleet, role, place, "late")
    assert found.lines() == []


def test_others_complete_the_batches_of_a_lost_host_whose_return_changes_nothing(fleet: Fleet) -> None:
    found, _ = scenarios.lost_host(fleet, "with scratch", batches=3)
    assert found.lines() == []
