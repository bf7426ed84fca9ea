"""The host where recordings arrive, and what is asked of it with OpenSSH's own ssh.

Whose fault a failure is shows in exit statuses and in the numbers that SFTP has for the path. Messages are for
people: they may hold banners, names of files and any language.
"""

import logging
import posixpath
import re
import shlex
import subprocess
from dataclasses import dataclass

from pipeline.foundation.errors import Outage, Permanent
from pipeline.transfer import sftp

log = logging.getLogger(__name__)

_CONNECTION_FAILED = 255  # ssh(1): what the remote command gives is any other status
COMMAND_FAILED = 1  # what stat, find, mv, rm and tail give for a path; a shell without room for them gives another
ARCHIVE_SUFFIXES = ("tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst", "tzst")
_COMMAND_SECONDS = 60
_SFTP_SECONDS = 20
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


class Unclear(Exception):
    """A command failed, and neither the connection, the host nor the path is known to be why: it is an attempt."""


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
        """Why the host refuses us (user, key, host key), in one line; None where it does not.

        For a start alone: ssh tells it by words, and at work the same failure is an outage whatever it says. No
        banner is among them at `LogLevel` ERROR.
        """
        status, _, messages = self._run("true")
        at = f"{self.user}@{self.host}"
        own = (f"{at}: Permission denied (", "Host key verification failed.")
        reason = next((line for line in messages.splitlines() if line.startswith(own)), None)
        if status == _CONNECTION_FAILED and reason is not None:
            return f"EC2_HOST: ssh to {at}: {reason}: see EC2_USER, EC2_KEY_FILE and EC2_KNOWN_HOSTS"
        self.check(status, messages, ".", is_folder=True)
        return None

    def stat(self, path: str) -> FileState:
        """What the remote file is like now, with the SHA-256 from `{path}.sha256` where there is one: `MALFORMED`
        where that does not begin with one, as while a sender is writing it."""
        read = f"head -c {_CHECKSUM_BYTES} -- {shlex.quote(f'{path}.sha256')} 2>/dev/null"
        answer = self._ssh(f"LC_ALL=C stat -L -c '%s %Y %F' -- {shlex.quote(path)} && ({read} || true)", path)
        first, _, rest = answer.partition("\n")
        size, changed, kind = first.split(" ", 2)
        if not kind.startswith("regular"):
            raise Permanent(f"{path} on {self.host} is no file but a {kind}")
        found = re.match(r"\s*\\?([0-9a-fA-F]{64})\b", rest)
        sha256 = found[1].lower() if found else MALFORMED if rest.strip() else ""
        return FileState(int(size), int(changed), sha256)

    def size_and_time(self, path: str) -> FileState | None:
        """What the remote file is like now, without its checksum; None where there is none."""
        command = f"LC_ALL=C stat -L -c '%s %Y' -- {shlex.quote(path)} 2>/dev/null || true"
        answer = self._ssh(command, path).split()
        return FileState(int(answer[0]), int(answer[1])) if answer else None

    def look(self, folder: str) -> dict[str, FileState]:
        """The archives of a remote folder, by their names: path -> state."""
        names = " -o ".join(f"-name '[!.]*.{suffix}'" for suffix in ARCHIVE_SUFFIXES)
        command = f"find -L {shlex.quote(folder)} -maxdepth 1 -type f \\( {names} \\) -printf '%s %T@ %p\\0'"
        status, answer, messages = self._run(command)
        if status == COMMAND_FAILED and answer:  # one entry that cannot be read must not hide the others
            log.warning("%s does not show all of its files: %s", self.host, messages)
        else:
            self.check(status, messages, folder, is_folder=True)
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
        command = (
            f"if ! [ -e {source} ]; then echo gone; "
            f"elif [ \"$(LC_ALL=C stat -L -c '%s %Y' -- {source})\" != '{state}' ]; then echo changed; "
            f"else {{ {act} && echo done; }} || {{ ! [ -e {source} ] && echo gone; }}; fi"
        )
        try:
            return self._ssh(command, path).strip()
        except Unclear as error:  # the file is there and may be read, but not that
            raise Permanent(str(error)) from None

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
            "LogLevel": "ERROR",  # no banner among the messages
        }
        options = [part for pair in settings.items() for part in ("-o", "=".join(pair))]
        return ["-F", "none", "-i", self.key_file, *options]

    def ssh(self, command: str) -> list[str]:
        """What runs a command on the host."""
        return ["ssh", *self._where(), command]

    def _where(self) -> list[str]:
        return ["-p", str(self.port), *self.options(), "--", f"{self.user}@{self.host}"]

    def _ssh(self, command: str, path: str) -> str:
        """What the remote command, which is about a file, prints."""
        status, answer, messages = self._run(command)
        self.check(status, messages, path)
        return answer

    def _run(self, command: str) -> tuple[int, str, str]:
        """A remote command's exit status, what it prints, and its messages or ssh's."""
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
        answer = done.stdout.decode("utf-8", "surrogateescape")
        return done.returncode, answer, done.stderr.decode(errors="replace").strip()

    def check(self, status: int, messages: str, path: str, is_folder: bool = False) -> None:
        """Raise what an exit status other than 0 of ssh or scp means, for what was asked about a path.

        `Outage` where the connection, or all of the host, has failed; `Permanent` where the path is not there, not
        for us, or nothing of its kind; else `Unclear`.
        """
        if status == 0:
            return
        reason = messages.rpartition("\n")[2] or f"exit status {status}"
        if status == _CONNECTION_FAILED or status < 0:
            raise Outage("EC2", f"ssh to {self.user}@{self.host}: {reason}")
        found = self._find(path, reason)
        if found.is_refused:
            raise Permanent(f"{path}: the EC2 host says: {reason}")
        if found.status == sftp.OK and not (found.is_folder if is_folder else found.is_file):
            raise Permanent(f"{path} on {self.host} is not a {'folder' if is_folder else 'regular file'}")
        is_well = found.status == sftp.OK or self._find(posixpath.dirname(path) or ".", reason).status == sftp.OK
        if status != COMMAND_FAILED or not is_well:
            raise Outage("EC2", f"{self.user}@{self.host} is in need: {reason}")
        raise Unclear(f"{path}: the EC2 host says: {reason}")

    def _find(self, path: str, reason: str) -> sftp.Found:
        """What SFTP finds; `reason` is why it is asked."""
        try:
            return sftp.find(["ssh", "-s", *self._where(), "sftp"], path, _SFTP_SECONDS)
        except sftp.Lost as error:
            raise Outage("EC2", f"ssh to {self.user}@{self.host}: {reason}; {error}") from None
