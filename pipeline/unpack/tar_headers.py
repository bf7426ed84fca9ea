"""The headers of a plain tar, read so that whoever wrote them decides neither time nor memory.

Every form is read: v7, ustar, GNU and PAX. tarfile is not used: it ends silently where an archive is cut or a
header is damaged, keeps what global PAX headers say and copies all of it for every member, and takes hours for
some headers of 1 MiB (CVE-2024-6232). Here a header that is not sound is `BadArchive`, and one is held at a time.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.foundation.errors import Permanent

BLOCK = 512
MOST_HEADER_BYTES = 2**20  # of one PAX or GNU header: names are far shorter
_MOST_HEADERS = 16  # in front of one member: archivers write one or two
_CHUNK = 2**20

FILE, SPARSE, FOLDER, DEVICE, FIFO, UNKNOWN = "file", "sparse", "folder", "device", "FIFO", "unknown"
LINK, HARD_LINK = "link", "hard link"
_KINDS = {
    b"0": FILE, b"\0": FILE, b"7": FILE, b"S": SPARSE, b"5": FOLDER,
    b"1": HARD_LINK, b"2": LINK, b"3": DEVICE, b"4": DEVICE, b"6": FIFO,
}  # fmt: skip
_WITHOUT_DATA = {FOLDER, LINK, HARD_LINK, DEVICE, FIFO}  # whatever size they claim
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL, _OTHER_VOLUME = b"L", b"K", (b"x", b"X"), b"g", b"M"
_OCTAL = re.compile(rb" *([0-7]+)(?:[ \0].*)?", re.DOTALL)
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=\n]+)=")
_OF_ONE_MEMBER = re.compile(rb"path|size|GNU\.sparse\..*")  # PAX keywords that no global header may set


class BadArchive(Permanent):
    """The archive cannot be read whole: no file of it is trusted."""


@dataclass(frozen=True)
class Header:
    """A member: its name (surrogates for bytes that are not UTF-8), what it is, where its bytes are, and when it
    was changed, in seconds since 1970 (None: it does not say).

    Of a sparse file these are its parts, behind one another, in PAX form 1.0 with a list of them in front.
    """

    name: str
    kind: str
    offset: int
    size: int
    changed: int | None = None


@dataclass
class _Extended:
    """What the headers in front of a member say of it."""

    pax: dict[bytes, bytes] = field(default_factory=dict)
    long_name: bytes = b""
    kinds: set[bytes] = field(default_factory=set)
    count: int = 0


def headers(file: BinaryIO) -> Iterator[Header]:
    """Every member of the archive, and after the last one a look at what follows it."""
    size, offset, ahead = os.fstat(file.fileno()).st_size, 0, _Extended()
    while any(block := _read(file, offset, BLOCK)):
        check_sum(block, offset)
        kind, length = block[156:157], _size(block[124:136])
        offset += BLOCK
        if kind in (_LONG_NAME, _LONG_LINK, *_PAX, _GLOBAL):
            _take(file, offset, kind, length, ahead)
            offset += _padded(length)
            continue
        header, ahead = _member(block, offset, length, ahead), _Extended()
        if header.kind == SPARSE and kind == b"S":
            offset = _after_map(file, offset, block[482])
        if offset + header.size > size:
            raise BadArchive(f"the archive ends inside {shown(header.name)}")
        yield header
        offset += _padded(header.size)
    if ahead.kinds:  # all but global ones belong to a member
        raise BadArchive(f"the archive is damaged near byte {offset}: no member follows its extended header")
    _check_end(file, offset, size)


def check_sum(block: bytes, offset: int) -> None:
    """`BadArchive` unless a header's checksum is right; old archivers added its bytes up as signed ones."""
    found = _OCTAL.fullmatch(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    wrong = int(found[1], 8) - sum(rest) if found else None
    if wrong is None or (wrong and wrong != -256 * sum(byte > 127 for byte in rest)):
        raise BadArchive(f"not a tar archive, or damaged near byte {offset}: no header and no end there")


def is_plain(path: Path) -> bool:
    """Whether a file begins as a tar does."""
    with path.open("rb") as file:
        block = file.read(BLOCK)
    try:
        check_sum(block.ljust(BLOCK, b"\0"), 0)
    except BadArchive:
        return False
    return len(block) == BLOCK


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    data = os.pread(file.fileno(), size, offset)
    if len(data) < size:
        raise BadArchive(f"the archive is cut: its end is missing after byte {offset + len(data)}")
    return data


def _take(file: BinaryIO, offset: int, kind: bytes, length: int, ahead: _Extended) -> None:
    """Read one extended header into `ahead`."""
    ahead.count += 1
    if ahead.count > _MOST_HEADERS:
        raise BadArchive(f"more than {_MOST_HEADERS} extended headers follow one another near byte {offset}")
    if kind in ahead.kinds or (kind in _PAX and b"x" in ahead.kinds):
        raise BadArchive(f"two extended headers of one kind near byte {offset}")
    if length > MOST_HEADER_BYTES:
        raise BadArchive(f"an extended header of {length} bytes: {MOST_HEADER_BYTES} are allowed")
    body = _read(file, offset, length)
    if kind == _LONG_NAME:
        # Other readers look for the zero byte at its end and not at its length, so both have to say the same.
        ahead.long_name = _read(file, offset, _padded(length)).partition(b"\0")[0]
        if not 0 < len(ahead.long_name) <= length:
            raise BadArchive(f"an extended header near byte {offset} whose name is empty or does not end")
    elif kind == _GLOBAL:
        if any(_OF_ONE_MEMBER.fullmatch(keyword) for keyword, _ in _records(body, offset)):
            raise BadArchive(f"a global PAX header near byte {offset} gives every member the same name or size")
        return
    elif kind in _PAX:
        ahead.pax = {key: value for key, value in _records(body, offset) if _OF_ONE_MEMBER.fullmatch(key)}
    ahead.kinds.add(b"x" if kind in _PAX else kind)


def _records(body: bytes, offset: int) -> Iterator[tuple[bytes, bytes]]:
    """Keyword and value of each PAX record: `{length} {keyword}={value}` and a newline."""
    at, body = 0, body.rstrip(b"\0")  # some archivers count the padding
    while at < len(body):
        found = _RECORD.match(body, at, at + 1024)
        end = at + int(found[1]) if found else 0
        if not found or end > len(body) or end <= found.end() or body[end - 1 : end] != b"\n":
            raise BadArchive(f"a damaged PAX header near byte {offset + at}")
        yield found[2], body[found.end() : end - 1]
        at = end


def _member(block: bytes, offset: int, length: int, ahead: _Extended) -> Header:
    """The member that a header block and those in front of it describe."""
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0]
    if prefix and block[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    path = ahead.pax.get(b"GNU.sparse.name") or ahead.pax.get(b"path")
    if path and ahead.long_name and path != ahead.long_name:
        raise BadArchive(f"a member with two names near byte {offset}")
    name = path or ahead.long_name or name
    flag = block[156:157]
    kind = _KINDS.get(flag, UNKNOWN)
    if flag == b"\0" and name.endswith(b"/"):
        kind = FOLDER
    text = name.decode("utf-8", "surrogateescape")
    if flag == _OTHER_VOLUME:
        raise BadArchive(f"{shown(text)} began in another volume: the archive is not the first of its set")
    if b"size" in ahead.pax:
        length = _pax_size(ahead.pax[b"size"], text)
    if kind == FILE and any(keyword.startswith(b"GNU.sparse.") for keyword in ahead.pax):
        kind = SPARSE
    return Header(text, kind, offset, 0 if kind in _WITHOUT_DATA else length, _time(block[136:148]))


def _size(digits: bytes) -> int:
    """A header's size: octal, or a large one in base 256."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:])
    if digits[0] == 0xFF:
        raise BadArchive("a member has a negative size")
    if not digits.strip(b" \0"):
        return 0
    found = _OCTAL.fullmatch(digits)
    if not found:
        raise BadArchive(f"a size that is no number: {digits!r}")
    return int(found[1], 8)


def _time(digits: bytes) -> int | None:
    """A header's time, written as a size is; one that is wrong harms nothing."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:])
    found = _OCTAL.fullmatch(digits)
    return int(found[1], 8) if found else None


def _pax_size(digits: bytes, name: str) -> int:
    if digits.startswith(b"-"):
        raise BadArchive(f"{shown(name)} has a negative size")
    if not re.fullmatch(rb"[0-9]{1,19}", digits):
        raise BadArchive(f"{shown(name)} has a size that is no number")
    return int(digits)


def _after_map(file: BinaryIO, offset: int, more: int) -> int:
    """Where the bytes of an old GNU sparse file begin: its map may go on for many blocks."""
    while more:
        more = _read(file, offset, BLOCK)[504]
        offset += BLOCK
    return offset


def _check_end(file: BinaryIO, offset: int, size: int) -> None:
    """An archive ends in two blocks of zeros, and only zeros follow; all else is a cut or a damaged header."""
    if size - offset < 2 * BLOCK:
        raise BadArchive(f"the archive is cut: its end is missing after byte {offset}")
    while chunk := os.pread(file.fileno(), _CHUNK, offset):
        if chunk.count(0) != len(chunk):
            raise BadArchive(f"the archive is damaged near byte {offset}: no header and no end there")
        offset += len(chunk)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def shown(name: str) -> str:
    """The start of a name as a message may hold it: no signs that a terminal or a log would obey."""
    text = name[:200].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)
