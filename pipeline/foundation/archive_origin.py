"""Where an archive came from, as S3 keeps it beside the archive and PostgreSQL in the row of its batch.

A path is what others named a file: it may have any bytes. Metadata of S3 is ASCII of 2 kB in all, and OpenStack
Swift takes 256 bytes in a value, so there it is percent-encoded and in pieces.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

MOST_VALUE = 250  # characters of a value of metadata
MOST_PATH = 1500  # characters of a path, encoded; a file's name has 255 bytes at most
_CUT = b".../"  # stands for the first folders of a longer path
_PATH, _HOST = "origin-path", "origin-host"


@dataclass(frozen=True)
class Origin:
    """Which archive it was: its path on the EC2 host, or on the machine that uploaded it, and that host's name.
    Size (bytes) and SHA-256 are of the archive in S3, where a compressed one from the EC2 host lies as the plain
    tar. None where it is not known."""

    path: str | None = None
    host: str | None = None
    size: int | None = None
    sha256: str | None = None

    def __str__(self) -> str:
        """The archive in words: /recordings/monday.tar of ec2.example.net; nothing where neither is known."""
        return " of ".join(filter(None, (self.path, self.host)))


UNKNOWN = Origin()


def name_of(path: str | None) -> str:
    """The file name of an archive's path; nothing where it is not known."""
    return (path or "").rpartition("/")[2]


def as_kept(path: str) -> str:
    """The path as it is stored and shown: bytes that are not UTF-8 as \\xNN, the first folders of a long one as
    `...`."""
    return _text(_bounded(path.encode("utf-8", "surrogateescape")))


def to_metadata(origin: Origin) -> dict[str, str]:
    """The path and the host as metadata of an object in S3."""
    path = quote(_bounded((origin.path or "").encode("utf-8", "surrogateescape")))
    starts = range(0, len(path), MOST_VALUE)
    found = {f"{_PATH}-{number}": path[start : start + MOST_VALUE] for number, start in enumerate(starts, 1)}
    host = quote((origin.host or "").encode("utf-8", "surrogateescape"))[:MOST_VALUE]
    return {_HOST: host, **found} if host else found


def from_metadata(metadata: Mapping[str, str], size: int | None) -> Origin:
    """The origin that the metadata of an object of so many bytes tells, whoever wrote it."""
    pieces: list[str] = []
    while piece := metadata.get(f"{_PATH}-{len(pieces) + 1}"):
        pieces.append(piece)
    path, host = (_bounded(unquote_to_bytes(text)) for text in ("".join(pieces), metadata.get(_HOST, "")))
    sha256 = metadata.get("sha256", "")
    known = re.fullmatch("[0-9a-f]{64}", sha256) is not None
    return Origin(_text(path) or None, _text(host) or None, size, sha256 if known else None)


def _bounded(path: bytes) -> bytes:
    """The path without its first folders where it is long, or the end of a name that is."""
    if len(quote(path)) <= MOST_PATH:
        return path
    parts = path.split(b"/")[-MOST_PATH:]
    while len(parts) > 1 and len(quote(b"/".join(parts))) > MOST_PATH - len(_CUT):
        del parts[0]
    rest = b"/".join(parts)
    return _CUT + (rest if len(parts) > 1 else rest[-MOST_PATH // 4 :])


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace").replace("\0", "\\x00")
