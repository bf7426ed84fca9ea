"""Brings archives from the EC2 host to S3 and queues them to be unpacked.

A job names a remote path: {"remote_path": "/recordings/monday.tar"}. Its batch id (YYYYMMDD-HHMMSS, UTC) is
given at its first delivery and kept, so that a second delivery uploads the same bytes under the same key. With
EC2_WATCH_SECONDS set, the worker also lists EC2_REMOTE_DIR and queues each file that is new there, once.

One archive is copied at a time, while TRANSFER_AHEAD of those before it go up. What follows the last byte of one
(is the source still the same? has S3 all of it?) is done while the next one is copied.
"""

import pipeline.foundation.startup  # noqa: F401 - first: it looks at Python and the packages

import logging
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import config
import s3_utils
from pipeline.foundation import logs
from pipeline.foundation.checksum import sha256
from pipeline.foundation.errors import Permanent, Stopping
from pipeline.foundation.formatting import amount
from pipeline.jobs import batches, job_queue, worker
from pipeline.jobs.batch_ids import BatchIds
from pipeline.jobs.job_queue import Job
from pipeline.jobs.worker import Worker
from pipeline.transfer import stale_uploads
from pipeline.transfer.discovery import Watch
from pipeline.transfer.local_copies import Copies
from pipeline.transfer.originals import Sources
from pipeline.transfer.progress import Board
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import FileState, RemoteHost
from pipeline.unpack import archive, compression

log = logging.getLogger("transfer")

SWEEP_SECONDS = 3600
GONE_SECONDS = 3600  # a worker silent for so long does not come back for its files
OLD_SECONDS = 2 * 86400  # the least age of a file that is removed in another worker's folder


@dataclass(frozen=True)
class Arrived:
    """An archive whose bytes are here: it is to be checked and to go up."""

    job: Job
    batch_id: str
    copy: Copy


class Transferrer:
    """The work on the jobs of `queue:transfer`: the main thread claims and copies, the uploaders do the rest."""

    def __init__(self, process: Worker) -> None:
        self.worker = process
        self.batch_ids = BatchIds(process.redis, process.queue, s3_utils.archive_exists)
        self.remote = RemoteHost(
            config.EC2_HOST, config.EC2_PORT, config.EC2_USER, config.EC2_KEY_FILE, config.EC2_KNOWN_HOSTS
        )
        self.watch = Watch(process.redis, config.TRANSFER_QUEUE)
        self.sources = Sources(process.redis, config.TRANSFER_QUEUE, self.remote, config.EC2_AFTER_UPLOAD)
        self.copies = Copies(config.TRANSFER_ROOT, process.id)
        self.board = Board(process)
        self.uploaders = ThreadPoolExecutor(max(1, config.TRANSFER_AHEAD), "upload")
        self.in_upload: set[str] = set()  # batch ids
        self.failure: BaseException | None = None
        self.next_look = self.next_sweep = 0.0
        process.maintenance = self.maintain
        process.fail_permanently = self.fail_permanently
        self.tried: dict[str, FileState] = {}  # by job: its file as this run has seen it

    # --- the work --------------------------------------------------------------------------------------

    def work(self) -> None:
        """Copy archive after archive until the worker is to stop; on the way out, the uploads end too."""
        try:
            with self.uploaders, self.worker.stopping_on_failure():
                self.copy_all()
        finally:
            if self.failure is not None:
                raise self.failure

    def copy_all(self) -> None:
        """Claim jobs, copy their archives and hand them to the uploaders."""
        until_available, queue = self.worker.until_available, self.worker.queue
        for job in self.worker.jobs():
            if until_available(
                queue.is_elsewhere, job
            ):  # with the same batch id, though the file may be another by now
                log.info("another worker brings %s: it waits for that", job.fields.get("remote_path"))
                until_available(queue.give_back, job, max(1, config.LIMITS.retry))
                continue
            if job.attempts > 1 and any(other is not job for other in queue.in_progress):
                until_available(queue.keep, job)  # uncounted; claimed again in a moment
                self.wait_for_uploads(0)
                continue
            arrived = None
            with self.worker.holding(job):
                arrived = self.copy(job)
            if arrived is not None:
                self.in_upload.add(arrived.batch_id)
                self.uploaders.submit(self.upload, arrived).add_done_callback(self.ended)
            # its last delivery ended badly: its neighbours must not suffer for it
            self.wait_for_uploads(0 if job.attempts > 1 else config.TRANSFER_AHEAD)

    def ended(self, outcome: Future[None]) -> None:
        """After an upload: what nobody foresaw ends the process, also while it copies for hours."""
        if (error := outcome.exception()) is not None:
            self.failure = self.failure or error
            self.worker.stop.set()

    def wait_for_uploads(self, most: int) -> None:
        """Wait until at most so many archives are in upload, or wait for it."""
        while len(self.in_upload) > most:
            self.worker.maintain()
            if self.worker.stop.wait(0.05):
                raise Stopping

    def copy(self, job: Job) -> Arrived | None:
        """Bring the archive of a job here, whole; None where it is in S3 already."""
        until_available = self.worker.until_available
        remote_path = job.require(remote_path=str)["remote_path"]
        if "\0" in remote_path:
            raise Permanent(f"remote_path {remote_path!r} is no path: it holds a NUL")
        state = self.tried[job.payload] = until_available(self.remote.stat, remote_path)
        batch_id, is_whole = until_available(s3_utils.batch_of_source, _source(remote_path, state))
        if batch_id and is_whole:
            log.info("%s is batch %s already", remote_path, batch_id)
            self.hand_on(job, batch_id, None, remote_path, state)
            return None
        batch_id = (
            until_available(self.batch_ids.keep, job, batch_id)
            if batch_id
            else until_available(self.batch_ids.assign, job)
        )
        with logs.naming(batch=batch_id):
            return self.copy_as(job, batch_id, remote_path, state)

    def copy_as(self, job: Job, batch_id: str, remote_path: str, state: FileState) -> Arrived:
        """Bring an archive here, as the batch that it is."""
        self.wait_for_room(remote_path, state.size)
        log.info("copying %s as batch %s, %s", remote_path, batch_id, amount(state.size))
        copy = Copy(self.remote, remote_path, state, self.copies.path(batch_id))
        try:
            follow = self.board.follow(f"copying {remote_path} as {batch_id}", state.size)
            with self.worker.metrics.stage("copy"), follow as moved:
                self.worker.until_available(copy.fetch, self.worker.stop, moved)
        except BaseException:
            self.worker.until_available(copy.discard)
            raise
        return Arrived(job, batch_id, copy)

    def wait_for_room(self, remote_path: str, size: int) -> None:
        """Wait until the disk has room for the archive; uploads that end make some."""
        told = False
        while lack := self.copies.lack(size):
            if not told:
                log.warning("%s waits for disk: %s", remote_path, lack)
                told = True
            self.worker.doing("waiting for disk", f"waiting for disk: {lack}")
            self.worker.maintain()  # which may make some too
            if self.worker.stop.wait(1):
                raise Stopping

    def upload(self, arrived: Arrived) -> None:
        """Settle one job (in a thread of the uploaders): its archive is in S3, checked, and queued."""
        try:
            with self.worker.holding(arrived.job), logs.naming(batch=arrived.batch_id):
                try:
                    self._upload(arrived)
                finally:  # in S3, or to be copied again by the next delivery
                    self.worker.until_available(arrived.copy.remove)
        finally:
            self.in_upload.discard(arrived.batch_id)

    def _upload(self, arrived: Arrived) -> None:
        until_available, remote_path, path = self.worker.until_available, arrived.copy.path, arrived.copy.target
        until_available(arrived.copy.run, self.worker.stop, self.worker.moved)
        state = self.tried[arrived.job.payload] = arrived.copy.state
        if state.sha256:
            with self.board.follow(f"checking {remote_path}", state.size) as moved:
                digest = sha256(path, moved)
            if digest != state.sha256:
                state = self.tried[arrived.job.payload] = self.wait_for_checksum(remote_path, state, digest)
        until_available(compression.make_plain, path, config.ARCHIVE_MAX_MB * 2**20, self.worker.moved)
        index = archive.index(path, config.ARCHIVE_MAX_MEMBERS, config.ARCHIVE_MAX_FILE_MB * 2**20)
        source = _source(remote_path, state)
        until_available(s3_utils.note_source, source, arrived.batch_id, is_whole=False)
        with self.worker.metrics.stage("upload"):
            until_available(s3_utils.upload_archive, path, arrived.batch_id)
        until_available(s3_utils.note_source, source, arrived.batch_id, is_whole=True)
        log.info("%s is batch %s, %d audio files", remote_path, arrived.batch_id, len(index.members))
        self.hand_on(arrived.job, arrived.batch_id, len(index.members), remote_path, state)

    def wait_for_checksum(self, remote_path: str, copied: FileState, digest: str) -> FileState:
        """What the source is once its checksum file, which a sender may write last, has the SHA-256 of what was
        copied; `Permanent` where it does not come."""
        log.warning("%s: another SHA-256: %s.sha256 is read again", remote_path, remote_path)
        for _ in range(config.LIMITS.attempts):
            if self.worker.stop.wait(config.LIMITS.retry):
                raise Stopping
            self.worker.moved()
            now: FileState = self.worker.until_available(self.remote.stat, remote_path)
            if str(now) != str(copied):  # `tried` stays: what came since is new
                raise OSError(f"{remote_path} was changed while its checksum was waited for")
            if now.sha256 == digest:
                return now
        raise Permanent(f"{remote_path}: its SHA-256 is not the one in {remote_path}.sha256")

    def hand_on(self, job: Job, batch_id: str, files: int | None, remote_path: str, state: FileState) -> None:
        """Queue an archive that is in S3 to be unpacked; then its original is done with."""
        until_available = self.worker.until_available
        unpack_job = batches.unpack_job(batch_id, s3_utils.archive_key(batch_id), files)
        until_available(self.watch.mark, remote_path, state)
        note = self.sources.note(remote_path, state)
        if until_available(self.worker.queue.settle, job, config.UNPACK_QUEUE, unpack_job, note):
            self.worker.metrics.job("done")
            self.tried.pop(job.payload, None)
            self.sources.try_to_tidy(remote_path, state)

    def fail_permanently(self, job: Job, reason: str) -> None:
        """Bury a job. The watch queues its path again when the file there is another one."""
        remote_path = job.fields.get("remote_path")
        if isinstance(remote_path, str) and "\0" not in remote_path:
            state = self.tried.get(job.payload) or self.remote.size_and_time(remote_path)
            if state is not None:  # as it was tried: whatever came since is new
                self.watch.mark(remote_path, state)
            else:
                self.watch.forget(remote_path)
            self.tried.pop(job.payload, None)
        self.worker.bury(job, reason)

    # --- housekeeping ----------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Between two copies: what is owed to the sources, stale files and uploads, new archives."""
        if time.monotonic() >= self.next_sweep:
            self.next_sweep = time.monotonic() + SWEEP_SECONDS
            self.sweep()
        self.sources.tidy_up()
        if config.EC2_WATCH_SECONDS and time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + config.EC2_WATCH_SECONDS
            for remote_path in self.watch.look(self.remote.look(config.EC2_REMOTE_DIR)):
                log.info("queued %s", remote_path)

    def sweep(self) -> None:
        """Remove what crashes have left here and in S3."""
        swept = self.copies.sweep(self.in_upload) + self.copies.sweep_others(self.is_gone, OLD_SECONDS)
        for path in swept:
            log.warning("removed %s, which no job needs", path)
        client, prefixes = s3_utils.get_s3_client(), s3_utils.PREFIXES
        stale_uploads.abort_stale(client, config.S3_BUCKET, prefixes, config.MULTIPART_STALE_HOURS)

    def is_gone(self, worker_id: str) -> bool:
        """Whether a worker has given no sign of life for long."""
        redis, queue = self.worker.redis, self.worker.queue
        if redis.exists(job_queue.heartbeat_key(worker_id)):
            return False
        last = redis.zscore(queue.workers, worker_id) or 0
        return int(redis.time()[0]) - last > GONE_SECONDS


def _source(remote_path: str, state: FileState) -> str:
    """A remote file as it is known in S3: another size or time makes it another one."""
    return f"{remote_path}\n{state}"


def run() -> None:
    """Work until SIGTERM."""
    worker_id = config.worker_id("transfer")
    process = Worker(
        config.REDIS_URL, config.TRANSFER_QUEUE, "transfer", worker_id, config.HOST_NAME, config.LIMITS
    )
    process.metrics.folder = config.TRANSFER_ROOT
    process.serve_metrics(config.METRICS_LISTEN)
    transferrer = Transferrer(process)
    s3_utils.follow = transferrer.board.follow
    with process.running(s3_utils.check_bucket, transferrer.remote.refusal):
        process.until_available(transferrer.copies.clear)
        transferrer.work()


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    given = worker.arguments(__doc__)
    os.umask(0o077)  # recordings are nobody else's
    watch = ("EC2_REMOTE_DIR",) if config.EC2_WATCH_SECONDS else ()
    config.require(*config.REDIS, *config.S3, *config.EC2, "TRANSFER_ROOT", *watch)
    if shutil.which("scp") is None:
        config.refuse("there is no scp: install openssh-client")
    logs.set_up(config.LOG_LEVEL, given.log_format or config.LOG_FORMAT, config.worker_id("transfer"), "transfer")
    try:
        run()
    except worker.Misconfigured as problem:
        config.refuse(str(problem))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
