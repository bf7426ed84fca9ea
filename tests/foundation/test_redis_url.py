"""What REDIS_URL says."""

from typing import Any

import pytest

from pipeline.foundation import redis_url

SENTINELS = [("one.example", 26379), ("::1", 26380)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis://127.0.0.1", {"hosts": [("127.0.0.1", 6379)], "database": 0, "tls": False, "login": {}}),
        ("redis://host:1/15", {"hosts": [("host", 1)], "database": 15, "service": ""}),
        ("redis://[::1]:6380/2", {"hosts": [("::1", 6380)], "database": 2}),
        ("redis://[fe80::1%eth0]", {"hosts": [("fe80::1%eth0", 6379)]}),
        ("redis://:a%2Fb%40c%23@host/", {"login": {"password": "a/b@c#"}, "hosts": [("host", 6379)]}),
        ("redis://me:p+w@host", {"login": {"username": "me", "password": "p+w"}}),
        ("rediss://host?ssl_ca_certs=/a%20b", {"tls": True, "tls_options": {"ssl_ca_certs": "/a b"}}),
        (
            "redis+sentinel://one.example,[::1]:26380/calls",
            {"hosts": SENTINELS, "service": "calls", "database": 0},
        ),
        (
            "redis+sentinel://me:pw@one.example/calls/3",
            {"login": {"username": "me", "password": "pw"}, "database": 3},
        ),
        (
            "rediss+sentinel://one/calls?sentinel_password=a%26b&ssl_ca_certs=/ca",
            {"tls": True, "sentinel_login": {"password": "a&b"}, "tls_options": {"ssl_ca_certs": "/ca"}},
        ),
    ],
)
def test_it_reads(text: str, expected: dict[str, Any]) -> None:
    found = redis_url.parse(text)
    assert {name: getattr(found, name) for name in expected} == expected
    assert "pw" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "", "redis://", "redis:///0", "http://host", "redis://host:0", "redis://one,two", "redis://host/name",
        "redis://ho st", "redis://host?ssl_ca_certs=/ca", "rediss://host?ssl_cert_reqs=none", "redis://a@b@host",
        "redis://host?sentinel_password=x", "redis+sentinel://host", "redis+sentinel://host/calls/x",
        "redis+sentinel://host/a/1/2",
    ],
)  # fmt: skip
def test_it_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="in a password"):
        redis_url.parse(text)
