"""pipeline/audio/channels.py: which channels of a recording are one sound, and which are kept apart."""

import math
import threading
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audio.channels import MODES, Measures, Plan
from pipeline.audio.converter import Converter
from tests.support.ffmpegs import every_ffmpeg
from tests.support.fleet import ffmpeg_program

RATE = 16_000
SECONDS = 6.0
Samples = np.ndarray[Any, np.dtype[np.float64]]


def speaker(number: int, seconds: float = SECONDS, pause: float = 0.0) -> Samples:
    """Noise in syllables and phrases of the speaker's own, -20 dB or so at its loudest; `pause`: the part of the
    time that is silent."""
    moments = np.arange(round(seconds * RATE)) / RATE
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * (2.4 + 0.37 * number) * moments + 1.3 * number)
    phrases = np.sin(2 * np.pi * moments / (1.3 + 0.17 * number) + 2.1 * number) > 2 * pause - 1
    noise: Samples = np.random.default_rng(number).normal(0, 0.15, moments.size)
    return noise * syllables**2 * phrases


def at(level: float, seconds: float = SECONDS) -> Samples:
    """Noise of this level, in dB below full scale."""
    noise: Samples = np.random.default_rng(99).normal(0, 1, round(seconds * RATE))
    return noise / noise.std() * 10 ** (level / 20)


def planned(*channels: Samples, mode: str = "auto", block: int = 10 * RATE) -> Plan:
    """The plan for these channels, given in blocks."""
    sound = np.round(np.clip(np.stack(channels, axis=1), -1, 1) * 32767).astype(np.int16)
    measures = Measures(len(channels), RATE)
    for start in range(0, len(sound), block):
        measures.add(sound[start : start + block])
    return measures.plan(mode)


def groups(plan: Plan) -> list[dict[int, int]]:
    """Which channels (from 1) are mixed, and with which sign."""
    return [
        {source + 1: round(math.copysign(1, weight)) for source, weight in output.items()}
        for output in plan.weights
    ]


ONE, TWO, THREE = speaker(1), speaker(2), speaker(3)
QUIET = np.zeros_like(ONE)


def later(sound: Samples, seconds: float) -> Samples:
    """The same some time later."""
    return np.concatenate([np.zeros(round(seconds * RATE)), sound])[: len(sound)]


def filtered(sound: Samples) -> Samples:
    """The same over a duller line."""
    return np.convolve(sound, np.hanning(9) / np.hanning(9).sum(), "same")


def coded(sound: Samples) -> Samples:
    """The same over a line of 8 bits (mu-law)."""
    small = np.sign(sound) * np.log1p(255 * np.abs(sound)) / np.log1p(255)
    small = np.round(small * 127) / 127
    back: Samples = np.sign(small) * np.expm1(np.abs(small) * np.log1p(255)) / 255
    return back


# --- auto --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "sign"),
    [
        (ONE, 1), (-ONE, -1), (ONE / 4, 1), (-ONE / 4, -1), (ONE * 1.5, 1), (coded(ONE), 1), (-coded(ONE), -1),
        (ONE + at(-45), 1), (ONE + 0.2, 1), (0.1 - ONE, -1),
    ],
    ids=["equal", "inverted", "quieter", "quieter, inverted", "louder", "over mu-law", "over mu-law, inverted",
         "with noise", "with an offset", "inverted, with an offset"],
)  # fmt: skip
def test_one_sound_on_two_channels_becomes_one(other: Samples, sign: int) -> None:
    plan = planned(ONE, other)
    assert groups(plan) == [{1: 1, 2: sign}]
    assert [abs(weight) for weight in plan.weights[0].values()] == [0.5, 0.5]
    assert plan.inverted == ((2,) if sign < 0 else ())
    assert plan.silent == ()


def test_an_inverted_channel_does_not_cancel_the_other() -> None:
    plan = planned(ONE, -ONE)
    mixed = sum(weight * (ONE, -ONE)[source] for source, weight in plan.weights[0].items())
    assert np.allclose(mixed, ONE)


@pytest.mark.parametrize("pause", [0.0, 0.3, 0.6])
def test_two_speakers_are_kept_apart(pause: float) -> None:
    for first in range(6):
        for second in range(first + 1, 6):
            plan = planned(speaker(first, 20.0, pause), speaker(second, 20.0, pause))
            assert groups(plan) == [{1: 1}, {2: 1}], f"speakers {first} and {second}"
            assert plan.is_copy(2)


def test_two_who_take_turns_are_kept_apart() -> None:
    half = len(ONE) // 2
    first, second = ONE.copy(), TWO.copy()
    first[half:], second[:half] = 0, 0
    assert groups(planned(first, second)) == [{1: 1}, {2: 1}]


def test_crosstalk_makes_no_scene() -> None:
    assert groups(planned(ONE + 0.05 * TWO, TWO + 0.05 * ONE)) == [{1: 1}, {2: 1}]


def test_one_scene_before_two_microphones_is_mixed() -> None:
    """The waves are shifted by metres of air, and far from alike; loud and quiet are at the same time."""
    near, far = ONE, filtered(later(ONE, 0.01)) * 0.5
    assert abs(np.corrcoef(near, far)[0, 1]) < 0.2
    assert groups(planned(near, far)) == [{1: 1, 2: 1}]


def test_a_steady_sound_makes_no_scene() -> None:
    """Two lines that hum tell nothing of loud and quiet, though one power station wobbles in both."""
    wobble = 1 + 0.08 * np.sin(np.arange(len(ONE)) / RATE * 5)
    assert groups(planned(at(-30) * wobble, at(-30)[::-1] * wobble)) == [{1: 1}, {2: 1}]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_steady_sound_over_two_lines_is_one(sign: int) -> None:
    """Here the waves alone tell."""
    other = sign * (at(-30) / 2 + at(-50)[::-1])
    assert groups(planned(at(-30), other)) == [{1: 1, 2: sign}]


def test_the_beginning_of_a_call_is_detected_from_its_waves_too() -> None:
    """A second is too short for loud and quiet."""
    assert groups(planned(ONE[:RATE], coded(ONE)[:RATE])) == [{1: 1, 2: 1}]
    assert groups(planned(ONE[:RATE], TWO[:RATE])) == [{1: 1}, {2: 1}]


def test_groups_of_several() -> None:
    plan = planned(ONE, TWO, -ONE, QUIET, TWO / 2, THREE, ONE)
    assert groups(plan) == [{1: 1, 3: -1, 7: 1}, {2: 1, 5: 1}, {6: 1}]
    assert (plan.inverted, plan.silent) == ((3,), (4,))
    assert [sum(map(abs, output.values())) for output in plan.weights] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("count", range(3, 17))
def test_every_one_of_many_speakers_is_kept(count: int) -> None:
    plan = planned(*(speaker(number, 3.0) for number in range(count)))
    assert plan.is_copy(count)
    assert groups(plan) == [{number: 1} for number in range(1, count + 1)]


# --- silence -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "is_heard"), [(-90, False), (-70, False), (-68, False), (-64, True), (-60, True), (-55, True)]
)
def test_a_connector_without_a_cable_is_left_out_and_a_far_whisper_is_not(level: float, is_heard: bool) -> None:
    plan = planned(ONE, at(level))
    assert plan.silent == (() if is_heard else (2,))
    assert len(plan.weights) == (2 if is_heard else 1)


def test_one_second_of_speech_in_hours_is_heard() -> None:
    rare = np.zeros(600 * RATE)
    rare[-RATE:] = at(-50, 1.0)
    assert planned(speaker(1, 600.0), rare).silent == ()


def test_a_click_is_no_sound() -> None:
    click = QUIET.copy()
    click[RATE] = 0.05  # the loudest second has -68 dB
    assert planned(ONE, click).silent == (2,)


def test_an_offset_is_no_sound() -> None:
    assert planned(ONE, QUIET + 0.3).silent == (2,)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("level", [-300, -80, -70])
def test_of_silence_alone_the_loudest_is_kept(mode: str, level: float) -> None:
    """And is not said to be left out."""
    plan = planned(at(level - 20), at(level), at(level - 20), mode=mode)
    kept = [source for output in plan.weights for source in output]
    assert len(kept) == 1
    assert kept == ([1] if level > -80 else kept)
    assert plan.silent == tuple(number for number in (1, 2, 3) if number - 1 not in kept)


# --- the other modes ---------------------------------------------------------------------------------------


def test_split_keeps_every_channel_that_is_heard() -> None:
    plan = planned(ONE, ONE, -ONE, QUIET, TWO, mode="split")
    assert groups(plan) == [{1: 1}, {2: 1}, {3: 1}, {5: 1}]
    assert (plan.inverted, plan.silent) == ((), (4,))


def test_mix_makes_one_channel_in_which_nothing_cancels_out() -> None:
    plan = planned(ONE, -ONE, TWO, QUIET, mode="mix")
    assert groups(plan) == [{1: 1, 2: -1, 3: 1}]
    assert (plan.inverted, plan.silent) == ((2,), (4,))
    assert sum(map(abs, plan.weights[0].values())) == pytest.approx(1)


@pytest.mark.parametrize("mode", MODES)
def test_one_channel_stays_as_it_is(mode: str) -> None:
    for sound in (ONE, QUIET):
        plan = planned(sound, mode=mode)
        assert (plan.weights, plan.inverted, plan.silent) == ([{0: 1.0}], (), ())
        assert plan.is_copy(1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("frames", [0, 1, 100, 1599, 1600, 1601])
def test_the_shortest_recordings_have_a_plan_too(mode: str, frames: int) -> None:
    assert planned(ONE[:frames], TWO[:frames], mode=mode).weights


@pytest.mark.parametrize("block", [1, 7, 1599, 1600, 1601, 50_000])
def test_the_plan_does_not_depend_on_the_blocks(block: int) -> None:
    """It counts what is left of a block too, also at the end: the speaker of one channel is only there."""
    end = np.zeros(RATE + 700)
    end[-700:] = 0.3 * np.sign(np.sin(np.arange(700)))
    sound = (speaker(1, len(end) / RATE), end, -speaker(1, len(end) / RATE))
    assert planned(*sound, block=block) == planned(*sound) == Plan([{0: 0.5, 2: -0.5}, {1: 1.0}], (3,), ())


# --- with ffmpeg -------------------------------------------------------------------------------------------


def written(path: Path, *channels: Samples) -> Path:
    """A WAV of these channels."""
    sound = np.round(np.clip(np.stack(channels, axis=1), -1, 1) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(channels))
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(sound.tobytes())
    return path


def heard(converter: Converter, *channels: Samples, folder: Path) -> Samples:
    """What is in the Opus of these channels: frames by channels, full scale is 1."""
    never = threading.Event()
    converter.to_opus(written(folder / "x.wav", *channels), folder / "x.opus", never)
    return np.concatenate(list(converter.sound(folder / "x.opus", never))) / 32768


def likeness(one: Samples, other: Samples) -> float:
    """The correlation of two sounds whose times agree to the sample or so."""
    length = min(len(one), len(other)) - 8
    return max(float(np.corrcoef(one[4 : 4 + length], other[at : at + length])[0, 1]) for at in range(9))


def tone(hertz: float) -> Samples:
    """A sound that Opus keeps."""
    moments = np.arange(round(2 * RATE)) / RATE
    loud: Samples = 0.25 * np.sin(2 * np.pi * hertz * moments)
    return loud * (0.6 + 0.4 * np.sin(2 * np.pi * (1 + hertz / 400) * moments))


@every_ffmpeg
def test_what_is_planned_is_what_is_heard(tmp_path: Path, ffmpeg: Path) -> None:
    """Also of many channels, for which ffmpeg has no names, and in the order of the recording."""
    tones = [tone(300 + 60 * number) for number in range(12)]
    nothing = np.zeros_like(tones[0])
    sound = heard(Converter(str(ffmpeg)), *tones[:6], -tones[0], nothing, *tones[6:], folder=tmp_path)
    assert sound.shape[1] == 12
    for number, one in enumerate(tones):
        assert likeness(one, sound[:, number]) > 0.95, number
        others = [abs(likeness(one, sound[:, other])) for other in range(12) if other != number]
        assert max(others) < 0.3, number


@pytest.mark.parametrize(("mode", "expected"), [("auto", 1), ("mix", 1), ("split", 2)])
def test_the_setting_decides_and_levels_stay(tmp_path: Path, mode: str, expected: int) -> None:
    sound = heard(Converter(ffmpeg_program(), channels=mode), tone(400), tone(400), folder=tmp_path)
    assert sound.shape[1] == expected
    for number in range(expected):
        assert sound[:, number].std() == pytest.approx(tone(400).std(), rel=0.1)
        assert likeness(tone(400), sound[:, number]) > 0.95
