"""The connection to Redis, and the Lua scripts that make each step on it one step.

redis-py repeats commands that failed, and one whose reply was lost is then applied twice. Nothing is
repeated here: every script may be sent again by its caller, and does its work once.
"""

from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.errors import away, certificate_problem

SOCKET_TIMEOUT_SECONDS = 10  # well above the longest blocking command (`JobQueue.claim`)


def connect(url: str) -> Any:
    """A client of the Redis at `url` (redis:// or rediss://) that answers in text and repeats nothing.

    `Any`, because redis-py's annotations allow bytes in every answer.
    """
    return redis.Redis.from_url(
        url,
        decode_responses=True,
        encoding_errors="surrogateescape",  # a job that is not UTF-8 is buried like any other bad one
        socket_timeout=SOCKET_TIMEOUT_SECONDS,
        socket_connect_timeout=5,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,  # it would need a right that Redis before 7.2 does not know
    )


def refusal(client: Any) -> str | None:
    """Why the server refuses us (password, rights, number of the database), or we its certificate, in one line;
    None where all is well.

    A server that is away is an error as in any other call.
    """
    try:
        client.ping()
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        return f"REDIS_URL: the server refuses it: {error}"
    except redis.ResponseError as error:
        if away(error):
            raise
        return f"REDIS_URL: the server refuses it: {error}"
    except redis.ConnectionError as error:
        if problem := certificate_problem(error):
            return f"REDIS_URL: {problem}"
        raise
    return None


def script(client: Any, name: str) -> Any:
    """The script `pipeline/lua/{name}.lua`, to be called with `keys` and `args`."""
    return client.register_script((Path(__file__).parent / "lua" / f"{name}.lua").read_text())


def durability_warnings(client: Any) -> list[str]:
    """What in the server's settings could lose jobs; one line each."""
    warnings = []
    if client.info("persistence").get("aof_enabled") != 1:
        warnings.append("Redis runs without appendonly: a restart of it loses the queues")
    policy = client.info("memory").get("maxmemory_policy")
    if policy != "noeviction":
        warnings.append(f"Redis may evict jobs: maxmemory-policy is {policy}, set it to noeviction")
    return warnings
