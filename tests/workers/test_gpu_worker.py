"""The GPU worker's step from a transcript to a row that is done, in this process, on real servers."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

import config
from gpu_worker import File, TranscriptionWorker
from pipeline.jobs.worker import Worker
from pipeline.speech.transcript import Transcript
from pipeline.store.database import Database
from tests.support.fleet import Fleet
from tests.support.recordings import SILENCE, opus
from tests.support.steps import BATCH, dead, open_batch, rows, use_s3

HEARD = Transcript("", [], None, 3.0, 0.0, -60.0, "m")


class Labels:
    """Classifiers that find nothing."""

    def labels(self, _heard: Transcript) -> list[Any]:
        return []


@pytest.fixture
def transcription(fleet: Fleet, redis: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TranscriptionWorker]:
    """A GPU worker of host h with one file in its hands and a copy of the job that waits."""
    (job,) = open_batch(fleet, redis, "h", {"a.mp3": opus(SILENCE)})
    redis.rpush("queue:transcribe", job.replace("{", '{"again": true, ', 1))
    use_s3(fleet, monkeypatch)
    monkeypatch.setattr(config, "SCRATCH_ROOT", fleet.folder / "scratch")
    monkeypatch.setattr(config, "DATABASE_URL", fleet.postgres.worker_url)
    Database(fleet.postgres.url).open_batch(BATCH, f"archives/{BATCH}.tar", ["a.mp3"], "h")
    process = Worker(fleet.valkey.url, "queue:transcribe", "gpu", "w", "h", config.LIMITS)
    worker = TranscriptionWorker(process, Labels())  # type: ignore[arg-type]
    yield worker
    worker.writers.shutdown()


def start(worker: TranscriptionWorker) -> File:
    job = worker.queue.claim(1)
    assert job
    file = worker.start(job)
    assert file
    return file


def test_a_file_that_another_delivery_has_ended_costs_no_attempt(
    transcription: TranscriptionWorker, fleet: Fleet, redis: Any
) -> None:
    first = start(transcription)
    transcription.in_progress.clear()  # as where the copy is another worker's of this host
    second = start(transcription)
    transcription.end(first, HEARD)
    assert not (fleet.folder / "scratch" / BATCH).exists()
    transcription.end(second, HEARD)
    assert redis.keys("queue:transcribe*") == ["queue:transcribe:workers"]  # no attempt, nothing delayed
    assert rows(fleet)[(BATCH, "a.mp3")][0] == "done"
    assert dead(redis, "queue:transcribe") == []


def test_a_file_whose_opus_is_missing_is_an_attempt(transcription: TranscriptionWorker, redis: Any) -> None:
    file = start(transcription)
    file.path.unlink()
    transcription.end(file, HEARD)
    assert redis.zrange("queue:transcribe:delayed", 0, -1) == [file.job.payload]


def test_a_file_that_has_failed_is_counted_and_not_worked_on_again(
    transcription: TranscriptionWorker, fleet: Fleet, redis: Any
) -> None:
    """As after a Redis that has lost the count: the scratch of a finished batch is gone by then."""
    transcription.database.fail_file(BATCH, "a.mp3", "ffmpeg: no sound")
    shutil.rmtree(fleet.folder / "scratch" / BATCH)
    job = transcription.queue.claim(1)
    assert job
    assert transcription.start(job) is None
    assert rows(fleet)[(BATCH, "a.mp3")][:2] == ("failed", "ffmpeg: no sound")
    assert [dead_letter["error"] for dead_letter in dead(redis, "queue:transcribe")] == ["ffmpeg: no sound"]
    assert redis.keys("batch:*") == []


def test_a_file_is_in_progress_until_it_is_kept(
    transcription: TranscriptionWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, seen = start(transcription), []

    def keep(_file: File, _heard: Transcript) -> None:
        seen.append(set(transcription.in_progress))

    monkeypatch.setattr(transcription, "keep", keep)
    transcription.end(file, HEARD)
    assert seen == [{(BATCH, "a.mp3")}]
    assert transcription.in_progress == set()
