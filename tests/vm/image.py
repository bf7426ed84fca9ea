"""A Debian or Ubuntu as a cloud gives it: SSH, Python, and nothing of ours. Made once, by mmdebstrap, as root."""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "apt,systemd,systemd-sysv,systemd-resolved,dbus,openssh-server,python3,python3-apt,sudo,udev,e2fsprogs,ca-certificates,"
    "util-linux,fdisk,procps,iproute2,kmod,initramfs-tools"
)
KERNELS = {"bookworm": "linux-image-cloud-amd64", "jammy": "linux-image-virtual", "noble": "linux-image-virtual"}
ROOT_START = 2048  # of 512 bytes: the root filesystem is a partition, as in a cloud's image
# This machine's own authorities, where a proxy signs what is downloaded.
AUTHORITIES = Path("/usr/local/share/ca-certificates")
NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"


@dataclass(frozen=True)
class Image:
    """A disk image, the kernel and initrd to start it with, and the key that root accepts."""

    disk: Path
    kernel: Path
    initrd: Path
    key: Path


def image(release: str, cache: Path) -> Image:
    """The image of the release (bookworm, jammy, noble), made where `cache` has none; about a minute."""
    folder = cache / release
    made = Image(folder / "disk.raw", folder / "vmlinuz", folder / "initrd", folder / "key")
    if not made.disk.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made.key.unlink(missing_ok=True)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(made.key))
        with tempfile.TemporaryDirectory(dir=folder) as root:
            fill(Path(root), release, made)
            disk = folder / "disk.part"
            pack(Path(root), disk)
        disk.rename(made.disk)
    return made


def fill(root: Path, release: str, made: Image) -> None:
    """Install the release into `root`."""
    packages = f"{PACKAGES},{KERNELS[release]}"
    if release == "jammy":  # there it is part of systemd
        packages = packages.replace("systemd-resolved,", "")
    components = "main" if release == "bookworm" else "main,restricted,universe,multiverse"  # as in cloud images
    run(
        "mmdebstrap",
        "--variant=minbase",
        f"--components={components}",
        f"--include={packages}",
        release,
        str(root),
    )
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(made.key.with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    (root / "etc/hostname").write_text("vm\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost vm\n")
    (root / "etc/fstab").write_text("LABEL=root / ext4 errors=remount-ro 0 1\n")
    (root / "etc/systemd/network/20-dhcp.network").write_text(NETWORK)
    for authority in AUTHORITIES.glob("*.crt"):
        shutil.copy(authority, root / "usr/local/share/ca-certificates")
    enable = "systemctl enable --quiet systemd-networkd systemd-resolved ssh; update-ca-certificates >/dev/null"
    run("chroot", str(root), "sh", "-c", enable)
    for name, target in (("vmlinuz", made.kernel), ("initrd.img", made.initrd)):
        shutil.copy(next((root / "boot").glob(f"{name}-*")), target)


def pack(root: Path, disk: Path) -> None:
    """Make a partitioned disk of the folder."""
    disk.unlink(missing_ok=True)
    run("truncate", "--size=10G", str(disk))
    run("sfdisk", "--quiet", str(disk), text=f"label: gpt\nstart={ROOT_START}, type=linux\n")
    size = 10 * 2**20 - 2 * ROOT_START  # KiB, less what lies before and after it
    offset = f"offset={512 * ROOT_START}"
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), "-E", offset, str(disk), f"{size}k")


def run(*command: str, text: str | None = None) -> str:
    """What a command prints; RuntimeError with its error where it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-2000:]}")
    return done.stdout
