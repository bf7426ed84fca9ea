"""What the parts of bench/archives share: folders, archives, and the programs that copy to S3 and from it."""

import io
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.fleet import PROJECT


def fresh(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def until(done: Callable[[], bool], check: Callable[[], object]) -> None:
    """Ask every 2 ms until it is done; `check` raises where that cannot be any more."""
    while not done():
        check()
        time.sleep(0.002)


def s3_environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    """What tells all the programs where S3 is."""
    return {
        **{name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"},  # rclone trips over it
        "S3_ENDPOINT": endpoint, "S3_ACCESS_KEY": access_key, "S3_SECRET_KEY": secret_key, "S3_BUCKET": "bench",
        "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "Other", "RCLONE_CONFIG_S_ENDPOINT": endpoint,
        "RCLONE_CONFIG_S_ACCESS_KEY_ID": access_key, "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": secret_key,
        "RCLONE_CONFIG": "/dev/null",
    }  # fmt: skip


def aws(endpoint: str) -> list[str]:
    """The AWS CLI's copy."""
    return [str(PROJECT / ".venv-awscli" / "bin" / "aws"), "--endpoint-url", endpoint, "s3", "cp", "--quiet"]


def timed(command: list[str], environment: dict[str, str]) -> float:
    """The time of a program; of one that is `running`, from the moment that it is told to go."""
    pipe = subprocess.PIPE
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, cwd=PROJECT, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        if command[-1] == "running":
            process.stdout.readline()
            start = time.perf_counter()
        process.communicate(b"\n")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start
