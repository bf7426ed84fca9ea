"""Faults with a plot: a file that kills its worker, a host that is lost and returns, two that own one batch.

Each function plays one of them on a fleet that was just cleaned, and gives what the checker found and the seconds
to recover.
"""

import contextlib
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.foundation import redis_client
from tests.faults import armed, stream
from tests.faults.checker import Archive, File, Findings, check, digest, is_quiet
from tests.support.child import Child, wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import DAMAGED, SHORT, SILENCE, WORDS, make_tar, sample
from tests.support.steps import now, object_keys, s3_client

SETTINGS = {
    "MAX_ATTEMPTS": "3",
    "RETRY_SECONDS": "1",
    "HEARTBEAT_SECONDS": "2",
    "HOST_LOST_SECONDS": "5",
    "EC2_AFTER_UPLOAD": "delete",
    "CONVERT_JOBS": "1",
    "TRANSFER_AHEAD": "0",
}
PATIENCE_SECONDS = 240.0
SWEPT_SECONDS = 60.0


@dataclass
class Stage:
    """A fleet with hosts of names: their workers, the archives that were put in."""

    fleet: Fleet
    archives: list[Archive] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    workers: dict[str, dict[str, Child]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fleet.changes = {**SETTINGS, "TRANSFER_ROOT": str(self.fleet.folder / "transfer")}
        self.redis: Any = redis_client.connect(self.fleet.valkey.url)

    # --- hosts and workers -----------------------------------------------------------------------------

    def scratch(self, host: str) -> Path:
        """The scratch of a host."""
        return self.fleet.folder / host

    def start(self, host: str, *roles: str, words: str = "", **changes: str) -> None:
        """Start workers on a host; `words` are those of tests/faults/armed.py."""
        settings = {
            "HOST_NAME": host,
            "SCRATCH_ROOT": str(self.scratch(host)),
            "TRANSCRIBE_QUEUE": stream.queue_of(host),
            **changes,
        }
        for role in roles:
            name = f"{host}-{role}"
            script = [str(armed.__file__), str(PROJECT / f"{role.partition('-')[0]}_worker.py"), *words.split()]
            child = self.fleet.run(script, name, MARKS=str(self.marks(name)), **settings)
            self.fleet.workers.remove(child)
            self.workers.setdefault(host, {})[role] = child
        if host not in self.hosts:
            self.hosts.append(host)

    def marks(self, name: str) -> Path:
        """The marks of a worker."""
        return self.fleet.folder / f"{name}.marks"

    def is_hit(self, host: str, role: str) -> bool:
        """Whether the fault has struck that the worker was started with."""
        with contextlib.suppress(FileNotFoundError):
            return "hit" in self.marks(f"{host}-{role}").read_text()
        return False

    def send(self, host: str, number: signal.Signals) -> None:
        """Send a signal to every worker of a host, and to what they have started."""
        for child in self.workers[host].values():
            if child.process is not None:
                child.process.send_signal(number)

    def lose(self, host: str) -> None:
        """SIGKILL everything on a host."""
        for child in self.workers.pop(host).values():
            child.kill()

    def close(self) -> None:
        """End what runs."""
        for children in self.workers.values():
            self.fleet.workers += children.values()
        self.workers = {}
        self.redis.close()
        self.fleet.stop_workers()

    # --- archives --------------------------------------------------------------------------------------

    def put(self, name: str, files: dict[str, File]) -> str:
        """Put an archive into S3 and queue it; gives its batch id."""
        number = len(self.archives) + 1
        batch_id = f"20010101-{number:06}"
        path = self.fleet.folder / f"{name}.tar"
        data = make_tar(path, {key: file.data for key, file in files.items()}).read_bytes()
        s3_client(self.fleet).put_object(
            Bucket=self.fleet.bucket,
            Key=stream.archive_key(batch_id),
            Body=data,
            Metadata={"sha256": digest(data)},
        )
        self.archives.append(Archive(path.name, files, digest(data)))
        self.redis.rpush("queue:unpack", stream.unpack_job(batch_id, len(files)))
        return batch_id

    def enqueue(self, name: str, files: dict[str, File]) -> None:
        """Put an archive on the EC2 host and queue it."""
        path = make_tar(self.fleet.ssh.folder / f"{name}.tar", {key: file.data for key, file in files.items()})
        self.archives.append(Archive(path.name, files, digest(path.read_bytes()), path))
        if self.fleet.control("enqueue", str(path)).returncode != 0:
            raise RuntimeError(f"{path} could not be queued")

    # --- the end ---------------------------------------------------------------------------------------

    def wait_until_quiet(self) -> None:
        """Wait until nothing moves any more."""
        with contextlib.suppress(TimeoutError):  # then the checker says what is stranded
            wait_until(lambda: is_quiet(self.fleet, self.archives), "quiet", PATIENCE_SECONDS)

    def check(self) -> Findings:
        """What the checker finds, when what is swept has had the time to be swept."""
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not self._found(), "an end without findings", SWEPT_SECONDS)
        return self._found()

    def _found(self) -> Findings:
        return check(self.fleet, self.archives, [self.scratch(host) for host in self.hosts])

    def owner(self, batch_id: str) -> str:
        """The host to which the batch belongs now."""
        return self.redis.get(f"batch:{batch_id}:host") or ""

    def has_begun(self, host: str, role: str, batch_id: str) -> bool:
        """Whether the host has taken the work over: the transfer that alpha had in progress, or the batch."""
        if role == "transfer":
            return not self.redis.llen("queue:transfer:working:test-alpha-transfer")
        return self.owner(batch_id) == host or is_quiet(self.fleet, self.archives)

    def kept(self) -> dict[str, Any]:
        """What is kept for good: rows, transcripts, labels, objects."""
        return {
            "rows": self.fleet.query("SELECT * FROM audio_files ORDER BY audio_id"),
            "transcripts": self.fleet.query("SELECT * FROM transcripts ORDER BY audio_id"),
            "labels": self.fleet.query("SELECT * FROM classifications ORDER BY audio_id, label"),
            "batches": self.fleet.query("SELECT * FROM batches ORDER BY batch_id"),
            "objects": sorted(object_keys(self.fleet)),
        }


def files_of(number: int) -> dict[str, File]:
    """Speech, silence and a damaged file; no two numbers have a name in common."""
    name = SHORT[number % 4]
    return {
        f"{number}-call.mp3": File(sample(name), WORDS[name]),
        f"{number}-damaged.mp3": File(DAMAGED, status="failed"),
        f"{number}-quiet.mp3": File(SILENCE, ""),
        f"{number}-second.mp3": File(sample(SHORT[4]), WORDS[SHORT[4]]),
    }


# --- a file that kills its worker ----------------------------------------------------------------------


def poison(fleet: Fleet, files: int = 500) -> tuple[Findings, list[float]]:
    """One of so many files kills its GPU worker each time; two GPU workers, each started again at once.

    It alone is to be failed, after MAX_ATTEMPTS (3) deaths. Recovery: from each death to the next acknowledgement.
    """
    stage = Stage(fleet)
    try:
        good = {f"{number:03}.mp3": File(SILENCE, "") for number in range(files - 1)}
        for number in range(0, files - 1, 25):
            good[f"{number:03}.mp3"] = File(sample(SHORT[0]), WORDS[SHORT[0]])
        everything = {**good, f"{files // 2:03}-poison.mp3": File(SILENCE, status="failed")}
        batch_id = stage.put("five-hundred", dict(sorted(everything.items())))
        words = "pipeline.speech.voice_windows:ends_whole before -poison KILL"
        stage.start("alpha", "unpack")
        stage.start("alpha", "gpu-0", "gpu-1", words=words)
        deaths: list[float] = []
        end = now() + 2 * PATIENCE_SECONDS
        while not is_quiet(fleet, stage.archives) and now() < end:
            for role, child in [*stage.workers["alpha"].items()]:
                if child.process is not None and (status := child.process.poll()) is not None:
                    if status != -signal.SIGKILL:
                        child.require_running()
                    deaths.append(now())
                    stage.start("alpha", role, words=words)
        found = stage.check()
        if len(deaths) != 3:
            found.stranded.append(f"the poison killed {len(deaths)} workers, not 3")
        ((error,),) = fleet.query("SELECT error FROM audio_files WHERE original_filename LIKE '%%poison%%'")
        if error != "the worker died with this job in progress, at attempt 3":
            found.stranded.append(f"the poison of {batch_id} is failed because: {error}")
        return found, _recoveries(stage, deaths)
    finally:
        stage.close()


def _recoveries(stage: Stage, moments: list[float]) -> list[float]:
    acks = sorted(
        float(line.split()[0])
        for path in stage.fleet.folder.glob("*gpu*.marks")
        for line in path.read_text().splitlines()
        if line.endswith("ack")
    )
    return [next(ack for ack in acks if ack > moment) - moment for moment in moments if acks[-1] > moment]


# --- a host that is lost -------------------------------------------------------------------------------


def lost_host(fleet: Fleet, returns: str, batches: int = 5) -> tuple[Findings, list[float]]:
    """A host dies with so many open batches, its scratch goes with it; another one completes them. Then it
    `returns`: "with scratch", "without scratch", or "never".

    Recovery: from the death to the end of the last of its batches, HOST_LOST_SECONDS (5) included. A return that
    changes a row, a transcript, a label or an object is a finding.
    """
    stage = Stage(fleet)
    try:
        ids = [stage.put(f"batch-{number}", files_of(number)) for number in range(batches)]
        stage.start("alpha", "unpack")
        queue = stream.queue_of("alpha")
        wait_until(lambda: stage.redis.llen(queue) == 3 * batches, "files of every batch", PATIENCE_SECONDS)
        stage.start("alpha", "gpu", words="pipeline.jobs.batches:Batches.settle_job after 2 KILL")
        wait_until(lambda: stage.is_hit("alpha", "gpu"), "the death of the GPU worker", PATIENCE_SECONDS)
        stage.lose("alpha")
        died = now()
        assert {stage.owner(batch_id) for batch_id in ids} == {"alpha"}
        shutil.move(stage.scratch("alpha"), stage.scratch("kept"))
        stage.start("beta", "unpack", "gpu")
        stage.wait_until_quiet()
        recovery = now() - died
        found = stage.check()
        if returns != "never":
            _return(stage, returns == "with scratch", found)
        return found, [recovery]
    finally:
        stage.close()


def _return(stage: Stage, with_scratch: bool, found: Findings) -> None:
    """The lost host comes back, and changes nothing."""
    before = stage.kept()
    if with_scratch:
        shutil.move(stage.scratch("kept"), stage.scratch("alpha"))
    stage.start("alpha", "unpack", "gpu")
    wait_until(
        lambda: all("ready" in stage.marks(f"alpha-{role}").read_text() for role in ("unpack", "gpu")),
        "its return",
    )
    again = stage.check()
    for kind, sentences in vars(again).items():
        getattr(found, kind).extend(f"after the return: {sentence}" for sentence in sentences)
    after = stage.kept()
    found.doubled += [f"the return has changed {what}" for what in before if before[what] != after[what]]


# --- two that own one thing ----------------------------------------------------------------------------


STOPPED_AT = {
    "transfer": (
        "before pipeline.jobs.batch_ids:BatchIds.assign",
        "after pipeline.jobs.batch_ids:BatchIds.assign",
        "after pipeline.transfer.scp:Copy.run",
        "before s3_utils:upload_archive",
        "after s3_utils:upload_archive",
        "before pipeline.jobs.job_queue:JobQueue.settle",
        "before pipeline.transfer.ssh:RemoteHost.tidy",
    ),
    "unpack": (
        "before pipeline.jobs.batches:Batches.adopt",
        "after pipeline.jobs.batches:Batches.adopt",
        "after s3_utils:download_archive",
        "before pipeline.store.database:Database.open_batch",
        "after pipeline.store.database:Database.open_batch",
        "after pipeline.jobs.batches:Batches.open",
        "after pipeline.audio.converter:Converter.to_opus call",
        "before pipeline.jobs.batches:Batches.push",
        "after pipeline.jobs.batches:Batches.push",
        "before pipeline.store.database:Database.fail_file",
        "before pipeline.jobs.batches:Batches.settle",
        "before pipeline.jobs.job_queue:JobQueue.settle",
    ),
    "gpu": (
        "after pipeline.jobs.job_queue:JobQueue._count batch_id",
        "before pipeline.store.database:Database.start_file",
        "after pipeline.store.database:Database.start_file",
        "before pipeline.speech.whisper:Whisper.decode 2",
        "before pipeline.store.database:Database.save_result",
        "after pipeline.store.database:Database.save_result",
        "before s3_utils:upload_opus",
        "after s3_utils:upload_opus",
        "after pipeline.store.transcript_files:TranscriptFiles.keep",
        "before pipeline.store.database:Database.update_audio_s3_path",
        "before pipeline.jobs.batches:Batches.settle_job",
        "before s3_utils:cleanup_scratch",
        "after s3_utils:cleanup_scratch",
        "before pipeline.store.database:Database.finish_batch",
        "before pipeline.jobs.batches:Batches.close",
    ),
}


def two_owners(fleet: Fleet, role: str, place: str, wakes: str) -> tuple[Findings, list[float]]:
    """Everything on host alpha is stopped (SIGSTOP) when a worker comes to a place of STOPPED_AT; host beta takes
    its work over, and alpha goes on (SIGCONT) as if nothing had been: it `wakes` "at once", when beta has just
    begun, or "late", when beta has ended.

    Recovery: from the stop to the end of the work, HEARTBEAT_SECONDS (2) or HOST_LOST_SECONDS (5) included.
    """
    stage = Stage(fleet)
    try:
        when, function, *which = place.split()
        words = f"{function} {when} {which[0] if which else 1} STOP"
        batch_id = ""
        if role == "transfer":
            stage.enqueue("monday", files_of(1))
        else:
            batch_id = stage.put("monday", files_of(1))
        roles = ["transfer"] if role == "transfer" else ["unpack", "gpu"]
        for one in roles:
            stage.start("alpha", one, words=words if one == role else "")
        wait_until(lambda: stage.is_hit("alpha", role), f"a worker {place}", PATIENCE_SECONDS)
        stopped = now()
        stage.send("alpha", signal.SIGSTOP)
        stage.start("beta", *roles)
        if wakes == "at once":
            wait_until(lambda: stage.has_begun("beta", role, batch_id), "a second owner", PATIENCE_SECONDS)
        else:
            stage.start("beta", *{"unpack", "gpu"}.difference(roles))
            stage.wait_until_quiet()
        stage.send("alpha", signal.SIGCONT)
        stage.start("beta", *{"unpack", "gpu"}.difference(stage.workers["beta"]))
        stage.wait_until_quiet()
        recovery = now() - stopped
        return stage.check(), [recovery]
    finally:
        stage.close()
