"""What was deleted stays so while the workers are at it: the same archive, the same bytes, jobs that come late."""

import json
from pathlib import Path
from typing import Any

import pytest

import s3_tombstones
import s3_utils
from pipeline.operations.deletion import carry_out
from pipeline.store import deletion
from pipeline.store.database import Database
from tests.commands.test_pipelinectl import control, printed
from tests.support.fleet import Fleet, batch_keys
from tests.support.recordings import SILENCE, SPEECH, make_tar
from tests.support.steps import (
    BATCH,
    dead,
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

OTHER = "20250629-143052"


def finished(fleet: Fleet, batch_id: str) -> bool:
    return fleet.query("SELECT finished_at IS NOT NULL FROM batches WHERE batch_id = %s", batch_id) == [(True,)]


def test_a_deleted_recording_stays_deleted_when_its_archive_is_sent_again(
    fleet: Fleet, redis: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = make_tar(tmp_path / "monday.tar", {"a.mp3": SPEECH, "b.mp3": SILENCE})
    upload(fleet, monkeypatch, tar)
    redis.rpush("queue:unpack", unpack_job())
    workers = [fleet.worker("unpack"), fleet.worker("gpu")]
    wait_for(lambda: finished(fleet, BATCH), fleet, "the batch")
    ((gone, digest),) = fleet.query(
        "SELECT audio_id, source_sha256 FROM audio_files WHERE original_filename = 'a.mp3'"
    )
    assert len(digest) == 64
    deletion.delete_files(database, BATCH, [gone], "cli:ann@ops")
    carry_out(database, s3_tombstones.store())
    renamed = make_tar(tmp_path / "again.tar", {"sub/renamed.mp3": SPEECH, "c.mp3": SILENCE + b"\0"})
    upload(fleet, monkeypatch, renamed, OTHER)
    redis.rpush("queue:unpack", unpack_job(OTHER))
    wait_for(lambda: finished(fleet, OTHER), fleet, "the other batch")
    assert {name for _, name in rows(fleet)} == {"b.mp3", "c.mp3"}
    wait_for_log(workers[0], f"batch {OTHER}: 1 of its files were deleted, and stay so")
    assert "renamed.mp3" not in log_of(workers[0])  # it is not even converted
    assert len([key for key in object_keys(fleet, "processed/") if key.endswith(".opus")]) <= 2
    only = make_tar(tmp_path / "only.tar", {"x.mp3": SPEECH})
    upload(fleet, monkeypatch, only, "third")
    redis.rpush("queue:unpack", unpack_job("third"))
    wait_for(lambda: finished(fleet, "third"), fleet, "the third batch")
    carry_out(database, s3_tombstones.store())
    assert "archives/third.tar" not in object_keys(fleet)  # it holds nothing that is kept
    wait_for(lambda: is_idle(redis, "queue:unpack") and not batch_keys(redis), fleet, "quiet")
    assert dead(redis, "queue:unpack") == []
    assert not any((fleet.folder / "scratch").iterdir())


def test_a_job_of_a_deleted_archive_is_settled(
    fleet: Fleet, redis: Any, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(fleet, monkeypatch, make_tar(tmp_path / "monday.tar", {"a.mp3": SILENCE}))
    deletion.delete_batch(database, BATCH, "cli:ann@ops")
    carry_out(database, s3_tombstones.store())
    redis.rpush("queue:unpack", unpack_job(), unpack_job(file_count=1))
    worker = fleet.worker("unpack")
    wait_for_log(worker, "is finished already")
    wait_for(lambda: is_idle(redis, "queue:unpack"), fleet, "an empty queue")
    assert dead(redis, "queue:unpack") == []
    assert rows(fleet) == {}


def test_a_late_job_of_a_deleted_file_counts_as_settled(fleet: Fleet, redis: Any, database: Database) -> None:
    """Its worker died between the row and the count; then it was deleted."""
    jobs = open_batch(fleet, redis, "alpha", {"a.mp3": b"no opus"})
    assert len(jobs) == 1
    row = database.start_file(BATCH, "a.mp3")
    fleet.query("UPDATE audio_files SET status = 'done'")
    deletion.delete_files(database, BATCH, [row.audio_id], "cli:ann@ops")
    worker = fleet.worker("gpu", HOST_NAME="alpha")
    wait_for(lambda: not batch_keys(redis), fleet, "the end of the batch")
    assert "a.mp3 done, counted, the last of its batch" in log_of(worker)
    assert rows(fleet) == {}
    assert finished(fleet, BATCH)


@pytest.mark.parametrize("how", ["transfer", "local"])
def test_an_archive_that_was_deleted_is_not_uploaded_again(
    fleet: Fleet, redis: Any, database: Database, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    workers = [fleet.worker("transfer"), fleet.worker("unpack"), fleet.worker("gpu")]
    tar = make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SILENCE})
    given = [str(tar)] if how == "transfer" else ["--local", str(tar)]
    printed(control(fleet, "enqueue", *given))
    wait_for(lambda: fleet.query("SELECT 1 FROM batches WHERE finished_at IS NOT NULL"), fleet, "the batch")
    ((batch_id,),) = fleet.query("SELECT batch_id FROM batches")
    wait_for(lambda: not batch_keys(redis), fleet, "its end")
    fleet.stop_workers()
    assert len(workers) == 3
    deletion.delete_batch(database, batch_id, "cli:ann@ops")
    from tests.support.steps import use_s3

    use_s3(fleet, monkeypatch)
    carry_out(database, s3_tombstones.store())
    redis.flushall()
    printed(control(fleet, "enqueue", *given))
    for role in ("transfer", "unpack"):
        fleet.worker(role, f"{role}-2")
    queues = ("queue:transfer", "queue:unpack")
    wait_for(lambda: all(is_idle(redis, queue) for queue in queues), fleet, "empty queues")
    assert object_keys(fleet, "archives/") == []
    assert rows(fleet) == {}
    assert [dead(redis, queue) for queue in queues] == [[], []]
    assert s3_utils.exists(f"tombstones/{batch_id}/archive.json")
    assert json.loads(control(fleet, "failures", "--json").stdout)["jobs"] == []
