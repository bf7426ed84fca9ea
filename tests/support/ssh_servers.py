"""Hosts to fetch archives from over SSH: one on asyncssh, which pip installs, and OpenSSH's own sshd.

Both serve real, absolute paths to the holder of the client key. A relative path starts in `folder` on
`SshHost` and in the user's home on `Sshd`. Host key and client key stay the same from start to start.
"""

import os
import pwd
import shutil
import socket
import sys
from pathlib import Path

import asyncssh

from tests.support.child import Child, Server


class SshServer(Server):
    """The keys, and where things are. `folder` is where the archives lie; the rest is in `folder`/.server."""

    host = "127.0.0.1"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.private = self.folder / ".server"
        self.private.mkdir(mode=0o700, exist_ok=True)
        self.key_file = self.private / "client_key"
        self.known_hosts = self.private / "known_hosts"
        self.host_key = self.private / "host_key"
        self.authorized_keys = self.private / "authorized_keys"

    def _write_keys(self) -> None:
        """Make what is not there yet; the port is part of known_hosts and differs from run to run."""
        for path in (self.key_file, self.host_key):
            if not path.exists():
                key = asyncssh.generate_private_key("ssh-ed25519")
                path.touch(mode=0o600)
                path.write_bytes(key.export_private_key("openssh"))
                path.with_suffix(".pub").write_bytes(key.export_public_key("openssh"))
        shutil.copy(self.key_file.with_suffix(".pub"), self.authorized_keys)
        public = self.host_key.with_suffix(".pub").read_text()
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {public}")


class SshHost(SshServer):
    """asyncssh: SFTP (`scp -s`), the old protocol (`scp -O`) and commands, which start in `folder`."""

    def _set_up(self) -> list[Child]:
        self._write_keys()
        script = str(Path(__file__).with_name("ssh_host.py"))
        command = [sys.executable, script, str(self.port), str(self.host_key), str(self.authorized_keys)]
        return [Child(command, self.private / "ssh.log", folder=self.folder)]


def sshd_path() -> str | None:
    """OpenSSH's server where it is installed; it must be started by its full path."""
    return shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")


class Sshd(SshServer):
    """OpenSSH's sshd, for the user who runs the tests. It shows `banner`, where that file is there.

    `changes` are settings of its own (None: without that line), and `host` the address that it listens on.
    """

    def __init__(
        self, folder: Path, changes: dict[str, str | None] | None = None, host: str = "127.0.0.1"
    ) -> None:
        super().__init__(folder)
        self.host, self.changes = host, changes or {}

    def _ready(self) -> bool:
        with socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET) as client:
            client.settimeout(5)
            return client.connect_ex((self.host, self.port)) == 0

    @property
    def banner(self) -> Path:
        """What is shown to whoever connects, before they are let in."""
        return self.private / "banner"

    def _set_up(self) -> list[Child]:
        program = sshd_path()
        if program is None:
            raise RuntimeError("sshd is not installed (Debian's package openssh-server)")
        self._write_keys()
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # it refuses to start without, as root
        config = self.private / "sshd_config"
        settings = {
            "ListenAddress": self.host,
            "Port": self.port,
            "HostKey": self.host_key,
            "AuthorizedKeysFile": self.authorized_keys,
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PermitRootLogin": "yes",
            "PasswordAuthentication": "no",
            "Subsystem": "sftp internal-sftp",
            "KexAlgorithms": "curve25519-sha256",  # the cheapest
            "Banner": self.banner,  # where there is one
            "SetEnv": f"HOME={self.private}",  # a shell that reads its start files finds none
            **self.changes,
        }
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items() if value is not None))
        return [Child([program, "-D", "-e", "-f", str(config)], self.private / "sshd.log")]
