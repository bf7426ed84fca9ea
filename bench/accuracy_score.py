"""What a program heard, beside what was said: words, languages and times.

Words are compared in lower case without punctuation and apostrophes, after Unicode's NFKC. Every Chinese or
Japanese character is a word of its own, as it was written: 黃 for 黄 is an error. Digits are read out in English
("10": ten; "55": five five), and Mr, Mrs and Dr are written in full, because the texts have them so.
"""

import math
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby

import jiwer

_APOSTROPHES = dict.fromkeys(map(ord, "'’ʼ`"))
_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor"}
_NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    "twenty",
)
PASSAGE = 3  # deleted words in a row that count as a lost passage, not as words misheard
ROUNDING = 0.05  # seconds by which a decoder may find a file longer than it was made


@dataclass(frozen=True)
class Said:
    """What somebody says, and when in seconds from the recording's start."""

    language: str
    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Segment:
    """What a program heard, and when in seconds; `spoken` is False where it says that it could not hear."""

    start: float
    end: float
    text: str
    language: str | None
    spoken: bool = True


@dataclass
class Words:
    """How many words were said, heard right, heard wrong, not heard, and heard though nobody said them; `lost` are
    those of the deleted ones that went three or more in a row."""

    said: int = 0
    right: int = 0
    substituted: int = 0
    deleted: int = 0
    inserted: int = 0
    lost: int = 0

    def __iadd__(self, other: "Words") -> "Words":
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self

    @property
    def errors(self) -> int:
        """Words that are wrong, missing or too many."""
        return self.substituted + self.deleted + self.inserted

    @property
    def rate(self) -> float:
        """The word error rate, 0 to 1 and more."""
        return self.errors / self.said if self.said else 0.0


@dataclass
class Times:
    """How far the starts and ends of segments are from the known ones (seconds), where both are those of a clip,
    and how far the farthest is from the stretch of speech that it belongs to, and which it is."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    beyond: float = 0.0
    farthest: str = ""

    def __iadd__(self, other: "Times") -> "Times":
        self.starts += other.starts
        self.ends += other.ends
        if other.beyond > self.beyond:
            self.beyond, self.farthest = other.beyond, other.farthest
        return self


@dataclass
class Cues:
    """Segments that cannot be shown as subtitles: they begin before the one before ends, have no length or no
    text, or end after the recording."""

    all: int = 0
    overlapping: int = 0
    empty: int = 0
    late: int = 0

    def __iadd__(self, other: "Cues") -> "Cues":
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        return self


@dataclass(frozen=True)
class Step:
    """A step of an alignment: `equal`, `substitute`, `delete` or `insert`, with the indices of both words. The
    index of a word that is missing is where it would stand."""

    kind: str
    said: int
    heard: int


def tokens(text: str) -> list[str]:
    """The words of a text as they are compared."""
    plain = unicodedata.normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    spaced = "".join(f" {char} " if _is_word(char) else char if _is_part(char) else " " for char in plain)
    return [part for word in spaced.split() for part in _written_out(word)]


def _is_word(char: str) -> bool:
    """Whether a character is one of Chinese or Japanese."""
    return "\u3041" <= char <= "\u30ff" or "\u3400" <= char <= "\u9fff" or "\uf900" <= char <= "\ufaff"


def _is_part(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"  # letters, marks (Hindi's vowels), numbers


def _written_out(word: str) -> list[str]:
    if not word.isascii() or not word.isdigit():
        return [_TITLES.get(word, word)]
    return [_NUMBERS[int(word)]] if int(word) < len(_NUMBERS) else [_NUMBERS[int(digit)] for digit in word]


def align(said: Sequence[str], heard: Sequence[str]) -> list[Step]:
    """The fewest changes that make the one of the other, word by word."""
    if not said or not heard:  # jiwer takes no empty text
        return [Step("delete", index, 0) for index in range(len(said))] + [
            Step("insert", 0, index) for index in range(len(heard))
        ]
    chunks = jiwer.process_words(" ".join(said), " ".join(heard)).alignments[0]
    return [
        Step(chunk.type, chunk.ref_start_idx + number, chunk.hyp_start_idx + number)
        for chunk in chunks
        for number in range(max(chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx))
    ]


class Comparison:
    """One recording: what was said in it and what a program heard."""

    def __init__(self, said: Sequence[Said], heard: Sequence[Segment]) -> None:
        self._said, self._heard = said, heard
        self._clips, clip_words = _numbered([one.text for one in said])
        self._segments, self._words = _numbered([one.text if one.spoken else "" for one in heard])
        self._steps = align(clip_words, self._words)

    @property
    def words(self) -> Words:
        """The words of the recording."""
        return _count(self._steps)

    def by_language(self) -> dict[str, Words]:
        """The words of each language; one that nobody said counts for the language that it stands in."""
        found: dict[str, list[Step]] = {one.language: [] for one in self._said}
        for step in self._steps:
            if self._clips:
                found[self._said[self._clips[min(step.said, len(self._clips) - 1)]].language].append(step)
        return {language: _count(steps) for language, steps in found.items()}

    def invented(self) -> list[str]:
        """The words that nobody said."""
        return [self._words[step.heard] for step in self._steps if step.kind == "insert"]

    def languages(self) -> list[bool]:
        """For each clip whether the segments that overlap it longest are in its language."""
        return [_language_at(self._heard, one.start, one.end) == one.language for one in self._said]

    def times(self) -> Times:
        """The segments' times. A start is compared where the segment's first two words are a clip's first two, an
        end where its last two are a clip's last two (one, where there is one): elsewhere the time is not known."""
        found = Times()
        spoken = {step.heard: self._clips[step.said] for step in self._steps if step.kind == "equal"}
        places = {step.heard: step.said for step in self._steps if step.kind == "equal"}
        bounds = _bounds(self._clips)
        for number, (first, last) in _bounds(self._segments).items():
            segment = self._heard[number]
            begins = spoken.get(first) if spoken.get(first) == spoken.get(min(first + 1, last)) else None
            ends = spoken.get(last) if spoken.get(last) == spoken.get(max(last - 1, first)) else None
            if begins is not None and places[first] == bounds[begins][0]:
                found.starts.append(abs(segment.start - self._said[begins].start))
            if ends is not None and places[last] == bounds[ends][1]:
                found.ends.append(abs(segment.end - self._said[ends].end))
            beyond = max(self._outside(segment.start, begins), self._outside(segment.end, ends))
            found += Times(beyond=beyond, farthest=f"{segment.start:.2f} to {segment.end:.2f} s: {segment.text}")
        return found

    def _outside(self, time: float, clip: int | None) -> float:
        """How far a time is from the clip's speech, or from any where it is not known to which it belongs."""
        near = self._said if clip is None else [self._said[clip]]
        return min((max(one.start - time, time - one.end, 0.0) for one in near), default=0.0)


def cues(heard: Sequence[Segment], seconds: float) -> Cues:
    """The segments of a recording of so many seconds, as subtitles."""
    found = Cues(len(heard))
    latest = 0.0
    for segment in heard:
        found.overlapping += segment.start < latest - 1e-6
        found.empty += segment.end <= segment.start or not segment.text.strip()
        found.late += segment.end > seconds + ROUNDING
        latest = max(latest, segment.end)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so many (0 to 1) of all are not above; 0 where there are none."""
    return sorted(values)[math.ceil(share * len(values)) - 1] if values else 0.0


def median(values: Sequence[float]) -> float:
    """The median; 0 where there are no values."""
    return statistics.median(values) if values else 0.0


def _numbered(texts: list[str]) -> tuple[list[int], list[str]]:
    """The words of all texts in a row, and of each the number of its text."""
    pairs = [(number, word) for number, text in enumerate(texts) for word in tokens(text)]
    return [number for number, _ in pairs], [word for _, word in pairs]


def _bounds(numbers: list[int]) -> dict[int, tuple[int, int]]:
    """The first and the last index of each number."""
    found: dict[int, tuple[int, int]] = {}
    for index, number in enumerate(numbers):
        found[number] = (found.get(number, (index, 0))[0], index)
    return found


def _count(steps: list[Step]) -> Words:
    kinds = Counter(step.kind for step in steps)
    lost = sum(length for length in _runs(steps) if length >= PASSAGE)
    said = kinds["equal"] + kinds["substitute"] + kinds["delete"]
    return Words(said, kinds["equal"], kinds["substitute"], kinds["delete"], kinds["insert"], lost)


def _runs(steps: list[Step]) -> Iterator[int]:
    """The lengths of all rows of deleted words."""
    for kind, run in groupby(steps, lambda step: step.kind):
        if kind == "delete":
            yield len(list(run))


def _language_at(heard: Sequence[Segment], start: float, end: float) -> str | None:
    """The language heard longest between two times; None where there is none."""
    seconds: dict[str | None, float] = {}
    for segment in heard:
        overlap = min(end, segment.end) - max(start, segment.start)
        if segment.spoken and overlap > 0:
            seconds[segment.language] = seconds.get(segment.language, 0) + overlap
    return max(seconds, key=lambda language: seconds[language], default=None)
