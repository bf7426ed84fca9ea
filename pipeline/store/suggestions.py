"""What a search that finds nothing may have meant: words that were said, in place of those that never were.

Languages have no dictionary here but what was said. It is looked through for the newest passages alone, so that a
slip costs no more on a million recordings than on a thousand.
"""

import difflib
from typing import Any

from pipeline.store.search_terms import Group
from pipeline.store.words import is_unspaced, places

_PASSAGES = 2000  # the newest; of a radio call each, they have some ten thousand different words
_MOST_WORDS = 5  # of a search that are looked up
_SHORTEST = 4  # letters: a shorter word is close to too many
_OTHER_LETTERS = 3  # that are in one of two words alone; they are told apart fast by it
_SAID = "SELECT word, ndoc FROM ts_stat('SELECT words FROM passages ORDER BY audio_id DESC LIMIT {}')"
_KNOWN = (
    "SELECT word FROM unnest(%s::text[]) AS word"
    " WHERE EXISTS (SELECT FROM passages WHERE words @@ quote_literal(word)::tsquery)"
)


def suggestion(cursor: Any, typed: str, groups: list[Group]) -> str:
    """The search with words that were said in place of those that never were; "" where there is no better one."""
    words = _never_said(cursor, groups)
    if not words:
        return ""
    cursor.execute(_SAID.format(_PASSAGES))
    said = dict(cursor.fetchall())
    better = {word: close for word in words if (close := _closest(word, said))}
    return _replaced(typed, better) if better else ""


def _never_said(cursor: Any, groups: list[Group]) -> list[str]:
    """The words of the search, whole ones of scripts with spaces, that no passage has."""
    pieces = [
        piece
        for group in groups
        for term in group.wanted
        for piece in (term.pieces[:-1] if term.is_open else term.pieces)
        if len(piece) >= _SHORTEST and not is_unspaced(piece)
    ]
    words = list(dict.fromkeys(pieces))[:_MOST_WORDS]
    cursor.execute(_KNOWN, (words,))
    known = {word for (word,) in cursor.fetchall()}
    return [word for word in words if word not in known]


def _closest(word: str, said: dict[str, int]) -> str:
    """The word that is most like it; of those alike, the one that was said in most passages."""
    near = [other for other in said if abs(len(other) - len(word)) <= 2]
    alike = [other for other in near if len(set(word) ^ set(other)) <= _OTHER_LETTERS and not is_unspaced(other)]
    close = difflib.get_close_matches(word, alike, n=5, cutoff=0.75)

    def likeness(other: str) -> tuple[float, int]:
        return round(difflib.SequenceMatcher(None, word, other).ratio(), 2), said[other]

    return max(close, key=likeness, default="")


def _replaced(typed: str, better: dict[str, str]) -> str:
    """What was typed, with the better words."""
    made, done = [], 0
    for begin, end, piece in places(typed):
        if piece in better:
            made += [typed[done:begin], better[piece]]
            done = end
    return "".join([*made, typed[done:]])
