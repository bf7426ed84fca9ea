"""pipeline/audio/converter.py: sound of any kind to Opus with the real ffmpeg, whole or not at all."""

import contextlib
import dataclasses
import errno
import os
import random
import resource
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import wave
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.audio import conversion_report
from pipeline.audio import converter as converter_module
from pipeline.audio.channels import Plan
from pipeline.audio.converter import Converter, UnreadableAudio
from pipeline.audio.decoder import Track
from pipeline.audio.encoder import Encoder
from pipeline.audio.ogg_opus import opus_channels
from pipeline.audio.pcm import Sound
from pipeline.audio.sound_pieces import Piece
from pipeline.foundation import scratch
from pipeline.foundation.checksum import sha256
from pipeline.foundation.errors import Outage, Permanent, Stopping, unavailable_service
from pipeline.unpack.archive import AUDIO_SUFFIXES
from tests.support.child import descendants, is_alive, wait_until
from tests.support.disks import small_disk
from tests.support.ffmpegs import every_ffmpeg
from tests.support.fleet import PROJECT, ffmpeg_program

SAMPLES = PROJECT / "tests" / "samples"
CALL = SAMPLES / "monday" / "call001.mp3"
NEVER = threading.Event()
REAL = Converter(ffmpeg_program())


def make(path: Path, *arguments: str) -> Path:
    """Make a file with ffmpeg itself."""
    command = [ffmpeg_program(), "-nostdin", "-y", "-loglevel", "error", *arguments, str(path)]
    subprocess.run(command, check=True)
    return path


ARGUMENTS = """
for word; do case "$word" in
    pipe:*) [ -n "$tags" ] || out=${word#pipe:} ;;
    ffmetadata) tags=yes ;;
    libopus) encodes=yes ;;
esac; done
"""


def program(folder: Path, body: str) -> Converter:
    """A converter whose ffmpeg is this shell script: $out is the number of its last pipe of sound, $encodes is set
    where it is to make Opus, and not PCM."""
    script = folder / "ffmpeg.sh"
    script.write_text(f"#!/bin/bash\n{ARGUMENTS}\n{body}\n")
    script.chmod(0o755)
    return Converter(str(script))


def only_when(encoding: bool, body: str) -> str:
    """Where it encodes, or where it decodes, the body comes first. Then its Opus is the real program's, which
    cannot be opened where it decodes, and its PCM half a second of noise."""
    return f"""
if [ {"-n" if encoding else "-z"} "$encodes" ]; then {body}; fi
if [ -n "$encodes" ]; then exec {shlex.quote(ffmpeg_program())} "$@"; fi
printf '{HALF_A_SECOND}' >&$out
"""


def wav_header(channels: int) -> bytes:
    """What ffmpeg writes in front of the PCM."""
    form = struct.pack("<HHIIHH", 1, channels, 16000, 32000 * channels, 2 * channels, 16)
    return b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<I", 16) + form + b"data\xff\xff\xff\xff"


def escaped(content: bytes) -> str:
    """For the printf of shells."""
    return "".join(f"\\x{byte:02x}" for byte in content)


HALF_A_SECOND = escaped(wav_header(1) + random.Random(1).randbytes(16000))


def recording(folder: Path) -> Path:
    """A recording, as it is taken out of an archive."""
    source = folder / "x.source"
    source.write_bytes(CALL.read_bytes())
    return source


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the test converts; whatever happened, no `.part` stays."""
    folder = tmp_path / "in progress"
    folder.mkdir()
    yield folder
    assert list(folder.glob("*.part")) == []


def refused(converter: Converter, source: Path) -> str:
    """The reason why the source cannot be converted; nothing appears beside it."""
    before = sorted(source.parent.iterdir())
    with pytest.raises(UnreadableAudio) as caught:
        converter.to_opus(source, source.parent / "out.opus", NEVER)
    assert sorted(source.parent.iterdir()) == before
    return str(caught.value)


def measured(path: Path) -> tuple[str, int, int, float, float]:
    """Codec, channels, sample rate as decoded, seconds of sound, kb/s."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        seconds = sum(frame.samples / frame.sample_rate for frame in container.decode(stream))
        codec = stream.codec_context
        return codec.name, codec.channels, codec.sample_rate, seconds, path.stat().st_size * 8 / 1000 / seconds


# --- what can be read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kbps", [12, 32, 64])
def test_mp3_becomes_mono_opus_of_the_bitrate_asked(folder: Path, kbps: int) -> None:
    source = make(folder / "noise.mp3", "-f", "lavfi", "-i", "anoisesrc=d=10:c=pink:r=44100", "-ac", "2")
    Converter(ffmpeg_program(), kbps).to_opus(source, folder / "out.opus", NEVER)
    codec, channels, _, seconds, rate = measured(folder / "out.opus")
    assert (codec, channels) == ("libopus", 1) or (codec, channels) == ("opus", 1)
    assert seconds == pytest.approx(10, abs=0.1)
    assert rate == pytest.approx(kbps, rel=0.35)
    assert input_rate(folder / "out.opus") == 16_000


def input_rate(path: Path) -> int:
    """The sample rate that the Opus header names as the input's."""
    head = path.read_bytes()[:200]
    return int.from_bytes(head[head.index(b"OpusHead") + 12 :][:4], "little")


FORMATS = {
    "wav": ("wav", "pcm_s16le", "8000"), "flac": ("flac", "flac", "44100"), "m4a": ("ipod", "aac", "44100"),
    "ogg": ("ogg", "libvorbis", "44100"), "opus": ("opus", "libopus", "48000"), "aac": ("adts", "aac", "22050"),
    "wma": ("asf", "wmav2", "44100"), "aiff": ("aiff", "pcm_s16be", "44100"),
    "aif": ("aiff", "pcm_s24be", "44100"), "aifc": ("aiff", "pcm_alaw", "8000"),
    "webm": ("webm", "libopus", "48000"), "mp3": ("mp3", "libmp3lame", "24000"), "mp2": ("mp2", "mp2", "48000"),
    "mpga": ("mp2", "mp2", "24000"), "oga": ("oga", "flac", "44100"), "w64": ("w64", "pcm_s16le", "16000"),
    "m4b": ("ipod", "aac", "22050"), "mp4": ("mp4", "aac", "48000"), "mov": ("mov", "pcm_s16le", "48000"),
    "3gp": ("3gp", "aac", "16000"), "3g2": ("3g2", "aac", "16000"), "asf": ("asf", "wmav1", "22050"),
    "caf": ("caf", "pcm_s16be", "44100"), "au": ("au", "pcm_mulaw", "8000"), "snd": ("au", "pcm_s16be", "16000"),
    "mka": ("matroska", "flac", "44100"), "mkv": ("matroska", "aac", "44100"), "ac3": ("ac3", "ac3", "48000"),
    "wv": ("wv", "wavpack", "8000"), "voc": ("voc", "pcm_u8", "8000"), "avi": ("avi", "pcm_s16le", "22050"),
    "flv": ("flv", "libmp3lame", "44100"), "ts": ("mpegts", "aac", "48000"), "mpg": ("mpeg", "mp2", "48000"),
    "mpeg": ("mpeg", "libmp3lame", "44100"),
}  # fmt: skip
OTHERS = {  # the same suffixes hold these too
    "wav, mu-law": ("wav", "pcm_mulaw", "8000"), "wav, ADPCM": ("wav", "adpcm_ima_wav", "8000"),
    "wav, float": ("wav", "pcm_f32le", "96000"), "m4a, lossless": ("ipod", "alac", "44100"),
    "mp3, layer 2": ("mp2", "mp2", "44100"),
}  # fmt: skip
MADE_BY_HAND = {  # two seconds of frames of 20 ms
    "amr": b"#!AMR\n" + (b"\x3c" + bytes(31)) * 100,
    "awb": b"#!AMR-WB\n" + (b"\x14" + bytes(32)) * 100,
    "gsm": (b"\xd1" + bytes(32)) * 100,
}
NO_ENCODER = {"ape", "qcp", "dss", "spx"}  # their beginnings are in tests/audio/test_containers.py


@pytest.mark.parametrize("kind", FORMATS | OTHERS)
def test_the_content_counts_whatever_the_suffix(folder: Path, kind: str) -> None:
    container, codec, rate = (FORMATS | OTHERS)[kind]
    form = ("-ar", rate, "-ac", "2", "-c:a", codec, "-f", container)
    source = make(folder / "x.source", "-i", str(CALL), *form)
    REAL.to_opus(source, folder / "out.opus", NEVER)
    assert measured(folder / "out.opus")[3] == pytest.approx(measured(CALL)[3], abs=0.15)


@pytest.mark.parametrize("kind", MADE_BY_HAND)
def test_what_few_ffmpegs_can_write_is_read_too(folder: Path, kind: str) -> None:
    (folder / "x.source").write_bytes(MADE_BY_HAND[kind])
    REAL.to_opus(folder / "x.source", folder / "out.opus", NEVER)
    assert measured(folder / "out.opus")[3] == pytest.approx(2, abs=0.15)


def test_every_suffix_that_counts_as_audio_is_tried_here() -> None:
    assert {f".{kind}" for kind in {*FORMATS, *MADE_BY_HAND, *NO_ENCODER}} == AUDIO_SUFFIXES


def test_a_name_full_of_signs_is_a_file_name(folder: Path) -> None:
    source = folder / "-i %d $(touch x) 'a' é:.source"
    source.write_bytes(CALL.read_bytes())
    target = folder / "-y %03d *.opus"
    REAL.to_opus(source, target, NEVER)
    assert sorted(folder.iterdir()) == sorted([source, target, folder / "-y %03d *.report.json"])


def test_tags_do_not_travel(folder: Path) -> None:
    source = make(folder / "t.mp3", "-i", str(CALL), "-metadata", "title=confidential", "-c", "copy")
    REAL.to_opus(source, folder / "out.opus", NEVER)
    assert b"confidential" not in (folder / "out.opus").read_bytes()


# --- what cannot -------------------------------------------------------------------------------------------


def unreadable(folder: Path, kind: str) -> Path:
    source = folder / "x.source"
    if kind == "video":
        return make(source, "-f", "lavfi", "-i", "testsrc=d=1:s=64x64", "-f", "matroska")
    contents = {
        "damaged": (SAMPLES / "tuesday" / "damaged.mp3").read_bytes(),
        "empty": b"",
        "text": (SAMPLES / "monday" / "notes.txt").read_bytes(),
        "zeros": bytes(5000),
        "tag only": b"ID3\x04\0\0\0\0\0\x0a" + bytes(10),
    }
    source.write_bytes(contents[kind])
    return source


UNKNOWN = "it holds no sound in a format that is read here"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("damaged", UNKNOWN), ("empty", "it is empty"), ("text", UNKNOWN), ("zeros", UNKNOWN),
        ("tag only", UNKNOWN), ("video", "ffmpeg: "),
    ],
)  # fmt: skip
def test_what_holds_no_sound_is_refused_with_a_reason_and_no_path(folder: Path, kind: str, expected: str) -> None:
    reason = refused(REAL, unreadable(folder, kind))
    assert reason.startswith(expected)
    assert reason != "ffmpeg: ended with status 1"
    assert_names_nothing(reason, folder)


def assert_names_nothing(reason: str, folder: Path) -> None:
    """No path of ours and no memory address: the reason is shown to people, and should repeat as it was."""
    assert "/" not in reason
    assert folder.name not in reason
    assert ".part" not in reason
    assert "0x" not in reason


@every_ffmpeg
def test_no_ffmpegs_reason_has_a_path(folder: Path, ffmpeg: Path) -> None:
    """Debian 12's ffmpeg 5.1 begins the line with the file's name."""
    (folder / "x.source").write_bytes(b"caff\0\1" + bytes(100))
    reason = refused(Converter(str(ffmpeg)), folder / "x.source")
    assert "Invalid data found when processing input" in reason
    assert_names_nothing(reason, folder)


def test_a_silent_ffmpeg_gives_its_status_as_the_reason(folder: Path) -> None:
    assert refused(program(folder, "exit 7"), recording(folder)) == "ffmpeg: ended with status 7"


def test_sound_of_an_ffmpeg_that_fails_is_kept_with_a_warning(folder: Path) -> None:
    converter = program(folder, only_when(False, f"printf '{HALF_A_SECOND}' >&$out; exit 7"))
    report = converter.to_opus(recording(folder), folder / "out.opus", NEVER)
    assert report.seconds == 0.5
    assert [(warning.code, "status 7" in warning.message) for warning in report.warnings] == [
        ("decode_errors", True)
    ]


def test_an_unreadable_file_is_no_outage_and_not_tried_again() -> None:
    assert issubclass(UnreadableAudio, Permanent)
    assert unavailable_service(UnreadableAudio("x")) is None


@pytest.mark.parametrize("encoding", [False, True])
def test_an_ffmpeg_that_crashes_leaves_nothing(folder: Path, encoding: bool) -> None:
    converter = program(folder, only_when(encoding, "echo half >&$out; kill -SEGV $$"))
    assert refused(converter, recording(folder)) == "ffmpeg was ended with status -11, 3 times"


@pytest.mark.parametrize(
    ("ending", "encoding"),
    [("kill -9 $$", False), ("kill -9 $$", True), ("kill -TERM $$", False), ("exit 255", False)],
)
def test_an_ffmpeg_that_is_killed_leaves_nothing_and_is_the_hosts_fault(
    folder: Path, ending: str, encoding: bool
) -> None:
    converter, source = program(folder, only_when(encoding, f"echo half >&$out; {ending}")), recording(folder)
    for _ in range(5):
        with pytest.raises(Outage, match=r"ended with status .*, 3 times: this host may have") as caught:
            converter.to_opus(source, folder / "out.opus", NEVER)
        assert caught.value.service == "the host"
    assert sorted(path.name for path in folder.iterdir()) == ["ffmpeg.sh", "x.source"]


def test_a_decoder_of_an_opus_that_is_killed_is_the_hosts_fault_too(folder: Path) -> None:
    opus = folder / "out.opus"
    REAL.to_opus(recording(folder), opus, NEVER)
    with pytest.raises(Outage, match="this host may have no memory left"):
        list(program(folder, "kill -9 $$").sound(opus, NEVER))
    with pytest.raises(UnreadableAudio, match=r"status -11$"):
        list(program(folder, "kill -SEGV $$").sound(opus, NEVER))


def encode_stereo_with(monkeypatch: pytest.MonkeyPatch, *instead: str) -> Converter:
    """A converter that runs another program as the encoder of two channels."""
    command = Encoder._command

    def one_or_the_other(self: Encoder, sounds: list[Sound], plans: list[Plan], urls: Sequence[str]) -> list[str]:
        return [*instead] if sounds[0].channels == 2 else command(self, sounds, plans, urls)

    monkeypatch.setattr(Encoder, "_command", one_or_the_other)
    return Converter(ffmpeg_program())


def test_a_file_that_ffmpeg_is_killed_with_for_minutes_fails_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converter = encode_stereo_with(monkeypatch, "bash", "-c", "kill -9 $$")
    stereo = many_channels(folder / "x.wav", 2)
    with pytest.raises(Outage, match="status -9, 3 times"):
        converter.to_opus(stereo, folder / "x.opus", NEVER)
    converter.to_opus(CALL, folder / "out.opus", NEVER)  # its neighbour goes through
    monkeypatch.setattr(converter_module, "KILLED_SECONDS", 0)
    with pytest.raises(UnreadableAudio, match="status -9 for 0 s, with this file alone"):
        converter.to_opus(stereo, folder / "x.opus", NEVER)


def test_no_file_fails_where_ffmpeg_is_killed_with_everything(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converter_module, "KILLED_SECONDS", 0.001)
    converter, source = program(folder, "kill -9 $$"), recording(folder)
    for _ in range(3):
        with pytest.raises(Outage, match="status -9, 3 times"):
            converter.to_opus(source, folder / "out.opus", NEVER)


def test_who_got_through_waits_anew_when_ffmpeg_is_killed_again(folder: Path) -> None:
    alive = folder.parent / "alive"
    converter = program(folder, only_when(False, f'[ -e "{alive}" ] || kill -9 $$'))
    source = recording(folder)
    with pytest.raises(Outage, match="status -9"):
        converter.to_opus(source, folder / "out.opus", NEVER)
    assert list(converter._killed) == [source]
    alive.touch()
    converter.to_opus(source, folder / "out.opus", NEVER)
    assert converter._killed == {}


def when_it_stands_still(then: Callable[[], object]) -> threading.Thread:
    """Wait for a child of ours that has stopped itself, do something, and let it go on."""
    began = children()

    def wait() -> None:
        wait_until(lambda: bool(still(children() - began)), "a child that stands still", 20)
        then()
        for child in still(children() - began):
            os.kill(child, signal.SIGCONT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def still(processes: set[int]) -> set[int]:
    """Those that were stopped by a signal."""
    found = set()
    for process in processes:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                found.add(process)
    return found


@pytest.mark.parametrize("ending", ["kill -9 $$", "kill -TERM $$", "exit 255"])
def test_an_ffmpeg_that_a_signal_has_ended_is_started_again(folder: Path, ending: str) -> None:
    first = folder.parent / "first"
    first.touch()
    converter = program(folder, only_when(False, f'[ -e "{first}" ] && {{ kill -STOP $$; {ending}; }}'))
    thread = when_it_stands_still(first.unlink)
    converter.to_opus(recording(folder), folder / "out.opus", NEVER)
    thread.join()
    assert measured(folder / "out.opus")[0] == "opus"


def test_who_stops_the_worker_may_stop_ffmpeg_first(folder: Path) -> None:
    stop = threading.Event()
    converter = program(folder, "kill -STOP $$; exit 255")
    thread = when_it_stands_still(stop.set)
    with pytest.raises(Stopping):
        converter.to_opus(recording(folder), folder / "out.opus", stop)
    thread.join()


def test_a_trial_says_why_a_program_will_not_do(tmp_path: Path) -> None:
    assert REAL.problem() is None
    assert program(tmp_path, "exit 7").problem() == "ffmpeg: ended with status 7"
    assert "no sound" in str(program(tmp_path, "true").problem())
    assert Converter(ffmpeg_program(), bitrate_kbps=9999).problem() is not None


def test_the_target_appears_only_when_it_is_whole(folder: Path) -> None:
    waiting = f'while [ ! -e "{folder}/go" ]; do sleep 0.02; done'
    watching = program(folder, only_when(True, f"echo half >&$out; {waiting}; echo whole >&$out; exit"))
    target = folder / "out.opus"
    thread = threading.Thread(target=watching.to_opus, args=(recording(folder), target, NEVER))
    thread.start()
    wait_until(lambda: any(part.stat().st_size for part in folder.glob("*.part")), "the first half", 20)
    assert not target.exists()
    assert not conversion_report.path_of(target).exists()
    (folder / "go").touch()
    thread.join(20)
    assert target.read_text() == "half\nwhole\n"


# --- patience ----------------------------------------------------------------------------------------------

ENDLESS = ("-f", "lavfi", "-i", "anoisesrc=d=3600:r=8000", "-c:a", "pcm_u8", "-f", "wav")


@pytest.fixture(scope="module")
def long_recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour of noise: it takes ffmpeg many seconds."""
    return make(tmp_path_factory.mktemp("long") / "long.source", *ENDLESS)


def children() -> set[int]:
    return {pid for pid in descendants(os.getpid()) if is_alive(pid)}


def test_a_conversion_that_takes_too_long_is_ended(folder: Path, long_recording: Path) -> None:
    before, started = children(), time.monotonic()
    with pytest.raises(UnreadableAudio, match="did not finish within 1 s"):
        Converter(ffmpeg_program(), timeout_seconds=1).to_opus(long_recording, folder / "out.opus", NEVER)
    assert 0.9 < time.monotonic() - started < 4
    assert children() == before
    assert list(folder.iterdir()) == []


def test_an_ffmpeg_that_ignores_sigterm_is_ended_too(folder: Path) -> None:
    before = children()
    deaf = program(folder, 'trap "" TERM INT; while :; do :; done').program
    assert "did not finish" in refused(Converter(deaf, timeout_seconds=1), recording(folder))
    assert children() == before


def test_stopping_ends_ffmpeg_at_once(folder: Path, long_recording: Path) -> None:
    stop, before = threading.Event(), children()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Stopping):
        REAL.to_opus(long_recording, folder / "out.opus", stop)
    assert time.monotonic() - started < 3
    assert children() == before
    assert list(folder.iterdir()) == []


def test_a_finished_conversion_counts_although_stop_is_set(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop comes when ffmpeg has ended, and the Opus is about to appear."""
    stop, sync = threading.Event(), scratch.sync

    def stopping(path: Path) -> None:
        stop.set()
        sync(path)

    monkeypatch.setattr(scratch, "sync", stopping)
    REAL.to_opus(CALL, folder / "out.opus", stop)
    assert stop.is_set()
    assert (folder / "out.opus").exists()


# --- limits ------------------------------------------------------------------------------------------------


def limited(folder: Path, body: str, **limits: Any) -> str:
    """Why a conversion by this script is refused."""
    return refused(dataclasses.replace(program(folder, body), **limits), recording(folder))


@pytest.mark.skipif("LONG_TESTS" not in os.environ, reason="takes a minute and gigabytes: LONG_TESTS=1")
def test_a_hungry_ffmpeg_costs_one_failure_that_names_the_limit(folder: Path) -> None:
    """What it says is not asked: it has used up its memory, and has failed."""
    eat = "x=$(printf '%*s' 1048576 ''); for ((i = 0; i < {}; i++)); do a+=(\"$x\"); done; exit {}"
    own = own_memory()
    limit = 2 * own + 400
    named = f"ffmpeg needs more than {limit} MB of memory (FFMPEG_MAX_MEMORY_MB)"
    assert limited(folder, eat.format(100000, 0), memory_mb=limit) == named
    assert limited(folder, eat.format(own + 100, 7), memory_mb=limit) == "ffmpeg: ended with status 7"
    assert limited(folder, eat.format(own + 100, 0), memory_mb=limit) == "ffmpeg found no sound in it"


@pytest.mark.parametrize("words", ["Cannot allocate memory", "No space left on device", "Input/output error"])
def test_what_ffmpeg_says_decides_nothing(folder: Path, words: str) -> None:
    """They may be the name of a file, or a title."""
    reason = limited(folder, f"echo '[error] {words}' >&2; exit 1")
    assert reason == f"ffmpeg: {words}"


def own_memory() -> int:
    """The most that this process has had (MiB): of a child that had less, nobody knows how much."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize(("encoding", "reason"), [
    (True, "its Opus would be over 2 MB (OPUS_MAX_MB)"), (False, "its Opus would be too large (OPUS_MAX_MB)"),
])  # fmt: skip
def test_an_endless_output_costs_one_failure_that_names_the_limit(
    folder: Path, encoding: bool, reason: str
) -> None:
    endless = only_when(encoding, f"printf '{escaped(wav_header(1))}' >&$out; exec yes >&$out")
    started = time.monotonic()
    assert limited(folder, endless, opus_mb=2) == reason
    assert time.monotonic() - started < 5


def test_silence_that_is_only_counted_costs_one_failure_too(folder: Path) -> None:
    """A byte of AMR may stand for 640 of PCM: they would fill the disk, and that would look like an outage."""
    (folder / "x.source").write_bytes(b"#!AMR\n" + (b"\x3c" + bytes(31)) * 50 + b"\x7c" * 20_000)
    assert refused(dataclasses.replace(REAL, opus_mb=1), folder / "x.source") == (
        "its Opus would be too large (OPUS_MAX_MB)"
    )


def test_an_opus_over_the_limit_is_not_taken_for_a_whole_one(folder: Path, long_recording: Path) -> None:
    (folder / "x.source").symlink_to(long_recording)
    assert "(OPUS_MAX_MB)" in refused(Converter(ffmpeg_program(), 256, opus_mb=1), folder / "x.source")


def test_a_busy_ffmpeg_ends_even_when_nobody_is_left_to_end_it(folder: Path) -> None:
    limits = 'echo "$(ulimit -t) $(ulimit -Hc) $(ulimit -f)" >&2; exit 1'
    assert limited(folder, limits, timeout_seconds=7) == "ffmpeg: 15 0 0"
    reason = limited(folder, "kill -XCPU $$", timeout_seconds=7)
    assert reason == "ffmpeg took 14 s of CPU (FFMPEG_TIMEOUT_SECONDS)"


def test_what_ffmpeg_says_is_kept_in_part(folder: Path) -> None:
    tracemalloc.start()
    reason = limited(folder, "seq 1000000 >&2; exit 1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason.startswith("ffmpeg: 1; 2; 3; ")
    assert len(reason) < 500
    assert peak < 5 * 2**20


def test_a_crowd_of_helpers_ends_with_ffmpeg(folder: Path) -> None:
    before = children()
    assert "did not finish" in limited(folder, "sleep 60 & sleep 60", timeout_seconds=1)
    wait_until(lambda: children() == before, "the helpers' end", 5)


def hungry_m4a(folder: Path) -> Path:
    """10 kB that claim 60 million samples: ffmpeg's index of them takes 1.4 GB."""
    made = make(folder / "x.source", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", "-f", "ipod")
    data = bytearray(made.read_bytes())
    samples = 60_000_000
    sizes, chunks = data.index(b"stsz"), data.index(b"stsc")
    data[sizes + 8 : sizes + 16] = struct.pack(">II", 1, samples)
    data[chunks + 16 : chunks + 20] = struct.pack(">I", samples)
    made.write_bytes(data)
    return made


def test_a_recording_that_eats_memory_costs_one_failure(folder: Path) -> None:
    """In a process of its own, which shows what its children took at the most."""
    script = f"""
import resource, threading
from pathlib import Path
from pipeline.audio.converter import Converter, UnreadableAudio
try:
    Converter({ffmpeg_program()!r}, memory_mb=500).to_opus(
        Path({str(hungry_m4a(folder))!r}), Path({str(folder / "out.opus")!r}), threading.Event())
except UnreadableAudio as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT)
    reason, peak = done.stdout.splitlines()
    assert reason == "ffmpeg found no sound in it"  # all that it says, and then it ends with status 0
    assert int(peak) < 400
    assert not (folder / "out.opus").exists()


def test_a_recording_of_an_absurd_sample_rate_fails_with_the_limit(folder: Path) -> None:
    """2 kB, 5 microseconds of sound: ffmpeg's filter from 200 MHz to 16 kHz takes 1.7 GB."""
    rate = 199_999_991
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    named = ((b"fmt ", form), (b"data", bytes(2000)))
    chunks = b"".join(name + struct.pack("<I", len(data)) + data for name, data in named)
    (folder / "x.source").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    assert refused(REAL, folder / "x.source") == f"its sample rate is {rate} Hz"


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_recording_of_no_length_holds_no_sound(folder: Path, kind: str) -> None:
    make(folder / "x.source", "-f", "lavfi", "-i", "sine=d=1", "-t", "0", "-f", kind)
    assert refused(REAL, folder / "x.source").startswith("ffmpeg")


# --- the host ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_not_the_files_fault(folder: Path) -> None:
    """Whatever is written when it is full: the PCM (79 kB), the Opus (15 kB), or its report."""
    full = []
    for kilobytes in (4, 40, 76, 80, 84, 88, 92, 96, 100, 104):
        with small_disk(folder / "small", f"{kilobytes}k") as small:
            try:
                REAL.to_opus(CALL, small / "out.opus", NEVER)
                assert sorted(path.name for path in small.iterdir()) == ["out.opus", "out.report.json"]
            except OSError as error:
                full.append(error)
                left = list(small.iterdir())
            else:
                continue
        assert left == []
    assert {error.errno for error in full} == {errno.ENOSPC}
    assert {unavailable_service(error) for error in full} == {"the disk"}
    assert 6 <= len(full) < 10


def test_a_disk_that_fills_up_is_not_the_files_fault(folder: Path, long_recording: Path) -> None:
    with small_disk(folder / "small", "64k") as small:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            REAL.to_opus(long_recording, small / "out.opus", NEVER)
        assert caught.value.errno == errno.ENOSPC
        assert list(small.iterdir()) == []


def test_an_opus_is_on_the_disk_by_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, sync, synced = folder / "out.opus", scratch.sync, []

    def noted(path: Path) -> None:
        synced.append((path, target.exists()))
        sync(path)

    monkeypatch.setattr(scratch, "sync", noted)
    REAL.to_opus(CALL, target, NEVER)
    assert synced[-1] == (folder, True)
    assert [(path.suffixes[-2:], is_there) for path, is_there in synced[:-1]] == [
        ([synced[0][0].suffixes[-2], ".part"], False),
        ([".json", ".part"], False),
    ]
    assert synced[0][0].name.startswith("out.opus.")


def test_an_opus_of_other_bytes_never_has_the_new_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies between the report and the Opus leaves none that the next one would take."""
    target, write = folder / "out.opus", conversion_report.write
    REAL.to_opus(CALL, target, NEVER)

    class Died(Exception):
        pass

    def dying(*args: Any) -> None:
        write(*args)
        raise Died

    monkeypatch.setattr(conversion_report, "write", dying)
    other = SAMPLES / "monday" / "meeting.mp3"
    with pytest.raises(Died):
        REAL.to_opus(other, target, NEVER)
    assert conversion_report.is_of(target, sha256(other)) is None
    assert conversion_report.is_of(target, sha256(CALL)) is None


def test_a_report_lies_beside_the_opus(folder: Path) -> None:
    target = folder / "out.opus"
    report = REAL.to_opus(CALL, target, NEVER)
    assert conversion_report.read(target) == report == conversion_report.is_of(target, sha256(CALL))
    assert report.seconds == pytest.approx(measured(CALL)[3], abs=0.1)
    assert report.channels == opus_channels(target) == 1
    assert report.warnings == []
    target.unlink()
    assert conversion_report.is_of(target, sha256(CALL)) is None


def test_a_missing_program_is_named_and_not_the_files_fault(folder: Path) -> None:
    with pytest.raises(Outage, match="no-such-ffmpeg") as caught:
        Converter("no-such-ffmpeg").to_opus(CALL, folder / "out.opus", NEVER)
    assert unavailable_service(caught.value) == "ffmpeg"


def test_a_program_that_cannot_run_is_not_the_files_fault(folder: Path) -> None:
    (folder.parent / "ffmpeg").write_bytes(b"\x7fELF of another machine")
    (folder.parent / "ffmpeg").chmod(0o755)
    with pytest.raises(Outage, match="ffmpeg cannot be run"):
        Converter(str(folder.parent / "ffmpeg")).to_opus(CALL, folder / "out.opus", NEVER)


def test_no_child_survives_a_conversion(folder: Path) -> None:
    before = children()
    REAL.to_opus(CALL, folder / "out.opus", NEVER)
    assert children() == before
    assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL


# --- hostile content ---------------------------------------------------------------------------------------


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """A listening socket that nobody may connect to."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener
        with pytest.raises(BlockingIOError):
            listener.accept()


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
    "m3u": "#EXTM3U\n{url}\n",
    "concat": "ffconcat version 1.0\nfile {url}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio {port} RTP/AVP 0\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet '
    'mimeType="audio/mp4"><Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet>'
    "</Period></MPD>",
    "url": "[InternetShortcut]\nURL={url}\n",
}


@pytest.mark.parametrize("name", ["x.source", "x.m3u8"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_reaches_no_network(folder: Path, trap: socket.socket, kind: str, name: str) -> None:
    port = trap.getsockname()[1]
    (folder / name).write_text(PLAYLISTS[kind].format(url=f"http://127.0.0.1:{port}/a.mp3", port=port))
    refused(REAL, folder / name)


def test_ffmpeg_is_limited_to_files_by_an_option() -> None:
    """And with which demuxer. The sandbox stops it anyway, so no playlist shows whether the option is there."""
    tracks = [Track(Path("a"), Piece("mp3")), Track(Path("b"), Piece("wav", 5, 9))]
    command = REAL._decoder._command(tracks, ["pipe:3", "pipe:4"])
    inputs = [number for number, word in enumerate(command) if word == "-i"]
    options = [number for number, word in enumerate(command) if word == "-protocol_whitelist"]
    forms = [number for number, word in enumerate(command[: inputs[-1]]) if word == "-f"]
    assert [command[number + 1] for number in options] == ["file,subfile"] * len(inputs) == ["file,subfile"] * 2
    assert all(first < second for first, second in zip(options, inputs, strict=True))
    assert {command[number + 1] for number in forms} == {"mp3", "wav"}


@pytest.mark.parametrize("kind", ["hls", "m3u", "concat"])
def test_a_playlist_reads_no_other_file(folder: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.mp3"
    secret.write_bytes(CALL.read_bytes())
    for url in (str(secret), f"file://{secret}", "../secret.mp3"):
        (folder / "x.source").write_text(PLAYLISTS[kind].format(url=url))
        refused(REAL, folder / "x.source")


def many_channels(path: Path, channels: int, tracks: int = 1) -> Path:
    """Noise, other in each channel; the last one is silent."""
    samples = np.random.default_rng(1).normal(0, 3000, (4000, channels))
    samples[:, -1] = 0
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(samples.astype("<i2").tobytes())
    if tracks == 1:
        return path
    inputs = ("-i", str(path)) * tracks
    mapped = [word for number in range(tracks) for word in ("-map", str(number))]
    return make(path.with_suffix(".mka"), *inputs, *mapped, "-c:a", "pcm_s16le", "-f", "matroska")


@every_ffmpeg
@pytest.mark.parametrize("channels", [2, 3, 9, 10, 17, 64])
def test_channels_of_any_number_stop_no_host(folder: Path, ffmpeg: Path, channels: int) -> None:
    source = many_channels(folder / "x.wav", channels)
    report = Converter(str(ffmpeg)).to_opus(source, folder / "out.opus", NEVER)
    assert report.channels == opus_channels(folder / "out.opus") == channels - 1
    assert [warning.code for warning in report.warnings] == ["silent_channel"]


def test_tracks_of_too_many_channels_stop_no_host(folder: Path) -> None:
    """An encoder that fails is an outage: its input is our own."""
    report = REAL.to_opus(many_channels(folder / "x.wav", 40, tracks=3), folder / "out.opus", NEVER)
    assert report.channels == 39
    assert "ignored_track" in {warning.code for warning in report.warnings}


def with_a_gap(folder: Path, seconds: int) -> Path:
    """Two tracks; the times of the second one leave so much out."""
    made = folder / "x.source"
    jump = f"[1:a]asetpts='if(gt(T,1),PTS+{seconds}/TB,PTS)'[late]"
    form = ("-map", "0:a", "-map", "[late]", "-c:a", "pcm_s16le", "-f", "matroska")
    return make(made, "-i", str(CALL), "-i", str(CALL), "-filter_complex", jump, *form)


def test_times_of_a_second_track_that_cannot_be_right_cost_only_the_times(folder: Path) -> None:
    report = REAL.to_opus(with_a_gap(folder, 20_000), folder / "out.opus", NEVER)
    assert report.seconds == pytest.approx(measured(CALL)[3], abs=0.1)
    assert "gap" in {warning.code for warning in report.warnings}


@pytest.mark.parametrize("samples", [1, 2, 30, 300, 1000])
@pytest.mark.parametrize("channels", [1, 2, 12])
def test_a_few_samples_stop_no_host(folder: Path, samples: int, channels: int) -> None:
    loud = np.random.default_rng(1).normal(0, 3000, (samples, channels)).astype("<i2")
    with wave.open(str(folder / "x.wav"), "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(loud.tobytes())
    if samples < 100:  # whether it is sound or not
        with contextlib.suppress(UnreadableAudio):
            REAL.to_opus(folder / "x.wav", folder / "out.opus", NEVER)
        return
    report = REAL.to_opus(folder / "x.wav", folder / "out.opus", NEVER)
    assert (report.channels, report.seconds) == (channels, pytest.approx(samples / 16_000, abs=0.001))
    assert sum(len(block) for block in REAL.sound(folder / "out.opus", NEVER)) == pytest.approx(samples, abs=320)


def test_a_file_that_the_encoder_alone_fails_with_stops_no_host(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial with other sound says whose fault it is."""
    converter = encode_stereo_with(monkeypatch, "false")
    reason = refused(converter, many_channels(folder / "x.wav", 2))
    assert reason.startswith("ffmpeg fails with this file alone: ")
    converter.to_opus(CALL, folder / "out.opus", NEVER)
    assert converter.together([(folder / "x.wav", folder / "a.opus"), (CALL, folder / "b.opus")], NEVER) is None


def test_an_encoder_that_fails_with_everything_is_an_outage(folder: Path) -> None:
    source = recording(folder)
    with pytest.raises(Outage, match="failed to make Opus, status 7"):
        program(folder, only_when(True, "exit 7")).to_opus(source, folder / "out.opus", NEVER)
    assert sorted(path.name for path in folder.iterdir()) == ["ffmpeg.sh", "x.source"]


# --- together ----------------------------------------------------------------------------------------------


def test_several_files_are_converted_at_once_each_as_alone(folder: Path) -> None:
    calls = [CALL, SAMPLES / "monday" / "meeting.mp3"]
    made = REAL.together([(call, folder / f"{call.stem}.opus") for call in calls], NEVER)
    assert made == [REAL.to_opus(call, folder / f"{call.stem}-alone.opus", NEVER) for call in calls]
    for call in calls:
        assert measured(folder / f"{call.stem}.opus") == measured(folder / f"{call.stem}-alone.opus")
        assert conversion_report.read(folder / f"{call.stem}.opus") == conversion_report.read(
            folder / f"{call.stem}-alone.opus"
        )


@pytest.mark.parametrize("odd", ["text", "damaged", "video", "cut", "joined", "cut FLAC", "two tracks", "gap"])
def test_files_of_which_one_is_unusual_are_not_converted_at_once(folder: Path, odd: str) -> None:
    if odd in ("cut", "joined"):
        whole = make(folder / "x.source", "-i", str(CALL), "-f", "wav").read_bytes()
        (folder / "x.source").write_bytes(whole[:9000] if odd == "cut" else whole * 2)
    elif odd == "cut FLAC":  # all that is known before it is decoded is in order
        whole = make(folder / "x.source", "-i", str(CALL), "-f", "flac").read_bytes()
        (folder / "x.source").write_bytes(whole[: len(whole) // 2])
    elif odd == "two tracks":
        tracks = ("-i", str(CALL), "-i", str(CALL), "-map", "0", "-map", "1")
        make(folder / "x.source", *tracks, "-f", "matroska")
    elif odd == "gap":
        gap = MADE_BY_HAND["amr"] + b"\x7c" * 100 + MADE_BY_HAND["amr"][6:]
        (folder / "x.source").write_bytes(gap)
    else:
        unreadable(folder, odd)
    files = [(CALL, folder / "call.opus"), (folder / "x.source", folder / "x.opus")]
    if odd == "gap":  # of silence that was not recorded: nothing is wrong with it
        made = REAL.together(files, NEVER)
        assert made is None or made[1].seconds == pytest.approx(6, abs=0.1)
        return
    assert REAL.together(files, NEVER) is None
    assert [path.name for path in folder.iterdir()] == ["x.source"]
