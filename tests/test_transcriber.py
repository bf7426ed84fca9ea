"""pipeline/transcriber.py and classifiers.py: a real, small model hears real speech."""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.audio import Converter, UnreadableAudio
from pipeline.classifiers import Label, classify, content
from pipeline.transcriber import MODEL_FILES, Transcriber, model_problem
from pipeline.transcript import Transcript
from tests.fleet import MODELS, PROJECT, ffmpeg_program

SAMPLES = PROJECT / "tests" / "samples"
WORDS: dict[str, str | None] = json.loads((SAMPLES / "words.json").read_text())
MODEL = MODELS / "spoken-words"
MEETING = "monday/meeting.mp3"
SPOKEN = [name for name, words in WORDS.items() if words and name != MEETING]
SILENT = [name for name, words in WORDS.items() if words == ""]


@pytest.fixture(scope="module")
def transcriber() -> Transcriber:
    return Transcriber(MODEL, "cpu", "float32", 1, 1, None)


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The samples as the GPU host has them."""
    folder = tmp_path_factory.mktemp("opus")
    targets = {name: folder / name.replace("/", "-").replace(".mp3", ".opus") for name in WORDS}
    for name, words in WORDS.items():
        if words is not None:
            Converter(ffmpeg_program()).to_opus(SAMPLES / name, targets[name], threading.Event())
    return targets


def make(path: Path, source: str, *arguments: str) -> Path:
    """Make a file from a source of ffmpeg's own."""
    command = [ffmpeg_program(), "-nostdin", "-y", "-loglevel", "error", "-f", "lavfi", "-i", source]
    subprocess.run([*command, *arguments, str(path)], check=True)
    return path


def outcome(transcriber: Transcriber, path: Path) -> Transcript | Exception:
    ((key, result),) = transcriber.transcribe([(path, path)])
    assert key == path
    return result


def hear(transcriber: Transcriber, path: Path) -> Transcript:
    result = outcome(transcriber, path)
    assert isinstance(result, Transcript), result
    return result


def label(transcript: Transcript) -> Label:
    (only,) = classify(transcript)
    return only


# --- what is said ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard(transcriber: Transcriber, opus: dict[str, Path]) -> dict[str, Transcript]:
    """What is heard in each sample with words."""
    results = dict(transcriber.transcribe((name, opus[name]) for name in [*SPOKEN, MEETING]))
    return {name: result for name, result in results.items() if isinstance(result, Transcript)}


def test_every_sample_gives_exactly_its_words(heard: dict[str, Transcript]) -> None:
    assert {name: result.text for name, result in heard.items()} == {
        name: WORDS[name] for name in [*SPOKEN, MEETING]
    }


def test_speech_has_its_language_and_model_and_content(heard: dict[str, Transcript]) -> None:
    for result in heard.values():
        assert (result.language, result.model) == ("en", "spoken-words")
        assert label(result).name == "speech"
        assert label(result).score == pytest.approx(result.speech_seconds / result.duration_seconds)
        assert -40 < result.loudness_db < 0
    pauses = heard[MEETING]
    assert 0.1 < label(pauses).score < 0.5


def test_segments_are_in_order_and_make_up_the_text(heard: dict[str, Transcript]) -> None:
    for result in heard.values():
        assert_is_consistent(result)


def test_segments_lie_inside_the_file(heard: dict[str, Transcript]) -> None:
    for name, result in heard.items():
        assert result.segments[-1].end <= result.duration_seconds + 0.01, name


def assert_is_consistent(heard: Transcript) -> None:
    at = 0.0
    for segment in heard.segments:
        assert at <= segment.start < segment.end
        assert segment.start < heard.duration_seconds
        assert segment.text == segment.text.strip() != ""
        at = segment.start
    assert " ".join(segment.text for segment in heard.segments) == heard.text
    assert 0 < heard.speech_seconds <= heard.duration_seconds


def test_times_are_those_of_the_file_and_not_of_its_speech(
    transcriber: Transcriber, opus: dict[str, Path], tmp_path: Path
) -> None:
    late = tmp_path / "late.opus"
    delay = ["-af", "adelay=20000:all=1", "-ac", "1", "-ar", "16000", "-c:a", "libopus"]
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-i", str(SAMPLES / SPOKEN[0]), *delay]
    subprocess.run([*command, str(late)], check=True)
    heard = hear(transcriber, late)
    assert heard.text == WORDS[SPOKEN[0]]
    assert_is_consistent(heard)
    assert heard.segments[0].start > 19
    assert heard.segments[-1].end > 20
    assert heard.speech_seconds < 5
    assert heard.duration_seconds == pytest.approx(
        20 + hear(transcriber, opus[SPOKEN[0]]).duration_seconds, abs=0.1
    )


def test_every_language_setting_gives_the_words(opus: dict[str, Path]) -> None:
    name = SPOKEN[1]
    given = Transcriber(MODEL, "cpu", "float32", 1, 5, "en")
    assert hear(given, opus[name]).text == WORDS[name]


@pytest.mark.parametrize("name", SILENT)
def test_without_speech_there_is_no_text_and_no_language(
    transcriber: Transcriber, opus: dict[str, Path], name: str
) -> None:
    heard = hear(transcriber, opus[name])
    assert (heard.text, heard.segments, heard.language, heard.speech_seconds) == ("", [], None, 0)
    assert heard.duration_seconds == pytest.approx(3, abs=0.1)
    assert label(heard) == Label("content", "silence" if "silence" in name else "other", 1.0)


# --- any sound ---------------------------------------------------------------------------------------------

SOUNDS = {
    "one sample": "aevalsrc=0.3:d=0.0000625:s=16000",
    "ten milliseconds": "sine=d=0.01:r=16000",
    "direct current": "aevalsrc=0.5:d=2:s=16000",
    "white noise": "anoisesrc=d=3:a=0.5:r=16000",
    "full scale": "aevalsrc='sgn(sin(2*PI*50*t))':d=2:s=16000",
    "8 kHz": "sine=d=2:r=8000",
    "48 kHz stereo": "aevalsrc='0.3*sin(900*t)|0.1*sin(90*t)':d=2:s=48000",
}


SHORT = "one sample"  # as Opus it has no sound left


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(kind, suffix) for kind in SOUNDS for suffix in ("wav", "opus") if kind != SHORT or suffix == "wav"],
)
def test_any_sound_has_an_outcome(transcriber: Transcriber, tmp_path: Path, kind: str, suffix: str) -> None:
    heard = hear(transcriber, make(tmp_path / f"x.{suffix}", SOUNDS[kind]))
    assert heard.duration_seconds > 0
    assert label(heard).name in ("speech", "silence", "other")
    json.dumps([float(heard.loudness_db), heard.duration_seconds, heard.speech_seconds])


@pytest.mark.parametrize(("rate", "channels"), [("8000", "1"), ("48000", "2")])
def test_speech_of_another_rate_is_heard(
    transcriber: Transcriber, tmp_path: Path, rate: str, channels: str
) -> None:
    path = tmp_path / "x.wav"
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-i", str(SAMPLES / SPOKEN[0])]
    subprocess.run([*command, "-ar", rate, "-ac", channels, str(path)], check=True)
    heard = hear(transcriber, path)
    assert heard.speech_seconds > 1
    if rate == "48000":
        assert heard.text == WORDS[SPOKEN[0]]


# --- what cannot be heard ----------------------------------------------------------------------------------


def unreadable(folder: Path, whole: bytes, kind: str) -> Path:
    path = folder / "x.opus"
    if kind == "video":
        return make(folder / "x.mkv", "testsrc=d=1:s=64x64").rename(path)
    if kind == "0 seconds":
        return make(path, "anullsrc", "-t", "0")
    contents = {
        "empty": b"", "text": b"no sound\n" * 99, "zeros": bytes(9999), "cut in its header": whole[:60],
        "headers only": whole[: whole.index(b"OggS", 60)],
    }  # fmt: skip
    path.write_bytes(contents[kind])
    return path


KINDS = ["empty", "text", "zeros", "video", "0 seconds", "cut in its header", "headers only"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_holds_no_sound_is_unreadable(
    transcriber: Transcriber, opus: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    result = outcome(transcriber, unreadable(tmp_path, opus[SPOKEN[0]].read_bytes(), kind))
    assert isinstance(result, UnreadableAudio)
    assert str(result)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_truncated_opus_is_unreadable(
    transcriber: Transcriber, opus: dict[str, Path], tmp_path: Path, share: float
) -> None:
    """The decoder says nothing and gives less sound; a shorter transcript must not pass for the whole one."""
    whole = opus[MEETING].read_bytes()
    (tmp_path / "x.opus").write_bytes(whole[: int(len(whole) * share)])
    assert isinstance(outcome(transcriber, tmp_path / "x.opus"), UnreadableAudio)


def test_a_missing_file_is_not_called_unreadable(transcriber: Transcriber, tmp_path: Path) -> None:
    assert isinstance(outcome(transcriber, tmp_path / "gone.opus"), FileNotFoundError)


def test_a_bad_file_does_not_stop_the_next(
    transcriber: Transcriber, opus: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.opus").write_bytes(b"bad")
    good = SPOKEN[0]
    files = [
        ("bad", tmp_path / "bad.opus"),
        ("gone", tmp_path / "gone"),
        ("folder", tmp_path),
        ("good", opus[good]),
    ]
    results = dict(transcriber.transcribe(files))
    assert [key for key, result in results.items() if isinstance(result, Exception)] == ["bad", "gone", "folder"]
    assert isinstance(results["good"], Transcript)
    assert results["good"].text == WORDS[good]


def test_results_come_as_each_file_is_done(transcriber: Transcriber, opus: dict[str, Path]) -> None:
    pulled: list[str] = []

    def files() -> Iterator[tuple[str, Path]]:
        for name in SPOKEN[:3]:
            pulled.append(name)
            yield name, opus[name]

    results = transcriber.transcribe(files())
    assert pulled == []
    for number, (name, _) in enumerate(results):
        assert pulled == SPOKEN[: number + 1]
        assert name == SPOKEN[number]


# --- the model folder --------------------------------------------------------------------------------------


def test_a_whole_model_has_no_problem() -> None:
    assert model_problem(MODEL) is None


def test_a_missing_model_folder_is_named(tmp_path: Path) -> None:
    problem = model_problem(tmp_path / "no-such-model")
    assert problem is not None
    assert str(tmp_path / "no-such-model") in problem
    assert "\n" not in problem
    for name in (*MODEL_FILES, "vocabulary"):
        assert name in problem


@pytest.mark.parametrize("name", [*MODEL_FILES, "vocabulary.json"])
def test_a_missing_file_of_the_model_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    (folder / name).unlink()
    problem = model_problem(folder)
    assert problem is not None
    assert f"{folder} is not" in problem
    assert f": {name} missing" in problem


# --- classifiers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speech", "duration", "loudness", "expected"),
    [
        (5.0, 10.0, -30.0, ("speech", 0.5)),
        (0.1, 10.0, -90.0, ("speech", 0.01)),
        (10.5, 10.0, -30.0, ("speech", 1.0)),
        (0.0, 10.0, float("-inf"), ("silence", 1.0)),
        (0.0, 10.0, -60.1, ("silence", 1.0)),
        (0.0, 10.0, -60.0, ("other", 1.0)),
        (0.0, 10.0, 0.0, ("other", 1.0)),
        (0.0, 0.0, float("-inf"), ("silence", 1.0)),
    ],
)
def test_content_is_speech_silence_or_other(
    speech: float, duration: float, loudness: float, expected: tuple[str, float]
) -> None:
    found = content(speech, duration, loudness)
    assert (found.classifier, found.name, pytest.approx(found.score)) == ("content", *expected)
