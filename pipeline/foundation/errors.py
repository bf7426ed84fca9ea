"""Whose fault a failure is: the job's for good, the job's perhaps, or a service's that is unavailable.

`Permanent` ends a job at once. An outage (see `unavailable_service`) never counts against a job: the worker waits.
Any other exception counts as one attempt, and the job is tried again.

What decides is a class, a number or a code of the protocol, never a word: a message may hold the name of a file,
or whatever a server likes to say (SECURITY.md, "Decisions and who writes their words").
"""

import errno
import re
import ssl
from typing import Protocol

import psycopg2
import redis.exceptions as redis_errors
from psycopg2 import errors as sql_errors


class Permanent(Exception):
    """This job can never succeed as it is: the message says why and is kept with it."""


class Outage(Exception):
    """A service that the job needs is unavailable; the job has no part in it."""

    def __init__(self, service: str, message: str) -> None:
        super().__init__(message)
        self.service = service


class PartialOutage(Outage):
    """What is unavailable of a service is needed by this job and not by all: it is retried later than after an
    outage, so that it does not hold up the others."""


class LostClaim(Exception):
    """The job is somebody else's now: this worker drops it and changes nothing more."""


class Broken(Exception):
    """This process is of no more use (its GPU has failed): it ends, and its next run goes on with the job."""


class Misconfigured(Exception):
    """The worker cannot run as it is set up, and a restart does not change that: one line says why."""


class Stop(Protocol):
    """What says that the worker is to stop: a worker's flag, or a threading.Event."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Stopping(Exception):
    """The worker was asked to stop while it waited: the job in progress goes back to its queue."""


# What is wrong with the disk, its permissions or the machine stops every job alike.
_DISK_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM}
_HOST_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}

# S3 answers that tell of credentials, the bucket, the region or the quota rather than of one object: by their
# status, and, where that would do for an object too, by their code. An answer without one is not S3's own, but a
# proxy's page, or of a HEAD: its status is read as the code. Swift calls a full quota EntityTooLarge, and a
# Keystone that is unavailable InvalidURI.
_S3_STATUSES = {301, 307, 401, 403, 407, 408, 409, 413, 429, 499}
_S3_CODES = {
    "AuthorizationHeaderMalformed", "BadDigest", "EntityTooLarge", "ExpiredToken", "IncompleteBody",
    "InvalidToken", "InvalidURI", "NoSuchBucket", "NoSuchUpload", "OperationAborted", "RequestTimeout", "SlowDown",
}  # fmt: skip

_REDIS_LOST = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.NoPermissionError,
    redis_errors.ClusterDownError,  # and MASTERDOWN
    redis_errors.TryAgainError,
    redis_errors.ExecAbortError,  # each step was taken, then the server could not: it is a replica by now, or full
)
# Codes of replies that redis-py has no class for, and of those that Redis 6 puts behind the place in a script.
_REDIS_CODES = {
    "OOM", "MISCONF", "READONLY", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "NOAUTH", "UNBLOCKED", "BUSY",
    "TRYAGAIN", "LOADING", "NOPERM", "EXECABORT",
}  # fmt: skip
_PLACE_IN_SCRIPT = re.compile(
    r"Error running script \(call to f_[0-9a-f]{40}\): @user_script:\d+: (@user_script: \d+: -)?"
)

# Values that PostgreSQL cannot hold; psycopg2 makes operational errors of them.
_SQL_VALUES = (sql_errors.ProgramLimitExceeded, sql_errors.StatementTooComplex)
_SQL_SETUP = (
    sql_errors.UndefinedTable,
    sql_errors.UndefinedColumn,
    sql_errors.InsufficientPrivilege,
    sql_errors.ReadOnlySqlTransaction,
)


# OpenSSL's reasons for a certificate that we do not accept, a server without TLS, and one that refuses ours. At a
# worker's start the settings are to blame, later the server: `unavailable_service` has it among the outages.
_CERTIFICATE_REASONS = (
    "CERTIFICATE_VERIFY_FAILED", "NO_CERTIFICATE_OR_CRL_FOUND", "WRONG_VERSION_NUMBER", "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_REQUIRED", "ALERT_UNKNOWN_CA",
)  # fmt: skip


def certificate_problem(error: BaseException) -> str | None:
    """Why the client of Redis or S3 and the server do not accept each other's certificate, in one line; None where
    the error tells of something else.

    By what TLS itself has raised, which the libraries keep behind their own errors, and not by their words.
    """
    from urllib3.util.ssl_match_hostname import CertificateError  # as for S3 below

    cause: BaseException | None = error
    while cause is not None:
        reason = (getattr(cause, "reason", None) or "") if isinstance(cause, ssl.SSLError) else ""
        if reason.endswith(_CERTIFICATE_REASONS) or isinstance(cause, CertificateError):
            return " ".join(str(error).split())
        cause = cause.__cause__ or cause.__context__
    return None


def unavailable_service(error: BaseException) -> str | None:
    """Name what is unavailable ("Redis", "PostgreSQL", "S3", "the disk", ...), or None where the job is to
    blame."""
    if isinstance(error, Outage):
        return error.service
    if isinstance(error, redis_errors.RedisError):
        return _redis_unavailable(error)
    if isinstance(error, psycopg2.Error):
        lost = isinstance(error, (psycopg2.OperationalError, psycopg2.InterfaceError, *_SQL_SETUP))
        return "PostgreSQL" if lost and not isinstance(error, _SQL_VALUES) else None
    if isinstance(error, OSError) and error.errno in _DISK_ERRNOS:
        return "the disk"
    if isinstance(error, OSError) and error.errno in _HOST_ERRNOS:
        return "the host"
    return "S3" if _s3_unavailable(error) else None


def _redis_unavailable(error: redis_errors.RedisError) -> str | None:
    return "Redis" if isinstance(error, _REDIS_LOST) or _redis_code(error) in _REDIS_CODES else None


def _redis_code(error: redis_errors.RedisError) -> str:
    """The code that a reply begins with, "" where it has none of its own: what follows may be anybody's words."""
    said = str(error)
    if place := _PLACE_IN_SCRIPT.match(said):
        said = said[place.end() :]
    elif code := getattr(error, "status_code", None):  # redis-py has cut off some codes, as ERR
        return "" if code == "ERR" else str(code)
    return said.partition(" ")[0]


def _s3_unavailable(error: BaseException) -> bool:
    # Here, since they take a while to load, and most of pipelinectl needs no S3.
    from boto3.exceptions import RetriesExceededError, S3UploadFailedError
    from botocore.exceptions import ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as S3ConnectionError
    from botocore.parsers import ResponseParserError
    from s3transfer.exceptions import RetriesExceededError as TransferRetriesExceededError
    from urllib3.exceptions import ProtocolError

    if isinstance(error, S3UploadFailedError):  # boto3 wraps the ClientError that it caught
        return error.__context__ is not None and _s3_unavailable(error.__context__)
    if isinstance(error, ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = str(error.response.get("Error", {}).get("Code"))
        return status >= 500 or status in _S3_STATUSES or code in _S3_CODES or code.isdecimal()
    # A body cut short raises any of these, according to the moment.
    lost = (HTTPClientError, S3ConnectionError, IncompleteReadError, RetriesExceededError,
            TransferRetriesExceededError, ResponseParserError, ProtocolError)  # fmt: skip
    return isinstance(error, lost)
