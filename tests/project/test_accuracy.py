"""How bench/accuracy makes its recordings and scores what is heard in them."""

import random
import wave
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import accuracy_sounds as sounds
from bench.accuracy_corpora import CORPORA, Corpus, Dose, File, Maker
from bench.accuracy_report import tables
from bench.accuracy_result import Result, result
from bench.accuracy_score import Comparison, Said, Segment, Words, cues, percentile, tokens
from bench.accuracy_speech import RATE, Clip, speech_in
from bench.accuracy_track import Track, over, speak
from bench.accuracy_verdict import OURS, Rule, rules

DOSE = Dose(
    (0.2, 0.4), (0.2,), 0.1, 0.1, ("white", "babble"), 0.1, (3,), ("es",), 1, ((5, 6),), 4,
)  # fmt: skip
TEXTS = {
    "en/hello_world": "Hello world.",
    "cards/004": "five five",
    "librivox/0880": "he was not an ill disposed young man",
    "librivox/0920": "had he married a more amiable woman",
    "jfk": "ask what you can do for your country",
    "es/hola": "Hola mundo.",
    "es/pangrama": "El veloz murciélago.",
}


def clip(name: str, seconds: float = 1.0) -> Clip:
    samples = np.concatenate(
        [sounds.silence(0.2), sounds.at_level(sounds.tone(seconds, 300), -15), sounds.silence(0.3)]
    )
    language = name[:2] if name[2:3] == "/" else "en"
    return Clip(name, language, TEXTS[name], samples, *speech_in(samples))


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(list(map(clip, TEXTS)), DOSE, tmp_path)


def said(*texts: str, language: str = "en") -> list[Said]:
    """Each text for a second, a second apart."""
    return [Said(language, text, 2.0 * number, 2.0 * number + 1) for number, text in enumerate(texts)]


def segment(start: float, end: float, text: str, language: str = "en", spoken: bool = True) -> Segment:
    return Segment(start, end, text, language, spoken)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't — ASK, “what”!", "dont ask what"),
        ("Mr. Dashwood's ill-disposed", "mister dashwoods ill disposed"),
        ("5-5, then 10 and 55 and 20.", "five five then ten and five five and twenty"),
        ("El murciélago ＡＢＣ", "el murciélago abc"),
        ("नमस्ते दुनिया.", "नमस्ते दुनिया"),
        ("你好，世界。", "你 好 世 界"),
        ("こんにちはー。", "こ ん に ち は ー"),
        ("... ♪", ""),
    ],
)
def test_words_as_they_are_compared(text: str, words: str) -> None:
    assert tokens(text) == words.split()


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        ("one two three four five six", Words(6, 6)),
        ("one six", Words(6, 2, deleted=4, lost=4)),
        ("one two four five", Words(6, 4, deleted=2)),
        ("one two tree four five six seven", Words(6, 5, substituted=1, inserted=1)),
        ("", Words(6, deleted=6, lost=6)),
    ],
)
def test_each_kind_of_error_is_counted(heard: str, words: Words) -> None:
    found = Comparison(said("one two three", "four five six"), [segment(0, 3, heard)]).words
    assert found == words
    assert found.rate == pytest.approx(words.errors / 6)


def test_text_that_is_no_text_does_not_count() -> None:
    heard = [segment(0, 1, "one"), segment(1, 2, "[unintelligible]", spoken=False)]
    assert Comparison(said("one two"), heard).words == Words(2, 1, deleted=1)


def test_every_word_is_invented_where_nobody_speaks() -> None:
    found = Comparison([], [segment(0, 1, "Thank you"), segment(2, 3, "bye")])
    assert (found.words, found.invented()) == (Words(inserted=3), ["thank", "you", "bye"])
    assert found.by_language() == {}


def test_words_are_counted_for_the_language_that_they_stand_in() -> None:
    speech = [Said("en", "good morning", 0, 1), Said("es", "hola mundo", 2, 3)]
    found = Comparison(speech, [segment(0, 3, "good morning hello world there")]).by_language()
    assert found == {"en": Words(2, 2), "es": Words(2, substituted=2, inserted=1)}


def test_a_clip_has_the_language_heard_longest_in_it() -> None:
    speech = [Said("en", "a", 0, 4), Said("es", "b", 5, 9), Said("fr", "c", 10, 12), Said("it", "d", 13, 14)]
    heard = [segment(0, 6, "a", "en"), segment(6, 10.5, "b", "es"), segment(13, 14, "?", "it", spoken=False)]
    assert Comparison(speech, heard).languages() == [True, True, False, False]


def test_times_are_compared_where_a_segment_begins_or_ends_with_a_clip() -> None:
    speech = said("one two three", "four five six")
    found = Comparison(speech, [segment(0.1, 0.5, "one two"), segment(0.5, 3.3, "three four five six")]).times()
    assert found.starts == [pytest.approx(0.1)]  # "three four" is no beginning of a clip
    assert found.ends == [pytest.approx(0.3)]  # "one two" is no end of one
    assert found.beyond == pytest.approx(0.3)


def test_a_segment_lies_beyond_its_own_clip_in_the_middle_of_another() -> None:
    found = Comparison(said("one two", "four five"), [segment(0, 2.75, "one two")]).times()
    assert (found.beyond, found.farthest) == (pytest.approx(1.75), "0.00 to 2.75 s: one two")


def test_a_segment_that_matches_nothing_is_as_far_as_the_nearest_speech() -> None:
    found = Comparison(said("one two", "four five"), [segment(3.5, 4.0, "seven")]).times()
    assert (found.starts, found.ends, found.beyond) == ([], [], 1.0)


def test_segments_that_are_no_subtitles() -> None:
    heard = [
        segment(0, 2, "a"),
        segment(1.5, 3, "b"),
        segment(3, 3, "c"),
        segment(4, 5, " "),
        segment(5, 9.1, "d"),
    ]
    found = cues(heard, 9.0)
    assert (found.all, found.overlapping, found.empty, found.late) == (5, 1, 2, 1)


def test_the_95th_percentile() -> None:
    assert percentile([float(number) for number in range(100, 0, -1)], 0.95) == 95
    assert percentile([7.0], 0.95) == 7.0
    assert percentile([], 0.95) == 0


def test_where_speech_is_in_a_clip() -> None:
    assert clip("jfk", 0.5).start == pytest.approx(0.2, abs=0.02)
    assert clip("jfk", 0.5).end == pytest.approx(0.7, abs=0.02)


def test_no_clip_follows_itself(maker: Maker) -> None:
    for _, _, track in maker.long():
        texts = [one.text for one in track.said]
        assert len(texts) > 1
        assert all(one != other for one, other in pairwise(texts))
        gaps = [after.start - before.end for before, after in pairwise(track.said)]
        assert 0.15 + 0.5 - 0.05 <= min(gaps) <= max(gaps) <= 2 + 0.5 + 0.05  # clips hold 0.5 s of silence


def test_what_is_said_is_where_it_is_said_to_be(maker: Maker) -> None:
    track = speak(Track(), maker.english, 20, maker_draw())
    for one in track.said:
        inside = track.samples[int((one.start + 0.05) * RATE) : int((one.end - 0.05) * RATE)]
        before = track.samples[int((one.start - 0.1) * RATE) : int((one.start - 0.03) * RATE)]
        assert sounds.rms(inside) > 0.1
        assert sounds.rms(before) < 0.01


def maker_draw() -> random.Random:
    return random.Random("test")


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_is_the_same_each_time(name: str, maker: Maker, tmp_path: Path) -> None:
    first, again = maker.make(name), Maker(list(map(clip, TEXTS)), DOSE, tmp_path / "again").make(name)
    assert first.files
    assert [file.said for file in first.files] == [file.said for file in again.files]
    assert [file.path.read_bytes() for file in first.files] == [file.path.read_bytes() for file in again.files]
    assert all(bool(file.said) is (name != "nothing") for file in first.files)
    assert len({(file.path, file.channel) for file in first.files}) == len(first.files)
    assert all(one.end <= file.seconds for file in first.files for one in file.said)


def test_a_file_is_as_long_as_it_is_said_to_be(maker: Maker) -> None:
    for file in maker.make("tones").files:
        with wave.open(str(file.path), "rb") as sound:
            assert sound.getnframes() / sound.getframerate() == pytest.approx(file.seconds)


def test_noise_lies_so_far_below_speech(maker: Maker) -> None:
    track = speak(Track(), maker.english, 5, maker_draw())
    noise = sounds.white(track.seconds, np.random.default_rng(1))
    mixed = over(track, noise, 10).samples
    first = track.said[0]
    alone = sounds.rms(mixed[: int(0.15 * RATE)])
    speech = sounds.rms(mixed[int(first.start * RATE) : int(first.end * RATE)])
    assert 20 * np.log10(speech / alone) == pytest.approx(10.4, abs=0.3)  # speech and noise to noise


def measured(**words: Words) -> dict[str, Result]:
    found = {}
    for engine, counts in words.items():
        found[engine] = Result(1.0, 60.0, {"all": counts}, {"en": counts})
    return found


def broken(results: dict[str, dict[str, Result]]) -> list[str]:
    return [rule.text.partition(":")[0] for rule in rules(results) if not rule.holds]


GOOD, WORSE = Words(1000, 980, 10, 10), Words(1000, 960, 20, 20)


@pytest.mark.parametrize(
    ("corpus", "ours", "rules_broken"),
    [
        ("long", GOOD, []),
        ("long", Words(1000, 950, 5, 45), ["long", "long", "all corpora"]),
        ("clips", Words(1000, 940, 60), ["all corpora", "clips, en"]),
        ("repeated", Words(1000, 950, 0, 20), ["repeated"]),
        ("nothing", Words(inserted=1), ["nothing"]),
    ],
)
def test_the_verdict(corpus: str, ours: Words, rules_broken: list[str]) -> None:
    assert broken({corpus: measured(ours=ours, transcribe=WORSE, batched=WORSE)}) == rules_broken


def test_times_subtitles_and_languages_of_ours_are_judged() -> None:
    speech = [Said("en", "one two", 0, 1), Said("es", "tres cuatro", 2, 3)]
    file = File("a window each", Path("x"), 3.0, speech)
    good = {"language": "en", "segments": [_json(0, 1, "one two", "en"), _json(2, 3, "tres cuatro", "es")]}
    bad = {"language": "en", "segments": [_json(0, 2.6, "one two", "en"), _json(2, 3.6, "tres cuatro", "en")]}
    for heard, count in ((good, 0), (bad, 4)):
        corpus = Corpus("languages", "", [file], timed=True)
        assert (
            len(broken({"languages": {"ours": result(corpus, ["x"], {"wall_s": 1, "heard": {"x": heard}})}}))
            == count
        )


def _json(start: float, end: float, text: str, language: str) -> dict[str, object]:
    return {"start": start, "end": end, "text": text, "language": language, "spoken": True}


def test_a_report_has_a_table_for_everything(maker: Maker) -> None:
    corpora = {name: maker.make(name) for name in CORPORA}
    results = {}
    for name, corpus in corpora.items():
        heard: dict[str, dict[str, Any]] = {}
        for file in corpus.files:
            known = heard.setdefault(str(file.path), {"language": "en", "segments": []})
            known["segments"] += [
                {**_json(one.start, one.end, one.text, one.language), "channel": file.channel} for one in file.said
            ]
        run = {"wall_s": 2.0, "heard": heard}
        names = [str(file.path) for file in corpus.files]
        engines = ("ours",) if name in OURS else ("ours", "transcribe", "batched")
        results[name] = {engine: result(corpus, names, run) for engine in engines}
    verdict = rules(results)
    assert [rule.text for rule in verdict if not rule.holds] == [
        "all corpora: fewer wrong words than the better peer"
    ]
    settings = {
        "model": "base",
        "threads": 2,
        "faster-whisper": "1",
        "ctranslate2": "4",
        "opus_kbps": 48,
        "load": 0.1,
        "reused": False,
    }
    text = "\n".join(tables(settings, corpora, results, {"long": results["long"]}, verdict))
    assert "does not hold" in text
    assert "0.0% of" in text
    assert "| a clip each | 12 of 12 |" in text
    assert isinstance(verdict[0], Rule)
