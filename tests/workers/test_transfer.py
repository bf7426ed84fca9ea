"""The transfer worker: copies and uploads overlap, the disk is waited for, and the source is dealt with at last.

LONG_TESTS=1 ./test -k transfer    with archives of 10 GB, and the wall time measured
"""

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import config
import transfer_worker
from pipeline.foundation.errors import Outage
from pipeline.jobs.job_queue import Job
from pipeline.jobs.worker import Worker
from pipeline.transfer import stale_uploads
from pipeline.transfer.originals import Sources
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import FileState, RemoteHost
from pipeline.transfer.volumes import Volumes
from tests.faults.proxy import Proxy
from tests.support.child import Child, wait_until
from tests.support.disks import small_disk
from tests.support.fleet import PROJECT, Fleet
from tests.support.null_s3 import NullS3
from tests.support.recordings import SILENCE, make_tar
from tests.support.servers import Sshd, sshd_path
from tests.support.steps import (
    AT_LENGTH,
    dead,
    exit_status,
    is_idle,
    log_of,
    refusal,
    s3_client,
    use_s3,
    wait_for,
    wait_for_log,
)

LONG = pytest.mark.skipif(not AT_LENGTH, reason="takes minutes: LONG_TESTS=1")


@pytest.fixture
def null_s3(fleet: Fleet) -> Iterator[NullS3]:
    """An S3 that can hold uploads back; the fleet's workers use it."""
    with NullS3() as server:
        fleet.changes["S3_ENDPOINT"] = server.endpoint
        yield server


def archives(fleet: Fleet, number: int) -> list[Path]:
    """So many archives on the host, queued in this order."""
    paths = [make_tar(fleet.ssh.folder / f"day{day}.tar", {"a.mp3": SILENCE}) for day in range(number)]
    assert fleet.control("enqueue", *map(str, paths)).returncode == 0
    return paths


def arrived(fleet: Fleet) -> list[str]:
    return sorted(path.name for path in (fleet.folder / "transfer").rglob("*.tar"))


def fetched(fleet: Fleet) -> list[str]:
    """The archives whose bytes are here, of which one that waits for its upload is not checked yet."""
    return sorted(path.name for path in (fleet.folder / "transfer").rglob("*.tar*"))


def unpack_jobs(redis: Any) -> list[dict[str, Any]]:
    return [json.loads(job) for job in redis.lrange("queue:unpack", 0, -1)]


# --- copies and uploads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_so_many_archives_are_in_upload_while_the_next_is_copied(
    fleet: Fleet, redis: Any, null_s3: NullS3, ahead: int
) -> None:
    archives(fleet, 5)
    null_s3.hold.clear()
    fleet.worker("transfer", TRANSFER_AHEAD=str(ahead))
    wait_for(lambda: len(fetched(fleet)) == ahead + 1, fleet, "the copies that are allowed")
    wait_for(lambda: len(null_s3.putting) == max(1, ahead), fleet, "the uploads")
    time.sleep(1.5)  # nothing more comes, though nothing else is in the way
    assert len(fetched(fleet)) == ahead + 1
    assert len(null_s3.putting) == max(1, ahead)
    assert redis.llen("queue:transfer") == 5 - ahead - 1
    null_s3.hold.set()
    wait_for(lambda: len(unpack_jobs(redis)) == 5, fleet, "the rest")
    assert len({job["batch_id"] for job in unpack_jobs(redis)}) == 5
    assert {job["s3_key"] for job in unpack_jobs(redis)} == set(null_s3.objects)
    wait_for(lambda: fetched(fleet) == [], fleet, "the copies' end")


def test_sigterm_ends_a_copy_and_an_upload_and_counts_neither(fleet: Fleet, redis: Any, null_s3: NullS3) -> None:
    archives(fleet, 1)
    big = fleet.ssh.folder / "big.tar"
    with big.open("wb") as file:
        file.truncate(20 * 2**30)
    fleet.control("enqueue", str(big))
    null_s3.hold.clear()
    worker = fleet.worker("transfer")
    wait_for(lambda: arrived(fleet) and null_s3.putting, fleet, "the upload")
    part = fleet.folder / "transfer" / "test-transfer"
    wait_for(lambda: any(path.stat().st_size for path in part.glob("*.part")), fleet, "the copy")
    assert worker.process is not None
    worker.process.terminate()
    time.sleep(0.5)
    null_s3.hold.set()
    assert exit_status(worker, 20) == 0
    fleet.workers.remove(worker)
    big.unlink()
    assert [path for path in part.iterdir() if path.suffix == ".part"] == []
    assert redis.hgetall("queue:transfer:attempts") == {}
    assert redis.llen("queue:transfer:working:test-transfer") == 2 - len(unpack_jobs(redis))


def test_a_job_whose_last_delivery_ended_badly_is_worked_on_alone(
    fleet: Fleet, redis: Any, null_s3: NullS3
) -> None:
    paths = archives(fleet, 3)
    suspect = json.dumps({"remote_path": str(paths[1])})
    redis.hset("queue:transfer:attempts", suspect, "1:dead")
    null_s3.hold.clear()
    worker = fleet.worker("transfer", TRANSFER_AHEAD="2")
    wait_for(lambda: null_s3.putting, fleet, "the first upload")
    time.sleep(1.5)
    assert len(arrived(fleet)) == 1  # the suspect is not begun beside it
    null_s3.hold.set()
    wait_for(lambda: len(unpack_jobs(redis)) == 3, fleet, "all")
    done = [
        line.split(" is batch ")[0].rpartition("/")[2]
        for line in log_of(worker).splitlines()
        if " is batch " in line
    ]
    assert done == ["day0.tar", "day1.tar", "day2.tar"]


def test_an_upload_that_fails_as_nobody_foresaw_ends_the_process(fleet: Fleet, redis: Any) -> None:
    archives(fleet, 2)
    script = [
        str(PROJECT / "tests" / "support" / "kill_at.py"),
        "s3_utils:upload_archive",
        "before",
        "1",
        "BROKEN",
    ]
    worker = fleet.run([*script, str(PROJECT / "transfer_worker.py")], "transfer")
    assert exit_status(worker) == 1
    assert "Broken" in log_of(worker)
    fleet.workers.remove(worker)
    fleet.worker("transfer")
    wait_for(lambda: len(unpack_jobs(redis)) == 2, fleet, "both archives")
    assert dead(redis, "queue:transfer") == []


def test_a_path_queued_twice_is_brought_once(fleet: Fleet, redis: Any, null_s3: NullS3) -> None:
    (path,) = archives(fleet, 1)
    fleet.control("enqueue", str(path))
    null_s3.hold.clear()
    fleet.worker("transfer", TRANSFER_AHEAD="2")
    wait_for(lambda: null_s3.putting, fleet, "the first upload")
    time.sleep(1.5)
    assert len(arrived(fleet)) == 1
    null_s3.hold.set()
    wait_for(lambda: len(unpack_jobs(redis)) == 2, fleet, "both")
    assert len({job["batch_id"] for job in unpack_jobs(redis)}) == len(null_s3.putting) == 1


def test_unequal_jobs_of_one_path_bring_it_once(fleet: Fleet, redis: Any, null_s3: NullS3) -> None:
    """They are one batch, whose copy has one place: the second must not take it from the first, nor lose it."""
    (path,) = archives(fleet, 1)
    redis.rpush("queue:transfer", json.dumps({"remote_path": str(path), "source": "x"}))
    null_s3.hold.clear()
    fleet.worker("transfer", TRANSFER_AHEAD="1", MAX_ATTEMPTS="1")
    wait_for(lambda: null_s3.putting and not redis.llen("queue:transfer"), fleet, "the upload, and the second job")
    time.sleep(1.5)  # nothing is copied beside it, though nothing else is in the way
    assert len(fetched(fleet)) == 1
    null_s3.hold.set()
    wait_for(lambda: len(unpack_jobs(redis)) + len(dead(redis, "queue:transfer")) == 2, fleet, "both")
    assert dead(redis, "queue:transfer") == []
    assert len({job["batch_id"] for job in unpack_jobs(redis)}) == len(null_s3.putting) == 1


def test_a_path_that_holds_another_file_by_now_is_another_batch(fleet: Fleet, redis: Any, null_s3: NullS3) -> None:
    """While a first worker uploads what was there, a second one must not bring the new file by the same id."""
    (path,) = archives(fleet, 1)
    null_s3.hold.clear()
    fleet.worker("transfer", "first", TRANSFER_AHEAD="0")
    wait_for(lambda: null_s3.putting, fleet, "the first upload")
    make_tar(path, {"a.mp3": SILENCE, "b.mp3": SILENCE})
    fleet.control("enqueue", str(path))
    fleet.worker("transfer", "second")
    wait_for(lambda: redis.zcard("queue:transfer:delayed"), fleet, "the second, which waits for the first")
    null_s3.hold.set()
    wait_for(lambda: len(unpack_jobs(redis)) == 2, fleet, "both")
    assert [job["file_count"] for job in unpack_jobs(redis)] == [1, 2]
    assert len({job["batch_id"] for job in unpack_jobs(redis)}) == len(null_s3.putting) == 2


def test_the_status_shows_both_halves_and_how_far_they_are(fleet: Fleet, redis: Any, null_s3: NullS3) -> None:
    archives(fleet, 1)
    big = fleet.ssh.folder / "big.tar"
    with big.open("wb") as file:
        file.truncate(20 * 2**30)
    fleet.control("enqueue", str(big))
    null_s3.hold.clear()
    fleet.worker("transfer", HEARTBEAT_SECONDS="2")

    def doing() -> str:
        state = redis.get("worker:test-transfer")
        return str(json.loads(state)["doing"]) if state else ""

    wait_for(lambda: "uploading archives/" in doing() and "/s, " in doing(), fleet, "both halves")
    assert "copying" in doing()
    assert "of 21.5 GB" in doing()
    assert " left" in doing()
    null_s3.hold.set()
    fleet.stop_workers()
    big.unlink()


def test_a_broken_connection_goes_on_and_uses_up_no_attempt(
    fleet: Fleet, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": os.urandom(100 * 2**20)})
    fleet.control("enqueue", str(tar))
    with Proxy(fleet.ssh.port) as proxy:
        proxy.cut_at = [85 * 2**20]
        known = fleet.folder / "known_hosts"
        known.write_text(fleet.ssh.known_hosts.read_text().replace(f":{fleet.ssh.port} ", f":{proxy.port} "))
        fleet.changes |= {"EC2_PORT": str(proxy.port), "EC2_KNOWN_HOSTS": str(known), "MAX_ATTEMPTS": "1"}
        worker = fleet.worker("transfer")
        wait_for(lambda: unpack_jobs(redis), fleet, "the archive")
        fleet.stop_workers()
    (job,) = unpack_jobs(redis)
    assert f"{tar}: going on from byte " in log_of(worker)
    stored = s3_client(fleet).get_object(Bucket=fleet.bucket, Key=job["s3_key"])
    assert hashlib.sha256(stored["Body"].read()).digest() == hashlib.sha256(tar.read_bytes()).digest()


# --- the disk ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(fleet: Fleet) -> Iterator[Path]:
    """The transfer folder on a volume of 4 MB."""
    with small_disk(fleet.folder / "transfer", "4m", lazy=True) as folder:
        yield folder
        fleet.stop_workers()


def test_an_archive_waits_for_room_and_says_so(fleet: Fleet, redis: Any, small: Path) -> None:
    (small / "in the way").write_bytes(bytes(3 * 2**20))
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": bytes(2 * 2**20)})
    fleet.control("enqueue", str(tar))
    worker = fleet.worker("transfer", HEARTBEAT_SECONDS="2", MAX_ATTEMPTS="1")
    wait_for_log(worker, "monday.tar waits for disk: 2.1 MB needed")

    def says_so() -> bool:
        return "waiting for disk: 2.1 MB needed" in (redis.get("worker:test-transfer") or "")

    wait_for(says_so, fleet, "the status")
    time.sleep(2.5)
    assert log_of(worker).count("waits for disk") == 1
    assert unpack_jobs(redis) == []
    (small / "in the way").unlink()
    wait_for(lambda: unpack_jobs(redis), fleet, "the archive")


def test_what_crashes_left_makes_room_while_an_archive_waits(
    fleet: Fleet, redis: Any, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = small / "w" / "20250622-143052.tar"
    process = Worker(fleet.valkey.url, "queue:transfer", "transfer", "w", "h", config.LIMITS)
    monkeypatch.setattr(config, "TRANSFER_ROOT", small)
    use_s3(fleet, monkeypatch)
    transferrer = transfer_worker.Transferrer(process)
    transferrer.copies.clear()
    left.write_bytes(bytes(3 * 2**20))
    transferrer.wait_for_room("/monday.tar", 2 * 2**20)
    assert not left.exists()


def test_an_archive_larger_than_the_volume_is_a_dead_letter(fleet: Fleet, redis: Any, small: Path) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": bytes(5 * 2**20)})
    fleet.control("enqueue", str(tar))
    fleet.worker("transfer")
    wait_for(lambda: dead(redis, "queue:transfer"), fleet, "the dead letter")
    assert f"the volume of {small} 4194304" in dead(redis, "queue:transfer")[0]["error"]


def test_a_copy_is_removed_when_a_disk_that_became_read_only_is_back(
    fleet: Fleet, small: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small)], check=True)

    process = Worker(fleet.valkey.url, "queue:transfer", "transfer", "w", "h", config.LIMITS)
    monkeypatch.setattr(config, "TRANSFER_ROOT", small)
    transferrer = transfer_worker.Transferrer(process)
    transferrer.copies.clear()
    path = transferrer.copies.path("20250622-143052")
    copy = process.retrying(Copy(transferrer.host, "/monday.tar", FileState(1, 1), path))
    copy.target.write_bytes(b"x")
    monkeypatch.setattr(transferrer, "_upload", lambda _: remount("ro"))
    arrived = transfer_worker.Arrived(Job("{}", 1, "t"), "20250622-143052", copy)
    upload = threading.Thread(target=transferrer.upload, args=(arrived,))
    upload.start()
    try:
        wait_until(lambda: "the disk is unavailable" in caplog.text or not upload.is_alive(), "a try to remove it")
        assert upload.is_alive()
    finally:
        remount("rw")
        upload.join(30)
    assert not copy.target.exists()


def test_a_stop_does_not_wait_for_room(fleet: Fleet, redis: Any, small: Path) -> None:
    (small / "in the way").write_bytes(bytes(3 * 2**20))
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": bytes(2 * 2**20)})
    fleet.control("enqueue", str(tar))
    worker = fleet.worker("transfer")
    wait_for_log(worker, "waits for disk")
    assert worker.process is not None
    worker.process.terminate()
    assert exit_status(worker, 10) == 0
    fleet.workers.remove(worker)
    assert redis.hgetall("queue:transfer:attempts") == {}


def test_a_worker_sweeps_what_others_have_left_for_good(fleet: Fleet, redis: Any) -> None:
    root, old = fleet.folder / "transfer", time.time() - 3 * 86400
    for name in ("gone", "silent", "living"):
        path = root / name / "20250622-143052.tar.part"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x")
        os.utime(path, (old, old))
    redis.set("worker:living", "{}")
    redis.zadd("queue:transfer:workers", {"silent": time.time() - 60, "gone": time.time() - 7200})
    worker = fleet.worker("transfer")
    wait_for_log(worker, "which no job needs")
    assert sorted(path.name for path in root.iterdir()) == ["living", "silent", "test-transfer"]


def test_a_worker_aborts_uploads_that_are_stale(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(fleet, monkeypatch)
    client, called = s3_client(fleet), []
    client.create_multipart_upload(Bucket=fleet.bucket, Key="archives/20250622-143052.tar")
    monkeypatch.setattr(config, "TRANSFER_ROOT", fleet.folder / "transfer")

    def abort_stale(client: Any, bucket: str, prefixes: Any, hours: int) -> list[str]:
        called.append(hours)
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours + 1)
        return stale_uploads.abort_stale(client, bucket, prefixes, hours, later)

    monkeypatch.setattr(transfer_worker, "stale_uploads", SimpleNamespace(abort_stale=abort_stale))
    process = Worker(fleet.valkey.url, "queue:transfer", "transfer", "w", "h", config.LIMITS)
    transferrer = transfer_worker.Transferrer(process)
    transferrer.maintain()
    transferrer.maintain()
    assert called == [24]  # once in an hour
    assert client.list_multipart_uploads(Bucket=fleet.bucket).get("Uploads", []) == []


# --- the source ----------------------------------------------------------------------------------------------

AFTER = [
    "pipeline.jobs.job_queue:JobQueue.settle before 1",
    "pipeline.jobs.job_queue:JobQueue.settle after 1",
    "pipeline.transfer.ssh:RemoteHost.tidy before 1",
    "pipeline.transfer.ssh:RemoteHost.tidy after 1",
    "pipeline.transfer.originals:Sources.tidy after 1",
]


@pytest.mark.parametrize("action", ["delete", "rename"])
@pytest.mark.parametrize("point", AFTER)
def test_what_is_to_become_of_the_source_survives_a_crash(
    fleet: Fleet, redis: Any, point: str, action: str
) -> None:
    (tar,) = archives(fleet, 1)
    data = tar.read_bytes()
    settings = {"EC2_AFTER_UPLOAD": action}
    script = [
        str(PROJECT / "tests" / "support" / "kill_at.py"),
        *point.split(),
        "KILL",
        str(PROJECT / "transfer_worker.py"),
    ]
    victim = fleet.run(script, "transfer", **settings)
    assert exit_status(victim) == -9, log_of(victim)
    fleet.workers.remove(victim)
    fleet.worker("transfer", **settings)
    wait_for(
        lambda: is_idle(redis, "queue:transfer") and not redis.exists("queue:transfer:after"), fleet, "the end"
    )
    assert not tar.exists()
    renamed = Path(f"{tar}.done")
    assert renamed.exists() == (action == "rename")
    assert action == "delete" or renamed.read_bytes() == data
    assert len(unpack_jobs(redis)) == 1
    assert dead(redis, "queue:transfer") == []


def test_a_source_is_kept_unless_the_settings_say_otherwise(fleet: Fleet, redis: Any) -> None:
    (tar,) = archives(fleet, 1)
    fleet.worker("transfer")
    wait_for(lambda: is_idle(redis, "queue:transfer"), fleet, "the transfer")
    assert tar.exists()
    assert not redis.exists("queue:transfer:after")


def test_the_source_stays_while_s3_has_not_confirmed_it(fleet: Fleet, redis: Any, null_s3: NullS3) -> None:
    (tar,) = archives(fleet, 1)
    null_s3.hold.clear()
    fleet.worker("transfer", EC2_AFTER_UPLOAD="delete")
    wait_for(lambda: null_s3.putting, fleet, "the upload")
    time.sleep(0.5)
    assert tar.exists()
    assert not redis.exists("queue:transfer:after")
    null_s3.hold.set()
    wait_until(lambda: not tar.exists(), "the deletion", 30)


def test_a_source_that_changed_after_a_crash_is_not_deleted(fleet: Fleet, redis: Any) -> None:
    (tar,) = archives(fleet, 1)
    settings = {"EC2_AFTER_UPLOAD": "delete"}
    point = ["pipeline.transfer.ssh:RemoteHost.tidy", "before", "1", "KILL"]
    victim = fleet.run(
        [str(PROJECT / "tests" / "support" / "kill_at.py"), *point, str(PROJECT / "transfer_worker.py")],
        "transfer",
        **settings,
    )
    assert exit_status(victim) == -9
    fleet.workers.remove(victim)
    make_tar(tar, {"another.mp3": SILENCE, "b.mp3": SILENCE})
    worker = fleet.worker("transfer", **settings)
    wait_for_log(worker, "has changed since it was copied: it is not deleted")
    wait_for(lambda: not redis.exists("queue:transfer:after"), fleet, "the note's end")
    assert tar.exists()


def test_the_watch_queues_no_renamed_file_and_no_file_again(fleet: Fleet, redis: Any) -> None:
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE})
    worker = fleet.worker("transfer", EC2_AFTER_UPLOAD="rename", EC2_WATCH_SECONDS="1")
    wait_until(lambda: Path(f"{tar}.done").exists(), "the new name", 60)
    make_tar(fleet.ssh.folder / "tuesday.tar", {"a.mp3": SILENCE})
    wait_for(lambda: len(unpack_jobs(redis)) == 2, fleet, "the second archive")
    time.sleep(3)
    assert log_of(worker).count(" queued /") == 2
    assert len(unpack_jobs(redis)) == 2
    assert dead(redis, "queue:transfer") == []


def test_a_note_waits_while_the_host_is_unavailable(fleet: Fleet, redis: Any) -> None:
    (tar,) = archives(fleet, 1)
    path, state = str(tar), FileState(tar.stat().st_size, int(tar.stat().st_mtime))
    sources = sources_of(fleet, redis, port=1)
    redis.hset(*sources.note(path, state))
    with pytest.raises(Outage):
        sources.tidy_up()
    assert redis.hlen("queue:transfer:after") == 1
    again = sources_of(fleet, redis)
    again.tidy_up()
    assert not redis.exists("queue:transfer:after")
    assert not tar.exists()


def test_a_note_of_a_later_transfer_is_not_struck_out(fleet: Fleet, redis: Any) -> None:
    (tar,) = archives(fleet, 1)
    old, new = FileState(1, 1), FileState(2, 2)
    sources = sources_of(fleet, redis)
    redis.hset(*sources.note(str(tar), new))
    sources.tidy(str(tar), old)
    assert redis.hget("queue:transfer:after", json.dumps(str(tar))) == json.dumps([2, 2, ""])
    assert tar.exists()


def test_a_source_is_kept_as_long_as_redis_may_forget_its_transfer(fleet: Fleet, redis: Any) -> None:
    """The last second of Redis is lost: the transfer is a job again, and needs its file."""
    (tar,) = archives(fleet, 1)
    path, state = str(tar), FileState(tar.stat().st_size, int(tar.stat().st_mtime))
    sources = sources_of(fleet, redis, wait=2)
    note = sources.note(path, state)
    redis.hset(*note)
    sources.tidy_up()
    assert tar.exists()
    redis.hdel(*note[:2])  # lost
    sources.tidy_up()
    redis.hset(*note)
    sources.tidy_up()
    assert tar.exists()

    def is_deleted() -> bool:
        sources.tidy_up()
        return not tar.exists()

    wait_until(is_deleted, "the deletion")
    assert not redis.exists("queue:transfer:after")


def test_what_waits_for_a_volume_is_tidied_when_it_is_mounted_again(
    fleet: Fleet, redis: Any, tmp_path: Path
) -> None:
    sources = sources_of(fleet, redis)
    with small_disk(tmp_path / "volume", "1m") as folder:
        path = make_tar(folder / "monday.tar", {"a.mp3": SILENCE})
        state = sources.host.stat(str(path))
        sources.volumes.note(str(path), state)
    redis.hset(*sources.note(str(path), state))
    sources.tidy_up()
    assert redis.hlen("queue:transfer:after") == 1
    with small_disk(tmp_path / "volume", "1m"):
        sources_of(fleet, redis).tidy_up()  # mounted, and the file is gone
    assert not redis.exists("queue:transfer:after")


# --- the host ------------------------------------------------------------------------------------------------


def test_a_key_that_ssh_does_not_take_ends_the_worker_with_its_words(fleet: Fleet, tmp_path: Path) -> None:
    key = Path(shutil.copy(fleet.ssh.key_file, tmp_path / "key"))
    key.chmod(0o644)
    said = refusal(fleet.worker("transfer", EC2_KEY_FILE=str(key)))
    assert said.startswith("EC2_KEY_FILE: ")
    assert "bad permissions" in said
    fleet.workers.clear()


def test_an_archive_that_was_queued_by_hand_waits_for_its_volume(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    def queue(folder: Path, day: str) -> None:
        make_tar(folder / f"{day}.tar", {"a.mp3": SILENCE})
        fleet.control("enqueue", str(folder / f"{day}.tar"))

    with small_disk(tmp_path / "volume", "4m") as folder:
        worker = fleet.worker("transfer", MAX_ATTEMPTS="1")
        queue(folder, "monday")
        wait_for(lambda: len(unpack_jobs(redis)) == 1, fleet, "the first archive")
        (folder / "monday.tar").unlink()
    fleet.control("enqueue", str(folder / "tuesday.tar"))
    wait_for_log(worker, f"{folder} on {fleet.ssh.host} is missing or not mounted: {folder}/tuesday.tar: ")
    queue(fleet.ssh.folder, "wednesday")  # of another volume: it waits for nothing
    wait_for(lambda: len(unpack_jobs(redis)) == 2, fleet, "the other archive")
    with small_disk(tmp_path / "prepared", "4m") as prepared:
        make_tar(prepared / "tuesday.tar", {"a.mp3": SILENCE})
        subprocess.run(["mount", "--bind", prepared, folder], check=True)  # with all that is on it
        try:
            wait_for(lambda: len(unpack_jobs(redis)) == 3, fleet, "the archive of the volume", seconds=240)
        finally:
            subprocess.run(["umount", folder], check=True)
    assert dead(redis, "queue:transfer") == []


def test_a_path_that_is_spelled_otherwise_is_a_dead_letter(fleet: Fleet, redis: Any) -> None:
    (tar,) = archives(fleet, 1)
    redis.rpush("queue:transfer", json.dumps({"remote_path": tar.name}), json.dumps({"remote_path": f"/{tar}"}))
    fleet.worker("transfer")
    wait_for(lambda: len(dead(redis, "queue:transfer")) == 2, fleet, "the dead letters")
    reasons = [dead_letter["error"] for dead_letter in dead(redis, "queue:transfer")]
    assert reasons[0].startswith(f"remote path '{tar.name}' is not absolute")
    assert reasons[1] == f"remote path '/{tar}' must be written as '{tar}'"
    wait_for(lambda: len(unpack_jobs(redis)) == 1, fleet, "the archive")


def test_a_stop_does_not_wait_for_a_look(fleet: Fleet, tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    (tmp_path / "ssh").write_text(f"""#!/bin/sh
[ -e {slow} ] && echo >{slow}.begun && exec sleep 60
exec {shutil.which("ssh")} "$@"
""")
    (tmp_path / "ssh").chmod(0o755)
    worker = fleet.worker("transfer", EC2_WATCH_SECONDS="1", PATH=f"{tmp_path}:{os.environ['PATH']}")
    wait_for_log(worker, " ready, ")
    slow.touch()
    wait_until((tmp_path / "slow.begun").exists, "a look", 30)
    assert worker.process is not None
    worker.process.terminate()
    assert exit_status(worker, 10) == 0
    assert "maintenance" not in log_of(worker)
    fleet.workers.remove(worker)


def sources_of(fleet: Fleet, redis: Any, port: int = 0, wait: float = 0) -> Sources:
    host = remote_of(fleet, port)
    return Sources(redis, "queue:transfer", host, Volumes(redis, "queue:transfer", host), "delete", wait)


def remote_of(fleet: Fleet, port: int = 0) -> RemoteHost:
    ssh = fleet.ssh
    return RemoteHost(ssh.host, port or ssh.port, ssh.user, str(ssh.key_file), str(ssh.known_hosts))


# --- at length -----------------------------------------------------------------------------------------------


def peak_mb(worker: Child) -> float:
    """The most memory that the process has had."""
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def sparse_tar(path: Path, size: int) -> Path:
    """A tar of about this size with two members that are holes."""
    with path.open("wb") as file:
        for name in ("a.mp3", "b.mp3"):
            info = tarfile.TarInfo(name)
            info.size = size // 2 // 512 * 512
            file.write(info.tobuf())
            file.seek(info.size, os.SEEK_CUR)
        file.truncate(file.tell() + 10240)
    return path


@LONG
def test_memory_does_not_grow_with_the_archive(fleet: Fleet, redis: Any, null_s3: NullS3, tmp_path: Path) -> None:
    if sshd_path() is None:
        pytest.skip("OpenSSH's sshd is not installed")
    with Sshd(tmp_path / "sshd") as server:
        fleet.changes |= {"EC2_PORT": str(server.port), "EC2_KEY_FILE": str(server.key_file)}
        fleet.changes["EC2_KNOWN_HOSTS"] = str(server.known_hosts)
        tar = sparse_tar(tmp_path / "large.tar", 10 * 10**9)
        fleet.control("enqueue", str(tar))
        began = time.monotonic()
        worker = fleet.worker("transfer")
        wait_for(lambda: unpack_jobs(redis), fleet, "10 GB", seconds=1200)
        peak = peak_mb(worker)
        print(f"10 GB in {time.monotonic() - began:.0f} s, at most {peak:.0f} MB")
        fleet.stop_workers()
    assert null_s3.objects[unpack_jobs(redis)[0]["s3_key"]][0] == tar.stat().st_size
    assert peak < 300


@LONG
@pytest.mark.parametrize(("copy", "upload"), [(3.0, 1.5), (1.5, 3.0)])
def test_the_wall_time_is_that_of_the_slower_half(
    fleet: Fleet, redis: Any, null_s3: NullS3, tmp_path: Path, copy: float, upload: float
) -> None:
    pause = tmp_path / "pause"
    (tmp_path / "scp").write_text(f'#!/bin/sh\nsleep "$(cat {pause})"\nexec {shutil.which("scp")} "$@"\n')
    (tmp_path / "scp").chmod(0o755)
    worker = fleet.worker("transfer", PATH=f"{tmp_path}:{os.environ['PATH']}")
    wait_for_log(worker, "ready")

    def wall(copy: float, upload: float) -> float:
        pause.write_text(str(copy))
        null_s3.slow = upload
        redis.delete("queue:unpack")
        began = time.monotonic()
        archives(fleet, 12)
        wait_for(lambda: redis.llen("queue:unpack") == 12, fleet, "all", seconds=200)
        return time.monotonic() - began

    copies, uploads, both = wall(copy, 0), wall(0, upload), wall(copy, upload)
    print(f"12 archives: copies {copies:.1f} s, uploads {uploads:.1f} s, both {both:.1f} s")
    assert both <= 1.1 * max(copies, uploads)
