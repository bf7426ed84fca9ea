"""The outbox: an event is there exactly when what it tells of is, and stays until the receiver has taken it."""

import contextlib
from typing import Any
from unittest.mock import Mock

import pytest

from pipeline.store import webhook_outbox
from pipeline.store.batch_states import mark_finished
from pipeline.store.database import Database
from pipeline.store.webhook_outbox import claim, mark_delivered, mark_failed, prune, read_deliveries, retry
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_file


def put_event(fleet: Fleet, event_id: str = "e1", **columns: Any) -> None:
    fleet.query("INSERT INTO webhook_outbox (event_id, type, data) VALUES (%s, 'test', '{}')", event_id)
    for name, value in columns.items():
        fleet.query(f"UPDATE webhook_outbox SET {name} = {value} WHERE event_id = %s", event_id)


def ids(fleet: Fleet) -> list[str]:
    return [event_id for (event_id,) in fleet.query("SELECT event_id FROM webhook_outbox ORDER BY 1")]


def state(database: Database) -> str:
    (delivery,) = read_deliveries(database, 10, is_all=True)
    return delivery.state


# --- what is told of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "kind"), [(0, "batch.finished"), (2, "batch.finished_with_failures")])
@pytest.mark.parametrize("finish", ["a worker", "reconcile"])
def test_a_batch_is_told_of_once_when_it_is_finished(
    fleet: Fleet, database: Database, failed: int, kind: str, finish: str
) -> None:
    add_batch(fleet, files=3)
    fleet.query("UPDATE batches SET finished_at = NULL, archive_path = '/recordings/monday.tar'")
    for number in range(3):
        add_file(fleet, f"{number}.mp3", "failed" if number < failed else "done")
    for _ in range(2):
        (database.finish_batch if finish == "a worker" else lambda batch_id: mark_finished(database, batch_id))(
            BATCH
        )
    (delivery,) = read_deliveries(database, 10)
    assert delivery.type == kind
    times = {delivery.data.pop("opened_at"), delivery.data.pop("finished_at")}
    assert all(time.endswith("Z") for time in times)
    assert delivery.data == {
        "batch_id": BATCH, "archive": "/recordings/monday.tar", "files": 3, "done": 3 - failed, "failed": failed,
    }  # fmt: skip
    fleet.query("UPDATE batches SET finished_at = NULL")  # `retry`, and its end
    database.finish_batch(BATCH)
    assert len(ids(fleet)) == 2


def test_a_batch_with_files_to_do_is_not_told_of_by_reconcile(fleet: Fleet, database: Database) -> None:
    add_batch(fleet, files=1)
    fleet.query("UPDATE batches SET finished_at = NULL")
    add_file(fleet, "a.mp3", "processing")
    assert not mark_finished(database, BATCH)
    assert ids(fleet) == []


# --- delivery ----------------------------------------------------------------------------------------------


def test_an_event_is_one_workers_at_a_time_and_due_again_after_a_pause(fleet: Fleet, database: Database) -> None:
    put_event(fleet)
    event = claim(database)
    assert event is not None
    assert event.event_id == "e1"
    assert claim(database) is None  # the worker that has it may have died: it is due again
    pauses = []
    for _ in range(9):
        (pause,) = fleet.query("SELECT extract(epoch FROM next_attempt_at - now()) FROM webhook_outbox")
        pauses.append(round(float(pause[0])))
        fleet.query("UPDATE webhook_outbox SET next_attempt_at = now()")
        assert claim(database) is not None
    assert pauses == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_a_worker_does_not_wait_for_an_event_that_another_is_claiming(fleet: Fleet, database: Database) -> None:
    put_event(fleet, "e1")
    put_event(fleet, "e2")
    with database.transaction() as cursor:
        cursor.execute("SELECT FROM webhook_outbox WHERE event_id = 'e1' FOR UPDATE")
        other = claim(database)
        assert other is not None
        assert other.event_id == "e2"


def test_what_was_delivered_is_not_due(fleet: Fleet, database: Database) -> None:
    put_event(fleet)
    mark_delivered(database, "e1")
    assert claim(database) is None
    assert state(database) == "delivered"
    assert mark_failed(database, "e1", "a slow worker's") is False
    assert state(database) == "delivered"


def test_an_event_fails_a_day_after_its_first_attempt_and_can_be_tried_again(
    fleet: Fleet, database: Database
) -> None:
    put_event(fleet, created_at="now() - interval '3 days'")  # nobody has tried it in that time
    assert claim(database)
    assert mark_failed(database, "e1", "status 500") is False
    assert state(database) == "waiting"
    fleet.query("UPDATE webhook_outbox SET tried_since = now() - interval '25 hours'")
    assert mark_failed(database, "e1", "status 500") is True
    assert state(database) == "failed"
    assert claim(database) is None
    assert retry(database, ["other"]) == 0
    assert retry(database, []) == 1
    assert claim(database)
    assert mark_failed(database, "e1", "status 500") is False  # it has a day again


def test_retry_of_an_event_that_waits_has_it_delivered_now(fleet: Fleet, database: Database) -> None:
    put_event(fleet, "e1")
    put_event(fleet, "e2")
    assert claim(database)
    assert claim(database)
    assert retry(database, []) == 0  # none has failed
    assert retry(database, ["e2"]) == 1
    event = claim(database)
    assert event is not None
    assert event.event_id == "e2"


def test_old_events_are_forgotten_but_none_that_is_still_to_be_delivered(fleet: Fleet, database: Database) -> None:
    old, older = "now() - interval '8 days'", "now() - interval '100 days'"
    put_event(fleet, "delivered", created_at=old, delivered_at=old, next_attempt_at="NULL")
    put_event(fleet, "delivered late", created_at=old, delivered_at="now()", next_attempt_at="NULL")
    put_event(fleet, "failed", created_at=old, tried_since=old, next_attempt_at="NULL")
    put_event(fleet, "failed long ago", created_at=older, tried_since=older, next_attempt_at="NULL")
    put_event(fleet, "tried", created_at=old, tried_since=old)
    put_event(fleet, "untried", created_at=old, next_attempt_at=old)
    put_event(fleet, "new")
    for kind, time in (("dead letter", old), ("old dead letter", older)):
        put_event(
            fleet, kind, type="'job.dead_lettered'", created_at=time, delivered_at=time, next_attempt_at="NULL"
        )
    prune(database, is_unused=False)
    assert ids(fleet) == ["dead letter", "delivered late", "failed", "new", "tried", "untried"]


def test_without_a_receiver_old_events_are_forgotten_unless_another_host_has_one(
    fleet: Fleet, database: Database
) -> None:
    old = "now() - interval '8 days'"
    put_event(fleet, "tried", tried_since="now()")  # by a host with a receiver
    put_event(fleet, "untried", created_at=old, next_attempt_at=old)
    put_event(fleet, "retried", created_at=old)
    prune(database, is_unused=True)
    assert ids(fleet) == ["retried", "tried", "untried"]
    fleet.query("DELETE FROM webhook_outbox WHERE event_id = 'tried'")
    prune(database, is_unused=True)
    assert ids(fleet) == ["retried"]


def test_old_events_are_forgotten_a_few_at_a_time(
    fleet: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "now() - interval '8 days'"
    for number in range(5):
        put_event(fleet, f"e{number}", created_at=old, delivered_at=old, next_attempt_at="NULL")
    monkeypatch.setattr(webhook_outbox, "MOST_AT_ONCE", 2)
    counted = Mock(wraps=database.transaction)
    monkeypatch.setattr(database, "transaction", counted)
    prune(database, is_unused=False)
    assert ids(fleet) == []
    assert counted.call_count == 3


def test_dead_letters_are_noted_in_one_statement(fleet: Fleet, database: Database) -> None:
    letters = {f"e{number}": {"job": f'{{"a": "\u00e9 \\ {number}"}}'} for number in range(1000)}
    with database.transaction() as cursor:
        asked = Mock(wraps=cursor)
        database_of = Mock()
        database_of.transaction.return_value = contextlib.nullcontext(asked)
        webhook_outbox.note_dead_letters(database_of, letters)
    assert [name for name, _, _ in asked.method_calls] == ["execute", "fetchall", "execute"]
    assert {found.event_id: found.data for found in read_deliveries(database, 2000)} == letters


def test_a_dead_letter_is_noted_once(fleet: Fleet, database: Database) -> None:
    letters = {webhook_outbox.dead_letter_id("queue:unpack", "text"): {"queue": "queue:unpack"}}
    for _ in range(2):
        webhook_outbox.note_dead_letters(database, letters)
    (delivery,) = read_deliveries(database, 10)
    assert (delivery.type, delivery.data) == ("job.dead_lettered", {"queue": "queue:unpack"})
    assert webhook_outbox.count_deliveries(database) == {"waiting": 1, "delivered": 0, "failed": 0}
