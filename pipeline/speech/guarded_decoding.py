"""One batch of windows: decoded, judged, decoded again where the text looks invented, aligned.

Nothing that the voice gate has let through ends without a word about it. A window that fails is cut at pauses, and
its parts are heard alone; what fails even so is heard once more without repetitions. Of what still fails, a loop
is kept once and marked, and what nobody can have said is marked as unintelligible. A stretch that has no word
though its window has is heard alone too. A second try is never drawn at random: the same sound gives the same
text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech.segments import Heard, left_out, weight_of
from pipeline.speech.transcript import REPEATED, UNINTELLIGIBLE
from pipeline.speech.voice_windows import Window
from pipeline.speech.whisper import Try, Whisper

_PART_SECONDS = 7.0  # a shorter part of a window is not cut further
_COUNTED_SECONDS = 5.0  # the same where a phrase is repeated: the model counts to three, but not to twenty
_AS_MUCH = 0.98  # but for a comma or a spelling
_LEAST_ALONE = -0.7  # average log-probability: a text for a stretch that had none has to be likelier than others
_MOST_UNIT = 60  # tokens of a phrase that is repeated
_LEAST_TIMES = 3  # repetitions in a row that make a phrase a loop
_NOT_SPEECH = "the model takes it for sound without speech"
_NO_WORDS = "no words were recognised"
_TOO_FAST = "more words than anybody can say in that time"
_LOOP = "the model repeated itself more often than the sound allows"

_T = TypeVar("_T")
_Part = tuple[int, int, int]  # of a window: its row, the first span, behind the last one


def listen(
    whisper: Whisper, windows: Sequence[Window], languages: Sequence[str], encoded: Any
) -> list[list[Heard]]:
    """What is heard in each window, in the language given for it: as a whole, or in parts that follow each other.

    `encoded` is what `whisper.encode` gave for them.
    """
    return _Batch(whisper, windows, languages, encoded).heard()


class _Batch:
    """Windows that are computed together."""

    def __init__(self, whisper: Whisper, windows: Sequence[Window], languages: Sequence[str], encoded: Any = None):
        self.whisper, self.windows, self.languages = whisper, list(windows), list(languages)
        if encoded is None:
            encoded = whisper.encode([whisper.features(window.samples) for window in windows])
        self.encoded = encoded

    def heard(self) -> list[list[Heard]]:
        """What is heard, where each window may be cut into parts."""
        tries = self.whisper.decode(self.encoded, self.languages)
        if not self.whisper.options.guards:
            return [[one] for one in self.aligned(tries)]
        windows = self.windows
        failed = [row for row, tried in enumerate(tries) if tried.fails(windows[row].seconds)]
        parts = {row: _parts(windows[row], _PART_SECONDS) for row in failed}
        self._without_repetitions(tries, [row for row in failed if len(parts[row]) == 1])
        parts = {row: runs for row, runs in parts.items() if len(runs) > 1}
        useless = [row for row in parts if _mark(tries[row], windows[row].seconds)]
        found = [[one] for one in self.aligned(tries, without=useless)]
        counted = []  # of these the parts replace the whole, where they say as much
        for row in range(len(tries)):
            if row in failed:
                continue
            runs, is_misplaced = left_out(windows[row], found[row][0].words)
            if is_misplaced or _is_litany(tries[row]):
                counted.append(row)
                parts[row] = _parts(windows[row], _COUNTED_SECONDS)
            else:
                parts[row] = [part for run in runs for part in _parts(windows[row], _PART_SECONDS, *run)]
        again = self._of([(row, *run) for row, runs in parts.items() for run in runs])
        for row, runs in parts.items():
            pieces = [next(again) for _ in runs]
            if row in failed:  # an unlikely text is better than hardly any
                is_kept = row not in useless and 2 * _weight(pieces) < _weight(found[row])
                found[row] = found[row] if is_kept else pieces
            elif row not in counted:
                found[row] = _filled(found[row][0], runs, pieces)
            elif _says_as_much(pieces, found[row]):
                found[row] = pieces
        return found

    def _of(self, parts: list[_Part]) -> Iterator[Heard]:
        """What is heard in parts of the windows."""
        for some in _chunks(parts, len(self.windows)):  # so many have just found room on the device
            windows = [self.windows[row].part(begin, end) for row, begin, end in some]
            batch = _Batch(self.whisper, windows, [self.languages[row] for row, _, _ in some])
            tries = self.whisper.decode(batch.encoded, batch.languages)
            failed = [row for row, tried in enumerate(tries) if tried.fails(windows[row].seconds)]
            batch._without_repetitions(tries, failed)
            yield from batch.aligned(tries)

    def _without_repetitions(self, tries: list[Try], rows: list[int]) -> None:
        """Decode these rows again, and take what is better; one that the model takes for silence stays so."""
        rows = [row for row in rows if tries[row].text and not tries[row].is_silence]
        if not rows:
            return
        languages = [self.languages[row] for row in rows]
        again = self.whisper.decode(self.whisper.select(self.encoded, rows), languages, may_repeat=False)
        for row, tried in zip(rows, again, strict=True):
            tries[row] = _better(tries[row], tried, self.windows[row].seconds)

    def aligned(self, tries: list[Try], without: Sequence[int] = ()) -> list[Heard]:
        """The tries with the times of their words, and with a mark where they cannot stand as they are."""
        seconds = [window.seconds for window in self.windows]
        marks: list[tuple[str, str] | None] = [None] * len(tries)
        if self.whisper.options.guards:
            marks = [_mark(tried, length) for tried, length in zip(tries, seconds, strict=True)]
        shown = [
            tried if mark is None else replace(tried, tokens=_once(tried.tokens) if mark[0] == REPEATED else [])
            for tried, mark in zip(tries, marks, strict=True)
        ]
        shown = [replace(tried, tokens=[]) if row in without else tried for row, tried in enumerate(shown)]
        words = self.whisper.align(self.encoded, seconds, self.languages, shown)
        return [
            Heard(
                window, words[row], self.languages[row], tries[row].avg_logprob, tries[row].no_speech_prob,
                *(marks[row] or ()),
            )
            for row, window in enumerate(self.windows)
        ]  # fmt: skip


def _chunks(parts: list[_Part], size: int) -> Iterator[list[_Part]]:
    """The parts, so many at a time."""
    return (parts[at : at + size] for at in range(0, len(parts), size))


def _mark(tried: Try, seconds: float) -> tuple[str, str] | None:
    """The mark of a text that cannot stand as it is, and the reason."""
    if tried.is_silence:
        return UNINTELLIGIBLE, _NOT_SPEECH
    if not tried.text:
        return UNINTELLIGIBLE, _NO_WORDS
    if tried.is_loop(seconds):
        return REPEATED, _LOOP
    if tried.is_too_fast(seconds):
        return UNINTELLIGIBLE, _TOO_FAST
    return None


def _better(failed: Try, again: Try, seconds: float) -> Try:
    """Of two tries the one that passes; of two that fail, one that is no loop and not too fast, then the
    likelier."""
    if not again.fails(seconds):
        return again

    def merit(tried: Try) -> tuple[bool, bool, float]:
        return not tried.is_loop(seconds), not tried.is_too_fast(seconds), tried.avg_logprob

    return max(failed, again, key=merit)


def _parts(window: Window, seconds: float, begin: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The window's spans in parts of so many seconds, cut at the longest pause in the middle half, and so on."""
    offsets, spans = window.offsets(), window.spans
    end = len(spans) if end is None else end
    samples = offsets[end] - offsets[begin]
    middle = [at for at in range(begin + 1, end) if samples / 4 <= offsets[at] - offsets[begin] <= samples * 3 / 4]
    if not middle or samples < seconds * SAMPLE_RATE:
        return [(begin, end)]
    at = max(middle, key=lambda number: spans[number].first - spans[number - 1].last)
    return _parts(window, seconds, begin, at) + _parts(window, seconds, at, end)


def _weight(heard: Sequence[Heard]) -> int:
    return sum(weight_of(word.text) for one in heard for word in one.words)


def _says_as_much(pieces: list[Heard], whole: list[Heard]) -> bool:
    """Whether the parts of a window say as much as it did as a whole, and all of it passes: then their times are
    the better ones, as the aligner loses its place among words that repeat."""
    return all(piece.mark is None for piece in pieces) and _weight(pieces) >= _AS_MUCH * _weight(whole)


def _filled(heard: Heard, runs: list[tuple[int, int]], pieces: list[Heard]) -> list[Heard]:
    """What was heard in a window, with what was then heard in those of its spans that had hardly a word, where
    that is more."""
    window, parts, at = heard.window, [], 0
    offsets = window.offsets()
    for (begin, end), piece in zip(runs, pieces, strict=True):
        share = _share(heard, begin, end, offsets)
        if _weight([piece]) > _weight([share]) and piece.mark is None and piece.avg_logprob > _LEAST_ALONE:
            parts += [_share(heard, at, begin, offsets), piece]
            at = end
        elif not share.words:
            parts += [
                _share(heard, at, begin, offsets),
                replace(piece, words=[], mark=UNINTELLIGIBLE, reason=piece.reason or _NO_WORDS),
            ]
            at = end
    parts.append(_share(heard, at, len(window.spans), offsets))
    return [part for part in parts if part.window.spans]


def _share(heard: Heard, begin: int, end: int, offsets: list[int]) -> Heard:
    """The words of some of the window's spans, as those of a window of their own."""
    first, last = offsets[begin] / SAMPLE_RATE, offsets[end] / SAMPLE_RATE
    words = [
        replace(word, start=word.start - first, end=word.end - first)
        for word in heard.words
        if first <= (word.start + word.end) / 2 < last or (end + 1 == len(offsets) and word.start >= first)
    ]
    return replace(heard, window=heard.window.part(begin, end), words=words)


def _is_litany(tried: Try) -> bool:
    """Whether most of the text is one phrase again and again, of which the decoder easily loses count. A sentence
    that comes back later does not make one."""
    words = ["".join(filter(str.isalnum, word)) for word in tried.text.lower().split()]
    return tried.repeats and 3 * len(_once(words)) <= 2 * len(words)


def _once(tokens: list[_T]) -> list[_T]:
    """The tokens, with each phrase that is repeated three times or more in a row kept once."""
    kept: list[_T] = []
    at = 0
    while at < len(tokens):
        unit, times = _repetition(tokens, at)
        kept += tokens[at : at + unit]
        at += unit * times
    return kept


def _repetition(tokens: list[_T], at: int) -> tuple[int, int]:
    """The shortest phrase that is repeated there: its length and how often; else one token,
    once."""
    for unit in range(1, min(_MOST_UNIT, (len(tokens) - at) // _LEAST_TIMES) + 1):
        phrase, times = tokens[at : at + unit], 1
        while tokens[at + unit * times : at + unit * (times + 1)] == phrase:
            times += 1
        if times >= _LEAST_TIMES:
            return unit, times
    return 1, 1
