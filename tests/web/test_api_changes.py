"""What programs of operators may do: queue archives, retry failed work; the audit log says who did."""

import json
from typing import Any

import pytest
from flask import Flask

from pipeline.foundation import redis_client
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from pipeline.operations import retry
from pipeline.store.audit import read_entries
from pipeline.store.database import Database
from pipeline.web.api import VERSION_1
from tests.support.child import free_port
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_dead_letter, add_file, put, unpack_job
from tests.web.test_api import app_of, asked, fits, refused

KEY = f"archives/{BATCH}.tar"
Entries = list[tuple[str, str, str, dict[str, Any]]]


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return app_of(fleet, redis, database)


def post(app: Flask, path: str, body: Any, **headers: str) -> Any:
    """The answer to an operator's request; a body that is no text is sent as JSON."""
    data = body if isinstance(body, (str, bytes)) else json.dumps(body)
    given = {"Test-Role": "operator", "Content-Type": "application/json", **headers}
    return asked(app, path, "POST", data=data, headers=given)


def queued(app: Flask, path: str, body: Any) -> dict[str, Any]:
    """What was queued, as the document says it."""
    answer = post(app, path, body)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.get_json()
    fits("Queued" if path == "/enqueue" else "Retried", found)
    return found


def noted(database: Database) -> Entries:
    """The audit log, the oldest first."""
    entries = reversed(read_entries(database, 10))
    return [(entry.actor, entry.action, entry.subject, entry.detail) for entry in entries]


def jobs(redis: Any, queue: str = "queue:unpack") -> list[dict[str, Any]]:
    return [json.loads(job) for job in redis.lrange(queue, 0, -1)]


# --- enqueue -------------------------------------------------------------------------------------------------


def test_an_archive_of_the_ec2_host_is_queued(app: Flask, redis: Any, database: Database) -> None:
    found = queued(app, "/enqueue", {"remote_path": "/recordings//./monday.tar/"})
    assert found == {"remote_path": "/recordings/monday.tar", "batch_id": None, "s3_key": None}
    assert jobs(redis, "queue:transfer") == [{"remote_path": "/recordings/monday.tar"}]
    assert redis.hget("queue:transfer:seen", '"/recordings/monday.tar"') == "queued"
    assert noted(database) == [("token:tester", "enqueue", "/recordings/monday.tar", {})]


def test_an_archive_in_s3_is_queued_once(app: Flask, fleet: Fleet, redis: Any, database: Database) -> None:
    put(fleet, KEY)
    for _ in range(2):
        found = queued(app, "/enqueue", {"s3_key": KEY})
        assert found == {"remote_path": None, "batch_id": BATCH, "s3_key": KEY}
    assert [(job["batch_id"], job["s3_key"]) for job in jobs(redis)] == [(BATCH, KEY)]
    assert noted(database) == [("token:tester", "enqueue", BATCH, {"s3_key": KEY})]
    assert asked(app, f"/batches/{BATCH}").get_json()["state"] == "waiting to be unpacked"


def test_an_archive_that_cannot_be_queued_says_why(
    app: Flask, fleet: Fleet, redis: Any, database: Database
) -> None:
    assert "no archives/" in refused(post(app, "/enqueue", {"s3_key": KEY}), 404)["detail"]
    put(fleet, KEY)
    add_batch(fleet)
    assert "is finished" in refused(post(app, "/enqueue", {"s3_key": KEY}), 409)["detail"]
    fleet.query("UPDATE batches SET finished_at = NULL")
    Batches(redis, "gpu-01").adopt(BATCH, KEY, Job(unpack_job(), 1, "t"))
    assert "in progress" in refused(post(app, "/enqueue", {"s3_key": KEY}), 409)["detail"]
    assert (jobs(redis), noted(database)) == ([], [])


def test_nothing_is_queued_that_is_not_noted(
    fleet: Fleet, redis: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(fleet, KEY)
    app = app_of(fleet, redis, database)

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr("pipeline.operations.queueing.audit.note", die)
    for body in ({"remote_path": "/a.tar"}, {"s3_key": KEY}):
        refused(post(app, "/enqueue", body), 500)
    add_batch(fleet)
    add_file(fleet, "a.mp3", "failed")
    refused(post(app, "/retry", {"batch_id": BATCH}), 500)
    assert (jobs(redis), jobs(redis, "queue:transfer")) == ([], [])
    assert fleet.query("SELECT status FROM audio_files") == [("failed",)]


def test_redis_that_is_unavailable_says_when_to_ask_again(fleet: Fleet, database: Database) -> None:
    gone = redis_client.connect(f"redis://127.0.0.1:{free_port()}/0")
    answer = post(app_of(fleet, gone, database), "/enqueue", {"remote_path": "/a.tar"})
    assert refused(answer, 503)["detail"] == "Redis is unavailable."
    assert answer.headers["Retry-After"] == "10"
    assert [entry[2] for entry in noted(database)] == ["/a.tar"]  # somebody asked for it


# --- retry ---------------------------------------------------------------------------------------------------


@pytest.fixture
def failed(fleet: Fleet) -> dict[str, int]:
    """A batch with files that have failed and one that is done, and its archive in S3."""
    put(fleet, KEY)
    add_batch(fleet, files=4)
    return {
        name: add_file(fleet, name, "done" if name == "d" else "failed", None if name == "d" else "no sound")
        for name in "abcd"
    }


def statuses(fleet: Fleet) -> str:
    """The files that are worked on again."""
    rows = fleet.query("SELECT original_filename FROM audio_files WHERE status = 'processing' ORDER BY 1")
    return "".join(name for (name,) in rows)


@pytest.mark.parametrize(
    ("body", "again"), [({}, "abc"), ({"files": ["a", "b", "a"]}, "ab"), ({"audio_id": "c"}, "c")]
)
def test_failed_files_are_tried_again(
    app: Flask, fleet: Fleet, redis: Any, database: Database, failed: dict[str, int], body: Any, again: str
) -> None:
    body = {"audio_id": failed["c"]} if "audio_id" in body else {"batch_id": BATCH, **body}
    found = queued(app, "/retry", body)
    assert found["batch_id"] == BATCH
    assert found["queued"].endswith(f"of batch {BATCH}")
    assert statuses(fleet) == again
    assert [job["batch_id"] for job in jobs(redis)] == [BATCH]
    assert noted(database) == [("token:tester", "retry", BATCH, {"files": len(again)})]


def test_an_archive_that_could_not_be_unpacked_is_tried_again(
    app: Flask, fleet: Fleet, redis: Any, database: Database
) -> None:
    put(fleet, KEY)
    add_dead_letter(redis, "queue:unpack", unpack_job(), "the archive is cut")
    queued(app, "/retry", {"batch_id": BATCH})
    assert [job["batch_id"] for job in jobs(redis)] == [BATCH]
    assert redis.llen("queue:unpack:dead") == 0
    assert noted(database) == [("token:tester", "retry", BATCH, {})]


@pytest.mark.parametrize(
    ("body", "code", "why"),
    [
        ({"batch_id": "none"}, 404, "no batch none"),
        ({"batch_id": BATCH, "files": ["z"]}, 404, "no file z"),
        ({"audio_id": 999}, 404, "no file 999"),
        ({"batch_id": BATCH, "files": ["d"]}, 409, "has not failed"),
    ],
)
def test_what_cannot_be_tried_again_says_why(
    app: Flask, redis: Any, database: Database, failed: dict[str, int], body: Any, code: int, why: str
) -> None:
    assert why in refused(post(app, "/retry", body), code)["detail"]
    assert (jobs(redis), noted(database)) == ([], [])


@pytest.mark.usefixtures("failed")
def test_a_batch_in_progress_is_not_tried_again(app: Flask, redis: Any) -> None:
    Batches(redis, "gpu-01").adopt(BATCH, KEY, Job(unpack_job(), 1, "t"))
    assert "in progress" in refused(post(app, "/retry", {"batch_id": BATCH}), 409)["detail"]


def test_a_command_notes_who_had_files_tried_again(
    fleet: Fleet, failed: dict[str, int], database: Database
) -> None:
    done = fleet.control("retry", BATCH, "a", SUDO_USER="alice")
    assert done.returncode == 0, done.stderr
    ((actor, *rest),) = noted(database)
    assert actor.startswith("cli:alice@")
    assert rest == ["retry", BATCH, {"files": 1}]


# --- what is refused -----------------------------------------------------------------------------------------

BODIES = [
    "", "{", "[]", "null", "1", '"a"', "{}", "[" * 60_000, '{"audio_id": ' + "9" * 5000 + "}", b"\xff\xfe",
    b'{"\xff": 1}',
    {"remote_path": "a.tar"}, {"remote_path": "/a/../b"}, {"remote_path": "/a\0"}, {"remote_path": "/\udce9"},
    {"remote_path": 1}, {"remote_path": "/" + "a" * 3000}, {"remote_path": "/a", "s3_key": KEY},
    {"s3_key": "archives/.tar"},
    {"s3_key": "processed/1.opus"}, {"s3_key": "archives/../a.tar"}, {"s3_key": f"{KEY}\0"},
    {"s3_key": None},
    {"remote_path": "/a", "priority": 1}, {"batch_id": BATCH, "audio_id": 1},
    {"audio_id": "1"},
    {"audio_id": True},
    {"audio_id": 1.5}, {"audio_id": 2**63}, {"audio_id": -1}, {"batch_id": "\udce9"},
    {"batch_id": BATCH, "files": []},
    {"batch_id": BATCH, "files": "a"}, {"batch_id": BATCH, "files": [1]}, {"batch_id": BATCH, "files": ["\0"]},
    {"batch_id": BATCH, "files": ["a"] * 1001}, {"files": ["a"]}, {"batch_id": [BATCH]},
]  # fmt: skip


@pytest.mark.parametrize("path", ["/enqueue", "/retry"])
def test_a_body_that_cannot_be_is_refused(app: Flask, redis: Any, database: Database, path: str) -> None:
    for body in BODIES:
        refused(post(app, path, body), 400)
    refused(post(app, f"{path}?a=b", {}), 400)
    refused(post(app, path, {}, **{"Content-Type": "text/plain"}), 415)
    refused(post(app, path, "{" + " " * 70_000 + "}"), 413)
    assert redis.keys("queue:*") == []
    assert noted(database) == []


def test_readers_change_nothing(app: Flask, redis: Any, database: Database) -> None:
    for path in ("/enqueue", "/retry"):
        answer = post(app, path, {"remote_path": "/a.tar"}, **{"Test-Role": "reader"})
        assert "operator" in refused(answer, 403)["detail"]
    assert redis.keys("*") == []
    assert noted(database) == []


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"X-Requested-With": "fetch"}, 202),
    ],
)
def test_another_sites_page_changes_nothing_with_the_readers_cookie(
    app: Flask, headers: dict[str, str], code: int
) -> None:
    client = app.test_client()
    from tests.support.site_data import TOKEN

    assert client.post("/login", data={"token": TOKEN}).status_code == 302
    given = {"Test-Role": "operator", **headers}
    answer = client.post(f"{VERSION_1}/enqueue", json={"remote_path": "/a.tar"}, headers=given)
    assert answer.status_code == code, answer.text


def test_the_transaction_of_a_retry_holds_its_entry(
    app: Flask, fleet: Fleet, failed: dict[str, int], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who dies behind it leaves a batch that `reconcile` queues, and an entry that says who asked for it."""

    def die(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(retry.Retry, "_queue", die)
    refused(post(app, "/retry", {"batch_id": BATCH}), 500)
    assert statuses(fleet) == "abc"
    assert [entry[1:3] for entry in noted(database)] == [("retry", BATCH)]
