"""Whose fault: what counts as a service being unavailable, and what as the job's own."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import cast

import boto3
import psycopg2
import pytest
import redis.exceptions
import s3transfer.exceptions
from boto3.exceptions import RetriesExceededError, S3UploadFailedError
from botocore import exceptions as s3_errors
from botocore.config import Config
from botocore.response import StreamingBody
from psycopg2 import errors as sql_errors
from redis._parsers.base import BaseParser

from pipeline.foundation import redis_client
from pipeline.foundation.errors import LostClaim, Outage, Permanent, Stopping, unavailable_service
from pipeline.store.database import Database
from tests.support.child import free_port
from tests.support.fleet import Fleet


def client_error(code: str, status: int = 400) -> s3_errors.ClientError:
    response = {"Error": {"Code": code, "Message": ""}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return s3_errors.ClientError(response, "Operation")


def upload_failed(cause: Exception | None) -> S3UploadFailedError:
    """As boto3 raises it: in the handler of the cause."""
    error = S3UploadFailedError("Failed to upload")
    error.__context__ = cause
    return error


def raised_by(step: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        step()
    return caught.value


# --- made by hand ---------------------------------------------------------------------------------------

AWAY = [
    (Outage("the model", "no memory"), "the model"),
    (redis.exceptions.ConnectionError(), "Redis"),
    (redis.exceptions.BusyLoadingError(), "Redis"),
    (redis.exceptions.AuthenticationError(), "Redis"),
    (redis.exceptions.TimeoutError(), "Redis"),
    (redis.exceptions.ReadOnlyError(), "Redis"),
    (redis.exceptions.OutOfMemoryError(), "Redis"),
    (redis.exceptions.NoPermissionError(), "Redis"),
    (redis.exceptions.ClusterDownError("The cluster is down"), "Redis"),
    (redis.exceptions.MasterDownError("Link with MASTER is down"), "Redis"),
    (redis.exceptions.TryAgainError("Multiple keys request during rehashing of slot"), "Redis"),
    (redis.exceptions.ResponseError("MISCONF Redis is configured to save"), "Redis"),
    (redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas"), "Redis"),
    (redis.exceptions.ResponseError("OOM command not allowed"), "Redis"),
    (psycopg2.OperationalError(), "PostgreSQL"),
    (psycopg2.InterfaceError(), "PostgreSQL"),
    (sql_errors.AdminShutdown(), "PostgreSQL"),
    (sql_errors.TooManyConnections(), "PostgreSQL"),
    (sql_errors.DiskFull(), "PostgreSQL"),
    (sql_errors.UndefinedTable(), "PostgreSQL"),
    (sql_errors.UndefinedColumn(), "PostgreSQL"),
    (sql_errors.InsufficientPrivilege(), "PostgreSQL"),
    (sql_errors.ReadOnlySqlTransaction(), "PostgreSQL"),
    (client_error("InternalError", 500), "S3"),
    (client_error("ServiceUnavailable", 503), "S3"),
    (client_error("SlowDown", 429), "S3"),
    (client_error("NoSuchBucket", 404), "S3"),
    (client_error("403", 403), "S3"),
    (client_error("QuotaExceeded", 403), "S3"),
    (client_error("EntityTooLarge", 400), "S3"),
    (client_error("ExpiredToken", 400), "S3"),
    (client_error("InvalidToken", 400), "S3"),
    (client_error("PermanentRedirect", 301), "S3"),
    (client_error("TooManyRequests", 429), "S3"),
    (client_error("NoSuchUpload", 404), "S3"),
    (client_error("BadDigest", 400), "S3"),
    (redis.exceptions.ResponseError("UNBLOCKED force unblock from blocking operation"), "Redis"),
    (redis.exceptions.ResponseError("BUSY Redis is busy running a script"), "Redis"),
    (BlockingIOError(errno.EAGAIN, "no process"), "the host"),
    (OSError(errno.ESTALE, "stale"), "the disk"),
    (client_error("400", 400), "S3"),
    (client_error("404", 404), "S3"),  # of a HEAD, or a proxy's: S3 itself names what it refuses
    (client_error("405", 405), "S3"),
    (upload_failed(client_error("404", 404)), "S3"),
    (client_error("AccessDenied", 403), "S3"),
    (client_error("SignatureDoesNotMatch", 403), "S3"),
    (client_error("RequestTimeTooSkewed", 403), "S3"),
    (client_error("AuthorizationHeaderMalformed", 400), "S3"),
    (s3_errors.EndpointConnectionError(endpoint_url="http://s3"), "S3"),
    (s3_errors.ConnectTimeoutError(endpoint_url="http://s3"), "S3"),
    (s3_errors.ReadTimeoutError(endpoint_url="http://s3"), "S3"),
    (s3_errors.ConnectionClosedError(endpoint_url="http://s3"), "S3"),
    (s3_errors.SSLError(endpoint_url="https://s3", error="bad certificate"), "S3"),
    (s3_errors.ResponseStreamingError(error="cut"), "S3"),
    (s3_errors.IncompleteReadError(actual_bytes=1, expected_bytes=2), "S3"),
    (RetriesExceededError(OSError()), "S3"),
    (s3transfer.exceptions.RetriesExceededError(OSError()), "S3"),
    (upload_failed(client_error("ServiceUnavailable", 503)), "S3"),
    (upload_failed(s3_errors.EndpointConnectionError(endpoint_url="http://s3")), "S3"),
    (OSError(errno.ENOSPC, "full"), "the disk"),
    (OSError(errno.EDQUOT, "full"), "the disk"),
    (OSError(errno.EROFS, "read-only"), "the disk"),
    (PermissionError(errno.EACCES, "not ours"), "the disk"),
    (OSError(errno.EMFILE, "too many files"), "the host"),
    (OSError(errno.ENFILE, "too many files"), "the host"),
    (OSError(errno.ENOMEM, "no memory"), "the host"),
]

# What Redis 6.2 replies to a script; from Redis 7 on the code comes first, as of any other command.
OF_REDIS_6 = "Error running script (call to f_96eb9acda261592d9790fed148db827f8d412151): @user_script:5: "
AWAY += [
    (redis.exceptions.ResponseError(f"{OF_REDIS_6}@user_script: 5: -{code}"), "Redis")
    for code in (
        "OOM command not allowed when used memory > 'maxmemory'.",
        "READONLY You can't write against a read only replica.",
        "NOREPLICAS Not enough good replicas to write.",
    )
]


def reply(text: str) -> Exception:
    """The error that redis-py makes of a server's reply."""
    return cast(Exception, BaseParser.parse_error(text))


THE_JOBS = [
    # the words of others behind a code, or where redis-py has cut off "ERR"
    reply("WRONGTYPE Operation against a key holding OOM READONLY BUSY"),
    reply("ERR unknown command 'OOM', with args beginning with: 'READONLY'"),
    reply("ERR OOM command"),
    reply("ERR user_script:1: OOM no script: on @user_script:1."),
    reply(f"ERR {OF_REDIS_6}WRONGTYPE Operation against a key"),
    reply(f"ERR {OF_REDIS_6}user_script:5: OOM"),
    Permanent("no"),
    LostClaim("no"),
    Stopping(),
    ValueError("no"),
    RuntimeError("CUDA failed"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"),
    FileNotFoundError(errno.ENOENT, "gone"),
    OSError("the SHA-256 differs"),
    redis.exceptions.ResponseError("WRONGTYPE Operation against a key"),
    redis.exceptions.DataError("no"),
    sql_errors.NotNullViolation(),
    sql_errors.UniqueViolation(),
    sql_errors.UntranslatableCharacter(),
    sql_errors.StringDataRightTruncation(),
    sql_errors.SyntaxError(),
    client_error("NoSuchKey", 404),
    client_error("EntityTooSmall", 400),
    client_error("KeyTooLongError", 400),
    upload_failed(client_error("InvalidArgument", 400)),
    upload_failed(None),
    s3_errors.ParamValidationError(report="no"),
]


def name_of(error: object) -> str:
    return f"{type(error).__name__}-{error}" if isinstance(error, Exception) else ""


@pytest.mark.parametrize(("error", "service"), AWAY, ids=name_of)
def test_it_names_what_is_unavailable(error: Exception, service: str) -> None:
    assert unavailable_service(error) == service


@pytest.mark.parametrize("error", THE_JOBS, ids=name_of)
def test_it_blames_the_job_for_the_rest(error: Exception) -> None:
    assert unavailable_service(error) is None


@pytest.mark.parametrize("error", [sql_errors.ProgramLimitExceeded(), sql_errors.StatementTooComplex()])
def test_it_blames_the_job_for_a_value_that_postgresql_cannot_hold(error: Exception) -> None:
    assert unavailable_service(error) is None


# --- made by the libraries ------------------------------------------------------------------------------


def test_it_knows_a_redis_that_is_down() -> None:
    client = redis_client.connect(f"redis://127.0.0.1:{free_port()}/0")
    assert unavailable_service(raised_by(client.ping)) == "Redis"


def test_it_knows_a_redis_that_does_not_answer_to_the_password(fleet: Fleet) -> None:
    client = redis_client.connect(fleet.valkey.url.replace("redis://", "redis://user:wrong@"))
    assert unavailable_service(raised_by(client.ping)) == "Redis"


def test_it_knows_a_redis_that_is_full(fleet: Fleet) -> None:
    client = redis_client.connect(fleet.valkey.url)
    client.set("host", "here")
    client.config_set("maxmemory", "1")
    try:
        assert unavailable_service(raised_by(lambda: client.rpush("queue", "job"))) == "Redis"
        push = redis_client.script(client, "push")
        assert (
            unavailable_service(
                raised_by(lambda: push(keys=["host", "names", "queue"], args=["here", "f", "job"]))
            )
            == "Redis"
        )
    finally:
        client.config_set("maxmemory", "0")


def test_a_pipeline_raises_the_reply_and_not_what_a_file_is_called(fleet: Fleet) -> None:
    client = redis_client.connect(fleet.valkey.url)
    client.set("names", "no set")
    steps = client.pipeline(transaction=False)
    steps.ping()
    steps.sismember("names", "-OOM READONLY.mp3")
    error = raised_by(lambda: redis_client.answers(steps))
    assert unavailable_service(error) is None
    assert "OOM" not in str(error)
    client.config_set("min-replicas-to-write", "1")
    try:
        steps = client.pipeline(transaction=False)
        steps.set("names", "WRONGTYPE")
        assert unavailable_service(raised_by(lambda: redis_client.answers(steps))) == "Redis"
    finally:
        client.config_set("min-replicas-to-write", "0")
    steps = client.pipeline(transaction=False)
    steps.set("names", "yes").get("names")
    assert redis_client.answers(steps) == [True, "yes"]


def test_it_knows_a_postgresql_that_is_down(fleet: Fleet) -> None:
    url = fleet.postgres.url
    for wrong in (f"postgresql://postgres@127.0.0.1:{free_port()}/pipeline", url + "-not-there"):
        assert unavailable_service(raised_by(lambda wrong=wrong: psycopg2.connect(wrong))) == "PostgreSQL"  # type: ignore[misc]


def test_a_start_names_a_database_that_is_not_there_and_waits_for_one_that_is_down(fleet: Fleet) -> None:
    missing = Database(f"{fleet.postgres.url}-not-there").refusal()
    assert str(missing).startswith("DATABASE_URL: ")
    assert str(missing).endswith("does not exist")
    assert Database(fleet.postgres.url).refusal() is None
    down = Database(f"postgresql://postgres@127.0.0.1:{free_port()}/pipeline")
    assert unavailable_service(raised_by(down.refusal)) == "PostgreSQL"


def test_it_knows_tables_that_are_not_there_yet(fleet: Fleet) -> None:
    assert unavailable_service(raised_by(lambda: fleet.query("SELECT * FROM not_there"))) == "PostgreSQL"
    assert (
        unavailable_service(raised_by(lambda: fleet.query("INSERT INTO audio_files (batch_id) VALUES (NULL)")))
        is None
    )


def test_it_knows_an_upload_that_s3_cut_off(fleet: Fleet, tmp_path: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=fleet.s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}),
    )
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    upload = raised_by(lambda: client.upload_file(str(path), "no-such-bucket", "key"))
    assert isinstance(upload, S3UploadFailedError)
    assert unavailable_service(upload) == "S3"
    missing = raised_by(lambda: client.download_file(fleet.bucket, "missing", str(tmp_path / "copy")))
    assert unavailable_service(missing) == "S3"  # of a HEAD, that a proxy may have answered: s3_utils asks for why


def test_it_knows_a_body_that_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"half")
    with (tmp_path / "body").open("rb") as file:
        assert unavailable_service(raised_by(StreamingBody(file, content_length=8).read)) == "S3"
