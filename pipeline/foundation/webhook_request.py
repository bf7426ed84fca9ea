"""One signed request to the receiver of webhooks, which may be down, slow or wrong: it ends within seconds."""

import contextlib
import hashlib
import hmac
import http.client
import socket
import ssl
import threading
import time
import urllib.parse
from dataclasses import dataclass, field

SECONDS = 10.0  # for the connection, and again for the whole answer
_HEADER = "X-Audio-Pipeline"
_MOST_ERROR = 200  # characters
_NOT_NOW = (408, 425, 429)  # statuses that tell to wait


@dataclass(frozen=True)
class Refusal:
    """Why the receiver has not taken an event, in a line; the status of its answer, where there was one."""

    status: int | None
    problem: str

    @property
    def is_of_the_event(self) -> bool:
        """Whether it is of this event alone; or else the next one would meet the same."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in _NOT_NOW

    def __str__(self) -> str:
        return self.problem


@dataclass(frozen=True)
class Receiver:
    """Where webhooks go: an http or https URL without a login, and the secret that signs them."""

    url: str
    secret: str = field(repr=False)
    seconds: float = SECONDS

    def send(self, event_id: str, event_type: str, body: bytes) -> Refusal | None:
        """Send an event; None where the receiver has taken it (status 200 to 299), or else why not.

        Redirects are not followed, and nothing is read of the answer but its head.
        """
        stamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "audio-pipeline",
            f"{_HEADER}-Event": event_type,
            f"{_HEADER}-Delivery": event_id,
            f"{_HEADER}-Signature": f"t={stamp},v1={signature(self.secret, stamp, body)}",
        }
        try:
            status = self._post(body, headers)
        except OSError as error:
            reason = " ".join(str(error).split())[:_MOST_ERROR]
            return Refusal(None, problem=f"the request failed: {type(error).__name__}: {reason}")
        except (ValueError, http.client.InvalidURL):  # their words hold the address, which may be secret
            return Refusal(None, problem="HTTP cannot hold the address")
        except http.client.HTTPException as error:
            return Refusal(None, problem=f"its answer is no HTTP: {type(error).__name__}")
        return None if 200 <= status < 300 else Refusal(status, problem=f"it answered with status {status}")

    def _post(self, body: bytes, headers: dict[str, str]) -> int:
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port or kind.default_port)
        connected = socket.create_connection((connection.host, connection.port), self.seconds)
        with connected.dup() as same, _ending(same, self.seconds), contextlib.closing(connection):
            connection.sock = connected
            if parts.scheme == "https":
                connection.sock = ssl.create_default_context().wrap_socket(
                    connected, server_hostname=parts.hostname
                )
            connection.request("POST", parts.path or "/", body, headers)
            return connection.getresponse().status


class _ending:
    """Around what waits for a socket: after so many seconds its connection ends, and the wait with an error. Each
    byte of a slow answer begins a timeout of the socket again."""

    def __init__(self, connected: socket.socket, seconds: float) -> None:
        self._socket, self._is_late = connected, False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def _end(self) -> None:
        self._is_late = True
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # the other side was faster
            return

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._timer.cancel()
        if self._is_late:
            raise TimeoutError("no whole answer in time")


def signature(secret: str, stamp: str, body: bytes) -> str:
    """The HMAC-SHA256 of `{stamp}.{body}` in hexadecimal digits; `stamp` is in seconds since 1970."""
    return hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
