"""A recording's own time and metadata, from its archive to its row: the same whoever dies on the way."""

import datetime
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.audio.test_tags import id3
from tests.support.fleet import Fleet
from tests.support.recordings import DAMAGED, SILENCE
from tests.support.steps import BATCH, kill_worker, log_of, unpack_job, upload, wait_for

TRUNK = "metro/1234-1710512553_855737500.mp3"
CALL = datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)
SIDECAR = {"talkgroup": 1234, "start_time": 1710512553, "talkgroup_tag": "Fire"}
FILES = {
    TRUNK: SILENCE,
    TRUNK.replace(".mp3", ".json"): json.dumps(SIDECAR).encode(),
    "20240301_000000.mp3": id3(("TDRC", "2024-03-15T15:22:33"), ("TIT2", "Engine 5")) + SILENCE,
    "20240315_152233.mp3": DAMAGED,
    "changed.mp3": SILENCE,
    "1970.mp3": SILENCE,
}
WANTED = {
    TRUNK: (CALL, "sidecar", {**SIDECAR, "frequency": "855737500"}),
    "20240301_000000.mp3": (CALL, "tag", {"title": "Engine 5", "date": "2024-03-15T15:22:33"}),
    "20240315_152233.mp3": (CALL, "name", None),
    "changed.mp3": (CALL - HOUR, "mtime", None),
    "1970.mp3": (None, None, None),
}


def archive(path: Path) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in FILES.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1710508953 if name == "changed.mp3" else 0
            tar.addfile(info, io.BytesIO(data))
    return path


def known(fleet: Fleet) -> dict[str, tuple[Any, ...]]:
    sql = "SELECT original_filename, recorded_at, recorded_from, metadata FROM audio_files"
    return {name: (at and at.astimezone(datetime.UTC), *rest) for name, at, *rest in fleet.query(sql)}


def test_each_source_reaches_the_row(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet.changes = {"SOURCE_TIMEZONE": "Europe/Berlin"}
    upload(fleet, monkeypatch, archive(tmp_path / "monday.tar"))
    redis.rpush("queue:unpack", unpack_job())
    kill_worker(fleet, "unpack", "pipeline.store.database:Database.describe_files after 1")
    fleet.worker("unpack")
    wait_for(lambda: redis.llen("queue:transcribe") == 4, fleet, "the files")
    named = datetime.datetime(2024, 2, 29, 23, tzinfo=datetime.UTC)
    before = WANTED | {"20240301_000000.mp3": (named, "name", None)}
    assert known(fleet) == before
    kill_worker(fleet, "gpu", "pipeline.store.database:Database.save_result after 1")
    worker = fleet.worker("gpu")
    wait_for(lambda: fleet.query("SELECT count(finished_at) FROM batches") == [(1,)], fleet, "the batch")
    assert known(fleet) == WANTED
    assert "Traceback" not in log_of(worker)
    redis.rpush("queue:unpack", unpack_job())  # once more: it is finished
    wait_for(lambda: not redis.llen("queue:unpack"), fleet, "the delivery again")
    assert known(fleet) == WANTED


def test_an_archive_of_sidecars_alone_has_no_recordings(
    fleet: Fleet, redis: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "monday.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.json", "a.mp3.json"):
            tar.addfile(tarfile.TarInfo(name))
    upload(fleet, monkeypatch, path)
    redis.rpush("queue:unpack", unpack_job())
    worker = fleet.worker("unpack")
    wait_for(lambda: fleet.query("SELECT count(finished_at) FROM batches") == [(1,)], fleet, "the batch")
    assert f"batch {BATCH}: 0 audio files, 2 others ignored: 2 .json" in log_of(worker)
