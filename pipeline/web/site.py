"""The pages. Nothing here changes anything in Redis, PostgreSQL or S3, and every page is made anew for its reader.

What the pages show is hostile: names out of archives, jobs that anybody queued, words that a model heard. Jinja
escapes all of it, `_plain` shows what does not print as \\xNN, and the browser is told to run and load nothing but
what is ours.
"""

import datetime
import hashlib
import hmac
import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    redirect,
    render_template,
    request,
    session,
    stream_with_context,
    url_for,
)
from markdown_it import MarkdownIt
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from pipeline.foundation.errors import Permanent, unavailable_service
from pipeline.foundation.formatting import amount, clock, count, duration, printable
from pipeline.jobs.batches import all_queues, is_id
from pipeline.operations.failures import Filter, failed_reasons, read_failures, warned_codes, warned_files
from pipeline.operations.status import host_state, observe, settled_files
from pipeline.store import subtitles
from pipeline.store.batch_history import read_batch, read_batch_files, read_batches
from pipeline.store.database import Database
from pipeline.store.subtitles import html_language, legend, one_line, reading, readings
from pipeline.store.transcripts import Query, read_file, read_history, search

LOGIN_DAYS = 7
ROWS, HITS, REASONS = 100, 20, 20  # on a page
MOST_PAGES = 10_000
AGES = {  # of failures: what it is called, and hours
    "1h": ("the last hour", 1),
    "24h": ("the last day", 24),
    "7d": ("the last week", 168),
    "": ("ever", None),
}
FORMATS = {"txt": "text/plain", "vtt": "text/vtt", "srt": "application/x-subrip"}
RUNBOOK = Path(__file__).parents[2] / "docs" / "runbook.md"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " media-src 'self' {}; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
log = logging.getLogger(__name__)
pages = Blueprint("pages", __name__)


@dataclass(frozen=True)
class Sources:
    """What the pages are made of. `token` is what a reader has to know; `opus_address` gives a presigned address
    for the key of an Opus, below `media_origin` (scheme, host and port). `channel_names` are those of the speakers
    of a recording's channels."""

    redis: Any
    database: Database
    queues: list[str]
    token: str
    opus_address: Callable[[str], str]
    media_origin: str
    channel_names: tuple[str, ...] = ()


def make_app(sources: Sources) -> Flask:
    """The application for a WSGI server."""
    app = Flask(__name__)
    app.jinja_options = {"finalize": _plain, "trim_blocks": True, "lstrip_blocks": True}
    # Another token ends every session that was begun with this one.
    app.secret_key = hmac.digest(sources.token.encode(), b"audio-pipeline session", hashlib.sha256)
    app.config.update(
        SESSION_COOKIE_NAME="audio-pipeline",
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=datetime.timedelta(days=LOGIN_DAYS),
        MAX_CONTENT_LENGTH=64 * 1024,
    )
    app.extensions["sources"] = sources
    app.jinja_env.globals.update(
        amount=amount,
        count=count,
        duration=duration,
        host_state=host_state,
        one_line=one_line,
        reading=partial(reading, names=sources.channel_names),
        settled_files=settled_files,
    )
    app.jinja_env.filters.update(moment=_moment, clock=clock)
    app.register_blueprint(pages)
    app.before_request(_admit)
    app.after_request(_harden)
    app.register_error_handler(Exception, _explain)
    return app


def _sources() -> Sources:
    found: Sources = current_app.extensions["sources"]
    return found


# --- who may read --------------------------------------------------------------------------------------------


def _admit() -> AnyResponse | None:
    """Nobody without the token, but to the login and what it looks like."""
    if request.endpoint in ("pages.login", "static") or session.get("in"):
        return None
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind == "Bearer" and _is_token(given):
        return None
    if request.method != "GET":
        abort(403)
    return redirect(url_for("pages.login", next=request.full_path.rstrip("?")))


def _is_token(given: str) -> bool:
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), _sources().token.encode())


@pages.route("/login", methods=["GET", "POST"])
def login() -> Any:
    """Ask for the token."""
    wrong = False
    if request.method == "POST":
        if _is_token(request.form.get("token", "")):
            session["in"] = session.permanent = True
            return redirect(_own_path(request.form.get("next", "")))
        wrong = True
        log.warning("a wrong token was given by %s", request.remote_addr)
    onward = _own_path(request.values.get("next", ""))
    return render_template("login.html", wrong=wrong, next=onward), 403 if wrong else 200


@pages.post("/logout")
def logout() -> AnyResponse:
    """End the session."""
    session.clear()
    return redirect(url_for("pages.login"))


def _own_path(given: str) -> str:
    """The path to go on to, where it is one of ours: //elsewhere and /\\elsewhere lead away."""
    return given if given.startswith("/") and given[1:2] not in ("/", "\\") and given.isprintable() else "/"


def _harden(response: Response) -> Response:
    """Nothing but our own scripts and styles, no address told to others, nothing kept by a cache."""
    response.headers["Content-Security-Policy"] = _POLICY.format(_sources().media_origin)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    if request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
    return response


# --- pages ---------------------------------------------------------------------------------------------------


@pages.get("/")
def fleet() -> str:
    """How the fleet is."""
    found = _sources()
    now = observe(found.redis, found.queues, found.database)
    return render_template("fleet.html", now=now, most=ROWS)


@pages.get("/batches")
def batches() -> Any:
    """The batches, the newest first; or the way to the one that was asked for."""
    before, wanted = request.args.get("before", ""), _text("batch")
    if is_id(wanted):
        return redirect(url_for("pages.batch", batch_id=wanted))
    found = read_batches(_sources().database, before, ROWS + 1)
    return render_template(
        "batches.html", batches=found[:ROWS], more=len(found) > ROWS, before=before, wrong=wanted
    ), 400 if wanted else 200


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
    wanted = Filter(_text("batch"), "", _text("reason"), since)
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


@pages.get("/search")
def find() -> str | tuple[str, int]:
    """The recordings in which words were said."""
    asked, problem, hits = request.args, "", []
    number = int(asked["page"]) if asked.get("page", "").isdecimal() and int(asked["page"]) < MOST_PAGES else 0
    fields = ("words", "since", "until", "language", "tag", "batch")
    if any(asked.get(field) for field in fields) or number:
        try:
            query = Query(
                _text("words"), _day("since"), _day("until"), _text("language"), _text("tag"), _text("batch"),
                HITS + 1, HITS * number,
            )  # fmt: skip
            hits = search(_sources().database, query)
        except (Permanent, ValueError) as error:
            problem = str(error)
    page = {field: asked.get(field) for field in fields if asked.get(field)}
    more = len(hits) > HITS
    return (
        render_template(
            "search.html",
            asked=asked,
            page=page,
            hits=hits[:HITS],
            more=more,
            number=number,
            first=HITS * number + 1,
            problem=problem,
        ),
        400 if problem else 200,
    )


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
        formats=FORMATS,
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


@pages.get("/files/<int:audio_id>/transcript.<suffix>")
def transcript(audio_id: int, suffix: str) -> Response:
    """The transcript as a file."""
    found = read_file(_sources().database, audio_id) if suffix in FORMATS else None
    if found is None:
        abort(404, f"There is no such transcript of a file {audio_id}.")
    pieces = {"txt": subtitles.txt, "vtt": subtitles.vtt, "srt": subtitles.srt}[suffix](
        found, _sources().channel_names
    )
    encoded = (piece.encode("utf-8", "backslashreplace") for piece in pieces)
    response = Response(stream_with_context(encoded), mimetype=FORMATS[suffix])
    response.headers["Content-Disposition"] = f'attachment; filename="{audio_id}.{suffix}"'
    return response


@pages.get("/runbook")
def runbook() -> str:
    """What each trouble means, and what to do."""
    return render_template("runbook.html", text=_runbook())


@cache
def _runbook() -> Markup:
    """The runbook as HTML, each heading with itself (a - for each space) as its id."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(RUNBOOK.read_text())
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


def _day(name: str) -> datetime.datetime | None:
    given = request.args.get(name, "").strip()
    if not given:
        return None
    try:
        return datetime.datetime.fromisoformat(given).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise ValueError(f"{name}: {given} is no day; give one as 2025-06-22") from None


def _plain(value: Any) -> Any:
    """A value for a page: nothing for None, and of text what prints."""
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return printable(value)


def _moment(when: datetime.datetime | int | None) -> str:
    if when is None:
        return ""
    at = datetime.datetime.fromtimestamp(when, datetime.UTC) if isinstance(when, int) else when
    return f"{at:%Y-%m-%d %H:%M:%S}"


def _explain(error: Exception) -> tuple[str, int]:
    """A page for what went wrong; the reason of what nobody expected is in the log alone."""
    if isinstance(error, HTTPException):
        return render_template("problem.html", title=error.name, text=error.description), error.code or 500
    if (service := unavailable_service(error)) is not None:
        log.warning("%s is unavailable: %s", service, error)
        return render_template(
            "problem.html", title=f"{service} is unavailable", text="Try again when it has recovered."
        ), 503
    log.error("%s", request.path, exc_info=error)
    return render_template("problem.html", title="Something is wrong", text="The log says what."), 500
