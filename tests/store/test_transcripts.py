"""pipeline/store/transcripts.py: what a search finds, and how it is shown."""

import datetime
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_warnings import FileWarning, as_json
from pipeline.store import search as search_module
from pipeline.store.database import Database
from pipeline.store.search import Count, find, search
from pipeline.store.search_hits import Hit
from pipeline.store.search_query import Query
from pipeline.store.transcripts import AudioFile, every_file, find_files, read_file
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_file

CUT = FileWarning("missing_end", 5.5, "It ends 5.5 s before the end that it declares.")
TURNED = FileWarning("inverted_channel", None, "Channel 2 was channel 1 turned over.")
DAY = datetime.datetime(2025, 6, 22, tzinfo=datetime.UTC)


def day(number: int) -> datetime.datetime:
    """That day of June 2025."""
    return DAY.replace(day=number)


def hear(
    fleet: Fleet,
    name: str,
    *spoken: str | dict[str, Any],
    batch_id: str = BATCH,
    created: datetime.datetime = DAY,
    language: str | None = "en",
    languages: list[str] | None = None,
    labels: dict[str, str] | None = None,
    channels: int | None = None,
    warnings: Sequence[FileWarning] = (),
    recorded: datetime.datetime | None = None,
    metadata: dict[str, Any] | None = None,
) -> int:
    """A file that is done, whose segments of 10 s are these, texts or fields; gives its id. Without `languages`,
    `channels` and `warnings` it is as rows from before those columns."""
    ((audio_id,),) = fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, status, language, languages, duration_seconds,"
        " created_at) VALUES (%s, %s, 'done', %s, %s, %s, %s) RETURNING audio_id",
        batch_id, name, language, languages, 10.0 * len(spoken), created,
    )  # fmt: skip
    fleet.query(
        "UPDATE audio_files SET s3_opus_path = %s WHERE audio_id = %s",
        f"processed/2025-06-22/{audio_id}.opus", audio_id,
    )  # fmt: skip
    fields = [{"text": said} if isinstance(said, str) else said for said in spoken]
    segments = [{"start": 10.0 * at, "end": 10.0 * at + 9, **said} for at, said in enumerate(fields)]
    text = " ".join(said["text"] for said in fields if said.get("mark") != "unintelligible")
    fleet.query(
        "INSERT INTO transcripts (audio_id, text, segments, model) VALUES (%s, %s, %s, 'tiny')",
        audio_id, text, json.dumps(segments),
    )  # fmt: skip
    fleet.query(
        "UPDATE audio_files SET channels = %s, warnings = %s WHERE audio_id = %s",
        channels, json.dumps(as_json(warnings)) if warnings else None, audio_id,
    )  # fmt: skip
    fleet.query(
        "UPDATE audio_files SET recorded_at = %s, recorded_from = %s, metadata = %s WHERE audio_id = %s",
        recorded, "name" if recorded else None, json.dumps(metadata) if metadata else None, audio_id,
    )  # fmt: skip
    for label, classifier in (labels or {}).items():
        fleet.query("INSERT INTO classifications VALUES (%s, %s, %s, 0.5)", audio_id, classifier, label)
    database = Database(fleet.postgres.url)
    database.index_transcripts()
    database.close()
    return int(audio_id)


def names(hits: list[Hit]) -> list[str]:
    return [hit.original_filename for hit in hits]


def marked(hit: Hit) -> str:
    """The excerpt, with the words searched for in brackets."""
    return "".join(f"[{text}]" if is_hit else text for text, is_hit in hit.excerpt)


# --- words -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("fire", ["b", "a"]),
        ("FIRE", ["b", "a"]),
        ("fires", []),
        ("fire engine", ["b"]),
        ('"fire engine"', []),
        ('"engine fire"', ["b"]),
        ("fire -engine", ["a"]),
        ("-fire", ["c"]),
        ("cat or engine", ["c", "b"]),
        ("straße", ["c"]),
        ("'; DROP TABLE transcripts; --", []),
        ("%", []),
        ("   ", ["c", "b", "a"]),
        ("", ["c", "b", "a"]),
        ("!!! && | ( <->", []),
    ],
)
def test_words_are_searched_as_on_the_web(fleet: Fleet, database: Database, words: str, found: list[str]) -> None:
    hear(fleet, "a", "a fire in the town hall")
    hear(fleet, "b", "send an engine.", "Fire is in the attic")
    hear(fleet, "c", "the cat of the Straße")
    assert names(search(database, Query(words))) == found


@pytest.mark.parametrize("separator", [" ", " or ", " -", " smoke or "])
def test_a_search_may_have_many_words(fleet: Fleet, database: Database, separator: str) -> None:
    words = [f"w{number}" for number in range(150)]
    hear(fleet, "a", " ".join(["fire", *words]))
    hear(fleet, "b", "fire")
    typed = separator.join(["fire", *words])[:1000].rpartition(separator)[0]
    found = {" ": ["a"], " or ": ["b", "a"], " -": ["b"], " smoke or ": ["a"]}
    assert names(search(database, Query(typed))) == found[separator]


@pytest.mark.parametrize("words", ["a\0b", "\udce9", "x" * 1001, "ü" * 501])
def test_what_postgresql_cannot_look_for_is_refused(database: Database, words: str) -> None:
    for query in (Query(words), Query(tag=words), Query(language=words), Query(batch_id=words)):
        with pytest.raises(Permanent):
            search(database, query)
        with pytest.raises(Permanent):
            every_file(database, query)
    assert find_files(database, words) == []


# --- every script ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "found", "shown"),
    [
        ("北京", "zh", "我在[北京]大学学习"),
        ("大学学习", "zh", "我在北京[大学学习]"),
        ("京大", "zh", "我在北[京大]学学习"),
        ("习", "zh", "我在北京大学学[习]"),
        ("学校", "", ""),
        ('"东京大学"', "", ""),
        ("北京 -学习", "", ""),
        ("火事", "ja", "ビルで[火事]です。"),
        ("ビル", "ja", "[ビル]で火事です。"),
        ("ﾋﾞﾙ", "ja", "[ビル]で火事です。"),
        ("ไฟไหม้", "th", "เกิดเหตุ[ไฟไหม้]ที่โรงแรม"),
        ("โรงแรม", "th", "เกิดเหตุไฟไหม้ที่[โรงแรม]"),
        ("โรงเรียน", "", ""),
        ("मदद", "hi", "कृपया [मदद] भेजो"),
        ("दद", "", ""),  # part of a word
        ("FEU", "fr", "Au [feu]!"),
        ("北京 or feu", "fr zh", ""),
    ],
)
def test_every_script_is_searched(fleet: Fleet, database: Database, words: str, found: str, shown: str) -> None:
    hear(fleet, "zh", "我在北京大学学习", language="zh", created=day(1))
    hear(fleet, "ja", "ビルで火事です。", language="ja", created=day(2))
    hear(fleet, "th", "เกิดเหตุไฟไหม้ที่โรงแรม", language="th", created=day(3))
    hear(fleet, "hi", "कृपया मदद भेजो", language="hi", created=day(4))
    hear(fleet, "fr", "Au feu!", language="fr", created=day(5))
    hits = search(database, Query(words))
    assert " ".join(names(hits)) == found
    if shown:
        assert marked(hits[0]) == shown


@pytest.mark.parametrize(
    ("words", "found", "shown"),
    [
        ("cafe", ["a"], "Au [Café] Łódź"),
        ("CAFÉ", ["a"], "Au [Café] Łódź"),
        ("lodz", ["a"], "Au [Café] [Łódź]"),
        ("елка", ["b"], "Моя [Ёлка]"),
        ("νυχτα", ["c"], "Καλή [νύχτα]"),
        ("שלום", [], ""),  # vowel signs are no accents
        ("שָׁלוֹם", ["d"], "[שָׁלוֹם]"),
    ],
)
def test_accents_are_no_difference(
    fleet: Fleet, database: Database, words: str, found: list[str], shown: str
) -> None:
    for name, said in {"a": "Au Café Łódź", "b": "Моя Ёлка", "c": "Καλή νύχτα", "d": "שָׁלוֹם"}.items():
        hear(fleet, name, said)
    hits = search(database, Query(words))
    assert names(hits) == found
    if words != "lodz":
        assert [marked(hit) for hit in hits] == ([shown] if shown else [])


@pytest.mark.parametrize(
    ("words", "found", "shown"),
    [
        ("fir*", ["c", "b", "a"], "[fir] tree"),
        ("FIRE*", ["b", "a"], "a [firemen] came"),
        ("éga*", [], ""),
        ('"a fire*"', ["b"], "[a] [firemen] came"),
        ('"fire came*"', [], ""),
        ("fir* -tree", ["b", "a"], "a [firemen] came"),
        ("fir* -came*", ["c", "a"], "[fir] tree"),
        ("tre* or engi*", ["c", "a"], "fir [tree]"),
        ("*fire", ["a"], "[fire] engine"),
    ],
)
def test_a_word_is_found_by_its_beginning(
    fleet: Fleet, database: Database, words: str, found: list[str], shown: str
) -> None:
    hear(fleet, "a", "fire engine", created=day(1))
    hear(fleet, "b", "a firemen came", created=day(2))
    hear(fleet, "c", "fir tree", created=day(3))
    hits = search(database, Query(words))
    assert names(hits) == found
    assert [marked(hit) for hit in hits[:1]] == ([shown] if shown else [])


@pytest.mark.parametrize("words", ["f*", '"fire e*"', "-e*", "é*"])
def test_one_letter_is_the_beginning_of_too_many_words(database: Database, words: str) -> None:
    with pytest.raises(Permanent, match=r"too many words"):
        search(database, Query(words))


# --- the recording's own time, its metadata, its archive -------------------------------------------------------


@pytest.mark.parametrize("window", [0, 100])
def test_recordings_are_found_and_sorted_by_their_own_time(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(search_module, "_window", lambda query: window)
    hear(fleet, "late", "fire", created=day(20), recorded=day(3))
    hear(fleet, "early", "fire", created=day(10), recorded=day(9))
    hear(fleet, "unknown", "fire", created=day(5))
    assert names(search(database, Query("fire"))) == ["early", "unknown", "late"]
    assert names(search(database, Query("fire", since=day(4), until=day(9)))) == ["unknown"]
    assert names(search(database, Query("fire", until=day(5)))) == ["late"]
    assert names(search(database, Query(processed_since=day(10)))) == ["early", "late"]
    assert names(search(database, Query(processed_until=day(10)))) == ["unknown"]
    every = every_file(database, Query("fire"))
    assert [file.original_filename for file in every] == ["late", "unknown", "early"]
    hit = search(database, Query(until=day(4)))[0]
    assert (hit.recorded_at, hit.created_at, hit.time) == (day(3), day(20), day(3))
    file = read_file(database, hit.audio_id)
    assert file is not None
    assert (file.recorded_at, file.recorded_from) == (day(3), "name")


@pytest.mark.parametrize(
    ("meta", "found"),
    [
        ((("talkgroup", "1234"),), ["text", "number"]),
        ((("talkgroup", "12"),), []),
        ((("talkgroup", "1234"), ("emergency", "true")), ["number"]),
        ((("who", "O'Hara \\ \""),), ["text"]),
        ((("talkgroup", "NaN"),), []),
        ((("talkgroup", "{}"),), []),
        ((("talkgroup", "9" * 400),), []),
        ((("talkgroup", "[" * 400),), []),
        ((("a'b %(words)s", "x"),), ["text"]),
    ],
)
def test_metadata_is_searched(
    fleet: Fleet, database: Database, meta: tuple[tuple[str, str], ...], found: list[str]
) -> None:
    hear(fleet, "number", "fire", created=day(1), metadata={"talkgroup": 1234, "emergency": True})
    odd = {"talkgroup": "1234", "who": "O'Hara \\ \"", "a'b %(words)s": "x"}
    hear(fleet, "text", "fire", created=day(2), metadata=odd)
    hear(fleet, "none", "fire", created=day(3))
    for words in ("", "fire"):
        assert names(search(database, Query(words, meta=meta))) == found
    hits = {hit.original_filename: hit.metadata for hit in search(database, Query())}
    assert hits == {"number": {"talkgroup": 1234, "emergency": True}, "text": odd, "none": {}}


def test_an_archive_is_searched_by_its_name_or_path(fleet: Fleet, database: Database) -> None:
    for number, path in enumerate(("/a/monday.tar", "/b/monday.tar", "/a/sunday.tar")):
        hear(fleet, str(number), "fire", batch_id=f"b{number}", created=day(number + 1))
        fleet.query(
            "INSERT INTO batches (batch_id, s3_key, file_count, host, archive_path) VALUES (%s, 'k', 1, 'h', %s)",
            f"b{number}", path,
        )  # fmt: skip
    assert names(search(database, Query(archive="monday.tar"))) == ["1", "0"]
    assert names(search(database, Query("fire", archive="/a/monday.tar"))) == ["0"]
    assert names(search(database, Query(archive="/monday.tar"))) == []
    (hit,) = search(database, Query(archive="sunday.tar"))
    assert hit.archive == "sunday.tar"
    assert read_file(database, hit.audio_id).archive == "sunday.tar"  # type: ignore[union-attr]
    assert find(database, Query("fire")).facets["batch"] == [
        Count("b0", 1, "monday.tar"), Count("b1", 1, "monday.tar"), Count("b2", 1, "sunday.tar"),
    ]  # fmt: skip


# --- how many, what they have in common, what was meant --------------------------------------------------------


@pytest.mark.parametrize("window", [0, 3, 100])
def test_hits_are_counted_one_by_one_up_to_a_number(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(search_module, "_window", lambda query: window)
    monkeypatch.setattr(search_module, "MOST_COUNTED", 5)
    for number in range(1, 13):
        hear(
            fleet,
            str(number),
            "odd" if number % 2 else "even rare" if number == 4 else "even",
            created=day(number),
        )
    counts = [
        (found.total, found.is_more, len(found.hits))
        for words in ("odd", "rare", "nothing", "", "odd or rare")
        for found in [find(database, Query(words, limit=2))]
    ]
    assert counts == [(5, True, 2), (1, False, 1), (0, False, 0), (5, True, 2), (5, True, 2)]
    monkeypatch.setattr(search_module, "MOST_COUNTED", 6)
    for limit in (1, 10):
        found = find(database, Query("odd", limit=limit))
        assert (found.total, found.is_more) == (6, False)
    assert names(find(database, Query("odd", offset=5)).hits) == ["1"]


def test_facets_count_what_the_hits_have_in_common(fleet: Fleet, database: Database) -> None:
    siren = {"Siren": "audio_tag", "speech": "content"}
    call = {"talkgroup": 7, "units": [1, 2], "long": "x" * 200}
    hear(fleet, "a", "fire", created=day(1), labels=siren, languages=["en", "de"], metadata=call)
    hear(
        fleet,
        "b",
        "fire",
        created=day(9),
        recorded=day(1),
        labels={"speech": "content"},
        metadata={"talkgroup": "7"},
    )
    hear(fleet, "c", "fire", created=day(2), language=None)
    hear(fleet, "d", "flood", created=day(3), labels=siren)
    found = find(database, Query("fire", limit=1))
    assert found.faceted == 3
    assert found.facets == {
        "label": [Count("speech", 2), Count("Siren", 1)],
        "language": [Count("en", 2), Count("de", 1)],
        "batch": [Count(BATCH, 3)],
        "day": [Count("2025-06-01", 2), Count("2025-06-02", 1)],
        "meta": [Count("talkgroup=7", 2)],
    }
    assert find(database, Query("fire", meta=(("talkgroup", "7"),))).total == 2


def test_metadata_that_is_no_object_breaks_no_search(fleet: Fleet, database: Database) -> None:
    hear(fleet, "a", "fire")
    for odd in ("[1]", "7", '"x"', "null"):
        fleet.query("UPDATE audio_files SET metadata = %s", odd)
        assert [hit.metadata for hit in find(database, Query("fire")).hits] == [{}]


def test_the_most_relevant_of_the_newest_come_first(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    hear(fleet, "once", "fire at the mill", created=day(4))
    hear(fleet, "often", "fire fire fire at the fire mill", created=day(2))
    hear(fleet, "close", "a mill fire", created=day(1))
    hear(fleet, "none", "nothing at all", created=day(5))
    assert names(search(database, Query("fire", order="relevance")))[0] == "often"
    both = names(search(database, Query("fire mill", order="relevance")))
    assert (both[-1], len(both)) == ("once", 3)  # where they are further apart
    assert names(search(database, Query("fire", order="relevance", limit=1, offset=2))) == ["once"]
    assert names(search(database, Query(order="relevance"))) == ["none", "once", "often", "close"]
    monkeypatch.setattr(search_module, "MOST_COUNTED", 1)
    assert names(search(database, Query("fire", order="relevance"))) == ["once"]


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("siern", "siren"),
        ("SIRENE and smoke", "siren and smoke"),
        ('"the sirne" -tower', '"the siren" -tower'),
        ("ambulence or fier", "ambulance or fier"),
        ("sirens*", ""),  # a beginning is no slip
        ("zzzzzz", ""),
        ("", ""),
        ("北京大学校", ""),
        ("siren ambulance fountain", ""),  # each was said, but not together
        ("Krankenhäuse", "krankenhaus"),
    ],
)
def test_a_search_that_finds_nothing_suggests_what_was_said(
    fleet: Fleet, database: Database, words: str, meant: str
) -> None:
    hear(fleet, "a", "the siren and smoke", "an ambulance", created=day(1))
    hear(fleet, "b", "the fountain", "im Krankenhaus", created=day(2))
    found = find(database, Query(words, tag="" if words else "none"))
    assert found.suggestion == meant
    assert find(database, Query("siren")).suggestion == ""


# --- recordings of any length ------------------------------------------------------------------------------


def hours(name: str, words: list[str], fleet: Fleet, **other: Any) -> None:
    """A recording with so many words, ten in a segment."""
    hear(fleet, name, *(" ".join(words[at : at + 10]) for at in range(0, len(words), 10)), **other)


def test_words_of_a_file_may_be_hours_apart(fleet: Fleet, database: Database) -> None:
    filler = ["the", "and", "of"] * 2000
    hours("both", ["fire", *filler, "engine"], fleet, created=day(2))
    hours("one", ["fire", *filler], fleet, created=day(1))
    assert names(search(database, Query("fire engine"))) == ["both"]
    assert names(search(database, Query("fire -engine"))) == ["one"]
    assert names(search(database, Query("fire engine or nothing -fire"))) == ["both"]
    assert names(search(database, Query("engine -the or fire -engine"))) == ["one"]
    assert names(search(database, Query('"fire engine"'))) == []
    assert names(search(database, Query("-the"))) == []


@pytest.mark.parametrize("before", [0, 195, 199, 200, 6000, 20_000])
def test_a_phrase_is_found_wherever_it_stands(fleet: Fleet, database: Database, before: int) -> None:
    """Of one text PostgreSQL keeps 256 places of a word, and none behind the 16,383rd."""
    hours("a", ["the", "cat"] * (before // 2) + ["see"] * (before % 2) + ["the", "fire", "engine"], fleet)
    (hit,) = search(database, Query('"the fire engine"'))
    assert [text for text, is_hit in hit.excerpt if is_hit][-3:] == ["the", "fire", "engine"]
    assert hit.start in (before // 10 * 10.0, (before + 2) // 10 * 10.0)
    assert search(database, Query('"the engine"')) == []


def test_the_first_passage_with_the_whole_search_is_shown(fleet: Fleet, database: Database) -> None:
    hours("a", ["fire", *["word"] * 600, "engine", *["word"] * 600, "fire", "and", "engine"], fleet)
    assert [hit.start for hit in search(database, Query("fire engine"))] == [1200.0]
    assert [hit.start for hit in search(database, Query("engine or fire"))] == [0.0]


# --- filters -----------------------------------------------------------------------------------------------


@pytest.fixture
def three(fleet: Fleet) -> None:
    """Three files, each other in everything but one word."""
    hear(fleet, "a", "one fire", created=day(1), language="en", labels={"speech": "content"}, batch_id="b1")
    hear(fleet, "b", "two fire", created=day(2), language="de", labels={"Siren": "audio_tag"}, batch_id="b2")
    hear(fleet, "c", "three fire", created=day(3), language=None, labels={"Siren": "topic"}, batch_id="b3")


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("words", ["", "fire"])
@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({}, ["c", "b", "a"]),
        ({"since": day(2)}, ["c", "b"]),
        ({"until": day(2)}, ["a"]),
        ({"since": day(2), "until": day(3)}, ["b"]),
        ({"language": "de"}, ["b"]),
        ({"tag": "Siren"}, ["c", "b"]),
        ({"tag": "speech"}, ["a"]),
        ({"tag": "siren"}, []),
        ({"batch_id": "b1"}, ["a"]),
        ({"batch_id": "b1", "tag": "Siren"}, []),
        ({"limit": 2}, ["c", "b"]),
        ({"limit": 2, "offset": 2}, ["a"]),
        ({"offset": 1}, ["b", "a"]),
    ],
)
def test_each_filter(database: Database, words: str, filters: dict[str, Any], found: list[str]) -> None:
    assert names(search(database, Query(words, **filters))) == found
    if "limit" not in filters and "offset" not in filters:
        every = every_file(database, Query(words, **filters))
        assert [file.original_filename for file in every] == found[::-1]


@pytest.mark.parametrize(
    ("language", "found"),
    [("en", ["both", "one", "old"]), ("de", ["both"]), ("fr", ["both"]), ("sw", []), ("e", []), ("{en}", [])],
)
@pytest.mark.parametrize("window", [0, 100])
def test_a_language_is_found_wherever_it_is_spoken(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch, window: int, language: str, found: list[str]
) -> None:
    monkeypatch.setattr(search_module, "_window", lambda query: window)
    hear(fleet, "old", "fire", created=day(1), language="en")
    hear(fleet, "one", "fire", created=day(2), language="en", languages=["en"])
    hear(fleet, "both", "fire", created=day(3), language="de", languages=["de", "en", "fr"])
    hear(fleet, "none", "", created=day(4), language=None)
    for words in ("", "fire"):
        assert names(search(database, Query(words, language=language))) == found
        every = every_file(database, Query(words, language=language))
        assert [file.original_filename for file in every] == found[::-1]


@pytest.mark.parametrize("window", [0, 3, 100])
def test_what_lies_behind_the_newest_files_is_found_in_the_same_order(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr(search_module, "_window", lambda query: window)
    order = [5, 3, 9, 1, 7, 2, 8, 6, 4]
    for number in order:
        hear(fleet, str(number), "odd" if number % 2 else "even", created=day(number))
    hear(fleet, "twin", "odd", created=day(9))
    assert names(search(database, Query("odd"))) == ["twin", "9", "7", "5", "3", "1"]
    pages = [names(search(database, Query("odd", limit=2, offset=at))) for at in (0, 2, 4, 6)]
    assert pages == [["twin", "9"], ["7", "5"], ["3", "1"], []]
    assert names(search(database, Query("even", until=day(6)))) == ["4", "2"]


# --- what is shown -----------------------------------------------------------------------------------------


def test_a_hit_has_everything_of_its_file(fleet: Fleet, database: Database) -> None:
    labels = {"speech": "content", "Siren": "audio_tag"}
    audio_id = hear(fleet, "a/b.mp3", "there is nothing.", "Oh, a fire!", "Come soon.", labels=labels)
    (hit,) = search(database, Query("fire"))
    assert (hit.audio_id, hit.batch_id, hit.original_filename) == (audio_id, BATCH, "a/b.mp3")
    assert (hit.created_at, hit.language, hit.languages, hit.duration_seconds) == (DAY, "en", ["en"], 30.0)
    assert (sorted(hit.labels), hit.start) == (["Siren", "speech"], 10.0)
    assert hit.segment == {"start": 10.0, "end": 19.0, "text": "Oh, a fire!"}
    assert marked(hit) == "there is nothing. Oh, a [fire]! Come soon."


def test_the_segment_that_fits_the_whole_search_comes_first(fleet: Fleet, database: Database) -> None:
    hear(fleet, "a", "good night", "bad morning", "a very good morning", "good morning again")
    (hit,) = search(database, Query('"good morning"'))
    assert (hit.start, marked(hit)) == (20.0, "bad [morning] a very [good] [morning] [good] [morning] again")
    (hit,) = search(database, Query("morning -noon"))
    assert hit.start == 10.0


def test_a_phrase_across_two_segments_is_found(fleet: Fleet, database: Database) -> None:
    hear(fleet, "a", "this is the fire", "engine speaking")
    (hit,) = search(database, Query('"fire engine"'))
    assert (hit.start, marked(hit)) == (0.0, "this is the [fire] [engine] speaking")


def test_long_texts_are_cut_around_the_hit(fleet: Fleet, database: Database) -> None:
    hear(fleet, "a", "before " * 500 + "fire " + "after " * 500)
    (hit,) = search(database, Query("fire"))
    text = marked(hit)
    assert text.startswith("…before before")
    assert text.endswith("after…")
    assert "before [fire] after" in text
    assert len(text) < 220
    hear(fleet, "b", "x" * 3000)
    hit = next(hit for hit in search(database, Query()) if hit.original_filename == "b")
    assert (hit.start, hit.segment, marked(hit)) == (None, {}, "x" * 200 + "…")


def test_a_hit_says_how_sure_its_segment_is(fleet: Fleet, database: Database) -> None:
    words = [{"start": 11.0, "end": 12.0, "word": "fire", "probability": 0.4}]
    doubtful = {"text": "a fire", "confidence": 0.41, "language": "en", "words": words, "mark": "repeated"}
    hear(fleet, "a", "nothing", doubtful, languages=["en", "de"])
    (hit,) = search(database, Query("fire"))
    assert hit.languages == ["en", "de"]
    assert hit.segment == {
        "start": 10.0, "end": 19.0, "text": "a fire", "confidence": 0.41, "language": "en", "mark": "repeated",
    }  # fmt: skip


def test_a_hit_says_which_channel_it_was_on_and_what_is_wrong_with_the_file(
    fleet: Fleet, database: Database
) -> None:
    said: list[dict[str, Any]] = [{"text": "hello", "channel": 1}, {"text": "a fire", "channel": 2}]
    hear(fleet, "a", *said, channels=2, warnings=[TURNED, CUT, CUT])
    hear(fleet, "b", "fire", created=day(1))
    two, one = search(database, Query("fire"))
    assert two.segment == {"start": 10.0, "end": 19.0, "text": "a fire", "channel": 2}
    assert (two.warnings, one.warnings) == (["inverted_channel", "missing_end"], [])
    assert "channel" not in one.segment


def test_an_excerpt_holds_the_words_of_one_speaker(fleet: Fleet, database: Database) -> None:
    """It is shown behind the name of the speaker of its hit."""
    said: list[tuple[str, int]] = [("where is it", 1), ("a fire", 2), ("at the mill", 2), ("stay away", 1)]
    hear(fleet, "a", *[{"text": text, "channel": channel} for text, channel in said], channels=2)
    (hit,) = search(database, Query("fire"))
    assert (marked(hit), hit.segment["channel"]) == ("a [fire] at the mill", 2)
    (hit,) = search(database, Query("stay"))
    assert (marked(hit), hit.segment["channel"]) == ("[stay] away", 1)


def test_a_remark_is_shown_beside_a_hit_and_never_as_one(fleet: Fleet, database: Database) -> None:
    remark = {"text": "[unintelligible, 4 s]", "mark": "unintelligible", "reason": "it repeats itself"}
    hear(fleet, "a", remark, "that is unintelligible to me", remark)
    (hit,) = search(database, Query("unintelligible"))
    assert hit.start == 10.0
    assert marked(hit) == ("[[unintelligible], 4 s] that is [unintelligible] to me [[unintelligible], 4 s]")
    hear(fleet, "b", remark, "nothing else")
    assert names(search(database, Query("unintelligible"))) == ["a"]


def test_hostile_transcripts_are_shown_as_they_are(fleet: Fleet, database: Database) -> None:
    text = "<b>fire</b> \x1b[31mfire\x1b[0m & 'fire' \\fire\\ fire-fire \u202efire\x01 fire's"
    hear(fleet, "<script>\x1b]0;x\x07.mp3", text)
    (hit,) = search(database, Query("fire"))
    assert "".join(piece for piece, _ in hit.excerpt) == text
    assert [piece for piece, is_hit in hit.excerpt if is_hit] == ["fire"] * 7  # 31mfire is another word


@pytest.mark.parametrize("words", ["it's", "o''clock", "a\\b", "foo-bar", "x.org", "1.5", "x@y.org"])
def test_words_with_signs_are_found_and_marked(fleet: Fleet, database: Database, words: str) -> None:
    hear(fleet, "a", "other", f"say {words} now")
    (hit,) = search(database, Query(words))
    assert hit.start == 10.0
    assert any(is_hit for _, is_hit in hit.excerpt)
    assert "".join(piece for piece, _ in hit.excerpt) == f"other say {words} now"


# --- a file, a batch ---------------------------------------------------------------------------------------


def test_a_file_with_and_without_a_transcript(fleet: Fleet, database: Database) -> None:
    labels = {"speech": "content", "Siren": "audio_tag"}
    audio_id = hear(fleet, "a", "one", "two", labels=labels)
    file = read_file(database, audio_id)
    assert file is not None
    assert file.updated_at.tzinfo == datetime.UTC
    assert file == AudioFile(
        audio_id=audio_id,
        batch_id=BATCH,
        original_filename="a",
        status="done",
        error=None,
        duration_seconds=20.0,
        language="en",
        languages=["en"],
        created_at=DAY,
        updated_at=file.updated_at,
        s3_opus_path=f"processed/2025-06-22/{audio_id}.opus",
        text="one two",
        segments=[{"start": 0.0, "end": 9.0, "text": "one"}, {"start": 10.0, "end": 19.0, "text": "two"}],
        model="tiny",
        labels=[
            {"classifier": "audio_tag", "label": "Siren", "score": 0.5},
            {"classifier": "content", "label": "speech", "score": 0.5},
        ],
    )
    assert (file.channels, file.warnings) == (1, [])
    add_file(fleet, "b", "failed", "x")
    (failed,) = find_files(database, BATCH, "b")
    assert (failed.status, failed.error, failed.text, failed.segments, failed.labels) == (
        "failed",
        "x",
        "",
        [],
        [],
    )
    assert read_file(database, failed.audio_id) == failed
    assert [found.original_filename for found in find_files(database, BATCH)] == ["a", "b"]
    assert [found.original_filename for found in find_files(database, BATCH, limit=1, offset=1)] == ["b"]
    assert find_files(database, "other") == find_files(database, BATCH, "c") == []
    for unknown in (0, -1, 10**30, failed.audio_id + 1):
        assert read_file(database, unknown) is None


def test_a_file_has_its_channels_and_warnings(fleet: Fleet, database: Database) -> None:
    said: list[dict[str, Any]] = [{"text": "hello", "channel": 1}, {"text": "yes", "channel": 2}, {"text": "old"}]
    file = read_file(database, hear(fleet, "a", *said, channels=2, warnings=[CUT, TURNED]))
    assert file is not None
    assert (file.channels, file.warnings) == (2, [CUT, TURNED])
    shown = file.as_dict(("caller",))
    assert [segment.get("speaker") for segment in shown["segments"]] == ["caller", "Channel 2", None]
    assert shown["warnings"] == as_json([CUT, TURNED])
    assert "speaker" not in file.segments[0]


def test_a_warning_of_a_later_release_is_read(fleet: Fleet, database: Database) -> None:
    audio_id = hear(fleet, "a")
    later = [{"code": "new", "where": 3}]
    fleet.query("UPDATE audio_files SET warnings = %s", json.dumps(later))
    file = read_file(database, audio_id)
    assert file is not None
    assert file.warnings == [FileWarning("new", None, "")]
