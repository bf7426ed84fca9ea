"""Who may read the page: the token, wrong tokens, and sessions that end."""

import datetime
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import TooManyRequests
from werkzeug.test import TestResponse

from pipeline.store import tokens
from pipeline.store.database import Database
from pipeline.web.login import GUESS_SECONDS, GUESSES, LOGIN_DAYS, Guesses, Sessions
from pipeline.web.pages import make_app
from pipeline.web.readers import CHECK_SECONDS, TRUST_SECONDS
from tests.support.child import wait_until
from tests.support.fleet import Fleet
from tests.support.site_data import TOKEN, sources

HERE, THERE = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    return make_app(sources(fleet, redis, database))


def log_in(app: Flask, token: str = TOKEN, address: str = HERE, **options: Any) -> FlaskClient:
    """A browser that has given this token."""
    browser = app.test_client()
    browser.environ_base = {**browser.environ_base, "REMOTE_ADDR": address}
    browser.post("/login", data={"token": token}, **options)
    return browser


def copied(browser: FlaskClient) -> dict[str, str]:
    """The cookie of a browser, for whoever has stolen it."""
    cookie = browser.get_cookie("audio-pipeline")
    assert cookie is not None
    return {"Cookie": f"audio-pipeline={cookie.value}"}


# --- sessions ------------------------------------------------------------------------------------------------


def test_the_token_opens_a_session_and_leads_on(app: Flask, fleet: Fleet, redis: Any) -> None:
    browser = app.test_client()
    asked = browser.get("/search?words=a b")
    assert browser.get(asked.location).status_code == 200
    answer = browser.post("/login", data={"token": f" {TOKEN}\n", "next": "/search?words=a+b"})
    assert (answer.status_code, answer.location) == (302, "/search?words=a+b")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie
    assert browser.get("/search?words=a+b").status_code == 200
    assert browser.post("/logout").status_code == 302
    assert browser.get("/").status_code == 302


@pytest.mark.parametrize("token", ["", "no", TOKEN[:-1], TOKEN + "x", "é" * 20, TOKEN.upper()])
def test_another_token_opens_nothing(app: Flask, token: str, caplog: pytest.LogCaptureFixture) -> None:
    browser = app.test_client()
    answer = browser.post("/login", data={"token": token})
    assert answer.status_code == 403
    assert "That is not the token" in answer.text
    assert browser.get("/").status_code == 302
    assert "a wrong token was given" in caplog.text
    assert TOKEN not in caplog.text
    assert not token or token not in caplog.text.replace("nobody", "")


def test_a_new_token_ends_the_sessions_of_the_old_one(fleet: Fleet, redis: Any, database: Database) -> None:
    before, after = (make_app(sources(fleet, redis, database, token=token)) for token in (TOKEN, TOKEN + "2"))
    cookie = before.test_client().post("/login", data={"token": TOKEN}).headers["Set-Cookie"].partition(";")[0]
    answers = [app.test_client(use_cookies=False).get("/", headers={"Cookie": cookie}) for app in (before, after)]
    assert [answer.status_code for answer in answers] == [200, 302]


def test_a_session_ends(app: Flask) -> None:
    cookie = app.test_client().post("/login", data={"token": TOKEN}).headers["Set-Cookie"]
    expires = re.search("Expires=([^;]+)", cookie)
    assert expires is not None
    ends = datetime.datetime.strptime(expires[1], "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=datetime.UTC)
    assert abs((ends - datetime.datetime.now(datetime.UTC)).total_seconds() - 86400 * LOGIN_DAYS) < 3600


@pytest.mark.parametrize(
    "onward", ["https://elsewhere", "//elsewhere", "/\\elsewhere", "elsewhere", "/\r\nX: y", ""]
)
def test_a_login_leads_nowhere_else(app: Flask, onward: str) -> None:
    answer = app.test_client().post("/login", data={"token": TOKEN, "next": onward})
    assert (answer.status_code, answer.location) == (302, "/")


def test_a_copied_cookie_is_worth_nothing_after_the_logout(app: Flask) -> None:
    browser, thief = log_in(app), app.test_client(use_cookies=False)
    stolen = copied(browser)
    assert thief.get("/runbook", headers=stolen).status_code == 200
    browser.post("/logout")
    assert thief.get("/runbook", headers=stolen).status_code == 302
    assert "Log out" not in thief.get("/login", headers=stolen).text


def test_a_logout_ends_one_session_of_several(app: Flask) -> None:
    one, two = log_in(app), log_in(app)
    one.post("/logout")
    assert [browser.get("/runbook").status_code for browser in (one, two)] == [302, 200]


def test_a_session_is_not_renewed_by_its_use(app: Flask) -> None:
    browser = log_in(app)
    assert "Set-Cookie" not in browser.get("/runbook").headers


def test_a_session_ends_on_its_day_however_long_its_cookie_is_kept() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.open(b"one")
    now[0] = 86400.0 * LOGIN_DAYS - 1
    second = sessions.open(b"two")
    assert [sessions.token_of(name) for name in (first, second, "")] == [b"one", b"two", None]
    now[0] += 1
    assert [sessions.token_of(name) for name in (first, second)] == [None, b"two"]


def test_the_cookie_is_for_tls_alone_behind_a_proxy_with_tls(app: Flask) -> None:
    for scheme, is_secure in (("http", False), ("https", True)):
        answer = app.test_client().post("/login", data={"token": TOKEN}, base_url=f"{scheme}://localhost")
        assert ("Secure" in answer.headers["Set-Cookie"]) == is_secure


# --- wrong tokens --------------------------------------------------------------------------------------------


def test_many_wrong_tokens_are_not_heard(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is the right one then; whoever is in stays in, and others come in."""
    inside = log_in(app)
    guesser = app.test_client(use_cookies=False)
    guesser.environ_base = {**guesser.environ_base, "REMOTE_ADDR": HERE}
    for number in range(GUESSES):
        answer = (
            guesser.post("/login", data={"token": f"guess {number}"})
            if number % 2
            else guesser.get("/", headers={"Authorization": f"Bearer guess{number}"})
        )
        assert answer.status_code in (302, 403)
    for token in ("another", TOKEN):
        for answer in (
            guesser.post("/login", data={"token": token}),
            guesser.get("/", headers={"Authorization": f"Bearer {token}"}),
        ):
            assert answer.status_code == 429
            assert 0 < int(answer.headers["Retry-After"]) <= GUESS_SECONDS + 1
            assert "Try again in" in answer.text
    assert inside.get("/runbook").status_code == 200
    assert log_in(app, address=THERE).get("/runbook").status_code == 200
    assert caplog.text.count("a wrong token was given") == GUESSES


def test_an_ipv6_network_guesses_as_one(app: Flask) -> None:
    for number in range(GUESSES):
        log_in(app, "wrong", f"2001:db8::{number}")
    assert log_in(app, TOKEN, "2001:db8::ffff").get("/runbook").status_code == 302
    assert log_in(app, TOKEN, "2001:db8:0:1::1").get("/runbook").status_code == 200


def test_after_a_while_a_token_is_heard_again() -> None:
    now = [1000.0]
    guesses = Guesses(lambda: now[0])
    for number in range(GUESSES):
        now[0] = 1000.0 + number
        guesses.check(HERE)
        guesses.add(HERE)
    with pytest.raises(TooManyRequests) as refused:
        guesses.check(HERE)
    assert refused.value.retry_after == GUESS_SECONDS - GUESSES + 2
    guesses.check(THERE)
    now[0] = 1000.0 + GUESS_SECONDS
    guesses.check(HERE)
    guesses.add(HERE)
    with pytest.raises(TooManyRequests):
        guesses.check(HERE)
    now[0] += GUESS_SECONDS
    guesses.check(HERE)
    assert (list(guesses._wrong), dict(guesses._counts)) == ([], {})  # nothing is kept of who came and went


# --- named tokens --------------------------------------------------------------------------------------------


def test_a_named_token_opens_the_page_and_the_interface(app: Flask, database: Database) -> None:
    token = made(database, "alice")
    browser = log_in(app, token)
    assert browser.get("/runbook").status_code == 200
    assert "Log out" in browser.get("/runbook").text
    assert asked(app, token, "/runbook").status_code == 200
    assert asked(app, token, "/api/v1/labels").status_code == 200
    assert asked(app, token, "/api/v1/labels", kind="bearer").status_code == 200
    browser.post("/logout")
    assert browser.get("/runbook").status_code == 302


@pytest.mark.parametrize(("role", "code"), [("reader", 403), ("operator", 202)])
def test_operators_alone_change_anything(app: Flask, database: Database, role: str, code: int) -> None:
    asking: dict[str, Any] = {"method": "POST", "json": {"remote_path": "/a.tar"}}
    assert asked(app, made(database, "bot", role), "/api/v1/enqueue", **asking).status_code == code
    assert asked(app, TOKEN, "/api/v1/enqueue", **asking).status_code == 403


def test_a_session_of_an_operator_changes_nothing_that_another_site_asks_for(
    app: Flask, database: Database
) -> None:
    """Not even with an Authorization header of whatever proxy is in between."""
    browser = log_in(app, made(database, "olga", "operator"))
    for headers, code in (
        ({}, 403),
        ({"Authorization": "Bearer something-of-the-proxy"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"X-Requested-With": "fetch"}, 202),
    ):
        answer = browser.post("/api/v1/enqueue", json={"remote_path": "/a.tar"}, headers=headers)
        assert answer.status_code == code, headers


def test_programs_that_are_not_admitted_are_told_so(app: Flask, database: Database) -> None:
    for headers in ({}, {"Authorization": "Bearer ap_no"}, {"Authorization": f"Basic {TOKEN}"}):
        for path in ("/api/v1/labels", "/api/v1/nothing", "/api/v1/openapi.json"):
            answer = app.test_client().get(path, headers=headers)
            assert (answer.status_code, answer.mimetype) == (401, "application/problem+json")
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.get_json()["status"] == 401


def test_wrong_named_tokens_count_as_others_do(app: Flask, database: Database) -> None:
    for number in range(GUESSES):
        assert asked(app, f"ap_{number}", "/api/v1/labels").status_code == 401
    answer = asked(app, made(database, "late"), "/api/v1/labels")
    assert (answer.status_code, answer.mimetype) == (429, "application/problem+json")
    assert int(answer.headers["Retry-After"]) > 0


def test_a_revoked_token_and_its_sessions_end_within_half_a_minute(app: Flask, database: Database) -> None:
    now = [1000.0]
    app.extensions["door"].tokens._now = lambda: now[0]
    token = made(database, "carol")
    browser = log_in(app, token)
    assert browser.get("/runbook").status_code == 200
    assert tokens.revoke(database, "carol", "cli:test")
    now[0] += CHECK_SECONDS
    assert browser.get("/runbook").status_code == 302
    assert asked(app, token, "/runbook").status_code == 302
    assert log_in(app, token).get("/runbook").status_code == 302


def test_an_expired_token_and_its_sessions_end_at_once(app: Flask, fleet: Fleet, database: Database) -> None:
    token = made(database, "dora", days=1)
    browser = log_in(app, token)
    app.extensions["door"].tokens._known.clear()
    app.extensions["door"].tokens._now = lambda: 1000.0  # so that it is not looked up again
    fleet.query("UPDATE tokens SET expires_at = now() + interval '1 second'")
    assert browser.get("/runbook").status_code == 200  # and is looked up
    wait_until(lambda: browser.get("/runbook").status_code == 302, "the token expires")
    assert asked(app, token, "/runbook").status_code == 302


def test_the_page_stays_readable_while_postgresql_is_unavailable(app: Flask, database: Database) -> None:
    """For those who were known, and for so long; others are told what is unavailable."""
    now = [1000.0]
    found = app.extensions["door"].tokens
    found._now = lambda: now[0]
    token, other = made(database, "erin"), made(database, "frank")
    browser = log_in(app, token)
    found._database = Database("postgresql://nobody@127.0.0.1:1/nothing")
    for seconds in (CHECK_SECONDS, TRUST_SECONDS - 1):
        now[0] = 1000.0 + seconds
        assert browser.get("/runbook").status_code == 200
    answer = asked(app, other, "/api/v1/labels")
    assert (answer.status_code, "PostgreSQL is unavailable" in answer.text) == (503, True)
    assert asked(app, "wrong", "/runbook").status_code == 302  # no token of ours looks so: nobody is asked
    now[0] = 1000.0 + TRUST_SECONDS
    assert browser.get("/runbook").status_code == 503
    found._database = database
    assert browser.get("/runbook").status_code == 200


def test_a_token_that_is_in_use_is_looked_up_twice_a_minute(app: Flask, database: Database) -> None:
    now = [1000.0]
    found = app.extensions["door"].tokens
    found._now = lambda: now[0]
    browser = log_in(app, made(database, "gina"))
    with counted(found) as looks:
        for _ in range(3):
            assert browser.get("/runbook").status_code == 200
        assert looks == []
        now[0] += CHECK_SECONDS
        for _ in range(3):
            assert browser.get("/runbook").status_code == 200
        assert len(looks) == 1


def test_an_empty_token_of_the_page_opens_nothing(fleet: Fleet, redis: Any, database: Database) -> None:
    app = make_app(sources(fleet, redis, database, token=""))
    for token in ("", " "):
        assert log_in(app, token).get("/runbook").status_code == 302
        assert asked(app, token, "/runbook").status_code == 302
    assert log_in(app, made(database, "hugo")).get("/runbook").status_code == 200


def made(database: Database, name: str, role: str = "reader", days: int | None = None) -> str:
    """A new named token."""
    token = tokens.create(database, name, role, days, "cli:test")
    assert token is not None
    return token


def asked(app: Flask, token: str, path: str, kind: str = "Bearer", **options: Any) -> TestResponse:
    """The answer to a program that sends the token."""
    return app.test_client().open(path, headers={"Authorization": f"{kind} {token}"}, **options)


@contextmanager
def counted(known: Any) -> Iterator[list[int]]:
    """How often PostgreSQL is asked for a token meanwhile."""
    looks: list[int] = []
    real, transaction = known._database, known._database.transaction

    class Counted:
        def transaction(self, *given: Any) -> Any:
            looks.append(1)
            return transaction(*given)

    known._database = Counted()
    yield looks
    known._database = real
