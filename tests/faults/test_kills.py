"""SIGKILL of real workers, over and over: a dose with fixed seeds. `python -m tests.faults` does it at length."""

from tests.faults import kills
from tests.faults.points import FUNCTIONS, Point, points
from tests.support.fleet import Fleet

KILLS = 40
# To these a worker comes only after some seconds of life, or with luck.
RARE = {
    "pipeline.jobs.job_queue:JobQueue.recover",
    "pipeline.jobs.job_queue:JobQueue.keep",
    "pipeline.jobs.job_queue:JobQueue.unregister",
    "pipeline.jobs.job_queue:JobQueue.give_back",
    "pipeline.jobs.job_queue:JobQueue.retry",
    "pipeline.jobs.batch_ids:BatchIds.keep",
    "pipeline.jobs.batches:Batches.take_over",
    "pipeline.transfer.scp:Copy._append",
}


def chosen() -> list[Point]:
    """Each function once: before the first, after the second, and so on; for the next role the other way round."""
    sides = [
        [point for point in points(role) if point.function == function][(number + shift) % 2]
        for shift, role in enumerate(FUNCTIONS)
        for number, function in enumerate(FUNCTIONS[role])
    ]
    return [point for point in sides if point.function not in RARE]


def test_nothing_is_lost_whatever_instant_workers_die_at(fleet: Fleet) -> None:
    result = kills.kill_at_instants(fleet, seed=1, kills=KILLS, tell=print)
    assert result.findings.lines() == []
    assert len(result.kills) >= KILLS
    assert {kill.role for kill in result.kills} == set(FUNCTIONS)


def test_nothing_is_lost_whatever_point_workers_die_at(fleet: Fleet) -> None:
    result = kills.kill_at_points(fleet, seed=1, trials=1, chosen=chosen(), tell=print, crew=kills.ONE_OF_EACH)
    assert result.findings.lines() == []
    assert result.unreached == []
    assert {kill.point for kill in result.kills} >= set(chosen())
