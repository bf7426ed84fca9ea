"""Following archives to their end: for `enqueue --wait` and `batch --wait`."""

import functools
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

import config
import s3_utils
from pipeline.commands import common
from pipeline.foundation.errors import unavailable_service
from pipeline.foundation.formatting import printable, whole_number
from pipeline.jobs.batch_ids import batch_id_of, source_of
from pipeline.operations.archive_progress import Followed, Progress, Tracker
from pipeline.operations.failures import read_dead_letters
from pipeline.store.database import Database

LOOK_SECONDS = 1
TELL_SECONDS = 60  # between two lines of the files of an archive, where there is no terminal


def tracker_of(redis: Any, database: Database, ignored: frozenset[str] = frozenset()) -> Tracker:
    """What looks for archives, with the settings; `ignored` are the ids of dead letters of earlier tries."""

    @functools.cache
    def batch_of(path: str, state: str) -> str:
        source, changed = source_of(path, state), whole_number(state.rpartition(" ")[2]) or 0
        noted = s3_utils.batch_of_source(source)[0] if config.S3_BUCKET else None
        return noted or batch_id_of(source, changed)

    return Tracker(redis, database, config.TRANSFER_QUEUE, config.UNPACK_QUEUE, batch_of, ignored)


def known_dead_letters(redis: Any) -> frozenset[str]:
    """The ids of the dead letters of transfers and archives that are there now."""
    return frozenset(found.id for found in read_dead_letters(redis, [config.TRANSFER_QUEUE, config.UNPACK_QUEUE]))


def follow(tracker: Tracker, archives: list[Followed]) -> int:
    """Tell how far the archives are until nothing more will happen; 0 where every file is done, else 1. An outage
    is waited for."""
    left, has_failed = list(dict.fromkeys(archives)), False
    with _Shown() as shown:
        for looked in _looks(tracker, left):
            for archive, progress in looked:
                shown.tell(archive, progress)
                if progress.is_over:
                    has_failed = has_failed or progress.has_failed
                    left.remove(archive)
    return int(has_failed)


def _looks(tracker: Tracker, left: list[Followed]) -> Iterator[list[tuple[Followed, Progress]]]:
    """Where the archives are that are left, again and again while there are some."""
    told = ""
    while left:
        try:
            looked = list(zip(left, tracker.look(left), strict=True))
        except Exception as error:
            if (service := unavailable_service(error)) is None:
                raise
            if told != service:
                common.complain(f"{service} is unavailable: {error}: waiting for it")
            told = service
        else:
            told = ""
            yield looked
        if left:
            time.sleep(LOOK_SECONDS)


class _Shown:
    """A bar for each archive on a terminal; elsewhere a line when something new has happened to one."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        self.bars = Bars(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.tasks: dict[Followed, TaskID] = {}
        self.told: dict[Followed, tuple[str, float]] = {}

    def __enter__(self) -> "_Shown":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def tell(self, archive: Followed, progress: Progress) -> None:
        """Show where an archive is now."""
        line = printable(f"{archive}{self._batch(archive, progress)}: {progress.what}")
        if self.console.is_terminal:
            self._draw(archive, progress, line)
        phase, since = self.told.get(archive, ("", 0.0))
        is_new = phase != progress.phase or (progress.files and time.monotonic() - since > TELL_SECONDS)
        if progress.is_over or (is_new and not self.console.is_terminal):
            self.told[archive] = progress.phase, time.monotonic()
            self.console.print(Text(line), soft_wrap=True)

    def _batch(self, archive: Followed, progress: Progress) -> str:
        return f" as {progress.batch_id}" if archive.path and progress.batch_id else ""

    def _draw(self, archive: Followed, progress: Progress, line: str) -> None:
        total = progress.files or None
        if archive not in self.tasks:
            self.tasks[archive] = self.bars.add_task("", total=total)
        self.bars.update(
            self.tasks[archive], description=line, total=total, completed=progress.settled,
            visible=not progress.is_over,
        )  # fmt: skip
