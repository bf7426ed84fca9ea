"""Whom an authenticating proxy names: believed from its own address alone."""

import http.client
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import waitress.wasyncore
from flask import Flask

from pipeline.store.database import Database
from pipeline.web.login import Access
from pipeline.web.pages import make_app
from pipeline.web.readers import Proxy, Reader
from pipeline.web.server import PEER, make_server
from tests.support.fleet import Fleet
from tests.support.site_data import TOKEN, sources

PROXY, OTHER = "127.0.0.2", "127.0.0.3"
HEADER, GROUPS = "X-Forwarded-User", "X-Forwarded-Groups"
NAMED = {HEADER: "alice@example.org"}
JOB = '{"remote_path": "/a.tar"}'
Ask = Callable[..., int]
SECONDS = 10


def sent(peer: str = PROXY, user: str = "alice", groups: str = "") -> dict[str, str]:
    """The environment of a request."""
    return {PEER: peer, "HTTP_X_FORWARDED_USER": user, "HTTP_X_FORWARDED_GROUPS": groups}


def test_the_proxy_names_the_reader() -> None:
    proxy = Proxy(PROXY, HEADER)
    assert proxy.reader(sent()) == Reader("proxy:alice", "reader")
    assert proxy.reader(sent(user="José".encode().decode("latin-1"))) == Reader("proxy:José", "reader")
    assert Proxy(PROXY, HEADER, "operator").reader(sent()) == Reader("proxy:alice", "operator")


@pytest.mark.parametrize(
    "given",
    [
        sent(peer=OTHER), sent(peer=""), {"HTTP_X_FORWARDED_USER": "alice", "REMOTE_ADDR": PROXY}, sent(user=""),
        sent(user=" "), sent(user="alice, mallory"), sent(user="a\x1b[31m"), sent(user="a" * 201), {PEER: PROXY},
    ],
)  # fmt: skip
def test_nobody_else_does_and_no_name_is_nobody(given: dict[str, str]) -> None:
    assert Proxy(PROXY, HEADER).reader(given) is None


@pytest.mark.parametrize(
    ("groups", "role"),
    [
        ("", "reader"),
        ("staff", "reader"),
        ("staff, audio-operators", "operator"),
        ("audio-operators-not", "reader"),
    ],
)
def test_a_group_makes_operators(groups: str, role: str) -> None:
    found = Proxy(PROXY, HEADER, "reader", GROUPS, "audio-operators").reader(sent(groups=groups))
    assert found == Reader("proxy:alice", role)


def test_without_a_group_nobody_is_an_operator_by_it() -> None:
    assert Proxy(PROXY, HEADER).reader(sent(groups="")) == Reader("proxy:alice", "reader")


# --- over real connections -----------------------------------------------------------------------------------


@pytest.fixture
def app(fleet: Fleet, redis: Any, database: Database) -> Flask:
    proxy = Proxy(PROXY, HEADER, "reader", GROUPS, "operators")
    return make_app(sources(fleet, redis, database, access=Access(database, proxy)))


@pytest.fixture
def ask(app: Flask) -> Iterator[Ask]:
    """`ask(from, path, headers, method, body)`: the status of an answer to a connection from that address."""
    server = make_server(app, "127.0.0.1", 0, proxy=PROXY)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()

    def asked(
        source: str, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: str = ""
    ) -> int:
        connection = http.client.HTTPConnection(
            "127.0.0.1", server.effective_port, timeout=SECONDS, source_address=(source, 0)
        )
        given = {"Content-Type": "application/json", **(headers or {})}
        connection.request(method, path, body or None, given)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    yield asked
    waitress.wasyncore.close_all(server._map)
    server.task_dispatcher.shutdown()
    thread.join(SECONDS)


def test_the_proxy_is_believed_over_a_connection(ask: Ask) -> None:
    assert ask(PROXY, "/runbook", NAMED) == 200
    assert ask(PROXY, "/api/v1/labels", NAMED) == 200
    assert ask(PROXY, "/runbook") == 302
    assert ask(PROXY, "/api/v1/labels", {HEADER: ""}) == 401
    assert ask(PROXY, "/api/v1/labels", {"Authorization": f"Bearer {TOKEN}"}) == 200


@pytest.mark.parametrize(
    "headers",
    [
        NAMED,
        {**NAMED, "X-Forwarded-For": PROXY},
        {**NAMED, "X-Forwarded-For": f"{PROXY}, {PROXY}", "Forwarded": f"for={PROXY}"},
        {**NAMED, "X-Real-IP": PROXY, "X-Client-IP": PROXY, "Remote-Addr": PROXY, "REMOTE_ADDR": PROXY},
        {**NAMED, PEER: PROXY, "audio-pipeline.peer": PROXY},
        {"X_Forwarded_User": "alice"},
    ],
)
def test_nobody_else_is_whatever_headers_are_sent(ask: Ask, headers: dict[str, str]) -> None:
    assert ask(OTHER, "/runbook", headers) == 302
    assert ask(OTHER, "/api/v1/labels", headers) == 401


def test_a_header_with_underscores_is_not_the_proxys(ask: Ask) -> None:
    """A proxy that removes X-Forwarded-User from what clients send lets X_Forwarded_User pass."""
    assert ask(PROXY, "/runbook", {"X_Forwarded_User": "mallory"}) == 302


def test_for_whom_the_proxy_asks_does_not_make_it_another(ask: Ask) -> None:
    assert ask(PROXY, "/runbook", {**NAMED, "X-Forwarded-For": "203.0.113.9"}) == 200


def test_operators_of_the_proxy_change_what_their_own_page_asks_for(ask: Ask) -> None:
    """Their browser sends the proxy's cookie whoever makes it ask, and the proxy may add an Authorization."""
    operator = {**NAMED, GROUPS: "staff,operators"}
    ours = {"Sec-Fetch-Site": "same-origin"}
    assert ask(PROXY, "/api/v1/enqueue", {**operator, **ours}, "POST", JOB) == 202
    assert ask(PROXY, "/api/v1/enqueue", {**NAMED, **ours}, "POST", JOB) == 403
    assert ask(PROXY, "/api/v1/enqueue", {**operator, "Authorization": "Bearer id-token"}, "POST", JOB) == 403
    assert ask(OTHER, "/api/v1/enqueue", {**operator, **ours}, "POST", JOB) == 401


def test_an_id_token_that_the_proxy_passes_on_is_no_guess(ask: Ask) -> None:
    for _ in range(12):
        assert ask(PROXY, "/runbook", {**NAMED, "Authorization": "Bearer id-token"}) == 200
    assert ask(PROXY, "/runbook", {"Authorization": f"Bearer {TOKEN}"}) == 200


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"WEB_PROXY_HEADER": HEADER}, "WEB_PROXY_HEADER needs WEB_PROXY_ADDRESS"),
        ({"WEB_PROXY_ADDRESS": "proxy.example.org"}, "give an IP address"),
        ({"WEB_PROXY_ADDRESS": PROXY, "WEB_PROXY_HEADER": "X Forwarded"}, "WEB_PROXY_HEADER is"),
        (
            {"WEB_PROXY_ADDRESS": PROXY, "WEB_PROXY_HEADER": HEADER, "WEB_PROXY_ROLE": "admin"},
            "give reader or operator",
        ),
        ({"WEB_PROXY_GROUPS_HEADER": GROUPS}, "belong together"),
        ({"WEB_PROXY_OPERATOR_GROUP": "operators"}, "belong together"),
        ({"WEB_AUDIT": "perhaps"}, "give on or off"),
    ],
)
def test_the_command_refuses_what_cannot_be_meant(fleet: Fleet, settings: dict[str, str], complaint: str) -> None:
    done = fleet.control("web", WEB_TOKEN=TOKEN, **settings)
    assert (done.returncode, complaint in done.stderr) == (2, True), done.stderr
    assert "Traceback" not in done.stderr
