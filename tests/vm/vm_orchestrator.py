"""A machine that is everything: Redis and PostgreSQL of the orchestrator role, the three workers, the page.

The tests are steps of one story and run in this order; only S3 and the host where archives arrive are outside.
"""

import json
import re
from collections.abc import Iterator

import pytest

from tests.support.child import wait_until
from tests.vm.machine import BOOT_SECONDS
from tests.vm.playbooks import is_shown
from tests.vm.world import FINISHED, MOST_EXPOSURE, NAME, World

ADDRESS = "10.0.2.15"  # which QEMU gives to a machine
SERVERS = ("redis-server", "postgresql")
UNITS = ("gpu-worker", "unpack-worker", "transfer-worker", "pipeline-web", "pipeline-exporter")
PLAYBOOKS = ("setup-orchestrator", "setup-new-worker", "setup-transfer", "setup-web")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The machine, bare, and the variables of an operator who has no Redis and no PostgreSQL."""
    groups = ("gpu_workers", "transfer_hosts", "web_hosts")
    with World(tmp_path_factory.mktemp("world"), groups=groups) as world:
        world.playbooks.change_group_vars(
            "all", redis_host=ADDRESS, redis_port=6379, database_host=ADDRESS, database_port=5432,
            database_user="pipeline", database_options="sslmode=require",
        )  # fmt: skip
        yield world


def host_of(playbook: str) -> str:
    """The name by which the playbook knows the machine."""
    return "orchestrator" if playbook == "setup-orchestrator" else NAME


def is_active(world: World, *units: str) -> bool:
    """Whether all of them are."""
    return set(world.machine.try_ssh(f"systemctl is-active {' '.join(units)}").stdout.split()) == {"active"}


def query(world: World, sql: str) -> list[str]:
    """The lines of PostgreSQL's answer."""
    return world.machine.ssh(f'cd / && runuser -u postgres -- psql -At pipeline -c "{sql}"').splitlines()


def finished(world: World) -> int:
    """How many batches are."""
    return int(query(world, FINISHED)[0])


def read(world: World, address: str, token: str = "") -> str:
    """What a page on the machine says."""
    header = f"-H 'Authorization: Bearer {token}'" if token else ""
    return world.machine.ssh(f"curl --silent --show-error --fail {header} http://127.0.0.1:{address}")


def test_a_check_run_of_a_bare_host_changes_nothing(world: World) -> None:
    result = world.playbooks.play("setup-orchestrator", "--check", "--diff")
    assert result.status == 0, result.text[-3000:]
    assert world.machine.try_ssh("command -v redis-server").returncode == 1


def test_the_servers_are_set_up(world: World) -> None:
    result = world.playbooks.play("setup-orchestrator", "-vvv")
    assert result.status == 0, result.text[-3000:]
    assert is_active(world, *SERVERS)
    assert_listening(world)


def assert_listening(world: World) -> None:
    """On the private address, and not on every address."""
    listening = world.machine.ssh("ss --no-header --listening --tcp --numeric")
    addresses = {line.split()[3] for line in listening.splitlines()}
    assert {f"{ADDRESS}:6379", f"{ADDRESS}:5432"} <= addresses
    assert not {address for address in addresses if re.match(r"(\*|0\.0\.0\.0|\[::\]):(6379|5432)", address)}


def test_the_servers_are_up_after_a_reboot(world: World) -> None:
    world.machine.reboot()
    wait_until(lambda: is_active(world, *SERVERS), "both servers", BOOT_SECONDS)
    assert_listening(world)
    assert world.machine.ssh("sysctl --values net.ipv4.ip_nonlocal_bind").strip() == "1"


def test_the_workers_and_the_page_are_set_up_against_them(world: World) -> None:
    world.put_models()
    for playbook in PLAYBOOKS[1:]:
        result = world.playbooks.play(playbook, "-vvv")
        assert result.status == 0, result.text[-3000:]
    assert is_active(world, *UNITS)


def test_a_second_run_and_a_check_run_change_nothing(world: World) -> None:
    for arguments in ((), ("--check", "--diff")):
        for playbook in PLAYBOOKS:
            result = world.playbooks.play(playbook, *arguments)
            counts = result.counts[host_of(playbook)]
            assert counts["failed"] == 0, result.text[-3000:]
            assert counts["changed"] == 0, (playbook, arguments, result.changed(host_of(playbook)))


def test_an_archive_is_transcribed_and_seen(world: World) -> None:
    world.machine.ssh("apt-get install --yes --no-install-recommends curl")
    world.send_archive(lambda: finished(world))
    assert query(world, "SELECT DISTINCT status FROM audio_files ORDER BY 1") == ["done"]
    texts = query(world, "SELECT text FROM transcripts WHERE text <> ''")
    assert texts
    word = max(re.findall(r"[a-z]+", texts[0].lower()), key=len)
    token = world.secrets["vault_web_token"]
    assert NAME in read(world, "8080/", token)
    assert "/files/" in read(world, f"8080/search?words={word}", token)
    assert world.machine.try_ssh("curl --silent --fail http://127.0.0.1:8080/").returncode != 0
    assert "audio_pipeline_redis_up 1" in read(world, "9100/metrics")


@pytest.mark.parametrize("unit", UNITS)
def test_what_worked_is_closed_to_the_rest(world: World, unit: str) -> None:
    assert world.exposure(unit) <= MOST_EXPOSURE


def test_everything_is_up_after_a_reboot(world: World) -> None:
    world.machine.reboot()
    wait_until(lambda: is_active(world, *SERVERS, *UNITS), "servers and workers", BOOT_SECONDS)
    world.send_archive(lambda: finished(world))


def test_one_command_says_how_the_fleet_is(world: World) -> None:
    status = json.loads(world.machine.ssh("pipelinectl status --json"))
    assert {worker["role"] for worker in status["workers"]} == {"gpu", "unpack", "transfer"}
    assert json.loads(world.machine.ssh("pipelinectl reconcile --json")) == []
    refused = world.machine.try_ssh("runuser -u nobody -- pipelinectl status")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "pipelinectl: root alone may read the settings of this host: sudo pipelinectl"
    ]


def test_no_secret_is_in_the_units_or_the_journal(world: World) -> None:
    shown = world.machine.ssh(
        f"systemctl show {' '.join(UNITS)}; systemctl cat {' '.join(UNITS)}; journalctl --no-pager"
    )
    assert [name for name, secret in world.secrets.items() if is_shown(secret, shown)] == []
