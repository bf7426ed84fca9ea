"""Saved searches: every new transcript is compared with them as a search compares, in the step that writes it."""

import logging
from typing import Any

import psycopg2
import pytest

from pipeline.foundation.errors import Permanent
from pipeline.speech.transcript import Segment, Transcript
from pipeline.store import alert_matching, alerts
from pipeline.store.alerts import read_alerts, remove_search, save_search, saved_searches
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES
from pipeline.store.search import search
from pipeline.store.search_hits import Hit, read_hits
from pipeline.store.search_query import Query
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_file

SAID = ("Good morning, this is the river road.", "There is a FIRE at the mill.", "火事です、助けて。")


def heard(*texts: str) -> Transcript:
    segments = [Segment(10.0 * at, 10.0 * at + 9, text, -0.2, 0.01) for at, text in enumerate(texts)]
    return Transcript(" ".join(texts), segments, "en", 10.0 * len(texts), 1.5, -20.0, "tiny")


def write(fleet: Fleet, database: Database, name: str, *texts: str) -> int:
    """A file of which this was heard; gives its id."""
    audio_id = int(add_file(fleet, name, "processing"))
    database.save_result(audio_id, heard(*texts), [])
    return audio_id


def events(fleet: Fleet) -> list[tuple[str, dict[str, Any]]]:
    return [tuple(row) for row in fleet.query("SELECT type, data FROM webhook_outbox ORDER BY created_at")]


def test_a_match_is_in_the_list_and_told_of(fleet: Fleet, database: Database) -> None:
    add_batch(fleet)
    fleet.query("UPDATE batches SET archive_path = '/recordings/monday.tar'")
    save_search(database, "fires", "fire or smoke")
    audio_id = write(fleet, database, "a.mp3", *SAID)
    (alert,) = read_alerts(database)
    assert (alert.search, alert.audio_id, alert.batch_id, alert.original_filename) == (
        "fires",
        audio_id,
        BATCH,
        "a.mp3",
    )
    assert alert.start == 10.0
    assert "There is a FIRE at the mill." in alert.excerpt
    ((kind, data),) = events(fleet)
    assert kind == "keyword.matched"
    assert data == {
        "alert_id": alert.alert_id, "search": "fires", "words": "fire or smoke", "audio_id": audio_id,
        "batch_id": BATCH, "original_filename": "a.mp3", "archive": "/recordings/monday.tar", "recorded_at": None,
        "start": 10.0, "excerpt": alert.excerpt,
    }  # fmt: skip
    assert [(kept.name, kept.words, kept.alerts) for kept in saved_searches(database)] == [
        ("fires", "fire or smoke", 1)
    ]


@pytest.mark.parametrize(
    "words",
    [
        "fire", "FIRE", "fires", "fire river", "fire -river", '"fire at"', '"at fire"', "smoke or fire -morning",
        "smoke or fire", '"river road"', '"road there"', "火事", "事で", "助", "火山", "fire smoke or road",
        "fir*", "fix*", "zz*", '"a fir*"', '"fir* a"', "-fir* good", "fires -fir*", "Fíre",
    ],
)  # fmt: skip
def test_it_matches_as_a_search_does(fleet: Fleet, database: Database, words: str) -> None:
    save_search(database, "it", words)
    write(fleet, database, "a.mp3", *SAID)
    write(fleet, database, "b.mp3", "river fires are smoke", "no fire")
    found = {hit.audio_id for hit in search(database, Query(words))}
    assert {alert.audio_id for alert in read_alerts(database)} == found


def test_a_phrase_over_two_passages_and_words_of_two_passages_match(fleet: Fleet, database: Database) -> None:
    save_search(database, "phrase", '"the mill is"')
    save_search(database, "apart", "first last")
    long = ["first " + "word " * 210 + "the mill", "is " + "word " * 210 + "last"]
    audio_id = write(fleet, database, "a.mp3", *long)
    assert {(alert.search, alert.audio_id) for alert in read_alerts(database)} == {
        ("phrase", audio_id), ("apart", audio_id),
    }  # fmt: skip


def test_a_file_that_is_written_again_is_told_of_once(fleet: Fleet, database: Database) -> None:
    save_search(database, "fires", "fire")
    audio_id = write(fleet, database, "a.mp3", "a fire")
    database.save_result(audio_id, heard("a fire"), [])
    assert len(read_alerts(database)) == len(events(fleet)) == 1


def test_what_is_not_committed_is_neither_written_nor_told_of(fleet: Fleet, database: Database) -> None:
    """The transcript, the alert and the event are one transaction: a worker that dies leaves all or none."""
    save_search(database, "fires", "fire")
    audio_id = int(add_file(fleet, "a.mp3", "processing"))
    fleet.query(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE 'no' USING ERRCODE = 'admin_shutdown'; END $$"
    )
    fleet.query("CREATE TRIGGER refuse BEFORE INSERT ON webhook_outbox EXECUTE FUNCTION refuse()")
    try:
        with pytest.raises(psycopg2.Error):
            database.save_result(audio_id, heard("a fire"), [])
    finally:
        fleet.query("DROP FUNCTION refuse CASCADE")
    assert fleet.query("SELECT FROM transcripts") == fleet.query("SELECT FROM alerts") == []
    database.save_result(audio_id, heard("a fire"), [])
    assert len(read_alerts(database)) == len(events(fleet)) == 1


def test_a_search_that_cannot_be_read_costs_no_transcript(
    fleet: Fleet, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that was saved by a release with other rules."""
    fleet.query("INSERT INTO saved_searches (name, words) VALUES ('broad', 'f*')")
    save_search(database, "fires", "fire")
    ids = [write(fleet, database, name, "a fire") for name in ("a.mp3", "b.mp3")]
    assert [(alert.search, alert.audio_id) for alert in read_alerts(database)] == [
        ("fires", ids[1]), ("fires", ids[0]),
    ]  # fmt: skip
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said.startswith("saved search broad cannot be read, and is left out: f* is the beginning of too many")
    problems = {kept.name: kept.problem for kept in saved_searches(database)}
    assert problems["fires"] == ""
    assert "too many words" in problems["broad"]


@pytest.mark.parametrize("broken", ["PostgreSQL", "the code"])
def test_a_comparison_that_fails_costs_no_transcript(
    fleet: Fleet,
    database: Database,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    save_search(database, "fires", "fire")
    save_search(database, "floods", "flood")
    asked: list[tuple[Any, ...]] = []

    def fail(cursor: Any, *arguments: Any) -> list[Hit]:
        asked.append(arguments)
        if len(asked) == 1:
            return read_hits(cursor, *arguments)
        if broken == "PostgreSQL":
            cursor.execute("SELECT 1 / 0")
        raise KeyError("text")

    monkeypatch.setattr(alert_matching, "read_hits", fail)
    audio_id = write(fleet, database, "a.mp3", "a fire and a flood")
    assert fleet.query("SELECT audio_id FROM transcripts") == [(audio_id,)]
    assert read_alerts(database) == events(fleet) == []
    (said,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said.getMessage() == f"file {audio_id} could not be compared with the saved searches, and has no alerts"
    assert said.exc_info


def test_a_file_that_fits_many_searches_is_read_for_the_first_alone(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alert_matching, "MOST_HITS", 2)
    asked: list[tuple[Any, ...]] = []

    def read(*given: Any) -> list[Hit]:
        asked.append(given)
        return read_hits(*given)

    monkeypatch.setattr(alert_matching, "read_hits", read)
    for number in range(4):
        save_search(database, f"fires {number}", "fire")
    write(fleet, database, "a.mp3", "hello " * 100, "a fire")
    found = [(alert.search, alert.start, alert.excerpt[-6:]) for alert in reversed(read_alerts(database))]
    assert found[:2] == [("fires 0", 10.0, "a fire"), ("fires 1", 10.0, "a fire")]
    assert found[2:] == [("fires 2", None, "hello…"), ("fires 3", None, "hello…")]
    assert len(asked) == 2
    assert len(events(fleet)) == 4


def test_a_search_is_removed_in_steps(fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many alerts it has; and it gets no more of them meanwhile."""
    monkeypatch.setattr(alerts, "ALERTS_AT_A_TIME", 2)
    save_search(database, "fires", "fire")
    save_search(database, "floods", "flood")
    for number in range(5):
        write(fleet, database, f"{number}.mp3", "a fire and a flood")
    fleet.query(
        "CREATE FUNCTION check_step() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF (SELECT count(*) FROM gone) > 2"
        " OR EXISTS (SELECT FROM saved_searches WHERE name = 'fires' AND words > '')"
        " THEN RAISE 'not in steps'; END IF; RETURN NULL; END $$"
    )
    fleet.query(
        "CREATE TRIGGER check_step AFTER DELETE ON alerts REFERENCING OLD TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION check_step()"
    )
    try:
        assert remove_search(database, "fires")
    finally:
        fleet.query("DROP FUNCTION check_step CASCADE")
    assert [(kept.name, kept.alerts) for kept in saved_searches(database)] == [("floods", 5)]
    assert {alert.search for alert in read_alerts(database)} == {"floods"}


def test_a_search_that_is_half_removed_matches_nothing_and_is_shown(fleet: Fleet, database: Database) -> None:
    fleet.query("INSERT INTO saved_searches (name, words) VALUES ('fires', '')")
    write(fleet, database, "a.mp3", "a fire")
    (kept,) = saved_searches(database)
    assert (kept.alerts, kept.problem) == (0, "it is half removed: remove it again")
    assert remove_search(database, "fires")


def test_many_alerts_are_not_counted_to_the_end(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "MOST_COUNTED", 2)
    save_search(database, "fires", "fire")
    seen = []
    for number in range(4):
        write(fleet, database, f"{number}.mp3", "a fire")
        seen += [(kept.alerts, kept.counted) for kept in saved_searches(database)]
    assert seen == [(1, "1"), (2, "2"), (3, "more than 2"), (3, "more than 2")]


def test_a_search_that_is_removed_takes_its_alerts_along(fleet: Fleet, database: Database) -> None:
    save_search(database, "fires", "fire")
    write(fleet, database, "a.mp3", "a fire")
    assert remove_search(database, "fires")
    assert not remove_search(database, "fires")
    write(fleet, database, "b.mp3", "a fire")
    assert read_alerts(database) == saved_searches(database) == []


def test_a_search_that_is_removed_while_a_transcript_is_written_costs_it_nothing(
    fleet: Fleet, database: Database
) -> None:
    save_search(database, "fires", "fire")
    audio_id = int(add_file(fleet, "a.mp3", "processing"))
    (kept,) = fleet.query("SELECT search_id, name, words FROM saved_searches")
    fleet.query("DELETE FROM saved_searches")  # between the two steps of the writer
    shown = {"audio_id": audio_id, "start": 0.0, "excerpt": ""}
    with database.transaction() as cursor:
        cursor.execute(QUERIES["save_alert"], {"search_id": kept[0], "name": kept[1], "words": kept[2], **shown})
    assert read_alerts(database) == []
    assert events(fleet) == []


@pytest.mark.parametrize(
    ("name", "words", "problem"),
    [
        ("", "fire", "name"),
        ("a\nb", "fire", "name"),
        ("x" * 101, "fire", "name"),
        ("x", "", "needs a word"),
        ("x", "!?", "needs a word"),
        ("x", "-fire", "needs a word"),
        ("x", "fire or -smoke", "needs a word"),
        ("x", "fire" * 300, "too long"),
        ("x", "fire\0", "no text"),
        ("x", "\ud800fire", "no text"),
    ],
)
def test_a_search_that_cannot_be_kept_is_refused(database: Database, name: str, words: str, problem: str) -> None:
    with pytest.raises(Permanent, match=problem):
        save_search(database, name, words)
    assert saved_searches(database) == []


def test_a_name_is_taken_once(database: Database) -> None:
    save_search(database, "fires", "fire")
    with pytest.raises(Permanent, match="already"):
        save_search(database, "fires", "smoke")
    assert [kept.words for kept in saved_searches(database)] == ["fire"]


def test_the_list_is_read_in_pages(fleet: Fleet, database: Database) -> None:
    save_search(database, "fires", "fire")
    save_search(database, "floods", "flood")
    ids = [write(fleet, database, f"{number}.mp3", "a fire") for number in range(3)]
    write(fleet, database, "x.mp3", "a flood")
    found = read_alerts(database, "fires", limit=2)
    assert [alert.audio_id for alert in found] == [ids[2], ids[1]]
    assert [alert.audio_id for alert in read_alerts(database, "fires", before=found[-1].alert_id)] == [ids[0]]
