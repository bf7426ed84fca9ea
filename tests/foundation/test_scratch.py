"""Scratch: one holder of a batch at a time, nothing removed that is in use, and a batch ended in order."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.foundation import scratch
from pipeline.jobs.batch_completion import finish_batches
from pipeline.jobs.batches import Batches
from pipeline.jobs.job_queue import Job, encode
from pipeline.store.database import Database
from tests.support.child import Child, wait_until
from tests.support.disks import small_disk
from tests.support.fleet import PROJECT, Fleet

ID = "20250622-143052"

# Holds the lock until it is killed.
HOLDER = """
import pathlib, sys, time
from pipeline.foundation import scratch
with scratch.locked(pathlib.Path(sys.argv[1]), sys.argv[2]) as held:
    print("held" if held else "refused", flush=True)
    time.sleep(600)
"""

# Adds to a number in a file, which is only safe under the lock; prints how often it did.
HAMMER = """
import pathlib, sys, time
from pipeline.foundation import scratch
root, counter = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1], "counter")
end, added = time.monotonic() + 1.5, 0
while time.monotonic() < end:
    with scratch.locked(root, sys.argv[2]) as held:
        if held:
            number = int(counter.read_text())
            counter.write_text(str(number + 1))
            added += 1
print(added)
"""


def test_a_disk_is_judged_by_a_trial(tmp_path: Path) -> None:
    assert scratch.works(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not scratch.works(tmp_path / "nowhere")
    assert not scratch.works(Path("/proc"))
    with small_disk(tmp_path / "small", "64k") as disk:
        assert not scratch.works(disk)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def start(script: str, root: Path, log: Path) -> Child:
    """A process of its own that runs the script on the batch's lock."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    child = Child([sys.executable, "-c", script, str(root), ID], log, environment=environment)
    child.start()
    return child


def is_free(root: Path) -> bool:
    with scratch.locked(root, ID) as held:
        return held


def listing(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


# --- the lock -------------------------------------------------------------------------------------------


def test_it_lets_one_process_hold_a_batch_until_it_is_killed(root: Path, tmp_path: Path) -> None:
    holder = start(HOLDER, root, tmp_path / "holder.log")
    try:
        wait_until(lambda: "held" in holder.log.read_text(), "the lock of the holder")
        assert not is_free(root)
        other = start(HOLDER, root, tmp_path / "other.log")
        wait_until(lambda: "refused" in other.log.read_text(), "the refusal")
        other.kill()
        assert not is_free(root)
    finally:
        holder.kill()
    assert is_free(root)
    assert listing(root) == []


def test_it_refuses_a_second_holder_in_the_same_process(root: Path) -> None:
    with scratch.locked(root, ID) as first, scratch.locked(root, ID) as second:
        assert (first, second) == (True, False)
        assert not is_free(root)  # the refused one has not let go of the first's
        with scratch.locked(root, "20250622-143053") as other:
            assert other


def test_it_leaves_no_lock_behind(root: Path) -> None:
    def crash() -> None:
        with scratch.locked(root, ID):
            raise ValueError("the work failed")

    with pytest.raises(ValueError, match="the work failed"):
        crash()
    assert listing(root) == []
    assert is_free(root)


def test_it_closes_what_it_opened(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with scratch.locked(root, ID):
        for _ in range(20):
            is_free(root)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_it_holds_against_a_file_that_was_removed_before_it_was_locked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, path = fcntl.flock, root / f".{ID}.lock"

    def late(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.unlink()  # the last holder leaves between our open and our lock
        real(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with scratch.locked(root, ID) as held:
        assert held
        assert path.exists()
        assert not is_free(root)


def test_it_keeps_two_processes_apart_that_lock_again_and_again(root: Path) -> None:
    root.mkdir()
    (root / "counter").write_text("0")
    command = [sys.executable, "-c", HAMMER, str(root), ID]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    hammers = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ends = [hammer.communicate(timeout=60) for hammer in hammers]
    assert [hammer.returncode for hammer in hammers] == [0, 0, 0], ends
    added = [int(output) for output, _ in ends]
    assert all(added)
    assert int((root / "counter").read_text()) == sum(added)
    assert listing(root) == ["counter"]


# --- the room -------------------------------------------------------------------------------------------


def test_it_tells_the_room_of_a_root_that_it_makes(root: Path) -> None:
    assert scratch.free_mb(root) > 0
    assert root.is_dir()


# --- the sweep ------------------------------------------------------------------------------------------


def folder(root: Path, name: str, idle: int = 1000) -> Path:
    """A folder in scratch that nothing changed in for so many seconds."""
    path = root / name
    path.mkdir(parents=True)
    (path / "file.opus").write_bytes(b"opus")
    os.utime(path, (time.time() - idle,) * 2)
    return path


def sweep(root: Path, in_use: Callable[[str], bool] = lambda _: False) -> tuple[list[str], list[str]]:
    """What it says that it removed, and what it removed."""
    removed: list[str] = []
    return scratch.sweep(root, 900, in_use, removed.append), removed


def test_it_sweeps_an_idle_folder_that_nobody_uses(root: Path) -> None:
    folder(root, ID)
    assert sweep(root) == ([ID], [ID])
    assert listing(root) == [ID]  # its remover only noted it, and no lock is left


def test_it_leaves_what_changed_lately_or_is_in_use(root: Path) -> None:
    folder(root, ID, idle=800)
    folder(root, "20250622-143053")
    asked: list[str] = []

    def in_use(batch_id: str) -> bool:
        asked.append(batch_id)
        return True

    assert sweep(root, in_use) == ([], [])
    assert asked == ["20250622-143053"]


def test_it_leaves_what_is_locked(root: Path) -> None:
    folder(root, ID)
    with scratch.locked(root, ID):
        assert sweep(root) == ([], [])
    assert sweep(root) == ([ID], [ID])


@pytest.mark.parametrize("name", ["lost+found", "20250622-14305", "20250622-1430521", "x-20250622-143052"])
def test_it_leaves_folders_of_another_shape(root: Path, name: str) -> None:
    folder(root, name)
    assert sweep(root) == ([], [])
    assert listing(root) == [name]


def test_it_leaves_files_and_links_of_our_shape(root: Path, tmp_path: Path) -> None:
    victim = folder(tmp_path, "victim")
    root.mkdir()
    (root / ID).symlink_to(victim)
    (root / "20250622-143053").write_bytes(b"a file")
    for path in root.iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    assert sweep(root) == ([], [])


def test_it_removes_the_lock_that_a_killed_holder_left(root: Path) -> None:
    root.mkdir()
    (root / f".{ID}.lock").touch()
    assert sweep(root) == ([], [])
    assert listing(root) == []


def test_it_sweeps_nothing_where_there_is_no_root(root: Path) -> None:
    assert sweep(root) == ([], [])


def test_it_sweeps_on_when_a_folder_goes_meanwhile(root: Path) -> None:
    names = [f"20250622-14305{n}" for n in range(3)]
    for name in names:
        folder(root, name)
    swept: list[str] = []

    def remove(batch_id: str) -> None:  # and another worker finishes the others at the same time
        swept.append(batch_id)
        for name in names:
            (root / name / "file.opus").unlink(missing_ok=True)
            if (root / name).exists():
                (root / name).rmdir()

    assert scratch.sweep(root, 900, lambda _: False, remove) == swept
    assert listing(root) == []


# --- the end of a batch ---------------------------------------------------------------------------------


class Failure(Exception):
    """A step that fails once."""


class Ending:
    """A batch whose files are all settled, and the steps that end it, noted in their order."""

    def __init__(self, batches: Batches, database: Database, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.batches, self.database, self.root = batches, database, root
        self.steps: list[str] = []
        self.fails_at = ""
        self.fails_after = ""
        batches.adopt(ID, f"archives/{ID}.tar", Job(encode({"batch_id": ID}), 1, ""))
        batches.open(ID, 1)
        batches.settle(ID, "a.mp3", "processed")
        database.open_batch(ID, f"archives/{ID}.tar", ["a.mp3"], batches.host)
        monkeypatch.setattr(database, "finish_batch", self._noted("postgresql", database.finish_batch))
        monkeypatch.setattr(batches, "close", self._noted("redis", batches.close))

    def _noted(self, name: str, step: Callable[[str], Any]) -> Callable[[str], Any]:
        def noted(batch_id: str) -> Any:
            assert not is_free(self.root)
            self.steps.append(name)
            if self.fails_at == name:
                raise Failure
            result = step(batch_id)
            if self.fails_after == name:
                raise Failure
            return result

        return noted

    def finish(self, batches: Batches | None = None) -> list[str]:
        """The steps that were taken."""
        self.steps.clear()
        cleanup = self._noted("scratch", lambda _: None)
        finish_batches(batches or self.batches, self.database, self.root, cleanup)
        return list(self.steps)


@pytest.fixture
def ending(redis: Any, database: Database, root: Path, monkeypatch: pytest.MonkeyPatch) -> Ending:
    return Ending(Batches(redis, "here"), database, root, monkeypatch)


def test_a_batch_whose_scratch_cannot_be_deleted_holds_up_no_other(
    redis: Any, database: Database, root: Path
) -> None:
    batches = Batches(redis, "here")
    for number in range(3):
        batch_id = f"20250622-14305{number}"
        batches.adopt(batch_id, "key", Job(encode({"batch_id": batch_id}), 1, ""))
        batches.open(batch_id, 0)

    def cleanup(batch_id: str) -> None:
        if batch_id.endswith("1"):
            raise PermissionError(errno.EACCES, "not ours")

    finish_batches(batches, database, root, cleanup)
    assert batches.finishing() == ["20250622-143051"]
    finish_batches(batches, database, root, lambda _: None)
    assert batches.finishing() == []


def test_the_archive_goes_and_the_opus_stays(tmp_path: Path) -> None:
    gone = ["archive.tar", "archive.tar.part", "archive.tar.part.6dE5", "a.source"]
    kept = ["a.opus", "archive.tar.opus", "archive.tar.part.opus", "archive.opus"]
    for name in [*gone, *kept]:
        (tmp_path / name).touch()
    scratch.remove_archive(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def test_it_ends_a_batch_in_its_order_and_once(ending: Ending, redis: Any) -> None:
    assert ending.finish() == ["scratch", "postgresql", "redis"]
    assert ending.database.is_finished(ID)
    assert redis.keys("*") == []
    assert ending.finish() == []
    assert listing(ending.root) == []


@pytest.mark.parametrize("moment", ["fails_at", "fails_after"])
@pytest.mark.parametrize("step", ["scratch", "postgresql", "redis"])
def test_it_is_finished_by_the_next_who_comes(ending: Ending, redis: Any, moment: str, step: str) -> None:
    setattr(ending, moment, step)
    with pytest.raises(Failure):
        ending.finish()
    setattr(ending, moment, "")
    closed = (moment, step) == ("fails_after", "redis")
    assert ending.finish() == ([] if closed else ["scratch", "postgresql", "redis"])
    assert ending.database.is_finished(ID)
    assert redis.keys("*") == []


def test_it_waits_for_the_lock_of_the_unpacker(ending: Ending) -> None:
    with scratch.locked(ending.root, ID):
        assert ending.finish() == []
        assert ending.batches.finishing() == [ID]
    assert ending.finish() == ["scratch", "postgresql", "redis"]


def test_it_leaves_the_batch_of_another_host(ending: Ending, redis: Any) -> None:
    assert ending.finish(Batches(redis, "there")) == []
    assert ending.batches.finishing() == [ID]


def test_it_does_nothing_for_a_batch_that_is_finished_meanwhile(
    ending: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = ending.batches.finishing()
    ending.finish()
    monkeypatch.setattr(ending.batches, "finishing", lambda: stale)
    assert ending.finish() == []


def test_it_leaves_a_batch_that_still_has_files(ending: Ending, redis: Any) -> None:
    other = "20250622-143053"
    ending.batches.adopt(other, "key", Job(encode({}), 1, ""))
    ending.batches.open(other, 2)
    ending.batches.settle(other, "a.mp3", "failed")
    ending.finish()
    assert redis.get(f"batch:{other}:total") == "2"


def test_it_is_ended_by_one_of_many_at_once(fleet: Fleet, ending: Ending) -> None:
    deleted: list[str] = []

    def finish() -> None:
        database = Database(fleet.postgres.url)
        finish_batches(Batches(ending.batches.redis, "here"), database, ending.root, deleted.append)
        database.close()

    threads = [threading.Thread(target=finish) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert deleted == [ID]


# --- the volume -----------------------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A small volume of its own, mounted at `data`."""
    with small_disk(tmp_path / "data", "1m") as data:
        yield data


def test_it_finds_the_mount_point_at_or_above_a_folder_that_may_not_be_there_yet(volume: Path) -> None:
    for path in (volume, volume / "scratch", volume / "scratch" / "deeper"):
        assert scratch.mount_point(path) == volume
    (volume / "link").symlink_to("/")
    assert scratch.mount_point(volume / "link" / "no-such-folder") == Path("/")
    assert scratch.mount_point(volume.parent / "other") == scratch.mount_point(volume.parent) != volume


def test_a_folder_that_is_bound_to_itself_is_no_mount_point(volume: Path) -> None:
    """As systemd binds each of a unit's ReadWritePaths=, also where the volume is missing."""
    bound = volume / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", str(bound), str(bound)], check=True)
    assert scratch.mount_point(bound / "scratch") == volume


def test_a_lock_whose_file_cannot_be_removed_is_released(tmp_path: Path) -> None:
    path = tmp_path / ".b.lock"
    with pytest.raises(OSError, match=r"\.b\.lock"), scratch.locked(tmp_path, "b") as held:  # noqa: PT012
        assert held
        path.rename(tmp_path / "kept")
        path.mkdir()  # stands for a disk that is read-only by now: the file stays
    path.rmdir()
    (tmp_path / "kept").rename(path)
    with scratch.locked(tmp_path, "b") as held:
        assert held
