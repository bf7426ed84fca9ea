"""TLS in front of the servers of the tests, which are built without it: a small terminator, as stunnel is one.

`trustme.CA()` signs, `certificate(authority, "localhost")` is what a server shows.
"""

import contextlib
import socket
import ssl
import threading
from typing import Self

import trustme

from tests.support.child import free_port

_POSTGRES_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # before PostgreSQL's own TLS


def certificate(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """What a server of these names shows, signed by the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    context.set_alpn_protocols(["postgresql", "http/1.1"])
    return context


class Terminator:
    """Listens with TLS on a port of its own and passes the bytes on to a plain server on loopback.

    `context` may be replaced: new connections see the new certificate. `received` is what clients have sent.
    """

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self.port, self.target_port, self.context = free_port(), target_port, context
        self.received = bytearray()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End every connection."""
        for side in self._open:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # also a client that does not like the certificate
            if client.recv(8, socket.MSG_PEEK) == _POSTGRES_SSL_REQUEST:
                client.recv(8)
                client.sendall(b"S")
            secure = self.context.wrap_socket(client, server_side=True)
            server = socket.create_connection(("127.0.0.1", self.target_port))
            self._open += [secure, server]
            threading.Thread(target=self._down, args=(server, secure), daemon=True).start()
            self._up(secure, server)

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                self.received += data
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
        for side in (client, server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
