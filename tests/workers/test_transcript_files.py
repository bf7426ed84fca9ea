"""The GPU worker keeps a transcript beside each Opus, before the row is done."""

import json
from typing import Any

import pytest

import s3_transcripts
from pipeline.store.transcript_files import TranscriptFiles
from tests.support.fleet import Fleet, batch_keys
from tests.support.recordings import SPEECH, SPOKEN, opus
from tests.support.steps import BATCH, kill_worker, object_keys, open_batch, s3_client, use_s3, wait_for

KEEP = "pipeline.store.transcript_files:TranscriptFiles.keep"


@pytest.fixture(autouse=True)
def here(fleet: Fleet) -> None:
    fleet.changes = {"HOST_NAME": "this-host"}


def read(fleet: Fleet, key: str) -> dict[str, Any]:
    body = s3_client(fleet).get_object(Bucket=fleet.bucket, Key=key)["Body"].read()
    found: dict[str, Any] = json.loads(body)
    return found


def test_it_holds_what_the_row_says(fleet: Fleet, redis: Any) -> None:
    open_batch(fleet, redis, "this-host", {"a.mp3": opus(SPEECH)})
    fleet.query("UPDATE batches SET archive_path = '/in/monday.tar', archive_host = 'ec2'")
    fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, created_at, recorded_at, recorded_from, metadata,"
        " source_sha256) VALUES (%s, 'a.mp3', '2025-06-22 23:59:59.123456+00', '2024-03-01 12:30:01.25+02',"
        """ 'name', '{"talkgroup": 1234}', repeat('ab', 32))""",
        BATCH,
    )
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert object_keys(fleet) == [f"processed/2025-06-22/1.{kind}" for kind in ("json", "opus")]
    kept = read(fleet, "processed/2025-06-22/1.json")
    ((segments, model, opened),) = fleet.query(
        "SELECT segments, model, to_char(opened_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
        " FROM transcripts CROSS JOIN batches"
    )
    assert segments[0]["words"]
    assert kept.pop("segments") == segments
    assert kept.pop("duration_seconds") == pytest.approx(3, abs=2)
    assert kept.pop("transcribed_at") > kept["created_at"]
    assert kept.pop("labels")[0] == {"classifier": "content", "label": "speech", "score": pytest.approx(1, abs=1)}
    assert kept == {
        "format": 1, "audio_id": 1, "batch_id": BATCH, "original_filename": "a.mp3",
        "created_at": "2025-06-22T23:59:59.123456Z", "source_sha256": "ab" * 32,
        "s3_opus_path": "processed/2025-06-22/1.opus", "recorded_at": "2024-03-01T10:30:01.250000Z",
        "recorded_from": "name", "metadata": {"talkgroup": 1234}, "channels": 1, "language": "en",
        "languages": ["en"], "warnings": None, "model": model, "text": SPOKEN,
        "batch": {
            "s3_key": f"archives/{BATCH}.tar", "file_count": 1, "host": "this-host", "opened_at": opened,
            "archive_path": "/in/monday.tar", "archive_host": "ec2", "archive_bytes": None, "archive_sha256": None,
        },
    }  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_row_is_never_done_without_it(fleet: Fleet, redis: Any, when: str) -> None:
    open_batch(fleet, redis, "this-host", {"a.mp3": opus(SPEECH)})
    kill_worker(fleet, "gpu", f"{KEEP} {when} 1")
    assert fleet.query("SELECT status FROM audio_files") == [("processing",)]
    kept = [key for key in object_keys(fleet) if key.endswith(".json")]
    assert len(kept) == (when == "after")
    assert len(object_keys(fleet)) == 1 + len(kept)
    fleet.worker("gpu")
    wait_for(lambda: not batch_keys(redis), fleet, "the batch")
    assert fleet.query("SELECT status FROM audio_files") == [("done",)]
    (key, path) = object_keys(fleet)
    assert (read(fleet, key)["text"], path) == (SPOKEN, key.replace(".json", ".opus"))


def test_a_file_that_was_deleted_has_none(fleet: Fleet, database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_s3(fleet, monkeypatch)
    TranscriptFiles(database, s3_transcripts.put).keep(77)
    assert object_keys(fleet) == []
