"""pipeline/speech/voice_windows.py: any length of sound, as a stream, in windows that lose no speech and keep its
times."""

import itertools
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from faster_whisper.audio import decode_audio
from faster_whisper.vad import get_speech_timestamps

from pipeline.audio.converter import UnreadableAudio
from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech import voice_gate, voice_windows
from pipeline.speech.voice_gate import Span
from pipeline.speech.voice_windows import Recording
from tests.support.fleet import PROJECT
from tests.support.recordings import SAMPLES, SHORT
from tests.support.steps import AT_LENGTH

RATE = SAMPLE_RATE


def write_wav(path: Path, sound: np.ndarray) -> Path:
    """A 16 kHz mono WAV of float samples."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """The spoken samples, each without the silence around it."""
    found = []
    for name in SHORT:
        sound = decode_audio(str(SAMPLES / name))
        loud = np.flatnonzero(np.abs(sound) > 0.02)
        found.append(sound[loud[0] : loud[-1]])
    return found


def talk(speech: list[np.ndarray], seconds: float, pause: float) -> np.ndarray:
    """Sound of that length: samples with pauses of room noise between them."""
    noise = np.random.default_rng(0).normal(0, 3e-4, int(seconds * RATE)).astype(np.float32)
    at = int(pause * RATE)
    for number in range(10_000):
        piece = speech[number % len(speech)]
        if at + len(piece) + int(pause * RATE) > len(noise):
            break
        noise[at : at + len(piece)] += piece
        at += len(piece) + int(pause * RATE)
    return noise


def spans_of(recording: Recording) -> list[Span]:
    """Read it through; the stretches of speech in all its windows."""
    return [span for window in recording.windows() for span in window.spans]


# --- windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", [0.1, 0.5, 1.5, 20])
def test_windows_hold_the_speech_in_order_and_nothing_twice(
    tmp_path: Path, speech: list[np.ndarray], pause: float
) -> None:
    path = write_wav(tmp_path / "x.wav", talk(speech, 400, pause))
    whole = decode_audio(str(path))
    recording, at, overlaps = Recording(path), 0, 0
    for window in recording.windows():
        assert 0 < window.seconds <= 30
        at -= window.overlap
        for span in window.spans:
            assert at <= span.start <= span.first < span.last <= span.end <= len(whole)
            at = span.end
        parts = [whole[span.start : span.end] for span in window.spans]
        assert np.array_equal(np.concatenate(parts), window.samples)
        overlaps += window.overlap
    assert recording.duration_seconds == len(whole) / RATE
    kept = sum(map(len, spans_of(Recording(path)))) - overlaps
    assert recording.speech_seconds == pytest.approx(kept / RATE)


@pytest.mark.parametrize("block", [35, 50, 120])
def test_reading_in_blocks_finds_what_reading_at_once_finds(
    tmp_path: Path, speech: list[np.ndarray], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = talk(speech, 300, 1.2)
    path = write_wav(tmp_path / "x.wav", sound)
    monkeypatch.setattr(voice_gate, "_JUDGED_SECONDS", block)
    found, expected = np.zeros(len(sound), bool), np.zeros(len(sound), bool)
    for span in spans_of(Recording(path)):
        found[span.start : span.end] = True
    padded = replace(voice_gate._OPTIONS, speech_pad_ms=400)
    for voice in get_speech_timestamps(decode_audio(str(path)), padded):
        expected[voice["start"] : voice["end"]] = True
    assert (found & expected).sum() > 0.995 * expected.sum(), "speech was lost where blocks meet"
    assert (found | expected).sum() < 1.02 * expected.sum()


def test_speech_without_a_pause_is_cut_and_both_windows_hear_the_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = 400
    path = write_wav(tmp_path / "x.wav", np.random.default_rng(0).uniform(-0.5, 0.5, seconds * RATE))
    monkeypatch.setattr(voice_gate, "get_speech_timestamps", endless_speech)
    found = list(Recording(path).windows())
    assert found[0].spans[0].start == found[0].overlap == 0
    assert found[-1].spans[-1].end == seconds * RATE
    for before, after in itertools.pairwise(found):
        assert after.overlap == voice_windows.OVERLAP_SECONDS * RATE
        assert after.spans[0].start == before.spans[-1].end - after.overlap
        assert np.array_equal(after.samples[: after.overlap], before.samples[-after.overlap :])


def test_a_window_ends_at_the_longest_pause_in_reach(
    tmp_path: Path, speech: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at the last one before its 30 s are over, which may be in the middle of a sentence."""
    voiced = [(0, 10), (10.3, 25), (25.9, 27), (27.2, 29), (29.2, 38), (38.3, 45)]

    def gate(sound: np.ndarray, _: object) -> list[dict[str, int]]:
        return [{"start": int(start * RATE), "end": int(end * RATE)} for start, end in voiced]

    monkeypatch.setattr(voice_gate, "get_speech_timestamps", gate)
    first, second = Recording(write_wav(tmp_path / "x.wav", np.zeros(45 * RATE))).windows()
    assert [(span.first / RATE, span.last / RATE) for span in first.spans] == voiced[:2]
    assert len(second.spans) == 4
    assert (first.overlap, second.overlap) == (0, 0)


def test_what_is_left_of_a_window_and_the_next_stretch_fit_into_30_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whisper would be silent about the rest."""
    voiced = [(0, 12), (12.3, 25.4), (26.4, 29.8), (30, 57.9), (58.1, 70)]

    def gate(sound: np.ndarray, _: object) -> list[dict[str, int]]:
        return [{"start": int(start * RATE), "end": int(end * RATE)} for start, end in voiced]

    monkeypatch.setattr(voice_gate, "get_speech_timestamps", gate)
    found = list(Recording(write_wav(tmp_path / "x.wav", np.zeros(70 * RATE))).windows())
    assert [round(window.seconds, 1) for window in found if window.seconds > 30] == []
    assert [span.first / RATE for window in found for span in window.spans] == [start for start, _ in voiced]


def test_a_part_of_a_window_is_a_window(tmp_path: Path, speech: list[np.ndarray]) -> None:
    window = next(Recording(write_wav(tmp_path / "x.wav", talk(speech, 60, 1.5))).windows())
    assert len(window.spans) > 3
    part = window.part(1, 3)
    assert part.spans == window.spans[1:3]
    assert np.array_equal(np.concatenate([window.part(0, 1).samples, part.samples]), window.part(0, 3).samples)
    assert window.offsets()[-1] == len(window.samples)


def endless_speech(sound: np.ndarray, _: object) -> list[dict[str, int]]:
    """A voice gate that hears nothing but speech, in stretches as long as they may be."""
    step = 27 * RATE
    return [{"start": at, "end": min(at + step, len(sound))} for at in range(0, len(sound), step)]


def test_few_words_in_a_long_silence_share_a_window(tmp_path: Path, speech: list[np.ndarray]) -> None:
    path = write_wav(tmp_path / "x.wav", talk(speech[:1], 300, 45))
    (window,) = Recording(path).windows()
    assert len(window.spans) >= 4


# --- measures ----------------------------------------------------------------------------------------------


def test_every_sample_is_listened_to_and_measured(tmp_path: Path) -> None:
    sound = np.concatenate([np.full(40 * RATE, 0.5), np.zeros(40 * RATE)])
    heard: list[np.ndarray] = []
    recording = Recording(write_wav(tmp_path / "x.wav", sound), heard.append)
    assert list(recording.windows()) == []
    assert len(heard) > 1
    assert np.array_equal(np.concatenate(heard), decode_audio(str(tmp_path / "x.wav")))
    assert recording.loudness_db == pytest.approx(10 * np.log10(0.125), abs=0.01)
    assert (recording.duration_seconds, recording.speech_seconds) == (80, 0)


def test_digital_silence_has_no_level(tmp_path: Path) -> None:
    recording = Recording(write_wav(tmp_path / "x.wav", np.zeros(RATE)))
    assert list(recording.windows()) == []
    assert recording.loudness_db == float("-inf")


def test_no_sound_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableAudio, match="no sound"):
        list(Recording(write_wav(tmp_path / "x.wav", np.zeros(0))).windows())


# --- memory ------------------------------------------------------------------------------------------------

READ_HOURS = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {project!r})
from pipeline.speech import voice_gate, voice_windows
from tests.speech.test_voice_windows import endless_speech
voice_gate.get_speech_timestamps = endless_speech
count = sum(1 for _ in voice_windows.Recording(Path(sys.argv[1])).windows())
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_endless_wav(path: Path, hours: float) -> Path:
    """A file of that length that takes no room on the disk; `endless_speech` takes all of it for speech."""
    samples = int(hours * 3600 * RATE)
    write_wav(path, np.zeros(0))
    header = bytearray(path.read_bytes())
    header[4:8], header[40:44] = (36 + 2 * samples).to_bytes(4, "little"), (2 * samples).to_bytes(4, "little")
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(44 + 2 * samples)  # a hole: it reads as zeros
    return path


def megabytes(path: Path, hours: float) -> tuple[int, int]:
    """Windows of a file of that length, all speech, and the peak memory (MiB) of a process that reads it."""
    script = READ_HOURS.format(project=str(PROJECT))
    command = [sys.executable, "-c", script, str(write_endless_wav(path, hours))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, peak = done.stdout.split()
    return int(count), int(peak)


def test_six_hours_need_no_more_memory_than_one(tmp_path: Path) -> None:
    hour = 1 if AT_LENGTH else 1 / 4
    one, of_one = megabytes(tmp_path / "1.wav", hour)
    six, of_six = megabytes(tmp_path / "6.wav", 6 * hour)
    assert six == pytest.approx(6 * one, abs=6)  # each file rounds up
    assert of_six < of_one + 10  # the sound itself would be 144 MB, and at length 576
