"""A whole pipeline on this machine: real servers, and the real scripts as processes."""

import os
import sys
from pathlib import Path
from typing import Self

import imageio_ffmpeg

from tests.child import Child
from tests.servers import MotoS3, Postgres, SshHost, Valkey

PROJECT = Path(__file__).resolve().parent.parent
MODELS = PROJECT / "tests" / "models"
BUCKET = "recordings"


class Fleet:
    """The servers, started in `folder`, and the environment that points the scripts at them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.valkey = Valkey(folder / "valkey")
        self.postgres = Postgres(folder / "postgres")
        self.s3 = MotoS3(folder / "s3")
        self.ssh = SshHost(folder / "ec2")
        self.workers: list[Child] = []

    def start(self) -> Self:
        """Start the servers and make the bucket and the tables."""
        for server in (self.valkey, self.postgres, self.s3, self.ssh):
            server.start()
        self.s3.create_bucket(BUCKET)
        return self

    def stop(self) -> None:
        """Stop the workers, then the servers."""
        for worker in self.workers:
            worker.stop()
        for server in (self.ssh, self.s3, self.postgres, self.valkey):
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def settings(self) -> dict[str, str]:
        """The settings of every worker, as example.env names them."""
        return {
            "REDIS_URL": self.valkey.url,
            "DATABASE_URL": self.postgres.url,
            "S3_ENDPOINT": self.s3.endpoint,
            "S3_ACCESS_KEY": self.s3.access_key,
            "S3_SECRET_KEY": self.s3.secret_key,
            "S3_BUCKET": BUCKET,
            "SCRATCH_ROOT": str(self.folder / "scratch"),
            "TRANSFER_ROOT": str(self.folder / "transfer"),
            "MODELS_ROOT": str(MODELS),
            "EC2_HOST": self.ssh.host,
            "EC2_PORT": str(self.ssh.port),
            "EC2_USER": self.ssh.user,
            "EC2_KEY_FILE": str(self.ssh.key_file),
            "EC2_KNOWN_HOSTS": str(self.ssh.known_hosts),
            "EC2_REMOTE_DIR": str(self.ssh.folder),
            "FFMPEG": imageio_ffmpeg.get_ffmpeg_exe(),
            "SCRATCH_MIN_FREE_MB": "200",
            "WHISPER_MODEL": "spoken-words",
            "WHISPER_DEVICE": "cpu",
            "WHISPER_COMPUTE_TYPE": "float32",
            "WHISPER_THREADS": "1",
            "HEARTBEAT_SECONDS": "4",
            "RETRY_SECONDS": "1",
        }

    def environment(self, **changes: str) -> dict[str, str]:
        """The settings with these changes, in a copy of this process's environment."""
        return {**os.environ, **self.settings(), **changes}

    def worker(self, role: str, name: str = "", **changes: str) -> Child:
        """Start a worker process; its log is `{folder}/{name}.log`."""
        name = name or role
        command = [sys.executable, str(PROJECT / f"{role}_worker.py")]
        environment = self.environment(WORKER_ID=f"test-{name}", **changes)
        child = Child(command, self.folder / f"{name}.log", environment=environment)
        child.start()
        self.workers.append(child)
        return child
