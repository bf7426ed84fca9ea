"""pipeline/transfer/trial.py: what no waiting changes is reported at the start, in the host's own words."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.foundation.errors import Outage
from pipeline.transfer import trial
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import RemoteHost
from tests.support.servers import Sshd, sshd_path

pytestmark = pytest.mark.skipif(sshd_path() is None, reason="sshd is not installed (apt install openssh-server)")
LOGIN_AS = 'Please login as the user "ec2-user" rather than the user "root".'


def remote(server: Sshd) -> RemoteHost:
    return RemoteHost(server.host, server.port, server.user, str(server.key_file), str(server.known_hosts))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with Sshd(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@pytest.fixture
def host(sshd: Sshd) -> RemoteHost:
    return remote(sshd)


def refused(host: RemoteHost, tmp_path: Path) -> str:
    """What a start says of the host, in one line; nothing is left of the trial."""
    problem = trial.refusal(host, tmp_path / "trial")
    assert problem is not None
    assert "\n" not in problem
    assert not list(tmp_path.glob("trial*"))
    return problem


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ForceCommand": "internal-sftp"}, r"does not run commands: This service allows sftp connections only\."),
        (
            {"ForceCommand": "/usr/sbin/nologin"},
            r"does not run commands: This account is currently not available\.",
        ),
        ({"Subsystem": None}, "does not serve files over SFTP: .*subsystem request failed"),
        ({"Subsystem": "sftp /nowhere/sftp-server"}, "does not serve files over SFTP: .*scp: Connection closed"),
    ],
    ids=["SFTP only", "no login", "no SFTP", "a broken SFTP"],
)
def test_a_host_that_cannot_be_worked_with_is_refused_in_its_own_words(
    tmp_path: Path, changes: dict[str, str | None], said: str
) -> None:
    with Sshd(tmp_path / "ssh", changes) as server:
        problem = refused(remote(server), tmp_path)
    assert problem.startswith("EC2_HOST: the host ")
    assert re.search(said, problem), problem


def test_a_login_that_is_another_users_is_refused_in_the_hosts_own_words(tmp_path: Path) -> None:
    with Sshd(tmp_path / "ssh") as server:
        key = server.authorized_keys.read_text()
        command = f"echo '{LOGIN_AS}'; exit 142".replace('"', '\\"')
        server.authorized_keys.write_text(f'command="{command}" {key}')
        assert LOGIN_AS in refused(remote(server), tmp_path)


def test_a_shell_that_prints_before_a_program_for_sftp_is_refused(tmp_path: Path) -> None:
    """The noise comes before the protocol, and no client can tell them apart."""
    program = Path("/usr/lib/openssh/sftp-server")
    if not program.exists():
        pytest.skip(f"there is no {program}")
    with Sshd(tmp_path / "ssh", {"Subsystem": f"sftp {program}"}) as server:
        assert trial.refusal(remote(server), tmp_path / "trial") is None
        (server.private / ".bashrc").write_text("echo Welcome\n")
        assert "does not serve files over SFTP: " in refused(remote(server), tmp_path)


def test_a_host_without_our_tools_is_refused_in_its_own_words(tmp_path: Path) -> None:
    with Sshd(tmp_path / "ssh") as server:
        (server.private / ".bashrc").write_text("export PATH=/nowhere\n")
        assert re.search("lacks what the work needs: .*find: not found", refused(remote(server), tmp_path))


def test_a_tool_that_takes_no_such_option_is_refused_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "find").write_text("#!/bin/sh\necho 'find: unrecognized: -printf' >&2\nexit 1\n")
    (tmp_path / "bin" / "find").chmod(0o755)
    with Sshd(tmp_path / "ssh") as server:
        (server.private / ".bashrc").write_text(f"export PATH={tmp_path}/bin:$PATH\n")
        assert "find: unrecognized: -printf" in refused(remote(server), tmp_path)


def test_a_key_that_ssh_does_not_take_is_refused_before_anything_is_asked(
    host: RemoteHost, tmp_path: Path
) -> None:
    key = Path(shutil.copy(host.key_file, tmp_path / "a key"))
    for spoil in ("mode", "carriage returns", "passphrase", "no key"):
        shutil.copyfile(host.key_file, key)
        key.chmod(0o644 if spoil == "mode" else 0o600)
        if spoil == "carriage returns":
            key.write_bytes(key.read_bytes().replace(b"\n", b"\r\n"))
        if spoil == "passphrase":
            subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", str(key)], check=True)
        if spoil == "no key":
            key.write_text("nonsense\n")
        said = refused(replace(host, key_file=str(key), port=1), tmp_path)
        assert said.startswith("EC2_KEY_FILE: ssh-keygen does not read it without a passphrase: "), spoil
        assert "Load key " in said, spoil


def test_a_host_that_is_away_is_waited_for(host: RemoteHost, tmp_path: Path) -> None:
    with pytest.raises(Outage):
        trial.refusal(replace(host, port=1), tmp_path / "trial")


def test_a_host_that_goes_between_two_steps_is_waited_for(
    host: RemoteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        object.__setattr__(host, "port", 1)
        raise Outage("EC2", "the connection broke")

    monkeypatch.setattr(Copy, "run", gone)
    with pytest.raises(Outage, match="ssh to "):
        trial.refusal(host, tmp_path / "trial")


def test_a_connection_that_breaks_once_refuses_nothing(
    host: RemoteHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, broken = Copy.run, [True]

    def once(copy: Copy, *args: Any) -> None:
        if broken:
            broken.clear()
            raise Outage("EC2", "the connection broke")
        run(copy, *args)

    monkeypatch.setattr(Copy, "run", once)
    assert trial.refusal(host, tmp_path / "trial") is None


def test_an_ipv6_address_is_worked_with(tmp_path: Path) -> None:
    with Sshd(tmp_path / "ssh", host="::1") as server:
        assert trial.refusal(remote(server), tmp_path / "trial") is None
