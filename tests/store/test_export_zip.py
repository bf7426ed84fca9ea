"""A zip archive of transcripts, written while they are read: whole or plainly broken, and small in memory."""

import datetime
import io
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import replace

import pytest

from pipeline.store.export_formats import FORMATS
from pipeline.store.export_zip import zipped
from pipeline.store.transcripts import AudioFile

MADE = datetime.datetime(2025, 6, 22, 14, 30, 53, tzinfo=datetime.UTC)


def recording(
    audio_id: int, name: str = "a.mp3", made: datetime.datetime = MADE, text: str = "a fire"
) -> AudioFile:
    segments = [{"start": 0.0, "end": 1.0, "text": text}]
    return AudioFile(
        audio_id,
        "20250622-143052",
        name,
        "done",
        None,
        1.0,
        "en",
        ["en"],
        made,
        made,
        None,
        text,
        segments,
        "x",
        [],
    )


def test_each_recording_is_a_file_with_its_time() -> None:
    known = replace(recording(4, "d.mp3"), recorded_at=MADE.replace(year=2024))
    files = [
        known,
        recording(1, "a.mp3"),
        recording(2, "b.mp3", MADE.replace(year=1970)),
        recording(3, "c.mp3", MADE.replace(year=2200)),
    ]
    with zipfile.ZipFile(io.BytesIO(b"".join(zipped(files, FORMATS["vtt"])))) as archive:
        assert archive.testzip() is None
        assert {found.filename: found.date_time for found in archive.infolist()} == {
            "20250622-143052/d-4.vtt": (2024, 6, 22, 14, 30, 52),
            "20250622-143052/a-1.vtt": (2025, 6, 22, 14, 30, 52),  # zip counts in two seconds
            "20250622-143052/b-2.vtt": (1980, 6, 22, 14, 30, 52),
            "20250622-143052/c-3.vtt": (2107, 6, 22, 14, 30, 52),
        }


def test_nothing_is_a_zip_too() -> None:
    with zipfile.ZipFile(io.BytesIO(b"".join(zipped([], FORMATS["txt"])))) as archive:
        assert archive.namelist() == []


def test_what_breaks_off_is_no_zip() -> None:
    def broken() -> Iterator[AudioFile]:
        yield recording(1)
        raise ConnectionError

    pieces: list[bytes] = []
    with pytest.raises(ConnectionError):
        pieces.extend(zipped(broken(), FORMATS["txt"]))
    half = io.BytesIO(b"".join(pieces))
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(half)


def test_it_is_given_while_the_recordings_are_read() -> None:
    read = []

    def files() -> Iterator[AudioFile]:
        for number in range(3):
            read.append(number)
            yield recording(number)

    pieces = zipped(files(), FORMATS["txt"])
    assert b"a-0.txt" in next(pieces)
    assert read == [0]
    assert len(list(pieces)) > 2


def test_many_take_no_more_memory_than_few() -> None:
    def peak(number: int) -> int:
        tracemalloc.start()
        for _ in zipped(map(recording, range(number)), FORMATS["txt"]):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # what is loaded once
    assert (
        peak(4000) < peak(100) + 200_000
    )  # a list of 4,000 takes 1.6 MB, what is written of it at the end 0.3 MB
