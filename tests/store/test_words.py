"""pipeline/store/words.py, search_terms.py: what a word is, to the index and to a search, in every script."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.search_terms import Group, Term, read_terms
from pipeline.store.words import MOST, OVERLAP, PASSAGE, Passage, index_words, passages, places


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A Fire, in the ATTIC!", ["a", "fire", "in", "the", "attic"]),
        ("it's x.org/a_b 1.5", ["it", "s", "x", "org", "a", "b", "1", "5"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("cafe\u0301 café", ["cafe", "cafe"]),  # the accent by itself
        ("Éclair ÅNGSTRÖM Łódź Ælfric İzmir", ["eclair", "angstrom", "lodz", "aelfric", "izmir"]),
        ("Ёлка йод ΆΝΝΑ ςιγμα", ["елка", "иод", "αννα", "σιγμα"]),
        ("Việt ガ \u304b\u3099", ["viet", "ガ", "が"]),  # the marks of kana are not accents
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are no letters to Python
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("한국어 검색", ["한국어", "검색"]),
        ("北京大学", ["北京", "京大", "大学", "学"]),
        ("火", ["火"]),
        ("我的iPhone手机。好", ["我的", "的", "iphone", "手机", "机", "好"]),
        ("ｶﾞｽ ＡＢＣ１２", ["ガス", "ス", "abc12"]),  # of half and full width
        ("ไฟไหม้", ["ไฟ", "ฟไ", "ไห", "หม", "ม้", "้"]),
        ("%\0 \ud800 --- 。", []),
        ("w" * 5000, ["w" * 100]),
    ],
)
def test_the_words_of_a_text(text: str, words: list[str]) -> None:
    assert index_words(text) == words


def term(*words: str, pieces: tuple[str, ...] = (), is_open: bool = False) -> Term:
    return Term(pieces or words, words, is_open)


@pytest.mark.parametrize(
    ("typed", "groups"),
    [
        ("", []),
        ("%  --  \" \" 。", []),
        ("Fire engine", [Group([term("fire"), term("engine")])]),
        ('"fire engine', [Group([term("fire", "engine")])]),
        ("fire -engine", [Group([term("fire")], [term("engine")])]),
        ('-"a b" c', [Group([term("c")], [term("a", "b")])]),
        ("a b or c -d OR e", [Group([term("a"), term("b")]), Group([term("c")], [term("d")]), Group([term("e")])]),
        ("or", [Group([term("or")])]),
        ("a or", [Group([term("a")])]),
        ('a "or" b', [Group([term("a"), term("or"), term("b")])]),
        ("foo-bar", [Group([term("foo", "bar")])]),
        ("北京大学", [Group([term("北京", "京大", "大学", pieces=("北京大学",))])]),
        ("火", [Group([term("火", is_open=True)])]),
        ("Fir*", [Group([term("fir", is_open=True)])]),
        ('"the fir*" -eng*', [Group([term("the", "fir", is_open=True)], [term("eng", is_open=True)])]),
        ("fir*e 北京* *", [Group([term("fir", "e"), term("北京")])]),
        ("手机iPhone", [Group([term("手机", "机", "iphone", pieces=("手机", "iphone"))])]),
        ("第3章", [Group([term("第", "3", "章", is_open=True)])]),
    ],
)  # fmt: skip
def test_what_is_typed_into_a_search(typed: str, groups: list[Group]) -> None:
    assert read_terms(typed) == groups


SCRIPTS = st.text(st.sampled_from("ab1 é'-北京大学火カナไฟ้ไ่มกๆ."), max_size=30)


@given(text=SCRIPTS, at=st.integers(0, 30), length=st.integers(1, 10))
def test_every_part_of_a_text_without_spaces_is_found_in_it(text: str, at: int, length: int) -> None:
    """Whatever is around it; of a script with spaces, whole words are."""
    said = index_words(text)
    for begin, end, piece in places(text):
        part = piece if piece.isascii() or "é" in piece else text[begin:end][at % (end - begin) :][:length]
        (group,) = read_terms(f'"{part}"')
        assert group.wanted[0].is_in(said), (part, said)
    assert not Term(("zz",), ("zz",), is_open=False).is_in(said)


@given(text=st.text(max_size=40))
def test_no_text_is_lost_or_breaks_the_words(text: str) -> None:
    for word in index_words(text):
        assert word
        assert not set(word) & set("'\\: \0")
    for begin, end, _ in places(text):
        assert 0 <= begin < end <= len(text)


# --- passages ----------------------------------------------------------------------------------------------


def said(*counts: int) -> list[dict[str, object]]:
    """Segments of so many words, each word said once."""
    numbers = iter(range(10**6))
    return [
        {"start": 10.0 * place, "text": " ".join(f"w{next(numbers)}" for _ in range(count))}
        for place, count in enumerate(counts)
    ]


def test_a_passage_is_a_row_of_segments_and_the_beginning_of_the_next() -> None:
    first, second, third = passages(said(100, 100, 1, 150, 90))
    assert [(one.position, one.start) for one in (first, second, third)] == [(0, 0.0), (2, 20.0), (4, 40.0)]
    assert first.words == [f"w{number}" for number in range(200 + OVERLAP)]
    assert second.words[:OVERLAP] == first.words[-OVERLAP:]
    assert second.words[-OVERLAP:] == third.words[:OVERLAP]
    assert third.words == [f"w{number}" for number in range(351, 441)]


def test_what_was_not_said_is_in_no_passage() -> None:
    remark = {"start": 5.0, "text": "[unintelligible, 4 s]", "mark": "unintelligible"}
    assert passages([]) == passages([remark, {"start": 0.0, "text": " ... "}]) == []
    assert passages([remark, {"start": 9.0, "text": "yes", "mark": "repeated"}, remark]) == [
        Passage(1, 9.0, ["yes"])
    ]


def test_a_segment_of_any_length_is_one_passage_that_fits() -> None:
    random_text = "".join(chr(random.Random(1).randrange(0x20000, 0x2A000)) for _ in range(30_000))
    (passage,) = passages([{"start": 0.0, "text": random_text}])
    assert len(passage.words) == MOST
    long, after = passages([*said(5000), {"start": 20.0, "text": "end"}])
    assert (len(long.words), after.words) == (MOST + 1, ["end"])
    assert MOST * 100 * 4 + 16 * (MOST + OVERLAP) < 2**20  # bytes of the longest words; PostgreSQL takes less
    assert PASSAGE + OVERLAP < 256  # places of one word that PostgreSQL keeps
