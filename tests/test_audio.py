"""pipeline/audio.py: sound of any kind to Opus with the real ffmpeg, whole or not at all."""

import dataclasses
import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from pipeline import scratch
from pipeline.archive import AUDIO_SUFFIXES
from pipeline.audio import Converter, UnreadableAudio
from pipeline.errors import Outage, Permanent, Stopping, away
from tests.child import descendants, is_alive, wait_until
from tests.disks import small_disk
from tests.fleet import PROJECT, ffmpeg_program

SAMPLES = PROJECT / "tests" / "samples"
CALL = SAMPLES / "monday" / "call001.mp3"
NEVER = threading.Event()
REAL = Converter(ffmpeg_program())


def make(path: Path, *arguments: str) -> Path:
    """Make a file with ffmpeg itself."""
    command = [ffmpeg_program(), "-nostdin", "-y", "-loglevel", "error", *arguments, str(path)]
    subprocess.run(command, check=True)
    return path


def program(folder: Path, body: str) -> Converter:
    """A converter whose ffmpeg is this shell script."""
    script = folder / "ffmpeg.sh"
    script.write_text(f"#!/bin/bash\n{body}\n")
    script.chmod(0o755)
    return Converter(str(script))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the test converts; whatever happened, no `.part` stays."""
    folder = tmp_path / "in work"
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
    "aif": ("aiff", "pcm_s24be", "44100"), "webm": ("webm", "libopus", "48000"),
    "mp3": ("mp3", "libmp3lame", "24000"),
    "oga": ("oga", "flac", "44100"),
}  # fmt: skip
OTHERS = {  # the same suffixes hold these too
    "wav, mu-law": ("wav", "pcm_mulaw", "8000"), "wav, ADPCM": ("wav", "adpcm_ima_wav", "8000"),
    "wav, float": ("wav", "pcm_f32le", "96000"), "m4a, lossless": ("ipod", "alac", "44100"),
    "mp3, layer 2": ("mp2", "mp2", "44100"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FORMATS | OTHERS)
def test_the_content_counts_whatever_the_suffix(folder: Path, kind: str) -> None:
    container, codec, rate = (FORMATS | OTHERS)[kind]
    form = ("-ar", rate, "-ac", "2", "-c:a", codec, "-f", container)
    source = make(folder / "x.source", "-i", str(CALL), *form)
    REAL.to_opus(source, folder / "out.opus", NEVER)
    assert measured(folder / "out.opus")[3] == pytest.approx(measured(CALL)[3], abs=0.15)


def test_amr_is_read_too(folder: Path) -> None:
    """Few ffmpegs can write it: two seconds of AMR-NB, as frames of 12.2 kb/s (32 bytes each, of 20 ms)."""
    (folder / "x.source").write_bytes(b"#!AMR\n" + (b"\x3c" + bytes(31)) * 100)
    REAL.to_opus(folder / "x.source", folder / "out.opus", NEVER)
    assert measured(folder / "out.opus")[3] == pytest.approx(2, abs=0.15)


def test_every_suffix_that_counts_as_audio_is_tried_here() -> None:
    assert {f".{kind}" for kind in FORMATS} | {".amr"} == AUDIO_SUFFIXES


def test_a_name_full_of_signs_is_a_file_name(folder: Path) -> None:
    source = folder / "-i %d $(touch x) 'a' é:.source"
    source.write_bytes(CALL.read_bytes())
    target = folder / "-y %03d *.opus"
    REAL.to_opus(source, target, NEVER)
    assert sorted(folder.iterdir()) == sorted([source, target])


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


@pytest.mark.parametrize("kind", ["damaged", "empty", "text", "zeros", "tag only", "video"])
def test_what_holds_no_sound_is_refused_with_a_reason_and_no_path(folder: Path, kind: str) -> None:
    reason = refused(REAL, unreadable(folder, kind))
    assert reason.startswith("ffmpeg: ")
    assert len(reason) > len("ffmpeg: ended with status 1")
    assert_names_nothing(reason, folder)


def assert_names_nothing(reason: str, folder: Path) -> None:
    """No path of ours and no memory address: the reason is shown to people, and should repeat as it was."""
    assert "/" not in reason.replace("m3u8/hls", "")
    assert folder.name not in reason
    assert ".part" not in reason
    assert "0x" not in reason


def test_the_reason_of_an_older_ffmpeg_has_no_path_either(folder: Path) -> None:
    """Debian 12's ffmpeg 5.1 begins the line with the file's name."""
    said = f"[mp3 @ 0x55d0] Format mp3 detected\\nfile:{folder}/x.source: Invalid data found when processing input"
    (folder / "x.source").write_bytes(b"x")
    reason = refused(program(folder, f'printf "{said}\\n" >&2; exit 1'), folder / "x.source")
    assert "Invalid data found when processing input" in reason
    assert_names_nothing(reason, folder)


def test_a_silent_ffmpeg_gives_its_status_as_the_reason(folder: Path) -> None:
    (folder / "x.source").write_bytes(b"x")
    assert refused(program(folder, "exit 7"), folder / "x.source") == "ffmpeg: ended with status 7"


def test_an_unreadable_file_is_no_outage_and_not_tried_again() -> None:
    assert issubclass(UnreadableAudio, Permanent)
    assert away(UnreadableAudio("x")) is None


def test_a_killed_ffmpeg_leaves_nothing(folder: Path) -> None:
    (folder / "x.source").write_bytes(b"x")
    write = 'for last; do case "$last" in *.part) echo half > "${last#file:}";; esac; done'
    reason = refused(program(folder, f"{write}; kill -9 $$"), folder / "x.source")
    assert reason == "ffmpeg was ended with status -9, 3 times"


@pytest.mark.parametrize("ending", ["kill -9 $$", "kill -TERM $$", "exit 255"])
def test_an_ffmpeg_that_a_signal_has_ended_is_started_again(folder: Path, ending: str) -> None:
    (folder / "x.source").write_bytes(CALL.read_bytes())
    once = f'[ -e "{folder.parent}/was" ] || {{ touch "{folder.parent}/was"; {ending}; }}'
    converter = program(folder, f'{once}; exec {ffmpeg_program()} "$@"')
    converter.to_opus(folder / "x.source", folder / "out.opus", NEVER)
    assert measured(folder / "out.opus")[0] == "opus"


def test_who_stops_the_worker_may_stop_ffmpeg_first(folder: Path) -> None:
    stop = threading.Event()
    (folder / "x.source").write_bytes(b"x")
    converter = program(folder, f"touch {folder.parent}/begun; sleep 0.3; exit 255")
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(Stopping):
        converter.to_opus(folder / "x.source", folder / "out.opus", stop)


def test_a_trial_says_why_a_program_will_not_do(tmp_path: Path) -> None:
    assert REAL.problem() is None
    assert program(tmp_path, "exit 7").problem() == "ffmpeg: ended with status 7"
    assert "no sound" in str(program(tmp_path, "true").problem())
    assert Converter(ffmpeg_program(), bitrate_kbps=9999).problem() is not None


def test_the_target_appears_only_when_it_is_whole(folder: Path) -> None:
    (folder / "x.source").write_bytes(b"x")
    write = 'for last; do case "$last" in *.part) part="${last#file:}";; esac; done; echo half > "$part"'
    watching = program(folder, f'{write}; while [ ! -e "{folder}/go" ]; do sleep 0.02; done; echo whole > "$part"')
    target = folder / "out.opus"
    thread = threading.Thread(target=watching.to_opus, args=(folder / "x.source", target, NEVER))
    thread.start()
    wait_until(lambda: any(part.stat().st_size for part in folder.glob("*.part")), "the first half", 10)
    assert not target.exists()
    (folder / "go").touch()
    thread.join(10)
    assert target.read_text() == "whole\n"


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
    with pytest.raises(UnreadableAudio, match="not done after 1 s"):
        Converter(ffmpeg_program(), timeout_seconds=1).to_opus(long_recording, folder / "out.opus", NEVER)
    assert 0.9 < time.monotonic() - started < 4
    assert children() == before
    assert list(folder.iterdir()) == []


def test_an_ffmpeg_that_ignores_sigterm_is_ended_too(folder: Path) -> None:
    (folder / "x.source").write_bytes(b"x")
    before = children()
    deaf = program(folder, 'trap "" TERM INT; while :; do :; done').program
    assert "not done" in refused(Converter(deaf, timeout_seconds=1), folder / "x.source")
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


def test_a_finished_conversion_counts_although_stop_is_set(folder: Path) -> None:
    stop = threading.Event()
    stop.set()
    REAL.to_opus(CALL, folder / "out.opus", stop)
    assert (folder / "out.opus").exists()


# --- limits ------------------------------------------------------------------------------------------------


def limited(folder: Path, body: str, **limits: Any) -> str:
    """Why a conversion by this script is refused."""
    (folder / "x.source").write_bytes(b"x")
    return refused(dataclasses.replace(program(folder, body), **limits), folder / "x.source")


def test_a_hungry_ffmpeg_costs_one_failure_that_names_the_limit(folder: Path) -> None:
    eat = f"exec {sys.executable} -c 'print(len(bytearray(400 * 2**20)))'"
    assert limited(folder, eat, memory_mb=200) == "ffmpeg needs more than 200 MB of memory (FFMPEG_MAX_MEMORY_MB)"
    reason = limited(folder, eat, memory_mb=900)  # else it is one that makes no Opus
    assert reason == "ffmpeg found no sound in it"


def test_an_endless_output_costs_one_failure_that_names_the_limit(folder: Path) -> None:
    endless = (
        'for last; do case "$last" in *.part) part="${last#file:}";; esac; done; exec cat /dev/zero > "$part"'
    )
    started = time.monotonic()
    assert limited(folder, endless, opus_mb=2) == "its Opus would be over 2 MB (OPUS_MAX_MB)"
    assert time.monotonic() - started < 5


def test_an_opus_over_the_limit_is_not_taken_for_a_whole_one(folder: Path, long_recording: Path) -> None:
    (folder / "x.source").symlink_to(long_recording)
    assert "(OPUS_MAX_MB)" in refused(Converter(ffmpeg_program(), 256, opus_mb=1), folder / "x.source")


def test_a_busy_ffmpeg_ends_even_when_nobody_is_left_to_end_it(folder: Path) -> None:
    limits = f'ulimit -t > "{folder.parent}/cpu"; ulimit -Hc >> "{folder.parent}/cpu"'
    limited(folder, f"sleep 0.3; {limits}", timeout_seconds=7)
    assert (folder.parent / "cpu").read_text().split() == ["15", "0"]
    reason = limited(folder, "sleep 0.1; kill -XCPU $$", timeout_seconds=7)
    assert reason == "ffmpeg took 14 s of CPU (FFMPEG_TIMEOUT_SECONDS)"


def test_what_ffmpeg_says_is_kept_in_part(folder: Path) -> None:
    tracemalloc.start()
    reason = limited(folder, "yes 'Invalid data, again' | head -c 100000000 >&2; exit 1")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason.startswith("ffmpeg: Invalid data, again; ")
    assert len(reason) < 500
    assert peak < 5 * 2**20


def test_a_crowd_of_helpers_ends_with_ffmpeg(folder: Path) -> None:
    before = children()
    assert "not done" in limited(folder, "sleep 60 & sleep 60", timeout_seconds=1)
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
from pipeline.audio import Converter, UnreadableAudio
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


def test_a_recording_of_an_absurd_sample_rate_is_told_of_the_limit(folder: Path) -> None:
    """2 kB, 5 microseconds of sound: ffmpeg's filter from 200 MHz to 16 kHz takes 1.7 GB."""
    rate = 199_999_991
    form = struct.pack("<HHIIHH", 1, 1, rate, 2 * rate, 2, 16)
    named = ((b"fmt ", form), (b"data", bytes(2000)))
    chunks = b"".join(name + struct.pack("<I", len(data)) + data for name, data in named)
    (folder / "x.source").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    assert refused(REAL, folder / "x.source") == "ffmpeg needs more than 1024 MB of memory (FFMPEG_MAX_MEMORY_MB)"


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_a_recording_of_no_length_holds_no_sound(folder: Path, kind: str) -> None:
    make(folder / "x.source", "-f", "lavfi", "-i", "sine=d=1", "-t", "0", "-f", kind)
    assert refused(REAL, folder / "x.source").startswith("ffmpeg")


# --- the host ----------------------------------------------------------------------------------------------


def test_a_full_disk_is_not_the_files_fault(folder: Path) -> None:
    full = 'a=("$@"); for i in "${!a[@]}"; do case "${a[i]}" in *.part) a[i]=file:/dev/full;; esac; done'
    converter = program(folder, f'{full}; exec "{ffmpeg_program()}" "${{a[@]}}"')
    for source in (CALL, SAMPLES / "monday" / "meeting.mp3"):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            converter.to_opus(source, folder / "out.opus", NEVER)
        assert caught.value.errno == errno.ENOSPC
        assert away(caught.value) == "the disk"
        assert not (folder / "out.opus").exists()


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
    assert len(synced) == 2


def test_a_missing_program_is_named_and_not_the_files_fault(folder: Path) -> None:
    with pytest.raises(Outage, match="no-such-ffmpeg") as caught:
        Converter("no-such-ffmpeg").to_opus(CALL, folder / "out.opus", NEVER)
    assert away(caught.value) == "ffmpeg"


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


def test_ffmpeg_is_told_to_open_files_alone() -> None:
    """Newer ones open nothing else of themselves, so that no playlist shows whether they were told."""
    command = REAL._command([(Path("a"), Path("a.opus")), (Path("b"), Path("b.opus"))])
    inputs = [number for number, word in enumerate(command) if word == "-i"]
    told = [number for number, word in enumerate(command) if word == "-protocol_whitelist"]
    assert [command[number + 1] for number in told] == ["file"] * len(inputs) == ["file"] * 2
    assert all(first < second for first, second in zip(told, inputs, strict=True))


@pytest.mark.parametrize("kind", ["hls", "m3u", "concat"])
def test_a_playlist_reads_no_other_file(folder: Path, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret.mp3"
    secret.write_bytes(CALL.read_bytes())
    for url in (str(secret), f"file://{secret}", "../secret.mp3"):
        (folder / "x.source").write_text(PLAYLISTS[kind].format(url=url))
        refused(REAL, folder / "x.source")
