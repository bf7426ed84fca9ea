"""Compares S3, PostgreSQL and Redis: what is missing, doubled or orphaned, and what repairs it.

S3 and PostgreSQL say what there is to do, Redis only who does it now; so a Redis that was wiped is rebuilt from
the two. What is read first is what may only grow afterwards: S3's archives, then Redis at one moment, then
PostgreSQL. A batch that moves on meanwhile is thus never taken for a stranded one, and each repair makes sure
again that nothing has changed. At worst an archive is queued twice, which shows nowhere.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.formatting import count
from pipeline.jobs.batches import FINISHING, OPEN, QUEUES, Batches, unpack_job
from pipeline.jobs.job_queue import decode, encode
from pipeline.store.database import Database

Row = tuple[str, int, str]  # S3 key, audio id, batch id
ROWS_AT_A_TIME = 2000
_OPUS = re.compile(r"processed/\d{4}-\d{2}-\d{2}/(\d{1,18})\.opus")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be. `repair()` repairs it, and gives False where it has repaired itself;
    there is none where a person has to decide."""

    kind: str
    subject: str  # a batch, or an S3 key
    what: str
    remedy: str
    repair: Callable[[], object] | None = field(default=None, repr=False)
    destroys: bool = False  # the repair deletes something


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is open in Redis, as it was seen."""

    id: str
    opened: str
    host: str
    total: str
    processed: str
    failed: str
    job: str


@dataclass(frozen=True)
class Snapshot:
    """Where every batch was at one moment."""

    open: dict[str, OpenBatch]
    finishing: set[str]
    in_transfer: set[str]
    to_unpack: set[str]
    to_transcribe: list[tuple[str | None, Counter[str]]]  # host of the queue, batch id -> files with a job in it
    buried: set[str]  # whose unpack job is a dead letter

    def jobs(self, batch: OpenBatch) -> int:
        """How many files of an open batch have a job on its own host; those on another are dropped there."""
        return sum(files[batch.id] for host, files in self.to_transcribe if host in (None, batch.host))


@dataclass(frozen=True)
class Known:
    """What PostgreSQL holds of a batch."""

    s3_key: str = ""
    file_count: int | None = None  # None: it was never opened
    finished: bool = False
    rows: int = 0
    unsettled: int = 0

    def is_elsewhere(self) -> bool:
        """Whether its archive was queued by hand from another place in S3."""
        return self.s3_key != "" and not self.s3_key.startswith("archives/")


@dataclass
class Reconciler:
    """The comparison. `archives` gives batch id -> S3 key, `opus` S3 keys in ascending order, as S3 lists them.

    A listing may be behind: `exists` says whether there is an object of a key now.
    """

    redis: Any
    database: Database
    transfer_queue: str
    unpack_queue: str
    transcribe_queues: list[str]
    archives: Callable[[], dict[str, str]]
    opus: Callable[[], Iterable[str]]
    exists: Callable[[str], bool]
    delete_opus: Callable[[str], object]

    def __post_init__(self) -> None:
        self.batches = Batches(self.redis, "")
        self._snapshot = redis_client.script(self.redis, "snapshot")
        self._queued: set[str] = set()  # batches, by the repairs of this comparison

    def findings(self) -> Iterator[Finding]:
        """Everything that is not as it should be."""
        self._queued.clear()
        archives = self.archives()
        seen = self.snapshot()
        known = known_batches(self.database)
        elsewhere = {batch_id: row.s3_key for batch_id, row in known.items() if row.is_elsewhere()}
        archives = {**elsewhere, **archives}
        for batch_id in sorted({*archives, *known, *seen.open}):
            finding = self._batch(batch_id, archives.get(batch_id), seen, known.get(batch_id, Known()))
            if finding is not None:
                yield finding
        yield from self._opus(archives, seen)

    # --- batches ---------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Where every batch is in Redis, read in one step."""
        owners = self.redis.hgetall(QUEUES)
        names = list(dict.fromkeys([*self.transcribe_queues, *owners]))
        queues = [self.transfer_queue, self.unpack_queue, *names]
        keys = [OPEN, FINISHING, f"{self.transfer_queue}:batch_ids", *queues]
        opened, finishing, given, found = self._snapshot(keys=keys, args=[])
        (transfers, _), (to_unpack, buried), *to_transcribe = found
        assigned = dict(zip(given[::2], given[1::2], strict=True))
        return Snapshot(
            {row[0]: OpenBatch(*row) for row in opened},
            set(finishing),
            {assigned[job] for job in transfers if job in assigned},
            {_batch_id(job) for job in to_unpack},
            [
                (owners.get(name), _files_of_batches(jobs))
                for name, (jobs, _) in zip(names, to_transcribe, strict=True)
            ],
            {_batch_id(decode(letter).get("job")) for letter in buried},
        )

    def _batch(self, batch_id: str, archive: str | None, seen: Snapshot, known: Known) -> Finding | None:
        if batch_id in seen.open:
            return self._open_batch(seen.open[batch_id], archive, seen, known)
        if any(batch_id in place for place in (seen.finishing, seen.in_transfer, seen.to_unpack)):
            return None
        if known.finished and not known.unsettled:
            return None
        if known.file_count is not None and not known.unsettled and known.rows >= known.file_count:
            what, remedy = "every file is settled, the batch is not marked as finished", "mark it"
            return Finding("unmarked", batch_id, what, remedy, partial(mark_finished, self.database, batch_id))
        if batch_id in seen.buried:
            return None  # `pipelinectl failures` tells of it
        s3_key = archive or known.s3_key or f"archives/{batch_id}.tar"
        undecided = f"{count(known.unsettled, 'file')} neither done nor failed"
        what = undecided if known.rows else "it was never unpacked"
        if archive is None and not self.exists(s3_key):
            where = "look for it, or for another copy, and put it there; then reconcile again"
            return Finding("archive gone", batch_id, f"{what}, and {s3_key} is not in S3", where)
        what = f"{what}, and nobody works on it"
        return Finding("unqueued", batch_id, what, "queue its archive", partial(self._queue, batch_id, s3_key))

    def _queue(self, batch_id: str, s3_key: str) -> bool:
        if not unfinish(self.database, batch_id):
            return False
        if batch_id in self._queued or self.batches.requeue(self.unpack_queue, unpack_job(batch_id, s3_key, None)):
            self._queued.add(batch_id)
            return True
        return False

    def _open_batch(self, batch: OpenBatch, archive: str | None, seen: Snapshot, known: Known) -> Finding | None:
        if batch.id in seen.to_unpack or (batch.id in seen.buried and not batch.host):
            return None
        if known.finished and not known.unsettled:
            if not self.batches.is_open(batch.id):  # finished between the two looks
                return None
            what, remedy = "open in Redis, finished in PostgreSQL", "delete its scratch and its keys"
            return Finding("left open", batch.id, what, remedy, partial(self._expire, batch))
        settled = _number(batch.processed) + _number(batch.failed)
        if batch.total and settled + seen.jobs(batch) >= _number(batch.total):
            return None
        of = f"{settled} of {batch.total}" if batch.total else "none"
        what = f"open on {batch.host or 'no host'}, {of} of its files settled, and no job is left for the rest"
        s3_key = archive or known.s3_key or f"archives/{batch.id}.tar"
        if archive is None and not self.exists(s3_key):
            return Finding("archive gone", batch.id, f"{what}; {s3_key} is not in S3", "put it there again")
        job = batch.job or encode(unpack_job(batch.id, s3_key, None))
        as_seen = (batch.host, batch.total, batch.processed, batch.failed)
        return Finding(
            "stranded", batch.id, what, "queue its archive again",
            partial(self.batches.hand_back, self.unpack_queue, batch.id, job, *as_seen),
        )  # fmt: skip

    def _expire(self, batch: OpenBatch) -> bool:
        if self.database.unsettled_files(batch.id):
            return False
        changed = self.batches.expire(batch.id, batch.opened, batch.host)
        if changed and not self.batches.is_known(batch.host):  # there is no host that would finish it
            Batches(self.redis, batch.host).close(batch.id)
        return changed

    # --- Opus ------------------------------------------------------------------------------------------

    def _opus(self, archives: dict[str, str], seen: Snapshot) -> Iterator[Finding]:
        """What is amiss between the rows that are done and the Opus in S3.

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
            yield self._lost(batch_id, audio_ids, archives.get(batch_id), seen)

    def _lost(self, batch_id: str, audio_ids: list[int], archive: str | None, seen: Snapshot) -> Finding:
        what = f"the Opus of {count(len(audio_ids), 'file')} that are done is not in S3"
        if archive is None:
            return Finding("opus gone", batch_id, f"{what}, nor is the archive", "none: the transcripts remain")
        if batch_id in seen.open or batch_id in seen.finishing or batch_id in seen.to_unpack:
            return Finding("opus gone", batch_id, what, "the batch is in progress: reconcile again afterwards")

        def repair() -> bool:
            if self.batches.is_in_work(batch_id):
                return False
            forget_opus(self.database, audio_ids)
            return self._queue(batch_id, archive)

        return Finding("opus gone", batch_id, what, "work on them again", repair)

    def _strays(self, keys: list[str], without: set[int]) -> Iterator[Finding]:
        """The objects that are no done row's, told apart by what their row says now.

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
                kind, what = "orphan", f"file {audio_id} has failed"
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


# --- what PostgreSQL holds -----------------------------------------------------------------------------


def known_batches(database: Database) -> dict[str, Known]:
    """Every batch that has been opened, or has rows."""
    query = (
        "SELECT coalesce(batches.batch_id, counted.batch_id), coalesce(s3_key, ''), file_count,"
        " finished_at IS NOT NULL, coalesce(rows, 0), coalesce(unsettled, 0)"
        " FROM batches FULL JOIN ("
        "  SELECT batch_id, count(*) AS rows, count(*) FILTER (WHERE status = 'processing') AS unsettled"
        "  FROM audio_files GROUP BY batch_id"
        " ) AS counted USING (batch_id)"
    )
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
        cursor.execute(
            "UPDATE batches SET finished_at = now() WHERE batch_id = %(batch_id)s AND finished_at IS NULL"
            " AND NOT EXISTS (SELECT FROM audio_files WHERE batch_id = %(batch_id)s AND status = 'processing')",
            {"batch_id": batch_id},
        )
        return bool(cursor.rowcount)


def forget_opus(database: Database, audio_ids: list[int]) -> None:
    """Have files worked on again whose Opus is gone."""
    with database.transaction() as cursor:
        cursor.execute(
            "UPDATE audio_files SET status = 'processing', s3_opus_path = NULL, updated_at = now()"
            " WHERE audio_id = ANY(%s::bigint[]) AND status = 'done'",
            (audio_ids,),
        )


# --- what Redis holds ----------------------------------------------------------------------------------


def _batch_id(job: object) -> str:
    """The batch id in a job, which may hold anything."""
    return _text(decode(job).get("batch_id")) if isinstance(job, str) else ""


def _files_of_batches(jobs: list[str]) -> Counter[str]:
    """Batch id -> how many of its files have a job among these."""
    files = {(_text(of.get("batch_id")), _text(of.get("original_filename"))) for of in map(decode, jobs)}
    return Counter(batch_id for batch_id, _ in files)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(text: str) -> int:
    return int(text or 0)
