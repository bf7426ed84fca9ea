"""Batches by their archives, as PostgreSQL keeps them."""

from typing import Any

import pytest

from pipeline.foundation.archive_origin import UNKNOWN, Origin
from pipeline.store.batch_history import archive_names, batches_of_archive, read_batch
from pipeline.store.database import Database
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch

BROUGHT = Origin("/recordings/monday.tar", "ec2", 12, "0f" * 32)


def origin(database: Database) -> Origin:
    batch = read_batch(database, BATCH)
    assert batch is not None
    return batch.origin


def test_a_batch_keeps_where_its_archive_came_from(database: Database) -> None:
    database.open_batch(BATCH, "archives/a.tar", ["a.mp3"], "here", BROUGHT)
    assert origin(database) == BROUGHT
    database.open_batch(BATCH, "archives/a.tar", ["a.mp3"], "there", BROUGHT)  # delivered again
    assert origin(database) == BROUGHT
    repaired = Origin(size=13, sha256="1e" * 32)  # a copy that somebody has put into S3
    database.open_batch(BATCH, "archives/a.tar", ["a.mp3"], "there", repaired)
    assert origin(database) == Origin(BROUGHT.path, BROUGHT.host, 13, "1e" * 32)


def test_a_batch_of_which_nothing_is_known_has_no_archive(fleet: Fleet, database: Database) -> None:
    add_batch(fleet)  # as the previous release makes its row
    assert origin(database) == UNKNOWN
    batch = read_batch(database, BATCH)
    assert batch is not None
    assert batch.archive == ""
    assert batch.as_dict()["archive"] == {"path": None, "host": None, "bytes": None, "sha256": None}
    assert archive_names(database, [BATCH, "no\0id", "none"]) == {}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("monday.tar", ["c", "a"]),
        ("/recordings/monday.tar", ["a"]),
        ("caf\\xe9.tar", ["b"]),
        ("onday.tar", []),
        ("recordings", []),
        ("recordings/monday.tar", []),
        ("Monday.tar", []),
        ("%", []),
        ("[^/]*", []),
        ("", []),
        ("/", []),
        ("\0", []),
        ("\udcff", []),
    ],
)
def test_batches_are_found_by_the_whole_name_or_path(database: Database, name: str, found: list[str]) -> None:
    for batch_id, path in (("a", "/recordings/monday.tar"), ("b", "/caf\\xe9.tar"), ("c", "/other/monday.tar")):
        database.open_batch(batch_id, "key", [], "here", Origin(path))
    assert [batch.batch_id for batch in batches_of_archive(database, name, 10)] == found
    assert [batch.batch_id for batch in batches_of_archive(database, name, 1)] == found[:1]


def test_the_names_of_many_are_found_by_an_index(fleet: Fleet, database: Database) -> None:
    fleet.query(
        "INSERT INTO batches (batch_id, s3_key, file_count, host, archive_path)"
        " SELECT 'b' || n, 'key', 1, 'here', '/in/' || n || '.tar' FROM generate_series(1, 5000) AS n"
    )
    fleet.query("ANALYZE batches")
    ((plan,),) = fleet.query(
        "EXPLAIN (FORMAT JSON) SELECT batch_id FROM batches AS b"
        " WHERE substring(b.archive_path from '[^/]*$') = '77.tar'"
    )
    assert "batches_by_archive" in _indexes(plan[0]["Plan"])
    assert [batch.batch_id for batch in batches_of_archive(database, "77.tar", 10)] == ["b77"]


def _indexes(node: dict[str, Any]) -> set[str]:
    below = (_indexes(part) for part in node.get("Plans", []))
    return {str(node.get("Index Name")), *(name for names in below for name in names)}
