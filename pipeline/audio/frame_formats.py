"""Audio streams without a header of their own, known by the sync words of their frames."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

_RATES = (44_100, 48_000, 32_000)
_MPEG_KBPS = {  # ISO 11172-3, 2.4.2.3 and 13818-3, 2.4.2.3: of (MPEG-1?, layer), without `free`
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AC3_KBPS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_PACKETS, _LEAST_PACKETS = (188, 192, 204), 5  # of a transport stream: plain, with a time stamp, with FEC
_GSM_BYTES, _LEAST_GSM, _MOST_GSM = 33, 8, 500
_TAGS_BEHIND = re.compile(rb"\0*(?:TAG|APETAGEX|LYRICSBEGIN|ID3|\Z)")


class Found(NamedTuple):
    """A frame's length in bytes, and what all frames of its stream have in common."""

    length: int
    kind: Any


Frame = Callable[[bytes], Found | None]


def mpeg_audio(header: bytes) -> Found | None:
    """MPEG audio, layers I to III, MPEG-1, 2 and 2.5 (ISO 11172-3, 2.4.1.3)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    kbps, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or kbps in (0, 15) or rate == 3 or header[3] & 3 == 2:
        return None
    bits = _MPEG_KBPS[version == 3, layer][kbps - 1] * 1000
    hertz = _RATES[rate] >> (0, 1, 2)[(3, 2, 0).index(version)]
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding
    return Found(length, (version, layer, rate))


def adts(header: bytes) -> Found | None:
    """AAC in ADTS frames (ISO 13818-7, 6.2)."""
    if len(header) < 7 or header[0] != 0xFF or header[1] & 0xF6 != 0xF0 or header[2] >> 2 & 15 > 12:
        return None
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return Found(length, (header[1] & 8, header[2] >> 2)) if length > 7 else None


def loas(header: bytes) -> Found | None:
    """AAC in LOAS frames (ISO 14496-3, 1.7.2)."""
    if len(header) < 3 or header[0] != 0x56 or header[1] & 0xE0 != 0xE0:
        return None
    length = (header[1] & 0x1F) << 8 | header[2]
    return Found(3 + length, "loas") if length else None


def ac3(header: bytes) -> Found | None:
    """AC-3 (ETSI TS 102 366, 4.3 and 4.4.1)."""
    if len(header) < 6 or header[:2] != b"\x0b\x77" or header[5] >> 3 > 10:
        return None
    rate, code = header[4] >> 6, header[4] & 63
    if rate == 3 or code >= 2 * len(_AC3_KBPS):
        return None
    kbps = _AC3_KBPS[code >> 1]
    words = (2 * kbps, 96_000 * kbps // 44_100 + (code & 1), 3 * kbps)[rate]
    return Found(2 * words, rate)


def eac3(header: bytes) -> Found | None:
    """Enhanced AC-3 (ETSI TS 102 366, E.1.2)."""
    if len(header) < 6 or header[:2] != b"\x0b\x77" or not 10 < header[5] >> 3 <= 16 or header[2] >> 6 == 3:
        return None
    return Found(2 * ((header[2] & 7) << 8 | header[3]) + 2, header[4] >> 6)


def dts(header: bytes) -> Found | None:
    """DTS, its core in words of 16 bits of either order (ETSI TS 102 114, 5.3)."""
    if header[:4] == b"\xfe\x7f\x01\x80":
        header = bytes(byte for high, low in zip(header[1::2], header[::2], strict=False) for byte in (high, low))
    if len(header) < 8 or header[:4] != b"\x7f\xfe\x80\x01":
        return None
    length = ((header[5] & 3) << 12 | header[6] << 4 | header[7] >> 4) + 1
    return Found(length, "dts") if length >= 96 else None


CHAINED: tuple[tuple[str, Frame], ...] = (
    ("mp3", mpeg_audio), ("aac", adts), ("loas", loas), ("ac3", ac3), ("eac3", eac3), ("dts", dts),
)  # fmt: skip
# Those that begin somewhere behind junk: recorders that were started in the middle of a stream, broken tags.
SEARCHED: tuple[tuple[str, re.Pattern[bytes], Frame], ...] = (
    ("mp3", re.compile(rb"\xff(?=[\xe2-\xe7\xf2-\xf7\xfa-\xff])"), mpeg_audio),
    ("aac", re.compile(rb"\xff(?=[\xf0\xf1\xf8\xf9])"), adts),
)


def ends_here(window: bytes, at: int) -> bool:
    """Whether a stream ends exactly there: nothing follows but a tag or zeros."""
    return at <= len(window) and _TAGS_BEHIND.match(window, at) is not None


def is_transport_stream(window: bytes) -> bool:
    """Whether it is an MPEG transport stream (ISO 13818-1, 2.4.3.2); its first packet may be cut."""
    for length in _PACKETS:
        for at in range(length):
            syncs, fields = (window[at + byte : at + byte + 40 * length : length] for byte in (0, 3))
            # The field says whether an adaptation field or a payload follows: one of them has to.
            if len(fields) >= _LEAST_PACKETS and syncs.count(0x47) == len(syncs) and all(b & 0x30 for b in fields):
                return True
    return False


def is_gsm(window: bytes) -> bool:
    """Whether it is GSM 06.10 as RFC 3551 packs it: each frame of 33 bytes begins with 0xD. Silence of A-law is
    a row of 0xD5."""
    window = window[: _MOST_GSM * _GSM_BYTES]
    marks = window[::_GSM_BYTES]
    high = bytes(byte >> 4 for byte in window)
    return (
        len(marks) >= _LEAST_GSM
        and all(byte >> 4 == 13 for byte in marks)
        and high.count(13) - len(marks) < len(window) // 2
    )
