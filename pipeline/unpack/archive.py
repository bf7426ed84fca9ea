"""What is in a tar archive, read as untrusted input.

Nothing is ever extracted by name: `index` gives the place of each audio file's bytes in the archive, and a
file name of our own choosing; `copy` takes the bytes out.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from pipeline.audio.containers import SURE_BYTES, is_surely_one, may_be_sure
from pipeline.foundation.file_names import readable
from pipeline.unpack import sidecars
from pipeline.unpack.tar_headers import DEVICE, FIFO, FILE, FOLDER, HARD_LINK, LINK, SPARSE, Header, headers, shown
from pipeline.unpack.tar_headers import BadArchive as BadArchive

AUDIO_SUFFIXES = frozenset(
    """
    .mp3 .mp2 .mpga .wav .w64 .flac .m4a .m4b .mp4 .mov .3gp .3g2 .aac .ogg .oga .opus .spx .amr .awb .gsm .wma
    .asf .aif .aiff .aifc .caf .au .snd .webm .mka .mkv .ac3 .wv .ape .voc .qcp .dss .avi .flv .ts .mpg .mpeg
    """.split()  # noqa: SIM905
)
_MOST_KINDS = 8  # of ignored members that are counted separately
_CHUNK = 2**20


@dataclass(frozen=True)
class Member:
    """One audio file of an archive.

    `original_filename` is the member's name (bytes that are not UTF-8 as \\xNN), unique in the archive;
    `safe_stem` is a unique name for files made from it; `offset` and `size` are where its bytes are. `problem`
    says why it cannot be taken out of the archive: it alone fails. `changed` is when it was changed, as the
    archive says (seconds since 1970), `sidecar` where the file that describes it is (offset and size).
    """

    original_filename: str
    safe_stem: str
    offset: int
    size: int
    problem: str | None = None
    changed: int | None = None
    sidecar: tuple[int, int] | None = None


@dataclass(frozen=True)
class Index:
    """The audio files of an archive in their order, and how many other members (folders apart) were ignored."""

    members: list[Member]
    ignored: int
    ignored_kinds: dict[str, int] = field(default_factory=dict)

    def others(self) -> str:
        """What was ignored, in words: `3 others ignored: 2 .txt, 1 link`."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.ignored_kinds.items())
        return f"{self.ignored} others ignored{kinds and ': '}{kinds}"


def index(path: Path, most_members: int, most_file_bytes: int) -> Index:
    """List the audio files of a plain tar. `BadArchive` where it is cut, damaged or has too many members.

    One that cannot be taken out safely is listed with its problem. Its name is found last, so that it takes none
    from a file that is there.
    """
    members: list[Member] = []
    unnamed: list[int] = []
    asked: list[str] = []  # their names in the archive, as their sidecars have them
    found: dict[str, tuple[int, int]] = {}  # where each possible sidecar is; of a header its name may take 4 MiB
    names = _Names()
    ignored: Counter[str] = Counter()
    with path.open("rb") as file:
        for count, header in enumerate(headers(file), 1):
            if count > most_members:
                raise BadArchive(f"more than {most_members} members")
            name = readable(header.name)
            lowered = PurePosixPath(name.lower())
            if not _is_recording(file, header, lowered):
                if _is_sidecar(header, lowered):
                    found[name] = header.offset, header.size
                else:
                    _count(ignored, header.kind, lowered)
                continue
            asked.append(name)
            if problem := _problem(header, most_file_bytes):
                unnamed.append(len(members))
                members.append(Member(name, "", header.offset, header.size, problem, header.changed))
                continue
            members.append(Member(*names.of(name), header.offset, header.size, None, header.changed))
    for at in unnamed:
        filename, stem = names.of(members[at].original_filename)
        members[at] = replace(members[at], original_filename=filename, safe_stem=stem)
    members = [_with_sidecar(member, name, found) for member, name in zip(members, asked, strict=True)]
    used = {member.sidecar for member in members}
    for name, place in found.items():
        if place not in used:
            _count(ignored, FILE, PurePosixPath(name.lower()))
    return Index(members, ignored.total(), dict(ignored.most_common()))


def chunks(archive: BinaryIO, member: Member) -> Iterator[bytes]:
    """The bytes of a member without a problem, up to a mebibyte at a time. `BadArchive` where they end early."""
    done = 0
    while done < member.size:
        chunk = os.pread(archive.fileno(), min(_CHUNK, member.size - done), member.offset + done)
        if not chunk:
            raise BadArchive(f"the archive ends inside {shown(member.original_filename)}")
        yield chunk
        done += len(chunk)


def digest(archive: BinaryIO, member: Member) -> str:
    """The SHA-256 of the bytes of a member without a problem, in hexadecimal digits."""
    found = hashlib.sha256()
    for chunk in chunks(archive, member):
        found.update(chunk)
    return found.hexdigest()


def digests(path: Path, members: list[Member], jobs: int, moved: Callable[[], object]) -> dict[str, str]:
    """The SHA-256 of the bytes of each member without a problem, by its name; so many are read at a time.
    `moved()` is called before each, and may raise. `BadArchive` where the archive ends early."""
    with path.open("rb") as archive, ThreadPoolExecutor(jobs, "digest") as readers:

        def read(member: Member) -> tuple[str, str]:
            moved()
            return member.original_filename, digest(archive, member)

        return dict(readers.map(read, [member for member in members if member.problem is None]))


def copy(archive: BinaryIO, member: Member, target: Path) -> None:
    """Write the bytes of a member without a problem to `target`, which must not exist."""
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "wb") as file:
        for chunk in chunks(archive, member):
            file.write(chunk)


def _is_recording(file: BinaryIO, header: Header, path: PurePosixPath) -> bool:
    """A file with an audio suffix, or one whose content leaves no doubt; a Mac's `._` companions only look like
    one. A hard link with such a suffix counts: its sound may be stored under no other name."""
    if path.suffix in AUDIO_SUFFIXES and not path.name.startswith("._"):
        return header.kind in (FILE, SPARSE, HARD_LINK)
    if header.kind != FILE or not header.size:
        return False
    start = os.pread(file.fileno(), min(SURE_BYTES, header.size), header.offset)
    return may_be_sure(start) and _leaves_no_doubt(file, header, start)


def _leaves_no_doubt(file: BinaryIO, header: Header, start: bytes) -> bool:
    def read_at(offset: int, length: int) -> bytes:
        return os.pread(file.fileno(), max(0, min(length, header.size - offset)), header.offset + offset)

    return is_surely_one(start, read_at, header.size)


def _is_sidecar(header: Header, path: PurePosixPath) -> bool:
    return header.kind == FILE and path.suffix == sidecars.SUFFIX and 0 < header.size <= sidecars.MOST_BYTES


def _with_sidecar(member: Member, name: str, found: Mapping[str, tuple[int, int]]) -> Member:
    """The member with the place of its sidecar, where it has one; of two of a name the last, as when unpacked."""
    place = next((found[one] for one in sidecars.names_of(name) if one in found), None) if found else None
    return replace(member, sidecar=place) if place else member


def _problem(header: Header, most_file_bytes: int) -> str | None:
    """Why a recording cannot be taken out of the archive; None where it can."""
    if header.kind == SPARSE:
        return "it is a sparse file, which may unpack to any size"
    if header.kind == HARD_LINK:
        return "it is a hard link: its sound is stored under another name, or not at all"
    if header.size > most_file_bytes:
        return f"it has {header.size} bytes: {most_file_bytes} are allowed (ARCHIVE_MAX_FILE_MB)"
    return None


def _count(ignored: Counter[str], kind: str, path: PurePosixPath) -> None:
    """Count a member that is no audio file by its suffix, or by what it is; few kinds are counted separately."""
    if kind == FOLDER:
        return
    if kind not in (LINK, HARD_LINK, DEVICE, FIFO):
        kind = path.suffix or "without a suffix"
    if path.name.startswith("._"):
        kind = "._*"
    plain = re.fullmatch(r"[a-z0-9._* A-Z]{1,16}", kind)
    ignored[kind if plain and (kind in ignored or len(ignored) < _MOST_KINDS) else "of other kinds"] += 1


def _safe_stem(filename: str) -> str:
    """`file001` for `file001.mp3`; any other than a flat, plain name is cleaned and made unique by its hash."""
    stem = filename.rpartition(".")[0] or filename
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9 ._()+,@=-]{0,150}", stem)
    if plain and not stem.startswith("archive.tar"):  # the archive's own name, beside which the files lie
        return stem
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[-80:].strip("_-")
    return f"{cleaned or 'file'}-{hashlib.sha256(filename.encode()).hexdigest()[:12]}"


class _Names:
    """The filename and the safe stem of one member after the other."""

    def __init__(self) -> None:
        self._names, self._stems = _Unique(), _Unique(fold_case=True)

    def of(self, name: str) -> tuple[str, str]:
        filename = self._names.of(name, name)
        return filename, self._stems.of(_safe_stem(filename), filename)


class _Unique:
    """Hands out names, a second one of the same kind with a mark; the same for the same order of calls."""

    def __init__(self, fold_case: bool = False) -> None:
        self._fold_case = fold_case
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}  # of a name asked for: the last mark, so that many of it stay cheap

    def of(self, name: str, origin: str) -> str:
        candidate, asked = name, self._key(name)
        while self._key(candidate) in self._taken:
            count = self._counts[asked] = self._counts.get(asked, 1) + 1
            mark = hashlib.sha256(origin.encode()).hexdigest()[:12] if self._fold_case else ""
            candidate = f"{name}-{mark}-{count}" if mark else f"{name}#{count}"
        self._taken.add(self._key(candidate))
        return candidate

    def _key(self, name: str) -> str:
        return name.casefold() if self._fold_case else name
