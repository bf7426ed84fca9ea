"""Makes tiny ONNX models with the inputs and outputs of the real ones, whose scores are known beforehand.

YAMNet and CED answer to the level of the sound, the models of natural language inference to the label's words.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

OPSET, IR_VERSION = 17, 10  # what every onnxruntime of the last years takes
MIDS = ("/m/09x0r", "/m/04rlf", "/t/dd00135")

YAMNET_CLASSES, YAMNET_FRAME, YAMNET_STEP = 521, 15_600, 7_680
YAMNET_BEND = 20.0  # of the sigmoid that makes a score of a level
CED_CLASSES, CED_MELS, CED_PATCH, CED_BEND = 527, 64, 16, 0.05

PAD, UNKNOWN, START, SEPARATOR = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_FRAME_WORDS = ("this", "recording", "is", "about", ".")  # of the hypothesis: they say nothing of the topic
WORDS = (
    "football", "cooking", "politics", "weather", "music", "money", "art", "science", "travel", "law", "café",
    "match", "goal", "team", "pan", "oven", "salt", "vote", "party", "rain", "wind", "and", "the", "a", "of",
    "warm", "up", "we", "talk", "today", "word",
)  # fmt: skip
_NOTHING = ("and", "the", "a", "of")
NLI_CLASSES = ("entailment", "neutral", "contradiction")
CERTAIN = 4.0  # the logit of entailment where all of the label's words are there; the negative where none is


def sigmoid(value: float | np.ndarray) -> Any:
    """The function that ONNX calls Sigmoid."""
    return 1 / (1 + np.exp(-value))


class Graph:
    """Collects the nodes of an ONNX graph; each method's result is the name of a tensor."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def add(self, operation: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Add a node with one output."""
        name = output or f"{operation}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """Add a constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def save(
        self,
        path: Path,
        inputs: Mapping[str, tuple[int, list[Any]]],
        output: str,
        shape: list[Any],
        opset: int = OPSET,
    ) -> None:
        """Write the model; `inputs`: element type and shape by name."""
        graph = helper.make_graph(
            self._nodes,
            "tiny",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model.SerializeToString())


# --- audio tags --------------------------------------------------------------------------------------------


def yamnet_levels(classes: int = YAMNET_CLASSES) -> np.ndarray:
    """At which level (mean of |x|) each class has a score of 0.5: evenly from 0.1 for the first to 0.9."""
    return np.linspace(0.1, 0.9, classes)


def class_names(number: int) -> list[str]:
    """So many names, some with commas and quotes."""
    given = ["Speech", "Child speech, kid speaking", "Dental drill, dentist's drill", 'The "wow" effect']
    return [*given, *(f"Sound {index}" for index in range(len(given), number))][:number]


def write_classes(path: Path, names: Sequence[str]) -> None:
    """The CSV of a model's classes, as AudioSet has it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "mid", "display_name"])
        writer.writerows((index, MIDS[index % len(MIDS)], name) for index, name in enumerate(names))


def yamnet(folder: Path, classes: int = YAMNET_CLASSES, final: str = "Sigmoid") -> Path:
    """YAMNet: `waveform` [n] in, scores [frames, classes] out; the mean of |x| in a frame makes the scores."""
    graph = Graph()
    level = graph.add("Unsqueeze", graph.add("Abs", "waveform"), graph.constant([0, 1], np.int64))
    frames = graph.add("AveragePool", level, kernel_shape=[YAMNET_FRAME], strides=[YAMNET_STEP])
    column = graph.add("Reshape", frames, graph.constant([-1, 1], np.int64))
    above = graph.add("Sub", column, graph.constant(yamnet_levels(classes)[None]))
    graph.add(final, graph.add("Mul", above, graph.constant(YAMNET_BEND)), output="scores")
    inputs = {"waveform": (TensorProto.FLOAT, ["n"])}
    graph.save(folder / "yamnet.onnx", inputs, "scores", ["frames", classes])
    write_classes(folder / "yamnet_class_map.csv", class_names(classes))
    return folder


def ced(folder: Path, mels: int | str = CED_MELS) -> Path:
    """CED: `feats` [N, 64, T] in, scores [N, 527] out; class k < 64 answers to the mean dB of mel band k.

    It fails on less than a patch of 16 frames, as the real one does.
    """
    graph = Graph()
    mean = graph.add("ReduceMean", "feats", axes=[2], keepdims=0)
    last = graph.add("Gather", "feats", graph.constant(CED_PATCH - 1, np.int64), axis=2)
    bands = graph.add("Add", mean, graph.add("Mul", last, graph.constant(0)))
    weights = np.eye(CED_MELS, CED_CLASSES) * CED_BEND
    bias = np.where(np.arange(CED_CLASSES) < CED_MELS, 0, -20)
    level = graph.add("Add", graph.add("MatMul", bands, graph.constant(weights)), graph.constant(bias))
    graph.add("Sigmoid", level, output="prob")
    inputs = {"feats": (TensorProto.FLOAT, ["N", mels, "T"])}
    graph.save(folder / "model.int8.onnx", inputs, "prob", ["N", CED_CLASSES])
    write_classes(folder / "class_labels_indices.csv", class_names(CED_CLASSES))
    return folder


# --- topics ------------------------------------------------------------------------------------------------


def vocabulary(pad: str = PAD) -> list[str]:
    """The words that the models of natural language inference know, by number."""
    return [UNKNOWN, START, SEPARATOR, pad, *_FRAME_WORDS, *WORDS]


def write_tokenizer(path: Path, pad: str = PAD) -> None:
    """A tokenizer of whole words, with BERT's normalizer and its template for pairs."""
    numbers = {word: number for number, word in enumerate(vocabulary(pad))}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {SEPARATOR}",
        pair=f"{START} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(START, numbers[START]), (SEPARATOR, numbers[SEPARATOR])],
    )
    # As exported ones have it: what reads them has to lift it.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=24, pad_id=numbers[pad], pad_token=pad)
    tokenizer.save(str(path))


def nli(
    folder: Path, labels: str, classes: Sequence[str] = NLI_CLASSES, types: bool = True, positions: int = 512,
    element: int = TensorProto.INT64,
) -> Path:  # fmt: skip
    """A model of natural language inference with its config.json, tokenizer.json and labels.txt.

    Entailment has the logit 4 where all of the label's words occur in the premise, -4 where none does, between
    them in proportion; contradiction the opposite. `types`: it takes token_type_ids, else the separator tells the
    parts. It fails on more than `positions` tokens, as the real ones do.
    """
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    graph = Graph()
    given = {name: graph.add("Cast", name, to=TensorProto.INT64) for name in names}
    mask = graph.add("Cast", given["attention_mask"], to=TensorProto.FLOAT)
    part = _second_part(graph, given)
    second = graph.add("Mul", mask, part)
    first = graph.add("Sub", mask, second)
    words = len(vocabulary())
    bag = graph.add("Gather", graph.constant(np.eye(words)), given["input_ids"])
    premise, hypothesis = (_words_of(graph, bag, side) for side in (first, second))
    known = graph.constant([_is_known(word) for word in vocabulary()])
    asked = graph.add("Mul", hypothesis, known)
    found = _total(graph, graph.add("Mul", premise, asked))
    wanted = graph.add("Max", _total(graph, asked), graph.constant(1))
    share = graph.add(
        "Sub", graph.add("Mul", graph.add("Div", found, wanted), graph.constant(2)), graph.constant(1)
    )
    entails = graph.add("Add", graph.add("Mul", share, graph.constant(CERTAIN)), _zero(graph, given, positions))
    against = graph.add("Neg", entails)
    middle = graph.add("Mul", entails, graph.constant(0))
    kinds = {"entail": entails, "contra": against, "not_en": against, "neutra": middle}
    logits = [kinds[name.lower()[:6]] for name in classes]
    graph.add("Concat", *logits, output="logits", axis=1)
    inputs = {name: (element, ["batch", "sequence"]) for name in names}
    graph.save(folder / "model.onnx", inputs, "logits", ["batch", len(classes)])
    config = {"id2label": dict(enumerate(classes)), "max_position_embeddings": positions}
    (folder / "config.json").write_text(json.dumps(config))
    write_tokenizer(folder / "tokenizer.json")
    (folder / "labels.txt").write_text(labels, encoding="utf-8")
    return folder


def _is_known(word: str) -> float:
    return float(word in WORDS and word not in _NOTHING)


def _second_part(graph: Graph, given: Mapping[str, str]) -> str:
    """1 where a token belongs to the hypothesis [batch, sequence]."""
    if "token_type_ids" in given:
        return graph.add("Cast", given["token_type_ids"], to=TensorProto.FLOAT)
    is_separator = graph.add("Equal", given["input_ids"], graph.constant(vocabulary().index(SEPARATOR), np.int64))
    before = graph.add(
        "CumSum", graph.add("Cast", is_separator, to=TensorProto.FLOAT), graph.constant(1, np.int64)
    )
    return graph.add("Min", before, graph.constant(1))


def _words_of(graph: Graph, bag: str, side: str) -> str:
    """1 for each word of a part [batch, words]."""
    masked = graph.add("Mul", bag, graph.add("Unsqueeze", side, graph.constant([2], np.int64)))
    return graph.add("ReduceMax", masked, axes=[1], keepdims=0)


def _total(graph: Graph, words: str) -> str:
    return graph.add("ReduceSum", words, graph.constant([1], np.int64), keepdims=1)


def _zero(graph: Graph, given: Mapping[str, str], positions: int) -> str:
    """0 by way of a table of positions, which has no room for longer sequences."""
    ones = graph.add(
        "Add", graph.add("Mul", given["input_ids"], graph.constant(0, np.int64)), graph.constant(1, np.int64)
    )
    numbers = graph.add("Sub", graph.add("CumSum", ones, graph.constant(1, np.int64)), graph.constant(1, np.int64))
    return _total(graph, graph.add("Gather", graph.constant(np.zeros(positions)), numbers))
