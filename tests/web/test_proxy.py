"""The page behind the web server of docs/operating.md."""

import http.client
import re
import shutil
import ssl
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pipeline.web.login import GUESSES
from tests.support.child import Child, free_port, wait_until
from tests.support.fleet import PROJECT, Fleet
from tests.support.site_data import TOKEN
from tests.support.steps import log_of

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/bin:/usr/local/bin")
READER = "127.0.0.2"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
pytestmark = pytest.mark.skipif(NGINX is None, reason="no nginx: apt install nginx-light")


def documented(page_port: int, port: int, certificate: Path, folder: Path) -> str:
    """The settings of the document for these ports and this certificate, in a whole file."""
    text = (PROJECT / "docs" / "operating.md").read_text()
    (server,) = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
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
    authority, certificate, port = trustme.CA(), tmp_path / "page.pem", free_port()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    settings = tmp_path / "nginx.conf"
    settings.write_text(documented(urllib.parse.urlsplit(address).port or 0, port, certificate, tmp_path))
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
    yield web, connection
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
