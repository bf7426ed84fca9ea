"""Compares S3, PostgreSQL and Redis: what is missing, doubled or orphaned, and what repairs it.

S3 and PostgreSQL say what there is to do, Redis only who does it now; so a Redis that was wiped is rebuilt from
the two. What is read first is what may only grow afterwards: S3's archives, then Redis at one moment, then
PostgreSQL. A batch that moves on meanwhile is thus never taken for a stranded one, and each repair makes sure
again that nothing has changed, and that S3 has what is to be worked on. A wiped Redis does not know what a worker
has in hand until it has heard from it again, within seconds: at worst an archive is queued twice, which shows
nowhere.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.foundation.formatting import count
from pipeline.jobs.batches import Batches, unpack_job
from pipeline.jobs.job_queue import encode, heartbeat_key
from pipeline.operations.snapshot import OpenBatch, Snapshot, read_snapshot
from pipeline.store.batch_states import (
    ROWS_AT_A_TIME,
    Known,
    Row,
    done_rows,
    forget_opus,
    known_batches,
    mark_finished,
    rows_of,
    unfinish,
)
from pipeline.store.database import Database

_OPUS = re.compile(r"processed/\d{4}-\d{2}-\d{2}/(\d{1,18})\.opus")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. `repair()` repairs it, and gives False where it has changed;
    None where a person has to decide."""

    kind: str
    subject: str  # a batch, or an S3 key
    what: str
    remedy: str
    repair: Callable[[], object] | None = field(default=None, repr=False)
    destroys: bool = False  # the repair deletes something


@dataclass
class Reconciler:
    """The comparison. `archives` gives batch id -> S3 key, `opus` S3 keys in ascending order, as S3 lists them;
    `sources` what each remote file was brought as: its path and state, a batch id, and whether all of it was.

    A listing may be behind: `exists` says whether there is an object of a key now.
    """

    redis: Any
    database: Database
    transfer_queue: str
    unpack_queue: str
    transcribe_queues: list[str]
    archives: Callable[[], dict[str, str]]
    sources: Callable[[], Iterable[tuple[str, str, bool]]]
    opus: Callable[[], Iterable[str]]
    exists: Callable[[str], bool]
    delete_opus: Callable[[str], object]

    def __post_init__(self) -> None:
        self.batches = Batches(self.redis, "")
        self._queued: set[str] = set()  # batches, by the repairs of this comparison

    def findings(self) -> Iterator[Finding]:
        """Everything that is not as it should be."""
        archives, seen, known = self._read()
        yield from self._batches(archives, seen, known)
        yield from self._queues(seen)
        yield from self._sources()
        yield from self._opus(archives, seen, known)

    def batch_findings(self) -> Iterator[Finding]:
        """What is not as it should be with the batches: their repairs fail no file and delete nothing in S3."""
        yield from self._batches(*self._read())

    def _read(self) -> tuple[dict[str, str], Snapshot, dict[str, Known]]:
        self._queued.clear()
        archives = self.archives()
        seen = read_snapshot(self.redis, self.transfer_queue, self.unpack_queue, self.transcribe_queues)
        return archives, seen, known_batches(self.database)

    # --- batches ---------------------------------------------------------------------------------------

    def _batches(self, archives: dict[str, str], seen: Snapshot, known: dict[str, Known]) -> Iterator[Finding]:
        for batch_id in sorted({*archives, *known, *seen.open}):
            look = self._open_batch if batch_id in seen.open else self._batch
            finding = look(batch_id, archives.get(batch_id), seen, known.get(batch_id, Known()))
            if finding is not None:
                yield finding

    def _batch(self, batch_id: str, archive: str | None, seen: Snapshot, known: Known) -> Finding | None:
        if any(batch_id in place for place in (seen.finishing, seen.in_transfer, seen.to_unpack)):
            return None
        if known.finished and not known.unsettled:
            return None
        if known.file_count is not None and not known.unsettled and known.rows >= known.file_count:
            what, remedy = "every file is settled, the batch is not marked as finished", "mark it"
            return Finding("unmarked", batch_id, what, remedy, partial(mark_finished, self.database, batch_id))
        if batch_id in seen.dead_lettered:
            return None  # `pipelinectl failures` tells of it
        s3_key = archive or known.archive(batch_id)
        undecided = f"{count(known.unsettled, 'file')} neither done nor failed"
        what = "it was never unpacked" if known.file_count is None and not known.unsettled else undecided
        if archive is None and not self.exists(s3_key):
            where = "look for it, or for another copy, and put it there; then reconcile again"
            return Finding("archive gone", batch_id, f"{what}, and {s3_key} is not in S3", where)
        what = f"{what}, and nobody works on it"
        return Finding("unqueued", batch_id, what, "queue its archive", partial(self._queue, batch_id, s3_key))

    def _queue(self, batch_id: str, s3_key: str) -> bool:
        if not self.exists(s3_key) or not unfinish(self.database, batch_id):
            return False
        if batch_id in self._queued or self.batches.requeue(self.unpack_queue, unpack_job(batch_id, s3_key, None)):
            self._queued.add(batch_id)
            return True
        return False

    def _open_batch(self, batch_id: str, archive: str | None, seen: Snapshot, known: Known) -> Finding | None:
        batch = seen.open[batch_id]
        if seen.has_archive_job(batch):
            return None
        if known.finished and not known.unsettled:
            if not self.batches.is_open(batch.id):  # finished between the two looks
                return None
            what, remedy = "open in Redis, finished in PostgreSQL", "delete its scratch and its keys"
            return Finding("left open", batch.id, what, remedy, partial(self._expire, batch))
        if not seen.is_stranded(batch):
            return None
        host = batch.host or "no host"
        what = f"open on {host}, {batch.counted} of its files settled, and no job is left for the rest"
        s3_key = archive or known.archive(batch.id)
        if archive is None and not self.exists(s3_key):
            return Finding("archive gone", batch.id, f"{what}; {s3_key} is not in S3", "put it there again")
        return Finding(
            "stranded", batch.id, what, "queue its archive again", partial(self._hand_back, batch, s3_key)
        )

    def _hand_back(self, batch: OpenBatch, s3_key: str) -> bool:
        if not self.exists(s3_key):
            return False
        job = batch.job or encode(unpack_job(batch.id, s3_key, None))
        as_seen = (batch.host, batch.total, batch.processed, batch.failed)
        return self.batches.hand_back(self.unpack_queue, batch.id, job, *as_seen)

    def _expire(self, batch: OpenBatch) -> bool:
        if self.database.unsettled_files(batch.id):
            return False
        changed = self.batches.expire(batch.id, batch.opened, batch.host)
        if changed and not self.batches.is_known(batch.host):  # there is no host that would finish it
            Batches(self.redis, batch.host).close(batch.id)
        return changed

    # --- queues --------------------------------------------------------------------------------------

    def _queues(self, seen: Snapshot) -> Iterator[Finding]:
        """The queues with files of a host whose workers read another one: TRANSCRIBE_QUEUE was renamed."""
        of_host = Counter(host for host, _ in seen.to_transcribe.values() if host)
        for name, (host, files) in sorted(seen.to_transcribe.items()):
            if files and of_host[host] > 1 and not self._is_read(name):
                what = f"{count(files.total(), 'file')} of {host} in a queue that no worker reads"
                yield Finding("unread", name, what, f"start the unpack worker of {host}: it takes them along")

    def _is_read(self, queue: str) -> bool:
        workers = self.redis.zrange(f"{queue}:workers", 0, -1)
        return any(self.redis.exists(heartbeat_key(worker)) for worker in workers)

    # --- sources --------------------------------------------------------------------------------------

    def _sources(self) -> Iterator[Finding]:
        """The batches that two remote files were brought as: S3 keeps the archive of one of them."""
        of: defaultdict[str, list[str]] = defaultdict(list)
        for source, batch_id, is_whole in self.sources():
            if is_whole:
                of[batch_id].append(source.partition("\n")[0])
        for batch_id, paths in sorted(of.items()):
            if len(paths) > 1:
                what = f"{' and '.join(sorted(paths))} were brought as one batch: S3 keeps the archive of one"
                remedy = "compare their SHA-256 with that of the archive; touch the other one and enqueue it"
                yield Finding("shared", batch_id, what, remedy)

    # --- Opus ------------------------------------------------------------------------------------------

    def _opus(self, archives: dict[str, str], seen: Snapshot, known: dict[str, Known]) -> Iterator[Finding]:
        """What does not match between the rows that are done and the Opus in S3.

        The rows are read before the objects, and a file's object is there before its row is done.
        """
        lost: defaultdict[str, list[int]] = defaultdict(list)
        strays = []
        with done_rows(self.database) as rows:
            for found in _unpaired(rows, self.opus()):
                if isinstance(found, str):
                    strays.append(found)
                elif not self.exists(found[0]):
                    _, audio_id, batch_id = found
                    lost[batch_id].append(audio_id)
        without = {audio_id for audio_ids in lost.values() for audio_id in audio_ids}
        for start in range(0, len(strays), ROWS_AT_A_TIME):
            yield from self._strays(strays[start : start + ROWS_AT_A_TIME], without)
        for batch_id, audio_ids in sorted(lost.items()):
            archive = archives.get(batch_id) or known.get(batch_id, Known()).archive(batch_id)
            yield self._lost(batch_id, audio_ids, archive, seen)

    def _lost(self, batch_id: str, audio_ids: list[int], archive: str, seen: Snapshot) -> Finding:
        what = f"the Opus of {count(len(audio_ids), 'file')} that are done is not in S3"
        if not self.exists(archive):
            return Finding("opus gone", batch_id, f"{what}, nor is the archive", "none: the transcripts remain")
        if batch_id in seen.open or batch_id in seen.finishing or batch_id in seen.to_unpack:
            return Finding("opus gone", batch_id, what, "the batch is in progress: reconcile again afterwards")

        def repair() -> bool:
            if self.batches.is_in_work(batch_id) or not self.exists(archive):
                return False
            forget_opus(self.database, audio_ids)
            return self._queue(batch_id, archive)

        return Finding("opus gone", batch_id, what, "work on them again", repair)

    def _strays(self, keys: list[str], without: set[int]) -> Iterator[Finding]:
        """The objects that are no done row's, sorted by what their row says now.

        `without` are the files whose own Opus is gone: another one is then all that there is.
        """
        ids = {key: int(match[1]) for key in keys if (match := _OPUS.fullmatch(key))}
        now = rows_of(self.database, list(ids.values()))
        for key, audio_id in ids.items():
            status, path = now.get(audio_id, ("", None))
            if path == key or status == "processing":  # done meanwhile, or about to be
                continue
            if audio_id in without:
                what = f"file {audio_id} is kept as {path}, which is gone"
                yield Finding("doubled", key, what, "reconcile again when its batch was worked on again")
                continue
            if path is not None:
                kind, what = "doubled", f"file {audio_id} is kept as {path}"
            elif status:
                why = "has failed" if status == "failed" else "no longer keeps its Opus"
                kind, what = "orphan", f"file {audio_id} {why}"
            else:
                kind, what = "orphan", f"there is no file {audio_id}"
            yield Finding(kind, key, what, "delete it", partial(self._delete, key), destroys=True)

    def _delete(self, key: str) -> bool:
        if any(self._strays([key], set())):
            self.delete_opus(key)
            return True
        return False


def _unpaired(rows: Iterable[Row], keys: Iterable[str]) -> Iterator[Row | str]:
    """The rows whose S3 key is not among the keys, and the keys that no row names; both ascend."""
    keys = iter(keys)
    key = next(keys, None)
    for row in rows:
        while key is not None and key < row[0]:
            yield key
            key = next(keys, None)
        if key == row[0]:
            key = next(keys, None)
        else:
            yield row
    while key is not None:
        yield key
        key = next(keys, None)
