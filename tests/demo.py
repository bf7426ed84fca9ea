"""Runs the whole pipeline on this machine: real servers, the three real workers, sample archives.

It starts Valkey, PostgreSQL, an S3 server and an SSH host on free loopback ports in a temporary folder, puts
the archives on the SSH host, starts the workers, shows their progress, and checks what came out.
"""

import argparse
import secrets
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from pipeline.errors import Permanent
from tests import demo_report
from tests.fleet import PROJECT, Fleet

EPILOG = """Exit status: 0 when every file went in and came out, 1 when a check failed, 2 for wrong arguments."""
PATIENCE_SECONDS = 300  # without any progress


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
    parser.add_argument(
        "--model",
        type=Path,
        metavar="DIR",
        help="a folder with a Whisper model in CTranslate2 format, instead of the small one for the samples,"
        " which knows 36 words",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running and say how to look around")
    given = parser.parse_args()
    for path in given.archive:
        if not path.is_file():
            parser.error(f"there is no file {path}")
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


def watch(fleet: Fleet, archives: int, console: Console) -> None:
    """Show the progress of each stage until every batch is finished, or nothing moves any more."""
    columns = (TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars = {stage: progress.add_task(stage, total=None) for stage in demo_report.STAGES}
        last: dict[str, tuple[int, int]] = {}
        moved = time.monotonic()
        while True:
            now = demo_report.stages(fleet, archives)
            if now != last:
                last, moved = now, time.monotonic()
                for stage, (done, total) in now.items():
                    progress.update(bars[stage], completed=done, total=total)
                if not console.is_terminal:
                    line = ", ".join(f"{stage} {done}/{total}" for stage, (done, total) in now.items())
                    console.print(line, soft_wrap=True)
            if now["finished batches"][0] + demo_report.dead_letters(fleet) >= archives:
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
    with Fleet(folder) as fleet:
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
        watch(fleet, len(archives), console)
        for table in demo_report.tables(fleet):
            console.print(table)
        passed = demo_report.check(fleet, remote, given, console)
        if given.keep:
            stay(fleet, console)
    return passed


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
    settings.write_text("".join(f"{name}='{value}'\n" for name, value in fleet.settings().items()))
    _, address = fleet.page(token)
    python = PROJECT / ".venv" / "bin" / "python"
    console.print("\nTo watch it, in another terminal or in a browser:", style="bold")
    for line in (
        f"(set -a; . {settings}; {python} {PROJECT}/pipelinectl.py status --watch)",
        f"{address}/  with the token {token}",
    ):
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    console.print()


def stay(fleet: Fleet, console: Console) -> None:
    """Leave everything running until Ctrl-C."""
    python = PROJECT / ".venv" / "bin" / "python"
    console.print("\nEverything is still running; Ctrl-C ends it. In another terminal:", style="bold")
    for line in (
        f"set -a; . {fleet.folder}/demo.env; set +a",
        f"{python} {PROJECT}/pipelinectl.py status",
        f"cp your.tar {fleet.ssh.folder}/",
        f"{python} {PROJECT}/pipelinectl.py enqueue {fleet.ssh.folder}/your.tar",
        f"psql {fleet.postgres.url} -c 'select original_filename, status, text from audio_files"
        " left join transcripts using (audio_id)'",
        f"tail -f {fleet.folder}/*.log",
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
        for data in (folder / "valkey", folder / "postgres" / "data", folder / "scratch", folder / "ec2"):
            shutil.rmtree(data, ignore_errors=True)
        print(f"the workers' and the servers' logs are kept in {folder}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def main() -> int:
    """Run the demonstration."""
    given, console = arguments(), Console()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with temporary_folder() as folder:
            if run(given, folder, console):
                return 0
            raise Permanent("a check failed")
    except KeyboardInterrupt:
        return 130
    except (Permanent, RuntimeError, TimeoutError) as error:
        print(f"./demo: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
