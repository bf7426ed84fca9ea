"""SIGTERM at each step of each worker: it ends well, no attempt counts, nothing is lost, nothing doubled.

Every fifth step, and all of them with LONG_TESTS=1. SIGKILL is in tests/faults/test_kills.py.
"""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.foundation import redis_client, scratch
from tests.support.child import Child
from tests.support.fleet import Fleet, batch_keys
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, SPOKEN, make_tar, opus
from tests.support.steps import (
    AT_LENGTH,
    BATCH,
    dead,
    exit_status,
    faulty_worker,
    is_idle,
    log_of,
    object_keys,
    open_batch,
    rows,
    unpack_job,
    upload,
    wait_for,
    wait_for_log,
)

FILES = {"file001.mp3": SPEECH, "damaged.mp3": DAMAGED, "file002.mp3": SILENCE, "file003.mp3": SILENCE}

TRANSFER = [
    "pipeline.jobs.job_queue:JobQueue.claim after 1",
    "pipeline.transfer.ssh:RemoteHost.stat after 1",
    "pipeline.jobs.batch_ids:BatchIds.assign after 1",
    "pipeline.transfer.local_copies:Copies.lack after 1",
    "pipeline.transfer.scp:Copy._scp after 1",
    "pipeline.transfer.scp:Copy.run after 1",
    "pipeline.foundation.checksum:sha256 after 1",
    "pipeline.unpack.compression:_decompress after 1",
    "pipeline.unpack.compression:make_plain after 1",
    "pipeline.unpack.archive:index after 1",
    "s3_utils:batch_of_source after 1",
    "s3_utils:note_source after 1",
    "s3_utils:upload_archive before 1",
    "s3_utils:upload_archive after 1",
    "s3_utils:note_source after 2",
    "pipeline.transfer.discovery:Watch.mark after 1",
    "pipeline.jobs.job_queue:JobQueue.settle before 1",
    "pipeline.jobs.job_queue:JobQueue.settle after 1",
    "pipeline.transfer.ssh:RemoteHost.tidy before 1",
    "pipeline.transfer.ssh:RemoteHost.tidy after 1",
    "pipeline.transfer.originals:Sources.tidy after 1",
]
UNPACK = [
    "pipeline.jobs.job_queue:JobQueue.claim after 1",
    "pipeline.jobs.batches:Batches.adopt after 1",
    "s3_utils:download_archive after 1",
    "pipeline.unpack.compression:_decompress after 1",
    "pipeline.unpack.compression:make_plain after 1",
    "pipeline.unpack.archive:index after 1",
    "pipeline.store.database:Database.open_batch after 1",
    "pipeline.jobs.batches:Batches.open after 1",
    "pipeline.unpack.archive:copy after 1",
    "pipeline.audio.converter:Converter.to_opus after 1",
    "pipeline.jobs.batches:Batches.push before 1",
    "pipeline.jobs.batches:Batches.push after 2",
    "pipeline.store.database:Database.fail_file after 1",
    "pipeline.jobs.batches:Batches.settle after 1",
    "pipeline.jobs.job_queue:JobQueue.settle before 1",
    "pipeline.jobs.job_queue:JobQueue.settle after 1",
]
GPU = [
    "pipeline.jobs.job_queue:JobQueue.claim after 2",
    "pipeline.store.database:Database.start_file after 1",
    "pipeline.audio.decoder:Decoder.blocks before 2",
    "pipeline.speech.whisper:Whisper.decode before 2",
    "pipeline.speech.whisper:Whisper.decode after 2",
    "pipeline.speech.transcriber:Transcriber._end_channel before 2",
    "pipeline.store.database:Database.save_result after 1",
    "s3_utils:upload_opus before 2",
    "s3_utils:upload_opus after 1",
    "pipeline.store.transcript_files:TranscriptFiles.keep after 1",
    "pipeline.store.database:Database.update_audio_s3_path after 2",
    "pipeline.jobs.batches:Batches.settle_job before 2",
    "pipeline.jobs.batches:Batches.settle_job after 2",
    "s3_utils:cleanup_scratch before 1",
    "s3_utils:cleanup_scratch after 1",
    "pipeline.store.database:Database.finish_batch after 1",
    "pipeline.jobs.batches:Batches.close after 1",
]


EVERY = 1 if AT_LENGTH else 5


def make_archive(path: Path, point: str) -> Path:
    """A plain archive, or a compressed one for a step that only such a one has."""
    make_tar(path, FILES)
    if "compression" in point:
        path.write_bytes(gzip.compress(path.read_bytes()))
    return path


def stop(fleet: Fleet, role: str, point: str, done: Callable[[], object]) -> None:
    """Run a worker that is stopped at the point, then one that is not, until the work is done."""
    victim = faulty_worker(fleet, role, f"{point} TERM")
    status = exit_status(victim)
    assert "signal sent" in log_of(victim), log_of(victim)
    assert status == 0, log_of(victim)
    fleet.workers.remove(victim)
    victim.log.rename(victim.log.with_suffix(".struck"))
    assert_uncounted(fleet, role)
    successor = fleet.worker(role)
    wait_for_log(successor, "ready")
    wait_for(done, fleet, f"the end of {role} after {point}")
    assert_clean_end(successor)


def assert_uncounted(fleet: Fleet, role: str) -> None:
    """A job that was in progress at SIGTERM has not used up an attempt."""
    queue = {"transfer": "queue:transfer", "unpack": "queue:unpack", "gpu": "queue:transcribe"}[role]
    client = redis_client.connect(fleet.valkey.url)
    assert client.hgetall(f"{queue}:attempts") == {}
    client.close()


def assert_clean_end(worker: Child) -> None:
    """SIGTERM ends an idle worker with status 0."""
    assert worker.process is not None
    worker.process.terminate()
    assert exit_status(worker) == 0, log_of(worker)


@pytest.mark.parametrize("point", TRANSFER[::EVERY])
def test_it_transfers_once_whatever_step_it_is_stopped_at(fleet: Fleet, redis: Any, point: str) -> None:
    fleet.changes = {"EC2_AFTER_UPLOAD": "delete"}
    tars = [make_archive(fleet.ssh.folder / f"{day}.tar", point) for day in ("monday", "tuesday", "friday")]
    Path(f"{tars[0]}.sha256").write_text(hashlib.sha256(tars[0].read_bytes()).hexdigest())
    assert fleet.control("enqueue", *map(str, tars)).returncode == 0

    def is_done() -> bool:
        return is_idle(redis, "queue:transfer") and not redis.exists("queue:transfer:after")

    stop(fleet, "transfer", point, is_done)
    jobs = [json.loads(payload) for payload in redis.lrange("queue:unpack", 0, -1)]
    assert sorted(object_keys(fleet, "archives/")) == sorted(f"archives/{job['batch_id']}.tar" for job in jobs)
    assert len({job["s3_key"] for job in jobs}) == len(jobs) == len(tars)
    assert {job["file_count"] for job in jobs} == {len(FILES)}
    assert not dead(redis, "queue:transfer")
    assert list(fleet.ssh.folder.glob("*.tar*")) == []
    assert [path for path in (fleet.folder / "transfer").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("point", UNPACK[EVERY - 1 :: EVERY])
def test_it_unpacks_once_whatever_step_it_is_stopped_at(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    upload(fleet, monkeypatch, make_archive(tmp_path / "monday.tar", point))
    redis.rpush("queue:unpack", unpack_job(file_count=len(FILES)))
    stop(fleet, "unpack", point, lambda: is_idle(redis, "queue:unpack"))
    jobs = [json.loads(payload) for payload in redis.lrange("queue:transcribe", 0, -1)]
    assert sorted(job["original_filename"] for job in jobs) == ["file001.mp3", "file002.mp3", "file003.mp3"]
    folder = fleet.folder / "scratch" / BATCH
    assert {path.name for path in folder.iterdir() if path.suffix != ".part"} == {
        f"file00{number}.{kind}" for number in (1, 2, 3) for kind in ("opus", "report.json")
    }
    assert all(Path(job["opus_path"]).stat().st_size for job in jobs)
    counters = redis.mget(f"batch:{BATCH}:total", f"batch:{BATCH}:processed", f"batch:{BATCH}:failed")
    assert counters == ["4", "0", "1"]
    assert rows(fleet)[BATCH, "damaged.mp3"][0] == "failed"
    assert not dead(redis, "queue:unpack")


@pytest.mark.parametrize("point", GPU[EVERY // 2 :: EVERY])
def test_it_transcribes_once_whatever_step_it_is_stopped_at(fleet: Fleet, redis: Any, point: str) -> None:
    host = "this-host"
    fleet.changes = {"HOST_NAME": host}
    heard = {name: opus(data) for name, data in FILES.items() if data is not DAMAGED}
    open_batch(fleet, redis, host, {"damaged.mp3": b"no opus", **heard})
    stop(fleet, "gpu", point, lambda: is_idle(redis, "queue:transcribe") and not batch_keys(redis))
    found = rows(fleet)
    assert {name: row[0] for (_, name), row in found.items()} == {
        "file001.mp3": "done",
        "file002.mp3": "done",
        "file003.mp3": "done",
        "damaged.mp3": "failed",
    }
    assert found[BATCH, "file001.mp3"][2] == SPOKEN
    kept = {row[3] for row in found.values() if row[0] == "done"}
    assert object_keys(fleet) == sorted(kept | {key.replace(".opus", ".json") for key in kept})
    scratch.sweep(fleet.folder / "scratch", 900, lambda _: True, print)  # as the unpack worker does, for the lock
    assert list((fleet.folder / "scratch").iterdir()) == []
    assert fleet.query("SELECT count(finished_at) FROM batches") == [(1,)]
