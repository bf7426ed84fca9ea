"""Makes Whisper models of any shape with random weights, in CTranslate2 format: for speed, not for words.

    python -m tests.support.random_whisper base FOLDER

The vocabulary is laid out like the multilingual one, so languages and tasks work. The end of text and the
timestamps have no weight and never win: a window is decoded once and until `max_new_tokens`, the same for
every program measured.
"""

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import whisper_spec
from faster_whisper.tokenizer import _LANGUAGE_CODES
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

END_OF_TEXT = 50257
CONTEXT = 448  # tokens of the decoder
TIMESTAMPS = 1501  # 0.00 to 30.00 s
FRAMES = 1500  # of the encoder's output for 30 s


@dataclass(frozen=True)
class Shape:
    """The sizes of a Whisper."""

    width: int
    encoder_layers: int
    decoder_layers: int
    heads: int
    mels: int = 80


SHAPES = {
    "nano": Shape(32, 1, 1, 2),
    "tiny": Shape(384, 4, 4, 6),
    "base": Shape(512, 6, 6, 8),
    "small": Shape(768, 12, 12, 12),
    "large-v3-turbo": Shape(1280, 32, 4, 20, 128),
}


def make(folder: Path, shape: str, seed: int = 0, quantization: str = "float16") -> Path:
    """Write the model of the named shape into `folder`, which faster-whisper then loads offline."""
    sizes, folder = SHAPES[shape], Path(folder)
    special = special_tokens(languages=100 if sizes.mels == 128 else 99)
    spec = _Weights(sizes, np.random.default_rng(seed)).fill(END_OF_TEXT + len(special))
    words = [f"{'Ġ' if number % 2 else ''}{_letters(number)}" for number in range(END_OF_TEXT - 1)]
    words.append("")  # by which CTranslate2 tells a multilingual vocabulary
    spec.register_vocabulary([*words, *special])
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = [220, END_OF_TEXT]
    spec.config.lang_ids = [
        END_OF_TEXT + special.index(f"<|{code}|>") for code in _LANGUAGE_CODES if f"<|{code}|>" in special
    ]
    layers = range(sizes.decoder_layers // 2, sizes.decoder_layers)
    spec.config.alignment_heads = [list(pair) for pair in itertools.product(layers, range(sizes.heads))]
    spec.validate()
    spec.optimize(quantization=quantization)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    _tokenizer(words, special).save(str(folder / "tokenizer.json"))
    extractor = {
        "feature_size": sizes.mels,
        "hop_length": 160,
        "n_fft": 400,
        "sampling_rate": 16000,
        "chunk_length": 30,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(extractor))
    return folder


def special_tokens(languages: int) -> list[str]:
    """The tokens behind the words, in Whisper's order."""
    others = [code for code in _LANGUAGE_CODES if code != "en"]
    codes = [f"<|{code}|>" for code in ["en", *others][:languages]]
    tasks = [
        f"<|{name}|>"
        for name in ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    ]
    times = [f"<|{number * 0.02:.2f}|>" for number in range(TIMESTAMPS)]
    return ["<|endoftext|>", "<|startoftranscript|>", *codes, *tasks, *times]


def _letters(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 20)
        text += "abcdefghijklmnoprstu"[digit]
    return text or "!"


def _tokenizer(words: list[str], special: list[str]) -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate([*words, *special])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    return tokenizer


class _Weights:
    """Fills the parts of a specification with random numbers of the size that training leaves."""

    def __init__(self, sizes: Shape, random: np.random.Generator) -> None:
        self.sizes, self.random = sizes, random

    def matrix(self, *shape: int) -> np.ndarray:
        """Random weights that keep the scale of what goes through them."""
        scale = np.float32(1 / np.sqrt(np.prod(shape[1:])))
        return self.random.standard_normal(shape, np.float32) * scale

    def linear(self, spec: Any, outputs: int, inputs: int) -> None:
        spec.weight, spec.bias = self.matrix(outputs, inputs), np.zeros(outputs, np.float32)

    def norm(self, spec: Any) -> None:
        width = self.sizes.width
        spec.gamma, spec.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def attention(self, spec: Any, queries_apart: bool) -> None:
        width = self.sizes.width
        self.norm(spec.layer_norm)
        for part, outputs in zip(spec.linear, (1, 2, 1) if queries_apart else (3, 1), strict=True):
            self.linear(part, outputs * width, width)

    def block(self, spec: Any, decoder: bool) -> None:
        width = self.sizes.width
        self.attention(spec.self_attention, queries_apart=False)
        if decoder:
            self.attention(spec.attention, queries_apart=True)
            spec.attention.linear[0].weight *= 8  # what is heard matters more than what was written
            spec.attention.linear[2].weight *= 8
        self.norm(spec.ffn.layer_norm)
        self.linear(spec.ffn.linear_0, 4 * width, width)
        self.linear(spec.ffn.linear_1, width, 4 * width)

    def fill(self, vocabulary: int) -> whisper_spec.WhisperSpec:
        sizes, width = self.sizes, self.sizes.width
        spec = whisper_spec.WhisperSpec(sizes.encoder_layers, sizes.heads, sizes.decoder_layers, sizes.heads)
        for convolution, inputs in ((spec.encoder.conv1, sizes.mels), (spec.encoder.conv2, width)):
            convolution.weight = self.matrix(width, inputs, 3)
            convolution.bias = np.zeros(width, np.float32)
        spec.encoder.position_encodings.encodings = _sinusoids(FRAMES, width)
        self.norm(spec.encoder.layer_norm)
        embeddings = self.matrix(vocabulary, width)
        first_time = vocabulary - TIMESTAMPS
        embeddings[[END_OF_TEXT, *range(first_time, vocabulary)]] = 0
        spec.decoder.embeddings.weight = spec.decoder.projection.weight = embeddings
        spec.decoder.position_encodings.encodings = self.matrix(CONTEXT, width)
        self.norm(spec.decoder.layer_norm)
        for layer in spec.encoder.layer:
            self.block(layer, decoder=False)
        for layer in spec.decoder.layer:
            self.block(layer, decoder=True)
        return spec


def _sinusoids(length: int, width: int) -> np.ndarray:
    """The encoder's positions, as Whisper's source has them."""
    scales = np.exp(-np.log(10000) / (width // 2 - 1) * np.arange(width // 2))
    angles = np.arange(length)[:, None] * scales[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def main() -> None:
    """Make one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    make(given.folder, given.shape)


if __name__ == "__main__":
    main()
