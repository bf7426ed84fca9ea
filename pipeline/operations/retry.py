"""Another try for what failed: the failed files of a batch, or a dead letter.

First PostgreSQL says that the files are to be worked on, then the archive is queued: whoever dies between the two
leaves a batch that `pipelinectl reconcile` queues. Only what is not done is worked on again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.formatting import count
from pipeline.jobs.batches import Batches, check_id, is_id, unpack_job
from pipeline.operations.failures import DeadLetter
from pipeline.store.database import Database

MOST_KEY_BYTES = 1024  # of an S3 key


@dataclass
class Retry:
    """What queues failed work again.

    `letters` are the dead letters: those of files that are tried again go. `check_archive(s3_key)` raises
    `Permanent` where S3 has no such archive; `archive_key(batch_id)` is where a batch's archive is by default.
    """

    redis: Any
    database: Database
    unpack_queue: str
    letters: list[DeadLetter]
    check_archive: Callable[[str], object]
    archive_key: Callable[[str], str]

    def __post_init__(self) -> None:
        self.batches = Batches(self.redis, "")
        self._revive = redis_client.script(self.redis, "revive")

    def batch(self, batch_id: str, names: list[str] | None = None) -> str:
        """Queue a batch's failed files again, or only those named, or the archive that could not be unpacked at
        all; gives in words what was queued.

        `Permanent` where the batch is in progress, its archive is not in S3, or one that is named has not failed.
        """
        if self.batches.is_in_work(check_id(batch_id)):
            raise Permanent(f"batch {batch_id} is in progress: its files can be tried again when it is finished")
        failed = failed_names(self.database, batch_id)
        chosen = failed if names is None else names
        if missing := sorted(set(chosen) - set(failed)):
            raise Permanent(f"batch {batch_id}: {', '.join(missing)} has not failed")
        of_archive = [letter for letter in self.letters if self._is_archive(letter, batch_id)]
        if not chosen and of_archive:
            return self._archive(batch_id, of_archive[-1].fields["s3_key"])
        if not chosen:
            raise Permanent(f"batch {batch_id} has no failed files")
        s3_key = archive_of(self.database, batch_id) or self.archive_key(batch_id)
        self.check_archive(s3_key)
        reopen(self.database, batch_id, chosen)
        self._queue(batch_id, s3_key, chosen)
        return f"{count(len(chosen), 'file')} of batch {batch_id}"

    def _is_archive(self, letter: DeadLetter, batch_id: str) -> bool:
        """Whether a dead letter's job was to unpack the batch's archive."""
        of = letter.fields
        return letter.queue == self.unpack_queue and of.get("batch_id") == batch_id and _is_key(of.get("s3_key"))

    def _archive(self, batch_id: str, s3_key: str) -> str:
        self.check_archive(s3_key)
        self._queue(batch_id, s3_key, [])
        return f"batch {batch_id}"

    def _queue(self, batch_id: str, s3_key: str, names: list[str]) -> None:
        """Queue the archive; then the dead letters of it and of these files go."""
        # without the number of files: a repaired archive may hold another one
        if not self.batches.requeue(self.unpack_queue, unpack_job(batch_id, s3_key, None)):
            way = "`reconcile --apply` has its files tried again afterwards"
            raise Permanent(f"batch {batch_id} has just come into work: {way}")
        for letter in list(self.letters):
            of_file = letter.file and letter.file[0] == batch_id and letter.file[1] in names
            if of_file or self._is_archive(letter, batch_id):
                self.forget(letter)

    def letter(self, letter: DeadLetter) -> str:
        """Try a dead letter's job again; gives in words what was queued. `Permanent` as for `batch`."""
        if letter.file is not None:
            batch_id, name = letter.file
            if name in failed_names(self.database, batch_id):
                return self.batch(batch_id, [name])
            if self.batches.is_in_work(batch_id):
                raise Permanent(f"batch {batch_id} is in progress: {name} may be done by it")
            self.forget(letter)
            return f"nothing: {name} of batch {batch_id} has not failed; the letter is gone"
        of = letter.fields.get("batch_id")
        if isinstance(of, str) and is_id(of) and self._is_archive(letter, of):
            return (
                self.batch(of) if failed_names(self.database, of) else self._archive(of, letter.fields["s3_key"])
            )
        self._take_out(letter, letter.job)
        return f"{letter.job} in {letter.queue}"

    def forget(self, letter: DeadLetter) -> None:
        """Take a dead letter out of its list."""
        self._take_out(letter, job="")

    def _take_out(self, letter: DeadLetter, job: str) -> None:
        self._revive(keys=[f"{letter.queue}:dead", letter.queue], args=[letter.letter, job])
        self.letters.remove(letter)


def _is_key(value: object) -> bool:
    """Whether there could be an object of this key in S3."""
    return isinstance(value, str) and is_storable(value) and 0 < len(value.encode()) <= MOST_KEY_BYTES


def failed_names(database: Database, batch_id: str) -> list[str]:
    """The names of a batch's failed files."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT original_filename FROM audio_files WHERE batch_id = %s AND status = 'failed'"
            " ORDER BY audio_id",
            (batch_id,),
        )
        return [name for (name,) in cursor.fetchall()]


def archive_of(database: Database, batch_id: str) -> str | None:
    """The S3 key that a batch was unpacked from; None where it never was."""
    with database.transaction() as cursor:
        cursor.execute("SELECT s3_key FROM batches WHERE batch_id = %s", (batch_id,))
        row = cursor.fetchone()
        return row and str(row[0])


def reopen(database: Database, batch_id: str, names: list[str]) -> None:
    """Have these failed files worked on again when their archive is next unpacked."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'processing', error = NULL, updated_at = now()"
            " WHERE batch_id = %s AND original_filename = ANY(%s) AND status = 'failed'",
            (batch_id, names),
        )
        cursor.execute("UPDATE batches SET finished_at = NULL WHERE batch_id = %s", (batch_id,))
