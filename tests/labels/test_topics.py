"""pipeline/labels/topics.py: a tiny model of natural language inference that really looks for the label's
words."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from tokenizers import Tokenizer, models

from pipeline.foundation.device import BadModel
from pipeline.foundation.errors import Broken, Outage
from pipeline.labels.topics import HYPOTHESIS, MOST_PASSAGES, MOST_TOKENS, Topics
from pipeline.speech.transcript import Label
from tests.support import tiny_onnx
from tests.support.tiny_onnx import CERTAIN, sigmoid

NATIVE = onnxruntime.capi.onnxruntime_pybind11_state
LABELS = "football\ncooking\npolitics\nweather\nmusic\n"
# The difference of two logits: of entailment and of contradiction, which is its negative.
YES, HALF, NO = (float(sigmoid(2 * CERTAIN * share)) for share in (1, 0, -1))
PASSAGE = MOST_TOKENS - 3 - 6  # tokens beside [CLS], two [SEP] and "This recording is about football."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_onnx.nli(tmp_path_factory.mktemp("topics"), LABELS)


@pytest.fixture(scope="module")
def topics(folder: Path) -> Topics:
    return Topics(folder, None, 5)


def scores(topics: Topics, text: str) -> dict[str, float]:
    return {label.name: label.score for label in topics.of(text)}


def batches_of(topics: Topics, text: str) -> list[tuple[int, ...]]:
    """The shapes of the batches that the model gets for a text."""
    shapes = []
    original = topics.model.run

    def spy(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert len({value.shape for value in inputs.values()}) == 1
        shapes.append(inputs["input_ids"].shape)
        return original(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics.model, "run", spy)
        topics.of(text)
    return shapes


# --- what a text is about ----------------------------------------------------------------------------------


@pytest.mark.parametrize("label", LABELS.split())
def test_the_label_that_the_text_speaks_of_is_on_top(topics: Topics, label: str) -> None:
    found = topics.of(f"We talk about the {label} today.")
    assert found[0] == Label("topic", label, found[0].score)
    assert found[0].score == pytest.approx(YES, abs=1e-5)
    assert [one.score for one in found[1:]] == pytest.approx([NO] * 4, abs=1e-5)


def test_a_text_may_have_several_topics(topics: Topics) -> None:
    found = topics.of("The weather and the football and a word")
    assert [one.name for one in found[:2]] == ["football", "weather"]  # of equal scores in the file's order
    assert [one.score for one in found[:2]] == pytest.approx([YES, YES], abs=1e-5)


def test_labels_of_equal_scores_keep_the_file_s_order(tmp_path: Path) -> None:
    labels = [f"{('money', 'art', 'law')[number % 3]} the {number}" for number in range(60)]
    topics = Topics(tiny_onnx.nli(tmp_path, "\n".join(labels)), None, 60)
    names = [one.name for one in topics.of("law")]
    assert names == labels[2::3] + [name for name in labels if name not in labels[2::3]]


def test_a_text_may_have_no_topic(topics: Topics) -> None:
    assert all(score == pytest.approx(NO, abs=1e-5) for score in scores(topics, "the goal of the team").values())


@pytest.mark.parametrize("text", ["", " ", "\n\t \u2003", "\u200b", "\x00"])
def test_no_text_has_no_labels(topics: Topics, text: str) -> None:
    assert topics.of(text) == []


@pytest.mark.parametrize("top", [1, 2, 9])
def test_no_more_labels_than_asked(folder: Path, top: int) -> None:
    found = Topics(folder, None, top).of("music")
    assert len(found) == min(top, 5)
    assert found[0].name == "music"
    assert all(type(one.score) is float for one in found)


@pytest.mark.parametrize(
    "text", ["football 🏈⚽👩‍👩‍👧 and", "🏈 football", "Football\u0301 football", "FOOTBALL", "\u202efootball"]
)
def test_emoji_and_combining_characters_do_no_harm(topics: Topics, text: str) -> None:
    assert scores(topics, text)["football"] == pytest.approx(YES, abs=1e-5)


def test_a_long_text_of_emoji_and_combining_characters_is_cut_without_harm(topics: Topics) -> None:
    text = "👩‍👩‍👧 cafe\u0301 🏈 " * 700 + "football"
    found = scores(topics, text)
    assert found["football"] > 5 * found["cooking"]


@given(st.text(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_text_gets_scores_between_0_and_1(topics: Topics, text: str) -> None:
    found = topics.of(text)
    assert len(found) in (0, 5)
    assert all(0 <= one.score <= 1 for one in found)


def test_threads_label_several_texts_at_once(topics: Topics) -> None:
    wrong = []

    def label(name: str) -> None:
        for _ in range(10):
            if topics.of(f"we talk {name}")[0].name != name:
                wrong.append(name)

    threads = [threading.Thread(target=label, args=(name,)) for name in LABELS.split()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


# --- long texts --------------------------------------------------------------------------------------------


def test_a_text_of_one_passage_is_read_at_once(topics: Topics) -> None:
    assert batches_of(topics, "word " * PASSAGE) == [(5, MOST_TOKENS)]


def test_a_longer_text_is_read_in_passages(topics: Topics) -> None:
    assert batches_of(topics, "word " * (PASSAGE + 1)) == [(10, MOST_TOKENS)]


@given(st.integers(1, 2 * PASSAGE + 200), st.data())
@settings(max_examples=25, deadline=None)
def test_a_word_counts_wherever_it_stands(topics: Topics, length: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, length - 1))
    words = ["word"] * length
    words[place] = "football"
    start = place // PASSAGE * PASSAGE
    share = (min(start + PASSAGE, length) - start) / length
    expected = share * YES + (1 - share) * NO
    assert scores(topics, " ".join(words))["football"] == pytest.approx(expected, abs=1e-4)


def test_a_text_s_score_is_the_mean_over_its_length(topics: Topics) -> None:
    text = "football " * 3 * PASSAGE + "word " * 100
    expected = (3 * PASSAGE * YES + 100 * NO) / (3 * PASSAGE + 100)
    assert scores(topics, text)["football"] == pytest.approx(expected, abs=1e-4)


def test_a_very_long_text_is_read_in_part_and_to_its_end(topics: Topics) -> None:
    words = ["word"] * 100_000
    words[0] = "football"
    words[50_000:60_000] = ["music"] * 10_000
    words[-1] = "cooking"
    text = " ".join(words)
    batches = batches_of(topics, text)
    assert sum(rows for rows, _ in batches) == 5 * MOST_PASSAGES
    assert all(rows <= 32 and tokens <= MOST_TOKENS for rows, tokens in batches)
    found = scores(topics, text)
    last = 100_000 % PASSAGE
    everything = (MOST_PASSAGES - 1) * PASSAGE + last
    assert found["football"] == pytest.approx(PASSAGE / everything, abs=1e-3)
    assert found["cooking"] == pytest.approx(last / everything, abs=1e-3)
    assert found["music"] == pytest.approx(0.1, abs=1.5 / MOST_PASSAGES)
    assert found["weather"] == pytest.approx(NO, abs=1e-4)


def test_passages_of_a_very_long_text_are_spread_evenly(topics: Topics) -> None:
    for tenth in (1, 3, 6, 8):
        words = ["word"] * 60_000
        words[6_000 * tenth : 6_000 * (tenth + 1)] = ["football"] * 6_000
        assert scores(topics, " ".join(words))["football"] == pytest.approx(0.1, abs=1.5 / MOST_PASSAGES)


def test_a_model_of_fewer_positions_gets_shorter_passages(tmp_path: Path) -> None:
    topics = Topics(tiny_onnx.nli(tmp_path, LABELS, positions=40), None, 5)
    assert batches_of(topics, "word " * 62) == [(10, 40)]
    assert scores(topics, "word " * 61 + "football")["football"] == pytest.approx(0.5, abs=0.01)


def test_a_passage_that_begins_within_a_word_still_fits_with_all_of_the_hypothesis(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, "football\n")
    (folder / "hypothesis.txt").write_text("about {}")
    change(folder / "tokenizer.json", model=pieces_of_words())
    passage = MOST_TOKENS - 3 - 2
    assert passage % 2  # "xyz" is x and yz: the second passage begins with a yz, which alone is y and z
    text = "xyz " * (passage // 2 + 1) + "football " + "xyz " * (passage // 2)
    topics = Topics(folder, None, 5)
    expected = (passage * YES + (passage + 1) * NO) / (2 * passage + 1)
    assert scores(topics, text)["football"] == pytest.approx(expected, abs=1e-4)


def pieces_of_words() -> dict[str, Any]:
    """The vocabulary of the tiny model for BERT's WordPiece, with some parts of words in place of other words."""
    words = tiny_onnx.vocabulary()
    for old, new in (("travel", "x"), ("law", "##yz"), ("pan", "y"), ("oven", "##z")):
        words[words.index(old)] = new
    numbers = {word: number for number, word in enumerate(words)}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "vocab": numbers}
    return {**model, "max_input_chars_per_word": 100}


@pytest.mark.parametrize("most", [None, 0, 4096])
def test_no_model_gets_more_than_it_was_trained_with(tmp_path: Path, most: int | None) -> None:
    folder = tiny_onnx.nli(tmp_path, LABELS)
    change(folder / "config.json", max_position_embeddings=most)
    assert batches_of(Topics(folder, None, 5), "word " * PASSAGE) == [(5, MOST_TOKENS)]


def test_a_config_that_says_nothing_of_positions_is_enough(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, LABELS)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"id2label": config["id2label"]}))
    assert scores(Topics(folder, None, 5), "music")["music"] == pytest.approx(YES, abs=1e-5)


# --- models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize(
    "classes",
    [
        ("entailment", "neutral", "contradiction"),
        ("contradiction", "entailment", "neutral"),
        ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"),
        ("entailment", "not_entailment"),
        ("not_entailment", "entailment"),
    ],
)
def test_models_of_any_classes_and_inputs_agree(tmp_path: Path, types: bool, classes: tuple[str, ...]) -> None:
    topics = Topics(tiny_onnx.nli(tmp_path, LABELS, classes, types), None, 5)
    found = scores(topics, "the music")
    assert found.pop("music") == pytest.approx(YES, abs=1e-5)
    assert list(found.values()) == pytest.approx([NO] * 4, abs=1e-5)


def test_the_neutral_class_does_not_count(tmp_path: Path) -> None:
    topics = Topics(tiny_onnx.nli(tmp_path, "football cooking\n"), None, 5)
    assert scores(topics, "cooking") == {"football cooking": pytest.approx(HALF, abs=1e-5)}


@pytest.mark.parametrize("pad", ["[PAD]", "<pad>"])
def test_rows_of_different_lengths_do_not_change_each_other(tmp_path: Path, pad: str) -> None:
    labels = "football\nfootball and the a of the and cooking and the music\nweather\n"
    folder = tiny_onnx.nli(tmp_path, labels)
    tiny_onnx.write_tokenizer(folder / "tokenizer.json", pad)
    found = scores(Topics(folder, None, 5), "football and cooking")
    assert [found[name] for name in labels.splitlines()] == pytest.approx([YES, sigmoid(8 / 3), NO], abs=1e-5)


def test_short_rows_are_filled_with_the_tokenizer_s_own_padding(tmp_path: Path) -> None:
    topics = Topics(tiny_onnx.nli(tmp_path, "football\nfootball and the a of the and cooking\n"), None, 5)
    fill: list[int] = []
    original = topics.model.run

    def spy(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        fill.extend(inputs["input_ids"][inputs["attention_mask"] == 0].tolist())
        return original(inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics.model, "run", spy)
        topics.of("music")
    assert fill == [tiny_onnx.vocabulary().index("[PAD]")] * 7


def test_the_model_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, LABELS)
    (folder / "onnx").mkdir()
    (folder / "model.onnx").rename(folder / "onnx" / "model_quantized.onnx")
    assert scores(Topics(folder, None, 5), "music")["music"] > HALF


# --- labels and hypotheses ---------------------------------------------------------------------------------


def test_labels_are_lines_each_once_without_comments_and_blank_ones(tmp_path: Path) -> None:
    labels = "# what we sell\n\n  football  \nweather\n\n football\n\t# cooking\nart and science\nweather\n#music"
    topics = Topics(tiny_onnx.nli(tmp_path, labels), None, 9)
    assert topics.labels == ["football", "weather", "art and science"]
    assert scores(topics, "science, art") == {
        "art and science": pytest.approx(YES, abs=1e-5),
        "football": pytest.approx(NO, abs=1e-5),
        "weather": pytest.approx(NO, abs=1e-5),
    }


@pytest.mark.parametrize("label", ["Fußball", "天気", "café", "C#", "a {} b", "⚽", "50 %"])
def test_labels_of_any_kind_keep_their_spelling(tmp_path: Path, label: str) -> None:
    topics = Topics(tiny_onnx.nli(tmp_path, f"{label}\r\nmusic\r\n"), None, 9)
    assert {one.name for one in topics.of("the weather")} == {label, "music"}


def test_labels_as_windows_programs_write_them_are_read(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, LABELS)
    (folder / "labels.txt").write_bytes(LABELS.replace("\n", "\r\n").encode("utf-8-sig"))
    assert Topics(folder, None, 9).labels == LABELS.split()


def test_the_hypothesis_of_the_folder_is_used(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, "football\nMusic\n")
    plain = Topics(folder, None, 5)
    (folder / "hypothesis.txt").write_text("\nThe talk of {} and money.\n")
    asked = Topics(folder, None, 5)  # the tiny model now looks for talk, money and the label
    assert asked._hypotheses == ["The talk of football and money.", "The talk of Music and money."]
    assert scores(plain, "football")["football"] == pytest.approx(YES, abs=1e-5)
    assert scores(asked, "football")["football"] == pytest.approx(sigmoid(-8 / 3), abs=1e-5)
    assert scores(asked, "money talk football")["football"] == pytest.approx(YES, abs=1e-5)
    assert scores(asked, "money talk")["Music"] == pytest.approx(sigmoid(8 / 3), abs=1e-5)


def test_other_braces_of_a_hypothesis_are_only_text(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, LABELS)
    (folder / "hypothesis.txt").write_text("The {talk} of {{money}} and {}.")
    assert scores(Topics(folder, None, 5), "money talk music")["music"] == pytest.approx(YES, abs=1e-5)


def test_the_label_stands_where_the_hypothesis_has_its_braces(topics: Topics) -> None:
    rows: list[tuple[str, str]] = []
    original = topics._entailment

    def spy(asked: list[tuple[str, str]]) -> np.ndarray:
        rows.extend(asked)
        return original(asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topics, "_entailment", spy)
        topics.of("The weather.")
    assert rows == [("The weather.", HYPOTHESIS.replace("{}", label)) for label in LABELS.split()]
    assert rows[0][1] == "This recording is about football."


def test_braces_in_a_label_are_only_text(tmp_path: Path) -> None:
    folder = tiny_onnx.nli(tmp_path, "{}\nmusic\n")
    assert Topics(folder, None, 5).of("music")[0].name == "music"


# --- folders that cannot be used ---------------------------------------------------------------------------


def change(path: Path, **settings: Any) -> None:
    """Change settings of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def problem(folder: Path) -> str:
    """The one line that says why the folder cannot be used."""
    with pytest.raises(BadModel) as caught:
        Topics(folder, None, 5)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["labels.txt", "config.json", "tokenizer.json"])
def test_a_missing_file_of_the_folder_is_named(tmp_path: Path, name: str) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    (tmp_path / name).unlink()
    assert problem(tmp_path) == f"{tmp_path / name} cannot be read: No such file or directory"


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    (tiny_onnx.nli(tmp_path, LABELS) / "model.onnx").unlink()
    assert problem(tmp_path).endswith("none")


@pytest.mark.parametrize("name", ["labels.txt", "hypothesis.txt", "config.json", "tokenizer.json"])
def test_a_file_of_another_encoding_is_named(tmp_path: Path, name: str) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    (tmp_path / name).write_bytes(b"caf\xe9")
    assert problem(tmp_path) == f"{tmp_path / name} cannot be read: it is not UTF-8"


@pytest.mark.parametrize("labels", ["", "\n\n", "# football\n   \n#music"])
def test_a_file_without_labels_is_named(tmp_path: Path, labels: str) -> None:
    assert f"{tmp_path / 'labels.txt'} holds no label" in problem(tiny_onnx.nli(tmp_path, labels))


@pytest.mark.parametrize("hypothesis", ["", "About.", "{} or {}", "About { }.", "About {label}."])
def test_a_hypothesis_without_one_place_for_the_label_is_named(tmp_path: Path, hypothesis: str) -> None:
    (tiny_onnx.nli(tmp_path, LABELS) / "hypothesis.txt").write_text(hypothesis)
    assert str(tmp_path / "hypothesis.txt") in problem(tmp_path)


@pytest.mark.parametrize("label", ["word " * 600, "word " * 260])
def test_a_label_that_leaves_no_room_for_the_text_is_refused(tmp_path: Path, label: str) -> None:
    message = problem(tiny_onnx.nli(tmp_path, f"music\n{label}\n"))
    assert f"{tmp_path / 'labels.txt'}: a label of " in message


def test_a_long_label_that_leaves_room_is_taken(tmp_path: Path) -> None:
    topics = Topics(tiny_onnx.nli(tmp_path, f"music\n{'cooking ' * 240}\n"), None, 5)
    assert topics.of("word " * 500 + "cooking")[0].score > HALF / 2
    assert max(tokens for _, tokens in batches_of(topics, "word " * 500)) <= MOST_TOKENS


@pytest.mark.parametrize("content", ["", "[]", '"x"', "null", "{", "<html>\n</html>"])
def test_a_config_that_is_no_json_object_is_named(tmp_path: Path, content: str) -> None:
    (tiny_onnx.nli(tmp_path, LABELS) / "config.json").write_text(content)
    assert problem(tmp_path) == f"{tmp_path / 'config.json'} is not a JSON object"


@pytest.mark.parametrize(
    "names",
    [
        None,
        {},
        {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
        {"0": "entailment", "1": "neutral"},
        {"0": "neutral", "1": "contradiction"},
        {"0": "entailment", "1": "contradiction", "2": "entails"},
        {"0": "entailment", "1": "contradiction", "2": "not_entailment"},
        {"0": "positive", "1": "negative"},
        # of no such form, or not of this model
        ["entailment", "neutral", "contradiction"],
        "entailment",
        {"LABEL_0": "entailment", "LABEL_1": "contradiction"},
        {"0": "entailment", "1": "neutral", "7": "contradiction"},
    ],
)
def test_a_config_that_does_not_name_the_outcomes_is_named(tmp_path: Path, names: Any) -> None:
    change(tiny_onnx.nli(tmp_path, LABELS) / "config.json", id2label=names)
    assert "config.json" in problem(tmp_path)


@pytest.mark.parametrize("most", ["512", -1])
def test_a_config_of_impossible_positions_is_named(tmp_path: Path, most: Any) -> None:
    change(tiny_onnx.nli(tmp_path, LABELS) / "config.json", max_position_embeddings=most)
    problem(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "<html>\n</html>", '{"version": "1.0", "model": {"type": "X"}}']
)
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    (tiny_onnx.nli(tmp_path, LABELS) / "tokenizer.json").write_text(content)
    assert problem(tmp_path).startswith(f"{tmp_path / 'tokenizer.json'} cannot be read: ")


def test_a_tokenizer_without_padding_is_named(tmp_path: Path) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    tiny_onnx.write_tokenizer(tmp_path / "tokenizer.json", "[MASK]")
    message = problem(tmp_path)
    assert str(tmp_path / "tokenizer.json") in message
    assert "[PAD], <pad>" in message


def test_a_tokenizer_of_more_words_than_the_model_is_refused(tmp_path: Path) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    words = {"[UNK]": 9_999, "[PAD]": 3}
    Tokenizer(models.WordLevel(words, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    problem(tmp_path)


def test_a_tokenizer_that_fails_on_unknown_words_is_refused(tmp_path: Path) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    Tokenizer(models.WordLevel({"[PAD]": 0}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    problem(tmp_path)


def test_a_model_of_another_kind_is_refused_with_what_it_wants(tmp_path: Path) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    tiny_onnx.yamnet(tmp_path / "onnx")
    (tmp_path / "model.onnx").unlink()
    message = problem(tmp_path)
    assert "waveform" in message
    assert str(tmp_path / "onnx" / "yamnet.onnx") in message


@pytest.mark.parametrize("element", [TensorProto.INT32, TensorProto.FLOAT])
def test_a_model_of_other_numbers_is_refused(tmp_path: Path, element: int) -> None:
    problem(tiny_onnx.nli(tmp_path, LABELS, element=element))


@pytest.mark.parametrize("shape", [[3], [1, 2], [7, 3], [1, 3, 4], []])
def test_a_model_of_another_output_is_refused(tmp_path: Path, shape: list[int]) -> None:
    tiny_onnx.nli(tmp_path, LABELS)
    graph = tiny_onnx.Graph()
    graph.add("Identity", graph.constant(np.zeros(shape)), output="logits")
    inputs = {name: (TensorProto.INT64, ["batch", "sequence"]) for name in ("input_ids", "attention_mask")}
    graph.save(tmp_path / "model.onnx", inputs, "logits", list(shape))
    problem(tmp_path)


# --- the device --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 99", Outage),
        ("CUDA failure 700: an illegal memory access was encountered", Broken),
        ("something about this text", NATIVE.Fail),
    ],
)
def test_a_failing_device_is_distinguished_from_a_text_s_own_error(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, message: str, kind: type[Exception]
) -> None:
    class Session:
        def run(self, *_: Any) -> Any:
            raise NATIVE.Fail(message)

    monkeypatch.setattr(topics.model, "_session", Session())
    with pytest.raises(kind, match=message):
        topics.of("the weather")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("number", "score"), [(-9, YES), (9, 0.0), (-60_000, 1.0), (60_000, 0.0)])
@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_certain_logits_make_certain_scores(
    topics: Topics, monkeypatch: pytest.MonkeyPatch, kind: type, number: int, score: float
) -> None:
    def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [np.tile(np.array([-number, 0, number], kind), (len(inputs["input_ids"]), 1))]

    monkeypatch.setattr(topics.model, "run", run)
    assert list(scores(topics, "music").values()) == pytest.approx([score] * 5, abs=1e-3)
