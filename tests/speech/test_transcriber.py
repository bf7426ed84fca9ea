"""pipeline/speech/transcriber.py and classifiers.py: a real, small model hears real speech, in batches of many
files."""

import json
import shutil
import subprocess
import threading
import time
import wave
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper import decode_audio

from pipeline.audio import sandbox
from pipeline.audio.converter import Converter, UnreadableAudio
from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.foundation.errors import Stopping
from pipeline.labels.classifiers import Classifiers, content
from pipeline.speech import files_in_progress, languages
from pipeline.speech import transcriber as module
from pipeline.speech.guarded_decoding import listen
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.transcript import Label, Transcript
from pipeline.speech.voice_windows import Recording, Window
from pipeline.speech.whisper import MODEL_FILES, Options, Whisper, model_problem
from tests.support import random_whisper
from tests.support.child import wait_until
from tests.support.fleet import MODELS, PROJECT, ffmpeg_program

SAMPLES = PROJECT / "tests" / "samples"
WORDS: dict[str, str | None] = json.loads((SAMPLES / "words.json").read_text())
MODEL = MODELS / "spoken-words"
MEETING = "monday/meeting.mp3"
SPOKEN = [name for name, words in WORDS.items() if words and name != MEETING]
SILENT = [name for name, words in WORDS.items() if words == ""]


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return Whisper(MODEL, "cpu", 0, "float32", 1, Options(beam_size=1))


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


def transcribe(
    whisper: Whisper, files: Iterable[tuple[Any, Path]], **options: Any
) -> dict[Any, Transcript | Exception]:
    """What the engine delivers for the files; each once."""
    results: list[tuple[Any, Transcript | Exception]] = []
    with engine(whisper, lambda key, result: results.append((key, result)), **options) as running:
        for key, path in files:
            running.submit(key, path)
        running.drain()
    assert len(dict(results)) == len(results)
    return dict(results)


def engine(whisper: Whisper, deliver: Callable[[Any, Any], object], **options: Any) -> Transcriber[Any]:
    return Transcriber(whisper, deliver, **{"prepare_threads": 2, "batch_size": 4, **options})


def outcome(whisper: Whisper, path: Path) -> Transcript | Exception:
    return transcribe(whisper, [(path, path)])[path]


def hear(whisper: Whisper, path: Path) -> Transcript:
    result = outcome(whisper, path)
    assert isinstance(result, Transcript), result
    return result


def label(transcript: Transcript) -> Label:
    (only,) = Classifiers(Path("/nonexistent")).labels(transcript)
    return only


# --- what is said ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heard(whisper: Whisper, opus: dict[str, Path]) -> dict[str, Transcript]:
    """What is heard in each sample with words."""
    results = transcribe(whisper, [(name, opus[name]) for name in [*SPOKEN, MEETING]])
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
    whisper: Whisper, opus: dict[str, Path], tmp_path: Path
) -> None:
    late = tmp_path / "late.opus"
    delay = ["-af", "adelay=20000:all=1", "-ac", "1", "-ar", "16000", "-c:a", "libopus"]
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-i", str(SAMPLES / SPOKEN[0]), *delay]
    subprocess.run([*command, str(late)], check=True)
    heard = hear(whisper, late)
    assert heard.text == WORDS[SPOKEN[0]]
    assert_is_consistent(heard)
    assert heard.segments[0].start > 19
    assert heard.segments[-1].end > 20
    assert heard.speech_seconds < 5
    assert heard.duration_seconds == pytest.approx(20 + hear(whisper, opus[SPOKEN[0]]).duration_seconds, abs=0.1)


def test_every_language_setting_gives_the_words(opus: dict[str, Path]) -> None:
    name = SPOKEN[1]
    given = Whisper(MODEL, "cpu", 0, "float32", 1, Options(languages=("en",)))
    assert hear(given, opus[name]).text == WORDS[name]


@pytest.mark.parametrize("name", SILENT)
def test_without_speech_there_is_no_text_and_no_language(
    whisper: Whisper, opus: dict[str, Path], name: str
) -> None:
    heard = hear(whisper, opus[name])
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
def test_any_sound_has_an_outcome(whisper: Whisper, tmp_path: Path, kind: str, suffix: str) -> None:
    heard = hear(whisper, make(tmp_path / f"x.{suffix}", SOUNDS[kind]))
    assert heard.duration_seconds > 0
    assert label(heard).name in ("speech", "silence", "other")
    json.dumps([float(heard.loudness_db), heard.duration_seconds, heard.speech_seconds])


@pytest.mark.parametrize(("rate", "channels"), [("8000", "1"), ("48000", "2")])
def test_speech_of_another_rate_is_heard(whisper: Whisper, tmp_path: Path, rate: str, channels: str) -> None:
    path = tmp_path / "x.wav"
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-i", str(SAMPLES / SPOKEN[0])]
    subprocess.run([*command, "-ar", rate, "-ac", channels, str(path)], check=True)
    heard = hear(whisper, path)
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
    whisper: Whisper, opus: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    result = outcome(whisper, unreadable(tmp_path, opus[SPOKEN[0]].read_bytes(), kind))
    assert isinstance(result, UnreadableAudio)
    assert str(result)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_truncated_opus_is_unreadable(
    whisper: Whisper, opus: dict[str, Path], tmp_path: Path, share: float
) -> None:
    """The decoder says nothing and gives less sound; a shorter transcript must not pass for the whole one."""
    whole = opus[MEETING].read_bytes()
    (tmp_path / "x.opus").write_bytes(whole[: int(len(whole) * share)])
    assert isinstance(outcome(whisper, tmp_path / "x.opus"), UnreadableAudio)


def test_a_missing_file_is_not_called_unreadable(whisper: Whisper, tmp_path: Path) -> None:
    assert isinstance(outcome(whisper, tmp_path / "gone.opus"), FileNotFoundError)


def test_a_bad_file_does_not_stop_the_next(whisper: Whisper, opus: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.opus").write_bytes(b"bad")
    good = SPOKEN[0]
    files = [
        ("bad", tmp_path / "bad.opus"),
        ("gone", tmp_path / "gone"),
        ("folder", tmp_path),
        ("good", opus[good]),
    ]
    results = transcribe(whisper, files)
    assert {key for key, result in results.items() if isinstance(result, Exception)} == {"bad", "gone", "folder"}
    assert isinstance(results["good"], Transcript)
    assert results["good"].text == WORDS[good]


# --- many files at once ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "prepare_threads", "step"),
    [(1, 1, 1), (3, 2, -1), (16, 3, 5)],
    ids=["alone", "reversed", "mixed"],
)
def test_a_file_gives_the_same_in_any_company(
    heard: dict[str, Transcript], opus: dict[str, Path], batch_size: int, prepare_threads: int, step: int
) -> None:
    whisper = Whisper(MODEL, "cpu", 0, "float32", 2, Options(beam_size=1))
    assert whisper.batches_at_once == 2
    names = [SPOKEN[number * step % len(SPOKEN)] for number in range(len(SPOKEN))] + [MEETING]
    assert sorted(names) == sorted([*SPOKEN, MEETING])
    files = [(name, opus[name]) for name in names]
    again = transcribe(whisper, files, batch_size=batch_size, prepare_threads=prepare_threads)
    for name, transcript in heard.items():
        other = again[name]
        assert isinstance(other, Transcript)
        assert (other.text, other.language) == (transcript.text, transcript.language)
        assert [(s.start, s.end) for s in other.segments] == [(s.start, s.end) for s in transcript.segments]
        scores = [s.avg_logprob for s in other.segments]
        assert scores == pytest.approx([s.avg_logprob for s in transcript.segments], abs=1e-3)


def test_a_batch_holds_windows_of_several_files(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = spy_on_batches(whisper, monkeypatch)
    transcribe(whisper, [(name, opus[name]) for name in SPOKEN], batch_size=4, batch_wait_seconds=60)
    assert max(sizes) == 4
    assert sum(sizes) == len(SPOKEN)
    assert len(sizes) <= len(SPOKEN) // 4 + 2  # full, but where preparation had ended


def spy_on_batches(whisper: Whisper, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each batch has."""
    sizes: list[int] = []
    encode = whisper.encode

    def spy(features: list[np.ndarray]) -> Any:
        sizes.append(len(features))
        return encode(features)

    monkeypatch.setattr(whisper, "encode", spy)
    return sizes


def test_a_lone_file_waits_for_no_other(whisper: Whisper, opus: dict[str, Path]) -> None:
    begin = time.monotonic()
    transcribe(whisper, [(0, opus[SPOKEN[0]])], batch_size=64, batch_wait_seconds=60)
    assert time.monotonic() - begin < 30


def test_a_file_is_delivered_when_its_own_last_window_is_heard(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though another file, submitted before it, is still being read."""
    delivered = threading.Event()
    windows = Recording.windows

    def slowly(recording: Recording) -> Iterator[Window]:
        yield from windows(recording)
        if recording._path == opus[MEETING]:
            assert delivered.wait(30), "the short file waited for the long one"

    monkeypatch.setattr(Recording, "windows", slowly)
    keys: list[str] = []

    def deliver(key: str, _: object) -> None:
        keys.append(key)
        delivered.set()

    with engine(whisper, deliver, batch_wait_seconds=0.05) as running:
        running.submit("long", opus[MEETING])
        running.submit("short", opus[SPOKEN[0]])
        running.drain()
    assert keys == ["short", "long"]


def test_a_full_engine_makes_its_caller_wait(whisper: Whisper, opus: dict[str, Path]) -> None:
    """Finished files that nobody takes hold back everything before them, at a bounded number."""
    go_on, taken = threading.Event(), []

    def deliver(key: int, _: object) -> None:
        taken.append(key)
        go_on.wait(60)

    with engine(whisper, deliver, batch_size=1) as running:
        submitted = []

        def feed() -> None:
            for number in range(60):
                running.submit(number, opus[SPOKEN[0]])
                submitted.append(number)

        feeder = threading.Thread(target=feed)
        feeder.start()
        wait_until_still(lambda: len(submitted))
        assert len(taken) == 1  # one batch at a time, and it waits for us
        assert len(submitted) < 15
        go_on.set()
        feeder.join(60)
        running.drain()
    assert sorted(taken) == list(range(60))


def wait_until_still(count: Callable[[], int], seconds: float = 1.0) -> None:
    """Wait until the number has not changed for a while."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(0.02)
        if count() != last:
            last, since = count(), time.monotonic()


def test_closing_delivers_what_is_on_the_device_and_drops_the_rest(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    computing, go_on = threading.Event(), threading.Event()
    original = listen

    def slowly(*args: Any) -> Any:
        computing.set()
        go_on.wait(60)
        return original(*args)

    monkeypatch.setattr(module, "listen", slowly)
    results: dict[int, Any] = {}
    running = engine(whisper, results.__setitem__, batch_size=1)
    with running:
        for number in range(4):
            running.submit(number, opus[SPOKEN[number]])
        assert computing.wait(30)
        closer = threading.Thread(target=running.close)
        closer.start()
        go_on.set()
        closer.join(30)
        assert not closer.is_alive()
    assert [result.text for result in results.values()] == [WORDS[SPOKEN[key]] for key in results]
    assert len(results) == 1


def test_closing_does_not_wait_for_hours_of_silence(whisper: Whisper, tmp_path: Path) -> None:
    """There is no window at which the end would be noticed."""
    silence = make(tmp_path / "silence.wav", "anullsrc=r=16000:cl=mono", "-t", "10800")
    results: list[Any] = []
    running = engine(whisper, lambda *result: results.append(result))
    with running:
        running.submit("silence", silence)
        wait_until(lambda: running._scheduler._preparing == 1, "its begin")
        begun = time.monotonic()
        running.close()
    assert time.monotonic() - begun < 5  # all of it takes half a minute
    assert results == []


def test_waiting_for_the_engine_ends_when_the_worker_is_to_stop(whisper: Whisper, opus: dict[str, Path]) -> None:
    go_on, stop = threading.Event(), threading.Event()
    with engine(whisper, lambda *_: go_on.wait(60)) as running:
        running.submit(0, opus[SPOKEN[0]])
        stop.set()
        with pytest.raises(Stopping):
            running.drain(stop)
        go_on.set()


# --- what fails on the device ------------------------------------------------------------------------------


def fail_when(
    whisper: Whisper, monkeypatch: pytest.MonkeyPatch, error: Exception, fails: Callable[[list[np.ndarray]], bool]
) -> None:
    """Have batches of which `fails` is true raise the error, as CTranslate2 does."""
    encode = whisper.encode

    def failing(features: list[np.ndarray]) -> Any:
        if fails(features):
            raise error
        return encode(features)

    monkeypatch.setattr(whisper, "encode", failing)


def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("CUDA failed with error out of memory")
    fail_when(whisper, monkeypatch, error, lambda features: len(features) > 2)
    results: dict[str, Any] = {}
    with engine(whisper, results.__setitem__, batch_size=8, batch_wait_seconds=60) as running:
        for name in SPOKEN:
            running.submit(name, opus[name])
        running.drain()
        assert running._scheduler.batch_size <= 2
    assert {name: result.text for name, result in results.items()} == {name: WORDS[name] for name in SPOKEN}


@pytest.mark.parametrize(
    ("message", "ends"),
    [
        ("CUDA failed with error an illegal memory access was encountered", True),
        ("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED", True),
        ("CUDA failed with error out of memory", True),  # for a single row: the device is full of others
        ("something about this row", False),
    ],
)
def test_a_broken_device_ends_the_engine_and_anything_else_only_the_file(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch, message: str, ends: bool
) -> None:
    fail_when(whisper, monkeypatch, RuntimeError(message), lambda _: True)
    results: dict[int, Any] = {}
    running = engine(whisper, results.__setitem__)
    with running:
        running.submit(0, opus[SPOKEN[0]])
        if ends:
            with pytest.raises(RuntimeError, match=message):
                running.drain()
            with pytest.raises(RuntimeError, match=message):
                running.check()
        else:
            running.drain()
            running.check()
    assert (results == {}) == ends
    assert ends or str(results[0]) == message


def test_a_row_that_fails_takes_no_neighbour_with_it(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = SPOKEN[3]
    (window,) = Recording(opus[poison]).windows()
    bad = whisper.features(window.samples)
    fail_when(
        whisper, monkeypatch, ValueError("poison"), lambda batch: any(np.array_equal(row, bad) for row in batch)
    )
    results = transcribe(whisper, [(name, opus[name]) for name in SPOKEN], batch_size=8, batch_wait_seconds=60)
    assert str(results.pop(poison)) == "poison"
    assert {name: getattr(result, "text", result) for name, result in results.items()} == {
        name: WORDS[name] for name in SPOKEN if name != poison
    }


def test_what_deliver_raises_ends_the_engine(whisper: Whisper, opus: dict[str, Path]) -> None:
    def deliver(*_: object) -> None:
        raise KeyError("nobody foresaw this")

    with engine(whisper, deliver) as running:
        running.submit(0, opus[SPOKEN[0]])
        with pytest.raises(KeyError):
            running.drain()


# --- languages and long files ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def polyglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights and the multilingual vocabulary."""
    return random_whisper.make(tmp_path_factory.mktemp("model") / "nano", "nano")


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve minutes: each sample many times over, with pauses."""
    path = tmp_path_factory.mktemp("long") / "long.opus"
    inputs = [argument for name in SPOKEN for argument in ("-i", str(SAMPLES / name))]
    join = "".join(f"[{number}:a]apad=pad_dur=2[p{number}];" for number in range(len(SPOKEN)))
    join += "".join(f"[p{number}]" for number in range(len(SPOKEN))) + f"concat=n={len(SPOKEN)}:v=0:a=1,"
    join += "aloop=loop=-1:size=2e6,atrim=duration=720"
    command = [ffmpeg_program(), "-nostdin", "-loglevel", "error", *inputs, "-filter_complex", join]
    subprocess.run([*command, "-ac", "1", "-ar", "16000", "-c:a", "libopus", str(path)], check=True)
    return path


# What the decoder is made to think: it has random weights.
Thoughts = Callable[[int, int], dict[str, float]]  # number of the window and of the piece
ENGLISH, GERMAN, UNSURE = {"en": 0.98, "de": 0.02}, {"en": 0.02, "de": 0.98}, {"en": 0.49, "de": 0.51}


def spoken(
    polyglot: Path, path: Path, monkeypatch: pytest.MonkeyPatch, think: Thoughts, **options: Any
) -> tuple[list[tuple[float, str]], Transcript]:
    """The language that each part of the file is decoded in, by where it begins in the file (seconds)."""
    whisper = Whisper(polyglot, "cpu", 0, "float32", 1, Options(beam_size=1, guards=False, max_new_tokens=4))
    used: list[tuple[float, str]] = []
    begins = [window.spans[0].start for window in Recording(path).windows()]
    guess, inner = Transcriber._guess_languages, vars(module)["listen"]

    def spy(whisper: Whisper, windows: Any, languages: Any, encoded: Any) -> Any:
        assert encoded.shape[0] == len(windows) == len(languages)
        used.extend(
            (window.spans[0].start / SAMPLE_RATE, code) for window, code in zip(windows, languages, strict=True)
        )
        return inner(whisper, windows, languages, encoded)

    def guess_for(running: Any, rows: list[Any], encoded: Any) -> None:
        numbers = [begins.index(row.window.spans[0].start) for row in rows]

        def odds(_: Any, pieces: list[Any]) -> Any:
            return [
                [think(number, at) for at in range(len(of))] for number, of in zip(numbers, pieces, strict=True)
            ]

        monkeypatch.setattr(whisper, "language_odds", odds)
        guess(running, rows, encoded)

    monkeypatch.setattr(module, "listen", spy)
    monkeypatch.setattr(Transcriber, "_guess_languages", guess_for)
    (result,) = transcribe(whisper, [("long", path)], **options).values()
    assert isinstance(result, Transcript), result
    return sorted(used), result


def test_every_window_has_its_own_language(
    polyglot: Path, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, result = spoken(polyglot, long_file, monkeypatch, lambda number, _: GERMAN if number >= 8 else ENGLISH)
    assert len(used) > 16
    assert [code for _, code in used] == ["en"] * 8 + ["de"] * (len(used) - 8)
    assert set(result.languages) == {"en", "de"}
    assert result.language == result.languages[0] == "de"
    assert {segment.language for segment in result.segments} == {"en", "de"}


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_a_doubtful_window_follows_its_neighbours_in_any_batch(
    polyglot: Path, long_file: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    def think(number: int, piece: int) -> dict[str, float]:
        return UNSURE if number in (0, 5, 6) else ENGLISH if number < 8 else GERMAN

    used, _ = spoken(polyglot, long_file, monkeypatch, think, batch_size=batch_size)
    assert [code for _, code in used] == ["en"] * 8 + ["de"] * (len(used) - 8)


def test_a_window_that_was_cut_or_waits_is_not_taken_again_when_the_rest_of_its_batch_fails(
    polyglot: Path, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch does not fit on the GPU, and its halves are tried: what has left it has left it."""

    def think(number: int, piece: int) -> dict[str, float]:
        return UNSURE if number in (0, 5) else ENGLISH if number < 3 or (number == 3 and piece < 3) else GERMAN

    failures: list[int] = []
    done: list[int] = []

    def full(whisper: Any, windows: Any, *rest: Any) -> Any:
        if len(windows) > 2:
            failures.append(len(windows))
            raise RuntimeError("CUDA failed with error out of memory")
        done.extend(window.spans[0].start for window in windows)
        return listen(whisper, windows, *rest)

    monkeypatch.setattr(module, "listen", full)
    spoken(polyglot, long_file, monkeypatch, think, batch_size=8, batch_wait_seconds=60)
    assert failures
    assert len(done) == len(set(done)) == len(list(Recording(long_file).windows())) + 1


def test_a_file_whose_words_make_no_transcript_fails_alone(
    whisper: Whisper, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = files_in_progress.transcript_of

    def odd(channel: Any, model: str) -> Transcript:
        if channel.file.key == SPOKEN[2]:
            raise IndexError("nobody foresaw this")
        return original(channel, model)

    monkeypatch.setattr(module, "transcript_of", odd)
    results = transcribe(whisper, [(name, opus[name]) for name in SPOKEN])
    assert isinstance(results.pop(SPOKEN[2]), IndexError)
    assert {name: getattr(result, "text", result) for name, result in results.items()} == {
        name: WORDS[name] for name in SPOKEN if name != SPOKEN[2]
    }


def test_a_file_in_which_every_window_is_doubtful_ends(
    polyglot: Path, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, _ = spoken(polyglot, long_file, monkeypatch, lambda *_: UNSURE)
    assert {code for _, code in used} == {"de"}


def test_a_window_is_cut_where_the_language_changes(
    polyglot: Path, long_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def think(number: int, piece: int) -> dict[str, float]:
        return ENGLISH if number < 3 or (number == 3 and piece < 3) else GERMAN

    windows = list(Recording(long_file).windows())
    used, result = spoken(polyglot, long_file, monkeypatch, think)
    assert len(used) == len(windows) + 1
    cut = languages.pieces(windows[3])[3].begin
    assert used[3:5] == [
        (windows[3].spans[0].start / SAMPLE_RATE, "en"), (windows[3].spans[cut].start / SAMPLE_RATE, "de"),
    ]  # fmt: skip
    assert_is_consistent(result)


def test_a_given_language_is_used(polyglot: Path, opus: dict[str, Path]) -> None:
    options = Options(beam_size=1, languages=("de",), guards=False, max_new_tokens=4)
    assert hear(Whisper(polyglot, "cpu", 0, "float32", 1, options), opus[SPOKEN[0]]).language == "de"


def test_a_language_that_whisper_does_not_know_is_refused(polyglot: Path) -> None:
    with pytest.raises(ValueError, match="english"):
        Whisper(polyglot, "cpu", 0, "float32", 1, Options(languages=("english",)))


def test_segments_of_a_long_file_have_its_times(whisper: Whisper, long_file: Path) -> None:
    result = hear(whisper, long_file)
    assert_is_consistent(result)
    assert result.duration_seconds == pytest.approx(720, abs=0.1)
    assert result.segments[-1].end > 650


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


# --- channels ----------------------------------------------------------------------------------------------

LEFT, RIGHT = "monday/call001.mp3", "monday/call003.mp3"


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Opus of two people, each on a channel, who speak at the same time."""
    folder = tmp_path_factory.mktemp("call")
    sides = [np.pad(decode_audio(str(SAMPLES / name)), (wait, 0)) for name, wait in ((LEFT, 0), (RIGHT, 4000))]
    sound = np.stack([np.pad(side, (0, 8 * SAMPLE_RATE - len(side))) for side in sides], axis=1)
    with wave.open(str(folder / "call.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((sound * 32767).astype("<i2").tobytes())
    report = Converter(ffmpeg_program()).to_opus(folder / "call.wav", folder / "call.opus", threading.Event())
    assert report.channels == 2
    return folder / "call.opus"


def test_two_who_speak_at_once_are_heard_as_each_alone(whisper: Whisper, call: Path) -> None:
    both = hear(whisper, call)
    assert both.channels == 2
    for channel, name in enumerate((LEFT, RIGHT), 1):
        assert " ".join(one.text for one in both.segments if one.channel == channel) == WORDS[name]
    starts = [one.start for one in both.segments]
    assert starts == sorted(starts)
    assert both.duration_seconds == pytest.approx(8, abs=0.1)


def test_a_file_with_channels_is_delivered_once_among_others(
    whisper: Whisper, call: Path, opus: dict[str, Path]
) -> None:
    files = [*((name, opus[name]) for name in SPOKEN[:3]), ("call", call), (MEETING, opus[MEETING])]
    found = transcribe(whisper, files, batch_size=2)
    assert [type(result) for result in found.values()] == [Transcript] * 5
    texts = {name: result.text for name, result in found.items() if isinstance(result, Transcript)}
    assert all(texts[name] == WORDS[name] for name, _ in files if name != "call")


def test_a_channel_that_cannot_be_heard_fails_its_file_once(
    whisper: Whisper, call: Path, opus: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Recording.windows

    def windows(recording: Recording) -> Iterator[Window]:
        if recording._channel == 1:
            raise UnreadableAudio("the second channel is none")
        return original(recording)

    monkeypatch.setattr(Recording, "windows", windows)
    found = transcribe(whisper, [("call", call), (LEFT, opus[LEFT])])
    assert isinstance(found["call"], UnreadableAudio)
    heard_alone = found[LEFT]
    assert isinstance(heard_alone, Transcript)
    assert heard_alone.text == WORDS[LEFT]


def test_a_decoder_that_dies_costs_its_file_alone(
    whisper: Whisper, opus: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sandbox.command

    def command(program: str, read: list[str], limits: dict[str, int]) -> list[str]:
        if read[0].endswith("poison.opus"):
            return ["bash", "-c", "kill -SEGV $$", "--"]
        return original(program, read, limits)

    monkeypatch.setattr(sandbox, "command", command)
    shutil.copy(opus[RIGHT], tmp_path / "poison.opus")
    files = [(LEFT, opus[LEFT]), ("poison", tmp_path / "poison.opus"), (MEETING, opus[MEETING])]
    found = transcribe(whisper, files)
    assert isinstance(found.pop("poison"), UnreadableAudio)
    texts = {name: result.text for name, result in found.items() if isinstance(result, Transcript)}
    assert texts == {name: WORDS[name] for name in (LEFT, MEETING)}
