"""The connection to S3: whose settings decide, and whose answers are believed."""

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from pipeline.foundation import s3_client
from pipeline.foundation.errors import Outage, unavailable_service
from tests.support.child import Child
from tests.support.servers import MotoS3


def client_of(endpoint: str) -> Any:
    return s3_client.connect(endpoint, "key", "secret", "us-east-1", None)


# --- settings of others ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_PROFILE", "nobody"), ("AWS_DEFAULT_PROFILE", "nobody"), ("AWS_CONFIG_FILE", "{folder}/config"),
        ("AWS_SHARED_CREDENTIALS_FILE", "{folder}/config"), ("HOME", "{folder}"),
        ("AWS_MAX_ATTEMPTS", "many"), ("AWS_USE_FIPS_ENDPOINT", "true"), ("AWS_DEFAULTS_MODE", "nonsense"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1"), ("AWS_REQUEST_CHECKSUM_CALCULATION", "nonsense"),
    ],
)  # fmt: skip
def test_profiles_files_and_variables_of_aws_decide_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (tmp_path / "config").write_text("[profile half\nregion")
    (tmp_path / ".aws").mkdir()
    for file in ("config", "credentials"):
        (tmp_path / ".aws" / file).write_text("[default]\nregion = mars\nretry_mode = never\n[broken")
    monkeypatch.setenv(name, value.format(folder=tmp_path))
    settings = client_of("http://127.0.0.1:9").meta
    assert settings.endpoint_url == "http://127.0.0.1:9"
    assert settings.region_name == "us-east-1"
    assert settings.config.retries == {"mode": "standard", "total_max_attempts": 4}


# --- answers of others -------------------------------------------------------------------------------------


class Stranger(BaseHTTPRequestHandler):
    """Answers everything as its server says, as a proxy or the page of a network's login may."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = self.server.says  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = answer


@pytest.fixture
def stranger() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


PAGE = b"<html><body><h1>413 Request Entity Too Large</h1></body></html>"
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PAGE), PAGE)
STEPS: dict[str, Callable[[Any], object]] = {
    "put": lambda client: client.put_object(Bucket="bucket", Key="key", Body=b"body"),
    "get": lambda client: client.get_object(Bucket="bucket", Key="key"),
    "head": lambda client: client.head_object(Bucket="bucket", Key="key"),
    "list": lambda client: client.list_objects_v2(Bucket="bucket"),
}
ASKED = pytest.mark.parametrize("asked", STEPS)


@ASKED
@pytest.mark.parametrize("is_chunked", [False, True])
def test_what_a_proxy_refuses_is_known_by_its_status(stranger: Any, asked: str, is_chunked: bool) -> None:
    length = {"Transfer-Encoding": "chunked"} if is_chunked else {"Content-Length": str(len(PAGE))}
    stranger.says = (413, {"Content-Type": "text/html", **length}, CHUNKED if is_chunked else PAGE)
    with pytest.raises(ClientError, match=r"\(413\).*Too Large") as caught:
        STEPS[asked](client_of(f"http://127.0.0.1:{stranger.server_port}"))
    assert unavailable_service(caught.value) == "S3"


@pytest.mark.parametrize("asked", ["put", "get", "list"])
def test_an_error_that_breaks_off_is_not_read(stranger: Any, asked: str) -> None:
    stranger.says = (
        404,
        {"Content-Length": "200", "Content-Type": "application/xml"},
        b"<Error><Code>NoSuchKey</",
    )
    with pytest.raises(Exception, match=r".") as caught:
        STEPS[asked](client_of(f"http://127.0.0.1:{stranger.server_port}"))
    assert unavailable_service(caught.value) == "S3"


@ASKED
def test_a_page_in_the_place_of_s3_is_no_answer_of_s3(stranger: Any, asked: str) -> None:
    stranger.says = (200, {"Content-Length": str(len(PAGE)), "Content-Type": "text/html"}, PAGE)
    with pytest.raises(Exception, match=r".") as caught:
        STEPS[asked](client_of(f"http://127.0.0.1:{stranger.server_port}"))
    assert unavailable_service(caught.value) == "S3"


def test_a_redirection_is_not_followed(stranger: Any) -> None:
    stranger.says = (
        301,
        {"Content-Length": "0", "Location": "http://127.0.0.1:1/", "x-amz-bucket-region": "x"},
        b"",
    )
    with pytest.raises(ClientError, match="301"):
        STEPS["list"](client_of(f"http://127.0.0.1:{stranger.server_port}"))


# --- no answer ---------------------------------------------------------------------------------------------


@ASKED
def test_who_waits_waits_once(asked: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and says nothing
        patience = s3_client.Patience(1, 1, 1)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = s3_client.connect(endpoint, "key", "secret", "us-east-1", None, patience)
        began = time.monotonic()
        with pytest.raises(ReadTimeoutError) as caught:
            STEPS[asked](client)
        assert time.monotonic() - began < 2
        assert unavailable_service(caught.value) == "S3"


# --- where it is -------------------------------------------------------------------------------------------


class MotoOnSix(MotoS3):
    """moto's S3 at ::1."""

    @property
    def endpoint(self) -> str:
        return f"http://[::1]:{self.port}"

    def _set_up(self) -> list[Child]:
        command = [sys.executable, "-m", "moto.server", "-H", "::", "-p", str(self.port)]
        return [Child(command, self.folder / "moto.log")]


def test_an_ipv6_address_is_one_like_others(tmp_path: Path) -> None:
    with MotoOnSix(tmp_path) as server:
        client = client_of(server.endpoint)
        server.create_bucket("bucket")
        assert STEPS["put"](client)
        assert client.get_object(Bucket="bucket", Key="key")["Body"].read() == b"body"
        address = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
        assert address.startswith(f"{server.endpoint}/bucket/key?")


def test_an_outage_says_what_was_cut() -> None:
    with pytest.raises(Outage, match=r"the answer to GetObject is not whole \(status 200\)"):
        s3_client._refuse_what_was_cut(
            type("Operation", (), {"name": "GetObject"}),
            {"status_code": 200, "headers": {"Content-Length": "4"}, "body": b""},
        )
