"""What `REDIS_URL` says: where Redis is, or which Sentinels know, and how to log in.

redis://[user:password@]host:port/db
rediss://...                                                  with TLS
redis+sentinel://[user:password@]host,host:port/service/db    the primary that these Sentinels name
rediss+sentinel://...                                         with TLS, to the Sentinels too
"""

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

PORT, SENTINEL_PORT = 6379, 26379  # where none is given
TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")  # none that would turn a check off
SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
EXPECTED = (
    "redis://user:password@host:port/0, rediss:// for TLS, or"
    " redis+sentinel://user:password@host:port,host:port/service/0, with the options of example.env;"
    " in a password / ? # @ : % are %2F %3F %23 %40 %3A %25"
)
# A part of a password that is not written so must not be taken for a host: it would stand in every log.
_URL = re.compile(
    r"redis(?P<tls>s?)(?P<sentinel>\+sentinel)?://"
    r"((?P<username>[^\s:@/?#]*)(:(?P<password>[^\s:@/?#]*))?@)?"
    r"(?P<hosts>[^\s@/?#]+)(/(?P<path>[^\s@?#]*))?(\?(?P<options>[^\s@#]+))?"
)
_HOST = re.compile(r"(\[(?P<ipv6>[0-9A-Fa-f:.]+(%\w+)?)\]|(?P<name>[A-Za-z0-9._-]+))(:(?P<port>\d{1,5}))?")
_DATABASE, _SERVICE = re.compile(r"(?P<db>\d{0,5})"), re.compile(r"(?P<service>[\w.-]+)(/(?P<db>\d{0,5}))?")


@dataclass(frozen=True)
class RedisUrl:
    """A Redis, or, where `service` is not empty, the Sentinels at `hosts` (name or address, port) that know it.

    The logins and the options of TLS have the names that redis-py gives them.
    """

    hosts: list[tuple[str, int]]
    service: str
    database: int
    tls: bool
    login: dict[str, str] = field(repr=False)
    sentinel_login: dict[str, str] = field(repr=False)
    tls_options: dict[str, str]


def parse(text: str) -> RedisUrl:
    """The parts of the URL. ValueError where it is not one. The message holds nothing of it: it may be
    a password."""
    url = _matched(_URL, text)
    path = _matched(_SERVICE if url["sentinel"] else _DATABASE, url["path"] or "")
    hosts = url["hosts"].split(",") if url["sentinel"] else [url["hosts"]]
    options = dict(parse_qsl(url["options"] or "", keep_blank_values=True))
    allowed = (*TLS_OPTIONS * bool(url["tls"]), *SENTINEL_OPTIONS * bool(url["sentinel"]))
    if not set(options) <= set(allowed):
        raise ValueError(EXPECTED)
    return RedisUrl(
        hosts=[_host(host, SENTINEL_PORT if url["sentinel"] else PORT) for host in hosts],
        service=path["service"] if url["sentinel"] else "",
        database=int(path["db"] or 0),
        tls=bool(url["tls"]),
        login={name: unquote(url[name]) for name in ("username", "password") if url[name]},
        sentinel_login={
            name.removeprefix("sentinel_"): options[name] for name in SENTINEL_OPTIONS if name in options
        },
        tls_options={name: options[name] for name in TLS_OPTIONS if name in options},
    )


def _host(text: str, default_port: int) -> tuple[str, int]:
    host = _matched(_HOST, text)
    port = int(host["port"] or default_port)
    if not 1 <= port <= 65535:
        raise ValueError(EXPECTED)
    return host["ipv6"] or host["name"], port


def _matched(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text)
    if match is None:
        raise ValueError(EXPECTED)
    return match
