"""A worker that is started again and again, and dies each time without a job done, pauses.

The runs of a worker are counted in Redis until one of them has done a job.
"""

import logging

from pipeline.foundation.errors import Stopping
from pipeline.jobs import job_queue
from pipeline.jobs.worker import Worker

log = logging.getLogger(__name__)

FRUITLESS_RUNS = 2  # times MAX_ATTEMPTS: more than one file that kills its worker accounts for
PAUSE_RETRIES = 20  # times RETRY_SECONDS: 10 minutes


class CrashLoop:
    """The runs of one worker in a row that have died with no file done."""

    def __init__(self, process: Worker) -> None:
        self.worker = process
        self.key = f"{job_queue.heartbeat_key(process.id)}:fruitless"
        self.is_counted = self.has_done_one = False  # this run among the fruitless; a file in this run

    def pause(self) -> None:
        """Wait where run after run has died without a file done: it is the GPU or the host that fails then, and
        every run may cost an innocent file one of its attempts."""
        runs = int(self.worker.until_available(self.worker.redis.get, self.key) or 0)
        if runs < FRUITLESS_RUNS * self.worker.limits.attempts:
            return
        seconds = PAUSE_RETRIES * self.worker.limits.retry
        log.critical(
            "%d runs in a row have died with no file done: look at the GPU (nvidia-smi, dmesg) and the model;"
            " waiting %d s before the next file", runs, seconds,
        )  # fmt: skip
        self.worker.doing(f"waiting: {runs} runs in a row have died with no file done")
        if self.worker.stop.wait(seconds):
            raise Stopping

    def count_run(self) -> None:
        """Count this run among the fruitless, as it may die of the file that it begins now."""
        if not self.is_counted:
            self.worker.redis.incr(self.key)
            self.is_counted = True

    def forgive_runs(self) -> None:
        """Forget the fruitless runs: a file is done, or this run ends well."""
        if self.is_counted and not self.has_done_one:
            self.worker.redis.delete(self.key)
            self.has_done_one = True
