"""A process keeps the release that it was started with, whatever is deployed meanwhile."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest

from tests.project.test_playbooks import UNITS
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import DAMAGED, SPEECH, make_tar
from tests.support.steps import dead, log_of, rows, wait_for, wait_for_log

ROLES = ("transfer", "unpack", "gpu")


def test_a_worker_reads_nothing_of_its_release_once_it_is_ready(fleet: Fleet, redis: Any) -> None:
    fleet.nursery = None  # which has imported much already
    gone = fleet.folder / "gone"
    late = [str(PROJECT / "tests" / "support" / "late_imports.py"), str(gone)]
    workers = {role: fleet.run([*late, str(PROJECT / f"{role}_worker.py")], role) for role in ROLES}
    for worker in workers.values():
        wait_for_log(worker, " ready, ")
    gone.touch()
    make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH, "bad.mp3": DAMAGED})
    (fleet.ssh.folder / "bad.tar.gz").write_bytes(b"\x1f\x8b no archive")
    redis.rpush("queue:unpack", "junk")
    redis.rpush("queue:transcribe", "junk")
    fleet.control("enqueue", *(str(fleet.ssh.folder / name) for name in ("monday.tar", "bad.tar.gz")))
    wait_for(lambda: {row[0] for row in rows(fleet).values()} == {"done", "failed"}, fleet, "a.mp3 and bad.mp3")
    for queue in ("transfer", "unpack", "transcribe"):
        wait_for(lambda queue=queue: len(dead(redis, f"queue:{queue}")) == 1, fleet, f"its dead letter in {queue}")  # type: ignore[misc]
    fleet.stop_workers()
    for worker in workers.values():
        assert [line for line in log_of(worker).splitlines() if "late: " in line] == []


RELEASE = """
import os, sys, time
print("ready", flush=True)
while not os.path.exists(os.environ["DEPLOYED"]):
    time.sleep(0.01)
import late
print(late.__file__, sys.executable, os.path.realpath("/proc/self/cwd"))
"""


def deployed(folder: Path, script: str) -> Path:
    """A release as a deploy makes it: an environment with a module of its own, and a script that needs it late."""
    packages = folder / ".venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "late.py").touch()
    (folder / ".venv" / "bin").mkdir()
    (folder / ".venv" / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (folder / ".venv" / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    (folder / script).write_text(RELEASE)
    return folder


@pytest.mark.parametrize("role", UNITS)
def test_a_unit_keeps_the_release_that_it_was_started_with(tmp_path: Path, role: str) -> None:
    script = "pipelinectl.py" if role == "web" else f"{role}_worker.py"
    before, after = (deployed(tmp_path / "releases" / name, script) for name in ("before", "after"))
    current, done = tmp_path / "current", tmp_path / "deployed"
    current.symlink_to(before)
    (said,) = re.findall(r"(?m)^WorkingDirectory=.*\nExecStart=.*$", UNITS[role].read_text())
    item = {"command": "web", "listen": "127.0.0.1:1"}
    folder, command = re.findall("=(.*)", jinja2.Template(said).render(app_root=tmp_path, item=item))
    process = subprocess.Popen(
        shlex.split(command), cwd=folder, env={"DEPLOYED": str(done)}, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        current.unlink()
        current.symlink_to(after)
        done.touch()
        file, program, working = process.stdout.read().split()
    assert process.returncode == 0
    assert all(Path(path).is_relative_to(before) for path in (file, program, working))
