"""pipeline/audio/tags.py: the tags of files as recorders and telephones write them."""

import datetime
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio import conversion_report
from pipeline.audio.converter import Converter
from pipeline.audio.tags import TagsReader, read
from pipeline.foundation.recording_times import Clock, Moment
from tests.support.fleet import ffmpeg_program

CLOCK = Clock(datetime.UTC, datetime.datetime(2024, 3, 20, tzinfo=datetime.UTC))
CALL = Moment(datetime.datetime(2024, 3, 15, 14, 22, 33, tzinfo=datetime.UTC))
APPLE = "com.apple.quicktime.creationdate"
DAY = Moment(datetime.datetime(2024, 3, 15, tzinfo=datetime.UTC), is_day=True)


def tags_of(text: bytes, step: int = 7) -> dict[str, str]:
    reader = TagsReader()
    for start in range(0, len(text), step):
        reader.take(text[start : start + step])
    return reader.tags()


def test_names_values_and_their_escapes_are_read() -> None:
    text = b";FFMETADATA1\ntitle=a\\\nb\\=c\\;d\\\\\n"
    text += b"TALK\\=GROUP=12\nempty=\n[STREAM]\ndate=2024\ntitle=of the stream\n"
    assert tags_of(text) == {"title": "a\nb=c;d\\", "talk=group": "12", "date": "2024"}


def test_a_chapter_is_no_tag_of_the_file() -> None:
    assert tags_of(b";FFMETADATA1\na=b\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\ntitle=one\n") == {"a": "b"}


def test_of_tags_without_end_the_first_are_read() -> None:
    assert tags_of(b";FFMETADATA1\na=b\nlong=" + b"x" * 10**6 + b"\nlate=1\n", 4096).keys() == {"a", "long"}
    assert len(tags_of(b";FFMETADATA1\n" + b"".join(b"k%d=v\n" % number for number in range(1000)))) == 64


@given(st.binary(max_size=300))
def test_whatever_ffmpeg_writes_is_read(text: bytes) -> None:
    tags_of(b";FFMETADATA1\n" + text)


@pytest.mark.parametrize(
    ("tags", "moment"),
    [
        ({"date": "2024-03-15T14:22:33"}, CALL),  # ID3 TDRC, Vorbis DATE
        ({"date": "2024-03-15", "creation_time": "14:22:33"}, CALL),  # BWF
        ({"date": "2024-03-15", "creation_time": "14-22-33"}, CALL),
        ({"creation_time": "2024-03-15T14:22:33.000000Z"}, CALL),  # QuickTime
        ({"creation_time": "2024-03-16T00:00:00Z", APPLE: "2024-03-15T15:22:33+0100"}, CALL),
        ({"date": "2024-03-15", "creation_time": "2024-03-15T14:22:33Z"}, CALL),
        ({"comment": "Date:2024-03-15 14:22:33.123;System:Metro;Frequency:855737500;"}, CALL),  # SDRTrunk
        ({"date": "2024-03-15"}, DAY),
        ({"date": "2024"}, None),
        ({"creation_time": "1904-01-01T00:00:00.000000Z"}, None),
        ({"creation_time": "1970-01-01T00:00:00.000000Z", "date": "2024-03-15"}, DAY),
        ({"date": "2038-01-19", "creation_time": "03:14:07"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_tags_say_when(tags: dict[str, str], moment: Moment | None) -> None:
    assert read(tags, CLOCK).moment == moment


def test_what_is_said_of_the_recording_is_kept_and_what_of_the_container_is_not() -> None:
    tags = {"encoder": "Lavf63", "major_brand": "M4A ", "language": "und", "id3v2_priv.x": "x", "title": "A"}
    assert read(tags, CLOCK).metadata == {"title": "A"}
    said = read({"comment": "Date:2024-03-15 14:22:33;System:Metro;Site:;Frequency:855737500;"}, CLOCK).metadata
    assert said == {"date": "2024-03-15 14:22:33", "system": "Metro", "frequency": "855737500"}


NEVER = threading.Event()
REAL = Converter(ffmpeg_program())


def tagged(path: Path, *options: str, **tags: str) -> Path:
    """A second of sound with these tags."""
    said = [word for name, value in tags.items() for word in ("-metadata", f"{name}={value}")]
    sine = ("-f", "lavfi", "-i", "sine=frequency=440:duration=1")
    command = [ffmpeg_program(), "-nostdin", "-y", "-loglevel", "error", *sine, *options, *said, str(path)]
    subprocess.run(command, check=True)
    return path


def id3(*frames: tuple[str, str], version: int = 4) -> bytes:
    """An ID3v2 tag (id3.org/id3v2.4.0-structure); one of version 3 has short frames only."""
    body = b""
    for name, text in frames:
        content = (b"\x03" if version == 4 else b"\0") + (b"eng\0" if name == "COMM" else b"") + text.encode()
        body += name.encode() + _synchsafe(len(content)) + b"\0\0" + content
    return b"ID3" + bytes((version, 0, 0)) + _synchsafe(len(body)) + body


def _synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 127 for shift in (21, 14, 7, 0))


def bext(path: Path) -> Path:
    """A Broadcast Wave file (EBU Tech 3285), as recorders for radio write it."""
    chunk = bytearray(602)
    chunk[0:11], chunk[256:262], chunk[320:338] = b"studio 4 on", b"AETA42", b"2024-03-1514:22:33"
    sound = struct.pack("<4sI", b"data", 32000) + bytes(range(250)) * 128
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16000, 32000, 2, 16)
    content = b"WAVE" + struct.pack("<4sI", b"bext", len(chunk)) + chunk + form + sound
    path.write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
    return path


def moment_of(path: Path) -> Moment | None:
    target = path.with_suffix(".opus")
    REAL.to_opus(path, target, NEVER)
    report = conversion_report.read(target)
    assert report is not None
    return read(report.tags, CLOCK).moment


def test_tags_are_read_in_each_container(tmp_path: Path) -> None:
    for name, options, tags in (
        ("a.mp3", [], {"TDRC": "2024-03-15T14:22:33"}),
        ("a.m4a", [], {"creation_time": "2024-03-15T14:22:33Z"}),
        ("a.mov", ["-c:a", "aac"], {"creation_time": "2024-03-15T14:22:33Z"}),
        ("a.ogg", [], {"DATE": "2024-03-15T14:22:33Z"}),
        ("a.opus.ogg", ["-c:a", "libopus"], {"DATE": "2024-03-15T14:22:33Z"}),
        ("a.flac", [], {"DATE": "2024-03-15 14:22:33"}),
        ("a.mka", [], {"creation_time": "2024-03-15T14:22:33Z"}),
        ("a.wma", [], {"date": "2024-03-15 14:22:33"}),
        ("a.wav", [], {"date": "2024-03-15 14:22:33"}),
    ):
        assert moment_of(tagged(tmp_path / name, *options, **tags)) == CALL, name
    assert moment_of(bext(tmp_path / "bext.wav")) == CALL
    path = tagged(tmp_path / "b.mp3", "-write_id3v2", "0")
    path.write_bytes(id3(("TYER", "2024"), ("TDAT", "1503"), ("TIME", "1422"), version=3) + path.read_bytes())
    assert moment_of(path) == Moment(CALL.at.replace(second=0))


def test_sdrtrunk_writes_its_fields_into_the_comment(tmp_path: Path) -> None:
    path = tagged(tmp_path / "a.mp3", "-write_id3v2", "0")
    said = "Date:2024-03-15 14:22:33.123;System:Metro;Site:Control;Name:TRAFFIC;Frequency:855737500;"
    path.write_bytes(id3(("TIT2", "1234"), ("TPE1", "5678"), ("COMM", said)) + path.read_bytes())
    assert moment_of(path) == CALL
    report = conversion_report.read(path.with_suffix(".opus"))
    assert report is not None
    metadata = read(report.tags, CLOCK).metadata
    assert (metadata["title"], metadata["artist"], metadata["frequency"]) == ("1234", "5678", "855737500")


def test_small_files_that_are_converted_together_keep_their_own_tags(tmp_path: Path) -> None:
    files = [
        (tagged(tmp_path / f"{number}.{kind}", title=f"call {number}"), tmp_path / f"{number}.opus")
        for number, kind in enumerate(("mp3", "ogg", "wav", "m4a", "flac"))
    ]
    reports = REAL.together(files, NEVER)
    assert reports is not None
    assert [report.tags["title"] for report in reports] == [f"call {number}" for number in range(5)]


def test_joined_recordings_have_the_tags_of_the_first(tmp_path: Path) -> None:
    first, second = (tagged(tmp_path / f"{number}.mp3", title=str(number)) for number in range(2))
    joined = tmp_path / "joined.mp3"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    assert REAL.to_opus(joined, tmp_path / "joined.opus", NEVER).tags["title"] == "0"


def test_hostile_tags_cost_neither_the_sound_nor_memory(tmp_path: Path) -> None:
    path = tagged(tmp_path / "a.mp3", "-write_id3v2", "0")
    lines = "x\n[CHAPTER]\ntitle=false\n\0\x1b[31m\n;FFMETADATA1\n"
    frames = [("TIT2", lines), ("TXXX", "k=\0v"), *(("TXXX", f"{n}\0" + "v" * 50000) for n in range(100))]
    path.write_bytes(id3(*frames) + path.read_bytes())
    report = REAL.to_opus(path, tmp_path / "a.opus", NEVER)
    assert report.seconds == pytest.approx(1, abs=0.1)
    assert report.warnings == []
    assert report.tags["title"].startswith("x\n[CHAPTER]\ntitle=false")
    assert sum(len(name) + len(value) for name, value in report.tags.items()) < 2**17


def test_a_report_of_an_earlier_release_has_no_tags(tmp_path: Path) -> None:
    opus = tmp_path / "a.opus"
    conversion_report.path_of(opus).write_text(
        '{"source_sha256": "", "seconds": 1, "channels": 1, "warnings": []}'
    )
    report = conversion_report.read(opus)
    assert report is not None
    assert report.tags == {}
