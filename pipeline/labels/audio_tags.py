"""What a file sounds like: AudioSet classes (speech, music, a siren) from a model in ONNX format.

Two models are known, each as published: YAMNet, which takes the waveform, and CED, which takes a mel spectrogram.
The model's own input tells which one it is; its CSV names the classes. A file is heard piece by piece, whatever
its length, and its score for a class is the mean over its time, as both models' own examples have it.
"""

import csv
import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.foundation.device import BadModel, OnnxModel, only_model, required, trial
from pipeline.speech.transcript import Label

CLASSIFIER = "audio_tag"
_PIECE = 10 * SAMPLE_RATE  # what a model hears at a time: the length of AudioSet's clips
_PIECES_AT_ONCE = 12


class FrontEnd(Protocol):
    """How a model takes sound. What is shorter than `least` samples is padded with silence."""

    least: int

    def scores(self, model: OnnxModel, pieces: np.ndarray) -> np.ndarray:
        """The mean scores [classes] of pieces [n, samples]."""


class Yamnet:
    """YAMNet: waveform [samples] in, scores [frames, classes] out; a frame is 0.96 s, one begins every 0.48 s.

    https://github.com/tensorflow/models/tree/master/research/audioset/yamnet
    """

    least = 15_600  # samples of the shortest sound that makes a frame (0.975 s)

    def scores(self, model: OnnxModel, pieces: np.ndarray) -> np.ndarray:
        frames = model.run({next(iter(model.inputs)): pieces.reshape(-1)})[0]
        return frames.mean(axis=0)


class Ced:
    """CED: mel spectrograms [n, 64, frames] in, scores [n, classes] out; trained on 10 s.

    https://github.com/RicherMans/CED: 64 mels (HTK's scale) from 0 to 8 kHz, a Hann window of 512 every 160
    samples around its middle, power in dB, at most 120 dB below the piece's loudest.
    """

    least = 16 * 160  # one patch of the transformer is 16 frames long
    _window, _hop, _mels = 512, 160, 64

    def __init__(self) -> None:
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._window) / self._window)).astype(np.float32)
        self._filters = mel_filters(self._mels, self._window)

    def scores(self, model: OnnxModel, pieces: np.ndarray) -> np.ndarray:
        spectrograms = np.stack([self.spectrogram(piece) for piece in pieces])
        return model.run({next(iter(model.inputs)): spectrograms})[0].mean(axis=0)

    def spectrogram(self, samples: np.ndarray) -> np.ndarray:
        """The mel spectrogram [64, frames] in dB of mono float32 samples at 16 kHz."""
        padded = np.pad(samples, self._window // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self._window)[:: self._hop]
        power = np.abs(np.fft.rfft(frames * self._hann)) ** 2
        decibels = 10 * np.log10(np.maximum(power @ self._filters, 1e-10))
        return np.maximum(decibels, decibels.max() - 120).T.astype(np.float32)


def mel_filters(mels: int, window: int) -> np.ndarray:
    """Triangles [frequencies, mels] from 0 Hz to half the sample rate, evenly on HTK's mel scale
    (2595 log10(1 + f / 700)), each with 1 at its top."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, window // 2 + 1)[:, None]
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)
    lower, middle, upper = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (frequencies - lower) / (middle - lower), (upper - frequencies) / (upper - middle)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


class AudioTags:
    """The model of a folder, for all files; each has its own `SoundOfFile`."""

    def __init__(self, folder: Path, gpu: int | None, top: int) -> None:
        """`gpu`: the number of the GPU, None for the CPU; `top`: labels for each file.

        `BadModel` where the folder does not hold a model that is known, with the CSV of its classes.
        """
        self.model, self.top = OnnxModel(only_model(folder), gpu), top
        self.front_end = _front_end(self.model)
        self.classes = _classes(folder)
        with trial(self.model.path):  # it also warms up
            scores = self.scores(np.random.default_rng(0).normal(0, 0.1, (1, self.front_end.least)))
        if scores.shape != (len(self.classes),):
            raise BadModel(f"{self.model.path} gives scores {scores.shape}, its CSV names {len(self.classes)}")
        if not (scores.min() >= 0 and scores.max() <= 1):
            raise BadModel(f"{self.model.path} does not give scores between 0 and 1")

    def scores(self, pieces: np.ndarray) -> np.ndarray:
        """The mean scores [classes] of pieces [n, samples]."""
        return self.front_end.scores(self.model, pieces.astype(np.float32))

    def file(self) -> "SoundOfFile":
        """What listens to one file."""
        return SoundOfFile(self)


class SoundOfFile:
    """The sound of one file, taken in blocks and never held as a whole."""

    def __init__(self, tags: AudioTags) -> None:
        self._tags = tags
        self._held = np.empty(0, np.float32)
        self._sum, self._weight = np.zeros(len(tags.classes)), 0

    def add(self, samples: np.ndarray) -> None:
        """Take the next sound: mono float32 at 16 kHz."""
        self._held = np.concatenate([self._held, samples])
        while len(self._held) >= _PIECE * _PIECES_AT_ONCE:
            self._hear(_PIECES_AT_ONCE)

    def labels(self) -> list[Label]:
        """The likeliest labels of all the sound, best first; none where there was none."""
        if whole := len(self._held) // _PIECE:
            self._hear(whole)
        if (rest := len(self._held)) and (rest >= self._tags.front_end.least or not self._weight):
            padded = np.pad(self._held, (0, max(0, self._tags.front_end.least - rest)))
            self._count(self._tags.scores(padded[None]), rest)
        if not self._weight:
            return []
        means = np.clip(self._sum / self._weight, 0, 1)
        best = np.argsort(-means, kind="stable")[: self._tags.top]
        return [Label(CLASSIFIER, self._tags.classes[number], float(means[number])) for number in best]

    def _hear(self, pieces: int) -> None:
        length = pieces * _PIECE
        self._count(self._tags.scores(self._held[:length].reshape(pieces, _PIECE)), length)
        self._held = self._held[length:].copy()

    def _count(self, scores: np.ndarray, samples: int) -> None:
        self._sum += scores * samples
        self._weight += samples


def _front_end(model: OnnxModel) -> FrontEnd:
    """The front end that the model's input asks for."""
    ranks = {name: len(given.shape) for name, given in model.inputs.items()}
    if list(ranks.values()) == [1]:
        return Yamnet()
    if list(ranks.values()) == [3] and next(iter(model.inputs.values())).shape[1] in (64, "feat_dim"):
        return Ced()
    shapes = ", ".join(f"{name} {given.shape}" for name, given in model.inputs.items())
    raise BadModel(f"{model.path} is neither YAMNet (waveform [n]) nor CED (feats [n, 64, t]): it takes {shapes}")


def _classes(folder: Path) -> list[str]:
    """The names in the model's CSV (index, mid, display_name), by index. `BadModel` where it is not one."""
    found = sorted(folder.glob("*.csv"))
    if len(found) != 1:
        raise BadModel(f"{folder} must hold one CSV with the classes, and holds {len(found)}")
    text = required(found[0])
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
        names = {int(row["index"]): row["display_name"].strip() for row in rows}
    except (csv.Error, KeyError, ValueError, TypeError, AttributeError):
        raise BadModel(f"{found[0]} must have the columns index, mid and display_name") from None
    classes = [names.get(number, "") for number in range(len(rows))]
    if not classes or "" in classes or len(set(classes)) != len(classes):
        raise BadModel(f"{found[0]} must name each class once, numbered from 0")
    return classes
