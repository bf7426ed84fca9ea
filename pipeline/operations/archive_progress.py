"""How far an archive is, from its place in a queue to the last of its files; nothing is changed.

It is followed by its path on the EC2 host, while nobody knows its batch, or by its batch. The batch of a transfer
job is noted while that is in progress; when it has ended, the state in which the path was brought is noted, and
these two tell the batch.
"""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.archive_origin import as_kept, name_of
from pipeline.foundation.formatting import count
from pipeline.jobs.batches import FINISHING, keys_of
from pipeline.jobs.job_queue import decode, encode
from pipeline.operations.failures import DeadLetter, read_dead_letters
from pipeline.store.batch_history import Batch, read_batch
from pipeline.store.database import Database
from pipeline.transfer.remote_paths import is_canonical

QUEUED = "queued"  # in place of the state of a path that nobody has brought yet
LOOKS_UNTIL_LOST = 5  # in a row, in which Redis knows nothing of a path
_NOT_KNOWN = "not known to Redis"


@dataclass(frozen=True)
class Followed:
    """An archive: its path on the EC2 host, or its batch id where that is known."""

    path: str = ""
    batch_id: str = ""

    def __str__(self) -> str:
        return self.path or f"batch {self.batch_id}"


@dataclass(frozen=True)
class Progress:
    """Where an archive is, in words, with its files; `is_over` where nothing more will happen by itself, and
    `has_failed` where it or some of its files could not be done."""

    what: str
    batch_id: str = ""
    files: int = 0
    settled: int = 0
    is_over: bool = False
    has_failed: bool = False

    @property
    def phase(self) -> str:
        """What tells one step of its way from the next."""
        return "files" if self.files and not self.is_over else self.what


def as_dict(
    batch: Batch | None, archive: Followed, progress: Progress, reasons: list[tuple[str, int]]
) -> dict[str, Any]:
    """A batch for JSON; one that was not unpacked yet has no more than its id and its archive's path."""
    found = batch.as_dict() if batch else {"batch_id": progress.batch_id, "archive": {"path": archive.path}}
    why = [{"reason": reason, "files": number} for reason, number in reasons]
    return {**found, "state": progress.what, "is_over": progress.is_over, "reasons": why}


@dataclass
class Tracker:
    """What looks for archives. `batch_of(path, state)` is the batch of a remote file that was brought in this
    state (see `pipeline.transfer.discovery`). `ignored` are the ids of dead letters of an earlier try."""

    redis: Any
    database: Database
    transfer_queue: str
    unpack_queue: str
    batch_of: Callable[[str, str], str]
    ignored: frozenset[str] = frozenset()
    _lost: Counter[str] = field(default_factory=Counter)

    def look(self, archives: list[Followed]) -> list[Progress]:
        """Where each of the archives is now."""
        found = read_dead_letters(self.redis, [self.transfer_queue, self.unpack_queue])
        dead_letters = [dead_letter for dead_letter in found if dead_letter.id not in self.ignored]
        return [self._look(archive, dead_letters) for archive in archives]

    def _look(self, archive: Followed, dead_letters: list[DeadLetter]) -> Progress:
        batch_id = archive.batch_id
        if not batch_id:
            batch_id, what = self._transfer(archive.path)
            payload = encode({"remote_path": archive.path})
            for dead_letter in dead_letters:
                if dead_letter.queue == self.transfer_queue and dead_letter.job == payload:
                    return _dead(dead_letter, batch_id)
            if what:
                return self._in_transfer(archive.path, batch_id, what)
        batch = read_batch(self.database, batch_id)
        if batch is not None and batch.finished_at is not None:
            return _finished(batch)
        of_batch = (letter for letter in dead_letters if letter.fields.get("batch_id") == batch_id)
        return self._unpacked(batch_id, next(of_batch, None))

    def _transfer(self, path: str) -> tuple[str, str]:
        """The batch that a path is, '' where that is not known; and where its transfer is, '' where it ended."""
        steps = self.redis.pipeline(transaction=True)
        steps.hget(f"{self.transfer_queue}:batch_ids", encode({"remote_path": path}))
        steps.hget(f"{self.transfer_queue}:seen", json.dumps(path))
        batch_id, state = redis_client.answers(steps)
        if batch_id or state == QUEUED:
            return batch_id or "", "in transfer" if batch_id else "waiting for its transfer"
        return (self.batch_of(path, state), "") if state else ("", _NOT_KNOWN)

    def _in_transfer(self, path: str, batch_id: str, what: str) -> Progress:
        self._lost[path] = self._lost[path] + 1 if what == _NOT_KNOWN else 0
        is_lost = self._lost[path] >= LOOKS_UNTIL_LOST
        return Progress(f"{what}: enqueue it again" if is_lost else what, batch_id, 0, 0, is_lost, is_lost)

    def _unpacked(self, batch_id: str, dead_letter: DeadLetter | None) -> Progress:
        """How far a batch is that is not finished; one that no host has may have a dead letter."""
        steps = self.redis.pipeline(transaction=True)
        for key in keys_of(batch_id, "host", "total", "processed", "failed"):
            steps.get(key)
        steps.hexists(FINISHING, batch_id)
        host, total, processed, failed, is_finishing = redis_client.answers(steps)
        if is_finishing:
            return Progress("finishing", batch_id)
        if not host:
            return _dead(dead_letter, batch_id) if dead_letter else Progress("waiting to be unpacked", batch_id)
        if not total:
            return Progress(f"being unpacked on {host}", batch_id)
        settled = int(processed or 0) + int(failed or 0)
        what = f"{settled} of {count(int(total), 'file')} settled on {host}, {failed or 0} failed"
        return Progress(what, batch_id, int(total), settled)


def _finished(batch: Batch) -> Progress:
    what = f"finished: {count(batch.done, 'file')} done, {batch.failed} failed"
    total = batch.done + batch.failed
    return Progress(what, batch.batch_id, total, total, is_over=True, has_failed=batch.failed > 0)


def _dead(dead_letter: DeadLetter, batch_id: str) -> Progress:
    what = f"failed permanently: {dead_letter.error} (dead letter {dead_letter.id})"
    return Progress(what, batch_id, is_over=True, has_failed=True)


def find_unpacked(redis: Any, transfer_queue: str, unpack_queue: str, given: str) -> list[Followed]:
    """The archives that Redis knows by this name, path or batch id, and PostgreSQL not yet: those that are to be
    brought, or unpacked."""
    paths = {decode(job).get("remote_path") for job in redis.lrange(transfer_queue, 0, -1)}
    paths |= {decode(job).get("remote_path") for job in redis.hkeys(f"{transfer_queue}:batch_ids")}
    found = {Followed(path) for path in paths if isinstance(path, str) and _is_called(given, path)}
    jobs = [decode(job) for job in redis.lrange(unpack_queue, 0, -1)]
    for job in [*jobs, *(dead_letter.fields for dead_letter in read_dead_letters(redis, [unpack_queue]))]:
        batch_id, path = job.get("batch_id"), job.get("archive", "")
        if isinstance(batch_id, str) and isinstance(path, str) and (batch_id == given or _is_called(given, path)):
            found.add(Followed(path, batch_id))
    if not found and is_canonical(given) and redis.hexists(f"{transfer_queue}:seen", json.dumps(given)):
        found.add(Followed(given))
    return sorted(found, key=lambda of: (of.path, of.batch_id))


def _is_called(given: str, path: str) -> bool:
    """Whether this is the path, or the file name, of an archive."""
    return given in (path, as_kept(path), name_of(path), name_of(as_kept(path)))
