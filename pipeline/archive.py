"""What is in a tar archive, read as if an enemy had made it.

Nothing is ever extracted by name: `index` gives the place of each audio file's bytes in the archive, and a
file name of our own choosing; `copy` takes the bytes out. tarfile ends silently where an archive is cut
or a header is damaged, so the end of the archive is checked here.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.errors import Permanent

AUDIO_SUFFIXES = frozenset(
    (".mp3", ".wav", ".flac", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".amr", ".wma", ".aif", ".aiff", ".webm")
)
MOST_HEADER_BYTES = 2**20  # of one PAX or GNU header: names are far shorter, and tarfile reads it into memory
MOST_NAME_BYTES = 1024
_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 2**20


class BadArchive(Permanent):
    """The archive cannot be read whole: no file of it is trusted."""


@dataclass(frozen=True)
class Member:
    """One audio file of an archive.

    `original_filename` is the member's name (bytes that are not UTF-8 as \\xNN), unique in the archive;
    `safe_stem` is a unique name for files made from it; `offset` and `size` are where its bytes are.
    """

    original_filename: str
    safe_stem: str
    offset: int
    size: int


@dataclass(frozen=True)
class Index:
    """The audio files of an archive in their order, and how many other members (folders apart) were ignored."""

    members: list[Member]
    ignored: int


class _HeaderReader:
    """The archive as tarfile sees it: nobody asks it for data, so a large read is a hostile header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MOST_HEADER_BYTES:
            raise BadArchive(f"a header of {size} bytes: {MOST_HEADER_BYTES} are allowed")
        return self._file.read(size)


def index(path: Path, most_members: int, most_file_bytes: int) -> Index:
    """List the audio files of a plain tar. `BadArchive` where it is cut, damaged or over the limits."""
    members: list[Member] = []
    names, stems = _Unique(), _Unique(fold_case=True)
    ignored = 0
    size = path.stat().st_size
    with path.open("rb") as file:
        for info in _headers(file, size, most_members):
            name = readable(info.name)
            if not _is_audio(info, name):
                ignored += not info.isdir()
                continue
            if info.size > most_file_bytes:
                raise BadArchive(f"{name} has {info.size} bytes: {most_file_bytes} are allowed")
            filename = names.of(name, name)
            stem = stems.of(_safe_stem(filename), filename)
            members.append(Member(filename, stem, info.offset_data, info.size))
    return Index(members, ignored)


def copy(archive: BinaryIO, member: Member, target: Path) -> None:
    """Write a member's bytes to `target`, which must not exist."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as file:
        done = 0
        while done < member.size:
            chunk = os.pread(archive.fileno(), min(_CHUNK, member.size - done), member.offset + done)
            if not chunk:
                raise BadArchive(f"the archive ends inside {member.original_filename}")
            file.write(chunk)
            done += len(chunk)


def readable(name: str) -> str:
    """A member's name as PostgreSQL and JSON can hold it.

    A leading `./` is dropped, bytes that are not UTF-8 become \\xNN, and the end of a name beyond
    `MOST_NAME_BYTES` becomes its SHA-256's first digits, so that an index of PostgreSQL (2,704 bytes) takes it.
    """
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    name = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")
    if len(name.encode()) <= MOST_NAME_BYTES:
        return name
    kept = name.encode()[: MOST_NAME_BYTES - 20].decode("utf-8", "ignore")
    return f"{kept}~{hashlib.sha256(name.encode()).hexdigest()[:12]}{PurePosixPath(name).suffix[:6]}"


def is_storable(name: str) -> bool:
    """Whether a name can be one of `index`: PostgreSQL and its index take it."""
    try:
        return "\0" not in name and len(name.encode()) <= 2 * MOST_NAME_BYTES
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _headers(file: BinaryIO, size: int, most_members: int) -> Iterator[tarfile.TarInfo]:
    """Every header of the archive, and after the last one a look at what follows it."""
    try:
        with tarfile.open(fileobj=_HeaderReader(file), mode="r:", errors="surrogateescape") as tar:  # type: ignore[call-overload]
            count = 0
            while (info := tar.next()) is not None:
                tar.members = []  # tarfile keeps them all otherwise
                count += 1
                if count > most_members:
                    raise BadArchive(f"more than {most_members} members")
                if info.size < 0:
                    raise BadArchive(f"{readable(info.name)} has a negative size")
                if info.isreg() and info.offset_data + info.size > size:
                    raise BadArchive(f"the archive ends inside {readable(info.name)}")
                yield info
            _check_end(file, tar.offset, size)
    except RecursionError:
        raise BadArchive("extended headers follow one another without end") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise BadArchive(f"not a tar archive that can be read: {error}") from error


def _check_end(file: BinaryIO, offset: int, size: int) -> None:
    """An archive ends in two blocks of zeros, and only zeros follow; all else is a cut or a damaged header."""
    if size - offset < 2 * _BLOCK:
        raise BadArchive(f"the archive is cut: its end is missing after byte {offset}")
    file.seek(offset)
    while chunk := file.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            raise BadArchive(f"the archive is damaged near byte {offset}: no header and no end there")
        offset += len(chunk)


def _is_audio(info: tarfile.TarInfo, name: str) -> bool:
    """A plain file with an audio suffix; a Mac's `._` companions only look like one."""
    path = PurePosixPath(name.lower())
    if path.suffix not in AUDIO_SUFFIXES or path.name.startswith("._"):
        return False
    if info.isreg() and info.issparse():
        raise BadArchive(f"{name} is a sparse file, which may unpack to any size")
    return info.isreg()


def _safe_stem(filename: str) -> str:
    """`file001` for `file001.mp3`; any other than a flat, plain name is cleaned and told apart by its hash."""
    stem, _, _ = filename.rpartition(".")
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9 ._()+,@=-]{0,150}", stem)
    if plain and not stem.startswith("archive.tar"):  # the archive's own name, beside which the files lie
        return stem
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[-80:].strip("_-")
    return f"{cleaned or 'file'}-{hashlib.sha256(filename.encode()).hexdigest()[:12]}"


class _Unique:
    """Hands out names, a second one of the same kind with a mark; the same for the same order of calls."""

    def __init__(self, fold_case: bool = False) -> None:
        self._fold_case = fold_case
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}  # of a name asked for: the last mark, so that many of it stay cheap

    def of(self, name: str, origin: str) -> str:
        candidate, asked = name, self._key(name)
        while self._key(candidate) in self._taken:
            count = self._counts[asked] = self._counts.get(asked, 1) + 1
            mark = hashlib.sha256(origin.encode()).hexdigest()[:12] if self._fold_case else ""
            candidate = f"{name}-{mark}-{count}" if mark else f"{name}#{count}"
        self._taken.add(self._key(candidate))
        return candidate

    def _key(self, name: str) -> str:
        return name.casefold() if self._fold_case else name
