"""What a file is about: a zero-shot classifier asks of each label whether the transcript entails it.

The folder holds any model of natural language inference as Hugging Face exports it (`model.onnx`,
`config.json`, `tokenizer.json`) and the user's own `labels.txt`, one label a line; `hypothesis.txt` may hold the
sentence that a label is put into. A label's score is the probability that the text entails that sentence rather
than contradicts it, each label by itself, so that a recording may have several topics or none.
https://arxiv.org/abs/1909.00161
"""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from pipeline.foundation.device import BadModel, OnnxModel, only_model, required, trial
from pipeline.speech.transcript import Label

CLASSIFIER = "topic"
HYPOTHESIS = "This recording is about {}."
MOST_TOKENS = 512  # of a text with its hypothesis: what these models are trained with
MOST_PASSAGES = 16  # of one transcript, evenly spread over it: about 8,000 words
_ROWS_AT_ONCE = 32
ENTAILS, AGAINST = "entailment", "contradiction"
_PADDING = ("[PAD]", "<pad>")
_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}  # nosec B105


class Topics:
    """The model of a folder with the user's labels, for several threads."""

    def __init__(self, folder: Path, gpu: int | None, top: int) -> None:
        """`gpu`: the number of the GPU, None for the CPU; `top`: labels for each file.

        `BadModel` where a part of the folder is missing or cannot be used.
        """
        # On a GPU, Whisper's memory lies beside: several long transcripts at a time may not fit.
        self._one_at_a_time = threading.Lock()
        self.labels, self._top = _labels(folder / "labels.txt"), top
        template = _template(folder / "hypothesis.txt")
        self._hypotheses = [template.replace("{}", label) for label in self.labels]
        self.model = OnnxModel(only_model(folder), gpu)
        if unknown := set(self.model.inputs) - set(_FIELDS):
            raise BadModel(f"{self.model.path} wants {', '.join(sorted(unknown))}, which no tokenizer gives")
        settings = _json(folder / "config.json")
        self._outcomes = _outcomes(settings, folder / "config.json")
        most_tokens = min(MOST_TOKENS, _positions(settings, folder / "config.json"))
        self._words = _tokenizer(folder / "tokenizer.json")
        self._pairs = _tokenizer(folder / "tokenizer.json", most_tokens)
        with trial(folder / "tokenizer.json"):
            longest = max(len(self._words.encode(text, add_special_tokens=False)) for text in self._hypotheses)
        self._passage_tokens = most_tokens - longest - self._pairs.num_special_tokens_to_add(True)
        if self._passage_tokens < longest:
            raise BadModel(f"{folder / 'labels.txt'}: a label of {longest} tokens leaves no room for the text")
        with trial(self.model.path):
            self.of("warm up")

    def of(self, text: str) -> list[Label]:
        """The likeliest labels of a text, best first; none where there is no text."""
        passages = self._passages(text)
        if not passages:
            return []
        with self._one_at_a_time:
            return self._likeliest(passages)

    def _likeliest(self, passages: list[tuple[str, int]]) -> list[Label]:
        rows = [(passage, hypothesis) for passage, _ in passages for hypothesis in self._hypotheses]
        scores = np.concatenate(
            [self._entailment(rows[start : start + _ROWS_AT_ONCE]) for start in range(0, len(rows), _ROWS_AT_ONCE)]
        ).reshape(len(passages), len(self.labels))
        means = np.average(scores, axis=0, weights=[tokens for _, tokens in passages])
        best = np.argsort(-means, kind="stable")[: self._top]
        return [Label(CLASSIFIER, self.labels[number], float(means[number])) for number in best]

    def _passages(self, text: str) -> list[tuple[str, int]]:
        """Parts of the text that fit into the model, with their numbers of tokens."""
        offsets = self._words.encode(text, add_special_tokens=False).offsets if text.strip() else []
        starts = np.arange(0, len(offsets), self._passage_tokens)
        if len(starts) > MOST_PASSAGES:
            starts = starts[np.linspace(0, len(starts) - 1, MOST_PASSAGES).astype(int)]
        parts = [offsets[start : start + self._passage_tokens] for start in starts]
        return [(text[part[0][0] : part[-1][1]], len(part)) for part in parts]

    def _entailment(self, rows: list[tuple[str, str]]) -> np.ndarray:
        """The probability of entailment [rows] of pairs of text and hypothesis."""
        encoded: list[Encoding] = self._pairs.encode_batch(rows)
        inputs = {name: np.array([getattr(row, _FIELDS[name]) for row in encoded]) for name in self.model.inputs}
        logits = self.model.run(inputs)[0]
        if logits.shape != (len(rows), len(self._outcomes)):
            raise BadModel(
                f"{self.model.path} gives {logits.shape} for {len(rows)} texts, config.json names {self._outcomes}"
            )
        entails, against = (
            logits[:, self._outcomes.index(name)].astype(np.float64) for name in (ENTAILS, AGAINST)
        )
        return 1 / (1 + np.exp(np.minimum(against - entails, 700)))  # e^700 is the most that a float64 holds


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(required(path))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadModel(f"{path} is not a JSON object")
    return value


def _labels(path: Path) -> list[str]:
    """The lines of the file, each once, without empty ones and those that begin with #."""
    lines = [line.strip() for line in required(path).splitlines()]
    labels = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not labels:
        raise BadModel(f"{path} holds no labels: write one per line")
    return labels


def _template(path: Path) -> str:
    template = required(path).strip() if path.exists() else HYPOTHESIS
    if template.count("{}") != 1:
        raise BadModel(f"{path} must hold one sentence with {{}} where the label goes")
    return template


def _outcomes(settings: dict[str, Any], path: Path) -> list[str]:
    """What the model's outputs stand for, in their order: ENTAILS, AGAINST, or what it calls them."""
    named = settings.get("id2label")
    try:
        names = [str(named[str(number)]).lower() for number in range(len(named))]  # type: ignore[arg-type,index]
    except (KeyError, TypeError):
        raise BadModel(f"{path}: id2label must name the outputs from 0 on") from None
    known = [
        ENTAILS
        if name.startswith("entail")
        else AGAINST
        if name.startswith(("contradict", "not_entail"))
        else name
        for name in names
    ]
    if known.count(ENTAILS) != 1 or known.count(AGAINST) != 1:
        raise BadModel(f"{path}: id2label names {', '.join(names)}: entailment and contradiction are needed")
    return known


def _positions(settings: dict[str, Any], path: Path) -> int:
    positions = settings.get("max_position_embeddings") or MOST_TOKENS
    if not isinstance(positions, int) or positions < 0:
        raise BadModel(f"{path}: max_position_embeddings is {positions!r}")
    return positions


def _tokenizer(path: Path, most_tokens: int | None = None) -> Tokenizer:
    """The tokenizer, whole texts as they are; with `most_tokens`, pairs cut in their first part and padded."""
    text = required(path)
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 - tokenizers raises no other class
        raise BadModel(f"{path} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if most_tokens is not None:
        tokenizer.enable_truncation(most_tokens, strategy="only_first")
        padding = next((token for token in _PADDING if tokenizer.token_to_id(token) is not None), None)
        if padding is None:
            raise BadModel(f"{path} has no padding token: one of {', '.join(_PADDING)} is needed")
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(padding), pad_token=padding)
    return tokenizer
