"""No word that others write changes whose fault a failure is: in the name of a file, a banner, what a remote
command or a server says. Each test puts random hostile words there; the verdict is the one without them.
"""

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import boto3
import psycopg2
import pytest
import redis.exceptions
from av.error import BugError
from botocore import exceptions as s3_errors
from botocore.parsers import create_parser
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from redis._parsers.base import BaseParser

from pipeline.foundation import redis_client
from pipeline.foundation.device import is_broken, is_out_of_memory
from pipeline.foundation.errors import (
    _S3_CODES,
    _S3_STATUSES,
    Outage,
    Permanent,
    certificate_problem,
    unavailable_service,
)
from pipeline.foundation.s3_errors import NOT_IN_XML
from pipeline.transfer import sftp, trial
from pipeline.transfer.scp import Copy
from pipeline.transfer.ssh import FileState, RemoteHost
from tests.support.child import free_port
from tests.support.fake_ssh import FAILURE, FILE, FOLDER, FakeSsh
from tests.support.fleet import Fleet
from tests.support.servers import Sshd, sshd_path

HOSTILE = (
    "No space left on device", "Connection refused", "Connection closed", "scp: Connection closed", "CUDA error",
    "lost connection", "OOM command not allowed", "READONLY You can't write", "BUSY", "MISCONF", "LOADING",
    "NOREPLICAS", "CUDA failed with error out of memory", "cuBLAS failed with status", "</Error>",
    "exit status 255", "Failed to allocate memory",
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "WRONG_VERSION_NUMBER", "alert unknown ca",
    "Permission denied", "h: Permission denied (publickey).", "Host key verification failed.",
    "Too many authentication failures", "No such file or directory", "not a regular file",
    'scp: open local "/x": No space left on device', 'scp: write local "/x": Input/output error',
    "bash: fork: Cannot allocate memory", ": Stale file handle", ": Transport endpoint is not connected",
    "Too many open files", "password authentication failed", 'database "x" does not exist', "SlowDown",
    "NoSuchBucket", "InternalError", "ServiceUnavailable", "<Code>NoSuchKey</Code>", "Error running script",
)  # fmt: skip
ordinary = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
words = st.lists(st.sampled_from(HOSTILE) | ordinary, min_size=1, max_size=4).map(" ".join)
lines = st.lists(words, min_size=1, max_size=3).map("\n".join)
names = words.map(lambda text: text.replace("/", "_")).filter(lambda name: len(name.encode()) < 200)
several = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
few = settings(several, max_examples=8)
NEVER = Event()


def verdict(step: Callable[[], object]) -> str:
    """Whose fault a step's failure is: "permanent", what is unavailable, or "attempt"; "well" where it does not
    fail."""
    try:
        step()
    except Permanent:
        return "permanent"
    except Exception as error:  # noqa: BLE001
        return unavailable_service(error) or "attempt"
    return "well"


def raising(error: Exception) -> Callable[[], object]:
    """A step that fails so."""

    def step() -> None:
        raise error

    return step


# --- Redis -------------------------------------------------------------------------------------------------

AWAY = (
    "OOM", "READONLY", "MISCONF", "NOREPLICAS", "BUSY", "LOADING", "UNBLOCKED", "MASTERDOWN", "CLUSTERDOWN",
    "NOPERM", "NOAUTH", "EXECABORT",
)  # fmt: skip
THE_JOBS = ("WRONGTYPE", "ERR", "NOSCRIPT", "CROSSSLOT")
CODES = {**dict.fromkeys(AWAY, "Redis"), **dict.fromkeys(THE_JOBS, "attempt")}
REDIS_6 = "ERR Error running script (call to f_96eb9acda261592d9790fed148db827f8d412151): @user_script:5: "


@several
@given(code=st.sampled_from(sorted(CODES)), said=words)
def test_what_follows_the_code_of_a_reply_decides_nothing(code: str, said: str) -> None:
    for text in (f"{code} {said}", f"{REDIS_6}{code} {said}", f"{REDIS_6}@user_script: 5: -{code} {said}"):
        assert verdict(raising(BaseParser.parse_error(text))) == CODES[code], text


@pytest.mark.parametrize("code", sorted(CODES))
def test_no_code_behind_the_code_of_a_reply_decides_anything(code: str) -> None:
    """Each of them, as chance finds few."""
    said = [*HOSTILE, *(f"{other} {other}" for other in CODES)]
    assert {words: verdict(raising(BaseParser.parse_error(f"{code} {words}"))) for words in said} == dict.fromkeys(
        said, CODES[code]
    )


@several
@given(name=words, value=words)
def test_names_and_values_in_redis_decide_nothing(fleet: Fleet, name: str, value: str) -> None:
    client = redis_client.connect(fleet.valkey.url)
    client.set(name, value)
    steps = client.pipeline(transaction=False)
    steps.sismember(name, value)
    push = redis_client.script(client, "push")
    client.set("host of it", "here")
    asked = (
        lambda: client.sismember(name, value),
        lambda: redis_client.answers(steps),
        lambda: push(keys=["host of it", name, "queue"], args=["here", value, value]),
        lambda: client.incr(name),
        lambda: client.execute_command(value or "nothing", name),
    )
    assume(value.split()[:1] != ["GET"])
    assert {verdict(step) for step in asked} == {"attempt"}


# --- S3 ----------------------------------------------------------------------------------------------------

S3 = {
    ("NoSuchKey", 404): "attempt", ("InvalidArgument", 400): "attempt", ("EntityTooSmall", 400): "attempt",
    ("NoSuchBucket", 404): "S3", ("AccessDenied", 403): "S3", ("InternalError", 500): "S3",
    ("SlowDown", 503): "S3",
}  # fmt: skip


@several
@given(
    of=st.sampled_from(sorted(S3)),
    said=st.text(st.sampled_from("abc /<>&\"'"), max_size=9) | st.sampled_from(HOSTILE),
)
def test_the_message_of_s3_decides_nothing(of: tuple[str, int], said: str) -> None:
    assert s3_verdict(of, said) == S3[of]


@pytest.mark.parametrize("of", sorted(S3))
def test_no_code_in_the_message_of_s3_decides_anything(of: tuple[str, int]) -> None:
    """Each of them, as chance finds few."""
    said = [*HOSTILE, *_S3_CODES, *(str(status) for status in _S3_STATUSES)]
    assert {words: s3_verdict(of, words) for words in said} == dict.fromkeys(said, S3[of])


def s3_verdict(of: tuple[str, int], said: str) -> str:
    """What an error of S3 with these words in it means."""
    code, status = of
    escaped = said.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body = f"<Error><Code>{code}</Code><Message>{escaped}</Message><Key>{escaped}</Key></Error>".encode()
    parsed = create_parser("rest-xml").parse({"status_code": status, "headers": {}, "body": body}, None)
    return verdict(raising(s3_errors.ClientError(parsed, "GetObject")))


@few
@given(name=names.filter(lambda name: not NOT_IN_XML.search(name)))  # those are never asked for
def test_a_key_in_s3_decides_nothing(fleet: Fleet, name: str) -> None:
    client = boto3.client(
        "s3", endpoint_url=fleet.s3.endpoint, region_name="us-east-1", aws_access_key_id="key",
        aws_secret_access_key="secret",
    )  # fmt: skip
    assert verdict(lambda: client.get_object(Bucket=fleet.bucket, Key=f"processed/{name}")) == "attempt"


# --- PostgreSQL --------------------------------------------------------------------------------------------


@several
@given(said=words)
def test_what_postgresql_quotes_decides_nothing(fleet: Fleet, said: str) -> None:
    with psycopg2.connect(fleet.postgres.url) as connection, connection.cursor() as cursor:

        def ask(statement: str) -> str:
            found = verdict(lambda: cursor.execute(statement, (said,)))
            connection.rollback()
            return found

        assert ask("SELECT (%s || 'x')::int") == "attempt"
        assert (
            ask("SELECT jsonb_populate_record(NULL::audio_files, jsonb_build_object('audio_id', %s || 'x'))")
            == "attempt"
        )
        assert ask("SELECT format('%%s', pg_input_error_info(%s, 'integer')), 1/0") == "attempt"
        assert ask("SELECT set_config('statement_timeout', %s || 'x', true)") == "attempt"
    connection.close()
    assert verdict(raising(psycopg2.OperationalError(said))) == "PostgreSQL"


# --- the system, TLS and the GPU ---------------------------------------------------------------------------


@several
@given(said=words, name=words)
def test_a_message_without_a_number_or_class_of_its_own_decides_nothing(said: str, name: str) -> None:
    for error in (
        OSError(said), ValueError(said), RuntimeError(said), FileNotFoundError(errno.ENOENT, said, name),
        IsADirectoryError(errno.EISDIR, said, name), BugError(1, said, name), UnicodeError(said), KeyError(said),
    ):  # fmt: skip
        assert verdict(raising(error)) == "attempt"
    assert verdict(raising(OSError(errno.ENOSPC, said, name))) == "the disk"
    assert verdict(raising(Permanent(said))) == "permanent"
    for error in (
        BugError(1, said, name),
        FileNotFoundError(errno.ENOENT, said, name),
        ValueError(said),
        OSError(said),
    ):
        assert not is_broken(error)
        assert not is_out_of_memory(error)


@several
@given(said=words)
def test_only_tls_itself_tells_of_certificates(said: str) -> None:
    refused = s3_errors.SSLError(endpoint_url="https://s3", error=said)
    refused.__context__ = ConnectionResetError(errno.ECONNRESET, said)
    for error in (redis.exceptions.ConnectionError(said), refused):
        assert certificate_problem(error) is None


# --- the EC2 host ------------------------------------------------------------------------------------------

PATH = "/recordings/{}.tar"
ENDS: tuple[tuple[int, list[tuple[int, int]]], ...] = (
    (255, []), (1, []), (1, [(sftp.NO_SUCH_FILE, 0)]), (1, [(sftp.PERMISSION_DENIED, FILE)]),
    (1, [(sftp.BAD_MESSAGE, 0)]), (1, [(sftp.OK, FILE)]), (1, [(sftp.OK, FOLDER)]),
    (1, [(FAILURE, 0), (FAILURE, FOLDER)]), (1, [(FAILURE, FILE), (sftp.OK, FOLDER)]), (2, [(sftp.OK, FILE)]),
    (127, [(sftp.OK, FOLDER)]), (254, [(sftp.OK, FILE)]),
)  # fmt: skip


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSsh:
    """ssh and scp that end as they are configured to."""
    return FakeSsh(tmp_path / "bin", monkeypatch)


@several
@given(end=st.sampled_from(ENDS), said=lines, name=names)
def test_what_ssh_scp_and_remote_commands_say_decides_nothing(
    fake: FakeSsh, tmp_path: Path, end: tuple[int, list[tuple[int, int]]], said: str, name: str
) -> None:
    host = RemoteHost("h", 22, "h", "key", "known")

    def verdicts(messages: bytes, path: str) -> list[str]:
        steps = (
            lambda: host.stat(path),
            lambda: host.look(path),
            lambda: host.tidy(path, FileState(1, 1), "delete"),
            lambda: Copy(host, path, FileState(9, 1), tmp_path / "a.tar").run(NEVER),
        )
        found = []
        for step in steps:
            fake.will(end[0], messages, *end[1])
            found.append(verdict(step))
        return found

    assert verdicts(said.encode(), PATH.format(name)) == verdicts(b"", PATH.format("a"))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """OpenSSH's own server."""
    if sshd_path() is None:
        pytest.skip("OpenSSH's sshd is not installed (Debian: apt install openssh-server)")
    with Sshd(tmp_path_factory.mktemp("ssh")) as server:
        yield server


@few
@given(said=lines, name=names)
def test_a_banner_a_noisy_shell_and_a_name_decide_nothing(
    sshd: Sshd, tmp_path: Path, said: str, name: str
) -> None:
    sshd.banner.write_text(f"{said}\n")
    (sshd.private / "words").write_text(f"{said}\n")
    (sshd.private / ".bashrc").write_text(f"cat '{sshd.private}/words'; cat '{sshd.private}/words' >&2\n")
    host = RemoteHost(sshd.host, sshd.port, sshd.user, str(sshd.key_file), str(sshd.known_hosts))
    path, here = tmp_path / f"{name}.tar", tmp_path / "here"
    here.mkdir(exist_ok=True)

    def copied(host: RemoteHost, path: Path, target: Path) -> str:
        return verdict(lambda: Copy(host, str(path), FileState(9, 1), target).run(NEVER))

    assert trial.refusal(host, here / "trial") is None
    assert verdict(lambda: host.stat(str(path))) == "permanent"
    assert copied(host, path, here / "a.tar") == "permanent"
    path.mkdir()
    try:
        assert copied(host, path, here / "a.tar") == "permanent"
    finally:
        path.rmdir()
    path.write_bytes(b"recording")
    assert copied(host, path, here / "nowhere" / "a.tar") == "the disk"
    away_host = replace(host, port=free_port())
    assert copied(away_host, path, here / "a.tar") == "EC2"
    with pytest.raises(Outage):
        trial.refusal(away_host, here / "trial")
    assert copied(host, path, here / "a.tar") == "well"
    (here / "a.tar").unlink()
    path.unlink()
