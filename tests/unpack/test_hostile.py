"""The hostile corpus (tests/support/hostile.py): files exactly as stored or an error that names the reason, and
nothing written outside the batch's scratch, in bounded time and memory."""

import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.foundation.errors import unavailable_service
from pipeline.unpack import archive, compression
from pipeline.unpack.archive import BadArchive
from pipeline.unpack.compression import zstd
from tests.support import hostile
from tests.support.disks import small_disk
from tests.support.fleet import PROJECT
from tests.support.hostile import BLOCK, COMPRESSORS, END, FORMATS, SOUND, Case, header, member, unpack, unpack_all
from tests.unpack.test_archive import header_offsets, tar_bytes

SECONDS = 5  # of CPU for one case


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch's folder, beside a folder with a victim in it."""
    for name in ("outside", "batch", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "outside" / "victim").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "batch"


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def check(case: Case, scratch: Path) -> None:
    before = everything(scratch.parent)
    started = time.process_time()
    if case.files is None:
        with pytest.raises(BadArchive, match=case.reason) as caught:
            unpack(case.data, scratch)
        assert 5 < len(str(caught.value)) < 600
        assert str(caught.value).isprintable()
    else:
        files, failed = unpack_all(case.data, scratch)
        assert files == case.files
        assert failed.keys() == case.failed.keys()
        assert all(re.search(case.failed[name], reason) for name, reason in failed.items())
    assert time.process_time() - started < SECONDS
    assert everything(scratch.parent) == before


CASES = dict(hostile.corpus(Path("/outside")))


@pytest.mark.parametrize("group", [hostile.links, hostile.names])
def test_names_and_links_lead_nowhere(group: Callable[[Path], object], scratch: Path) -> None:
    cases = dict(group(scratch.parent / "outside"))  # type: ignore[call-overload]
    assert len(cases) > 15
    for case in cases.values():
        check(case, scratch)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_archive(name: str, scratch: Path) -> None:
    check(CASES[name], scratch)


def test_the_watch_sees_what_is_written_elsewhere(tmp_path: Path) -> None:
    inside, victim = tmp_path / "in", tmp_path / "victim"
    inside.mkdir()
    victim.touch()
    deeds: tuple[Callable[[], object], ...] = (
        lambda: victim.write_bytes(b""), lambda: (inside / "x").symlink_to(victim),
        lambda: os.open(inside / ".." / "new", os.O_CREAT), lambda: os.open(inside / "x", os.O_WRONLY),
        victim.unlink, (tmp_path / "folder").mkdir, lambda: subprocess.run(["true"], check=True),
    )  # fmt: skip
    for deed in deeds:
        with pytest.raises(AssertionError), hostile.watching(inside):
            deed()
    with hostile.watching(inside):
        (inside / "mine").write_bytes(b"")


def test_the_whole_corpus_needs_little_memory() -> None:
    """A bomb may unpack to 32 MiB here, and a window of xz or zstd might take 128."""
    script = """
import contextlib, resource, sys, tempfile
from pathlib import Path
from tests.support import hostile
with tempfile.TemporaryDirectory() as folder:
    cases = [case for name, case in hostile.corpus(Path(folder))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for case in cases:
        with contextlib.suppress(hostile.archive.BadArchive):
            hostile.unpack(case.data, Path(folder))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert int(done.stdout) < 60 * 1024


# --- damage ------------------------------------------------------------------------------------------------

DEEP = "d" * 110 + "/x.mp3"  # its name needs a second header in GNU and PAX, the prefix in ustar


def put(scratch: Path, data: bytes) -> Path:
    path = scratch / "archive.tar"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", FORMATS)
def test_every_bit_of_every_header_flipped(scratch: Path, form: str) -> None:
    whole = tar_bytes(("a.mp3", b"A" * 700), (DEEP, b"B" * 100), form=form)
    path = put(scratch, whole)
    stored = archive.index(path, 10, 10**6).members
    survived = 0
    with path.open("r+b", buffering=0) as file:
        for at in [start + byte for start in header_offsets(whole) for byte in range(BLOCK)]:
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([whole[at] ^ 1 << bit]), at)
                try:
                    assert archive.index(path, 10, 10**6).members == stored
                    survived += 1
                except BadArchive:
                    pass
            os.pwrite(file.fileno(), whole[at : at + 1], at)
    assert survived < 200  # blanks in the checksum itself


@pytest.mark.parametrize("form", FORMATS)
def test_every_bit_of_a_long_name_flipped_loses_no_file(scratch: Path, form: str) -> None:
    """No checksum covers them: the name may be another, the bytes may not."""
    whole = tar_bytes((DEEP, SOUND), ("good.mp3", b"G"), form=form)
    at = whole.index(b"d" * 100)
    for bit in range(8 * 130):
        damaged = bytearray(whole)
        damaged[at + bit // 8] ^= 1 << bit % 8
        try:
            found = unpack(bytes(damaged), scratch)
        except BadArchive:
            continue
        assert b"G" in found.values()
        assert set(found.values()) <= {SOUND, b"G"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["plain", *COMPRESSORS])
def test_a_cut_at_every_block_boundary(scratch: Path, form: str, kind: str) -> None:
    noise = os.urandom(3000)
    plain = tar_bytes(("a.mp3", noise), (DEEP, SOUND), ("n.txt", b"N"), form=form)
    whole = COMPRESSORS.get(kind, bytes)(plain)
    needed = len(plain.rstrip(b"\0")) // BLOCK * BLOCK + 3 * BLOCK if kind == "plain" else len(whole)
    expected = unpack(whole, scratch)
    for cut in sorted({*range(0, len(whole), BLOCK), *range(1, 40), *range(len(whole) - 40, len(whole))}):
        if cut >= needed:
            assert unpack(whole[:cut], scratch) == expected
            continue
        with pytest.raises(BadArchive):
            unpack(whole[:cut], scratch)


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_no_byte_of_a_compressed_archive_changes_unseen(scratch: Path, kind: str) -> None:
    compress = COMPRESSORS[kind]
    if kind == "zstd":  # as zstd(1) does; the library leaves the checksum out unless it is asked for
        options: dict[int, int] = {zstd.CompressionParameter.checksum_flag: 1}
        compress = functools.partial(zstd.compress, options=options)
    whole = compress(tar_bytes(("a.mp3", os.urandom(200)), ("b.mp3", SOUND)))
    expected = unpack(whole, scratch)
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        try:
            found = unpack(bytes(damaged), scratch)
        except BadArchive:
            continue
        assert found == expected, at  # as of a time stamp in gzip's header


# --- bombs -------------------------------------------------------------------------------------------------


def measured(step: Callable[[], object]) -> tuple[str, float]:
    """Why the step refuses, and the seconds of CPU that it took."""
    started = time.process_time()
    with pytest.raises(BadArchive) as caught:
        step()
    return str(caught.value), time.process_time() - started


def tiny_members(path: Path, thousands: int) -> Path:
    """An archive of so many thousand empty files; each thousand has the same names."""
    chunk = b"".join(header(b"d%d/x.mp3" % number) for number in range(1000))
    with path.open("wb") as file:
        for _ in range(thousands):
            file.write(chunk)
        file.write(END)
    return path


def test_more_tiny_members_than_allowed_are_refused_in_time(tmp_path: Path) -> None:
    path = tiny_members(tmp_path / "many.tar", 201)
    reason, seconds = measured(lambda: archive.index(path, 200_000, 100))
    assert reason == "more than 200000 members"
    assert seconds < 20


@pytest.mark.skipif("FUZZ_CASES" not in os.environ, reason="half a gigabyte: only with FUZZ_CASES set")
def test_a_million_tiny_members(tmp_path: Path) -> None:
    path = tiny_members(tmp_path / "million.tar", 1000)
    script = f"""
import resource
from pathlib import Path
from pipeline.unpack import archive
assert archive.index(Path({str(path)!r}), 10**6, 100).members[-1].original_filename == "d999/x.mp3#1000"
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time())
"""
    done = subprocess.run(
        [sys.executable, "-c", "import time" + script], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    kibibytes, seconds = done.stdout.split()
    print(done.stdout)
    assert int(kibibytes) < 2**20
    assert float(seconds) < 120


def test_a_bomb_leaves_nothing_and_stops_early(tmp_path: Path) -> None:
    path = put(tmp_path, COMPRESSORS["gzip"](member(b"x.mp3") + bytes(30 * 2**20)))
    packed = path.read_bytes()
    moved: list[int] = []
    reason, _ = measured(lambda: compression.make_plain(path, 2**20, moved.append))
    assert reason == "it unpacks to more than the 1048576 bytes allowed (ARCHIVE_MAX_MB)"
    assert sum(moved) <= 2**20
    assert path.read_bytes() == packed
    assert [each.name for each in tmp_path.iterdir()] == ["archive.tar"]


def test_a_plain_archive_over_the_limit_is_refused_too(tmp_path: Path) -> None:
    path = put(tmp_path, member(b"x.mp3") + END)
    compression.make_plain(path, path.stat().st_size)
    with pytest.raises(BadArchive, match="ARCHIVE_MAX_MB"):
        compression.make_plain(path, path.stat().st_size - 1)


def test_memory_is_that_of_one_window(tmp_path: Path) -> None:
    """A bomb of 160 MB, in a process that may have 100 MB in all."""
    path = put(tmp_path, b"")
    for kind in ("gzip", "zstd"):
        path.write_bytes(COMPRESSORS[kind](bytes(160 * 2**20)))
        script = f"""
import resource
from pathlib import Path
from pipeline.unpack import compression
resource.setrlimit(resource.RLIMIT_DATA, (100 * 2**20, 100 * 2**20))
try:
    compression.make_plain(Path({str(path)!r}), 150 * 2**20)
except compression.BadArchive as error:
    print(error)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT
        )
        assert "ARCHIVE_MAX_MB" in done.stdout


def test_the_kind_is_detected_from_the_content(tmp_path: Path) -> None:
    for kind, compress in COMPRESSORS.items():
        assert compression.kind_of(put(tmp_path, compress(b"x"))) == kind
    assert compression.kind_of(put(tmp_path, member(b"x.mp3") + END)) is None
    assert compression.kind_of(put(tmp_path, b"text")) is None


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("gzip", "-1"),
        ("bzip2", "-9"),
        ("xz", "-9"),
        ("xz", "--check=sha256"),
        ("zstd", "--long=27"),
        ("zstd", "-19"),
    ],
)
def test_what_the_real_compressors_write_is_read(tmp_path: Path, program: str, arguments: str) -> None:
    plain = tar_bytes(("a.mp3", os.urandom(70_000)), ("b.mp3", bytes(300_000)))
    try:
        done = subprocess.run([program, arguments, "-c"], input=plain, capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip(f"no {program} here")
    path = put(tmp_path, done.stdout)
    compression.make_plain(path, 10**6)
    assert path.read_bytes() == plain


# --- the disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB, of which 3 are free."""
    with small_disk(tmp_path / "disk", "8m") as folder:
        (folder / "others").write_bytes(bytes(5 * 2**20))
        yield folder


@pytest.mark.parametrize("kind", COMPRESSORS)
def test_a_full_disk_is_waited_for_and_a_bomb_on_it_is_not(disk: Path, kind: str) -> None:
    path = put(disk, COMPRESSORS[kind](member(b"x.mp3", bytes(6 * 2**20)) + END))
    with pytest.raises(OSError, match="no room for the unpacked archive") as caught:
        compression.make_plain(path, 10**9)
    assert unavailable_service(caught.value) == "the disk"
    (disk / "others").unlink()
    compression.make_plain(path, 10**9)
    assert len(archive.index(path, 1, 10**9).members) == 1
    (disk / "others").write_bytes(b"")
    path.write_bytes(COMPRESSORS[kind](member(b"x.mp3", bytes(20 * 2**20)) + END))
    with pytest.raises(BadArchive, match="more than the volume holds"):
        compression.make_plain(path, 10**9)
    assert sorted(each.name for each in disk.iterdir()) == ["archive.tar", "others"]


# --- the log -----------------------------------------------------------------------------------------------


def test_what_was_ignored_is_counted_by_kind(scratch: Path) -> None:
    others = [
        *(member(b"notes%d.txt" % number) for number in range(3)),
        *(member(name) for name in (b"cover.JPG", b"cover.jpg", b"README", b"._x.mp3", b"a.mp3.sha256")),
        header(b"l.mp3", kind=b"2", link=b"x"), header(b"d/", kind=b"5"), header(b"p.mp3", kind=b"6"),
    ]  # fmt: skip
    found = archive.index(put(scratch, b"".join(others) + END), 100, 100_000)
    said = found.others()
    assert said.startswith("10 others ignored: 3 .txt, 2 .jpg, ")
    assert re.findall(r"\d+ ([^,]+)", said.partition(": ")[2])[2:] == [
        "without a suffix", "._*", ".sha256", "link", "FIFO",
    ]  # fmt: skip
    assert archive.index(put(scratch, END), 1, 1).others() == "0 others ignored"


def test_many_kinds_make_no_long_line(scratch: Path) -> None:
    data = b"".join(member(b"x.a%d" % number, b"") for number in range(500)) + member(b"x." + b"\x1b[2J" * 9)
    found = archive.index(put(scratch, data + END), 1000, 100_000)
    assert found.ignored == 501
    assert found.others().endswith(".a7") or "493 of other kinds" in found.others()
    assert len(found.others()) < 200
    assert found.others().isprintable()
