"""What the engine holds: no more after thousands of files than after the first, nor for a file of many hours.

SOAK_FILES=5000 ./test -k memory    at length
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.speech.test_voice_windows import write_endless_wav
from tests.support import random_whisper
from tests.support.fleet import PROJECT
from tests.support.recordings import SPEECH, opus

FILES = int(os.environ.get("SOAK_FILES", "240"))

TRANSCRIBE = """
import sys
sys.path.insert(0, {project!r})
from pathlib import Path
from pipeline.speech import voice_gate
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.whisper import Options, Whisper
if {endless}:
    from tests.speech.test_voice_windows import endless_speech
    voice_gate.get_speech_timestamps = endless_speech
options = Options(beam_size=1, languages=("en",), guards=False, max_new_tokens=1)
whisper = Whisper(Path({model!r}), "cpu", 0, "float32", 2, options)
resident = []
def deliver(number, result):
    if isinstance(result, Exception):
        raise result
    resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4 // 1024)
with Transcriber(whisper, deliver, 2, 8) as engine:
    for number in range({files}):
        engine.submit(number, Path({path!r}))
    engine.drain()
print(resident)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small Whisper."""
    return random_whisper.make(tmp_path_factory.mktemp("model") / "nano", "nano")


def resident_mb(model: Path, path: Path, files: int, endless: bool = False) -> list[int]:
    """The memory of a process (MiB) when each of its files was delivered: the same one, so many times."""
    script = TRANSCRIBE.format(
        project=str(PROJECT), endless=endless, model=str(model), files=files, path=str(path)
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found: list[int] = json.loads(done.stdout)
    assert len(found) == files
    return found


def test_memory_is_flat_over_many_files(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "speech.opus"
    path.write_bytes(opus(SPEECH))
    resident = resident_mb(model, path, FILES)
    quarter = FILES // 4
    assert max(resident[-quarter:]) <= max(resident[quarter : 2 * quarter]) + 10


def test_memory_does_not_grow_with_the_length_of_a_file(model: Path, tmp_path: Path) -> None:
    (short,) = resident_mb(model, write_endless_wav(tmp_path / "short.wav", 1 / 3), 1, endless=True)
    (long,) = resident_mb(model, write_endless_wav(tmp_path / "long.wav", 2), 1, endless=True)
    assert long < short + 100  # the sound of two hours is 460 MB
