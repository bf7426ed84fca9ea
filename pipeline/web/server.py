"""The server of the page: waitress, within limits that hold before anybody has shown a token.

A connection that waits for its client makes room for a new one, so that idle ones block nobody; a request has to
be there in time and is small. A request that is being answered is never cut off by these limits.
"""

import ipaddress
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher

MOST_BODY_BYTES = 64 * 1024  # what is sent is a token, or a small job
MOST_HEADER_BYTES = 32 * 1024
MOST_CONNECTIONS = 100
MOST_OF_NETWORK = 50  # of these: a browser opens six, and behind a proxy all have its address
THREADS = 4  # requests at a time; one more than there are connections to PostgreSQL
PEER = "audio_pipeline.peer"  # in the environment of a request: who is connected, which no header changes
_MOST_NAME = 100  # characters of an address that is none, as a proxy may pass on


@dataclass(frozen=True)
class Limits:
    """What a client may take: connections in all and of one network, seconds until a request that was begun is
    there as a whole, and until a connection that is idle, or takes no answer, is closed."""

    connections: int = MOST_CONNECTIONS
    of_network: int = MOST_OF_NETWORK
    request_seconds: int = 15
    idle_seconds: int = 30


class Connection(HTTPChannel):
    """A connection that knows since when it waits for its client."""

    def __init__(self, server: Any, sock: Any, addr: Any, adj: Any, map: Any = None) -> None:
        self.waits_since, self.network = time.monotonic(), network_of(addr[0])
        super().__init__(server, sock, addr, adj, map=map)

    def received(self, data: bytes) -> bool:
        """Take in a piece of a request; the time that a request may take begins with its first."""
        if self.request is None:
            self.waits_since = time.monotonic()
        return bool(super().received(data))

    def service(self) -> None:
        """Answer a request; then the connection waits for the next."""
        super().service()
        self.waits_since = time.monotonic()

    def is_stuck(self, since: float) -> bool:
        """Whether the client has taken nothing of an answer since then, by `time.time`."""
        with self.outbuf_lock:
            return bool(self.total_outbufs_len and self.last_activity < since)


class Server(TcpWSGIServer):
    """waitress with `Limits`."""

    channel_class = Connection

    def __init__(self, application: Any, limits: Limits, **options: Any) -> None:
        self.limits = limits
        super().__init__(application, **options)
        self.application: Any = _noting_peer(self.application)

    def handle_accept(self) -> None:
        """Accept a connection; where there are too many, the one that has waited longest for its client ends."""
        known = set(self.active_channels)
        super().handle_accept()
        for number in set(self.active_channels) - known:
            self._make_room(self.active_channels[number].network)

    def _make_room(self, network: str) -> None:
        waiting = [channel for channel in self.active_channels.values() if not channel.will_close]
        neighbours = [channel for channel in waiting if channel.network == network]
        if len(neighbours) > self.limits.of_network:
            _end_longest_waiting(neighbours)
        elif len(waiting) > self.limits.connections:
            _end_longest_waiting(waiting)

    def maintenance(self, now: float) -> None:
        """End the connections that are idle, that take nothing of an answer, or whose request is not there in
        time."""
        super().maintenance(now)
        for channel in list(self.active_channels.values()):
            if channel.is_stuck(now - self.limits.idle_seconds):
                channel.handle_close()  # at once: a socket that takes nothing is never ready to be told
                continue
            if (
                channel.request is not None
                and time.monotonic() - channel.waits_since > self.limits.request_seconds
            ):
                channel.will_close = True


def _noting_peer(application: Callable[..., Any]) -> Callable[..., Any]:
    """The application, told in PEER who is connected, before a proxy's headers say for whom that is."""

    def told(environ: dict[str, Any], start_response: Any) -> Any:
        environ[PEER] = environ["REMOTE_ADDR"]
        return application(environ, start_response)

    return told


def _end_longest_waiting(channels: Iterable[Connection]) -> None:
    """The newest of them has no request yet, so there is always one to end."""
    min((channel for channel in channels if not channel.requests), key=_waits_since).will_close = True


def _waits_since(channel: Connection) -> float:
    return channel.waits_since


def make_server(
    application: Callable[..., Any], host: str, port: int, limits: Limits | None = None, proxy: str = ""
) -> Server:
    """A server of a WSGI application at an address of this host; `run` serves until SystemExit is raised in it.
    OSError where it cannot listen there.

    A proxy at the address `proxy`, by default one on this host, is believed when it says for whom it asks, and
    whether by TLS; nobody else is.
    """
    limits = limits or Limits()
    options = Adjustments(
        host=host,
        port=port,
        ident="",
        connection_limit=10 * limits.connections,  # never reached: beyond it nobody at all would be let in
        max_request_body_size=MOST_BODY_BYTES,
        max_request_header_size=MOST_HEADER_BYTES,
        channel_timeout=limits.idle_seconds,
        cleanup_interval=1,
        asyncore_use_poll=True,
        log_socket_errors=False,  # of clients that go away
        trusted_proxy=proxy or ("::1" if ":" in host else "127.0.0.1"),
        trusted_proxy_headers="x-forwarded-for x-forwarded-proto",
    )
    tasks = ThreadedTaskDispatcher()
    tasks.set_thread_count(THREADS)
    sockets: dict[int, Any] = {}
    servers = [  # localhost may be two addresses; each server answers for all that are in `sockets`
        Server(application, limits, map=sockets, dispatcher=tasks, adj=options, sockinfo=sockinfo)
        for sockinfo in options.listen
    ]
    return servers[0]


def network_of(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, all of which its owner has. Text
    that is no address, as a proxy may pass on, counts as itself."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_MOST_NAME]
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((found, 64), strict=False).network_address)
    return str(found)
