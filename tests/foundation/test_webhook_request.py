"""pipeline/foundation/webhook_request.py: signed, never for long, and nothing of the answer is believed."""

import time
from pathlib import Path

import pytest
import trustme

from pipeline.foundation.webhook_request import Receiver, signature
from tests.support.child import free_port
from tests.support.tls import Terminator, certificate
from tests.support.webhook_receiver import SECRET, WebhookReceiver

BODY = b'{"id": "1", "type": "test"}'


def send(url: str, seconds: float = 10.0) -> str | None:
    refusal = Receiver(url, SECRET, seconds).send("event-1", "test", BODY)
    return refusal.problem if refusal else None


def test_a_request_is_signed_and_says_what_it_is() -> None:
    with WebhookReceiver() as receiver:  # it checks the signature
        before = int(time.time())
        assert send(receiver.url) is None
        (got,) = receiver.got
    assert got.path == "/hooks"
    assert got.event == {"id": "1", "type": "test"}
    assert got.headers["content-type"] == "application/json"
    assert (got.headers["x-audio-pipeline-event"], got.headers["x-audio-pipeline-delivery"]) == ("test", "event-1")
    stamp = got.headers["x-audio-pipeline-signature"].split(",")[0].removeprefix("t=")
    assert before <= int(stamp) <= time.time()


def test_a_signature_is_of_the_time_the_body_and_the_secret() -> None:
    ours = signature("secret", "1700000000", BODY)
    assert ours == "13c4a81ab623904cba357f27f57d23a184dfc4ed1a5bad3289e0928ef37ea9f4"
    others = [("Secret", "1700000000", BODY), ("secret", "1700000001", BODY), ("secret", "1700000000", b"x")]
    assert ours not in [signature(*other) for other in others]


@pytest.mark.parametrize("status", [302, 400, 410, 500, 503])
def test_what_is_no_success_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    with WebhookReceiver(status) as receiver:
        problem = send(receiver.url)
        assert len(receiver.got) == 1
    assert problem is not None
    assert str(status) in problem


@pytest.mark.parametrize(
    ("answer", "is_of_the_event"),
    [
        (400, True),
        (413, True),
        (422, True),
        (408, False),
        (425, False),
        (429, False),
        (302, False),
        (503, False),
        (b"x", False),
    ],
)
def test_a_refusal_is_of_one_event_or_of_all(answer: int | bytes, is_of_the_event: bool) -> None:
    with WebhookReceiver(answer) as receiver:
        refusal = Receiver(receiver.url, SECRET, 0.5).send("event-1", "test", BODY)
    assert refusal is not None
    assert refusal.is_of_the_event == is_of_the_event


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_every_success_is_one(status: int) -> None:
    with WebhookReceiver(status) as receiver:
        assert send(receiver.url) is None


@pytest.mark.parametrize(
    "answer", [None, b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nX-Slow: "], ids=["silent", "cut", "slow header"]
)
def test_a_receiver_that_does_not_answer_is_left(answer: bytes | None) -> None:
    with WebhookReceiver(answer) as receiver:
        began = time.monotonic()
        assert send(receiver.url, seconds=0.3) is not None
        assert time.monotonic() - began < 3


def test_a_receiver_that_answers_byte_by_byte_is_left() -> None:
    with WebhookReceiver(b"HTTP/1.1 200 OK\r\nX-Slow: ") as receiver:
        receiver.drips = True
        began = time.monotonic()
        assert send(receiver.url, seconds=0.5) == "the request failed: TimeoutError: no whole answer in time"
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("answer", [b"\0\xff" * 40_000, b"SMTP ready\r\n" * 10, b"HTTP/1.1 999999 x\r\n\r\n"])
def test_an_answer_that_is_no_http_is_a_failure(answer: bytes) -> None:
    with WebhookReceiver(answer) as receiver:
        problem = send(receiver.url, seconds=1)
    assert problem is not None
    assert len(problem) <= 200
    assert problem.isascii() or problem.isprintable()


def test_an_answer_without_an_end_is_not_read() -> None:
    with WebhookReceiver(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000) as receiver:
        assert send(receiver.url) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:{}/\u00fc", "http://127.0.0.1:{}/a b", "http://{}..x/"])
def test_an_address_that_leads_nowhere_is_a_failure(url: str) -> None:
    with WebhookReceiver() as receiver:
        assert send(url.format(receiver.port), seconds=1) == "HTTP cannot hold the address"
        assert receiver.got == []


def test_an_address_of_ipv6_without_a_port_is_taken_whole() -> None:
    assert "refused" in (send("http://[::1]/") or "")


def test_nobody_listens() -> None:
    assert "refused" in (send(f"http://127.0.0.1:{free_port()}/") or "")


def test_a_certificate_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    known = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(known))
    with WebhookReceiver() as receiver, Terminator(receiver.port, certificate(authority, "localhost")) as tls:
        problem = send(f"https://localhost:{tls.port}/hooks")
        assert problem is not None
        assert "certificate" in problem
        monkeypatch.setenv("SSL_CERT_FILE", str(known))
        assert send(f"https://localhost:{tls.port}/hooks") is None
        assert len(receiver.got) == 1


def test_the_secret_is_not_shown() -> None:
    assert SECRET not in repr(Receiver("http://x", SECRET))
