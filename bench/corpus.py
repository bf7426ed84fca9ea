"""Recordings for the benchmarks, made of the samples' speech: the same ones for the same numbers."""

import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from faster_whisper.audio import decode_audio

from bench.accuracy_speech import clips
from bench.accuracy_track import Track, speak, write
from pipeline.audio.converter import Converter
from tests.support.fleet import ffmpeg_program
from tests.support.recordings import SAMPLES, SHORT

RATE = 16_000
PAUSES = (0.2, 1.2)  # seconds between two utterances
SHORTEST, LONGEST = 2.0, 30.0  # seconds of a short clip


def short_clips(folder: Path, count: int) -> list[Path]:
    """Clips of 2 to 30 s, most of them short, as Opus."""
    draw = random.Random(1)
    seconds = [min(LONGEST, SHORTEST + draw.expovariate(1 / 8)) for _ in range(count)]
    return [_make(folder / f"short{number:05}.opus", length, number) for number, length in enumerate(seconds)]


def long_recordings(folder: Path, minutes: list[int]) -> list[Path]:
    """A recording of each length in minutes, as Opus."""
    return [_make(folder / f"long{length:03}.opus", 60.0 * length, length) for length in minutes]


def real_clips(folder: Path, count: int) -> list[Path]:
    """Clips of real speech in many languages, as Opus; each as often as it takes."""
    pool = clips()
    return [_keep(folder / f"clip{number:05}.opus", pool[number % len(pool)].samples) for number in range(count)]


def real_long(folder: Path, minutes: list[int]) -> list[Path]:
    """A recording of real English speech of each length in minutes, as Opus."""
    pool = [clip for clip in clips() if clip.language == "en"]
    return [
        _keep(folder / f"real{length:03}.opus", speak(Track(), pool, 60.0 * length, random.Random(length)).samples)
        for length in minutes
    ]


def _keep(path: Path, samples: np.ndarray) -> Path:
    """The samples as the unpack worker keeps them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_suffix(".wav")
    write(source, samples)
    Converter(ffmpeg_program()).to_opus(source, path, threading.Event())
    source.unlink()
    path.with_suffix(".seconds").write_text(str(round(len(samples) / RATE, 3)))
    return path


def seconds_of(path: Path) -> float:
    """The length of a recording that was made here."""
    return float(path.with_suffix(".seconds").read_text())


def _make(path: Path, seconds: float, seed: int) -> Path:
    """One recording, where it is not there yet."""
    length = path.with_suffix(".seconds")
    if path.exists() and length.exists() and length.read_text() == str(round(seconds, 3)):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [
        ffmpeg_program(),
        "-nostdin",
        "-y",
        "-loglevel",
        "error",
        "-f",
        "s16le",
        "-ar",
        str(RATE),
        "-ac",
        "1",
    ]
    command += ["-i", "-", "-c:a", "libopus", "-b:a", "48k", "-application", "voip", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        left = int(seconds * RATE)
        for piece in _speech(random.Random(seed)):
            process.stdin.write(piece[:left].tobytes())
            left -= len(piece)
            if left <= 0:
                break
        process.stdin.close()
    if process.returncode != 0:
        raise RuntimeError(f"ffmpeg could not make {path}")
    length.write_text(str(round(seconds, 3)))
    return path


_utterances: list[np.ndarray] = []


def _speech(draw: random.Random) -> Iterator[np.ndarray]:
    """Utterances and pauses without end, int16."""
    if not _utterances:
        _utterances.extend((decode_audio(str(SAMPLES / name)) * 32767).astype(np.int16) for name in SHORT)
    while True:
        yield draw.choice(_utterances)
        yield np.zeros(int(draw.uniform(*PAUSES) * RATE), np.int16)
