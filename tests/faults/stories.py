"""What the unpack and GPU workers do, in short: their steps on Redis, PostgreSQL and scratch, in their order.

Redis, `JobQueue`, `Batches`, `finish_batches` and the locks of scratch are the real ones. Rows and Opus files are
sets here, ffmpeg and Whisper a word: what becomes of a file is for the test to say, as with every other step.
The comments name what each part stands for.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import ConnectionError as Away

from pipeline.foundation import scratch
from pipeline.foundation.errors import LostClaim, Permanent
from pipeline.jobs.batch_completion import finish_batches
from pipeline.jobs.job_queue import Job, encode
from pipeline.jobs.lost_hosts import LostHosts
from tests.faults.lines import DONE, Line
from tests.faults.model import LATER, LOST
from tests.faults.world import UNPACK, Process, World

ATTEMPTS = 2  # of a job, before it is failed permanently
FAILS, REFUSED, AWAY = "fails", "is refused", "is unavailable"  # what else may become of work on a file
BATCHES = {"batch-0": 0, "batch-1": 1, "batch-2": 2, "batch-3": 3}  # and how many files each archive has


def names_in(batch: str) -> list[str]:
    """The audio files of the archive."""
    return [f"{n}.mp3" for n in range(BATCHES[batch])]


def unpack_job(batch: str, n: int = 0) -> dict[str, Any]:
    """The job of an archive, and others for the same one."""
    return {"batch_id": batch, "s3_key": f"archives/{batch}.tar", "file_count": BATCHES[batch], "n": n}


def transcribe_queue(host: str) -> str:
    """Each host has its own."""
    return f"queue:transcribe:{host}"


def here() -> Line:
    """The line that runs this."""
    line = threading.current_thread()
    assert isinstance(line, Line)
    return line


def until_available(step: Callable[..., Any], *args: Any) -> Any:
    """`Worker.until_available`; it waits until its turn comes."""
    while True:
        try:
            return step(*args)
        except Away:
            here().stand("try again", (DONE,))


class Failure(Exception):
    """Nobody knows why it failed: it may be the job's fault."""


def work(on: str) -> None:
    """Long work on something, which may go wrong in every way, or be the last that the process does."""
    match here().stand(on, (DONE, FAILS, REFUSED, AWAY)):
        case "fails":
            raise Failure
        case "is refused":
            raise Permanent(on)
        case "is unavailable":
            raise Away(on)


class Rows:
    """`audio_files` and `batches` of PostgreSQL; every call may be lost on its way there or back."""

    def __init__(self) -> None:
        self.status: dict[tuple[str, str], str] = {}
        self.opened: set[str] = set()
        self.finished: set[str] = set()

    def _reach(self, what: str, step: Callable[[], Any]) -> Any:
        return here().reach(f"PostgreSQL {what}", step)

    def of(self, batch: str, *statuses: str) -> list[str]:
        """The batch's files with these statuses."""
        return [name for (of, name), status in self.status.items() if of == batch and status in statuses]

    def open_batch(self, batch: str) -> None:
        def step() -> None:
            self.opened.add(batch)
            for name in names_in(batch):
                self.status.setdefault((batch, name), "processing")

        self._reach("open_batch", step)

    def set(self, batch: str, name: str, status: str) -> str:
        """`start_file` (processing), `fail_file` (failed) or `update_audio_s3_path` (done). Gives it then."""

        def step() -> str:
            if self.status.get((batch, name)) != "done":
                self.status[batch, name] = status
            return self.status[batch, name]

        return str(self._reach(status, step))

    def settled_files(self, batch: str) -> dict[str, str]:
        def step() -> dict[str, str]:
            outcomes = {"done": "processed", "failed": "failed"}
            return {name: outcomes[self.status[batch, name]] for name in self.of(batch, *outcomes)}

        return dict(self._reach("settled_files", step))

    def unsettled_files(self, batch: str) -> list[str]:
        return list(self._reach("unsettled_files", lambda: self.of(batch, "processing")))

    def finish_batch(self, batch: str) -> None:
        def step() -> None:
            if batch in self.opened:
                assert not self.of(batch, "processing"), f"{batch} is finished before its last file"
                self.finished.add(batch)

        self._reach("finish_batch", step)

    def is_finished(self, batch: str) -> bool:
        return bool(self._reach("is_finished", lambda: batch in self.finished))


@dataclass
class Host:
    """A host's scratch: the folder of the locks, and the Opus files of each batch."""

    name: str
    root: Path
    files: dict[str, set[str]] = field(default_factory=dict)


@dataclass
class Stories:
    """What the workers of each host do."""

    world: World
    rows: Rows
    hosts: dict[str, Host]
    in_progress: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # by run

    def release(self, host: str, batch: str) -> None:
        """`cleanup_scratch`: deletes the batch's files."""
        here().stand(f"delete scratch of {batch}", (DONE,))
        now = self.world.model.batches.get(batch)
        if now is not None and now.host == host and now.total is not None:
            assert now.is_over(), f"{host} deletes the scratch of {batch} under unsettled files: {now}"
        self.hosts[host].files.pop(batch, None)

    # --- every worker ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def holding(self, process: Process, job: Job, fail_permanently: Callable[[str], Any]) -> Iterator[None]:
        """`Worker.holding`."""
        queue = process.queue
        try:
            yield
        except LostClaim:
            until_available(queue.settle, job)
        except Permanent as error:
            until_available(fail_permanently, str(error))
        except Away:
            until_available(queue.give_back, job, LATER)
        except Failure:
            if job.attempts >= ATTEMPTS:
                until_available(fail_permanently, "failed")
            else:
                until_available(queue.retry, job, LATER)

    def claim(self, process: Process) -> Job | None:
        """The next job; from here another line of the process may claim."""
        job: Job | None = until_available(process.queue.claim, 1)
        process.claiming = None
        return job

    def finish(self, process: Process) -> None:
        """`finish_batches`, of any worker of the host."""
        host = self.hosts[process.host]
        finish_batches(process.batches, self.rows, host.root, lambda batch: self.release(host.name, batch))  # type: ignore[arg-type]

    # --- the unpack worker -----------------------------------------------------------------------------

    def unpack(self, process: Process) -> None:
        """One job of an unpack worker."""
        job = self.claim(process)
        if job is None:
            return
        batch = str(job.fields["batch_id"])
        host, queue = self.hosts[process.host], process.queue
        with self.holding(process, job, lambda reason: self.fail_archive_permanently(process, job, reason)):
            if job.attempts > ATTEMPTS:
                raise Permanent("died with it")
            with scratch.locked(host.root, batch) as held:
                if not held:
                    until_available(queue.give_back, job, LATER)
                    return
                if until_available(self.rows.is_finished, batch) and not until_available(
                    process.batches.is_open, batch
                ):
                    until_available(queue.settle, job)
                    return
                work("S3")  # whether the archive is there
                if not until_available(process.batches.adopt, batch, job.fields["s3_key"], job):
                    until_available(queue.settle, job)
                    return
                self.unpack_archive(process, batch)
                until_available(queue.settle, job)
            until_available(self.finish, process)

    def unpack_archive(self, process: Process, batch: str) -> None:
        """`_unpack_archive`, `_left_to_do` and `_convert_all`."""
        batches, rows = process.batches, self.rows
        work("S3")
        until_available(rows.open_batch, batch)
        until_available(batches.open, batch, BATCHES[batch])
        known = until_available(batches.settled, batch) | until_available(batches.queued, batch)
        for name, outcome in until_available(rows.settled_files, batch).items():
            if name not in known:
                until_available(batches.settle, batch, name, outcome)
                known.add(name)
        for name in [name for name in names_in(batch) if name not in known]:
            try:
                work("ffmpeg")
            except Permanent:
                until_available(rows.set, batch, name, "failed")
                until_available(batches.settle, batch, name, "failed")
                continue
            self.hosts[process.host].files.setdefault(batch, set()).add(name)
            job = {"batch_id": batch, "audio_id": None, "opus_path": name, "original_filename": name}
            until_available(batches.push, batch, transcribe_queue(process.host), job)

    def fail_archive_permanently(self, process: Process, job: Job, reason: str) -> None:
        """`Unpacker.fail_permanently`."""
        batch, host, batches = str(job.fields["batch_id"]), self.hosts[process.host], process.batches
        with scratch.locked(host.root, batch) as held:
            if not held:
                raise Away("the lock of the batch")
            if batches.abandon(process.queue, job, batch):
                self.release(host.name, batch)
                self.fail_all_but(process, batch, set())
            elif batches.is_ours(batch):
                self.fail_all_but(process, batch, batches.queued(batch) | batches.settled(batch))
        self.finish(process)
        process.queue.dead_letter(job, reason)

    def fail_all_but(self, process: Process, batch: str, known: set[str]) -> None:
        for name in self.rows.unsettled_files(batch):
            if name not in known:
                self.rows.set(batch, name, "failed")
                process.batches.settle(batch, name, "failed")

    def sweep(self, process: Process) -> None:
        """`scratch.sweep`, with no regard for how long nothing changed there."""
        host = self.hosts[process.host]
        for batch in list(host.files):
            with scratch.locked(host.root, batch) as held:
                if held and not process.batches.is_ours(batch):
                    self.release(host.name, batch)

    def take_over(self, process: Process) -> None:
        """Maintenance: what lost hosts have left."""
        LostHosts(process.batches).take_over(UNPACK, LOST, self.rows.finish_batch)

    # --- the GPU worker --------------------------------------------------------------------------------

    def transcribe(self, process: Process) -> None:
        """One job of a GPU worker, which has several in progress."""
        job = self.claim(process)
        if job is None:
            return
        queue = process.queue
        if job.attempts > 1 and any(other is not job for other in queue.in_progress):
            until_available(queue.keep, job)
            return
        batch, name = str(job.fields["batch_id"]), str(job.fields["original_filename"])
        in_progress = self.in_progress.setdefault(process.state, set())
        with self.holding(process, job, lambda reason: self.fail_file_permanently(process, job, reason)):
            if job.attempts > ATTEMPTS:
                raise Permanent("died with it")
            if (batch, name) in in_progress:
                until_available(queue.give_back, job, LATER)
                return
            if not until_available(process.batches.wants, batch, name):
                until_available(queue.settle, job)
                return
            if until_available(self.rows.set, batch, name, "processing") == "done":
                self.count(process, job)
                return
            in_progress.add((batch, name))
            self.listen(process, job)

    def listen(self, process: Process, job: Job) -> None:
        """The engine, and `TranscriptionWorker.end`."""
        batch, name = str(job.fields["batch_id"]), str(job.fields["original_filename"])
        failure: Exception | None = None
        try:
            work("Whisper")
            if name not in self.hosts[process.host].files.get(batch, ()):
                self.misses(process.host, batch, name)
                raise Permanent("its Opus is gone")
        except (Permanent, Failure, Away) as error:
            failure = error
        self.in_progress[process.state].discard((batch, name))
        if failure is None:
            until_available(self.rows.set, batch, name, "done")
            self.count(process, job)
        elif until_available(process.batches.wants, batch, name):
            raise failure
        else:
            until_available(process.queue.settle, job)

    def misses(self, host: str, batch: str, name: str) -> None:
        """A worker has found no Opus: its batch must be another host's, or settled."""
        now = self.world.model.batches.get(batch)
        wanted = now is not None and now.host == host and name in now.queued - now.settled
        assert not wanted, f"{host} finds no {name} of {batch}: {now}"

    def count(self, process: Process, job: Job) -> None:
        """`TranscriptionWorker.count`."""
        batch, name = str(job.fields["batch_id"]), str(job.fields["original_filename"])
        if until_available(process.batches.settle_job, process.queue, job, batch, name, "processed") == "complete":
            until_available(self.finish, process)

    def fail_file_permanently(self, process: Process, job: Job, reason: str) -> None:
        """`TranscriptionWorker.fail_permanently`."""
        batch, name = str(job.fields["batch_id"]), str(job.fields["original_filename"])
        queue, dead_letter = process.queue, process.queue.letter(job, reason)
        if not process.batches.wants(batch, name):
            queue.settle(job)
            return
        self.rows.set(batch, name, "failed")
        if process.batches.settle_job(queue, job, batch, name, "failed", dead_letter) == "complete":
            self.finish(process)


def enqueue(world: World, batch: str, n: int) -> None:
    """As the transfer worker does, when an archive is in S3."""
    payload = encode(unpack_job(batch, n))
    world.plain.rpush(UNPACK, payload)
    world.model.queues[UNPACK].add(payload)
