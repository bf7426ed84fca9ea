"""Environment variables as settings: each reader gives one variable as a value of its kind.

A value that cannot be read is noted in `problems`, in a line for people, so that all are reported together.
"""

import datetime
import ipaddress
import os
import re
import urllib.parse
import zoneinfo
from collections.abc import Mapping
from pathlib import Path

import psycopg2.extensions

from pipeline.foundation import filename_times, formatting, redis_url


class Environment:
    """Environment variables, those of the process where no others are given."""

    def __init__(self, variables: Mapping[str, str] = os.environ) -> None:
        self._variables = variables
        self.defaults: dict[str, str] = {}  # every variable that was read, with its default as text
        self.problems: list[str] = []
        self.redis_files: dict[str, str] = {}  # option of REDIS_URL: path

    def text(self, name: str, default: str = "") -> str:
        """The variable's value; one that is empty counts as not set."""
        self.defaults[name] = default
        return self._variables.get(name, "").strip() or default

    def path(self, name: str, default: str) -> Path:
        """The variable as an absolute path."""
        text = self.text(name, default)
        if not text.startswith("/"):
            self.problems.append(f"{name} is {text!r}: give an absolute path")
        return Path(text)

    def url(self, name: str, *schemes: str) -> str:
        """The variable as a URL of one of the schemes, without a login. A wrong one may hold a login: it is not
        shown."""
        text = self.text(name)
        try:
            url = urllib.parse.urlsplit(text)
            is_plain = not (url.username or url.password or "@" in url.netloc or url.query or url.fragment)
            sound = url.scheme in schemes and bool(url.hostname) and url.port != 0 and is_plain
        except ValueError:
            sound = False
        if text and not sound:
            scheme = " or ".join(f"{scheme}://" for scheme in schemes)
            self.problems.append(f"{name} must be a URL that begins with {scheme}")
        return text

    def redis_url(self, name: str) -> str:
        """The variable as an address of Redis. It may hold a password, so it is not shown."""
        text = self.text(name)
        try:
            self.redis_files.update(redis_url.parse(text).tls_options)
        except ValueError as error:
            if text:
                self.problems.append(f"{name} is not a valid Redis address: {error}")
        return text

    def database_url(self, name: str) -> str:
        """The variable as an address that PostgreSQL's own client reads as everybody does.

        It may hold a password, so it is not shown: nor may any part of one be taken for a host, a port or a
        database, which stand in errors.
        """
        text = self.text(name)
        try:
            ports = psycopg2.extensions.parse_dsn(text).get("port", "").split(",")
            sound = re.fullmatch(r"postgres(ql)?://([^/?#@]*@)?[^/?#@]*(/[^/?#@]*)?(\?[^#@]*)?", text) is not None
            sound = sound and all(
                re.fullmatch("[0-9]{0,5}", port) and 0 < int(port or 1) < 65536 for port in ports
            )
        except psycopg2.ProgrammingError:
            sound = False
        if text and not sound:
            self.problems.append(
                f"{name} must be a URL that begins with postgresql:// and that PostgreSQL understands"
                " (/ ? # @ in a password are written %2F %3F %23 %40)"
            )
        return text

    def whole(self, name: str, default: int, least: int = 0, most: int | None = None) -> int:
        """The variable as a whole number of at least `least`, and at most `most`."""
        text = self.text(name, str(default))
        number = formatting.whole_number(text)
        if number is not None and number >= least and (most is None or number <= most):
            return number
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        self.problems.append(f"{name} is {text[:40]!r}: give a whole number {limits}")
        return default

    def name(self, name: str, default: str, allowed: str = "._:@-") -> str:
        """The variable as a name that can be part of a Redis key and of a path; empty by default only."""
        text = self.text(name, default)
        if text and not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9{re.escape(allowed)}]*", text):
            self.problems.append(f"{name} is {text!r}: use letters, digits and {' '.join(allowed)} only")
        return text

    def choice(self, name: str, default: str, *values: str) -> str:
        """The variable as one of the values."""
        text = self.text(name, default)
        for value in values:
            if text.lower() == value.lower():
                return value
        self.problems.append(f"{name} is {text!r}: give {', '.join(values[:-1])} or {values[-1]}")
        return default

    def device(self, name: str, default: str) -> tuple[str, int]:
        """The variable as a device and its number: auto, cpu, cuda, or cuda:1 for the second GPU."""
        text = self.text(name, default)
        if match := re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,4})", text):
            return match[1] or "cuda", int(match[2] or 0)
        self.problems.append(f"{name} is {text!r}: give auto, cpu, cuda, or cuda:1 for the second GPU")
        return default, 0

    def languages(self, name: str) -> tuple[str, ...]:
        """The variable as language codes with commas between them; none where it is empty."""
        text = self.text(name)
        codes = tuple(dict.fromkeys(code.strip().lower() for code in text.split(","))) if text else ()
        if all(re.fullmatch(r"[a-z]{2,3}", code) for code in codes):
            return codes
        self.problems.append(
            f"{name} is {text!r}: give codes of languages with commas between them, as en or en,es,de"
        )
        return ()

    def names(self, name: str) -> tuple[str, ...]:
        """The variable as names with commas between them; none where it is empty."""
        text = self.text(name)
        names = tuple(part.strip() for part in text.split(",")) if text else ()
        if all(part and part.isprintable() for part in names) and len(set(names)) == len(names):
            return names
        self.problems.append(
            f"{name} is {text!r}: give names with commas between them, each of its own, as caller,agent"
        )
        return ()

    def zone(self, name: str, default: str) -> datetime.tzinfo:
        """The variable as a time zone of the IANA database, as Europe/Berlin."""
        text = self.text(name, default)
        try:
            return datetime.UTC if text == "UTC" else zoneinfo.ZoneInfo(text)
        except (KeyError, ValueError, OSError):  # not there, no such name, a folder of them
            self.problems.append(f"{name} is {text[:40]!r}: give a time zone that is known here, as Europe/Berlin")
            return datetime.UTC

    def filename_forms(self, name: str) -> tuple[filename_times.Form, ...]:
        """The variable as regular expressions for names of recordings; none where it is empty."""
        try:
            return filename_times.read_forms(self.text(name))
        except ValueError as error:
            self.problems.append(f"{name} is not a list of regular expressions: {error}")
            return ()

    def host(self, name: str) -> str:
        """The variable as a name or an address of a host, without the brackets of an IPv6 address."""
        text = self.text(name)
        host = text[1:-1] if re.fullmatch(r"\[.*\]", text) else text
        if not re.fullmatch(r"[A-Za-z0-9._-]*", host) and not _is_ipv6(host):
            self.problems.append(f"{name} is {text!r}: give a name or an address alone, without a user or a port")
        return host

    def ip(self, name: str) -> str:
        """The variable as an IP address, in its usual form; it may be empty."""
        text = self.text(name)
        try:
            return str(ipaddress.ip_address(text)) if text else ""
        except ValueError:
            self.problems.append(f"{name} is {text!r}: give an IP address, as 127.0.0.1")
            return ""

    def listen(self, name: str) -> tuple[str, int] | None:
        """The variable as an address of this host and a port, as 127.0.0.1:9101 or [::1]:9101; None if empty."""
        text = self.text(name)
        if not text:
            return None
        if (found := address(text)) is not None:
            return found
        self.problems.append(f"{name} is {text!r}: give an address of this host and a port, as 127.0.0.1:9101")
        return None


def address(text: str) -> tuple[str, int] | None:
    """The address and the port of 127.0.0.1:9101 or [::1]:9101; None where the text is no such."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})", text)
    return (match[1] or match[2], int(match[3])) if match and 1 <= int(match[3]) <= 65535 else None


def _is_ipv6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False
