"""Any damage to any archive: the files that are stored, or an error, and nothing outside the batch's scratch.

FUZZ_CASES=100000 ./test -k fuzz    at length, with other cases each time
"""

import os
import tarfile
import time
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.audio import containers
from pipeline.foundation import file_names
from pipeline.unpack import archive
from pipeline.unpack.archive import BadArchive
from tests.support import hostile
from tests.support.hostile import BLOCK, COMPRESSORS, END, fix, member, pax, record, unpack
from tests.unpack.test_archive import tar_bytes

CASES = int(os.environ.get("FUZZ_CASES", "1500"))
SECONDS = 3  # of CPU for one case, far more than it needs
LONG = "d" * 110 + "/é" + "n" * 40 + ".mp3"
FILES = (("a.mp3", b"A" * 700), ("n.txt", b"N"), (LONG, b"B" * 512), ("c.wav", b""), ("a.mp3", b"D" * 513))
SEEDS = [
    *(tar_bytes(*FILES, form=form) for form in ("gnu", "pax", "ustar")),
    member(b"a.mp3", magic=b"") + member(b"b.flac", b"F", b"\0", magic=b"") + END,
    pax(record(b"comment", b"c"), b"g") + tar_bytes(*FILES, form="pax"),
    pax(record(b"path", b"p.mp3") + record(b"size", b"5")) + member(b"x", b"12345") + END,
    member(b"L", b"long.mp3\0", b"L") + member(b"K", b"link\0", b"K") + member(b"x", b"y", b"2") + END,
    b"".join(member(b"%c.mp3" % kind, b"", bytes([kind])) for kind in b"01234567") + END,
    member(b"REC1", hostile.WAV) + member(b"x.txt", b"ID3\4" + bytes(6) + hostile.MP3) + member(b"y") + END,
    *(case.data for name, case in hostile.sizes() if "sparse" in name and len(case.data) < 10_000),
    END,
]

# Where: a share of the whole, so that it means a place in archives of any length.
places = st.floats(0, 1, exclude_max=True)
numbers = st.sampled_from([0, 1, 511, 512, 513, 2**20, 2**33, 2**63, 2**64, -1, -512, -(2**40)])
names = st.sampled_from(
    [
        b"../x.mp3",
        b"/outside/x.mp3",
        b"a.mp3",
        b"A.MP3",
        b"x.mp3/",
        b"\xff.mp3",
        b"",
        b"._a.mp3",
        b"d/",
        b"a" * 100,
    ]
)
values = st.one_of(st.binary(max_size=12), names, numbers.map(lambda number: hostile.octal(number, 12)))
fields = st.sampled_from([0, 100, 108, 124, 136, 148, 156, 157, 257, 263, 345, 386, 482, 483, 504])
keys = st.sampled_from(
    [
        b"path",
        b"size",
        b"linkpath",
        b"hdrcharset",
        b"GNU.sparse.name",
        b"GNU.sparse.major",
        b"GNU.sparse.map",
        b"k",
    ]
)
record_values = st.one_of(names, st.binary(max_size=9), numbers.map(lambda number: b"%d" % number))
records = st.builds(record, keys, record_values)
headers = st.builds(
    pax, st.lists(records, max_size=4).map(b"".join), st.sampled_from([b"x", b"g", b"X", b"L", b"K"])
)
mutations = st.one_of(
    st.tuples(st.just("flip"), places, st.integers(0, 7)),
    st.tuples(st.just("write"), places, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("header"), places, st.tuples(fields, values)),
    st.tuples(st.just("kind"), places, st.sampled_from(b"\x000123456789LKxgXSDMVZ")),
    st.tuples(st.just("insert"), places, st.one_of(headers, st.just(bytes(BLOCK)), st.just(END))),
    st.tuples(st.just("splice"), places, st.tuples(st.integers(0, len(SEEDS) - 1), places)),
    st.tuples(st.just("drop"), places, st.integers(1, 4)),
    st.tuples(st.just("repeat"), places, st.integers(1, 4)),
    st.tuples(st.just("cut"), places, st.integers(0, BLOCK)),
    st.tuples(st.just("compress"), st.just(0.0), st.sampled_from(sorted(COMPRESSORS))),
    st.tuples(st.just("append"), st.just(0.0), st.one_of(st.binary(max_size=9), st.just(bytes(BLOCK)))),
)  # fmt: skip


def mutate(data: bytes, how: str, where: float, what: object) -> bytes:
    """One change to an archive; those of blocks and headers keep to their boundaries."""
    at = int(where * len(data))
    block = at // BLOCK * BLOCK
    match how, what:
        case "flip", int(bit):
            return data[:at] + bytes(byte ^ 1 << bit for byte in data[at : at + 1]) + data[at + 1 :]
        case "write", bytes(new):
            return data[:at] + new + data[at + len(new) :]
        case "header", (int(offset), bytes(new)):
            return on_header(data, block, offset, new)
        case "kind", int(kind):
            return on_header(data, block, 156, bytes([kind]))
        case "insert", bytes(new):
            return data[:block] + new + data[block:]
        case "splice", (int(other), float(there)):
            return data[:block] + SEEDS[other][int(there * len(SEEDS[other])) // BLOCK * BLOCK :]
        case "drop", int(count):
            return data[:block] + data[block + count * BLOCK :]
        case "repeat", int(count):
            return data[:block] + data[block : block + count * BLOCK] + data[block:]
        case "cut", int(more):
            return data[: block + more]
        case "compress", str(kind):
            return COMPRESSORS[kind](data)
        case "append", bytes(new):
            return data + new
    raise ValueError(how)


def on_header(data: bytes, block: int, offset: int, new: bytes) -> bytes:
    """Change a field of the block, and repair its checksum."""
    changed = bytearray(data[block : block + BLOCK])
    if len(changed) < BLOCK:
        return data
    changed[offset : offset + len(new)] = new
    changed = changed[:BLOCK]
    return data[:block] + fix(changed) + data[block + BLOCK :]


def sounds(content: bytes) -> bool:
    """Whether the content makes it a recording, whatever its name."""

    def read_at(offset: int, length: int) -> bytes:
        return content[offset : offset + length]

    return containers.is_surely_one(content[: containers.SURE_BYTES], read_at, len(content))


def as_tarfile_sees_it(path: Path) -> list[tuple[int, int]] | None:
    """Where Python's own reader finds the audio; None where it finds fault, ends early, or has ways of its own."""
    found, data = [], path.read_bytes()
    try:
        with tarfile.open(path, "r:", errors="surrogateescape") as tar:
            for info in tar:
                block = data[info.offset_data - BLOCK : info.offset_data]
                has_times = (
                    block[257:263] != b"ustar\0" and block[345:346] != b"\0"
                )  # where others have the prefix
                is_sparse = info.sparse is not None or any(
                    key.startswith("GNU.sparse.") for key in info.pax_headers
                )
                if is_sparse or not info.name or has_times:
                    return None
                name = PurePosixPath(file_names.readable(info.name).lower())
                content = data[info.offset_data : info.offset_data + info.size]
                is_named_so = name.suffix in archive.AUDIO_SUFFIXES and not name.name.startswith("._")
                if info.isreg() and (is_named_so or sounds(content)):
                    found.append((info.offset_data, info.size))
            ended_early = data[tar.offset :].strip(b"\0")
    except Exception:  # noqa: BLE001
        return None
    return None if ended_early else found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("outside", "batch", "here"):
        (folder / name).mkdir()
    (folder / "outside" / "x.mp3").write_bytes(b"mine")
    return folder


@settings(
    max_examples=CASES, deadline=None, database=None, derandomize="FUZZ_CASES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(seed=st.integers(0, len(SEEDS) - 1), changes=st.lists(mutations, min_size=1, max_size=6))
def test_fuzz(place: Path, seed: int, changes: list[tuple[str, float, object]]) -> None:
    data = SEEDS[seed]
    for change in changes:
        data = mutate(data, *change)
    started = time.process_time()
    os.chdir(place / "here")
    try:
        found = unpack(data, place / "batch", 2**20)
    except BadArchive as error:
        found, reason = None, str(error)
    finally:
        os.chdir("/")
    assert time.process_time() - started < SECONDS
    assert found is not None or (5 < len(reason) < 600 and reason.isprintable())
    assert sorted(path.name for path in place.rglob("*")) == ["batch", "here", "outside", "x.mp3"]
    assert (place / "outside" / "x.mp3").read_bytes() == b"mine"
    if found is not None and not any(how == "compress" for how, _, _ in changes):
        path = place / "plain"
        path.write_bytes(data)
        other = as_tarfile_sees_it(path)
        path.unlink()
        if other is not None:
            assert list(found.values()) == [data[offset : offset + size] for offset, size in other]
