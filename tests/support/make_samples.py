"""Make the sample recordings, and prove that each one transcribes to exactly the words spoken in it.

    python -m tests.support.make_samples          make samples/ anew (needs espeak-ng), then check it
    python -m tests.support.make_samples check    only check what is there

samples/words.json gives, for each recording, the words in it: "" where nothing is said, null where the
file is damaged. A recording that the small model in models/ mishears is made again with other words.
"""

import json
import random
import subprocess
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

from faster_whisper import WhisperModel

from tests.support.ffmpegs import PINNED

HERE = Path(__file__).parent
SAMPLES = HERE / "samples"
MODEL = HERE / "models" / "spoken-words"
VOCABULARY = (HERE / "make_model" / "words.txt").read_text().split()
VOICES = ["en-us", "en-gb", "en-us+m3", "en-us+f2"]
FOLDERS = ["monday", "tuesday"]
CALLS = 7  # in each folder, under the same names in both: an archive's name is part of what a file is
# Each recording must come out right with all of them.
OPTIONS: list[dict[str, Any]] = [
    {"beam_size": beam_size, "without_timestamps": without} for beam_size in (5, 1) for without in (False, True)
]

LONG = "monday/meeting.mp3"  # longer than one window of Whisper: the VAD takes the pauses out
LONG_PHRASES, LONG_WORDS, LONG_PAUSE = 4, 16, 11.5
TONE, SILENCE = "monday/tone.mp3", "tuesday/silence.mp3"
DAMAGED = "tuesday/damaged.mp3"
NOTES = "monday/notes.txt"


def ffmpeg(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(PINNED), "-nostdin", "-y", "-loglevel", "error", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def write_mp3(path: Path, *source: str) -> None:
    """Encode ffmpeg's input as MP3 of 64 kb/s, without tags or dates, so that a rerun gives equal bytes."""
    ffmpeg(*source, "-ac", "1", "-c:a", "libmp3lame", "-b:a", "64k", "-map_metadata", "-1",
           "-fflags", "+bitexact", "-flags:a", "+bitexact", str(path)).check_returncode()  # fmt: skip


def speak(phrases: list[str], voice: str, pause: float, mp3: Path) -> None:
    """Speak the phrases one after the other, `pause` seconds apart."""
    with tempfile.TemporaryDirectory() as folder:
        joined, part = Path(folder, "joined.wav"), Path(folder, "part.wav")
        with wave.open(str(joined), "wb") as out:
            for number, phrase in enumerate(phrases):
                text = phrase.replace("xray", "x-ray")
                command = ["espeak-ng", "-v", voice, "-s", "140", "-g", "5", "-w", str(part), text]
                subprocess.run(command, check=True)
                with wave.open(str(part)) as spoken:
                    if number == 0:
                        out.setparams(spoken.getparams())
                    else:
                        out.writeframes(bytes(2 * int(pause * spoken.getframerate())))
                    out.writeframes(spoken.readframes(spoken.getnframes()))
        write_mp3(mp3, "-i", str(joined))


def transcribe(model: WhisperModel, opus: Path, options: dict[str, Any]) -> str:
    segments, _ = model.transcribe(str(opus), language="en", vad_filter=True, **options)
    return " ".join("".join(segment.text for segment in segments).split())


def heard(model: WhisperModel, mp3: Path) -> list[str]:
    """What the model hears in the recording once it is Opus, with each of the options."""
    with tempfile.TemporaryDirectory() as folder:
        opus = Path(folder, "heard.opus")
        ffmpeg("-i", str(mp3), "-c:a", "libopus", "-b:a", "32k", "-ac", "1", "-ar", "16000",
               str(opus)).check_returncode()  # fmt: skip
        return [transcribe(model, opus, options) for options in OPTIONS]


def make_speech(model: WhisperModel, name: str, rng: random.Random) -> str:
    """Record random words under this name until the model hears them as they were spoken."""
    count = LONG_PHRASES if name == LONG else 1
    for _ in range(60):
        words = rng.choices(VOCABULARY, k=LONG_WORDS if name == LONG else rng.randint(3, 8))
        size = len(words) // count
        phrases = [" ".join(words[start : start + size]) for start in range(0, len(words), size)]
        speak(phrases, rng.choice(VOICES), LONG_PAUSE, SAMPLES / name)
        results = heard(model, SAMPLES / name)
        if results == [" ".join(words)] * len(OPTIONS):
            return " ".join(words)
        print(f"{name}: said {' '.join(words)!r}, heard {results}; again")
    raise SystemExit(f"{name}: the model never heard it right")


def make(model: WhisperModel) -> None:
    """Make every file of samples/ and the list of the words in them."""
    for folder in FOLDERS:
        (SAMPLES / folder).mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    calls = [f"{folder}/call{number:03}.mp3" for folder in FOLDERS for number in range(1, CALLS + 1)]
    words: dict[str, str | None] = {name: make_speech(model, name, rng) for name in [*calls, LONG]}
    write_mp3(SAMPLES / TONE, "-f", "lavfi", "-i", "sine=frequency=440:duration=3")
    write_mp3(SAMPLES / SILENCE, "-f", "lavfi", "-i", "anullsrc=r=22050:cl=mono", "-t", "3")
    # Without its top bits no byte is part of an MP3 frame header.
    whole = (SAMPLES / calls[0]).read_bytes()
    (SAMPLES / DAMAGED).write_bytes(bytes(byte & 0x7F for byte in whole[:20_000]))
    (SAMPLES / NOTES).write_text("Recorded on Monday. This file is no recording and travels along.\n")
    words.update({TONE: "", SILENCE: "", DAMAGED: None})
    (SAMPLES / "words.json").write_text(json.dumps(dict(sorted(words.items())), indent=2) + "\n")


def check(model: WhisperModel) -> list[str]:
    """Everything that is wrong with samples/, one line each."""
    words: dict[str, str | None] = json.loads((SAMPLES / "words.json").read_text())
    wrong = []
    if set(words) != {str(path.relative_to(SAMPLES)) for path in SAMPLES.glob("*/*.mp3")}:
        wrong.append("words.json and the folders do not name the same recordings")
    for name, spoken in words.items():
        if spoken is None:
            result = ffmpeg("-i", str(SAMPLES / name), "-f", "null", "-")
            if result.returncode == 0 or not result.stderr.strip():
                wrong.append(f"{name}: ffmpeg accepts it")
        elif (results := heard(model, SAMPLES / name)) != [spoken] * len(OPTIONS):
            wrong.append(f"{name}: said {spoken!r}, heard {results}")
    return wrong


if __name__ == "__main__":
    whisper = WhisperModel(str(MODEL), device="cpu", compute_type="float32")
    if sys.argv[1:] != ["check"]:
        make(whisper)
    problems = check(whisper)
    print("\n".join(problems) or "every recording is as words.json says")
    sys.exit(1 if problems else 0)
