"""Works on the host's transcription queue: transcribes and classifies its Opus files, and keeps each in S3.

A file's steps, in this order: its row, the transcript, the Opus in S3, the transcript beside it, the row done, the
count in Redis; after the last file of a batch, its scratch goes.
Each may be repeated, so a job that is delivered again goes through them again and shows once.
"""

import pipeline.foundation.startup  # noqa: F401 - first: it looks at Python and the packages

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import config
import s3_transcripts
import s3_utils
from pipeline.audio import conversion_report, tags
from pipeline.foundation import device, redis_client
from pipeline.foundation.device import BadModel
from pipeline.foundation.errors import Broken, Misconfigured, Permanent, Stopping, unavailable_service
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.formatting import count
from pipeline.foundation.gpu import Gpu
from pipeline.jobs import batch_completion
from pipeline.jobs.batches import Batches, check_id
from pipeline.jobs.crash_loop import CrashLoop
from pipeline.jobs.job_queue import Job
from pipeline.jobs.worker import Worker
from pipeline.labels.classifiers import Classifiers
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.transcript import Transcript
from pipeline.speech.whisper import Whisper, language_problem, model_problem
from pipeline.store.background_index import BackgroundIndex
from pipeline.store.database import AudioRow, Database
from pipeline.store.transcript_files import TranscriptFiles

log = logging.getLogger("gpu")

WRITERS = 8  # files whose Opus and rows are written at a time


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

    The main thread claims files and hands them to the engine; the writers' threads keep its transcripts.
    """

    def __init__(self, process: Worker, classifiers: Classifiers) -> None:
        self.worker, self.classifiers = process, classifiers
        self.queue = process.retrying(process.queue)
        self.batches = process.retrying(Batches(process.redis, process.host))
        self.database = process.retrying(Database(config.DATABASE_URL))
        self.s3 = process.retrying(s3_utils)
        self.transcripts = process.retrying(TranscriptFiles(self.database, s3_transcripts.put))
        self.in_progress: set[tuple[str, str]] = set()
        self.room = threading.BoundedSemaphore(config.KEEP_BACKLOG_FILES)
        self.writers = ThreadPoolExecutor(WRITERS, "keep")
        self.failure: BaseException | None = None
        self.index = BackgroundIndex(self.database)
        self.crash_loop = CrashLoop(process)
        process.fail_permanently = self.fail_permanently
        process.maintenance = self.maintain
        process.brings_work = False  # its files are on this host already

    def work(self, engine: Transcriber[File]) -> None:
        """Transcribe until the worker is to stop; on the way out, what the engine has on the device is kept."""
        self.worker.ready_for_more = lambda: self.is_sound(engine)
        with self.writers, engine, self.worker.stopping_on_failure():
            self.crash_loop.pause()
            self.feed(engine)
        self.worker.until_available(self.crash_loop.forgive_runs)

    def feed(self, engine: Transcriber[File]) -> None:
        """Claim jobs, check their files and hand them to the engine."""
        for job in self.worker.jobs():
            if job.attempts > 1 and any(other is not job for other in self.queue.in_progress):
                self.queue.keep(job)  # uncounted; claimed again in a moment
                self.wait_until_idle(engine)
                continue
            self.worker.until_available(self.crash_loop.count_run)
            file = None
            with self.worker.holding(job):
                file = self.start(job)
            if file is not None:
                engine.submit(file, file.path, self.worker.stop)
                self.show_progress()
            if job.attempts > 1:  # its last delivery ended badly: its neighbours must not suffer for it
                self.wait_until_idle(engine)

    def is_sound(self, engine: Transcriber[File]) -> bool:
        """True, so that more is claimed; what has failed in another thread is raised."""
        engine.check()
        if self.failure is not None:
            raise self.failure
        return True

    def wait_until_idle(self, engine: Transcriber[File]) -> None:
        """Wait until no job is in progress."""
        while self.queue.in_progress and self.is_sound(engine):
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
        """End one file (in a thread of the writers)."""
        try:
            with self.worker.holding(file.job):
                self._end(file, result)
        finally:  # until then, another delivery of it has to wait
            self.in_progress.discard((file.batch_id, file.name))
        self.show_progress()

    def _end(self, file: File, result: Transcript | Exception) -> None:
        """Keep a transcript, or raise what went wrong; nothing has where the file is no longer asked for, as its
        batch went to another host, or another worker was faster, and its scratch went."""
        try:
            if isinstance(result, Exception):
                raise result
            self.keep(file, result)
        except (Stopping, Broken):
            raise
        except Exception:
            if self.batches.wants(file.batch_id, file.name):
                raise
            self.drop(file.job, file.batch_id, file.name)

    def start(self, job: Job) -> File | None:
        """Check a job and make its row; None where there is nothing to transcribe."""
        batch_id, name = _names(job)
        if (batch_id, name) in self.in_progress:  # twice delivered; how the other one ends is not known yet
            self.queue.give_back(job, config.LIMITS.retry)
            return None
        if not self.batches.wants(batch_id, name):
            self.drop(job, batch_id, name)
            return None
        path = _in_scratch(job.fields["opus_path"], batch_id)
        row = self.database.start_file(batch_id, name)
        if row.status in ("done", "deleted"):  # died between the row and the count, or Redis has lost the count
            self.count(job, batch_id, name)
            return None
        if row.status == "failed":  # likewise; its Opus may be gone already
            self.fail_permanently(job, row.error or "")
            return None
        self.in_progress.add((batch_id, name))
        return File(job, batch_id, name, path, row)

    def drop(self, job: Job, batch_id: str, name: str) -> None:
        """Acknowledge a delivery that asks for nothing."""
        log.info("batch %s: %s is settled already, or not this host's", batch_id, name)
        self.queue.settle(job)

    def keep(self, file: File, heard: Transcript) -> None:
        """Write a file's result and its Opus, then count it."""
        log.info(
            "batch %s: %s transcribed, %.1f s of sound, %.1f s of speech, %.1f s unintelligible, language %s",
            file.batch_id, file.name, heard.duration_seconds, heard.speech_seconds, heard.unintelligible_seconds,
            ", ".join(heard.languages) or "none",
        )  # fmt: skip
        with self.worker.metrics.stage("keep"):
            labels = self.classifiers.labels(heard)
            report = conversion_report.read(file.path)
            warnings = report.warnings if report else []
            tagged = tags.read(report.tags, config.clock(file.row.created_at)) if report and report.tags else None
            self.database.save_result(file.row.audio_id, heard, labels, warnings, tagged)
            key = self.s3.upload_opus(file.path, file.row.audio_id, file.row.date)
            self.transcripts.keep(file.row.audio_id)
            self.database.update_audio_s3_path(file.row.audio_id, key)
        log.info("batch %s: %s kept as %s", file.batch_id, file.name, key)
        self.worker.metrics.heard(heard.duration_seconds)
        for warning in warnings:
            self.worker.metrics.file_warning(warning.code)
            log.warning("batch %s: %s: %s: %s", file.batch_id, file.name, warning.code, warning.message)
        self.count(file.job, file.batch_id, file.name)

    def count(self, job: Job, batch_id: str, name: str) -> None:
        """Acknowledge a file that is done, or was deleted; after the last of its batch, end the batch."""
        result = self.batches.settle_job(self.worker.queue, job, batch_id, name, "processed")
        self.worker.until_available(self.crash_loop.forgive_runs)
        if result not in ("counted", "complete"):
            log.info("batch %s: %s is not counted: %s", batch_id, name, result)
            self.worker.metrics.job("lost")
            return
        last = ", the last of its batch" if result == "complete" else ""
        log.info("batch %s: %s done, counted%s", batch_id, name, last)
        self.worker.metrics.job("done")
        self.worker.metrics.file("done")
        if result == "complete":
            self.worker.until_available(self.finish_batches)

    def fail_permanently(self, job: Job, reason: str) -> None:
        """Mark a file as failed and count it as such; its job is a dead letter where no row could be made."""
        try:
            batch_id, name = _names(job)
        except Permanent:
            self.worker.dead_letter(job, reason)
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
        """Finish settled batches, stay known as the host of the queue, and index what an older release wrote."""
        self.batches.enter_queue(config.TRANSCRIBE_QUEUE)
        self.finish_batches()
        self.index.look()

    def finish_batches(self) -> None:
        """Delete the scratch of batches whose files are all settled."""
        batch_completion.finish_batches(self.batches, self.database, config.SCRATCH_ROOT, s3_utils.cleanup_scratch)


def _names(job: Job) -> tuple[str, str]:
    """The batch and the file of a job; `Permanent` where they are missing, or PostgreSQL could not hold them."""
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
        raise Misconfigured(str(problem)) from None
    except Exception as error:  # noqa: BLE001 - each of three libraries has its own classes
        is_full = device.is_out_of_memory(error) or isinstance(error, MemoryError)
        if is_full or device.is_broken(error) or unavailable_service(error):
            log.critical("the models cannot be loaded now: %s", error)
            raise SystemExit(1) from None
        raise Misconfigured(f"WHISPER_MODEL {config.WHISPER_MODEL} cannot be used: {error}") from None


def check_settings() -> None:
    """End the process with one line where a setting is missing or wrong."""
    config.require(*config.REDIS, *config.DATABASE, *config.S3, "SCRATCH_ROOT", "FFMPEG")
    if problem := model_problem(config.MODELS_ROOT / config.WHISPER_MODEL):
        config.refuse(f"WHISPER_MODEL: {problem}")
    if problem := language_problem(config.WHISPER_LANGUAGE):
        config.refuse(f"WHISPER_LANGUAGE: {problem}")
    config.try_ffmpeg()


def check_services(process: Worker) -> None:
    """`Misconfigured` where Redis, PostgreSQL or S3 refuses us, before the models are loaded, which may take
    minutes. What is unavailable is waited for afterwards."""
    database = Database(config.DATABASE_URL)
    for check in (partial(redis_client.refusal, process.redis), database.check_schema, s3_utils.check_bucket):
        try:
            problem = check()
        except Exception as error:
            if unavailable_service(error) is None:
                raise
            continue
        if problem:
            raise Misconfigured(problem)
    database.close()


def run(process: Worker) -> None:
    """Load the models, then work until SIGTERM."""
    process.metrics.folder = config.SCRATCH_ROOT
    s3_utils.follow = process.metrics.follow
    check_services(process)
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
        transcription.work(engine)


def main() -> int:
    """Check the settings, then work until SIGTERM."""
    return config.run_worker("gpu", config.TRANSCRIBE_QUEUE, __doc__, check_settings, run)


if __name__ == "__main__":
    raise SystemExit(main())
