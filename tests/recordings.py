"""Archives for the tests, made of the samples."""

import io
import json
import tarfile
from pathlib import Path

from tests.fleet import PROJECT

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


def make_tar(path: Path, files: dict[str, bytes]) -> Path:
    """A plain tar with these members; names may hold surrogates for bytes that are not UTF-8."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path
