"""A compressed archive becomes the plain tar that it holds; its content tells, never its name.

gzip, bzip2, xz and zstd, also several streams one after the other with zeros behind them, as parallel
compressors and tapes write them. Memory is bounded by the window that is allowed, the output by `most_bytes` and
the volume, the number of streams by their output; the checksums of the streams are checked.
"""

import bz2
import errno
import lzma
import shutil
import sys
import zlib
from collections.abc import Callable
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pipeline.foundation import scratch
from pipeline.unpack.tar_headers import BLOCK, BadArchive, is_plain

if sys.version_info >= (3, 14):
    from compression import zstd as zstd
else:
    from backports import zstd as zstd

_WINDOW_BITS = 27  # of zstd --long; xz -9 needs 26
_XZ_BYTES = 2**_WINDOW_BITS + 2**20
_CHUNK = 2**18
_READ = 2**16  # little: what follows a stream is copied, and there may be many streams
_FEW_STREAMS = 1000  # so many may be empty


class _Stream(Protocol):
    """What decompresses one stream: the interface of bz2, lzma and zstd."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most so many of the next bytes; no data to ask for more of what was given before."""


class _Gzip:
    """One gzip stream."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _xz() -> Any:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_BYTES)


def _zstd() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _WINDOW_BITS})


_KINDS: dict[str, tuple[tuple[bytes, ...], Callable[[], Any]]] = {
    "gzip": ((b"\x1f\x8b\x08",), _Gzip),
    "bzip2": (tuple(b"BZh%d%s" % (level, start) for level in range(1, 10) for start in
              (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")), bz2.BZ2Decompressor),
    "xz": ((b"\xfd7zXZ\0",), _xz),
    "zstd": ((b"\x28\xb5\x2f\xfd", *(b"%c\x2a\x4d\x18" % number for number in range(0x50, 0x60))), _zstd),
}  # fmt: skip
_REFUSED = {b"PK\x03\x04": "zip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"\x1f\x9d": "compress"}
_ERRORS = (zlib.error, lzma.LZMAError, zstd.ZstdError, OSError, ValueError, EOFError)  # OSError: bz2's own


def kind_of(path: Path) -> str | None:
    """How a file is compressed: gzip, bzip2, xz or zstd; None for a plain tar, and for what else it may be."""
    if is_plain(path):  # whatever the name of its first member begins with
        return None
    with path.open("rb") as file:
        start = file.read(BLOCK)
    for magic, name in _REFUSED.items():
        if start.startswith(magic):
            raise BadArchive(f"a {name} archive: only tar is read, plain or with gzip, bzip2, xz or zstd")
    return next((kind for kind, (magics, _) in _KINDS.items() if start.startswith(magics)), None)


def make_plain(path: Path, most_bytes: int, moved: Callable[[int], object] = int) -> None:
    """Make a compressed archive a plain one in its place, whole or not at all; a plain one stays as it is.

    `BadArchive` where it is cut, damaged, larger than `most_bytes`, or too large for the volume; a volume that is
    only too full now is the disk's OSError. `moved(bytes)` is called as the plain one grows.
    """
    size, kind = path.stat().st_size, kind_of(path)
    if size > most_bytes:
        raise BadArchive(f"the archive has {size} bytes: {most_bytes} are allowed (ARCHIVE_MAX_MB)")
    if kind is None:
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with path.open("rb") as file, part.open("wb", buffering=0) as target:
            output = _Output(target, most_bytes, shutil.disk_usage(path.parent).total - size, moved)
            _decompress(file, kind, output)
        output.require_room()
        scratch.sync(part)
        part.rename(path)
    finally:
        part.unlink(missing_ok=True)


class _Output:
    """The plain archive as it grows, within its limits.

    Where the disk is full, the bytes are counted to their end without being kept: a bomb that fills the disk is
    refused for what it is, while an archive that would fit an emptier disk waits for it.
    """

    def __init__(
        self, file: RawIOBase, most_bytes: int, volume_bytes: int, moved: Callable[[int], object]
    ) -> None:
        self._file, self._moved = file, moved
        self._most_bytes, self._volume_bytes = most_bytes, volume_bytes
        self._full: OSError | None = None
        self.bytes = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        self.bytes += len(data)
        if self.bytes > self._most_bytes:
            raise BadArchive(f"it unpacks to more than the {self._most_bytes} bytes allowed (ARCHIVE_MAX_MB)")
        if self.bytes > self._volume_bytes:
            raise BadArchive(f"it unpacks to more than the volume holds beside it ({self._volume_bytes} bytes)")
        self._moved(len(data))
        if self._full:
            return
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._full = OSError(error.errno, "no room for the unpacked archive")
            self._file.truncate(0)

    def require_room(self) -> None:
        """Raise the disk's error if it was full."""
        if self._full:
            raise self._full


def _decompress(file: BinaryIO, kind: str, output: _Output) -> None:
    """Write what the streams of the file hold, to the end of the last one."""
    magics, begin = _KINDS[kind]
    data, streams = file.read(_READ), 0
    while data:
        if len(data) < _READ:
            data += file.read(_READ)  # so that the start of a stream is seen whole
        if not data.startswith(magics):
            raise BadArchive(f"the {kind} archive is damaged: something else follows its end")
        streams += 1
        if streams > _FEW_STREAMS + output.bytes // BLOCK:
            raise BadArchive(f"{streams} {kind} streams hold next to nothing")
        data = _one_stream(file, data, begin(), kind, output)
        while not (data := data.lstrip(b"\0")) and (data := file.read(_READ)):
            pass


def _one_stream(file: BinaryIO, data: bytes, stream: _Stream, kind: str, output: _Output) -> bytes:
    """Write what one stream holds; gives what was read behind it."""
    while not stream.eof:
        try:
            plain = stream.decompress(data, _CHUNK)
        except _ERRORS as error:
            raise BadArchive(f"the {kind} archive is damaged: {error}") from error
        output.write(plain)
        # A stream keeps what it was given until it has put all of it out.
        data = b"" if plain or stream.eof else file.read(_READ)
        if not (plain or data or stream.eof):
            raise BadArchive(f"the {kind} archive is cut: its end is missing")
    return stream.unused_data
