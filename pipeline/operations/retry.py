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
from pipeline.foundation.formatting import count, did_you_mean
from pipeline.jobs.batches import Batches, check_id, is_id, unpack_job
from pipeline.operations.failures import DeadLetter
from pipeline.store import audit
from pipeline.store.database import Database

MOST_KEY_BYTES = 1024  # of an S3 key
Note = Callable[[Any, str, list[str]], object]  # a cursor, a batch id, and names of its files


class Unknown(Permanent):
    """There is no such batch, or no such file in it."""


def noted_by(actor: str) -> Note:
    """What notes in the audit log that this actor has something tried again."""
    return lambda cursor, batch_id, files: audit.note(
        cursor, actor, "retry", batch_id, {"files": len(files)} if files else None
    )


def _no_note(_cursor: Any, _batch_id: str, _files: list[str]) -> None:
    """What notes nothing."""


@dataclass
class Retry:
    """What queues failed work again.

    `dead_letters` are all there are: those of files that are tried again go. `check_archive(s3_key)` raises
    `Permanent` where S3 has no such archive; `archive_key(batch_id)` is where a batch's archive is by default.
    `note(cursor, batch_id, files)` is called in the transaction before anything of a batch is queued, with the
    files that are tried again; none where it is the whole archive.
    """

    redis: Any
    database: Database
    unpack_queue: str
    dead_letters: list[DeadLetter]
    check_archive: Callable[[str], object]
    archive_key: Callable[[str], str]
    note: Note = _no_note

    def __post_init__(self) -> None:
        self.batches = Batches(self.redis, "")
        self._revive = redis_client.script(self.redis, "revive")

    def batch(self, batch_id: str, names: list[str] | None = None) -> str:
        """Queue a batch's failed files again, or only those named, or the archive that could not be unpacked at
        all; gives in words what was queued.

        `Permanent` where the batch is in progress, its archive is not in S3, or one that is named has not failed;
        `Unknown` where nothing has this name.
        """
        if self.batches.is_in_work(check_id(batch_id)):
            raise Permanent(f"batch {batch_id} is in progress: its files can be tried again when it is finished")
        failed = failed_names(self.database, batch_id)
        chosen = failed if names is None else names
        of_archive = [dead_letter for dead_letter in self.dead_letters if self._is_archive(dead_letter, batch_id)]
        if not failed and not of_archive and not is_known(self.database, batch_id):
            raise Unknown(f"there is no batch {batch_id}")
        if missing := sorted(set(chosen) - set(failed)):
            raise _not_failed(self.database, batch_id, missing, failed)
        if not chosen and of_archive:
            return self._archive(batch_id, of_archive[-1].fields["s3_key"])
        if not chosen:
            raise Permanent(f"batch {batch_id} has no failed files")
        s3_key = archive_of(self.database, batch_id) or self.archive_key(batch_id)
        self.check_archive(s3_key)
        reopen(self.database, batch_id, chosen, self.note)
        self._queue(batch_id, s3_key, chosen)
        return f"{count(len(chosen), 'file')} of batch {batch_id}"

    def _is_archive(self, dead_letter: DeadLetter, batch_id: str) -> bool:
        """Whether a dead letter's job was to unpack the batch's archive."""
        of = dead_letter.fields
        return (
            dead_letter.queue == self.unpack_queue and of.get("batch_id") == batch_id and _is_key(of.get("s3_key"))
        )

    def _archive(self, batch_id: str, s3_key: str) -> str:
        self.check_archive(s3_key)
        with self.database.transaction() as cursor:
            self.note(cursor, batch_id, [])
        self._queue(batch_id, s3_key, [])
        return f"batch {batch_id}"

    def _queue(self, batch_id: str, s3_key: str, names: list[str]) -> None:
        """Queue the archive; then the dead letters of it and of these files go."""
        # without the number of files: a repaired archive may hold another one
        if not self.batches.requeue(self.unpack_queue, unpack_job(batch_id, s3_key, None)):
            way = "`reconcile --apply` has its files tried again afterwards"
            raise Permanent(f"batch {batch_id} has just come into work: {way}")
        for dead_letter in list(self.dead_letters):
            of_file = dead_letter.file and dead_letter.file[0] == batch_id and dead_letter.file[1] in names
            if of_file or self._is_archive(dead_letter, batch_id):
                self.forget(dead_letter)

    def dead_letter(self, dead_letter: DeadLetter) -> str:
        """Try a dead letter's job again; gives in words what was queued. `Permanent` as for `batch`."""
        if dead_letter.file is not None:
            batch_id, name = dead_letter.file
            if name in failed_names(self.database, batch_id):
                return self.batch(batch_id, [name])
            if self.batches.is_in_work(batch_id):
                raise Permanent(f"batch {batch_id} is in progress: {name} may be done by it")
            self.forget(dead_letter)
            return f"nothing: {name} of batch {batch_id} has not failed; the dead letter is gone"
        of = dead_letter.fields.get("batch_id")
        if isinstance(of, str) and is_id(of) and self._is_archive(dead_letter, of):
            return (
                self.batch(of)
                if failed_names(self.database, of)
                else self._archive(of, dead_letter.fields["s3_key"])
            )
        self._take_out(dead_letter, dead_letter.job)
        return f"{dead_letter.job} in {dead_letter.queue}"

    def forget(self, dead_letter: DeadLetter) -> None:
        """Take a dead letter out of its list."""
        self._take_out(dead_letter, job="")

    def abandon(self, dead_letter: DeadLetter) -> None:
        """Take a dead letter out for good. The archive of an unpack job is done with: nobody queues it again."""
        of = dead_letter.fields.get("batch_id")
        if (
            isinstance(of, str)
            and is_id(of)
            and self._is_archive(dead_letter, of)
            and not self.batches.is_in_work(of)
        ):
            close(self.database, of, dead_letter.fields["s3_key"])
        self.forget(dead_letter)

    def _take_out(self, dead_letter: DeadLetter, job: str) -> None:
        self._revive(keys=[f"{dead_letter.queue}:dead", dead_letter.queue], args=[dead_letter.text, job])
        self.dead_letters.remove(dead_letter)


def _is_key(value: object) -> bool:
    """Whether there could be an object of this key in S3."""
    return isinstance(value, str) and is_storable(value) and 0 < len(value.encode()) <= MOST_KEY_BYTES


def _not_failed(database: Database, batch_id: str, names: list[str], failed: list[str]) -> Permanent:
    """What is wrong with trying the files of these names again, of which none has failed."""
    storable = [name for name in names if is_storable(name)]
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT original_filename, status FROM audio_files"
            " WHERE batch_id = %s AND original_filename = ANY(%s)",
            (batch_id, storable),
        )
        status = dict(cursor.fetchall())
    if unknown := [name for name in names if name not in status]:
        return Unknown(f"batch {batch_id} has no file {', '.join(unknown)}{did_you_mean(unknown[0], failed)}")
    problems = ", ".join(f"{name} has not failed: it is {status[name]}" for name in names)
    return Permanent(f"batch {batch_id}: {problems}")


def is_known(database: Database, batch_id: str) -> bool:
    """Whether an archive was ever unpacked as this batch."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT FROM batches WHERE batch_id = %(id)s UNION ALL SELECT FROM audio_files WHERE batch_id = %(id)s"
            " LIMIT 1",
            {"id": batch_id},
        )
        return bool(cursor.rowcount)


def failed_names(database: Database, batch_id: str) -> list[str]:
    """The names of a batch's failed files."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT original_filename FROM audio_files WHERE batch_id = %s AND status = 'failed'"
            " ORDER BY audio_id",
            (batch_id,),
        )
        return [name for (name,) in cursor.fetchall()]


def close(database: Database, batch_id: str, s3_key: str) -> None:
    """Note that a batch which was never opened is finished; one that was opened is left as it is."""
    with database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO batches (batch_id, s3_key, file_count, host, finished_at) VALUES (%s, %s, 0, '', now())"
            " ON CONFLICT DO NOTHING",
            (batch_id, s3_key),
        )


def archive_of(database: Database, batch_id: str) -> str | None:
    """The S3 key that a batch was unpacked from; None where it never was."""
    with database.transaction() as cursor:
        cursor.execute("SELECT s3_key FROM batches WHERE batch_id = %s", (batch_id,))
        row = cursor.fetchone()
        return row and str(row[0])


def reopen(database: Database, batch_id: str, names: list[str], note: Note = _no_note) -> None:
    """Have these failed files worked on again when their archive is next unpacked."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'processing', error = NULL, updated_at = now()"
            " WHERE batch_id = %s AND original_filename = ANY(%s) AND status = 'failed'",
            (batch_id, names),
        )
        cursor.execute("UPDATE batches SET finished_at = NULL WHERE batch_id = %s", (batch_id,))
        note(cursor, batch_id, names)
