"""A line of a given rate in front of a port on loopback, as a network between two machines would be.

It is a process of its own, so that two lines do not wait for each other.
"""

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import Self

from tests.support.fleet import PROJECT

PIECE = 64 * 1024
BURST_SECONDS = 0.02  # of its rate, that it makes up for when it was asked late: what a switch keeps


class Line:
    """Forwards connections to `target` on 127.0.0.1; at most `rate` bytes a second each way, in all."""

    def __init__(self, target: int, rate: float) -> None:
        self.target, self.rate = target, rate
        self.port = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "bench.line", str(self.target), str(self.rate)]
        self._process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class _Way:
    """One direction: when it has sent what it was given."""

    def __init__(self, rate: float) -> None:
        self.rate, self.free_at = rate, 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # either end may hang up
            while piece := await reader.read(PIECE):
                now = time.monotonic()
                self.free_at = max(self.free_at, now - BURST_SECONDS) + len(piece) / self.rate
                if self.free_at > now:
                    await asyncio.sleep(self.free_at - now)
                writer.write(piece)
                await writer.drain()
        writer.close()


async def _serve(target: int, rate: float) -> None:
    up, down = _Way(rate), _Way(rate)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(up.carry(reader, there[1]), down.carry(there[0], writer))

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
