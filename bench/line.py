"""A line of a given rate in front of a port on loopback, as a network between two machines would be."""

import asyncio
import threading
import time
from typing import Self

PIECE = 64 * 1024


class Line:
    """Forwards connections to `target` on 127.0.0.1; at most `rate` bytes a second each way, in all."""

    def __init__(self, target: int, rate: float) -> None:
        self.target, self.rate = target, rate
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._free_at = {"up": 0.0, "down": 0.0}  # when each way has sent what it was given

    def __enter__(self) -> Self:
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="line", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", self.target)
        await asyncio.gather(self._pass("up", reader, there[1]), self._pass("down", there[0], writer))

    async def _pass(self, way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(PIECE):
                now = time.monotonic()
                self._free_at[way] = max(self._free_at[way], now) + len(piece) / self.rate
                await asyncio.sleep(self._free_at[way] - now)
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass  # either end may hang up
        finally:
            writer.close()
