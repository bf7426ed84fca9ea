"""TLS to Redis, PostgreSQL and S3, with real certificates: the right one works, no other is ever accepted.

The servers that pip installs know no TLS; a terminator (tests/support/tls.py) stands in front of each.
"""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from redis.exceptions import ConnectionError

import config
import s3_utils
from pipeline.foundation import redis_client
from pipeline.foundation.errors import certificate_problem, unavailable_service
from pipeline.store.database import Database
from tests.support.child import wait_until
from tests.support.fleet import Fleet
from tests.support.recordings import SILENCE, SPEECH, make_tar, opus
from tests.support.steps import is_idle, log_of, open_batch, refusal, rows, wait_for, wait_for_log
from tests.support.tls import Terminator, certificate

SETTINGS = {"Redis": "REDIS_URL", "PostgreSQL": "DATABASE_URL", "S3": "S3_ENDPOINT"}


@dataclass
class Secured:
    """The fleet's servers behind TLS, and the certificates of the authority that has signed theirs."""

    fleet: Fleet
    folder: Path
    authority: trustme.CA
    terminators: dict[str, Terminator]
    ca: Path
    other_ca: Path

    def settings(self, host: str = "localhost", ca: Path | None = None) -> dict[str, str]:
        """The settings of a worker that knows the servers as `host` and trusts `ca`."""
        ca = ca or self.ca

        def at(url: str, port: int, service: str) -> str:
            return url.replace(f"127.0.0.1:{port}", f"{host}:{self.terminators[service].port}")

        redis = at(self.fleet.valkey.worker_url, self.fleet.valkey.port, "Redis").replace("redis://", "rediss://")
        postgres = at(self.fleet.postgres.worker_url, self.fleet.postgres.port, "PostgreSQL")
        endpoint = at(self.fleet.s3.endpoint, self.fleet.s3.port, "S3").replace("http://", "https://")
        return {
            "REDIS_URL": f"{redis}?ssl_ca_certs={ca}",
            "DATABASE_URL": f"{postgres}?sslmode=verify-full&sslrootcert={ca}",
            "S3_ENDPOINT": endpoint,
            "S3_CA_BUNDLE": str(ca),
        }

    def use(self, context: ssl.SSLContext, *services: str) -> None:
        """Have these servers show another certificate from now on."""
        for service in services:
            self.terminators[service].context = context
            self.terminators[service].cut()


@pytest.fixture
def secured(fleet: Fleet, tmp_path: Path) -> Iterator[Secured]:
    """The fleet behind certificates for `localhost`."""
    authority = trustme.CA()
    context = certificate(authority, "localhost")
    ca, other_ca = tmp_path / "ca.pem", tmp_path / "other-ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    trustme.CA().cert_pem.write_to_path(str(other_ca))
    ports = {"Redis": fleet.valkey.port, "PostgreSQL": fleet.postgres.port, "S3": fleet.s3.port}
    with ExitStack() as stack:
        terminators = {service: stack.enter_context(Terminator(port, context)) for service, port in ports.items()}
        yield Secured(fleet, tmp_path, authority, terminators, ca, other_ca)


def test_the_whole_pipeline_runs_behind_tls(fleet: Fleet, redis: Any, secured: Secured) -> None:
    fleet.changes = secured.settings()
    make_tar(fleet.ssh.folder / "monday.tar", {"a.mp3": SPEECH, "b.mp3": SILENCE})
    fleet.control("enqueue", str(fleet.ssh.folder / "monday.tar"))
    workers = [fleet.worker(role) for role in ("transfer", "unpack", "gpu")]
    finished = "SELECT count(finished_at) FROM batches"
    wait_for(lambda: fleet.query(finished) == [(1,)], fleet, "the batch", seconds=90)
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    assert not any("is unavailable" in log_of(worker) for worker in workers)
    received = bytes(secured.terminators["S3"].received)
    puts = received.count(f"PUT /{fleet.bucket}/".encode())
    assert puts == 7, "an archive, two notes of its source, two Opus and two transcripts went through TLS"
    for word in (b"aws-chunked", b"x-amz-trailer", b"STREAMING-"):  # what Swift before 2.35.1 refuses
        assert word not in received
    for service in ("Redis", "PostgreSQL"):
        assert secured.terminators[service].received


@pytest.mark.parametrize("service", SETTINGS)
def test_a_certificate_that_is_not_the_servers_is_one_line_and_status_2(
    fleet: Fleet, secured: Secured, service: str
) -> None:
    right, setting = secured.settings(), SETTINGS[service]
    wrong = {"host": secured.settings(host="127.0.0.1"), "ca": secured.settings(ca=secured.other_ca)}
    changes = {
        "host": {setting: wrong["host"][setting]},
        "ca": {name: wrong["ca"][name] for name in ([setting, "S3_CA_BUNDLE"] if service == "S3" else [setting])},
    }
    workers = {
        kind: fleet.worker("unpack", f"wrong-{kind}", **{**right, **changes[kind]}) for kind in ("host", "ca")
    }
    said = {kind: refusal(worker) for kind, worker in workers.items()}
    assert all(line.startswith(setting) for line in said.values()), said
    assert "127.0.0.1" in said["host"]
    assert "certificate" in said["ca"]
    assert not any("is unavailable" in log_of(worker) for worker in workers.values())


def test_a_certificate_that_turns_wrong_meanwhile_is_waited_for(
    fleet: Fleet, redis: Any, secured: Secured
) -> None:
    fleet.changes = {**secured.settings(), "HOST_NAME": "this-host", "MAX_ATTEMPTS": "1"}
    right, wrong = secured.terminators["S3"].context, certificate(trustme.CA(), "localhost")
    jobs = open_batch(fleet, redis, "this-host", {f"{number}.mp3": opus(SPEECH) for number in range(3)})
    redis.delete("queue:transcribe")
    worker = fleet.worker("gpu")
    wait_for_log(worker, " ready, ")
    secured.use(wrong, "PostgreSQL", "S3")
    redis.rpush("queue:transcribe", *jobs)
    wait_for_log(worker, ": SSL error: certificate verify failed")
    secured.use(right, "PostgreSQL")
    wait_for_log(worker, " s: SSL validation failed for ")
    secured.use(right, "S3")
    secured.use(wrong, "Redis")
    wait_for_log(worker, " s: Error 1 connecting to localhost:")
    secured.use(right, "Redis")
    wait_for(lambda: is_idle(redis, "queue:transcribe"), fleet, "the files", seconds=90)
    assert {row[0] for row in rows(fleet).values()} == {"done"}
    for service in SETTINGS:
        assert f"{service} is unavailable, next try in " in log_of(worker)


def test_pipelinectl_works_behind_tls_and_names_a_wrong_certificate(fleet: Fleet, secured: Secured) -> None:
    for ca, status in ((secured.ca, 0), (secured.other_ca, 2)):
        changes = secured.settings(ca=ca)
        owner = changes["DATABASE_URL"].replace(fleet.postgres.worker_url.split("@")[0], "postgresql://postgres")
        for command in (["status", "--json"], ["migrate"]):
            done = fleet.control(*command, **{**changes, "DATABASE_URL": owner})
            assert done.returncode == status, done.stderr
            assert ("certificate" in done.stderr) == bool(status)
            assert "Traceback" not in done.stderr


def of_tls(reason: str) -> ssl.SSLError:
    """As Python's ssl raises it."""
    error = ssl.SSLError(1, f"[SSL: {reason}] what OpenSSL says (_ssl.c:1006)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("cause", "is_certificate"),
    [  # as Debian's Redis 7.0 has them raised
        (of_tls("TLSV13_ALERT_CERTIFICATE_REQUIRED"), True),
        (of_tls("TLSV1_ALERT_UNKNOWN_CA"), True),
        (of_tls("WRONG_VERSION_NUMBER"), True),
        (of_tls("NO_CERTIFICATE_OR_CRL_FOUND"), True),
        (of_tls("UNEXPECTED_EOF_WHILE_READING"), False),  # a server that ends
        (ConnectionResetError(104, "certificate verify failed"), False),
        (TimeoutError("WRONG_VERSION_NUMBER"), False),
        (None, False),
    ],
)
def test_certificates_are_distinguished_from_outages_by_what_tls_has_raised(
    cause: Exception | None, is_certificate: bool
) -> None:
    error = ConnectionError("Error 1 connecting to r:6380.\ncertificate verify failed")
    error.__context__ = cause
    expected = "Error 1 connecting to r:6380. certificate verify failed" if is_certificate else None
    assert certificate_problem(error) == expected


# --- the clients -------------------------------------------------------------------------------------------


def test_redis_may_ask_for_our_certificate_too(secured: Secured) -> None:
    url, terminator = secured.settings()["REDIS_URL"], secured.terminators["Redis"]
    terminator.context.verify_mode = ssl.CERT_REQUIRED
    secured.authority.configure_trust(terminator.context)
    ours = secured.authority.issue_cert("gpu-04")
    key, chain = secured.folder / "key.pem", secured.folder / "chain.pem"
    ours.private_key_pem.write_to_path(str(key))
    ours.cert_chain_pems[0].write_to_path(str(chain))
    assert redis_client.connect(f"{url}&ssl_certfile={chain}&ssl_keyfile={key}").ping()
    with pytest.raises(ConnectionError) as caught:
        redis_client.connect(url).ping()
    assert unavailable_service(caught.value) == "Redis"


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_postgresql_may_negotiate_tls_in_either_way(secured: Secured, negotiation: str) -> None:
    before = len(secured.terminators["PostgreSQL"].received)
    database = Database(f"{secured.settings()['DATABASE_URL']}&sslnegotiation={negotiation}")
    assert database.check_schema() is None
    database.close()
    wait_until(lambda: len(secured.terminators["PostgreSQL"].received) > before, "what went through TLS")


@pytest.mark.parametrize("name", ["S3_CA_BUNDLE", "AWS_CA_BUNDLE"])
def test_s3_trusts_the_bundle_of_the_setting_or_of_boto3s_own(
    fleet: Fleet, secured: Secured, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for setting in ("S3_ACCESS_KEY", "S3_SECRET_KEY", "S3_BUCKET"):
        monkeypatch.setattr(config, setting, fleet.settings()[setting])
    monkeypatch.setattr(config, "S3_ENDPOINT", secured.settings()["S3_ENDPOINT"])
    try:
        s3_utils.get_s3_client.cache_clear()
        assert "certificate verify failed" in str(s3_utils.check_bucket())
        if name == "S3_CA_BUNDLE":
            monkeypatch.setattr(config, name, str(secured.ca))
        else:
            monkeypatch.setenv(name, str(secured.ca))
        s3_utils.get_s3_client.cache_clear()
        assert s3_utils.check_bucket() is None
    finally:
        s3_utils.get_s3_client.cache_clear()
