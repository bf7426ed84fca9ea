"""What S3 keeps of a file beside its Opus, as `processed/{date}/{audio_id}.json`: all that a lost database needs
to have the file again (`pipeline/store/transcript_restore.py`).

It is written after the Opus and before the row is done: a file that is done has both, and what has a JSON has its
Opus. PostgreSQL makes the JSON from the row, so that it says what the row says, whoever writes it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.store.database import Database
from pipeline.store.queries import QUERIES

SUFFIX = ".json"
_ROWS_AT_A_TIME = 2000


class TranscriptFiles:
    """Writes the transcripts of files to S3 by `put(key, JSON)`."""

    def __init__(self, database: Database, put: Callable[[str, str], object]) -> None:
        self._database, self._put = database, put

    def keep(self, audio_id: int) -> None:
        """Write what PostgreSQL knows of a file by now; nothing where it was deleted. It may be repeated."""
        with self._database.transaction() as cursor:
            found = _read(cursor, audio_id)
        if found:
            self._put(*found)

    def keep_settled(self, audio_id: int) -> bool:
        """As `keep`, of a file that no worker has in hand: who deletes it meanwhile waits, and deletes this too.
        False where it is gone."""
        with self._database.transaction() as cursor:
            cursor.execute(
                "SELECT FROM audio_files WHERE audio_id = %s AND status = 'done' FOR KEY SHARE", (audio_id,)
            )
            found = _read(cursor, audio_id) if cursor.rowcount else None
            if found:
                self._put(*found)
        return found is not None


def _read(cursor: Any, audio_id: int) -> tuple[str, str] | None:
    """The key of a file's transcript in S3, and the JSON; None where there is no such file."""
    cursor.execute(QUERIES["read_transcript_file"], {"audio_id": audio_id})
    row: tuple[str, str] | None = cursor.fetchone()
    return row


@contextmanager
def files_without(database: Database, keys: Iterable[str]) -> Iterator[Iterator[tuple[int, bool]]]:
    """Every file that is done, by its id, and whether its transcript is not among the keys, which ascend."""
    with database.long_transaction() as cursor, cursor.connection.cursor("transcript_keys") as rows:
        rows.itersize = _ROWS_AT_A_TIME
        rows.execute(QUERIES["transcript_keys"])
        yield _compare(rows, iter(keys))


def _compare(rows: Iterable[tuple[str, int]], keys: Iterator[str]) -> Iterator[tuple[int, bool]]:
    key = next(keys, None)
    for wanted, audio_id in rows:
        while key is not None and key < wanted:
            key = next(keys, None)
        yield audio_id, key != wanted
