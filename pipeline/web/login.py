"""Who may read the page: those who know its token, for a while, in a session that ends with it.

Sessions and wrong tokens are in the memory of this process alone: a restart ends every session.
"""

import collections
import datetime
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, abort, current_app, redirect, render_template, request, session, url_for
from flask.sessions import SecureCookieSessionInterface
from werkzeug.exceptions import TooManyRequests
from werkzeug.wrappers import Response

from pipeline.foundation.formatting import count
from pipeline.web.server import MOST_BODY_BYTES, network_of

LOGIN_DAYS = 7
GUESSES, GUESS_SECONDS = 10, 60  # wrong tokens that are heard from one network in so long
log = logging.getLogger(__name__)
door = Blueprint("door", __name__)


class Door:
    """The token, the sessions that are open, and the latest wrong tokens. Threads may share it."""

    def __init__(self, token: str, now: Callable[[], float] = time.monotonic) -> None:
        self._token, self._now, self._lock = token.encode(), now, threading.Lock()
        self._ends: dict[str, float] = {}  # of each session
        self._wrong: collections.deque[tuple[float, str]] = collections.deque()  # times and networks
        self._guesses: collections.Counter[str] = collections.Counter()  # in `_wrong`, of each network

    def knows(self, given: str, network: str) -> bool:
        """Whether that is the token. A wrong one counts; `TooManyRequests`, whatever is given, where there were
        too many from this network."""
        with self._lock:
            self._forget_old()
            if self._guesses[network] >= GUESSES:
                wait = next(at for at, other in self._wrong if other == network) + GUESS_SECONDS - self._now()
                raise TooManyRequests(f"Try again in {count(int(wait) + 1, 'second')}.", retry_after=int(wait) + 1)
            if hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token):
                return True
            self._wrong.append((self._now(), network))
            self._guesses[network] += 1
            return False

    def open(self) -> str:
        """A new session, by its id."""
        with self._lock:
            name = secrets.token_urlsafe(16)
            self._ends = {old: end for old, end in self._ends.items() if end > self._now()}
            self._ends[name] = self._now() + 86400 * LOGIN_DAYS
            return name

    def is_open(self, name: str) -> bool:
        """Whether the session goes on."""
        return self._ends.get(name, 0) > self._now()

    def close(self, name: str) -> None:
        """End a session."""
        with self._lock:
            self._ends.pop(name, None)

    def _forget_old(self) -> None:
        while self._wrong and self._wrong[0][0] <= self._now() - GUESS_SECONDS:
            _, network = self._wrong.popleft()
            self._guesses[network] -= 1
            if not self._guesses[network]:
                del self._guesses[network]


class Cookies(SecureCookieSessionInterface):
    """Sessions whose cookie is for TLS alone where a proxy that speaks TLS has asked."""

    def get_cookie_secure(self, app: Flask) -> bool:
        """Whether the browser may send it over TLS only."""
        return request.is_secure


def guard(app: Flask, token: str) -> None:
    """Keep everybody who does not know the token out of the application."""
    app.extensions["door"] = Door(token)
    app.secret_key = secrets.token_bytes(32)
    app.session_interface = Cookies()
    app.config.update(
        SESSION_COOKIE_NAME="audio-pipeline",
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,  # or a session would never end
        PERMANENT_SESSION_LIFETIME=datetime.timedelta(days=LOGIN_DAYS),
        MAX_CONTENT_LENGTH=MOST_BODY_BYTES,
    )
    app.jinja_env.globals["is_in"] = _is_in
    app.register_blueprint(door)
    app.before_request(_admit)


def _door() -> Door:
    found: Door = current_app.extensions["door"]
    return found


def _is_in() -> bool:
    return _door().is_open(session.get("id", ""))


def _admit() -> Response | None:
    """Nobody without the token, but to the login and what it looks like."""
    if request.endpoint in ("door.login", "static") or _is_in():
        return None
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind == "Bearer" and _is_token(given):
        return None
    if request.method != "GET":
        abort(403)
    return redirect(url_for("door.login", next=request.full_path.rstrip("?")))


def _is_token(given: str) -> bool:
    client = request.remote_addr or ""
    if _door().knows(given, network_of(client)):
        return True
    log.warning("a wrong token was given by %s", client)
    return False


@door.route("/login", methods=["GET", "POST"])
def login() -> Any:
    """Ask for the token."""
    wrong = False
    if request.method == "POST":
        if _is_token(request.form.get("token", "")):
            session["id"], session.permanent = _door().open(), True
            return redirect(_own_path(request.form.get("next", "")))
        wrong = True
    onward = _own_path(request.values.get("next", ""))
    return render_template("login.html", wrong=wrong, next=onward), 403 if wrong else 200


@door.post("/logout")
def logout() -> Response:
    """End the session."""
    _door().close(session.pop("id", ""))
    return redirect(url_for("door.login"))


def _own_path(given: str) -> str:
    """The path to go on to, where it is one of ours: //elsewhere and /\\elsewhere lead away."""
    return given if given.startswith("/") and given[1:2] not in ("/", "\\") and given.isprintable() else "/"
