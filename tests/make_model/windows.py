"""Training examples: utterances laid into windows as Whisper sees them, and the tokens to say for each."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from faster_whisper.feature_extractor import FeatureExtractor
from tokenizers import Tokenizer

TOKENIZER = Tokenizer.from_file("tokenizer.json")
VOCABULARY: list[str] = json.loads(Path("vocabulary.json").read_text())
START = VOCABULARY.index("<|startoftranscript|>")
END = VOCABULARY.index("<|endoftext|>")
NO_TIMES = VOCABULARY.index("<|notimestamps|>")
FIRST_TIME = NO_TIMES + 1  # of 1,501, each 0.02 s after the one before
EXTRACTOR = FeatureExtractor()


@dataclass
class Utterance:
    mel: np.ndarray  # log10 of the power, not yet scaled
    words: list[str]
    start: float
    end: float


def measure(samples: np.ndarray) -> np.ndarray:
    """The mel spectrum as faster-whisper computes it, before it is scaled to a window's loudest frame."""
    padded = np.pad(samples.astype(np.float32), (0, 160))
    hann = np.hanning(401)[:-1].astype(np.float32)
    spectrum = EXTRACTOR.stft(padded, 400, 160, window=hann, return_complex=True).astype(np.complex64)
    power = np.abs(spectrum[..., :-1]) ** 2
    return np.log10(np.clip(EXTRACTOR.mel_filters @ power, 1e-10, None)).astype(np.float32)


def scale(mel: np.ndarray) -> np.ndarray:
    return (np.maximum(mel, mel.max() - 8) + 4) / 4


def load(folder: Path) -> list[Utterance]:
    """What make_speech.py wrote."""
    with np.load(folder / "audio.npz") as arrays:
        parts = np.split(arrays["samples"], np.cumsum(arrays["lengths"])[:-1])
    described = json.loads((folder / "utterances.json").read_text())
    return [Utterance(measure(part), **entry) for part, entry in zip(parts, described, strict=True)]


def lay(pool: list[Utterance], rng: random.Random, frames: int) -> tuple[np.ndarray, list[Utterance], int]:
    """Lay utterances into a window with some noise: its spectrum, what is in it, how much is used."""
    count = rng.choice([0, 1, 1, 1, 2, 2, 3, 4, 6] if frames > 2000 else [0, 1, 1, 1, 1, 2, 2, 3])
    position = rng.randint(0, 60)
    canvas = np.full((80, frames), -10 + rng.random() * 2, np.float32)
    if rng.random() < 0.3:
        canvas += rng.random() * 0.45 * np.random.randn(80, frames).astype(np.float32)
    gain = rng.uniform(-1.5, 1.0)
    laid = []
    for _ in range(count):
        one = rng.choice(pool)
        length = one.mel.shape[1]
        if position + length > frames:
            continue
        place = canvas[:, position : position + length]
        np.maximum(place, one.mel + gain, out=place)
        laid.append(Utterance(one.mel, one.words, position / 100 + one.start, position / 100 + one.end))
        position += length + rng.randint(0, 80)
    used = min(frames, position + rng.randint(0, 100))
    return canvas, laid, max(used, 20)


def example(pool: list[Utterance], rng: random.Random, frames: int) -> tuple[np.ndarray, list[int]]:
    """A window, padded as faster-whisper pads it, and its tokens: half of them with times."""
    canvas, laid, used = lay(pool, rng, frames)
    seen = scale(canvas[:, :used])
    window = np.full((80, frames), seen.min() if rng.random() < 0.5 else 0, np.float32)
    window[:, :used] = seen
    words = [word for one in laid for word in one.words]
    text = TOKENIZER.encode(" " + " ".join(words)).ids if words else []
    if rng.random() < 0.5:
        return window, [START, NO_TIMES, *text, END]
    start, end = (laid[0].start, laid[-1].end) if laid else (0, used / 100)
    first, last = (FIRST_TIME + min(1500, max(0, round(time / 0.02))) for time in (start, end))
    return window, [START, first, *text, last, END]


def batch(pool: list[Utterance], rng: random.Random, size: int, frames: int) -> tuple[torch.Tensor, ...]:
    """Windows, tokens, and each token's weight in the loss: little for the choice of the mode."""
    windows, texts = zip(*[example(pool, rng, frames) for _ in range(size)], strict=True)
    longest = max(map(len, texts))
    tokens = np.full((size, longest), END)
    weights = np.zeros((size, longest - 1), np.float32)
    for row, text in enumerate(texts):
        tokens[row, : len(text)] = text
        weights[row, : len(text) - 1] = 1
    weights[:, 0] *= 0.2
    return torch.from_numpy(np.stack(windows)), torch.from_numpy(tokens), torch.from_numpy(weights)
