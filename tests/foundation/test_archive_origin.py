"""Where an archive came from: through the metadata of S3 and back, whatever its name."""

import pytest

from pipeline.foundation.archive_origin import (
    MOST_VALUE,
    Origin,
    as_kept,
    from_metadata,
    name_of,
    to_metadata,
)
from pipeline.foundation.file_names import is_storable

DIGEST = "0f" * 32
LONG = "/".join(["", *(f"folder{number:04}" for number in range(400)), "monday.tar"])
PATHS = [
    "/recordings/monday.tar",
    "/запись/日本.tar",
    "/a b%20c\n\x1b[31m=x.tar",
    "/recordings/caf\udce9.tar",
    "/" + "é" * 127 + "/" + "ü" * 120 + ".tar",
]


def through(path: str, host: str = "ec2.example.net") -> Origin:
    """What is read of an archive that was brought so."""
    return from_metadata({"sha256": DIGEST, **to_metadata(Origin(path, host))}, 42)


@pytest.mark.parametrize("path", PATHS)
def test_metadata_gives_back_what_was_put_in(path: str) -> None:
    kept = as_kept(path)
    assert through(path) == Origin(kept, "ec2.example.net", 42, DIGEST)
    assert kept == path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@pytest.mark.parametrize("path", [*PATHS, LONG, "\udcff" * 5000, "/" * 5000, "/x" * 2000 + "\udcff" * 255])
def test_metadata_is_ascii_within_the_limits_of_s3_and_swift(path: str) -> None:
    found = to_metadata(Origin(path, "h" * 300))
    assert all(value.isascii() and value.isprintable() for value in found.values())
    assert max(map(len, found.values())) <= MOST_VALUE
    assert sum(map(len, [*found, *found.values()])) + len("sha256") + 64 <= 2048
    kept = through(path).path
    assert kept == as_kept(path)
    assert is_storable(kept)


def test_a_long_path_loses_its_first_folders() -> None:
    kept = as_kept(LONG)
    assert kept.startswith(".../folder")
    assert LONG.endswith(kept.removeprefix("..."))
    assert name_of(kept) == "monday.tar"
    assert len(kept) > 1400


def test_what_is_not_known_is_none() -> None:
    assert from_metadata({}, 7) == Origin(size=7)
    assert to_metadata(Origin()) == {}


@pytest.mark.parametrize("sha256", ["", "x", "0" * 63, "G" * 64, DIGEST + "\n"])
def test_what_is_no_sha256_is_none(sha256: str) -> None:
    assert from_metadata({"sha256": sha256}, 7).sha256 is None


def test_what_others_wrote_as_metadata_can_be_stored() -> None:
    hostile = {f"origin-path-{number}": "%00%FF" * 300 for number in range(1, 30)}
    found = from_metadata({**hostile, "origin-host": "%00" * 900}, 7)
    assert found.path is not None
    assert found.host is not None
    assert is_storable(found.path)
    assert is_storable(found.host)


def test_a_name_is_what_is_behind_the_last_folder() -> None:
    assert [name_of(path) for path in ("/a/b.tar", "b.tar", "", None)] == ["b.tar", "b.tar", "", ""]
