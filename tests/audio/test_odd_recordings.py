"""Recordings that are odd but legitimate: nothing of their sound is lost, and what is damaged is said.

LONG_TESTS=1 ./test -k odd_recordings    all of them, on every ffmpeg that is here; otherwise some
"""

import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio.converter import Converter, Report, UnreadableAudio
from tests.support.ffmpegs import PINNED, others, version
from tests.support.odd_recordings import CASES, RATE, ROWS, Odd, Said, Samples, envelope, tone_of
from tests.support.steps import AT_LENGTH

STEP = 0.02  # s between looks at the loudness
LIKENESS = 0.8  # of the loudness of a tone to what its speaker said: 1 is the same, 0 nothing in common
LEAK = 0.15  # of the tone of who is heard in another channel
EXACT_SUFFIXES = {".wav", ".flac", ".aiff", ".aif", ".au", ".caf", ".w64", ".wv", ".tta"}
LOSSY = ("adpcm", "g72", "MP3", "AMR", "clipped", "over 1")  # what may be in those all the same
MOST_LAG = 4  # samples of 16 kHz: what filters delay it by
FIT = 0.9


def decoded(path: Path) -> Samples:
    """The sound of an Opus: one row a sample of 16 kHz, one column a channel."""
    channels = path.read_bytes()[:4096].split(b"OpusHead", 1)[1][1]
    command = [
        str(PINNED),
        "-nostdin",
        "-loglevel",
        "error",
        "-i",
        str(path),
        "-ar",
        str(RATE),
        "-f",
        "f32le",
        "-",
    ]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(sound, "<f4").reshape(-1, channels).astype(np.float64)


def loudness(channel: Samples, speaker: int) -> Samples:
    """How loud the speaker's tone is, every `STEP`."""
    step = round(STEP * RATE)
    steps = len(channel) // step
    beaten = channel * np.exp(-2j * np.pi * tone_of(speaker) * np.arange(len(channel)) / RATE)
    each = beaten[: steps * step].reshape(steps, step).mean(axis=1)
    return np.abs(np.convolve(each, [0.25, 0.5, 0.25], "same"))


def said_loudness(said: list[Said], moments: Samples) -> Samples:
    """How loud the speaker is to be at these moments."""
    total = np.zeros_like(moments)
    for piece in said:
        own = moments - piece.at + piece.start
        total += np.where((own >= piece.start) & (own < piece.end), envelope(piece.speaker, own), 0)
    return total


def likeness(measured: Samples, said: list[Said], near: float) -> float:
    """The best correlation of a loudness with what was said, up to `near` seconds sooner or later."""
    moments: Samples = (np.arange(len(measured), dtype=np.float64) + 0.5) * STEP
    most = round(near / STEP)
    found = (alike(measured, said_loudness(said, moments + step * STEP)) for step in range(-most, most + 1))
    return max(found)


def alike(one: Samples, other: Samples) -> float:
    """Their correlation (Pearson's), 0 where one of them does not change."""
    one, other = one - one.mean(), other - other.mean()
    sizes = size_of(one) * size_of(other)
    return float((one * other).sum()) / sizes if sizes > 0 else 0.0


def check_channel(channel: Samples, said: tuple[Said, ...], everybody: set[int], near: float) -> None:
    """Who is to be heard in the channel is, all the time, and nobody else."""
    present = sorted({piece.speaker for piece in said})
    measured = {speaker: loudness(channel, speaker) for speaker in everybody}
    for speaker in present:
        own = [piece for piece in said if piece.speaker == speaker]
        as_said = likeness(measured[speaker], own, near)
        assert as_said >= LIKENESS, f"speaker {speaker} is heard as {as_said:.2f}"
    strongest = max(float(measured[speaker].mean()) for speaker in present)
    for speaker in everybody - set(present):
        leak = float(measured[speaker].mean()) / strongest
        assert leak < LEAK, f"speaker {speaker} is heard too: {leak:.2f}"


def wave_of(said: tuple[Said, ...], samples: int) -> Samples:
    """The tones of what is said, as samples."""
    moments = np.arange(samples) / RATE
    total = np.zeros(samples)
    for piece in said:
        own = moments - piece.at + piece.start
        tone = envelope(piece.speaker, own) * np.sin(2 * np.pi * tone_of(piece.speaker) * own)
        total += np.where((own >= piece.start) & (own < piece.end), tone, 0)
    return total


def fit(part: Samples, wave: Samples) -> float:
    """How well the part fits the wave, either way up and up to `MOST_LAG` sooner or later: 1 is the same."""
    middle = part[MOST_LAG:-MOST_LAG]
    shifted = [wave[shift : shift + len(middle)] for shift in range(2 * MOST_LAG + 1)]
    return max(abs(float((middle * other).sum())) / (size_of(middle) * size_of(other)) for other in shifted)


def size_of(wave: Samples) -> float:
    """Its length as a vector."""
    return float(np.sqrt(np.square(wave).sum()))


def check_samples(channel: Samples, said: tuple[Said, ...]) -> None:
    """Each third of the channel lies where it lay in the original, sample by sample."""
    wave = wave_of(said, len(channel))
    third = len(channel) // 3
    for start in (0, third, 2 * third):
        part = slice(start, start + third)
        if np.abs(wave[part]).max() > 0.2:
            assert fit(channel[part], wave[part]) >= FIT, f"from sample {start} on"


def check_sound(odd: Odd, opus: Path, report: Report, exact: bool) -> None:
    """The Opus holds what the recording holds."""
    sound = decoded(opus)
    assert sound.shape[1] == report.channels
    near = max(odd.within, odd.seconds / 1000)
    assert len(sound) / RATE == pytest.approx(odd.seconds, abs=near)
    assert report.seconds == pytest.approx(odd.seconds, abs=near)
    heard = odd.heard
    if odd.or_mixed and report.channels == 1:
        heard = (tuple({piece for channel in odd.heard for piece in channel}),)
    assert report.channels == (len(heard) or odd.channels)
    sound = sound[: round(min(odd.until, odd.seconds + near) * RATE)]
    everybody = {piece.speaker for channel in heard for piece in channel}
    for number, said in enumerate(heard):
        check_channel(sound[:, number], said, everybody, 0.1 + odd.within)
        if exact and {piece.speaker for piece in said} in ({0}, {1}):
            check_samples(sound[:, number], said)


def check_warnings(odd: Odd, warnings: list[Any]) -> None:
    """What is damaged is said, and nothing is said of what is not."""
    codes = {warning.code for warning in warnings}
    assert odd.codes <= codes <= odd.codes | odd.may, [warning.message for warning in warnings]
    assert codes or not odd.warned
    if odd.lost is not None:
        lost = sum(warning.seconds or 0 for warning in warnings)
        assert lost == pytest.approx(odd.lost, abs=max(1.5 * odd.within, 0.2)), warnings


def check(odd: Odd, program: Path, folder: Path) -> None:
    """Convert the recording with this ffmpeg, and look at what came out."""
    (folder / "in").mkdir()
    source, target = odd.make(folder / "in"), folder / "out.opus"
    exact = source.suffix in EXACT_SUFFIXES and not any(word in odd.name for word in LOSSY) and not odd.or_mixed
    if odd.reason is not None:
        with pytest.raises(UnreadableAudio, match=odd.reason):
            Converter(str(program)).to_opus(source, target, threading.Event())
        assert not target.exists()
        return
    report = Converter(str(program)).to_opus(source, target, threading.Event())
    check_warnings(odd, report.warnings)
    check_sound(odd, target, report, exact)


PLAIN = [odd for odd in CASES if not odd.row]
# What is not held, as docs/recordings.md says: strict, so that whoever holds it takes the line away.
WEAK = {
    "MPEG-TS whose sound starts late": "no silence is put before it",
    "AVI, with a hole of zeros": "its length is not known to ffmpeg, so nothing says how much is missing",
}
WEAK_ELSEWHERE = WEAK | {"W64, with garbage behind it": "this ffmpeg refuses it"}


def cases(odds: list[Odd], weak: dict[str, str]) -> list[Any]:
    """The recordings as parameters, each with its name."""
    marks = {name: [pytest.mark.xfail(strict=True, reason=reason)] for name, reason in weak.items()}
    return [pytest.param(odd, id=odd.name, marks=marks.get(odd.name, [])) for odd in odds]


@pytest.mark.parametrize("odd", ROWS, ids=lambda odd: odd.name)
def test_a_fault_that_was_seen_is_seen_no_more(odd: Odd, tmp_path: Path) -> None:
    check(odd, PINNED, tmp_path)


@pytest.mark.parametrize("odd", ROWS if AT_LENGTH else ROWS[::3], ids=lambda odd: odd.name)
@pytest.mark.parametrize("ffmpeg", others(), ids=version)
def test_nor_is_it_with_the_ffmpeg_of_the_distribution(ffmpeg: Path, odd: Odd, tmp_path: Path) -> None:
    check(odd, ffmpeg, tmp_path)


@pytest.mark.parametrize("odd", cases(PLAIN if AT_LENGTH else PLAIN[::12], WEAK))
def test_nothing_of_an_odd_recording_is_lost(odd: Odd, tmp_path: Path) -> None:
    check(odd, PINNED, tmp_path)


@pytest.mark.skipif(not AT_LENGTH, reason="takes minutes: LONG_TESTS=1")
@pytest.mark.parametrize("odd", cases(PLAIN, WEAK_ELSEWHERE))
@pytest.mark.parametrize("ffmpeg", others(), ids=version)
def test_nor_with_the_ffmpeg_of_the_distribution(ffmpeg: Path, odd: Odd, tmp_path: Path) -> None:
    check(odd, ffmpeg, tmp_path)


def test_there_are_many_of_them_and_each_has_its_name() -> None:
    assert len(CASES) >= 150
    assert len({odd.name for odd in CASES}) == len(CASES)
