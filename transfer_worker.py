"""Brings archives from the EC2 host to S3 and queues them to be unpacked.

A job names a remote path: {"remote_path": "/recordings/monday.tar"}. Its batch id (YYYYMMDD-HHMMSS-digest) is made
of the file's path, size and time, so that every delivery uploads the same bytes under the same key. With
EC2_WATCH_SECONDS set, the worker also lists EC2_REMOTE_DIR and queues each file that is new there, once.

One archive is copied at a time, while TRANSFER_AHEAD of those before it go up. What follows the last byte of one
(is the source still the same? has S3 all of it?) is done while the next one is copied.
"""

import pipeline.foundation.startup  # noqa: F401 - first: it looks at Python and the packages

import logging
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import config
import s3_tombstones
import s3_utils
from pipeline.foundation import logs
from pipeline.foundation.archive_origin import Origin, as_kept
from pipeline.foundation.checksum import sha256
from pipeline.foundation.errors import Permanent, Stopping
from pipeline.foundation.formatting import amount
from pipeline.jobs import batches, job_queue
from pipeline.jobs.batch_ids import BatchIds, batch_id_of, source_of
from pipeline.jobs.job_queue import Job
from pipeline.jobs.worker import Worker
from pipeline.transfer import stale_uploads, trial
from pipeline.transfer.discovery import Watch
from pipeline.transfer.local_copies import Copies
from pipeline.transfer.originals import Sources
from pipeline.transfer.progress import Board
from pipeline.transfer.remote_paths import canonical, is_canonical
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import FileState, RemoteHost
from pipeline.transfer.volumes import Volumes
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
        self.queue = process.retrying(process.queue)
        self.batch_ids = process.retrying(BatchIds(process.redis, process.queue))
        self.s3 = process.retrying(s3_utils)
        login = (config.EC2_USER, config.EC2_KEY_FILE, config.EC2_KNOWN_HOSTS)
        self.host = RemoteHost(config.EC2_HOST, config.EC2_PORT, *login, process.stop)
        self.remote = process.retrying(self.host)
        queue_name = config.TRANSFER_QUEUE
        self.watch = process.retrying(Watch(process.redis, queue_name, process.id, process.stop))
        self.volumes = Volumes(process.redis, queue_name, self.host, config.EC2_REMOTE_DIR)
        after, wait = config.EC2_AFTER_UPLOAD, config.LIMITS.heartbeat  # longer than what Redis may lose
        self.sources = Sources(process.redis, queue_name, self.host, self.volumes, after, wait)
        self.copies = Copies(config.TRANSFER_ROOT, process.id)
        self.board = Board(process)
        self.uploaders = ThreadPoolExecutor(max(1, config.TRANSFER_AHEAD), "upload")
        self.in_upload: set[str] = set()  # batch ids
        self.failure: BaseException | None = None
        self.next_look = self.next_sweep = 0.0
        process.maintenance = self.maintain
        process.fail_permanently = self.fail_permanently
        self.tried: dict[str, FileState] = {}  # by job: its file as this run has seen it

    def refusal(self) -> str | None:
        """Why the EC2 host can never be worked with as the settings have it; None where it can."""
        self.copies.clear()
        return trial.refusal(self.host, self.copies.folder / "trial")

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
        for job in self.worker.jobs():
            if job.attempts > 1 and any(other is not job for other in self.queue.in_progress):
                self.queue.keep(job)  # uncounted; claimed again in a moment
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
        remote_path = job.require(remote_path=str)["remote_path"]
        if remote_path != (spelled := canonical(remote_path)):  # which would be another batch
            raise Permanent(f"remote path {remote_path!r} must be written as {spelled!r}")
        with self.volumes.mounted(remote_path):
            return self.copy_from(job, remote_path)

    def copy_from(self, job: Job, remote_path: str) -> Arrived | None:
        """As `copy`."""
        state = self.tried[job.payload] = self.remote.stat(remote_path)
        self.worker.until_available(self.volumes.note, remote_path, state)
        batch_id, is_whole = self.batch_of(job, remote_path, state)
        if batch_id in self.in_upload:  # by another job of this path: a batch has one copy here
            self.wait_for_uploads(0)
            batch_id, is_whole = self.batch_of(job, remote_path, state)
        if is_whole:
            log.info("%s is batch %s already", remote_path, batch_id)
            self.hand_on(job, batch_id, None, remote_path, state)
            return None
        with logs.naming(batch=batch_id):
            return self.copy_as(job, batch_id, remote_path, state)

    def batch_of(self, job: Job, remote_path: str, state: FileState) -> tuple[str, bool]:
        """The batch that a remote file is, noted as the job's, and whether its archive is in S3, checked."""
        source = source_of(remote_path, state)
        noted, is_whole = self.worker.until_available(s3_tombstones.batch_of_source, source)
        batch_id = noted or batch_id_of(source, state.changed)
        self.batch_ids.assign(job, batch_id)
        return batch_id, is_whole

    def copy_as(self, job: Job, batch_id: str, remote_path: str, state: FileState) -> Arrived:
        """Bring an archive here, as the batch that it is."""
        self.wait_for_room(remote_path, state.size)
        log.info("copying %s as batch %s, %s", remote_path, batch_id, amount(state.size))
        copy = self.worker.retrying(Copy(self.host, remote_path, state, self.copies.path(batch_id)))
        try:
            follow = self.board.follow(f"copying {remote_path} as {batch_id}", state.size)
            with self.worker.metrics.stage("copy"), follow as moved:
                copy.fetch(self.worker.stop, moved)
        except BaseException:
            copy.discard()
            raise
        return Arrived(job, batch_id, copy)

    def wait_for_room(self, remote_path: str, size: int) -> None:
        """Wait until the disk has room for the archive; uploads that end make some."""
        warned = False
        while lack := self.copies.lack(size):
            if not warned:
                log.warning("%s waits for disk: %s", remote_path, lack)
                warned = True
            self.worker.doing("waiting for disk", f"waiting for disk: {lack}")
            self.worker.maintain()  # which may make some too
            if self.worker.stop.wait(1):
                raise Stopping

    def upload(self, arrived: Arrived) -> None:
        """Settle one job (in a thread of the uploaders): its archive is in S3, checked, and queued."""
        try:
            with self.worker.holding(arrived.job), logs.naming(batch=arrived.batch_id):
                try:
                    with self.volumes.mounted(arrived.copy.path):
                        self._upload(arrived)
                finally:  # in S3, or to be copied again by the next delivery
                    arrived.copy.remove()
        finally:
            self.in_upload.discard(arrived.batch_id)

    def _upload(self, arrived: Arrived) -> None:
        remote_path, path, most = arrived.copy.path, arrived.copy.target, config.ARCHIVE_MAX_MB * 2**20
        arrived.copy.run(self.worker.stop, self.worker.moved)
        state = self.tried[arrived.job.payload] = arrived.copy.state
        if state.sha256:
            with self.board.follow(f"checking {remote_path}", state.size) as moved:
                digest = sha256(path, moved)
            if digest != state.sha256:
                state = self.tried[arrived.job.payload] = self.wait_for_checksum(remote_path, state, digest)
        self.worker.until_available(compression.make_plain, path, most, self.worker.moved)
        index = archive.index(path, config.ARCHIVE_MAX_MEMBERS, config.ARCHIVE_MAX_FILE_MB * 2**20)
        source = source_of(remote_path, state)
        batch_id, _ = self.batch_of(arrived.job, remote_path, state)  # it may have changed while it was copied
        self.s3.note_source(source, batch_id, is_whole=False)
        with self.worker.metrics.stage("upload"):
            self.s3.upload_archive(path, batch_id, origin=Origin(remote_path, config.EC2_HOST))
        self.s3.note_source(source, batch_id, is_whole=True)
        log.info("%s is batch %s, %d audio files", remote_path, batch_id, len(index.members))
        self.hand_on(arrived.job, batch_id, len(index.members), remote_path, state)

    def wait_for_checksum(self, remote_path: str, copied: FileState, digest: str) -> FileState:
        """What the source is once its checksum file, which a sender may write last, has the SHA-256 of what was
        copied; `Permanent` where it does not come."""
        log.warning("%s: the SHA-256 differs: %s.sha256 is read again", remote_path, remote_path)
        for _ in range(config.LIMITS.attempts):
            if self.worker.stop.wait(config.LIMITS.retry):
                raise Stopping
            self.worker.moved()
            now = self.remote.stat(remote_path)
            if str(now) != str(copied):  # `tried` stays: what came since is new
                raise OSError(f"{remote_path} was changed while its checksum was waited for")
            if now.sha256 == digest:
                return now
        raise Permanent(f"{remote_path}: its SHA-256 is not the one in {remote_path}.sha256")

    def hand_on(self, job: Job, batch_id: str, files: int | None, remote_path: str, state: FileState) -> None:
        """Queue an archive that is in S3 to be unpacked, and note that its original is done with."""
        s3_key = s3_utils.archive_key(batch_id)
        unpack_job = batches.unpack_job(batch_id, s3_key, files, as_kept(remote_path))
        self.watch.mark(remote_path, state)
        note = self.sources.note(remote_path, state)
        if self.queue.settle(job, config.UNPACK_QUEUE, unpack_job, note):
            self.worker.metrics.job("done")
            self.tried.pop(job.payload, None)

    def fail_permanently(self, job: Job, reason: str) -> None:
        """Dead-letter a job. The watch queues its path again when the file there is another one."""
        remote_path = job.fields.get("remote_path")
        if isinstance(remote_path, str) and is_canonical(remote_path):
            state = self.tried.get(job.payload) or self.remote.size_and_time(remote_path)
            if state is not None:  # as it was tried: whatever came since is new
                self.watch.mark(remote_path, state)
            else:
                self.watch.forget(remote_path)
            self.tried.pop(job.payload, None)
        self.worker.dead_letter(job, reason)

    # --- maintenance -----------------------------------------------------------------------------------

    def maintain(self) -> None:
        """Between two copies: what is owed to the sources, stale files and uploads, new archives."""
        if time.monotonic() >= self.next_sweep:
            self.next_sweep = time.monotonic() + SWEEP_SECONDS
            self.sweep()
        self.sources.tidy_up()
        if config.EC2_WATCH_SECONDS and time.monotonic() >= self.next_look:
            for remote_path in self.watch.look(self.remote.look(config.EC2_REMOTE_DIR)):
                log.info("queued %s", remote_path)
            self.next_look = time.monotonic() + config.EC2_WATCH_SECONDS  # sooner where it failed

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


def check_settings() -> None:
    """End the process with one line where a setting is missing or wrong."""
    watch = ("EC2_REMOTE_DIR",) if config.EC2_WATCH_SECONDS else ()
    config.require(*config.REDIS, *config.S3, *config.EC2, "TRANSFER_ROOT", *watch)
    for program in ("scp", "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            config.refuse(f"there is no {program}: install openssh-client")


def run(process: Worker) -> None:
    """Work until SIGTERM."""
    process.metrics.folder = config.TRANSFER_ROOT
    transferrer = Transferrer(process)
    s3_utils.follow = transferrer.board.follow
    with process.running(s3_utils.check_bucket, transferrer.refusal):
        transferrer.work()


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    return config.run_worker("transfer", config.TRANSFER_QUEUE, __doc__, check_settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
