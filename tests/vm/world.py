"""What a fleet needs around it: the servers of the tests on this machine, models, secrets, a virtual machine.

    VM_RELEASE=noble python -m tests.vm.world FOLDER

leaves it running until Ctrl-C, to try playbooks by hand in FOLDER/ansible.
"""

import hashlib
import os
import re
import secrets
import shutil
import signal
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Self

import redis

from tests.demo import sample_archives
from tests.support.child import wait_until
from tests.support.fleet import MODELS, PROJECT, Fleet
from tests.support.servers import ACCESS
from tests.vm.image import Image, image, run
from tests.vm.machine import BOOT_SECONDS, HOST, Disk, Machine
from tests.vm.playbooks import Playbooks

CACHE = Path.home() / ".cache" / "audio-pipeline-vm"
VOLUME = "2f1c8a7e-5b1d-4b7e-9a3c-0d5b6c7e8f90"
DATA_GIB = 4
RELEASE = os.environ.get("VM_RELEASE", "bookworm")
NAME = "gpu-04"
MOST_EXPOSURE = 2.0
FINISHED = "SELECT count(*) FROM batches WHERE finished_at IS NOT NULL"


def odd_secret() -> str:
    """A secret of which no letter may be lost on the way to the worker."""
    return f"{secrets.token_hex(12)}/%\"'\\$`:@ ü"


class World:
    """Servers, a machine called gpu-04 that is everything at once, and the operator's folder."""

    def __init__(self, folder: Path, groups: tuple[str, ...] = ("gpu_workers", "transfer_hosts")) -> None:
        self.folder, self.groups = folder, groups
        self.fleet = Fleet(folder / "servers")
        self.image: Image = image(RELEASE, CACHE)
        self.data = Disk.empty(folder / "data.raw", VOLUME, DATA_GIB)
        (folder / "machine" / "root.qcow2").unlink(missing_ok=True)
        self.machine = Machine(folder / "machine", self.image, [self.data])
        self.repository = str(PROJECT)
        self.models = folder / "models"
        self.secrets = {
            "vault_s3_access_key": secrets.token_hex(12),  # it is part of a header
            "vault_s3_secret_key": odd_secret(),
            "vault_redis_password": odd_secret(),
            "vault_database_password": odd_secret(),
            "vault_web_token": secrets.token_hex(16),  # it is part of a header too
        }

    def __enter__(self) -> Self:
        self.fleet.start()
        with redis.Redis.from_url(self.fleet.valkey.url) as client:
            lines = (ACCESS / "redis.conf").read_text().splitlines()
            (user,) = (line for line in lines if line.startswith("user "))
            digest = hashlib.sha256(self.secrets["vault_redis_password"].encode()).hexdigest()
            rules = user.replace("PASSWORD_SHA256", digest).split()[2:]
            client.execute_command("ACL", "SETUSER", "pipeline", *rules)
        self.secrets["vault_ec2_private_key"] = self.fleet.ssh.key_file.read_text()
        self.machine.start()
        self.playbooks = Playbooks(self.folder / "ansible", self.secrets)
        self.playbooks.make_vault()
        self.write_variables()
        return self

    def __exit__(self, *_: object) -> None:
        self.machine.kill()
        self.fleet.stop()

    def write_variables(self) -> None:
        """The inventory and group_vars of an operator who has these servers."""
        books, fleet, machine = self.playbooks, self.fleet, self.machine
        groups = {group: {NAME: books.host(machine)} for group in self.groups}
        books.write_inventory({**groups, "orchestrators": {"orchestrator": books.host(machine)}})
        books.change_group_vars(
            "all", s3_endpoint=f"http://{HOST}:{fleet.s3.port}", s3_bucket=fleet.bucket,
            redis_host=HOST, redis_port=fleet.valkey.port, database_host=HOST, database_port=fleet.postgres.port,
            database_user="postgres", database_options="sslmode=disable",
            deployment_repository=self.repository, model_source_path="/srv/models",
            worker_settings={"SCRATCH_MIN_FREE_MB": 200, "HEARTBEAT_SECONDS": 20},
        )  # fmt: skip
        books.change_group_vars(
            "gpu_workers", gpu_worker_data_gib=DATA_GIB, gpu_worker_data_volume_id=VOLUME, gpu_worker_device="cpu",
            gpu_worker_model_address="127.0.0.1", gpu_worker_model_port=22,
            gpu_worker_settings={"WHISPER_MODEL": "spoken-words", "WHISPER_COMPUTE_TYPE": "float32"},
        )  # fmt: skip
        key = fleet.ssh.known_hosts.read_text().replace("127.0.0.1", HOST)
        books.change_group_vars(
            "transfer_hosts", ec2_host=HOST, ec2_port=fleet.ssh.port, ec2_user=fleet.ssh.user, ec2_known_hosts=key,
            ec2_remote_dir=str(fleet.ssh.folder), ec2_watch_seconds=5,
        )  # fmt: skip

    def put_models(self, **files: bytes) -> str:
        """Put models with a manifest at the source, which is the machine too; gives the release's name."""
        shutil.rmtree(self.models, ignore_errors=True)
        shutil.copytree(MODELS / "spoken-words", self.models / "spoken-words")
        for name, content in files.items():
            (self.models / "spoken-words" / name).write_bytes(content)
        paths = sorted(path for path in self.models.rglob("*") if path.is_file())
        sums = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(self.models)}" for path in paths
        ]
        manifest = "\n".join([*sums, ""])
        (self.models / "SHA256SUMS").write_text(manifest)
        packed = self.folder / "models.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(self.models, "models")
        options = [*self.machine.ssh_options(), "-P", str(self.machine.port)]
        run("scp", "-q", *options, str(packed), "root@127.0.0.1:/tmp/models.tar")
        self.machine.ssh("rm -rf /srv/models; tar -C /srv --no-same-owner -xf /tmp/models.tar; rm /tmp/models.tar")
        return hashlib.sha256(manifest.encode()).hexdigest()[:12]

    def send_archive(self, finished: Callable[[], int]) -> None:
        """Put an archive on the EC2 host and wait for its batch; `finished` counts those that are FINISHED."""
        before = finished()
        folder = self.folder / f"archive-{before}"
        folder.mkdir()
        (archive,) = (path for path in sample_archives(folder) if "monday" in path.name)
        archive.rename(self.fleet.ssh.folder / f"{before}.tar")
        wait_until(lambda: finished() > before, "the batch", BOOT_SECONDS)

    def exposure(self, unit: str) -> float:
        """How open the unit is, as systemd-analyze has it: 0 to 10."""
        said = self.machine.ssh(f"systemd-analyze security --no-pager {unit} | tail -n 1")
        found = re.search(r"exposure level for \S+: ([0-9.]+) ", said)
        assert found, said
        return float(found[1])


def main() -> None:
    """Start it, and wait."""
    with World(Path(sys.argv[1]).absolute()) as world:
        ssh = f"ssh {' '.join(world.machine.ssh_options())} -p {world.machine.port} root@127.0.0.1"
        print(f"{world.playbooks.folder}; models {world.put_models()}; {ssh}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    main()
