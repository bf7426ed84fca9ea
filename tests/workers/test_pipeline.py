"""Archives through all workers: every file one row, one object, one transcript, whatever is delivered twice."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import config
import unpack_worker
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from pipeline.jobs.worker import Worker
from pipeline.store.database import Database
from tests.support.child import wait_until
from tests.support.disks import small_disk
from tests.support.fleet import Fleet, batch_keys
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, SPOKEN, make_tar, opus
from tests.support.steps import (
    AT_LENGTH,
    BATCH,
    dead,
    exit_status,
    faulty_worker,
    is_idle,
    kill_worker,
    log_of,
    object_keys,
    open_batch,
    rows,
    unpack_job,
    upload,
    wait_for,
    wait_for_log,
)

MANY = 847 if AT_LENGTH else 241  # files
QUEUES = ("queue:transfer", "queue:unpack", "queue:transcribe")


def finished(fleet: Fleet, batches: int) -> Callable[[], bool]:
    """Whether so many batches are finished and nothing is in any queue."""
    return lambda: fleet.query("SELECT count(finished_at) FROM batches") == [(batches,)]


def assert_settled(fleet: Fleet, redis: Any, files: dict[str, str]) -> None:
    """Each file has its status, each done one its object, and nothing is left anywhere."""
    wait_for(lambda: all(is_idle(redis, queue) for queue in QUEUES), fleet, "idle queues")
    found = rows(fleet)
    assert {name: row[0] for (_, name), row in found.items()} == files
    kept = {row[3] for row in found.values() if row[3]}
    assert object_keys(fleet, "processed/") == sorted(kept | {key.replace(".opus", ".json") for key in kept})
    assert all((row[0] == "done") == bool(row[3]) for row in found.values())
    assert list((fleet.folder / "scratch").iterdir()) == []
    assert batch_keys(redis) == []


def test_it_brings_archives_with_the_same_filenames_to_their_own_rows(fleet: Fleet, redis: Any) -> None:
    fleet.nursery = None  # one at least starts and ends as the operator's do
    for name, data in (("monday", SPEECH), ("tuesday", SILENCE)):
        make_tar(fleet.ssh.folder / f"{name}.tar", {"call.mp3": data})
    fleet.control("enqueue", *(str(fleet.ssh.folder / f"{name}.tar") for name in ("monday", "tuesday")))
    workers = [fleet.worker(role) for role in ("transfer", "unpack", "gpu")]
    wait_for(finished(fleet, 2), fleet, "two batches")
    texts = [row[2] for _, row in sorted(rows(fleet).items())]
    assert sorted(texts) == ["", SPOKEN]
    keys = object_keys(fleet)
    assert len([key for key in keys if key.startswith("archives/")]) == 2
    assert len([key for key in keys if key.startswith("processed/")]) == 4  # each Opus and its transcript
    assert_settled(fleet, redis, {"call.mp3": "done"})
    fleet.stop_workers()
    assert [exit_status(worker) for worker in workers] == [0, 0, 0]


def test_it_gives_each_of_many_files_one_row_with_three_workers_of_each_kind(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"call{number:03}.mp3": SPEECH if number % 40 == 0 else SILENCE for number in range(MANY - 1)}
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {**files, "damaged.mp3": DAMAGED}))
    for _ in range(3):  # the same archive for each unpack worker at once
        redis.rpush("queue:unpack", unpack_job(file_count=MANY))
    transcribing = [fleet.worker("gpu", f"gpu-{number}") for number in range(3)]
    for worker in transcribing:
        wait_for_log(worker, "ready")
    for number in range(3):
        fleet.worker("unpack", f"unpack-{number}")
    wait_for(finished(fleet, 1), fleet, f"{MANY} files", seconds=400)
    done = dict.fromkeys(files, "done")
    wait_for(lambda: is_idle(redis, "queue:unpack"), fleet, "the other deliveries of the archive")
    assert_settled(fleet, redis, {**done, "damaged.mp3": "failed"})
    heard = [row[2] for (_, name), row in rows(fleet).items() if files.get(name) is SPEECH]
    assert heard == [SPOKEN] * len(range(0, MANY - 1, 40))
    done_by = [log_of(worker).count(" done, ") for worker in transcribing]
    assert min(done_by) > 0, f"a GPU worker did nothing: {done_by}"


def test_it_drops_an_archive_delivered_again_after_its_batch_is_finished(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SPEECH}))
    unpack, _ = fleet.worker("unpack"), fleet.worker("gpu")
    redis.rpush("queue:unpack", unpack_job())
    wait_for(finished(fleet, 1), fleet, "the batch")
    before = fleet.query("SELECT audio_id, created_at, updated_at FROM audio_files")
    redis.rpush("queue:unpack", unpack_job())
    wait_for_log(unpack, "is finished already")
    assert_settled(fleet, redis, {"a.mp3": "done"})
    assert fleet.query("SELECT audio_id, created_at, updated_at FROM audio_files") == before


def test_it_counts_a_file_of_five_copies_once_and_waits_for_the_other(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None of the copies uses up an attempt, whichever worker claims it."""
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "1", "RECONCILE_SECONDS": "0"}
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SPEECH, "b.mp3": SILENCE}))
    fleet.worker("unpack")
    redis.rpush("queue:unpack", unpack_job())
    wait_for(lambda: redis.llen("queue:transcribe") == 2, fleet, "two files")
    first, second = redis.lpop("queue:transcribe", 2)
    redis.rpush("queue:transcribe", *[first] * 5)
    gpus = [fleet.worker("gpu"), fleet.worker("gpu", "other")]

    def dropped() -> int:
        return sum(log_of(gpu).count("is settled already") for gpu in gpus)

    wait_for(dropped, fleet, "a copy that asks for nothing")
    wait_for(lambda: is_idle(redis, "queue:transcribe"), fleet, "the first file")
    assert redis.mget(f"batch:{BATCH}:total", f"batch:{BATCH}:processed") == ["2", "1"]
    opus = Path(json.loads(second)["opus_path"])
    assert opus.exists(), "the scratch went under a file still to be read"
    redis.rpush("queue:transcribe", second)
    wait_for(finished(fleet, 1), fleet, "the batch")
    before = dropped()
    redis.rpush("queue:transcribe", first)  # late: the batch is closed
    wait_until(lambda: dropped() > before, "the late delivery")
    assert_settled(fleet, redis, {"a.mp3": "done", "b.mp3": "done"})


def test_it_finishes_a_batch_without_audio(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "notes.tar", {"notes.txt": b"nothing to hear"}))
    redis.rpush("queue:unpack", unpack_job(file_count=0))
    fleet.worker("unpack")
    wait_for(finished(fleet, 1), fleet, "the empty batch")
    assert_settled(fleet, redis, {})


def test_it_finishes_a_batch_whose_every_file_is_damaged(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "bad.tar", {"a.mp3": DAMAGED, "b.mp3": b""}))
    redis.rpush("queue:unpack", unpack_job())
    fleet.worker("unpack")
    wait_for(finished(fleet, 1), fleet, "the damaged batch")
    reasons = {name: row[1] for (_, name), row in rows(fleet).items()}
    assert reasons == {"a.mp3": "it holds no sound in a format that is read here", "b.mp3": "it is empty"}
    assert_settled(fleet, redis, {"a.mp3": "failed", "b.mp3": "failed"})


def test_it_keeps_odd_names_truthfully_and_scratch_safe(fleet: Fleet, redis: Any) -> None:
    names = [
        "caf\udce9.mp3",
        "../../up.mp3",
        "/abs.mp3",
        "a/x.mp3",
        "a_x.mp3",
        "A_X.mp3",
        "a_x.wav",
        "new\nline.mp3",
    ]
    tar = make_tar(fleet.ssh.folder / "odd.tar", dict.fromkeys(names, SILENCE))
    fleet.control("enqueue", str(tar))
    for role in ("transfer", "unpack", "gpu"):
        fleet.worker(role)
    wait_for(finished(fleet, 1), fleet, "the batch of odd names")
    kept = ["caf\\xe9.mp3", *names[1:]]
    assert_settled(fleet, redis, dict.fromkeys(kept, "done"))


def test_it_survives_restarts_of_postgresql_and_redis_without_using_up_attempts(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"MAX_ATTEMPTS": "1"}
    files = {f"{number}.mp3": SPEECH for number in range(30)}
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", files))
    redis.rpush("queue:unpack", unpack_job())
    unpack, gpu = fleet.worker("unpack"), fleet.worker("gpu")
    wait_for_log(gpu, "done, ")
    fleet.postgres.kill()
    wait_for_log(gpu, "PostgreSQL is unavailable")
    fleet.postgres.start()
    seen = log_of(gpu).count("done, ")
    wait_until(lambda: log_of(gpu).count("done, ") > seen, "work after PostgreSQL's return")
    fleet.valkey.stop()
    wait_for_log(gpu, "Redis is unavailable")
    fleet.valkey.start()
    wait_for(finished(fleet, 1), fleet, "the batch", seconds=90)
    assert_settled(fleet, redis, dict.fromkeys(files, "done"))
    assert "failed permanently" not in log_of(gpu) + log_of(unpack)


def test_it_moves_the_batches_of_a_lost_host_to_another(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.mp3": SPEECH, "b.mp3": SILENCE}
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", files))
    redis.rpush("queue:unpack", unpack_job())
    lost = on_host(fleet, "lost")
    first = fleet.worker("unpack", "lost-unpack", **lost)
    wait_for(lambda: redis.llen("queue:transcribe:lost") == 2, fleet, "the files on the host that will be lost")
    first.kill()
    fleet.workers.remove(first)
    for role in ("unpack", "gpu"):
        fleet.worker(role, f"heir-{role}", **on_host(fleet, "heir"))
    wait_for(finished(fleet, 1), fleet, "the batch on its new host")
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    fleet.worker("gpu", "lost-gpu", **lost)
    wait_until(lambda: redis.llen("queue:transcribe:lost") == 0, "the lost host's old jobs")
    fleet.worker("unpack", "lost-unpack", **lost)
    wait_for(lambda: not list(Path(lost["SCRATCH_ROOT"]).iterdir()), fleet, "the sweep of the lost host's scratch")
    assert len(object_keys(fleet, "processed/")) == 4
    assert batch_keys(redis) == []


def on_host(fleet: Fleet, host: str) -> dict[str, str]:
    """The settings of a host of its own."""
    return {
        "HOST_NAME": host,
        "SCRATCH_ROOT": str(fleet.folder / host),
        "TRANSCRIBE_QUEUE": f"queue:transcribe:{host}",
        "HOST_LOST_SECONDS": "6",
        "HEARTBEAT_SECONDS": "2",
    }


def test_it_refuses_a_second_host_on_the_same_transcription_queue(fleet: Fleet, redis: Any) -> None:
    first = fleet.worker("unpack", "one", HOST_NAME="one")
    wait_for_log(first, "ready")
    second = fleet.worker("unpack", "two", HOST_NAME="two")
    assert second.process is not None
    assert second.process.wait(30) == 2
    fleet.workers.remove(second)
    assert "set TRANSCRIBE_QUEUE=queue:transcribe:two" in log_of(second)


def test_it_buries_a_file_that_kills_its_worker_and_finishes_the_batch(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "2"}
    (poison,) = open_batch(fleet, redis, "this-host", {"poison.mp3": b"whatever"})
    for _ in range(2):
        kill_worker(fleet, "gpu", "pipeline.speech.voice_windows:ends_whole before 1")
    fleet.worker("gpu")
    wait_for(lambda: not Batches(redis, "this-host").finishing() and not batch_keys(redis), fleet, "the batch")
    ((status, error, _, _),) = rows(fleet).values()
    assert (status, error) == ("failed", "the worker died with this job in progress, at attempt 2")
    (dead_letter,) = dead(redis, "queue:transcribe")
    assert dead_letter["job"] == poison
    assert dead_letter["error"] == error


def test_a_file_that_kills_its_worker_takes_no_neighbour_with_it(fleet: Fleet, redis: Any) -> None:
    """Its neighbours were in progress when it struck first; from then on each suspect is worked on alone."""
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "2"}
    good = {f"call{number:02}.mp3": opus(SPEECH if number % 3 == 0 else SILENCE) for number in range(12)}
    names = sorted([*good, "call05-poison.mp3"])
    open_batch(fleet, redis, "this-host", {name: good.get(name, opus(SILENCE)) for name in names})
    for _ in range(2):
        kill_worker(fleet, "gpu", "pipeline.speech.voice_windows:ends_whole before poison")
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    found = {name: row[:2] for (_, name), row in rows(fleet).items()}
    reason = "the worker died with this job in progress, at attempt 2"
    assert found == {**dict.fromkeys(good, ("done", None)), "call05-poison.mp3": ("failed", reason)}


def test_a_gpu_that_fails_on_every_file_costs_few_of_them(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "1", "RETRY_SECONDS": "5"}
    open_batch(fleet, redis, "this-host", {f"call{number}.mp3": opus(SILENCE) for number in range(9)})
    for _ in range(2):
        kill_worker(fleet, "gpu", "pipeline.speech.voice_windows:ends_whole before 1")
    settled = len(redis.smembers(f"batch:{BATCH}:settled"))
    third = fleet.worker("gpu")
    wait_for_log(third, "2 runs in a row have died with no file done: look at the GPU")
    wait_for(lambda: "waiting: 2 runs" in redis.get("worker:test-gpu"), fleet, "its status")
    assert len(redis.smembers(f"batch:{BATCH}:settled")) == settled
    third.stop()
    fleet.workers.remove(third)
    fleet.changes["RETRY_SECONDS"] = "0"
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert redis.get("worker:test-gpu:fruitless") is None


def test_an_archive_whose_unpacking_kills_its_worker_ends_with_every_file_settled(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "2", "CONVERT_JOBS": "1"}
    files = {"a.mp3": SILENCE, "poison.mp3": SILENCE, "z.mp3": SILENCE}
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", files))
    redis.rpush("queue:unpack", unpack_job(file_count=3))
    for _ in range(2):
        kill_worker(fleet, "unpack", "pipeline.audio.converter:Converter.to_opus before poison")
    fleet.worker("unpack")
    fleet.worker("gpu")
    wait_for(lambda: dead(redis, "queue:unpack") and not batch_keys(redis), fleet, "the end of the batch")
    found = {name: row[:2] for (_, name), row in rows(fleet).items()}
    reason = "its archive was failed permanently: the worker died with this job in progress, at attempt 2"
    assert found["poison.mp3"] == ("failed", reason)
    assert {status for status, _ in found.values()} <= {"done", "failed"}
    assert [path.name for path in (fleet.folder / "scratch").iterdir() if not path.name.startswith(".")] == []


def test_an_archive_larger_than_the_volume_is_refused_and_the_next_one_unpacked(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "3m") as small:
        upload(fleet, monkeypatch, make_tar(tmp_path / "big.tar", {"a.mp3": bytes(4_000_000)}))
        upload(fleet, monkeypatch, make_tar(tmp_path / "b.tar", {"b.mp3": SILENCE}), "20250623-000000")
        redis.rpush("queue:unpack", unpack_job(), unpack_job("20250623-000000"))
        unpack = fleet.worker("unpack", SCRATCH_ROOT=str(small), SCRATCH_MIN_FREE_MB="1")
        wait_for(lambda: redis.llen("queue:transcribe") == 1, fleet, "the small archive")
        (dead_letter,) = dead(redis, "queue:unpack")
        assert "the scratch volume of" in dead_letter["error"]
        unpack.stop()
        fleet.workers.remove(unpack)


def test_a_worker_that_has_lost_its_claim_fails_no_file_of_its_neighbour(
    fleet: Fleet, redis: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_batch(fleet, redis, "h", {"a.mp3": SILENCE})
    database.open_batch(BATCH, f"archives/{BATCH}.tar", ["a.mp3", "b.mp3"], "h")
    monkeypatch.setattr(config, "SCRATCH_ROOT", fleet.folder / "scratch")
    monkeypatch.setattr(config, "DATABASE_URL", fleet.postgres.worker_url)
    process = Worker(fleet.valkey.url, "queue:unpack", "unpack", "w", "h", config.LIMITS)
    redis.rpush("queue:unpack:working:neighbour", unpack_job())
    unpacker, job = unpack_worker.Unpacker(process), Job(unpack_job(), 1, "t")
    unpacker.fail_permanently(job, "the disk was full for the other")
    assert {row[0] for row in rows(fleet).values()} == {"processing"}
    redis.lmove("queue:unpack:working:neighbour", process.queue.working)
    unpacker.fail_permanently(job, "it is ours")
    assert rows(fleet)[(BATCH, "b.mp3")][0] == "failed"
    assert dead(redis, "queue:unpack")[0]["error"] == "it is ours"


def test_an_archive_waits_while_something_else_fills_the_volume(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "small", "8m") as small:
        files = {f"{number:02}.mp3": SPEECH for number in range(1_000_000 // len(SPEECH))}
        upload(fleet, monkeypatch, make_tar(tmp_path / "a.tar", files))
        (small / "not-ours").write_bytes(bytes(6_900_000))
        redis.rpush("queue:unpack", unpack_job())
        unpack = fleet.worker("unpack", SCRATCH_ROOT=str(small), SCRATCH_MIN_FREE_MB="0", OPUS_BITRATE_KBPS="128")
        wait_for_log(unpack, "the disk is unavailable")
        (small / "not-ours").unlink()
        wait_for(lambda: redis.llen("queue:transcribe") == len(files), fleet, "the whole archive")
        assert not dead(redis, "queue:unpack")
        unpack.stop()
        fleet.workers.remove(unpack)


def test_a_gpu_worker_whose_gpu_fails_ends_while_s3_is_unavailable(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host"}
    files = {f"call{number}.mp3": opus(SPEECH) for number in range(8)}
    jobs = open_batch(fleet, redis, "this-host", files)
    redis.delete("queue:transcribe")
    fault = "pipeline.speech.whisper:Whisper.encode before 9 CUDA"
    worker = faulty_worker(fleet, "gpu", fault, WHISPER_BATCH_SIZE="1")
    wait_for_log(worker, "ready")
    fleet.s3.kill()
    try:
        redis.rpush("queue:transcribe", *jobs)
        assert exit_status(worker) == 1
        assert "S3 is unavailable" in log_of(worker)
        fleet.workers.remove(worker)
    finally:
        fleet.s3.start()


def test_a_slow_s3_stops_the_model_only_when_enough_finished_files_wait(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host", "KEEP_BACKLOG_FILES": "20", "MAX_ATTEMPTS": "1"}
    files = 100
    open_batch(fleet, redis, "this-host", dict.fromkeys(map("call{:03}.mp3".format, range(files)), opus(SILENCE)))
    jobs = redis.lrange("queue:transcribe", 0, -1)
    redis.delete("queue:transcribe")
    gpu = fleet.worker("gpu")
    wait_for_log(gpu, "ready")
    fleet.s3.kill()
    try:
        redis.rpush("queue:transcribe", *jobs)
        wait_for(lambda: redis.llen("queue:transcribe:working:test-gpu") >= 20, fleet, "a backlog")
        wait_for_log(gpu, "S3 is unavailable")
        in_progress = [-1, redis.llen("queue:transcribe:working:test-gpu")]
        while in_progress[-1] != in_progress[-2]:
            time.sleep(1)  # the least time in which a worker that claims on would be seen to
            in_progress.append(redis.llen("queue:transcribe:working:test-gpu"))
        assert 20 <= in_progress[-1] <= 50, in_progress
    finally:
        fleet.s3.start()
    fleet.s3.create_bucket(fleet.bucket)  # moto forgets
    wait_for(lambda: not batch_keys(redis), fleet, "the batch", seconds=120)
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    assert len(object_keys(fleet, "processed/")) == 2 * files
