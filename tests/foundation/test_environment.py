"""Environment variables as settings: what each reader takes, and what it says of what is wrong."""

import datetime

import pytest

from pipeline.foundation.environment import Environment


@pytest.mark.parametrize(
    ("given", "host"),
    [("::1", "::1"), ("[::1]", "::1"), ("fe80::1%eth0", "fe80::1%eth0"), ("ec2-1.aws", "ec2-1.aws")],
)
def test_a_host_may_be_a_name_or_an_address(given: str, host: str) -> None:
    assert Environment({"EC2_HOST": given}).host("EC2_HOST") == host


# libpq would take what is before the sign for a port and what is behind it for a database or a host, and say so in
# its errors, which are logged.
@pytest.mark.parametrize(
    "url",
    [
        *(f"postgresql://user:{password}@127.0.0.1:5432/x" for password in (
            "12/hunter2", "hunter2/12", "12/3?4=hunter2", "12#hunter2", "12/3#hunter2", "12?hunter2", "12@hunter2",
            "%zzhunter2",
        )),
        "postgresql://127.0.0.1?password=hunter2@other", "postgresql://127.0.0.1/x?password=hunter2#other",
        "postgresql://127.0.0.1/x/hunter2", "postgresql://127.0.0.1:5432,127.0.0.2:hunter2/x",
        "postgresql://user:hunter2@127.0.0.1:70000/x", "host=127.0.0.1 password=hunter2",
    ],
)  # fmt: skip
def test_an_address_of_postgresql_that_others_read_otherwise_is_refused_unseen(url: str) -> None:
    environment = Environment({"DATABASE_URL": url})
    environment.database_url("DATABASE_URL")
    (line,) = environment.problems
    assert line.startswith("DATABASE_URL must be a URL that begins with postgresql://")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:12%2F3%3F%23%40:$[+=@127.0.0.1/x", "postgres://[::1]:5432,db.example.org/x",
        "postgresql://u@%2Fvar%2Frun/x", "postgresql:///x?host=/var/run&sslrootcert=/etc/ca.pem",
        "postgresql://h?user=me&password=12%2F3", "postgresql://[fe80::1%25eth0]/x",
    ],
)  # fmt: skip
def test_an_address_of_postgresql_may_be_all_that_is_written_as_it_should(url: str) -> None:
    environment = Environment({"DATABASE_URL": url})
    assert environment.database_url("DATABASE_URL") == url
    assert environment.problems == []


def test_a_time_zone_is_one_of_the_iana_database() -> None:
    environment = Environment({"A": "Europe/Berlin", "B": "UTC"})
    assert str(environment.zone("A", "UTC")) == "Europe/Berlin"
    assert environment.zone("B", "UTC") is environment.zone("C", "UTC") is datetime.UTC
    assert environment.problems == []


@pytest.mark.parametrize(
    "given", ["Berlin", "Europe", "../../etc/passwd", "/etc/localtime", "UTC+1", "x" * 300, "a\0b"]
)
def test_what_is_no_time_zone_is_refused(given: str) -> None:
    environment = Environment({"SOURCE_TIMEZONE": given})
    assert environment.zone("SOURCE_TIMEZONE", "UTC") is datetime.UTC
    (line,) = environment.problems
    assert line == f"SOURCE_TIMEZONE is {given[:40]!r}: give a time zone that is known here, as Europe/Berlin"


def test_forms_of_filenames_are_regular_expressions() -> None:
    environment = Environment({"A": r"(?P<epoch>\d+)  (?P<agent>[a-z]+)", "B": "([0-9]"})
    assert [form.pattern for form in environment.filename_forms("A")] == [r"(?P<epoch>\d+)", "(?P<agent>[a-z]+)"]
    assert environment.filename_forms("C") == ()
    assert environment.filename_forms("B") == ()
    (line,) = environment.problems
    assert line.startswith("B is not a list of regular expressions: ([0-9] is no regular expression: ")
