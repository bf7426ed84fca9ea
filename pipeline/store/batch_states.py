"""What PostgreSQL knows of every batch, and what is noted when it is compared with S3 and Redis."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.store.database import Database
from pipeline.store.queries import QUERIES

Row = tuple[str, int, str]  # S3 key, audio id, batch id
ROWS_AT_A_TIME = 2000


@dataclass(frozen=True)
class Known:
    """What PostgreSQL holds of a batch."""

    s3_key: str = ""
    file_count: int | None = None  # None: it was never opened
    finished: bool = False
    rows: int = 0  # of one that is not finished
    unsettled: int = 0

    def archive(self, batch_id: str) -> str:
        """The S3 key of its archive, which may have been queued by hand from another place in S3."""
        return self.s3_key or f"archives/{batch_id}.tar"


def known_batches(database: Database) -> dict[str, Known]:
    """Every batch that has been opened, or has files that are neither done nor failed."""
    query = """
        SELECT batch_id, coalesce(s3_key, ''), file_count, finished_at IS NOT NULL,
               CASE WHEN finished_at IS NULL
                    THEN (SELECT count(*) FROM audio_files WHERE audio_files.batch_id = known.batch_id) ELSE 0 END,
               coalesce(undecided, 0)
        FROM (SELECT * FROM batches FULL JOIN
                  (SELECT batch_id, count(*) AS undecided FROM audio_files WHERE status = 'processing' GROUP BY 1)
                  AS files USING (batch_id)) AS known"""
    with database.long_transaction() as cursor:
        cursor.execute(query)
        return {batch_id: Known(*rest) for batch_id, *rest in cursor.fetchall()}


@contextmanager
def done_rows(database: Database) -> Iterator[Iterator[Row]]:
    """The files that are done: S3 key, audio id and batch id, ascending by key as S3 sorts; read in pieces."""
    query = (
        "DECLARE done NO SCROLL CURSOR FOR SELECT s3_opus_path, audio_id, batch_id FROM audio_files"
        " WHERE status = 'done' AND s3_opus_path IS NOT NULL ORDER BY s3_opus_path COLLATE \"C\""
    )

    def fetch(cursor: Any) -> Iterator[Row]:
        while True:
            cursor.execute(f"FETCH {ROWS_AT_A_TIME} FROM done")
            rows = cursor.fetchall()
            if not rows:
                return
            yield from rows

    with database.long_transaction() as cursor:
        cursor.execute(query)
        yield fetch(cursor)


def rows_of(database: Database, audio_ids: list[int]) -> dict[int, tuple[str, str | None]]:
    """Status and S3 key of these files."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT audio_id, status, s3_opus_path FROM audio_files WHERE audio_id = ANY(%s::bigint[])",
            (audio_ids,),
        )
        return {audio_id: (status, path) for audio_id, status, path in cursor.fetchall()}


def unfinish(database: Database, batch_id: str) -> bool:
    """Note that a batch with files to do is not finished after all; False where it has none and is finished."""
    with database.transaction() as cursor:
        named = {"batch_id": batch_id}
        cursor.execute(
            "UPDATE batches SET finished_at = NULL WHERE batch_id = %(batch_id)s AND EXISTS"
            " (SELECT FROM audio_files WHERE batch_id = %(batch_id)s AND status = 'processing')",
            named,
        )
        cursor.execute("SELECT FROM batches WHERE batch_id = %(batch_id)s AND finished_at IS NOT NULL", named)
        return cursor.fetchone() is None


def mark_finished(database: Database, batch_id: str) -> bool:
    """Note that a batch is finished; False where it is already, or has files to do."""
    with database.transaction() as cursor:
        cursor.execute(QUERIES["finish_batch"], {"batch_id": batch_id, "whatever": False})
        return bool(cursor.rowcount)


def forget_opus(database: Database, audio_ids: list[int]) -> None:
    """Have files worked on again whose Opus is gone. The key stays: it says that the file was done, and what was
    done does not fail."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'processing', updated_at = now()"
            " WHERE audio_id = ANY(%s::bigint[]) AND status = 'done'",
            (audio_ids,),
        )
