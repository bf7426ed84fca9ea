"""The connection to Redis, and the Lua scripts that make each step on it one step.

redis-py repeats commands that failed, and one whose reply was lost is then applied twice. Nothing is
repeated here: every script may be sent again by its caller, and does its work once.
"""

import logging
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from pipeline.foundation.errors import certificate_problem, unavailable_service

log = logging.getLogger(__name__)

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

    A server that is unavailable is an error as in any other call.
    """
    try:
        client.ping()
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        return f"REDIS_URL: the server refuses it: {error}"
    except redis.ResponseError as error:
        if unavailable_service(error):
            raise
        return f"REDIS_URL: the server refuses it: {error}"
    except redis.ConnectionError as error:
        if problem := certificate_problem(error):
            return f"REDIS_URL: {problem}"
        raise
    return None


def script(client: Any, name: str) -> Any:
    """The script `pipeline/jobs/lua/{name}.lua`, to be called with `keys` and `args`."""
    return client.register_script((Path(__file__).parents[1] / "jobs" / "lua" / f"{name}.lua").read_text())


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
