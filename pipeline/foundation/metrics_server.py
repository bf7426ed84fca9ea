"""What answers Prometheus. Whoever can reach it takes a few connections of the process, for a moment."""

import contextlib
import logging
import socket
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

MOST_CONNECTIONS = 20  # each has a thread
SILENT_SECONDS = 5  # that a client may be
log = logging.getLogger(__name__)


class MetricsServer(ThreadingHTTPServer):
    """A registry at an address and port of this host; OSError where it cannot be served there.

    Of too many connections the oldest is closed, and one whose client is silent for `silent_seconds`.
    """

    def __init__(
        self, listen: tuple[str, int], registry: CollectorRegistry, silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self._connections: dict[Any, None] = {}  # the oldest first
        self._lock = threading.Lock()
        self.address_family, _, _, _, address = socket.getaddrinfo(*listen, type=socket.SOCK_STREAM)[0]
        handler = MetricsHandler.factory(registry)
        super().__init__(address[:2], type("Handler", (handler,), {"timeout": silent_seconds}))  # type: ignore[arg-type]

    def start(self) -> None:
        """Answer from now on, in threads that keep no process from its end."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own."""
        with self._lock:
            self._connections[request] = None
            oldest = next(iter(self._connections)) if len(self._connections) > MOST_CONNECTIONS else None
            self._connections.pop(oldest, None)
        if oldest is not None:
            with contextlib.suppress(OSError):  # it has just ended by itself
                oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say that a client went away meanwhile, or what else has gone wrong."""
        log.debug("a scrape by %s broke off", client_address, exc_info=True)
