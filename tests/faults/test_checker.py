"""tests/faults/checker.py: each kind of loss is planted, and seen as exactly that."""

from tests.faults.checker import Archive, File, check, is_quiet, make_archive
from tests.fleet import Fleet
from tests.recordings import DAMAGED, SILENCE, SPEECH, SPOKEN
from tests.steps import wait_for


def monday(fleet: Fleet) -> Archive:
    return make_archive(
        fleet.ssh.folder / "monday.tar",
        {
            "call.mp3": File(SPEECH, SPOKEN),
            "quiet.mp3": File(SILENCE, ""),
            "damaged.mp3": File(DAMAGED, status="failed"),
        },
    )


def test_it_finds_nothing_where_nothing_is_wrong(fleet: Fleet) -> None:
    archive = monday(fleet)
    fleet.control("enqueue", str(archive.source))
    for role in ("transfer", "unpack", "gpu"):
        fleet.worker(role)
    wait_for(lambda: is_quiet(fleet, [archive]), fleet, "quiet")
    assert check(fleet, [archive]).lines() == []
