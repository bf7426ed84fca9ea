"""tests/faults/points.py names every place where a worker can die between two side effects."""

import contextlib
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import armed, kills, stream, told
from tests.faults.checker import check, is_quiet
from tests.faults.points import FUNCTIONS, points
from tests.support.child import wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.steps import wait_for, wait_for_log
from tests.support.webhook_receiver import WebhookReceiver

Effects = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    """It takes nothing at first."""
    with WebhookReceiver(500, 500) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def effects(servers: Fleet, receiver: WebhookReceiver, tmp_path_factory: pytest.TempPathFactory) -> Effects:
    """What each worker did to the world while one archive of every kind came through, and at a SIGTERM."""
    folder = tmp_path_factory.mktemp("effects")
    servers.clean(folder)
    servers.changes = {**kills.SETTINGS, "HEARTBEAT_SECONDS": "2", "HOST_LOST_SECONDS": "4", "HOST_NAME": "alpha"}
    servers.changes |= told.settings(receiver)
    told.save_search(servers)
    servers.changes |= {"SCRATCH_ROOT": str(folder / "alpha"), "TRANSCRIBE_QUEUE": stream.queue_of("alpha")}
    source = stream.Stream(servers, ["alpha"], folder / "alpha", random.Random(1))
    for role in FUNCTIONS:
        script = [str(armed.__file__), str(PROJECT / f"{role}_worker.py")]
        servers.run(script, role, EFFECTS=str(folder / f"{role}.effects"))
    for worker in servers.workers:
        wait_for_log(worker, "ready")
    for kind in [*stream.KINDS, *stream.ONE_HOST_ONLY]:
        source.put(kind)

    def is_done() -> bool:
        source.tick()
        return is_quiet(servers, source.archives)

    with contextlib.suppress(TimeoutError):  # then the checker says why
        wait_for(is_done, servers, "quiet", seconds=240)
        wait_until(
            lambda: not check(servers, source.archives, expected_dead_letters=source.dead_letters), "order", 60
        )
    assert check(servers, source.archives, expected_dead_letters=source.dead_letters).lines() == []
    wait_for(lambda: not told.check_soon(servers, receiver), servers, "the receiver")
    source.put("plain")
    wait_for(lambda: servers.query("SELECT 1 FROM audio_files WHERE status = 'processing'"), servers, "work")
    servers.stop_workers()
    source.close()
    return {role: notes_of(folder / f"{role}.effects") for role in FUNCTIONS}


def notes_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("role", FUNCTIONS)
def test_every_side_effect_is_inside_of_a_point(effects: Effects, role: str) -> None:
    outside = {(note["where"], note["what"]) for note in effects[role] if not note["point"]}
    assert not outside, f"name these functions in tests/faults/points.py, among those of {role}"
    assert {note["service"] for note in effects[role]} >= {"Redis", "disk" if role != "gpu" else "S3"}


@pytest.mark.parametrize("role", FUNCTIONS)
def test_a_point_lies_between_two_side_effects_on_different_services(effects: Effects, role: str) -> None:
    """Several changes of one disk, or of one Redis, with nothing else between them count as one."""
    steps = defaultdict(list)
    for note in effects[role]:
        steps[note["thread"], note["step"]].append(note)
    mixed = [
        [(note["service"], note["where"], note["what"]) for note in step]
        for step in steps.values()
        if len({note["service"] for note in step}) > 1
    ]
    assert not mixed, "name the functions between these in tests/faults/points.py"


def test_the_points_of_a_worker_are_functions_that_are_there() -> None:
    for role in FUNCTIONS:
        assert len(points(role)) == 2 * len(set(FUNCTIONS[role]))
