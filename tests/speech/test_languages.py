"""pipeline/speech/languages.py: a change of language is believed where it is confident and lasts."""

from typing import Any

import numpy as np
import pytest

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech import languages
from pipeline.speech.languages import CONTEXT, Guesses, Piece, decide, pieces
from pipeline.speech.voice_gate import Span
from pipeline.speech.voice_windows import Window

EN, ES, DOUBT = {"en": 0.98, "es": 0.02}, {"en": 0.02, "es": 0.98}, {"en": 0.4, "es": 0.6}


def window(*seconds: float) -> Window:
    """A window of stretches so many seconds long."""
    spans, at = [], 0
    for length in seconds:
        end = at + int(length * SAMPLE_RATE)
        spans.append(Span(at, end, at, end))
        at = end + SAMPLE_RATE
    return Window(spans, np.zeros(sum(map(len, spans)), np.float32))


def guesses(*odds: dict[str, float]) -> Guesses:
    return languages.guesses([Piece(at, at + 1, (0, 1), 1.0) for at in range(len(odds))], odds)


def test_a_short_window_is_judged_as_a_whole() -> None:
    (piece,) = pieces(window(3, 4.9))
    assert (piece.begin, piece.end, piece.frames) == (0, 2, (0, 395))


def test_pieces_are_runs_of_stretches_of_some_seconds() -> None:
    found = pieces(window(1, 1.5, 5, 0.5, 0.5, 0.5, 3, 1))
    assert [(piece.begin, piece.end) for piece in found] == [(0, 2), (2, 3), (3, 8)]
    assert [piece.frames for piece in found] == [(0, 125), (125, 375), (375, 650)]
    assert [piece.weight for piece in found] == [1.0, 2.0, 2.0]


def test_of_a_hundred_languages_those_that_may_be_are_kept() -> None:
    """A guess is kept for each piece of a recording of many hours."""
    (guess,) = guesses({"en": 0.9, "es": 0.0995, "la": 0.0005}).all
    assert guess.odds == {"en": 0.9, "es": 0.0995}


@pytest.mark.parametrize(
    ("odds", "spoken"),
    [
        ([EN, EN, EN], ["en"]),
        ([EN, EN, ES, ES], ["en", "es"]),
        ([EN, DOUBT, EN], ["en"]),
        ([EN, ES, EN], ["en"]),  # a short guess between two others of the same window
        ([ES, EN, EN, EN], ["en"]),  # the same at its edge
        ([EN, EN, DOUBT, ES, ES], ["en", "es"]),
    ],
)
def test_a_change_within_a_window_is_believed_where_it_is_confident_and_lasts(
    odds: Any, spoken: list[str]
) -> None:
    found = decide({0: guesses(*odds)}, 0, 1)
    assert found is not None
    assert [language for _, _, language in found] == spoken
    assert [begin for begin, _, _ in found] == [0, *(end for _, end, _ in found[:-1])]
    assert found[-1][1] == len(odds)


def test_a_doubtful_window_waits_for_its_neighbours() -> None:
    file = {1: guesses(DOUBT)}
    assert decide(file, 1, None) is None
    file[0] = guesses(EN, EN)
    assert decide(file, 1, None) is None  # there may be another one behind it
    assert decide(file, 1, 2) == [(0, 1, "en")]
    file[2] = guesses(EN, EN)
    assert decide(file, 1, None) == [(0, 1, "en")]


def test_a_doubtful_window_at_a_change_goes_with_the_likelier_side() -> None:
    file = {0: guesses(EN, EN), 1: guesses(DOUBT), 2: guesses(ES, ES)}
    assert decide(file, 1, 3) == [(0, 1, "es")]
    file[1] = guesses({"en": 0.6, "es": 0.4})
    assert decide(file, 1, 3) == [(0, 1, "en")]


def test_a_confident_window_waits_for_nobody() -> None:
    assert decide({7: guesses(ES, ES)}, 7, None) == [(0, 2, "es")]


def test_a_lone_window_takes_its_own_likeliest_language() -> None:
    assert decide({0: guesses(DOUBT)}, 0, 1) == [(0, 1, "es")]


def test_a_doubtful_window_looks_no_further_than_its_context() -> None:
    file = {number: guesses({"en": 0.45, "es": 0.55}) for number in range(CONTEXT, 2 * CONTEXT + 1)}
    assert decide(file, 2 * CONTEXT, None) is None
    file |= {number: guesses({"en": 0.45, "es": 0.55}) for number in range(2 * CONTEXT, 3 * CONTEXT + 1)}
    assert decide(file, 2 * CONTEXT, None) == [(0, 1, "es")]
    file[CONTEXT] = guesses(EN, EN)
    assert decide(file, 2 * CONTEXT, None) == [(0, 1, "en")]
