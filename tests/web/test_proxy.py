"""The page behind the web servers of docs/operating.md and docs/access.md."""

import http.client
import http.server
import re
import shutil
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from pipeline.web.login import GUESSES
from tests.support.child import Child, free_port, wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.site_data import TOKEN
from tests.support.steps import add_batch, log_of

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin:/usr/local/bin")
READER = "127.0.0.2"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: apt install nginx-light")


def documented(
    page_port: int, port: int, certificate: Path, folder: Path, document: str = "operating.md", login_port: int = 0
) -> str:
    """The settings of the document for these ports and this certificate, in a whole file."""
    text = (PROJECT / "docs" / document).read_text()
    (server,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    server = server.replace("127.0.0.1:4180", f"127.0.0.1:{login_port}")
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("127.0.0.1:8080", f"127.0.0.1:{page_port}"),
        ("/etc/ssl/audio.example.org.pem", f"{certificate}"),
        ("/etc/ssl/private/audio.example.org.key", f"{certificate}"),
    ):
        assert old in server
        server = server.replace(old, new)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"daemon off; pid {folder}/pid; events {{}} http {{ {paths} access_log off; {server} }}"


@pytest.fixture
def proxied(fleet: Fleet, tmp_path: Path) -> Iterator[tuple[Child, http.client.HTTPSConnection]]:
    """The page, and a connection to it through nginx."""
    web, address = fleet.page(TOKEN)
    with behind_nginx(address, tmp_path) as connection:
        yield web, connection


@contextmanager
def behind_nginx(
    address: str, tmp_path: Path, document: str = "operating.md", login_port: int = 0
) -> Iterator[http.client.HTTPSConnection]:
    """A connection to the page at this address through nginx as the document sets it up."""
    authority, certificate, port = trustme.CA(), tmp_path / "page.pem", free_port()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    settings = tmp_path / "nginx.conf"
    page_port = urllib.parse.urlsplit(address).port or 0
    settings.write_text(documented(page_port, port, certificate, tmp_path, document, login_port))
    nginx = Child([str(NGINX), "-c", str(settings), "-e", "stderr"], tmp_path / "nginx.log")
    nginx.start()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connection = http.client.HTTPSConnection(
        "localhost", port, timeout=10, source_address=(READER, 0), context=context
    )

    def answers() -> bool:
        nginx.require_running()
        try:
            connection.connect()
        except ConnectionRefusedError:
            return False
        return True

    wait_until(answers, "nginx")
    yield connection
    connection.close()
    nginx.stop()


def test_a_login_through_a_proxy(proxied: tuple[Child, http.client.HTTPSConnection]) -> None:
    _, connection = proxied
    connection.request("POST", "/login", urllib.parse.urlencode({"token": TOKEN}), FORM)
    answer = connection.getresponse()
    answer.read()
    assert (answer.status, answer.headers["Location"]) == (302, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "Secure" in cookie
    connection.request("GET", "/runbook", headers={"Cookie": cookie.partition(";")[0]})
    answer = connection.getresponse()
    assert (answer.status, b"Log out" in answer.read()) == (200, True)
    connection.request("POST", "/login", b"x" * 2**17, FORM)
    assert connection.getresponse().status == 413


def test_the_proxy_and_not_the_client_says_whom_it_serves(
    proxied: tuple[Child, http.client.HTTPSConnection],
) -> None:
    web, connection = proxied
    for number in range(GUESSES + 1):
        connection.request("POST", "/login", "token=x", {**FORM, "X-Forwarded-For": f"203.0.113.{number}"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == (403 if number < GUESSES else 429)
    assert log_of(web).count(f"a wrong token was given by {READER}") == GUESSES


# --- a proxy that authenticates ------------------------------------------------------------------------------


class Login(http.server.BaseHTTPRequestHandler):
    """What oauth2-proxy answers: to /oauth2/auth 202 and the user of the cookie, or 401; its login page."""

    def do_GET(self) -> None:
        user = dict(USERS).get(self.headers.get("Cookie", ""))
        is_asked = self.path == "/oauth2/auth"
        self.send_response(200 if not is_asked else 202 if user else 401)
        if is_asked and user:
            self.send_header("X-Auth-Request-Email", user[0])
            self.send_header("X-Auth-Request-Groups", user[1])
        self.send_header("Content-Length", "6" if not is_asked else "0")
        self.end_headers()
        self.wfile.write(b"" if is_asked else b"log in")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


USERS = (
    ("session=alice", ("alice@example.org", "staff")),
    ("session=olga", ("olga@example.org", "staff,audio-operators")),
)
FORGED = {"X-Forwarded-Email": "mallory@example.org", "X-Forwarded-Groups": "audio-operators"}


@pytest.fixture
def authenticated(fleet: Fleet, tmp_path: Path) -> Iterator[http.client.HTTPSConnection]:
    """The page with the settings of docs/access.md, through its nginx and what answers as oauth2-proxy does."""
    settings = re.findall(r"^(WEB_PROXY_\w+)=(\S+)$", (PROJECT / "docs" / "access.md").read_text(), re.MULTILINE)
    assert len(settings) == 4
    login = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Login)
    threading.Thread(target=login.serve_forever, daemon=True).start()
    _, address = fleet.page("", **dict(settings))
    with behind_nginx(address, tmp_path, "access.md", login.server_port) as connection:
        yield connection
    login.shutdown()
    login.server_close()


def told(
    connection: http.client.HTTPSConnection, path: str, headers: dict[str, str], body: str = ""
) -> tuple[int, str]:
    """The status and the text of an answer."""
    kind = {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"}
    connection.request("POST" if body else "GET", path, body or None, {**kind, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_users_of_an_authenticating_proxy(authenticated: http.client.HTTPSConnection, fleet: Fleet) -> None:
    add_batch(fleet, files=1)
    alice, olga = ({"Cookie": cookie} for cookie, _ in USERS)
    job = '{"remote_path": "/recordings/monday.tar"}'
    for headers in ({}, FORGED, {"Cookie": "session=mallory", **FORGED}):
        assert told(authenticated, "/runbook", headers) == (403, "log in")
        assert told(authenticated, "/api/v1/labels", headers)[1] == "log in"
    status, text = told(authenticated, "/runbook", alice)
    assert (status, "Runbook" in text, "Log out" in text) == (200, True, False)
    assert told(authenticated, "/api/v1/enqueue", {**alice, **FORGED}, job)[0] == 403
    assert told(authenticated, "/api/v1/enqueue", olga, job)[0] == 202
    assert [row for (row,) in fleet.query("SELECT actor FROM audit WHERE action = 'enqueue'")] == [
        "proxy:olga@example.org"
    ]
