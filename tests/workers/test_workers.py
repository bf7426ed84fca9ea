"""Each worker's contract: the prompts' payloads to the letter, and bad input as one dead letter with a reason."""

import datetime
import hashlib
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.unpack.conversion_pool import TOGETHER
from tests.store.test_transcripts import hear
from tests.support import hostile, tiny_onnx
from tests.support.disks import unreadable
from tests.support.fleet import MODELS, Fleet, batch_keys
from tests.support.hostile import COMPRESSORS, END
from tests.support.recordings import SILENCE, SPEECH, SPOKEN, make_tar, opus
from tests.support.steps import (
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
    s3_client,
    unpack_job,
    upload,
    wait_for,
    wait_for_log,
)

# The last ones: deeper than Python's parser goes, and bytes that are not UTF-8 as the workers' client has them.
JUNK = ["not json", "[]", "{}", '"text"', "null", "[" * 100_000, "\udcff\udcfe"]


def test_the_transfer_worker_writes_the_unpack_job_of_the_contract(fleet: Fleet, redis: Any) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE, "b.mp3": SILENCE, "notes.txt": b""})
    fleet.control("enqueue", str(tar))
    fleet.worker("transfer")
    wait_for(lambda: redis.llen("queue:unpack"), fleet, "the unpack job")
    job = json.loads(redis.lindex("queue:unpack", 0))
    batch_id = job["batch_id"]
    assert re.fullmatch(time.strftime("%Y%m%d-%H%M%S-[0-9a-f]{12}", time.gmtime(tar.stat().st_mtime)), batch_id)
    assert list(job) == ["batch_id", "s3_key", "file_count", "transferred_at", "archive"]  # for people
    assert job["archive"] == str(tar)
    assert job["s3_key"] == f"archives/{batch_id}.tar"
    assert job["file_count"] == 2
    moment = datetime.datetime.fromisoformat(job["transferred_at"])
    assert moment.utcoffset() == datetime.timedelta(0)
    assert abs(datetime.datetime.now(datetime.UTC) - moment) < datetime.timedelta(minutes=1)
    wait_for(lambda: not list((fleet.folder / "transfer").rglob("*.tar")), fleet, "the local copy's end")
    assert object_keys(fleet, "archives/") == [job["s3_key"]]


def test_the_unpack_worker_writes_the_jobs_and_keys_of_the_contract(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"file001.mp3": SILENCE, "file002.mp3": SPEECH}))
    redis.rpush("queue:unpack", unpack_job(file_count=2, unknown_field="is ignored"))
    fleet.worker("unpack", CONVERT_JOBS="1")
    wait_for(lambda: is_idle(redis, "queue:unpack") and redis.llen("queue:transcribe") == 2, fleet, "two files")
    folder = fleet.folder / "scratch" / BATCH
    # One at a time they come in the archive's order.
    assert [json.loads(job) for job in redis.lrange("queue:transcribe", 0, -1)] == [
        {
            "batch_id": BATCH,
            "audio_id": None,
            "opus_path": f"{folder}/file{number}.opus",
            "original_filename": f"file{number}.mp3",
        }
        for number in ("001", "002")
    ]
    keys = [f"batch:{BATCH}:{name}" for name in ("total", "processed", "s3_key")]
    assert redis.mget(keys) == ["2", "0", f"archives/{BATCH}.tar"]
    names = [f"file00{number}.{kind}" for number in (1, 2) for kind in ("opus", "report.json")]
    assert sorted(path.name for path in folder.iterdir()) == names


@pytest.mark.parametrize("offset", [512, 1024], ids=["inside", "boundary"])
def test_an_archive_cut_short_is_a_dead_letter_and_never_a_shorter_batch(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    whole = make_tar(tmp_path / "monday.tar", {"a.mp3": b"x" * 512, "b.mp3": SILENCE})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:offset])
    (fleet.ssh.folder / "cut.tar").write_bytes(cut.read_bytes())
    upload(fleet, monkeypatch, cut)
    redis.rpush("queue:unpack", unpack_job(file_count=2))
    fleet.control("enqueue", str(fleet.ssh.folder / "cut.tar"))
    fleet.worker("unpack")
    fleet.worker("transfer")
    wait_for(lambda: dead(redis, "queue:unpack") and dead(redis, "queue:transfer"), fleet, "two dead letters")
    for queue in ("queue:unpack", "queue:transfer"):
        (dead_letter,) = dead(redis, queue)
        assert "archive" in dead_letter["error"]
    assert rows(fleet) == {}
    assert batch_keys(redis) == []
    assert list((fleet.folder / "scratch").iterdir()) == []


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_compressed_archive_becomes_a_plain_one_before_it_is_uploaded(
    fleet: Fleet, redis: Any, kind: str
) -> None:
    plain = make_tar(fleet.folder / "plain.tar", {"a.mp3": SILENCE, "b.wav": SILENCE, "n.txt": b""}).read_bytes()
    source = fleet.ssh.folder / "monday.tar.packed"
    source.write_bytes(COMPRESSORS[kind](plain))
    Path(f"{source}.sha256").write_text(hashlib.sha256(source.read_bytes()).hexdigest())
    fleet.control("enqueue", str(source))
    fleet.worker("transfer")
    wait_for(lambda: redis.llen("queue:unpack"), fleet, "the unpack job")
    job = json.loads(redis.lindex("queue:unpack", 0))
    assert job["file_count"] == 2
    stored = s3_client(fleet).get_object(Bucket=fleet.bucket, Key=f"archives/{job['batch_id']}.tar")
    assert stored["Body"].read() == plain
    wait_for(lambda: not list((fleet.folder / "transfer").rglob("*.tar*")), fleet, "the local copy's end")


def test_a_bomb_is_a_dead_letter_on_both_sides(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"ARCHIVE_MAX_MB": "1"}
    bomb = tmp_path / "bomb.tar"
    bomb.write_bytes(COMPRESSORS["gzip"](bytes(2**21)))
    (fleet.ssh.folder / "bomb.tar").write_bytes(bomb.read_bytes())
    upload(fleet, monkeypatch, bomb)
    redis.rpush("queue:unpack", unpack_job())
    fleet.control("enqueue", str(fleet.ssh.folder / "bomb.tar"))
    fleet.worker("unpack")
    fleet.worker("transfer")
    wait_for(lambda: dead(redis, "queue:unpack") and dead(redis, "queue:transfer"), fleet, "two dead letters")
    for queue in ("queue:unpack", "queue:transfer"):
        assert [dead_letter["error"] for dead_letter in dead(redis, queue)] == [
            "it unpacks to more than the 1048576 bytes allowed (ARCHIVE_MAX_MB)"
        ]
    assert not [path for path in fleet.folder.rglob("*.tar*") if path != bomb]
    assert object_keys(fleet) == [f"archives/{BATCH}.tar"]


def test_a_compressed_archive_in_s3_is_unpacked_and_what_is_ignored_is_counted(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.mp3": SILENCE, "1.txt": b"", "2.txt": b"", "cover.jpg": b""}
    tar = make_tar(tmp_path / "monday.tar", files)
    tar.write_bytes(COMPRESSORS["zstd"](tar.read_bytes()))
    upload(fleet, monkeypatch, tar)
    redis.rpush("queue:unpack", unpack_job(file_count=1))
    worker = fleet.worker("unpack")
    wait_for(lambda: is_idle(redis, "queue:unpack") and redis.llen("queue:transcribe") == 1, fleet, "the file")
    assert f"batch {BATCH}: 1 audio files, 3 others ignored: 2 .txt, 1 .jpg\n" in log_of(worker)
    left = sorted(path.name for path in (fleet.folder / "scratch" / BATCH).iterdir())
    assert left == ["a.opus", "a.report.json"]


def test_scratch_holds_the_archive_and_the_opus_and_never_every_source(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = make_tar(tmp_path / "monday.tar", {f"call{number:02}.mp3": SPEECH for number in range(80)})
    upload(fleet, monkeypatch, tar)
    redis.rpush("queue:unpack", unpack_job(file_count=80))
    peak = 0

    def is_unpacked() -> bool:
        nonlocal peak
        peak = max(peak, fleet.scratch_bytes())
        return redis.llen("queue:transcribe") == 80 and is_idle(redis, "queue:unpack")

    fleet.worker("unpack", CONVERT_JOBS="1")
    wait_for(is_unpacked, fleet, "the files")
    archive = tar.stat().st_size
    opus_files = sum(path.stat().st_size for path in (fleet.folder / "scratch" / BATCH).glob("*.opus"))
    in_flight = TOGETHER * len(SPEECH)
    assert 2 * in_flight < archive // 4
    assert archive + opus_files // 2 < peak < archive + opus_files + 2 * in_flight


def test_an_archive_with_fewer_files_than_its_job_says_is_refused(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SILENCE}))
    redis.rpush("queue:unpack", unpack_job(file_count=2))
    fleet.worker("unpack")
    wait_for(lambda: dead(redis, "queue:unpack"), fleet, "the dead letter")
    assert dead(redis, "queue:unpack")[0]["error"] == f"archives/{BATCH}.tar holds 1 audio files, the job says 2"


def test_an_archive_with_more_files_than_an_older_transfer_worker_counted_is_taken_whole(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SILENCE, "REC002": SPEECH}))
    redis.rpush("queue:unpack", unpack_job(file_count=1))
    fleet.worker("unpack")
    wait_for(lambda: is_idle(redis, "queue:unpack") and redis.llen("queue:transcribe") == 2, fleet, "two files")
    assert redis.get(f"batch:{BATCH}:total") == "2"


UNSAFE = {  # why a member fails by itself
    "link.mp3": "it is a hard link: its sound is stored under another name, or not at all",
    "sparse.mp3": "it is a sparse file, which may unpack to any size",
    "large.mp3": "it has 1048577 bytes: 1048576 are allowed (ARCHIVE_MAX_FILE_MB)",
}


def unsafe_members() -> bytes:
    sparse = hostile.pax(hostile.record(b"GNU.sparse.size", b"9999999999"))
    return (
        hostile.header(b"link.mp3", kind=b"1", link=b"a.mp3")
        + sparse
        + hostile.member(b"sparse.mp3")
        + hostile.member(b"large.mp3", bytes(2**20 + 1))
    )


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["Database.fail_file", "Batches.settle", "Batches.open", "Batches.push"])
def test_a_member_that_cannot_be_taken_out_fails_alone_whoever_dies(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, moment: str
) -> None:
    fleet.changes = {"ARCHIVE_MAX_FILE_MB": "1", "HOST_NAME": "this-host", "CONVERT_JOBS": "1"}
    tar = tmp_path / "monday.tar"
    tar.write_bytes(hostile.member(b"a.mp3", SILENCE) + unsafe_members() + hostile.member(b"b.mp3", SPEECH) + END)
    upload(fleet, monkeypatch, tar)
    redis.rpush("queue:unpack", unpack_job(file_count=5))
    module = {"Database": "pipeline.store.database", "Batches": "pipeline.jobs.batches"}[step.partition(".")[0]]
    which = {"fail_file": "sparse", "settle": "sparse", "open": "1", "push": "1"}[step.partition(".")[2]]
    kill_worker(fleet, "unpack", f"{module}:{step} {moment} {which}")
    fleet.worker("unpack")
    wait_for(lambda: is_idle(redis, "queue:unpack") and redis.llen("queue:transcribe") == 2, fleet, "two files")
    jobs = [json.loads(job)["original_filename"] for job in redis.lrange("queue:transcribe", 0, -1)]
    assert sorted(jobs) == ["a.mp3", "b.mp3"]
    assert redis.mget(f"batch:{BATCH}:total", f"batch:{BATCH}:failed") == ["5", "3"]
    found = {name: row[:2] for (_, name), row in rows(fleet).items()}
    assert {name: found[name] for name in UNSAFE} == {name: ("failed", why) for name, why in UNSAFE.items()}
    assert dead(redis, "queue:unpack") == []


def test_an_archive_of_nothing_that_can_be_taken_out_is_finished(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = tmp_path / "monday.tar"
    tar.write_bytes(unsafe_members() + END)
    upload(fleet, monkeypatch, tar)
    redis.rpush("queue:unpack", unpack_job())
    worker = fleet.worker("unpack", ARCHIVE_MAX_FILE_MB="1")
    wait_for(lambda: is_idle(redis, "queue:unpack") and not batch_keys(redis), fleet, "the end of the batch")
    assert {name: row[1] for (_, name), row in rows(fleet).items()} == UNSAFE
    assert f"batch {BATCH}: link.mp3 failed: {UNSAFE['link.mp3']}" in log_of(worker)
    assert fleet.query("SELECT file_count, finished_at IS NOT NULL FROM batches") == [(3, True)]


def test_the_transfer_worker_buries_bad_jobs_with_a_reason_and_goes_on(fleet: Fleet, redis: Any) -> None:
    good = make_tar(fleet.ssh.folder / "good.tar", {"a.mp3": SILENCE})
    bad_jobs = [*JUNK, '{"remote_path": 5}', '{"remote_path": ""}', '{"remote_path": "/nowhere.tar"}']
    redis.rpush("queue:transfer", *bad_jobs, json.dumps({"remote_path": str(good)}))
    worker = fleet.worker("transfer")
    wait_for(lambda: redis.llen("queue:unpack") == 1, fleet, "the good job")
    dead_letters = dead(redis, "queue:transfer")
    assert [dead_letter["job"] for dead_letter in dead_letters] == bad_jobs
    assert "not a JSON object" in dead_letters[0]["error"]
    assert "remote_path is not str" in dead_letters[len(JUNK)]["error"]
    assert "remote_path is empty" in dead_letters[len(JUNK) + 1]["error"]
    assert "/nowhere.tar" in dead_letters[len(JUNK) + 2]["error"]
    assert "No such file" in dead_letters[len(JUNK) + 2]["error"]
    assert "Traceback" not in log_of(worker)


def test_the_transfer_worker_checks_the_checksum_at_the_source(fleet: Fleet, redis: Any) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE})
    Path(f"{tar}.sha256").write_text(f"{'0' * 64}  monday.tar\n")
    fleet.control("enqueue", str(tar))
    fleet.worker("transfer")
    wait_for(lambda: dead(redis, "queue:transfer"), fleet, "the dead letter")
    assert "SHA-256" in dead(redis, "queue:transfer")[0]["error"]
    assert object_keys(fleet) == []


@pytest.mark.parametrize("text", ["0" * 64, "0" * 30], ids=["of last Monday's", "half-written"])
def test_a_checksum_that_is_written_after_its_archive_is_waited_for(fleet: Fleet, redis: Any, text: str) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE})
    checksum = Path(f"{tar}.sha256")
    checksum.write_text(text)
    fleet.control("enqueue", str(tar))
    worker = fleet.worker("transfer", MAX_ATTEMPTS="60")
    wait_for_log(worker, "is read again")
    checksum.write_text(hashlib.sha256(tar.read_bytes()).hexdigest())
    wait_for(lambda: redis.llen("queue:unpack") == 1, fleet, "the archive")
    assert dead(redis, "queue:transfer") == []


def test_an_archive_that_is_another_when_its_checksum_comes_is_copied_anew(fleet: Fleet, redis: Any) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE})
    checksum = Path(f"{tar}.sha256")
    checksum.write_text("0" * 64)
    fleet.control("enqueue", str(tar))
    worker = fleet.worker("transfer", MAX_ATTEMPTS="60", EC2_AFTER_UPLOAD="delete")
    wait_for_log(worker, "is read again")
    first = hashlib.sha256(tar.read_bytes()).hexdigest()
    new = make_tar(fleet.ssh.folder / "new", {"a.mp3": SILENCE, "b.mp3": SILENCE})
    new.rename(tar)
    checksum.write_text(first)  # of the one before: that of the new one is yet to come
    wait_for_log(worker, "was changed while its checksum was waited for")
    checksum.write_text(hashlib.sha256(tar.read_bytes()).hexdigest())
    wait_for(lambda: redis.llen("queue:unpack") == 1, fleet, "the new archive")
    assert json.loads(redis.lrange("queue:unpack", 0, -1)[0])["file_count"] == 2


def test_the_transfer_worker_queues_what_is_new_in_the_remote_folder_once(fleet: Fleet, redis: Any) -> None:
    watch = {"EC2_WATCH_SECONDS": "1"}
    make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE})
    worker = fleet.worker("transfer", **watch)
    wait_for(lambda: redis.llen("queue:unpack") == 1, fleet, "the first archive")
    make_tar(fleet.ssh.folder / "tuesday.tar", {"a.mp3": SILENCE})
    wait_for(lambda: redis.llen("queue:unpack") == 2, fleet, "the second archive", seconds=60)
    worker.stop()
    fleet.workers.remove(worker)
    again = fleet.worker("transfer", **watch)
    make_tar(fleet.ssh.folder / "wednesday.tar", {"a.mp3": SILENCE})
    wait_for(lambda: redis.llen("queue:unpack") == 3, fleet, "the third archive", seconds=60)
    assert log_of(again).count(" queued /") == 3


def test_the_watch_queues_what_was_failed_permanently_when_it_is_there_or_repaired(
    fleet: Fleet, redis: Any
) -> None:
    cut = make_tar(fleet.ssh.folder / "cut.tar", {"a.mp3": SILENCE})
    cut.write_bytes(cut.read_bytes()[:2000])
    late = fleet.ssh.folder / "late.tar"
    fleet.control("enqueue", str(cut), str(late))
    worker = fleet.worker("transfer", EC2_WATCH_SECONDS="1")
    wait_for(lambda: len(dead(redis, "queue:transfer")) == 2, fleet, "the dead letters")
    make_tar(late, {"a.mp3": SILENCE})
    wait_for(lambda: redis.llen("queue:unpack") == 1, fleet, "the late archive", seconds=60)
    make_tar(cut, {"a.mp3": SILENCE, "b.mp3": SILENCE})
    wait_for(lambda: redis.llen("queue:unpack") == 2, fleet, "the repaired archive", seconds=60)
    assert len(dead(redis, "queue:transfer")) == 2
    assert log_of(worker).count(" queued /") == 2


@pytest.mark.parametrize("setting", ["EC2_KEY_FILE", "EC2_KNOWN_HOSTS", "DATABASE_URL", "REDIS_URL"])
def test_a_worker_that_is_refused_ends_with_one_line(fleet: Fleet, tmp_path: Path, setting: str) -> None:
    (tmp_path / "known_hosts").touch()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    wrong = {
        "EC2_KEY_FILE": ("transfer", "EC2_KEY_FILE", str(tmp_path / "key")),
        "EC2_KNOWN_HOSTS": ("transfer", "EC2_KNOWN_HOSTS", str(tmp_path / "known_hosts")),
        "DATABASE_URL": ("unpack", "DATABASE_URL", f"{fleet.postgres.url}-of-nobody"),
        "REDIS_URL": ("unpack", "REDIS_URL", fleet.valkey.url.replace("redis://", "redis://user:hunter2@")),
    }
    role, name, value = wrong[setting]
    worker = fleet.worker(role, **{name: value})
    assert worker.process is not None
    assert worker.process.wait(30) == 2
    lines = [line for line in log_of(worker).splitlines() if line.startswith(f"{role}_worker.py: ")]
    assert len(lines) == 1
    assert name in lines[0]
    assert "hunter2" not in log_of(worker)
    assert "Traceback" not in log_of(worker)


def test_a_host_that_has_lost_its_scratch_unpacks_its_batches_anew(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It recovered before anybody takes it for lost: as a VM that was recreated under the same name."""
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SILENCE, "b.mp3": SPEECH}))
    redis.rpush("queue:unpack", unpack_job(file_count=2))
    before = fleet.worker("unpack")
    wait_for(lambda: is_idle(redis, "queue:unpack") and redis.llen("queue:transcribe") == 2, fleet, "two files")
    before.kill()
    fleet.workers.remove(before)
    shutil.rmtree(fleet.folder / "scratch")
    wait_for_log(fleet.worker("unpack"), f"batch {BATCH} is queued again: this host has lost its scratch")
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert {name: row[0] for (_, name), row in rows(fleet).items()} == {"a.mp3": "done", "b.mp3": "done"}


def test_a_gpu_worker_indexes_what_an_older_release_has_transcribed(fleet: Fleet) -> None:
    hear(fleet, "a.mp3", "a fire")
    fleet.query("TRUNCATE passages")
    fleet.query("UPDATE transcripts SET indexed_at = NULL, folded_at = NULL")
    fleet.worker("gpu")
    wait_for(lambda: fleet.query("SELECT words::text FROM passages") == [("'a':1 'fire':2",)], fleet, "the index")


@pytest.mark.parametrize(("silent", "lost"), [(1000, 900), (None, 8)])
def test_a_host_whose_gpu_workers_are_dead_takes_no_more_than_it_has(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: int | None, lost: int
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SILENCE}))
    if silent:
        redis.zadd("queue:transcribe:workers", {"dead": time.time() - silent})
    redis.rpush("queue:transcribe", "left")
    worker = fleet.worker("unpack", HOST_LOST_SECONDS=str(lost))
    wait_for_log(worker, f"waiting for a GPU worker: none of this host was heard for {lost} s")
    redis.rpush("queue:unpack", unpack_job())
    since = time.time()
    wait_for(lambda: json.loads(redis.get("worker:test-unpack"))["beat"] > since + 2, fleet, "a heartbeat")
    assert redis.llen("queue:unpack") == 1
    assert json.loads(redis.get("worker:test-unpack"))["since"] <= since  # of one wait, however often it looked
    redis.zadd("queue:transcribe:workers", {"alive": time.time()})
    wait_for(lambda: redis.llen("queue:transcribe") == 2, fleet, "the archive")


def test_the_unpack_worker_survives_a_disk_that_cannot_be_asked_for_room(fleet: Fleet, redis: Any) -> None:
    worker = faulty_worker(fleet, "unpack", "pipeline.foundation.scratch:free_mb before 2 LOST")
    wait_for_log(worker, "recovered")
    worker.require_running()


def test_the_unpack_worker_buries_bad_jobs_with_a_reason_and_goes_on(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SILENCE}))
    bad_jobs = [
        *JUNK,
        json.dumps({"batch_id": BATCH}),
        json.dumps({"batch_id": 7, "s3_key": "archives/7.tar"}),
        json.dumps({"batch_id": "../../etc", "s3_key": "archives/x.tar"}),
        unpack_job("20250622-000000"),
        unpack_job("20250622-000001", s3_key="archives/\0.tar"),
        unpack_job("20250622-000002", s3_key="x" * 1025),
    ]
    redis.rpush("queue:unpack", *bad_jobs, unpack_job())
    worker = fleet.worker("unpack")
    wait_for(lambda: redis.llen("queue:transcribe") == 1, fleet, "the good job")
    dead_letters = dead(redis, "queue:unpack")
    assert [dead_letter["job"] for dead_letter in dead_letters] == bad_jobs
    assert "s3_key is missing" in dead_letters[len(JUNK)]["error"]
    assert "batch_id is not str" in dead_letters[len(JUNK) + 1]["error"]
    assert "'../../etc'" in dead_letters[len(JUNK) + 2]["error"]
    assert (
        dead_letters[len(JUNK) + 3]["error"] == f"archives/20250622-000000.tar is not in the bucket {fleet.bucket}"
    )
    assert all(
        "cannot be the key of an object" in dead_letter["error"] for dead_letter in dead_letters[len(JUNK) + 4 :]
    )
    assert "Traceback" not in log_of(worker)
    assert [path.name for path in (fleet.folder / "scratch").iterdir() if path.is_dir()] == [BATCH]


def test_the_gpu_worker_buries_bad_jobs_with_a_reason_and_goes_on(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host"}
    (fleet.folder / "secret.opus").write_text("not for you")
    good, other = open_batch(fleet, redis, "this-host", {"a.mp3": opus(SILENCE), "stolen.mp3": opus(SILENCE)})
    redis.delete("queue:transcribe")
    fields = {**json.loads(other), "opus_path": str(fleet.folder / "secret.opus")}
    half = json.dumps({**json.loads(good), "original_filename": "half \ud800.mp3"})
    bad_jobs = [*JUNK, json.dumps({"batch_id": BATCH}), half]
    bad_jobs.append(json.dumps(fields))
    unknown = json.dumps({**json.loads(good), "batch_id": "20250101-000000"}).replace(BATCH, "20250101-000000")
    redis.rpush("queue:transcribe", *bad_jobs, unknown, good)
    worker = fleet.worker("gpu")
    wait_for_log(worker, "a.mp3 done")
    dead_letters = dead(redis, "queue:transcribe")
    assert [dead_letter["job"] for dead_letter in dead_letters] == bad_jobs
    assert "opus_path is missing" in dead_letters[len(JUNK)]["error"]
    assert "secret.opus' is not in" in log_of(worker)
    assert "batch 20250101-000000: a.mp3 is settled already" in log_of(worker)
    assert {name: row[0] for (_, name), row in rows(fleet).items()} == {"a.mp3": "done", "stolen.mp3": "failed"}
    assert "Traceback" not in log_of(worker)


def test_the_gpu_worker_fails_a_file_that_is_no_audio_at_once(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host"}
    open_batch(fleet, redis, "this-host", {"a.mp3": b"not opus"})
    worker = fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    ((status, error, _, _),) = rows(fleet).values()
    assert status == "failed"
    assert error == "the Opus is cut: its last page is missing"
    assert "attempt 1 of" not in log_of(worker)


def test_one_opus_that_the_disk_does_not_give_back_fails_alone(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "2"}
    open_batch(fleet, redis, "this-host", {"bad.mp3": b"", "good.mp3": opus(SPEECH)})
    with unreadable(fleet.folder / "scratch" / BATCH / "bad.opus"):
        worker = fleet.worker("gpu")
        wait_for(lambda: {row[0] for row in rows(fleet).values()} == {"failed", "done"}, fleet, "both files")
        assert rows(fleet)[(BATCH, "bad.mp3")][:2] == ("failed", "OSError: [Errno 5] Input/output error")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert "the disk is unavailable" not in log_of(worker)


def label_models(fleet: Fleet) -> Path:
    """A models' root with every kind of model."""
    root = fleet.folder / "models"
    root.mkdir()
    (root / "spoken-words").symlink_to(MODELS / "spoken-words")
    tiny_onnx.yamnet(root / "audio-tagging")
    tiny_onnx.nli(root / "topics", "football\ncooking\nweather\n")
    fleet.changes = {"HOST_NAME": "this-host", "MODELS_ROOT": str(root)}
    return root


def test_the_gpu_worker_writes_the_labels_of_every_model_that_is_there(fleet: Fleet, redis: Any) -> None:
    label_models(fleet)
    fleet.changes.update(AUDIO_TAGS_TOP="4", TOPICS_TOP="2")
    open_batch(fleet, redis, "this-host", {"a.mp3": opus(SPEECH), "b.mp3": opus(SILENCE)})
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    found = fleet.query(
        "SELECT original_filename, classifier, count(*), min(score) >= 0 AND max(score) <= 1 FROM classifications"
        " JOIN audio_files USING (audio_id) GROUP BY 1, 2 ORDER BY 1, 2"
    )
    assert found == [
        ("a.mp3", "audio_tag", 4, True),
        ("a.mp3", "content", 1, True),
        ("a.mp3", "topic", 2, True),
        ("b.mp3", "audio_tag", 4, True),
        ("b.mp3", "content", 1, True),
    ]


def test_a_label_model_without_its_files_is_refused_at_start(fleet: Fleet) -> None:
    missing = label_models(fleet) / "topics" / "labels.txt"
    missing.unlink()
    worker = fleet.worker("gpu")
    assert exit_status(worker) == 2
    assert f"gpu_worker.py: {missing} cannot be read: No such file or directory\n" in log_of(worker)
    assert "Traceback" not in log_of(worker)


@pytest.mark.parametrize(
    "failure",
    [
        "pipeline.speech.whisper:Whisper.encode after 3 CUDA",
        "pipeline.labels.topics:Topics._entailment before 2 BROKEN",
    ],
)
def test_a_gpu_that_fails_ends_the_worker_and_the_next_run_loses_nothing(
    fleet: Fleet, redis: Any, failure: str
) -> None:
    label_models(fleet)
    files = {f"call{number}.mp3": opus(SPEECH) for number in range(6)}
    open_batch(fleet, redis, "this-host", files)
    worker = faulty_worker(fleet, "gpu", failure)
    assert exit_status(worker) == 1
    assert "unspecified launch failure" in log_of(worker)
    fleet.workers.remove(worker)
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert [row[:3] for row in rows(fleet).values()] == [("done", None, SPOKEN)] * len(files)


def test_two_processes_share_the_hosts_queue_as_on_two_gpus(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host"}
    files = {f"call{number:02}.mp3": opus(SPEECH) for number in range(40)}
    jobs = open_batch(fleet, redis, "this-host", files)
    redis.delete("queue:transcribe")
    workers = [fleet.worker("gpu", f"gpu{number}") for number in range(2)]
    for worker in workers:
        wait_for_log(worker, "ready")
    redis.rpush("queue:transcribe", *jobs)
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    shares = [log_of(worker).count(" done, ") for worker in workers]
    assert sum(shares) == len(files)
    assert min(shares) > 0


def test_a_retry_after_midnight_writes_the_same_s3_key(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host"}
    open_batch(fleet, redis, "this-host", {"a.mp3": opus(SILENCE)})
    fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, created_at) VALUES (%s, 'a.mp3', %s)",
        BATCH, "2025-06-22 23:59:59+00",
    )  # fmt: skip
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert object_keys(fleet) == [f"processed/2025-06-22/1.{kind}" for kind in ("json", "opus")]


def test_s3_away_holds_a_file_without_using_up_attempts(fleet: Fleet, redis: Any) -> None:
    fleet.changes = {"HOST_NAME": "this-host", "MAX_ATTEMPTS": "1"}
    open_batch(fleet, redis, "this-host", {"a.mp3": opus(SILENCE)})
    worker = fleet.worker("gpu")
    wait_for_log(worker, "ready")
    fleet.s3.kill()
    try:
        wait_for_log(worker, "S3 is unavailable")
    finally:
        fleet.s3.start()
    fleet.s3.create_bucket(fleet.bucket)  # moto forgets
    wait_for(lambda: not batch_keys(redis), fleet, "the batch", seconds=90)
    assert [row[0] for row in rows(fleet).values()] == ["done"]
    assert dead(redis, "queue:transcribe") == []
