"""Proves that a disk is empty or ours before anything is written to it; it writes nothing itself.

    check_disk.py DEVICE --label LABEL --gib SIZE --mount FOLDER

A disk is empty when it has the expected size and every byte of it is zero. It is ours when all that it holds is an
ext4 with our label, and it may have grown. Prints JSON, state (empty, ours) and device (its own name), and ends
with status 0; for any other disk it says in one line what it found, and ends with status 1.
"""

import argparse
import errno
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

Node = dict[str, Any]  # of lsblk
GIB = 2**30
BLOCK = 16 * 2**20


class Wrong(Exception):
    """The disk is not to be touched; says why."""


def read(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def tree(node: Node) -> Iterator[Node]:
    """A disk of lsblk, and all that is built on it: partitions, LVM, RAID, encryption."""
    yield node
    for child in node.get("children", []):
        yield from tree(child)


def mounts(node: Node) -> list[str]:
    """Where it is mounted; [SWAP] for swap that is in use."""
    return [place for place in node["mountpoints"] if place]


def check_kind(device: str, mount: str) -> Node:
    """The disk as lsblk shows it, unless it is in use in any way but ours."""
    if not os.path.exists(device):
        raise Wrong("there is no such disk: is the volume attached?")
    if not stat.S_ISBLK(os.stat(device).st_mode):
        raise Wrong("it is no block device")
    columns = "NAME,TYPE,SIZE,RO,MOUNTPOINTS,FSTYPE,LABEL,UUID"
    disk = json.loads(read("lsblk", "--json", "--bytes", "--paths", "--output", columns, device))["blockdevices"][0]
    for part in tree(disk):
        if "/" in mounts(part):
            raise Wrong(f"it holds the root filesystem ({part['name']} is mounted on /)")
    for part in tree(disk):
        for place in mounts(part):
            if part is not disk or place != mount:
                raise Wrong(f"it is in use: {part['name']} is mounted on {place}")
    if disk["type"] != "disk":
        raise Wrong(f"it is no whole disk, but of type {disk['type']}")
    if disk.get("children"):
        parts = ", ".join(f"{part['name']} ({part['type']})" for part in list(tree(disk))[1:])
        raise Wrong(f"it has parts: {parts}")
    if disk["ro"] in (True, "1", 1):
        raise Wrong("it is read-only")
    return disk


def signatures(device: str) -> list[tuple[str, str, str]]:
    """What the disk holds as far as libblkid knows it: [(type, label, UUID)]."""
    found = json.loads(read("wipefs", "--no-act", "--json", "--output", "TYPE,LABEL,UUID", device) or "{}")
    return [(one["type"], one["label"], one["uuid"]) for one in found.get("signatures", [])]


def check_ours(device: str, label: str, uuid: str, size: int, gib: int) -> None:
    """The filesystem is ours: of the right size, and the only one of its UUID."""
    if size < gib * GIB:
        raise Wrong(f"it has {size / GIB:.2f} GiB and {gib} are expected")
    same = [name for name in disks() if name != device and any(found[2] == uuid for found in signatures(name))]
    if same:
        raise Wrong(f"{', '.join(same)} holds the same filesystem {label} ({uuid}): detach the one that is not in use")


def disks() -> list[str]:
    """Every disk of the machine that holds anything."""
    listed = json.loads(read("lsblk", "--json", "--paths", "--nodeps", "--output", "NAME,TYPE"))["blockdevices"]
    return [disk["name"] for disk in listed if disk["type"] == "disk" and has_medium(disk["name"])]


def has_medium(device: str) -> bool:
    """Whether there is anything in it: not in an empty floppy drive, or a zram of no size."""
    try:
        with open(device, "rb", buffering=0) as disk:
            return disk.seek(0, os.SEEK_END) > 0
    except OSError as error:
        if error.errno in (errno.ENOMEDIUM, errno.ENXIO):
            return False
        raise


def check_empty(device: str, size: int, gib: int) -> None:
    """The disk has the size that was ordered, and every byte is zero."""
    if not gib * GIB <= size < (gib + 1) * GIB:
        raise Wrong(f"it is empty, has {size / GIB:.2f} GiB, and {gib} are expected")
    zeros = bytes(BLOCK)
    with open(device, "rb", buffering=0) as disk:
        position = 0
        while block := disk.read(BLOCK):
            if block != zeros[: len(block)]:
                raise Wrong(f"it holds data of no kind that is known, in the {BLOCK // 2**20} MiB at byte {position}")
            os.posix_fadvise(disk.fileno(), position, len(block), os.POSIX_FADV_DONTNEED)
            position += len(block)
    if position != size:
        raise Wrong(f"only {position} of its {size} bytes could be read")


def check_folder(mount: str) -> None:
    """Nothing else is mounted where the volume will be, and no file would be hidden by it."""
    if os.path.ismount(mount):
        source = read("findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", mount).strip()
        raise Wrong(f"{source} is mounted on {mount}")
    if hidden := sorted(os.listdir(mount)) if os.path.isdir(mount) else []:
        raise Wrong(f"{mount} on the root disk holds files that would be hidden: {', '.join(hidden[:5])}")


def check(device: str, label: str, gib: int, mount: str) -> str:
    """What the disk is: 'empty' or 'ours'. `Wrong` where it is neither."""
    disk = check_kind(device, mount)
    if mount not in mounts(disk):
        check_folder(mount)
    found, size = signatures(device), int(disk["size"])
    if not found:
        check_empty(device, size, gib)
        return "empty"
    kinds = ", ".join(f"{kind} ({held})" if held else kind for kind, held, _ in found)
    if len(found) > 1 or found[0][:2] != ("ext4", label):
        raise Wrong(f"it holds {kinds}")
    check_ours(device, label, found[0][2], size, gib)
    return "ours"


def main() -> int:
    """Check the disk."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("--label", required=True)
    parser.add_argument("--gib", type=int, required=True)
    parser.add_argument("--mount", required=True)
    given = parser.parse_args()
    device = os.path.realpath(given.device)
    name = given.device if device == given.device else f"{given.device} ({device})"
    try:
        state = check(device, given.label, given.gib, given.mount)
    except Wrong as wrong:
        print(f"{name} is not used: {wrong}")
        return 1
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{name} is not used, as it could not be looked at: {error}")
        return 1
    print(json.dumps({"state": state, "device": device}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
