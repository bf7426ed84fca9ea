"""Wrong disks of every kind: each is refused in one line that says what it is, and not a byte of it changes."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.image import image, run
from tests.vm.machine import Disk, Machine
from tests.vm.playbooks import Playbooks, Result
from tests.vm.world import CACHE

BLOCK = 65536
RIGHT = "right"  # the first host, as a play goes on to the others only where the first has worked
TWIN = "mkfs.ext4 -q -U 11111111-2222-4333-8444-555555555555 -L audio-data $d"
# LVM wants a block device. What it writes first, in the second sector, an ext4 has no use for.
PVCREATE = "l=$(losetup -f --show $f); pvcreate -q -ff -y $l >/dev/null 2>&1; s=$?; losetup -d $l; [ $s = 0 ]"
SECRETS = ("s3_access_key", "s3_secret_key", "redis_password", "database_password")
# What is made on the disk (a shell command, $d is the disk), and what the refusal says.
MADE = {
    "gpt": ("echo 'label: gpt' | sfdisk -q $d", "holds gpt"),
    "partition": ("printf 'label: dos\\nstart=2048\\n' | sfdisk -q $d", "it has parts: "),
    "ext4-other": ("mkfs.ext4 -q -L postgres $d", "it holds ext4 (postgres)"),
    "ext4-unnamed": ("mkfs.ext4 -q $d", "it holds ext4"),
    "ext3-ours": ("mkfs.ext3 -q -L audio-data $d", "it holds ext3 (audio-data)"),
    "xfs": ("mkfs.xfs -q -L audio-data $d", "it holds xfs (audio-data)"),
    "swap": ("mkswap -q $d", "it holds swap"),
    "config-drive": ("mkfs.vfat -n config-2 $d >/dev/null", "it holds vfat"),
    "luks": ("echo secret | cryptsetup -q luksFormat --pbkdf pbkdf2 --iter-time 10 $d -", "it holds crypto_LUKS"),
    "lvm": (f"f=$d; {PVCREATE}", "LVM2_member"),
    "raw-data": ("printf x | dd of=$d bs=1 seek=$((1073741824 - 7)) conv=notrunc status=none",
                 "holds data of no kind"),
    "two-kinds": (f"mkfs.ext4 -q -L audio-data $d; f=$d.s; {PVCREATE}; "
                  "dd if=$f of=$d bs=512 skip=1 seek=1 count=1 conv=notrunc status=none",
                  "it holds LVM2_member, ext4 (audio-data)"),
    "mounted": ("mkfs.ext4 -q -L audio-data $d", "is mounted on /mnt"),
    "clone": (TWIN, "holds the same filesystem"),
    "clone-of-it": (TWIN, "holds the same filesystem"),
    "occupied-mount": ("true", "is mounted on /srv/other"),
    "hidden-files": ("true", "holds files that would be hidden: precious"),
}  # fmt: skip
SIZED = {
    "too-small": (0.9, "true", "it is empty, has 0.90 GiB, and 1 are expected"),
    "too-large": (2, "true", "it is empty, has 2.00 GiB, and 1 are expected"),
    "ours-too-small": (0.9, "mkfs.ext4 -q -L audio-data $d", "it has 0.90 GiB and 1 are expected"),
    "read-only": (1, "true", "it is read-only"),
}
OTHERS = {
    "root-disk": "it holds the root filesystem",
    "root-partition": "it holds the root filesystem",
    "no-device": "there is no such disk",
    "no-volume": "no disk of volume",
    "a-file": "it is no block device",
}
VARIABLES = {
    "occupied-mount": {"gpu_worker_data_root": "/srv/other"},
    "hidden-files": {"gpu_worker_data_root": "/srv/full"},
    RIGHT: {"gpu_worker_data_root": "/srv/right"},
}
KINDS = (
    {name: said for name, (_, said) in MADE.items()}
    | {name: said for name, (_, _, said) in SIZED.items()}
    | OTHERS
)


def volume_id(name: str) -> str:
    """A volume's id of its own for each kind."""
    digits = hashlib.sha256(name.encode()).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:32]}"


def make(folder: Path) -> dict[str, Disk]:
    """The disks."""
    disks = {RIGHT: Disk.empty(folder / f"{RIGHT}.raw", volume_id(RIGHT), 1.0)}
    for name, (size, command) in {
        **{name: (1.0, command) for name, (command, _) in MADE.items()},
        **{name: (size, command) for name, (size, command, _) in SIZED.items()},
    }.items():
        disks[name] = Disk.empty(folder / f"{name}.raw", volume_id(name), size)
        if name == "two-kinds":
            run("truncate", "--size=1G", f"{folder / name}.raw.s")
        run("sh", "-ec", f"d={folder / name}.raw; {command}")
        disks[name].read_only = name == "read-only"
    return disks


def checksums(disks: dict[str, Disk]) -> dict[str, str]:
    """What is on them."""
    return {name: checksum(disk.path) for name, disk in disks.items()}


def checksum(path: Path) -> str:
    """The SHA-256 of a file's size and of its blocks that are not all zeros, with their places: most are holes."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        start = 0
        while start < size:
            try:
                start = os.lseek(file.fileno(), start, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # nothing but a hole to the end
                break
            block = os.pread(file.fileno(), BLOCK, start)
            if block.strip(b"\0"):
                digest.update(f"{start} ".encode() + block)
            start += BLOCK
    return digest.hexdigest()


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Result, dict[str, str], dict[str, str]]]:
    """One run of the playbook: to Ansible each disk is a host of its own. The checksums before and after it."""
    folder = tmp_path_factory.mktemp("disks")
    disks = make(folder)
    machine = Machine(folder / "machine", image("bookworm", CACHE), list(disks.values()))
    machine.start()
    try:
        by_id = "/dev/disk/by-id/virtio-"
        machine.ssh(
            f"mount -o ro,noload {by_id}{volume_id('mounted')[:20]} /mnt; mkdir -p /srv/other /srv/full; "
            "mount -t tmpfs none /srv/other; touch /srv/full/precious; truncate --size=1G /root/disk; "
            "useradd --system audio-pipeline"
        )
        root = machine.ssh("findmnt --noheadings --output SOURCE /").strip()
        devices = {
            "root-disk": root.rstrip("0123456789"),
            "root-partition": root,
            "no-device": "/dev/vdzz",
            "a-file": "/root/disk",
        }
        before = checksums(disks)
        secrets = {f"vault_{name}": "not-to-be-shown-7391" for name in SECRETS}
        playbooks = Playbooks(folder / "ansible", secrets)
        playbooks.make_vault()
        hosts = {}
        for name in (RIGHT, *KINDS):
            where = (
                {"gpu_worker_data_device": devices[name]}
                if name in devices
                else {"gpu_worker_data_volume_id": volume_id(name)}
            )
            hosts[name] = playbooks.host(machine, **where, **VARIABLES.get(name, {}))
        playbooks.write_inventory({"gpu_workers": hosts})
        playbooks.change_group_vars("gpu_workers", gpu_worker_data_gib=1, gpu_worker_device="cpu")
        result = playbooks.play("setup-new-worker", "--tags", "volume", "--forks", "3")
        machine.ssh("sync")
        yield result, before, checksums(disks)
    finally:
        machine.kill()


def test_the_right_disk_is_taken(refusals: tuple[Result, dict[str, str], dict[str, str]]) -> None:
    result, before, after = refusals
    assert result.counts[RIGHT]["failed"] == 0, result.text[-3000:]
    assert result.counts[RIGHT]["changed"] > 0
    assert before[RIGHT] != after[RIGHT]


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_disk_is_refused_and_stays_as_it_is(
    kind: str, refusals: tuple[Result, dict[str, str], dict[str, str]]
) -> None:
    result, before, after = refusals
    said = " ".join(
        result.text.partition(f"fatal: [{kind}]")[2].partition("\nfatal:")[0].partition("TASK [")[0].split()
    )
    assert KINDS[kind] in said
    assert result.counts[kind]["failed"] == 1
    assert result.counts[kind]["changed"] == 0
    assert before.get(kind) == after.get(kind)
