"""Transcripts that the page gives as files: the same as those of export, whole or plainly broken off."""

import csv
import http.client
import io
import json
import zipfile
from contextlib import ExitStack
from typing import Any

import pytest
from flask import Flask

from pipeline.store.database import Database
from pipeline.store.export_formats import FORMATS
from pipeline.store.search_query import Query
from pipeline.store.transcripts import every_file
from pipeline.web.downloads import AT_ONCE
from pipeline.web.pages import make_app
from pipeline.web.server import Limits
from tests.store.test_transcripts import day, hear
from tests.support.fleet import Fleet
from tests.support.site_data import STORED, TOKEN, sources
from tests.support.steps import BATCH, add_batch
from tests.web.test_server import SECONDS, served
from tests.web.test_web import ask, get

NAMES = ("caller", "<b>agent</b>")  # of the speakers, as `sources` has them


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return make_app(sources(fleet, redis, database))


@pytest.fixture
def three(fleet: Fleet) -> list[int]:
    """Two files of a batch, and one of another."""
    add_batch(fleet, files=2)
    said = {"text": "Is there a fire?", "channel": 1}
    return [
        hear(fleet, "a.mp3", said, {"text": "Yes.", "channel": 2}, created=day(1), channels=2),
        hear(fleet, STORED, "No fire.", created=day(2)),
        hear(fleet, "c.mp3", "A fire.", "=1+1", created=day(3), batch_id="20250101-000000", language="de"),
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_batch_is_downloaded(app: Flask, database: Database, three: list[int], kind: str) -> None:
    form, given = FORMATS[kind], ask(app, f"/batches/{BATCH}/transcripts/{kind}")
    files = list(every_file(database, Query(batch_id=BATCH)))
    assert [file.audio_id for file in files] == three[:2]
    if form.is_for_each:
        assert (given.mimetype, name_of(given)) == ("application/zip", f"{BATCH}-{kind}.zip")
        with zipfile.ZipFile(io.BytesIO(given.data)) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == {
                form.path_of(file): b"".join(form.encoded([file], NAMES)) for file in files
            }
    else:
        stem = f"{BATCH}-segments" if kind == "segments" else BATCH
        assert (given.mimetype, name_of(given)) == (form.media_type, f"{stem}.{form.suffix}")
        assert given.data == b"".join(form.encoded(files, NAMES))


def name_of(given: Any) -> str:
    """The name of the file that the browser makes of it."""
    kind, _, name = given.headers["Content-Disposition"].partition("; filename=")
    assert kind == "attachment"
    return str(name).strip('"')


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("words=fire", [0, 1, 2]),
        ("words=fire&language=de", [2]),
        (f"words=fire&batch={BATCH}", [0, 1]),
        ("since=2025-06-02&until=2025-06-03", [1]),
        ("words=nothing", []),
        ("words=fire&page=7&order=relevance", [0, 1, 2]),
    ],
)
def test_all_that_a_search_finds_is_downloaded(app: Flask, three: list[int], asked: str, found: list[int]) -> None:
    rows = json.loads(ask(app, f"/search/transcripts/json?{asked}").text)
    assert [row["audio_id"] for row in rows] == [three[number] for number in found]
    lines = csv.DictReader(io.StringIO(ask(app, f"/search/transcripts/csv?{asked}").text))
    assert [int(line["audio_id"]) for line in lines] == [three[number] for number in found]


def test_pages_lead_to_downloads(app: Flask, three: list[int]) -> None:
    for page in (f"/batches/{BATCH}", "/search?words=fire&language=en&meta=", f"/files/{three[0]}"):
        links = downloads_of(app, page)
        assert len(links) == len(FORMATS)
        for link in links:
            assert ask(app, link).status_code == 200, link
    asked = {link.partition("?")[2] for link in downloads_of(app, "/search?words=fire&language=en")}
    assert asked == {"words=fire&language=en"}
    assert downloads_of(app, "/search?words=nothing") == []


def downloads_of(app: Flask, page: str) -> list[str]:
    return [str(link["href"]) for link in get(app, page).all("a") if "download" in link]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        (f"/batches/{BATCH}/transcripts/exe", 404),
        ("/batches/20240101-000000/transcripts/csv", 404),
        ("/batches/%3Cb%3E/transcripts/csv", 404),
        ("/files/999/transcript.csv", 404),
        ("/search/transcripts/csv?since=tomorrow", 400),
        ("/search/transcripts/csv?words=" + "w" * 1500, 400),
        ("/search/transcripts/csv?words=%00", 400),
    ],
)
def test_what_cannot_be_downloaded_is_reported(app: Flask, three: list[int], address: str, status: int) -> None:
    answer = ask(app, address)
    assert (answer.status_code, answer.mimetype) == (status, "text/html")
    assert "Content-Disposition" not in answer.headers


def test_nobody_downloads_without_the_token(app: Flask, three: list[int]) -> None:
    for address in (
        f"/batches/{BATCH}/transcripts/csv",
        "/search/transcripts/vtt?words=fire",
        "/files/1/transcript.json",
    ):
        answer = app.test_client().get(address)
        assert (answer.status_code, b"Is there" in answer.data) == (302, False)


def test_a_few_downloads_at_a_time_leave_room_for_pages(app: Flask, three: list[int]) -> None:
    address = f"/batches/{BATCH}/transcripts/csv"
    with ExitStack() as stack:
        begun = [stack.enter_context(ask(app, address)) for _ in range(AT_ONCE)]
        refused = ask(app, address)
        stack.callback(refused.close)
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "60")
        assert f"{AT_ONCE} downloads are in progress" in refused.text
        assert "fire" in get(app, "/search?words=fire").words
        begun[0].close()  # as where the browser goes away
        assert "fire" in ask(app, address).text
    for _ in range(AT_ONCE + 1):  # neither a question without its answer nor one that is wrong takes a place
        app.test_client().head(address, headers={"Authorization": f"Bearer {TOKEN}"}).close()
        assert ask(app, f"/search/transcripts/csv?words={'w' * 1500}").status_code == 400
    assert "fire" in ask(app, address).text


def test_a_download_that_breaks_off_is_none(app: Flask, fleet: Fleet) -> None:
    """The browser says so: nobody takes half of the transcripts for all."""
    add_batch(fleet, files=400)
    fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, status) SELECT %s, n::text, 'done'"
        " FROM generate_series(1, 400) AS n", BATCH,
    )  # fmt: skip
    fleet.query(  # 40 MB: more than is sent or read ahead before the client takes it
        "INSERT INTO transcripts (audio_id, text, segments, model)"
        " SELECT audio_id, repeat('fire ', 20000), '[]', 'x' FROM audio_files"
    )
    with served(app, Limits()) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
        address, headers = f"/batches/{BATCH}/transcripts/json", {"Authorization": f"Bearer {TOKEN}"}
        connection.request("GET", address, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.read(1)) == (200, b"[")
        ours = "FROM pg_stat_activity WHERE application_name = 'audio-pipeline'"
        fleet.query(f"SELECT pg_terminate_backend(pid) {ours}")
        with pytest.raises(http.client.IncompleteRead):
            answer.read()
        connection.close()
        connection.request("GET", address, headers=headers)
        assert len(json.loads(connection.getresponse().read())) == 400
        connection.close()


def test_postgresql_is_unavailable(fleet: Fleet, redis: Any) -> None:
    app = make_app(sources(fleet, redis, Database("postgresql://127.0.0.1:1/none")))
    for _ in range(AT_ONCE + 1):
        answer = ask(app, "/search/transcripts/csv?words=fire")
        assert (answer.status_code, "PostgreSQL is unavailable" in answer.text) == (503, True)
