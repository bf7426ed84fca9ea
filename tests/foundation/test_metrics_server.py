"""What answers Prometheus: others that connect hold up neither a scrape nor the process."""

import socket
import threading
import urllib.request
from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry, Counter

from pipeline.foundation.metrics_server import MOST_CONNECTIONS, MetricsServer
from tests.support.child import wait_until

SECONDS = 10


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("seen", "What was seen.", registry=registry).inc()
    return registry


def scrape(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/metrics", timeout=SECONDS) as answer:
        return str(answer.read(), "utf-8")


def connected(server: MetricsServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_address[1]), SECONDS)


@pytest.mark.parametrize("begun", [b"", b"GET /metrics HTTP/1.1\r\nX: "])
def test_idle_connections_take_few_threads_and_hold_up_no_scrape(
    registry: CollectorRegistry, begun: bytes
) -> None:
    before = threading.active_count()
    with MetricsServer(("127.0.0.1", 0), registry, 600) as server, ExitStack() as stack:
        server.start()
        for _ in range(5 * MOST_CONNECTIONS):
            sock = stack.enter_context(connected(server))
            sock.sendall(begun)
        assert "seen_total 1.0" in scrape(server)
        wait_until(lambda: threading.active_count() - before <= MOST_CONNECTIONS + 1, "the end of the others")
        stack.close()
        wait_until(lambda: threading.active_count() - before <= 1, "the end of all")
        server.shutdown()


def test_a_silent_connection_ends(registry: CollectorRegistry) -> None:
    with MetricsServer(("127.0.0.1", 0), registry, 0.1) as server:
        server.start()
        with connected(server) as sock:
            assert sock.recv(1) == b""
        server.shutdown()


def test_a_client_that_goes_away_is_no_traceback(
    registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    with MetricsServer(("127.0.0.1", 0), registry) as server:
        server.start()
        for _ in range(10):
            with connected(server) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset
                sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert "seen_total 1.0" in scrape(server)
        wait_until(lambda: threading.active_count() - before <= 1, "the end of all")
        server.shutdown()
    assert capsys.readouterr().err == ""
