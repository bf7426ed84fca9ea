"""What kind of recording a file is, detected from its own bytes: the name of the ffmpeg demuxer that may open it.

ffmpeg's own choice is not used. It takes a script, a playlist or a manifest for what it is, whatever its name,
and opens the files that it lists. Here is a list of audio and audio-carrying containers instead, each of one
file; anything else is not opened at all. Every name is one that ffmpeg 5.1 and 9 both have.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline.audio.frame_formats import CHAINED, SEARCHED, Frame, ends_here, is_gsm, is_transport_stream

MOST_READ = 2**20  # bytes of one file
HEAD_BYTES = 4096  # hold every magic, and enough to tell text
_WINDOW = 2**16  # of junk that may be in front of the first frame; ffmpeg's mp3 demuxer looks as far
_MOST_WINDOWS = 8  # of zeros in front of it: padding of a tag
_MOST_TAGS = 16
_MOST_BOXES = 16
_LARGEST_FRAME = 2**14  # ADTS and LOAS count in 13 bits

# Demuxer, magic (a regular expression; `.` is any byte), and where it is written down.
_MAGICS = tuple(
    (demuxer, re.compile(magic, re.DOTALL))
    for demuxer, magic in (
        ("wav", rb"(?:RIFF|RIFX|RF64|BW64)....WAVE"),  # RIFF 1.0; EBU Tech 3306; ITU-R BS.2088
        ("avi", rb"RIFF....AVI[ X\x19]"),  # RIFF 1.0, OpenDML 1.02
        ("xwma", rb"RIFF....XWMA"),  # DirectX SDK
        ("qcp", rb"RIFF....QLCM"),  # RFC 3625
        ("w64", rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00.{8}wave\xf3\xac\xd3\x11"),  # Sony Wave64
        ("aiff", rb"FORM....AIF[FC]"),  # Apple AIFF 1.3, AIFF-C
        ("iff", rb"FORM....(?:8SVX|16SV|MAUD)"),  # EA IFF 85; its pictures (ILBM) are left out
        ("au", rb"\.snd\x00"),  # Sun, pubs.opengroup.org/external/auformat.html
        ("caf", rb"caff\x00\x01"),  # Apple Core Audio Format
        ("flac", rb"fLaC"),  # RFC 9639
        ("ogg", rb"OggS\x00[\x00-\x07]"),  # RFC 3533: Vorbis, Opus, Speex, FLAC
        ("matroska", rb"\x1a\x45\xdf\xa3.{0,1000}?(?:matroska|webm)"),  # RFC 9559
        ("asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),  # ASF 01.20.05 (WMA)
        ("flv", rb"FLV\x01"),  # Adobe FLV 10.1
        ("mpeg", rb"\x00\x00\x01\xba[\x20-\x2f\x40-\x7f]"),  # ISO 11172-1, 13818-1: a pack header
        ("rm", rb"\.RMF\x00|\.ra\xfd"),  # RealMedia
        ("amr", rb"#!AMR(?:-WB)?(?:_MC1\.0)?\n"),  # RFC 4867
        ("ilbc", rb"#!iLBC[23]0\n"),  # RFC 3952
        ("dss", rb"[\x02\x03]dss"),  # Olympus dictation machines
        ("wv", rb"wvpk"),  # wavpack.com/WavPack5FileFormat.pdf
        ("ape", rb"MAC [\x00-\xff]"),  # Monkey's Audio
        ("tta", rb"TTA1"),  # True Audio
        ("mpc", rb"MP\+[\x07\x17]"),  # Musepack SV7
        ("mpc8", rb"MPCK"),  # Musepack SV8
        ("tak", rb"tBaK"),
        ("shn", rb"ajkg"),  # Shorten
        ("dsf", rb"DSD \x1c\x00\x00\x00"),  # Sony DSF
        ("voc", rb"Creative Voice File\x1a"),  # Sound Blaster
        ("nistsphere", rb"NIST_1A\n +[0-9]+\n"),  # corpora of the LDC
        ("sox", rb"\.SoX|XoS\."),
        ("ircam", rb"\x64\xa3[\x01-\x04]\x00|\x00[\x01-\x04]\xa3\x64"),  # Berkeley/IRCAM/CARL
        ("epaf", rb" paf\x00|fap [\x00\x01]\x00"),  # Ensoniq PARIS
        ("avr", rb"2BIT"),  # Audio Visual Research
        ("pvf", rb"PVF1\n"),  # Portable Voice Format of voice modems
        ("wve", rb"ALawSoundFile\*\*\x00"),  # Psion
        ("oma", rb"ea3\x03|EA3\x01"),  # Sony OpenMG
        ("dts", rb"\x1f\xff\xe8\x00\x07[\xf0-\xff]|\xff\x1f\x00\xe8[\xf0-\xff]\x07"),  # TS 102 114, 14 bits
    )
)
_TEXTS = ("nistsphere",)  # the only ones whose head may be plain text

# Kinds that hold other files, in which the frames of a recording may be found; they are no recordings themselves.
_OTHERS = re.compile(
    rb"PK[\x01\x03\x05\x07]|\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|MSCF|!<arch>|.{257}ustar"
    rb"|\xd0\xcf\x11\xe0|%PDF|\x7fELF|MZ.\x00|SQLite|FWS|\xff\xd8\xff|\x89PNG|GIF8",
    re.DOTALL,
)
# Magics that settle it whatever the name of the file says; the shorter and the rarer ones need an audio suffix.
_SURE = re.compile(
    rb"RIFF....(?:WAVE|AVI |XWMA|QLCM)|RIFX....WAVE|(?:RF64|BW64)....WAVEds64|riff\x2e\x91\xcf\x11|FORM....AIF[FC]"
    rb"|\.snd\x00\x00|caff\x00\x01|fLaC[\x00\x80]\x00|OggS\x00[\x02\x06]|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75\x8e\x66"
    rb"|FLV\x01[\x01\x04\x05]|#!AMR|#!iLBC|wvpk|MAC |TTA1|MPCK|tBaK|DSD \x1c|Creative Voice File\x1a|NIST_1A\n"
    rb"|....ftyp|ID3[\x02-\x04]",
    re.DOTALL,
)
SURE_BYTES = 32  # of the content, in which they are
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")  # not in a text
_ID3 = re.compile(rb"ID3[\x02-\x04][^\xff].[\x00-\x7f]{4}", re.DOTALL)  # id3.org, ID3v2.4.0, section 3.1
_BOX_TYPES = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof", b"sidx", b"uuid"}
_FILLING = {b"wide", b"free", b"skip", b"pnot", b"uuid"}  # boxes that say nothing of the kind
_PICTURES = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis", b"crx ", b"jxl "}

Demuxer = str  # its name, as `-f` takes it
ReadAt = Callable[[int, int], bytes]


def recognise(head: bytes, read_at: ReadAt, size: int) -> Demuxer | None:
    """The demuxer (`-f NAME`) for the content; None where it is no recording that we know.

    `head` is the beginning of the file, as much as the caller has; `read_at(offset, length)` gives other bytes
    (fewer at the end), `MOST_READ` in all at most; `size` is that of the whole file.
    """
    content = _Content(head, read_at, size)
    begin = _after_tags(content)
    if name := _by_header(content, begin):
        return name
    start = content.at(begin, HEAD_BYTES)
    return None if _is_text(start) or _OTHERS.match(start) else _by_frames(content, begin)


def may_be_sure(start: bytes) -> bool:
    """Whether it is worth asking `is_surely_one`: quick, since it is asked of every sidecar."""
    return _SURE.match(start) is not None


def is_surely_one(start: bytes, read_at: ReadAt, size: int) -> bool:
    """Whether the content alone makes a file a recording, so that its name may be any.

    `start` is its first `SURE_BYTES`. Frames without a header count only behind an ID3 tag, and at once: anything
    may begin with something like a sync word.
    """
    if not may_be_sure(start):
        return False
    content = _Content(start, read_at, size)
    begin = _after_tags(content)
    if _by_header(content, begin):
        return True
    return begin > 0 and _first_frames(content.at(begin, _LARGEST_FRAME), whole=False) is not None


def tag_bytes(head: bytes, read_at: ReadAt, size: int) -> int:
    """How many bytes of ID3v2 tags are in front of the content (`-skip_initial_bytes N`): ffmpeg 9 looks behind
    them only for some demuxers, and for no WAV, AIFF, AMR or CAF."""
    return _after_tags(_Content(head, read_at, size))


def recognise_file(file: BinaryIO) -> Demuxer | None:
    """`recognise` for an open file; its position stays."""
    handle = file.fileno()
    return recognise(
        os.pread(handle, HEAD_BYTES, 0),
        lambda offset, length: os.pread(handle, length, offset),
        os.fstat(handle).st_size,
    )


@dataclass
class _Content:
    """The bytes of a file, of which no more than `MOST_READ` are read."""

    head: bytes
    read_at: ReadAt
    size: int
    left: int = field(default=MOST_READ)

    def at(self, offset: int, length: int) -> bytes:
        """So many bytes from there; fewer at the end, or where enough has been read."""
        length = max(0, min(length, self.size - offset))
        if offset + length <= len(self.head):
            return self.head[offset : offset + length]
        length = min(length, self.left)
        self.left -= length
        return self.read_at(offset, length)[:length] if length else b""


def _is_text(start: bytes) -> bool:
    """Whether these bytes are plain text in UTF-8 (or none at all): scripts, playlists, manifests, notes."""
    if _CONTROL.search(start):
        return False
    try:
        start.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"  # a character that is cut in two
    return True


def _by_header(content: _Content, begin: int) -> Demuxer | None:
    start = content.at(begin, HEAD_BYTES)
    name = _by_magic(start)
    if _is_text(start):
        return name if name in _TEXTS else None
    return name or ("mov" if _is_mov(content, begin) else None)


def _by_magic(start: bytes) -> Demuxer | None:
    return next((demuxer for demuxer, magic in _MAGICS if magic.match(start)), None)


def _after_tags(content: _Content) -> int:
    """Where the content begins behind its ID3v2 tags: taggers put them in front of anything."""
    begin = 0
    for _ in range(_MOST_TAGS):
        header = content.at(begin, 10)
        if not _ID3.match(header):
            break
        length = sum(byte << shift for byte, shift in zip(header[6:], (21, 14, 7, 0), strict=True))
        begin += 10 + length + (10 if header[5] & 0x10 else 0)  # with a footer
    return begin


def _is_mov(content: _Content, begin: int) -> bool:
    """Whether it consists of the boxes of ISO 14496-12 or QuickTime: MP4, M4A, 3GP, MOV; pictures do too."""
    for _ in range(_MOST_BOXES):
        box = content.at(begin, 16)
        length, kind = int.from_bytes(box[:4]), box[4:8]
        if length == 1:  # it has 64 bits
            length = int.from_bytes(box[8:16])
        if kind not in _BOX_TYPES or (length < 8 and (length or kind != b"mdat")):
            return False
        if kind not in _FILLING:
            return kind != b"ftyp" or box[8:12] not in _PICTURES
        begin += length
    return False


def _by_frames(content: _Content, begin: int) -> Demuxer | None:
    """Streams without a header: each frame begins with a sync word, and says where the next one begins."""
    window = content.at(begin, _WINDOW + _LARGEST_FRAME)
    whole = begin + len(window) >= content.size
    if name := _first_frames(window, whole):
        return name
    if is_transport_stream(window):
        return "mpegts"
    if is_gsm(window):
        return "gsm"
    return _behind_junk(_behind_zeros(content, begin, window))


def _first_frames(window: bytes, whole: bool) -> Demuxer | None:
    """The kind of the frames that follow one another from the beginning."""
    return next((demuxer for demuxer, frame in CHAINED if _follow(window, 0, frame, 2, whole)), None)


def _behind_zeros(content: _Content, begin: int, window: bytes) -> bytes:
    """The first window that holds more than zeros, within reason."""
    for _ in range(_MOST_WINDOWS):
        if not window or window.count(0, 0, _WINDOW) < min(len(window), _WINDOW):
            break
        begin += _WINDOW
        window = content.at(begin, _WINDOW + _LARGEST_FRAME)
    return window


def _behind_junk(window: bytes) -> Demuxer | None:
    for demuxer, sync, frame in SEARCHED:
        places = (found.start() for found in sync.finditer(window, 0, _WINDOW))
        if any(_follow(window, at, frame, 3, whole=False) for at in places):
            return demuxer
    return None


def _follow(window: bytes, at: int, frame: Frame, needed: int, whole: bool) -> bool:
    """Whether so many frames of one kind follow one another from there, or all that there is."""
    kind = None
    for count in range(needed):
        if whole and count and ends_here(window, at):
            return True
        found = frame(window[at : at + 16])
        if found is None or (kind is not None and found.kind != kind):
            return False
        at, kind = at + found.length, found.kind
    return True
