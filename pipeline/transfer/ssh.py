"""The host where recordings arrive, and what is asked of it with OpenSSH's own ssh.

Whose fault a failure is shows in exit statuses and in the numbers that SFTP has for the path. Messages are for
people: they may hold banners, names of files and any language.
"""

import logging
import posixpath
import re
import shlex
import subprocess
import threading
import time
from dataclasses import dataclass, field

from pipeline.foundation.errors import Outage, Permanent, Stop, Stopping
from pipeline.transfer import framing, sftp

log = logging.getLogger(__name__)

CONNECTION_FAILED = 255  # ssh(1): what the remote command gives is any other status
COMMAND_FAILED = 1  # what stat, find, mv, rm and tail give for a path; a shell without room for them gives another
_NO_SUCH_PROGRAM = 127
ARCHIVE_SUFFIXES = ("tar", "tar.gz", "tgz", "tar.bz2", "tbz2", "tar.xz", "txz", "tar.zst", "tzst")
_COMMAND_SECONDS = 60
_POLL_SECONDS = 0.2
_SFTP_SECONDS = 20
MALFORMED = "malformed"  # in place of a SHA-256: that of no file
_CHECKSUM_BYTES = 4096  # of a checksum file that are read, whatever else it is
NEVER = threading.Event()


@dataclass(frozen=True)
class FileState:
    """A remote file as it was seen: bytes, time of change (s since 1970), and its checksum file's SHA-256; and
    where the volume that it lies on is mounted, with its path there, in which no folder is a link."""

    size: int
    changed: int
    sha256: str = ""
    volume: str = field(default="", compare=False)
    real_path: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.size} {self.changed}"


class Absent(Permanent):
    """There is no such path."""


class Unclear(Exception):
    """A command failed, and neither the connection, the host nor the path is known to be why: it is an attempt."""


class Unfit(Outage):
    """The host lets us in and does not do what is asked of it: at a worker's start, waiting changes nothing."""


class Unconnected(Outage):
    """There is no connection to the host, or it has broken; `messages` are ssh's and the host's."""

    def __init__(self, message: str, messages: str) -> None:
        super().__init__("EC2", message)
        self.messages = messages


@dataclass(frozen=True)
class RemoteHost:
    """One SSH host. Its key must be in `known_hosts`; nothing is ever asked on a terminal.

    A host that cannot be reached, or refuses us, is an `Outage`; a file that cannot be had is `Permanent`. What
    takes long ends with `Stopping` when `stop` is set.
    """

    host: str
    port: int
    user: str
    key_file: str
    known_hosts: str
    stop: Stop = NEVER

    @property
    def name(self) -> str:
        """The user and the host, as ssh takes them."""
        return f"{self.user}@{self.host}"

    def stat(self, path: str) -> FileState:
        """What the remote file is like now, with the SHA-256 from `{path}.sha256` where there is one: `MALFORMED`
        where that does not begin with one, as while a sender is writing it."""
        read = f"head -c {_CHECKSUM_BYTES} -- {shlex.quote(f'{path}.sha256')} 2>/dev/null"
        details = f"LC_ALL=C stat -L --printf '%s %Y %F\\0%m\\0' -- {shlex.quote(path)}"
        resolved = f"readlink -nm -- {shlex.quote(path)} && printf '\\0'"
        command = f"{details} && {resolved} && ({read} || true)"
        try:
            answer = self._ask(command, path)
        except Unclear:  # its volume may have been mounted before the look that judges a failure
            answer = self._ask(command, path)
        first, volume, real_path, rest = answer.split("\0", 3)
        size, changed, kind = first.split(" ", 2)
        if not kind.startswith("regular"):
            raise Permanent(f"{path} on {self.host} is not a file but a {kind}")
        found = re.match(r"\s*\\?([0-9a-fA-F]{64})\b", rest)
        sha256 = found[1].lower() if found else MALFORMED if rest.strip() else ""
        return FileState(int(size), int(changed), sha256, volume, real_path)

    def size_and_time(self, path: str) -> FileState | None:
        """What the remote file is like now, without its checksum; None where there is none."""
        command = f"LC_ALL=C stat -L -c '%s %Y' -- {shlex.quote(path)} 2>/dev/null || true"
        answer = self._ask(command, path).split()
        return FileState(int(answer[0]), int(answer[1])) if answer else None

    def place(self, path: str) -> tuple[str, str, str]:
        """How much of a path there is (the whole, or the nearest folder above it); the path that it leads to
        through links, also where nothing is there; and where the volume is mounted that holds what there is of
        this one. A path that is on the volume is found, also where that is mounted just now."""
        whole = shlex.quote(path)
        above = 'until [ -e "$p" ] || [ "$p" = / ]; do p=$(dirname -- "$p"); done'
        # "" of links in a circle; the dot keeps line ends, which the shell would take away
        resolved = f'r=$(readlink -nm -- {whole}; printf .); r=${{r%.}}; p=$r; [ -n "$p" ] || p={whole}'
        volume = "stat -L --printf '%m\\0' -- \"$p\""
        details = 'printf \'%s\\0%s\' "$p" "$r"'
        answer = self._ask(f"{resolved}; {above}; {volume}; p={whole}; {above}; {details}", path)
        volume, there, real_path = answer.split("\0")
        return there, real_path or path, volume

    def look(self, folder: str) -> dict[str, FileState]:
        """The archives of a remote folder, by their names: path -> state."""
        names = " -o ".join(f"-name '[!.]*.{suffix}'" for suffix in ARCHIVE_SUFFIXES)
        command = f"find -L {shlex.quote(folder)} -maxdepth 1 -type f \\( {names} \\) -printf '%s %T@ %p\\0'"
        status, answer, messages = self._run(command)
        if status == COMMAND_FAILED and answer:  # one entry that cannot be read must not hide the others
            log.warning("%s does not show all of its files: %s", self.host, framing.words(messages))
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
            return self._ask(command, path).strip()
        except Unclear as error:  # the file is there and may be read, but not that
            raise Permanent(str(error)) from None

    def login_refusal(self) -> str | None:
        """Why the host refuses our login (user, key, host key, ciphers), in one line; None where it does not.

        For a start alone: ssh tells it by words, and at work the same failure is an outage whatever it says. No
        banner is among them at `LogLevel` ERROR.
        """
        own = (f"{self.name}: Permission denied (", "Host key verification failed.", "Unable to negotiate with ")
        try:
            self._run("true")
        except Unconnected as lost:
            if any(line.startswith(own) for line in lost.messages.splitlines()):
                return f"EC2_HOST: {lost}: see EC2_USER, EC2_KEY_FILE and EC2_KNOWN_HOSTS"
            raise
        return None

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

    def shell(self) -> list[str]:
        """What runs on the host the script that its standard input is."""
        return ["ssh", "-T", *self._where(), framing.SHELL]

    def _where(self) -> list[str]:
        return ["-p", str(self.port), *self.options(), "--", self.name]

    def _ask(self, command: str, path: str) -> str:
        """What the remote command, which is about a file, prints."""
        status, answer, messages = self._run(command)
        self.check(status, messages, path)
        return answer

    def _run(self, command: str) -> tuple[int, str, str]:
        """A remote command's exit status, what it prints, and its messages, with ssh's and those of the login."""
        frame = framing.Frame()
        with framing.as_input(frame.around(command)) as script:
            process = subprocess.Popen(self.shell(), stdin=script, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            output, said = self._communicate(process)
        messages = said.decode(errors="replace").strip()
        status, answer = frame.read(output)
        if status is not None and answer is not None:
            return status, answer.decode("utf-8", "surrogateescape"), messages
        if process.returncode == CONNECTION_FAILED or process.returncode < 0:
            raise self._unconnected(messages)
        if answer is not None:
            raise Outage(
                "EC2", f"{self.name} cannot work now: {framing.words(messages) or 'the shell ended early'}"
            )
        heard = framing.words(output.decode(errors="replace"), messages) or f"exit status {process.returncode}"
        raise Unfit("EC2", f"{self.name} does not run commands: {heard}")

    def _communicate(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """The output and the messages of a process, which has ended then."""
        deadline = time.monotonic() + _COMMAND_SECONDS
        with process:
            try:
                while True:
                    try:
                        return process.communicate(timeout=_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        if self.stop.is_set():
                            raise Stopping from None
                        if time.monotonic() > deadline:
                            message = f"{self.host} did not answer within {_COMMAND_SECONDS} s"
                            raise Outage("EC2", message) from None
            finally:
                process.kill()

    def check(self, status: int, messages: str, path: str, is_folder: bool = False) -> None:
        """Raise what an exit status other than 0 of ssh or scp means, for what was asked about a path.

        `Outage` where the connection, or all of the host, has failed; `Permanent` where the path is not there, not
        for us, or nothing of its kind; else `Unclear`.
        """
        if status == 0:
            return
        if status == CONNECTION_FAILED or status < 0:
            raise self._unconnected(messages)
        reason = framing.words(messages) or f"exit status {status}"
        found = self._find(path, reason)
        if found.status == sftp.NO_SUCH_FILE:
            raise Absent(f"{path}: the EC2 host says: {reason}")
        if found.is_refused:
            raise Permanent(f"{path}: the EC2 host says: {reason}")
        if found.status == sftp.OK and not (found.is_folder if is_folder else found.is_file):
            raise Permanent(
                f"{path} on {self.host} is not a {'folder' if is_folder else 'regular file'}: {reason}"
            )
        is_well = found.status == sftp.OK or self._find(posixpath.dirname(path) or ".", reason).status == sftp.OK
        if status != COMMAND_FAILED or not is_well:
            kind = Unfit if status == _NO_SUCH_PROGRAM else Outage
            raise kind("EC2", f"{self.name} cannot work now: {reason}")
        raise Unclear(f"{path}: the EC2 host says: {reason}")

    def _unconnected(self, messages: str) -> Unconnected:
        return Unconnected(f"ssh to {self.name}: {framing.words(messages) or 'the connection failed'}", messages)

    def _find(self, path: str, reason: str) -> sftp.Found:
        """What SFTP finds; `reason` is why it is asked."""
        try:
            return sftp.find(["ssh", "-s", *self._where(), "sftp"], path, _SFTP_SECONDS)
        except sftp.Lost as error:
            raise Outage("EC2", f"ssh to {self.name}: {reason}; {error}") from None
