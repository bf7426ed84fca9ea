"""Files that call themselves recordings: none of them opens anything else, stops a host, or blames it.

Each either fails as a recording that cannot be read, or gives its own sound alone; both within two seconds of CPU.

LONG_TESTS=1 ./test -k hostile_media    all of them on every ffmpeg that is here; otherwise a sixth
"""

import ctypes
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.audio import containers
from pipeline.audio.converter import Converter, UnreadableAudio
from tests.audio.test_odd_recordings import decoded
from tests.support.ffmpegs import PINNED, every_ffmpeg, others, version
from tests.support.fleet import PROJECT
from tests.support.hostile_media import CANARY_HZ, CASES, OPENERS, Canary, Hostile
from tests.support.odd_recordings import RATE, voice, wav
from tests.support.steps import AT_LENGTH

CPU_SECONDS = 2.0
JUMPING_SECONDS = 30.0  # ffmpeg works on times that jump until it is ended (FILL_SECONDS)
OPENED, ACCESSED, NONBLOCKING = 0x20, 0x1, 0o4000  # sys/inotify.h
EVENT = struct.Struct("iIII")


class Watch:
    """Which files of some folders are opened or read, as the kernel tells it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(NONBLOCKING)
        assert self._handle >= 0, os.strerror(ctypes.get_errno())

    def add(self, path: Path) -> None:
        """Watch a file, or the files of a folder."""
        assert self._libc.inotify_add_watch(self._handle, bytes(path), OPENED | ACCESSED) >= 0, path

    def seen(self) -> set[str]:
        """The names of those that were opened since the last call; of a file that is watched itself, "file"."""
        names: set[str] = set()
        while True:
            try:
                data = os.read(self._handle, 2**16)
            except BlockingIOError:
                return names
            while data:
                _, mask, _, length = EVENT.unpack_from(data)
                name = data[EVENT.size : EVENT.size + length].rstrip(b"\0").decode()
                if not mask & 0x40000000:  # a folder that was listed
                    names.add(name or "file")
                data = data[EVENT.size + length :]

    def close(self) -> None:
        """Stop watching."""
        os.close(self._handle)


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canary]:
    """Recordings that nobody may open, and a port that nobody may reach."""
    canary = Canary(tmp_path_factory.mktemp("canary") / "birds")
    yield canary
    canary.close()


@pytest.fixture
def watch(canary: Canary) -> Iterator[Watch]:
    """What is opened of the canary during a test."""
    watch = Watch()
    watch.add(canary.folder)
    yield watch
    watch.close()


def cpu_seconds() -> float:
    """The CPU time that this process and its children have had."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_CHILDREN, resource.RUSAGE_SELF)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def sings(opus: Path) -> bool:
    """Whether the canary's tone is most of what is heard."""
    sound = decoded(opus).mean(axis=1)
    if not sound.any():
        return False
    power = np.abs(np.fft.rfft(sound)) ** 2
    near = np.abs(np.fft.rfftfreq(len(sound), 1 / RATE) - CANARY_HZ) < 15
    return float(power[near].sum() / power.sum()) > 0.3


def convert(program: Path, source: Path, target: Path, most: float = CPU_SECONDS) -> str | None:
    """Why the file cannot be converted; None where it can. Takes no longer than it may."""
    before, reason = cpu_seconds(), None
    try:
        Converter(str(program), timeout_seconds=20).to_opus(source, target, threading.Event())
    except UnreadableAudio as error:
        reason = str(error)
    used = cpu_seconds() - before
    assert used < most, f"{used:.1f} s of CPU: {reason}"
    assert "FFMPEG_TIMEOUT" not in (reason or ""), "it waited for something"
    return reason


def check(hostile: Hostile, program: Path, folder: Path, canary: Canary, watch: Watch) -> None:
    """The file opens nothing else, and what comes of it is refused or its own."""
    (folder / "in").mkdir()
    source = hostile.make(folder / "in", canary, sum(map(ord, hostile.name)))
    for name, _ in hostile.beside:
        watch.add(folder / "in" / name)
    watch.seen()
    visits, target = canary.visits, folder / "out.opus"
    with source.open("rb") as file:
        assert containers.recognise_file(file) not in OPENERS - {"mov"}  # which opens no references, by an option
    most = JUMPING_SECONDS if "back and forth" in hostile.name else CPU_SECONDS
    reason = convert(program, source, target, most)
    assert watch.seen() == set()
    assert canary.visits == visits
    if reason is None:
        assert hostile.own_sound, "it was converted"
        assert not sings(target)
    else:
        assert not target.exists()
        assert not {str(canary.folder), str(folder)} & set(re.findall(r"/[\w./-]+", reason)), reason


SCRIPTS = [hostile for hostile in CASES if hostile.demuxer in OPENERS]
# Of each demuxer that opens other files the first one, and every sixth of all the others.
FIRST = list({hostile.demuxer: hostile for hostile in reversed(SCRIPTS)}.values())
SOME = [hostile for number, hostile in enumerate(CASES) if number % 6 == 0 or hostile in FIRST]


@pytest.mark.parametrize("hostile", CASES if AT_LENGTH else SOME, ids=lambda hostile: hostile.name)
def test_a_hostile_file_opens_nothing_and_fails_by_itself(
    hostile: Hostile, tmp_path: Path, canary: Canary, watch: Watch
) -> None:
    check(hostile, PINNED, tmp_path, canary, watch)


@pytest.mark.parametrize("hostile", CASES if AT_LENGTH else FIRST, ids=lambda hostile: hostile.name)
@pytest.mark.parametrize("ffmpeg", others(), ids=version)
def test_nor_does_the_ffmpeg_of_the_distribution(
    ffmpeg: Path, hostile: Hostile, tmp_path: Path, canary: Canary, watch: Watch
) -> None:
    check(hostile, ffmpeg, tmp_path, canary, watch)


@every_ffmpeg
def test_a_good_file_right_after_them_is_converted(ffmpeg: Path, tmp_path: Path, canary: Canary) -> None:
    for number, hostile in enumerate(SCRIPTS[::25]):
        folder = tmp_path / str(number)
        folder.mkdir()
        evil, good, target = hostile.make(folder, canary, number), folder / "good.wav", folder / "good.opus"
        good.write_bytes(wav(voice(0, 0.5)))
        convert(ffmpeg, evil, folder / "evil.opus")
        assert convert(ffmpeg, good, target) is None
        assert not sings(target)


def test_several_at_once_are_no_way_around(tmp_path: Path, canary: Canary, watch: Watch) -> None:
    for number, hostile in enumerate(SCRIPTS[::5]):
        folder = tmp_path / str(number)
        folder.mkdir()
        good = folder / "good.wav"
        good.write_bytes(wav(voice(0, 0.5)))
        files = [(good, folder / "good.opus"), (hostile.make(folder, canary, number), folder / "evil.opus")]
        watch.seen()
        Converter(str(PINNED)).together(files, threading.Event())
        assert watch.seen() == set()
        assert not (folder / "evil.opus").exists() or not sings(folder / "evil.opus")


# --- the tests can see ---------------------------------------------------------------------------------------


FREE = {  # options that let a demuxer open what it will
    "concat": ("-f", "concat", "-safe", "0"),
    "hls": ("-f", "hls", "-allowed_extensions", "ALL", "-extension_picky", "0"),
    "mov": ("-f", "mov", "-enable_drefs", "1", "-use_absolute_path", "1"),
}


def test_an_ffmpeg_that_is_left_to_itself_opens_the_canary(tmp_path: Path, canary: Canary, watch: Watch) -> None:
    """So these files do what they are for, and the watch sees it."""
    opened = set()
    plain = [hostile for hostile in SCRIPTS if hostile.name.endswith(("absolute", "../", "imf"))]
    for number, hostile in enumerate(plain):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = hostile.make(folder, canary, number)
        watch.seen()
        options = ("-nostdin", "-loglevel", "quiet", "-protocol_whitelist", "file", *FREE.get(hostile.demuxer, ()))
        command = [str(PINNED), *options, "-i", str(source), "-t", "1", "-f", "null", "-"]
        subprocess.run(command, timeout=30, stdin=subprocess.DEVNULL)
        if watch.seen():
            opened.add(hostile.demuxer)
    assert {"concat", "hls", "dash", "imf", "mov"} <= opened


def test_the_canary_can_be_heard(tmp_path: Path, canary: Canary) -> None:
    for suffix in ("wav", "mp3", "m4a"):
        copy = tmp_path / f"own.{suffix}"
        copy.write_bytes((canary.folder / "copies" / f"canary.{suffix}").read_bytes())
        assert convert(PINNED, copy, tmp_path / f"{suffix}.opus") is None
        assert sings(tmp_path / f"{suffix}.opus")


def test_every_demuxer_that_opens_other_files_has_its_file_here() -> None:
    listed = subprocess.run(
        [PINNED, "-hide_banner", "-demuxers"], check=True, capture_output=True, text=True
    ).stdout
    built = set(re.findall(r"^ D[ .]\S* +(\S+)", listed, re.MULTILINE))
    names = {name for group in built for name in group.split(",")}
    assert len(names) > 100
    assert OPENERS & names <= {hostile.demuxer for hostile in CASES}
    assert len(CASES) >= 60
    assert len({hostile.name for hostile in CASES}) == len(CASES)


# --- the system calls ------------------------------------------------------------------------------------------

CHILD = """
import sys, threading
from pathlib import Path
from pipeline.audio.converter import Converter, UnreadableAudio
program, *sources = sys.argv[1:]
for source in sources:
    print("BEGIN", source, flush=True)
    try:
        Converter(program).to_opus(Path(source), Path(source).parent / "out.opus", threading.Event())
    except UnreadableAudio:
        pass
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace (apt install strace)")
def test_strace_sees_nothing_opened_either(tmp_path: Path, canary: Canary) -> None:
    sources = []
    for number, hostile in enumerate(SCRIPTS[::4]):
        folder = tmp_path / str(number)
        folder.mkdir()
        sources.append(hostile.make(folder, canary, number))
    calls = tmp_path / "calls"
    command = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2,connect,socket", "-o", str(calls)]
    child = [sys.executable, "-c", CHILD, str(PINNED), *map(str, sources)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    subprocess.run([*command, *child], check=True, timeout=120, env=environment, stdout=subprocess.DEVNULL)
    said = calls.read_text(errors="replace")
    assert str(sources[0]) in said  # it looked
    assert str(canary.folder) not in said
    assert "/proc/self/environ" not in said
    assert f"htons({canary.port})" not in said
