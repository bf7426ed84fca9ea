"""pipeline/audio/byte_ranges.py: where the sound of a file is, whatever its headers say."""

import itertools
import random
import struct
import subprocess
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from pipeline.audio import joined_files, pcm_headers, sound_pieces
from pipeline.audio.byte_ranges import pieces
from pipeline.audio.converter import Converter
from pipeline.audio.sound_pieces import Piece, Pieces
from tests.support.ffmpegs import every_ffmpeg
from tests.support.fleet import PROJECT, ffmpeg_program

CALL = PROJECT / "tests" / "samples" / "monday" / "call001.mp3"
RATE = 8000
SOUND = random.Random(5).randbytes(4 * RATE)  # 2 s of 16 bits
NO_LENGTH = {"ignore_length": "1"}


def chunk(name: bytes, body: bytes, length: int | None = None, order: str = "<") -> bytes:
    """A chunk of RIFF, whose header may say another length."""
    size = len(body) if length is None else length
    return name + struct.pack(f"{order}I", size) + body + b"\0" * (len(body) % 2)


def wav(
    sound: bytes = SOUND,
    says: int | None = None,
    riff: bytes = b"RIFF",
    before: bytes = b"",
    behind: bytes = b"",
    rate: int = RATE,
) -> bytes:
    """A WAV of one channel of 16 bits, whose header may say that there are more or fewer bytes of sound."""
    order = ">" if riff == b"RIFX" else "<"
    form = chunk(b"fmt ", struct.pack(f"{order}HHIIHH", 1, 1, rate, 2 * rate % 2**32, 2, 16), order=order)
    body = b"WAVE" + before + form + chunk(b"data", sound, says, order) + behind
    return riff + struct.pack(f"{order}I", len(body)) + body


LIST = chunk(b"LIST", b"INFOISFT" + struct.pack("<I", 14) + b"a recorder...\0")
DS64 = chunk(b"ds64", struct.pack("<QQQI", len(SOUND) + 80, len(SOUND), len(SOUND) // 2, 0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.source"


def found(path: Path, content: bytes) -> Pieces:
    path.write_bytes(content)
    return pieces(path)


def codes(one: Pieces) -> list[tuple[str, float | None]]:
    return [(warning.code, warning.seconds) for warning in one.warnings]


# --- WAV ---------------------------------------------------------------------------------------------------

WHOLE = {
    "plain": wav(),
    "with chunks in front": wav(before=LIST + chunk(b"JUNK", bytes(2000)) + chunk(b"bext", b"odd")),
    "with chunks behind": wav(behind=LIST + chunk(b"id3 ", b"ID3" * 1111)),
    "with an ID3v1 tag behind": wav(behind=b"TAG" + bytes(125)),
    "with an ID3v2 tag behind": wav(behind=b"ID3\3\0\0\0\0\x20\0" + b"x" * 4096),
    "with an APE tag behind": wav(behind=b"APETAGEX" + b"x" * 2000),
    "with zeros behind": wav(behind=bytes(5000)),
    "with little behind": wav(behind=b"\x01\x02" * 300),  # 0.04 s
    "of odd length": wav(SOUND[:-1]),
    "big-endian": wav(riff=b"RIFX"),
    "RF64": wav(says=2**32 - 1, riff=b"RF64", before=DS64),
    "RF64 with a chunk behind": wav(says=2**32 - 1, riff=b"RF64", before=DS64, behind=LIST),
    "cut by less than anybody hears": wav()[:-100],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_wav_that_says_what_it_holds_is_read_as_it_is(path: Path, kind: str) -> None:
    assert found(path, WHOLE[kind]) == Pieces([Piece("wav")])


WRONG = {
    # kind: (content, bytes of sound read beyond the header's word, what is said)
    "says half": (wav(says=2 * RATE), "wrong_header", None),
    "says a little": (wav(says=100), "wrong_header", None),
    "says half, and tags": (wav(says=2 * RATE, before=LIST), "wrong_header", None),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wav_whose_header_says_less_is_read_to_its_end(path: Path, kind: str) -> None:
    content, code, seconds = WRONG[kind]
    one = found(path, content)
    assert one.all == [Piece("wav", 0, len(content), NO_LENGTH)]
    assert codes(one) == [(code, seconds)]


def test_what_the_warning_says_of_a_wrong_header(path: Path) -> None:
    assert [warning.message for warning in found(path, wav(says=2 * RATE)).warnings] == [
        "The header says 1.0 s, the file holds 1.0 s more: read to its end."
    ]


@pytest.mark.parametrize("says", [0, 0xFFFF_FFFF, 0xFFFF_FFFE, 0xFFFF_0000])
def test_a_wav_that_was_written_as_a_stream_is_read_to_its_end(path: Path, says: int) -> None:
    """Nothing is wrong with it: who writes to a pipe cannot know the length."""
    content = wav(says=says)
    assert found(path, content) == Pieces([Piece("wav", 0, len(content), NO_LENGTH)])


@pytest.mark.parametrize("lost", [0.1, 0.5, 1.9])
def test_a_cut_wav_says_how_much_is_missing(path: Path, lost: float) -> None:
    one = found(path, wav()[: -round(lost * 2 * RATE)])
    assert one.all == [Piece("wav")]
    assert codes(one) == [("missing_end", lost)]


@pytest.mark.parametrize("rate", [0, 1, 999, 1_000_001, 199_999_991, 2**32 - 1])
def test_a_wav_of_an_absurd_rate_is_refused_before_anything_is_started(path: Path, rate: int) -> None:
    one = found(path, wav(rate=rate))
    if rate:  # of one that says 0 ffmpeg is asked
        assert (one.all, one.problem) == ([], f"its sample rate is {rate} Hz")


@pytest.mark.parametrize("rate", [1000, 8000, 192_000, 1_000_000])
def test_other_rates_are_read(path: Path, rate: int) -> None:
    assert found(path, wav(rate=rate)).problem is None


def test_joined_wavs_are_read_one_by_one(path: Path) -> None:
    """Each with its own length, and what is wrong with the last one."""
    first, second, third = wav(), wav(SOUND[:801], behind=LIST), wav(riff=b"RIFX")
    one = found(path, first + third + first[:-16000])
    ends = [0, len(first), len(first + third), len(first + third + first) - 16000]
    assert one.all == [Piece("wav", *part) for part in itertools.pairwise(ends)]
    assert codes(one) == [("missing_end", 1.0)]
    one = found(path, first + second)  # what stands between: ffmpeg ends where the header says
    assert [(piece.start, piece.options) for piece in one.all] == [(0, {}), (len(first), {})]


def test_a_wav_that_is_none_inside_is_left_to_ffmpeg(path: Path) -> None:
    for content in (b"RIFF\0\0\0\0WAVE" + SOUND, b"RIFF\x24\0\0\0WAVEfmt \x04\0\0\0abcd" + chunk(b"data", SOUND)):
        assert found(path, content) == Pieces([Piece("wav")])


# --- others ------------------------------------------------------------------------------------------------


def made(suffix: str, *arguments: str) -> bytes:
    """The call as ffmpeg writes it."""
    command = [ffmpeg_program(), "-loglevel", "error", "-i", str(CALL), *arguments, "-f", suffix, "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def vorbis() -> bytes:
    return made("ogg", "-c:a", "libvorbis", "-page_duration", "100000")


def m4a(folder: Path) -> bytes:
    """A file of a moov at its end, which cannot be written to a pipe."""
    path = folder / "x.m4a"
    subprocess.run([ffmpeg_program(), "-loglevel", "error", "-i", str(CALL), "-c:a", "aac", str(path)], check=True)
    return path.read_bytes()


def parts(lengths: list[int]) -> list[tuple[int, int]]:
    """Where parts of these lengths begin and end."""
    ends = [sum(lengths[: number + 1]) for number in range(len(lengths))]
    return list(zip([0, *ends], ends, strict=False))


def test_an_ogg_is_one_stretch_and_a_chain_of_them_several(path: Path, vorbis: bytes) -> None:
    assert found(path, vorbis) == Pieces([Piece("ogg")])
    other = made("ogg", "-c:a", "libvorbis", "-ar", "22050")
    one = found(path, vorbis + other + vorbis)
    lengths = [len(vorbis), len(other), len(vorbis)]
    assert one == Pieces([Piece("ogg", *part) for part in parts(lengths)])


def test_a_cut_ogg_says_so(path: Path, vorbis: bytes) -> None:
    for content in (vorbis[:-200], vorbis[: len(vorbis) // 2], vorbis + vorbis[:-200]):
        assert codes(found(path, content)) == [("missing_end", None)]


def test_junk_in_an_ogg_hides_nothing_of_a_chain(path: Path, vorbis: bytes) -> None:
    middle = vorbis.index(b"OggS", len(vorbis) // 2)
    damaged = vorbis[:middle] + b"OggOggS\1junk" * 20_000 + vorbis[middle:]
    assert [piece.start for piece in found(path, damaged + vorbis).all] == [0, len(damaged)]


def test_streams_side_by_side_are_no_chain(path: Path) -> None:
    """Two that begin at once: tracks, of which ffmpeg tells."""
    inputs = ("-i", str(CALL), "-map", "0:a", "-map", "1:a")
    assert found(path, made("ogg", *inputs, "-c:a", "libvorbis")) == Pieces([Piece("ogg")])


def test_joined_m4as_are_read_one_by_one(path: Path, tmp_path: Path) -> None:
    content = m4a(tmp_path)
    assert found(path, content) == Pieces([Piece("mov")])
    assert found(path, content * 3).all == [Piece("mov", *part) for part in parts([len(content)] * 3)]


@pytest.mark.parametrize(
    ("magic", "frame", "silence"),
    [(b"#!AMR\n", b"\x3c" + bytes(31), b"\x7c"), (b"#!AMR-WB\n", b"\x14" + bytes(32), b"\x7c")],
)
def test_the_time_of_amr_is_counted(path: Path, magic: bytes, frame: bytes, silence: bytes) -> None:
    """Also that of silence, which is a byte for 20 ms."""
    noise = bytes([0x44]) + bytes(5) if magic == b"#!AMR\n" else bytes([0x4C]) + bytes(5)  # how the silence sounds
    content = magic + frame * 50 + (silence * 7 + noise) * 12 + silence * 4 + frame * 25
    assert found(path, content) == Pieces([Piece("amr", seconds=3.5)])
    assert found(path, content + magic + frame * 10) == Pieces(
        [
            Piece("amr", 0, len(content), seconds=3.5),
            Piece("amr", len(content), len(content + magic + frame * 10), seconds=0.2),
        ]
    )


def test_what_is_no_frame_of_amr_is_said(path: Path) -> None:
    one = found(path, b"#!AMR\n" + (b"\x3c" + bytes(31)) * 50 + b"\x64" * 50)
    assert codes(one) == [("decode_errors", 1.0)]


ID3 = b"ID3\3\0\0\0\0\0\x2a" + b"TIT2\0\0\0\x06\0\0\0Title" + bytes(26)


def aiff() -> bytes:
    return made("aiff", "-c:a", "pcm_s16be")


@every_ffmpeg
@pytest.mark.parametrize("kind", ["wav", "wav, header too short", "wavs, joined", "amr", "aiff", "caf"])
def test_a_tag_in_front_hides_no_sound(path: Path, ffmpeg: Path, kind: str) -> None:
    """Taggers put an ID3 tag in front of anything; ffmpeg knows it in few formats."""
    content = {
        "wav": wav, "wav, header too short": lambda: wav(says=4000), "wavs, joined": lambda: wav() + wav(),
        "amr": lambda: b"#!AMR\n" + (b"\x3c" + bytes(31)) * 100, "aiff": aiff,
        "caf": lambda: made("caf", "-c:a", "pcm_s16be"),
    }[kind]()  # fmt: skip
    target, never = path.with_suffix(".opus"), threading.Event()
    converter = Converter(str(ffmpeg))
    path.write_bytes(content)
    plain = converter.to_opus(path, target, never)
    path.write_bytes(ID3 + content)
    assert converter.to_opus(path, target, never) == plain
    assert plain.seconds >= 2


# --- anything ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", b"RIFF", b"OggS", bytes(5000), b"#EXTM3U\nx.mp3\n", b"<MPD>"])
def test_what_is_no_recording_has_a_reason(path: Path, content: bytes) -> None:
    one = found(path, content)
    assert one.all == []
    assert one.problem == ("it holds no sound in a format that is read here" if content else "it is empty")


MAGICS = [
    wav(), wav(says=2**32 - 1, riff=b"RF64", before=DS64), wav(riff=b"RIFX"), b"RIFF\0\0\0\0WAVE", ID3 + wav(),
    b"OggS\0\2" + bytes(8) + b"\1\0\0\0" + bytes(8) + b"\1\x1e\1vorbis", b"\0\0\0\x18ftypM4A \0\0\0\0", ID3,
    b"\0\0\0\1moov\0\0\0\0\0\0\0\x10", b"#!AMR\n", b"#!AMR-WB\n", b"#!AMR_MC1.0\n", b"fLaC\0\0\0\x22",
    b"FORM\0\0\0\x10AIFF", b"\x1aE\xdf\xa3\x80matroska",
]  # fmt: skip


@hypothesis.settings(max_examples=400, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    strategies.lists(
        strategies.one_of(
            strategies.sampled_from(MAGICS),
            strategies.binary(max_size=300),
            strategies.integers(0, 2**32 - 1).map(lambda number: struct.pack("<I", number)),
            strategies.integers(0, 30_000).map(bytes),
        ),
        max_size=8,
    ),
    strategies.integers(0, 70_000),
)
def test_random_and_cut_bytes_never_raise(tmp_path: Path, blocks: list[bytes], end: int) -> None:
    content = b"".join(blocks)[:end]
    one = found(tmp_path / "x.source", content)
    assert (one.problem is None) == bool(one.all)
    assert all(warning.seconds is None or warning.seconds > 0 for warning in one.warnings)
    whole = [piece for piece in one.all if piece.start is None]
    places = [(piece.start, piece.end) for piece in one.all if piece.start is not None]
    assert whole == one.all or not whole
    assert all(0 <= start < end <= len(content) for start, end in places)  # type: ignore[operator]
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(places))  # type: ignore[operator]


FTYP = b"\0\0\0\x18ftypM4A " + bytes(12)


@pytest.mark.parametrize(
    "content",
    [
        wav(before=LIST, behind=LIST)[:3000] + wav(SOUND[:500], says=3), FTYP + b"\0\0\0\1mdat" + bytes(99),
        b"#!AMR\n" + (b"\x3c" + bytes(31)) * 9, b"#!AMR-WB\n" + (b"\x14" + bytes(32)) * 9,
        b"OggS\0\2" + bytes(20) + b"\2\xff\x10" + bytes(271), wav(says=2**32 - 1, riff=b"RF64", before=DS64)[:200],
    ],
)  # fmt: skip
def test_a_file_that_is_cut_anywhere_never_raises(path: Path, content: bytes) -> None:
    for end in range(len(content)):
        one = found(path, content[:end])
        assert bool(one.all) != bool(one.problem)


HOSTILE: dict[str, Any] = {  # much work, or much memory, for each byte
    "Ogg pages of nothing": lambda size: (b"OggS\0\2" + bytes(20) + b"\0") * (size // 27),
    "Ogg pages, each a link": lambda size: (
        (b"OggS\0\2" + bytes(20) + b"\0" + b"OggS\0\0" + bytes(20) + b"\0") * (size // 54)
    ),
    "AMR of silence": lambda size: b"#!AMR\n\x3c" + bytes(31) + b"\x7c" * size,
    "AMR of magics": lambda size: b"#!AMR\n\x3c" + bytes(31) + b"#!AMR\n" * (size // 6),
    "boxes of nothing": lambda size: b"\0\0\0\x18ftypM4A " + bytes(12) + b"\0\0\0\x08free" * (size // 8),
    "chunks of nothing": lambda size: wav(behind=b"abcd\0\0\0\0" * (size // 8)),
    "chunks in front": lambda size: wav(before=b"abcd\0\0\0\0" * (size // 8)),
    "WAVs of nothing": lambda size: wav(b"\0\0") * (size // 46),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_takes_little_time_and_memory(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limits that are met here as they would be met by gigabytes."""
    monkeypatch.setattr(joined_files, "_MOST_AMR_FRAMES", 20_000)
    monkeypatch.setattr(joined_files, "_MOST_PAGES", 5_000)
    looks, look = 0, sound_pieces.at

    def counted(*args: Any) -> bytes:
        nonlocal looks
        looks += 1
        return look(*args)

    for module in (joined_files, pcm_headers):
        monkeypatch.setattr(module, "at", counted)
    content = HOSTILE[kind](4_000_000)
    path.write_bytes(content)
    tracemalloc.start()
    one = pieces(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1 <= len(one.all) <= 64
    assert peak < 2 * len(content)
    assert looks < 150_000
    assert all(piece.seconds is None for piece in one.all)
