"""The pages. Nothing here changes anything in Redis, PostgreSQL or S3, and no page is kept.

What the pages show is hostile: names out of archives, jobs that anybody queued, words that a model heard. Jinja
escapes all of it, `_plain` shows what does not print as \\xNN, and the browser may run and load nothing but what
is ours.
"""

import datetime
import itertools
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from flask import Blueprint, Flask, Response, abort, current_app, redirect, render_template, request, url_for
from jinja2 import DictLoader
from markdown_it import MarkdownIt
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from pipeline.foundation.errors import Permanent, unavailable_service
from pipeline.foundation.file_metadata import SOURCES, in_words
from pipeline.foundation.formatting import amount, clock, count, duration, printable, whole_number
from pipeline.jobs.batches import all_queues, is_id
from pipeline.operations.failures import Filter, failed_reasons, read_failures, warned_codes, warned_files
from pipeline.operations.snapshot import SeldomCompared
from pipeline.operations.status import host_state, observe, settled_files, time_left
from pipeline.store.alerts import read_alerts, saved_searches
from pipeline.store.batch_history import Batch, batches_of_archive, read_batch, read_batch_files, read_batches
from pipeline.store.database import Database
from pipeline.store.export_formats import FORMATS
from pipeline.store.search_query import Query
from pipeline.store.subtitles import html_language, legend, one_line, reading, readings
from pipeline.store.transcripts import read_file, read_history
from pipeline.web import api_errors, downloads, searching
from pipeline.web.login import Access, guard
from pipeline.web.openapi import api
from pipeline.web.page_files import RUNBOOK, TEMPLATES, static

ROWS, REASONS = 100, 20  # on a page
AGES = {  # of failures: what it is called, and hours
    "1h": ("the last hour", 1),
    "24h": ("the last day", 24),
    "7d": ("the last week", 168),
    "": ("ever", None),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " media-src 'self' {}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
log = logging.getLogger(__name__)
pages = Blueprint("pages", __name__)


@dataclass(frozen=True)
class Sources:
    """What the pages are made of. `token` is what a reader has to know (empty: there is none for all), `access`
    how else readers are known, by default by named tokens; `opus_address` gives a presigned address
    for the key of an Opus, below `media_origin` (scheme, host and port). `check_archive` raises `Permanent` where
    S3 has no archive of a key, `archive_key` gives that of a batch. `channel_names` are those of the speakers of a
    recording's channels."""

    redis: Any
    database: Database
    queues: list[str]
    token: str
    opus_address: Callable[[str], str]
    media_origin: str
    check_archive: Callable[[str], object]
    archive_key: Callable[[str], str]
    channel_names: tuple[str, ...] = ()
    access: Access | None = None
    compare: SeldomCompared = field(default_factory=SeldomCompared)


def make_app(sources: Sources) -> Flask:
    """The application for a WSGI server."""
    app = Flask(__name__, static_folder=None)
    app.jinja_loader = DictLoader(TEMPLATES)
    app.add_url_rule("/static/<filename>", "static", static)
    app.jinja_options = {"finalize": _plain, "trim_blocks": True, "lstrip_blocks": True}
    app.extensions["sources"] = sources
    app.jinja_env.globals.update(
        amount=amount,
        count=count,
        duration=duration,
        formats=FORMATS.values(),
        host_state=host_state,
        in_words=in_words,
        one_line=one_line,
        reading=partial(reading, names=sources.channel_names),
        settled_files=settled_files,
        time_left=time_left,
        sources=SOURCES,
    )
    app.jinja_env.filters.update(moment=_moment, clock=clock)
    guard(app, sources.token, sources.access or Access(sources.database))
    app.register_blueprint(pages)
    app.register_blueprint(api)
    app.after_request(_harden)
    app.register_error_handler(Exception, _explain)
    return app


def _sources() -> Sources:
    found: Sources = current_app.extensions["sources"]
    return found


def _harden(response: Response) -> Response:
    """Nothing but our own scripts and styles, no address sent to others, nothing kept by a cache."""
    response.headers["Content-Security-Policy"] = _POLICY.format(_sources().media_origin)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers.setdefault("Cache-Control", "no-store")
    return response


# --- pages ---------------------------------------------------------------------------------------------------


@pages.get("/")
def fleet() -> str:
    """How the fleet is."""
    found = _sources()
    now = observe(found.redis, found.queues, found.database, compare=found.compare)
    return render_template("fleet.html", now=now, most=ROWS)


@pages.get("/batches")
def batches() -> Any:
    """The batches, the newest first; or the way to the one that was asked for."""
    before, asked, database = request.args.get("before", ""), _text("batch"), _sources().database
    named = _named(asked)
    if len(named) == 1 or (is_id(asked) and not named):
        return redirect(url_for("pages.batch", batch_id=named[0].batch_id if named else asked))
    found = named or read_batches(database, before, ROWS + 1)
    is_wrong = bool(asked and not named)
    return render_template(
        "batches.html",
        batches=found[:ROWS],
        more=len(found) > ROWS and not named,
        before=before,
        asked=asked,
        is_wrong=is_wrong,
    ), 400 if is_wrong else 200


def _named(asked: str) -> list[Batch]:
    """The batch of this id, or the batches whose archive had this name or path."""
    database = _sources().database
    found = read_batch(database, asked) if asked else None
    return [found] if found else batches_of_archive(database, asked, ROWS)


def _batch_id() -> str:
    """The id of the batch that was asked for by its id or its archive; what nobody knows is given back as it is.
    Where several archives have that name, the answer says so."""
    asked = _text("batch")
    named = _named(asked)
    if len(named) > 1:
        ids = ", ".join(batch.batch_id for batch in named)
        abort(400, f"Several archives are called {asked}. Give one of their batch ids: {ids}.")
    return named[0].batch_id if named else asked


@pages.get("/batches/<batch_id>")
def batch(batch_id: str) -> str:
    """A batch and its files."""
    database, asked = _sources().database, request.args
    found = read_batch(database, batch_id) if is_id(batch_id) else None
    if found is None:
        abort(404, f"No archive was unpacked as batch {batch_id} yet.")
    status = asked.get("status", "") if asked.get("status") in ("processing", "done", "failed") else ""
    files = read_batch_files(database, batch_id, status, asked.get("after", ""), ROWS + 1)
    more, after = len(files) > ROWS, asked.get("after")
    return render_template("batch.html", batch=found, files=files[:ROWS], more=more, status=status, after=after)


@pages.get("/failures")
def failures() -> str:
    """Failed files, dead letters, and files with warnings."""
    found, asked = _sources(), request.args
    age = asked.get("age", "24h") if asked.get("age", "24h") in AGES else "24h"
    _, hours = AGES[age]
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=hours) if hours else None
    wanted = Filter(_batch_id(), "", _text("reason"), since)
    failed = read_failures(found.redis, found.database, all_queues(found.redis, found.queues), wanted, ROWS + 1)
    return render_template(
        "failures.html",
        failed=failed,
        reasons=failed_reasons(found.database, wanted, REASONS),
        warned=warned_files(found.database, wanted, ROWS + 1),
        codes=warned_codes(found.database, wanted),
        most=ROWS,
        ages=AGES,
        age=age,
        asked=asked,
    )


@pages.get("/alerts")
def alerts() -> str:
    """The recordings in which something was said that somebody waits for, the newest first."""
    database, search = _sources().database, _text("search")
    before = whole_number(request.args.get("before", "")) or 0
    found = read_alerts(database, search, limit=ROWS + 1, before=before)
    return render_template(
        "alerts.html",
        searches=saved_searches(database),
        alerts=found[:ROWS],
        more=len(found) > ROWS,
        search=search,
        before=before,
    )


@pages.get("/search")
def find() -> tuple[str, int]:
    """The recordings in which words were said."""
    page = searching.shown(_sources().database, request.args, _batch_id())
    return render_template("search.html", **page), 400 if page["problem"] else 200


@pages.get("/files/<int:audio_id>")
def file(audio_id: int) -> str:
    """Everything about one file."""
    database = _sources().database
    if (found := read_file(database, audio_id)) is None:
        abort(404, f"There is no file {audio_id}.")
    shown = list(readings(found, _sources().channel_names))
    return render_template(
        "file.html",
        file=found,
        history=read_history(database, audio_id),
        readings=shown,
        language=html_language(found.language),
        legend=legend(shown, "Dotted text is"),
    )


@pages.get("/files/<int:audio_id>/audio")
def audio(audio_id: int) -> AnyResponse:
    """The Opus: S3 is asked for it by the browser, at an address that is good for an hour."""
    found = read_file(_sources().database, audio_id)
    if found is None or not found.s3_opus_path:
        abort(404, f"There is no Opus of a file {audio_id}.")
    return redirect(_sources().opus_address(found.s3_opus_path))


@pages.get("/files/<int:audio_id>/transcript.<kind>")
def transcript(audio_id: int, kind: str) -> Response:
    """The transcript as a file."""
    form, found = downloads.format_of(kind), read_file(_sources().database, audio_id)
    if found is None:
        abort(404, f"There is no file {audio_id}.")
    return downloads.of_one(found, form, _sources().channel_names)


@pages.get("/batches/<batch_id>/transcripts/<kind>")
def transcripts_of_batch(batch_id: str, kind: str) -> Response:
    """The transcripts of a batch as a file."""
    form, database = downloads.format_of(kind), _sources().database
    if not is_id(batch_id) or read_batch(database, batch_id) is None:
        abort(404, f"No archive was unpacked as batch {batch_id} yet.")
    return downloads.of_many(database, Query(batch_id=batch_id), form, _sources().channel_names, batch_id)


@pages.get("/search/transcripts/<kind>")
def transcripts_found(kind: str) -> Response:
    """The transcripts of every recording that a search finds as a file."""
    form, found = downloads.format_of(kind), _sources()
    try:
        query = searching.query_of(request.args, _batch_id(), 0)
        return downloads.of_many(found.database, query, form, found.channel_names, "transcripts")
    except (Permanent, ValueError) as error:
        abort(400, str(error))


@pages.get("/runbook")
def runbook() -> str:
    """What each trouble means, and what to do."""
    return render_template("runbook.html", text=_runbook())


@cache
def _runbook() -> Markup:
    """The runbook as HTML, each heading with itself (a - for each space) as its id; without the anchors that old
    links from elsewhere lead to."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(re.sub(r'<a id="[^"]*"></a>', "", RUNBOOK))
    for opening, content in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", content.content.replace(" ", "-"))
    return Markup(reader.renderer.render(tokens, reader.options, {}))  # nosec B704  # the project's own file


# --- shared --------------------------------------------------------------------------------------------------


def _text(name: str) -> str:
    """What was asked for, where PostgreSQL can look for it: it knows no NUL."""
    given = request.args.get(name, "").strip()
    if "\0" in given:
        abort(400, f"{name}: there is no such text.")
    return given


def _plain(value: Any) -> Any:
    """A value for a page: nothing for None, and of text what prints."""
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value)


def _moment(when: datetime.datetime | int | None) -> str:
    """A time in UTC, which page.js shows in the reader's zone."""
    if when is None:
        return ""
    at = datetime.datetime.fromtimestamp(when, datetime.UTC) if isinstance(when, int) else when
    at = at.astimezone(datetime.UTC)
    day, clock_time = f"{at:%Y-%m-%d}", f"{at:%H:%M:%S}"
    element = Markup('<time datetime="{0}T{1}Z" title="{0} {1} UTC">{0} {1}</time>')
    return element.format(day, clock_time)


def _explain(error: Exception) -> Any:
    """A page for what went wrong; the reason of what nobody expected is in the log alone."""
    if request.path.startswith(api_errors.PREFIX):
        return api_errors.problem(error)
    if isinstance(error, HTTPException):
        headers = [header for header in error.get_headers() if header[0] != "Content-Type"]
        page = render_template("problem.html", title=error.name, text=error.description)
        return page, error.code or 500, headers
    if (service := unavailable_service(error)) is not None:
        log.warning("%s is unavailable: %s", service, error)
        return render_template(
            "problem.html", title=f"{service} is unavailable", text="Try again when it has recovered."
        ), 503
    log.error("%s", request.path, exc_info=error)
    return render_template("problem.html", title="Something is wrong", text="The log says what."), 500
