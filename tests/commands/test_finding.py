"""pipelinectl search and show: what the operator types, sees and pipes."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import config
import s3_utils
from pipeline.commands import show
from pipeline.foundation import s3_client as s3_connection
from pipeline.foundation.file_warnings import FileWarning
from pipeline.speech.transcript import UNCERTAIN
from tests.commands.test_pipelinectl import complaint, control, printed, refusal
from tests.store.test_transcripts import CUT, TURNED, day, hear
from tests.support.fleet import Fleet
from tests.support.steps import BATCH, add_batch, add_file, s3_client

UNSURE = f"? means uncertain (confidence under {100 * UNCERTAIN:.0f} %)"
HOSTILE = "<script>alert(1)</script>\x1b]0;owned\x07\x1b[31m\u202e" + "x" * 260 + ".mp3"


def put_opus(fleet: Fleet, audio_id: int, body: bytes = b"opus" * 5000) -> bytes:
    """The file's Opus in S3."""
    key = f"processed/2025-06-22/{audio_id}.opus"
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key=key, Body=body)
    return body


# --- search ------------------------------------------------------------------------------------------------


def test_search_shows_where_when_and_what(fleet: Fleet) -> None:
    first = hear(fleet, "monday/a.mp3", "nothing.", "Oh, a fire!", created=day(1), labels={"speech": "content"})
    second = hear(fleet, "b.mp3", "fire again", created=day(2), language=None)
    assert printed(control(fleet, "search", "FIRE")).splitlines() == [
        f"{second}  2025-06-02 00:00  {BATCH}  b.mp3",
        "    0:00  fire again",
        f"{first}  2025-06-01 00:00  {BATCH}  monday/a.mp3  en speech",
        "    0:10  nothing. Oh, a fire!",
    ]


def test_search_says_what_is_uncertain(fleet: Fleet) -> None:
    doubtful = {"text": "a fire", "confidence": 0.3, "mark": "repeated", "reason": "it loops"}
    audio_id = hear(fleet, "a.mp3", doubtful, languages=["en", "de"])
    assert printed(control(fleet, "search", "fire")).splitlines() == [
        f"{audio_id}  2025-06-22 00:00  {BATCH}  a.mp3  en, de",
        "    0:00? [repeated] a fire",
        f"{UNSURE}; [repeated]: Whisper repeated this, it is shown once",
    ]
    (row,) = json.loads(printed(control(fleet, "search", "fire", "--json")))["hits"]
    assert row["languages"] == ["en", "de"]
    assert row["segment"] == {"start": 0.0, "end": 9.0, **doubtful}


OF_AN_ARCHIVE = (
    "INSERT INTO batches (batch_id, s3_key, file_count, host, archive_path) VALUES (%s, 'k', 1, 'h', %s)"
)
CALL: list[dict[str, Any]] = [
    {"text": "is there a fire", "channel": 1, "language": "en"},
    {"text": "yes", "channel": 2, "language": "en", "confidence": 0.3},
    {"text": "wo", "channel": 3, "language": "de"},
]
NAMES = "caller,agent"


def test_search_says_who_spoke_and_what_is_wrong_with_the_recording(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", *CALL, languages=["en"], channels=3, warnings=[CUT])
    assert printed(control(fleet, "search", "fire", CHANNEL_NAMES=NAMES)).splitlines() == [
        f"{audio_id}  2025-06-22 00:00  {BATCH}  a.mp3  en warning:missing_end",
        "    0:00  caller: is there a fire",
    ]
    assert "    0:10? Channel 2: yes" in printed(control(fleet, "search", "yes"))
    (row,) = json.loads(printed(control(fleet, "search", "wo", "--json", CHANNEL_NAMES=NAMES)))["hits"]
    assert row["warnings"] == ["missing_end"]
    assert (row["segment"]["channel"], row["segment"]["speaker"]) == (3, "Channel 3")


def test_search_marks_the_words_on_a_terminal_only(fleet: Fleet) -> None:
    hear(fleet, "a.mp3", "a fire here")
    coloured = printed(control(fleet, "search", "fire", FORCE_COLOR="1", TERM="xterm"))
    assert "a \x1b[1;33mfire\x1b[0m here" in coloured
    assert "\x1b" not in printed(control(fleet, "search", "fire"))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["fire", "engine"], ["b"]),
        (["good morning"], ["a"]),
        (["--since", "2025-06-02", "--until", "2025-06-03"], ["b"]),
        (["--since", "2025-06-02T00:00:01"], []),
        (["--since", "24h"], []),
        (["--language", "de"], ["a"]),
        (["--tag", "Siren"], ["b"]),
        (["--batch", "other"], ["b"]),
        (["--archive", "monday.tar"], ["b"]),
        (["--archive", "onday.tar"], []),
        (["--meta", "talkgroup=1234", "--meta", "agent=Zoë"], ["a"]),
        (["--processed-since", "2025-06-02T00:00:00"], ["b"]),
        (["--processed-until", "2025-06-02"], ["a"]),
        (["--order", "relevance", "fire"], ["a", "b"]),
        (["mor*"], ["b", "a"]),
        (["--limit", "1"], ["b"]),
        (["--offset", "1", "--limit", "1"], ["a"]),
        (["--", "fire", "-engine"], ["a"]),
    ],
)
def test_search_takes_filters(fleet: Fleet, arguments: list[str], found: list[str]) -> None:
    hear(fleet, "a", "good morning fire fire", created=day(1), language="de")
    hear(fleet, "b", "morning good fire engine", created=day(2), batch_id="other", labels={"Siren": "audio_tag"})
    fleet.query(OF_AN_ARCHIVE, "other", "/recordings/monday.tar")
    metadata = json.dumps({"talkgroup": 1234, "agent": "Zoë"})
    fleet.query("UPDATE audio_files SET metadata = %s WHERE original_filename = 'a'", metadata)
    text = printed(control(fleet, "search", "--json", *arguments))
    assert [row["original_filename"] for row in json.loads(text)["hits"]] == found


def test_search_shows_what_the_hits_have_in_common_and_how_many_there_are(fleet: Fleet) -> None:
    hear(fleet, "a", "fire", created=day(1), labels={"Siren": "audio_tag"})
    hear(fleet, "b", "fire", created=day(1), language="de")
    shown = printed(control(fleet, "search", "fire", "--limit", "1", "--facets")).splitlines()[2:]
    assert shown == [
        "label: Siren 1",
        "language: de 1 · en 1",
        f"batch: {BATCH} 2",
        "day: 2025-06-01 2",
        "2 found; --offset 1 shows more",
    ]
    found = json.loads(printed(control(fleet, "search", "fire", "--json")))
    assert (found["total"], found["is_more"], found["faceted"], found["suggestion"]) == (2, False, 2, "")
    assert found["facets"]["label"] == [{"value": "Siren", "files": 1, "name": ""}]
    assert printed(control(fleet, "search", "mill")) == "nothing found\n"
    hear(fleet, "c", "the siren")
    assert printed(control(fleet, "search", "fire", "sirene")) == "nothing found: did you mean fire siren?\n"


def test_labels_and_languages_are_listed_with_their_files(fleet: Fleet) -> None:
    hear(fleet, "a", "fire", language="de", languages=["de", "en"], labels={"Siren": "audio_tag"})
    hear(fleet, "b", "fire", labels={"Siren": "audio_tag", "speech": "content"})
    assert json.loads(printed(control(fleet, "labels", "--json"))) == [
        {"classifier": "audio_tag", "label": "Siren", "files": 2},
        {"classifier": "content", "label": "speech", "files": 1},
    ]
    assert json.loads(printed(control(fleet, "languages", "--json"))) == [
        {"language": "en", "files": 2},
        {"language": "de", "files": 1},
    ]
    assert printed(control(fleet, "labels")).split()[-6:] == ["Siren", "audio_tag", "2", "speech", "content", "1"]
    assert printed(control(fleet, "languages")).split()[-4:] == ["en", "2", "de", "1"]


def test_search_says_that_there_is_more_or_nothing(fleet: Fleet) -> None:
    assert printed(control(fleet, "search", "fire")) == "nothing found\n"
    for number in range(3):
        hear(fleet, f"{number}", "fire")
    assert printed(control(fleet, "search", "fire", "--limit", "2")).endswith("3 found; --offset 2 shows more\n")
    assert "more" not in printed(control(fleet, "search", "fire", "--limit", "3"))


@pytest.mark.parametrize(
    "arguments", [["--since", "yesterday"], ["--limit", "0"], ["--offset", "-1"], ["x" * 1500], ["a\udce9"],
                  ["--until", "2025-13-01"], ["--meta", "talkgroup"], ["--meta", "=1"], ["f*"],
                  ["--offset", "1000001"]],
)  # fmt: skip
def test_search_refuses_what_it_cannot_look_for(fleet: Fleet, arguments: list[str]) -> None:
    done = control(fleet, "search", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_search_needs_neither_redis_nor_s3(fleet: Fleet) -> None:
    printed(control(fleet, "search", "fire", REDIS_URL="", S3_ENDPOINT="", S3_BUCKET=""))


# --- show --------------------------------------------------------------------------------------------------


def test_show_tells_everything_of_a_file(fleet: Fleet) -> None:
    add_batch(fleet)
    audio_id = hear(fleet, "monday/a.mp3", "one", "two", labels={"speech": "content"})
    text = printed(control(fleet, "show", str(audio_id)))
    assert text == printed(control(fleet, "show", BATCH, "monday/a.mp3"))
    for words in (
        "monday/a.mp3", BATCH, "done", "20.0 s", "tiny", "speech 50%", f"processed/2025-06-22/{audio_id}.opus",
        "batch opened", "row made             2025-06-22 00:00:00 UTC", "transcript written", "last changed",
        "batch finished", "    0:00  one\n    0:10  two\n",
    ):  # fmt: skip
        assert words in text, text


DOUBTS: list[dict[str, Any]] = [
    {"text": "good morning", "confidence": 0.93, "language": "en"},
    {"text": "the river road", "confidence": 0.41, "language": "en"},
    {"text": "[unintelligible, 4 s]", "language": "yue", "mark": "unintelligible", "reason": "it loops"},
    {"text": "ja ja", "confidence": 0.8, "language": "yue", "mark": "repeated"},
    {"text": "from an older row"},
]


def test_show_tells_doubtful_text_and_languages_apart(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", *DOUBTS, languages=["en", "yue"])
    text = printed(control(fleet, "show", str(audio_id)))
    assert "languages            en, yue\n" in text
    assert text.partition("\n\n")[2].splitlines() == [
        "    0:00  en   good morning",
        "    0:10? en   the river road",
        "    0:20       [unintelligible, 4 s] (it loops)",
        "    0:30  yue  ja ja [repeated]",
        "    0:40       from an older row",
        "",
        f"{UNSURE}; [repeated]: Whisper repeated this, it is shown once;"
        " [unintelligible]: speech without text, for the reason beside it",
    ]
    coloured = printed(control(fleet, "show", str(audio_id), FORCE_COLOR="1", TERM="xterm"))
    assert "\x1b[2m    0:10? en   the river road\x1b[0m\n" in coloured
    assert coloured.count("\x1b[2m") == 1


def test_show_tells_speakers_apart(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", *CALL, languages=["en", "de"], channels=3)
    text = printed(control(fleet, "show", str(audio_id), CHANNEL_NAMES=NAMES))
    assert "channels             3\n" in text
    assert text.partition("\n\n")[2].splitlines()[:3] == [
        "    0:00  en  caller     is there a fire",
        "    0:10? en  agent      yes",
        "    0:20  de  Channel 3  wo",
    ]
    assert "    0:10? en  Channel 2  yes" in printed(control(fleet, "show", str(audio_id)))
    shown = json.loads(printed(control(fleet, "show", str(audio_id), "--json", CHANNEL_NAMES=NAMES)))
    assert shown["channels"] == 3
    speakers = [(segment["channel"], segment["speaker"]) for segment in shown["segments"]]
    assert speakers == [(1, "caller"), (2, "agent"), (3, "Channel 3")]


def test_show_tells_what_is_wrong_with_a_recording(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", "one", warnings=[CUT, TURNED])
    text = printed(control(fleet, "show", str(audio_id)))
    assert f"warning              missing_end, 5.5 s lost: {CUT.message}\n" in text
    assert f"warning              inverted_channel: {TURNED.message}\n" in text
    shown = json.loads(printed(control(fleet, "show", str(audio_id), "--json")))
    assert shown["warnings"] == [
        {"code": "missing_end", "seconds": 5.5, "message": CUT.message},
        {"code": "inverted_channel", "seconds": None, "message": TURNED.message},
    ]


def test_show_reads_a_row_from_before_channels_and_warnings(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    text = printed(control(fleet, "show", str(audio_id), CHANNEL_NAMES=NAMES))
    assert "channels             1\n" in text
    assert "warning" not in text
    assert text.endswith("\n    0:00  one\n")
    shown = json.loads(printed(control(fleet, "show", str(audio_id), "--json", CHANNEL_NAMES=NAMES)))
    assert (shown["channels"], shown["warnings"]) == (1, [])
    assert shown["segments"] == [{"start": 0.0, "end": 9.0, "text": "one"}]


def test_show_says_no_more_than_needed(fleet: Fleet) -> None:
    certain = {"text": "good morning", "confidence": 0.93, "language": "en"}
    audio_id = hear(fleet, "a.mp3", certain, languages=["en"])
    text = printed(control(fleet, "show", str(audio_id)))
    assert "language             en\n" in text
    assert text.endswith("\n\n    0:00  good morning\n")
    long = hear(fleet, "b.mp3", {"text": "word " * 40, "confidence": 0.1})
    assert f"    0:00? {'word ' * 39}word\n" in printed(
        control(fleet, "show", str(long))
    )  # the terminal breaks it


def test_show_tells_why_a_file_failed(fleet: Fleet) -> None:
    audio_id = add_file(fleet, "a.mp3", "failed", "no\nsound")
    assert "failed: no\\nsound" in printed(control(fleet, "show", str(audio_id)))


def test_show_as_json(fleet: Fleet) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    shown: dict[str, Any] = json.loads(printed(control(fleet, "show", str(audio_id), "--json")))
    assert (shown["audio_id"], shown["text"], shown["segments"][0]["end"]) == (audio_id, "one", 9.0)
    assert shown["languages"] == ["en"]
    doubtful = {
        **DOUBTS[2],
        "words": [{"start": 0.0, "end": 1.0, "word": "x", "probability": 0.5}],
        "language": "de",
    }
    other = hear(fleet, "b.mp3", doubtful)
    segments = json.loads(printed(control(fleet, "show", str(other), "--json")))["segments"]
    assert segments == [{"start": 0.0, "end": 9.0, **doubtful}]
    assert shown["created_at"] == shown["history"]["row made"] == "2025-06-22T00:00:00+00:00"


@pytest.mark.parametrize(
    "arguments", [["0"], ["99"], ["9" * 40], [BATCH], [BATCH, ""], [BATCH, "b"], ["a", "b", "c"], ["-1"]]
)
def test_show_names_a_file_that_is_not_there(fleet: Fleet, arguments: list[str]) -> None:
    done = control(fleet, "show", "--", *arguments)
    assert "file" in complaint(done, 2)


def test_hostile_names_and_words_do_nothing_to_a_terminal(fleet: Fleet) -> None:
    said = {
        "text": "fire \x1b[2J\x07<b>",
        "language": "\x1b",
        "mark": "\x1b",
        "reason": "\x1b[2J",
        "confidence": 0.1,
    }
    labels = {"\x1b[31mlabel": "topic"}
    evil = FileWarning("\x1b]0;x", 1.0, "\x1b[2J\x07<b>\n")
    audio_id = hear(
        fleet, HOSTILE, said, labels=labels, language="\x1b", languages=["\x1b", "\x07"], warnings=[evil]
    )
    for arguments in (["search", "fire"], ["show", str(audio_id)], ["show", BATCH, HOSTILE]):
        text = printed(control(fleet, *arguments))
        assert "\\x1b[2J\\x07<b>" in text
        assert all(char.isprintable() or char == "\n" for char in text), ascii(text)
    for arguments in (["search", "fire", "--json"], ["show", str(audio_id), "--json"]):
        shown = json.loads(printed(control(fleet, *arguments)))
        assert HOSTILE in (shown["hits"][0] if "hits" in shown else shown).values()


# --- show --download, --play -------------------------------------------------------------------------------


def test_show_downloads_the_opus(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio_id = hear(fleet, "../../monday/a b.mp3", "one")
    body = put_opus(fleet, audio_id)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert printed(control(fleet, "show", str(audio_id), "--download")) == f"monday_a_b-{audio_id}.opus\n"
    assert (folder / f"monday_a_b-{audio_id}.opus").read_bytes() == body
    printed(control(fleet, "show", str(audio_id), "--download", str(folder / "x.opus")))
    assert (folder / "x.opus").read_bytes() == body
    assert len(os.listdir(folder)) == 2


def test_show_waits_for_an_opus_no_longer_than_a_person_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_utils, "patience", s3_connection.OF_A_WORKER)
    monkeypatch.setattr(config, "require", lambda *_: None)
    file: Any = SimpleNamespace(s3_opus_path="processed/2025-06-22/7.opus")
    assert show.key_of(file) == file.s3_opus_path
    assert s3_utils.patience.tries * (s3_utils.patience.connecting + s3_utils.patience.silence) <= 15


def test_show_writes_over_nothing_unless_forced(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    body = put_opus(fleet, audio_id)
    path = tmp_path / "x.opus"
    path.write_text("mine")
    assert "is there already: --force" in complaint(
        control(fleet, "show", str(audio_id), "--download", str(path)), 2
    )
    assert path.read_text() == "mine"
    printed(control(fleet, "show", str(audio_id), "--download", str(path), "--force"))
    assert path.read_bytes() == body


def test_show_leaves_nothing_of_an_opus_that_does_not_come(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    folder = tmp_path / "here"
    folder.mkdir()
    line = complaint(control(fleet, "show", str(audio_id), "--download", str(folder)), 1)
    assert "is not in the bucket" in line
    assert os.listdir(folder) == []
    failed = add_file(fleet, "b.mp3", "failed", "x")
    assert "has no Opus in S3: it is failed" in complaint(control(fleet, "show", str(failed), "--download"), 1)
    nowhere = str(tmp_path / "no" / "x.opus")
    put_opus(fleet, audio_id)
    line = complaint(control(fleet, "show", str(audio_id), "--download", nowhere), 2)
    assert f"cannot be written: there is no folder {tmp_path / 'no'}" in line


def test_show_of_a_batch_leads_to_its_files(fleet: Fleet) -> None:
    add_batch(fleet, BATCH)
    line = complaint(control(fleet, "show", BATCH), 2)
    assert f"{BATCH} is a batch: name one of its files" in line
    assert f"`pipelinectl.py search --batch {BATCH}` shows them" in line


def test_show_names_a_setting_that_s3_does_not_accept(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    put_opus(fleet, audio_id)
    done = control(fleet, "show", str(audio_id), "--download", str(tmp_path / "x"), S3_BUCKET="nobodys")
    assert "there is no such bucket" in refusal(done)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("player", ["ffplay", "mpv"])
def test_show_plays_a_file_that_no_process_list_tells_of(fleet: Fleet, tmp_path: Path, player: str) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    body = put_opus(fleet, audio_id)
    program = tmp_path / "bin" / player
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nfor last; do :; done\n/bin/cp "$last" {tmp_path}/played\necho "$@" >{tmp_path}/asked\n'
    )
    program.chmod(0o755)
    printed(control(fleet, "show", str(audio_id), "--play", PATH=str(program.parent)))
    assert (tmp_path / "played").read_bytes() == body
    assert "Signature" not in (tmp_path / "asked").read_text()
    assert not Path((tmp_path / "asked").read_text().split()[-1]).exists()


NO_SOUND_CARD = """#!/bin/sh
for last; do :; done
echo "ALSA lib confmisc.c:855:(parse_card) cannot find card '0'" >&2
echo "Failed to open file '$last' or configure filtergraph" >&2
"""  # as of ffplay 5.1, which ends with 0
BROKEN_PLAYER = "#!/bin/sh\necho pages >&2; exit 2\n"


@pytest.mark.parametrize(("player", "script"), [("ffplay", NO_SOUND_CARD), ("mpv", BROKEN_PLAYER)])
def test_show_says_in_a_line_that_nothing_can_be_heard(
    fleet: Fleet, tmp_path: Path, player: str, script: str
) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    put_opus(fleet, audio_id)
    (tmp_path / player).write_text(script)
    (tmp_path / player).chmod(0o755)
    line = complaint(control(fleet, "show", str(audio_id), "--play", PATH=str(tmp_path)), 1)
    assert f"{player} cannot play it: is there a sound card?" in line


def test_show_says_that_there_is_no_player(fleet: Fleet, tmp_path: Path) -> None:
    audio_id = hear(fleet, "a.mp3", "one")
    assert "no ffplay or mpv" in complaint(control(fleet, "show", str(audio_id), "--play", PATH=str(tmp_path)), 1)


def test_a_batch_that_was_never_unpacked_is_not_one_without_files(fleet: Fleet) -> None:
    add_batch(fleet, BATCH)
    assert printed(control(fleet, "search", "--batch", BATCH)) == "nothing found\n"
    other = "20250622-143053"
    for command in (["search", "--batch", other], ["export", other, "--format", "csv"]):
        assert f"no batch {other} has been unpacked yet" in complaint(control(fleet, *command), 2)
