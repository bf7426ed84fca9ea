"""tests/faults/proxy.py: each fault is the one that it is called, and ends when it is switched off."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.faults.proxy import Proxy
from tests.support.child import wait_until


class Echo:
    """Sends back what it gets, and counts it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.got = b""
        self.ends = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=self.serve, args=(self.listener.accept()[0],), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while data := client.recv(65536):
                self.got += data
                client.sendall(data)
        self.ends += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as proxy:
        yield proxy


@contextmanager
def client_of(proxy: Proxy, seconds: float = 10) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", proxy.port), seconds) as client:
        yield client


def ask(client: socket.socket, data: bytes = b"hello") -> bytes:
    client.sendall(data)
    return client.recv(65536)


def test_it_passes_both_ways_and_the_end_of_each(proxy: Proxy, echo: Echo) -> None:
    with client_of(proxy) as client:
        assert ask(client) == b"hello"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b""
    wait_until(lambda: echo.ends == 1, "the end at the server")
    assert proxy.brought == [5]


def test_it_passes_more_than_it_can_hold(proxy: Proxy) -> None:
    data, came = bytes(8 * 2**20), 0
    with client_of(proxy) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        while came < len(data):
            came += len(client.recv(65536))
        sender.join()
    assert proxy.brought == [len(data)]


def test_it_delays(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        proxy.delays(0.2)
        began = time.monotonic()
        assert ask(client) == b"hello"
        assert 0.4 <= time.monotonic() - began < 5
        proxy.passes()
        assert ask(client) == b"hello"


def test_what_it_holds_goes_on_afterwards(proxy: Proxy, echo: Echo) -> None:
    with client_of(proxy, 0.3) as client:
        ask(client)
        proxy.holds()
        with client_of(proxy, 0.3) as other:  # it can be reached, that is all
            other.sendall(b"held ")
            with pytest.raises(TimeoutError):
                ask(client, b"too")
        assert b"held" not in echo.got
        proxy.passes()
        client.settimeout(10)
        assert client.recv(10) == b"too"
    wait_until(lambda: b"held" in echo.got and echo.ends == 2, "what a client that has gone had sent")


def test_what_it_held_may_stay_dead(proxy: Proxy, echo: Echo) -> None:
    with client_of(proxy, 0.3) as client:
        ask(client)
        proxy.holds()
        with pytest.raises(TimeoutError):
            ask(client, b"lost")
        proxy.passes(dead=True)
        with pytest.raises(TimeoutError):
            client.recv(10)
        with client_of(proxy) as other:
            assert ask(other, b"new") == b"new"
    wait_until(lambda: echo.ends == 1, "the end of the new one")
    assert echo.got == b"hellonew"


def test_it_cuts_what_is_open_and_what_is_new(proxy: Proxy, echo: Echo) -> None:
    with client_of(proxy) as client:
        ask(client)
        proxy.cuts()
        assert client.recv(10) == b""
        with client_of(proxy) as other:
            assert other.recv(10) == b""
    wait_until(lambda: echo.ends == 1, "the end at the server")
    proxy.passes()
    with client_of(proxy) as client:
        assert ask(client) == b"hello"


def test_it_resets_what_is_open_and_what_is_new(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        ask(client)
        proxy.resets()
        with pytest.raises(ConnectionResetError):
            client.recv(10)
        with pytest.raises(ConnectionResetError), client_of(proxy) as other:
            other.recv(10)
    proxy.passes()
    with client_of(proxy) as client:
        assert ask(client) == b"hello"


def test_it_truncates(proxy: Proxy) -> None:
    with client_of(proxy) as client:
        ask(client)
        proxy.truncates(3)
        assert ask(client) == b"hel"
        assert client.recv(10) == b""
        with client_of(proxy) as other:
            assert ask(other) == b"hel"
            assert other.recv(10) == b""
    proxy.passes()
    with client_of(proxy) as client:
        assert ask(client) == b"hello"


def test_it_cuts_single_connections_where_it_is_configured_to(proxy: Proxy) -> None:
    proxy.cut_at = [7]
    with client_of(proxy) as client, client_of(proxy) as other:
        assert [ask(client), ask(other)] == [b"hello", b"hello"]
        assert ask(client) == b"he"
        assert client.recv(10) == b""
        assert ask(other) == b"hello"


def test_it_drops_one_reply(proxy: Proxy, echo: Echo) -> None:
    with client_of(proxy) as client, client_of(proxy) as other:
        proxy.drop_replies = [b"two"]
        assert ask(client, b"one") == b"one"
        assert ask(client, b"two") == b""
        assert ask(other, b"two") == b"two"
    assert echo.got == b"onetwotwo"
    assert (proxy.dropped, proxy.drop_replies) == ([b"two"], [])


def test_it_answers_for_the_server() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server, Proxy(server.server_address[1]) as proxy:
        threading.Thread(target=server.serve_forever, daemon=True).start()

        def put() -> int:
            url = f"http://127.0.0.1:{proxy.port}/"
            try:
                with urllib.request.urlopen(urllib.request.Request(url, bytes(2**22), method="PUT")) as answer:
                    return int(answer.status)
            except urllib.error.HTTPError as error:
                return error.code

        assert put() == 204
        proxy.answers(503)
        assert [put(), put()] == [503, 503]
        proxy.passes()
        assert put() == 204
        server.shutdown()
