"""Real Whisper models hear real speech through the whole way to the transcript: no word is lost, none is invented.

Models and speech come from the package registry (tests/downloads.py). Words are compared without case and
punctuation.
"""

import itertools
import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest
from faster_whisper.audio import decode_audio

from pipeline.audio.converter import Converter
from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech import voice_gate
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.transcript import Segment, Transcript
from pipeline.speech.whisper import Options, Whisper
from tests import downloads
from tests.speech.test_voice_windows import endless_speech, write_wav
from tests.support.fleet import ffmpeg_program

BEYOND = 0.5  # seconds that a segment may reach beyond its speech
NOISE = 3e-4  # level of a quiet room


@dataclass(frozen=True)
class Said:
    """A clip in a recording: where its sound is (seconds), and its words."""

    start: float
    end: float
    words: list[str]
    language: str


def words(text: str) -> list[str]:
    """The words of a text, bare."""
    text = text.lower().replace("-", " ").replace("mr.", "mister").replace("'", "")
    return "".join(letter if letter.isalnum() else " " for letter in text).split()


class Speech:
    """The clips, by name, without the silence around their sound."""

    def __init__(self) -> None:
        self.clips = {clip.name: clip for clip in downloads.speech()}

    def sound(self, name: str) -> np.ndarray:
        """The clip's sound: what is within 35 dB of its loudest."""
        sound = decode_audio(str(self.find(name).path))
        frames = np.sqrt(np.mean(sound[: len(sound) // 320 * 320].reshape(-1, 320) ** 2, axis=1))
        loud = np.flatnonzero(frames > frames.max() * 10 ** (-35 / 20))
        return sound[loud[0] * 320 : (loud[-1] + 1) * 320]

    def find(self, name: str) -> downloads.Clip:
        """The clip whose name has this in it."""
        return next(clip for key, clip in self.clips.items() if name in key)

    def join(self, names: Sequence[str], pauses: Sequence[float]) -> tuple[np.ndarray, list[Said]]:
        """The clips with so many seconds of a quiet room before each, and what is said in them."""
        draw = np.random.default_rng(0)
        parts, said, at = [], [], 0
        for name, pause in zip(names, pauses, strict=True):
            room = draw.normal(0, NOISE, int(pause * SAMPLE_RATE)).astype(np.float32)
            sound, clip = self.sound(name), self.find(name)
            at += len(room)
            said.append(Said(at / SAMPLE_RATE, (at + len(sound)) / SAMPLE_RATE, words(clip.text), clip.language))
            at += len(sound)
            parts += [room, sound]
        return np.concatenate([*parts, draw.normal(0, NOISE, SAMPLE_RATE // 2).astype(np.float32)]), said


@pytest.fixture(scope="module")
def speech() -> Speech:
    return Speech()


@pytest.fixture(scope="module")
def english() -> Whisper:
    """Whisper tiny.en."""
    return Whisper(downloads.whisper_model("tiny.en"), "cpu", 0, "float32", 2, Options())


@pytest.fixture(scope="module")
def polyglot() -> Whisper:
    """Whisper base, which knows many languages."""
    return Whisper(downloads.whisper_model("base"), "cpu", 0, "float32", 2, Options())


Hear = Callable[..., list[Transcript]]


@pytest.fixture
def hear(tmp_path: Path) -> Hear:
    """What a model hears in recordings, as the unpack worker converts them, in one run of the engine."""
    numbers = itertools.count()

    def hear(whisper: Whisper, *sounds: np.ndarray, batch_size: int = 8) -> list[Transcript]:
        found: dict[int, Transcript | Exception] = {}
        with Transcriber(whisper, found.__setitem__, 1, batch_size) as engine:
            for number, sound in enumerate(sounds):
                source = write_wav(tmp_path / f"{next(numbers)}.wav", np.clip(sound, -1, 1))
                target = source.with_suffix(".opus")
                Converter(ffmpeg_program()).to_opus(source, target, threading.Event())
                engine.submit(number, target)
            engine.drain()
        results = [found[number] for number in range(len(sounds))]
        assert all(isinstance(result, Transcript) for result in results), results
        return [result for result in results if isinstance(result, Transcript)]

    return hear


def missing(expected: Sequence[str], found: Sequence[str]) -> list[list[str]]:
    """Runs of three or more expected words for which there is nothing: passages that are lost."""
    steps = SequenceMatcher(None, expected, found, autojunk=False).get_opcodes()
    return [list(expected[a:b]) for kind, a, b, c, d in steps if kind != "equal" and (b - a) - (d - c) >= 3]


def said_words(said: Sequence[Said]) -> list[str]:
    return [word for one in said for word in one.words]


def assert_cues_fit(found: Sequence[Segment], said: Sequence[Said], seconds: float) -> None:
    """Each segment lies in one stretch of speech, can be read, and ends before the next begins."""
    for segment in found:
        assert any(
            one.start - BEYOND <= segment.start and segment.end <= other.end + BEYOND
            for one, other in itertools.combinations_with_replacement(said, 2)
            if all(
                after.start - before.end < 1
                for before, after in itertools.pairwise(said)
                if one.end <= after.start <= other.start
            )
        ), f"{segment.start} to {segment.end} crosses silence: {segment.text}"
        assert segment.text.strip()
        assert segment.end <= seconds
        assert len(segment.text) <= 84
        assert segment.end - segment.start <= 8
    assert all(before.end <= after.start for before, after in itertools.pairwise(found))


LIBRIVOX = ["0870", "0880", "0890", "0920", "0930"]


def test_no_word_is_lost_at_the_edge_of_a_window(english: Whisper, speech: Speech, hear: Hear) -> None:
    """A minute and a half: with timestamps, each full window lost its last sentence."""
    draw = random.Random(1)
    names = [LIBRIVOX[at % 5] for at in (0, 1, 2, 3, 4, 0, 2, 1, 3, 0, 4, 2, 3, 0, 1)]
    sound, said = speech.join(names, [draw.uniform(0.15, 1.2) for _ in names])
    (heard,) = hear(english, sound)
    assert len(sound) / SAMPLE_RATE > 75
    assert missing(said_words(said), words(heard.text)) == []
    matched = SequenceMatcher(None, said_words(said), words(heard.text), autojunk=False).ratio()
    assert matched > 0.93  # a tiny model mishears some
    assert_cues_fit(heard.segments, said, heard.duration_seconds)
    assert not [segment for segment in heard.segments if segment.mark]


def test_the_times_of_segments_are_those_of_the_speech(english: Whisper, speech: Speech, hear: Hear) -> None:
    names = ["0880", "0920", "0930", "0890", "0870", "0880"]
    sound, said = speech.join(names, [1.0, 1.5, 0.8, 2.0, 1.2, 1.0])
    (heard,) = hear(english, sound)
    for side in ("start", "end"):
        known = [getattr(one, side) for one in said]
        errors = [min(abs(getattr(segment, side) - at) for segment in heard.segments) for at in known]
        assert np.median(errors) <= 0.2, side
        assert max(errors) <= 1.0, side
    for one in said:
        spoken = [
            word
            for segment in heard.segments
            for word in segment.words
            if one.start - 0.3 <= word.start <= one.end
        ]
        assert abs(len(spoken) - len(one.words)) <= 2, "words are in another clip"


def test_no_cue_leaps_over_silence(english: Whisper, speech: Speech, hear: Hear) -> None:
    """The end of a sentence was that of the next one, two minutes later."""
    sound, said = speech.join(["0880", "0930", "0880"], [3, 60, 125])
    (heard,) = hear(english, sound)
    assert len(heard.segments) >= 3
    assert_cues_fit(heard.segments, said, heard.duration_seconds)


@pytest.mark.parametrize(
    ("name", "times", "pause"), [("hello_world", 8, 0.3), ("0880", 9, 0.4), ("hello_world", 20, 0.2)]
)
def test_what_was_said_again_and_again_is_written_so(
    english: Whisper, speech: Speech, hear: Hear, name: str, times: int, pause: float
) -> None:
    sound, said = speech.join([name] * times, [pause] * times)
    (heard,) = hear(english, sound)
    (word,) = {"hello_world": ["hello"], "0880": ["man"]}[name]
    assert words(heard.text).count(word) == times
    if name == "0880":  # the aligner lost its place among sentences that are all the same
        for one in said:
            spoken = [w.word for s in heard.segments for w in s.words if one.start - 0.3 <= w.start <= one.end]
            assert abs(len(spoken) - len(one.words)) <= 1, one
    assert missing(said_words(said), words(heard.text)) == []


def noises() -> dict[str, np.ndarray]:
    """Twelve seconds of sounds in which nobody speaks."""
    time, draw = np.arange(12 * SAMPLE_RATE) / SAMPLE_RATE, np.random.default_rng(3)
    ring = (np.sin(2 * np.pi * 440 * time) + np.sin(2 * np.pi * 480 * time)) * (time % 6 < 2)
    spectrum = np.fft.rfft(draw.normal(0, 1, len(time)))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    pink = np.fft.irfft(spectrum)
    melody = np.sin(
        2 * np.pi * np.repeat(220 * 2 ** (draw.choice([0, 3, 5, 7, 10], 24) / 12), SAMPLE_RATE // 2) * time
    )
    return {
        "silence": np.zeros(len(time)), "white": draw.normal(0, 0.1, len(time)), "pink": 0.1 * pink / pink.std(),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * time) + 0.1 * np.sin(2 * np.pi * 150 * time),
        "tone": 0.3 * np.sin(2 * np.pi * 1000 * time), "ringing": 0.2 * ring, "melody": 0.3 * melody,
    }  # fmt: skip


def test_sound_without_speech_has_not_one_word(english: Whisper, hear: Hear) -> None:
    heard = hear(english, *(sound.astype(np.float32) for sound in noises().values()))
    assert dict(zip(noises(), (one.text for one in heard), strict=True)) == dict.fromkeys(noises(), "")


def test_speech_after_a_tone_is_heard(english: Whisper, speech: Speech, hear: Hear) -> None:
    sound, said = speech.join(["0880", "0930"], [0.3, 0.6])
    (heard,) = hear(english, np.concatenate([noises()["ringing"].astype(np.float32), sound]))
    assert missing(said_words(said), words(heard.text)) == []
    assert len(words(heard.text)) <= len(said_words(said)) + 1


def test_a_cut_inside_speech_is_written_once(
    english: Whisper, speech: Speech, hear: Hear, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate that hears no pause: the windows are cut wherever they are full."""
    monkeypatch.setattr(voice_gate, "get_speech_timestamps", endless_speech)
    names = ["0870", "0890", "0920", "0930", "0870", "0920", "0890", "0880", "0920"]
    sound, said = speech.join(names, [0.3] * len(names))
    (heard,) = hear(english, sound)
    assert len(sound) / SAMPLE_RATE > 45
    assert missing(said_words(said), words(heard.text)) == []
    assert missing(words(heard.text), said_words(said)) == [], "words stand twice"


def test_the_same_files_give_the_same_text_in_any_company(english: Whisper, speech: Speech, hear: Hear) -> None:
    """Batches of other rows differ by rounding in the last bits; with these files no word depends on it."""
    sounds = [
        speech.join(names, [0.4] * len(names))[0]
        for names in (
            ["0870", "0880", "0890", "0920", "0930", "0870"],
            ["hello_world"] * 8,
            ["0890"],
            ["0930", "0880"],
        )
    ]
    together = hear(english, *sounds)
    assert [one.text for one in hear(english, *sounds[::-1], batch_size=3)] == [one.text for one in together[::-1]]
    for sound, expected in zip(sounds[1:], together[1:], strict=True):
        (alone,) = hear(english, sound, batch_size=1)
        assert alone.text == expected.text
        assert [(one.start, one.end) for one in alone.segments] == [
            (one.start, one.end) for one in expected.segments
        ]


def test_each_part_of_a_recording_has_its_own_language(polyglot: Whisper, speech: Speech, hear: Hear) -> None:
    """English, then Spanish in the same window, then a minute later French: each as it was said."""
    names = [
        "0870",
        "0890",
        "es/pangrama",
        "es/hola_mundo",
        "es/pangrama",
        "fr/pangrama",
        "fr/bonjour",
        "fr/pangrama",
    ]
    sound, said = speech.join(names, [0.5, 0.5, 0.8, 0.4, 0.4, 30, 0.4, 0.4])
    (heard,) = hear(polyglot, sound)
    for one in said:
        over = [s for s in heard.segments if s.start < one.end and s.end > one.start]
        assert {segment.language for segment in over} == {one.language}, one
    assert set(heard.languages) == {"en", "es", "fr"}
    assert heard.language == "en"
    assert missing(said_words(said[:2]), words(heard.text)) == []
    assert "feliz" in words(heard.text)
    assert "bonjour le monde" in heard.text.lower()
