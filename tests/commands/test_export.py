"""pipelinectl export: valid files, whatever the recordings hold and however many they are."""

import csv
import html
import io
import json
import os
import pty
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pysrt
import pytest
import webvtt

from tests.commands.test_finding import HOSTILE
from tests.commands.test_pipelinectl import complaint, control, printed
from tests.store.test_transcripts import CUT, TURNED, day, hear
from tests.support.fleet import PROJECT, Fleet
from tests.support.steps import BATCH, add_batch, add_file

# What would end a cue, begin one, mark text up or drive a terminal.
SAID = [
    "a --> b", "1\n\n00:00:01,000 --> 00:00:02,000\nnot a cue", "<b>bold</b> & {\\an8}", "NOTE x",
    "STYLE\r\n\r\n::cue", "WEBVTT", "\x1b[2J\x07\u2028\u2029\x85", "", "  ", "=1+1", "日本語 ü \U0001f600", "7",
]  # fmt: skip
LINES = [
    "a --> b", "1 00:00:01,000 --> 00:00:02,000 not a cue", "<b>bold</b> & {\\an8}", "NOTE x", "STYLE ::cue",
    "WEBVTT", "[2J", "=1+1", "日本語 ü \U0001f600", "7",
]  # fmt: skip


# What a segment may be beside certain, and how it reads where there is no style.
DOUBTS: list[dict[str, Any]] = [
    {"text": "good morning", "confidence": 0.93, "language": "en"},
    {"text": "the river road", "confidence": 0.41, "language": "en"},
    {"text": "[unintelligible, 4 s]", "confidence": None, "mark": "unintelligible", "reason": "it loops"},
    {"text": "ja ja", "confidence": 0.8, "language": "de", "mark": "repeated"},
    {"text": "nein", "confidence": 0.2, "language": "de", "mark": "repeated"},
    {"text": "from an older row"},
]
READ = [
    "good morning", "the river road [?]", "[unintelligible, 4 s]", "ja ja [repeated]", "nein [?] [repeated]",
    "from an older row",
]  # fmt: skip


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


# --- one file ----------------------------------------------------------------------------------------------


def test_vtt_is_read_by_a_real_parser(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", *SAID)
    path = tmp_path / "a.vtt"
    assert printed(control(fleet, "export", str(audio_id), "--format", "vtt", "--output", str(path))).startswith(
        "1 "
    )
    assert path.read_text() == printed(control(fleet, "export", str(audio_id), "--format", "vtt"))
    cues = webvtt.read(str(path)).captions
    escaped = [line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") for line in LINES]
    assert [cue.raw_text for cue in cues] == escaped
    assert (cues[0].start, cues[0].end) == ("00:00:00.000", "00:00:09.000")
    assert (cues[-1].start, cues[-1].end) == ("00:01:50.000", "00:01:59.000")


def test_srt_is_read_by_a_real_parser(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", *SAID)
    path = tmp_path / "a.srt"
    printed(control(fleet, "export", BATCH, "a.mp3", "--format", "srt", "--output", str(path)))
    assert path.read_text() == printed(control(fleet, "export", str(audio_id), "--format", "srt"))
    cues = pysrt.open(str(path), error_handling=pysrt.ERROR_RAISE)
    assert [cue.text for cue in cues] == LINES
    assert [cue.index for cue in cues] == list(range(1, len(LINES) + 1))
    assert (str(cues[-1].start), str(cues[-1].end)) == ("00:01:50,000", "00:01:59,000")


def test_cues_are_in_order_and_end_after_they_begin(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", "x")
    times = [(400_000.5, 400_001.0004), (3661.9996, 3600), (-1, 0), (5, 5)]
    segments = [{"start": start, "end": end, "text": f"{start}"} for start, end in times]
    fleet.query("UPDATE transcripts SET segments = %s", json.dumps(segments))
    cues = printed(control(fleet, "export", str(audio_id), "--format", "vtt")).split("\n")
    assert [line for line in cues if "-->" in line] == [
        "00:00:00.000 --> 00:00:00.001",
        "00:00:05.000 --> 00:00:05.001",
        "01:01:02.000 --> 01:01:02.001",
        "111:06:40.500 --> 111:06:41.000",
    ]


def test_txt_has_a_line_for_each_segment(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", *SAID)
    text = printed(control(fleet, "export", str(audio_id), "--format", "txt"))
    assert text.splitlines() == LINES
    assert all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize("kind", ["txt", "vtt", "srt"])
def test_doubtful_text_is_distinguished(fleet: Fleet, tmp_path: Path, kind: str) -> None:
    audio_id = hear(fleet, "a.mp3", *DOUBTS, languages=["en", "de"])
    path = tmp_path / f"a.{kind}"
    printed(control(fleet, "export", str(audio_id), "--format", kind, "--output", str(path)))
    if kind == "txt":
        assert path.read_text().splitlines() == READ
    elif kind == "vtt":
        assert [cue.text for cue in webvtt.read(str(path)).captions] == READ
    else:
        assert [cue.text for cue in pysrt.open(str(path), error_handling=pysrt.ERROR_RAISE)] == READ


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x" * 42, ["x" * 42]),
        ("There is a fire at the mill on the river ro", ["There is a fire at the", "mill on the river ro"]),
        (
            "and then she said that nobody had seen the man who came in by the other door at ten",
            ["and then she said that nobody had seen the", "man who came in by the other door at ten"],
        ),
        ("a" * 20 + " " + "b" * 30, ["a" * 20, "b" * 30]),
        ("I " + "b" * 60, ["I " + "b" * 29, "b" * 31]),  # the only space is far from the middle
        ("日" * 50, ["日" * 25, "日" * 25]),
        ("日" * 25 + "。" + "本" * 24, ["日" * 25 + "。", "本" * 24]),
        ("日" * 46 + " ok", ["日" * 24, "日" * 22 + " ok"]),
        ("กำ" * 13 + "ก้" * 13, ["กำ" * 13, "ก้" * 13]),
        ("ก้" * 25, ["ก้" * 13, "ก้" * 12]),  # a tone mark stays with its letter
        ("👩‍🚒" * 15, ["👩‍🚒" * 8, "👩‍🚒" * 7]),
        ("。" * 60, ["。" * 60]),
        ("x 00:00:01,000 --> 00:00:02,000 " + "y " * 20, ["x 00:00:01,000 --> 00:00:02,000 " + "y " * 19 + "y"]),
    ],
)
def test_long_cues_have_two_lines(fleet: Fleet, tmp_path: Path, text: str, lines: list[str]) -> None:
    audio_id = hear(fleet, "a.mp3", text, "b")
    for kind in ("vtt", "srt"):
        printed(control(fleet, "export", str(audio_id), "--format", kind, "--output", f"{tmp_path}/a.{kind}"))
    assert [html.unescape(line) for line in webvtt.read(f"{tmp_path}/a.vtt").captions[0].lines] == lines
    cues = pysrt.open(f"{tmp_path}/a.srt", error_handling=pysrt.ERROR_RAISE)
    assert [cue.text for cue in cues] == ["\n".join(lines), "b"]


# A call: both speak at once, and what they say means harm to a parser. Times in seconds.
CALL: list[dict[str, Any]] = [
    {"start": 0.0, "end": 7.0, "text": "Is there a <fire> & where is it, I have to know", "channel": 1},
    {"start": 1.0, "end": 1.5, "text": "Yes.", "channel": 2, "confidence": 0.3},
    {"start": 6.0, "end": 9.0, "text": "a --> b", "channel": 1},
    {"start": 9.0, "end": 9.5, "text": "Oh", "channel": 1},
    {"start": 9.0, "end": 9.6, "text": "7", "channel": 3},
]
NAMES = "the <caller> & co,agent"
TIMES = [(0, 6000), (1000, 1500), (6000, 9000), (9000, 9500), (9000, 9600)]
WHO = ["the <caller> & co", "agent", "the <caller> & co", "the <caller> & co", "Channel 3"]


def test_vtt_has_speakers_as_voices(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", *CALL, channels=3)
    path = tmp_path / "a.vtt"
    asked = ["export", str(audio_id), "--format", "vtt", "--output", str(path)]
    printed(control(fleet, *asked, CHANNEL_NAMES=NAMES))
    cues = webvtt.read(str(path)).captions
    assert [(cue.start_time.in_milliseconds(), cue.end_time.in_milliseconds()) for cue in cues] == TIMES
    assert cues[0].lines[0] == "<v the &lt;caller&gt; &amp; co>Is there a &lt;fire&gt; &amp; where"
    assert [cue.raw_text.partition(">")[0] for cue in cues[1:]] == [
        "<v agent", "<v the &lt;caller&gt; &amp; co", "<v the &lt;caller&gt; &amp; co", "<v Channel 3",
    ]  # fmt: skip
    assert [html.unescape(str(cue.voice)) for cue in cues] == WHO
    assert [html.unescape(cue.text) for cue in cues[1:]] == ["Yes. [?]", "a --> b", "Oh", "7"]


def test_srt_and_txt_begin_with_the_speaker(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", *CALL, channels=3)
    path = tmp_path / "a.srt"
    asked = ["export", str(audio_id), "--format", "srt", "--output", str(path)]
    printed(control(fleet, *asked, CHANNEL_NAMES=NAMES))
    cues = pysrt.open(str(path), error_handling=pysrt.ERROR_RAISE)
    assert [(cue.start.ordinal, cue.end.ordinal) for cue in cues] == TIMES
    said = ["Is there a <fire> & where is it, I have to know", "Yes. [?]", "a --> b", "Oh", "7"]
    lines = [f"{who}: {text}" for who, text in zip(WHO, said, strict=True)]
    assert [cue.text.replace("\n", " ") for cue in cues] == lines
    text = printed(control(fleet, "export", str(audio_id), "--format", "txt", CHANNEL_NAMES=NAMES))
    assert text.splitlines() == lines


def test_a_speaker_counts_in_the_length_of_a_line(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", {"text": "There is a fire at the mill there", "channel": 1}, channels=2)
    text = printed(control(fleet, "export", str(audio_id), "--format", "srt", CHANNEL_NAMES="the caller,x"))
    assert text.splitlines()[2:4] == ["the caller: There is a", "fire at the mill there"]
    text = printed(control(fleet, "export", str(audio_id), "--format", "vtt", CHANNEL_NAMES="the caller,x"))
    assert text.splitlines()[3:] == ["<v the caller>There is a fire at the mill there"]


def test_cues_of_one_channel_do_not_overlap(fleet: Fleet) -> None:
    times = [(5, 9, 1), (0, 100, 1), (5, 6, 2), (5.0004, 5.0004, 1), (0, 3, 2), (1, 1, 1)]
    said = [{"start": start, "end": end, "text": "x", "channel": channel} for start, end, channel in times]
    audio_id = hear(fleet, "a.mp3", *said, channels=2)
    text = printed(control(fleet, "export", str(audio_id), "--format", "vtt"))
    blocks = [block.split("\n") for block in text.strip().split("\n\n")[1:]]
    assert [(times.replace("00:00:0", ""), said[3:12]) for times, said in blocks] == [
        ("0.000 --> 1.000", "Channel 1"), ("0.000 --> 3.000", "Channel 2"), ("1.000 --> 1.001", "Channel 1"),
        ("5.000 --> 5.001", "Channel 1"), ("5.000 --> 6.000", "Channel 2"), ("5.001 --> 5.002", "Channel 1"),
    ]  # fmt: skip


def test_the_signs_of_a_long_cue_count(fleet: Fleet) -> None:
    said = {"text": "There is a fire at the mill on the river", "confidence": 0.3}
    audio_id = hear(fleet, "a.mp3", said)
    text = printed(control(fleet, "export", str(audio_id), "--format", "srt"))
    assert text.splitlines()[2:4] == ["There is a fire at the", "mill on the river [?]"]


def test_cues_do_not_overlap(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", "x")
    times = [(5, 9), (0, 100), (5, 6), (5.0004, 5.0004), (5, 1), (8, 12), (-3, 2), (12, 12.5)]
    segments = [{"start": start, "end": end, "text": f"{number}"} for number, (start, end) in enumerate(times)]
    fleet.query("UPDATE transcripts SET segments = %s", json.dumps(segments))
    for kind in ("vtt", "srt"):
        printed(control(fleet, "export", str(audio_id), "--format", kind, "--output", f"{tmp_path}/a.{kind}"))
    cues = pysrt.open(f"{tmp_path}/a.srt", error_handling=pysrt.ERROR_RAISE)
    assert [(cue.text, cue.start.ordinal, cue.end.ordinal) for cue in cues] == [
        ("6", 0, 1), ("1", 1, 5000), ("0", 5000, 5001), ("2", 5001, 5002), ("4", 5002, 5003), ("3", 5003, 5004),
        ("5", 8000, 12000), ("7", 12000, 12500),
    ]  # fmt: skip
    captions = webvtt.read(f"{tmp_path}/a.vtt").captions
    assert [caption.text for caption in captions] == [cue.text for cue in cues]
    assert [caption.start for caption in captions] == [str(cue.start).replace(",", ".") for cue in cues]
    assert [caption.end for caption in captions] == [str(cue.end).replace(",", ".") for cue in cues]


def test_a_file_without_speech_or_without_a_transcript(fleet: Fleet) -> None:
    silent = hear(fleet, "silent.mp3")
    assert printed(control(fleet, "export", str(silent), "--format", "vtt")) == "WEBVTT\n"
    assert printed(control(fleet, "export", str(silent), "--format", "txt")) == ""
    failed = add_file(fleet, "b.mp3", "failed", "x")
    assert "has no transcript: it is failed" in complaint(
        control(fleet, "export", str(failed), "--format", "txt"), 2
    )


# --- many --------------------------------------------------------------------------------------------------


@pytest.fixture
def three(fleet: Fleet) -> list[int]:
    return [
        hear(fleet, "a.mp3", "one fire", created=day(1), labels={"speech": "content"}),
        hear(fleet, "b.mp3", "two", created=day(2)),
        hear(fleet, "c.mp3", "three fire", created=day(3), batch_id="other", language="de"),
    ]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([BATCH], [0, 1]),
        (["--batch", BATCH], [0, 1]),
        (["--search", "fire"], [0, 2]),
        (["--batch", BATCH, "--search", "fire"], [0]),
        ([BATCH, "--search", "fire"], [0]),
        (["--language", "de"], [2]),
        (["--since", "2025-06-02", "--until", "2025-06-03"], [1]),
        (["--tag", "speech"], [0]),
        (["--all"], [0, 1, 2]),
        (["--search", "nothing"], []),
    ],
)
def test_json_and_csv_of_a_batch_or_a_search(
    fleet: Fleet, three: list[int], arguments: list[str], found: list[int]
) -> None:
    rows = json.loads(printed(control(fleet, "export", *arguments, "--format", "json")))
    assert [row["audio_id"] for row in rows] == [three[number] for number in found]
    lines = list(csv.DictReader(io.StringIO(printed(control(fleet, "export", *arguments, "--format", "csv")))))
    assert [int(line["audio_id"]) for line in lines] == [three[number] for number in found]


def test_json_has_everything(fleet: Fleet, three: list[int]) -> None:
    row = json.loads(printed(control(fleet, "export", BATCH, "--format", "json")))[0]
    shown: dict[str, Any] = json.loads(printed(control(fleet, "show", str(three[0]), "--json")))
    del shown["history"]
    assert row == shown


def test_csv_has_languages_confidence_and_what_is_missing_at_its_end(fleet: Fleet) -> None:
    hear(fleet, "a.mp3", *DOUBTS, languages=["en", "de"])
    hear(fleet, "b.mp3", "from an older row")
    long = {"text": "long", "confidence": 1.0, "end": 30.0}
    hear(fleet, "c.mp3", long, {"text": "none", "confidence": 0.5, "start": 30, "end": 30}, language=None)
    hear(fleet, "d.mp3", {"text": "at once", "confidence": 0.5, "end": 0.0})
    header, *lines = csv.reader(io.StringIO(printed(control(fleet, "export", "--all", "--format", "csv"))))
    assert header[:8] == [
        "audio_id", "batch_id", "original_filename", "created_at", "language", "duration_seconds", "labels",
        "text",
    ]  # fmt: skip
    assert header[8:11] == ["languages", "confidence", "unintelligible_seconds"]
    assert [line[8:11] for line in lines] == [
        ["en de", "0.585", "9.0"],
        ["en", "", "0.0"],
        ["", "1.0", "0.0"],
        ["en", "0.5", "0.0"],
    ]


def test_csv_tells_channels_speakers_and_warnings(fleet: Fleet) -> None:
    hear(fleet, "a.mp3", *CALL, channels=3, warnings=[CUT, TURNED])
    hear(fleet, "b.mp3", "from an older row")
    asked = ["export", "--all", "--format", "csv"]
    text = printed(control(fleet, *asked, CHANNEL_NAMES="=caller,agent"))
    header, new, old = csv.reader(io.StringIO(text))
    assert header[11:14] == ["channels", "speakers", "warnings"]
    assert new[11:14] == [
        "3",
        "'=caller: Is there a <fire> & where is it, I have to know | agent: Yes. [?] | =caller: a --> b Oh"
        " | Channel 3: 7",
        "missing_end:5.5; inverted_channel",
    ]
    assert old[11:14] == ["1", "", ""]


def test_csv_has_a_recordings_own_time_its_archive_and_its_metadata(fleet: Fleet) -> None:
    add_batch(fleet, files=2)
    fleet.query("UPDATE batches SET archive_path = '/recordings/=monday.tar'")
    metadata = {"talkgroup": 1234, "agent": "Zoë \u202e", "=x": [1.5, None]}
    hear(fleet, "a.mp3", "a fire", created=day(2), recorded=day(1), metadata=metadata)
    hear(fleet, "b.mp3", "from an older row", created=day(3), batch_id="other")
    header, new, old = csv.reader(io.StringIO(printed(control(fleet, "export", "--all", "--format", "csv"))))
    assert header[14:] == ["recorded_at", "recorded_from", "archive", "metadata"]
    assert new[14:17] == ["2025-06-01T00:00:00+00:00", "name", "'=monday.tar"]
    assert json.loads(new[17]) == {**metadata, "agent": "Zoë "}
    assert old[14:] == ["", "", "", ""]
    asked = ["export", "--meta", "talkgroup=1234", "--format", "json"]
    (row,) = json.loads(printed(control(fleet, *asked)))
    assert (row["recorded_at"], row["recorded_from"]) == ("2025-06-01T00:00:00+00:00", "name")
    assert (row["archive"], row["metadata"]) == ("=monday.tar", metadata)


def test_csv_has_a_row_for_each_segment_where_asked_for(fleet: Fleet) -> None:
    add_batch(fleet)
    fleet.query("UPDATE batches SET archive_path = '/recordings/monday.tar'")
    repeated = {**CALL[1], "language": "en", "mark": "repeated"}
    call = hear(fleet, "a.mp3", CALL[0], repeated, channels=2, recorded=day(1))
    old = hear(fleet, "=b.mp3", "from an older row", "=1+1")
    text = printed(
        control(fleet, "export", "--all", "--format", "csv", "--segments", CHANNEL_NAMES="caller,agent")
    )
    header, *lines = csv.reader(io.StringIO(text))
    assert header == [
        "audio_id", "batch_id", "original_filename", "start", "end", "channel", "speaker", "language",
        "confidence", "mark", "text", "recorded_at", "archive",
    ]  # fmt: skip
    assert {tuple(line[11:]) for line in lines[:2]} == {("2025-06-01T00:00:00+00:00", "monday.tar")}
    assert {tuple(line[11:]) for line in lines[2:]} == {("", "monday.tar")}
    assert [line[:11] for line in lines] == [
        [f"{call}", BATCH, "a.mp3", "0.0", "7.0", "1", "caller", "", "", "", CALL[0]["text"]],
        [f"{call}", BATCH, "a.mp3", "1.0", "1.5", "2", "agent", "en", "0.3", "repeated", "Yes."],
        [f"{old}", BATCH, "'=b.mp3", "0.0", "9.0", "", "", "", "", "", "from an older row"],
        [f"{old}", BATCH, "'=b.mp3", "10.0", "19.0", "", "", "", "", "", "'=1+1"],
    ]
    assert "is for csv" in complaint(control(fleet, "export", "--all", "--format", "json", "--segments"), 2)


def test_json_tells_channels_speakers_and_warnings(fleet: Fleet) -> None:
    hear(fleet, "a.mp3", *CALL[:2], channels=2, warnings=[CUT])
    hear(fleet, "b.mp3", "from an older row")
    text = printed(control(fleet, "export", "--all", "--format", "json", CHANNEL_NAMES="caller,agent"))
    new, old = json.loads(text)
    assert [(segment["channel"], segment["speaker"]) for segment in new["segments"]] == [
        (1, "caller"), (2, "agent"),
    ]  # fmt: skip
    assert (new["channels"], new["warnings"]) == (
        2,
        [{"code": "missing_end", "seconds": 5.5, "message": CUT.message}],
    )
    assert (old["channels"], old["warnings"]) == (1, [])
    assert old["segments"] == [{"start": 0.0, "end": 9.0, "text": "from an older row"}]


FORMULAS = [
    "=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "=cmd|' /C calc'!A0", ' "=1',
    "＝1+1", "＋1", "－1", "＠x", "﹦1", "﹢1", "﹣1", "﹫x",  # as wide as Chinese letters, or small
    "\u200b=1", "\ufeff=1", "\u200d\u2060＝1", "\u00ad=1", "\u200e=1", "\u202e=1",  # behind what is not seen
    "\u3000=1", "\u0301=1", "\u3164=1", "\u2800=1",
]  # fmt: skip


def test_csv_holds_no_formula(fleet: Fleet) -> None:
    for text in FORMULAS:
        hear(fleet, f"{text}.mp3", text, batch_id="=b", language=text, labels={text: "topic"})
    found = list(csv.DictReader(io.StringIO(printed(control(fleet, "export", "--all", "--format", "csv")))))
    for text, line in zip(FORMULAS, found, strict=True):
        for name in ("batch_id", "original_filename", "language", "labels", "text", "languages"):
            assert line[name][0] in "'\"", (text, line)
        assert line["text"].lstrip("'") == " ".join(text.replace("\u202e", "").split())


TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the direction of writing


@pytest.mark.parametrize("kind", ["txt", "vtt", "srt", "csv"])
def test_no_text_turns_the_direction_of_writing(fleet: Fleet, kind: str) -> None:
    """Or what follows it, up to the end of the line, reads as something else. Letters keep their own direction."""
    kept = "ab\u200f שלום می\u200cخواهم 👩\u200d🚒"
    audio_id = hear(fleet, f"{TURNS}.mp3", f"{TURNS[:5]}{kept[:4]}{TURNS[5:]}{kept[4:]}", TURNS)
    text = printed(control(fleet, "export", str(audio_id), "--format", kind))
    assert not set(TURNS) & set(text)
    assert kept in text


def test_each_recording_has_its_own_file_in_the_folder(fleet: Fleet, three: list[int], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    said = printed(control(fleet, "export", "--all", "--format", "vtt", "--output", str(folder)))
    assert said == f"3 transcripts in {folder}\n"
    assert tree(folder) == [
        f"{BATCH}/a-{three[0]}.vtt", f"{BATCH}/b-{three[1]}.vtt", f"other/c-{three[2]}.vtt",
    ]  # fmt: skip
    assert "one fire" in (folder / BATCH / f"a-{three[0]}.vtt").read_text()


def test_a_zip_holds_what_the_folder_would(fleet: Fleet, three: list[int], tmp_path: Path) -> None:
    folder, path = tmp_path / "out", tmp_path / "out.zip"
    asked = ["export", "--all", "--format", "vtt"]
    printed(control(fleet, *asked, "--output", str(folder)))
    said = printed(control(fleet, *asked, "--zip", "--output", str(path)))
    assert said == f"3 transcripts in {path}\n"
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == {
            file: (folder / file).read_bytes() for file in tree(folder)
        }
    assert "--force" in complaint(control(fleet, *asked, "--zip", "--output", str(path)), 2)


def test_a_zip_goes_to_standard_output_and_to_no_terminal(fleet: Fleet, three: list[int]) -> None:
    asked = [sys.executable, "pipelinectl.py", "export", BATCH, "--format", "srt", "--zip"]
    given: dict[str, Any] = {"cwd": PROJECT, "env": fleet.environment(), "timeout": 60}
    done = subprocess.run(asked, stdout=subprocess.PIPE, check=True, **given)
    with zipfile.ZipFile(io.BytesIO(done.stdout)) as archive:
        assert archive.namelist() == [f"{BATCH}/a-{three[0]}.srt", f"{BATCH}/b-{three[1]}.srt"]
    ours, terminal = pty.openpty()
    with open(ours, "rb"), open(terminal, "wb") as screen:
        refused = subprocess.run(asked, stdout=screen, stderr=subprocess.PIPE, check=False, **given)
    assert (refused.returncode, b"nothing for a terminal" in refused.stderr) == (2, True)


def test_no_name_leaves_the_folder_or_meets_another(fleet: Fleet, tmp_path: Path) -> None:
    names = [
        "../../evil.mp3", "/etc/passwd", "..", ".", "a/b.mp3", "a_b.mp3", "A/B.mp3", HOSTILE, "ä" * 300 + ".mp3",
        "\U0001f600.mp3", "a b.mp3", "-rf.mp3", ".hidden.mp3", "con.mp3", "\\x", "a\nb.mp3", "漢" * 200,
    ]  # fmt: skip
    for name in names:
        hear(fleet, name, "x", batch_id=f"../{BATCH}")
    folder = tmp_path / "deep" / "out"
    printed(control(fleet, "export", "--all", "--format", "txt", "--output", str(folder)))
    files = tree(folder)
    assert len({file.casefold() for file in files}) == len(names)
    assert tree(tmp_path / "deep") == [f"out/{file}" for file in files]
    for file in files:
        name = Path(file).name
        assert len(name.encode()) < 255
        assert name[0] not in ".-"
        assert name.isprintable()
        assert not set(name) & set("<>:\"/\\|?*'$; ")


def test_what_is_there_stays(fleet: Fleet, three: list[int], tmp_path: Path) -> None:
    folder, file = tmp_path / "out", tmp_path / "out.csv"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    file.write_text("mine")
    for kind, path in (("vtt", folder), ("csv", file)):
        asked = ["export", "--all", "--format", kind, "--output", str(path)]
        assert "--force" in complaint(control(fleet, *asked), 2)
        assert (tree(folder), file.read_text()) == (["mine"], "mine")
    for kind, path in (("vtt", folder), ("csv", file)):
        for _ in range(2):
            printed(control(fleet, "export", "--all", "--format", kind, "--output", str(path), "--force"))
    assert len(tree(folder)) == 4
    assert file.read_text().startswith("audio_id,")
    assert sorted(os.listdir(tmp_path)) == ["out", "out.csv"]
    assert "is no folder" in complaint(
        control(fleet, "export", "--all", "--format", "vtt", "--output", str(file)), 2
    )


@pytest.mark.usefixtures("three")
def test_an_export_of_an_open_batch_says_what_is_not_in_it(fleet: Fleet) -> None:
    add_batch(fleet, BATCH, files=4, finished=False)
    done = control(fleet, "export", BATCH, "--format", "csv")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert f"batch {BATCH}: 2 files still in progress" in done.stderr


def test_an_output_that_cannot_be_is_named(fleet: Fleet, tmp_path: Path) -> None:
    for output, reason in (
        (tmp_path / "no" / "x.csv", f"there is no folder {tmp_path / 'no'}"),
        (tmp_path, f"{tmp_path} is a folder"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        for force in ([], ["--force"]):
            asked = ["export", "--all", "--format", "csv", "--output", str(output), *force]
            assert reason in complaint(control(fleet, *asked), 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "csv"], "name a file, a batch or a search"),
        (["--all", "--format", "vtt"], "name a folder"),
        ([BATCH, "--format", "srt"], "name a folder"),
        (["1", "--tag", "x", "--format", "csv"], "not both"),
        (["a", "b", "c", "--format", "csv"], "name one file"),
        (["--all", "--format", "csv", "--zip"], "has all in one"),
        (["99", "--format", "csv"], "there is no file 99"),
        (["--search", "x" * 1200, "--format", "csv"], "too long"),
    ],
)
def test_export_refuses_in_one_line(fleet: Fleet, arguments: list[str], words: str) -> None:
    assert words in complaint(control(fleet, "export", *arguments), 2)


def test_an_export_of_many_needs_little_memory(fleet: Fleet, tmp_path: Path) -> None:
    """60 MB of transcripts take 30 MB more than one."""
    fleet.query(
        "INSERT INTO audio_files (batch_id, original_filename, status) SELECT 'b', n::text, 'done'"
        " FROM generate_series(1, 20000) AS n"
    )
    fleet.query(
        "INSERT INTO transcripts (audio_id, text, segments, model)"
        " SELECT audio_id, repeat('word ', 600), '[]', 'x' FROM audio_files"
    )

    def peak_mb(*arguments: str) -> float:
        code = (
            "import sys; sys.argv[0] = 'pipelinectl.py'; import pipelinectl; status = pipelinectl.main();"
            "print(open('/proc/self/status').read(), file=sys.stderr); sys.exit(status)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "export", *arguments, "--format", "json"], cwd=PROJECT,
            env=fleet.environment(), capture_output=True, check=True, timeout=120,
        )  # fmt: skip
        assert len(json.loads(done.stdout)) == (20000 if arguments == ("--all",) else 1)
        peak = re.search(rb"VmHWM:\s+(\d+) kB", done.stderr)
        assert peak is not None
        return int(peak[1]) / 1024

    few, all_of_them = peak_mb("1"), peak_mb("--all")
    assert all_of_them < few + 30, few
