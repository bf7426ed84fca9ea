"""The connection to Redis, and the Lua scripts that make each step on it one step.

redis-py repeats commands that failed, and one whose reply was lost is then applied twice. Nothing is
repeated here: every script may be sent again by its caller, and does its work once.

An address may lead to another server at any time: after a failover, a restored backup, a change in DNS. A
connection is therefore replaced after any answer that says that the server cannot serve us, and after a minute in
any case; and one that leads to a replica is refused, since what is read there may be old.
"""

import logging
import time
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, SSLConnection
from redis.retry import Retry
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from pipeline.foundation import redis_url
from pipeline.foundation.errors import certificate_problem, unavailable_service

log = logging.getLogger(__name__)

SOCKET_TIMEOUT_SECONDS = 10  # well above the longest blocking command (`JobQueue.claim`)
CONNECT_TIMEOUT_SECONDS = 5
SENTINEL_TIMEOUT_SECONDS = 2  # one that hangs is passed over, and the next one asked
CONNECTION_SECONDS = 60  # how long a connection is used
_SCRIPTS = {path.stem: path.read_text() for path in (Path(__file__).parents[1] / "jobs" / "lua").glob("*.lua")}


_ADVICE = {
    "cluster": "a step of several keys is impossible there, use one primary, with replicas and Sentinels",
    "sentinel": "name the Sentinels and their service as redis+sentinel://host:port,host:port/service/db",
}


class Unsuitable(redis.ConnectionError):
    """What answers at the address is no Redis that the pipeline can work with: the message says why."""


class _Leading(AbstractConnection):
    """A connection that leads to the primary or is replaced. redis-py calls `connect` each time it takes one from
    its pool, connected or not."""

    _is_unfit, _since = False, 0.0

    def connect(self) -> None:
        if self.is_connected and (self._is_unfit or time.monotonic() - self._since > CONNECTION_SECONDS):
            self.disconnect()
        try:
            super().connect()
        except MasterNotFoundError:  # whose message holds every setting of every Sentinel
            raise redis.ConnectionError("none of the Sentinels names a primary") from None

    def on_connect_check_health(self, check_health: bool = True) -> None:
        super().on_connect_check_health(check_health)
        self._is_unfit, self._since = False, time.monotonic()
        server: dict[Any, Any] = self.handshake_metadata or {}
        if advice := _ADVICE.get(mode := str(server.get("mode"))):
            raise Unsuitable(f"{self._host_error()} runs in {mode} mode: {advice}")
        if server.get("role") in ("replica", "slave"):
            raise redis.ReadOnlyError(f"{self._host_error()} is a replica, the primary must be elsewhere")

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            # By default, a connection that Sentinels have given stays open where half an answer was read.
            return super().read_response(*args, **{"disconnect_on_error": True, **options})
        except redis.RedisError as error:
            self._is_unfit = self._is_unfit or unavailable_service(error) is not None
            raise


class _Plain(_Leading, redis.Connection):
    pass


class _Tls(_Leading, SSLConnection):
    pass


class _Managed(_Leading, SentinelManagedConnection):
    pass


class _ManagedTls(_Leading, SentinelManagedSSLConnection):
    pass


def connect(url: str, timeout: float = SOCKET_TIMEOUT_SECONDS) -> Any:
    """A client of the primary at `url` (see `redis_url`) that answers in text, waits `timeout` seconds for an
    answer, and repeats nothing. ValueError where it is no such URL.

    `Any`, because redis-py's annotations allow bytes in every answer.
    """
    place = redis_url.parse(url)
    # Telling the driver would need a right that Redis before 7.2 does not know.
    common: dict[str, Any] = {"retry": Retry(NoBackoff(), 0), "driver_info": None, **place.tls_options}
    settings = {
        "db": place.database,
        "decode_responses": True,
        "encoding_errors": "surrogateescape",  # a job that is not UTF-8 is dead-lettered like any other bad one
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, CONNECT_TIMEOUT_SECONDS),
        **place.login,
        **common,
    }
    if not place.service:
        ((host, port),) = place.hosts
        kind = _Tls if place.tls else _Plain
        return redis.Redis.from_pool(redis.ConnectionPool(kind, host=host, port=port, **settings))
    patience = min(timeout, SENTINEL_TIMEOUT_SECONDS)
    asking = {"socket_timeout": patience, "socket_connect_timeout": patience, "ssl": place.tls}
    sentinels = Sentinel(place.hosts, sentinel_kwargs={**asking, **place.sentinel_login, **common})
    managed = _ManagedTls if place.tls else _Managed
    return sentinels.master_for(place.service, connection_class=managed, **settings)


def refusal(client: Any) -> str | None:
    """Why the server refuses us (password, rights, number of the database), or we the server (certificate, mode),
    in one line; None where all is well.

    A server that is unavailable is an error as in any other call.
    """
    try:
        if problem := _refusal_of_sentinels(client.connection_pool):
            return f"REDIS_URL: {problem}"
        client.ping()
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        return f"REDIS_URL: the server refuses it: {error}"
    except Unsuitable as error:
        return f"REDIS_URL: {error}"
    except redis.ResponseError as error:
        if unavailable_service(error):
            raise
        return f"REDIS_URL: the server refuses it: {error}"
    except redis.ConnectionError as error:
        if problem := certificate_problem(error):
            return f"REDIS_URL: {problem}"
        raise
    return None


def _refusal_of_sentinels(pool: Any) -> str | None:
    """Why the Sentinels are of no use, where a pool has any; None where they are, or where none answers."""
    if not isinstance(pool, SentinelConnectionPool):
        return None
    known: list[str] = []
    answered = False
    for sentinel in pool.sentinel_manager.sentinels:
        try:
            known += sentinel.sentinel_masters()
            answered = True
        except redis.AuthenticationError as error:
            return f"a Sentinel refuses it (sentinel_username and sentinel_password): {error}"
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if problem := certificate_problem(error):
                return problem
    if pool.service_name in known or not answered:
        return None
    others = f", but {', '.join(sorted(set(known)))}" if known else ""
    return f"the Sentinels know no service {pool.service_name}{others}"


def script(client: Any, name: str) -> Any:
    """The script `pipeline/jobs/lua/{name}.lua`, to be called with `keys` and `args`."""
    return client.register_script(_SCRIPTS[name])


def answers(steps: Any) -> list[Any]:
    """Run a pipeline; gives its answers, or raises the first error as the server gave it: redis-py's own way would
    put the command before it, with whatever a file or a key is called."""
    found = list(steps.execute(raise_on_error=False))
    for answer in found:
        if isinstance(answer, Exception):
            raise answer
    return found


def warn_of_losses(client: Any) -> None:
    """Log what in the server's settings could lose jobs."""
    is_kept = client.info("persistence").get("aof_enabled") == 1
    policy = client.info("memory").get("maxmemory_policy")
    if not is_kept:
        log.warning("Redis runs without appendonly: a restart of it loses the queues")
    if policy != "noeviction":
        log.warning("Redis may evict jobs: maxmemory-policy is %s, set it to noeviction", policy)
