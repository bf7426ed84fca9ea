"""Maintenance that fails is reported by the status: nobody waits for work that nobody looks for."""

from typing import Any

from pipeline.operations.status import read_status
from tests.support.child import wait_until
from tests.support.fleet import Fleet
from tests.support.steps import wait_for, wait_for_log

QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]
HEARTBEAT_SECONDS = "2"


def reported(redis: Any) -> list[str]:
    return [trouble.what for trouble in read_status(redis, QUEUES).troubles]


def test_a_watch_that_cannot_reach_its_host_is_reported_and_recovers(fleet: Fleet, redis: Any) -> None:
    transfer = fleet.worker("transfer", EC2_WATCH_SECONDS="1", HEARTBEAT_SECONDS=HEARTBEAT_SECONDS)
    wait_for_log(transfer, "ready, queue")
    assert reported(redis) == []
    fleet.ssh.kill()
    wait_until(lambda: any("test-transfer: waiting for EC2" in what for what in reported(redis)), "the status")
    fleet.ssh.start()
    wait_for(lambda: reported(redis) == [], fleet, "a healthy fleet")


def test_a_missing_watched_folder_is_reported(fleet: Fleet, redis: Any) -> None:
    folder = fleet.ssh.folder / "not-yet"
    fleet.worker(
        "transfer", EC2_WATCH_SECONDS="1", HEARTBEAT_SECONDS=HEARTBEAT_SECONDS, EC2_REMOTE_DIR=str(folder)
    )
    wait_for(lambda: any("waiting: maintenance fails" in what for what in reported(redis)), fleet, "the status")
    folder.mkdir()
    wait_for(lambda: reported(redis) == [], fleet, "a healthy fleet")
