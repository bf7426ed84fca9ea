"""The server of the page against strangers: whoever has no token blocks nobody and fills nothing."""

import http.client
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import waitress.wasyncore

from pipeline.web.server import MOST_BODY_BYTES, MOST_CONNECTIONS, MOST_OF_NETWORK, Limits, make_server, network_of
from tests.support.child import Child
from tests.support.fleet import Fleet
from tests.support.site_data import TOKEN

SECONDS = 10  # that an answer may take
Connect = Callable[[], socket.socket]


@pytest.fixture
def page(fleet: Fleet) -> tuple[Child, str, int]:
    """The page as the operator starts it: its process, address and port."""
    web, address = fleet.page(TOKEN)
    url = urllib.parse.urlsplit(address)
    return web, url.hostname or "", url.port or 0


def answer(host: str, port: int, method: str = "GET", path: str = "/login", **asked: Any) -> tuple[int, bytes]:
    """The status and the body of an answer, over a connection of its own."""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    connection.request(method, path, **asked)
    given = connection.getresponse()
    body = given.read()
    connection.close()
    return given.status, body


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side has ended the connection; waits for it as long as the socket does."""
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


BEGUN = [  # what has come of a request
    b"",
    b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\ntoken=",
    b"GET /login HTTP/1.1\r\nX: ",
]


@pytest.mark.parametrize("begun", BEGUN)
def test_idle_connections_do_not_block_the_page(page: tuple[Child, str, int], begun: bytes) -> None:
    _, host, port = page
    with ExitStack() as stack:
        for _ in range(2 * MOST_CONNECTIONS):
            sock = stack.enter_context(socket.create_connection((host, port), SECONDS))
            sock.sendall(begun)
        assert answer(host, port)[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_is_refused_and_not_kept(page: tuple[Child, str, int], chunked: bool) -> None:
    web, host, port = page
    size = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(300 * 2**20)}
    head = "".join(f"{name}: {value}\r\n" for name, value in size.items())
    with socket.create_connection((host, port), SECONDS) as sock:
        sock.sendall(f"POST /login HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        sent, piece = 0, b"x" * 2**16
        try:
            while sent < 64 * 2**20:
                sock.sendall(b"10000\r\n" + piece + b"\r\n" if chunked else piece)
                sent += len(piece)
        except ConnectionError:  # the answer may be lost to it
            pass
    assert sent < 16 * 2**20, "it was read to its end"
    assert web.process is not None
    kept = [path.readlink().name for path in Path(f"/proc/{web.process.pid}/fd").iterdir()]
    assert not [name for name in kept if "(deleted)" in name], kept
    assert answer(host, port)[0] == 200


def test_a_large_body_is_refused(page: tuple[Child, str, int]) -> None:
    _, host, port = page
    status, _ = answer(host, port, "POST", body=b"token=" + b"x" * MOST_BODY_BYTES)
    assert status == 413
    assert answer(host, port, "POST", body=b"token=" + b"x" * (MOST_BODY_BYTES // 2))[0] == 403


def test_long_headers_are_refused(page: tuple[Child, str, int]) -> None:
    _, host, port = page
    assert answer(host, port, headers={"Cookie": "x" * 2**15})[0] == 431


# --- with short limits, in this process ----------------------------------------------------------------------


def said(environ: dict[str, Any], start: Any) -> list[bytes]:
    """A small application: what it was asked, by whom and how."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['REMOTE_ADDR']} {environ['wsgi.url_scheme']}".encode()]


class Stream:
    """Ends of streams, as an application gives them on /endless and /slow."""

    def __init__(self) -> None:
        self.ended, self.go_on = threading.Event(), threading.Event()

    def __call__(self, environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        try:
            if environ["PATH_INFO"] == "/endless":
                while True:
                    yield b"x" * 2**16
            yield b"begun, "
            assert self.go_on.wait(SECONDS)
            yield b"ended"
        finally:
            self.ended.set()


@pytest.fixture
def stream(limits: Limits) -> Iterator[tuple[Stream, int]]:
    """An application that streams, and its port on 127.0.0.1."""
    application = Stream()
    with served(application, limits) as port:
        yield application, port


@contextmanager
def served(application: Callable[..., Any], limits: Limits) -> Iterator[int]:
    """A server of the application; gives its port on 127.0.0.1."""
    server = make_server(application, "127.0.0.1", 0, limits)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield server.effective_port
    waitress.wasyncore.close_all(server._map)
    server.task_dispatcher.shutdown()
    thread.join(SECONDS)


@pytest.fixture
def port(limits: Limits) -> Iterator[int]:
    """The port of the small application on 127.0.0.1, held to these limits."""
    with served(said, limits) as port:
        yield port


@pytest.mark.parametrize("limits", [Limits(request_seconds=1, idle_seconds=60)])
@pytest.mark.parametrize("begun", BEGUN[1:])
def test_a_request_has_to_come_in_time_however_it_drips(port: int, begun: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.sendall(begun)
        deadline, since = time.monotonic() + SECONDS, time.monotonic()
        sock.settimeout(0.2)
        while time.monotonic() < deadline:
            try:
                sock.sendall(b"x")  # not silent for a moment
                if sock.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert 1 <= time.monotonic() - since < SECONDS


@pytest.mark.parametrize("limits", [Limits(request_seconds=60, idle_seconds=1)])
def test_an_idle_connection_ends(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        assert is_closed(sock)


@pytest.mark.parametrize("limits", [Limits(idle_seconds=1)])
def test_a_client_that_takes_nothing_of_a_long_answer_ends_it(stream: tuple[Stream, int]) -> None:
    """Or it would have a thread of the server, and what the answer is made of, for ever."""
    application, port = stream
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert application.ended.wait(SECONDS)


@pytest.mark.parametrize("limits", [Limits(idle_seconds=1)])
def test_an_answer_that_is_long_in_coming_is_waited_for(stream: tuple[Stream, int]) -> None:
    application, port = stream
    threading.Timer(3, application.go_on.set).start()  # the server looks for idle ones every second
    assert answer("127.0.0.1", port, path="/slow") == (200, b"begun, ended")


@pytest.mark.parametrize("limits", [Limits(connections=4, of_network=4)])
def test_the_connection_that_waits_longest_makes_room(port: int) -> None:
    with ExitStack() as stack:
        first, second, *_ = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS)) for _ in range(4)
        ]
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # no longer the one that waits longest
        assert first.recv(100).startswith(b"HTTP/1.1 200")
        stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
        assert is_closed(second)
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert first.recv(100)


@pytest.mark.parametrize("limits", [Limits(connections=8, of_network=2)])
def test_one_address_takes_no_room_of_others(port: int) -> None:
    with ExitStack() as stack:
        other = stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS, ("127.0.0.2", 0)))
        many = [stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS)) for _ in range(6)]
        assert [is_closed(sock) for sock in many[:4]] == [True] * 4
        for sock in (other, *many[4:]):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert sock.recv(100)


@pytest.mark.parametrize("limits", [Limits()])
def test_a_proxy_on_this_host_tells_whom_it_serves(port: int) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9, 2001:db8::7", "X-Forwarded-Proto": "https"}
    assert answer("127.0.0.1", port, path="/", headers=headers) == (200, b"2001:db8::7 https")
    assert answer("127.0.0.1", port, path="/") == (200, b"127.0.0.1 http")
    connection = http.client.HTTPConnection("127.0.0.1", port, SECONDS, ("127.0.0.2", 0))
    connection.request("GET", "/", headers=headers)
    assert connection.getresponse().read() == b"127.0.0.2 http"  # whom nobody believes
    connection.close()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("::1", "::"),
        ("unknown", "unknown"),
        ("x" * 500, "x" * 100),
        ("", ""),
    ],
)
def test_who_has_an_ipv6_address_has_all_of_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_one_address_may_have_several_browsers() -> None:
    assert 2 * 6 < MOST_OF_NETWORK < MOST_CONNECTIONS  # a browser opens six
