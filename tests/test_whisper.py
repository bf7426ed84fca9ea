"""pipeline/whisper.py: a batch gives what its rows give alone and in faster-whisper; guards against inventions."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper import BatchedInferencePipeline

from pipeline import whisper as module
from pipeline.audio import SAMPLE_RATE, Converter
from pipeline.whisper import Options, Whisper, _Try, split_at_timestamps
from pipeline.windows import Recording, Window
from tests import random_whisper
from tests.fleet import MODELS, ffmpeg_program
from tests.recordings import SAMPLES, SHORT, WORDS

MODEL = MODELS / "spoken-words"
MEETING = "monday/meeting.mp3"


def load(model: Path = MODEL, **options: Any) -> Whisper:
    return Whisper(model, "cpu", 0, "float32", 1, Options(**{"beam_size": 1, **options}))


@pytest.fixture(scope="module")
def polyglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and the multilingual vocabulary."""
    return random_whisper.make(tmp_path_factory.mktemp("model") / "nano", "nano")


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> list[Window]:
    """Windows of real speech."""
    folder = tmp_path_factory.mktemp("opus")
    found = []
    for number, name in enumerate([*SHORT, MEETING]):
        Converter(ffmpeg_program()).to_opus(SAMPLES / name, folder / f"{number}.opus", threading.Event())
        found += list(Recording(folder / f"{number}.opus").windows())
    return found


def texts(whisper: Whisper, windows: list[Window], languages: list[str] | None = None) -> list[str]:
    features = [whisper.features(window.samples) for window in windows]
    heard = whisper.hear(features, languages or ["en"] * len(windows))
    return [" ".join(passage.text for passage in passages) for passages in heard]


# --- the same as faster-whisper, and as alone --------------------------------------------------------------


def batched(whisper: Whisper, windows: list[Window], **options: Any) -> list[str]:
    """What faster-whisper's own batched pipeline hears in each of the windows."""
    sound = np.concatenate([*(window.samples for window in windows), np.zeros(SAMPLE_RATE, np.float32)])
    ends = np.cumsum([len(window.samples) for window in windows])
    clips = [
        {"start": (end - len(window.samples)) / SAMPLE_RATE, "end": end / SAMPLE_RATE}
        for window, end in zip(windows, ends.tolist(), strict=True)
    ]
    segments, _ = BatchedInferencePipeline(whisper._model).transcribe(
        sound, clip_timestamps=clips, batch_size=len(windows), without_timestamps=True, **options
    )
    return [segment.text.strip() for segment in segments]


@pytest.mark.parametrize("beam_size", [1, 5])
def test_a_batch_gives_the_text_of_faster_whispers_batched_pipeline(speech: list[Window], beam_size: int) -> None:
    whisper = load(beam_size=beam_size, timestamps=False, temperatures=())
    expected = batched(whisper, speech, language="en", beam_size=beam_size)
    assert texts(whisper, speech) == expected
    assert expected[0] == WORDS[SHORT[0]]


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_multilingual_batch_gives_it_too(polyglot: Path, speech: list[Window], language: str) -> None:
    whisper = load(polyglot, timestamps=False, temperatures=(), max_new_tokens=30, beam_size=2)
    expected = batched(whisper, speech, language=language, beam_size=2, max_new_tokens=30)
    assert texts(whisper, speech, [language] * len(speech)) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("model", ["spoken-words", "polyglot"])
def test_a_row_gives_the_same_alone_and_in_any_order(polyglot: Path, speech: list[Window], model: str) -> None:
    whisper = load(polyglot if model == "polyglot" else MODEL, temperatures=(), max_new_tokens=40)
    codes = ["en", "de", "fr"] if model == "polyglot" else ["en"]
    languages = [codes[number % len(codes)] for number in range(len(speech))]
    alone = [texts(whisper, [window], [code])[0] for window, code in zip(speech, languages, strict=True)]
    assert texts(whisper, speech, languages) == alone
    assert texts(whisper, speech[::-1], languages[::-1]) == alone[::-1]


def test_each_row_has_the_language_that_faster_whisper_detects(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot)
    features = [whisper.features(window.samples) for window in speech]
    assert whisper.detect_languages(whisper.encode(features)) == [
        whisper._model.detect_language(features=row)[0] for row in features
    ]


def test_an_initial_prompt_reaches_every_row(polyglot: Path, speech: list[Window]) -> None:
    options = {"timestamps": False, "temperatures": (), "max_new_tokens": 30}
    prompted = load(polyglot, initial_prompt="b c", **options)
    assert len(prompted._before) > 0
    expected = batched(prompted, speech, language="en", beam_size=1, max_new_tokens=30, initial_prompt="b c")
    assert texts(prompted, speech) == expected
    assert expected != texts(load(polyglot, **options), speech)


def test_the_task_reaches_the_model(polyglot: Path, speech: list[Window]) -> None:
    options = {"timestamps": False, "temperatures": (), "max_new_tokens": 30}
    assert texts(load(polyglot, task="translate", **options), speech) == batched(
        load(polyglot), speech, language="en", beam_size=1, max_new_tokens=30, task="translate"
    )


# --- times -------------------------------------------------------------------------------------------------

T = 1000  # the token of 0.00 s; 50 to a second


@pytest.mark.parametrize(
    ("tokens", "parts"),
    [
        ([], []),
        ([1, 2], [(0, 10, [1, 2])]),
        ([T, 1, 2, T + 100], [(0, 2, [1, 2])]),
        ([T + 50, 1, T + 100, T + 150, 2, T + 200], [(1, 2, [1]), (3, 4, [2])]),
        ([T, 1, T + 100, T + 100, 2], [(0, 2, [1]), (2, 10, [2])]),  # faster-whisper's pipeline drops the 2
        ([1, T + 100, 2], [(0, 2, [1]), (2, 10, [2])]),
        ([T + 100, 1, T + 50], [(2, 10, [1])]),
        ([T, 1, T + 1500], [(0, 10, [1])]),
        ([T + 1500, 1], [(9.98, 10, [1])]),
        ([T, T + 100], []),
    ],
)
def test_text_is_cut_at_its_timestamps_and_none_is_lost(tokens: list[int], parts: list[Any]) -> None:
    assert split_at_timestamps(tokens, T, 10.0) == [(pytest.approx(a), pytest.approx(b), t) for a, b, t in parts]


def test_words_have_times_inside_their_window_and_make_up_the_text(speech: list[Window]) -> None:
    whisper = load(word_timestamps=True)
    features = [whisper.features(window.samples) for window in speech]
    for window, passages in zip(speech, whisper.hear(features, ["en"] * len(speech)), strict=True):
        for passage in passages:
            assert passage.words
            assert " ".join(word.word for word in passage.words) == passage.text
            times = [time for word in passage.words for time in (word.start, word.end)]
            assert times == sorted(times)
            assert (times[0], times[-1]) == (passage.start, passage.end)
            assert 0 <= times[0] < times[-1] <= window.seconds + 0.1
            assert all(0 < word.probability <= 1 for word in passage.words)


def test_words_are_as_faster_whisper_finds_them(speech: list[Window]) -> None:
    whisper, window = load(word_timestamps=True, timestamps=False, temperatures=()), speech[:1]
    ((passage,),) = whisper.hear([whisper.features(window[0].samples)], ["en"])
    segments, _ = BatchedInferencePipeline(whisper._model).transcribe(
        window[0].samples, clip_timestamps=[{"start": 0, "end": window[0].seconds}], language="en", beam_size=1,
        word_timestamps=True, batch_size=1,
    )  # fmt: skip
    (expected,) = segments
    found, wanted = passage.words or [], expected.words or []
    assert [(w.word, w.start) for w in found] == [
        (w.word.strip(), pytest.approx(w.start, abs=0.011)) for w in wanted
    ]
    assert [w.end for w in found[:-1]] == [pytest.approx(w.end, abs=0.011) for w in wanted[:-1]]
    assert found[-1].end <= speech[0].seconds  # faster-whisper rounds the window up to whole seconds


def test_words_of_rows_in_several_languages_are_those_of_each_alone(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot, word_timestamps=True, temperatures=(), max_new_tokens=20)
    features = [whisper.features(window.samples) for window in speech[:3]]
    languages = ["en", "de", "en"]
    together = whisper.hear(features, languages)
    for row in range(3):
        (alone,) = whisper.hear([features[row]], [languages[row]])
        assert [[w.word for w in p.words or []] for p in alone] == [
            [w.word for w in p.words or []] for p in together[row]
        ]


# --- guards ------------------------------------------------------------------------------------------------

GOOD = _Try([5], "good", -0.2, 0.1)
UNSURE = _Try([6], "unsure", -1.5, 0.1)
LESS_UNSURE = _Try([7], "less unsure", -1.2, 0.1)
LOOP = _Try([8], "again and again " * 20, -0.1, 0.1)
SILENCE = _Try([9], "thanks for watching", -1.5, 0.9)


@pytest.mark.parametrize(
    ("tries", "asked", "text"),
    [
        ([GOOD], [0.0], "good"),
        ([UNSURE, GOOD], [0.0, 0.2], "good"),
        ([LOOP, UNSURE, GOOD], [0.0, 0.2, 0.6], "good"),
        ([UNSURE, LOOP, LESS_UNSURE, UNSURE], [0.0, 0.2, 0.6, 1.0], "less unsure"),
        ([LOOP, LOOP, LOOP, LOOP], [0.0, 0.2, 0.6, 1.0], ""),
        ([SILENCE], [0.0], ""),
        ([UNSURE, SILENCE], [0.0, 0.2], ""),
        ([LOOP, LOOP, UNSURE, LOOP], [0.0, 0.2, 0.6, 1.0], "unsure"),
    ],
)
def test_a_row_that_looks_invented_is_tried_again_and_dropped_where_that_does_not_help(
    monkeypatch: pytest.MonkeyPatch, tries: list[_Try], asked: list[float], text: str
) -> None:
    whisper = load()
    temperatures: list[float] = []

    def generate(_: object, languages: list[str], temperature: float) -> list[_Try]:
        assert len(languages) == (2 if temperature == 0 else 1), "a row that is sound was decoded again"
        temperatures.append(temperature)
        tried = tries[len(temperatures) - 1]
        return [GOOD, tried] if temperature == 0 else [tried]

    monkeypatch.setattr(whisper, "_generate", generate)
    monkeypatch.setattr(whisper, "encode", lambda features: len(features))
    monkeypatch.setattr(whisper, "_passages", lambda tried, *_: tried.text)
    features = [np.zeros((80, 100), np.float32)] * 2
    assert whisper.hear(features, ["en", "en"]) == ["good", text]
    assert temperatures == asked


def test_without_temperatures_what_comes_out_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = load(temperatures=())
    monkeypatch.setattr(whisper, "_generate", lambda *_: [LOOP, SILENCE])
    monkeypatch.setattr(whisper, "_passages", lambda tried, *_: tried.text)
    assert whisper.hear([np.zeros((80, 100), np.float32)] * 2, ["en", "en"]) == [LOOP.text, SILENCE.text]


def test_a_real_model_is_sampled_when_it_is_unsure(
    polyglot: Path, speech: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights are never sure: every row goes through every temperature."""
    whisper = load(polyglot, max_new_tokens=20)
    asked: list[tuple[float, int]] = []
    original = whisper._generate

    def spy(encoded: Any, languages: list[str], temperature: float) -> Any:
        asked.append((temperature, len(languages)))
        return original(encoded, languages, temperature)

    monkeypatch.setattr(whisper, "_generate", spy)
    texts(whisper, speech[:2])
    assert asked == [(0.0, 2), (0.2, 2), (0.6, 2), (1.0, 2)]


def test_scores_are_faster_whispers(speech: list[Window]) -> None:
    whisper = load(timestamps=False, temperatures=())
    sound = speech[0].samples
    ((passage,),) = whisper.hear([whisper.features(sound)], ["en"])
    segments, _ = BatchedInferencePipeline(whisper._model).transcribe(
        sound, clip_timestamps=[{"start": 0, "end": speech[0].seconds}], language="en", beam_size=1
    )
    (expected,) = segments
    assert passage.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert passage.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-4)


# --- the device --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("room", "size"), [(8, 8), (9, 8), (16, 16), (100, 64), (1000, 128)])
def test_auto_takes_the_largest_batch_that_fits_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, room: int, size: int
) -> None:
    whisper = load()
    assert whisper.batch_that_fits() == module.CPU_BATCH

    def run(rows: int) -> None:
        if rows > room:
            raise RuntimeError("CUDA failed with error out of memory")

    monkeypatch.setattr(whisper, "on_gpu", True)
    monkeypatch.setattr(whisper, "_run_longest", run)
    assert whisper.batch_that_fits() == size


def test_the_longest_text_is_as_long_as_whisper_allows(polyglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whisper = load(polyglot)
    made: list[int] = []
    original = whisper._read

    def read(result: Any, language: str) -> _Try:
        made.append(len(result.sequences_ids[0]))
        return original(result, language)

    monkeypatch.setattr(whisper, "_read", read)
    whisper._run_longest(2)
    assert made == [224, 224]  # CTranslate2 decodes half of the 448 tokens that the decoder holds


def test_a_compute_type_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="float17"):
        Whisper(MODEL, "cpu", 0, "float17", 1)
