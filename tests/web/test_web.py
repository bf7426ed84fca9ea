"""The page of pipelinectl web: who may read it, what it shows, and that nothing it shows does harm."""

import datetime
import json
import re
import sys
import urllib.parse
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from flask import Flask
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from pipeline.foundation import redis_client
from pipeline.foundation.file_warnings import CODES
from pipeline.operations.troubles import DEGRADED, DOWN, HEALTHY
from pipeline.speech.transcript import UNCERTAIN
from pipeline.store.database import Database
from pipeline.web.page_files import TEMPLATES
from pipeline.web.pages import ROWS, make_app
from pipeline.web.searching import HITS
from tests.commands.test_pipelinectl import control
from tests.operations.test_status import live
from tests.store.test_transcripts import CUT, TURNED, day, hear
from tests.support.child import free_port
from tests.support.fleet import PROJECT, Fleet, refuse_secrets
from tests.support.site_data import MARK, STORED, TOKEN, TORN, addresses, seed, sources
from tests.support.steps import BATCH, add_batch, add_dead_letter, add_file, log_of, warn

Seen = list[tuple[str, dict[str, str | None]]]


class Reader(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: Seen = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.text += "" if tag in ("mark", "span", "a") else " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        """The text, each white space as one."""
        return " ".join(self.text.split())


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return make_app(sources(fleet, redis, database))


def get(app: Flask, address: str, code: int = 200) -> Reader:
    answer = ask(app, address)
    assert answer.status_code == code, answer.text
    return Reader(answer.text)


def ask(app: Flask, address: str) -> TestResponse:
    return app.test_client().get(address, headers={"Authorization": f"Bearer {TOKEN}"})


# --- who may read ------------------------------------------------------------------------------------------


def test_nobody_reads_anything_without_the_token(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    clients = (f"192.0.2.{number}" for number in range(256))
    for address in [*addresses(ids), f"/files/{ids['heard']}/audio", f"/files/{ids['heard']}/transcript.txt"]:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {TOKEN}"}):
            client = next(clients)  # of a few only, many wrong tokens are not heard
            answer = app.test_client().get(address, headers=headers, environ_base={"REMOTE_ADDR": client})
            assert answer.status_code == 302, address
            assert answer.location.startswith("/login?next=")
            assert not [word for word in ("fleet", "Batch", "mill", "Good", "OggS") if word in answer.text]


def test_the_page_reads_nothing_of_its_release_later(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    opened, is_over = [], False

    def watch(event: str, given: tuple[Any, ...]) -> None:
        ours = (f"{PROJECT}/pipeline/", f"{PROJECT}/docs/")
        if event == "open" and not is_over and str(given[0]).startswith(ours):
            opened.append(given[0])

    sys.addaudithook(watch)
    for address in [*addresses(ids), "/login", "/runbook", "/static/page.js", "/static/style.css"]:
        assert ask(app, address).status_code in (200, 400, 404)
    is_over = True
    assert opened == []


def test_a_style_is_sent_once(app: Flask) -> None:
    style = ask(app, "/static/style.css")
    assert (style.mimetype, b"--ink" in style.data) == ("text/css", True)
    known = {"If-None-Match": style.headers["ETag"]}
    assert app.test_client().get("/static/style.css", headers=known).status_code == 304
    assert ask(app, "/static/login.html").status_code == 404


def test_whatever_has_a_class_has_a_style() -> None:
    used = {HEALTHY, DEGRADED, DOWN}  # of the fleet and its troubles
    for template in TEMPLATES.values():
        used |= {name for names in re.findall(r'class="([^"{]*)"', template) for name in names.split()}
    style = (PROJECT / "pipeline" / "web" / "static" / "style.css").read_text()
    assert used - set(re.findall(r"\.([a-z][\w-]*)", style)) == set()


def test_no_page_changes_anything(app: Flask) -> None:
    """The interface for programs does, for operators (test_api_changes.py)."""
    methods = {rule.endpoint: set(rule.methods or ()) - {"HEAD", "OPTIONS"} for rule in app.url_map.iter_rules()}
    changing = {name for name, allowed in methods.items() if allowed != {"GET"}}
    assert {name for name in changing if not name.startswith("api.")} == {"door.login", "door.logout"}
    assert app.test_client().post("/", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405
    assert app.test_client().post("/").status_code == 403


# --- what it shows -----------------------------------------------------------------------------------------


def test_the_fleet(app: Flask, fleet: Fleet, redis: Any) -> None:
    seed(fleet, redis)
    page = get(app, "/")
    for words in (
        "The fleet is down", "queue:transfer: 1 job and no worker (no-worker)", "in the last hour 6 files",
        "Open batches: 1", "3 of 847", "gpu-01-gpu", "93 %", "400 GB of 1 TB", "ffmpeg: Invalid data",
    ):  # fmt: skip
        assert words in page.words, words
    links = [link.get("href") for link in page.all("a")]
    assert "/runbook#no-worker" in links
    assert "/batches/20261124-115900" in links
    (bar,) = page.all("progress")
    assert (bar["value"], bar["max"]) == ("3", "847")


def test_an_empty_fleet(app: Flask, fleet: Fleet) -> None:
    assert "The fleet is healthy" in get(app, "/").words
    assert "No archive was unpacked yet" in get(app, "/batches").words
    assert "Dead letters: 0" in get(app, "/failures").words


def test_each_trouble_leads_to_its_entry(app: Flask, fleet: Fleet, redis: Any) -> None:
    seed(fleet, redis)
    links = [str(link["href"]) for link in get(app, "/").all("a")]
    anchors = {link.partition("#")[2] for link in links if "runbook#" in link}
    headings = {attributes.get("id") for attributes in get(app, "/runbook").all("h2")}
    assert anchors
    assert anchors <= headings
    assert not any(" " in str(heading) for heading in headings)  # an id has none


def test_the_runbook_on_the_page_shows_no_anchors_as_text(app: Flask) -> None:
    assert "<a id" not in get(app, "/runbook").words


def test_long_tables_are_cut_and_say_so(app: Flask, fleet: Fleet, redis: Any) -> None:
    for number in range(ROWS + 5):
        live(redis, f"w{number:03}", f"gpu-{number:03}", "unpack", "queue:unpack")
    page = get(app, "/")
    assert f"Workers: {ROWS + 5}" in page.words
    assert f"The first {ROWS} of {ROWS + 5}" in page.words
    assert "w099" in page.words
    assert "w100" not in page.words


def test_batches_are_leafed_through(app: Flask, fleet: Fleet) -> None:
    ids = [f"20250101-{number:06}" for number in range(ROWS + 3)]
    for batch_id in ids:
        add_batch(fleet, batch_id, files=3)
    add_file(fleet, "a", "done", batch_id=ids[-1])
    add_file(fleet, "b", "failed", "no", batch_id=ids[-1])
    first = get(app, "/batches")
    assert len(first.all("progress")) == ROWS
    assert (first.all("progress")[0]["value"], first.all("progress")[0]["max"]) == ("2", "3")
    (older,) = [link["href"] for link in first.all("a") if "before=" in (link["href"] or "")]
    second = get(app, str(older))
    assert [batch_id for batch_id in ids if batch_id in second.text] == ids[:3]
    assert not [link for link in second.all("a") if "before=" in (link["href"] or "")]


def test_a_batch_is_found_by_its_id(app: Flask, fleet: Fleet) -> None:
    assert ask(app, f"/batches?batch=+{BATCH}").location == f"/batches/{BATCH}"
    assert "<b> is no batch id" in get(app, "/batches?batch=%3Cb%3E", 400).words
    assert "No archive was unpacked as batch" in get(app, f"/batches/{BATCH}", 404).words


def test_the_files_of_a_batch(app: Flask, fleet: Fleet) -> None:
    add_batch(fleet, files=ROWS + 2, finished=False)
    for number in range(ROWS):
        add_file(fleet, f"{number:04}.mp3", "done")
    add_file(fleet, "& last?.mp3", "failed", "no sound")
    add_file(fleet, "9999.mp3", "processing")
    page = get(app, f"/batches/{BATCH}")
    assert f"{ROWS + 2}: {ROWS} done, 1 failed" in page.words
    assert "not yet" in page.words
    (more,) = [link["href"] for link in page.all("a") if "after=" in (link["href"] or "")]
    rest = get(app, str(more))
    assert re.findall(r"\d{4}\.mp3", rest.words) == ["0099.mp3", "9999.mp3"]
    failed = get(app, f"/batches/{BATCH}?status=failed")
    assert "no sound" in failed.words
    assert ".mp3" not in failed.words.replace("& last?.mp3", "")
    behind = get(app, f"/batches/{BATCH}?after=%26%20last%3F.mp3")
    assert "no sound" not in behind.words


def test_failures_are_listed_by_reason_batch_and_age(app: Flask, fleet: Fleet, redis: Any) -> None:
    add_file(fleet, "new.mp3", "failed", "no sound")
    add_file(fleet, "old.mp3", "failed", "no room", when="2025-06-22 12:00+00")
    add_file(fleet, "other.mp3", "failed", "no sound", batch_id="20250101-000000")
    add_dead_letter(redis, "queue:unpack", json.dumps({"batch_id": BATCH}), "the archive is cut")
    today = get(app, "/failures")
    assert "new.mp3" in today.words
    assert "old.mp3" not in today.words
    assert "Dead letters: 0" in today.words
    ever = get(app, "/failures?age=")
    assert "2 no sound 1 no room" in ever.words
    assert "Failed files: 3" in ever.words
    assert "Dead letters: 1" in ever.words
    assert "the archive is cut" in ever.words
    assert "retry --job ID tries one again" in ever.words
    assert "; 1 dead letter" in get(app, "/").words
    assert "Failed files: 1" in get(app, "/failures?age=&reason=NO+ROOM").words
    assert "Failed files: 2" in get(app, f"/failures?age=&batch={BATCH}").words
    assert "Failed files: 2" in get(app, "/failures?age=nonsense").words


def test_many_failures_are_cut_and_say_so(app: Flask, fleet: Fleet) -> None:
    for number in range(ROWS + 1):
        add_file(fleet, f"{number:04}.mp3", "failed", "no sound")
    page = get(app, "/failures")
    assert f"Failed files: the latest {ROWS}" in page.words
    assert f"{ROWS + 1} no sound" in page.words
    assert len(re.findall(r"\d{4}\.mp3", page.words)) == ROWS


def test_a_search_marks_what_was_said(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    page = get(app, "/search?words=FIRE+mill")
    assert "There is a fire at the mill." in page.words
    assert len(page.all("mark")) == 2
    assert f"/files/{ids['heard']}#t=10.0" in [link["href"] for link in page.all("a")]
    assert page.all("input")[0]["value"] == "FIRE mill"


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("words=fire", ["b", "a"]),
        ("words=fire&since=2025-06-02", ["b"]),
        ("words=fire&until=2025-06-02", ["a"]),
        ("language=de", ["a"]),
        ("tag=Siren", ["b"]),
        ("batch=20250101-000000", ["b"]),
        ("words=fi*", ["b", "a"]),
        ("meta=talkgroup%3D7", ["b"]),
        ("meta=talkgroup%3D7&meta=agent%3DZo%C3%AB", []),
        ("words=fire&order=relevance", ["a", "b"]),
        ("words=nothing", []),
        ("", []),
    ],
)
def test_a_search_takes_every_filter(app: Flask, fleet: Fleet, asked: str, found: list[str]) -> None:
    hear(fleet, "a", "good morning fire", created=day(1), language="de")
    labels = {"Siren": "audio_tag"}
    hear(fleet, "b", "fire", created=day(2), batch_id="20250101-000000", labels=labels, metadata={"talkgroup": 7})
    page = get(app, f"/search?{asked}")
    hits = [link for link in page.all("a") if (link["href"] or "").startswith("/files/")]
    assert len(hits) == len(found)
    assert ("Nothing was found." in page.words) == (bool(asked) and not found)


def test_a_search_is_narrowed_by_what_hits_have_in_common(app: Flask, fleet: Fleet) -> None:
    siren = {"Siren": "audio_tag"}
    hear(fleet, "a", "fire", created=day(1), recorded=day(3), labels=siren, metadata={"who": "<b>&=1"})
    hear(fleet, "b", "fire", created=day(2), language="de", metadata={"talkgroup": 7})
    hear(fleet, "c", "fire", created=day(2))
    page = get(app, "/search?words=fire&meta=&page=0")
    assert "3 found" in page.words
    assert "Labels: Siren 1" in page.words
    assert "Days: 2025-06-02 2 · 2025-06-03 1" in page.words
    assert "Archives" not in page.words  # all are of one
    narrower = [link["href"] for link in page.all("a") if (link["href"] or "").startswith("/search?")]
    shown = {str(href): get(app, str(href)).words for href in narrower}
    assert len(shown) == 7
    assert all(re.search(r"\b[12] found", words) for words in shown.values()), shown
    (odd,) = [words for href, words in shown.items() if "who" in href]
    assert "1 found" in odd


def test_a_search_that_finds_nothing_leads_to_what_was_said(app: Flask, fleet: Fleet) -> None:
    hear(fleet, "a", "the siren")
    page = get(app, "/search?words=siern&tag=")
    assert "Nothing was found: did you mean siren?" in page.words
    (link,) = [link["href"] for link in page.all("a") if "words=siren" in (link["href"] or "")]
    assert "1 found" in get(app, str(link)).words


def test_a_search_for_an_unknown_label_or_language_says_so(app: Flask, fleet: Fleet) -> None:
    hear(fleet, "a", "fire", labels={"Siren": "audio_tag"}, language="en")
    for asked, expected in (
        ("tag=Sirne", "Nothing was found: no recording has the label Sirne: did you mean Siren?"),
        ("tag=%3Cb%3E", "Nothing was found: no recording has the label <b>: the only known one is Siren"),
        ("words=fire&language=german", "no recording is in the language german: the only known one is en"),
    ):
        assert expected in get(app, f"/search?{asked}").words


def test_hits_are_leafed_through(app: Flask, fleet: Fleet) -> None:
    for number in range(HITS + 1):
        hear(fleet, f"call{number:02}.mp3", "fire", created=day(1) + datetime.timedelta(minutes=number))
    first = get(app, "/search?words=fire&language=en")
    (older,) = [link["href"] for link in first.all("a") if "page=" in (link["href"] or "")]
    assert "call00.mp3" not in first.words
    second = get(app, str(older))
    assert re.findall(r"call\d\d", second.words) == ["call00"]
    assert "Older" not in second.words
    (newer,) = [link["href"] for link in second.all("a") if "page=" in (link["href"] or "")]
    assert get(app, str(newer)).words == first.words


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ("words=" + "w" * 1500, "it is too long"),
        ("words=%00", "there is no such text"),
        ("since=yesterday", "since: yesterday is no day"),
        ("until=2025-13-01", "until: 2025-13-01 is no day"),
        ("words=x&batch=%00", "there is no such text"),
        ("meta=talkgroup", "metadata: talkgroup has no value"),
        ("meta=a%3D%00", "has no value"),
        ("words=f*", "the beginning of too many words"),
    ],
)
def test_what_cannot_be_searched_for_is_reported(app: Flask, asked: str, problem: str) -> None:
    assert problem in get(app, f"/search?{asked}", 400).words


@pytest.mark.parametrize(
    "address",
    ["/failures?reason=%00", "/batches?before=%00", f"/batches/{BATCH}?after=%00", "/batches/..", "/files/-1",
     "/files/0", f"/files/{2**64}", "/files/1/audio", "/files/1/transcript.exe", "/files/1/transcript.txt",
     "/search?page=-1",
     "/search?page=99999999999999999999&words=a", "/search?page=%C2%B2", "/batches/%ff", "/search?words=%ff",
     "/search?words=a&page=" + "9" * 5000, "/files/" + "9" * 5000, "/files/" + "9" * 5000 + "/audio",
     "/files/" + "9" * 5000 + "/transcript.txt", "/search?since=" + "9" * 5000, "/failures?age=" + "9" * 5000,
     "/search?since=9999-12-31&until=0001-01-01", "/search?since=0000-01-01", "/static/%00",
     "/runbook?" + "&" * 9000, "/batches?before=" + "9" * 5000, f"/batches/{BATCH}?after=" + "9" * 5000],
)  # fmt: skip
def test_no_address_is_too_odd(app: Flask, fleet: Fleet, address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert ask(app, address).status_code in (200, 400, 404)
    assert "Traceback" not in caplog.text


ASKED = {
    "/batches": ("before", "batch"),
    f"/batches/{BATCH}": ("status", "after"),
    "/failures": ("age", "batch", "reason"),
    "/search": ("page", "words", "since", "until", "language", "tag", "batch", "archive", "meta", "order"),
    "/alerts": ("search", "before"),
    "/login": ("next",),
}
ODD = st.text(max_size=30) | st.sampled_from(
    ["'", '"', "\\", "%", "&", "<->", "a | b", "-", "!", "()", "or", "0" * 3000]
)


@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(st.data())
def test_no_question_is_too_odd(app: Flask, fleet: Fleet, caplog: pytest.LogCaptureFixture, data: Any) -> None:
    caplog.clear()
    address = data.draw(st.sampled_from(sorted(ASKED)))
    asked = {name: data.draw(ODD) for name in ASKED[address] if data.draw(st.booleans())}
    query = urllib.parse.urlencode(asked, errors="surrogatepass")
    assert ask(app, f"{address}?{query}").status_code in (200, 302, 400, 404), query
    assert "Traceback" not in caplog.text


def test_a_file(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    page = get(app, f"/files/{ids['heard']}")
    for words in ("monday/call07.mp3", "0:30", "Siren audio_tag 50 %", "0:10There is a fire", "Row made", "tiny"):
        assert words in page.words, words
    (player,) = page.all("audio")
    assert player["src"] == f"/files/{ids['heard']}/audio"
    assert [line["data-start"] for line in page.all("li") if "data-start" in line] == ["0.0", "10.0", "20.0"]
    failed = get(app, f"/files/{ids['failed']}")
    assert "Invalid data found" in failed.words
    assert "There is none." in failed.words
    assert not failed.all("audio")


def test_doubtful_text_and_languages_are_distinguished(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    page = get(app, f"/files/{ids['doubtful']}")
    assert "Languages en, de" in page.words
    assert (
        f"Dotted text is uncertain (confidence under {100 * UNCERTAIN:.0f} %); [repeated]: Whisper repeated"
        in page.words
    )
    for words in (
        "0:00Good morning, the fire brigade.en", "0:10There is fire on the river road. (uncertain)en",
        "0:20[unintelligible, 4 s] (the text repeats itself)", "0:30Ja, ja. (uncertain) [repeated] (it looped)de",
    ):  # fmt: skip
        assert words in page.words, words
    spoken = [element for element in page.all("span") if "lang" in element and element["lang"] != "en"]
    assert spoken == [
        {"class": "uncertain", "title": "uncertain: confidence 31 %; repeated: it looped", "lang": "de"}
    ]
    noted = [element for element in page.all("span") if "title" in element]
    assert noted[:2] == [
        {"class": "uncertain", "title": "uncertain: confidence 41 %", "lang": "en"},
        {"class": "remark", "title": "unintelligible: the text repeats itself", "lang": "en"},
    ]
    assert len(page.all("li")) == 4
    assert page.all("ol")[0]["lang"] == "en"


def test_speakers_are_distinguished_by_name_and_colour(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    page = get(app, f"/files/{ids['call']}")
    assert "Channels 9" in page.words
    for words in (
        "0:00caller: Is there any smoke?", "0:10<b>agent</b>: Yes, at the harbour. (uncertain)",
        "0:20Channel 9: Who is that?",
    ):  # fmt: skip
        assert words in page.words, words
    speakers = [str(span["class"]) for span in page.all("span") if "speaker" in str(span.get("class"))]
    assert speakers == ["speaker s1", "speaker s2", "speaker s3"]
    found = get(app, "/search?words=harbour")
    assert "0:10 uncertain: confidence 40 % <b>agent</b>: Yes, at the harbour." in found.words
    assert "<v caller>Is there" in ask(app, f"/files/{ids['call']}/transcript.vtt").text
    assert "&lt;b&gt;agent&lt;/b&gt;" in ask(app, f"/files/{ids['call']}/transcript.vtt").text
    assert "caller: Is there" in ask(app, f"/files/{ids['call']}/transcript.srt").text


def test_a_recording_of_one_channel_has_no_speakers(app: Flask, fleet: Fleet, redis: Any) -> None:
    page = get(app, f"/files/{seed(fleet, redis)['heard']}")
    assert "Channels 1" in page.words
    assert "speaker" not in str(page.elements)
    assert "Warnings" not in page.words


def test_warnings_are_shown_wherever_the_file_is(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    page = get(app, f"/files/{ids['call']}")
    assert f"Warnings missing_end, 5.5 s lost: {CUT.message} inverted_channel: {TURNED.message}" in page.words
    links = [link["href"] for link in page.all("a")]
    assert {"/runbook#missing_end", "/runbook#inverted_channel"} < set(links)
    assert "call.wav warning: inverted_channel, missing_end done" in get(app, f"/batches/{BATCH}").words
    assert "call07.mp3 done" in get(app, f"/batches/{BATCH}").words
    assert "· warning: inverted_channel, missing_end" in get(app, "/search?words=harbour").words
    assert "warning" not in get(app, "/search?words=engines").words
    assert "2 files of the last day with warnings" in get(app, "/").words


def test_files_with_warnings_are_listed_with_the_failures(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    page = get(app, "/failures")
    assert "Files with warnings: 2" in page.words
    assert f"call.wav done missing_end, 5.5 s lost: {CUT.message}" in page.words
    assert f"/files/{ids['call']}" in [link["href"] for link in page.all("a")]
    one = get(app, "/failures?reason=MISSING_end")
    assert "Files with warnings: 1" in one.words
    assert "1 inverted_channel 1 missing_end" in one.words
    assert "Files with warnings: 0" in get(app, "/failures?batch=20250101-000000").words
    for number in range(ROWS):
        warn(fleet, add_file(fleet, f"{number:04}.mp3", "done"), CUT)
    page = get(app, "/failures")
    assert f"Files with warnings: the latest {ROWS}" in page.words
    assert f"{ROWS + 1} missing_end" in page.words


def test_each_warning_leads_to_its_entry(app: Flask) -> None:
    headings = {attributes.get("id") for attributes in get(app, "/runbook").all("h2")}
    assert set(CODES) <= headings


def test_certain_text_in_one_language_has_no_signs(app: Flask, fleet: Fleet) -> None:
    said: list[str | dict[str, Any]] = [{"text": "one", "confidence": 0.9, "language": "de"}, "from an older row"]
    page = get(app, f"/files/{hear(fleet, 'a', *said, language='de', languages=['de'])}")
    assert "Language de" in page.words
    assert "0:00one 0:10from an older row" in page.words
    assert "uncertain" not in page.text
    assert not [element for element in page.all("span") if "lang" in element or "title" in element]
    assert page.all("ol")[0]["lang"] == "de"


def test_words_are_not_sent_to_the_browser(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    for address in (f"/files/{ids['doubtful']}", "/search?words=fire"):
        assert "kept-out-of-pages" not in ask(app, address).text


def test_a_hit_says_that_it_is_uncertain(app: Flask, fleet: Fleet, redis: Any) -> None:
    seed(fleet, redis)
    page = get(app, "/search?words=fire+river&language=de")
    assert "en, de 0:10 uncertain: confidence 41 %" in page.words
    assert "There is fire on the river road." in page.words


def test_the_recording_is_at_an_address_of_s3(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    answer = ask(app, f"/files/{ids['heard']}/audio")
    assert answer.status_code == 302
    key = f"processed/2025-06-22/{ids['heard']}.opus"
    assert answer.location == f"{fleet.s3.endpoint}/{fleet.bucket}/{key}?signed"
    assert ask(app, f"/files/{ids['failed']}/audio").status_code == 404


@pytest.mark.parametrize(
    ("suffix", "begin", "kind"),
    [
        ("txt", "Good morning", "text/plain"),
        ("vtt", "WEBVTT\n\n00:00:00.000", "text/vtt"),
        ("srt", "1\n", "application/"),
    ],
)
def test_a_transcript_is_fetched(app: Flask, fleet: Fleet, redis: Any, suffix: str, begin: str, kind: str) -> None:
    ids = seed(fleet, redis)
    answer = ask(app, f"/files/{ids['heard']}/transcript.{suffix}")
    assert answer.text.startswith(begin)
    assert answer.content_type.startswith(kind)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{ids["heard"]}.{suffix}"'
    assert "fire" in answer.text


# --- services that are unavailable
# --------------------------------------------------------------------------------


def test_redis_is_unavailable(fleet: Fleet, database: Database) -> None:
    nobody = redis_client.connect(f"redis://127.0.0.1:{free_port()}/0")
    app = make_app(sources(fleet, nobody, database))
    page = get(app, "/")
    assert "The fleet is down" in page.words
    assert "Redis is unavailable" in page.words
    assert "Workers" not in page.words  # nothing is known of them, which is not that there are none
    assert "Redis is unavailable" in get(app, "/failures", 503).words
    get(app, "/batches")
    get(app, "/search?words=a")


def test_postgresql_is_unavailable(fleet: Fleet, redis: Any, caplog: pytest.LogCaptureFixture) -> None:
    nobody = Database(f"postgresql://user:hunter2@127.0.0.1:{free_port()}/x")
    app = make_app(sources(fleet, redis, nobody))
    live(redis, "w1", "gpu-01", "unpack", "queue:unpack")
    page = get(app, "/")
    assert "PostgreSQL is unavailable" in page.words
    assert "w1" in page.words
    for address in ("/batches", f"/batches/{BATCH}", "/failures", "/search?words=a", "/files/1"):
        assert "PostgreSQL is unavailable" in get(app, address, 503).words
    assert "hunter2" not in caplog.text


def test_what_nobody_expected_is_in_the_log_alone(
    fleet: Fleet, redis: Any, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(key: str) -> str:
        raise RuntimeError("the inside of it")

    ids = seed(fleet, redis)
    app = make_app(sources(fleet, redis, database, opus_address=broken))
    page = get(app, f"/files/{ids['heard']}/audio", 500)
    assert "the inside of it" not in page.text
    assert "the inside of it" in caplog.text


# --- what means harm ---------------------------------------------------------------------------------------


def test_no_page_obeys_what_it_shows(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    ours = {"/static/page.js"}
    seen = ""
    for address in addresses(ids):
        answer = ask(app, address)
        assert answer.status_code in (200, 400, 404), address
        page = Reader(answer.text)
        seen += page.text
        assert {script.get("src") for script in page.all("script")} == ours, address
        assert not page.all("img"), address
        assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")], (
            address
        )
        links = [str(link.get("href")) for link in page.all("a")]
        assert not [link for link in links if not link.startswith(("/", "#"))], address
        odd = {char for char in answer.text if not char.isprintable()} - {"\n"}
        assert not odd, (address, odd)
        assert not re.search(r"\b49\b", page.words) or "{{7*7}}" in page.words, address
    assert MARK in seen
    assert "\\x1b[31m\\u202e" in seen
    assert "\\udce9 <img" in seen
    assert "w" * 260 in seen


def test_the_browser_is_instructed_to_load_nothing_else(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    for address in [*addresses(ids), "/login", "/static/page.js"]:
        headers = ask(app, address).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert f"media-src 'self' {fleet.s3.endpoint};" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers.get("Cache-Control") == ("no-cache" if address.startswith("/static") else "no-store"), (
            address
        )


def test_a_downloaded_transcript_holds_no_escapes(app: Flask, fleet: Fleet, redis: Any) -> None:
    ids = seed(fleet, redis)
    for suffix in ("txt", "vtt", "srt"):
        text = ask(app, f"/files/{ids['hostile']}/transcript.{suffix}").text
        assert "\x1b" not in text
        assert MARK.replace("</script>", "") in text


# --- the command -------------------------------------------------------------------------------------------


def test_the_command_serves_the_page_and_the_recording(fleet: Fleet, redis: Any) -> None:
    fleet.nursery = None  # for its command line
    ids = seed(fleet, redis)
    web, address = fleet.page(TOKEN)
    asked = urllib.request.Request(
        f"{address}/files/{ids['heard']}/audio", headers={"Authorization": f"Bearer {TOKEN}"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:
        assert answer.read(4) == b"OggS"
        signed = urllib.parse.urlsplit(answer.url)
        assert f"{signed.scheme}://{signed.netloc}" == fleet.s3.endpoint
        assert "Expires" in signed.query
    environment = Path(f"/proc/{web.process.pid if web.process else 0}/cmdline").read_bytes()
    assert TOKEN.encode() not in environment
    refuse_secrets("the page's log", log_of(web))
    assert TOKEN not in log_of(web)


def test_the_command_refuses_a_token_that_is_missing_or_short(fleet: Fleet) -> None:
    for token, complaint in (
        ("", "WEB_TOKEN is not set, and there is no other way in"),
        ("short", "WEB_TOKEN is too short"),
    ):
        done = control(fleet, "web", WEB_TOKEN=token)
        assert done.returncode == 2
        assert complaint in done.stderr
        assert "Traceback" not in done.stderr
        assert not token or token not in done.stderr.replace("too short", "")


def test_the_command_refuses_an_address_that_is_taken_or_none(fleet: Fleet) -> None:
    taken = control(fleet, "web", "--listen", f"127.0.0.1:{fleet.valkey.port}", WEB_TOKEN=TOKEN)
    assert (taken.returncode, "Address already in use" in taken.stderr) == (2, True), taken.stderr
    wrong = control(fleet, "web", "--listen", "8080", WEB_TOKEN=TOKEN)
    assert (wrong.returncode, "is no address and port" in wrong.stderr) == (2, True)


def test_the_torn_letter_is_shown(app: Flask, fleet: Fleet, redis: Any) -> None:
    add_dead_letter(redis, "queue:unpack", TORN, TORN)
    assert "\\udce9 <img src=x" in get(app, "/failures?age=").words
    assert STORED.isprintable() is False
