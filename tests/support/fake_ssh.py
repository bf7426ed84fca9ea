"""Programs named `ssh` and `scp` that end as they are configured to, for what no real host can be made to do."""

import struct
from pathlib import Path

import pytest

from pipeline.transfer import sftp

FILE, FOLDER = 0o100644, 0o040755
FAILURE = 4  # SSH_FX_FAILURE: all that SFTP has for ESTALE, ENOTCONN, EIO, EMFILE, ENOMEM

_SSH = """#!/bin/sh
cd '{folder}'
case " $* " in *" -s "*)
    for next in 1 2 3 4; do
        if [ -e answers.$next ]; then mv answers.$next now; cat now; exec cat >/dev/null; fi
    done
    cat messages >&2
    exit 255 ;;
esac
cat messages >&2
mark=$(sed -n "s/^printf '<%s>' //p")
[ {status} = 255 ] || printf '<%s>' "$mark"
cat output
[ {status} = 255 ] || printf '<%s {status}>' "$mark"
exit {status}
"""
_SCP = """#!/bin/sh
cat '{folder}/messages' >&2
exit {status}
"""


class FakeSsh:
    """ssh and scp end with `status` after `messages`; `answers` is what SFTP has: a (status, mode) for each path
    that is asked for, four at most. Without them the connection fails."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def will(self, status: int, messages: bytes = b"", *answers: tuple[int, int], output: bytes = b"") -> None:
        """Say how they end from now on."""
        (self.folder / "messages").write_bytes(messages)
        (self.folder / "output").write_bytes(output)
        for name, script in (("ssh", _SSH), ("scp", _SCP)):
            (self.folder / name).write_text(script.format(folder=self.folder, status=status))
            (self.folder / name).chmod(0o755)
        for number in (1, 2, 3, 4):
            (self.folder / f"answers.{number}").unlink(missing_ok=True)
        for number, (answer, mode) in enumerate(answers, 1):
            (self.folder / f"answers.{number}").write_bytes(_spoken(answer, mode))


def _spoken(status: int, mode: int) -> bytes:
    """A server's side of `sftp.find`."""
    version = _packet(2, struct.pack(">I", 3))
    if not mode:
        return version + _packet(101, struct.pack(">II", 1, status))
    attributes = _packet(105, struct.pack(">III", 1, 4, mode))
    if status == sftp.OK:
        return version + attributes + _packet(102, struct.pack(">II", 2, 1) + b"h")
    return version + attributes + _packet(101, struct.pack(">II", 2, status))


def _packet(kind: int, body: bytes) -> bytes:
    return struct.pack(">IB", len(body) + 1, kind) + body
