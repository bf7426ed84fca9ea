"""The words of a text, and the passages of a transcript: what PostgreSQL has in its index of what was said.

A word is a run of letters, digits and their marks, in any case and width, without the accents of Latin, Greek and
Cyrillic letters; marks of other scripts are part of a word. Chinese, Japanese, Thai, Lao, Tibetan,
Burmese and Khmer put no spaces between words: each two neighbouring characters of them are one word of the index,
and the last of a run is one too, so that every part of a run is found as a phrase.

PostgreSQL refuses a text with a megabyte of words, and drops all but 256 places of a word and what is behind the
16,383rd. A passage is too short for that.
"""

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.speech.transcript import UNINTELLIGIBLE

PASSAGE = 200  # words of a passage, about a minute; of one whose only segment is longer: MOST
OVERLAP = 30  # words of the next passage that it has too: a phrase of so many is found wherever it stands
MOST = 2000  # words of a segment that are indexed: a model of 30 s windows writes a tenth
LONGEST = 100  # characters of a word that count
_UNSPACED = re.compile(
    "([\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua9e0-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]+)"
)


_ACCENTS = re.compile("[\u0300-\u036f]+")  # those of Latin, Greek and Cyrillic; scripts of Asia have their own
_STROKES = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ħ": "h", "ı": "i", "æ": "ae", "œ": "oe"})


@dataclass(frozen=True)
class Passage:
    """Some segments in a row: the place of the first among the transcript's, its start in seconds, their words."""

    position: int
    start: float
    words: list[str]

    def tsvector(self) -> str:
        """The words with their places, as PostgreSQL reads them. They hold letters and digits alone."""
        return " ".join(f"'{word}':{place}" for place, word in enumerate(self.words, 1))


class _Separators(dict[int, str]):
    """What no word holds becomes a space. For `str.translate`, which keeps the length; each character is looked up
    once."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if char.isalnum() or unicodedata.category(char).startswith("M") else " "
        return self[code]


_SEPARATORS = _Separators()


def pieces(text: str) -> Iterator[str]:
    """The words of a text as people see them, in the form that is compared; a run without spaces is one piece."""
    for word in folded(text).translate(_SEPARATORS).split():
        yield from filter(None, _UNSPACED.split(word))


def places(text: str) -> Iterator[tuple[int, int, str]]:
    """Where the pieces of a text are in it: begin, end, and the piece in the form that is compared."""
    for word in re.finditer(r"\S+", text.translate(_SEPARATORS)):
        begin = word.start()
        for piece in _UNSPACED.split(word.group()):
            if shown := folded(piece):
                yield begin, begin + len(piece), shown
            begin += len(piece)


def folded(text: str) -> str:
    """The text in the form that is compared: upper and lower case, wide and narrow letters, and those with and
    without an accent are the same."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFKC", text).casefold()
    bare = _ACCENTS.sub("", unicodedata.normalize("NFD", plain)).translate(_STROKES)
    return unicodedata.normalize("NFC", bare)


def is_unspaced(piece: str) -> bool:
    """Whether a piece is of a script without spaces."""
    return _UNSPACED.fullmatch(piece) is not None


def index_words(text: str) -> list[str]:
    """The words of a text in their order, as the index has them."""
    found: list[str] = []
    for piece in pieces(text):
        found += [piece[at : at + 2] for at in range(len(piece))] if is_unspaced(piece) else [piece[:LONGEST]]
    return found


def passages(segments: Iterable[Mapping[str, Any]]) -> list[Passage]:
    """The passages of a transcript's segments (each with `start`, `text` and perhaps `mark`); none where nothing
    was said. A segment that stands for speech without text is a remark, and in none."""
    made: list[Passage] = []
    for position, segment in enumerate(segments):
        said = [] if segment.get("mark") == UNINTELLIGIBLE else index_words(segment["text"])[:MOST]
        if said and (not made or len(made[-1].words) + len(said) > PASSAGE):
            made.append(Passage(position, segment["start"], []))
        if said:
            made[-1].words.extend(said)
    for passage, following in itertools.pairwise(made):
        passage.words.extend(following.words[:OVERLAP])
    return made
