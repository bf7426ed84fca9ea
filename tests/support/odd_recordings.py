"""Odd but legitimate recordings, each with what a careful reader finds in it.

Nothing is downloaded. Each speaker is made: a tone of its own that rises and falls like syllables, with pauses of
its own, and a hiss. So a test can tell from the Opus who is heard, in which channel and when. Files are written by
the pinned ffmpeg or byte by byte. `CASES` has them all; those of the table of faults that were seen have `row`.
"""

import random
import struct
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.support.fleet import ffmpeg_program

Samples = np.ndarray[Any, np.dtype[np.float64]]  # one row a moment, one column a channel
Make = Callable[[Path], Path]

RATE = 16_000
SECONDS = 3.0  # of a recording, where nothing else is said
INVERTED, SILENT, GAP, MISSING_END, ERRORS, HEADER, TRACK = (
    frozenset({code})
    for code in (
        "inverted_channel", "silent_channel", "gap", "missing_end", "decode_errors", "wrong_header",
        "ignored_track",
    )
)  # fmt: skip
NONE: frozenset[str] = frozenset()


class Said(NamedTuple):
    """What `speaker` says from `start` to `end` of its own time is heard from `at` on."""

    speaker: int
    at: float = 0.0
    start: float = 0.0
    end: float = float("inf")


@dataclass(frozen=True)
class Odd:
    """A recording, and what is to come of it with CHANNELS=auto.

    `seconds` and `channels` of the Opus; `codes` of the warnings that must be there, `may` of those that can be;
    `lost`: the seconds said lost; `reason`: a part of why it is refused; `heard`: who, in each channel of the
    Opus, empty where the sound has no speaker; `within`: how exact `seconds` and `lost` are; `warned`: there must
    be a warning; `or_mixed`: one channel is right too; `until`: when the damage begins, behind which nobody can
    say who is heard when; `row`: of the table of faults.
    """

    name: str
    make: Make
    seconds: float = SECONDS
    channels: int = 1
    codes: frozenset[str] = NONE
    lost: float | None = None
    reason: str | None = None
    heard: tuple[tuple[Said, ...], ...] = ((Said(0),),)
    may: frozenset[str] = NONE
    within: float = 0.1
    warned: bool = False
    or_mixed: bool = False
    until: float = float("inf")
    row: bool = False


# --- sound -------------------------------------------------------------------------------------------------


def tone_of(speaker: int) -> float:
    """The frequency (Hz) that only this speaker has."""
    return 310.0 + 97.0 * speaker


def envelope(speaker: int, moments: Samples) -> Samples:
    """How loud (0 to 1) the speaker is at these moments (s): syllables, and pauses between phrases.

    The numbers are such that no two speakers are loud and quiet together, within three seconds already.
    """
    syllables = 0.55 + 0.45 * np.sin(
        2 * np.pi * (2.2 + 0.3317 * speaker % 2.6) * moments + 1.185 + 9.519 * speaker
    )
    phrase = np.sin(2 * np.pi * moments / (1.2 + 0.6583 * speaker % 1.3) + 0.9 + 5.945 * speaker)
    speaks: Samples = syllables**2 * (1 / (1 + np.exp(-12 * (phrase + 0.45))))
    return speaks


def voice(speaker: int, seconds: float = SECONDS, rate: int = RATE) -> Samples:
    """One column: what the speaker says."""
    moments = np.arange(round(seconds * rate)) / rate
    hiss = np.random.default_rng(speaker).normal(0, 0.03, moments.size)
    said = envelope(speaker, moments) * (0.3 * np.sin(2 * np.pi * tone_of(speaker) * moments) + hiss)
    return said[:, None]


def together(*columns: Samples) -> Samples:
    """These columns beside each other."""
    return np.hstack(columns)


def silence(seconds: float = SECONDS, rate: int = RATE) -> Samples:
    """A silent column."""
    return np.zeros((round(seconds * rate), 1))


def speakers(*numbers: int, seconds: float = SECONDS, rate: int = RATE) -> Samples:
    """Each of these speakers in a column of its own."""
    return together(*(voice(number, seconds, rate) for number in numbers))


def alone(*numbers: int) -> tuple[tuple[Said, ...], ...]:
    """Each of these speakers heard in a channel of its own, from the start to the end."""
    return tuple((Said(number),) for number in numbers)


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that mean nothing."""
    return random.Random(seed).randbytes(size)


# --- writing -----------------------------------------------------------------------------------------------


def run_ffmpeg(path: Path, *arguments: str, stdin: bytes = b"") -> Path:
    """Have ffmpeg make the file."""
    command = [ffmpeg_program(), "-nostdin", "-y", "-loglevel", "error", *arguments, f"file:{path}"]
    command[1:2] = [] if stdin else ["-nostdin"]
    made = subprocess.run(command, input=stdin or None, capture_output=True, timeout=60)
    assert made.returncode == 0, f"{path.name}: {made.stderr.decode(errors='replace')}"
    return path


def raw(samples: Samples, rate: int, layout: str = "") -> tuple[tuple[str, ...], bytes]:
    """The arguments and the standard input that give ffmpeg these samples."""
    shape = ("-ch_layout", layout) if layout else ("-ch_layout", f"{samples.shape[1]}C")
    if samples.shape[1] <= 2 and not layout:
        shape = ("-ch_layout", ("mono", "stereo")[samples.shape[1] - 1])
    return ("-f", "f32le", "-ar", str(rate), *shape, "-i", "pipe:0"), samples.astype("<f4").tobytes()


def encoded(
    samples: Callable[[], Samples], suffix: str, *arguments: str, rate: int = RATE, layout: str = ""
) -> Make:
    """A file that ffmpeg makes of the samples."""

    def make(folder: Path) -> Path:
        source, stdin = raw(samples(), rate, layout)
        return run_ffmpeg(folder / f"odd.{suffix}", *source, *arguments, stdin=stdin)

    return make


def written(data: Callable[[], bytes], suffix: str) -> Make:
    """A file with these bytes."""

    def make(folder: Path) -> Path:
        path = folder / f"odd.{suffix}"
        path.write_bytes(data())
        return path

    return make


def changed(make: Make, change: Callable[[bytes], bytes]) -> Make:
    """The file with other bytes."""

    def make_it(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make_it


def joined(*parts: Make | bytes) -> Make:
    """The files, one behind the other."""

    def make(folder: Path) -> Path:
        data = b""
        for part in parts:
            data += part if isinstance(part, bytes) else part(folder).read_bytes()
        path = folder / "joined.bin"
        path.write_bytes(data)
        return path

    return make


def remade(make: Make, suffix: str, *arguments: str) -> Make:
    """What ffmpeg makes of that file, its packets copied."""
    return lambda folder: run_ffmpeg(
        folder / f"remade.{suffix}", "-i", f"file:{make(folder)}", "-map", "0", "-c", "copy", *arguments
    )


def cut(data: bytes, part: float = 0.5) -> bytes:
    """The beginning."""
    return data[: round(len(data) * part)]


def hole(data: bytes) -> bytes:
    """With zeros from 50 % to 70 %."""
    start, end = len(data) // 2, len(data) * 7 // 10
    return data[:start] + bytes(end - start) + data[end:]


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    """A RIFF chunk, whatever size it says."""
    return name + struct.pack("<I", len(data) if size is None else size) + data + bytes(len(data) % 2)


def pcm(samples: Samples, kind: str = "<i2") -> bytes:
    """The samples as numbers of that kind."""
    numbers = np.dtype(kind)
    if numbers.kind == "f":
        return samples.astype(numbers).tobytes()
    if numbers.kind == "u":
        return np.clip(np.round(samples * 127) + 128, 0, 255).astype(numbers).tobytes()
    most = 2 ** (8 * numbers.itemsize - 1) - 1
    return np.clip(np.round(samples * most), -most, most).astype(numbers).tobytes()


def wav(
    samples: Samples, rate: int = RATE, *, mask: int | None = None, data_size: int | None = None,
    riff_size: int | None = None, before: bytes = b"", after: bytes = b"", valid_bits: int = 16,
) -> bytes:  # fmt: skip
    """A WAV of 16 bits with whatever its header is to say."""
    channels = samples.shape[1]
    form = struct.pack(
        "<HHIIHH", 1 if mask is None else 0xFFFE, channels, rate, rate * channels * 2, channels * 2, 16
    )
    if mask is not None:
        form += struct.pack("<HHI", 22, valid_bits, mask) + bytes.fromhex("0100000000001000800000aa00389b71")
    body = b"WAVE" + chunk(b"fmt ", form) + before + chunk(b"data", pcm(samples), data_size) + after
    return chunk(b"RIFF", body, riff_size)


def wavs(samples: Callable[[], Samples], **fields: Any) -> Make:
    """A file of `wav`."""
    return written(lambda: wav(samples(), **fields), "wav")


def header_says(samples: Samples, part: float) -> bytes:
    """A WAV whose header knows this part of the sound, as of a recorder that crashed; or more than there is."""
    size = int(samples.size * 2 * part) & ~1
    return wav(samples, data_size=size, riff_size=size + 36)


# --- the rows of the table ---------------------------------------------------------------------------------

MP3 = ("-c:a", "libmp3lame", "-b:a", "64k", "-write_xing", "0", "-id3v2_version", "0")
AAC = ("-c:a", "aac", "-b:a", "64k")
VIDEO = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=5:d=3")
TAKEN = {  # the shape of the sound of rows, in seconds of the speaker: what comes behind a gap of 5 s
    "gap": ((Said(0, 0, 0, 3), Said(0, 8, 3, 6)),),
}


def mp3(speaker: int = 0, rate: int = 16000, seconds: float = SECONDS, channels: int = 1, *more: str) -> Make:
    """A plain MP3 of one speaker."""
    arguments = (*(more or MP3), "-ar", str(rate), "-ac", str(channels))
    return encoded(partial(voice, speaker, seconds), "mp3", *arguments)


def wrong_channels() -> Iterator[Odd]:
    """What mixing would lose."""
    yield Odd("stereo, one channel inverted", wavs(lambda: together(voice(0), -voice(0))), codes=INVERTED)
    for count in (3, 4, 5, 6, 7, 8):
        yield Odd(
            f"WAV of {count} channels without a mask", wavs(partial(speakers, *range(count))), channels=count,
            heard=alone(*range(count)),
        )  # fmt: skip
        one = count - 1 if count < 4 else 3  # where ffmpeg supposes the subwoofer
        yield Odd(
            f"WAV of {count} channels, all but channel {one + 1} silent",
            wavs(partial(one_of, count, one)), codes=SILENT,
        )  # fmt: skip
    for count in (2, 10, 12, 16):
        yield Odd(
            f"{count} speakers, one a channel", wavs(partial(speakers, *range(count))), channels=count,
            heard=alone(*range(count)),
        )  # fmt: skip


def one_of(count: int, speaking: int) -> Samples:
    """So many channels, all but one silent."""
    return together(*(voice(0) if number == speaking else silence() for number in range(count)))


def damaged_rows() -> Iterator[Odd]:
    """What ends early or goes wrong in the middle, with status 0."""
    six = partial(voice, 0, 6.0)
    m4a = encoded(six, "m4a", *AAC, "-movflags", "+faststart")
    yield Odd("cut M4A", changed(m4a, cut), 3.0, codes=MISSING_END, lost=3.0, until=2.4, may=ERRORS, within=0.4)
    flac = encoded(six, "flac", "-c:a", "flac")
    yield Odd("cut FLAC", changed(flac, cut), 3.0, codes=MISSING_END, lost=3.0, until=2.2, may=ERRORS, within=0.7)
    junk = changed(mp3(seconds=6.0), lambda data: data[: len(data) // 2] + noise(5000) + data[len(data) // 2 :])
    yield Odd("junk put into the middle of an MP3", junk, 6.0, codes=ERRORS, within=0.25)
    over = changed(
        mp3(seconds=6.0), lambda data: data[: len(data) // 2] + noise(8000) + data[len(data) // 2 + 8000 :]
    )
    yield Odd("junk over the middle of an MP3", over, 5.3, codes=ERRORS, may=GAP, within=0.6, until=2.8)


def ogg(speaker: int, rate: int, channels: int = 1, codec: str = "libvorbis") -> Make:
    """An Ogg file, with a stream number of its own."""
    return encoded(
        partial(voice, speaker), "ogg", "-c:a", codec, "-ar", str(rate), "-ac", str(channels),
        "-serial_offset", str(100 + speaker),
    )  # fmt: skip


def chained_rows() -> Iterator[Odd]:
    """Ogg streams one after another in a file."""
    both = ((Said(0, end=SECONDS), Said(1, SECONDS)),)
    for name, first, second in (
        ("the same rate", ogg(0, 16000), ogg(1, 16000)), ("a higher rate", ogg(0, 16000), ogg(1, 44100)),
        ("a lower rate", ogg(0, 44100), ogg(1, 16000)), ("mono and stereo", ogg(0, 16000), ogg(1, 16000, 2)),
    ):  # fmt: skip
        yield Odd(f"chained Vorbis, {name}", joined(first, second), 2 * SECONDS, heard=both, within=0.15)
    opus = joined(ogg(0, 48000, 1, "libopus"), ogg(1, 48000, 1, "libopus"))
    yield Odd("chained Opus", opus, 2 * SECONDS, heard=both, within=0.15)
    flac = joined(ogg(0, 16000, 1, "flac"), ogg(1, 44100, 1, "flac"))
    yield Odd("chained FLAC in Ogg, a higher rate", flac, 2 * SECONDS, heard=both, within=0.15)
    three = joined(ogg(0, 16000), ogg(1, 44100), ogg(2, 8000))
    heard = ((Said(0, end=SECONDS), Said(1, SECONDS, 0, SECONDS), Said(2, 2 * SECONDS)),)
    yield Odd("chained Vorbis, three rates", three, 3 * SECONDS, heard=heard, within=0.2)


def header_rows() -> Iterator[Odd]:
    """WAVs whose header is wrong about their length."""
    for part in (0.3, 0.9):
        yield Odd(
            f"WAV whose header says {part:.0%} of what is there",
            written(partial(header_says, voice(0), part), "wav"), codes=HEADER,
        )  # fmt: skip
    stereo = partial(header_says, speakers(0, 1), 0.3)
    yield Odd("stereo WAV of a crash", written(stereo, "wav"), channels=2, codes=HEADER, heard=alone(0, 1))
    for size in (0, 0xFFFFFFFF):  # as those write who cannot go back
        streamed = wavs(voice_0, data_size=size, riff_size=size)
        yield Odd(f"WAV whose data size is {size:#x}", streamed, may=HEADER)
        zero = wavs(voice_0, data_size=size, riff_size=size, before=chunk(b"LIST", b"INFOISFT\x04\0\0\0Rec\0"))
        yield Odd(f"WAV whose data size is {size:#x}, with a LIST", zero, may=HEADER)
    more = written(partial(header_says, voice(0), 2.0), "wav")
    yield Odd("WAV whose header says twice as much", more, codes=MISSING_END, lost=SECONDS)
    riff = wavs(voice_0, riff_size=1000)
    yield Odd("WAV whose RIFF size is too small", riff, may=HEADER)
    aiff = encoded(voice_0, "aiff", "-c:a", "pcm_s16be")
    yield Odd("AIFF whose sizes are 0", changed(aiff, partial(sizes_zero, b"SSND")), may=HEADER)
    au = encoded(voice_0, "au", "-c:a", "pcm_s16be")
    unknown = changed(au, lambda data: data[:8] + b"\xff\xff\xff\xff" + data[12:])
    yield Odd("AU of unknown size", unknown)
    short = changed(au, lambda data: data[:8] + struct.pack(">I", 20000) + data[12:])
    yield Odd("AU whose header says too little", short, may=HEADER)


def voice_0() -> Samples:
    """Speaker 0, for the usual time."""
    return voice(0)


def two_voices() -> Samples:
    """Speakers 0 and 1, a channel each."""
    return speakers(0, 1)


def sizes_zero(name: bytes, data: bytes) -> bytes:
    """The AIFF as a recorder leaves it that was stopped: FORM, the number of frames and the sound of size 0."""
    place = data.index(name) + 4
    frames = data.index(b"COMM") + 10
    data = data[:4] + bytes(4) + data[8:frames] + bytes(4) + data[frames + 4 :]
    return data[:place] + bytes(4) + data[place + 4 :]


def id3(frames: bytes = b"TIT2\0\0\0\x06\0\0\0Title", padding: int = 0) -> bytes:
    """An ID3v2.3 tag."""
    size = len(frames) + padding
    return b"ID3\3\0\0" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + frames + bytes(padding)


def joined_rows() -> Iterator[Odd]:
    """MP3s joined with `cat`."""
    both = ((Said(0, end=SECONDS), Said(1, SECONDS)),)
    tag, old_tag = id3(padding=500), b"TAG" + b"x" * 125
    a8, b8, a16, b16, a44, b44 = (mp3(k, rate) for rate in (8000, 16000, 44100) for k in (0, 1))
    for name, parts in (
        ("rising rate", (a16, b44)), ("falling rate", (a44, b16)), ("from 8 to 44.1 kHz", (a8, b44)),
        ("from 44.1 to 8 kHz", (a44, b8)), ("mono, then stereo", (a16, mp3(1, channels=2))),
        ("stereo, then mono", (mp3(0, channels=2), b16)), ("ID3 tags between", (tag, a16, tag, b16)),
        ("rising rate, ID3 tags between", (tag, a16, old_tag, tag, b44)),
        ("falling rate, mono and stereo, tags", (tag, a44, old_tag, tag, mp3(1, channels=2))),
        ("with Xing headers", (xing(0), xing(1))),
    ):  # fmt: skip
        yield Odd(f"MP3s joined: {name}", joined(*parts), 2 * SECONDS, heard=both, within=0.3)
    three = joined(a16, b44, mp3(2, 24000))
    heard = ((Said(0, end=SECONDS), Said(1, SECONDS, 0, SECONDS), Said(2, 2 * SECONDS)),)
    yield Odd("MP3s joined: three rates", three, 3 * SECONDS, heard=heard, within=0.3)


def xing(speaker: int) -> Make:
    """An MP3 of variable rate with its Xing header and tag."""
    return mp3(speaker, 16000, SECONDS, 1, "-c:a", "libmp3lame", "-q:a", "5")


SID = bytes([0x44]) + bytes.fromhex("1a2b3c4d04")  # a frame of comfort noise: type 8, 5 bytes
NO_DATA = b"\x7c"  # type 15: nothing was sent


def amr_frames(data: bytes) -> list[bytes]:
    """The frames of an AMR-NB file."""
    sizes = (12, 13, 15, 17, 19, 20, 26, 31, 5, 0, 0, 0, 0, 0, 0, 0)
    frames, place = [], len(b"#!AMR\n")
    while place < len(data):
        size = 1 + sizes[data[place] >> 3 & 15]
        frames.append(data[place : place + size])
        place += size
    return frames


def with_dtx(data: bytes, pause: float = 4.0, comfort: bytes = SID) -> bytes:
    """The AMR with a pause after two seconds, of which hardly anything was sent."""
    frames = amr_frames(data)
    nothing = [comfort if i % 8 == 0 else NO_DATA for i in range(round(pause * 50))]
    return b"#!AMR\n" + b"".join([*frames[:100], *nothing, *frames[100:]])


def amr_rows() -> Iterator[Odd]:
    """Calls of mobile phones that send nothing in pauses."""
    call = encoded(partial(voice, 0, 4.0, 8000), "amr", "-c:a", "libopencore_amrnb", "-b:a", "12.2k", rate=8000)
    heard = ((Said(0, 0, 0, 2), Said(0, 6, 2, 4)),)
    yield Odd("AMR-NB of a call", call, 4.0)
    yield Odd("AMR-NB with DTX", changed(call, with_dtx), 8.0, heard=heard)
    nothing = changed(call, partial(with_dtx, comfort=NO_DATA))
    yield Odd("AMR-NB with NO_DATA alone in the pause", nothing, 8.0, heard=heard)
    ended = changed(call, lambda data: data + NO_DATA * 100)
    yield Odd("AMR-NB that ends with NO_DATA", ended, 6.0, heard=((Said(0, end=4),),))
    begun = changed(call, lambda data: data[:6] + NO_DATA * 100 + data[6:])
    yield Odd("AMR-NB that begins with NO_DATA", begun, 6.0, heard=((Said(0, at=2, end=4),),))
    mobile = encoded(
        lambda: np.vstack([voice(0, 2, 8000), silence(4, 8000), voice(1, 2, 8000)]), "amr", "-c:a",
        "libopencore_amrnb", "-dtx", "1", rate=8000,
    )  # fmt: skip
    yield Odd("AMR-NB with an encoder's DTX", mobile, 8.0, heard=((Said(0, end=2), Said(1, 6, 0, 2)),))
    wide = b"#!AMR-WB\n" + b"".join(b"\x44" + noise(60, i) for i in range(100)) + NO_DATA * 100
    yield Odd("AMR-WB with NO_DATA", written(lambda: wide, "awb"), 4.0, heard=())
    phone = encoded(partial(voice, 0, SECONDS, 8000), "3gp", "-c:a", "libopencore_amrnb", rate=8000)
    yield Odd(".3gp of a phone", phone)


def with_gap(suffix: str, *arguments: str, setts: str = "if(gte(PTS*TB\\,3)\\,PTS+5/TB\\,PTS)") -> Make:
    """Six seconds whose second half has timestamps five seconds later."""
    whole = encoded(partial(voice, 0, 6.0), suffix, *arguments)
    return remade(whole, suffix, "-bsf:a", f"setts=ts='{setts}'")


def gap_rows() -> Iterator[Odd]:
    """Gaps that the timestamps prove."""
    for name, suffix, arguments in (
        ("WebM", "webm", ("-c:a", "libopus", "-ar", "48000")), ("M4A", "m4a", AAC), ("MKA of AAC", "mka", AAC),
        ("MKA of PCM", "mka", ("-c:a", "pcm_s16le")), ("MOV of ALAC", "mov", ("-c:a", "alac")),
        ("MPEG-TS", "ts", AAC), ("FLV", "flv", (*AAC, "-ar", "44100")), ("WMA", "wma", ("-c:a", "wmav2")),
        ("MKA of Vorbis", "mka", ("-c:a", "libvorbis")), ("MKA of MP3", "mka", ("-c:a", "libmp3lame")),
    ):  # fmt: skip
        yield Odd(
            f"{name} with a gap in its timestamps", with_gap(suffix, *arguments), 11.0, codes=GAP, lost=5.0,
            heard=TAKEN["gap"], within=0.15,
        )  # fmt: skip
    jitter = with_gap("mka", *AAC, setts="PTS+0.01*random(0)/TB")
    yield Odd("MKA whose timestamps tremble by 10 ms", jitter, 6.0)
    wrap = encoded(partial(voice, 0, 6.0), "ts", *AAC, "-output_ts_offset", "95440", "-muxdelay", "0")
    yield Odd("MPEG-TS whose timestamps start again", wrap, 6.0, within=0.15)


def track_rows() -> Iterator[Odd]:
    """More than one track."""

    def two(suffix: str, *arguments: str, inputs: int = 2) -> Make:
        def make(folder: Path) -> Path:
            sources: list[str] = []
            for number in range(inputs):
                path = folder / f"track{number}.wav"
                path.write_bytes(wav(voice(number)))
                sources += ["-i", f"file:{path}"]
            maps = [word for number in range(inputs) for word in ("-map", str(number))]
            return run_ffmpeg(folder / f"odd.{suffix}", *sources, *maps, *arguments)

        return make

    for name, suffix, arguments in (
        ("M4A", "m4a", AAC), ("MKA", "mka", ("-c:a", "flac")), ("MOV of PCM", "mov", ("-c:a", "pcm_s16le")),
        ("MPEG-TS", "ts", AAC), ("AVI", "avi", ("-c:a", "pcm_s16le")), ("WMA", "wma", ("-c:a", "wmav2")),
    ):  # fmt: skip
        yield Odd(f"{name} with two tracks", two(suffix, *arguments), channels=2, heard=alone(0, 1))
    yield Odd("MKA with three tracks", two("mka", *AAC, inputs=3), channels=3, heard=alone(0, 1, 2))


def new_formats() -> Iterator[Odd]:
    """The suffixes that were taken for sidecars, and their kind."""
    for name, suffix, arguments in (
        ("MP4 with video", "mp4", ("-c:v", "mpeg4", *AAC)), ("MKV with video", "mkv", ("-c:v", "mpeg4", *AAC)),
        ("AVI with video", "avi", ("-c:v", "mpeg4", "-c:a", "libmp3lame")),
        ("MPEG-TS with video", "ts", ("-c:v", "mpeg2video", "-r", "25", *AAC)),
        ("FLV with video", "flv", ("-c:v", "flv", *AAC, "-ar", "44100")),
        ("MPEG-PS with video", "mpg", ("-c:v", "mpeg2video", "-r", "25", "-c:a", "mp2")),
        ("WebM with video", "webm", ("-c:v", "libvpx", "-deadline", "realtime", "-c:a", "libopus")),
        ("WMV with video", "wmv", ("-c:v", "wmv2", "-c:a", "wmav2")),
    ):  # fmt: skip
        yield Odd(name, encoded(voice_0, suffix, *VIDEO, "-map", "1", "-map", "0", *arguments), within=0.15)
    yield Odd(".mka", encoded(voice_0, "mka", "-c:a", "flac"))
    yield Odd(".mp2", encoded(voice_0, "mp2", "-c:a", "mp2"))
    yield Odd(".mpga", encoded(voice_0, "mpga", "-c:a", "libmp3lame", "-f", "mp3"))
    yield Odd(".spx", written(speex, "spx"), heard=(), within=0.15)
    yield Odd(".gsm", written(lambda: gsm(150), "gsm"), heard=())


def gsm(frames: int) -> bytes:
    """Noise in GSM 06.10: frames of 33 bytes that begin with the number 13."""
    return b"".join(bytes([0xD0 | frame[0] & 15]) + frame[1:] for frame in (noise(33, i) for i in range(frames)))


def ogg_page(packets: list[bytes], number: int, granule: int, flags: int) -> bytes:
    """An Ogg page of whole packets with its checksum (RFC 3533)."""
    laces = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    page = bytearray(
        b"OggS\0" + struct.pack("<BqIII", flags, granule, 77, number, 0) + bytes([len(laces)]) + laces
        + b"".join(packets)
    )  # fmt: skip
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum & 0x80000000 else 0)) & 0xFFFFFFFF
    page[22:26] = struct.pack("<I", checksum)
    return bytes(page)


def speex() -> bytes:
    """Three seconds of noise in narrow-band Speex: frames of 20 ms, of 160 bits (mode 3)."""
    head = b"Speex   1.2".ljust(28, b"\0") + struct.pack(
        "<13I", 1, 80, 8000, 0, 4, 1, 0xFFFFFFFF, 160, 0, 1, 0, 0, 0
    )
    comment = struct.pack("<I", 4) + b"test" + struct.pack("<I", 0)
    pages = [ogg_page([head], 0, 0, 2), ogg_page([comment], 1, 0, 0)]
    frames = [bytes([0b00011_000 | frame[0] & 7]) + frame[1:] for frame in (noise(20, i) for i in range(150))]
    for start in range(0, 150, 50):
        end = start + 50
        pages.append(ogg_page(frames[start:end], 2 + start // 50, end * 160, 4 if end == 150 else 0))
    return b"".join(pages)


def rows() -> Iterator[Odd]:
    """Every row of the table of faults, with its kind."""
    yield from wrong_channels()
    yield from damaged_rows()
    yield from chained_rows()
    yield from header_rows()
    yield from joined_rows()
    yield from amr_rows()
    yield from gap_rows()
    yield from track_rows()
    yield from new_formats()


# --- their kind: formats, rates, depths, layouts -----------------------------------------------------------


def rates_and_depths() -> Iterator[Odd]:
    """PCM of every rate and depth, and what telephones make of it."""
    for rate in (7350, 8000, 11025, 12345, 22050, 24000, 32000, 44100, 48000, 88200, 96000, 192000):
        yield Odd(f"WAV of {rate} Hz", wavs(partial(voice, 0, SECONDS, rate), rate=rate))
    for codec in ("pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le", "pcm_alaw", "pcm_mulaw"):
        yield Odd(f"WAV of {codec}", encoded(two_voices, "wav", "-c:a", codec), channels=2, heard=alone(0, 1))
    for codec in ("adpcm_ima_wav", "adpcm_ms", "adpcm_yamaha", "adpcm_swf", "g726", "g723_1"):
        arguments = ("-c:a", codec, "-ar", "22050" if codec == "adpcm_swf" else "8000")
        more = ("-b:a", "6.3k") if codec == "g723_1" else ()
        yield Odd(f"WAV of {codec}", encoded(voice_0, "wav", *arguments, *more), within=0.2)
    yield Odd("WAV of MP3", encoded(voice_0, "wav", "-c:a", "libmp3lame"), within=0.15)
    yield Odd("WAV of GSM 6.10", written(lambda: ms_gsm(75), "wav"), heard=())
    yield Odd("WAV of 12 valid bits", wavs(voice_0, mask=4, valid_bits=12))
    yield Odd("WAV with every kind of chunk", wavs(voice_0, before=chunks(), after=chunks()))
    padded = wavs(voice_0, before=chunk(b"PAD ", bytes(2**20)))
    yield Odd("WAV with a megabyte before the sound", padded)
    large = encoded(partial(speakers, 0, 1, rate=192000), "wav", "-c:a", "pcm_f64le", rate=192000)
    yield Odd("WAV of 192 kHz and 64 bits", large, channels=2, heard=alone(0, 1))
    yield Odd("one second", wavs(partial(speakers, 0, 1, seconds=1.0)), 1.0, channels=2, heard=alone(0, 1))


def chunks() -> bytes:
    """Chunks that a WAV may have beside its sound."""
    names = (b"bext", b"iXML", b"cue ", b"smpl", b"JUNK", b"fact", b"LIST", b"id3 ", b"_PMX", b"odd1")
    return b"".join(chunk(name, b"INFO" + bytes(33 + number)) for number, name in enumerate(names))


def ms_gsm(blocks: int) -> bytes:
    """Noise in the GSM of Windows: blocks of 65 bytes, 320 samples each."""
    form = struct.pack("<HHIIHHHH", 49, 1, 8000, 1625, 65, 0, 2, 320)
    fact = chunk(b"fact", struct.pack("<I", blocks * 320))
    return chunk(b"RIFF", b"WAVE" + chunk(b"fmt ", form) + fact + chunk(b"data", noise(65 * blocks)))


CONTAINERS: dict[str, tuple[str, tuple[str, ...]]] = {  # a file of speaker 0 in each: the suffix, how it is made
    "WAV": ("wav", ("-c:a", "pcm_s16le")),
    "W64": ("w64", ("-c:a", "pcm_s16le")),
    "RF64": ("wav", ("-c:a", "pcm_s16le", "-rf64", "always")),
    "AIFF": ("aiff", ("-c:a", "pcm_s16be")),
    "AU": ("au", ("-c:a", "pcm_s16be")),
    "CAF": ("caf", ("-c:a", "pcm_s16be")),
    "FLAC": ("flac", ("-c:a", "flac", "-sample_fmt", "s16")),
    "MP3 with Xing": ("mp3", ("-c:a", "libmp3lame", "-q:a", "5")),
    "MP3 without Xing": ("mp3", MP3),
    "MP2": ("mp2", ("-c:a", "mp2", "-b:a", "64k")),
    "ADTS": ("aac", AAC),
    "M4A": ("m4a", (*AAC, "-movflags", "+faststart")),
    "fragmented MP4": ("mp4", (*AAC, "-movflags", "empty_moov+default_base_moof", "-frag_duration", "500000")),
    "ALAC": ("m4a", ("-c:a", "alac", "-movflags", "+faststart")),
    "Ogg Vorbis": ("ogg", ("-c:a", "libvorbis", "-page_duration", "200000")),
    "Ogg Opus": ("opus", ("-c:a", "libopus", "-page_duration", "200000")),
    "Ogg FLAC": ("oga", ("-c:a", "flac", "-sample_fmt", "s16", "-page_duration", "200000")),
    "WebM": ("webm", ("-c:a", "libopus", "-cluster_time_limit", "200")),
    "MKA": ("mka", (*AAC, "-cluster_time_limit", "200")),
    "WMA": ("wma", ("-c:a", "wmav2", "-b:a", "64k")),
    "AMR-NB": ("amr", ("-c:a", "libopencore_amrnb", "-ar", "8000", "-b:a", "12.2k")),
    "WavPack": ("wv", ("-c:a", "wavpack")),
    "TTA": ("tta", ("-c:a", "tta")),
    "AC-3": ("ac3", ("-c:a", "ac3", "-ar", "32000", "-b:a", "64k")),
    "E-AC-3": ("eac3", ("-c:a", "eac3", "-ar", "32000", "-b:a", "64k")),
    "DTS": ("dts", ("-c:a", "dca", "-strict", "-2", "-ar", "48000", "-ac", "2", "-b:a", "768k")),
    "MPEG-TS": ("ts", AAC),
    "AVI": ("avi", ("-c:a", "pcm_s16le")),
    "FLV": ("flv", (*AAC, "-ar", "44100")),
}


def contained(name: str, seconds: float = SECONDS) -> Make:
    """Speaker 0 in this container."""
    suffix, arguments = CONTAINERS[name]
    return encoded(partial(voice, 0, seconds), suffix, *arguments)


def more_formats() -> Iterator[Odd]:
    """Each container, and other codecs in them."""
    for name in CONTAINERS:
        yield Odd(name, contained(name), within=0.15)
    for name, suffix, arguments in (
        ("AIFC of A-law", "aiff", ("-c:a", "pcm_alaw")), ("AIFC of sowt", "aif", ("-c:a", "pcm_s16le")),
        ("AIFF of 24 bits", "aiff", ("-c:a", "pcm_s24be")), ("AIFC of floats", "aiff", ("-c:a", "pcm_f32be")),
        ("AU of mu-law", "au", ("-c:a", "pcm_mulaw")), ("AU of floats", "au", ("-c:a", "pcm_f32be")),
        ("CAF of ALAC", "caf", ("-c:a", "alac")), ("CAF of mu-law", "caf", ("-c:a", "pcm_mulaw")),
        ("CAF of little-endian floats", "caf", ("-c:a", "pcm_f32le")),
        ("W64 of 24 bits", "w64", ("-c:a", "pcm_s24le")),
        ("M4A with the moov at the end", "m4a", AAC), ("MOV of 24 bits", "mov", ("-c:a", "pcm_s24le")),
        ("MOV of mu-law", "mov", ("-c:a", "pcm_mulaw")), ("MP4 of MP3", "mp4", ("-c:a", "libmp3lame")),
        ("MP4 of Opus", "mp4", ("-c:a", "libopus")), ("MP4 of FLAC", "mp4", ("-c:a", "flac")),
        ("MP4 of AC-3", "mp4", ("-c:a", "ac3", "-ar", "48000")), ("LATM", "latm", (*AAC, "-f", "latm")),
        ("3G2", "3g2", AAC), ("WMA version 1", "wma", ("-c:a", "wmav1")),
        ("ASF of MP3", "asf", ("-c:a", "libmp3lame")),
        ("MPEG-TS of MP3", "ts", ("-c:a", "libmp3lame")),
        ("MPEG-TS of AC-3", "ts", ("-c:a", "ac3", "-ar", "48000")),
        ("MPEG-PS of MP2", "mpg", ("-c:a", "mp2")), ("MKA of WavPack", "mka", ("-c:a", "wavpack")),
        ("MKA of ALAC", "mka", ("-c:a", "alac")), ("MKA of floats", "mka", ("-c:a", "pcm_f32le")),
        ("MKA of TTA", "mka", ("-c:a", "tta")), ("MKA live, of unknown sizes", "mka", (*AAC, "-live", "1")),
        ("Ogg of Vorbis, quality 10", "ogg", ("-c:a", "libvorbis", "-q:a", "10")),
        ("FLV of MP3", "flv", ("-c:a", "libmp3lame", "-ar", "44100")),
        ("FLV of Nellymoser", "flv", ("-c:a", "nellymoser", "-ar", "8000")),
        ("AVI of AC-3", "avi", ("-c:a", "ac3", "-ar", "48000")),
        ("VOC", "voc", ("-c:a", "pcm_u8")), ("SoX's own", "sox", ()), ("IRCAM", "sf", ("-f", "ircam")),
        ("MP3 of 8 kHz", "mp3", ("-c:a", "libmp3lame", "-ar", "8000")),
        ("MP3 of 48 kHz, 320 kb/s", "mp3", ("-c:a", "libmp3lame", "-ar", "48000", "-b:a", "320k")),
        ("MP3 of 8 kb/s", "mp3", ("-c:a", "libmp3lame", "-ar", "8000", "-b:a", "8k")),
        ("MP3 of average rate", "mp3", ("-c:a", "libmp3lame", "-abr", "1", "-b:a", "48k")),
        ("FLAC of 24 bits and 96 kHz", "flac", ("-c:a", "flac", "-ar", "96000")),
        ("FLAC of 8 kHz", "flac", ("-c:a", "flac", "-ar", "8000")),
        ("Opus of 20 kb/s and long frames", "opus", ("-c:a", "libopus", "-b:a", "20k", "-frame_duration", "60")),
        ("Opus of short frames", "opus", ("-c:a", "libopus", "-frame_duration", "2.5")),
    ):  # fmt: skip
        yield Odd(name, encoded(voice_0, suffix, *arguments), within=0.15)
    yield Odd("NIST SPHERE", written(lambda: sphere(voice_0()), "sph"))
    stereo = encoded(two_voices, "opus", "-c:a", "libopus", "-b:a", "96k")
    yield Odd("stereo Opus", stereo, channels=2, heard=alone(0, 1))
    joint = encoded(two_voices, "mp3", "-c:a", "libmp3lame", "-b:a", "96k")
    yield Odd("joint stereo MP3", joint, channels=2, heard=alone(0, 1))
    yield Odd(
        "stereo AAC", encoded(two_voices, "m4a", "-c:a", "aac", "-b:a", "96k"), channels=2, heard=alone(0, 1)
    )
    equal = encoded(lambda: together(voice_0(), voice_0()), "mp3", "-c:a", "libmp3lame", "-b:a", "64k")
    yield Odd("stereo MP3 of one speaker", equal)


def sphere(samples: Samples) -> bytes:
    """The format of speech corpora."""
    lines = (
        "NIST_1A\n   1024\nsample_count -i %d\nsample_n_bytes -i 2\nchannel_count -i 1\n"
        "sample_byte_format -s2 01\n"
        "sample_rate -i 16000\nsample_coding -s3 pcm\nend_head\n"
    )
    return (lines % len(samples)).encode().ljust(1024) + pcm(samples)


def layouts() -> Iterator[Odd]:
    """Channel layouts, with each channel another speaker."""
    masks = {"mono": 4, "stereo": 3, "2.1": 11, "quad": 0x33, "5.0": 0x37, "5.1": 0x3F, "5.1(side)": 0x60F,
             "6.1": 0x70F, "7.1": 0x63F, "7.1(wide)": 0xFF, "none of three": 0}  # fmt: skip
    for name, mask in masks.items():
        count = mask.bit_count() or 3
        many = wavs(partial(speakers, *range(count)), mask=mask)
        yield Odd(f"WAV with the mask of {name}", many, channels=count, heard=alone(*range(count)))
    for name, layout, suffix, arguments in (
        ("FLAC of 3", "3C", "flac", ()), ("FLAC of 6", "5.1", "flac", ()), ("FLAC of 8", "7.1", "flac", ()),
        ("WavPack of 5", "5.0", "wv", ()), ("TTA of 4", "quad", "tta", ()), ("CAF of 3", "3C", "caf", ()),
        ("CAF of 11", "11C", "caf", ()), ("AIFF of 3", "3C", "aiff", ()), ("AIFF of 5", "5C", "aiff", ()),
        ("AU of 7", "7C", "au", ()), ("MKA of 9 channels of PCM", "9C", "mka", ("-c:a", "pcm_s16le")),
        ("MOV of 4 channels of PCM", "quad", "mov", ("-c:a", "pcm_s16le")), ("W64 of 13", "13C", "w64", ()),
        ("Opus of family 255", "3C", "opus", ("-c:a", "libopus", "-b:a", "200k", "-mapping_family", "255")),
        ("Vorbis of 5.0", "5.0", "ogg", ("-c:a", "libvorbis", "-q:a", "6")),
        ("AAC of 4.0", "4.0", "m4a", ("-c:a", "aac", "-b:a", "256k")),
        ("ALAC of 5.0", "5.0", "m4a", ("-c:a", "alac")),
        ("AAC of 5.0", "5.0", "aac", ("-c:a", "aac", "-b:a", "300k")),
    ):  # fmt: skip
        count = {"quad": 4, "5.0": 5, "5.1": 6, "7.1": 8, "4.0": 4}.get(layout) or int(layout[:-1])
        many = encoded(partial(speakers, *range(count)), suffix, *arguments, layout=layout)
        yield Odd(name, many, channels=count, heard=alone(*range(count)), within=0.15)
    surround = partial(lambda: together(*(voice(k) for k in range(3)), silence(), voice(4), voice(5)))
    for name, suffix, arguments in (
        ("AC-3", "ac3", ("-c:a", "ac3", "-ar", "48000", "-b:a", "448k")),
        ("AAC", "m4a", ("-c:a", "aac", "-b:a", "384k")),
        ("E-AC-3", "eac3", ("-c:a", "eac3", "-ar", "48000", "-b:a", "448k")),
        ("Opus", "opus", ("-c:a", "libopus", "-b:a", "400k", "-mapping_family", "1")),
        ("WAV", "wav", ()),
    ):  # fmt: skip
        layout = "5.1(side)" if name in ("AC-3", "E-AC-3") else "5.1"
        made = encoded(surround, suffix, *arguments, layout=layout)
        yield Odd(
            f"{name} of 5.1 with a silent subwoofer", made, channels=5, codes=SILENT, heard=alone(0, 1, 2, 4, 5)
        )


def scenes() -> Iterator[Odd]:
    """What channels can have to do with each other."""
    heard: tuple[tuple[Said, ...], ...]
    one, two = voice(0), voice(1)
    last_bit = 2**-15 * np.sign(np.sin(np.arange(len(one)) * 9.1))[:, None]
    for name, samples, codes in (
        ("a silent channel", (one, silence()), SILENT), ("a silent first channel", (silence(), one), SILENT),
        ("equal channels", (one, one), NONE), ("equal, one at a quarter", (one, one / 4), NONE),
        ("equal thrice", (one, one, one), NONE), ("equal but for the last bit", (one, one + last_bit), NONE),
        ("inverted, at a half", (one, -one / 2), INVERTED), ("one of three inverted", (one, one, -one), INVERTED),
        ("a channel of zeros with an offset", (one, silence() + 0.05), SILENT),
        ("six, one speaker in the middle", (silence(), silence(), one, *[silence()] * 3), SILENT),
    ):  # fmt: skip
        yield Odd(f"channels: {name}", wavs(partial(together, *samples)), codes=codes)
    pairs = together(one, one, two, -two)
    yield Odd(
        "channels: two pairs, one inverted", wavs(lambda: pairs), channels=2, codes=INVERTED, heard=alone(0, 1)
    )
    last = together(one, silence(), two)
    yield Odd(
        "channels: silence between speakers", wavs(lambda: last), channels=2, codes=SILENT, heard=alone(0, 1)
    )
    twice = together(one, two, one)
    yield Odd("channels: the first again at the end", wavs(lambda: twice), channels=2, heard=alone(0, 1))
    quiet = together(one, two * 0.01)
    yield Odd("channels: one at -40 dB", wavs(lambda: quiet), channels=2, heard=alone(0, 1))
    late = np.vstack([np.zeros((320, 1)), one[:-320]])
    yield Odd(
        "channels: one 20 ms later",
        wavs(lambda: together(one, late)),
        channels=2,
        heard=alone(0, 0),
        or_mixed=True,
    )
    room = together(0.7 * one + 0.4 * two, 0.4 * one + 0.7 * two)
    both = (Said(0), Said(1))
    yield Odd(
        "channels: two microphones in a room", wavs(lambda: room), channels=2, heard=(both, both), or_mixed=True
    )
    crosstalk = together(one + 0.05 * two, two + 0.05 * one)
    yield Odd("channels: crosstalk of 5 %", wavs(lambda: crosstalk), channels=2, heard=alone(0, 1))
    burst = together(voice(0, 30.0), np.vstack([silence(28.0), voice(1, 2.0)]))
    heard = ((Said(0),), (Said(1, 28),))
    yield Odd("channels: one silent but for the end", wavs(lambda: burst), 30.0, channels=2, heard=heard)
    turns = together(np.vstack([voice(0, 1.5), silence(1.5)]), np.vstack([silence(1.5), voice(1, 1.5)]))
    heard = ((Said(0, end=1.5),), (Said(1, 1.5),))
    yield Odd("channels: one after the other", wavs(lambda: turns), channels=2, heard=heard)
    half = together(one, np.vstack([one[: RATE * 3 // 2], two[RATE * 3 // 2 :]]))
    heard = ((Said(0),), (Said(0, end=1.5), Said(1, 1.5, 1.5)))
    yield Odd("channels: equal for the first half", wavs(lambda: half), channels=2, heard=heard)
    turned = together(one, np.vstack([one[: RATE * 3 // 2], -one[RATE * 3 // 2 :]]))
    yield Odd(
        "channels: inverted from the middle on", wavs(lambda: turned), channels=2, heard=alone(0, 0), or_mixed=True
    )


def levels() -> Iterator[Odd]:
    """Very quiet, loud, short, long, and none at all."""
    one = voice(0)
    yield Odd("at -40 dB", wavs(lambda: one * 0.01))
    yield Odd("with an offset", wavs(lambda: one + 0.4))
    yield Odd("clipped", wavs(lambda: np.clip(one * 8, -1, 1)))
    yield Odd("floats over 1", encoded(lambda: one * 8, "wav", "-c:a", "pcm_f32le"))
    for seconds in (0.02, 0.05, 0.3):
        yield Odd(f"{seconds} s", wavs(partial(voice, 0, seconds)), seconds, heard=(), may=SILENT, within=0.02)
    yield Odd("0.05 s of MP3", mp3(seconds=0.05), 0.05, heard=(), may=SILENT, within=0.15)
    yield Odd(
        "0.05 s of M4A", encoded(partial(voice, 0, 0.05), "m4a", *AAC), 0.05, heard=(), may=SILENT, within=0.1
    )
    for channels in (1, 2, 6):
        nothing = wavs(partial(np.zeros, (10 * RATE, channels)))
        yield Odd(f"10 s of silence in {channels} channels", nothing, 10.0, heard=(), may=SILENT)
    flac = encoded(lambda: np.zeros((120 * 8000, 1)), "flac", "-c:a", "flac", rate=8000)
    yield Odd("two minutes of silence in FLAC", flac, 120.0, heard=(), may=SILENT)
    yield Odd("a WAV without a sample", wavs(partial(silence, 0)), 0, reason="no sound")
    header = partial(silence, 0)
    yield Odd("an Ogg without a sample", encoded(header, "ogg", "-c:a", "flac"), 0, reason="sound|End of file")


# --- tags, joins, names ------------------------------------------------------------------------------------

SAYS_FULL = "No space left on device"
TAGS = {
    "a full disk": SAYS_FULL, "no memory": "Cannot allocate memory", "controls": "\x01\x02\x1b[2J\x7f\r\n\u202e",
    "100 kB": "blah " * 20000, "other scripts": "录音 تسجيل 🎤", "paths": "file:/etc/passwd; $(reboot) `id` %s%n",
}  # fmt: skip


def tagged() -> Iterator[Odd]:
    """Tags that are long, wrong or say alarming things."""
    for suffix, arguments in (
        ("mp3", ("-c:a", "libmp3lame")), ("m4a", AAC), ("flac", ("-c:a", "flac")), ("opus", ("-c:a", "libopus")),
        ("wav", ("-c:a", "pcm_s16le")), ("mka", AAC),
    ):  # fmt: skip
        for name, text in TAGS.items():
            words = ("-metadata", f"title={text}", "-metadata", f"comment={text}")
            yield Odd(f"{suffix} tagged with {name}", encoded(voice_0, suffix, *arguments, *words), within=0.15)
    plain = mp3()
    picture = b"APIC" + struct.pack(">IH", 2**21, 0) + b"\0image/png\0\3\0" + noise(2**21 - 13)
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 20 + 32, 1, 0xA0000000) + bytes(8)
    items = struct.pack("<II", 11, 0) + b"T\0" + b"x" * 10
    for name, parts in (
        ("an ID3 tag of 2 MB", (id3(picture), plain)), ("1 MB of padding in its ID3", (id3(padding=2**20), plain)),
        ("two ID3 tags", (id3(), id3(padding=300), plain)), ("an ID3 tag at its end", (plain, id3())),
        ("ID3v1", (plain, b"TAG" + b"\xff\0" * 62 + b"x")),
        ("an APE tag", (plain, ape, items, b"TAG" + bytes(125))),
        ("NULs in its ID3", (id3(b"TIT2\0\0\0\x0a\0\0\0" + bytes(9)), plain)),
        ("a broken ID3 frame", (id3(b"TIT2\xff\xff\xff\xff\0\0\0abc"), plain)),
        ("zeros before its first frame", (bytes(4000), plain)), ("zeros at its end", (plain, bytes(40000))),
        ("an ID3 tag, then zeros", (id3(), bytes(2000), plain)),
    ):  # fmt: skip
        yield Odd(f"MP3 with {name}", joined(*parts), may=ERRORS, within=0.2)
    yield Odd(
        "MP3 that begins in the middle of a frame",
        changed(plain, lambda data: data[133:]),
        within=0.25,
        may=ERRORS,
    )
    yield Odd("free-format MP3", changed(mp3(0, 48000), free_format), reason="no sound")
    yield Odd("FLAC behind an ID3 tag", joined(id3(padding=50), contained("FLAC")))
    yield Odd("ADTS behind an ID3 tag", joined(id3(), contained("ADTS")), within=0.15)
    yield Odd("AC-3 behind an ID3 tag", joined(id3(), contained("AC-3")), within=0.15, may=ERRORS)
    yield Odd("WAV with an ID3v1 tag behind it", joined(contained("WAV"), b"TAG" + bytes(125)), may=HEADER)
    for suffix, arguments in (
        ("mp3", ("-c:a", "libmp3lame")),
        ("m4a", AAC),
        ("flac", ("-c:a", "flac")),
        ("mka", AAC),
    ):
        yield Odd(f"{suffix} with cover art", partial(covered, suffix, arguments), within=0.15)
    yield Odd("MKA with attachments", attached)
    yield Odd("M4A with chapters", chaptered, within=0.15)


def free_format(data: bytes) -> bytes:
    """The MP3 with frames that do not say their rate: 64 kb/s at 48 kHz, so of 192 bytes each."""
    frames = (data[start : start + 192] for start in range(0, len(data), 192))
    return b"".join(frame[:2] + bytes([frame[2] & 0x0F]) + frame[3:] for frame in frames)


def covered(suffix: str, arguments: tuple[str, ...], folder: Path) -> Path:
    """A recording with a picture, which ffmpeg takes for a video track."""
    kind = "jpg" if suffix == "mka" else "png"
    picture = run_ffmpeg(folder / f"cover.{kind}", "-f", "lavfi", "-i", "testsrc=s=64x64:d=0.04", "-frames:v", "1")
    cover = ("-i", f"file:{picture}", "-map", "0", "-map", "1", "-c:v", "copy", "-disposition:v", "attached_pic")
    return encoded(voice_0, suffix, *cover, *arguments)(folder)


def attached(folder: Path) -> Path:
    """A Matroska file that carries other files."""
    (folder / "note.txt").write_text(SAYS_FULL)
    (folder / "inner.mp3").write_bytes(noise(5000))
    files = [word for name in ("note.txt", "inner.mp3") for word in ("-attach", str(folder / name))]
    kinds = ("-metadata:s:t", "mimetype=application/octet-stream")
    return encoded(voice_0, "mka", "-c:a", "flac", *files, *kinds)(folder)


def chaptered(folder: Path) -> Path:
    """An M4A with chapters, which are a text track of their own."""
    chapter = "[CHAPTER]\nTIMEBASE=1/1000\nSTART={}\nEND={}\ntitle=" + SAYS_FULL + "\n"
    (folder / "meta.txt").write_text(";FFMETADATA1\n" + chapter.format(0, 1000) + chapter.format(1000, 3000))
    more = ("-f", "ffmetadata", "-i", str(folder / "meta.txt"), "-map", "0", "-map_chapters", "1")
    return encoded(voice_0, "m4a", *more, *AAC)(folder)


NAMES: tuple[str, ...] = (
    "-i %d $(touch x) 'a' é", "concat:a|b.mp3", "http://127.0.0.1:1", "a\nb.wav", SAYS_FULL, "%03d.wav",
    "pipe:0", "it's \"so\".wav", "x" * 250, "[0:a]anull;.wav", "*.wav", "playlist.m3u8",
    "x.ffconcat", "x.txt", "x.exe",
)  # fmt: skip


def named() -> Iterator[Odd]:
    """A plain WAV under names that mean something to someone."""
    for name in NAMES:
        yield Odd(f"named {name[:30]!r}", partial(under_name, name.replace("/", "∕")))


def under_name(name: str, folder: Path) -> Path:
    """A WAV under that name."""
    path = folder / name
    path.write_bytes(wav(voice(0)))
    return path


# --- time --------------------------------------------------------------------------------------------------


def timed() -> Iterator[Odd]:
    """Sound that starts late, edit lists, fragments."""
    late = ((Said(0, 2.0),),)
    for name, suffix, arguments in (
        ("MP4", "mp4", ("-c:v", "mpeg4", *AAC)), ("MKV", "mkv", ("-c:v", "mpeg4", *AAC)),
        ("MPEG-TS", "ts", ("-c:v", "mpeg2video", "-r", "25", *AAC)),
    ):  # fmt: skip
        made = partial(late_sound, suffix, arguments)
        yield Odd(f"{name} whose sound starts late", made, 5.0, heard=late, may=GAP, within=0.15)
    trimmed = remade(encoded(partial(voice, 0, 4.0), "m4a", *AAC), "m4a")
    yield Odd("M4A, copied", trimmed, 4.0)
    start = encoded(partial(voice, 0, 4.0), "m4a", *AAC)
    yield Odd("M4A cut without encoding", lambda folder: run_ffmpeg(
        folder / "cut.m4a", "-ss", "1", "-i", f"file:{start(folder)}", "-c", "copy"), 3.0,
        heard=((Said(0, 0, 1.0, 4.0),),), within=0.2,
    )  # fmt: skip
    large = ("-c:a", "pcm_s16le", "-movflags", "empty_moov+default_base_moof", "-frag_duration", "100000")
    yield Odd("MOV of 30 fragments", encoded(voice_0, "mov", *large))
    hybrid = ("-movflags", "dash+global_sidx", "-frag_duration", "500000")
    yield Odd("MP4 with an index of fragments", encoded(voice_0, "mp4", *AAC, *hybrid), within=0.15)


def late_sound(suffix: str, arguments: tuple[str, ...], folder: Path) -> Path:
    """Video from 0 and sound from 2 s on."""
    sound = folder / "sound.wav"
    sound.write_bytes(wav(voice(0)))
    pictures = ("-f", "lavfi", "-i", "testsrc=s=64x64:r=5:d=5")
    sources = (*pictures, "-itsoffset", "2", "-i", f"file:{sound}")
    return run_ffmpeg(folder / f"odd.{suffix}", *sources, "-map", "0", "-map", "1", *arguments)


# --- damage ------------------------------------------------------------------------------------------------

DECLARED = {  # what says how long it was to be, and so how much is missing
    "WAV", "W64", "RF64", "AIFF", "AU", "FLAC", "MP3 with Xing", "M4A", "ALAC", "WavPack", "TTA", "WMA", "AVI",
    "MKA", "WebM", "CAF", "FLV",
}  # fmt: skip
KNOWN_CUT = {"Ogg Vorbis", "Ogg Opus", "Ogg FLAC"}  # what has a mark of its end, but says no length
LOSSLESS = {"WAV", "W64", "RF64", "AIFF", "AU", "CAF"}
STOPS = {"WavPack", "fragmented MP4"}  # what ffmpeg does not find again behind a hole
WITHOUT_LENGTH = ("ADTS", "MP2", "MP3 without Xing")


def damaged() -> Iterator[Odd]:
    """Cut, with garbage behind or before, with a hole."""
    every = MISSING_END | ERRORS | GAP | HEADER
    for name in CONTAINERS:
        known = name in DECLARED | KNOWN_CUT
        yield Odd(
            f"{name}, cut at 50 %", changed(contained(name), cut), 1.5, until=0.8, may=every,
            codes=MISSING_END if known else NONE, lost=1.5 if name in DECLARED else None,
            within=0.1 if name in LOSSLESS else 0.7,
        )  # fmt: skip
        if name == "AMR-NB":  # any byte is a frame
            continue
        garbage = joined(contained(name), noise(1500, 7))
        yield Odd(f"{name}, with garbage behind it", garbage, may=ERRORS | HEADER, within=0.2)
        torn = changed(contained(name), hole)
        seconds, within = (SECONDS, 0.1) if name in LOSSLESS else (2.7, 1.25 if name in STOPS else 0.7)
        yield Odd(
            f"{name}, with a hole of zeros", torn, seconds, until=1.0, may=every, within=within,
            warned=name not in (*LOSSLESS, "DTS"),  # whose decoder goes on behind it without a word
        )  # fmt: skip
    for name in WITHOUT_LENGTH:
        leading = joined(noise(700, 3).replace(b"\xff", b"\xfe"), contained(name))
        yield Odd(f"{name}, with garbage before it", leading, may=ERRORS, within=0.2)
    late = changed(encoded(voice_0, "m4a", *AAC), cut)
    yield Odd("M4A with the moov at the end, cut", late, 0, reason="moov")


ROWS = [Odd(**{**odd.__dict__, "row": True}) for odd in rows()]
CASES = [
    *ROWS, *rates_and_depths(), *more_formats(), *layouts(), *scenes(), *levels(), *tagged(), *named(), *timed(),
    *damaged(),
]  # fmt: skip
