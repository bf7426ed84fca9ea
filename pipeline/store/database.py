"""The rows in PostgreSQL. Every method is one transaction and may be repeated."""

import json
import select
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg2
import psycopg2.errors
import psycopg2.extensions

from pipeline.foundation.errors import Outage, unavailable_service
from pipeline.foundation.file_warnings import FileWarning, as_json
from pipeline.speech.transcript import Label, Segment, Transcript

SCHEMA = Path(__file__).parents[2] / "schema"
ADDITIVE = ".additive.sql"  # ends the name of a file of schema/ that code from before it does not notice
_SQL = Path(__file__).parent / "sql"
CONNECTIONS = 3  # of a process: a fleet of forty hosts has 240 at most
ANSWER_SECONDS, CONNECT_SECONDS = 30.0, 10.0  # the longest wait for the server
STATEMENT_SECONDS = 25  # after which the server fails: before we do, or its backends pile up
NAMES_AT_A_TIME = 5000  # rows of a statement, which a slow server must end in that time, however large the archive
LOCK_SECONDS = 15  # that `migrate` waits for a table that is in use: whoever asks for it meanwhile waits behind it
_EVENTS = {psycopg2.extensions.POLL_READ: select.POLLIN, psycopg2.extensions.POLL_WRITE: select.POLLOUT}
# What a server that refuses us, and libpq, say: a connection that failed carries no code. A file that libpq cannot
# find "does not exist" either. Only a worker that starts goes by these words: see `refusal`.
_REFUSALS = (
    "password authentication failed", "does not exist", "no pg_hba.conf entry", "is not permitted",
    "certificate verify failed", "does not match host name", "does not support SSL", "alert bad certificate",
    "alert certificate required", "alert unknown ca",
)  # fmt: skip
_OPTIONAL = ("mark", "reason", "channel")  # fields of a segment that are not stored where they are None
_LOCK = 0x617564696F  # "audio": the advisory lock that lets one process at a time apply the schema


@dataclass(frozen=True)
class AudioRow:
    """A file's row: its id, its status and the day (UTC, YYYY-MM-DD) of its S3 key."""

    audio_id: int
    status: str
    date: str


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


class Database:
    """A few connections for all threads of a process, made when they are needed and again after an outage."""

    def __init__(self, url: str, connections: int = CONNECTIONS) -> None:
        self._url = url
        self._room = threading.BoundedSemaphore(connections)
        self._idle: deque[Any] = deque()

    @contextmanager
    def transaction(self, answer_seconds: float | None = ANSWER_SECONDS) -> Iterator[Any]:
        """A cursor in a transaction, which ends with the block. A server that is silent so long is unavailable."""
        if not self._room.acquire(timeout=ANSWER_SECONDS):
            raise psycopg2.OperationalError(f"no connection came free within {ANSWER_SECONDS:.0f} s")
        try:
            connection = self._connection()
            connection.answer_seconds = answer_seconds
            try:
                with connection.cursor() as cursor:
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
            except psycopg2.OperationalError:
                if number == len(hosts) - 1:
                    raise
        raise AssertionError("split gives one host at least")

    def _connect(self, **where: str | None) -> Any:
        connection = psycopg2.connect(
            self._url, connection_factory=_Connection, application_name="audio-pipeline",
            keepalives_idle=30, keepalives_interval=10, keepalives_count=3,
            **{name: value for name, value in where.items() if value},
        )  # fmt: skip
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = %s", (1000 * STATEMENT_SECONDS,))
        connection.commit()
        return connection

    def close(self) -> None:
        """Close the connections that are not in use; the next call makes a new one."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    def start_file(self, batch_id: str, original_filename: str) -> AudioRow:
        """The file's row, made as one in progress where it is missing; one that is settled stays so."""
        with self.transaction() as cursor:
            cursor.execute(_query("start_file"), {"batch_id": batch_id, "original_filename": original_filename})
            return AudioRow(*cursor.fetchone())

    def save_result(
        self, audio_id: int, transcript: Transcript, labels: list[Label], warnings: Sequence[FileWarning] = ()
    ) -> None:
        """Write what was heard and what is wrong with the recording: columns of the row, transcript, labels."""
        noted = json.dumps([_storable_fields(warning) for warning in as_json(warnings)]) if warnings else None
        with self.transaction() as cursor:
            languages = transcript.languages or None
            cursor.execute(
                "UPDATE audio_files SET duration_seconds = %s, channels = %s, language = %s, languages = %s,"
                " warnings = %s::jsonb, updated_at = now() WHERE audio_id = %s",
                (
                    transcript.duration_seconds,
                    transcript.channels,
                    transcript.language,
                    languages,
                    noted,
                    audio_id,
                ),
            )
            row = {"audio_id": audio_id, "text": _storable(transcript.text), "model": transcript.model}
            segments = [_segment(part) for part in transcript.segments]
            cursor.execute(_query("save_transcript"), {**row, "segments": json.dumps(segments)})
            cursor.execute("DELETE FROM classifications WHERE audio_id = %s", (audio_id,))
            cursor.executemany(
                "INSERT INTO classifications (audio_id, classifier, label, score) VALUES (%s, %s, %s, %s)",
                [(audio_id, label.classifier, label.name, label.score) for label in labels],
            )

    def update_audio_s3_path(self, audio_id: int, s3_opus_path: str) -> None:
        """The last step of a file: its Opus is kept, its row is done."""
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE audio_files SET s3_opus_path = %s, status = 'done', error = NULL, updated_at = now()"
                " WHERE audio_id = %s",
                (s3_opus_path, audio_id),
            )

    def fail_file(self, batch_id: str, original_filename: str, error: str) -> None:
        """Mark a file as failed with the reason, unless it is done."""
        row = {"batch_id": batch_id, "original_filename": original_filename, "error": _storable(error)}
        with self.transaction() as cursor:
            cursor.execute(_query("fail_file"), row)

    def open_batch(self, batch_id: str, s3_key: str, names: list[str], host: str) -> None:
        """Note that an archive with these audio files is being unpacked on `host`; each has its row from here."""
        row = {"batch_id": batch_id, "s3_key": s3_key, "file_count": len(names), "host": host}
        with self.transaction() as cursor:
            cursor.execute(_query("open_batch"), row)
            for start in range(0, len(names), NAMES_AT_A_TIME):
                cursor.execute(
                    "INSERT INTO audio_files (batch_id, original_filename) SELECT %s, unnest(%s::text[])"
                    " ON CONFLICT DO NOTHING",
                    (batch_id, names[start : start + NAMES_AT_A_TIME]),
                )

    def unsettled_files(self, batch_id: str) -> list[str]:
        """The batch's files that are neither done nor failed."""
        with self.transaction() as cursor:
            cursor.execute(
                "SELECT original_filename FROM audio_files WHERE batch_id = %s AND status = 'processing'"
                " ORDER BY audio_id",
                (batch_id,),
            )
            return [name for (name,) in cursor.fetchall()]

    def finish_batch(self, batch_id: str) -> None:
        """Note that every file of the batch is done or failed."""
        with self.transaction() as cursor:
            cursor.execute(
                "UPDATE batches SET finished_at = now() WHERE batch_id = %s AND finished_at IS NULL", (batch_id,)
            )

    def is_finished(self, batch_id: str) -> bool:
        """Whether every file of the batch is done or failed."""
        with self.transaction() as cursor:
            cursor.execute("SELECT 1 FROM batches WHERE batch_id = %s AND finished_at IS NOT NULL", (batch_id,))
            return cursor.fetchone() is not None

    def settled_files(self, batch_id: str) -> dict[str, str]:
        """The batch's files that need no more work: name -> 'processed' or 'failed', as Redis counts them."""
        with self.transaction() as cursor:
            cursor.execute(
                "SELECT original_filename, CASE status WHEN 'done' THEN 'processed' ELSE 'failed' END"
                " FROM audio_files WHERE batch_id = %s AND status IN ('done', 'failed')",
                (batch_id,),
            )
            return dict(cursor.fetchall())

    def refusal(self) -> str | None:
        """Why the server refuses us (password, role, database), or we its certificate, in one line; None where all
        is well.

        For a start alone: it is told by words, and at work the same error is an outage whatever it says.
        """
        try:
            with self.transaction():
                return None
        except psycopg2.OperationalError as error:
            lines = [] if error.pgcode else str(error).splitlines()
            reason = next((line for line in lines if any(words in line for words in _REFUSALS)), None)
            if reason is None:
                raise
            return f"DATABASE_URL: {reason}"

    def check_schema(self) -> str | None:
        """What is wrong with the server or its schema, in one line; None where the schema is the code's.

        So it is where a newer release has only added to it: releases may change host by host, and back.
        """
        if problem := self.refusal():
            return problem
        with self.transaction() as cursor:
            cursor.execute("SELECT to_regclass('schema_migrations')")
            applied = set()
            if cursor.fetchone()[0] is not None:
                cursor.execute("SELECT name FROM schema_migrations")
                applied = {name for (name,) in cursor.fetchall()}
        ours = {path.name for path in SCHEMA.glob("*.sql")}
        if missing := sorted(ours - applied):
            return f"the schema lacks {', '.join(missing)}: run `python pipelinectl.py migrate`"
        if newer := sorted(name for name in applied - ours if not name.endswith(ADDITIVE)):
            return f"the schema has {', '.join(newer)}, which this release does not know: deploy a newer one"
        return None

    def migrate(self) -> list[str]:
        """Apply the files of `schema/` that are not applied yet, all or none; gives their names.

        `Outage` where somebody reads a table for long, as an export does: the workers must not wait for that.
        """
        with self.long_transaction() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            cursor.execute("SET LOCAL lock_timeout = %s", (1000 * LOCK_SECONDS,))
            cursor.execute(
                "CREATE TABLE IF NOT EXISTS schema_migrations"
                " (name TEXT PRIMARY KEY, applied_at TIMESTAMPTZ NOT NULL DEFAULT now())"
            )
            cursor.execute("SELECT name FROM schema_migrations")
            applied = {name for (name,) in cursor.fetchall()}
            new = [path for path in sorted(SCHEMA.glob("*.sql")) if path.name not in applied]
            for path in new:
                try:
                    cursor.execute(path.read_text())
                except psycopg2.errors.LockNotAvailable as error:
                    reason = f"nothing was changed by {path.name}: a table is in use, by an export perhaps"
                    raise Outage("PostgreSQL", reason) from error
                cursor.execute("INSERT INTO schema_migrations (name) VALUES (%s)", (path.name,))
        return [path.name for path in new]


def _segment(segment: Segment) -> dict[str, Any]:
    """The segment as it stands in `transcripts`; `mark`, `reason` and `channel` only where it has them."""
    words = [_storable_fields(vars(word)) for word in segment.words or ()]
    fields = _storable_fields({**vars(segment), "words": words})
    return {name: value for name, value in fields.items() if name not in _OPTIONAL or value is not None}


def _storable_fields(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _storable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _storable(text: str) -> str:
    """The text without what PostgreSQL cannot hold: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def _query(name: str) -> str:
    return (_SQL / f"{name}.sql").read_text()
