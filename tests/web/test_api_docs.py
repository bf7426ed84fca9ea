"""docs/api.md: its examples do what it says."""

import re
import shlex
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from pipeline.store.alerts import save_search
from pipeline.store.database import Database
from pipeline.web.api import OPERATIONS, VERSION_1
from tests.store.test_transcripts import hear
from tests.support.fleet import PROJECT, Fleet
from tests.support.site_data import TOKEN
from tests.support.steps import BATCH, add_batch, add_file, put
from tests.web.test_api import app_of

TEXT = (PROJECT / "docs" / "api.md").read_text()


def examples() -> list[str]:
    """The commands of the page."""
    return re.findall(r"^    (curl .*)$", TEXT, re.MULTILINE)


def run(app: Flask, command: str, following: str) -> TestResponse:
    """What curl would be answered, without curl."""
    known = {"$AUTH": f"Authorization: Bearer {TOKEN}", "$API": VERSION_1, "$NEXT": following}
    for name, value in known.items():
        command = command.replace(name, value)
    _, *words = shlex.split(command)
    headers, query = {"Test-Role": "operator"}, dict[str, str]()
    data, address, is_get = "", "", False
    while words:
        match words.pop(0):
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-G":
                is_get = True
            case "-d" | "--data-urlencode":
                data = words.pop(0)
                query |= dict([data.split("=", 1)]) if is_get else {}
            case address if address.startswith("/"):
                pass
            case unknown:
                raise AssertionError(unknown)
    given: dict[str, Any] = {"query_string": query} if is_get else {"data": data}
    method = "GET" if is_get or not data else "POST"
    return app.test_client().open(address, method=method, headers=headers, **given)


def test_the_examples_work(fleet: Fleet, redis: Any, database: Database) -> None:
    add_batch(fleet, files=5)
    save_search(database, "fires", "fire")
    hear(fleet, "a.mp3", "There is a fire on the river road.")
    for name in ("b.mp3", "c.mp3"):
        add_file(fleet, name, "failed", "no sound")
    put(fleet, f"archives/{BATCH}.tar", "archives/20250622-150000.tar")
    app, following = app_of(fleet, redis, database), ""
    for command in examples():
        answer = run(app, command, following)
        assert answer.status_code in (200, 202), (command, answer.text)
        following = (answer.get_json(silent=True) or {}).get("next") or following
    assert following
    assert fleet.query("SELECT count(*) FROM audio_files WHERE status = 'processing'") == [(2,)]
    assert (redis.llen("queue:transfer"), redis.llen("queue:unpack")) == (1, 3)


def test_the_page_names_every_path() -> None:
    for operation in OPERATIONS:
        assert f"{operation.template}" in TEXT, operation.template
