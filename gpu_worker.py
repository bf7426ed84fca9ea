"""Works on the host's transcription queue: transcribes and classifies its Opus files, and keeps each in S3.

A file's steps, in this order: its row, the transcript, the Opus in S3, the row done, the count in Redis; after
the last file of a batch, its scratch goes.
Each may be repeated, so a job that is delivered again goes through them again and shows once.
"""

import pipeline.foundation.startup  # noqa: F401 - first: it looks at Python and the packages

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import config
import s3_utils
from pipeline.audio import conversion_report
from pipeline.foundation import device, logs
from pipeline.foundation.device import BadModel
from pipeline.foundation.errors import Permanent, Stopping, unavailable_service
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.formatting import count
from pipeline.foundation.gpu import Gpu
from pipeline.jobs import batch_completion, job_queue, worker
from pipeline.jobs.batches import Batches, check_id
from pipeline.jobs.job_queue import Job
from pipeline.jobs.worker import Worker
from pipeline.labels.classifiers import Classifiers
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.transcript import Transcript
from pipeline.speech.whisper import Whisper, language_problem, model_problem
from pipeline.store.database import AudioRow, Database

log = logging.getLogger("gpu")

WRITERS = 8  # files whose Opus and rows are written at a time
FRUITLESS_RUNS = 2  # times MAX_ATTEMPTS: more than one file that kills its worker accounts for
PAUSE_RETRIES = 20  # times RETRY_SECONDS: 10 minutes


@dataclass(frozen=True)
class File:
    """One file in progress."""

    job: Job
    batch_id: str
    name: str
    path: Path
    row: AudioRow


class TranscriptionWorker:
    """The work on the jobs of the host's transcription queue.

    The main thread claims files and hands them to the engine; the keepers' threads keep what it has heard.
    """

    def __init__(self, process: Worker, classifiers: Classifiers) -> None:
        self.worker, self.classifiers = process, classifiers
        self.batches = Batches(process.redis, process.host)
        self.database = Database(config.DATABASE_URL)
        self.in_progress: set[tuple[str, str]] = set()
        self.room = threading.BoundedSemaphore(config.KEEP_BACKLOG_FILES)
        self.writers = ThreadPoolExecutor(WRITERS, "keep")
        self.failure: BaseException | None = None
        self.is_counted = self.has_done_one = False  # this run among the fruitless; a file in this run
        self.fruitless_key = f"{job_queue.heartbeat_key(process.id)}:fruitless"
        process.fail_permanently = self.fail_permanently
        process.maintenance = self.maintain
        process.brings_work = False  # its files are on this host already

    def feed(self, engine: Transcriber[File]) -> None:
        """Feed the engine until the worker is to stop; on the way out, what it has on the device is kept."""

        def is_sound() -> bool:
            engine.check()
            if self.failure is not None:
                raise self.failure
            return True

        self.worker.ready_for_more = is_sound
        with self.writers, engine, self.worker.stopping_on_failure():
            self.pause_if_fruitless()
            for job in self.worker.jobs():
                if job.attempts > 1 and any(other is not job for other in self.worker.queue.in_progress):
                    self.worker.until_available(
                        self.worker.queue.keep, job
                    )  # uncounted; claimed again in a moment
                    self.wait_until_idle(is_sound)
                    continue
                self.worker.until_available(self.count_run)
                file = None
                with self.worker.holding(job):
                    file = self.start(job)
                if file is not None:
                    engine.submit(file, file.path, self.worker.stop)
                    self.show_progress()
                if job.attempts > 1:  # its last delivery ended badly: its neighbours must not suffer for it
                    self.wait_until_idle(is_sound)
        self.worker.until_available(self.forgive_runs)

    def pause_if_fruitless(self) -> None:
        """Wait where run after run has died without a file done: it is the GPU or the host that fails then, and
        every run may cost an innocent file one of its attempts."""
        runs = int(self.worker.until_available(self.worker.redis.get, self.fruitless_key) or 0)
        if runs < FRUITLESS_RUNS * config.LIMITS.attempts:
            return
        seconds = PAUSE_RETRIES * config.LIMITS.retry
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
            self.worker.redis.incr(self.fruitless_key)
            self.is_counted = True

    def forgive_runs(self) -> None:
        """Forget the fruitless runs: a file is done, or this run ends well."""
        if self.is_counted and not self.has_done_one:
            self.worker.redis.delete(self.fruitless_key)
            self.has_done_one = True

    def wait_until_idle(self, is_sound: Callable[[], bool]) -> None:
        """Wait until no job is in progress."""
        while self.worker.queue.in_progress and is_sound():
            if self.worker.stop.wait(0.05):
                raise Stopping

    def show_progress(self) -> None:
        """The status that operators see."""
        files = len(self.in_progress)
        self.worker.doing(f"transcribing, {count(files, 'file')} in progress" if files else "idle")

    def take_result(self, file: File, result: Transcript | Exception) -> None:
        """Take a result from the engine, which waits here while too many are still to be kept."""
        self.room.acquire()
        self.writers.submit(self.end, file, result).add_done_callback(self.ended)

    def ended(self, outcome: Future[None]) -> None:
        """After a file: room for the next. What nobody foresaw ends the process."""
        self.room.release()
        self.failure = self.failure or outcome.exception()

    def end(self, file: File, result: Transcript | Exception) -> None:
        """End one file (in a thread of the keepers)."""
        self.in_progress.discard((file.batch_id, file.name))
        with self.worker.holding(file.job):
            if isinstance(result, Transcript):
                self.keep(file, result)
            elif self.worker.until_available(self.batches.wants, file.batch_id, file.name):
                raise result
            else:  # the batch went to another host, and its scratch went
                self.drop(file.job, file.batch_id, file.name)
        self.show_progress()

    def start(self, job: Job) -> File | None:
        """Check a job and make its row; None where there is nothing to transcribe."""
        until_available = self.worker.until_available
        batch_id, name = _names(job)
        if (
            batch_id,
            name,
        ) in self.in_progress:  # delivered twice; whether the other one ends well is not known yet
            until_available(self.worker.queue.give_back, job, config.LIMITS.retry)
            return None
        if not until_available(self.batches.wants, batch_id, name):
            self.drop(job, batch_id, name)
            return None
        path = _in_scratch(job.fields["opus_path"], batch_id)
        row = until_available(self.database.start_file, batch_id, name)
        file = File(job, batch_id, name, path, row)
        if row.status == "done":  # died between the row and the count
            self.count(file)
            return None
        self.in_progress.add((batch_id, name))
        return file

    def drop(self, job: Job, batch_id: str, name: str) -> None:
        """Acknowledge a delivery that asks for nothing."""
        log.info("batch %s: %s is settled already, or not this host's", batch_id, name)
        self.worker.until_available(self.worker.queue.settle, job)

    def keep(self, file: File, heard: Transcript) -> None:
        """Write a file's result and its Opus, then count it."""
        until_available = self.worker.until_available
        log.info(
            "batch %s: %s transcribed, %.1f s of sound, %.1f s of speech, %.1f s unintelligible, language %s",
            file.batch_id, file.name, heard.duration_seconds, heard.speech_seconds, heard.unintelligible_seconds,
            ", ".join(heard.languages) or "none",
        )  # fmt: skip
        with self.worker.metrics.stage("keep"):
            labels = self.classifiers.labels(heard)
            report = conversion_report.read(file.path)
            warnings = report.warnings if report else []
            until_available(self.database.save_result, file.row.audio_id, heard, labels, warnings)
            key = until_available(s3_utils.upload_opus, file.path, file.row.audio_id, file.row.date)
            until_available(self.database.update_audio_s3_path, file.row.audio_id, key)
        log.info("batch %s: %s kept as %s", file.batch_id, file.name, key)
        self.worker.metrics.heard(heard.duration_seconds)
        for warning in warnings:
            self.worker.metrics.file_warning(warning.code)
            log.warning("batch %s: %s: %s: %s", file.batch_id, file.name, warning.code, warning.message)
        self.count(file)

    def count(self, file: File) -> None:
        """Acknowledge a file that is done; after the last of its batch, end the batch."""
        queue = self.worker.queue
        settle = self.batches.settle_job
        result = self.worker.until_available(settle, queue, file.job, file.batch_id, file.name, "processed")
        self.worker.until_available(self.forgive_runs)
        if result not in ("counted", "complete"):
            log.info("batch %s: %s is not counted: %s", file.batch_id, file.name, result)
            self.worker.metrics.job("lost")
            return
        last = ", the last of its batch" if result == "complete" else ""
        log.info("batch %s: %s done, counted%s", file.batch_id, file.name, last)
        self.worker.metrics.job("done")
        self.worker.metrics.file("done")
        if result == "complete":
            self.worker.until_available(self.finish_batches)

    def fail_permanently(self, job: Job, reason: str) -> None:
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
        self.worker.metrics.file("failed")
        if self.batches.settle_job(self.worker.queue, job, batch_id, name, "failed", letter) == "complete":
            self.finish_batches()

    def check_queue(self) -> str | None:
        """What is wrong with the name of the queue: its jobs name files of this host."""
        return self.batches.check_queue(config.TRANSCRIBE_QUEUE, config.HOST_LOST_SECONDS)

    def maintain(self) -> None:
        """Finish settled batches, and stay known as the host of the queue."""
        self.batches.enter_queue(config.TRANSCRIBE_QUEUE)
        self.finish_batches()

    def finish_batches(self) -> None:
        """Delete the scratch of batches whose files are all settled."""
        batch_completion.finish_batches(self.batches, self.database, config.SCRATCH_ROOT, s3_utils.cleanup_scratch)


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


def load() -> tuple[Whisper, Classifiers, int]:
    """The models on their device, and how many windows it computes at a time.

    `Misconfigured` where a model cannot be used; where the GPU cannot be used now, the process ends with status 1.
    """
    try:
        whisper = Whisper(
            config.MODELS_ROOT / config.WHISPER_MODEL,
            config.WHISPER_DEVICE,
            config.WHISPER_DEVICE_INDEX,
            config.WHISPER_COMPUTE_TYPE,
            config.WHISPER_THREADS,
            config.whisper_options(),
        )
        gpu = config.WHISPER_DEVICE_INDEX if whisper.on_gpu else None
        classifiers = Classifiers(config.MODELS_ROOT, gpu, config.AUDIO_TAGS_TOP, config.TOPICS_TOP)
        return whisper, classifiers, config.WHISPER_BATCH_SIZE or whisper.batch_that_fits()
    except BadModel as problem:
        raise worker.Misconfigured(str(problem)) from None
    except Exception as error:  # noqa: BLE001 - each of three libraries has its own classes
        if (
            device.is_broken(error)
            or device.is_out_of_memory(error)
            or unavailable_service(error)
            or isinstance(error, MemoryError)
        ):
            log.critical("the models cannot be loaded now: %s", error)
            raise SystemExit(1) from None
        raise worker.Misconfigured(f"WHISPER_MODEL {config.WHISPER_MODEL} cannot be used: {error}") from None


def run() -> None:
    """Load the models, then work until SIGTERM."""
    worker_id = config.worker_id("gpu")
    process = Worker(config.REDIS_URL, config.TRANSCRIBE_QUEUE, "gpu", worker_id, config.HOST_NAME, config.LIMITS)
    process.metrics.folder = config.SCRATCH_ROOT
    process.serve_metrics(config.METRICS_LISTEN)
    s3_utils.follow = process.metrics.follow
    whisper, classifiers, size = load()
    if whisper.on_gpu:
        process.metrics.gpu = Gpu(config.WHISPER_DEVICE_INDEX)
    if config.WHISPER_DEVICE == "auto" and not whisper.on_gpu:
        log.warning("WHISPER_DEVICE is auto and there is no GPU: transcribing on the CPU")
    log.info("%s on %s, up to %d windows at a time", whisper.name, "a GPU" if whisper.on_gpu else "the CPU", size)
    log.info("classifiers: %s", classifiers)
    converter = config.converter()
    converter.log_version()
    transcription = TranscriptionWorker(process, classifiers)
    engine = Transcriber(
        whisper, transcription.take_result, config.PREPARE_THREADS, size, config.BATCH_WAIT_MS / 1000,
        tagger=classifiers.tagger, progress=transcription.show_progress, metrics=process.metrics,
        converter=converter,
    )  # fmt: skip
    checks = (transcription.database.check_schema, s3_utils.check_bucket, transcription.check_queue)
    with process.running(*checks):
        transcription.feed(engine)


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    given = worker.arguments(__doc__)
    os.umask(0o077)  # recordings are nobody else's
    config.require(*config.REDIS, *config.DATABASE, *config.S3, "SCRATCH_ROOT", "FFMPEG")
    if problem := model_problem(config.MODELS_ROOT / config.WHISPER_MODEL):
        config.refuse(f"WHISPER_MODEL: {problem}")
    if problem := language_problem(config.WHISPER_LANGUAGE):
        config.refuse(f"WHISPER_LANGUAGE: {problem}")
    config.try_ffmpeg()
    logs.set_up(config.LOG_LEVEL, given.log_format or config.LOG_FORMAT, config.worker_id("gpu"), "gpu")
    try:
        run()
    except worker.Misconfigured as problem:
        config.refuse(str(problem))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
