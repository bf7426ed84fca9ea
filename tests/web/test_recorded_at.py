"""A recording's own time and metadata on the page, and times in the reader's zone."""

import datetime
import json
from typing import Any

from flask import Flask

from tests.support.fleet import Fleet
from tests.support.steps import add_file
from tests.web.test_web import app, get

__all__ = ["app"]
CALL = datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC)


def described(fleet: Fleet, metadata: dict[str, Any], source: str | None = "sidecar") -> int:
    audio_id = add_file(fleet, "a.mp3", "done")
    sql = "UPDATE audio_files SET recorded_at = %s, recorded_from = %s, metadata = %s WHERE audio_id = %s"
    fleet.query(f"{sql} RETURNING 1", source and CALL, source, json.dumps(metadata), audio_id)
    return audio_id


def test_a_file_says_when_it_was_recorded_and_how_that_is_known(app: Flask, fleet: Fleet) -> None:
    page = get(app, f"/files/{described(fleet, {'talkgroup': 1234, 'srcList': [{'src': 5}], 'tag': 'Fire'})}")
    assert "Recorded 2024-03-15 14:22:33 (from its sidecar)" in page.words
    assert {"datetime": "2024-03-15T14:22:33Z", "title": "2024-03-15 14:22:33 UTC"} in page.all("time")
    for words in ("talkgroup 1234", 'srcList [{"src": 5}]', "tag Fire"):
        assert words in page.words


def test_a_file_without_a_time_or_metadata_shows_neither(app: Flask, fleet: Fleet) -> None:
    page = get(app, f"/files/{described(fleet, {}, None)}")
    assert "Recorded" not in page.words
    assert "Metadata" not in page.words


def test_hostile_metadata_is_text(app: Flask, fleet: Fleet) -> None:
    audio_id = described(fleet, {"<script>x</script>": "<b>bold</b>\u202e"}, "<i>new</i>")
    page = get(app, f"/files/{audio_id}")
    assert "<script>x</script> <b>bold</b>\\u202e" in page.words
    assert not page.all("b")
    assert "Recorded 2024-03-15 14:22:33" in page.words
    assert "(from" not in page.words
