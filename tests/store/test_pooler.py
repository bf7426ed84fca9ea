"""Through PgBouncer in transaction mode: what we set is set for our transactions alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from pipeline.foundation.errors import unavailable_service
from pipeline.store.database import Database
from pipeline.store.search import search
from pipeline.store.search_query import Query
from pipeline.store.transcripts import every_file
from tests.store.test_database import BATCH, transcript
from tests.support.child import free_port
from tests.support.fleet import Fleet
from tests.support.pgbouncer import PgBouncer, pgbouncer_path

pytestmark = pytest.mark.skipif(pgbouncer_path() is None, reason="pgbouncer is not installed")


@pytest.fixture
def pooler(fleet: Fleet, tmp_path: Path) -> Iterator[PgBouncer]:
    with PgBouncer(tmp_path / "pgbouncer", fleet.postgres.port) as pooler:
        yield pooler


@pytest.fixture
def pooled(pooler: PgBouncer) -> Iterator[Database]:
    database = Database(pooler.url())
    yield database
    database.close()


def ask(url: str, question: str) -> Any:
    """The answer of the connection that the next one in the pool gets."""
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchone()[0]
    finally:
        connection.close()


SETTINGS = ("statement_timeout", "lock_timeout", "work_mem", "transaction_isolation", "search_path")


def test_others_get_the_connection_as_it_was(fleet: Fleet, pooler: PgBouncer, pooled: Database) -> None:
    before = [ask(fleet.postgres.url, f"SHOW {name}") for name in SETTINGS]
    backend = ask(pooler.url(), "SELECT pg_backend_pid()")
    audio_id = pooled.start_file(BATCH, "a.mp3").audio_id
    pooled.save_result(audio_id, transcript("a fire"), [])
    assert search(pooled, Query("fire"))
    assert list(every_file(pooled, Query("fire")))
    with pooled.transaction() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('statement_timeout')")
        assert cursor.fetchone() == (backend, "25s")
    assert [ask(pooler.url(), f"SHOW {name}") for name in SETTINGS] == before
    assert ask(pooler.url(), "SELECT pg_backend_pid()") == backend


def test_others_keep_the_time_limit_of_their_database(fleet: Fleet, pooler: PgBouncer) -> None:
    """Where the server has none, a limit that was taken off for good would look as before."""
    fleet.postgres.new_database("limited")
    url = pooler.url("postgres", "limited")
    with psycopg2.connect(fleet.postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute("ALTER DATABASE limited SET statement_timeout = '40s'")
    connection.close()
    backend = ask(url, "SELECT pg_backend_pid()")
    database = Database(url)
    with database.long_transaction() as cursor:
        cursor.execute("SELECT pg_backend_pid(), current_setting('statement_timeout')")
        assert cursor.fetchone() == (backend, "0")
    database.close()
    assert (ask(url, "SHOW statement_timeout"), ask(url, "SELECT pg_backend_pid()")) == ("40s", backend)


def test_what_others_have_set_does_not_bind_us(pooler: PgBouncer, pooled: Database) -> None:
    ask(pooler.url(), "SELECT set_config('statement_timeout', '1', false)")
    with pooled.transaction() as cursor:
        cursor.execute("SELECT pg_sleep(0.01)")


def test_the_schema_is_applied_through_it(fleet: Fleet, pooler: PgBouncer) -> None:
    fleet.postgres.new_database("pooled")
    database = Database(pooler.url("postgres", "pooled"))
    assert database.migrate()
    assert database.check_schema() is None
    assert ask(pooler.url("postgres", "pooled"), "SHOW statement_timeout") == "0"
    database.close()


def test_a_server_that_is_away_behind_it_is_waited_for(tmp_path: Path) -> None:
    with PgBouncer(tmp_path / "pgbouncer", free_port()) as pooler:
        database = Database(pooler.url())
        with pytest.raises(psycopg2.Error) as caught:
            database.start_file(BATCH, "a.mp3")
        assert unavailable_service(caught.value) == "PostgreSQL"
        with pytest.raises(psycopg2.Error):
            database.refusal()


def test_a_start_names_what_it_refuses(pooler: PgBouncer) -> None:
    wrong = pooler.url().replace("@", "x@")
    for url in (wrong, pooler.url("nobody"), pooler.url(database="nowhere")):
        assert str(Database(url).refusal()).startswith("DATABASE_URL: ")
