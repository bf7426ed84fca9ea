"""Write trained weights as a CTranslate2 model that faster-whisper loads from its folder.

    python export.py WEIGHTS FOLDER

The tokenizer and the vocabulary come from the current folder.
"""

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.specs import whisper_spec
from network import LAYERS, WIDTH

HEADS = WIDTH // 16
PREPROCESSOR = {
    "feature_size": 80,
    "hop_length": 160,
    "n_fft": 400,
    "sampling_rate": 16000,
    "chunk_length": 30,
    "nb_max_frames": 3000,
    "n_samples": 480000,
}


class Weights:
    """The network's arrays by name, put into the parts of the specification."""

    def __init__(self, path: Path) -> None:
        self.arrays = {name: array.float().numpy() for name, array in torch.load(path).items()}

    def linear(self, spec: Any, *names: str) -> None:
        """One layer, or several as one: CTranslate2 keeps query, key and value together."""
        spec.weight = np.concatenate([self.arrays[f"{name}.weight"] for name in names])
        none = np.zeros(WIDTH, np.float32)  # the key has no bias
        spec.bias = np.concatenate([self.arrays.get(f"{name}.bias", none) for name in names])

    def norm(self, spec: Any, name: str) -> None:
        spec.gamma, spec.beta = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]

    def convolution(self, spec: Any, name: str) -> None:
        spec.weight, spec.bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]

    def block(self, spec: Any, name: str, cross: bool) -> None:
        self.norm(spec.self_attention.layer_norm, f"{name}.ln1")
        self.linear(spec.self_attention.linear[0], f"{name}.sa.q", f"{name}.sa.k", f"{name}.sa.v")
        self.linear(spec.self_attention.linear[1], f"{name}.sa.o")
        if cross:
            self.norm(spec.attention.layer_norm, f"{name}.ln2")
            self.linear(spec.attention.linear[0], f"{name}.ca.q")
            self.linear(spec.attention.linear[1], f"{name}.ca.k", f"{name}.ca.v")
            self.linear(spec.attention.linear[2], f"{name}.ca.o")
        self.norm(spec.ffn.layer_norm, f"{name}.ln3")
        self.linear(spec.ffn.linear_0, f"{name}.fc1")
        self.linear(spec.ffn.linear_1, f"{name}.fc2")


def fill(weights: Weights) -> whisper_spec.WhisperSpec:
    """The whole model as CTranslate2 describes it."""
    spec = whisper_spec.WhisperSpec(LAYERS, HEADS, LAYERS, HEADS)
    weights.convolution(spec.encoder.conv1, "c1")
    weights.convolution(spec.encoder.conv2, "c2")
    spec.encoder.position_encodings.encodings = weights.arrays["pe"]
    weights.norm(spec.encoder.layer_norm, "eln")
    spec.decoder.embeddings.weight = weights.arrays["emb.weight"]
    spec.decoder.projection.weight = weights.arrays["emb.weight"]
    spec.decoder.position_encodings.encodings = weights.arrays["dpe"]
    weights.norm(spec.decoder.layer_norm, "dln")
    for number in range(LAYERS):
        weights.block(spec.encoder.layer[number], f"enc.{number}", cross=False)
        weights.block(spec.decoder.layer[number], f"dec.{number}", cross=True)
    return spec


def main(weights: Path, folder: Path) -> None:
    spec = fill(Weights(weights))
    spec.register_vocabulary(json.loads(Path("vocabulary.json").read_text()))
    spec.config.suppress_ids = []
    spec.config.suppress_ids_begin = []
    spec.config.lang_ids = []
    spec.config.alignment_heads = [list(pair) for pair in itertools.product(range(1, LAYERS), range(HEADS))]
    spec.validate()
    spec.optimize(quantization="float16")
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    shutil.copy("tokenizer.json", folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
