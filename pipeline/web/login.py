"""Who is admitted to the page and the interface for programs: whoever has a token, sent with each request or once,
for a session; and whom an authenticating proxy names.

Sessions and wrong tokens are in the memory of this process alone: a restart ends every session.
"""

import collections
import datetime
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    current_app,
    g,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import TooManyRequests
from werkzeug.wrappers import Response as AnyResponse

from pipeline.foundation.formatting import count
from pipeline.store.database import Database
from pipeline.store.tokens import digest_of
from pipeline.web.api_errors import PREFIX
from pipeline.web.readers import Proxy, Reader, Tokens
from pipeline.web.reading_log import ReadingLog, entry_of
from pipeline.web.server import MOST_BODY_BYTES, network_of

LOGIN_DAYS = 7
GUESSES, GUESS_SECONDS = 10, 60  # wrong tokens that are heard from one network in so long
_OPEN = ("door.login", "door.logout", "static")  # to everybody
log = logging.getLogger(__name__)
door = Blueprint("door", __name__)


@dataclass(frozen=True)
class Access:
    """Where tokens are looked up, which proxy is believed, and where it is noted who reads; None: nowhere."""

    database: Database
    proxy: Proxy | None = None
    log: ReadingLog | None = None


class Guesses:
    """The latest wrong tokens, by network. Threads may share it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._wrong: collections.deque[tuple[float, str]] = collections.deque()  # times and networks
        self._counts: collections.Counter[str] = collections.Counter()  # in `_wrong`, of each network

    def check(self, network: str) -> None:
        """`TooManyRequests` where there were too many from this network: no token of it is heard."""
        with self._lock:
            self._forget_old()
            if self._counts[network] < GUESSES:
                return
            wait = next(at for at, other in self._wrong if other == network) + GUESS_SECONDS - self._now()
            raise TooManyRequests(f"Try again in {count(int(wait) + 1, 'second')}.", retry_after=int(wait) + 1)

    def add(self, network: str) -> None:
        """Count a wrong token."""
        with self._lock:
            self._wrong.append((self._now(), network))
            self._counts[network] += 1

    def _forget_old(self) -> None:
        while self._wrong and self._wrong[0][0] <= self._now() - GUESS_SECONDS:
            _, network = self._wrong.popleft()
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]


class Sessions:
    """The sessions that are open, each with the digest of the token that opened it. Threads may share it."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._lock = now, threading.Lock()
        self._open: dict[str, tuple[float, bytes]] = {}  # when each ends, and its token

    def open(self, digest: bytes) -> str:
        """A new session, by its id."""
        with self._lock:
            name, now = secrets.token_urlsafe(16), self._now()
            self._open = {old: (end, of) for old, (end, of) in self._open.items() if end > now}
            self._open[name] = now + 86400 * LOGIN_DAYS, digest
            return name

    def token_of(self, name: str) -> bytes | None:
        """The digest of the token of a session; None where it has ended."""
        end, digest = self._open.get(name, (0.0, b""))
        return digest if end > self._now() else None

    def close(self, name: str) -> None:
        """End a session."""
        with self._lock:
            self._open.pop(name, None)


class Door:
    """Who is known, who is in, and who guesses."""

    def __init__(self, token: str, access: Access) -> None:
        self.access, self.tokens = access, Tokens(token, access.database)
        self.sessions, self.guesses = Sessions(), Guesses()


class Cookies(SecureCookieSessionInterface):
    """Sessions whose cookie is for TLS alone where a proxy that speaks TLS has asked."""

    def get_cookie_secure(self, app: Flask) -> bool:
        """Whether the browser may send it over TLS only."""
        return request.is_secure


def guard(app: Flask, token: str, access: Access) -> None:
    """Admit nobody to the application but who has the token or a named one, or whom the proxy names. Who was
    admitted is `flask.g.reader`; whether by a token in the request itself, which no browser sends unasked, is
    `flask.g.by_bearer`."""
    app.extensions["door"] = Door(token, access)
    app.secret_key = secrets.token_bytes(32)
    app.session_interface = Cookies()
    app.config.update(
        SESSION_COOKIE_NAME="audio-pipeline",
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,  # or a session would never end
        PERMANENT_SESSION_LIFETIME=datetime.timedelta(days=LOGIN_DAYS),
        MAX_CONTENT_LENGTH=MOST_BODY_BYTES,
    )
    app.jinja_env.globals.update(is_in=_is_in, has_session=_has_session)
    app.register_blueprint(door)
    app.before_request(_admit)
    app.after_request(_note)


def _door() -> Door:
    found: Door = current_app.extensions["door"]
    return found


def _is_in() -> bool:
    return g.get("reader") is not None


def _has_session() -> bool:
    return bool(g.get("by_session"))


def _admit() -> AnyResponse | None:
    """Nobody but readers, except to the login and what it looks like."""
    g.reader, g.by_bearer, g.by_session = None, False, False
    if request.endpoint in _OPEN:
        return None
    g.reader = _by_proxy() or _by_session() or _by_bearer()
    if g.reader is not None:
        return None
    if request.path.startswith(PREFIX):
        abort(401, "Send a token: Authorization: Bearer ...")
    if request.method != "GET":
        abort(403)
    return redirect(url_for("door.login", next=request.full_path.rstrip("?")))


def _by_proxy() -> Reader | None:
    proxy = _door().access.proxy
    return proxy.reader(request.environ) if proxy else None


def _by_session() -> Reader | None:
    digest = _door().sessions.token_of(session.get("id", ""))
    reader = _door().tokens.reader(digest) if digest else None
    g.by_session = reader is not None
    return reader


def _by_bearer() -> Reader | None:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    reader = _by_token(given.strip()) if kind.lower() == "bearer" else None
    g.by_bearer = reader is not None
    return reader


def _by_token(given: str) -> Reader | None:
    """Whose token that is; a wrong one counts. `TooManyRequests`, whatever is given, where there were too many."""
    client = request.remote_addr or ""
    guesses, network = _door().guesses, network_of(client)
    guesses.check(network)
    reader = _door().tokens.reader_of(given)
    if reader is None:
        guesses.add(network)
        log.warning("a wrong token was given by %s", client)
    return reader


def _note(response: Response) -> Response:
    """Note in the audit log what was read."""
    reading_log, reader = _door().access.log, g.get("reader")
    is_read = reader is not None and response.status_code < 400
    if reading_log is not None and is_read and (entry := entry_of(request)):
        reading_log.add(reader.actor, *entry)
    return response


@door.route("/login", methods=["GET", "POST"])
def login() -> Any:
    """Ask for a token."""
    wrong = False
    if request.method == "POST":
        given = request.form.get("token", "").strip()
        if _by_token(given) is not None:
            session["id"], session.permanent = _door().sessions.open(digest_of(given)), True
            return redirect(_own_path(request.form.get("next", "")))
        wrong = True
    onward = _own_path(request.values.get("next", ""))
    return render_template("login.html", wrong=wrong, next=onward), 403 if wrong else 200


@door.post("/logout")
def logout() -> AnyResponse:
    """End the session."""
    _door().sessions.close(session.pop("id", ""))
    return redirect(url_for("door.login"))


def _own_path(given: str) -> str:
    """The path to go on to, where it is one of ours: //elsewhere and /\\elsewhere lead away."""
    return given if given.startswith("/") and given[1:2] not in ("/", "\\") and given.isprintable() else "/"
