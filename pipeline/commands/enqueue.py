"""pipelinectl enqueue: have archives brought from the EC2 host, or bring them from this one."""

import argparse
import contextlib
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

import config
import s3_tombstones
import s3_utils
from pipeline.commands import common
from pipeline.commands.following import follow, known_dead_letters, tracker_of
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import printable
from pipeline.operations.archive_progress import Followed
from pipeline.transfer.discovery import Watch
from pipeline.transfer.local_archives import LocalArchives
from pipeline.transfer.remote_paths import canonical

DESCRIPTION = """Queue archives: paths on the EC2 host, which a transfer worker fetches, and with --local files of
this machine, which are uploaded to S3 before the command ends. The same file again, under whatever name, is the
batch that it was; where an earlier run was cut off, it is gone on with. --wait follows them to the end: exit
status 0 if every file is done, 1 if an archive or some of its files failed. Ctrl-C ends the waiting, not the
work."""


def run(arguments: argparse.Namespace) -> int:
    """Queue remote paths for transfer, and upload and queue local archives; gives the exit status."""
    if not arguments.remote_path and not arguments.local:
        arguments.usage_error("name an archive")
    paths = spelled(arguments.remote_path)
    if paths and not config.EC2_HOST:
        common.complain("EC2_HOST is not set here: the archives are fetched from that of the transfer workers")
    redis = common.connect()
    files = checked(local_archives(redis), arguments.local)
    if not arguments.wait:
        status, queued = queue(redis, paths, files)
        for archive in queued:
            name = shlex.quote(archive.batch_id or archive.path)
            common.say(f"follow it with: pipelinectl.py batch {name} --wait")
        return status
    with common.connect_database() as database:
        tracker = tracker_of(redis, database, known_dead_letters(redis))
        status, queued = queue(redis, paths, files)
        return follow(tracker, queued) or status


def queue(redis: Any, paths: list[str], files: dict[Path, int | None]) -> tuple[int, list[Followed]]:
    """Queue remote paths, then take local archives in; gives the exit status, and what was queued."""
    watch = Watch(redis, config.TRANSFER_QUEUE)
    for path in paths:
        watch.enqueue(path)
        common.say(f"queued {path}")
    status, batch_ids = take(local_archives(redis), files) if files else (0, [])
    queued = [Followed(path) for path in paths] + [Followed(batch_id=batch_id) for batch_id in batch_ids]
    return status, list(dict.fromkeys(queued))


def spelled(paths: list[str]) -> list[str]:
    """The remote paths as they are queued; ends with status 2 where one is not absolute."""
    try:
        return [canonical(path) for path in paths]
    except Permanent as problem:
        common.reject(str(problem))


def local_archives(redis: Any) -> LocalArchives:
    """What takes the archives in, with the settings."""
    limits = (config.ARCHIVE_MAX_MEMBERS, config.ARCHIVE_MAX_MB * 2**20, config.ARCHIVE_MAX_FILE_MB * 2**20)
    return LocalArchives(
        redis, config.TRANSFER_QUEUE, config.UNPACK_QUEUE, limits,
        s3_utils.archive_key, s3_tombstones.batch_of_source, s3_utils.note_source, s3_utils.upload_unless_changed,
        config.HOST_NAME,
    )  # fmt: skip


def checked(archives: LocalArchives, paths: list[str]) -> dict[Path, int | None]:
    """The archives and how many audio files each holds; ends with status 2 where one is no archive, or S3
    refuses us."""
    files: dict[Path, int | None] = {}
    problems = []
    for path in map(Path, paths):
        try:
            files[path] = archives.check(path)
        except Permanent as problem:
            problems.append(f"{path}: {problem}")
        except OSError as error:
            problems.append(f"{path}: {error.strerror or error}")
    if problems:
        common.reject(*problems)
    if files:
        config.require(*config.S3)
        if refusal := s3_utils.check_bucket():
            config.refuse(refusal)
    return files


def take(archives: LocalArchives, files: dict[Path, int | None]) -> tuple[int, list[str]]:
    """Upload and queue the archives one after the other; gives the exit status, and the ids of their batches."""
    status, batch_ids = 0, []
    for path, number in files.items():
        try:
            with progress() as follow:
                s3_utils.follow = follow
                with follow(f"reading {path.name}", path.stat().st_size) as moved:
                    batch_id, done = archives.take(path, number, moved)
        except Permanent as problem:
            common.complain(f"{path}: {problem}")
            status = 1
        except FileNotFoundError:
            common.complain(f"{path}: it is gone")
            status = 1
        else:
            common.say(f"{path} {done}")
            batch_ids.append(batch_id)
    return status, batch_ids


@contextlib.contextmanager
def progress() -> Iterator[s3_utils.Follow]:
    """What shows how far each step is, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    shown = Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    )

    @contextlib.contextmanager
    def follow(what: str, total: int) -> Iterator[Callable[[int], object]]:
        task = shown.add_task(printable(what).replace("[", "\\["), total=total)
        yield lambda count: shown.advance(task, count)
        shown.remove_task(task)

    with shown:
        yield follow


def add(commands: Any) -> None:
    """Its arguments."""
    queueing = commands.add_parser(
        "enqueue", help="queue archives of the EC2 host, or of this machine", description=DESCRIPTION
    )
    queueing.add_argument("remote_path", nargs="*", help="path of a tar archive on the EC2 host")
    queueing.add_argument(
        "--local",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="a tar archive here: it is uploaded",
    )
    queueing.add_argument("--wait", action="store_true", help="follow the archives to the end")
    queueing.set_defaults(run=run, usage_error=queueing.error)
