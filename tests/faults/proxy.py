"""A TCP proxy on loopback that stands before a server and makes the faults of a network and of a service.

What becomes of its connections is switched while it runs:

    passes     everything goes through
    delays     every piece waits so long, in both directions
    holds      a black hole: connections are taken, and nothing comes or goes. `passes()` afterwards lets go on
               what was held; `passes(dead=True)` leaves the connections of that time silent for ever
    cuts       connections end, new ones at once (FIN)
    resets     the same with RST
    truncates  every connection ends after so many more bytes from the server
    answers    HTTP: every request is answered with this status, whatever it asks

And to single connections: `drop_replies`, byte strings: a request that holds one of them reaches the server, and
its connection ends before the answer, once for each; `cut_at`, byte counts: the first connection that brings so
many from the server ends there (`cut_resets`: with RST), and so on.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self

_READ = 2**16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class _Connection:
    """One client's connection, and the proxy's own to the server."""

    def __init__(self, *ends: asyncio.StreamWriter) -> None:
        self.ends = ends
        self.most: int | None = None  # bytes from the server, before it ends
        self.is_dead = False
        self.unanswered = b""  # what its request held whose reply is to be dropped
        self.brought = 0  # bytes from the server

    def end(self, with_reset: bool = False) -> None:
        """End it in both directions, at once."""
        for end in self.ends:
            if with_reset:
                with contextlib.suppress(OSError):  # the other end was faster
                    end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.transport.abort()
            else:
                end.close()


class Proxy:
    """The proxy before the server at the loopback port `target_port`; a context manager."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_at: list[int] = []
        self.cut_resets = False
        self.brought: list[int] = []  # bytes from the server, by connection
        self.drop_replies: list[bytes] = []
        self.dropped: list[bytes] = []  # of those
        self._fault, self._seconds, self._status, self._page = "passes", 0.0, 0, b""
        self._most: int | None = None
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Condition()

    def __enter__(self) -> Self:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._do(asyncio.start_server(self._take, sock=self._listener, limit=2**18))
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)

    # --- what is switched ------------------------------------------------------------------------------

    def passes(self, dead: bool = False) -> None:
        """Everything goes through; with `dead`, connections that are open now stay silent for ever."""
        self._switch("passes", lambda connection: setattr(connection, "is_dead", connection.is_dead or dead))

    def delays(self, seconds: float) -> None:
        """Every piece of data waits so long, in both directions."""
        self._seconds = seconds
        self._switch("delays")

    def holds(self) -> None:
        """Take connections, and let nothing come or go."""
        self._switch("holds")

    def cuts(self) -> None:
        """End every connection, and each new one at once."""
        self._switch("cuts", _Connection.end)

    def resets(self) -> None:
        """As `cuts`, with RST."""
        self._switch("resets", lambda connection: connection.end(with_reset=True))

    def truncates(self, most: int) -> None:
        """End each connection when it has brought so many more bytes from the server."""
        self._most = most
        self._switch("truncates", lambda connection: setattr(connection, "most", connection.brought + most))

    def answers(self, status: int, page: bytes = b"") -> None:
        """Answer each HTTP request with this status and page."""
        self._status, self._page = status, page
        self._switch("answers", _Connection.end)

    def _switch(self, fault: str, change: Callable[[_Connection], object] = bool) -> None:
        async def switch() -> None:
            self._fault = fault
            for connection in self._open:
                connection.most = None
                change(connection)
            async with self._changed:
                self._changed.notify_all()

        self._do(switch())

    def _do(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run it in the proxy's thread, to its end."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    # --- connections -----------------------------------------------------------------------------------

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        try:
            # where an end is lost, where a request is not finished, and where the proxy is closed
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault in ("cuts", "resets"):
            _Connection(writer).end(with_reset=self._fault == "resets")
            return
        if self._fault == "answers":
            await self._answer(reader, writer)
            return
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target_port, limit=2**18)
        connection = _Connection(writer, to_server)
        connection.most = self._most if self._fault == "truncates" else None
        self.brought.append(0)
        number = len(self.brought) - 1
        self._open.add(connection)
        try:
            await asyncio.gather(
                self._up(reader, to_server, connection), self._down(from_server, writer, connection, number)
            )
        finally:
            self._open.remove(connection)
            to_server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One answer, and the end. What else the client sends is read away, or RST would overtake the answer."""
        asked = await reader.readuntil(b"\r\n\r\n")
        size = len(self._page)
        writer.write(b"HTTP/1.1 %d Fault\r\nContent-Length: %d\r\n" % (self._status, size))
        writer.write(b"Connection: close\r\n\r\n" + (b"" if asked.startswith(b"HEAD ") else self._page))
        await writer.drain()
        writer.write_eof()
        while await reader.read(_READ):
            pass

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, of: _Connection) -> None:
        """From the client to the server."""
        while data := await reader.read(_READ):
            await self._gate(of)
            of.unanswered = of.unanswered or next((text for text in self.drop_replies if text in data), b"")
            writer.write(data)
            await writer.drain()
        await self._gate(of)
        writer.write_eof()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, of: _Connection, number: int
    ) -> None:
        """From the server to the client."""
        while data := await reader.read(_READ):
            await self._gate(of)
            of.brought += len(data)
            self.brought[number] = of.brought
            if of.unanswered in self.drop_replies:
                self.drop_replies.remove(of.unanswered)
                self.dropped.append(of.unanswered)
                of.end()
                return
            if (excess := self._excess(of)) is not None:
                writer.write(data[: max(0, len(data) - excess)])
                of.end(with_reset=self.cut_resets)
                return
            writer.write(data)
            await writer.drain()
        await self._gate(of)
        writer.write_eof()

    def _excess(self, of: _Connection) -> int | None:
        """How many bytes too many have come; None where the connection goes on."""
        most = of.most
        if self.cut_at and of.brought >= self.cut_at[0]:
            most = self.cut_at.pop(0)
        return of.brought - most if most is not None and of.brought >= most else None

    async def _gate(self, of: _Connection) -> None:
        """What the fault makes of the next piece."""
        if self._fault == "delays":
            await asyncio.sleep(self._seconds)
        async with self._changed:
            await self._changed.wait_for(lambda: self._fault != "holds" and not of.is_dead)

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()
