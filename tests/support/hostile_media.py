"""Files that call themselves recordings and are something else.

Scripts, playlists and manifests in every format of ffmpeg that opens other files, each pointing at a recording
that nobody may open (the canary) by every kind of address; small files that would keep a host busy, or fill its
memory or disk; and files whose words sound like a fault of the host.

`OPENERS`: ffmpeg's demuxers that open what a file names, with what is written here for them.
"""

import itertools
import math
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tests.support.odd_recordings import RATE, Samples, contained, id3, noise, ogg_page, pcm, run_ffmpeg, wav

CANARY_HZ = 2950.0  # of the canary's sound; no speaker has it
SAYS = (
    "No space left on device", "Cannot allocate memory", "Out of memory", "Disk quota exceeded",
    "Input/output error",
    "Connection refused", "Killed", "Read-only file system", "Too many open files",
)  # fmt: skip
SUFFIXES = ("mp3", "wav", "m4a", "ogg", "opus", "flac")


class Canary:
    """Recordings with a sound of their own, in a folder beside the hostile file's, and a server that counts who
    connects. `port`: of the server; `visits`: how many connections there were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.sound = folder / "canary.wav"
        self.sound.write_bytes(wav(canary_sound()))
        source = ("-i", f"file:{self.sound}")
        for suffix in ("mp3", "m4a", "opus", "ts", "flac", "mka", "mpg"):
            codec = ("-c:a", "mp2") if suffix == "mpg" else ()
            run_ffmpeg(folder / f"canary.{suffix}", *source, *codec)
        run_ffmpeg(folder / "canary1.png", "-f", "lavfi", "-i", "testsrc=s=16x16:d=0.04", "-frames:v", "1")
        copies = folder / "copies"  # which may be read: the tests make files of them
        copies.mkdir()
        for path in folder.glob("canary*"):
            (copies / path.name).write_bytes(path.read_bytes())
        run_ffmpeg(copies / "own.mp3", "-f", "lavfi", "-i", "sine=frequency=440:duration=1")
        self.visits = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            self.visits += 1
            connection.close()

    def close(self) -> None:
        """Stop the server."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def file(self, suffix: str) -> Path:
        """The canary in that format."""
        return self.folder / f"canary.{suffix}"


def canary_sound() -> Samples:
    """Three seconds of a tone."""
    return 0.5 * np.sin(2 * np.pi * CANARY_HZ * np.arange(3 * RATE) / RATE)[:, None]


Write = Callable[[Path, Canary], bytes]  # the folder that the file is to be in


@dataclass(frozen=True)
class Hostile:
    """A file: what it is called, how it is made; `demuxer`: that of ffmpeg which it is for; `beside`: files that
    it expects next to itself; `own_sound`: it may be converted, into what it holds itself."""

    name: str
    write: Write
    demuxer: str
    file_name: str = ""
    beside: tuple[tuple[str, Write], ...] = ()
    own_sound: bool = False

    def make(self, folder: Path, canary: Canary, number: int = 0) -> Path:
        """Write it into the folder, under a name that sounds like a recording."""
        for name, write in self.beside:
            (folder / name).write_bytes(write(folder, canary))
        path = folder / (self.file_name or f"evil{number}.{SUFFIXES[number % len(SUFFIXES)]}")
        path.write_bytes(self.write(folder, canary))
        return path


def fixed(data: bytes) -> Write:
    """A file of these bytes."""
    return lambda *_: data


def later(make: Callable[[], bytes]) -> Write:
    """A file of the bytes that `make` gives."""
    return lambda *_: make()


def around(write: Write, change: Callable[[bytes], bytes]) -> Write:
    """The file with something made of its bytes."""
    return lambda folder, canary: change(write(folder, canary))


# --- addresses ---------------------------------------------------------------------------------------------

Address = Callable[[Path, Canary, str], str]  # the hostile file's folder, the canary, the suffix of which


def _relative(folder: Path, canary: Canary, suffix: str) -> str:
    return "../" * (len(folder.parts) - 1) + str(canary.file(suffix))[1:]


ADDRESSES: dict[str, Address] = {
    "absolute": lambda _, canary, suffix: str(canary.file(suffix)),
    "file://": lambda _, canary, suffix: f"file://{canary.file(suffix)}",
    "file:": lambda _, canary, suffix: f"file:{canary.file(suffix)}",
    "../": _relative,
    "beside": lambda _, __, suffix: f"link.{suffix}",  # another of the archive
    "subfile": lambda _, canary, suffix: f"subfile,,start,0,end,0,,:{canary.file(suffix)}",
    "concat": lambda _, canary, suffix: f"concat:{canary.file(suffix)}|{canary.file(suffix)}",
    "cache": lambda _, canary, suffix: f"cache:{canary.file(suffix)}",
    "async": lambda _, canary, suffix: f"async:file:{canary.file(suffix)}",
    "crypto": lambda _, canary, suffix: f"crypto+file:{canary.file(suffix)}",
    "tee of data": lambda _, canary, __: (
        "data:text/plain;base64,ZmZjb25jYXQgdmVyc2lvbiAxLjAKZmlsZSBkYXRhOgo="  # an ffconcat again
    ),
    "http": lambda _, canary, suffix: f"http://127.0.0.1:{canary.port}/canary.{suffix}",
    "tcp": lambda _, canary, __: f"tcp://127.0.0.1:{canary.port}",
    "rtmp": lambda _, canary, __: f"rtmp://127.0.0.1:{canary.port}/live",
    "rtsp": lambda _, canary, __: f"rtsp://127.0.0.1:{canary.port}/live",
    "ftp": lambda _, canary, __: f"ftp://127.0.0.1:{canary.port}/x",
    "pipe": lambda *_: "pipe:0",
    "fd": lambda *_: "fd:",
    "stdin": lambda *_: "/dev/stdin",
    "environ": lambda *_: "/proc/self/environ",
    "zero": lambda *_: "/dev/zero",
    "random": lambda *_: "/dev/urandom",
    "itself": lambda *_: "evil0.mp3",
}


# --- scripts, playlists, manifests -------------------------------------------------------------------------


def ffconcat(address: str) -> str:
    """FFmpeg's own list of files."""
    return f"ffconcat version 1.0\nfile '{address}'\nduration 3\n"


def hls(address: str) -> str:
    """An HLS playlist of one segment."""
    return (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:10\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-ALLOW-CACHE:NO\n"
        f"#EXTINF:3.0,\n{address}\n#EXT-X-ENDLIST\n"
    )


def dash(address: str) -> str:
    """A DASH manifest whose only representation is there."""
    return (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
        ' profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" mediaPresentationDuration="PT3S"><Period>'
        '<AdaptationSet mimeType="audio/mp4" contentType="audio"><Representation id="1" bandwidth="64000"'
        f' codecs="mp4a.40.2"><BaseURL>{address}</BaseURL></Representation></AdaptationSet></Period></MPD>'
    )


def sdp(address: str) -> str:
    """A session that listens for sound; the address is in its control line."""
    return (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 49170 RTP/AVP 0\n"
        f"a=rtpmap:0 PCMU/8000\na=control:{address}\n"
    )


SCRIPTS: dict[str, tuple[Callable[[str], str], str]] = {  # the strongest, with the suffix that they open
    "concat": (ffconcat, "wav"),
    "hls": (hls, "ts"),
    "dash": (dash, "m4a"),
    "sdp": (sdp, "wav"),
}


def text(make: Callable[[str], str], suffix: str, how: str = "absolute") -> Write:
    """The script with the canary's address."""
    return lambda folder, canary: make(ADDRESSES[how](folder, canary, suffix)).encode()


def scripts() -> Iterator[Hostile]:
    """The strongest scripts with every kind of address."""
    for (demuxer, (make, suffix)), how in itertools.product(SCRIPTS.items(), ADDRESSES):
        beside: tuple[tuple[str, Write], ...] = ()
        if how == "beside":
            beside = ((f"link.{suffix}", partial(_copy, suffix)),)
        yield Hostile(f"{demuxer}: {how}", text(make, suffix, how), demuxer, beside=beside)


def _copy(suffix: str, _: Path, canary: Canary) -> bytes:
    """The canary as another recording of the same archive."""
    return (canary.folder / "copies" / f"canary.{suffix}").read_bytes()


def disguised() -> Iterator[Hostile]:
    """The same behind what hides them from who looks at the first bytes alone."""
    for name, before in (
        ("an ID3 tag", id3()), ("a byte order mark", b"\xef\xbb\xbf"), ("blank lines", b"\n\n\n"),
        ("an MP3 frame", b"\xff\xfb\x90\x64" + bytes(413)), ("2 kB of zeros", bytes(2048)),
        ("RIFF", b"RIFF\xff\xff\xff\xffWAVE"), ("an ftyp box", b"\0\0\0\x10ftypM4A \0\0\0\0"),
    ):  # fmt: skip
        for demuxer, (make, suffix) in list(SCRIPTS.items())[:3]:
            script = around(text(make, suffix), before.__add__)
            yield Hostile(f"{demuxer} behind {name}", script, demuxer)


def playlists() -> Iterator[Hostile]:
    """Other lists of ffmpeg and of players."""
    texts: dict[str, tuple[str, str, Callable[[str], str]]] = {
        "hls, master": ("hls", "ts", lambda a: f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{a}\n"),
        "hls, alternative": (
            "hls", "ts",
            lambda a: f'#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="a",URI="{a}"\n'
            f'#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="a"\n{a}\n',
        ),
        "hls, key": ("hls", "ts", lambda a: hls(a).replace(
            "#EXTINF", f'#EXT-X-KEY:METHOD=AES-128,URI="{a}"\n#EXTINF')),
        "hls, map": ("hls", "m4a", lambda a: hls(a).replace("#EXTINF", f'#EXT-X-MAP:URI="{a}"\n#EXTINF')),
        "hls, byte range": ("hls", "ts", lambda a: hls(a).replace("#EXTINF", "#EXT-X-BYTERANGE:9000@0\n#EXTINF")),
        "hls, live": ("hls", "ts", lambda a: hls(a).replace("#EXT-X-ENDLIST\n", "")),
        "dash, list": ("dash", "m4a", lambda a: dash("").replace(
            "<BaseURL></BaseURL>", f'<SegmentList duration="3"><Initialization sourceURL="{a}"/>'
            f'<SegmentURL media="{a}"/></SegmentList>')),
        "dash, template": ("dash", "m4a", lambda a: dash("").replace(
            "<BaseURL></BaseURL>", f'<SegmentTemplate media="{a}" initialization="{a}" duration="3"/>')),
        "dash, base of all": ("dash", "m4a", lambda a: dash("").replace(
            "<Period>", f"<BaseURL>{a}</BaseURL><Period>")),
        "dash, entities": ("dash", "m4a", lambda a: dash("&x;").replace(
            "<MPD", f'<!DOCTYPE MPD [<!ENTITY x SYSTEM "{a}">]><MPD', 1)),
        "dash, live": ("dash", "m4a", lambda a: dash(a).replace('type="static"', 'type="dynamic"')),
        "concat without a header": ("concat", "wav", lambda a: f"file '{a}'\n"),
        "concat, options": ("concat", "wav", lambda a: ffconcat(a) + "option safe 0\nstream\nexact_stream_id 1\n"),
        "concat of a concat": ("concat", "wav", lambda a: ffconcat("evil0.mp3") + f"file '{a}'\n"),
        "m3u": ("hls", "mp3", lambda a: f"#EXTM3U\n#EXTINF:3,x\n{a}\n"),
        "pls": ("none", "mp3", lambda a: f"[playlist]\nFile1={a}\nTitle1=x\nLength1=3\nNumberOfEntries=1\n"),
        "xspf": ("none", "mp3", lambda a: '<?xml version="1.0"?><playlist version="1" xmlns="http://xspf.org/ns/0/">'
                 f"<trackList><track><location>{a}</location></track></trackList></playlist>"),
        "cue sheet": ("none", "wav", lambda a: f'FILE "{a}" WAVE\n  TRACK 01 AUDIO\n    INDEX 01 00:00:00\n'),
        "SMIL": ("none", "mp3", lambda a: f'<smil><body><audio src="{a}"/></body></smil>'),
        "WPL": ("none", "mp3", lambda a: '<?wpl version="1.0"?><smil><body><seq><media src='
                f'"{a}"/></seq></body></smil>'),
        "ASX": ("asf", "mp3", lambda a: f'<ASX version="3.0"><Entry><Ref href="{a}"/></Entry></ASX>'),
        "ASF reference": ("asf", "mp3", lambda a: f"[Reference]\r\nRef1={a}\r\nRef2={a}\r\n"),
        "RAM": ("rm", "mp3", lambda a: f"{a}\n--stop--\n"),
        "RTSP text": ("rtsp", "mp3", lambda a: f"rtsptext\r\n{a}\r\n"),
        "QuickTime media link": ("mov", "mp3", lambda a: '<?xml version="1.0"?><?quicktime type='
                                 f'"application/x-quicktime-media-link"?><embed src="{a}"/>'),
        "desktop entry": ("none", "mp3", lambda a: f"[Desktop Entry]\nType=Link\nURL={a}\n"),
        "internet shortcut": ("none", "mp3", lambda a: f"[InternetShortcut]\r\nURL={a}\r\n"),
        "HTML": ("none", "mp3", lambda a: f'<html><audio src="{a}" autoplay></audio></html>'),
        "SVG": ("svg_pipe", "png", lambda a: '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink='
                f'"http://www.w3.org/1999/xlink"><image xlink:href="{a}"/></svg>'),
        "ffmetadata": ("ffmetadata", "wav", lambda a: f";FFMETADATA1\ntitle={a}\n[STREAM]\ntitle={a}\n"),
        "filter graph": ("lavfi", "wav", lambda a: f"amovie={a}"),
        "filter graph, endless": ("lavfi", "wav", lambda _: "sine=frequency=440[out0]"),
        "AviSynth": ("avisynth", "wav", lambda a: f'WavSource("{a}")\n'),
        "VapourSynth": ("vapoursynth", "wav", lambda a: "import vapoursynth as vs\n"
                        f'open("{a}").read()\nvs.core.ffms2.Source("{a}").set_output()\n'),
        "SBaGen": ("sbg", "wav", lambda a: f"-SE\n-m {a}\nts: pink/40 150+10/50\nNOW ts\n"),
        "SBaGen, a year of it": ("sbg", "wav", lambda _: "-E\nts: 150+10/50\n00:00 ts\n8000:00 ts\n"),
        "shell script": ("none", "wav", lambda a: f"#!/bin/sh\ncat {a}\n"),
        "Python": ("none", "wav", lambda a: f"print(open({a!r}).read())\n"),
        "text": ("none", "wav", lambda a: f"{a}\n"),
        "tty": ("tty", "wav", lambda a: f"\x1b[2J\x1b]0;{a}\x07\n"),
        "subtitles, AQTitle": ("aqtitle", "wav", lambda a: f"-->> 000000\n{a}\n-->> 000030\n\n"),
        "subtitles, LRC": ("lrc", "wav", lambda a: f"[ti:x]\n[00:00.00]{a}\n[00:01.00]{a}\n"),
        "subtitles, SAMI": ("sami", "wav", lambda a: f"<SAMI><BODY><SYNC Start=0><P>{a}</SAMI>"),
        "subtitles, SubRip": ("srt", "wav", lambda a: f"1\n00:00:00,000 --> 00:00:03,000\n{a}\n"),
        "subtitles, WebVTT": ("webvtt", "wav", lambda a: f"WEBVTT\n\n00:00.000 --> 00:03.000\n{a}\n"),
        "subtitles, ASS": ("ass", "wav", lambda a: f"[Script Info]\nTitle: {a}\n[Events]\n"
                           f"Format: Start, End, Text\nDialogue: 0:00:00.00,0:00:03.00,{a}\n"),
        "subtitles, MPSub": ("mpsub", "wav", lambda a: f"FORMAT=TIME\n0 3\n{a}\n"),
        "subtitles, MicroDVD": ("microdvd", "wav", lambda a: f"{{1}}{{75}}{a}\n"),
        "subtitles, JACOsub": ("jacosub", "wav", lambda a: f"#TIMERES 30\n0:00:00.00 0:00:03.00 D {a}\n"),
        "subtitles, RealText": ("realtext", "wav", lambda a: f'<window><time begin="0"/>{a}</window>'),
        "subtitles, SubViewer": ("subviewer", "wav", lambda a: "[INFORMATION]\n[SUBTITLE]\n"
                                 f"00:00:00.00,00:00:03.00\n{a}\n"),
        "subtitles, MPL2": ("mpl2", "wav", lambda a: f"[0][30]{a}\n"),
        "subtitles, VPlayer": ("vplayer", "wav", lambda a: f"00:00:01:{a}\n"),
        "subtitles, PJS": ("pjs", "wav", lambda a: f'0,30,"{a}"\n'),
        "subtitles, Spruce": ("stl", "wav", lambda a: f"00:00:00:00 , 00:00:03:00 , {a}\n"),
        "subtitles, TED": ("tedcaptions", "wav", lambda a: '{"captions":[{"duration":3000,"content":"'
                           f'{a}","startOfParagraph":true,"startTime":0}}]}}'),
        "subtitles, Scenarist": ("scc", "wav", lambda _: "Scenarist_SCC V1.0\n\n00:00:00:00\t9420 9420\n"),
        "subtitles, MacCaption": ("mcc", "wav", lambda a: f"File Format=MacCaption_MCC V1.0\nUUID={a}\n"),
    }  # fmt: skip
    for name, (demuxer, suffix, make) in texts.items():
        yield Hostile(name, text(make, suffix), demuxer)
    for name in ("m3u", "pls", "ASX", "ASF reference", "RAM", "RTSP text", "SMIL", "hls, key", "dash, entities"):
        demuxer, suffix, make = texts[name]
        yield Hostile(f"{name}, http", text(make, suffix, "http"), demuxer)


def neighbours() -> Iterator[Hostile]:
    """What opens the files next to itself, or a whole folder."""
    asset_map = text(
        lambda a: (
            '<?xml version="1.0"?><AssetMap xmlns="http://www.smpte-ra.org/schemas/429-9/2007/AM"><AssetList>'
            "<Asset><Id>urn:uuid:11111111-1111-1111-1111-111111111111</Id><ChunkList><Chunk>"
            f"<Path>{a}</Path></Chunk></ChunkList></Asset></AssetList></AssetMap>"
        ),
        "mka",
    )
    playlist = (
        b'<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016"><Id>'
        b"urn:uuid:22222222-2222-2222-2222-222222222222</Id><ContentTitle>x</ContentTitle>"
        b"<EditRate>24 1</EditRate>"
        b"<SegmentList><Segment><SequenceList><MainAudioSequence><Id>urn:uuid:33333333-3333-3333-3333-333333333333"
        b"</Id><TrackId>urn:uuid:44444444-4444-4444-4444-444444444444</TrackId><ResourceList><Resource><Id>urn:uuid:"
        b"55555555-5555-5555-5555-555555555555</Id><IntrinsicDuration>72</IntrinsicDuration><TrackFileId>urn:uuid:"
        b"11111111-1111-1111-1111-111111111111</TrackFileId></Resource></ResourceList></MainAudioSequence>"
        b"</SequenceList></Segment></SegmentList></CompositionPlaylist>"
    )
    yield Hostile("imf", lambda *_: playlist, "imf", beside=(("ASSETMAP.xml", asset_map),))
    index = (
        b"# VobSub index file, v7\nsize: 720x576\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n"
    )
    yield Hostile("vobsub", lambda *_: index, "vobsub", "evil.idx", (("evil.sub", lambda *_: noise(5000)),))
    lantern = b"MLVI" + struct.pack("<I8sQHHHHIIIII", 52, b"v2.0", 7, 0, 1, 0, 2, 0, 1, 1, 1, 1)
    others = tuple((f"evil.M{number:02}", lambda *_: lantern) for number in range(3))
    yield Hostile("Magic Lantern", lambda *_: lantern + bytes(100), "mlv", "evil.mlv", others)
    for name in ("evil%d.png", "evil%03d.mp3", "evil*.png"):
        picture = (("evil1.png", _png), ("evil001.mp3", _png))
        yield Hostile(f"image sequence {name}", _png, "image2", name.replace("*", "∗"), picture)
    yield Hostile("a picture", _png, "png_pipe")
    yield Hostile("DVD", lambda *_: b"DVDVIDEO-VMG".ljust(4096, b"\0"), "dvdvideo", "VIDEO_TS.IFO")
    for protocol in ("rtp", "sap"):  # named as an address: such a demuxer reads no file
        yield Hostile(f"named {protocol}:", lambda *_: b"x" * 100, protocol, f"{protocol}:127.0.0.1:5004")
    yield Hostile(
        "WebM DASH manifest", lambda _, canary: (canary.folder / "copies" / "canary.mka").read_bytes()[:300],
        "webm_dash_manifest",
    )  # fmt: skip
    yield Hostile("a zip", lambda *_: b"PK\3\4" + bytes(100), "none")


def _png(_: Path, canary: Canary) -> bytes:
    return (canary.folder / "copies" / "canary1.png").read_bytes()


# --- references inside of containers -----------------------------------------------------------------------


def box(kind: bytes, *parts: bytes) -> bytes:
    """A box of MP4."""
    data = b"".join(parts)
    return struct.pack(">I", 8 + len(data)) + kind + data


def full(kind: bytes, *parts: bytes, flags: int = 0) -> bytes:
    """A box with a version and flags."""
    return box(kind, struct.pack(">I", flags), *parts)


def movie(
    reference: bytes, sound: bytes = b"", *, stts: bytes = b"", stsz: bytes = b"", edits: bytes = b"",
    rate: int = RATE, channels: int = 1, more: bytes = b"", samples: int = 0,
) -> bytes:  # fmt: skip
    """A QuickTime movie of 16 bits whose data is where `reference` (an entry of `dref`) says, or behind it."""
    count = samples or max(1, len(sound) // 2)
    matrix = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    head = full(
        b"mvhd", struct.pack(">IIIIIH10x", 0, 0, RATE, count, 0x10000, 0x100), matrix, bytes(24), b"\0\0\0\2"
    )
    track = full(
        b"tkhd", struct.pack(">IIIIIQHHHH", 0, 0, 1, 0, count, 0, 0, 0, 0x100, 0), matrix, bytes(8), flags=7
    )
    entry = box(
        b"sowt", bytes(6), struct.pack(">HHHIHHHHI", 1, 0, 0, 0, channels, 16, 0, 0, min(rate, 65535) << 16)
    )
    table = box(
        b"stbl", full(b"stsd", struct.pack(">I", 1), entry),
        full(b"stts", stts or struct.pack(">III", 1, count, 1)),
        full(b"stsc", struct.pack(">IIII", 1, 1, count & 0xFFFFFFFF, 1)),
        full(b"stsz", stsz or struct.pack(">II", 2, count)), full(b"stco", struct.pack(">II", 1, 44)),
    )  # fmt: skip
    data = box(b"dinf", full(b"dref", struct.pack(">I", 1), reference))
    handler = full(b"hdlr", b"mhlrsoun", bytes(12), b"\0")
    media_head = full(b"mdhd", struct.pack(">IIIIHH", 0, 0, rate, count, 0, 0))
    media = box(b"mdia", media_head, handler, box(b"minf", full(b"smhd", bytes(4)), handler, data, table))
    trak = box(b"trak", track, box(b"edts", full(b"elst", edits)) if edits else b"", media)
    start = box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"free", bytes(8))  # the sound is at 44, as in a WAV
    return start + box(b"mdat", sound) + box(b"moov", head, trak, more)


def alias(path: str) -> bytes:
    """An entry of `dref` that points at a file as Mac OS did: with its name, and its path in a list of extras."""
    up, path = path.count("../"), path.replace("../", "")
    levels = (up + 1, path.count("/") + 1) if up else (-1, -1)  # from here up, and down again; none: as it stands
    name = path.rsplit("/", 1)[-1].encode()[:63]
    head = bytes(4) + struct.pack(">HHH", 150 + len(path), 2, 0) + bytes([4]) + b"disk".ljust(27, b"\0")
    head += bytes(4 + 2 + 2 + 4) + bytes([len(name)]) + name.ljust(63, b"\0") + bytes(16)
    head += struct.pack(">hh", *levels) + bytes(16)
    extras = b""
    for kind, value in ((2, path.replace("/", ":").encode()), (18, path.encode()), (19, b"/")):
        extras += struct.pack(">HH", kind, len(value)) + value + bytes(len(value) % 2)
    return full(b"alis", head, extras, struct.pack(">Hh", 0xFFFF, 0))


def element(kind: str, data: bytes, size: int | None = None) -> bytes:
    """An EBML element."""
    count = len(data) if size is None else size
    return bytes.fromhex(kind) + (1 << 56 | count).to_bytes(8) + data


def matroska(tail: bytes, info: bytes = b"") -> bytes:
    """The head of a Matroska file, then `tail` in its segment."""
    ebml = element("1A45DFA3", element("4282", b"matroska") + element("4287", b"\4") + element("4285", b"\2"))
    return ebml + element("18538067", element("1549A966", element("2AD7B1", b"\x0f\x42\x40") + info) + tail)


def matroska_track(codec: bytes, more: bytes = b"", rate: float = 8000.0) -> bytes:
    """The list of tracks with one of sound."""
    sound = element("E1", element("B5", struct.pack(">d", rate)) + element("9F", b"\1") + element("6264", b"\x10"))
    track = (
        element("D7", b"\1") + element("73C5", b"\1") + element("83", b"\2") + element("86", codec) + sound + more
    )
    return element("1654AE6B", element("AE", track))


def cluster(time: int, data: bytes) -> bytes:
    """A cluster of one block at a time in milliseconds."""
    when = element("E7", time.to_bytes(8))
    return element("1F43B675", when + element("A3", b"\x81\0\0\x80" + data))


def references() -> Iterator[Hostile]:
    """Containers that are on everybody's list, and point elsewhere."""
    for name, entry in (
        ("url", lambda a: full(b"url ", a.encode() + b"\0")),
        ("url, marked as its own", lambda a: full(b"url ", a.encode() + b"\0", flags=1)),
        ("urn", lambda a: full(b"urn ", b"x\0" + a.encode() + b"\0")), ("alias", alias),
    ):  # fmt: skip
        for how in ("absolute", "file://", "../", "http"):
            write = partial(referring_movie, entry, how)
            yield Hostile(f"MOV with its sound in another file: {name}, {how}", write, "mov", own_sound=True)
    yield Hostile(
        "MOV that refers to movies",
        lambda f, c: box(b"ftyp", b"qt  \0\0\0\0") + box(b"moov", box(b"rmra", box(b"rmda", full(
            b"rdrf", b"url ", struct.pack(">I", 200), str(c.file("m4a")).encode() + b"\0")))), "mov",
    )  # fmt: skip
    links = element("3C83AB", b"canary.mka") + element("3EB923", b"\1" * 16) + element("3E83BB", b"canary.mka")
    chapters = element("1043A770", element("45B9", element("45DD", b"\1") + element(
        "B6", element("73C4", b"\1") + element("91", b"\0") + element("6E67", b"\1" * 16))))  # fmt: skip
    sound = matroska_track(b"A_PCM/INT/LIT") + chapters + cluster(0, noise(3200))
    yield Hostile("Matroska linked to another file", lambda *_: matroska(sound, links), "matroska", own_sound=True)
    for name, (make, suffix) in list(SCRIPTS.items())[:3]:
        script = text(make, suffix)
        subtitles, tag = partial(avi_with_subtitles, script), partial(tagged_mp3, script)
        yield Hostile(f"AVI with {name} for its subtitles", subtitles, "avi", own_sound=True)
        yield Hostile(f"MP3 with {name} in its tag", tag, "mp3", own_sound=True)
        block = around(script, lambda said: matroska(matroska_track(b"A_PCM/INT/LIT") + cluster(0, said)))
        yield Hostile(f"Matroska with {name} for its sound", block, "matroska", own_sound=True)
        samples = around(script, lambda said: riff(8000, data=(said * 40)[:8000]))
        yield Hostile(f"WAV with {name} for its sound", samples, "wav", own_sound=True)


def referring_movie(entry: Callable[[str], bytes], how: str, folder: Path, canary: Canary) -> bytes:
    """A movie whose sound is in the canary."""
    return movie(entry(ADDRESSES[how](folder, canary, "wav")), samples=1000)


def tagged_mp3(script: Write, folder: Path, canary: Canary) -> bytes:
    """An MP3 with the script in its tag."""
    tag = id3(_frame(b"TXXX", b"\0x\0" + script(folder, canary)))
    return tag + (canary.folder / "copies" / "own.mp3").read_bytes()


def _frame(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack(">IH", len(data), 0) + data


def avi_with_subtitles(script: Write, folder: Path, canary: Canary) -> bytes:
    """An AVI whose subtitles are a file of their own, for which ffmpeg looks for a demuxer by the content."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    words = script(folder, canary)
    subtitles = b"GAB2\0\2\0" + struct.pack("<I", 2) + b"x\0" + struct.pack("<HI", 4, len(words)) + words
    main = piece(b"avih", struct.pack("<14I", 40000, 0, 0, 0x10, 75, 0, 2, 0, 16, 16, 0, 0, 0, 0))

    def stream(kind: bytes, rate: int, form: bytes) -> bytes:
        head = kind + bytes(16) + struct.pack("<IIIIIIIQ", 1, rate, 0, 75, 4096, 0, 2, 0)
        return piece(b"LIST", b"strl" + piece(b"strh", head) + piece(b"strf", form))

    sound = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    lists = piece(b"LIST", b"hdrl" + main + stream(b"auds\1\0\0\0", 8000, sound) + stream(b"txts\0\0\0\0", 1, b""))
    data = piece(b"00wb", pcm(np.zeros((8000, 1)))) + piece(b"01sb", subtitles)
    return piece(b"RIFF", b"AVI " + lists + piece(b"LIST", b"movi" + data))


# --- what eats a host --------------------------------------------------------------------------------------


def riff(
    rate: int, channels: int = 1, bits: int = 16, size: int | None = None, data: bytes = b"", **more: int
) -> bytes:
    """A WAV with whatever numbers."""
    align = more.get("align", max(1, channels * bits // 8)) & 0xFFFF
    form = struct.pack(
        "<HHIIHH", more.get("form", 1), channels, rate, more.get("speed", rate * align & 0xFFFFFFFF), align, bits
    )
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data"
    body += struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def rates() -> Iterator[Hostile]:
    """WAVs with numbers that nobody's device has."""
    ten = noise(10_000)
    for name, data in (
        ("1 Hz", riff(1, data=ten)), ("2 Hz, 8 bits", riff(2, bits=8, data=ten)), ("0 Hz", riff(0, data=ten)),
        ("2^31 Hz", riff(2**31, data=ten)), ("2^32 - 1 Hz", riff(2**32 - 1, data=ten)),
        ("200 MHz", riff(200_000_000, data=ten[:2000])), ("65535 channels", riff(8000, 65535, 8, data=ten * 20)),
        ("0 channels", riff(8000, 0, data=ten)), ("1000 channels", riff(8000, 1000, 8, data=ten * 20)),
        ("0 bits", riff(8000, 1, 0, data=ten)), ("1 bit", riff(8000, 1, 1, data=ten)),
        ("65535 bits", riff(8000, 1, 65535, data=ten)), ("an align of 0", riff(8000, align=0, data=ten)),
        ("an align of 65535", riff(8000, align=65535, data=ten)), ("a speed of 1", riff(8000, speed=1, data=ten)),
        ("ADPCM of 1 Hz", riff(1, 1, 4, form=0x11, align=1024, data=ten)), ("no frames", riff(8000)),
        ("4 GB claimed", riff(8000, size=0xFFFFFFF0, data=ten)),
        ("an unknown codec", riff(8000, form=0x1234, data=ten)),
        ("MP3 of 1 Hz", riff(1, 1, 0, form=0x55, data=ten)), ("AMR of 1 Hz", riff(1, 1, 0, form=0x57, data=ten)),
    ):  # fmt: skip
        yield Hostile(f"WAV of {name}", fixed(data), "wav", own_sound=True)
    floats = {"0": bytes(10), "infinite": b"\x7f\xff" + b"\x80".ljust(8, b"\0"), "huge": b"\x40\x3e" + b"\xff" * 8,
              "1 Hz": b"\x3f\xff" + b"\x80".ljust(8, b"\0"), "negative": b"\xc0\x0e" + b"\xff" * 8}  # fmt: skip
    for name, rate in floats.items():
        yield Hostile(f"AIFF of {name} rate", partial(_aiff, rate), "aiff", own_sound=True)
    for name, numbers in (
        ("2^32 - 1 channels", (28, 0xFFFFFFFF, 3, 8000, 2**32 - 1)), ("1 Hz", (28, 0xFFFFFFFF, 3, 1, 1)),
        ("its data at 4 GB", (2**32 - 1, 0xFFFFFFFF, 3, 8000, 1)),
    ):  # fmt: skip
        data = b".snd" + struct.pack(">5I", *numbers) + bytes(4) + noise(10_000)
        yield Hostile(f"AU of {name}", fixed(data), "au", own_sound=True)
    for hertz in (0.001, 1.0, 1e300, math.nan, -1.0):
        yield Hostile(f"CAF of {hertz} Hz", partial(_caf, hertz), "caf", own_sound=True)


def _aiff(rate: bytes, *_: object) -> bytes:
    common = struct.pack(">HIH", 1, 0xFFFFFFF0, 16) + rate
    parts = b"COMM" + struct.pack(">I", len(common)) + common + b"SSND" + struct.pack(">III", 10_008, 0, 0)
    return b"FORM" + struct.pack(">I", 10_100) + b"AIFF" + parts + noise(10_000)


def _caf(rate: float, *_: object) -> bytes:
    form = b"desc" + struct.pack(">Qd4sIIIII", 32, rate, b"lpcm", 0, 2, 1, 1, 16)
    table = b"pakt" + struct.pack(">QQQII", 24, 2**40, 2**50, 0, 0)
    return b"caff\0\1\0\0" + form + table + b"data" + struct.pack(">qI", -1, 0) + noise(10_000)


def eaters() -> Iterator[Hostile]:
    """Small files that are large, endless or deep inside."""
    own = full(b"url ", flags=1)
    sound = pcm(np.zeros((4000, 1)))
    many = struct.pack(">III", 1, 0xFFFFFFFF, 1)
    far = struct.pack(">I", 2) + struct.pack(">Iihh", 0x7FFFFFFF, -1, 1, 0) + struct.pack(">Iihh", 4000, 0, 1, 0)
    repeated = struct.pack(">I", 100) + struct.pack(">Iihh", 4000, 0, 1, 0) * 100
    boxes: dict[str, Callable[[], bytes]] = {
        "MOV of 4 billion samples": lambda: movie(own, sound, stts=many, stsz=struct.pack(">II", 2, 0xFFFFFFFF)),
        "MOV of 60 million samples of no bytes": lambda: movie(own, sound, samples=60_000_000),
        "MOV of 1 Hz": lambda: movie(own, sound, rate=1), "MOV of 0 Hz": lambda: movie(own, sound, rate=0),
        "MOV of 65535 channels": lambda: movie(own, sound, channels=65535),
        "MOV that starts after 37 hours": lambda: movie(own, sound, edits=far),
        "MOV that plays its sound 100 times": lambda: movie(own, sound, edits=repeated),
        "MOV whose samples last for days": lambda: movie(own, sound, stts=struct.pack(">III", 1, 4000, 2**31 - 1)),
        "boxes in boxes": lambda: box(b"ftyp", b"M4A \0\0\0\0") + _nested(30_000, b"moov"),
        "tracks in tracks": lambda: box(b"ftyp", b"M4A \0\0\0\0") + _nested(3_000, b"trak"),
        "a thousand tracks": lambda: box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov", box(b"trak") * 100_000),
        "boxes of no size": lambda: box(b"ftyp", b"M4A \0\0\0\0") + b"\0\0\0\1free" + bytes(8) + b"\0\0\0\0moov",
        "a box of 2^63 bytes": lambda: box(b"ftyp", b"M4A \0\0\0\0") + b"\0\0\0\1moov" + b"\x7f" + b"\xff" * 7,
        "a compressed moov of 50 MB": _compressed_moov,
    }  # fmt: skip
    for name, make in boxes.items():
        yield Hostile(name, later(make), "mov", own_sound=True)
    track, day = matroska_track(b"A_PCM/INT/LIT"), 86_400_000
    packed = element("6D80", element("6240", element("5034", element("4254", b"\0"))))
    bomb = zlib.compress(bytes(20_000_000), 9)
    ebml: dict[str, Callable[[], bytes]] = {
        "Matroska with a gap of 100 days": lambda: matroska(track + cluster(0, sound) + cluster(100 * day, sound)),
        "Matroska that starts after 10 years": lambda: matroska(track + cluster(3650 * day, sound)),
        "Matroska whose time jumps back and forth": lambda: matroska(
            track + b"".join(cluster(day * (number % 2), sound[:160]) for number in range(500))
        ),
        "Matroska with a bomb for its sound": lambda: matroska(
            matroska_track(b"A_PCM/INT/LIT", packed) + cluster(0, bomb) * 20
        ),
        "Matroska of 1 Hz": lambda: matroska(matroska_track(b"A_PCM/INT/LIT", rate=1.0) + cluster(0, sound)),
        "Matroska of 1e300 Hz": lambda: matroska(matroska_track(b"A_PCM/INT/LIT", rate=1e300) + cluster(0, sound)),
        "Matroska of segments in segments": lambda: matroska(b"\x18\x53\x80\x67\x01" + b"\xff" * 7) * 1000,
        "Matroska of masters in masters": lambda: matroska(b"\x1f\x43\xb6\x75\xff\xa0\xff" * 20_000),
        "Matroska of tags in tags": lambda: matroska(
            b"\x12\x54\xc3\x67\xff\x73\x73\xff" + b"\x67\xc8\xff" * 20_000
        ),
        "Matroska of a thousand tracks": lambda: matroska(track * 5000 + cluster(0, sound)),
    }  # fmt: skip
    for name, make in ebml.items():
        yield Hostile(name, later(make), "matroska", own_sound=True)


def _nested(depth: int, kind: bytes) -> bytes:
    """Boxes each in the next: their heads alone."""
    return b"".join(struct.pack(">I", 8 * (depth - number)) + kind for number in range(depth))


def _compressed_moov() -> bytes:
    bomb = zlib.compress(bytes(50_000_000), 9)
    packed = box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", struct.pack(">I", 50_000_000), bomb))
    return box(b"ftyp", b"qt  \0\0\0\0") + box(b"moov", packed)


def streams() -> Iterator[Hostile]:
    """The same for streams of frames and for tags."""
    flac = b"fLaC\0\0\0\x22" + struct.pack(">HH", 4096, 4096) + bytes(6)
    info = flac + ((8000 << 44) | (15 << 36) | (2**36 - 1)).to_bytes(8) + bytes(16)
    claims = b"fLaC\x06\xff\xff\xff" + bytes(1000)
    vorbis = contained("Ogg Vorbis")
    picture = _frame(b"APIC", zlib.compress(bytes(20_000_000), 9))
    files: dict[str, tuple[str, Callable[[Path], bytes]]] = {
        "MP3 of 0xFF": ("mp3", lambda _: b"\xff" * 500_000),
        "MP3 of sync words": ("mp3", lambda _: b"\xff\xfb\x90\x64" * 100_000),
        "MP3 of one frame's head": ("mp3", lambda _: b"\xff\xfb\x90\x64"),
        "ID3 tags, 20 000 of them": ("mp3", lambda _: id3() * 20_000),
        "ID3 tag of 256 MB": ("mp3", lambda _: b"ID3\4\0\0\x7f\x7f\x7f\x7f" + noise(1000)),
        "ID3 frames, compressed": ("mp3", lambda _: b"ID3\4\0\0" + id3(picture)[6:] + noise(1000)),
        "ADTS of sync words": ("aac", lambda _: b"\xff\xf1\x50\x80\x00\xff\xfc" * 50_000),
        "FLAC of 2^36 samples": ("flac", lambda _: info + noise(100)),
        "FLAC whose picture has 16 MB": ("flac", lambda _: claims),
        "FLAC of 100 000 blocks": ("flac", lambda _: info + b"\x04\0\0\0" * 100_000),
        "Ogg of one page again and again": ("ogg", lambda _: ogg_page([noise(100)], 0, 0, 2) * 20_000),
        "Ogg of 5000 streams": ("ogg", _many_streams),
        "Ogg whose time jumps to the end": ("ogg", lambda f: _last_granule(vorbis(f).read_bytes())),
        "Ogg of no pages": ("ogg", lambda _: b"OggS\0" * 50_000),
        "TTA of 1 Hz": ("tta", lambda _: b"TTA1" + struct.pack("<HHHII", 1, 1, 16, 1, 2**31) + noise(10_004)),
        "WavPack of 2^32 samples": ("wv", lambda _: b"wvpk" + struct.pack(
            "<IHBBIIIII", 24, 0x410, 0, 0, 2**32 - 1, 0, 2**31, 0, 0) + noise(1000)),
        "Monkey's Audio of a billion frames": ("ape", lambda _: b"MAC " + struct.pack(
            "<HHIIIIIIHHI", 3990, 0, 52, 24, 2**30, 0, 0, 0, 1000, 1, 8000) + noise(10_000)),
        "AMR of a million empty frames": ("amr", lambda _: b"#!AMR\n" + b"\x7c" * 1_000_000),
        "AMR of nothing": ("amr", lambda _: b"#!AMR\n"),
        "voice file that repeats for ever": ("voc", lambda _: b"Creative Voice File\x1a\x1a\0\x0a\1\x29\x11"
            b"\6\2\0\0\xff\xff" b"\1\x42\0\0\x80\0" + bytes(64) + b"\7\0\0\0"),
        "ASF of endless packets": ("asf", lambda _: bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
                                   + struct.pack("<QIBB", 30, 0, 1, 2) + bytes(5000)),
        "FLV whose tags point at themselves": ("flv", lambda _: b"FLV\1\4\0\0\0\x09" + bytes(4)
            + b"\x08\0\0\0" * 50_000),
        "MPEG-TS of null packets": ("mpegts", lambda _: (b"\x47\x1f\xff\x10" + bytes(184)) * 5000),
        "MPEG-PS of pack headers": ("mpeg", lambda _: (b"\0\0\1\xba\x44" + bytes(9)) * 20_000),
        "AVI of lists in lists": ("avi", lambda _: b"RIFF\xff\xff\xff\xffAVI "
            + b"LIST\xff\xff\xff\xffhdrl" * 20_000),
        "W64 of a negative size": ("w64", lambda _: bytes.fromhex("726966662e91cf11a5d628db04c10000") + b"\xff" * 8
                                   + bytes.fromhex("77617665f3acd3118cd100c04f8edb8a") + b"fmt " + b"\xff" * 100),
        "RealMedia": ("rm", lambda _: b".RMF\0\0\0\x12\0\0" + b"\xff" * 5000),
        "tracker module that loops for ever": ("libopenmpt", lambda _: _module()),
        "game music that plays for ever": ("libgme", lambda _: b"NESM\x1a\1\1\1\0\x80\0\x80\0\x80".ljust(
            128, b"\0") + b"\x60" * 64),
        "random bytes": ("none", lambda _: noise(300_000)), "zeros": ("none", lambda _: bytes(1_000_000)),
        "nothing": ("none", lambda _: b""), "one byte": ("none", lambda _: b"\xff"),
    }  # fmt: skip
    for name, (demuxer, content) in files.items():
        yield Hostile(name, partial(_in_folder, content), demuxer, own_sound=True)


def _in_folder(content: Callable[[Path], bytes], folder: Path, _: Canary) -> bytes:
    return content(folder)


def _many_streams(_: Path) -> bytes:
    """Ogg pages that each begin a stream."""
    return b"".join(
        page[:14] + struct.pack("<I", number) + page[18:]
        for number in range(5000)
        for page in [ogg_page([b"\1vorbis" + struct.pack("<IBIiiiBB", 0, 1, 8000, 0, 0, 0, 0xB8, 1)], 0, 0, 2)]
    )


def _last_granule(data: bytes) -> bytes:
    """The Ogg with the highest time on its last page; its checksum is right for readers that do not look."""
    place = data.rindex(b"OggS") + 6
    return data[:place] + struct.pack("<q", 2**62) + data[place + 8 :]


def _module() -> bytes:
    """A MOD with an order list that jumps to its own start."""
    samples = b"x".ljust(22, b"\0") + struct.pack(">HBBHH", 16, 0, 64, 0, 16)
    pattern = bytearray(1024)
    pattern[0:4] = bytes([0x01, 0xAC, 0x1B, 0x00])  # a note, and effect B00
    return (
        b"loop".ljust(20, b"\0")
        + samples * 31
        + bytes([1, 127])
        + bytes(128)
        + b"M.K."
        + bytes(pattern)
        + noise(992)
    )


# --- words -------------------------------------------------------------------------------------------------


def words() -> Iterator[Hostile]:
    """Files that say what a host in trouble says."""
    for said in SAYS:
        text_of = said.encode()
        yield Hostile(f"concat: /{said}", fixed(ffconcat(f"/{said}").encode()), "concat")
        yield Hostile(f"noise named {said}", fixed(noise(5000)), "none", f"{said.replace('/', ' ')}.mp3")
        title = box(b"ilst", box(b"\xa9nam", box(b"data", bytes(8) + text_of)))
        broken = box(b"moov", box(b"udta", full(b"meta", title)), box(b"trak"))
        m4a = box(b"ftyp", b"M4A \0\0\0\0") + broken
        yield Hostile(f"broken M4A that says {said}", fixed(m4a), "mov")
        unknown = matroska(matroska_track(b"A_" + text_of + b": " + text_of) + cluster(0, noise(500)))
        yield Hostile(f"Matroska whose codec is {said}", fixed(unknown), "matroska")
        info = b"INFOINAM" + struct.pack("<I", 32) + text_of.ljust(32, b"\0")
        tag = b"LIST" + struct.pack("<I", len(info)) + info
        empty = riff(8000).replace(b"data", tag + b"data")
        yield Hostile(f"WAV tagged {said}, without sound", fixed(empty), "wav")


CASES = [
    *scripts(), *disguised(), *playlists(), *neighbours(), *references(), *rates(), *eaters(), *streams(),
    *words(),
]  # fmt: skip
OPENERS = frozenset(
    (
        "concat", "dash", "hls", "imf", "image2", "mlv", "mov", "vobsub", "sdp", "rtsp", "rtp", "sap", "avisynth",
        "vapoursynth", "lavfi", "dvdvideo", "webm_dash_manifest",
    )
)  # fmt: skip
