"""Brings archives from the EC2 host to S3 and queues them to be unpacked.

A job names a remote path: {"remote_path": "/recordings/monday.tar"}. Its batch id (YYYYMMDD-HHMMSS, UTC) is
given at its first delivery and kept, so that a second delivery uploads the same bytes under the same key. With
EC2_WATCH_SECONDS set, the worker also lists EC2_REMOTE_DIR and queues each file that is new there, once.
"""

import datetime
import logging
import shutil
import time
from pathlib import Path

import config
import s3_utils
from pipeline import archive, compression, worker
from pipeline.batch_ids import BatchIds
from pipeline.errors import Permanent
from pipeline.job_queue import Job
from pipeline.remote import FileState, RemoteHost
from pipeline.watch import Watch
from pipeline.worker import Worker

log = logging.getLogger("transfer")


class Transferrer:
    """The work on one job of `queue:transfer` after the other."""

    def __init__(self, process: Worker) -> None:
        self.worker = process
        self.batch_ids = BatchIds(process.redis, process.queue, s3_utils.archive_exists)
        self.remote = RemoteHost(
            config.EC2_HOST, config.EC2_PORT, config.EC2_USER, config.EC2_KEY_FILE, config.EC2_KNOWN_HOSTS
        )
        self.watch = Watch(process.redis, config.TRANSFER_QUEUE)
        self.folder = config.TRANSFER_ROOT / process.id
        self.next_look = 0.0
        process.housekeeping = self.keep_house
        process.give_up = self.give_up

    def transfer(self, job: Job) -> None:
        """Settle one job: its archive is in S3, checked, and queued to be unpacked."""
        outlast = self.worker.outlast
        remote_path = job.require(remote_path=str)["remote_path"]
        if "\0" in remote_path:
            raise Permanent(f"remote_path {remote_path!r} is no path: it holds a NUL")
        state = outlast(self.remote.stat, remote_path)
        batch_id = outlast(self.batch_ids.assign, job)
        path = self.folder / f"{batch_id}.tar"
        try:
            self._transfer(job, remote_path, state, batch_id, path)
        finally:  # in S3, or to be copied again by the next delivery
            path.unlink(missing_ok=True)

    def _transfer(self, job: Job, remote_path: str, state: FileState, batch_id: str, path: Path) -> None:
        outlast = self.worker.outlast
        self.worker.doing(f"copying {remote_path} as {batch_id}")
        outlast(self.remote.fetch, remote_path, state, path, self.worker.stop, self.worker.moved)
        if state.sha256 and s3_utils.sha256(path) != state.sha256:
            raise Permanent(f"{remote_path}: its SHA-256 is not the one in {remote_path}.sha256")
        outlast(compression.make_plain, path, config.ARCHIVE_MAX_MB * 2**20, self.worker.moved)
        index = archive.index(path, config.ARCHIVE_MAX_MEMBERS, config.ARCHIVE_MAX_FILE_MB * 2**20)
        self.worker.doing(f"uploading {batch_id}")
        s3_key = outlast(s3_utils.upload_archive, path, batch_id)
        unpack_job = {
            "batch_id": batch_id,
            "s3_key": s3_key,
            "file_count": len(index.members),
            "transferred_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        outlast(self.watch.mark, remote_path, state)
        if outlast(self.worker.queue.settle, job, config.UNPACK_QUEUE, unpack_job):
            log.info("%s is batch %s, %d audio files", remote_path, batch_id, len(index.members))

    def give_up(self, job: Job, reason: str) -> None:
        """Bury a job. The watch queues its path again when the file there is another one."""
        remote_path = job.fields.get("remote_path")
        if isinstance(remote_path, str) and "\0" not in remote_path:
            try:
                self.watch.mark(remote_path, self.remote.stat(remote_path))
            except Permanent:  # there is no such file
                self.watch.forget(remote_path)
        self.worker.bury(job, reason)

    def keep_house(self) -> None:
        """Look at the remote folder for new archives, every EC2_WATCH_SECONDS."""
        if not config.EC2_WATCH_SECONDS or time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + config.EC2_WATCH_SECONDS
        for remote_path in self.watch.look(self.remote.look(config.EC2_REMOTE_DIR)):
            log.info("queued %s", remote_path)

    def clear_folder(self) -> None:
        """Remove what an earlier run of this worker left of its copies; its jobs copy them again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)


def run() -> None:
    """Work until SIGTERM."""
    worker_id = config.worker_id("transfer")
    process = Worker(
        config.REDIS_URL, config.TRANSFER_QUEUE, "transfer", worker_id, config.HOST_NAME, config.LIMITS
    )
    transferrer = Transferrer(process)
    s3_utils.on_progress = process.moved
    with process.running(s3_utils.check_bucket, transferrer.remote.refusal):
        process.outlast(transferrer.clear_folder)
        for job in process.jobs():
            with process.holding(job):
                transferrer.transfer(job)


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    worker.explain(__doc__)
    watch = ("EC2_REMOTE_DIR",) if config.EC2_WATCH_SECONDS else ()
    config.require(*config.REDIS, *config.S3, *config.EC2, "TRANSFER_ROOT", *watch)
    if shutil.which("scp") is None:
        config.refuse("there is no scp: install openssh-client")
    worker.log_to_stderr(config.LOG_LEVEL)
    try:
        run()
    except worker.Misconfigured as problem:
        config.refuse(str(problem))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
