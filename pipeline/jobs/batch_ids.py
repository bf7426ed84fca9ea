"""Batch ids: YYYYMMDD-HHMMSS in UTC, one for each transfer job, never the same for two."""

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim
from pipeline.jobs.job_queue import Job, JobQueue

RESERVED_SECONDS = 86400  # by then the archive is in S3, and `taken` knows


@dataclass
class BatchIds:
    """Gives ids to the jobs of `queue`; `taken(batch_id)` says whether an archive of that id is kept."""

    redis: Any
    queue: JobQueue
    taken: Callable[[str], bool]

    def __post_init__(self) -> None:
        self._reserve = redis_client.script(self.redis, "reserve")

    def assign(self, job: Job, now: datetime.datetime | None = None) -> str:
        """The job's batch id: the one of its first delivery, or else the first free second from now on.

        `LostClaim` where it has none and is no longer this worker's.
        """
        assigned = self.redis.hget(self.queue.batch_ids, job.payload)
        moment = (now or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC)
        while not assigned:
            batch_id = moment.strftime("%Y%m%d-%H%M%S")
            moment += datetime.timedelta(seconds=1)
            if not self.taken(batch_id):
                assigned = self._give(job, batch_id, RESERVED_SECONDS)
        return str(assigned)

    def keep(self, job: Job, batch_id: str) -> str:
        """Note that the job brings a batch whose id is known already, and give the id; `LostClaim` as above."""
        return str(self._give(job, batch_id, 0))

    def _give(self, job: Job, batch_id: str, seconds: int) -> str | None:
        keys = [self.queue.working, self.queue.batch_ids, f"{self.queue.batch_ids}:{batch_id}"]
        given: str | None = self._reserve(keys=keys, args=[job.payload, batch_id, seconds])
        if given == "lost":
            raise LostClaim("another worker has it now, or has brought it")
        return given
