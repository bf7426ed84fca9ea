"""The life of a host: bare, set up, left alone, rebooted, without its volume, grown, resynced, rolled back.

The tests are steps of one story and run in this order; each begins where the one before it ended.
"""

import hashlib
import json
import time
from collections.abc import Iterator

import pytest

from tests.support.child import wait_until
from tests.vm.image import run
from tests.vm.playbooks import is_shown
from tests.vm.world import DATA_GIB, FINISHED, MOST_EXPOSURE, NAME, World

UNITS = ("gpu-worker", "unpack-worker", "transfer-worker")
PATIENCE_SECONDS = 900


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The servers, and a machine as bare as a cloud gives it."""
    with World(tmp_path_factory.mktemp("world")) as world:
        world.put_models()
        yield world


def states(world: World) -> dict[str, str]:
    """Whether each unit is active."""
    return {unit: world.machine.try_ssh(f"systemctl is-active {unit}").stdout.strip() for unit in UNITS}


def wait_until_active(world: World) -> None:
    wait_until(lambda: set(states(world).values()) == {"active"}, "three active workers", PATIENCE_SECONDS)


def test_the_default_device_is_not_used_where_it_is_the_root_disk(world: World) -> None:
    assert world.machine.ssh("findmnt --noheadings --output SOURCE /").startswith("/dev/vdb")
    before = hashlib.sha256(world.data.path.read_bytes()).digest()
    result = world.playbooks.play("setup-new-worker", "--tags", "volume", "-e", "gpu_worker_data_volume_id=")
    assert result.counts[NAME] | {"failed": 1, "changed": 0} == result.counts[NAME]
    assert "/dev/vdb is not used: it holds the root filesystem" in " ".join(result.text.split())
    assert hashlib.sha256(world.data.path.read_bytes()).digest() == before


def test_a_check_run_of_a_bare_host_changes_nothing(world: World) -> None:
    result = world.playbooks.play("setup-new-worker", "--limit", NAME, "--check", "--diff")
    assert result.status == 0, result.text[-3000:]
    assert world.machine.try_ssh("id audio-pipeline").returncode == 1
    assert not world.machine.ssh("wipefs /dev/vda")


def test_one_command_sets_a_bare_host_up(world: World) -> None:
    result = world.playbooks.play("setup-new-worker", "--limit", NAME, "-vvv")
    assert result.status == 0, result.text[-3000:]
    assert states(world)["gpu-worker"] == states(world)["unpack-worker"] == "active"


def test_one_command_sets_a_transfer_host_up(world: World) -> None:
    result = world.playbooks.play("setup-transfer", "--limit", NAME, "-vvv")
    assert result.status == 0, result.text[-3000:]
    assert states(world)["transfer-worker"] == "active"


def test_a_second_run_changes_nothing(world: World) -> None:
    for playbook in ("setup-new-worker", "setup-transfer", "sync-models", "deploy"):
        result = world.playbooks.play(playbook)
        assert result.counts[NAME]["failed"] == 0, result.text[-3000:]
        assert result.counts[NAME]["changed"] == 0, result.changed(NAME)


def test_a_check_run_after_it_is_clean(world: World) -> None:
    for playbook in ("setup-new-worker", "setup-transfer", "sync-models", "deploy"):
        result = world.playbooks.play(playbook, "--check", "--diff")
        assert result.counts[NAME]["failed"] == 0, result.text[-3000:]
        assert result.counts[NAME]["changed"] == 0, result.changed(NAME)


def finished(world: World) -> int:
    """How many batches are."""
    return int(world.fleet.query(FINISHED)[0][0])


def test_an_archive_goes_through_all_three_workers(world: World) -> None:
    world.send_archive(lambda: finished(world))
    rows = world.fleet.query(
        "SELECT original_filename, status, text, s3_opus_path FROM audio_files"
        " LEFT JOIN transcripts USING (audio_id)"
    )
    assert rows
    done = [row for row in rows if row[1] == "done"]
    assert any(text for _, _, text, _ in done)
    assert all(path.startswith("processed/") for _, _, _, path in done)
    assert world.machine.ssh("ls /data/scratch").split() == []


def test_one_command_says_how_the_fleet_is(world: World) -> None:
    status = json.loads(world.machine.ssh("pipelinectl status --json"))
    assert {worker["role"] for worker in status["workers"]} == {"gpu", "unpack", "transfer"}


@pytest.mark.parametrize("unit", UNITS)
def test_the_worker_that_worked_is_closed_to_the_rest(world: World, unit: str) -> None:
    assert world.exposure(unit) <= MOST_EXPOSURE


@pytest.mark.parametrize("unit", UNITS)
def test_secrets_are_roots_alone(world: World, unit: str) -> None:
    shown = world.machine.ssh(
        f"systemctl show {unit}; systemctl cat {unit}; cat /etc/systemd/system/{unit}.service"
    )
    assert not any(is_shown(secret, shown) for secret in world.secrets.values())
    assert world.machine.ssh("stat --format '%U %a' /etc/audio-pipeline/*.env").splitlines() == ["root 600"] * 3
    assert world.machine.try_ssh("runuser -u nobody -- cat /etc/audio-pipeline/gpu-worker.env").returncode != 0


def test_everything_is_up_after_a_reboot(world: World) -> None:
    world.machine.reboot()
    wait_until_active(world)
    assert world.machine.ssh("findmnt --noheadings --output LABEL --mountpoint /data").strip() == "audio-data"


def test_without_its_volume_the_workers_do_not_start(world: World) -> None:
    world.machine.stop()
    world.machine.disks = []
    world.machine.start()
    assert states(world) == {"gpu-worker": "inactive", "unpack-worker": "inactive", "transfer-worker": "active"}
    assert world.machine.ssh("find /data").split() == ["/data"]
    result = world.playbooks.play("setup-new-worker", "--tags", "volume")
    assert "is it attached?" in result.text
    assert result.counts[NAME]["changed"] == 0
    world.put_models(extra=b"of a later release")
    result = world.playbooks.play("sync-models")
    assert "nothing is mounted on /data: is the volume attached?" in " ".join(result.text.split())
    assert world.machine.ssh("find /data").split() == ["/data"]


def test_a_grown_volume_is_used_whole(world: World) -> None:
    world.machine.stop()
    world.machine.disks = [world.data]
    world.machine.start()
    wait_until_active(world)
    world.machine.tell_qemu(f"block_resize d0 {DATA_GIB + 1}G")
    result = world.playbooks.play("setup-new-worker", "--tags", "volume")
    assert result.changed(NAME) == ["gpu_worker : Grow it to the size of the volume"]
    assert int(world.machine.ssh("df --output=size --block-size=1M /data | tail -n 1")) > DATA_GIB * 1024
    assert set(states(world).values()) == {"active"}


def test_a_sync_that_was_cut_off_goes_on_and_switches_once(world: World) -> None:
    large = bytes(20 * 2**20)
    release, old = world.put_models(large=large), world.machine.ssh("readlink /data/models").strip()
    folder = f"/data/model-releases/{release}.part/spoken-words"
    cut = world.playbooks.start("sync-models", "-e", "gpu_worker_model_kib_per_second=500")

    def arrived() -> int:
        """What rsync has of it, under the name that it gives to a file on its way."""
        return int(world.machine.try_ssh(f"stat --format %s {folder}/.large.*").stdout or 0)

    wait_until(lambda: arrived() > 2**20, "a part of the copy", PATIENCE_SECONDS)
    cut.kill()
    world.machine.ssh("pkill -x rsync")

    def kept() -> int:
        """What it keeps when it is stopped."""
        return int(world.machine.try_ssh(f"stat --format %s {folder}/.rsync-partial/large").stdout or 0)

    wait_until(lambda: kept() > 2**20, "the part that is kept", PATIENCE_SECONDS)
    assert world.machine.ssh("readlink /data/models").strip() == old
    result = world.playbooks.play("sync-models")
    assert result.status == 0, result.text[-3000:]
    assert world.machine.ssh("readlink /data/models").strip() == f"model-releases/{release}"
    assert int(world.machine.ssh("stat --format %s /data/models/spoken-words/large")) == len(large)


def test_models_that_are_not_the_manifests_are_not_used(world: World) -> None:
    world.put_models(extra=b"as the manifest says")
    world.machine.ssh("echo damaged > /srv/models/spoken-words/extra")
    before = world.machine.ssh("readlink /data/models")
    started = world.machine.ssh("systemctl show --property=ExecMainPID gpu-worker")
    result = world.playbooks.play("sync-models")
    assert "spoken-words/extra: not the SHA-256 of /srv/models/SHA256SUMS" in " ".join(result.text.split())
    assert world.machine.ssh("readlink /data/models") == before
    assert world.machine.ssh("systemctl show --property=ExecMainPID gpu-worker") == started


def test_a_file_that_the_host_has_damaged_is_copied_again(world: World) -> None:
    """Its size and its time are as they were."""
    file = "spoken-words/config.json"
    world.machine.ssh(
        f"cd /data/models && cp --preserve {file} /tmp/whole && tr a-z A-Z < /tmp/whole > {file}"
        f" && touch --reference /tmp/whole {file}"
    )
    world.put_models(extra=b"with what was damaged")
    result = world.playbooks.play("sync-models")
    assert result.status == 0, result.text[-3000:]
    world.machine.ssh(f"cmp /srv/models/{file} /data/models/{file}")


def test_models_that_leave_no_room_are_not_brought(world: World) -> None:
    release = world.put_models(extra=b"of a larger release")
    settings = {"SCRATCH_MIN_FREE_MB": DATA_GIB * 2000}
    result = world.playbooks.play("sync-models", "-e", json.dumps({"gpu_worker_unpack_settings": settings}))
    assert result.counts[NAME]["failed"] == 1
    assert "(SCRATCH_MIN_FREE_MB): grow the volume" in " ".join(result.text.split())
    assert release not in world.machine.ssh("ls /data/model-releases")


def test_old_models_go_and_the_workers_restart_once(world: World) -> None:
    release = world.put_models(extra=b"another release")
    before = world.machine.ssh("systemctl show --property=ExecMainPID gpu-worker")
    assert world.playbooks.play("sync-models").status == 0
    assert len(world.machine.ssh("ls /data/model-releases").split()) == 3  # it, the one before, and `none`
    assert release in world.machine.ssh("readlink /data/models")
    assert world.machine.ssh("systemctl show --property=ExecMainPID gpu-worker") != before


def test_a_release_is_rolled_back(world: World) -> None:
    now = world.machine.ssh("readlink /opt/audio-pipeline/current").strip()
    earlier = run("git", "-C", world.repository, "rev-parse", "HEAD~1").strip()
    result = world.playbooks.play("deploy", "-e", f"deployment_version={earlier}")
    assert result.status == 0, result.text[-3000:]
    assert world.machine.ssh("readlink /opt/audio-pipeline/current").strip().endswith(earlier[:12])
    start = time.monotonic()
    result = world.playbooks.play("deploy")
    assert result.status == 0, result.text[-3000:]
    assert world.machine.ssh("readlink /opt/audio-pipeline/current").strip() == now
    print(f"back in {time.monotonic() - start:.0f} s")
    world.send_archive(lambda: finished(world))


def test_a_model_that_was_never_brought_stops_the_play(world: World) -> None:
    settings = {"WHISPER_MODEL": "spoken-wrods", "WHISPER_COMPUTE_TYPE": "float32"}
    world.playbooks.change_group_vars("gpu_workers", gpu_worker_settings=settings)
    for tag, said in (("models", "/srv/models/SHA256SUMS names no "), ("services", "/data/models has no ")):
        result = world.playbooks.play("setup-new-worker", "--tags", tag)
        assert result.counts[NAME]["failed"] == 1
        assert f"{said}spoken-wrods/model.bin" in " ".join(result.text.split())


def test_a_release_that_does_not_start_stops_the_play(world: World) -> None:
    world.playbooks.change_group_vars(
        "gpu_workers", gpu_worker_settings={"WHISPER_MODEL": "spoken-words", "WHISPER_BEAM_SIZE": "many"}
    )
    result = world.playbooks.play("setup-new-worker", "--tags", "services")
    assert result.counts[NAME]["failed"] == 1
    assert "WHISPER_BEAM_SIZE is 'many': give a whole number" in " ".join(result.text.split())
