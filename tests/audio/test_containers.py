"""pipeline/audio/containers.py: what kind of recording a file is, by its bytes alone, and what is none."""

import functools
import gzip
import io
import random
import re
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audio import containers, frame_formats
from pipeline.audio.containers import MOST_READ, recognise, recognise_file
from tests.support.ffmpegs import PINNED, every_ffmpeg, others
from tests.unpack.test_archive import tar_bytes

AMR = ("-c:a", "libopencore_amrnb", "-ar", "8000", "-ac", "1")
MADE = {  # what ffmpeg writes: muxer, options, and the demuxer that is to be found
    "wav": ("wav", (), "wav"),
    "wav, RF64": ("wav", ("-rf64", "always"), "wav"),
    "wav, MP3": ("wav", ("-c:a", "libmp3lame"), "wav"),
    "wav, A-law": ("wav", ("-c:a", "pcm_alaw"), "wav"),
    "w64": ("w64", (), "w64"),
    "aiff": ("aiff", (), "aiff"),
    "aifc": ("aiff", ("-c:a", "pcm_s16le"), "aiff"),
    "au": ("au", (), "au"),
    "caf": ("caf", (), "caf"),
    "flac": ("flac", (), "flac"),
    "mp3": ("mp3", (), "mp3"),
    "mp3, no tag": ("mp3", ("-id3v2_version", "0", "-write_xing", "0"), "mp3"),
    "mp3, 8 kHz": ("mp3", ("-ar", "8000"), "mp3"),
    "mp2": ("mp2", (), "mp3"),
    "aac": ("adts", (), "aac"),
    "loas": ("latm", ("-c:a", "aac"), "loas"),
    "vorbis": ("ogg", ("-c:a", "libvorbis"), "ogg"),
    "opus": ("ogg", ("-c:a", "libopus"), "ogg"),
    "ogg flac": ("ogg", ("-c:a", "flac"), "ogg"),
    "speex": ("ogg", ("-c:a", "libspeex"), "ogg"),
    "m4a": ("ipod", (), "mov"),
    "alac": ("ipod", ("-c:a", "alac"), "mov"),
    "mp4, in parts": ("mp4", ("-movflags", "frag_keyframe+empty_moov"), "mov"),
    "mp4, index first": ("mp4", ("-movflags", "faststart"), "mov"),
    "mov": ("mov", ("-c:a", "pcm_s16le"), "mov"),
    "3gp": ("3gp", AMR, "mov"),
    "3g2": ("3g2", ("-c:a", "aac"), "mov"),
    "mka": ("matroska", ("-c:a", "libvorbis"), "matroska"),
    "webm": ("webm", ("-c:a", "libopus"), "matroska"),
    "wma": ("asf", (), "asf"),
    "amr": ("amr", AMR, "amr"),
    "avi": ("avi", (), "avi"),
    "flv": ("flv", ("-ar", "44100"), "flv"),
    "mpeg": ("mpeg", (), "mpeg"),
    "vob": ("vob", (), "mpeg"),
    "ts": ("mpegts", (), "mpegts"),
    "m2ts": ("mpegts", ("-mpegts_m2ts_mode", "1"), "mpegts"),
    "ac3": ("ac3", (), "ac3"),
    "eac3": ("eac3", (), "eac3"),
    "dts": ("dts", ("-c:a", "dca", "-strict", "-2", "-ar", "48000"), "dts"),
    "wv": ("wv", ("-c:a", "wavpack"), "wv"),
    "tta": ("tta", (), "tta"),
    "voc": ("voc", (), "voc"),
    "gsm": ("gsm", ("-ar", "8000", "-ac", "1"), "gsm"),
    "ircam": ("ircam", (), "ircam"),
    "sox": ("sox", (), "sox"),
    "rm": ("rm", ("-c:a", "ac3"), "rm"),
}
FRAME = b"\xff\xfb\x90\x64" + bytes(413)  # MPEG-1, layer III, 128 kb/s, 44.1 kHz
ID3 = b"ID3\x03\0\0\0\0\x08\0" + bytes(1024)
GSM = bytes.fromhex("d820a2e15a50004924924924500049249249245000492492492450004924924924")  # of silence
PCM = bytes(range(256)) * 8
SPHERE = (
    b"NIST_1A\n   1024\nsample_count -i 1024\nsample_n_bytes -i 2\nchannel_count -i 1\nsample_byte_format -s2 01\n"
    b"sample_rate -i 8000\nsample_coding -s3 pcm\nend_head\n"
)


def mono_wav(order: str) -> bytes:
    """A WAV of 1,024 samples; RIFX has the other byte order."""

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)  # type: ignore[arg-type]

    sizes = ((1, 2), (1, 2), (8000, 4), (16000, 4), (2, 2), (16, 2))
    form = b"".join(number(*pair) for pair in sizes)
    head = b"WAVEfmt " + number(16, 4) + form + b"data" + number(len(PCM), 4) + PCM
    return (b"RIFF" if order == "little" else b"RIFX") + number(len(head), 4) + head


AUDIBLE = {  # written by hand, and read by ffmpeg
    "RIFX": (mono_wav("big"), "wav"),
    "AMR-NB": (b"#!AMR\n" + (b"\x3c" + bytes(31)) * 50, "amr"),
    "AMR-WB": (b"#!AMR-WB\n" + (b"\x44" + bytes(60)) * 50, "amr"),
    "GSM": (GSM * 50, "gsm"),
    "SPHERE": (SPHERE.ljust(1024, b" ") + PCM, "nistsphere"),
    "SPHERE, padded with zeros": (SPHERE.ljust(1024, b"\0") + PCM, "nistsphere"),
    "iLBC": (b"#!iLBC30\n" + bytes(50 * 50), "ilbc"),
    "PVF": (b"PVF1\n1 8000 16\n" + PCM, "pvf"),
    "MPEG audio without a tag": (FRAME * 40, "mp3"),
    "two tags": (ID3 + ID3 + FRAME * 40, "mp3"),
    "a tag and padding": (ID3 + bytes(5000) + FRAME * 40, "mp3"),
    "a tag and much padding": (ID3 + bytes(150_000) + FRAME * 40, "mp3"),
    "a cover of 3 MB": (b"ID3\x04\0\0\x01\x40\0\0" + bytes((1 << 21) + (64 << 14)) + FRAME * 40, "mp3"),
    "junk in front": (random.Random(1).randbytes(9000) + FRAME * 40, "mp3"),
    "junk that ends like a sync word": (b"\0\xff\xff" + FRAME * 40, "mp3"),
    "an APE tag in front": (b"APETAGEX" + bytes(500) + FRAME * 40, "mp3"),
    "the end of a frame in front": (FRAME[100:] + FRAME * 40, "mp3"),
}
MAGICS = {  # as their own documents say, without the rest
    "MAC \x96\x0f": "ape",
    "MPCK": "mpc8",
    "MP+\x07": "mpc",
    "ajkg": "shn",
    "tBaK": "tak",
    "DSD \x1c\0\0\0": "dsf",
    "FORM\0\0\1\0008SVX": "iff",
    "FORM\0\0\1\0AIFC": "aiff",
    "RIFF\0\0\0\0QLCMfmt ": "qcp",
    "RIFF\0\0\0\0XWMA": "xwma",
    "\2dss": "dss",
    "#!AMR_MC1.0\n": "amr",
    "#!AMR-WB_MC1.0\n": "amr",
    "ea3\3": "oma",
    " paf\0\0\0\0": "epaf",
    ".ra\xfd": "rm",
    "2BIT": "avr",
    "BW64\0\0\0\0WAVE": "wav",
    "ALawSoundFile**\0": "wve",
    "\x1f\xff\xe8\0\7\xf1": "dts",
    "FLV\1\5": "flv",
    "\0\0\0\x1cftypqt  ": "mov",
    "\0\0\0\x08wide\0\0\1\0mdat": "mov",
    "\0\0\0\1mdat\0\0\0\0\0\0\0\x20": "mov",
    "\0\0\0\0mdat": "mov",
    "\0\0\1\0moov": "mov",
}


def found(data: bytes) -> str | None:
    return recognise(data[:4096], reader(data), len(data))


def reader(data: bytes) -> containers.ReadAt:
    return lambda offset, length: data[offset : offset + length]


@functools.cache
def made(kind: str) -> bytes | None:
    """Half a second of noise in this form, by whichever ffmpeg can write it."""
    muxer, options, _ = MADE[kind]
    for program in (PINNED, *others()):
        with tempfile.TemporaryDirectory() as folder:
            noise = ("-f", "lavfi", "-i", "anoisesrc=d=0.5:a=0.1:r=44100")
            command = [str(program), "-v", "error", *noise, *options, "-f", muxer, f"{folder}/made"]
            if subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).returncode == 0:
                return Path(folder, "made").read_bytes()
    return None


def decoded(program: Path, demuxer: str, path: Path) -> int:
    """How many samples at 8 kHz an ffmpeg makes of a file."""
    command = [
        str(program),
        "-v",
        "error",
        "-f",
        demuxer,
        "-i",
        str(path),
        "-f",
        "s16le",
        "-ac",
        "1",
        "-ar",
        "8000",
        "-",
    ]
    return len(subprocess.run(command, capture_output=True, check=False, stdin=subprocess.DEVNULL).stdout) // 2


# --- recordings --------------------------------------------------------------------------------------------


@every_ffmpeg
@pytest.mark.parametrize("kind", MADE)
def test_what_ffmpeg_writes_is_recognised_and_read(tmp_path: Path, kind: str, ffmpeg: Path) -> None:
    data, (_, _, demuxer) = made(kind), MADE[kind]
    if data is None:
        pytest.skip("no ffmpeg here can write it")
    (tmp_path / "x").write_bytes(data)
    with (tmp_path / "x").open("rb") as file:
        assert recognise_file(file) == demuxer
        assert file.tell() == 0
    assert decoded(ffmpeg, demuxer, tmp_path / "x") == pytest.approx(4000, abs=1000)


@every_ffmpeg
@pytest.mark.parametrize("kind", AUDIBLE)
def test_what_others_write_is_recognised_and_read(tmp_path: Path, kind: str, ffmpeg: Path) -> None:
    data, demuxer = AUDIBLE[kind]
    assert found(data) == demuxer
    (tmp_path / "x").write_bytes(data)
    assert decoded(ffmpeg, demuxer, tmp_path / "x") > 100


@pytest.mark.parametrize(("magic", "demuxer"), MAGICS.items())
def test_a_magic_is_recognised(magic: str, demuxer: str) -> None:
    assert found(magic.encode("latin-1") + bytes(range(256)) * 20) == demuxer


@pytest.mark.parametrize("kind", ["wav", "aiff", "flac", "aac", "ac3", "amr", "caf", "wv", "tta", "opus", "webm"])
def test_tags_in_front_of_anything_are_passed_over_and_counted(kind: str) -> None:
    data = made(kind)
    if data is None:
        pytest.skip("no ffmpeg here can write it")
    for tags in (ID3, ID3 + ID3, b"ID3\x04\0\x10\0\0\0\x03abc3DI\x04\0\x10\0\0\0\x03"):
        assert found(tags + data) == MADE[kind][2]
        tagged = tags + data
        assert containers.tag_bytes(tagged[:100], reader(tagged), len(tagged)) == len(tags)


def test_one_whole_frame_is_a_recording() -> None:
    assert found(FRAME) == found(FRAME + b"TAG" + bytes(125)) == found(FRAME + bytes(500)) == "mp3"
    assert found(FRAME[:-1]) is found(FRAME + b"x") is None


def test_a_transport_stream_may_begin_anywhere() -> None:
    data = made("ts")
    assert data is not None
    for start in range(188):
        assert found(data[start:]) == "mpegts"


def test_a_cut_recording_is_still_one() -> None:
    for kind, (_, _, demuxer) in MADE.items():
        data = made(kind) or b""
        assert not data or found(data[: len(data) // 2]) == demuxer


def test_every_mpeg_frame_has_the_length_that_ffmpeg_gives_it() -> None:
    """Of a file without a tag, each frame begins where the one before ends."""
    for kind in ("mp3, no tag", "mp2", "mp3, 8 kHz", "aac", "ac3", "eac3", "loas"):
        data = made(kind)
        assert data is not None
        data = data[containers.tag_bytes(data, reader(data), len(data)) :]
        read = dict(frame_formats.CHAINED)[MADE[kind][2]]
        at = count = 0
        while at < len(data):
            frame = read(data[at : at + 16])
            assert frame is not None, (kind, at)
            at, count = at + frame.length, count + 1
        assert at == len(data)
        assert count > 5


# --- ffmpeg ------------------------------------------------------------------------------------------------

NAMES = (
    {name for name, _ in containers._MAGICS}
    | {name for name, _ in frame_formats.CHAINED}
    | {"mov", "mpegts", "gsm"}
)
# Demuxers that open other files, reach the network, run something, take any bytes, or are no sound.
NEVER = """
    concat concatf hls applehttp dash sdp rtsp rtp sap imf image2 image2pipe webm_dash_manifest lavfi tedcaptions
    tty vapoursynth avisynth mpjpeg ffmetadata srt ass webvtt rawvideo s16le u8 alaw mulaw data bin bit libgme
    libopenmpt live_flv gif apng ivf alias_pix bluray dvdvideo vobsub mpl2 jacosub sami
""".split()  # noqa: SIM905


@every_ffmpeg
def test_ffmpeg_has_every_demuxer_that_may_be_named(ffmpeg: Path) -> None:
    done = subprocess.run([ffmpeg, "-hide_banner", "-demuxers"], capture_output=True, text=True, check=True)
    listed = re.findall(r"(?m)^ +D[d ]* +(\S+)", done.stdout)
    assert {name for names in listed for name in names.split(",")} >= NAMES


def test_nothing_that_opens_other_files_is_ever_named() -> None:
    assert not NAMES & set(NEVER)
    assert len(NAMES) == 45


# --- what is none ------------------------------------------------------------------------------------------

SCRIPTS = {
    "ffconcat": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "concat": b"file 'a.wav'\nfile 'b.wav'\n" * 300,
    "HLS": b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n/etc/passwd\n",
    "DASH": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n',
    "SDP": b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=audio 5004 RTP/AVP 0\n",
    "PLS": b"[playlist]\nFile1=/x.mp3\n",
    "ASX": b"<asx version='3.0'><entry><ref href='http://x/'/></entry></asx>",
    "ASF reference": b"[Reference]\nRef1=http://localhost/x.asf\n",
    "RAM": b"rtsp://localhost/x.rm\n",
    "IMF": b'<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2013"/>',
    "SRT": b"1\n00:00:00,000 --> 00:00:01,000\nhello\n",
    "WebVTT": b"WEBVTT\n\n00:00.000 --> 00:01.000\nhi\n",
    "ffmetadata": b";FFMETADATA1\ntitle=x\n",
    "lavfi": b"amovie=/etc/passwd",
    "shell": b"#!/bin/sh\nreboot\n",
    "CUE": b'FILE "x.wav" WAVE\n',
    "subtitles": b"{0}{10}text\n" * 9,
    "tedcaptions": b'{"captions":[{"duration":1}]}',
    "UTF-16": "#EXTM3U\n/etc/passwd\n".encode("utf-16"),
    "UTF-16, G": ("G" * 3000).encode("utf-16"),
    "text like a WAV": b"RIFF    WAVEfmt \n" * 99,
    "text like an AMR": b"#!AMR\nfile x\n",
    "text like a SPHERE": b"NIST_1A",
    "text after a tag": ID3 + b"#EXTM3U\n/etc/passwd\n",
    "a script after two tags": ID3 + ID3 + b"ffconcat version 1.0\n",
}


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a.mp3", FRAME * 40)
    return buffer.getvalue()


BINARIES = {
    "nothing": b"",
    "a byte": b"\xff",
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "A-law silence": b"\xd5" * 9000,
    "mu-law silence": b"\xff\x7f" * 9000,
    "PNG": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "GIF": b"GIF89a\1\0\1\0",
    "JPEG": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(90) + FRAME * 9,
    "WebP": b"RIFF\x10\0\0\0WEBPVP8 ",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x18ftypavif\0\0\0\0",
    "PDF": b"%PDF-1.7\n%\xe2\xe3",
    "ZIP of an MP3": zipped(),
    "tar of an MP3": tar_bytes(("a.mp3", FRAME * 40)),
    "gzip": gzip.compress(FRAME * 40),
    "ELF": b"\x7fELF\2\1\1" + bytes(9) + FRAME * 9,
    "EXE": b"MZ\x90\0" + bytes(60) + FRAME * 9,
    "MIDI": b"MThd\0\0\0\6",
    "SQLite": b"SQLite format 3\0" + FRAME * 9,
    "ILBM": b"FORM\0\0\1\0ILBM",
    "a tag alone": ID3,
    "Matroska of what": b"\x1aE\xdf\xa3",
    "RIFF of what": b"RIFF\0\0\0\0sfbk",
    "two frames in junk": b"\0junk" * 200 + FRAME + FRAME + b"junk" * 300,
    "7 frames of GSM": GSM * 7,
    "boxes without end": b"\0\0\0\x08free" * 5000,
    "a box of no length": b"\0\0\0\0free",
}


@pytest.mark.parametrize("data", [*SCRIPTS.values(), *BINARIES.values()], ids=[*SCRIPTS, *BINARIES])
def test_what_is_no_recording_is_none(data: bytes) -> None:
    assert found(data) is None
    assert not containers.is_surely_one(data[:32], reader(data), len(data))


settings.register_profile("containers", deadline=None, derandomize=True, database=None)
every_example = settings(
    settings.get_profile("containers"), max_examples=400, suppress_health_check=list(HealthCheck)
)


@every_example
@given(data=st.binary(max_size=9000))
def test_random_bytes_are_none(data: bytes) -> None:
    assert found(data) is None


def test_much_noise_is_none() -> None:
    for seed in range(60):
        assert found(random.Random(seed).randbytes(seed * 2000)) is None


@every_example
@given(text=st.text(max_size=3000), form=st.sampled_from(["utf-8", "utf-16", "utf-32"]))
def test_any_text_is_none(text: str, form: str) -> None:
    assert found(text.encode(form, "surrogatepass")) is None


magics = st.sampled_from(
    [data[:64] for data, _ in AUDIBLE.values()] + [magic.encode("latin-1") for magic in MAGICS]
)


@every_example
@given(parts=st.lists(st.one_of(magics, st.binary(max_size=70), st.just(ID3), st.just(FRAME)), max_size=12))
def test_any_input_is_one_of_the_list_or_none(parts: list[bytes]) -> None:
    data = b"".join(parts)
    assert found(data) in {None, *NAMES}
    if containers.is_surely_one(data[:32], reader(data), len(data)):
        assert found(data) is not None


@pytest.mark.parametrize("kind", MADE)
def test_a_cut_anywhere_and_any_flipped_bit_raise_nothing(kind: str) -> None:
    data = (made(kind) or b"")[:1500]
    for length in range(len(data)):
        assert found(data[:length]) in (None, MADE[kind][2])
    for at in range(0, min(len(data), 64)):
        for bit in range(8):
            assert found(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]) in {None, *NAMES}


# --- cost --------------------------------------------------------------------------------------------------

COSTLY = {
    "zeros": b"\0",
    "ones": b"\xff",
    "a tag of nothing": b"ID3\3\0\0\0\0\0\0",
    "sync words": FRAME[:4],
    "free boxes": b"\0\0\0\x08free",
    "large boxes": b"\0\x01\0\0free" + bytes(0xFFF8),
    "transport": b"G\0\0\x10" * 47,
    "syncs of AAC": b"\xff\xf1\x50\x80\0\x1f\xfc",
    "tags": ID3,
    "frames of many kinds": FRAME + FRAME.replace(b"\x90", b"\x94"),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_little_is_read_and_soon(kind: str) -> None:
    """Of a terabyte that goes on like this."""
    unit = COSTLY[kind]
    block = unit * (2**21 // len(unit) + 1)
    read = 0

    def read_at(offset: int, length: int) -> bytes:
        nonlocal read
        assert offset >= 0
        assert 0 < length <= 2**20
        read += length
        start = offset % len(unit)
        return block[start : start + length]

    started = time.process_time()
    recognise(block[:4096], read_at, 2**40)
    assert read <= MOST_READ
    containers.is_surely_one(block[:32], read_at, 2**40)
    assert time.process_time() - started < 1


def test_a_file_that_has_shrunk_is_no_error() -> None:
    assert recognise(ID3[:10], lambda offset, length: b"", 5000) is None
    assert recognise(b"", lambda offset, length: b"", 5000) is None
