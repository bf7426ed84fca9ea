"""The NVIDIA driver as far as it goes without a GPU: a machine one of whose PCI devices says that it is one."""

import re
from collections.abc import Iterator

import pytest

from tests.vm.world import NAME, RELEASE, World

DEVICE = "/sys/bus/pci/devices/0000:00:1c.0"  # which gives random numbers


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The machine, bare."""
    with World(tmp_path_factory.mktemp("world")) as world:
        world.playbooks.change_group_vars("gpu_workers", gpu_worker_device="cuda")
        yield world


def claim_a_gpu(world: World) -> None:
    """Until the next boot."""
    for name, value in (("vendor", "0x10de"), ("class", "0x030200")):
        world.machine.ssh(f"echo {value} > /run/{name} && mount --bind /run/{name} {DEVICE}/{name}")


def test_the_driver_is_installed_for_the_kernel_that_runs_and_its_refusal_is_reported(world: World) -> None:
    claim_a_gpu(world)
    before = world.machine.ssh("cat /proc/sys/kernel/random/boot_id")
    result = world.playbooks.play("setup-new-worker", "--tags", "base,nvidia")
    assert result.counts[NAME]["failed"] == 1
    assert re.search(r"could not insert 'nvidia\w*': No such device", result.text), result.text[-3000:]
    assert world.machine.ssh("cat /proc/sys/kernel/random/boot_id") != before  # the driver did not run
    module = "nvidia-current" if RELEASE == "bookworm" else "nvidia"
    assert world.machine.ssh(f"modinfo --field version {module}").startswith("535.")


def test_a_host_without_gpu_is_refused(world: World) -> None:
    result = world.playbooks.play("setup-new-worker", "--tags", "nvidia,services")
    assert result.counts[NAME] | {"failed": 1, "changed": 0} == result.counts[NAME]
    assert "no NVIDIA GPU found: set gpu_worker_device: cpu" in " ".join(result.text.split())
