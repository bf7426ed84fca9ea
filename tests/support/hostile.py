"""Archives as an enemy would make them, and a look at everything that is written while they are unpacked."""

import bz2
import contextlib
import dataclasses
import gzip
import lzma
import os
import struct
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.foundation import file_names
from pipeline.unpack import archive, compression
from pipeline.unpack.compression import zstd

BLOCK = 512
END = bytes(2 * BLOCK)
MOST_MEMBERS = 2000
MOST_BYTES = 16 * 2**20
TERABYTE = 2**40
SOUND = b"sound" * 150
WAV = struct.pack(
    "<4sI8sIHHIIHH4sI", b"RIFF", 236, b"WAVEfmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 200
) + bytes(200)
MP3 = (b"\xff\xfb\x90\x64" + bytes(413)) * 4
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd.compress,
}


# --- raw material ------------------------------------------------------------------------------------------


def octal(number: int, width: int) -> bytes:
    """A number as headers hold it; one too large for that in base 256."""
    if 0 <= number < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, number)
    return (b"\xff" if number < 0 else b"\x80") + (number % 256 ** (width - 1)).to_bytes(width - 1)


def header(
    name: bytes, size: int = 0, kind: bytes = b"0", link: bytes = b"", magic: bytes = b"ustar\x0000"
) -> bytes:
    """A header block with whatever is asked for in it, and a right checksum."""
    block = bytearray(BLOCK)
    for offset, field in (
        (0, name[:100]), (100, b"0000644\0"), (124, octal(size, 12)), (136, b"0" * 11), (156, kind),
        (157, link[:100]), (257, magic),
    ):  # fmt: skip
        block[offset : offset + len(field)] = field
    return fix(block)


def fix(block: bytes | bytearray) -> bytes:
    """The header block with the checksum that it should have."""
    rest = bytes(block[:148]) + b" " * 8 + bytes(block[156:])
    return rest[:148] + b"%06o\0 " % sum(rest) + rest[156:]


def padded(data: bytes) -> bytes:
    """The data up to the next block."""
    return data + bytes(-len(data) % BLOCK)


def member(name: bytes, data: bytes = SOUND, kind: bytes = b"0", **fields: Any) -> bytes:
    """A header and its data."""
    return header(name, len(data), kind, **fields) + padded(data)


def record(key: bytes, value: bytes) -> bytes:
    """One PAX record."""
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def pax(body: bytes, kind: bytes = b"x") -> bytes:
    """An extended header with this body."""
    return member(b"PaxHeaders/x", body, kind)


# --- the corpus --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An archive; the audio that it holds, by the names it is known under, or the reason why it is refused.

    `failed`: the files that fail by themselves, and why.
    """

    data: bytes
    files: dict[str, bytes] | None = None
    reason: str = ""
    failed: dict[str, str] = dataclasses.field(default_factory=dict)


GOOD = member(b"good.mp3")
ONLY_GOOD = {"good.mp3": SOUND}


def links(outside: Path) -> Iterator[tuple[str, Case]]:
    """Links, alone and with files that are to follow them."""
    there = bytes(outside)
    for name, kind in (("symbolic", b"2"), ("hard", b"1")):
        alone, beside = ({"x.mp3": "hard link"}, {"x.mp3#2": "hard link"}) if name == "hard" else ({}, {})
        for target in (there + b"/victim", b"../outside/victim", b"../../outside/victim", b"good.mp3", b"x.mp3"):
            link = header(b"x.mp3", kind=kind, link=target)
            yield f"{name} link to {target[-20:]!r}", Case(link + GOOD + END, ONLY_GOOD, failed=alone)
            replaced = Case(link + member(b"x.mp3") + END, {"x.mp3": SOUND}, failed=beside)
            yield f"{name} link to {target[-20:]!r}, then a file in its place", replaced
    chain = b"".join(header(b"l%d.mp3" % step, kind=b"2", link=b"l%d.mp3" % (step + 1)) for step in range(50))
    yield (
        "chain of links",
        Case(chain + header(b"l50.mp3", kind=b"2", link=there) + member(b"l0.mp3") + END, {"l0.mp3": SOUND}),
    )
    for target in (there, b"..", b"/"):
        folder = header(b"d", kind=b"2", link=target)
        yield (
            f"link {target[-9:]!r} as a folder",
            Case(folder + member(b"d/evil.mp3") + END, {"d/evil.mp3": SOUND}),
        )
    with_size = header(b"x.mp3", 700, b"1", b"good.mp3")
    yield "hard link with a size", Case(with_size + GOOD + END, ONLY_GOOD, failed={"x.mp3": "hard link"})
    yield "hard link to a text", Case(header(b"x.txt", kind=b"1", link=b"y.txt") + GOOD + END, ONLY_GOOD)
    long_link = member(b"././@LongLink", b"t" * 5000 + b"\0", b"K", magic=b"ustar  \0")
    yield "long link", Case(long_link + header(b"x.mp3", kind=b"2", link=b"t") + GOOD + END, ONLY_GOOD)


def specials() -> Iterator[tuple[str, Case]]:
    """Devices, FIFOs and types that nobody knows."""
    for kind in b"346":
        yield (
            f"special {chr(kind)}",
            Case(header(b"x.mp3", kind=bytes([kind])) + GOOD + END, ONLY_GOOD),
        )
        yield (
            f"special {chr(kind)} with a size",
            Case(header(b"x.mp3", 10**6, bytes([kind])) + GOOD + END, ONLY_GOOD),
        )
    for kind in b"ADVNZ\xff":
        yield f"type {kind}", Case(member(b"x.mp3", kind=bytes([kind])) + GOOD + END, ONLY_GOOD)
    yield "second volume", Case(member(b"x.mp3", kind=b"M") + GOOD + END, reason="another volume")
    yield "folder called like audio", Case(header(b"x.mp3/", kind=b"5") + GOOD + END, ONLY_GOOD)


def names(outside: Path) -> Iterator[tuple[str, Case]]:
    """Names that lead elsewhere, collide, or are none."""
    plain = (
        b"../outside/evil.mp3", b"../../../../../../../../tmp/evil.mp3", b"a/../../outside/evil.mp3",
        bytes(outside) + b"/evil.mp3", b"//evil.mp3", b"C:\\evil.mp3", b"C:evil.mp3", b"C:/evil.mp3",
        b"\\\\server\\share\\evil.mp3", b"..\\..\\evil.mp3", b"CON.mp3", b"aux.mp3", b"a\nb.mp3", b"\x1b[2J.mp3",
        b"archive.tar.mp3", b"-rf.mp3", b"~/.mp3.mp3", b"$HOME.mp3", b"a:b.mp3",
    )  # fmt: skip
    for name in plain:
        yield f"name {name[-40:]!r}", Case(member(name[:100]) + END, {name[:100].decode(): SOUND})
    yield "dot slash", Case(member(b"././x.mp3") + END, {"x.mp3": SOUND})
    yield "not UTF-8", Case(member(b"caf\xe9\xff.mp3") + END, {"caf\\xe9\\xff.mp3": SOUND})
    surrogate = "\ud800.mp3".encode("utf-8", "surrogatepass")
    shown = {"\\xed\\xa0\\x80.mp3": SOUND}
    yield "surrogate", Case(member(surrogate) + END, shown)
    yield "surrogate in PAX", Case(pax(record(b"path", surrogate)) + member(b"x") + END, shown)
    yield "NUL in PAX", Case(pax(record(b"path", b"a\0.mp3")) + member(b"x") + END, {"a\\x00.mp3": SOUND})
    twice = member(b"x.mp3", b"1") + member(b"x.mp3", b"2") + member(b"./x.mp3", b"3")
    yield "duplicates", Case(twice + END, {"x.mp3": b"1", "x.mp3#2": b"2", "x.mp3#3": b"3"})
    case = {
        "X.mp3": b"1",
        "x.MP3": b"2",
        "x.mp3": b"3",
        "ﬁ.mp3": b"4",
        "fi.mp3": b"5",
        "İ.mp3": b"6",
        "i̇.mp3": b"7",
    }
    yield "case", Case(b"".join(member(name.encode(), data) for name, data in case.items()) + END, case)
    long = b"n" * 296 + b".mp3"
    gnu = member(b"././@LongLink", long + b"\0", b"L", magic=b"ustar  \0")
    yield "300 bytes, GNU", Case(gnu + member(b"x") + END, {long.decode(): SOUND})
    yield "300 bytes, PAX", Case(pax(record(b"path", long)) + member(b"x") + END, {long.decode(): SOUND})
    yield "no name", Case(member(b"") + GOOD + END, ONLY_GOOD)


def sizes() -> Iterator[tuple[str, Case]]:
    """Sparse files, and sizes that are not there."""
    old = bytearray(header(b"x.mp3", 512, b"S", magic=b"ustar  \0"))
    old[386:410] = octal(0, 12) + octal(512, 12)
    old[483:495] = octal(TERABYTE, 12)
    failed = {"x.mp3": "sparse"}
    yield "old GNU sparse bomb", Case(fix(old) + bytes(BLOCK) + GOOD + END, ONLY_GOOD, failed=failed)
    text = bytearray(header(b"x.txt", 512, b"S", magic=b"ustar  \0"))
    text[482] = 1
    maps = bytes(504) + b"\1" + bytes(7) + bytes(BLOCK)
    yield "sparse text with a long map", Case(fix(text) + maps + b"T" * BLOCK + GOOD + END, ONLY_GOOD)
    old[482] = 1
    mapped = fix(old) + (bytes(504) + b"\1" + bytes(7)) * 5000
    yield "endless sparse map", Case(mapped + END, reason="cut|damaged")
    long_map = mapped + bytes(BLOCK) + b"S" * BLOCK
    yield "sparse audio with a long map", Case(long_map + GOOD + END, ONLY_GOOD, failed=failed)
    yield "sparse audio that is cut", Case(long_map + GOOD, reason="cut")
    for number, records in enumerate((
        ((b"GNU.sparse.size", b"%d" % TERABYTE), (b"GNU.sparse.numblocks", b"1")),
        ((b"GNU.sparse.map", b"0,512"), (b"GNU.sparse.size", b"%d" % TERABYTE)),
        ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"x.mp3"),
         (b"GNU.sparse.realsize", b"%d" % TERABYTE)),
    )):  # fmt: skip
        body = b"".join(record(*pair) for pair in records)
        bomb = pax(body) + member(b"x.mp3")
        yield f"PAX sparse bomb {number}", Case(bomb + GOOD + END, ONLY_GOOD, failed=failed)
    ends = "ends inside x.mp3"
    yield "a terabyte, base 256", Case(header(b"x.mp3", TERABYTE) + GOOD + END, reason=ends)
    yield "a terabyte of text", Case(header(b"x.txt", TERABYTE) + GOOD + END, reason="ends inside x.txt")
    for size in (b"%d" % TERABYTE, b"9" * 19):
        yield f"PAX size {size!r}", Case(pax(record(b"size", size)) + member(b"x.mp3") + END, reason=ends)
    for size in (b"-1", b"-512", b"9" * 5000, b"0x10", b"1_0", b"", b" 1", "١".encode()):
        refused = Case(pax(record(b"size", size)) + member(b"x.mp3") + END, reason="negative|no number")
        yield f"PAX size {size[:9]!r}", refused
    yield "negative, base 256", Case(header(b"x.mp3", -1024) + END, reason="negative")
    large = header(b"x.mp3", MOST_BYTES + 1) + bytes(MOST_BYTES + BLOCK)
    yield "over the limit", Case(large + GOOD + END, ONLY_GOOD, failed={"x.mp3": "allowed"})
    large = header(b"x.txt", MOST_BYTES + 1) + bytes(MOST_BYTES + BLOCK)
    yield "text over the limit", Case(large + GOOD + END, ONLY_GOOD)


def extended() -> Iterator[tuple[str, Case]]:
    """PAX and GNU headers that cost more than they say."""
    mebibyte = 2**20
    many = b"".join(record(b"k%d" % number, b"") for number in range(70_000))[: mebibyte - 100]
    many = many[: many.rindex(b"\n") + 1]
    yield "70,000 keywords", Case(pax(many) + GOOD + END, ONLY_GOOD)
    yield "70,000 global keywords", Case((pax(many, b"g") + GOOD) * 3 + END, {
        "good.mp3": SOUND, "good.mp3#2": SOUND, "good.mp3#3": SOUND})  # fmt: skip
    digits = b"1" * (mebibyte - 600)
    yield "a mebibyte of digits", Case(pax(digits) + GOOD + END, reason="damaged PAX")
    yield "digits as a value", Case(pax(record(b"comment", digits)) + GOOD + END, ONLY_GOOD)
    name = b"d/" * (mebibyte // 2 - 50) + b"x.mp3"
    shown = {file_names.readable(name.decode()): SOUND}
    yield "a name of a mebibyte, PAX", Case(pax(record(b"path", name)) + member(b"x") + END, shown)
    yield "a name of a mebibyte, GNU", Case(member(b"L", name, b"L") + member(b"x") + END, shown)
    for kind in (b"x", b"g", b"L", b"K", b"X"):
        yield f"{kind!r} of a gigabyte", Case(header(b"x", 2**30, kind) + END, reason="1073741824 bytes")
        body = record(b"comment", b"c") if kind in b"xgX" else b"long"
        chain = member(b"x", body, kind) * 5000
        yield f"chain of {kind!r}", Case(chain + GOOD + END, reason="extended headers (follow|of one kind)")
        if kind != b"g":
            yield f"{kind!r} at the end", Case(GOOD + member(b"x", body, kind) + END, reason="no member follows")
    for body in (
        b"0 a=b\n", b"99 a=b\n", b"5 a=b\n", b"6 a=b", b"-6 a=b\n", b"6  a=b\n", b"7 =abc\n", b"a=b\n",
        b"6 a=b\n\0x", b"99999999999999999999999 a=b\n", b"06 a=b\n", b"6\ta=b\n", b"1 1 1 1 1 1 ", b"3 a",
    ):  # fmt: skip
        yield f"PAX {body!r}", Case(pax(body) + GOOD + END, reason="damaged PAX")
    two = member(b"L", b"a.mp3", b"L") + pax(record(b"path", b"b.mp3"))
    yield "two names", Case(two + GOOD + END, reason="two names")
    yield "the same name twice", Case(two.replace(b"b.mp3", b"a.mp3") + GOOD + END, {"a.mp3": SOUND})
    yield "empty long name", Case(member(b"L", b"\0", b"L") + GOOD + END, reason="is empty or does not end")
    endless = header(b"L", 9, b"L") + b"n" * BLOCK
    yield "long name that does not end", Case(endless + GOOD + END, reason="does not end")
    yield (
        "long name without a zero byte",
        Case(member(b"L", b"n.mp3", b"L") + member(b"x") + END, {"n.mp3": SOUND}),
    )
    block = b"n" * 508 + b".mp3"
    yield "long name of a block", Case(member(b"L", block, b"L") + member(b"x") + END, {block.decode(): SOUND})
    yield "empty PAX name", Case(pax(record(b"path", b"")) + GOOD + END, ONLY_GOOD)
    yield "padded PAX", Case(pax(record(b"path", b"p.mp3") + bytes(9)) + member(b"x") + END, {"p.mp3": SOUND})
    for key in (b"path", b"size", b"GNU.sparse.realsize"):
        yield f"global {key!r}", Case(pax(record(key, b"7"), b"g") + GOOD + END, reason="global PAX")


def contents() -> Iterator[tuple[str, Case]]:
    """Recordings by their content, and what only begins like one."""
    for name in ("REC001", "call.0001", "x.mp3.bak", "x.txt", "._x.mp3", ".mp3", "d/.hidden"):
        yield f"WAV called {name}", Case(member(name.encode(), WAV) + GOOD + END, {name: WAV, **ONLY_GOOD})
    tag = b"ID3\4\0\0\0\0\0\x0a"
    tagged = tag + bytes(10) + MP3
    yield "tagged MP3 called x", Case(member(b"x", tagged) + END, {"x": tagged})
    others = {
        "a sync word": MP3, "ID3 and nothing": tag, "ID3 and text": tag + bytes(10) + b"text" * 300,
        "ID3 of 256 MiB": b"ID3\4\0\0\x7f\x7f\x7f\x7f" + MP3, "a chain of ID3": (b"ID3\3" + bytes(6)) * 1000 + MP3,
        "RIFF of something": b"RIFF\x10\0\0\0sfbk" + bytes(90), "text like an AMR": b"#!AMR\necho hello\n" * 9,
        "a script": b"#!/bin/sh\n" * 9, "text like a WAV": b"RIFF    WAVE is a format\n" * 9,
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(90), "an ftyp picture": b"\0\0\0\x18ftypheic" + bytes(90),
        "the start of a magic": b"RIFF", "AppleDouble": b"\0\5\x16\7" + bytes(90),
    }  # fmt: skip
    for name, data in others.items():
        for called in (b"x", b"x.txt", b"._x.mp3"):
            yield f"{name} called {called!r}", Case(member(called, data) + GOOD + END, ONLY_GOOD)
    many = member(b"x.txt", b"ID3\4\0\0\0\0\0\0" + b"\xff\xfb\x90\x64" * 2000) * 1500
    yield "1500 tags with sync words", Case(many + GOOD + END, ONLY_GOOD)
    link = header(b"REC001", kind=b"1", link=b"good.mp3") + header(b"REC002", kind=b"2", link=b"good.mp3")
    yield "links without a suffix", Case(link + GOOD + END, ONLY_GOOD)


def compressed() -> Iterator[tuple[str, Case]]:
    """Bombs, streams within streams, and what stands behind them."""
    plain = GOOD + END
    for kind, compress in COMPRESSORS.items():
        whole = compress(plain)
        bomb = compress(GOOD + bytes(2 * MOST_BYTES))
        yield f"{kind}", Case(whole, ONLY_GOOD)
        yield f"{kind} bomb", Case(bomb, reason="unpacks to more than")
        yield f"{kind} in {kind}", Case(compress(whole), reason="not a tar archive|is cut")
        yield f"{kind} of nothing", Case(compress(b""), reason="is cut")
        yield f"{kind} in parts", Case(compress(plain[:700]) + compress(b"") + compress(plain[700:]), ONLY_GOOD)
        yield f"{kind} and zeros", Case(whole + bytes(70_000), ONLY_GOOD)
        yield f"{kind} and zeros and {kind}", Case(compress(GOOD) + bytes(512) + compress(END), ONLY_GOOD)
        yield f"{kind} and text", Case(whole + b"text", reason="something else follows")
        yield f"{kind} and zeros and text", Case(whole + bytes(70_000) + b"text", reason="something else follows")
        yield f"{kind} and {kind}'s start", Case(whole + whole[:9], reason="is cut|something else")
        yield f"100,000 empty {kind}", Case(compress(b"") * 100_000, reason="hold next to nothing")
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    yield "xz window", Case(lzma.compress(plain, filters=filters), reason="[Mm]emory")
    frame = b"\x28\xb5\x2f\xfd\x00" + bytes([(31 - 10) << 3]) + struct.pack("<I", 1 | 1 << 3)[:3] + b"x"
    yield "zstd window", Case(frame + bytes(600), reason="memory")
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"hello"
    yield "zstd with a skippable frame", Case(skippable + zstd.compress(plain), ONLY_GOOD)
    yield (
        "skippable frame of 4 GB",
        Case(struct.pack("<II", 0x184D2A50, 2**32 - 1) + b"hello" * 99, reason="is cut"),
    )
    for magic in (b"BZh91AY&SY", b"\x1f\x8b\x08", b"\xfd7zXZ", b"PK\x03\x04", b"\x28\xb5\x2f\xfd"):
        name = magic + b".mp3"
        shown = {file_names.readable(name.decode("utf-8", "surrogateescape")): SOUND}
        yield f"plain, its name begins {magic!r}", Case(member(name) + END, shown)
    yield "zip", Case(b"PK\x03\x04" + bytes(600), reason="zip archive")


def corpus(outside: Path) -> Iterator[tuple[str, Case]]:
    """Every case with its name; `outside` is the folder that some of them are after."""
    yield from links(outside)
    yield from specials()
    yield from names(outside)
    yield from sizes()
    yield from extended()
    yield from contents()
    yield from compressed()


# --- unpacking under watch ---------------------------------------------------------------------------------

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod",
    "os.chown", "os.utime", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.system",
}  # fmt: skip
_watched: list[Path] = []  # at most one folder: the only one where anything may change
_strays: list[str] = []


def _look(event: str, args: tuple[Any, ...]) -> None:
    if not _watched or (event != "open" and event not in _CHANGES):
        return
    if event == "open" and not (isinstance(args[2], int) and args[2] & _WRITES):
        return
    paths = args[:2] if event in ("os.rename", "os.link", "os.symlink") else args[:1]
    if event.startswith(("os.exec", "subprocess", "socket")) or not all(_is_inside(path) for path in paths):
        _strays.append(f"{event} {args!r}")


def _is_inside(path: Any) -> bool:
    if isinstance(path, int):  # of a file that was opened by its name before
        return True
    return Path(os.path.realpath(os.fsdecode(path))).parent == _watched[0]


sys.addaudithook(_look)


@contextlib.contextmanager
def watching(folder: Path) -> Iterator[None]:
    """Fail if anything is opened to be written, made, renamed or removed elsewhere than directly in `folder`."""
    _strays.clear()
    _watched.append(folder.resolve())
    try:
        yield
    finally:
        _watched.clear()
    assert not _strays, _strays


def unpack(data: bytes, scratch: Path, most_bytes: int = MOST_BYTES) -> dict[str, bytes]:
    """Unpack an archive as the unpack worker does, and give what lies in the folder then; it is empty again."""
    return unpack_all(data, scratch, most_bytes)[0]


def unpack_all(
    data: bytes, scratch: Path, most_bytes: int = MOST_BYTES
) -> tuple[dict[str, bytes], dict[str, str]]:
    """`unpack`, and the files that fail by themselves with their reasons."""
    path = scratch / "archive.tar"
    path.write_bytes(data)
    found = {}
    try:
        with watching(scratch):
            compression.make_plain(path, 2 * most_bytes)
            listed = archive.index(path, MOST_MEMBERS, most_bytes).members
            members = [each for each in listed if each.problem is None]
            with path.open("rb") as tar:
                for each in members:
                    archive.copy(tar, each, scratch / f"{each.safe_stem}.source")
        for each in members:
            target = scratch / f"{each.safe_stem}.source"
            assert target.is_file()
            assert not target.is_symlink()
            found[each.original_filename] = target.read_bytes()
        assert len(found) == len(members)
        assert len(list(scratch.iterdir())) == len(members) + 1
        assert len({each.safe_stem for each in listed}) == len(listed)
    finally:
        for left in scratch.iterdir():
            left.unlink()
    failed = {each.original_filename: each.problem for each in listed if each.problem}
    assert not failed.keys() & found.keys()
    return found, failed
