"""pipelinectl enqueue --local: an archive of this machine becomes one batch, whoever dies on the way."""

import gzip
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import s3_utils
from pipeline.foundation.errors import Permanent
from pipeline.transfer.local_archives import LocalArchives
from tests.commands.test_pipelinectl import complaint, control, printed
from tests.support.child import free_port
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import SILENCE, SPEECH, SPOKEN, make_tar
from tests.support.steps import log_of, object_keys, rows, s3_client, use_s3, wait_for

FILES = {"a.mp3": SPEECH, "b.mp3": SILENCE}


def local(fleet: Fleet, redis: Any) -> LocalArchives:
    """What the command makes, in this process."""
    limits = (1000, 2**30, 2**30)
    return LocalArchives(
        redis, "queue:transfer", "queue:unpack", limits, s3_utils.archive_exists, s3_utils.archive_key,
        s3_utils.batch_of_source, s3_utils.note_source, s3_utils.upload_archive,
    )  # fmt: skip


def jobs(redis: Any) -> list[dict[str, Any]]:
    return [json.loads(job) for job in redis.lrange("queue:unpack", 0, -1)]


def assert_queued_once(fleet: Fleet, redis: Any, path: Path) -> str:
    """One batch, whole in S3, with one job; gives its id."""
    (job,) = jobs(redis)
    (key,) = object_keys(fleet, "archives/")
    assert job["s3_key"] == key == f"archives/{job['batch_id']}.tar"
    stored = s3_client(fleet).get_object(Bucket=fleet.bucket, Key=key)
    assert stored["Body"].read() == path.read_bytes()
    assert stored["Metadata"] == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
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
    assert printed(control(fleet, "enqueue", "--local", str(path))) == f"{path} is batch {batch_id} already\n"
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
        "s3_utils:upload_archive 1",
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
    assert printed(control(fleet, "enqueue", "--local", str(path))) == f"{path} is batch {batch_id} already\n"
    assert_queued_once(fleet, redis, path)


def test_an_id_that_a_transfer_has_is_not_given_again(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(fleet, monkeypatch)
    now = int(time.time())
    taken = [time.strftime("%Y%m%d-%H%M%S", time.gmtime(now + ahead)) for ahead in range(40)]
    for batch_id in taken[:20]:
        redis.set(f"queue:transfer:batch_ids:{batch_id}", "job")
    for batch_id in taken[20:]:
        s3_client(fleet).put_object(Bucket=fleet.bucket, Key=f"archives/{batch_id}.tar", Body=b"x")
    path = make_tar(tmp_path / "monday.tar", FILES)
    local(fleet, redis).take(path, 2)
    assert jobs(redis)[0]["batch_id"] > taken[-1]


def test_a_file_that_changes_while_it_is_read_is_not_queued(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_s3(fleet, monkeypatch)
    path = make_tar(tmp_path / "monday.tar", FILES)
    archives = local(fleet, redis)

    def upload(local_path: Path, batch_id: str) -> str:
        key = s3_utils.upload_archive(local_path, batch_id)
        make_tar(path, {"other.mp3": SPEECH})
        return key

    archives.upload_archive = upload
    with pytest.raises(Permanent, match="changed while it was read"):
        archives.take(path, 2)
    assert jobs(redis) == []


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
