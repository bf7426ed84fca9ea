"""pipeline/store/transcripts.py: what a search finds, and how it is shown."""

import datetime
import json
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_warnings import FileWarning, as_json
from pipeline.store import transcripts
from pipeline.store.database import Database
from pipeline.store.transcripts import AudioFile, Hit, Query, every_file, find_files, read_file, search
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
    for label, classifier in (labels or {}).items():
        fleet.query("INSERT INTO classifications VALUES (%s, %s, %s, 0.5)", audio_id, classifier, label)
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


@pytest.mark.parametrize("words", ["a\0b", "\udce9", "x" * 1001, "ü" * 501])
def test_what_postgresql_cannot_look_for_is_refused(database: Database, words: str) -> None:
    for query in (Query(words), Query(tag=words), Query(language=words), Query(batch_id=words)):
        with pytest.raises(Permanent):
            search(database, query)
        with pytest.raises(Permanent):
            every_file(database, query)
    assert find_files(database, words) == []


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
    monkeypatch.setattr(transcripts, "_window", lambda query: window)
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
    monkeypatch.setattr(transcripts, "_window", lambda query: window)
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
