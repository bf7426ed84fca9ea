"""The clips that bench/accuracy makes its recordings of: what is said in each, and exactly when."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_whisper.audio import decode_audio

from bench.accuracy_score import tokens
from tests import downloads

RATE = 16_000  # samples a second, of all sound here
FRAME = 320  # samples: 20 ms
# Speech begins and ends where a frame comes up to this level below the clip's loudest one. The noise of the
# LibriVox readers lies 27 to 37 dB below their loudest frame, that of the other clips lower.
SPEECH_DB = -25.0
HELPS = {"cards/004"}  # clips of numbers with a part of their own: a greeting as short as they come


@dataclass(frozen=True, eq=False)
class Clip:
    """Somebody says `text`: mono samples at 16 kHz, and the seconds at which speech begins and ends in them."""

    name: str
    language: str
    text: str
    samples: np.ndarray
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """The length of the clip."""
        return len(self.samples) / RATE

    @property
    def speech(self) -> np.ndarray:
        """The samples between start and end."""
        return self.samples[int(self.start * RATE) : int(self.end * RATE)]


def clips(extra: Path | None = None) -> list[Clip]:
    """The clips of tests/downloads.py, fetched where they are not there yet, and those of the folder `extra`,
    whose references.json says of each file its language and text. What is said twice is taken once; clips that
    count are left out, because a model may write numbers in words or in digits."""
    found = [
        (clip.name, clip.path, clip.language, clip.text)
        for clip in downloads.speech(print_progress)
        if not clip.counts or clip.name in HELPS
    ]
    if extra is not None:
        for name, about in json.loads((extra / "references.json").read_text()).items():
            found.append((name, extra / name, about["language"], about["text"]))
    taken: dict[tuple[str, ...], Clip] = {}
    for name, path, language, text in found:
        key = (language, *tokens(text))
        if key not in taken:
            samples = decode_audio(str(path), sampling_rate=RATE)
            taken[key] = Clip(name, language, text, samples, *speech_in(samples))
    return list(taken.values())


def speech_in(samples: np.ndarray) -> tuple[float, float]:
    """When the first sound of a clean clip begins and its last one ends, in seconds, to 20 ms."""
    count = len(samples) // FRAME
    levels = np.sqrt(np.square(samples[: count * FRAME].reshape(count, FRAME), dtype=np.float64).mean(axis=1))
    loud = np.flatnonzero(levels >= levels.max() * 10 ** (SPEECH_DB / 20))
    return float(loud[0] * FRAME / RATE), float((loud[-1] + 1) * FRAME / RATE)


def print_progress(line: str) -> None:
    """Say what is fetched."""
    print(line, file=sys.stderr)
