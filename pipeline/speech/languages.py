"""Which language is spoken where: windows of one file decide together, windows of other files have no say.

Whisper's decoder guesses a language for each piece of a window. A piece alone is often wrong: a change of language
costs, so it is believed where it is confident and lasts. What comes out is the likeliest sequence of languages
(Viterbi), where each change is as unlikely as `_CHANGE` says. In speech of one language from clean to 5 dB above
noise, one piece in 150 was so sure of another language that it would be believed (bench/accuracy).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech.voice_windows import Window
from pipeline.speech.whisper import FRAMES_PER_SECOND

CONTEXT = 4  # windows on either side that a doubtful one looks at
_WHOLE_SECONDS = 8.0  # a shorter window is judged as a whole, and holds one language
_LEAST_SECONDS = 2.0  # of a piece; in less, no language is heard
_CHANGE = 2.5  # what a change costs, in units of log-probability (12 to 1); a run in between costs two
_CHANGE_AT_EDGE = 4.0  # the same for a single piece at either end (55 to 1)
_SURE = 3.0  # by how much the best must beat the others (20 to 1) for a window to decide for itself
_LEAST_ODDS = 1e-3  # a guess is never surer than that
_USUAL_SECONDS = 2.5  # of speech that count as one guess


Run = tuple[int, int, str]  # of a window's spans: the first, behind the last, their language


@dataclass(frozen=True)
class Piece:
    """A part of a window that is judged at once: its spans (first, behind the last), its frames in the encoder's
    output (first, behind the last), and how many guesses it counts for."""

    begin: int
    end: int
    frames: tuple[int, int]
    weight: float


@dataclass(frozen=True)
class Guess:
    """What the decoder thinks of a piece: the probability of each language."""

    piece: Piece
    odds: dict[str, float]


def pieces(window: Window) -> list[Piece]:
    """The parts of a window in which to look for languages: runs of spans of some seconds."""
    offsets = window.offsets()
    spans = len(window.spans)
    if window.seconds < _WHOLE_SECONDS:
        return [_piece(offsets, 0, spans)]
    borders = [0]
    for number in range(1, spans):
        if (offsets[number] - offsets[borders[-1]]) >= _LEAST_SECONDS * SAMPLE_RATE:
            borders.append(number)
    if len(borders) > 1 and offsets[spans] - offsets[borders[-1]] < _LEAST_SECONDS * SAMPLE_RATE:
        borders.pop()
    return [_piece(offsets, begin, end) for begin, end in zip(borders, [*borders[1:], spans], strict=True)]


def _piece(offsets: list[int], begin: int, end: int) -> Piece:
    first, last = (offsets[at] * FRAMES_PER_SECOND // SAMPLE_RATE for at in (begin, end))
    seconds = (offsets[end] - offsets[begin]) / SAMPLE_RATE
    return Piece(begin, end, (first, max(last, first + 1)), min(2.0, seconds / _USUAL_SECONDS))


@dataclass(frozen=True)
class Guesses:
    """Those for the pieces of a window, what is likeliest for it alone, and by how much."""

    all: list[Guess]
    path: list[str]
    margin: float


def guesses(parts: Sequence[Piece], odds: Sequence[dict[str, float]]) -> Guesses:
    """What the decoder thinks of a window: the probability of each language, for each of its pieces."""
    likely = [{code: chance for code, chance in one.items() if chance >= _LEAST_ODDS} for one in odds]
    found = [Guess(piece, one) for piece, one in zip(parts, likely, strict=True)]
    return Guesses(found, *_likeliest(found))


def decide(found: dict[int, Guesses], number: int, windows: int | None) -> list[Run] | None:
    """The languages of a file's window: runs of its spans (first, behind the last) with the language of each.

    `found`: the guesses by number of the window, those that are there; `windows`: how many the file has, None
    while that is not known. None where the window is doubtful and has to wait for the guesses of one beside it.
    """
    own, path = found[number].all, found[number].path
    if found[number].margin < _SURE:
        around = []
        for step in (-1, 1):
            near = _nearest_sure(found, number, step, windows)
            if near is None:
                return None
            around.append(near)
        before, after = around
        joined = [*before, *own, *after]
        path = _likeliest(joined)[0][len(before) : len(before) + len(own)]
    runs: list[Run] = []
    for guess, language in zip(own, path, strict=True):
        if runs and runs[-1][2] == language:
            runs[-1] = (runs[-1][0], guess.piece.end, language)
        else:
            runs.append((guess.piece.begin, guess.piece.end, language))
    return runs


def _nearest_sure(found: dict[int, Guesses], number: int, step: int, windows: int | None) -> list[Guess] | None:
    """The guesses of the windows from the nearest one that is sure of itself up to this one, in order; None where
    one of those is still missing."""
    near: list[list[Guess]] = []
    for at in range(number + step, number + step * (CONTEXT + 1), step):
        if at < 0 or (windows is not None and at >= windows):
            break
        if at not in found:
            return None
        near.append(found[at].all)
        if found[at].margin >= _SURE:
            break
    return [guess for window in (near[::-1] if step < 0 else near) for guess in window]


def _likeliest(guesses: Sequence[Guess]) -> tuple[list[str], float]:
    """The likeliest language of each piece, and by how much that beats the best with one other language
    throughout."""
    names = sorted({language for guess in guesses for language in guess.odds})
    score = np.array(
        [
            [guess.piece.weight * math.log(max(guess.odds.get(name, 0.0), _LEAST_ODDS)) for name in names]
            for guess in guesses
        ]
    )
    best, back = score[0].copy(), []
    for number, row in enumerate(score[1:], 1):
        change = best.max() - (_CHANGE_AT_EDGE if number in (1, len(score) - 1) else _CHANGE)
        back.append(np.where(best >= change, np.arange(len(names)), best.argmax()))
        best = np.maximum(best, change) + row
    path = [int(best.argmax())]
    for pointers in reversed(back):
        path.append(int(pointers[path[-1]]))
    path.reverse()
    constant = score.sum(axis=0)
    if len(set(path)) == 1:
        constant[path[0]] = -np.inf
    margin = float(best.max() - constant.max()) if len(names) > 1 else math.inf
    return [names[at] for at in path], margin
