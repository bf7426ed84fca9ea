"""Having an archive brought or unpacked because somebody asked for it, who is noted in the audit log first."""

from collections.abc import Callable
from typing import Any

from pipeline.foundation.errors import Permanent
from pipeline.jobs.batches import Batches, unpack_job
from pipeline.jobs.job_queue import decode
from pipeline.operations.retry import Unknown
from pipeline.store import audit
from pipeline.store.batch_history import read_batch
from pipeline.store.database import Database
from pipeline.transfer.discovery import Watch
from pipeline.transfer.remote_paths import canonical


def queue_path(redis: Any, database: Database, transfer_queue: str, path: str, actor: str) -> str:
    """Have an archive of the EC2 host brought; gives its path as it is queued. `Permanent` where it is no path."""
    path = canonical(path)
    _note(database, actor, path, {})
    Watch(redis, transfer_queue).enqueue(path)
    return path


def queue_archive(
    redis: Any,
    database: Database,
    unpack_queue: str,
    batch_id: str,
    s3_key: str,
    actor: str,
    check_archive: Callable[[str], object],
) -> None:
    """Have the archive of this batch unpacked, which lies in S3 at this key; one that waits for it already is left
    as it is. `check_archive(s3_key)` raises `Permanent` where it does not lie there.

    `Unknown` where it does not; `Permanent` where the batch is in progress, or was finished before.
    """
    try:
        check_archive(s3_key)
    except Permanent as problem:
        raise Unknown(str(problem)) from None
    batch = read_batch(database, batch_id)
    if batch is not None and batch.finished_at is not None:
        raise Permanent(f"batch {batch_id} is finished: retry its failed files")
    batches = Batches(redis, "")
    if batches.is_in_work(batch_id):
        raise Permanent(f"batch {batch_id} is in progress")
    if any(decode(job).get("batch_id") == batch_id for job in redis.lrange(unpack_queue, 0, -1)):
        return
    _note(database, actor, batch_id, {"s3_key": s3_key})
    if not batches.requeue(unpack_queue, unpack_job(batch_id, s3_key, None)):
        raise Permanent(f"batch {batch_id} has just come into work")


def _note(database: Database, actor: str, subject: str, detail: dict[str, Any]) -> None:
    with database.transaction() as cursor:
        audit.note(cursor, actor, "enqueue", subject, detail)
