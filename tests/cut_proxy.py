"""A TCP proxy on loopback that cuts connections after so many bytes from the server."""

import contextlib
import socket
import struct
import threading
from typing import Self

from tests.child import free_port


class CutProxy:
    """The first connection that brings `cuts[0]` bytes is cut there, and so on; the others pass whole.

    The client sees the end of the connection, or, with `reset`, a connection reset.
    """

    def __init__(self, target_port: int, *cuts: int, reset: bool = False) -> None:
        self.port, self.target_port = free_port(), target_port
        self.cuts, self.reset = list(cuts), reset
        self.brought: list[int] = []  # bytes from the server, by connection
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for side in self._open:
            side.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = self._listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.target_port))
                self._open += [client, server]
                self.brought.append(0)
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                number = len(self.brought) - 1
                threading.Thread(target=self._down, args=(server, client, number), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, server: socket.socket, client: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                self.brought[number] += len(data)
                if self.cuts and self.brought[number] >= self.cuts[0]:
                    self.cuts.pop(0)
                    if self.reset:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        client.shutdown(socket.SHUT_RD)  # ends the wait for the client; says nothing to it
                        client.close()
                    break
                client.sendall(data)
        for side in (client, server):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
