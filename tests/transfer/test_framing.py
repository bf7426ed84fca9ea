"""pipeline/transfer/framing.py: login shells that print, and what is said when a command fails."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.foundation.errors import Outage, Permanent
from pipeline.transfer.framing import Frame, words
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import FileState, RemoteHost
from tests.support.servers import Sshd, sshd_path

NEVER = threading.Event()
NOISE = """printf 'Welcome\\n<0> 5 0 directory\\0/x\\0' ; echo "You have mail"; echo "ttyname failed" >&2
trap 'echo logged out' EXIT
"""


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    if sshd_path() is None:
        pytest.skip("OpenSSH's sshd is not installed (Debian: apt install openssh-server)")
    with Sshd(tmp_path / "ssh") as server:
        yield server


@pytest.fixture
def host(sshd: Sshd) -> RemoteHost:
    return RemoteHost(sshd.host, sshd.port, sshd.user, str(sshd.key_file), str(sshd.known_hosts))


def test_what_a_login_shell_prints_is_no_part_of_an_answer(sshd: Sshd, host: RemoteHost, tmp_path: Path) -> None:
    (sshd.private / ".bashrc").write_text(NOISE)
    there = tmp_path / "there"
    there.mkdir()
    data, path = os.urandom(3 * 2**20), str(there / "a.tar")
    digest = hashlib.sha256(data).hexdigest()
    Path(path).write_bytes(data)
    Path(f"{path}.sha256").write_text(digest)
    state = host.stat(path)
    assert state == FileState(len(data), int(Path(path).stat().st_mtime), digest)
    assert str(host.size_and_time(path)) == str(state)
    assert host.size_and_time(f"{path}.gone") is None
    assert host.look(str(there)) == {path: FileState(state.size, state.changed)}
    assert host.place(f"{path}.gone/x")[0] == str(there)
    with pytest.raises(Permanent, match="No such file"):
        host.stat(f"{path}.gone")
    copy = Copy(host, path, state, tmp_path / "a.tar")
    copy.part.write_bytes(data[: 2**20])
    copy._broken_off = True  # the rest comes by another command
    copy.run(NEVER)
    assert copy.target.read_bytes() == data
    assert host.tidy(path, state, "rename") == "done"
    assert sorted(os.listdir(there)) == ["a.tar.done", "a.tar.done.sha256"]


def test_all_that_is_said_is_kept(sshd: Sshd, host: RemoteHost) -> None:
    (sshd.private / ".bashrc").write_text("for line in first second third; do echo $line >&2; done\nexit 7\n")
    with pytest.raises(Outage, match=r"does not run commands: first; second; third$"):
        host.stat("/etc/hostname")


def test_what_is_read_piece_by_piece_begins_after_the_mark() -> None:
    for size in (1, 7, 33, 100):
        frame = Frame()
        output = b"Welcome\n<" + frame._begin + b"data" + frame._begin
        pieces = [output[at : at + size] for at in range(0, len(output), size)]
        assert b"".join(map(frame.rest, pieces)) == b"data" + frame._begin


def test_words_are_one_line_of_limited_length() -> None:
    assert words("a\r\n\n b \n", "", "c\u2028d") == "a; b; c; d"
    assert len(words("x" * 10_000)) < 2100
