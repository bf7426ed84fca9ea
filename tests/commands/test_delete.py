"""pipelinectl delete, hold, release, retention and audit: what the operator types and sees."""

import json
from typing import Any

import pytest

from tests.commands.test_pipelinectl import Done, complaint, control, printed
from tests.store.test_deletion import ARCHIVE, done, names
from tests.support.fleet import Fleet
from tests.support.servers import GuardedS3
from tests.support.steps import BATCH, add_batch, add_file, object_keys, open_batch, put

OTHER = "20250629-143052"


@pytest.fixture
def ids(fleet: Fleet, database: Any) -> list[int]:
    """Two files of a finished batch, monday.tar, and what they have in S3."""
    add_batch(fleet, files=2)
    fleet.query("UPDATE batches SET archive_path = '/r/monday.tar'")
    audio_ids = [done(fleet, database, "a.mp3", "river road"), done(fleet, database, "b.mp3", "hello")]
    put(fleet, ARCHIVE, *(f"processed/2025-06-22/{one}.opus" for one in audio_ids))
    return audio_ids


def as_owner(fleet: Fleet, *arguments: str, **changes: str) -> Done:
    """pipelinectl with the role that may delete."""
    return control(fleet, *arguments, DATABASE_URL=fleet.postgres.url, **changes)


def test_a_file_is_shown_then_deleted_then_known_as_deleted(fleet: Fleet, ids: list[int]) -> None:
    shown = printed(as_owner(fleet, "delete", str(ids[0]), "--dry-run"))
    assert "would be deleted" in shown
    assert f"the archive of {BATCH} still holds the recordings" in shown
    assert len(names(fleet)) == 2
    assert "say --yes" in complaint_beside(as_owner(fleet, "delete", str(ids[0])))
    assert len(names(fleet)) == 2
    assert "deleted" in printed(as_owner(fleet, "delete", str(ids[0]), "--yes"))
    assert names(fleet) == [(BATCH, "b.mp3")]
    assert object_keys(fleet, "processed/") == [f"processed/2025-06-22/{ids[1]}.opus"]
    assert object_keys(fleet, "archives/") == [ARCHIVE]
    assert object_keys(fleet, "tombstones/") == [f"tombstones/{BATCH}/{ids[0]}.json"]
    for target in ([str(ids[0])], [BATCH, "a.mp3"], ["monday.tar", "a.mp3"]):
        assert "was deleted already" in complaint(as_owner(fleet, "delete", *target, "--yes"), 1)
    actor, action = fleet.query("SELECT actor, action FROM audit")[0]
    assert actor.startswith("cli:")
    assert action == "delete"


def complaint_beside(done: Done) -> str:
    """What is complained of beside what is printed."""
    assert done.returncode == 1
    return done.stderr


def test_a_batch_is_deleted_by_the_name_of_its_archive(fleet: Fleet, ids: list[int]) -> None:
    (row,) = json.loads(printed(as_owner(fleet, "delete", "monday.tar", "--yes", "--json")))
    assert row == {
        "batch_id": BATCH, "archive": "/r/monday.tar", "files": 2, "kept": 0, "outcome": "deleted",
        "audio_ids": ids,
    }  # fmt: skip
    assert names(fleet) == []
    assert object_keys(fleet) == [f"tombstones/{BATCH}/{one}.json" for one in (*ids, "archive")]
    again = json.loads(as_owner(fleet, "delete", BATCH, "--yes", "--json").stdout)
    assert [row["outcome"] for row in again] == ["empty already"]


def test_a_search_is_deleted(fleet: Fleet, database: Any, ids: list[int]) -> None:
    add_batch(fleet, OTHER)
    more = done(fleet, database, "c.mp3", "the river road again")
    fleet.query("UPDATE audio_files SET batch_id = %s WHERE audio_id = %s", OTHER, more)
    assert "nothing was found" in complaint(as_owner(fleet, "delete", "--search", "nobody", "--yes"), 1)
    shown = json.loads(printed(as_owner(fleet, "delete", "--search", "river road", "--dry-run", "--json")))
    assert [(row["batch_id"], row["audio_ids"], row["kept"]) for row in shown] == [
        (BATCH, [ids[0]], 1), (OTHER, [more], 0),
    ]  # fmt: skip
    printed(as_owner(fleet, "delete", "--search", "river", "--batch", OTHER, "--yes"))
    printed(as_owner(fleet, "delete", "--search", "river road", "--yes"))
    assert names(fleet) == [(BATCH, "b.mp3")]


def test_what_is_in_progress_is_refused(fleet: Fleet, redis: Any, database: Any) -> None:
    add_batch(fleet, files=2)
    done(fleet, database, "a.mp3", "hello")
    busy = add_file(fleet, "b.mp3", "processing")
    for target in (BATCH, str(busy)):
        refused = as_owner(fleet, "delete", target, "--yes")
        assert refused.returncode == 1
        assert "refused: 1 file of batch" in refused.stdout
    assert as_owner(fleet, "delete", BATCH, "--dry-run").returncode == 1
    open_batch(fleet, redis, "here", {"c.mp3": b""}, OTHER)
    assert "the batch is in progress" in as_owner(fleet, "delete", OTHER, "--yes").stdout
    assert len(names(fleet)) == 2


def test_a_batch_on_hold_is_refused_until_it_is_released(fleet: Fleet, ids: list[int]) -> None:
    assert printed(control(fleet, "hold", "monday.tar", "--reason", "case 12")) == f"batch {BATCH} is on hold\n"
    assert control(fleet, "hold", BATCH).returncode == 1
    (hold,) = json.loads(printed(control(fleet, "hold", "--json")))
    assert (hold["batch_id"], hold["reason"], hold["actor"][:4]) == (BATCH, "case 12", "cli:")
    assert "case 12" in printed(control(fleet, "hold"))
    refused = as_owner(fleet, "delete", str(ids[0]), "--yes")
    assert (refused.returncode, len(names(fleet))) == (1, 2)
    assert "on hold: case 12" in refused.stdout
    said = control(fleet, "release", BATCH)
    assert (said.returncode, said.stdout) == (2, "")
    assert "may not release: use that of the owner" in said.stderr
    assert printed(as_owner(fleet, "release", "monday.tar")) == f"batch {BATCH} is released\n"
    assert "is not on hold" in complaint(as_owner(fleet, "release", BATCH), 1)
    printed(as_owner(fleet, "delete", BATCH, "--yes"))
    entries = json.loads(printed(control(fleet, "audit", "--json")))
    assert [entry["action"] for entry in entries] == ["delete", "release", "hold"]
    assert [
        entry["action"] for entry in json.loads(printed(control(fleet, "audit", "--action", "hold", "--json")))
    ] == ["hold"]
    assert "release" in printed(control(fleet, "audit", "--since", "1h", "--limit", "2"))


def test_who_may_not_delete_is_told_which_file_grants_it(
    fleet: Fleet, guarded_s3: GuardedS3, ids: list[int]
) -> None:
    refused = control(fleet, "delete", BATCH, "--yes")
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (2, "", 1)
    assert "the role audio_pipeline may not delete" in refused.stderr
    assert "access/retention.sql grants it" in refused.stderr
    in_s3 = {"S3_ENDPOINT": guarded_s3.endpoint, "S3_BUCKET": guarded_s3.bucket}
    in_s3 |= {"S3_ACCESS_KEY": guarded_s3.access_key, "S3_SECRET_KEY": guarded_s3.secret_key}
    refused = as_owner(fleet, "delete", BATCH, "--yes", **in_s3)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "access/s3-retention-policy.json grants it" in refused.stderr
    assert len(names(fleet)) == 2
    printed(control(fleet, "delete", BATCH, "--dry-run"))  # for everybody


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "name one file"), (["a", "b", "c"], "name one file"), (["1", "--resume"], "name one file"),
        (["1", "--search", "x"], "name one file"), (["4711"], "there is no file 4711"),
        (["nope", "a.mp3"], "there is no file"), (["tuesday.tar"], "there is no batch or archive tuesday.tar"),
        (["--tag", "Nope"], "Nope"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(fleet: Fleet, database: Any, arguments: list[str], problem: str) -> None:
    assert problem in complaint(as_owner(fleet, "delete", *arguments, "--yes"), 2)


def test_resume_ends_what_was_interrupted(fleet: Fleet, database: Any, ids: list[int]) -> None:
    from pipeline.store import deletion

    deletion.delete_files(database, BATCH, ids[:1], "cli:ann@ops")
    put(fleet, f"processed/2025-06-22/{ids[0]}.opus")
    said = printed(as_owner(fleet, "delete", "--resume"))
    assert said == "0 files deleted again, 1 deletion ended in S3\n"
    assert object_keys(fleet, "processed/") == [f"processed/2025-06-22/{ids[1]}.opus"]


def test_an_archive_that_was_never_opened_is_deleted(fleet: Fleet, database: Any) -> None:
    put(fleet, ARCHIVE)
    printed(as_owner(fleet, "delete", BATCH, "--yes"))
    assert object_keys(fleet) == [f"tombstones/{BATCH}/archive.json"]
    assert database.is_finished(BATCH)


def test_retention_shows_what_goes_next(fleet: Fleet, database: Any, ids: list[int]) -> None:
    fleet.query("UPDATE audio_files SET created_at = now() - interval '40 days'")
    fleet.query("UPDATE audio_files SET created_at = now() WHERE audio_id = %s", ids[0])
    shown = json.loads(printed(control(fleet, "retention", "--json", OPUS_KEEP_DAYS="30")))
    assert shown == [
        {"what": "files", "kept": "for ever", "due": 0, "on_hold": 0},
        {"what": "Opus", "kept": "30 days", "due": 1, "on_hold": 0},
        {"what": "archives", "kept": "for ever", "due": 0, "on_hold": 0},
    ]
    assert "30 days" in printed(control(fleet, "retention", "--dry-run", OPUS_KEEP_DAYS="30"))
