"""pipeline/speech/whisper.py: a batch gives what its rows give alone and in faster-whisper; what looks
invented."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper import BatchedInferencePipeline

from pipeline.audio.converter import Converter
from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech import whisper as module
from pipeline.speech.voice_windows import Recording, Window
from pipeline.speech.whisper import Options, SpokenWord, Try, Whisper
from tests.support import random_whisper
from tests.support.fleet import MODELS, ffmpeg_program
from tests.support.recordings import SAMPLES, SHORT, WORDS

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


def encode(whisper: Whisper, windows: list[Window]) -> Any:
    return whisper.encode([whisper.features(window.samples) for window in windows])


def texts(whisper: Whisper, windows: list[Window], languages: list[str] | None = None) -> list[str]:
    tries = whisper.decode(encode(whisper, windows), languages or ["en"] * len(windows))
    return [tried.text for tried in tries]


def align(whisper: Whisper, windows: list[Window], languages: list[str]) -> list[list[SpokenWord]]:
    encoded = encode(whisper, windows)
    tries = whisper.decode(encoded, languages)
    return whisper.align(encoded, [window.seconds for window in windows], languages, tries)


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
    whisper = load(beam_size=beam_size)
    expected = batched(whisper, speech, language="en", beam_size=beam_size)
    assert texts(whisper, speech) == expected
    assert expected[0] == WORDS[SHORT[0]]


@pytest.mark.parametrize("language", ["en", "de"])
def test_a_multilingual_batch_gives_it_too(polyglot: Path, speech: list[Window], language: str) -> None:
    whisper = load(polyglot, max_new_tokens=30, beam_size=2)
    expected = batched(whisper, speech, language=language, beam_size=2, max_new_tokens=30)
    assert texts(whisper, speech, [language] * len(speech)) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("model", ["spoken-words", "polyglot"])
def test_a_row_gives_the_same_alone_and_in_any_order(polyglot: Path, speech: list[Window], model: str) -> None:
    whisper = load(polyglot if model == "polyglot" else MODEL, max_new_tokens=40)
    codes = ["en", "de", "fr"] if model == "polyglot" else ["en"]
    languages = [codes[number % len(codes)] for number in range(len(speech))]
    alone = [texts(whisper, [window], [code])[0] for window, code in zip(speech, languages, strict=True)]
    assert texts(whisper, speech, languages) == alone
    assert texts(whisper, speech[::-1], languages[::-1]) == alone[::-1]


def test_each_row_has_the_language_that_faster_whisper_detects(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot)
    features = [whisper.features(window.samples) for window in speech]
    odds = whisper.language_odds(whisper.encode(features), [[(0, 10)]] * len(speech))
    for (found,), row in zip(odds, features, strict=True):
        language, probability, _ = whisper._model.detect_language(features=row)
        assert max(found, key=found.__getitem__) == language
        assert found[language] == pytest.approx(probability, abs=1e-4)
        assert sum(found.values()) == pytest.approx(1, abs=1e-3)


def test_pieces_of_a_row_are_judged_apart(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot)
    encoded = encode(whisper, speech[:2])
    (whole,), pieces = whisper.language_odds(encoded, [[(0, 1500)], [(0, 100), (100, 250), (0, 100)]])
    assert len(pieces) == 3
    assert pieces[0] == pytest.approx(pieces[2], rel=1e-6)  # beside others, a row is computed in another order
    assert pieces[0] != pytest.approx(pieces[1], rel=1e-6)
    assert whole != pieces[0]


def test_only_the_languages_that_occur_are_detected(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot, languages=("de", "fr"))
    assert whisper.language is None
    ((found,),) = whisper.language_odds(encode(whisper, speech[:1]), [[(0, 10)]])
    assert set(found) == {"de", "fr"}
    assert sum(found.values()) == pytest.approx(1)


def test_a_single_language_is_that_of_all_windows(polyglot: Path) -> None:
    assert load(polyglot, languages=("de",)).language == "de"
    assert load(polyglot).language is None
    assert load(MODEL, languages=("de", "fr")).language == "en"  # a model that knows no other


def test_an_initial_prompt_reaches_every_row(polyglot: Path, speech: list[Window]) -> None:
    options = {"max_new_tokens": 30}
    prompted = load(polyglot, initial_prompt="b c", **options)
    assert len(prompted._before) > 0
    expected = batched(prompted, speech, language="en", beam_size=1, max_new_tokens=30, initial_prompt="b c")
    assert texts(prompted, speech) == expected
    assert expected != texts(load(polyglot, **options), speech)


def test_the_task_reaches_the_model(polyglot: Path, speech: list[Window]) -> None:
    options = {"max_new_tokens": 30}
    assert texts(load(polyglot, task="translate", **options), speech) == batched(
        load(polyglot), speech, language="en", beam_size=1, max_new_tokens=30, task="translate"
    )


# --- times -------------------------------------------------------------------------------------------------


def test_words_have_times_inside_their_window_and_make_up_the_text(speech: list[Window]) -> None:
    whisper = load()
    expected = texts(whisper, speech)
    for window, text, words in zip(speech, expected, align(whisper, speech, ["en"] * len(speech)), strict=True):
        assert "".join(word.text for word in words).strip() == text
        times = [time for word in words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= window.seconds + 0.1
        assert all(0 < word.probability <= 1 for word in words)


def test_words_are_as_faster_whisper_finds_them(speech: list[Window]) -> None:
    whisper, window = load(), speech[:1]
    (found,) = align(whisper, window, ["en"])
    segments, _ = BatchedInferencePipeline(whisper._model).transcribe(
        window[0].samples, clip_timestamps=[{"start": 0, "end": window[0].seconds}], language="en", beam_size=1,
        word_timestamps=True, batch_size=1,
    )  # fmt: skip
    (expected,) = segments
    wanted = expected.words or []
    assert [(w.text, w.start) for w in found] == [(w.word, pytest.approx(w.start, abs=0.011)) for w in wanted]
    assert [w.end for w in found[:-1]] == [pytest.approx(w.end, abs=0.011) for w in wanted[:-1]]
    assert found[-1].end <= speech[0].seconds  # faster-whisper rounds the window up to whole seconds


def test_words_of_rows_in_several_languages_are_those_of_each_alone(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot, max_new_tokens=20)
    languages = ["en", "de", "en"]
    together = align(whisper, speech[:3], languages)
    for row in range(3):
        (alone,) = align(whisper, [speech[row]], [languages[row]])
        assert [word.text for word in alone] == [word.text for word in together[row]]
        assert [word.start for word in alone] == [word.start for word in together[row]]


def test_a_model_that_cannot_align_is_refused_at_start(tmp_path: Path) -> None:
    """Its conversion is too old: every file with speech would fail."""
    shutil.copytree(MODEL, tmp_path / "model")
    about = tmp_path / "model" / "config.json"
    settings = json.loads(about.read_text())
    del settings["alignment_heads"]
    about.write_text(json.dumps(settings))
    with pytest.raises(RuntimeError, match="alignment_heads"):
        load(tmp_path / "model")


def test_words_of_blanks_and_odds_that_overflow_are_harmless(
    speech: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    whisper = load()
    blank = {"word": " \u3000", "tokens": [1], "start": 0.4, "end": 0.5, "probability": 0.5}
    wild = {"word": " so", "tokens": [2], "start": 0.2, "end": 0.4, "probability": float("nan")}
    monkeypatch.setattr(whisper._model, "find_alignment", lambda *_: [[wild, blank]])
    (found,) = align(whisper, speech[:1], ["en"])
    assert found == [SpokenWord(0.2, 0.4, " so", 0.0)]


def test_rows_of_the_encoders_output_can_be_selected(speech: list[Window]) -> None:
    whisper = load()
    encoded = encode(whisper, speech[:3])
    assert whisper.select(encoded, [0, 1, 2]) is encoded
    assert np.array_equal(np.asarray(whisper.select(encoded, [2, 0])), np.asarray(encoded)[[2, 0]])


# --- what looks invented -----------------------------------------------------------------------------------

GREETING = "Hello and welcome. " * 8


@pytest.mark.parametrize(
    ("tried", "seconds", "looks"),
    [
        (Try([5], "good", -0.2, 0.1), 3, False),
        (Try([5], "unsure", -1.2, 0.1), 3, True),
        (Try([5], "thanks for watching", -1.5, 0.9), 3, True),
        (Try([], "", -0.2, 0.1), 3, True),  # the voice gate has heard somebody
        (Try([5], GREETING, -0.1, 0.1), 11, False),  # eight times in 11 s: somebody says so
        (Try([5], "hello " * 200, -0.1, 0.1), 3, True),  # two hundred times in 3 s: nobody does
        (Try([5], GREETING, -0.1, 0.1, is_cut=True), 11, True),  # it did not end by itself
        (Try([5], "all the good boys do fine always", -0.1, 0.1), 1, True),  # more than can be said in a second
        (Try([5], "a long text that ends where the decoder has no more room", -0.1, 0.1, is_cut=True), 30, False),
    ],
)
def test_what_has_no_text_or_what_nobody_can_have_said_fails(tried: Try, seconds: float, looks: bool) -> None:
    assert tried.fails(seconds) == looks


def test_a_text_that_fills_the_decoder_is_cut(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot, max_new_tokens=20)
    encoded = encode(whisper, speech[:1])
    eot = whisper._tokenizer("en").eot
    (tried,) = whisper.decode(encoded, ["en"], suppress_tokens=[*whisper._suppressed, eot])
    assert tried.is_cut
    assert not load().decode(encode(load(), speech[:1]), ["en"])[0].is_cut


def test_a_second_try_repeats_no_four_tokens(polyglot: Path, speech: list[Window]) -> None:
    whisper = load(polyglot, max_new_tokens=200)
    (tried,) = whisper.decode(encode(whisper, speech[:1]), ["en"], may_repeat=False)
    fours = [tuple(tried.tokens[at : at + 4]) for at in range(len(tried.tokens) - 3)]
    assert len(fours) > 10
    assert len(set(fours)) == len(fours)


def test_scores_are_faster_whispers(speech: list[Window]) -> None:
    whisper = load()
    sound = speech[0].samples
    (tried,) = whisper.decode(encode(whisper, speech[:1]), ["en"])
    segments, _ = BatchedInferencePipeline(whisper._model).transcribe(
        sound, clip_timestamps=[{"start": 0, "end": speech[0].seconds}], language="en", beam_size=1
    )
    (expected,) = segments
    assert tried.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
    assert tried.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-4)


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

    def read(result: Any, *args: Any) -> Try:
        made.append(len(result.sequences_ids[0]))
        return original(result, *args)

    monkeypatch.setattr(whisper, "_read", read)
    whisper._run_longest(2)
    assert made == [224, 224]  # CTranslate2 decodes half of the 448 tokens that the decoder holds


def test_a_compute_type_that_is_none_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="float17"):
        Whisper(MODEL, "cpu", 0, "float17", 1)
