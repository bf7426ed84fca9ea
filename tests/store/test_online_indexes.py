"""pipeline/store/online_indexes.py: indexes are built beside a fleet at work, and again where a build died."""

import itertools
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pipeline.foundation.errors import unavailable_service
from pipeline.store import database as database_module
from pipeline.store import online_indexes
from pipeline.store.database import Database
from pipeline.store.online_indexes import CONCURRENT, statements
from tests.store.test_database import at_once, run
from tests.support.child import wait_until

FILE = f"9{CONCURRENT}"
BUILD = """-- By name; and as they are.
CREATE INDEX CONCURRENTLY IF NOT EXISTS by_name ON things (name);
CREATE INDEX CONCURRENTLY IF NOT EXISTS by_half ON things ((number / 2));
ANALYZE things;
"""
VALID = (
    "SELECT relname, indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
    " WHERE relname LIKE 'by_%' ORDER BY relname"
)
BUILDERS = "SELECT pid FROM pg_stat_progress_create_index WHERE relid = 'things'::regclass"


@pytest.fixture
def url(fleet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with a table, whose index is still to be built."""
    url: str = fleet.postgres.new_database(f"online-{tmp_path.name[-20:].lower()}")
    run(url, "CREATE TABLE things AS SELECT number, 'x' || number AS name FROM generate_series(1, 1000) AS number")
    (tmp_path / FILE).write_text(BUILD)
    (tmp_path / "1.sql").write_text("SELECT")
    monkeypatch.setattr(database_module, "SCHEMA", tmp_path)
    return url


def migrate(url: str, said: list[str] | None = None) -> list[str]:
    database = Database(url)
    try:
        return database.migrate(([] if said is None else said).append)
    finally:
        database.close()


@contextmanager
def writer(url: str) -> Iterator[None]:
    """A transaction that has written to the table and is still open: a build waits for it."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO things VALUES (0, 'open')")
        yield
    finally:
        connection.close()


def building(url: str) -> bool:
    return bool(run(url, BUILDERS))


def test_the_fleet_writes_while_an_index_is_built(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_indexes, "PROGRESS_SECONDS", 0.05)
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        with writer(url):
            migrating = pool.submit(migrate, url, said)
            wait_until(lambda: "by_name: waiting for writers before build" in " ".join(said), "the build")
            run(url, "SET lock_timeout = 1000; INSERT INTO things VALUES (1001, 'meanwhile')")
            assert not migrating.done()
        assert migrating.result(60) == ["1.sql", FILE]
    assert run(url, VALID) == [("by_half", True), ("by_name", True)]
    assert run(url, "SELECT count(*) FROM pg_stats WHERE tablename = 'by_half'") == [(1,)]
    assert migrate(url) == []


def error_of_build_ended_by(url: str, function: str) -> BaseException | None:
    """What a migration ends with whose build is ended by one of PostgreSQL's functions."""
    with ThreadPoolExecutor(1) as pool, writer(url):
        migrating = pool.submit(migrate, url)
        wait_until(lambda: building(url), "the build")
        run(url, f"SELECT {function}(pid) FROM ({BUILDERS}) AS builders")
        return migrating.exception(20)


def test_a_build_that_was_interrupted_is_made_again(url: str) -> None:
    error = error_of_build_ended_by(url, "pg_terminate_backend")
    assert error is not None
    assert unavailable_service(error) == "PostgreSQL"
    assert run(url, VALID) == [("by_name", False)]
    assert run(url, "SELECT name FROM schema_migrations") == [("1.sql",)]
    said: list[str] = []
    assert migrate(url, said) == [FILE]
    assert run(url, VALID) == [("by_half", True), ("by_name", True)]
    assert said[0] == "by_name is of a build that was interrupted: it is built again"


def test_a_build_that_the_server_cancels_is_an_outage(url: str) -> None:
    error = error_of_build_ended_by(url, "pg_cancel_backend")
    assert str(error).startswith("by_name was cancelled: has the role a statement_timeout?")
    assert migrate(url) == [FILE]


def test_an_interrupt_ends_the_build(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_indexes, "PROGRESS_SECONDS", 0.01)
    began = threading.Event()

    def interrupt(_: str) -> None:
        began.set()
        raise KeyboardInterrupt

    database = Database(url)
    with writer(url), pytest.raises(KeyboardInterrupt):
        database.migrate(interrupt)
    assert began.is_set()
    assert not building(url)
    database.close()


def test_several_build_an_index_once(url: str) -> None:
    assert sorted(itertools.chain(*at_once(4, lambda _: migrate(url)))) == ["1.sql", FILE]
    assert run(url, VALID) == [("by_half", True), ("by_name", True)]


def test_the_files_of_the_project_hold_no_other_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    allowed = re.compile(r"CREATE INDEX CONCURRENTLY IF NOT EXISTS \w+\s+ON |ANALYZE \w+$")
    found = [one for path in database_module.SCHEMA.glob(f"*{CONCURRENT}") for one in statements(path.read_text())]
    assert found
    assert [one for one in found if not allowed.match(one)] == []


def test_a_statement_without_an_index_asks_for_none(url: str) -> None:
    """PostgreSQL before 16 takes an empty name for an error."""
    with Database(url).transaction() as cursor:
        for query in (online_indexes._INVALID, online_indexes._PROGRESS):
            asked = cursor.mogrify(query, ("",)).decode()
            assert "to_regclass(nullif('', ''))" in asked
            cursor.execute(asked)
            assert cursor.fetchall() == []
