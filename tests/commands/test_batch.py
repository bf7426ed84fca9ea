"""An archive by its name: from `enqueue --wait` to `batch`, and wherever else a batch is named."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

import s3_utils
from pipeline.foundation.archive_origin import Origin
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from tests.commands.test_pipelinectl import complaint, control, printed
from tests.store.test_transcripts import hear
from tests.support.fleet import Fleet
from tests.support.recordings import SILENCE, SPEECH, make_tar
from tests.support.steps import (
    BATCH,
    add_batch,
    add_dead_letter,
    add_file,
    dead,
    s3_client,
    unpack_job,
    use_s3,
    wait_for,
)

OTHER = "20250629-143052"
MONDAY = "/recordings/monday.tar"
HOSTILE = "/r/<b onclick=alert(1)>\x1b[31m=cmd\n.tar"


def of_archive(fleet: Fleet, path: str, batch_id: str = BATCH, **fields: Any) -> None:
    """A batch's row, of this archive."""
    add_batch(fleet, batch_id, **fields)
    fleet.query(
        "UPDATE batches SET archive_path = %s, archive_host = 'ec2', archive_bytes = 12, archive_sha256 = %s"
        " WHERE batch_id = %s",
        path, "0f" * 32, batch_id,
    )  # fmt: skip


def test_enqueue_waits_for_the_last_file_and_tells_how_it_went(fleet: Fleet, redis: Any) -> None:
    for role in ("transfer", "unpack", "gpu"):
        fleet.worker(role)
    good = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH, "b.mp3": SILENCE})
    done = control(fleet, "enqueue", str(good), "--wait")
    assert (done.returncode, done.stderr) == (0, "")
    ((batch_id, path, host, size, digest),) = fleet.query(
        "SELECT batch_id, archive_path, archive_host, archive_bytes, archive_sha256 FROM batches"
    )
    assert (path, host, size) == (str(good), fleet.ssh.host, good.stat().st_size)
    assert digest == hashlib.sha256(good.read_bytes()).hexdigest()
    assert done.stdout.splitlines()[-1] == f"{good} as {batch_id}: finished: 2 files done, 0 failed"
    stored = s3_client(fleet).head_object(Bucket=fleet.bucket, Key=f"archives/{batch_id}.tar")
    assert stored["Metadata"]["origin-path-1"] == str(good)
    shown = printed(control(fleet, "batch", "monday.tar"))
    assert f"archive      {good}\n" in shown
    assert "state        finished: 2 files done, 0 failed\n" in shown
    # once more, what is done already; and archives that cannot be done
    worse = make_tar(fleet.ssh.folder / "worse.tar", {"a.mp3": SPEECH, "bad.mp3": b"no sound"})
    damaged = fleet.ssh.folder / "damaged.tar"
    damaged.write_bytes(good.read_bytes()[:5000])
    paths = [str(good), str(worse), str(damaged), "/not/there.tar"]
    done = control(fleet, "enqueue", *paths, "--wait", MAX_ATTEMPTS="1")
    assert (done.returncode, done.stderr) == (1, "")
    last = {line.split(" ")[0].rstrip(":"): line for line in done.stdout.splitlines()}
    assert last[str(good)].endswith(f"as {batch_id}: finished: 2 files done, 0 failed")
    assert last[str(worse)].endswith(": finished: 1 file done, 1 failed")
    for path in (str(damaged), "/not/there.tar"):
        assert ": failed permanently: " in last[path]
    assert control(fleet, "batch", str(worse), "--wait").returncode == 1
    assert "failed       1 file: " in printed(control(fleet, "batch", "worse.tar"))


def test_a_batch_is_found_by_the_name_the_path_and_the_id(fleet: Fleet) -> None:
    of_archive(fleet, MONDAY, files=2, finished=False)
    add_file(fleet, "a.mp3", "done")
    add_file(fleet, "b.mp3", "failed", "no sound")
    shown = printed(control(fleet, "batch", BATCH))
    assert shown == printed(control(fleet, "batch", "monday.tar")) == printed(control(fleet, "batch", MONDAY))
    assert shown.splitlines()[:8] == [
        f"batch        {BATCH}",
        f"archive      {MONDAY}",
        "state        waiting to be unpacked",
        "from         ec2",
        "size         12 B",
        f"SHA-256      {'0f' * 32}",
        f"in S3        {fleet.bucket}/archives/{BATCH}.tar",
        "files        2: 1 done, 1 failed",
    ]
    assert shown.splitlines()[-1] == "failed       1 file: no sound"
    found = json.loads(printed(control(fleet, "batch", "monday.tar", "--json")))
    assert found["archive"] == {"path": MONDAY, "host": "ec2", "bytes": 12, "sha256": "0f" * 32}
    assert (found["batch_id"], found["failed"], found["finished_at"]) == (BATCH, 1, None)


def test_an_archive_that_is_not_unpacked_yet_is_shown(fleet: Fleet, redis: Any) -> None:
    printed(control(fleet, "enqueue", MONDAY))
    shown = printed(control(fleet, "batch", "monday.tar"))
    assert shown.splitlines() == [f"archive      {MONDAY}", "state        waiting for its transfer"]
    redis.rpush("queue:unpack", unpack_job(archive="/r/tuesday.tar"))
    found = json.loads(printed(control(fleet, "batch", "tuesday.tar", "--json")))
    assert found["batch_id"] == BATCH
    assert found["archive"] == {"path": "/r/tuesday.tar"}


@pytest.mark.parametrize(
    "command",
    [
        ["batch", "monday.tar"],
        ["batch", "monday.tar", "--wait"],
        ["show", "monday.tar", "a.mp3"],
        ["search", "--batch", "monday.tar"],
        ["failures", "--batch", "monday.tar"],
        ["failures", "--warnings", "--batch", "monday.tar"],
        ["retry", "monday.tar"],
        ["export", "monday.tar", "--format", "json"],
    ],
)
def test_a_name_of_several_batches_is_listed_with_their_ids(fleet: Fleet, command: list[str]) -> None:
    of_archive(fleet, MONDAY)
    of_archive(fleet, "/other/monday.tar", OTHER)
    done = control(fleet, *command)
    assert (done.returncode, done.stdout) == (2, "")
    first, *listed = done.stderr.splitlines()
    assert first == "pipelinectl: several batches are called monday.tar: name one of them by its id"
    assert listed == [
        f"pipelinectl: {OTHER} /other/monday.tar of ec2 finished, 1 file",
        f"pipelinectl: {BATCH} {MONDAY} of ec2 finished, 1 file",
    ]


def test_the_archive_will_do_wherever_a_batch_is_named(fleet: Fleet, redis: Any) -> None:
    of_archive(fleet, MONDAY)
    of_archive(fleet, "/recordings/tuesday.tar", OTHER)
    audio_id = hear(fleet, "a.mp3", "a fire")
    hear(fleet, "a.mp3", "a fire", batch_id=OTHER)
    failed = add_file(fleet, "bad.mp3", "failed", "no sound")
    add_file(fleet, "bad.mp3", "failed", "no sound", OTHER)
    for name in ("monday.tar", MONDAY):
        assert json.loads(printed(control(fleet, "show", name, "a.mp3", "--json")))["audio_id"] == audio_id
        assert "\narchive              monday.tar\n" in printed(control(fleet, "show", name, "a.mp3"))
        (hit,) = json.loads(printed(control(fleet, "search", "fire", "--batch", name, "--json")))["hits"]
        assert hit["audio_id"] == audio_id
        (row,) = json.loads(printed(control(fleet, "export", name, "--format", "json")))
        assert row["audio_id"] == audio_id
        (row,) = json.loads(printed(control(fleet, "failures", "--batch", name, "--json")))["files"]
        assert (row["audio_id"], row["archive"]) == (failed, "monday.tar")
        assert "monday.tar" in printed(control(fleet, "failures", "--batch", name))
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key=f"archives/{BATCH}.tar", Body=b"")
    assert printed(control(fleet, "retry", "monday.tar")) == f"queued 1 file of batch {BATCH}\n"


def test_an_archive_that_could_not_be_unpacked_is_retried_by_its_name(fleet: Fleet, redis: Any) -> None:
    add_dead_letter(redis, "queue:unpack", unpack_job(archive=MONDAY), "it is cut")
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key=f"archives/{BATCH}.tar", Body=b"")
    assert printed(control(fleet, "retry", "monday.tar")) == f"queued batch {BATCH}\n"
    assert dead(redis, "queue:unpack") == []


@pytest.mark.parametrize("name", ["nothing.tar", "", "a" * 2000, "/recordings/monday", "recordings/monday.tar"])
def test_what_was_never_brought_is_said_so(fleet: Fleet, name: str) -> None:
    of_archive(fleet, MONDAY)
    assert "there is no batch or archive" in complaint(control(fleet, "batch", name), 2)


def test_the_status_names_the_archives_of_open_batches(fleet: Fleet, redis: Any) -> None:
    of_archive(fleet, HOSTILE, finished=False)
    for batch_id in (BATCH, OTHER):
        Batches(redis, "gpu-04").adopt(batch_id, "archives/a.tar", Job(unpack_job(), 1, "t"))
    found = json.loads(control(fleet, "status", "--json").stdout)["batches"]
    assert {row["id"]: row["archive"] for row in found} == {BATCH: HOSTILE.rpartition("/")[2], OTHER: ""}
    shown = control(fleet, "status").stdout
    assert "<bonclick=alert(1)>\\x1b" in "".join(shown.split())  # printed to the width of a terminal


def test_a_database_that_is_rebuilt_knows_the_archives_again(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL and Redis have lost everything: what S3 has is unpacked again, with the name that it had."""
    use_s3(fleet, monkeypatch)
    tar = make_tar(tmp_path / "a.tar", {"a.mp3": SILENCE})
    s3_utils.upload_archive(tar, BATCH, origin=Origin("/r/caf\udce9.tar", "ec2.example.net"))
    printed(control(fleet, "reconcile", "--apply"))
    fleet.worker("unpack")
    wait_for(lambda: fleet.query("SELECT batch_id FROM batches"), fleet, "the batch")
    shown = json.loads(printed(control(fleet, "batch", "caf\\xe9.tar", "--json")))
    assert shown["archive"] == {
        "path": "/r/caf\\xe9.tar", "host": "ec2.example.net", "bytes": tar.stat().st_size,
        "sha256": hashlib.sha256(tar.read_bytes()).hexdigest(),
    }  # fmt: skip


def test_a_hostile_name_is_shown_as_it_is_and_obeyed_by_nobody(fleet: Fleet) -> None:
    of_archive(fleet, HOSTILE, files=0)
    shown = printed(control(fleet, "batch", BATCH))
    assert "/r/<b onclick=alert(1)>\\x1b[31m=cmd\\n.tar" in shown
    assert len(shown.splitlines()) == 11
