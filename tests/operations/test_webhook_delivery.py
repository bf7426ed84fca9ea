"""Webhooks are delivered at least once, whatever the receiver does; nobody but their thread waits for it."""

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from pipeline.foundation.webhook_request import Receiver
from pipeline.foundation.worker_metrics import Metrics
from pipeline.jobs.stop_flag import StopFlag
from pipeline.operations.webhook_delivery import ANNOUNCED, WebhookDelivery
from pipeline.store import webhook_outbox
from pipeline.store.alerts import save_search
from pipeline.store.database import Database
from pipeline.store.webhook_outbox import Delivery, read_deliveries
from tests.operations.test_status import live
from tests.store.test_webhook_outbox import put_event
from tests.support.child import free_port
from tests.support.fleet import Fleet
from tests.support.recordings import SPEECH, SPOKEN, make_tar
from tests.support.steps import add_dead_letter, kill_worker, log_of, unpack_job, upload, wait_for
from tests.support.webhook_receiver import SECRET, WebhookReceiver

QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]
Made = Callable[..., WebhookDelivery]


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def delivery_to(redis: Any, database: Database) -> Made:
    """What a worker delivers to this address."""

    def made(url: str, worker: str = "w1", seconds: float = 5.0) -> WebhookDelivery:
        metrics = Metrics("unpack", worker, "host", "queue:unpack")
        process: Any = SimpleNamespace(id=worker, redis=redis, stop=StopFlag(), metrics=metrics)
        return WebhookDelivery(process, database, Receiver(url, SECRET, seconds) if url else None, QUEUES)

    return made


def deliveries(database: Database) -> list[Delivery]:
    return read_deliveries(database, 100, is_all=True)


def value_of(worker: WebhookDelivery, outcome: str) -> float | None:
    """What its metric has counted."""
    labels = {"role": "unpack", "outcome": outcome}
    return worker.worker.metrics.registry.get_sample_value("audio_pipeline_webhooks_total", labels)


def make_due(fleet: Fleet) -> None:
    """Its time has come."""
    fleet.query("UPDATE webhook_outbox SET next_attempt_at = now() WHERE next_attempt_at IS NOT NULL")


def test_what_is_due_is_delivered_once(
    fleet: Fleet, database: Database, receiver: WebhookReceiver, delivery_to: Made
) -> None:
    put_event(fleet, "e1")
    put_event(fleet, "e2")
    for worker in ("w1", "w2"):
        delivery_to(receiver.url, worker).look()
    assert sorted(event["id"] for event in receiver.events()) == ["e1", "e2"]
    (first, _) = receiver.got
    assert first.event["type"] == first.headers["x-audio-pipeline-event"] == "test"
    assert first.event["time"].endswith("Z")
    assert {delivery.state for delivery in deliveries(database)} == {"delivered"}


def test_a_receiver_that_is_down_gets_everything_when_it_is_up(
    fleet: Fleet, database: Database, receiver: WebhookReceiver, delivery_to: Made, caplog: Any
) -> None:
    put_event(fleet, "e1")
    put_event(fleet, "e2")
    down = delivery_to(f"http://127.0.0.1:{free_port()}/")
    for _ in range(3):
        down.look()
        make_due(fleet)
    assert {(delivery.state, delivery.error is None) for delivery in deliveries(database)} == {("waiting", False)}
    assert len([record for record in caplog.records if "does not take events" in record.message]) == 1
    delivery_to(receiver.url).look()
    assert sorted(event["id"] for event in receiver.events()) == ["e1", "e2"]


def test_after_a_failure_a_worker_rests(fleet: Fleet, redis: Any, database: Database, delivery_to: Made) -> None:
    for number in range(5):
        put_event(fleet, f"e{number}")
    with WebhookReceiver(500, 500) as receiver:
        delivery_to(receiver.url).look()
        assert len(receiver.got) == 1  # a slow or broken receiver is not sent all at once
    assert sorted(delivery.attempts for delivery in deliveries(database)) == [0, 0, 0, 0, 1]


def test_an_event_that_is_refused_for_itself_delays_no_other(
    fleet: Fleet, database: Database, delivery_to: Made, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(6):
        put_event(fleet, f"e{number}")
    with WebhookReceiver(400, 204, 413, 400, 429) as receiver:
        delivery_to(receiver.url).look()
        assert len(receiver.got) == 5  # after 429 it rests
    assert sorted(delivery.state for delivery in deliveries(database)) == ["delivered"] + ["waiting"] * 5
    said = [record.message.rpartition(" ")[2] for record in caplog.records if "does not take" in record.message]
    assert said == ["400", "413", "429"]


def test_a_long_backlog_does_not_keep_a_worker_from_dead_letters(
    fleet: Fleet, redis: Any, receiver: WebhookReceiver, delivery_to: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        put_event(fleet, f"e{number}")
    worker = delivery_to(receiver.url)
    deliver = worker.deliver

    def slowly(*args: Any) -> Any:
        if not receiver.got:  # half a minute goes by
            add_dead_letter(redis, "queue:unpack", "{}")
            redis.delete(ANNOUNCED)
        return deliver(*args)

    monkeypatch.setattr(worker, "deliver", slowly)
    worker.look()
    assert len(receiver.events("job.dead_lettered")) == 1


def test_a_receiver_that_fails_for_a_day_costs_the_event_no_more(
    fleet: Fleet, database: Database, delivery_to: Made, caplog: pytest.LogCaptureFixture
) -> None:
    put_event(fleet, "e1", tried_since="now() - interval '25 hours'")
    with WebhookReceiver(500) as receiver:
        worker = delivery_to(receiver.url)
        worker.look()
        counts = [value_of(worker, outcome) for outcome in ("taken", "refused", "failed")]
        assert counts == [0, 1, 1]
        (delivery,) = deliveries(database)
        assert (delivery.state, delivery.error) == ("failed", "it answered with status 500")
        assert "failed permanently after a day" in caplog.text
        assert webhook_outbox.retry(database, []) == 1
        delivery_to(receiver.url).look()
        assert len(receiver.got) == 2


def test_an_event_whose_worker_died_before_the_answer_is_delivered_again_with_its_id(
    fleet: Fleet, database: Database, receiver: WebhookReceiver, delivery_to: Made
) -> None:
    put_event(fleet, "e1")
    event = webhook_outbox.claim(database)
    assert event is not None
    receiver_of = Receiver(receiver.url, SECRET)
    assert receiver_of.send(event.event_id, event.type, event.body()) is None  # and here it dies
    delivery_to(receiver.url).look()
    assert len(receiver.got) == 1  # not yet
    make_due(fleet)
    delivery_to(receiver.url).look()
    assert [event["id"] for event in receiver.events()] == ["e1", "e1"]
    assert [delivery.state for delivery in deliveries(database)] == ["delivered"]


# --- dead letters ------------------------------------------------------------------------------------------


def test_a_dead_letter_of_any_queue_is_told_of_once(
    fleet: Fleet, redis: Any, database: Database, receiver: WebhookReceiver, delivery_to: Made
) -> None:
    live(redis, "gpu-04-gpu", "gpu-04", "gpu", "queue:transcribe:gpu-04")
    redis.hset("hosts:queues", "queue:transcribe:gpu-04", "gpu-04")
    add_dead_letter(redis, "queue:transfer", json.dumps({"remote_path": "/a.tar"}), "it is not there")
    add_dead_letter(redis, "queue:transcribe:gpu-04", "\x1b[31m{", "not a job \ud800" + "x" * 5000)
    for worker in ("w1", "w2"):
        redis.delete(ANNOUNCED)
        delivery_to(receiver.url, worker).look()
    told = {event["data"]["queue"]: event["data"] for event in receiver.events("job.dead_lettered")}
    assert len(receiver.got) == 2
    assert told["queue:transfer"]["error"] == "it is not there"
    assert json.loads(told["queue:transfer"]["job"]) == {"remote_path": "/a.tar"}
    assert told["queue:transcribe:gpu-04"]["job"] == "\\x1b[31m{"
    assert len(told["queue:transcribe:gpu-04"]["error"]) == 2000


def test_a_dead_letter_that_stays_is_not_told_of_again(
    fleet: Fleet, redis: Any, database: Database, receiver: WebhookReceiver, delivery_to: Made
) -> None:
    add_dead_letter(redis, "queue:unpack", "{}", "damaged")
    delivery_to(receiver.url).look()
    fleet.query("UPDATE webhook_outbox SET created_at = now() - interval '89 days'")
    fleet.query("UPDATE webhook_outbox SET delivered_at = created_at")
    for url in (receiver.url, "", receiver.url):  # one of the hosts has no receiver
        redis.delete(ANNOUNCED)
        delivery_to(url).look()
    assert len(receiver.got) == 1


def test_one_worker_at_a_time_looks_for_dead_letters(
    fleet: Fleet, redis: Any, database: Database, receiver: WebhookReceiver, delivery_to: Made
) -> None:
    delivery_to(receiver.url, "w1").look()
    add_dead_letter(redis, "queue:unpack", "{}", "damaged")
    delivery_to(receiver.url, "w2").look()
    assert receiver.got == []
    assert 0 < redis.ttl(ANNOUNCED) <= 30


def test_the_turn_lasts_as_long_as_the_work(
    fleet: Fleet, redis: Any, receiver: WebhookReceiver, delivery_to: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[int] = []
    prune = Mock(side_effect=lambda *_, **__: left.append(redis.ttl(ANNOUNCED)))
    monkeypatch.setattr(webhook_outbox, "prune", prune)
    delivery_to(receiver.url).look()
    assert left[0] > 60
    assert 0 < redis.ttl(ANNOUNCED) <= 30
    redis.delete(ANNOUNCED)
    prune.side_effect = RuntimeError("PostgreSQL is away")
    with pytest.raises(RuntimeError):
        delivery_to(receiver.url).look()
    assert 0 < redis.ttl(ANNOUNCED) <= 30


def test_of_a_queue_with_many_dead_letters_the_newest_are_told_of(
    fleet: Fleet, redis: Any, receiver: WebhookReceiver, delivery_to: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.operations.webhook_delivery.MOST_ANNOUNCED", 2)
    for queue, number in (("queue:unpack", 3), ("queue:transfer", 1)):
        for job in range(number):
            add_dead_letter(redis, queue, str(job))
    delivery_to(receiver.url).look()
    told = {(event["data"]["queue"], event["data"]["job"]) for event in receiver.events()}
    assert told == {("queue:unpack", "1"), ("queue:unpack", "2"), ("queue:transfer", "0")}


def test_without_a_receiver_nothing_is_delivered_and_nothing_piles_up(
    fleet: Fleet, redis: Any, database: Database, delivery_to: Made
) -> None:
    add_dead_letter(redis, "queue:unpack", "{}", "damaged")
    put_event(fleet, "new")
    old = "now() - interval '8 days'"
    put_event(fleet, "old", created_at=old, next_attempt_at=old)
    delivery_to("").look()
    assert [(delivery.event_id, delivery.attempts) for delivery in deliveries(database)] == [("new", 0)]


# --- the workers -------------------------------------------------------------------------------------------


def settings(receiver: WebhookReceiver) -> dict[str, str]:
    return {"WEBHOOK_URL": receiver.url, "WEBHOOK_SECRET": SECRET}


def test_the_workers_tell_of_matches_and_of_the_end_of_a_batch(
    fleet: Fleet, redis: Any, database: Database, receiver: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_search(database, "any", SPOKEN.split()[0])
    fleet.changes = settings(receiver)
    upload(fleet, monkeypatch, make_tar(fleet.folder / "a.tar", {"a.mp3": SPEECH, "b.mp3": b"ID3 no sound"}))
    redis.rpush("queue:unpack", unpack_job(), json.dumps({"batch_id": "no archive"}))
    unpack = fleet.worker("unpack")
    kill_worker(fleet, "gpu", "pipeline.store.database:Database.save_result after 1")  # once; its next run goes on
    gpu = fleet.worker("gpu")
    kinds = {"keyword.matched", "batch.finished_with_failures", "job.dead_lettered"}
    wait_for(lambda: kinds <= {event["type"] for event in receiver.events()}, fleet, "the events")
    (match,), (batch,) = receiver.events("keyword.matched"), receiver.events("batch.finished_with_failures")
    assert match["data"]["original_filename"] == "a.mp3"
    assert (batch["data"]["files"], batch["data"]["done"], batch["data"]["failed"]) == (2, 1, 1)
    assert SECRET not in log_of(unpack) + log_of(gpu)
    assert receiver.url not in log_of(unpack) + log_of(gpu)


def test_a_receiver_that_never_answers_delays_no_worker(
    fleet: Fleet, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_event(fleet, "e1")
    with WebhookReceiver(*[None] * 20) as slow:
        fleet.changes = settings(slow)
        upload(fleet, monkeypatch, make_tar(fleet.folder / "a.tar", {"a.mp3": SPEECH}))
        for role in ("unpack", "gpu"):
            fleet.worker(role)
        wait_for(lambda: slow.got, fleet, "a request that waits")
        redis.rpush("queue:unpack", unpack_job())
        wait_for(lambda: fleet.query("SELECT 1 FROM batches WHERE finished_at IS NOT NULL"), fleet, "the batch", 9)
        assert len(slow.got) == 1  # it still has not answered
