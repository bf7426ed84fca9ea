"""pipeline/transfer/local_copies.py: nothing is removed that is in use, or that is not ours."""

import os
import time
from pathlib import Path

import pytest

from pipeline.foundation.errors import Permanent
from pipeline.transfer.local_copies import Copies
from tests.support.disks import small_disk

ID, OTHER = "20250622-143052", "20250622-143053"
DAY = 86400


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    copies = Copies(tmp_path / "root", "host-transfer")
    copies.clear()
    return copies


def put(path: Path, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_clear_leaves_an_empty_folder_and_the_others(copies: Copies) -> None:
    put(copies.path(ID))
    other = put(copies.root / "other" / f"{ID}.tar")
    copies.clear()
    assert list(copies.folder.iterdir()) == []
    assert other.exists()


def test_clear_needs_no_folder_that_can_be_removed(copies: Copies) -> None:
    with small_disk(copies.folder, "64k"):
        put(copies.path(ID))
        copies.clear()
        assert list(copies.folder.iterdir()) == []


def test_what_belongs_to_no_job_is_swept(copies: Copies) -> None:
    kept = put(copies.path(ID))
    swept = {put(copies.path(OTHER)), put(copies.folder / f"{OTHER}.tar.part")}
    strange = put(copies.folder / "notes.txt")
    assert set(copies.sweep({ID})) == swept
    assert set(copies.folder.iterdir()) == {kept, strange}


def test_old_files_of_workers_that_are_gone_are_swept(copies: Copies) -> None:
    old = [
        put(copies.root / "gone" / f"{ID}.tar.part", 3 * DAY),
        put(copies.root / "gone" / f"{OTHER}.tar", 3 * DAY),
    ]
    living = put(copies.root / "living" / f"{ID}.tar", 3 * DAY)
    assert sorted(copies.sweep_others(lambda name: name == "gone", 2 * DAY)) == sorted(old)
    assert not (copies.root / "gone").exists()
    assert living.exists()


def test_a_folder_with_one_new_file_is_left_alone(copies: Copies) -> None:
    put(copies.root / "gone" / f"{ID}.tar", 3 * DAY)
    put(copies.root / "gone" / f"{OTHER}.tar.part", 60)
    assert copies.sweep_others(lambda _: True, 2 * DAY) == []
    assert len(list((copies.root / "gone").iterdir())) == 2


def test_the_own_folder_is_not_another_workers(copies: Copies) -> None:
    kept = put(copies.path(ID), 3 * DAY)
    assert copies.sweep_others(lambda _: True, 0) == []
    assert kept.exists()


def test_nothing_is_swept_that_is_not_named_as_ours(copies: Copies, tmp_path: Path) -> None:
    victim = put(tmp_path / "victim" / f"{ID}.tar", 3 * DAY)
    (copies.root / "link").symlink_to(victim.parent)
    strange = [put(copies.root / "stranger" / name, 3 * DAY) for name in ("a.tar", f"{ID}.tar.gz", f"x{ID}.tar")]
    (copies.root / "stranger" / f"{ID}.tar").symlink_to(victim)
    (copies.root / "empty").mkdir()
    put(copies.root / "file", 3 * DAY)
    assert copies.sweep_others(lambda _: True, 0) == []
    assert all(path.exists() for path in (*strange, victim, copies.root / "empty", copies.root / "file"))


def test_a_stranger_beside_our_file_keeps_the_folder(copies: Copies) -> None:
    put(copies.root / "gone" / f"{ID}.tar", 3 * DAY)
    strange = put(copies.root / "gone" / "notes.txt", 3 * DAY)
    assert len(copies.sweep_others(lambda _: True, 2 * DAY)) == 1
    assert strange.exists()


def test_room_is_what_is_free(copies: Copies) -> None:
    assert copies.lack(1) == ""
    free = os.statvfs(copies.folder)
    words = copies.lack(free.f_bavail * free.f_frsize + 10**9)
    assert "needed in" in words
    assert "free" in words


def test_more_than_the_volume_is_permanent(copies: Copies) -> None:
    with pytest.raises(Permanent, match=str(10**18)):
        copies.lack(10**18)
