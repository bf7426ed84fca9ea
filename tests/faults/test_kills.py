"""SIGKILL of real workers, over and over: a dose with fixed seeds. `python -m tests.faults` does it at length."""

from tests.faults import kills
from tests.faults.points import FUNCTIONS, Point, points
from tests.support.fleet import Fleet
from tests.support.steps import AT_LENGTH

KILLS = 40 if AT_LENGTH else 24
DOSE = 6  # every sixth function; all of them with LONG_TESTS=1
PATIENCE_SECONDS = 300.0  # for a point, on a machine that does other things too
# To these a worker comes only after some seconds of life, or with luck.
RARE = {
    "pipeline.jobs.job_queue:JobQueue.recover",
    "pipeline.jobs.job_queue:JobQueue.keep",
    "pipeline.jobs.job_queue:JobQueue.uncount",
    "pipeline.jobs.job_queue:JobQueue.unregister",
    "pipeline.jobs.job_queue:JobQueue.give_back",
    "pipeline.jobs.job_queue:JobQueue.retry",
    "pipeline.jobs.lost_hosts:LostHosts.take_over",
    "pipeline.transfer.scp:Copy._append",
    "pipeline.operations.self_repair:SelfRepair._begin",
    "pipeline.operations.self_repair:SelfRepair._repair",
    "pipeline.operations.self_repair:SelfRepair._end",
    "pipeline.operations.webhook_delivery:WebhookDelivery._has_turn",
    "pipeline.operations.webhook_delivery:WebhookDelivery._end_turn",
    "pipeline.store.webhook_outbox:note_dead_letters",
    "pipeline.store.webhook_outbox:prune",
    "pipeline.store.webhook_outbox:mark_failed",
    "pipeline.store.batch_states:unfinish",
    "pipeline.jobs.batches:Batches.requeue",
}


def chosen() -> list[Point]:
    """Each function of the dose once: before the first, after the second, and so on; for the next role the other
    way round."""
    sides = [
        [point for point in points(role) if point.function == function][(number + shift) % 2]
        for shift, role in enumerate(FUNCTIONS)
        for number, function in enumerate(FUNCTIONS[role])
    ]
    common = [point for point in sides if point.function not in RARE]
    return common if AT_LENGTH else common[::DOSE]


def test_nothing_is_lost_whatever_instant_workers_die_at(fleet: Fleet) -> None:
    result = kills.kill_at_instants(fleet, seed=1, kills=KILLS, tell=print)
    assert result.findings.lines() == []
    assert len(result.kills) >= KILLS
    assert {kill.role for kill in result.kills} == set(FUNCTIONS)


def test_nothing_is_lost_whatever_point_workers_die_at(fleet: Fleet) -> None:
    result = kills.kill_at_points(
        fleet, seed=1, trials=1, chosen=chosen(), patience=PATIENCE_SECONDS, tell=print, crew=kills.ONE_OF_EACH
    )
    assert result.findings.lines() == []
    assert result.unreached == []
    assert {kill.point for kill in result.kills} >= set(chosen())
