"""The audio files of an archive made Opus on every core, each given as soon as it is ready.

Few files are taken out of the archive ahead of their conversion, so that scratch holds the archive and the Opus,
not every MP3 beside them. Small files share one ffmpeg, whose start costs as much as some seconds of sound.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.audio import conversion_report
from pipeline.audio.converter import Converter, UnreadableAudio
from pipeline.foundation.errors import Stop, Stopping
from pipeline.unpack import archive
from pipeline.unpack.archive import Member

TOGETHER, SMALL_BYTES = 8, 2**18  # files of so many bytes at most are converted so many at a time (bench/archives)
Outcome = tuple[Member, UnreadableAudio | None]


@dataclass
class _End:
    """The worker is to stop, or nobody reads on."""

    stop: Stop
    closing: bool = False

    def is_set(self) -> bool:
        return self.closing or self.stop.is_set()


@dataclass(frozen=True)
class Conversions:
    """Where and how: the folder of the Opus, the converter, how many at a time.

    `until_available(step, ...)` runs a step again while the disk is unavailable (`Worker.until_available`); `stop`
    ends the work, and what is ready by then is found by the next delivery.
    """

    folder: Path
    converter: Converter
    jobs: int
    until_available: Callable[..., Any]
    stop: Stop

    def opus(self, member: Member) -> Path:
        """Where the member's Opus is, or will be."""
        return self.folder / f"{member.safe_stem}.opus"

    def of(self, path: Path, members: list[Member]) -> Generator[Outcome, None, None]:
        """Convert these members of the archive; gives each with None, or why it cannot be converted.

        Close it where it is not read to its end: what has not begun then never does.
        """
        running: dict[Future[list[Outcome] | None], list[Member]] = {}
        end = _End(self.stop)
        with path.open("rb") as tar, ThreadPoolExecutor(self.jobs, "convert") as pool:

            def begin(group: list[Member]) -> None:
                running[pool.submit(self.until_available, self._convert, tar, group, end)] = group

            try:
                for group in groups(members, 2 * self.jobs):
                    begin(group)
                    while len(running) >= 2 * self.jobs:
                        yield from _take_done(running, begin)
                while running:
                    yield from _take_done(running, begin)
            except BaseException:
                end.closing = True  # also for those that wait for the disk
                pool.shutdown(cancel_futures=True)
                raise

    def _convert(self, tar: BinaryIO, group: list[Member], end: Stop) -> list[Outcome] | None:
        """Take files out of the archive and make their Opus (in a thread of the pool); None where they cannot be
        converted together."""
        if end.is_set():
            raise Stopping
        missing = [member for member in group if not self._is_converted(tar, member)]
        files = [(self.opus(member).with_suffix(".source"), self.opus(member)) for member in missing]
        try:
            for member, (source, _) in zip(missing, files, strict=True):
                source.unlink(missing_ok=True)  # of a run that was killed
                archive.copy(tar, member, source)
            if len(files) > 1:
                return [(member, None) for member in group] if self.converter.together(files, end) else None
            reasons = {
                member: self._reason(source, target, end)
                for member, (source, target) in zip(missing, files, strict=True)
            }
        finally:
            for source, _ in files:
                source.unlink(missing_ok=True)
        return [(member, reasons.get(member)) for member in group]

    def _is_converted(self, tar: BinaryIO, member: Member) -> bool:
        """Whether an earlier delivery has made this Opus, of the same bytes. It is whole: it appears only then."""
        opus = self.opus(member)
        return opus.exists() and conversion_report.is_of(opus, archive.digest(tar, member)) is not None

    def _reason(self, source: Path, target: Path, end: Stop) -> UnreadableAudio | None:
        """Convert a file; gives why it cannot be converted, or None."""
        try:
            self.converter.to_opus(source, target, end)
        except UnreadableAudio as error:
            return error
        return None


def groups(members: list[Member], alone: int) -> Iterator[list[Member]]:
    """The files as they are converted: small ones together, large ones and the first `alone` ones alone, so that
    transcription can begin."""
    group: list[Member] = []
    for number, member in enumerate(members):
        if member.size > SMALL_BYTES or number < alone:
            yield [member]
            continue
        group.append(member)
        if len(group) == TOGETHER:
            yield group
            group = []
    if group:
        yield group


def _take_done(
    running: dict[Future[list[Outcome] | None], list[Member]], begin: Callable[[list[Member]], None]
) -> Iterator[Outcome]:
    """Wait for a conversion to end, and give the files of all that have; begin those of a group that failed, each
    alone, so that only the cause fails, with its own reason."""
    for done in wait(running, return_when=FIRST_COMPLETED).done:
        group = running.pop(done)
        outcomes = done.result()
        for member in group if outcomes is None else ():
            begin([member])
        yield from outcomes or ()
