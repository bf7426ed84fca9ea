"""Batch ids: YYYYMMDD-HHMMSS-digest, one for each source, whatever Redis remembers.

The time is that of the source's last change, in UTC; the digest is the source's own. So no id has to be reserved:
two sources never have the same, and a source that is delivered again, by two workers at once or after Redis has
lost what it knew, is the same batch.
"""

import datetime
import hashlib
from dataclasses import dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim
from pipeline.jobs.job_queue import Job, JobQueue

DIGITS = 12  # of the digest: two of 100,000 sources of one second share them once in 50,000 times
LATEST = 253_402_300_799  # the last second of the year 9999


def source_of(remote_path: str, state: object) -> str:
    """A remote file as it is known in S3: another size or time makes it another one. `state` is "size time"."""
    return f"{remote_path}\n{state}"


def batch_id_of(source: str, changed: int) -> str:
    """The id of a source's batch. `source` is all that tells it from others, `changed` when it was last changed
    (seconds since 1970); a time that no calendar has counts as the nearest that one has."""
    time = datetime.datetime.fromtimestamp(min(max(changed, 0), LATEST), datetime.UTC)
    digest = hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{time:%Y%m%d-%H%M%S}-{digest[:DIGITS]}"


@dataclass
class BatchIds:
    """Which batch each job of `queue` brings, noted for others as long as it is in progress."""

    redis: Any
    queue: JobQueue

    def __post_init__(self) -> None:
        self._assign = redis_client.script(self.redis, "assign")

    def assign(self, job: Job, batch_id: str) -> None:
        """Note that the job brings this batch; `LostClaim` where it is no longer this worker's."""
        keys = [self.queue.working, self.queue.batch_ids]
        if not self._assign(keys=keys, args=[job.payload, batch_id]):
            raise LostClaim("another worker has it now, or has brought it")
