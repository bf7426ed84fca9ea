"""access/: what the workers may do on Redis, PostgreSQL and S3 is what they need, and no more.

Every test that starts workers runs them with the Redis user and the PostgreSQL role; `Fleet.check` finds what they
were denied.
"""

import re
from collections.abc import Iterator
from typing import Any

import boto3
import psycopg2
import pytest
import redis as redis_py
from botocore.exceptions import ClientError
from psycopg2 import errors as sql_errors

from pipeline.foundation import redis_client
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, SPOKEN, make_tar
from tests.support.servers import ACCESS, GuardedS3
from tests.support.steps import log_of, rows, wait_for

# What redis-py sends by itself: to connect, to make a transaction, to run a script, for incr.
BY_THE_CLIENT = {"ping", "select", "multi", "exec", "evalsha", "script|load", "incrby"}


def guarded(server: GuardedS3) -> dict[str, str]:
    """The settings of the S3 that checks."""
    return {
        "S3_ENDPOINT": server.endpoint,
        "S3_BUCKET": server.bucket,
        "S3_ACCESS_KEY": server.access_key,
        "S3_SECRET_KEY": server.secret_key,
    }


def test_the_whole_pipeline_runs_with_the_least_rights(fleet: Fleet, redis: Any, guarded_s3: GuardedS3) -> None:
    fleet.changes = {
        **guarded(guarded_s3), "EC2_WATCH_SECONDS": "1", "EC2_AFTER_UPLOAD": "rename", "LOG_LEVEL": "DEBUG",
        "RETRY_SECONDS": "0",
    }  # fmt: skip
    redis.rpush("queue:transcribe", "junk")
    make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH, "b.mp3": SILENCE, "c.mp3": DAMAGED})
    fleet.control("enqueue", str(fleet.ssh.folder / "monday.tar"))
    make_tar(fleet.ssh.folder / "watched.tar", {"d.mp3": SPEECH})
    workers = [fleet.worker(role) for role in ("transfer", "unpack", "gpu")]
    finished = "SELECT count(finished_at) FROM batches"
    wait_for(lambda: fleet.query(finished) == [(2,)], fleet, "two batches", seconds=90)
    found = {name: (row[0], row[2]) for (_, name), row in rows(fleet).items()}
    assert found == {
        "a.mp3": ("done", SPOKEN), "b.mp3": ("done", ""), "c.mp3": ("failed", None), "d.mp3": ("done", SPOKEN)
    }  # fmt: skip
    shown = fleet.control("status", "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    for worker in workers:
        assert "is unavailable" not in log_of(worker)
        assert guarded_s3.secret_key not in log_of(worker)
        assert SPOKEN not in log_of(worker)  # nor does a log say what was said


# --- Redis -------------------------------------------------------------------------------------------------


def allowed() -> set[str]:
    """The commands that the user of access/redis.conf may send."""
    (line,) = re.findall(r"(?m)^user audio-pipeline (.*)", (ACCESS / "redis.conf").read_text())
    return {word[1:] for word in line.split() if word.startswith("+")}


def in_scripts() -> set[str]:
    """The commands of the Lua scripts."""
    texts = [path.read_text() for path in (PROJECT / "pipeline" / "jobs" / "lua").glob("*.lua")]
    return {command.lower() for text in texts for command in re.findall(r"redis\.call\('(\w+)'", text)}


def test_every_command_of_a_script_is_allowed() -> None:
    assert len(in_scripts()) > 10
    assert in_scripts() <= allowed()


def test_no_command_is_allowed_that_the_code_does_not_send() -> None:
    code = "\n".join(path.read_text() for path in [*PROJECT.glob("*.py"), *PROJECT.glob("pipeline/**/*.py")])
    sent = {command for command in allowed() if f".{command}(" in code or f'("{command}", ' in code}
    assert allowed() - in_scripts() - sent <= BY_THE_CLIENT


REFUSED = ["FLUSHALL", "CONFIG GET *", "KEYS *", "SCAN 0", "ACL LIST", "MONITOR", "EVAL return 0",
           "GET secrets", "SET batches 1", "RPUSH other:queue job", "SUBSCRIBE x", "SHUTDOWN", "DUMP queue:unpack",
           "REPLICAOF 127.0.0.1 1", "SCRIPT FLUSH", "CLIENT LIST"]  # fmt: skip


@pytest.fixture
def as_worker(fleet: Fleet) -> Iterator[Any]:
    """A client with the workers' rights; what it is denied is not counted against the workers."""
    client = redis_client.connect(fleet.valkey.worker_url)
    yield client
    client.close()
    with redis_py.Redis.from_url(fleet.valkey.url) as admin:
        admin.acl_log_reset()


@pytest.mark.parametrize("command", REFUSED)
def test_redis_refuses_the_worker_what_it_has_no_need_of(as_worker: Any, command: str) -> None:
    assert as_worker.ping()
    with pytest.raises(redis_py.exceptions.NoPermissionError):
        as_worker.execute_command(*command.split())


# --- PostgreSQL --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM audio_files", "DELETE FROM transcripts", "DELETE FROM batches", "TRUNCATE audio_files",
        "DROP TABLE transcripts", "ALTER TABLE audio_files ADD COLUMN x TEXT", "CREATE TABLE mine (x TEXT)",
        "INSERT INTO schema_migrations (name) VALUES ('999.sql')", "CREATE ROLE other", "SELECT * FROM pg_authid",
        "COPY batches TO PROGRAM 'true'",
    ],
)  # fmt: skip
def test_postgresql_refuses_the_worker_what_it_has_no_need_of(fleet: Fleet, sql: str) -> None:
    connection = psycopg2.connect(fleet.postgres.worker_url)
    try:
        with pytest.raises(sql_errors.InsufficientPrivilege):
            connection.cursor().execute(sql)
    finally:
        connection.close()


def test_postgresql_asks_the_worker_for_its_password(fleet: Fleet) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        psycopg2.connect(fleet.postgres.worker_url.replace("audio_pipeline:", "audio_pipeline:x"))


# --- S3 ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(guarded_s3: GuardedS3) -> Any:
    """A client with the workers' rights."""
    return boto3.client(
        "s3", endpoint_url=guarded_s3.endpoint, region_name="us-east-1",
        aws_access_key_id=guarded_s3.access_key, aws_secret_access_key=guarded_s3.secret_key,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("delete_object", {"Key": "archives/1.tar"}),
        ("delete_object", {"Key": "processed/2025-06-22/1.opus"}),
        ("put_object", {"Key": "elsewhere", "Body": b""}),
        ("get_object", {"Key": "elsewhere"}),
        ("delete_bucket", {}),
        ("put_bucket_policy", {"Policy": "{}"}),
    ],
)
def test_s3_refuses_the_worker_what_it_has_no_need_of(
    client: Any, guarded_s3: GuardedS3, call: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ClientError, match="AccessDenied"):
        getattr(client, call)(Bucket=guarded_s3.bucket, **arguments)
