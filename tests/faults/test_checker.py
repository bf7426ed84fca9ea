"""tests/faults/checker.py: each kind of loss is planted, one by one, and seen as exactly that."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import Archive, File, check, digest, is_quiet, make_archive, sound_of
from tests.support.fleet import Fleet
from tests.support.recordings import DAMAGED, SHORT, SILENCE, SPEECH, SPOKEN, make_tar, opus, sample
from tests.support.steps import s3_client, wait_for

BATCH = "20260102-030405"
OTHER = "20260102-030406"
ARCHIVE = f"archives/{BATCH}.tar"
JOB = json.dumps({"batch_id": BATCH, "s3_key": ARCHIVE})
FILES = {
    "call.mp3": File(SPEECH, SPOKEN),
    "quiet.mp3": File(SILENCE, ""),
    "damaged.mp3": File(DAMAGED, status="failed"),
}


@dataclass
class World:
    """A fleet in which one archive has come through."""

    fleet: Fleet
    redis: Any
    archive: Archive
    day: str

    def sql(self, query: str, *values: object) -> object:
        return self.fleet.query(query, *values)

    def add_batch(self, batch_id: str) -> None:
        self.sql(
            "INSERT INTO batches (batch_id, s3_key, file_count, host, finished_at)"
            " VALUES (%s, 'k', 3, 'h', now())",
            batch_id,
        )

    def add_row(self, audio_id: int, batch_id: str, name: str) -> None:
        self.sql(
            "INSERT INTO audio_files (audio_id, batch_id, original_filename, status, error)"
            " VALUES (%s, %s, %s, 'failed', 'why')",
            audio_id, batch_id, name,
        )  # fmt: skip

    def put(self, key: str, data: bytes) -> None:
        s3_client(self.fleet).put_object(Bucket=self.fleet.bucket, Key=key, Body=data)

    def delete(self, key: str) -> object:
        return s3_client(self.fleet).delete_object(Bucket=self.fleet.bucket, Key=key)

    def key(self, audio_id: int) -> str:
        return f"processed/{self.day}/{audio_id}.opus"

    def transcript_key(self, audio_id: int) -> str:
        return f"processed/{self.day}/{audio_id}.json"

    def dead_letter(self, queue: str, **job: str) -> None:
        self.redis.rpush(f"{queue}:dead", json.dumps({"job": json.dumps(job), "error": "why"}))

    @property
    def scratch(self) -> Path:
        return self.fleet.folder / "scratch"

    def make_file(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
        return path


@pytest.fixture
def world(fleet: Fleet, redis: Any) -> World:
    """What the workers leave of FILES, written by hand: audio_id 1 and 2 are done, 3 is failed."""
    archive = make_archive(fleet.ssh.folder / "monday.tar", FILES)
    ((day,),) = fleet.query("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD')")
    world = World(fleet, redis, archive, day)
    assert archive.source
    world.put(ARCHIVE, archive.source.read_bytes())
    world.add_batch(BATCH)
    for audio_id, (name, file) in enumerate(FILES.items(), 1):
        done = file.status == "done"
        world.sql(
            "INSERT INTO audio_files (audio_id, batch_id, original_filename, status, error, s3_opus_path)"
            " VALUES (%s, %s, %s, %s, %s, %s)",
            audio_id, BATCH, name, file.status, None if done else "why", world.key(audio_id) if done else None,
        )  # fmt: skip
        if done:
            world.sql("INSERT INTO transcripts VALUES (%s, %s, '[]', 'm')", audio_id, file.text)
            world.sql("INSERT INTO classifications VALUES (%s, 'content', 'speech', 1)", audio_id)
            world.put(world.key(audio_id), opus(file.data))
            world.put(world.transcript_key(audio_id), json.dumps({"text": file.text}).encode())
    redis.hset("queue:transfer:seen", '"/x"', "1 2")
    redis.zadd("queue:transfer:workers", {"w": 1})
    redis.set("worker:w", "{}")
    redis.zadd("hosts:seen", {"h": 1})
    redis.hset("hosts:queues", "queue:transcribe:h", "h")
    return world


def found(world: World) -> list[str]:
    return check(world.fleet, [world.archive]).lines()


def test_it_finds_nothing_where_nothing_is_wrong(world: World) -> None:
    assert found(world) == []
    assert not check(world.fleet, [world.archive])
    assert is_quiet(world.fleet, [world.archive])


def test_it_finds_nothing_after_workers_that_nobody_has_disturbed(fleet: Fleet) -> None:
    archive = make_archive(fleet.ssh.folder / "monday.tar", FILES)
    fleet.control("enqueue", str(archive.source))
    assert not is_quiet(fleet, [archive])
    for role in ("transfer", "unpack", "gpu"):
        fleet.worker(role)
    wait_for(lambda: is_quiet(fleet, [archive]), fleet, "quiet")
    assert check(fleet, [archive]).lines() == []


# --- lost ----------------------------------------------------------------------------------------------

Plant = Callable[[World], object]
LOST: dict[str, tuple[Plant, str]] = {
    "a row": (
        lambda w: w.sql("DELETE FROM audio_files WHERE audio_id = 3"),
        "damaged.mp3 has no row",
    ),
    "a transcript": (
        lambda w: w.sql("DELETE FROM transcripts WHERE audio_id = 2"),
        "quiet.mp3 is done without a transcript",
    ),
    "words": (
        lambda w: (
            w.sql("UPDATE transcripts SET text = 'other words' WHERE audio_id = 1"),
            w.put(w.transcript_key(1), b'{"text": "other words"}'),  # type: ignore[func-returns-value]
        ),
        f"call.mp3 reads 'other words', not '{SPOKEN}'",
    ),
    "a label": (
        lambda w: w.sql("DELETE FROM classifications WHERE audio_id = 1"),
        "call.mp3 is done without a label of what it holds",
    ),
    "a good file": (
        lambda w: (
            w.sql(
                "UPDATE audio_files SET status = 'failed', error = 'x', s3_opus_path = %s WHERE audio_id = 3", None
            )
            or w.sql("UPDATE audio_files SET status = 'failed', error = 'x' WHERE audio_id = 2")
            or (w.delete(w.key(2)), w.delete(w.transcript_key(2)))
        ),
        "quiet.mp3 is failed, not done (x)",
    ),
    "a reason": (
        lambda w: w.sql("UPDATE audio_files SET error = '' WHERE audio_id = 3"),
        "damaged.mp3 is failed without a reason",
    ),
    "an Opus": (
        lambda w: w.delete(w.key(1)),
        "call.mp3 is done without its Opus in S3 (processed/DAY/1.opus)",
    ),
    "the path of an Opus": (
        lambda w: (
            w.delete(w.key(1)),
            w.delete(w.transcript_key(1)),
            w.sql("UPDATE audio_files SET s3_opus_path = NULL WHERE audio_id = 1"),
        ),
        "call.mp3 is done without its Opus in S3 (None)",
    ),
    "the end of an Opus": (
        lambda w: w.put(w.key(1), opus(SPEECH)[:-1]),
        "call.mp3 is not whole in S3 (processed/DAY/1.opus)",
    ),
    "the last page of an Opus": (
        lambda w: w.put(w.key(1), opus(SPEECH)[: opus(SPEECH).rfind(b"OggS")]),
        "call.mp3 is not whole in S3 (processed/DAY/1.opus)",
    ),
    "the sound of an Opus": (
        lambda w: w.put(w.key(1), opus(sample(SHORT[1]))),
        "call.mp3 is another sound in S3 (processed/DAY/1.opus)",
    ),
    "the transcript beside an Opus": (
        lambda w: w.delete(w.transcript_key(1)),
        "call.mp3 is done without its transcript in S3",
    ),
    "the words beside an Opus": (
        lambda w: w.put(w.transcript_key(1), b'{"text": "other words"}'),
        f"call.mp3 reads 'other words' in S3, not '{SPOKEN}'",
    ),
    "the day of an Opus": (
        lambda w: w.sql("UPDATE audio_files SET created_at = created_at - interval '1 day' WHERE audio_id = 1"),
        "call.mp3 is kept as processed/DAY/1.opus, and its row is 1 of ",
    ),
}


@pytest.mark.parametrize("what", LOST)
def test_it_finds_what_a_file_has_lost(world: World, what: str) -> None:
    plant, sentence = LOST[what]
    plant(world)
    (line,) = found(world)
    assert line.startswith(f"lost: monday.tar: {sentence.replace('DAY', world.day)}")


def test_it_finds_an_archive_that_has_disappeared_from_s3(world: World) -> None:
    world.delete(ARCHIVE)
    assert found(world) == [f"lost: monday.tar: {ARCHIVE} has disappeared from S3"]


def test_it_finds_an_archive_that_is_another_one_in_s3(world: World, tmp_path: Path) -> None:
    world.put(ARCHIVE, make_tar(tmp_path / "x.tar", {"x.mp3": SILENCE}).read_bytes())
    assert found(world) == [
        f"lost: monday.tar: {ARCHIVE} has disappeared from S3",
        f"doubled: {ARCHIVE} is none of the archives that were put in",
    ]


def test_it_finds_an_archive_that_was_never_brought(world: World) -> None:
    tuesday = make_archive(world.fleet.ssh.folder / "tuesday.tar", {"t.mp3": File(SILENCE)})
    assert check(world.fleet, [world.archive, tuesday]).lines() == ["lost: tuesday.tar is not in S3"]
    assert not is_quiet(world.fleet, [world.archive, tuesday])


def test_it_finds_an_archive_that_was_never_unpacked(world: World) -> None:
    tuesday = make_archive(world.fleet.ssh.folder / "tuesday.tar", {"t.mp3": File(SILENCE)})
    assert tuesday.source
    world.put(f"archives/{OTHER}.tar", tuesday.source.read_bytes())
    assert check(world.fleet, [world.archive, tuesday]).lines() == [
        "lost: tuesday.tar: t.mp3 has no row",
        f"lost: tuesday.tar: batch {OTHER} was never opened",
    ]


def test_it_finds_a_batch_that_counts_too_few_files(world: World) -> None:
    world.sql("UPDATE batches SET file_count = 2")
    assert found(world) == [f"lost: monday.tar: batch {BATCH} says 2 files of 3"]


def test_it_finds_a_source_that_has_disappeared(world: World) -> None:
    assert world.archive.source
    world.archive.source.unlink()
    assert found(world) == ["lost: monday.tar has disappeared from the EC2 host"]
    world.fleet.changes = {"EC2_AFTER_UPLOAD": "rename"}
    assert found(world) == ["lost: monday.tar.done is not on the EC2 host"]
    world.fleet.changes = {"EC2_AFTER_UPLOAD": "delete"}
    assert found(world) == []


def test_it_finds_an_archive_to_be_refused_that_has_no_dead_letter(world: World) -> None:
    cut = make_archive(world.fleet.ssh.folder / "cut.tar", {"t.mp3": File(SILENCE)}, refused=True)
    assert check(world.fleet, [world.archive, cut]).lines() == [
        "lost: cut.tar was to be refused and has no dead letter"
    ]
    assert not is_quiet(world.fleet, [world.archive, cut])
    world.dead_letter("queue:transfer", remote_path=str(cut.source))
    assert check(world.fleet, [world.archive, cut]).lines() == []
    assert is_quiet(world.fleet, [world.archive, cut])


# --- doubled -------------------------------------------------------------------------------------------


def test_it_finds_two_rows_of_a_file(world: World) -> None:
    world.sql("ALTER TABLE audio_files DROP CONSTRAINT audio_files_batch_id_original_filename_key")
    try:
        world.add_row(9, BATCH, "damaged.mp3")
        assert found(world) == ["doubled: monday.tar: damaged.mp3 has 2 rows"]
    finally:
        world.sql("DELETE FROM audio_files WHERE audio_id = 9")
        world.sql("ALTER TABLE audio_files ADD UNIQUE (batch_id, original_filename)")


def test_it_finds_two_transcripts_of_a_file(world: World) -> None:
    world.sql("ALTER TABLE transcripts DROP CONSTRAINT transcripts_pkey CASCADE")
    try:
        world.sql("INSERT INTO transcripts VALUES (1, %s, '[]', 'm')", SPOKEN)
        assert found(world) == ["doubled: monday.tar: call.mp3 has 2 transcripts"]
    finally:
        world.sql("DELETE FROM passages")
        world.sql("DELETE FROM transcripts")
        world.sql("ALTER TABLE transcripts ADD PRIMARY KEY (audio_id)")
        world.sql("ALTER TABLE passages ADD FOREIGN KEY (audio_id) REFERENCES transcripts ON DELETE CASCADE")


def test_it_finds_two_labels_of_what_a_file_holds(world: World) -> None:
    world.sql("INSERT INTO classifications VALUES (1, 'content', 'silence', 1)")
    assert found(world) == ["doubled: monday.tar: call.mp3 has 2 labels of what it holds"]


def test_it_finds_two_objects_of_a_file(world: World) -> None:
    world.put("processed/2026-01-01/1.opus", opus(SPEECH))
    assert found(world) == ["doubled: processed/2026-01-01/1.opus is a second object of row 1"]


def test_it_finds_two_batches_of_an_archive(world: World) -> None:
    assert world.archive.source
    world.put(f"archives/{OTHER}.tar", world.archive.source.read_bytes())
    world.add_batch(OTHER)
    world.add_row(9, OTHER, "damaged.mp3")
    assert found(world) == [
        f"doubled: monday.tar became 2 batches: {BATCH}, {OTHER}",
        "doubled: monday.tar: damaged.mp3 has 2 rows",
    ]


def test_it_finds_a_file_that_is_not_in_the_archive(world: World) -> None:
    world.add_row(9, BATCH, "x.mp3")
    assert found(world) == ["doubled: monday.tar: x.mp3 has a row and is not in the archive"]


def test_it_finds_a_batch_of_no_archive(world: World) -> None:
    world.add_batch(OTHER)
    world.add_row(9, OTHER, "x.mp3")
    assert found(world) == [
        f"doubled: x.mp3 has a row in batch {OTHER}, which is of no archive that was put in",
        f"doubled: batch {OTHER} is of no archive that was put in",
    ]


def test_it_finds_a_file_that_was_counted_twice(world: World) -> None:
    world.redis.zadd("batches:open", {BATCH: 1})
    world.redis.mset({f"batch:{BATCH}:total": 3, f"batch:{BATCH}:processed": 1, f"batch:{BATCH}:failed": 1})
    world.redis.sadd(f"batch:{BATCH}:settled", "call.mp3")
    assert found(world) == [
        f"doubled: batch {BATCH} counts 2 files, and 1 were settled",
        f"stranded: batch {BATCH} is open",
    ]


def test_it_finds_two_dead_letters_of_one_job(world: World) -> None:
    for _ in range(2):
        world.dead_letter("queue:transcribe", batch_id=BATCH, original_filename="damaged.mp3")
    (line,) = found(world)
    assert line.startswith("doubled: queue:transcribe has 2 dead letters of")


# --- stranded ------------------------------------------------------------------------------------------

STRANDED: dict[str, tuple[Plant, str]] = {
    "a job": (lambda w: w.redis.rpush("queue:unpack", JOB), f"queue:unpack holds the job {JOB}"),
    "a job in progress": (
        lambda w: w.redis.rpush("queue:transcribe:h:working:a:b", "x"),
        "queue:transcribe:h:working:a:b holds the job x",
    ),
    "a job of a queue that no host has entered": (
        lambda w: w.redis.rpush("queue:transcribe", "x"),
        "queue:transcribe holds the job x",
    ),
    "a delayed job": (
        lambda w: w.redis.zadd("queue:transfer:delayed", {"x": 9}),
        "queue:transfer:delayed holds the job x",
    ),
    "a source that is to be deleted": (
        lambda w: w.redis.hset("queue:transfer:after", "/x", "[]"),
        "queue:transfer:after still has to do with /x",
    ),
    "an open batch": (lambda w: w.redis.zadd("batches:open", {BATCH: 1}), f"batch {BATCH} is open"),
    "a batch to be finished": (
        lambda w: w.redis.hset("batches:finishing", BATCH, "h"),
        f"batch {BATCH} is to be finished by h",
    ),
    "a batch without an end": (
        lambda w: w.sql("UPDATE batches SET finished_at = NULL"),
        f"monday.tar: batch {BATCH} has no finished_at",
    ),
    "a row": (
        lambda w: w.sql("UPDATE audio_files SET status = 'processing' WHERE audio_id = 3"),
        "monday.tar: damaged.mp3 is still processing",
    ),
    "a file that was failed permanently": (
        lambda w: w.dead_letter("queue:transcribe", batch_id=BATCH, original_filename="call.mp3"),
        "queue:transcribe: failed permanently: ",
    ),
    "an archive that was failed permanently": (
        lambda w: w.dead_letter("queue:unpack", batch_id=BATCH, s3_key=ARCHIVE),
        "queue:unpack: failed permanently: ",
    ),
}


@pytest.mark.parametrize("what", STRANDED)
def test_it_finds_what_is_stranded(world: World, what: str) -> None:
    plant, sentence = STRANDED[what]
    plant(world)
    (line,) = found(world)
    assert line.startswith(f"stranded: {sentence}")


@pytest.mark.parametrize(
    "what", ["a job", "a job in progress", "a delayed job", "an open batch", "a batch to be finished"]
)
def test_it_is_not_quiet_while_something_moves(world: World, what: str) -> None:
    STRANDED[what][0](world)
    assert not is_quiet(world.fleet, [world.archive])


def test_a_source_that_changed_may_be_left(world: World) -> None:
    world.fleet.changes = {"EC2_AFTER_UPLOAD": "delete"}
    assert found(world) != []
    world.archive = replace(world.archive, changes=True)
    assert found(world) == []


def test_it_finds_a_source_that_was_to_be_deleted(world: World) -> None:
    world.fleet.changes = {"EC2_AFTER_UPLOAD": "delete"}
    Path(f"{world.archive.source}.sha256").write_text("x")
    assert found(world) == [
        f"stranded: {name} is still on the EC2 host (EC2_AFTER_UPLOAD=delete)"
        for name in ("monday.tar", "monday.tar.sha256")
    ]


def test_it_takes_dead_letters_that_are_expected(world: World) -> None:
    world.dead_letter("queue:transcribe", batch_id=BATCH, original_filename="damaged.mp3")
    assert found(world) == []
    world.dead_letter("queue:unpack", nothing="x")
    assert check(world.fleet, [world.archive], expected_dead_letters=['{"nothing": "x"}']).lines() == []


def test_it_takes_either_end_of_a_file_that_is_only_to_be_settled(world: World) -> None:
    settled = {name: File(file.data, file.text, "settled") for name, file in FILES.items()}
    archive = Archive("monday.tar", settled, world.archive.sha256)
    assert check(world.fleet, [archive]).lines() == []
    world.sql("UPDATE audio_files SET status = 'processing' WHERE audio_id = 1")
    world.delete(world.key(1))
    world.delete(world.transcript_key(1))
    assert check(world.fleet, [archive]).lines() == ["stranded: monday.tar: call.mp3 is still processing"]


# --- leaked --------------------------------------------------------------------------------------------

LEAKED: dict[str, tuple[Plant, str]] = {
    "a scratch folder": (
        lambda w: w.make_file(w.scratch / BATCH / "x").unlink(),
        f"a folder is left in scratch: HERE/scratch/{BATCH}",
    ),
    "a part": (
        lambda w: w.make_file(w.scratch / BATCH / "x.opus.part"),
        f"a folder is left in scratch: HERE/scratch/{BATCH} with x.opus.part",
    ),
    "a lock": (
        lambda w: w.make_file(w.scratch / f".{BATCH}.lock"),
        f"a lock is left in scratch: HERE/scratch/.{BATCH}.lock",
    ),
    "a file": (lambda w: w.make_file(w.scratch / "stray"), "a file is left in scratch: HERE/scratch/stray"),
    "a copy": (
        lambda w: w.make_file(w.fleet.folder / "transfer" / "w" / f"{BATCH}.tar.part"),
        f"a copy is left in TRANSFER_ROOT: HERE/transfer/w/{BATCH}.tar.part",
    ),
    "a key of a batch": (lambda w: w.redis.set(f"batch:{BATCH}:total", 3), f"Redis still has batch:{BATCH}:total"),
    "attempts": (
        lambda w: w.redis.hset("queue:unpack:attempts", "x", "1:t"),
        "queue:unpack:attempts still counts x",
    ),
    "a batch id": (
        lambda w: w.redis.hset("queue:transfer:batch_ids", "x", BATCH),
        "queue:transfer:batch_ids still has x",
    ),
    "any other key": (lambda w: w.redis.set("other", 1), "Redis still has other"),
    "an object without a row": (
        lambda w: w.put("processed/2026-01-01/77.opus", b""),
        "processed/2026-01-01/77.opus in S3 is of no row that is done",
    ),
    "the object of a file that failed": (
        lambda w: w.put(w.key(3), b""),
        "processed/DAY/3.opus in S3 is of no row that is done",
    ),
    "an upload": (
        lambda w: s3_client(w.fleet).create_multipart_upload(Bucket=w.fleet.bucket, Key="archives/x.tar"),
        "an upload of archives/x.tar is still open in S3",
    ),
}


@pytest.mark.parametrize("what", LEAKED)
def test_it_finds_what_is_leaked(world: World, what: str) -> None:
    plant, sentence = LEAKED[what]
    plant(world)
    expected = sentence.replace("HERE", str(world.fleet.folder)).replace("DAY", world.day)
    assert found(world) == [f"leaked: {expected}"]


def test_it_looks_into_the_folders_of_every_host(world: World, tmp_path: Path) -> None:
    for host in ("alpha", "beta"):
        (tmp_path / host / BATCH).mkdir(parents=True)
    lines = check(world.fleet, [world.archive], [tmp_path / "alpha", tmp_path / "beta"]).lines()
    assert lines == [
        f"leaked: a folder is left in scratch: {tmp_path}/{host}/{BATCH}" for host in ("alpha", "beta")
    ]


# --- the checker itself --------------------------------------------------------------------------------


def test_two_conversions_of_one_recording_are_the_same_sound() -> None:
    first = opus(SPEECH)
    opus.cache_clear()
    assert opus(SPEECH) != first
    assert sound_of(opus(SPEECH)) == sound_of(first)
    assert sound_of(opus(SILENCE)) != sound_of(first)


@pytest.mark.parametrize("data", [b"", b"OggS", opus(SPEECH)[:-1], opus(SPEECH)[1:], opus(SPEECH) + b"x"])
def test_what_is_not_whole_is_no_sound(data: bytes) -> None:
    assert sound_of(data) is None


def test_it_refuses_two_archives_with_the_same_content(world: World) -> None:
    assert world.archive.source
    twin = Archive("twin.tar", FILES, digest(world.archive.source.read_bytes()))
    with pytest.raises(ValueError, match="same content"):
        check(world.fleet, [world.archive, twin])
