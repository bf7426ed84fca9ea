"""Unpacks archives on a GPU host: S3 to scratch, every audio file to Opus, each queued when it is ready.

All steps are idempotent, because a job may be delivered again after any of them: the batch counts a file
once, a file is queued once, and what PostgreSQL holds as done or failed is not worked on again.
"""

import pipeline.foundation.startup  # noqa: F401 - first: it looks at Python and the packages

import contextlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import config
import s3_tombstones
import s3_utils
from pipeline.audio.converter import UnreadableAudio
from pipeline.foundation import logs, scratch
from pipeline.foundation.archive_origin import Origin
from pipeline.foundation.errors import Outage, Permanent
from pipeline.jobs import batch_completion
from pipeline.jobs.batches import Batches, check_id, is_id
from pipeline.jobs.job_queue import Job
from pipeline.jobs.lost_hosts import LostHosts
from pipeline.jobs.worker import Worker
from pipeline.operations.host_drain import hand_back
from pipeline.operations.reconcile import Reconciler
from pipeline.operations.retention import Keep, Retention
from pipeline.operations.self_repair import SelfRepair
from pipeline.operations.webhook_delivery import WebhookDelivery
from pipeline.store.database import Database
from pipeline.transfer.progress import Board
from pipeline.unpack import archive, compression, descriptions
from pipeline.unpack.archive import Index, Member
from pipeline.unpack.conversion_pool import Conversions

log = logging.getLogger("unpack")
Outcomes = TypeVar("Outcomes")

QUEUES = [config.TRANSFER_QUEUE, config.UNPACK_QUEUE, config.TRANSCRIBE_QUEUE]
STEADY_SECONDS = 300  # with Redis, before silence of other hosts is believed
DESCRIBED_AT_A_TIME = 500  # files, in one statement
ROOM_SECONDS = 15  # before a job whose archive finds no room is tried again, here or elsewhere
BUSY_SECONDS = 15  # before a job whose batch another process of this host has locked is tried again


class Unpacker:
    """The work on one job of `queue:unpack` after the other."""

    def __init__(self, process: Worker) -> None:
        self.worker = process
        self.queue = process.retrying(process.queue)
        batches = Batches(process.redis, process.host)
        self.batches, self.lost_hosts = process.retrying(batches), process.retrying(LostHosts(batches))
        self.connections = Database(config.DATABASE_URL)  # for threads that do not wait for it
        self.database = process.retrying(self.connections)
        self.s3 = process.retrying(s3_utils)
        self.converter = config.converter()
        self.room = ""
        process.fail_permanently = self.fail_permanently
        process.ready_for_more = self.has_room
        process.maintenance = self.maintain

    def unpack(self, job: Job) -> None:
        """Settle one job: every audio file of its archive is queued for transcription or failed."""
        fields = job.require(batch_id=str, s3_key=str)
        batch_id = check_id(fields["batch_id"])
        with scratch.locked(config.SCRATCH_ROOT, batch_id) as held:
            if not held:
                log.info("batch %s is in progress on this host already", batch_id)
                self.queue.give_back(job, BUSY_SECONDS)
                return
            self._unpack(job, batch_id, fields["s3_key"])
        self.worker.until_available(self.finish_batches)

    def _unpack(self, job: Job, batch_id: str, s3_key: str) -> None:
        # An earlier delivery may have opened it again just after it was finished: then it is for us to end.
        if self.database.is_finished(batch_id) and not self.batches.is_open(batch_id):
            self._drop_finished(job, batch_id)
            return
        origin = self.s3.archive_origin(s3_key)
        if not self._fits(job, batch_id, origin.size or 0):
            return
        if not self.batches.adopt(batch_id, s3_key, job, self.worker.queue):
            self._drop_finished(job, batch_id)
            return
        log.info("batch %s is %s", batch_id, str(origin) or s3_key)
        with self.worker.metrics.stage("download"):
            path = self.s3.download_archive(s3_key, batch_id)
        try:
            self._unpack_archive(job, batch_id, s3_key, path, origin)
        finally:
            path.unlink(missing_ok=True)  # another delivery fetches it again; until then it takes no room
        if self.queue.settle(job):
            self.worker.metrics.job("done")
        log.info("batch %s is unpacked", batch_id)

    def _drop_finished(self, job: Job, batch_id: str) -> None:
        log.info("batch %s is finished already", batch_id)
        self.queue.settle(job)

    def _fits(self, job: Job, batch_id: str, size: int) -> bool:
        """Whether there is room for an archive of so many bytes now; if not, its job goes back for a while."""
        disk = shutil.disk_usage(config.SCRATCH_ROOT)
        if size > disk.total:
            raise Permanent(f"the archive has {size} bytes, the scratch volume of {self.worker.host} {disk.total}")
        if size > disk.free:
            log.warning("batch %s: %d bytes of archive, %d bytes free: it waits", batch_id, size, disk.free)
            self.queue.give_back(job, ROOM_SECONDS)
            return False
        return True

    def _unpack_archive(self, job: Job, batch_id: str, s3_key: str, path: Path, origin: Origin) -> None:
        most = config.ARCHIVE_MAX_MB * 2**20
        self.worker.until_available(compression.make_plain, path, most, self.worker.moved)
        index = archive.index(path, config.ARCHIVE_MAX_MEMBERS, config.ARCHIVE_MAX_FILE_MB * 2**20)
        total, file_count = len(index.members), job.fields.get("file_count")
        if isinstance(file_count, int) and file_count > total:  # an older transfer worker counts fewer
            raise archive.BadArchive(f"{s3_key} holds {total} audio files, the job says {file_count}")
        log.info("batch %s: %d audio files, %s", batch_id, total, index.others())
        names = [member.original_filename for member in index.members]
        moved = self.worker.moved
        digests = self.worker.until_available(archive.digests, path, index.members, config.CONVERT_JOBS, moved)
        gone = self.database.open_batch(batch_id, s3_key, names, self.worker.host, origin, digests)
        if gone:
            log.info("batch %s: %d of its files were deleted, and stay so", batch_id, len(gone))
        self._describe(batch_id, path, index.members)
        self.batches.enter_queue(config.TRANSCRIBE_QUEUE)  # a Redis that was wiped has forgotten it
        self.batches.open(batch_id, total)
        members = self._left_to_do(batch_id, index, gone)
        self._fail_unsafe(batch_id, members)
        self._convert_all(batch_id, path, [member for member in members if member.problem is None])

    def _describe(self, batch_id: str, path: Path, members: list[Member]) -> None:
        """Note when each recording was made and what else is said of it, as far as that is known by now."""
        clock = config.clock(self.database.opened_at(batch_id))
        with path.open("rb") as tar:
            for some in descriptions.parts(members, DESCRIBED_AT_A_TIME):
                self.worker.moved()
                known = {
                    member.original_filename: descriptions.describe(tar, member, config.FILENAME_TIMES, clock)
                    for member in some
                }
                self.database.describe_files(batch_id, known)

    def _left_to_do(self, batch_id: str, index: Index, gone: set[str]) -> list[Member]:
        """The files not settled and not queued yet; what only PostgreSQL knows as settled, or as deleted, is
        counted here."""
        counted = self.batches.settled(batch_id) | self.batches.queued(batch_id)
        names = {member.original_filename for member in index.members}
        outcomes = self.database.settled_files(batch_id) | dict.fromkeys(gone, "processed")
        for name, outcome in outcomes.items():
            if name in names and name not in counted:
                self.batches.settle(batch_id, name, outcome)
                counted.add(name)
        for name in set(self.database.unsettled_files(batch_id)) - names:  # of a retry
            log.warning("batch %s: %s failed: it is no longer in its archive", batch_id, name)
            self.database.fail_file(batch_id, name, "it is no longer in its archive")
        return [member for member in index.members if member.original_filename not in counted]

    def _fail_unsafe(self, batch_id: str, members: list[Member]) -> None:
        """Settle the files that cannot be taken out of the archive; so does the next delivery with those left."""
        for member in members:
            if member.problem is None:
                continue
            self.worker.moved()
            with logs.naming(file=member.original_filename):
                self._fail(batch_id, member.original_filename, member.problem)

    def _convert_all(self, batch_id: str, path: Path, members: list[Member]) -> None:
        """Convert the files, and queue each as soon as it is ready. This thread alone settles and queues."""
        folder, stop = config.SCRATCH_ROOT / batch_id, self.worker.stop
        conversions = Conversions(folder, self.converter, config.CONVERT_JOBS, self._convert, stop)
        with contextlib.closing(conversions.of(path, members)) as outcomes:
            for done, (member, reason) in enumerate(outcomes, 1):
                with logs.naming(file=member.original_filename):
                    self._hand_on(batch_id, member.original_filename, conversions.opus(member), reason)
                self.worker.doing(f"converting {batch_id}: {done} of {len(members)}")

    def _convert(self, step: Callable[..., Outcomes], *args: Any) -> Outcomes:
        """Run a conversion (in a thread of the pool), and take its time."""
        with self.worker.metrics.stage("convert"):
            return self.worker.until_available(step, *args)

    def _hand_on(self, batch_id: str, name: str, opus: Path, reason: UnreadableAudio | None) -> None:
        """Queue one file for transcription, or settle it as failed with ffmpeg's reason."""
        if reason is not None:
            self._fail(batch_id, name, str(reason))
            return
        job = {"batch_id": batch_id, "audio_id": None, "opus_path": str(opus), "original_filename": name}
        with self.worker.metrics.stage("queue"):
            self.batches.push(batch_id, config.TRANSCRIBE_QUEUE, job)
        self.worker.metrics.file("queued")
        log.info("batch %s: %s unpacked to %s and queued", batch_id, name, opus.name)

    def _fail(self, batch_id: str, name: str, reason: str) -> None:
        """Settle one file as failed."""
        log.warning("batch %s: %s failed: %s", batch_id, name, reason)
        self.database.fail_file(batch_id, name, reason)
        self.batches.settle(batch_id, name, "failed")
        self.worker.metrics.file("failed")

    def fail_permanently(self, job: Job, reason: str) -> None:
        """Dead-letter a job. Every file of its batch is settled then, or queued on this host."""
        batch_id = str(job.fields.get("batch_id"))
        if is_id(batch_id):
            with scratch.locked(config.SCRATCH_ROOT, batch_id) as held:
                if not held:  # by a sweep, or by another process of this host that works on it
                    raise Outage("the lock of the batch", f"another process holds the scratch of {batch_id}")
                self._fail_the_rest(job, batch_id, reason)
            self.finish_batches()
        self.worker.dead_letter(job, reason)

    def _fail_the_rest(self, job: Job, batch_id: str, reason: str) -> None:
        """Settle the files that nobody will work on any more: all, but where this host has begun to queue them."""
        known: set[str] = set()
        if not self.worker.queue.holds(job):  # another worker of this host may be about to unpack it
            return
        if self.batches.abandon(self.worker.queue, job, batch_id):
            s3_utils.cleanup_scratch(batch_id)
        elif self.batches.is_ours(batch_id):
            scratch.remove_archive(config.SCRATCH_ROOT / batch_id)
            known = self.batches.queued(batch_id) | self.batches.settled(batch_id)
        else:  # finished, or the claim was lost
            return
        for name in self.database.unsettled_files(batch_id):
            if name not in known:
                log.warning("batch %s: %s failed: its archive was failed permanently: %s", batch_id, name, reason)
                self.database.fail_file(batch_id, name, f"its archive was failed permanently: {reason}")
                self.batches.settle(batch_id, name, "failed")
                self.worker.metrics.file("failed")

    def has_room(self) -> bool:
        """Whether this host can take another batch: its backlog, its disk and its GPU workers decide."""
        free = self.worker.until_available(scratch.free_mb, config.SCRATCH_ROOT)
        backlog = self.worker.until_available(self.worker.redis.llen, config.TRANSCRIBE_QUEUE)
        room = ""
        if free < config.SCRATCH_MIN_FREE_MB:
            room = f"waiting for disk: {free} MB free of {config.SCRATCH_MIN_FREE_MB}"
        elif backlog >= config.UNPACK_BACKLOG_FILES:
            room = f"waiting for transcription: {backlog} files queued"
        elif backlog and self.worker.until_available(self._is_deserted):
            room = f"waiting for a GPU worker: none of this host was heard for {config.HOST_LOST_SECONDS} s"
        if room and not self.room:
            log.info("%s", room)
        self.room = room
        if room:
            self.worker.doing(room.partition(":")[0], room)
        return not room

    def _is_deserted(self) -> bool:
        """Whether the GPU workers of this host are dead: others can do what it would take and not finish."""
        heard = self.worker.redis.zrange(f"{config.TRANSCRIBE_QUEUE}:workers", -1, -1, withscores=True)
        if not heard:  # none was here yet, or Redis was wiped: one that lives is heard soon
            return self.worker.steady_seconds() > config.HOST_LOST_SECONDS
        return int(self.worker.redis.time()[0]) - float(heard[0][1]) > config.HOST_LOST_SECONDS

    def maintain(self) -> None:
        """Finish settled batches, take over those of lost hosts, remove scratch that nobody owns."""
        self.batches.enter_queue(config.TRANSCRIBE_QUEUE)
        for queue, jobs in self.batches.take_in(config.TRANSCRIBE_QUEUE).items():
            ours = config.TRANSCRIBE_QUEUE
            log.warning("%d jobs of %s are in %s now, as TRANSCRIBE_QUEUE says", jobs, queue, ours)
        self.finish_batches()
        finish = self.database.finish_batch
        swept = scratch.sweep(
            config.SCRATCH_ROOT, config.HOST_LOST_SECONDS, self.batches.is_ours, s3_utils.cleanup_scratch
        )
        for batch_id in swept:
            log.warning("removed the scratch of batch %s, which is no longer this host's", batch_id)
        if self.worker.steady_seconds() < min(config.HOST_LOST_SECONDS, STEADY_SECONDS):
            return  # Redis was unavailable, or we were: other hosts must have the time to be heard
        for batch_id in self.lost_hosts.take_over(config.UNPACK_QUEUE, config.HOST_LOST_SECONDS, finish):
            log.warning("batch %s of a lost host is queued again", batch_id)

    def hand_back_lost(self) -> None:
        """Queue batches again whose scratch this host has lost, as a VM that was recreated has: their files would
        fail, one by one."""

        def is_lost(batch: dict[str, Any]) -> bool:
            return bool(batch["total"]) and not (config.SCRATCH_ROOT / batch["id"]).exists()

        for batch_id in hand_back(self.worker.redis, self.worker.host, config.UNPACK_QUEUE, is_lost):
            log.warning("batch %s is queued again: this host has lost its scratch", batch_id)

    def check_queue(self) -> str | None:
        """What is wrong with the name of the transcription queue: its jobs name files of this host."""
        return self.batches.check_queue(config.TRANSCRIBE_QUEUE, config.HOST_LOST_SECONDS)

    def finish_batches(self) -> None:
        """Delete the scratch of batches whose files are all settled."""
        batch_completion.finish_batches(self.batches, self.database, config.SCRATCH_ROOT, s3_utils.cleanup_scratch)


def reconciler(process: Worker) -> Reconciler:
    """What compares S3, Redis and PostgreSQL."""
    return Reconciler(
        process.redis, Database(config.DATABASE_URL, 1), config.TRANSFER_QUEUE, config.UNPACK_QUEUE,
        [config.TRANSCRIBE_QUEUE], s3_utils.archives, s3_utils.sources, s3_utils.opus_keys, s3_utils.exists,
        s3_utils.delete_opus,
    )  # fmt: skip


def retention_of(process: Worker) -> Retention:
    """What deletes what is too old, and ends deletions."""
    keep = Keep(config.ARCHIVE_KEEP_DAYS, config.OPUS_KEEP_DAYS, config.TRANSCRIPT_KEEP_DAYS)
    return Retention(process, Database(config.DATABASE_URL, 1), s3_tombstones.store(), keep)


def check_settings() -> None:
    """End the process with one line where a setting is missing or wrong."""
    config.require(*config.REDIS, *config.DATABASE, *config.S3, "SCRATCH_ROOT", "FFMPEG")
    config.try_ffmpeg()


def run(process: Worker) -> None:
    """Work until SIGTERM."""
    process.metrics.folder = config.SCRATCH_ROOT
    unpacker = Unpacker(process)
    unpacker.converter.log_version()
    s3_utils.follow = Board(process).follow
    retention = retention_of(process)
    checks = (unpacker.database.check_schema, s3_utils.check_bucket, unpacker.check_queue, retention.refusal)
    with process.running(*checks):
        process.until_available(unpacker.hand_back_lost)
        SelfRepair(process, reconciler(process), config.RECONCILE_SECONDS).start()
        retention.start()
        WebhookDelivery(process, unpacker.connections, config.webhook_receiver(), QUEUES).start()
        for job in process.jobs():
            with process.holding(job):
                unpacker.unpack(job)


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    return config.run_worker("unpack", config.UNPACK_QUEUE, __doc__, check_settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
