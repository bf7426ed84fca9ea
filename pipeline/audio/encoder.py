"""PCM to Opus: ffmpeg as an encoder, of the channels that are worth keeping.

It reads our own PCM: where it fails, it is not the file.
"""

import contextlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import ffmpeg

from pipeline.audio import conversion_report, damage
from pipeline.audio.channels import Measures, Plan
from pipeline.audio.conversion_report import Report
from pipeline.audio.ffmpeg_errors import Interrupted, UnreadableAudio, too_slow
from pipeline.audio.ffmpeg_messages import LEVEL, Messages
from pipeline.audio.pcm import SAMPLE_RATE, Sound
from pipeline.audio.process_pipes import MESSAGES, TooSlow, running
from pipeline.foundation import checksum, scratch
from pipeline.foundation.errors import Outage, Stop
from pipeline.foundation.file_warnings import FileWarning


@dataclass(frozen=True)
class Encoder:
    """How Opus files are made: the program, the bitrate (kb/s) of each channel, the most time (s) and Opus (MiB)
    for one file, and which channels are kept (`channels.MODES`)."""

    program: str
    bitrate_kbps: int
    timeout_seconds: int
    opus_mb: int
    channels: str

    def encode(self, files: list[tuple[Path, Path, Sound, list[FileWarning]]], stop: Stop) -> list[Report]:
        """Make the Opus of each (source, target, its sound, what is wrong with it), with its report."""
        plans = [self._plan(sound) for _, _, sound, _ in files]
        # A name of its own: the worker that was killed may have left another one.
        token = uuid.uuid4().hex[:8]
        parts = [target.with_name(f"{target.name}.{token}.part") for _, target, _, _ in files]
        reports_made = []
        try:
            self._run([sound for _, _, sound, _ in files], plans, parts, stop)
            for (source, target, sound, warnings), plan, part in zip(files, plans, parts, strict=True):
                damaged = [*warnings, *damage.of_channels(plan)]
                report = Report(round(sound.seconds, 3), len(plan.weights), damaged, sound.tags)
                scratch.sync(part)
                _remove(target)  # of other bytes: it must not get this report
                conversion_report.write(target, report, checksum.sha256(source))
                part.rename(target)
                reports_made.append(report)
            scratch.sync(files[0][1].parent)  # the names too: what is queued must be there after a power cut
        finally:
            for part in parts:
                part.unlink(missing_ok=True)
        return reports_made

    def _plan(self, sound: Sound) -> Plan:
        if not sound.frames:
            raise UnreadableAudio("ffmpeg found no sound in it")
        if sound.channels == 1:
            return Plan([{0: 1.0}])
        measures = Measures(sound.channels, SAMPLE_RATE)
        for block in sound.blocks():
            measures.add(block)
        return measures.plan(self.channels)

    def _run(self, sounds: list[Sound], plans: list[Plan], parts: list[Path], stop: Stop) -> None:
        for sound in sounds:
            sound.file.seek(0)
        inputs = [sound.file.fileno() for sound in sounds]
        messages, most = Messages(), self.opus_mb * 2**20
        with contextlib.ExitStack() as files:
            targets = [files.enter_context(part.open("xb", buffering=0)) for part in parts]

            def command(urls: Sequence[str]) -> list[str]:
                return self._command(sounds, plans, urls)

            with running(command, len(parts), stop, self.timeout_seconds, inputs) as program:
                try:
                    for number, chunk in program.chunks():
                        if number == MESSAGES:
                            messages.feed(chunk)
                        elif targets[number].tell() + len(chunk) > most:
                            raise UnreadableAudio(f"its Opus would be over {self.opus_mb} MB (OPUS_MAX_MB)")
                        else:
                            _write(targets[number], chunk)
                except TooSlow:
                    raise too_slow(self.timeout_seconds) from None
            messages.close()
            status = program.ended.status
            if status < 0:
                raise Interrupted(status)
            if status:  # its input is our own: this host would fail file after file
                raise Outage(
                    "ffmpeg", f"{self.program} failed to make Opus, status {status}: {messages.reason({})}"
                )

    def _command(self, sounds: list[Sound], plans: list[Plan], urls: Sequence[str]) -> list[str]:
        """One thread each, no tags; more than two channels as they are, by a mapping that has no loudspeakers."""
        outputs = []
        for sound, plan, url in zip(sounds, plans, urls, strict=True):
            count = len(plan.weights)
            options: dict[str, object] = {"mapping_family": 255} if count > 2 else {}
            if not plan.is_copy(sound.channels):
                options["af"] = plan.pan()
            source = ffmpeg.input(
                f"pipe:{sound.file.fileno()}", format="s16le", ar=SAMPLE_RATE, ac=sound.channels, threads=1
            )
            outputs.append(
                source["a:0"].output(
                    url, format="opus", acodec="libopus", threads=1, map_metadata=-1, application="voip",
                    audio_bitrate=f"{self.bitrate_kbps * count}k", **options,
                )
            )  # fmt: skip
        return list(
            ffmpeg.merge_outputs(*outputs)
            .global_args("-nostdin", "-hide_banner", "-nostats", "-loglevel", LEVEL)
            .overwrite_output()
            .compile(cmd=self.program)
        )


def _remove(target: Path) -> None:
    """Remove an older Opus, so that it is gone after a power cut too."""
    if target.exists():
        target.unlink()
        scratch.sync(target.parent)


def _write(file: FileIO, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[file.write(view) :]
