"""A virtual machine under QEMU: KVM where it works, else in software, which takes half a minute to boot."""

import functools
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support.child import Child, free_port, wait_until
from tests.vm.image import Image, run

BOOT_SECONDS = 900
HOST = "10.0.2.2"  # this machine's loopback, as the virtual machine sees it
KVM_SECONDS = 20


@dataclass
class Disk:
    """A virtio disk; its serial is the first 20 characters of a volume's id, as OpenStack has it."""

    path: Path
    volume_id: str
    read_only: bool = False

    @classmethod
    def empty(cls, path: Path, volume_id: str, gib: float) -> "Disk":
        """A new one, all zeros."""
        path.unlink(missing_ok=True)
        run("truncate", f"--size={int(gib * 2**20)}K", str(path))
        return cls(path, volume_id)


@functools.cache
def accelerator(kernel: Path) -> list[str]:
    """KVM where a kernel says something under it: /dev/kvm may exist and hang."""
    options = ["-accel", "kvm", "-cpu", "host"]
    command = ["qemu-system-x86_64", *options, "-m", "256", "-display", "none", "-nodefaults", "-no-reboot",
               "-serial", "stdio", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]  # fmt: skip
    if Path("/dev/kvm").exists():
        try:
            said = subprocess.run(command, capture_output=True, timeout=KVM_SECONDS, check=False).stdout
        except subprocess.TimeoutExpired as late:
            said = late.stdout or b""
        if b"Linux version" in said:
            return options
    return ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]  # a third faster than to emulate all that QEMU can


class Machine:
    """A machine with a root disk of its own; `disks` lie in earlier PCI slots: the root disk comes last."""

    def __init__(self, folder: Path, image: Image, disks: list[Disk], memory_mib: int = 3072) -> None:
        self.folder, self.image, self.disks, self.memory_mib = folder, image, disks, memory_mib
        folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.root = folder / "root.qcow2"
        self.monitor = folder / "monitor"
        self.child: Child | None = None
        if not self.root.exists():
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", "raw", str(self.root))

    def start(self) -> None:
        """Boot, and return when SSH answers and systemd has ended its start."""
        drives = []
        for number, disk in enumerate(self.disks):
            access = "readonly=on" if disk.read_only else "cache=unsafe"
            drives += ["-drive", f"id=d{number},if=none,format=raw,{access},file={disk.path}"]
            drives += [
                "-device",
                f"virtio-blk-pci,drive=d{number},addr={3 + number:#x},serial={disk.volume_id[:20]}",
            ]
        drives += ["-drive", f"id=root,if=none,format=qcow2,cache=unsafe,file={self.root}"]
        drives += ["-device", "virtio-blk-pci,drive=root,addr=0x1e"]
        forward = f"user,id=n,hostfwd=tcp:127.0.0.1:{self.port}-:22"
        command = ["qemu-system-x86_64", *accelerator(self.image.kernel), "-smp", "2", "-m", str(self.memory_mib),
                   "-display", "none", "-nodefaults", "-no-user-config",
                   "-serial", f"file:{self.folder / 'console.log'}",
                   "-kernel", str(self.image.kernel), "-initrd", str(self.image.initrd),
                   "-append", "root=LABEL=root rw console=ttyS0 mitigations=off",
                   "-netdev", forward, "-device", "virtio-net-pci,netdev=n,addr=0x1d",
                   "-device", "virtio-rng-pci,addr=0x1c", "-monitor", f"unix:{self.monitor},server,nowait",
                   *drives]  # fmt: skip
        self.child = Child(command, self.folder / "qemu.log")
        self.child.start()
        self.wait_until_up()

    def wait_until_up(self, boot: str = "") -> None:
        """Wait for a boot that is not `boot`."""

        def is_up() -> bool:
            assert self.child
            self.child.require_running()
            done = self.try_ssh("cat /proc/sys/kernel/random/boot_id; systemctl is-system-running --wait")
            return done.returncode in (0, 1) and bool(done.stdout) and done.stdout.split()[0] != boot

        wait_until(is_up, "the machine's start", BOOT_SECONDS)

    def reboot(self) -> None:
        """Reboot in good order."""
        boot = self.ssh("cat /proc/sys/kernel/random/boot_id").strip()
        self.try_ssh("systemctl reboot")
        self.wait_until_up(boot)

    def stop(self) -> None:
        """Shut down in good order."""
        if self.child and self.child.process:
            self.try_ssh("systemctl poweroff")
            self.child.process.wait(BOOT_SECONDS)
            self.child = None

    def kill(self) -> None:
        """Pull the plug."""
        if self.child:
            self.child.kill()
            self.child = None

    def tell_qemu(self, command: str) -> None:
        """One command of QEMU's monitor."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(self.monitor))
            channel.settimeout(10)
            said = channel.recv(4096)
            channel.sendall(f"{command}\n".encode())
            while not said.rstrip().endswith(b"(qemu)") or command.encode() not in said:
                said += channel.recv(4096)

    def ssh_options(self) -> list[str]:
        """How ssh gets in."""
        return ["-i", str(self.image.key), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                "-o", "LogLevel=ERROR", "-o", "ConnectTimeout=20", "-o", "BatchMode=yes"]  # fmt: skip

    def try_ssh(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell command there."""
        whole = ["ssh", *self.ssh_options(), "-p", str(self.port), "root@127.0.0.1", command]
        return subprocess.run(whole, capture_output=True, text=True, check=False, timeout=BOOT_SECONDS)

    def ssh(self, command: str) -> str:
        """What a shell command there prints; RuntimeError where it fails."""
        done = self.try_ssh(command)
        if done.returncode != 0:
            raise RuntimeError(f"{command}: status {done.returncode}: {done.stderr.strip()} {done.stdout.strip()}")
        return done.stdout
