"""The page's list of alerts."""

from typing import Any

import pytest
from flask import Flask

from pipeline.store.alerts import save_search
from pipeline.store.database import Database
from pipeline.web import pages
from pipeline.web.pages import make_app
from tests.store.test_alerts import write
from tests.support.fleet import Fleet
from tests.support.site_data import MARK, STORED, sources
from tests.web.test_web import ask, get


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return make_app(sources(fleet, redis, database))


def test_alerts_lead_to_the_moment_in_the_recording(app: Flask, fleet: Fleet, database: Database) -> None:
    assert "There are no alerts" in get(app, "/alerts").words
    save_search(database, "fires", "fire or smoke")
    save_search(database, "floods", "flood")
    audio_id = write(fleet, database, "a.mp3", "one", "a fire", "smoke")
    page = get(app, "/alerts")
    assert "Saved searches: 2" in page.words
    assert "one a fire smoke" in page.words
    links = [link.get("href") for link in page.all("a")]
    assert f"/files/{audio_id}#t=10.0" in links
    assert "/search?words=fire+or+smoke" in links
    assert "There are no alerts" in get(app, "/alerts?search=floods").words
    assert "a.mp3" in get(app, "/alerts?search=fires").words


def test_alerts_are_shown_in_pages(
    app: Flask, fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "ROWS", 3)
    save_search(database, "fires", "fire")
    write(fleet, database, "oldest.mp3", "a fire")
    for number in range(3):
        write(fleet, database, f"{number}.mp3", "a fire")
    page = get(app, "/alerts?search=fires")
    assert "oldest.mp3" not in page.words
    (older,) = [link.get("href") for link in page.all("a") if "before=" in (link.get("href") or "")]
    assert older is not None
    page = get(app, older)
    assert "oldest.mp3" in page.words
    assert "2.mp3" not in page.words


def test_alerts_show_hostile_text_as_it_is(app: Flask, fleet: Fleet, database: Database) -> None:
    save_search(database, f"<b>{MARK}"[:90], '"alert 1"')
    write(fleet, database, STORED, STORED)
    answer = ask(app, "/alerts")
    assert answer.status_code == 200
    assert MARK not in answer.text
    assert "\x1b" not in answer.text
    assert "&lt;b&gt;alert(1)" in answer.text


@pytest.mark.parametrize("query", ["search=%00", "search=nobody&before=x", "before=" + "9" * 99])
def test_what_is_no_alert_is_answered(app: Flask, fleet: Fleet, query: str) -> None:
    assert ask(app, f"/alerts?{query}").status_code in (200, 400)
