"""What somebody types into a search, as on the web: words, "a phrase", or, -not, and fir* for words that begin so.

`a b or c -d` asks for files in which a and b were said somewhere, or c and not d: the words of one file may be in
different passages of it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from pipeline.foundation.errors import Permanent
from pipeline.store.words import index_words, is_unspaced, pieces

SHORTEST = 2  # letters before a *: fewer are the beginning of too many words
_TYPED = re.compile(r'(-*)(?:"([^"]*)"?|([^\s"]+))')


@dataclass(frozen=True)
class Term:
    """A word or a phrase, as the index has it. `pieces` are its words as people see them; with `is_open` the last
    word of the index is the beginning of one: typed with a *, or a single character of a script without spaces."""

    pieces: tuple[str, ...]
    words: tuple[str, ...]
    is_open: bool

    def tsquery(self) -> str:
        """The term as PostgreSQL reads it."""
        return "(" + " <-> ".join(f"'{word}'" for word in self.words) + (":*)" if self.is_open else ")")

    def single_words(self) -> list["Term"]:
        """Each of its words, for text that does not hold the term as a whole."""
        *first, last = self.pieces
        ending = replace(self, pieces=(last,), words=self.words[-1:]) if self.is_open else _term(last)
        return [term for term in (*map(_term, first), ending) if term]

    def is_in(self, said: list[str]) -> bool:
        """Whether words of the index (of `words.index_words`) hold the term."""
        *first, last = self.words
        return any(
            said[at : at + len(first)] == first and (word.startswith(last) if self.is_open else word == last)
            for at, word in enumerate(said[len(first) :])
        )


@dataclass(frozen=True)
class Group:
    """What has to be in a file, and what must not be."""

    wanted: list[Term] = field(default_factory=list)
    unwanted: list[Term] = field(default_factory=list)


def read_terms(typed: str) -> list[Group]:
    """The groups of which one has to fit; none where there is no word to search for. `Permanent` where a word is
    too short for the * behind it."""
    groups = [Group()]
    for dashes, phrase, word in _TYPED.findall(typed):
        if word.lower() == "or" and not dashes and groups[-1] != Group():
            groups.append(Group())
        elif term := _term(phrase or word):
            (groups[-1].unwanted if dashes else groups[-1].wanted).append(term)
    return [group for group in groups if group != Group()]


def _any_of(tsqueries: Iterable[str]) -> str | None:
    """What holds one of them, as PostgreSQL reads it; None where there are none."""
    return " | ".join(tsqueries) or None


def tsqueries(groups: list[Group]) -> dict[str, str | None]:
    """What holds some term of the groups, and what holds all those of one, as queries have them for parameters."""
    return {
        "some": _any_of(term.tsquery() for group in groups for term in group.wanted),
        "whole": _any_of(_all_of(group.wanted) for group in groups if group.wanted),
    }


def _all_of(terms: list[Term]) -> str:
    """What holds all the terms, as PostgreSQL reads it."""
    return "(" + " & ".join(term.tsquery() for term in terms) + ")"


def _term(typed: str) -> Term | None:
    """None where there is no letter or digit in it. The index has the last character of a run by itself too, which
    ends the run; what is searched for need not end one."""
    found, words = tuple(pieces(typed)), index_words(typed)
    if not found:
        return None
    if is_unspaced(found[-1]):
        if len(found[-1]) > 1:
            words.pop()
        return Term(found, tuple(words), is_open=len(found[-1]) == 1)
    is_open = typed.rstrip().endswith("*")
    if is_open and len(words[-1]) < SHORTEST:
        raise Permanent(f"{typed.strip()[:20]} is the beginning of too many words: give two letters before the *")
    return Term(found, tuple(words), is_open)
