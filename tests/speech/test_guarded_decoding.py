"""pipeline/speech/guarded_decoding.py: what looks invented is tried again and marked; no speech is just gone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech.guarded_decoding import _once, listen
from pipeline.speech.segments import Heard
from pipeline.speech.transcript import REPEATED, UNINTELLIGIBLE
from pipeline.speech.voice_gate import Span
from pipeline.speech.voice_windows import Window
from pipeline.speech.whisper import Options, SpokenWord, Try

GOOD, UNSURE = (-0.2, 0.1), (-1.4, 0.1)  # average log-probability, no-speech probability
SILENCE = (-1.5, 0.9)


class Decoder:
    """A Whisper that says of each run of stretches what it is given to say, and aligns words evenly.

    `says`: (first stretch, behind the last, whether it may repeat itself) -> text, or text and scores.
    """

    def __init__(self, says: dict[tuple[int, int, bool], Any], **options: Any) -> None:
        self.says, self.options = says, Options(**options)
        self.asked: list[tuple[int, int, bool]] = []

    def features(self, samples: np.ndarray) -> np.ndarray:
        return samples

    def encode(self, features: list[np.ndarray]) -> Any:
        """What stands for the sound: its first and last sample are the numbers of its stretches."""
        return [(int(samples[0]), int(samples[-1]) + 1) for samples in features]

    def select(self, encoded: Any, rows: list[int]) -> Any:
        return [encoded[row] for row in rows]

    def decode(self, encoded: Any, languages: list[str], may_repeat: bool = True) -> list[Try]:
        assert len(encoded) == len(languages)
        tries = []
        for begin, end in encoded:
            self.asked.append((begin, end, may_repeat))
            said = self.says.get((begin, end, may_repeat), ("", GOOD))
            text, scores = (said, GOOD) if isinstance(said, str) else said
            tries.append(Try(list(map(hash, text.split())), text, *scores))
        self.texts = {tuple(tried.tokens): tried.text.split() for tried in tries} | getattr(self, "texts", {})
        return tries

    def align(self, encoded: Any, seconds: list[float], languages: list[str], tries: list[Try]) -> Any:
        found = []
        for length, tried in zip(seconds, tries, strict=True):
            names = {hash(word): word for text in self.texts.values() for word in text}
            said = [names[token] for token in tried.tokens]
            step = length / len(said) if said else 0
            found.append([SpokenWord(at * step, (at + 1) * step, f" {word}", 0.9) for at, word in enumerate(said)])
        return found


def window(*seconds: float) -> Window:
    """A window of stretches so long, a second apart; the sound of each is its number."""
    spans, sounds, at = [], [], 0
    for number, length in enumerate(seconds):
        end = at + int(length * SAMPLE_RATE)
        spans.append(Span(at, end, at, end))
        sounds.append(np.full(end - at, number, np.float32))
        at = end + SAMPLE_RATE
    return Window(spans, np.concatenate(sounds))


def hear(decoder: Decoder, where: Window) -> list[Heard]:
    whisper: Any = decoder
    (found,) = listen(whisper, [where], ["en"], decoder.encode([where.samples]))
    assert [span for heard in found for span in heard.window.spans] == where.spans, "a stretch is gone"
    return found


def said(found: list[Heard]) -> str:
    return "".join(word.text for heard in found for word in heard.words).strip()


def test_a_text_that_passes_is_decoded_once() -> None:
    decoder = Decoder({(0, 1, True): "all is well here and so it stays"})
    (heard,) = hear(decoder, window(4))
    assert (said([heard]), heard.mark) == ("all is well here and so it stays", None)
    assert decoder.asked == [(0, 1, True)]


def test_a_window_that_fails_is_heard_in_parts() -> None:
    decoder = Decoder(
        {
            (0, 2, True): ("what is this", UNSURE),
            (0, 1, True): "one two three four",
            (1, 2, True): "five six seven eight",
        }
    )
    found = hear(decoder, window(5, 5))
    assert said(found) == "one two three four five six seven eight"
    assert [heard.mark for heard in found] == [None, None]


def test_one_unlikely_word_in_a_long_window_is_no_silence() -> None:
    """Whisper ended a window of 25 s of Spanish so, and called it sound without speech."""
    decoder = Decoder(
        {
            (0, 3, True): ("Tola mundo", SILENCE),
            (0, 1, True): "uno dos tres cuatro",
            (1, 2, True): ("mmm", SILENCE),
            (2, 3, True): "cinco seis siete ocho",
        }
    )
    found = hear(decoder, window(5, 5, 5))
    assert said(found) == "uno dos tres cuatro cinco seis siete ocho"
    assert [heard.mark for heard in found] == [None, UNINTELLIGIBLE, None]
    assert len(decoder.asked) == 4, "silence is silence, however often it is heard"


def test_an_unlikely_text_is_kept_where_its_parts_have_hardly_any() -> None:
    text = "words in the noise that may well be right"
    decoder = Decoder(
        {(0, 2, True): (text, UNSURE), (0, 1, True): ("mmm", SILENCE), (1, 2, True): ("right", GOOD)}
    )
    (heard,) = hear(decoder, window(5, 5))
    assert (said([heard]), heard.mark) == (text, None)


def test_what_stays_unlikely_is_kept_with_its_scores() -> None:
    """Its confidence says so; the words may be right."""
    decoder = Decoder({(0, 1, True): ("mumble mumble", UNSURE), (0, 1, False): ("mutter mutter", (-1.6, 0.1))})
    (heard,) = hear(decoder, window(2))
    assert (said([heard]), heard.mark, heard.avg_logprob) == ("mumble mumble", None, -1.4)


def test_a_second_try_without_repetitions_is_taken_where_it_passes() -> None:
    loop = "so we went on and on " * 40
    decoder = Decoder({(0, 1, True): loop, (0, 1, False): "so we went on and on and home again"})
    (heard,) = hear(decoder, window(3))
    assert (said([heard]), heard.mark) == ("so we went on and on and home again", None)


def test_a_loop_stands_once_with_its_mark() -> None:
    loop = "first of all " + "so we went on " * 60
    decoder = Decoder({(0, 1, True): loop, (0, 1, False): loop})
    (heard,) = hear(decoder, window(3))
    assert said([heard]) == "first of all so we went on"
    assert (heard.mark, bool(heard.reason)) == (REPEATED, True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (("thanks for watching", SILENCE), "without speech"),
        ("", "no words"),
        ("the quick brown fox jumps over the lazy dog and far away to the hills", "more words than"),
    ],
)
def test_what_nobody_can_have_said_is_marked_and_not_gone(text: Any, reason: str) -> None:
    (heard,) = hear(Decoder({(0, 1, True): text, (0, 1, False): text}), window(1.5))
    assert (said([heard]), heard.mark) == ("", UNINTELLIGIBLE)
    assert heard.reason is not None
    assert reason in heard.reason


def test_a_stretch_without_a_word_is_heard_alone() -> None:
    text = "these are the words of the first stretch"
    decoder = Decoder({(0, 2, True): text, (1, 2, True): "and those of the second"})
    align = decoder.align

    def only_in_the_first(encoded: Any, seconds: list[float], languages: list[str], tries: list[Try]) -> Any:
        return align(encoded, [min(length, 4) for length in seconds], languages, tries)

    decoder.align = only_in_the_first  # type: ignore[method-assign]
    found = hear(decoder, window(4, 4))
    assert said(found) == f"{text} and those of the second"


def test_a_stretch_that_stays_without_a_word_is_marked() -> None:
    text = "these are the words of the first stretch"
    decoder = Decoder({(0, 2, True): text, (1, 2, True): ("thank you", (-0.9, 0.1))})
    align = decoder.align
    decoder.align = lambda encoded, seconds, *rest: align(  # type: ignore[method-assign]
        encoded, [min(length, 4) for length in seconds], *rest
    )
    found = hear(decoder, window(4, 4))
    assert said(found) == text
    assert [heard.mark for heard in found] == [None, UNINTELLIGIBLE]


def test_a_phrase_that_repeats_is_counted_in_short_parts() -> None:
    """Whole, the model loses count; eight times in 11 s is what somebody says."""
    greeting = "hello and welcome to us. "
    parts = {(at, at + 1, True): greeting * 2 for at in range(4)}
    decoder = Decoder({(0, 4, True): greeting * 6, **parts})
    found = hear(decoder, window(3, 3, 3, 3))
    assert said(found) == (greeting * 8).strip()
    fewer = {(at, at + 1, True): greeting for at in range(4)}
    assert said(hear(Decoder({(0, 4, True): greeting * 6, **fewer}), window(3, 3, 3, 3))) == (greeting * 6).strip()


def test_a_sentence_that_comes_back_is_no_reason_to_listen_again() -> None:
    text = " ".join(f"and this is sentence {number} of a long recording of them." for number in (1, 2, 1, 3, 2, 1))
    decoder = Decoder({(0, 4, True): text})
    assert said(hear(decoder, window(4, 4, 4, 4))) == text
    assert len(decoder.asked) == 1


def test_no_more_windows_are_computed_at_a_time_than_fit() -> None:
    """Every window fails and is heard in parts: those may be many more than there is room for."""
    decoder = Decoder({(4 * row, 4 * row + 4, True): ("what is this", SILENCE) for row in range(3)})
    sizes, encode = [], decoder.encode

    def count(features: list[np.ndarray]) -> Any:
        sizes.append(len(features))
        return encode(features)

    decoder.encode = count  # type: ignore[method-assign]
    one = window(6, 6, 6, 6)
    windows = [replace(one, samples=one.samples + 4 * row) for row in range(3)]
    whisper: Any = decoder
    found = listen(whisper, windows, ["en"] * 3, encode([where.samples for where in windows]))
    assert sum(sizes) == 12
    assert max(sizes) == 3
    assert [len(parts) for parts in found] == [4, 4, 4]


def test_without_guards_what_comes_out_stands() -> None:
    loop = "again and again " * 50
    decoder = Decoder({(0, 1, True): loop}, guards=False)
    (heard,) = hear(decoder, window(3))
    assert (said([heard]), heard.mark) == (loop.strip(), None)
    assert len(decoder.asked) == 1


def test_rows_keep_their_order_when_some_are_tried_again() -> None:
    decoder = Decoder(
        {(0, 1, True): "first window says this", (3, 4, True): ("a b", UNSURE), (3, 4, False): "third one"}
    )
    whisper: Any = decoder
    windows = [window(2), replace(window(2), samples=np.full(2 * SAMPLE_RATE, 3, np.float32))]
    found = listen(whisper, windows, ["en", "en"], decoder.encode([one.samples for one in windows]))
    assert [said(heard) for heard in found] == ["first window says this", "third one"]


@pytest.mark.parametrize(
    ("tokens", "once"),
    [
        ([], []),
        ([1, 2, 3], [1, 2, 3]),
        ([1, 1, 2, 2], [1, 1, 2, 2]),
        ([7, 1, 1, 1, 1, 8], [7, 1, 8]),
        ([1, 2, 1, 2, 1, 2, 1, 3], [1, 2, 1, 3]),
        ([5, 1, 2, 3, 1, 2, 3, 1, 2, 3], [5, 1, 2, 3]),
    ],
)
def test_a_phrase_that_stands_three_times_or_more_in_a_row_stands_once(tokens: list[int], once: list[int]) -> None:
    assert _once(tokens) == once
