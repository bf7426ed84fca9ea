"""Two Redis servers, a primary and its replica, and the one address that leads to the primary.

The address is a proxy, as a managed service has a name that is moved: new connections reach the primary of the
moment, and those that are open stay where they are. The replica follows the primary through a proxy of its own,
`link`: what is written while that holds is lost when the primary dies.
"""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import redis

from tests.faults.proxy import Proxy
from tests.support.child import wait_until
from tests.support.servers import Valkey

FOLLOWS_SECONDS = 60.0  # a replica starts again with all that the primary has
# Redis waits for more replicas before it sends one all that it has, and long for one that is silent.
SETTINGS = {"repl-diskless-sync-delay": "0", "repl-timeout": "10"}


class RedisPair:
    """A primary that runs already, a replica that is started in `folder`; a context manager."""

    def __init__(self, folder: Path, primary: Valkey) -> None:
        self.primary, self.replica = primary, Valkey(folder)
        self.settings = dict(SETTINGS)
        self.address, self.link = Proxy(primary.port), Proxy(primary.port)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.address)
        self._stack.enter_context(self.link)
        self.replica.start()
        self.follow()
        return self

    def __exit__(self, *_: object) -> None:
        self.replica.stop()
        self._stack.close()

    # --- the replica -----------------------------------------------------------------------------------

    def follow(self) -> None:
        """Have the replica, which runs, follow the primary, and wait until it has all that the primary has."""
        self.link.target_port = self.primary.port
        self.link.passes()
        with client(self.primary) as primary, client(self.replica) as replica:
            for name, value in self.settings.items():
                primary.config_set(name, value)
                replica.config_set(name, value)
            replica.execute_command("REPLICAOF", "127.0.0.1", self.link.port)
            wait_until(
                lambda: replica.info("replication")["master_link_status"] == "up", "a replica", FOLLOWS_SECONDS
            )
            self.wait_until_same(primary)

    def wait_until_same(self, asked: Any) -> None:
        """Wait until the replica has what `asked`, a client of the primary, has written so far."""
        wait_until(lambda: asked.wait(1, 1000) == 1, "a replica that has everything", FOLLOWS_SECONDS)

    def repair(self) -> None:
        """Start the server that has died, and have it follow; what it alone knew is lost."""
        self.replica.start()
        self.follow()

    # --- failovers -------------------------------------------------------------------------------------

    def planned(self) -> None:
        """The two change places, and nothing is lost. Open connections of the address stay on the old primary,
        which takes no more writes."""
        with client(self.primary) as primary:
            primary.execute_command("FAILOVER")
            wait_until(lambda: primary.info("replication")["role"] == "slave", "a failover", FOLLOWS_SECONDS)
        self._move()
        self.follow()

    def unplanned(self, lost_seconds: float = 0.0) -> None:
        """The primary is killed and the replica takes its place, without the writes of the last so many seconds.
        `repair` ends the time without a replica."""
        self.lose_primary(lost_seconds)
        self.promote()

    def lose_primary(self, lost_seconds: float = 0.0) -> None:
        """The primary is killed; its writes of the last so many seconds have not reached the replica."""
        if lost_seconds:
            self.link.holds()
            time.sleep(lost_seconds)
        self.primary.kill()
        self.link.cuts()  # what it has held does not arrive late

    def promote(self) -> None:
        """The replica takes the place of a primary that was lost."""
        with client(self.replica) as replica:
            replica.execute_command("REPLICAOF", "NO", "ONE")
        self._move()

    def _move(self) -> None:
        self.primary, self.replica = self.replica, self.primary
        self.address.target_port = self.primary.port


@contextlib.contextmanager
def client(server: Valkey) -> Iterator[Any]:
    """A client of one of the servers, for the block."""
    with redis.Redis.from_url(server.url, decode_responses=True) as asked:
        yield asked
