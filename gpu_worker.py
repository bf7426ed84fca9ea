#!/usr/bin/env python3
"""Works on the host's transcription queue: transcribes and classifies its Opus files, and keeps each in S3.

A file's steps, in this order: its row, the transcript, the Opus in S3, the row done, the count in Redis; after
the last file of a batch, its scratch goes.
Each may be repeated, so a job that is delivered again goes through them again and shows once.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import config
import s3_utils
from pipeline import classifiers, finishing, worker
from pipeline.archive import is_storable
from pipeline.batches import Batches, check_id
from pipeline.database import AudioRow, Database
from pipeline.errors import Permanent
from pipeline.job_queue import Job
from pipeline.transcriber import Transcriber, model_problem
from pipeline.transcript import Transcript
from pipeline.worker import Worker

log = logging.getLogger("gpu")


@dataclass(frozen=True)
class File:
    """One file in hand."""

    job: Job
    batch_id: str
    name: str
    path: Path
    row: AudioRow


class Listener:
    """The work on the jobs of the host's transcription queue."""

    def __init__(self, process: Worker) -> None:
        self.worker = process
        self.batches = Batches(process.redis, process.host)
        self.database = Database(config.DATABASE_URL)
        process.give_up = self.give_up
        process.housekeeping = self.finish_batches

    def listen(self, transcriber: Transcriber) -> None:
        """Transcribe until the worker is to stop."""
        for file, heard in transcriber.transcribe(self.files()):
            with self.worker.holding(file.job):
                if isinstance(heard, Exception):
                    raise heard
                self.keep(file, heard)

    def files(self) -> Iterator[tuple[File, Path]]:
        """The files to transcribe, as their jobs are claimed."""
        for job in self.worker.jobs():
            file = None
            with self.worker.holding(job):
                file = self.start(job)
            if file is not None:
                self.worker.doing(f"transcribing {file.batch_id} {file.name}")
                yield file, file.path

    def start(self, job: Job) -> File | None:
        """Check a job and make its row; None where there is nothing to transcribe."""
        outlast = self.worker.outlast
        batch_id, name = _names(job)
        path = _in_scratch(job.fields["opus_path"], batch_id)
        if not outlast(self.batches.wants, batch_id, name):
            log.info("batch %s: %s is settled already, or not this host's", batch_id, name)
            outlast(self.worker.queue.settle, job)
            return None
        row = outlast(self.database.start_file, batch_id, name)
        file = File(job, batch_id, name, path, row)
        if row.status == "done":  # died between the row and the count
            self.count(file)
            return None
        return file

    def keep(self, file: File, heard: Transcript) -> None:
        """Write a file's result and its Opus, then count it."""
        outlast = self.worker.outlast
        self.worker.doing(f"keeping {file.batch_id} {file.name}")
        outlast(self.database.save_result, file.row.audio_id, heard, classifiers.classify(heard))
        key = outlast(s3_utils.upload_opus, file.path, file.row.audio_id, file.row.date)
        outlast(self.database.update_audio_s3_path, file.row.audio_id, key)
        self.count(file)
        log.info("batch %s: %s done, %.1f s as %s", file.batch_id, file.name, heard.duration_seconds, key)

    def count(self, file: File) -> None:
        """Acknowledge a file that is done; after the last of its batch, end the batch."""
        queue = self.worker.queue
        settle = self.batches.settle_job
        result = self.worker.outlast(settle, queue, file.job, file.batch_id, file.name, "processed")
        if result == "complete":
            self.worker.outlast(self.finish_batches)

    def give_up(self, job: Job, reason: str) -> None:
        """Mark a file as failed and count it as such; its job is a dead letter where no row could be made."""
        try:
            batch_id, name = _names(job)
        except Permanent:
            self.worker.bury(job, reason)
            return
        letter = self.worker.queue.letter(job, reason)
        if not self.batches.wants(batch_id, name):  # settled meanwhile by another delivery
            self.worker.queue.settle(job)
            return
        self.database.fail_file(batch_id, name, reason)
        if self.batches.settle_job(self.worker.queue, job, batch_id, name, "failed", letter) == "complete":
            self.finish_batches()

    def check_queue(self) -> str | None:
        """What is wrong with the name of the queue: its jobs name files of this host."""
        return self.batches.check_queue(config.TRANSCRIBE_QUEUE, config.HOST_LOST_SECONDS)

    def finish_batches(self) -> None:
        """Delete the scratch of batches whose files are all settled."""
        finishing.finish_batches(self.batches, self.database, config.SCRATCH_ROOT, s3_utils.cleanup_scratch)


def _names(job: Job) -> tuple[str, str]:
    """The batch and the file of a job; `Permanent` where they are none, or PostgreSQL could not hold them."""
    fields = job.require(batch_id=str, opus_path=str, original_filename=str)
    batch_id, name = check_id(fields["batch_id"]), fields["original_filename"]
    if not is_storable(name):
        raise Permanent(f"original_filename {name!r} is not a name that the unpack worker gives")
    return batch_id, name


def _in_scratch(opus_path: str, batch_id: str) -> Path:
    """The path, where it is a plain file's place in the batch's scratch: a job must not name other files."""
    path = Path(opus_path)
    if path.parent != config.SCRATCH_ROOT / batch_id or path.name in ("", "..") or path.is_symlink():
        raise Permanent(f"opus_path {opus_path!r} is not in {config.SCRATCH_ROOT / batch_id}")
    return path


def run() -> None:
    """Load the model, then work until SIGTERM."""
    worker_id = config.worker_id("gpu")
    process = Worker(config.REDIS_URL, config.TRANSCRIBE_QUEUE, "gpu", worker_id, config.HOST_NAME, config.LIMITS)
    listener = Listener(process)
    transcriber = Transcriber(
        config.MODELS_ROOT / config.WHISPER_MODEL,
        config.WHISPER_DEVICE,
        config.WHISPER_COMPUTE_TYPE,
        config.WHISPER_THREADS,
        config.WHISPER_BEAM_SIZE,
        config.WHISPER_LANGUAGE or None,
    )
    checks = (listener.database.check_schema, s3_utils.check_bucket, listener.check_queue)
    with process.running(*checks):
        listener.listen(transcriber)


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    worker.explain(__doc__)
    config.require(*config.REDIS, *config.DATABASE, *config.S3)
    if problem := model_problem(config.MODELS_ROOT / config.WHISPER_MODEL):
        config.refuse(f"WHISPER_MODEL: {problem}")
    worker.log_to_stderr(config.LOG_LEVEL)
    try:
        run()
    except worker.Misconfigured as problem:
        config.refuse(str(problem))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
