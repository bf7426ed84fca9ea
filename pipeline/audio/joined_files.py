"""Where recordings were joined into one file, of formats of which ffmpeg reads the first recording alone.

Each reader takes the open file, its size and where it begins behind ID3 tags, in bytes.
"""

import mmap
import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.audio.sound_pieces import MOST_PIECES, Piece, Pieces, at, behind_tags
from pipeline.foundation.file_warnings import DECODE_ERRORS, MISSING_END, FileWarning

_BLOCK = 2**16
_MOST_AMR = 2**28  # bytes, which are read at once: two days
_MOST_AMR_FRAMES = 10_000_000  # two days: one of silence is a single byte
_MOST_PAGES = 5_000_000  # of an Ogg file, each a look at the disk: 20 GB of usual ones

# --- MP3 (ID3v2: id3.org/id3v2.4.0-structure; the frame that Xing's encoder was the first to write) ------------

_JOINT = re.compile(rb"ID3[\x02-\x04][\x00-\x0f][\x00-\xff][\x00-\x7f]{4}|(?:Xing|Info)\x00\x00\x00[\x00-\x0f]")
_SYNC = re.compile(rb"\xff[\xe0-\xff]")
_TO_XING = (36, 21, 13)  # from a frame's start: MPEG-1 stereo; MPEG-1 mono and MPEG-2 stereo; MPEG-2 mono


def mp3(file: BinaryIO, size: int, _begin: int) -> Pieces:
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
    if len(starts) == 1 or len(starts) > MOST_PIECES:
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


def ogg(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Links of a chain, each a stream of its own: ffmpeg goes on from one to the next only where they are
    alike."""
    if begin:
        return Pieces([behind_tags("ogg", begin, size)])
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
        if len(starts) > MOST_PIECES or count > _MOST_PAGES:
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
        head = at(file, offset, 27 + 255)
        if head[:5] != _PAGE:
            offset = _find(file, _PAGE, offset + 1, size)
            continue
        yield offset, head[5], struct.unpack("<I", head[14:18])[0]
        offset += 27 + head[26] + sum(head[27 : 27 + head[26]])


def _find(file: BinaryIO, what: bytes, offset: int, size: int) -> int:
    """Where these bytes come next; the end where they do not."""
    while offset < size:
        block = at(file, offset, _BLOCK)
        if (place := block.find(what)) >= 0:
            return offset + place
        offset += max(1, len(block) - len(what) + 1)
    return size


# --- MP4 and QuickTime (ISO/IEC 14496-12) --------------------------------------------------------------------


def mov(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Joined files: each begins with a box of type ftyp."""
    if begin:
        return Pieces([behind_tags("mov", begin, size)])
    starts, offset, boxes = list[int](), 0, 0
    while offset + 8 <= size and boxes < 100_000:
        length, name = struct.unpack(">I4s", at(file, offset, 8))
        if length == 1:
            length = struct.unpack(">Q", at(file, offset + 8, 8).rjust(8, b"\0"))[0]
        if name == b"ftyp":
            starts.append(offset)
        if length < 8:
            break
        offset, boxes = offset + length, boxes + 1
    if len(starts) < 2 or starts[0] or len(starts) > MOST_PIECES:
        return Pieces([Piece("mov")])
    return Pieces([Piece("mov", *part) for part in zip(starts, [*starts[1:], size], strict=True)])


# --- AMR (RFC 4867, section 5) -------------------------------------------------------------------------------

_AMR_FRAMES = {  # by magic: the bytes of a frame behind its first one, by its type; type 15 is silence
    b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0),
    b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0),
}
_AMR_RESERVED = (12, 13, 14)
_AMR_FRAME_SECONDS = 0.02


def amr(file: BinaryIO, size: int, begin: int) -> Pieces:
    """Frames of silence are not decoded: their time is known by counting. Joined files begin with the magic
    anew."""
    whole = Pieces([behind_tags("amr", begin, size)])
    kind = next((magic for magic in _AMR_FRAMES if at(file, begin, len(magic)) == magic), None)
    if kind is None or size > _MOST_AMR:  # with several channels, or longer than a day
        return whole
    starts, frames, bad = [begin], [0], 0
    data = at(file, 0, size)
    offset, lengths, all_frames = begin + len(kind), _AMR_FRAMES[kind], 0
    while offset < size:
        if all_frames > _MOST_AMR_FRAMES or len(starts) > MOST_PIECES:
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
