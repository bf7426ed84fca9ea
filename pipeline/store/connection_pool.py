"""Connections to PostgreSQL: a few for all threads of a process, with limits on every wait."""

import select
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg2
import psycopg2.extensions

from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import endpoint

CONNECTIONS = 3  # of a process: a fleet of forty hosts has 240 at most
ANSWER_SECONDS, CONNECT_SECONDS = 30.0, 10.0  # the longest wait for the server
STATEMENT_SECONDS = 25  # after which the server fails: before we do, or its backends pile up
_EVENTS = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}
# What a server that refuses us, and libpq, say: a connection that failed carries no code. A file that libpq cannot
# find "does not exist" either. Only a worker that starts decides by these words: see `refusal`.
_REFUSALS = (
    "password authentication failed", "does not exist", "no pg_hba.conf entry", "is not permitted",
    "certificate verify failed", "does not match host name", "does not support SSL", "alert bad certificate",
    "alert certificate required", "alert unknown ca", "invalid sslmode value",
    "SASL authentication failed", "no such database",  # PgBouncer
)  # fmt: skip


class _Connection(psycopg2.extensions.connection):
    """A connection that does not wait for ever: libpq itself would, with signals unheard."""

    answer_seconds: float | None = CONNECT_SECONDS  # until it is in use


def _wait(connection: Any) -> None:
    """Wait for the server (psycopg2's wait callback); OperationalError where it is silent for too long."""
    seconds = getattr(connection, "answer_seconds", None)
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        poller = select.poll()
        poller.register(connection, _EVENTS[state])
        if not poller.poll(seconds and 1000 * seconds):
            raise psycopg2.OperationalError(f"no answer within {seconds:.0f} s")


psycopg2.extensions.set_wait_callback(_wait)


class ConnectionPool:
    """Connections that are made when they are needed, and again after an outage."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self._url = url
        self._room = threading.BoundedSemaphore(connections)
        self._idle: deque[Any] = deque()

    @contextmanager
    def transaction(self, answer_seconds: float | None = ANSWER_SECONDS) -> Iterator[Any]:
        """A cursor in a transaction, which ends with the block. A server that is silent so long is unavailable."""
        if not self._room.acquire(timeout=ANSWER_SECONDS):
            raise psycopg2.OperationalError(f"no connection became free within {ANSWER_SECONDS:.0f} s")
        try:
            connection = self._connection()
            connection.answer_seconds = answer_seconds
            try:
                with connection.cursor() as cursor:
                    # For this transaction alone: a pooler gives the session to others after it.
                    cursor.execute("SET LOCAL statement_timeout = %s", (1000 * STATEMENT_SECONDS,))
                    yield cursor
                connection.commit()
            except BaseException as error:
                if unavailable_service(error):  # the idle ones lead to the same server
                    connection.close()
                    self.close()
                elif not connection.closed:
                    connection.rollback()
                raise
            finally:
                if not connection.closed:
                    self._idle.append(connection)
        finally:
            self._room.release()

    @contextmanager
    def long_transaction(self) -> Iterator[Any]:
        """As `transaction`, with statements that may take any time, as reading a whole table or indexing it."""
        with self.transaction(answer_seconds=None) as cursor:
            cursor.execute("SET LOCAL statement_timeout = 0")
            yield cursor

    @contextmanager
    def outside_transaction(self) -> Iterator[Any]:
        """A cursor on a connection of its own, each of whose statements is a transaction and may take any time."""
        connection = self._connection()
        try:
            connection.answer_seconds = None
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor
        finally:
            connection.close()

    def _connection(self) -> Any:
        """An idle connection, or a new one to the first of the hosts that takes it: libpq's own way through
        several hosts knows no time limit beside a wait callback."""
        with suppress(IndexError):
            return self._idle.pop()
        given = psycopg2.extensions.parse_dsn(self._url)
        hosts, ports = given.get("host", "").split(","), given.get("port", "").split(",")
        for number, host in enumerate(hosts):
            try:
                return self._connect(host=host or None, port=ports[number % len(ports)] or None)
            except psycopg2.OperationalError as error:
                if number == len(hosts) - 1:
                    reason = _reason(error, host, ports[number % len(ports)])
                    raise psycopg2.OperationalError(reason) from error
        raise AssertionError("split gives one host at least")

    def _connect(self, **where: str | None) -> Any:
        return psycopg2.connect(
            self._url, connection_factory=_Connection, application_name="audio-pipeline",
            keepalives_idle=30, keepalives_interval=10, keepalives_count=3,
            **{name: value for name, value in where.items() if value},
        )  # fmt: skip

    def close(self) -> None:
        """Close the connections that are not in use; the next call makes a new one."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def refusal(self) -> str | None:
        """Why the server refuses us (password, role, database), or we its certificate, in one line; None where all
        is well.

        For a start alone: it decides by the server's words, and at work the same error is an outage whatever it
        says.
        """
        try:
            with self.transaction():
                return None
        except psycopg2.OperationalError as error:
            lines = [] if error.pgcode else str(error.__cause__ or error).splitlines()
            reason = next((line for line in lines if any(words in line for words in _REFUSALS)), None)
            if reason is None:
                raise
            return f"DATABASE_URL: {reason}"


def _reason(error: psycopg2.OperationalError, host: str, port: str) -> str:
    """Why there is no connection, in one line that names the server: beside a wait callback libpq does not."""
    reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return reason if not host or host in reason else f"{endpoint(host, int(port or 5432))}: {reason}"
