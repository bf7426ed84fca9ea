"""Indexes on big tables, built while the fleet reads and writes them: `schema/*.concurrent.additive.sql`.

Their statements (CREATE INDEX CONCURRENTLY IF NOT EXISTS, ANALYZE) run one by one outside a transaction. A build
that is interrupted leaves an index that is not valid: the next run drops it and builds it again. No transaction of
ours is open meanwhile, since a build waits for all that began before it.
"""

import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg2.errors

from pipeline.foundation.errors import Outage
from pipeline.store.connection_pool import ConnectionPool

CONCURRENT = ".concurrent.additive.sql"  # ends the name of such a file
PROGRESS_SECONDS = 10
ATTEMPTS = 5
TURN_SECONDS = 0.5  # between looks at what another process builds
# Of a statement that makes no index the name is '', which PostgreSQL before 16 takes for an error.
_CREATED = re.compile(r"CREATE INDEX CONCURRENTLY IF NOT EXISTS (\w+)\s")
_INVALID = "SELECT FROM pg_index WHERE indexrelid = to_regclass(nullif(%s, '')) AND NOT indisvalid"
_PROGRESS = (
    "SELECT phase, round(100.0 * (blocks_done + tuples_done) / nullif(blocks_total + tuples_total, 0))::int"
    " FROM pg_stat_progress_create_index WHERE index_relid = to_regclass(nullif(%s, ''))"
)
_NOTE = "INSERT INTO schema_migrations (name) VALUES (%s) ON CONFLICT DO NOTHING"


def statements(sql: str) -> list[str]:
    """The statements of such a file."""
    plain = re.sub(r"--.*", "", sql)
    return [statement.strip() for statement in plain.split(";") if statement.strip()]


def build(pool: ConnectionPool, path: Path, say: Callable[[str], None]) -> bool:
    """Build the indexes of a file that is not applied yet, and note it as applied; gives whether it was not.

    Several processes may do so at once. `Outage` where PostgreSQL ends a build; what is built by then stays.
    """
    if _rows(pool, "SELECT FROM schema_migrations WHERE name = %s", path.name):
        return False
    for statement in statements(path.read_text()):
        _run_beside_others(pool, statement, say)
    with pool.transaction() as cursor:
        cursor.execute(_NOTE, (path.name,))
        return bool(cursor.rowcount)


def _run_beside_others(pool: ConnectionPool, statement: str, say: Callable[[str], None]) -> None:
    """Run a statement while other processes may do so: PostgreSQL breaks a deadlock of the two by ending one, and
    may find that both change the same row of its catalogue."""
    for _ in range(ATTEMPTS - 1):
        with suppress(psycopg2.errors.DeadlockDetected, psycopg2.errors.InternalError_):
            return _run(pool, statement, say)
    return _run(pool, statement, say)


def _run(pool: ConnectionPool, statement: str, say: Callable[[str], None]) -> None:
    """Run a statement, behind another process that builds its index."""
    created = _CREATED.match(statement)
    name = created[1] if created else ""
    while _rows(pool, _PROGRESS, name):  # by another process, or for one that has died
        time.sleep(TURN_SECONDS)
    try:
        with pool.outside_transaction() as builder:
            if _rows(pool, _INVALID, name):
                say(f"{name} is of a build that was interrupted: it is built again")
                builder.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            _watched(builder, pool, statement, name, say)
    except psycopg2.errors.QueryCanceled as error:
        reason = f"{name or statement} was cancelled: has the role a statement_timeout? `migrate` goes on with it"
        raise Outage("PostgreSQL", reason) from error


def _watched(builder: Any, pool: ConnectionPool, statement: str, name: str, say: Callable[[str], None]) -> None:
    """Run a statement in a thread; this one asks how far it is, or ends it when it is interrupted itself."""
    with ThreadPoolExecutor(1) as thread:
        building = thread.submit(builder.execute, statement)
        try:
            while not wait([building], PROGRESS_SECONDS).done:
                for phase, percent in _rows(pool, _PROGRESS, name):
                    say(f"{name}: {phase}" + ("" if percent is None else f", {percent} %"))
        except BaseException:
            builder.connection.cancel()
            raise
        building.result()


def _rows(pool: ConnectionPool, query: str, value: str) -> list[tuple[Any, ...]]:
    with pool.transaction() as cursor:
        cursor.execute(query, (value,))
        return list(cursor.fetchall())
