"""From the words of a file's windows to its segments: sentences or clauses, each in one stretch of speech.

The aligner's times are those of sound that was put together: a word at the end of a stretch may seem to reach into
the next one, which in the file is a minute later. So a word belongs to the stretch that most of it is in, and
begins and ends there.
"""

import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import accumulate, groupby, takewhile

import numpy as np

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech.transcript import UNINTELLIGIBLE, Segment, Word
from pipeline.speech.voice_windows import Window
from pipeline.speech.whisper import SpokenWord

# What a viewer can read at a time: two lines of 42 characters, for 7 s (Netflix's and the BBC's subtitle guides).
MOST_CHARACTERS, MOST_SECONDS = 84, 7.0
PAUSE_SECONDS = 0.5  # a pause that a segment does not go across
_SHORT_PAUSE_SECONDS = 0.3  # the same behind a comma, or before a capital letter
_SLACK_SECONDS = 0.12  # by so much the voice gate hears a soft begin late and a soft end early (bench/accuracy)
_SENTENCE_ENDS, _CLAUSE_ENDS = ".?!。？！।…", ",;:，、；："
_TITLES = {"mr.", "mrs.", "ms.", "dr.", "st.", "prof.", "sr.", "jr."}
_CLOSING = "\"'”’)]}»"
_MOST_WORDS = 200  # of a sentence; a text without full stops has some all the same
_NEAR_SECONDS = 0.5  # the aligner's usual error
_LEAST_WORD = 0.02  # seconds
_MARK_PAUSE_SECONDS = 1.0  # a shorter pause does not split a mark for speech without text
_LEAST_MARK_SECONDS = 0.25  # shorter than a syllable: a click
_NO_SOUND = np.empty(0, np.float32)
_LEAST_LEFT_OUT_SECONDS = 1.0  # of voice with hardly a word, that is worth a second look
_THIN = 4  # letters in a second of voice: people say three times as many
_DENSE = 25  # letters in a second of voice: the aligner has put words of another stretch here


@dataclass(frozen=True)
class Heard:
    """What was heard in a window, or in a part of one; times of the words are seconds from its start.

    A `mark` (pipeline.speech.transcript) and its `reason` say what was made of the decoder's text, where that
    looked invented.
    """

    window: Window
    words: list[SpokenWord]
    language: str
    avg_logprob: float
    no_speech_prob: float
    mark: str | None = None
    reason: str | None = None

    def without_sound(self) -> "Heard":
        """The same without the samples of its window, which are heard already: an hour of them is 220 MB."""
        return replace(self, window=replace(self.window, samples=_NO_SOUND))


@dataclass(frozen=True)
class _Placed:
    """A word at its place in the file. `voice`: begin and end of the voice around it, in seconds;
    `text` with the space before it."""

    word: Word
    text: str
    voice: tuple[float, float]
    heard: Heard


def left_out(window: Window, words: list[SpokenWord]) -> tuple[list[tuple[int, int]], bool]:
    """Runs of the window's spans (first, behind the last) that hold a second of voice or more, and hardly a word.

    One whose neighbour holds more words than anybody says in that time is not left out: its words are there. The
    second value says whether there is such a one, because the aligner has misplaced words.
    """
    letters = [0] * len(window.spans)
    for word in words:
        letters[_stretch_of(window, word)] += weight_of(word.text)
    voice = [_voice_seconds(window, number, number + 1) for number in range(len(letters))]
    runs, is_misplaced = [], False
    for is_thin, numbers in groupby(range(len(letters)), lambda number: letters[number] <= _THIN * voice[number]):
        run = list(numbers)
        begin, end = run[0], run[-1] + 1
        if not is_thin or sum(voice[begin:end]) < _LEAST_LEFT_OUT_SECONDS:
            continue
        beside = [number for number in (begin - 1, end) if 0 <= number < len(letters)]
        if all(letters[number] <= _DENSE * voice[number] for number in beside):
            runs.append((begin, end))
        else:
            is_misplaced = True
    return runs, is_misplaced


def weight_of(text: str) -> int:
    """How long the text takes to say, in letters of a language with an alphabet: a digit or a wide character
    counts as four."""
    return sum(4 if letter.isdigit() or _is_wide(letter) else letter.isalpha() for letter in text)


def _voice_seconds(window: Window, begin: int, end: int) -> float:
    return sum(span.last - span.first for span in window.spans[begin:end]) / SAMPLE_RATE


def _stretch_of(window: Window, word: SpokenWord) -> int:
    """The number of the span that the middle of the word is in."""
    middle = (word.start + word.end) / 2 * SAMPLE_RATE
    return min(bisect_right(window.offsets(), middle), len(window.spans)) - 1


def segments(heard: Sequence[Heard]) -> list[Segment]:
    """The segments of a file, in order; `heard` are its windows, in order."""
    found: list[Segment] = []
    words: list[_Placed] = []
    for one in heard:
        placed = _place(one)
        if not one.window.overlap:
            found += _cut(words)
            words = placed
        else:
            begin = one.window.spans[0].start / SAMPLE_RATE
            words = _joined(words, placed, begin, begin + one.window.overlap / SAMPLE_RATE)
        if one.mark == UNINTELLIGIBLE:
            found += _cut(words) + _unintelligible(one)
            words = []
    return _in_order([*found, *_cut(words)])


def text_of(found: Sequence[Segment]) -> str:
    """The text of a file: what was said, without the marks."""
    text = ""
    for segment in found:
        if segment.is_spoken and segment.text:
            joined = text[-1:] and _is_wide(text[-1]) and _is_wide(segment.text[0])
            text += segment.text if joined or not text else f" {segment.text}"
    return text


def _place(heard: Heard) -> list[_Placed]:
    """The words at their places in the file, each inside its stretch of speech.

    The aligner is late with the first word of a stretch and early with the last one: those begin and end with the
    stretch, where that is near.
    """
    window, offsets = heard.window, heard.window.offsets()
    numbers = list(accumulate((_stretch_of(window, word) for word in heard.words), max))
    placed = []
    for at, (number, word) in enumerate(zip(numbers, heard.words, strict=True)):
        span = window.spans[number]
        shift = (span.start - offsets[number]) / SAMPLE_RATE
        first = max(span.start / SAMPLE_RATE, span.first / SAMPLE_RATE - _SLACK_SECONDS)
        last = min(span.end / SAMPLE_RATE, span.last / SAMPLE_RATE + _SLACK_SECONDS)
        start = min(max(word.start + shift, first), last - _LEAST_WORD)
        end = max(min(word.end + shift, last), start + _LEAST_WORD)
        if (at == 0 or numbers[at - 1] != number) and start - first < _NEAR_SECONDS:
            start = min(start, first)
        if (at + 1 == len(numbers) or numbers[at + 1] != number) and last - end < _NEAR_SECONDS:
            end = max(end, last)
        timed = Word(round(start, 2), round(end, 2), word.text.strip(), round(word.probability, 3))
        placed.append(_Placed(timed, word.text, (span.first / SAMPLE_RATE, span.last / SAMPLE_RATE), heard))
    return placed


def _joined(left: list[_Placed], right: list[_Placed], begin: float, end: float) -> list[_Placed]:
    """The words of two windows that both heard the sound from `begin` to `end` (seconds in the file), each once.

    They are joined in the longest run of words that both have there; without one, in the middle of it.
    """
    if not left or not right:
        return left + right
    near = sum(1 for _ in takewhile(lambda placed: placed.word.end > begin - _NEAR_SECONDS, reversed(left)))
    tail = list(range(len(left) - near, len(left)))
    head = [number for number, placed in enumerate(right) if placed.word.start < end + _NEAR_SECONDS]
    before = [_bare(left[number].word.word) for number in tail]
    after = [_bare(right[number].word.word) for number in head]
    match = SequenceMatcher(None, before, after, autojunk=False).find_longest_match()
    if match.size:
        return left[: tail[match.a] + match.size] + right[head[match.b] + match.size :]
    middle = (begin + end) / 2
    kept = left[: tail[0]] if tail else left
    kept = kept + [left[number] for number in tail if _middle(left[number]) < middle]
    return kept + [placed for placed in right if _middle(placed) >= middle]


def _middle(placed: _Placed) -> float:
    return (placed.word.start + placed.word.end) / 2


def _bare(word: str) -> str:
    return "".join(filter(str.isalnum, word.lower()))


def _cut(words: list[_Placed]) -> list[Segment]:
    """Segments of these words, which follow each other."""
    found: list[Segment] = []
    sentence: list[_Placed] = []
    for number, placed in enumerate(words):
        sentence.append(placed)
        following = words[number + 1] if number + 1 < len(words) else None
        if following is None or _ends(placed, following) or len(sentence) >= _MOST_WORDS:
            found += _short_enough(sentence)
            sentence = []
    return found


def _ends(placed: _Placed, following: _Placed) -> bool:
    """Whether a segment ends between these two words."""
    pause = _pause(placed, following)
    last = placed.word.word.rstrip(_CLOSING)[-1:]
    begins = last in _CLAUSE_ENDS or following.word.word[:1].isupper()
    if pause >= PAUSE_SECONDS or (pause >= _SHORT_PAUSE_SECONDS and begins):
        return True
    word = placed.word.word
    is_short_for = word.lower() in _TITLES or (len(word) == 2 and word[0].isupper())  # Mr., J.
    return bool(last) and last in _SENTENCE_ENDS and not is_short_for


def _pause(placed: _Placed, following: _Placed) -> float:
    """The silence between two words, in seconds: what the voice gate detects."""
    if placed.voice == following.voice:
        return 0.0
    return max(0.0, following.voice[0] - placed.voice[1])


def _short_enough(words: list[_Placed]) -> list[Segment]:
    """The words as one segment, or cut where a reader pauses until each part can be read."""
    text = _text(words)
    seconds = words[-1].word.end - words[0].word.start
    if len(words) == 1 or (_width(text) <= MOST_CHARACTERS and seconds <= MOST_SECONDS):
        return [_segment(words, text)]
    widths = [0, *accumulate(_width(placed.text) for placed in words)]
    at = max(range(1, len(words)), key=lambda number: _fitness(words, widths, number))
    return _short_enough(words[:at]) + _short_enough(words[at:])


def _fitness(words: list[_Placed], widths: list[int], at: int) -> float:
    """How well a sentence may be cut before word number `at`: behind a comma, at a pause, near its middle.

    `widths`: how wide the words before each one are.
    """
    before, after = words[at - 1], words[at]
    left, right = widths[at], widths[-1] - widths[at]
    balance = min(left, right) / max(left, right, 1)
    comma = 0.7 if before.word.word.rstrip(_CLOSING)[-1:] in _CLAUSE_ENDS else 0.0
    silence = min(1.0, 2 * max(_pause(before, after), after.word.start - before.word.end))
    return balance + comma + silence


def _segment(words: list[_Placed], text: str) -> Segment:
    heard = words[0].heard
    confidence = float(np.mean([placed.word.probability for placed in words]))
    return Segment(
        start=words[0].word.start, end=words[-1].word.end, text=text, avg_logprob=_finite(heard.avg_logprob),
        no_speech_prob=_finite(heard.no_speech_prob), words=[placed.word for placed in words],
        language=heard.language, confidence=round(confidence, 3), mark=heard.mark, reason=heard.reason,
    )  # fmt: skip


def _unintelligible(heard: Heard) -> list[Segment]:
    """The marks for speech without text: a segment for each stretch between longer pauses."""
    found: list[Segment] = []
    for span in heard.window.spans:
        start, end = round(span.first / SAMPLE_RATE, 2), round(span.last / SAMPLE_RATE, 2)
        if found and start - found[-1].end < _MARK_PAUSE_SECONDS:
            start = found.pop().start
        found.append(
            Segment(
                start,
                end,
                "",
                _finite(heard.avg_logprob),
                _finite(heard.no_speech_prob),
                language=None,
                mark=heard.mark,
                reason=heard.reason,
            )
        )
    return [
        replace(one, text=f"[{UNINTELLIGIBLE}, {max(1, round(one.end - one.start))} s]")
        for one in found
        if one.end - one.start >= _LEAST_MARK_SECONDS
    ]


def _in_order(found: list[Segment]) -> list[Segment]:
    """The segments by their start, none reaching into the next."""
    found = sorted(found, key=lambda segment: segment.start)
    for number, following in enumerate(found[1:]):
        one = found[number]
        if one.end > following.start:
            end = max(following.start, one.start + 0.01)
            found[number] = replace(one, end=end)
    return found


def _text(words: list[_Placed]) -> str:
    return "".join(placed.text for placed in words).strip()


def _width(text: str) -> int:
    """How wide the text is, in letters; Chinese, Japanese and Korean ones take the room of two."""
    return sum(2 if _is_wide(letter) else 1 for letter in text)


def _is_wide(letter: str) -> bool:
    return unicodedata.east_asian_width(letter) in "WF"


def _finite(number: float) -> float | None:
    return round(number, 4) if np.isfinite(number) else None
