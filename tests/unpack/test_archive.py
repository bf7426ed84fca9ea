"""pipeline/unpack/archive.py: hostile names and archives, never fewer files than there are."""

import contextlib
import gzip
import io
import os
import subprocess
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.foundation.errors import Permanent
from pipeline.unpack import archive
from pipeline.unpack.archive import BadArchive, Index, Member

BLOCK = 512
MOST_BYTES = 2**30
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NON_UTF8 = b"caf\xe9/\xff.mp3".decode("utf-8", "surrogateescape")


def entry(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, pax: dict[str, str] | None = None
) -> tarfile.TarInfo:
    """A header as an archiver would fill it in."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.pax_headers = size, kind, pax or {}
    return info


def tar_bytes(*members: tuple[str, bytes] | tarfile.TarInfo, form: str = "pax") -> bytes:
    """An archive of these files (name, content) and bare headers, as tarfile writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=FORMATS[form], errors="surrogateescape") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                tar.addfile(entry(member[0], len(member[1])), io.BytesIO(member[1]))
    return buffer.getvalue()


def header_bytes(info: Any, form: str = "pax") -> bytes:
    """The header blocks of one member alone."""
    return bytes(info.tobuf(FORMATS[form], errors="surrogateescape"))


def index(folder: Path, data: bytes, most_members: int = 1000, most_file_bytes: int = MOST_BYTES) -> Index:
    path = folder / "archive.tar"
    path.write_bytes(data)
    return archive.index(path, most_members, most_file_bytes)


def read(folder: Path, data: bytes) -> list[tuple[str, bytes]]:
    """The audio files of the archive with their bytes."""
    members = index(folder, data).members
    return [(member.original_filename, data[member.offset : member.offset + member.size]) for member in members]


def names(folder: Path, *listed: str, form: str = "pax") -> list[Member]:
    return index(
        folder, tar_bytes(*((name, name.encode("utf-8", "replace")) for name in listed), form=form)
    ).members


# --- names -------------------------------------------------------------------------------------------------


def test_it_keeps_a_flat_name_as_it_is(tmp_path: Path) -> None:
    (member,) = names(tmp_path, "file001.mp3")
    assert (member.original_filename, member.safe_stem) == ("file001.mp3", "file001")


HOSTILE = {
    "nested": ["a/b/c.mp3", "a_b/c.mp3", "a/b_c.mp3"],
    "absolute": ["/etc/passwd.mp3", "etc/passwd.mp3"],
    "dots": ["../../up.mp3", "up.mp3", "a/../up.mp3", "...mp3", "a..mp3", ". .mp3"],
    "hidden": [".hidden.mp3", "hidden.mp3", "a/.hidden.mp3"],
    "dash": ["-rf.mp3", "--help.mp3", "-.mp3"],
    "255 bytes": ["x" * 251 + ".mp3", "x" * 250 + "y.mp3", "é" * 125 + "a.mp3"],
    "very long": ["d" * 900 + "/" + "x" * 251 + ".mp3", *(f"{'é/' * 1500}{end}.opus" for end in "ab")],
    "not UTF-8": [NON_UTF8, "caf\\xe9/\\xff.mp3", "caf\udce8/\udcff.mp3"],
    "backslash": ["a\\b.mp3", "a/b.mp3", "..\\..\\b.mp3"],
    "newline": ["a\nb.mp3", "a\rb.mp3", "a b.mp3", "a\tb.mp3", "a.mp3", "\n.mp3"],
    "unicode": ["ünïcödé.mp3", "u\u0308nïcödé.mp3", "日本.mp3", "日本語.mp3", "🎵.mp3", "\u202egnp.mp3"],
    "flattened": ["a/b.mp3", "a_b.mp3", "a__b.mp3", "a-b.mp3"],
    "case": ["A.mp3", "a.mp3", "a.MP3", "dir/A.mp3", "DIR/a.mp3", "STRASSE.mp3", "straße.mp3"],
    "suffix": ["a.mp3", "a.wav", "a.mp3.wav", "a.wav.mp3", "a.opus", "a.opus.mp3"],
    "twice": ["a.mp3", "a.mp3", "a.mp3", "a.mp3#2.mp3", "a.mp3#2", "b/c.mp3", "b/c.mp3", "./a.mp3"],
    "shell": ["$(touch x).mp3", "`id`.mp3", "a;b.mp3", "*.mp3", "a'b\".mp3", "%s%n.mp3", "a:b.mp3", " .mp3"],
    "a mark of our own": ["a.wav", "a.mp3", "a-6524cc642bf8-2.mp3", "A-6524cc642bf8-2.mp3"],
}


@pytest.mark.parametrize("listed", HOSTILE.values(), ids=HOSTILE.keys())
def test_every_name_gets_a_unique_and_safe_stem(tmp_path: Path, listed: list[str]) -> None:
    members = names(tmp_path, *listed)
    audio = [name for name in listed if not name.endswith("#2")]
    assert len(members) == len(audio)
    assert len({member.original_filename for member in members}) == len(audio)
    assert len({member.safe_stem.casefold() for member in members}) == len(audio)
    for member in members:
        assert_can_be_stored(member.original_filename)
        assert_is_one_component(member.safe_stem)
    assert names(tmp_path, *listed) == members


def assert_can_be_stored(text: str) -> None:
    """PostgreSQL and JSON take it: no surrogates, and short enough for an index (2,704 bytes)."""
    assert "\0" not in text
    assert len(text.encode()) < 2600


def assert_is_one_component(stem: str) -> None:
    assert stem.isascii()
    assert stem.isprintable()
    assert stem == Path(stem).name
    assert "\\" not in stem
    assert stem[0] not in ".-"
    assert 0 < len(stem) <= 200  # room for .opus, .source and .part below 255


def test_a_leading_dot_slash_is_no_part_of_the_name(tmp_path: Path) -> None:
    for name in ("./x.mp3", "././x.mp3", ".//x.mp3"):
        assert [member.original_filename for member in names(tmp_path, name)] == ["x.mp3"]


def test_bytes_that_are_not_utf8_can_still_be_distinguished(tmp_path: Path) -> None:
    for form in ("gnu", "pax", "ustar"):
        (member,) = names(tmp_path, NON_UTF8, form=form)
        assert member.original_filename == "caf\\xe9/\\xff.mp3"


def test_a_nul_in_a_pax_name_is_made_visible(tmp_path: Path) -> None:
    info = entry("placeholder.mp3", pax={"path": "a\0b.mp3"})
    (member,) = index(tmp_path, header_bytes(info) + bytes(2 * BLOCK)).members
    assert_can_be_stored(member.original_filename)
    assert_is_one_component(member.safe_stem)


def test_the_same_name_thousands_of_times_does_not_take_long(tmp_path: Path) -> None:
    one = header_bytes(entry("a.mp3"), "ustar")
    started = time.process_time()
    assert len(index(tmp_path, one * 3000 + bytes(2 * BLOCK), most_members=3000).members) == 3000
    assert time.process_time() - started < 1  # 0.1 when each costs the same


# --- what is no audio file ---------------------------------------------------------------------------------


def test_what_is_no_plain_audio_file_is_ignored_and_counted(tmp_path: Path) -> None:
    kinds = (
        tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
    )  # fmt: skip
    special = [entry(f"x{number}.mp3", kind=kind) for number, kind in enumerate(kinds)]
    for info in special:
        info.linkname = "/etc/passwd"
    others = [("notes.txt", b"n"), ("noext", b"n"), (".mp3", b"n"), ("._x.mp3", b"n"), ("a/._y.mp3", b"n")]
    found = index(tmp_path, tar_bytes(*special, *others, ("real.MP3", b"sound")))
    assert [member.original_filename for member in found.members if not member.problem] == ["real.MP3"]
    assert found.ignored == len(special) - 2 + len(others)  # a folder is no file; a hard link has failed


AUDIO_NAMES = """
    a.mp3 a.mp2 a.mpga a.wav a.w64 a.flac a.m4a a.m4b a.mp4 a.mov a.3gp a.3g2 a.aac a.ogg a.oga a.opus a.spx a.amr
    a.gsm a.wma a.asf a.aif a.aiff a.aifc a.caf a.au a.snd a.webm a.mka a.mkv a.ac3 a.wv a.ape a.voc a.qcp a.avi
    a.flv a.ts a.mpg a.mpeg
"""


def test_every_suffix_of_recordings_counts(tmp_path: Path) -> None:
    listed = [name for lower in AUDIO_NAMES.split() for name in (lower, lower.upper())]
    assert [member.original_filename for member in names(tmp_path, *listed)] == listed


def test_what_only_a_recording_begins_with_counts_under_any_name(tmp_path: Path) -> None:
    """`tests/support/hostile.py` has what does not count."""
    for number, start in enumerate(CERTAIN):
        listed = (f"REC{number}", f"call.{number:03}", "x.txt", "d/.wav", "._x.mp3")
        data = tar_bytes(*((name, start + bytes(5000)) for name in listed))
        found = index(tmp_path, data)
        assert [member.original_filename for member in found.members] == list(listed), start
        assert found.members[0].safe_stem == f"REC{number}"
        assert found.ignored == 0


MPEG_FRAME = b"\xff\xfb\x90\x64" + bytes(413)
CERTAIN = (
    b"RIFF\0\0\0\0WAVEfmt ", b"RIFX\0\0\0\0WAVEfmt ", b"RF64\xff\xff\xff\xffWAVEds64", b"FORM\0\0\0\0AIFF",
    b"FORM\0\0\0\0AIFC", b".snd\0\0\0\x18", b"caff\0\1\0\0", b"fLaC\0\0\0\x22", b"OggS\0\2", b"#!AMR\n\x3c",
    b"#!AMR-WB\n\x3c", b"\0\0\0\x1cftypM4A ", b"\0\0\0\x18ftypisom", b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", b"wvpk", b"RIFF\0\0\0\0QLCMfmt ",
    b"ID3\3\0\0\0\0\0\x0a" + bytes(10) + 3 * MPEG_FRAME, b"ID3\4\0\x10\0\0\0\0" + bytes(10) + 3 * MPEG_FRAME,
    b"ID3\3\0\0\0\0\0\0fLaC\0\0\0\x22",
)  # fmt: skip


# --- what cannot be taken out safely ------------------------------------------------------------------------

SPARSE_FORMS = (
    "gnu",
    "oldgnu",
    "pax --sparse-version=0.0",
    "pax --sparse-version=0.1",
    "pax --sparse-version=1.0",
)


@pytest.mark.parametrize("form", SPARSE_FORMS)
def test_a_sparse_file_fails_alone(tmp_path: Path, form: str) -> None:
    """With few parts, with more than one header has room for, with none at all; as audio and as a sidecar."""
    for name, parts in (("few.mp3", 2), ("many.mp3", 150), ("none.mp3", 0), ("many.txt", 60), ("none.txt", 0)):
        with (tmp_path / name).open("wb") as file:
            for part in range(parts):
                file.seek(part * 65536)
                file.write(os.urandom(512))
            file.truncate(parts * 65536 + 100_000)
    for name in ("first.mp3", "last.mp3", *(f"between{n}.mp3" for n in range(3))):
        (tmp_path / name).write_bytes(os.urandom(3000))
    listed = ["first.mp3", "few.mp3", "between0.mp3", "many.mp3", "between1.mp3", "none.mp3", "many.txt",
              "between2.mp3", "none.txt", "last.mp3"]  # fmt: skip
    command = ["tar", f"--format={form}", "--sparse", "-cf", "sparse.tar", *listed]
    subprocess.run(" ".join(command), shell=True, check=True, cwd=tmp_path)
    assert (tmp_path / "sparse.tar").stat().st_size < 1_500_000
    found = archive.index(tmp_path / "sparse.tar", 20, MOST_BYTES)
    assert found.ignored == 2
    whole = (tmp_path / "sparse.tar").read_bytes()
    sound = [member for member in found.members if member.problem is None]
    assert [member.original_filename for member in sound] == [n for n in listed if n.startswith(("f", "b", "l"))
                                                              and n != "few.mp3"]  # fmt: skip
    for member in sound:
        assert (
            whole[member.offset : member.offset + member.size]
            == (tmp_path / member.original_filename).read_bytes()
        )
    failed = {member.original_filename: member.problem for member in found.members if member.problem}
    assert failed == dict.fromkeys(
        ("few.mp3", "many.mp3", "none.mp3"), "it is a sparse file, which may unpack to any size"
    )


def test_a_hard_link_fails_alone_and_takes_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(b"A" * 700)
    os.link(tmp_path / "a.mp3", tmp_path / "b.mp3")
    (tmp_path / "c.mp3").write_bytes(b"C")
    subprocess.run(["tar", "-cf", "links.tar", "a.mp3", "b.mp3", "c.mp3"], check=True, cwd=tmp_path)
    found = archive.index(tmp_path / "links.tar", 10, MOST_BYTES)
    assert [(member.original_filename, member.problem) for member in found.members] == [
        ("a.mp3", None),
        ("b.mp3", "it is a hard link: its sound is stored under another name, or not at all"),
        ("c.mp3", None),
    ]
    link = entry("c.mp3", kind=tarfile.LNKTYPE)
    link.linkname = "a.mp3"
    members = index(tmp_path, tar_bytes(("a.mp3", b"A"), link, ("c.mp3", b"C"), link)).members
    assert [member.original_filename for member in members] == ["a.mp3", "c.mp3#2", "c.mp3", "c.mp3#3"]
    assert [member.safe_stem for member in members if not member.problem] == ["a", "c"]
    assert len({member.safe_stem for member in members}) == 4


# --- cut and damaged ---------------------------------------------------------------------------------------

SMALL = (("a.mp3", b"A" * 700), ("n.txt", b"N"), ("é/" + "b" * 120 + ".mp3", b"B" * 512), ("c.mp3", b""))


@pytest.mark.parametrize("form", FORMATS)
def test_a_cut_archive_is_never_a_shorter_list(tmp_path: Path, form: str) -> None:
    whole = tar_bytes(*SMALL[: 2 if form == "ustar" else None], form=form)
    expected = read(tmp_path, whole)
    end = len(whole.rstrip(b"\0"))
    content_end = -(-end // BLOCK) * BLOCK  # where the end-of-archive blocks start
    cuts = {*range(0, len(whole), BLOCK), *range(1, len(whole), 97), content_end + 1023, len(whole) - 1}
    for cut in sorted(cuts):
        if cut >= content_end + 2 * BLOCK:
            assert read(tmp_path, whole[:cut]) == expected
        else:
            with pytest.raises(BadArchive):
                index(tmp_path, whole[:cut])


def header_offsets(whole: bytes) -> list[int]:
    """Where the header blocks are, those of PAX and GNU long names too."""
    found, offset = [], 0
    while any(whole[offset : offset + BLOCK]):
        found.append(offset)
        size = int(whole[offset + 124 : offset + 135], 8)
        offset += BLOCK + -(-size // BLOCK) * BLOCK
    return found


def test_no_file_gets_the_archives_own_name(tmp_path: Path) -> None:
    names = ("archive.tar.mp3", "archive.tar.part.mp3", "archive.mp3")
    stems = [member.safe_stem for member in index(tmp_path, tar_bytes(*((name, b"x") for name in names))).members]
    assert stems[2] == "archive"
    assert not any(stem.startswith("archive.tar") for stem in stems)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_changed_byte_of_a_long_name_loses_no_member(tmp_path: Path, form: str) -> None:
    """No checksum covers these bytes: the name may change, the number of members and the bytes may not."""
    whole = tar_bytes(SMALL[2], SMALL[0], form=form)
    expected = [data for _, data in read(tmp_path, whole)]
    for at in range(BLOCK, BLOCK + 150):
        damaged = bytearray(whole)
        damaged[at] ^= 0x01
        with contextlib.suppress(BadArchive):
            found = index(tmp_path, bytes(damaged))
            assert len(found.members) + found.ignored == 2
            if not found.ignored:
                assert [data for _, data in read(tmp_path, bytes(damaged))] == expected


def test_an_archive_hidden_behind_the_end_is_refused(tmp_path: Path) -> None:
    first, second = tar_bytes(("a.mp3", b"A")), tar_bytes(("b.mp3", b"B"))
    for padding in (first.rstrip(b"\0"), first):
        start = -(-len(padding) // BLOCK) * BLOCK
        for gap in (BLOCK, 2 * BLOCK, 2**21):
            with pytest.raises(BadArchive):
                index(tmp_path, padding.ljust(start, b"\0") + bytes(gap) + second)


def test_one_zeroed_header_ends_no_list_early(tmp_path: Path) -> None:
    whole = tar_bytes(*SMALL, form="gnu")
    for start in header_offsets(whole)[:-1]:
        with pytest.raises(BadArchive):
            index(tmp_path, whole[:start] + bytes(BLOCK) + whole[start + BLOCK :])


# --- what real archivers write -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_the_output_of_gnu_tar_is_read_right(tmp_path: Path, form: str) -> None:
    long = "n" * (90 if form in ("v7", "ustar") else 240)
    files = {"file001.mp3": os.urandom(1500), f"{long}.wav": b"long", "empty.mp3": b"", "ü.mp3": b"u" * 512}
    source = tmp_path / "files"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    target = tmp_path / "gnu.tar"
    subprocess.run(["tar", f"--format={form}", "-cf", str(target), "-C", str(source), "."], check=True)
    whole = target.read_bytes()
    assert dict(read(tmp_path, whole)) == files
    assert index(tmp_path, whole).ignored == 0


def test_an_empty_archive_has_no_files(tmp_path: Path) -> None:
    assert index(tmp_path, tar_bytes()) == Index([], 0)
    assert index(tmp_path, bytes(2 * BLOCK)) == Index([], 0)


def test_a_file_of_zero_bytes_is_a_file(tmp_path: Path) -> None:
    assert read(tmp_path, tar_bytes(("a.mp3", b""), ("b.mp3", b"B"))) == [("a.mp3", b""), ("b.mp3", b"B")]


NO_TARS = {
    "nothing": b"",
    "gzip": gzip.compress(tar_bytes(("a.mp3", b"A"))),
    "text": b"no tar\n" * 500,
    "one zero block": bytes(BLOCK),
    "random": bytes(range(256)) * 40,
}


@pytest.mark.parametrize("data", NO_TARS.values(), ids=NO_TARS.keys())
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadArchive):
        index(tmp_path, data)


def test_a_bad_archive_ends_its_job_at_once() -> None:
    assert issubclass(BadArchive, Permanent)


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_huge_extended_header_is_refused_unread(tmp_path: Path, kind: bytes) -> None:
    size = 64 * 2**20
    path = tmp_path / "huge.tar"
    with path.open("wb") as file:
        file.write(header_bytes(entry("header", size, kind), "ustar"))
        file.truncate(BLOCK + size + 2 * BLOCK)
    tracemalloc.start()
    with pytest.raises(BadArchive, match="header"):
        archive.index(path, 10, MOST_BYTES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


@pytest.mark.parametrize("kind", ["x", "g", "L"])
def test_a_chain_of_extended_headers_is_refused(tmp_path: Path, kind: str) -> None:
    chained = {
        "x": header_bytes(entry("a.mp3", pax={"comment": "c"}))[: 2 * BLOCK],
        "g": tarfile.TarInfo.create_pax_global_header({"comment": "c"}),
        "L": header_bytes(entry("a" * 120 + ".mp3"), "gnu")[: 2 * BLOCK],
    }[kind]
    with pytest.raises(BadArchive):
        index(tmp_path, chained * 3000 + header_bytes(entry("a.mp3"), "ustar") + bytes(2 * BLOCK))


@pytest.mark.parametrize("size", [-1, -512, -1024, -1536, -2048, -(2**40)])
def test_a_negative_size_is_refused(tmp_path: Path, size: int) -> None:
    data = header_bytes(entry("a.mp3", pax={"size": str(size)})) + bytes(2 * BLOCK)
    with pytest.raises(BadArchive):
        index(tmp_path, data, most_members=50)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_declared_terabyte_is_refused(tmp_path: Path, form: str) -> None:
    data = header_bytes(entry("a.mp3", 2**40), form) + bytes(20 * BLOCK)
    for most in (MOST_BYTES, 2**50):
        with pytest.raises(BadArchive, match=r"ends inside a\.mp3"):
            index(tmp_path, data, most_file_bytes=most)


def test_as_many_members_as_allowed_and_no_more(tmp_path: Path) -> None:
    data = tar_bytes(*((f"{number}.mp3", b"") for number in range(3)), ("note.txt", b""))
    assert len(index(tmp_path, data, most_members=4).members) == 3
    with pytest.raises(BadArchive, match="3 members"):
        index(tmp_path, data, most_members=3)


def test_a_file_that_is_larger_than_allowed_fails_alone(tmp_path: Path) -> None:
    data = tar_bytes(("a.mp3", b"a" * 10), ("b.mp3", b"b" * 11), ("c.mp3", b"c" * 10), ("d.txt", b"d" * 11))
    found = index(tmp_path, data, most_file_bytes=10).members
    assert [(member.original_filename, member.problem) for member in found] == [
        ("a.mp3", None),
        ("b.mp3", "it has 11 bytes: 10 are allowed (ARCHIVE_MAX_FILE_MB)"),
        ("c.mp3", None),
    ]
    assert [data[member.offset : member.offset + member.size] for member in found if not member.problem] == [
        b"a" * 10, b"c" * 10,
    ]  # fmt: skip


# --- copy --------------------------------------------------------------------------------------------------


@pytest.fixture
def copying(tmp_path: Path) -> Callable[[Path], None]:
    """Copies `b.mp3`, of more than one chunk, out of an archive."""
    path = tmp_path / "copy.tar"
    path.write_bytes(tar_bytes(("a.mp3", b"A" * 1000), ("b.mp3", BIG), ("c.mp3", b"C")))
    member = archive.index(path, 10, MOST_BYTES).members[1]

    def copy(target: Path) -> None:
        with path.open("rb") as file:
            archive.copy(file, member, target)

    return copy


BIG = bytes(range(251)) * 9000


def test_copy_writes_exactly_the_bytes(tmp_path: Path, copying: Callable[[Path], None]) -> None:
    copying(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == BIG


def test_copy_overwrites_no_file(tmp_path: Path, copying: Callable[[Path], None]) -> None:
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        copying(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"mine"


@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "dangling"])
def test_copy_follows_no_symbolic_link(tmp_path: Path, copying: Callable[[Path], None], exists: bool) -> None:
    victim = tmp_path / "victim"
    if exists:
        victim.write_bytes(b"mine")
    (tmp_path / "out").symlink_to(victim)
    with pytest.raises(FileExistsError):
        copying(tmp_path / "out")
    assert victim.exists() == exists
    assert not exists or victim.read_bytes() == b"mine"


def test_copy_from_an_archive_that_was_cut_meanwhile_fails(
    tmp_path: Path, copying: Callable[[Path], None]
) -> None:
    os.truncate(tmp_path / "copy.tar", 4096)
    with pytest.raises(BadArchive, match=r"ends inside b\.mp3"):
        copying(tmp_path / "out")


# --- any archive -------------------------------------------------------------------------------------------

name_texts = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=40
)
file_names = st.builds(str.__add__, name_texts, st.sampled_from([".mp3", ".WAV", ".txt", ""]))
member_lists = st.lists(st.tuples(file_names, st.binary(max_size=1100)), max_size=6)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(listed=member_lists, form=st.sampled_from(["gnu", "pax"]))
def test_any_archive_reads_back_with_exactly_its_audio(
    tmp_path_factory: pytest.TempPathFactory, listed: list[tuple[str, bytes]], form: str
) -> None:
    folder = tmp_path_factory.getbasetemp()
    data = tar_bytes(*listed, form=form)
    found = read(folder, data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        written = [Path(name).name for name in tar.getnames()]
    audio = [
        content
        for name, (_, content) in zip(written, listed, strict=True)
        if name.lower().endswith((".mp3", ".wav")) and name.lower() not in (".mp3", ".wav") and name[:2] != "._"
    ]
    assert [content for _, content in found] == audio
    assert len({name for name, _ in found}) == len(found)


def test_the_sidecar_of_a_recording_is_found_beside_it(tmp_path: Path) -> None:
    data = tar_bytes(
        ("day/call.json", b'{"a": 1}'), ("./day/call.wav", b"x"), ("day/call.wav.json", b'{"b": 2}'),
        ("call.wav", b"x"),
        ("other/call.json", b"{}"), ("two.mp3", b"x"), ("./two.JSON", b"{}"), ("two.json", b"{ }"),
        ("big.mp3", b"x"), ("big.json", b" " * 2**17), ("empty.mp3", b"x"), ("empty.json", b""),
    )  # fmt: skip
    found = index(tmp_path, data)
    sidecars = {member.original_filename: member.sidecar for member in found.members}
    content = {name: data[place[0] : sum(place)] for name, place in sidecars.items() if place}
    assert content == {"day/call.wav": b'{"b": 2}', "two.mp3": b"{ }"}
    assert found.others() == "5 others ignored: 5 .json"  # those that describe nothing, or are none


def test_sidecars_with_long_names_cost_little_memory(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes(*((f"{number}-{'𝄞' * 2**16}.json", b"{}") for number in range(40))))
    tracemalloc.start()
    found = archive.index(tmp_path / "a.tar", 100, 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.others() == "40 others ignored: 40 .json"
    assert peak < 4 * 2**20


def test_a_folder_or_a_link_is_no_sidecar(tmp_path: Path) -> None:
    link = entry("b.json", kind=tarfile.SYMTYPE)
    link.linkname = "/etc/passwd"
    data = tar_bytes(("a.wav", b"x"), entry("a.json", kind=tarfile.DIRTYPE), ("b.wav", b"x"), link)
    assert [member.sidecar for member in index(tmp_path, data).members] == [None, None]


@pytest.mark.parametrize("form", FORMATS)
def test_when_a_member_was_changed_is_read(tmp_path: Path, form: str) -> None:
    info = entry("a.wav")
    info.mtime = 1710512553
    assert index(tmp_path, tar_bytes(info, form=form)).members[0].changed == 1710512553


@pytest.mark.parametrize(
    ("digits", "changed"),
    [
        (b"\0" * 12, None), (b" " * 12, None), (b"x" * 12, None), (b"\xff" * 12, None), (b"00000000000\0", 0),
        (b"\x80" + b"\xff" * 11, 2**88 - 1),
    ],
)  # fmt: skip
def test_a_wrong_time_of_a_member_harms_nothing(tmp_path: Path, digits: bytes, changed: int | None) -> None:
    header = bytearray(header_bytes(entry("a.wav"), "ustar"))
    header[136:148] = digits
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    assert index(tmp_path, bytes(header) + b"\0" * 1024).members[0].changed == changed
