"""Who may read the page: the token, wrong tokens, and sessions that end."""

import datetime
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.exceptions import TooManyRequests

from pipeline.store.database import Database
from pipeline.web.login import GUESS_SECONDS, GUESSES, LOGIN_DAYS, Door
from pipeline.web.pages import make_app
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
    door = Door(TOKEN, lambda: now[0])
    first = door.open()
    now[0] = 86400.0 * LOGIN_DAYS - 1
    second = door.open()
    assert (door.is_open(first), door.is_open(second), door.is_open("")) == (True, True, False)
    now[0] += 1
    assert (door.is_open(first), door.is_open(second)) == (False, True)


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
    door = Door(TOKEN, lambda: now[0])
    for number in range(GUESSES):
        now[0] = 1000.0 + number
        assert not door.knows("wrong", HERE)
    with pytest.raises(TooManyRequests) as refused:
        door.knows(TOKEN, HERE)
    assert refused.value.retry_after == GUESS_SECONDS - GUESSES + 2
    now[0] = 1000.0 + GUESS_SECONDS
    assert door.knows(TOKEN, HERE)
    assert not door.knows("wrong", HERE)
    with pytest.raises(TooManyRequests):
        door.knows(TOKEN, HERE)
    now[0] += GUESS_SECONDS
    assert door.knows(TOKEN, HERE)
    assert (list(door._wrong), dict(door._guesses)) == ([], {})  # nothing is kept of who came and went
