"""A receiver of webhooks, as its owner may have made it: it checks signatures, and is slow or wrong on demand."""

import hashlib
import hmac
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from tests.support.servers import HUSH

SECRET = f"{HUSH}-of-webhooks"  # in no log: `Fleet.check` looks for it


@dataclass(frozen=True)
class Got:
    """A request: its path, its headers in lower case, and its JSON."""

    path: str
    headers: dict[str, str]
    event: dict[str, Any]


class WebhookReceiver:
    """Listens on loopback; answers each request with the next of `answers`, and then with `status`. Each is a
    status, the bytes that are sent in place of an answer, or None: no answer until the receiver stops. With
    `drips` the bytes go on, one after the other."""

    def __init__(self, *answers: int | bytes | None) -> None:
        self.answers, self.got = list(answers), list[Got]()
        self.status, self.drips = 204, False
        self._stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """What WEBHOOK_URL is."""
        return f"http://127.0.0.1:{self.port}/hooks"

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        """What it was told, of one type or of all."""
        return [got.event for got in self.got if kind in ("", got.event["type"])]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                check(body, self.headers["X-Audio-Pipeline-Signature"], SECRET)
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.got.append(Got(self.path, headers, json.loads(body)))
                answer = receiver.answers.pop(0) if receiver.answers else receiver.status
                self.close_connection = True
                if isinstance(answer, int):
                    self.send_response(answer)
                    self.send_header("Location", "/elsewhere")
                    self.end_headers()
                elif answer is None:
                    receiver._stopped.wait(60)
                else:
                    self.wfile.write(answer)
                    while receiver.drips and not receiver._stopped.wait(0.1):
                        self.wfile.write(b"x")
                    receiver._stopped.wait(60)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def check(body: bytes, header: str, secret: str) -> None:
    """AssertionError where the signature is not of this body."""
    fields = dict(part.split("=", 1) for part in header.split(","))
    expected = hmac.new(secret.encode(), fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(expected, fields["v1"])
