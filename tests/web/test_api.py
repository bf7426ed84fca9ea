"""The interface for programs: what it answers, as its own document says; pages, ETags, and what is refused."""

import copy
import datetime
import json
import sys
import urllib.parse
import uuid
from typing import Any

import pytest
from flask import Flask, g, request
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from werkzeug.test import TestResponse

from pipeline.jobs.job_queue import JobQueue
from pipeline.store.alerts import save_search
from pipeline.store.database import Database
from pipeline.store.vocabulary import label_names
from pipeline.web.api import OPERATIONS, VERSION_1
from pipeline.web.openapi import document
from pipeline.web.openapi_schemas import EXAMPLES
from pipeline.web.pages import make_app
from pipeline.web.readers import Reader
from tests.commands.test_batch import of_archive
from tests.store.test_transcripts import hear
from tests.support.child import free_port
from tests.support.fleet import Fleet
from tests.support.site_data import TOKEN, seed, sources
from tests.support.steps import BATCH, add_batch, add_file, unpack_job

DAY = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)
NUMBER = "9" * 5000


def as_asked() -> None:
    """Admit a test's request as who its header says; nobody where it says so."""
    role = request.headers.get("Test-Role", "reader")
    g.reader = Reader("token:tester", role) if role != "nobody" else None


def app_of(fleet: Fleet, redis: Any, database: Database) -> Flask:
    """The application, to whom whoever knows the token is a reader, or what he says."""
    app = make_app(sources(fleet, redis, database))
    app.before_request(as_asked)
    return app


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return app_of(fleet, redis, database)


def asked(app: Flask, path: str, method: str = "GET", **options: Any) -> TestResponse:
    """The answer to a request with the token."""
    headers = {"Authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
    return app.test_client().open(f"{VERSION_1}{path}", method=method, headers=headers, **options)


def read(app: Flask, path: str) -> Any:
    """What is read at a path, which has to fit the document."""
    answer = asked(app, path)
    assert answer.status_code == 200, (path, answer.text)
    check(path, answer)
    return answer.get_json()


def refused(answer: TestResponse, code: int) -> dict[str, Any]:
    """The problem that an answer tells of."""
    assert answer.status_code == code, answer.text
    assert answer.mimetype == "application/problem+json"
    found: dict[str, Any] = answer.get_json()
    fits("Problem", found)
    assert found["status"] == code
    assert "Traceback" not in answer.text
    return found


# --- the document --------------------------------------------------------------------------------------------


def strict() -> dict[str, Any]:
    """The schemas of the document, with objects that have no other fields than it names."""

    def close(schema: Any) -> Any:
        if isinstance(schema, list):
            return [close(one) for one in schema]
        if not isinstance(schema, dict):
            return schema
        closed = {name: close(one) for name, one in schema.items()}
        if isinstance(closed.get("properties"), dict) and closed.get("type") == "object":
            closed.setdefault("additionalProperties", False)
        return closed

    found: dict[str, Any] = close(copy.deepcopy(document()["components"]["schemas"]))
    return found


CHECKER = Draft202012Validator.FORMAT_CHECKER


def fits(name: str, value: Any) -> None:
    """AssertionError where a value does not fit the schema of this name, or has fields that are not in it."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": {"schemas": strict()}}
    errors = [
        f"{'/'.join(map(str, error.path))}: {error.message[:300]}"
        for error in Draft202012Validator(schema, format_checker=CHECKER).iter_errors(value)
    ]
    assert not errors, errors


def check(path: str, answer: TestResponse) -> None:
    """AssertionError where an answer is not as the document says."""
    parts = path.partition("?")[0].split("/")
    (operation,) = [
        of
        for of in OPERATIONS
        if of.method == "GET"
        and len(of.path.split("/")) == len(parts)
        and all(one in (part, f"<{one[1:-1]}>") for one, part in zip(of.path.split("/"), parts, strict=True))
    ][:1]
    if answer.mimetype == "application/json":
        fits(operation.answer, answer.get_json())
    else:
        assert answer.mimetype in operation.media_types


def test_the_document_is_openapi(app: Flask) -> None:
    found = read(app, "/openapi.json")
    assert list(OpenAPIV31SpecValidator(found).iter_errors()) == []
    assert found["components"]["securitySchemes"]["token"]["scheme"] == "bearer"


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_fit_their_schemas(name: str) -> None:
    fits(name, EXAMPLES[name])


def test_the_document_has_every_operation(app: Flask) -> None:
    routes = {
        (method, rule.rule.removeprefix(VERSION_1).replace("<", "{").replace(">", "}"))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith(VERSION_1)
        for method in set(rule.methods or ()) - {"HEAD", "OPTIONS"}
    }
    paths = document()["paths"]
    assert routes == {(method.upper(), path) for path, methods in paths.items() for method in methods}
    for methods in paths.values():
        for operation in methods.values():
            assert operation["summary"]
            assert {"400", "401", "403", "404", "429", "503"} <= set(operation["responses"])


# --- what is read --------------------------------------------------------------------------------------------


def test_every_answer_fits_the_document_whatever_there_is(app: Flask, fleet: Fleet, redis: Any) -> None:
    database: Database = app.extensions["sources"].database
    save_search(database, "fires", "fire")
    for moment in ("empty", "full"):
        ids = seed(fleet, redis) if moment == "full" else {}
        paths = [
            "/fleet",
            "/batches",
            "/files",
            "/search",
            "/search?words=fire",
            "/search?words=fire&order=relevance",
        ]
        paths += ["/alerts", "/saved-searches", "/labels", "/languages", "/search?tag=nothing", "/openapi.json"]
        paths += [f"/files/{audio_id}" for audio_id in ids.values()]
        paths += [f"/files/{audio_id}/transcript" for name, audio_id in ids.items() if name != "failed"]
        paths += [f"/batches/{BATCH}", f"/batches/{BATCH}/files"] if ids else []
        for path in paths:
            read(app, path)
    assert {file["audio_id"] for file in read(app, "/files")["items"]} >= set(ids.values())


def test_a_file_says_everything_but_what_was_heard(app: Flask, fleet: Fleet) -> None:
    of_archive(fleet, "/recordings/monday.tar")
    recorded = DAY + datetime.timedelta(hours=3)
    audio_id = hear(
        fleet,
        "a.mp3",
        "Good morning.",
        labels={"Siren": "audio_tag"},
        metadata={"talkgroup": 12},
        recorded=recorded,
    )
    found = read(app, f"/files/{audio_id}")
    assert (found["archive"], found["metadata"], found["has_transcript"]) == (
        "monday.tar",
        {"talkgroup": 12},
        True,
    )
    assert found["labels"] == [{"classifier": "audio_tag", "label": "Siren", "score": 0.5}]
    assert found["recorded_at"] == "2025-06-01T03:00:00+00:00"
    assert "segments" not in found


def test_a_transcript_in_every_format(app: Flask, fleet: Fleet) -> None:
    words = [{"start": 0.0, "end": 0.5, "word": "Good", "probability": 0.9}]
    audio_id = hear(fleet, "a.mp3", {"text": "Good morning.", "words": words, "channel": 2}, channels=2)
    path = f"/files/{audio_id}/transcript"
    (segment,) = read(app, path)["segments"]
    assert (segment["words"], segment["speaker"]) == (words, "<b>agent</b>")
    (segment,) = read(app, f"{path}?words=no")["segments"]
    assert "words" not in segment
    for form, beginning in (("vtt", "WEBVTT"), ("srt", "1"), ("txt", "")):
        answer = asked(app, f"{path}?format={form}")
        check(path, answer)
        assert answer.text.startswith(beginning)
        assert "Good morning." in answer.text
    assert "is failed" in refused(asked(app, f"/files/{add_file(fleet, 'b', 'failed')}/transcript"), 404)["detail"]


FILTERS = [
    ("language=de", ["b"]), ("tag=Siren", ["a"]), ("meta=talkgroup%3D7", ["b"]), ("since=2025-06-02", ["c", "b"]),
    ("until=2025-06-02", ["a"]), ("since=2025-06-02T00:00:00Z&until=2025-06-03T00:00:00%2B00:00", ["b"]),
    (f"batch_id={BATCH}", ["a"]), ("archive=monday.tar", ["a"]), ("processed_until=2024-01-01", []),
    ("", ["c", "b", "a"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "names"), FILTERS)
@pytest.mark.parametrize("path", ["/files", "/search"])
def test_what_filters_take(app: Flask, fleet: Fleet, path: str, given: str, names: list[str]) -> None:
    of_archive(fleet, "/recordings/monday.tar")
    hear(fleet, "a", "fire", labels={"Siren": "audio_tag"}, recorded=DAY)
    later = {name: DAY + datetime.timedelta(days=days) for name, days in (("b", 1), ("c", 2))}
    hear(fleet, "b", "Feuer", language="de", metadata={"talkgroup": 7}, recorded=later["b"], batch_id="other")
    hear(fleet, "c", "smoke", recorded=later["c"], batch_id="other")
    assert [row["original_filename"] for row in read(app, f"{path}?{given}")["items"]] == names


def test_files_of_a_status_have_no_need_of_a_transcript(app: Flask, fleet: Fleet) -> None:
    hear(fleet, "a", "fire")
    add_file(fleet, "b", "failed", "no sound")
    add_file(fleet, "c", "processing")
    for status, names in (("done", ["a"]), ("failed", ["b"]), ("processing", ["c"])):
        found = read(app, f"/files?status={status}")["items"]
        assert [(row["original_filename"], row["has_transcript"]) for row in found] == [
            (names[0], status == "done")
        ]
    assert len(read(app, "/files")["items"]) == 3
    assert [row["original_filename"] for row in read(app, "/search")["items"]] == ["a"]


def test_a_batch_that_waits_to_be_unpacked_is_known(app: Flask, redis: Any) -> None:
    refused(asked(app, f"/batches/{BATCH}"), 404)
    redis.rpush("queue:unpack", unpack_job(archive="/recordings/monday.tar"))
    found = read(app, f"/batches/{BATCH}")
    assert (found["state"], found["archive"]["path"]) == ("waiting to be unpacked", "/recordings/monday.tar")


def test_a_batch_says_why_files_have_failed(app: Flask, fleet: Fleet) -> None:
    add_batch(fleet, files=2)
    for name in ("a", "b"):
        add_file(fleet, name, "failed", "no sound")
    found = read(app, f"/batches/{BATCH}")
    assert (found["is_over"], found["failed"], found["reasons"]) == (True, 2, [{"reason": "no sound", "files": 2}])


def test_a_search_says_how_many_there_are_on_its_first_page(app: Flask, fleet: Fleet) -> None:
    for name in "abc":
        hear(fleet, name, "There is a fire at the mill.", labels={"Siren": "audio_tag"})
    first = read(app, "/search?words=fire&limit=2")
    assert (first["summary"]["total"], first["summary"]["is_more"]) == (3, False)
    assert first["summary"]["facets"]["label"] == [{"value": "Siren", "files": 3, "name": ""}]
    assert {"text": "fire", "is_hit": True} in first["items"][0]["excerpt"]
    second = read(app, f"/search?words=fire&limit=2&cursor={first['next']}")
    assert (len(second["items"]), second["next"], second["summary"]) == (1, None, None)
    assert "no recording has the label" in read(app, "/search?tag=Sirens")["summary"]["unknown"]


def test_what_was_heard_of_a_saved_search(app: Flask, fleet: Fleet) -> None:
    save_search(app.extensions["sources"].database, "fires", "fire")
    audio_id = hear(fleet, "a", "fire")
    fleet.query(
        "INSERT INTO alerts (search_id, audio_id, start, excerpt)"
        " SELECT search_id, %s, 1, 'fire' FROM saved_searches",
        audio_id,
    )
    assert [row["audio_id"] for row in read(app, "/alerts?search=fires&since=24h")["items"]] == [audio_id]
    assert read(app, "/alerts?search=others")["items"] == []
    assert [(row["name"], row["alerts"]) for row in read(app, "/saved-searches")["items"]] == [("fires", 1)]


# --- pages ---------------------------------------------------------------------------------------------------


def walked(app: Flask, path: str, meanwhile: Any = None) -> list[Any]:
    """The items of every page of two."""
    items: list[Any] = []
    cursor = ""
    while True:
        sign = "&" if "?" in path else "?"
        found = read(app, f"{path}{sign}limit=2{f'&cursor={cursor}' if cursor else ''}")
        assert len(found["items"]) <= 2
        items += found["items"]
        assert len(items) <= 20  # it ends
        if (cursor := found["next"]) is None:
            return items
        if meanwhile:
            meanwhile()


LISTS = ["/files", "/search?words=fire", "/search", f"/batches/{BATCH}/files", "/batches", "/labels", "/alerts"]


@pytest.fixture
def five(app: Flask, fleet: Fleet) -> None:
    """Five of everything; of the files two have the same time."""
    save_search(app.extensions["sources"].database, "fires", "fire")
    add_batch(fleet, files=5)
    for number in range(4):
        add_batch(fleet, f"2025010{number}-000000", files=0)
    for number in range(5):
        at = DAY + datetime.timedelta(hours=number // 2)
        labels = {f"l{number}": f"c{number // 2}"}
        audio_id = hear(fleet, f"{number}.mp3", "fire fire fire", labels=labels, recorded=at)
        fleet.query("INSERT INTO alerts (search_id, audio_id, excerpt) VALUES (1, %s, '')", audio_id)


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("path", LISTS)
def test_pages_are_the_whole_list(app: Flask, path: str) -> None:
    whole = read(app, path)["items"]
    assert len(whole) == 5
    assert walked(app, path) == whole


@pytest.mark.usefixtures("five")
@pytest.mark.parametrize("path", ["/files", "/search?words=fire", "/search?words=fire&order=relevance"])
def test_pages_stay_right_while_recordings_arrive(app: Flask, fleet: Fleet, path: str) -> None:
    whole = [row["audio_id"] for row in read(app, path)["items"]]

    def arrive() -> None:
        later, now = DAY + datetime.timedelta(days=1), datetime.datetime.now(datetime.UTC)
        hear(fleet, uuid.uuid4().hex, "fire fire fire fire", recorded=later, created=now)

    assert [row["audio_id"] for row in walked(app, path, arrive)] == whole


def test_relevance_goes_on_from_page_to_page(app: Flask, fleet: Fleet) -> None:
    for number in (3, 1, 5, 2, 4):
        hear(fleet, str(number), "fire " * number + "water " * 10)
    found = [row["original_filename"] for row in walked(app, "/search?words=fire&order=relevance")]
    assert sorted(found) == list("12345")
    assert found == [row["original_filename"] for row in read(app, "/search?words=fire&order=relevance")["items"]]


@pytest.mark.usefixtures("five")
def test_a_cursor_of_another_list_is_refused(app: Flask) -> None:
    cursor = read(app, "/files?limit=1")["next"]
    for given in (
        cursor[:-3],
        "x",
        "bnVsbA",
        "W10",
        "A" * 8001,
        "WyJhbGVydHMiLCAxZTk5OV0",
        "",
        "%00",
        "W1tbW1tbW1s",
    ):
        assert "no such cursor" in refused(asked(app, f"/files?cursor={given}"), 400)["detail"]
    for other in ("/alerts", "/search"):  # the latter's have values of the same kinds
        assert "no such cursor" in refused(asked(app, f"{other}?cursor={cursor}"), 400)["detail"]


@pytest.mark.usefixtures("five")
def test_no_more_labels_are_read_than_are_asked_for(app: Flask) -> None:
    assert len(label_names(app.extensions["sources"].database, limit=2)) == 2


# --- ETags ---------------------------------------------------------------------------------------------------


def test_what_has_not_changed_is_not_sent_again(app: Flask, fleet: Fleet) -> None:
    audio_id = hear(fleet, "a", "fire")
    for path in (
        f"/files/{audio_id}",
        f"/files/{audio_id}/transcript?format=vtt",
        "/search?words=fire",
        "/labels",
    ):
        first = asked(app, path)
        assert first.headers["Cache-Control"] == "private, no-cache"
        same = asked(app, path, headers={"If-None-Match": first.headers["ETag"]})
        assert (same.status_code, same.data) == (304, b"")
        assert same.headers["ETag"] == first.headers["ETag"]
    known = asked(app, f"/files/{audio_id}").headers["ETag"]
    fleet.query("UPDATE audio_files SET language = 'de' WHERE audio_id = %s", audio_id)
    assert asked(app, f"/files/{audio_id}", headers={"If-None-Match": known}).status_code == 200


# --- what is refused -----------------------------------------------------------------------------------------

WRONG = [
    ("/files?limit=0", 400), ("/files?limit=201", 400), (f"/files?limit={NUMBER}", 400),
    ("/files?limit=1&limit=2", 400),
    ("/files?limit=", 400), ("/files?limit=%D9%A1", 400), ("/files?since=yesterday", 400), ("/files?since=", 400),
    ("/files?since=0001-01-01T00:00:00%2B23:59", 400), ("/files?status=broken", 400), ("/files?colour=red", 400),
    ("/files?meta=x", 400), ("/files?meta=%3Dx", 400), ("/files?" + "&".join(["meta=a%3Db"] * 21), 400),
    ("/search?words=%00", 400), ("/search?words=" + "w" * 251, 400), ("/search?words=f*", 400),
    ("/search?order=", 400),
    ("/batches?archive=%00", 400), (f"/files/{NUMBER}", 404), ("/files/-1", 404), ("/files/%00", 404),
    ("/files/a", 404),
    (f"/files/{NUMBER}/transcript", 404), ("/files/999", 404), ("/files/999/transcript", 404),
    ("/files/999/transcript?format=mp3", 400), ("/files/999/transcript?words=maybe", 400), ("/batches/%00", 404),
    ("/batches/" + "b" * 500, 404), ("/batches/%3Cb%3E", 404), ("/batches/none/files", 404), ("/nothing", 404),
    ("/files/%ED%B2%A9", 404), ("/batches/%ED%B2%A9", 404), ("/", 404), ("", 404),
]  # fmt: skip


@pytest.mark.parametrize(("path", "code"), WRONG)
def test_what_cannot_be_is_refused_in_one_way(app: Flask, path: str, code: int) -> None:
    refused(asked(app, path), code)


def test_hostile_text_finds_nothing(app: Flask) -> None:
    for text in (
        "\udce9",
        "\ud800",
        "\x1b[31m",
        "'; DROP TABLE audio_files",
        "%",
        '"',
        "-",
        "or or",
        "\x7f",
        "🔥" * 250,
    ):
        given = urllib.parse.quote(text, errors="surrogatepass")
        for path in (
            f"/search?words={given}",
            f"/files?tag={given}",
            f"/files?archive={given}",
            f"/alerts?search={given}",
        ):
            assert read(app, path)["items"] == []
    assert read(app, "/search?words=%ff")["items"] == []


def test_a_slip_in_a_name_is_told(app: Flask) -> None:
    assert "did you mean language?" in refused(asked(app, "/files?langauge=en"), 400)["detail"]
    assert "did you mean failed?" in refused(asked(app, "/files?status=faild"), 400)["detail"]


def test_another_method_is_refused(app: Flask) -> None:
    for method, path in (("POST", "/files"), ("DELETE", "/files/1"), ("PUT", "/fleet"), ("GET", "/enqueue")):
        answer = asked(app, path, method)
        refused(answer, 405)
        assert answer.headers["Allow"]
    assert asked(app, "/labels", "HEAD").status_code == 200


def test_nobody_reads_without_being_admitted(app: Flask) -> None:
    for operation in OPERATIONS:
        path = operation.path.replace("<audio_id>", "1").replace("<batch_id>", BATCH)
        answer = asked(app, path, operation.method, headers={"Test-Role": "nobody"})
        refused(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_service_that_is_unavailable_says_when_to_ask_again(fleet: Fleet, redis: Any) -> None:
    app = app_of(fleet, redis, Database(f"postgresql://x@127.0.0.1:{free_port()}/x"))
    for path in ("/files", "/batches", "/search", "/files/1", "/languages"):
        answer = asked(app, path)
        assert "127.0.0.1" not in answer.text
        assert refused(answer, 503)["detail"] == "PostgreSQL is unavailable."
        assert answer.headers["Retry-After"] == "10"
    assert read(app, "/fleet")["health"] == "down"


def test_what_nobody_expected_is_in_the_log_alone(
    app: Flask, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr("pipeline.web.api_reading.language_names", fail)
    answer = asked(app, "/languages")
    refused(answer, 500)
    assert "secret" not in answer.text
    assert "a secret" in caplog.text


def test_text_that_is_no_unicode_is_json_still(app: Flask, redis: Any) -> None:
    JobQueue(redis, "queue:transfer", "nobody").add({"remote_path": "/a"})
    redis.zadd("queue:transfer:workers", {"w\udce9": 9e9})
    assert json.loads(asked(app, "/fleet").data.decode("utf-8"))["queues"]


def test_every_answer_takes_a_few_queries(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    executed: list[str] = []

    def watch(frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" and getattr(argument, "__name__", "") == "execute":
            executed.append(frame.f_code.co_name)

    paths = [
        "/batches",
        f"/batches/{BATCH}",
        f"/batches/{BATCH}/files",
        "/files",
        f"/files/{ids['call']}",
        "/labels",
    ]
    paths += [f"/files/{ids['call']}/transcript", "/search?words=fire", "/alerts", "/saved-searches", "/languages"]
    for path in paths:
        executed.clear()
        sys.setprofile(watch)
        try:
            asked(app, path)
        finally:
            sys.setprofile(None)
        queries = [name for name in executed if name != "transaction"]  # which only sets its time limit
        assert 0 < len(queries) <= 10, (path, executed)
