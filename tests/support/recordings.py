"""Archives for the tests, made of the samples."""

import functools
import io
import json
import tarfile
import tempfile
import threading
from pathlib import Path

from pipeline.audio.converter import Converter
from tests.support.fleet import PROJECT, ffmpeg_program

SAMPLES = PROJECT / "tests" / "samples"
WORDS: dict[str, str | None] = json.loads((SAMPLES / "words.json").read_text())
SHORT = sorted((name for name, words in WORDS.items() if words), key=lambda name: (SAMPLES / name).stat().st_size)


def sample(name: str) -> bytes:
    """The bytes of a sample, named as in words.json."""
    return (SAMPLES / name).read_bytes()


SPEECH = sample(SHORT[0])
SPOKEN = str(WORDS[SHORT[0]])
SILENCE = sample("tuesday/silence.mp3")
DAMAGED = sample("tuesday/damaged.mp3")


@functools.cache
def opus(data: bytes) -> bytes:
    """A recording as the unpack worker makes it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "x.mp3"), Path(folder, "x.opus")
        source.write_bytes(data)
        Converter(ffmpeg_program()).to_opus(source, target, threading.Event())
        return target.read_bytes()


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A plain tar with these members; names may hold surrogates for bytes that are not UTF-8."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
