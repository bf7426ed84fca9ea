"""pipelinectl enqueue --local: an archive of this machine becomes one batch, whoever dies on the way."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import config
import s3_utils
from pipeline.foundation import s3_parts
from pipeline.foundation.archive_origin import from_metadata, name_of
from pipeline.foundation.errors import Permanent
from pipeline.jobs.stop_flag import StopFlag
from pipeline.jobs.worker import Limits
from pipeline.operations.self_repair import SelfRepair
from pipeline.store.database import Database
from pipeline.transfer.local_archives import LocalArchives
from tests.commands.test_pipelinectl import complaint, control, printed
from tests.operations.test_reconcile import reconciler
from tests.support.child import free_port
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import SILENCE, SPEECH, SPOKEN, make_tar
from tests.support.steps import log_of, object_keys, rows, s3_client, use_s3, wait_for

FILES = {"a.mp3": SPEECH, "b.mp3": SILENCE}


def local(fleet: Fleet, redis: Any) -> LocalArchives:
    """What the command makes, in this process."""
    limits = (1000, 2**30, 2**30)
    return LocalArchives(
        redis, "queue:transfer", "queue:unpack", limits, s3_utils.archive_key, s3_utils.batch_of_source,
        s3_utils.note_source, s3_utils.upload_unless_changed, config.HOST_NAME,
    )  # fmt: skip


def self_repair(redis: Any, database: Database) -> SelfRepair:
    """What an unpack worker does every RECONCILE_SECONDS."""
    process: Any = SimpleNamespace(
        id="w1", redis=redis, stop=StopFlag(), limits=Limits(), steady_seconds=lambda: 100.0
    )
    return SelfRepair(process, reconciler(redis, database), 60)


def jobs(redis: Any) -> list[dict[str, Any]]:
    return [json.loads(job) for job in redis.lrange("queue:unpack", 0, -1)]


def assert_queued_once(fleet: Fleet, redis: Any, path: Path) -> str:
    """One batch, whole in S3, with one job; gives its id."""
    (job,) = jobs(redis)
    (key,) = object_keys(fleet, "archives/")
    assert job["s3_key"] == key == f"archives/{job['batch_id']}.tar"
    stored = s3_client(fleet).get_object(Bucket=fleet.bucket, Key=key)
    assert stored["Body"].read() == path.read_bytes()
    assert stored["Metadata"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    origin = from_metadata(stored["Metadata"], None)
    assert name_of(origin.path) == name_of(job["archive"]) in (path.name, "other name.tar")
    assert origin.host == config.HOST_NAME
    return str(job["batch_id"])


def test_a_local_archive_is_transcribed(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    plain = make_tar(tmp_path / "monday.tar", FILES)
    packed = tmp_path / "tuesday.tar.gz"
    packed.write_bytes(gzip.compress(make_tar(tmp_path / "t.tar", {"c.mp3": SPEECH}).read_bytes()))
    said = printed(control(fleet, "enqueue", "--local", str(plain), str(packed))).splitlines()
    first, second = jobs(redis)
    assert said == [
        f"{plain} queued as batch {first['batch_id']}, 2 audio files",
        f"{packed} queued as batch {second['batch_id']}",
        f"follow it with: pipelinectl.py batch {first['batch_id']} --wait",
        f"follow it with: pipelinectl.py batch {second['batch_id']} --wait",
    ]
    assert (first["file_count"], second["file_count"]) == (2, None)
    for role in ("unpack", "gpu"):
        fleet.worker(role)
    wait_for(lambda: fleet.query("SELECT count(finished_at) FROM batches") == [(2,)], fleet, "the batches", 120)
    found = {name: (row[0], row[2]) for (_, name), row in rows(fleet).items()}
    assert found == {"a.mp3": ("done", SPOKEN), "b.mp3": ("done", ""), "c.mp3": ("done", SPOKEN)}
    assert "already" in printed(control(fleet, "enqueue", "--local", str(plain)))
    redis.flushall()  # what is finished is not done again, also where Redis knows nothing
    printed(control(fleet, "enqueue", "--local", str(plain)))
    unpack = fleet.workers[0]
    wait_for(lambda: f"batch {first['batch_id']} is finished already" in log_of(unpack), fleet, "the second job")
    assert len(rows(fleet)) == 3


def test_the_same_file_twice_is_said_so_and_not_doubled(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "monday.tar", FILES)
    other = tmp_path / "other name.tar"
    other.write_bytes(path.read_bytes())
    said = printed(control(fleet, "enqueue", "--local", str(path), str(other), str(path)))
    batch_id = assert_queued_once(fleet, redis, path)
    assert said.splitlines()[1] == f"{other} is batch {batch_id} already"
    again = printed(control(fleet, "enqueue", "--local", str(path)))
    assert again.startswith(f"{path} is batch {batch_id} already\n")
    assert_queued_once(fleet, redis, path)


def test_the_same_file_at_once_is_one_batch(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "monday.tar", FILES)
    with ThreadPoolExecutor(3) as pool:
        said = list(pool.map(lambda _: printed(control(fleet, "enqueue", "--local", str(path))), range(3)))
    assert sorted("already" in text for text in said) == [False, True, True]
    assert_queued_once(fleet, redis, path)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "step",
    [
        "pipeline.transfer.local_archives:LocalArchives._assign 1",
        "s3_utils:note_source 1",
        "s3_utils:upload_unless_changed 1",
        "s3_utils:note_source 2",
        "pipeline.transfer.local_archives:LocalArchives._queue 1",
    ],
)
def test_a_death_at_any_step_loses_and_doubles_nothing(
    fleet: Fleet, redis: Any, tmp_path: Path, step: str, when: str
) -> None:
    path = make_tar(tmp_path / "monday.tar", FILES)
    point, number = step.split()
    command = [
        sys.executable,
        "tests/support/kill_at.py",
        point,
        when,
        number,
        "KILL",
        "pipelinectl.py",
        "enqueue",
        "--local",
    ]
    killed = subprocess.run(
        [*command, str(path)], cwd=PROJECT, env=fleet.environment(), capture_output=True, check=False, timeout=60
    )
    assert killed.returncode == -9, killed.stderr
    printed(control(fleet, "enqueue", "--local", str(path)))
    batch_id = assert_queued_once(fleet, redis, path)
    again = printed(control(fleet, "enqueue", "--local", str(path)))
    assert again.startswith(f"{path} is batch {batch_id} already\n")
    assert_queued_once(fleet, redis, path)


def test_the_id_is_that_of_the_bytes_whatever_redis_remembers(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(fleet, monkeypatch)
    path = make_tar(tmp_path / "monday.tar", FILES)
    os.utime(path, (0, 1750602652))
    for _ in range(2):
        for key in object_keys(fleet):
            s3_client(fleet).delete_object(Bucket=fleet.bucket, Key=key)
        redis.flushall()
        local(fleet, redis).take(path, 2)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        source = hashlib.sha256(f"local archive, SHA-256 {digest}".encode()).hexdigest()
        assert jobs(redis)[0]["batch_id"] == f"20250622-143052-{source[:12]}"


def test_a_file_that_changes_before_its_upload_is_never_queued(
    fleet: Fleet, redis: Any, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the command nor by the fleet, which queues what is in S3 and nobody works on."""
    use_s3(fleet, monkeypatch)
    path = make_tar(tmp_path / "monday.tar", FILES)
    archives = local(fleet, redis)

    def note(source: str, batch_id: str, is_whole: bool) -> None:
        s3_utils.note_source(source, batch_id, is_whole)
        make_tar(path, {"other.mp3": SPEECH})

    archives.note_source = note
    with pytest.raises(Permanent, match="changed while it was read"):
        archives.take(path, 2)
    self_repair(redis, database).look()
    assert jobs(redis) == object_keys(fleet, "archives/") == []


def test_a_file_that_changes_during_its_upload_is_never_queued(
    fleet: Fleet, redis: Any, tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end changes while the first of its parts goes up; neither its size nor its time does."""
    use_s3(fleet, monkeypatch)
    monkeypatch.setattr(s3_parts, "MULTIPART_BYTES", 2**20)
    monkeypatch.setattr(s3_parts, "LEAST_PART_BYTES", 5 * 2**20)
    path = make_tar(tmp_path / "monday.tar", {"a.mp3": bytes(50 * 2**20)})
    before = path.stat()

    def change(_: int) -> None:
        with path.open("r+b") as file:
            file.seek(49 * 2**20)
            file.write(b"other")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def follow(what: str, _: int) -> AbstractContextManager[Callable[[int], object] | None]:
        return nullcontext(change if what.startswith("uploading") else None)

    monkeypatch.setattr(s3_utils, "follow", follow)
    with pytest.raises(Permanent, match="changed while it was read"):
        local(fleet, redis).take(path, 1)
    self_repair(redis, database).look()
    assert jobs(redis) == object_keys(fleet, "archives/") == []
    assert "Uploads" not in s3_client(fleet).list_multipart_uploads(Bucket=fleet.bucket)


def test_a_large_archive_arrives_in_parts(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(fleet, monkeypatch)
    monkeypatch.setattr(s3_parts, "MULTIPART_BYTES", 2**20)
    monkeypatch.setattr(s3_parts, "LEAST_PART_BYTES", 5 * 2**20)
    path = make_tar(tmp_path / "monday.tar", {"a.mp3": os.urandom(24 * 2**20)})
    local(fleet, redis).take(path, 1)
    batch_id = assert_queued_once(fleet, redis, path)
    stored = s3_client(fleet).head_object(Bucket=fleet.bucket, Key=f"archives/{batch_id}.tar")
    assert stored["ETag"].strip('"').endswith("-5")


def test_what_is_no_archive_is_refused_before_anything_is_queued(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    good = make_tar(tmp_path / "good.tar", FILES)
    cut = tmp_path / "\x1b[31mcut.tar"
    cut.write_bytes(good.read_bytes()[:3000])
    packed = tmp_path / "x.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.mp3", SPEECH)
    empty, missing = tmp_path / "empty.tar", tmp_path / "missing.tar"
    empty.write_bytes(b"")
    bad = [cut, packed, empty, missing, tmp_path]
    done = control(fleet, "enqueue", "/remote.tar", "--local", str(good), *map(str, bad))
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    for line, path, words in zip(lines, bad, ("", "a zip archive", "", "no such file", "no file"), strict=True):
        assert path.name.replace("\x1b", "\\x1b") in line
        assert words in line
        assert "\x1b" not in line
    assert redis.keys("queue:*") == object_keys(fleet) == []


def test_limits_and_services(fleet: Fleet, redis: Any, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", FILES)
    asked = ["enqueue", "--local", str(path)]
    for changes, words in (
        ({"ARCHIVE_MAX_MEMBERS": "1"}, "more than 1 members"),
        ({"S3_BUCKET": "nobucket"}, "there is no such bucket"),
        ({"S3_ENDPOINT": ""}, "S3_ENDPOINT is not set"),
    ):
        done = control(fleet, *asked, **changes)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr.splitlines()[0]
    gone = f"http://127.0.0.1:{free_port()}"
    assert "S3 is unavailable" in complaint(control(fleet, *asked, S3_ENDPOINT=gone), 1)
    assert jobs(redis) == []
    done = control(fleet, "enqueue")
    assert done.returncode == 2
    assert "name an archive" in done.stderr
