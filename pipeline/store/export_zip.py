"""Transcripts as a zip archive with a file for each recording, written while they are read.

However many they are, one is in memory at a time. The list at the end of a zip is made on the disk, where it takes
some 300 bytes for each.
"""

import io
import pickle  # nosec B403  # nothing is read but what this process has written
import tempfile
import zipfile
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import IO, Any, cast

from pipeline.store.export_formats import Format
from pipeline.store.transcripts import AudioFile

MEDIA_TYPE = "application/zip"
_PIECE = 2**16  # bytes
_FIRST_YEAR, _LAST_YEAR = 1980, 2107  # that a zip can hold


def zipped(files: Iterable[AudioFile], form: Format, names: Sequence[str] = ()) -> Generator[bytes, None, None]:
    """The archive in pieces; `names` are those of the speakers of channels. A file has its recording's own time,
    in UTC. Where `files` fails, the archive has no end: nobody takes it for a whole one."""
    with tempfile.TemporaryFile() as pieces, tempfile.TemporaryFile() as members:
        written, listed = _Written(pieces), _Listed(members)
        with zipfile.ZipFile(written, "w") as archive:
            archive.filelist = cast(Any, listed)
            for file in files:
                with archive.open(_member(file, form), "w") as member:
                    member.writelines(form.encoded([file], names))
                archive.NameToInfo.clear()  # names are looked up nowhere
                yield from written.take()
        yield from written.take()


def _member(file: AudioFile, form: Format) -> zipfile.ZipInfo:
    when = file.recorded_at or file.created_at
    year = min(max(when.year, _FIRST_YEAR), _LAST_YEAR)
    member = zipfile.ZipInfo(form.path_of(file), (year, *when.timetuple()[1:6]))
    member.compress_type = zipfile.ZIP_DEFLATED
    return member


class _Written(io.RawIOBase):
    """What was written and not taken yet. It can neither seek nor tell, so zipfile goes back to nothing."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def take(self) -> Iterator[bytes]:
        self._file.seek(0)
        yield from iter(lambda: self._file.read(_PIECE), b"")
        self._file.seek(0)
        self._file.truncate()


class _Listed:
    """The members of an archive, for the list at its end. It is on the disk: a million take 400 MB of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._number = file, 0

    def append(self, member: zipfile.ZipInfo) -> None:
        pickle.dump(member, self._file)
        self._number += 1

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        self._file.seek(0)
        for _ in range(self._number):
            yield pickle.load(self._file)  # nosec B301
