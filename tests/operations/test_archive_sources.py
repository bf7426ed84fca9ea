"""Which archives old batches were, as `migrate` finds out from S3."""

import hashlib
from typing import Any

import pytest

import s3_utils
from pipeline.foundation.archive_origin import Origin, to_metadata
from pipeline.operations import archive_sources
from pipeline.store.database import Database
from tests.commands.test_pipelinectl import control, printed
from tests.support.fleet import Fleet
from tests.support.steps import add_batch, s3_client, use_s3

BODY = b"an archive"
DIGEST = hashlib.sha256(BODY).hexdigest()
NAMED = ("archive_path", "archive_host", "archive_bytes", "archive_sha256")


def store(fleet: Fleet, batch_id: str, **metadata: str) -> None:
    """A batch of an older release, whose archive is in S3."""
    add_batch(fleet, batch_id)
    key = f"archives/{batch_id}.tar"
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key=key, Body=BODY, Metadata={"sha256": DIGEST, **metadata})


def known(fleet: Fleet) -> dict[str, tuple[Any, ...]]:
    found = fleet.query(f"SELECT batch_id, {', '.join(NAMED)} FROM batches")
    return {batch_id: tuple(rest) for batch_id, *rest in found}


@pytest.fixture
def old(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Batches of every kind that S3 knows something of, or nothing."""
    use_s3(fleet, monkeypatch)
    store(fleet, "remote")
    s3_utils.note_source("/in/caf\udce9.tar\n10 1750602652", "remote", True)
    store(fleet, "shared")
    s3_utils.note_source("/in/cut.tar\n10 1750602652", "shared", False)
    s3_utils.note_source("/in/whole.tar\n10 1750602652", "shared", True)
    store(fleet, "local")
    s3_utils.note_source(f"local archive, SHA-256 {DIGEST}", "local", True)
    store(fleet, "brought", **to_metadata(Origin("/in/new.tar", "ec2")))
    add_batch(fleet, "gone")
    s3_utils.note_source("/in/gone.tar\n10 1750602652", "gone", True)
    add_batch(fleet, "known")
    fleet.query("UPDATE batches SET archive_path = '/kept.tar' WHERE batch_id = 'known'")
    return fleet


FOUND = {
    "remote": ("/in/caf\\xe9.tar", None, len(BODY), DIGEST),
    "shared": ("/in/whole.tar", None, len(BODY), DIGEST),
    "local": ("", None, len(BODY), DIGEST),
    "brought": ("/in/new.tar", "ec2", len(BODY), DIGEST),
    "gone": ("/in/gone.tar", None, None, None),
    "known": ("/kept.tar", None, None, None),
}


def test_migrate_fills_in_what_s3_knows_once(old: Fleet) -> None:
    said = printed(control(old, "migrate", DATABASE_URL=old.postgres.url))
    assert said.splitlines()[-1] == "the archives of 5 of 5 older batches were looked for"
    assert known(old) == FOUND
    again = printed(control(old, "migrate", DATABASE_URL=old.postgres.url, S3_ENDPOINT="http://127.0.0.1:1"))
    assert again == "the schema is up to date\n"  # S3 is not asked again
    assert printed(control(old, "batch", "café.tar".encode("latin-1").decode("ascii", "backslashreplace")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"S3_ENDPOINT": ""}, " with the settings of S3\n"),
        ({"S3_ENDPOINT": "http://127.0.0.1:1"}, ": S3 is unavailable: "),
        ({"S3_BUCKET": "no-such-bucket"}, ": S3_BUCKET 'no-such-bucket' at "),
    ],
)
def test_migrate_does_without_s3_and_says_what_it_left(old: Fleet, changes: dict[str, str], reason: str) -> None:
    said = printed(control(old, "migrate", DATABASE_URL=old.postgres.url, **changes))
    assert "the archives of 5 older batches stay unnamed until the next migrate" in said
    assert reason in said
    assert known(old)["remote"] == (None,) * 4


def test_it_goes_on_where_it_was_interrupted(
    old: Fleet, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_sources, "BATCHES_AT_A_TIME", 2)

    def end(done: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    lacking = archive_sources.without_origin(database)
    with pytest.raises(KeyboardInterrupt):
        archive_sources.fill_in(database, lacking, s3_utils.sources, s3_utils.archive_origin, end)
    old.query("UPDATE batches SET archive_path = '/by/a/worker.tar' WHERE batch_id = 'remote'")
    archive_sources.fill_in(database, lacking, s3_utils.sources, s3_utils.archive_origin, lambda _: None)
    assert known(old)["remote"][0] == "/by/a/worker.tar"  # what is there stays
    old.query("UPDATE batches SET archive_path = NULL WHERE batch_id IN ('remote', 'brought')")
    left = archive_sources.without_origin(database)
    assert sorted(left) == ["brought", "remote"]
    archive_sources.fill_in(database, left, s3_utils.sources, s3_utils.archive_origin, lambda _: None)
    assert known(old) == FOUND
