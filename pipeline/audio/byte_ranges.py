"""Which bytes of a file hold its sound: one stretch as a rule, several where recordings were joined, and other
bytes than its header says where a recorder crashed before it could write the header again.

ffmpeg reads the first of several joined recordings of some formats and is silent about the rest, and believes a
WAV header that says less than is there.
"""

import mmap
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline.audio import containers
from pipeline.foundation.file_warnings import DECODE_ERRORS, IGNORED_TRACK, MISSING_END, WRONG_HEADER, FileWarning

LEAST_RATE, MOST_RATE = 1_000, 1_000_000  # Hz; outside them it is no sound, but an attack on our time
_HEAD = 2**16
_UNKNOWN = 0xFFFF_0000  # sizes from here on stand for "not known" in headers of 32 bits
_PADDING = 2**16  # of zeros behind the sound: no part of it
_UNKNOWN_LARGE = 2**62  # the same in headers of 64 bits
# ASF 01.20.05, section 3.2: the File Properties Object, whose size of the file is 40 bytes behind its start.
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MOST_PIECES = 64
_MOST_AMR = 2**28  # bytes, which are read at once: two days
_MOST_AMR_FRAMES = 10_000_000  # two days: one of silence is a single byte
_MOST_CHUNKS = 1000  # of a RIFF file; each is a look at the disk
_MOST_PAGES = 5_000_000  # of an Ogg file, for the same reason: 20 GB of usual ones
# Demuxers that read the ID3 tags in front of the sound themselves.
_TAGGED = frozenset(("mp3", "aac", "ac3", "eac3", "flac", "tta", "ape", "mpc", "mpc8", "wv"))
_LEAST_SECONDS = 0.05  # of sound, for a header to be called wrong


@dataclass(frozen=True)
class Piece:
    """The bytes from `start` to before `end` of a file (None: all of it, as it is), read as `format`, ffmpeg's
    name of a demuxer, with its `options`. `seconds`: how long it is, where we have counted; what is missing is
    silence that was not recorded."""

    format: str
    start: int | None = None
    end: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    def url(self, path: Path) -> str:
        """What to give ffmpeg as its input."""
        if self.start is None:
            return f"file:{path}"
        return f"subfile,,start,{self.start},end,{self.end},,:file:{path}"


@dataclass(frozen=True)
class Pieces:
    """The stretches of sound in a file, in order, and what is wrong with their headers.

    `problem`: why there is no sound to be had. `share`: how much there is of the bytes that its header counts.
    """

    all: list[Piece] = field(default_factory=list)
    warnings: list[FileWarning] = field(default_factory=list)
    problem: str | None = None
    share: float = 1.0


def pieces(path: Path) -> Pieces:
    """Where the sound of a file is. What is in it decides, never its name."""
    with path.open("rb") as file:
        size = path.stat().st_size

        def read_at(offset: int, count: int) -> bytes:
            file.seek(offset)
            return file.read(count)

        head = read_at(0, _HEAD)
        form = containers.recognise(head, read_at, size)
        if form is None:
            return Pieces(problem="it holds no sound in a format that is read here" if size else "it is empty")
        begin = containers.tag_bytes(head, read_at, size)
        if form == "wav":
            return _wav(file, size, begin)
        if form == "amr":
            return _amr(file, size, begin)
        if form == "aiff":
            return _aiff(file, size, begin)
        if form == "mp3":
            return _mp3(file, size)
        look = {"ogg": _ogg, "mov": _mov}.get(form)
        if look and not begin:
            return look(file, size)
        piece = Piece(form) if form in _TAGGED else _behind_tags(form, begin, size)
        return Pieces([piece], share=_share(form, read_at, begin, size))


def _share(form: str, read_at: Callable[[int, int], bytes], begin: int, size: int) -> float:
    """How much is there of the bytes that the header counts, 0 to 1."""
    declared = 0
    head = read_at(begin, _HEAD)
    if form == "avi":  # RIFF, of which the first chunk is the file, or its first gigabyte
        declared = 8 + int.from_bytes(head[4:8], "little")
    elif form == "w64":
        declared = int.from_bytes(head[16:24], "little")
    elif form == "asf" and (place := head.find(_ASF_FILE)) >= 0:
        declared = int.from_bytes(head[place + 40 : place + 48], "little")
    elif form == "caf" and (place := head.find(b"data")) >= 0:
        length = int.from_bytes(head[place + 4 : place + 12], "big", signed=True)
        declared = place + 12 + length if length > 0 else 0
    return (size - begin) / declared if size - begin < declared < _UNKNOWN_LARGE else 1.0


def _behind_tags(form: str, begin: int, size: int) -> Piece:
    """The whole file but for the ID3 tags in front of it."""
    return Piece(form, begin, size) if begin else Piece(form)


def _at(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)


# --- WAV (RIFF: Microsoft's Multimedia Programming Interface 1.0; RF64: EBU Tech 3306) -----------------------


@dataclass
class _Wav:
    """What a WAV header says: the bytes of sound from `data` on, and how many make a second."""

    data: int = 0
    size: int = 0
    rate: int = 0
    bytes_per_second: int = 0


def _wav(file: BinaryIO, size: int, begin: int) -> Pieces:
    found = Pieces()
    start = begin
    while start < size and len(found.all) < _MOST_PIECES:
        head = _wav_header(file, start, size)
        if head is None:  # something else than a WAV that we understand: ffmpeg shall say what it thinks
            return found if found.all else Pieces([_behind_tags("wav", begin, size)])
        if not LEAST_RATE <= head.rate <= MOST_RATE:
            return Pieces(problem=f"its sample rate is {head.rate} Hz")
        start = _add_wav(found, file, head, start, size)
    if start < size:
        found.warnings.append(
            FileWarning(IGNORED_TRACK, None, f"It has more than {_MOST_PIECES} joined recordings.")
        )
    if len(found.all) == 1 and not found.all[0].options:
        return Pieces([_behind_tags("wav", begin, size)], found.warnings)
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
    follower = _at(file, after, 4)
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
    order = ">" if _at(file, start, 4) == b"RIFX" else "<"
    head, wide = _Wav(), 0
    for name, offset, length in _chunks(file, start + 12, size, order):
        body = _at(file, offset, min(length, 28))
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
        name, length = struct.unpack(f"{order}4sI", _at(file, offset, 8))
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
        name, length = struct.unpack("<4sI", _at(file, offset, 8))
        if not all(32 <= byte < 127 for byte in name):
            return False
        offset += 8 + length + length % 2
    return size - 8 < offset <= size + 1


def _is_tag(start: bytes) -> bool:
    return start[:3] in (b"ID3", b"TAG") or start == b"APET"


def _is_zeros(file: BinaryIO, start: int, end: int) -> bool:
    return end - start <= _PADDING and not any(_at(file, start, end - start))


# --- AIFF (Apple, AIFF-C 1991) ---------------------------------------------------------------------------------

_AIFF_PCM = {8: "s8", 16: "s16be", 24: "s24be", 32: "s32be"}  # by bits: ffmpeg's demuxers of bare samples


def _aiff(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Where the recorder crashed, the chunk of sound has no length: its samples are read as such."""
    whole = Pieces([_behind_tags("aiff", begin, size)])
    channels = bits = rate = 0
    offset = begin + 12
    while offset + 8 <= size:
        name, length = struct.unpack(">4sI", _at(file, offset, 8))
        body = _at(file, offset + 8, 18)
        if name == b"COMM" and len(body) == 18:
            channels, _, bits, exponent, mantissa = struct.unpack(">HIHHQ", body)
            power = (exponent & 0x7FFF) - 16383
            rate = mantissa >> (63 - power) if 0 <= power < 32 else 0
            if not LEAST_RATE <= rate <= MOST_RATE:
                return Pieces(problem=f"its sample rate is {rate} Hz")
        if name == b"SSND":
            if length > 8 or _at(file, begin + 8, 4) != b"AIFF" or bits not in _AIFF_PCM:
                return whole
            options = {"ar": str(rate), "ac": str(channels)}
            warning = FileWarning(WRONG_HEADER, None, "The header says that it holds no sound: read to its end.")
            return Pieces([Piece(_AIFF_PCM[bits], offset + 16, size, options)], [warning])
        offset += 8 + length + length % 2
    return whole


# --- MP3 (ID3v2: id3.org/id3v2.4.0-structure; the frame that Xing's encoder was the first to write) ------------

_JOINT = re.compile(rb"ID3[\x02-\x04][\x00-\x0f][\x00-\xff][\x00-\x7f]{4}|(?:Xing|Info)\x00\x00\x00[\x00-\x0f]")
_SYNC = re.compile(rb"\xff[\xe0-\xff]")
_TO_XING = (36, 21, 13)  # from a frame's start: MPEG-1 stereo; MPEG-1 mono and MPEG-2 stereo; MPEG-2 mono


def _mp3(file: BinaryIO, size: int) -> Pieces:
    """Joined files: each begins with an ID3 tag, or a frame that says how many follow."""
    starts = [0]
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        behind = 0  # the end of the tag that was found last
        for found in _JOINT.finditer(data):
            at = found.start()
            if data[at : at + 3] == b"ID3":
                end = at + 10 + _synchsafe(data[at + 6 : at + 10])
                if at < behind or not _is_sync(data[end : end + 2]):
                    continue
                behind = end
            else:
                fronts = [at - back for back in _TO_XING if at >= back]
                at = next((front for front in fronts if _is_sync(data[front : front + 2])), 0)
                if at <= behind:
                    continue
            if at > 0 and (len(starts) > 1 or _SYNC.search(data, 0, at)):  # junk in front is no file
                starts.append(at)
    if len(starts) == 1 or len(starts) > _MOST_PIECES:
        return Pieces([Piece("mp3")])
    return Pieces([Piece("mp3", *part) for part in zip(starts, [*starts[1:], size], strict=True)])


def _synchsafe(four: bytes) -> int:
    """A number of ID3v2: seven bits of each byte."""
    number = 0
    for byte in four:
        number = number << 7 | byte & 127
    return number


def _is_sync(start: bytes) -> bool:
    """Whether an MPEG audio frame may begin so."""
    return len(start) == 2 and start[0] == 0xFF and start[1] >= 0xE0


# --- Ogg (RFC 3533) ------------------------------------------------------------------------------------------


_PAGE = b"OggS\0"  # with the only version that there is


def _ogg(file: BinaryIO, size: int) -> Pieces:
    """Links of a chain, each a stream of its own: ffmpeg goes on from one to the next only where they are
    alike."""
    starts, ended, in_headers, streams = [0], True, True, set[int]()
    for count, (offset, flags, serial) in enumerate(_ogg_pages(file, size)):
        if flags & 2:  # the first page of a stream
            if not in_headers:
                starts.append(offset)
                streams = set()
            in_headers = True
            streams.add(serial)
        else:
            in_headers = False
        if flags & 4:
            streams.discard(serial)
        ended = not streams
        if len(starts) > _MOST_PIECES or count > _MOST_PAGES:
            return Pieces([Piece("ogg")])
    warnings = []
    if not ended:
        warnings.append(FileWarning(MISSING_END, None, "The file is cut: its last page is missing."))
    if len(starts) == 1:
        return Pieces([Piece("ogg")], warnings)
    return Pieces([Piece("ogg", *link) for link in zip(starts, [*starts[1:], size], strict=True)], warnings)


def _ogg_pages(file: BinaryIO, size: int) -> Iterator[tuple[int, int, int]]:
    """Where each page begins, with its flags and the number of its stream; damaged stretches are skipped."""
    offset = 0
    while offset + 27 <= size:
        head = _at(file, offset, 27 + 255)
        if head[:5] != _PAGE:
            offset = _find(file, _PAGE, offset + 1, size)
            continue
        yield offset, head[5], struct.unpack("<I", head[14:18])[0]
        offset += 27 + head[26] + sum(head[27 : 27 + head[26]])


def _find(file: BinaryIO, what: bytes, offset: int, size: int) -> int:
    """Where these bytes come next; the end where they do not."""
    while offset < size:
        block = _at(file, offset, _HEAD)
        if (place := block.find(what)) >= 0:
            return offset + place
        offset += max(1, len(block) - len(what) + 1)
    return size


# --- MP4 and QuickTime (ISO/IEC 14496-12) --------------------------------------------------------------------


def _mov(file: BinaryIO, size: int) -> Pieces:
    """Joined files: each begins with a box of type ftyp."""
    starts, offset, boxes = list[int](), 0, 0
    while offset + 8 <= size and boxes < 100_000:
        length, name = struct.unpack(">I4s", _at(file, offset, 8))
        if length == 1:
            length = struct.unpack(">Q", _at(file, offset + 8, 8).rjust(8, b"\0"))[0]
        if name == b"ftyp":
            starts.append(offset)
        if length < 8:
            break
        offset, boxes = offset + length, boxes + 1
    if len(starts) < 2 or starts[0] or len(starts) > _MOST_PIECES:
        return Pieces([Piece("mov")])
    return Pieces([Piece("mov", *part) for part in zip(starts, [*starts[1:], size], strict=True)])


# --- AMR (RFC 4867, section 5) -------------------------------------------------------------------------------

_AMR_FRAMES = {  # by magic: the bytes of a frame behind its first one, by its type; type 15 is silence
    b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0),
    b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0),
}
_AMR_RESERVED = (12, 13, 14)
_AMR_FRAME_SECONDS = 0.02


def _amr(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Frames of silence are not decoded: their time is known by counting. Joined files begin with the magic
    anew."""
    whole = Pieces([_behind_tags("amr", begin, size)])
    kind = next((magic for magic in _AMR_FRAMES if _at(file, begin, len(magic)) == magic), None)
    if kind is None or size > _MOST_AMR:  # with several channels, or longer than a day
        return whole
    starts, frames, bad = [begin], [0], 0
    data = _at(file, 0, size)
    offset, lengths, all_frames = begin + len(kind), _AMR_FRAMES[kind], 0
    while offset < size:
        if all_frames > _MOST_AMR_FRAMES or len(starts) > _MOST_PIECES:
            return whole
        if data[offset] == kind[0] and data.startswith(kind, offset):
            starts.append(offset)
            frames.append(0)
            offset += len(kind)
            continue
        kind_of_frame = data[offset] >> 3 & 15
        bad += kind_of_frame in _AMR_RESERVED
        offset += 1 + lengths[kind_of_frame]
        frames[-1] += 1
        all_frames += 1
    seconds = [round(count * _AMR_FRAME_SECONDS, 2) for count in frames]
    warnings = []
    if bad:
        lost = round(bad * _AMR_FRAME_SECONDS, 2)
        warnings.append(FileWarning(DECODE_ERRORS, lost, f"{lost:.1f} s of it are no frames of speech."))
    if len(starts) == 1 and not begin:
        return Pieces([Piece("amr", seconds=seconds[0])], warnings)
    places = zip(starts, [*starts[1:], size], seconds, strict=True)
    return Pieces([Piece("amr", start, end, seconds=length) for start, end, length in places], warnings)
