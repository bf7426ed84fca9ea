"""The host where recordings arrive, and what is asked of it with OpenSSH's own ssh."""

import errno
import logging
import os
import re
import shlex
import subprocess
from dataclasses import dataclass

from pipeline.errors import DISK_ERRNOS, Outage, Permanent

log = logging.getLogger(__name__)

_CONNECTION_FAILED = 255  # ssh(1): what the remote command gives is any other status
_CONNECTION_LOST = re.compile(r"(?m)^(scp: )?(Connection closed|lost connection)\s*$")  # scp(1) ends with 1
_REFUSED = re.compile(r"Permission denied|Host key verification failed|Too many authentication failures")
_OUR_DISK = re.compile(r'(?m)^scp: .*\blocal "')  # open local "/...": No space left on device
# What stops every file there alike: the host has no room for a process, or has lost the folder's file system.
_HOST_ERRNOS = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ENOTCONN)
_HOST_IN_NEED = re.compile(rf"(?m): ({'|'.join(map(os.strerror, _HOST_ERRNOS))})\s*$")  # at the end: not of a name
ARCHIVE_SUFFIXES = ("tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst", "tzst")
_COMMAND_SECONDS = 60
MALFORMED = "malformed"  # in place of a SHA-256: that of no file
_CHECKSUM_BYTES = 4096  # of a checksum file that are read, whatever else it is


@dataclass(frozen=True)
class FileState:
    """A remote file as it was seen: bytes, time of change (s since 1970), and its checksum file's SHA-256."""

    size: int
    changed: int
    sha256: str = ""

    def __str__(self) -> str:
        return f"{self.size} {self.changed}"


@dataclass(frozen=True)
class RemoteHost:
    """One SSH host. Its key must be in `known_hosts`; nothing is ever asked on a terminal.

    A host that cannot be reached, or refuses us, is an `Outage`; a file that cannot be had is `Permanent`.
    """

    host: str
    port: int
    user: str
    key_file: str
    known_hosts: str

    def refusal(self) -> str | None:
        """Why the host refuses us (user, key, host key), in one line; None where it does not."""
        try:
            self._ssh("true")
        except Outage as error:
            if not _REFUSED.search(str(error)):
                raise
            return f"EC2_HOST: {error}: see EC2_USER, EC2_KEY_FILE and EC2_KNOWN_HOSTS"
        return None

    def stat(self, path: str) -> FileState:
        """What the remote file is like now, with the SHA-256 from `{path}.sha256` where there is one: `MALFORMED`
        where that does not begin with one, as while a sender is writing it."""
        read = f"head -c {_CHECKSUM_BYTES} -- {shlex.quote(f'{path}.sha256')} 2>/dev/null"
        answer = self._ssh(f"LC_ALL=C stat -L -c '%s %Y %F' -- {shlex.quote(path)} && ({read} || true)")
        first, _, rest = answer.partition("\n")
        size, changed, kind = first.split(" ", 2)
        if not kind.startswith("regular"):
            raise Permanent(f"{path} on {self.host} is no file but a {kind}")
        found = re.match(r"\s*\\?([0-9a-fA-F]{64})\b", rest)
        sha256 = found[1].lower() if found else MALFORMED if rest.strip() else ""
        return FileState(int(size), int(changed), sha256)

    def size_and_time(self, path: str) -> FileState | None:
        """What the remote file is like now, without its checksum; None where there is none."""
        answer = self._ssh(f"LC_ALL=C stat -L -c '%s %Y' -- {shlex.quote(path)} 2>/dev/null || true").split()
        return FileState(int(answer[0]), int(answer[1])) if answer else None

    def look(self, folder: str) -> dict[str, FileState]:
        """The archives of a remote folder, by their names: path -> state."""
        names = " -o ".join(f"-name '[!.]*.{suffix}'" for suffix in ARCHIVE_SUFFIXES)
        answer = self._ssh(
            f"find -L {shlex.quote(folder)} -maxdepth 1 -type f \\( {names} \\) -printf '%s %T@ %p\\0'",
            partly=True,  # one entry that cannot be read must not hide the others
        )
        files = {}
        for line in filter(None, answer.split("\0")):
            size, changed, path = line.split(" ", 2)
            files[path] = FileState(int(size), int(changed.partition(".")[0]))
        return files

    def tidy(self, path: str, state: FileState, action: str) -> str:
        """Delete a file, or rename it to `{path}.done`, with its checksum file; gives what became of it.

        That is "done", "gone" where it is not there, or "changed" where it is not the file in `state`: then
        nothing is touched. What has the new name already is kept beside it (mv's numbered backups).
        """
        source, target = shlex.quote(path), shlex.quote(f"{path}.done")
        checksum, checked = shlex.quote(f"{path}.sha256"), shlex.quote(f"{path}.done.sha256")
        move = "mv --backup=numbered -T --"
        act, follow = {
            "delete": (f"rm -f -- {source}", f"rm -f -- {checksum}"),
            "rename": (f"{move} {source} {target}", f"{move} {checksum} {checked}"),
        }[action]
        if state.sha256:  # it may be that of the next file by now
            act += f" && if grep -qi {state.sha256} -- {checksum} 2>/dev/null; then {follow}; fi"
        return self._ssh(
            f"if ! [ -e {source} ]; then echo gone; "
            f"elif [ \"$(LC_ALL=C stat -L -c '%s %Y' -- {source})\" != '{state}' ]; then echo changed; "
            f"else {{ {act} && echo done; }} || {{ ! [ -e {source} ] && echo gone; }}; fi"
        ).strip()

    def options(self) -> list[str]:
        """What ssh and scp are to keep to."""
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": f'"{self.known_hosts}"',
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "3",
        }
        options = [part for pair in settings.items() for part in ("-o", "=".join(pair))]
        return ["-F", "none", "-i", self.key_file, *options]

    def ssh(self, command: str) -> list[str]:
        """What runs a command on the host."""
        return ["ssh", "-p", str(self.port), *self.options(), "--", f"{self.user}@{self.host}", command]

    def _ssh(self, command: str, partly: bool = False) -> str:
        """What the remote command prints; with `partly`, what it printed before it failed is good enough."""
        try:
            done = subprocess.run(
                self.ssh(command),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Outage("EC2", f"{self.host} did not answer within {_COMMAND_SECONDS} s") from None
        messages = done.stderr.decode(errors="replace").strip()
        if partly and done.stdout and done.returncode == 1:
            log.warning("%s does not show all of its files: %s", self.host, messages)
        else:
            self.check(done.returncode, messages, self.host)
        return done.stdout.decode("utf-8", "surrogateescape")

    def check(self, status: int, messages: str, subject: str) -> None:
        """Raise what an exit status other than 0 of ssh or scp means."""
        if status == 0:
            return
        reason = messages.rpartition("\n")[2] or f"exit status {status}"
        if _OUR_DISK.search(messages):
            number = next((number for number in DISK_ERRNOS if os.strerror(number) in messages), errno.EIO)
            raise OSError(number, reason)
        if status == _CONNECTION_FAILED or status < 0 or not messages or _CONNECTION_LOST.search(messages):
            raise Outage("EC2", f"ssh to {self.user}@{self.host}: {reason}")
        if _HOST_IN_NEED.search(messages):
            raise Outage("EC2", f"{self.user}@{self.host} is in need: {reason}")
        raise Permanent(f"{subject}: the EC2 host says: {reason}")
