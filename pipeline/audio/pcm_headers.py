"""Where the sound of a WAV or AIFF file is: joined ones, and headers that a recorder which crashed left wrong.

Each reader takes the open file, its size and where it begins behind ID3 tags, in bytes.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.audio.sound_pieces import LEAST_RATE, MOST_PIECES, MOST_RATE, Piece, Pieces, at, behind_tags
from pipeline.foundation.file_warnings import IGNORED_TRACK, MISSING_END, WRONG_HEADER, FileWarning

_UNKNOWN = 0xFFFF_0000  # sizes from here on stand for "not known" in headers of 32 bits
_PADDING = 2**16  # of zeros behind the sound: no part of it
_MOST_CHUNKS = 1000  # of a RIFF file; each is a look at the disk
_LEAST_SECONDS = 0.05  # of sound, for a header to be called wrong

# --- WAV (RIFF: Microsoft's Multimedia Programming Interface 1.0; RF64: EBU Tech 3306) -----------------------


@dataclass
class _Wav:
    """What a WAV header says: the bytes of sound from `data` on, and how many make a second."""

    data: int = 0
    size: int = 0
    rate: int = 0
    bytes_per_second: int = 0


def wav(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Joined ones one by one; where the header counts less than is there, to its real end."""
    found = Pieces()
    start = begin
    while start < size and len(found.all) < MOST_PIECES:
        head = _wav_header(file, start, size)
        if head is None:  # something else than a WAV that we understand: ffmpeg shall say what it thinks
            return found if found.all else Pieces([behind_tags("wav", begin, size)])
        if not LEAST_RATE <= head.rate <= MOST_RATE:
            return Pieces(problem=f"its sample rate is {head.rate} Hz")
        start = _add_wav(found, file, head, start, size)
    if start < size:
        found.warnings.append(
            FileWarning(IGNORED_TRACK, None, f"It has more than {MOST_PIECES} joined recordings.")
        )
    if len(found.all) == 1 and not found.all[0].options:
        return Pieces([behind_tags("wav", begin, size)], found.warnings)
    return found


def _add_wav(found: Pieces, file: BinaryIO, head: _Wav, start: int, size: int) -> int:
    """Add the WAV that begins at `start`; gives where the next one begins, or the end."""
    end = head.data + head.size
    per_second = head.bytes_per_second or 1
    if head.size == 0 or head.size >= _UNKNOWN:  # written as a stream
        found.all.append(Piece("wav", start, size, {"ignore_length": "1"}))
        return size
    if end > size:
        lost = (end - size) / per_second
        if lost >= _LEAST_SECONDS:
            found.warnings.append(
                FileWarning(MISSING_END, round(lost, 2), f"The file is cut: {lost:.1f} s of sound are missing.")
            )
        found.all.append(Piece("wav", start, size))
        return size
    after = end + end % 2
    follower = at(file, after, 4)
    if follower in (b"RIFF", b"RF64", b"RIFX"):
        found.all.append(Piece("wav", start, after))
        return after
    rest = (size - end) / per_second
    if rest < _LEAST_SECONDS or _is_chunks(file, after, size) or _is_tag(follower) or _is_zeros(file, end, size):
        found.all.append(Piece("wav", start, size))
        return size
    found.all.append(Piece("wav", start, size, {"ignore_length": "1"}))
    found.warnings.append(
        FileWarning(
            WRONG_HEADER, None,
            f"The header says {head.size / per_second:.1f} s, the file holds {rest:.1f} s more: read to its end.",
        )
    )  # fmt: skip
    return size


def _wav_header(file: BinaryIO, start: int, size: int) -> _Wav | None:
    order = ">" if at(file, start, 4) == b"RIFX" else "<"
    head, wide = _Wav(), 0
    for name, offset, length in _chunks(file, start + 12, size, order):
        body = at(file, offset, min(length, 28))
        if name == b"ds64" and len(body) >= 24:
            wide = struct.unpack("<Q", body[8:16])[0]
        elif name == b"fmt " and len(body) >= 16:
            head.rate, head.bytes_per_second = struct.unpack(f"{order}II", body[4:12])
        elif name == b"data":
            head.data, head.size = offset, length
            if length >= _UNKNOWN and wide:
                head.size = wide
            return head if head.rate or head.bytes_per_second else None
    return None


def _chunks(file: BinaryIO, offset: int, size: int, order: str) -> list[tuple[bytes, int, int]]:
    """The chunks of a RIFF file: name, where the body begins, its length; to the sound at most."""
    found: list[tuple[bytes, int, int]] = []
    while offset + 8 <= size and len(found) < _MOST_CHUNKS:
        name, length = struct.unpack(f"{order}4sI", at(file, offset, 8))
        found.append((name, offset + 8, length))
        if name == b"data":
            break
        offset += 8 + length + length % 2
    return found


def _is_chunks(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether well-formed chunks reach from here to the end (within a byte of padding)."""
    for _ in range(_MOST_CHUNKS):
        if offset + 8 > size:
            break
        name, length = struct.unpack("<4sI", at(file, offset, 8))
        if not all(32 <= byte < 127 for byte in name):
            return False
        offset += 8 + length + length % 2
    return size - 8 < offset <= size + 1


def _is_tag(start: bytes) -> bool:
    return start[:3] in (b"ID3", b"TAG") or start == b"APET"


def _is_zeros(file: BinaryIO, start: int, end: int) -> bool:
    return end - start <= _PADDING and not any(at(file, start, end - start))


# --- AIFF (Apple, AIFF-C 1991) ---------------------------------------------------------------------------------

_AIFF_PCM = {8: "s8", 16: "s16be", 24: "s24be", 32: "s32be"}  # by bits: ffmpeg's demuxers of bare samples


def aiff(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Where the recorder crashed, the chunk of sound has no length: its samples are read as such."""
    whole = Pieces([behind_tags("aiff", begin, size)])
    channels = bits = rate = 0
    offset = begin + 12
    while offset + 8 <= size:
        name, length = struct.unpack(">4sI", at(file, offset, 8))
        body = at(file, offset + 8, 18)
        if name == b"COMM" and len(body) == 18:
            channels, _, bits, exponent, mantissa = struct.unpack(">HIHHQ", body)
            power = (exponent & 0x7FFF) - 16383
            rate = mantissa >> (63 - power) if 0 <= power < 32 else 0
            if not LEAST_RATE <= rate <= MOST_RATE:
                return Pieces(problem=f"its sample rate is {rate} Hz")
        if name == b"SSND":
            if length > 8 or at(file, begin + 8, 4) != b"AIFF" or bits not in _AIFF_PCM:
                return whole
            options = {"ar": str(rate), "ac": str(channels)}
            warning = FileWarning(WRONG_HEADER, None, "The header says that it holds no sound: read to its end.")
            return Pieces([Piece(_AIFF_PCM[bits], offset + 16, size, options)], [warning])
        offset += 8 + length + length % 2
    return whole
