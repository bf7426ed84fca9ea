"""Archives on the page: shown wherever their batches are, and found by their names."""

from typing import Any

import pytest
from flask import Flask

from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job
from pipeline.store.database import Database
from pipeline.web.pages import make_app
from tests.commands.test_batch import HOSTILE, of_archive
from tests.support.fleet import Fleet
from tests.support.site_data import sources
from tests.support.steps import BATCH, add_file, unpack_job
from tests.web.test_web import ask, get


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return make_app(sources(fleet, redis, database))


def test_a_batch_is_found_by_its_archive_and_shows_where_it_came_from(app: Flask, fleet: Fleet) -> None:
    of_archive(fleet, "/recordings/monday.tar")
    add_file(fleet, "a.mp3", "failed", "no sound")
    for name in ("monday.tar", "/recordings/monday.tar"):
        assert ask(app, f"/batches?batch={name}").location == f"/batches/{BATCH}"
        assert "a.mp3" in get(app, f"/failures?batch={name}").words
    words = get(app, f"/batches/{BATCH}").words
    assert all(text in words for text in ("/recordings/monday.tar of ec2", "12 B", "0f" * 32))
    assert "monday.tar" in get(app, "/batches").words


def test_a_name_of_several_archives_lists_their_batches(app: Flask, fleet: Fleet) -> None:
    other = "20250629-143052"
    of_archive(fleet, "/recordings/monday.tar")
    of_archive(fleet, "/other/monday.tar", other)
    of_archive(fleet, "/other/tuesday.tar", "20250630-143052")
    page = get(app, "/batches?batch=monday.tar")
    assert "Several archives are called monday.tar." in page.words
    assert [batch_id for batch_id in (BATCH, other, "20250630-143052") if batch_id in page.text] == [BATCH, other]
    for address in ("/failures?batch=monday.tar", "/search?words=fire&batch=monday.tar"):
        assert f"Give one of their batch ids: {other}, {BATCH}." in get(app, address, 400).words


def test_a_hostile_name_of_an_archive_is_escaped(app: Flask, fleet: Fleet, redis: Any) -> None:
    of_archive(fleet, HOSTILE, finished=False)
    Batches(redis, "gpu-04").adopt(BATCH, "archives/a.tar", Job(unpack_job(), 1, "t"))
    for address in ("/", "/batches", f"/batches/{BATCH}"):
        text = ask(app, address).text
        assert "&lt;b onclick=alert(1)&gt;\\x1b[31m=cmd\\n.tar" in text
        assert "<b onclick" not in text
