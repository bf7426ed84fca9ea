"""Who has read what, in the audit log: no page waits for it, and what is lost is counted."""

import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from pipeline.store.audit import read_entries
from pipeline.store.database import Database
from pipeline.web import reading_log
from pipeline.web.login import Access
from pipeline.web.pages import make_app
from pipeline.web.reading_log import REPEAT_SECONDS, ReadingLog, mark_of
from tests.support.child import wait_until
from tests.support.fleet import Fleet
from tests.support.site_data import TOKEN, seed, sources
from tests.support.steps import BATCH

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def noting(database: Database) -> Iterator[ReadingLog]:
    made = ReadingLog(database)
    yield made
    made.close()


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database, noting: ReadingLog) -> Flask:
    return make_app(sources(fleet, redis, database, access=Access(database, log=noting)))


def ask(app: Flask, address: str, code: int = 200) -> None:
    answer = app.test_client().get(address, headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == code, answer.text
    answer.close()


def entries(database: Database, number: int) -> list[tuple[str, str, dict[str, Any]]]:
    """The entries of the log, the oldest first, when there are so many."""
    wait_until(lambda: len(read_entries(database, 100)) >= number, f"{number} entries")
    found = reversed(read_entries(database, 100))
    return [(entry.action, entry.subject, entry.detail) for entry in found]


def test_what_is_read_is_noted(app: Flask, fleet: Fleet, redis: Any, database: Database) -> None:
    heard = seed(fleet, redis)["heard"]
    for path, code in (
        (f"/files/{heard}", 200), (f"/files/{heard}/audio", 302), (f"/files/{heard}/transcript.vtt", 200),
        ("/search?words=Fire&tag=Siren&meta=caller%3D555", 200), (f"/batches/{BATCH}/transcripts/csv", 200),
        ("/search/transcripts/txt?words=fire", 200), ("/alerts", 200),
        (f"/api/v1/files/{heard}/transcript?format=json", 200),
        ("/api/v1/search?words=fire%20&language=en", 200),
    ):  # fmt: skip
        ask(app, path, code)
    mark = f"words:{mark_of('fire')}"
    found = entries(database, 9)
    assert found[:4] == [
        ("read", str(heard), {}), ("listen", str(heard), {}), ("download", str(heard), {"kind": "vtt"}),
        ("search", mark, {"tag": "Siren", "meta": "caller"}),
    ]  # fmt: skip
    assert found[4:] == [
        ("export", BATCH, {"kind": "csv"}), ("export", mark, {"kind": "txt"}), ("read", "alerts", {}),
        ("read", f"{heard}", {"format": "json"}), ("search", mark, {"language": "en"}),
    ]  # fmt: skip
    assert {entry.actor for entry in read_entries(database, 100)} == {"page"}
    told = str(fleet.query("SELECT audit::text FROM audit"))
    assert "ire" not in told.replace("Siren", "")  # no word of a search
    assert "555" not in told  # no number of a caller


def test_what_nobody_has_read_is_not_noted(app: Flask, fleet: Fleet, redis: Any, database: Database) -> None:
    heard = seed(fleet, redis)["heard"]
    for path, code in (
        ("/", 200), ("/batches", 200), ("/failures", 200), ("/runbook", 200), ("/search", 200),
        ("/files/999999", 404), ("/search?words=fire&since=never", 400), ("/api/v1/labels", 200),
    ):  # fmt: skip
        ask(app, path, code)
    assert app.test_client().get(f"/files/{heard}").status_code == 302
    ask(app, f"/files/{heard}")
    assert entries(database, 1) == [("read", str(heard), {})]


def test_hostile_requests_are_noted(app: Flask, database: Database) -> None:
    ask(app, "/search?words=%ED%A0%80x&language=%ff%00", 400)
    ask(app, "/search?words=x&language=%ff%1b[31m" + "y" * 500)
    ask(app, "/search?" + "&".join(f"meta=k{number}%3Dv" for number in range(20)))
    ((_, _, first), _) = entries(database, 2)
    assert len(first["language"]) == reading_log.MOST_VALUE


def test_the_same_again_is_noted_once_a_minute(database: Database) -> None:
    now = [1000.0]
    noting = ReadingLog(database, lambda: now[0])
    for seconds in (0, 1, REPEAT_SECONDS - 1, REPEAT_SECONDS, REPEAT_SECONDS + 1):
        now[0] = 1000.0 + seconds
        noting.add("page", "read", "1", {})
    noting.add("token:a", "read", "1", {})
    noting.add("page", "read", "1", {"kind": "txt"})
    noting.close()
    assert len(read_entries(database, 100)) == 4


class Server:
    """A database that answers when it is let."""

    def __init__(self, real: Database) -> None:
        self.real, self.is_up = real, threading.Event()

    def transaction(self) -> Any:
        if not self.is_up.is_set():
            return Database(NOWHERE).transaction()
        return self.real.transaction()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_log, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(reading_log, "MOST_WAITING", 50)


def test_entries_wait_for_postgresql_and_keep_their_time(
    quick: None, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    server: Any = Server(database)
    noting = ReadingLog(server)
    noting.add("page", "read", "1", {})
    before = time.time()
    time.sleep(0.5)
    noting.add("page", "read", "2", {})
    server.is_up.set()
    assert [subject for _, subject, _ in entries(database, 2)] == ["1", "2"]
    assert read_entries(database, 2)[1].at.timestamp() <= before
    assert caplog.text.count("the audit log waits for PostgreSQL") == 1
    noting.close()


def test_what_is_lost_is_counted(quick: None, database: Database, caplog: pytest.LogCaptureFixture) -> None:
    server: Any = Server(database)
    noting = ReadingLog(server)
    since = time.monotonic()
    for number in range(73):
        noting.add("page", "read", str(number), {})
    assert time.monotonic() - since < 1  # nobody has waited
    server.is_up.set()
    found = entries(database, 51)
    noting.close()
    assert len(found) == 51
    assert ("entries lost", "23", {}) in found
    assert caplog.text.count("the audit log loses entries: 50 wait for PostgreSQL") == 1


def test_what_cannot_be_written_at_the_end_is_told(
    quick: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    noting = ReadingLog(Database(NOWHERE))
    noting.add("page", "read", "1", {})
    noting.add("page", "read", "2", {})
    noting.close()
    assert "2 entries of the audit log are lost" in caplog.text


def test_a_page_fails_for_no_fault_of_the_log(
    quick: None, fleet: Fleet, redis: Any, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    noting = ReadingLog(Database(NOWHERE))
    app = make_app(sources(fleet, redis, database, access=Access(database, log=noting)))
    for number in range(60):
        ask(app, f"/search?words=a{number}")
    noting.close()


def test_the_command_writes_what_waits_when_it_is_stopped(fleet: Fleet, redis: Any, database: Database) -> None:
    heard = seed(fleet, redis)["heard"]
    for setting, number in (("on", 1), ("off", 0)):
        fleet.query("DELETE FROM audit")
        web, address = fleet.page(TOKEN, WEB_AUDIT=setting)
        asked = urllib.request.Request(f"{address}/files/{heard}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(asked, timeout=10) as answer:
            assert answer.status == 200
        web.stop()
        assert len(read_entries(database, 9)) == number
