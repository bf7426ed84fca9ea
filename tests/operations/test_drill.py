"""The drill of docs/backup.md: PostgreSQL and Redis are lost, with the real workers on real servers."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from pipeline.store.database import Database
from pipeline.store.search import find
from pipeline.store.search_query import Query
from tests.commands.test_pipelinectl import printed
from tests.operations.test_rebuild import state
from tests.support.child import wait_until
from tests.support.fleet import Fleet, batch_keys
from tests.support.nursery import Nursery
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, SPOKEN, make_tar
from tests.support.servers import Postgres, postgres_programs
from tests.support.steps import object_keys


def own(sound: bytes, title: str) -> bytes:
    """The recording with a title of its own (ID3v1): one that was deleted is known by its bytes."""
    return sound + b"TAG" + title.encode().ljust(125, b"\0")


MONDAY = {
    "call.mp3": own(SPEECH, "call"),
    "quiet.mp3": own(SILENCE, "quiet"),
    "broken.mp3": DAMAGED,
    "secret.mp3": own(SPEECH, "secret"),
}
TUESDAY = {"evening.mp3": own(SPEECH, "evening")}
WEDNESDAY = {"gone.mp3": own(SPEECH, "gone"), "gone too.mp3": own(SILENCE, "gone too")}
THURSDAY = {"new.mp3": own(SPEECH, "new"), "gone.mp3": WEDNESDAY["gone.mp3"]}
ROLES = ("transfer", "unpack", "gpu")


@pytest.fixture
def lossy(tmp_path: Path, nursery: Nursery | None) -> Iterator[Fleet]:
    """A fleet with servers of its own, since this loses them."""
    with Fleet(tmp_path / "fleet") as fleet:
        fleet.folder = tmp_path
        fleet.nursery = nursery
        migrate(fleet)
        yield fleet
        fleet.stop_workers()
        fleet.check()


def migrate(fleet: Fleet) -> None:
    """The tables, and the rights on them."""
    printed(fleet.control("migrate"))
    fleet.postgres.grant()


def process(fleet: Fleet, archives: dict[str, dict[str, bytes]]) -> None:
    """Bring archives through the workers, which end then."""
    paths = [str(make_tar(fleet.ssh.folder / name, files)) for name, files in archives.items()]
    printed(fleet.control("enqueue", *paths))
    settle(fleet)


def settle(fleet: Fleet) -> None:
    """Have the workers do all that there is to do."""
    workers = [fleet.worker(role) for role in ROLES]

    def is_done() -> bool:
        for worker in workers:
            worker.require_running()
        with redis_py.Redis.from_url(fleet.valkey.url, decode_responses=True) as client:
            queued = sum(client.llen(f"queue:{name}") for name in ("transfer", "unpack", "transcribe"))
            queued += sum(client.llen(key) for key in client.scan_iter("queue:*:working:*"))
            return not queued and not batch_keys(client)

    wait_until(is_done, "all work", 120)
    fleet.stop_workers()


def delete(fleet: Fleet, *what: str) -> None:
    """For good, as an operator with the rights."""
    printed(fleet.control("delete", *what, "--yes", DATABASE_URL=fleet.postgres.url))


def lose_everything_but_s3(fleet: Fleet) -> None:
    """PostgreSQL's disk and Redis' memory: there is a new server in place of each."""
    fleet.postgres.stop()
    shutil.rmtree(fleet.postgres.folder)
    fleet.postgres = Postgres(fleet.folder / "another postgres").start()
    with redis_py.Redis.from_url(fleet.valkey.url) as client:
        client.flushall()


def done(fleet: Fleet) -> dict[str, tuple[Any, ...]]:
    """The files that are done: batch, name -> id, text, S3 key."""
    found = fleet.query(
        "SELECT batch_id || ' ' || original_filename, audio_id, text, s3_opus_path, a.created_at"
        " FROM audio_files AS a JOIN transcripts USING (audio_id) WHERE status = 'done'"
    )
    return {name: rest for name, *rest in found}  # type: ignore[misc]


def failed(fleet: Fleet) -> list[tuple[Any, ...]]:
    return fleet.query("SELECT original_filename, error FROM audio_files WHERE status = 'failed'")


def tombstones(fleet: Fleet) -> list[tuple[Any, ...]]:
    return fleet.query("SELECT batch_id, name_sha256, audio_id FROM tombstones ORDER BY 1, 2")


def found(fleet: Fleet, words: str) -> set[str]:
    database = Database(fleet.postgres.url)
    hits = find(database, Query(words)).hits
    database.close()
    return {hit.original_filename for hit in hits}


def assert_whole(fleet: Fleet, names: set[str]) -> None:
    """These files and no others are there, found and in S3; every batch is finished, and all three agree."""
    rows = done(fleet)
    assert {name.partition(" ")[2] for name in rows} == names
    assert found(fleet, SPOKEN) == names - {"quiet.mp3"}
    kept = {key.partition("/")[2] for key in object_keys(fleet, "processed/")}
    assert kept == {
        f"{created:%Y-%m-%d}/{audio_id}.{kind}"
        for audio_id, _, _, created in rows.values()
        for kind in ("json", "opus")
    }
    assert fleet.query("SELECT count(*) FROM batches WHERE finished_at IS NULL") == [(0,)]
    said = fleet.control("reconcile")
    assert (said.stdout, said.stderr) == ("S3, PostgreSQL and Redis agree\n", "")


def test_a_database_is_rebuilt_from_s3_alone(lossy: Fleet) -> None:
    process(lossy, {"monday.tar": MONDAY, "tuesday.tar": TUESDAY, "wednesday.tar": WEDNESDAY})
    ((monday,),) = lossy.query("SELECT batch_id FROM batches WHERE archive_path ~ 'monday'")
    delete(lossy, monday, "secret.mp3")
    delete(lossy, "wednesday.tar")
    before, broken, buried = done(lossy), failed(lossy), tombstones(lossy)
    archives = object_keys(lossy, "archives/")
    assert (len(before), len(broken), len(buried), len(archives)) == (3, 1, 3, 2)

    lose_everything_but_s3(lossy)
    migrate(lossy)
    said = printed(lossy.control("rebuild")).splitlines()
    assert said[0] == "transcripts in S3: 3 restored"
    assert done(lossy) == before
    assert tombstones(lossy) == buried
    repaired = lossy.control("reconcile", "--apply")
    assert (repaired.returncode, "unqueued" in repaired.stdout) == (0, True)
    settle(lossy)

    assert done(lossy) == before
    assert failed(lossy) == broken
    assert tombstones(lossy) == buried
    assert object_keys(lossy, "archives/") == archives
    assert_whole(lossy, {"call.mp3", "quiet.mp3", "evening.mp3"})
    process(lossy, {"thursday.tar": THURSDAY, "again.tar": WEDNESDAY})
    assert_whole(lossy, {"call.mp3", "quiet.mp3", "evening.mp3", "new.mp3"})


def test_a_dump_is_restored_and_s3_adds_what_is_newer(lossy: Fleet) -> None:
    process(lossy, {"monday.tar": MONDAY, "wednesday.tar": WEDNESDAY})
    printed(lossy.control("alerts", "add", "fires", "fire"))
    dump = lossy.folder / "pipeline.dump"
    run("pg_dump", "--format=custom", f"--file={dump}", lossy.postgres.url)
    process(lossy, {"tuesday.tar": TUESDAY})
    ((monday,),) = lossy.query("SELECT batch_id FROM batches WHERE archive_path ~ 'monday'")
    delete(lossy, monday, "secret.mp3")
    delete(lossy, "wednesday.tar")
    before = state(lossy)

    lose_everything_but_s3(lossy)
    run("pg_restore", "--exit-on-error", f"--dbname={lossy.postgres.url}", str(dump))
    assert "secret.mp3" in {name.partition(" ")[2] for name in done(lossy)}
    said = printed(lossy.control("rebuild", "--merge")).splitlines()
    assert said[0] == "transcripts in S3: 1 restored, 2 in the database already"
    assert said[1] == "3 files deleted again, as their tombstones in S3 ask for"
    printed(lossy.control("delete", "--resume", DATABASE_URL=lossy.postgres.url))
    settle(lossy)

    after = state(lossy)
    for rows in (
        before,
        after,
    ):  # deleted_at of a tombstone that S3 has is of seconds; of an archive's deletion: now
        for (row,) in rows["tombstones"]:
            row.pop("deleted_at")
        for row, _ in rows["batches"]:
            row["archive_deleted_at"] = row["archive_deleted_at"] is not None
    assert after == before
    assert lossy.query("SELECT name, words FROM saved_searches") == [("fires", "fire")]
    assert_whole(lossy, {"call.mp3", "quiet.mp3", "evening.mp3"})


def run(program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs."""
    subprocess.run([str(postgres_programs() / program), *arguments], check=True, timeout=60)
