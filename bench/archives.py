"""Unpacking and S3 against their peers: the same files and cores, in turn, several rounds.

    bench/archives                        everything; about 20 minutes on two cores
    bench/archives unpack --short 2000    only unpacking, of so many short files
    bench/archives s3 --mb 500            only S3, with a file of so many MB

unpack   the real unpack worker (download, index, conversion, queueing) beside `xargs -P` with the same ffmpeg and
         options on the MP3s already extracted; short files of 2 to 7 s, and long ones of 10 minutes
files    the cost of a file in archives of 100 to 20,000 files
s3       uploads and downloads with their SHA-256, beside the AWS CLI and rclone, on OpenStack Swift;
         as a process, its start (imports) counted as theirs is, and in a process that runs already, as a worker
transfer the real transfer worker beside scp, then the AWS CLI, archive after archive; `--mb` in all; on loopback
         and on a line of `--line` MB/s to each server

A ratio is the peer's time divided by ours in the same round; over 1 is faster. The tables give the median round.
Written to bench/results: a table for each part, and of all of them the numbers (archives.json) and a chart.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from bench import corpus, report
from bench.line import Line
from bench.report import Panel
from pipeline.store.database import Database
from tests.support.fleet import PROJECT, Fleet, ffmpeg_program
from tests.support.recordings import SHORT, sample
from tests.support.servers import Sshd, SwiftS3

RESULTS = PROJECT / "bench" / "results"
CORES = len(os.sched_getaffinity(0))
BATCH = "20250622-143052"
REMOTE = f"archives/{BATCH}.tar"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/archives", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("parts", nargs="*", help="unpack, files, s3, transfer (default: all)")
    add("--short", type=int, default=1000, help="short files (default: %(default)s)")
    add("--long", type=int, default=4, help="long files (default: %(default)s)")
    add("--mb", type=int, default=300, help="size of the file for S3 (default: %(default)s)")
    add("--counts", default="100,1000,5000", help="files in the archives of `files` (default: %(default)s)")
    add("--line", type=int, default=40, help="MB in a second of the lines of `transfer` (default: %(default)s)")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    given = parser.parse_args()
    unknown = set(given.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    return given


# --- unpacking ---------------------------------------------------------------------------------------------


def short_mp3s(count: int) -> dict[str, bytes]:
    """Calls of 2 to 7 s."""
    calls = [sample(name) for name in SHORT if name.partition("/")[2].startswith("call")]
    return {f"call{number:05}.mp3": calls[number % len(calls)] for number in range(count)}


def long_mp3s(folder: Path, count: int) -> dict[str, bytes]:
    """Recordings of 10 minutes."""
    opus = corpus.long_recordings(folder, [10])[0]
    mp3 = folder / "long.mp3"
    command = [ffmpeg_program(), "-nostdin", "-y", "-loglevel", "error", "-i", str(opus)]
    subprocess.run([*command, "-c:a", "libmp3lame", "-b:a", "64k", str(mp3)], check=True)
    return {f"meeting{number:02}.mp3": mp3.read_bytes() for number in range(count)}


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def ours(fleet: Fleet, tar: Path, folder: Path, files: int, weigh: bool = False) -> dict[str, float]:
    """The worker's wall time for one archive, from its job to the last file queued. `weigh` gives what scratch
    holds at its peak, and the Opus, instead: that takes time."""
    fleet.clean(folder)
    fleet.changes = {"UNPACK_BACKLOG_FILES": "1000000", "SCRATCH_MIN_FREE_MB": "1", "HOST_NAME": "bench"}
    upload = f"import s3_utils; s3_utils.upload_archive(__import__('pathlib').Path({str(tar)!r}), {BATCH!r})"
    subprocess.run([sys.executable, "-c", upload], cwd=PROJECT, env=fleet.environment(), check=True)
    worker = fleet.worker("unpack")
    with redis.Redis.from_url(fleet.valkey.url) as client:
        _until(lambda: "ready" in worker.log.read_text(), worker.require_running)
        job = {"batch_id": BATCH, "s3_key": f"archives/{BATCH}.tar", "file_count": files, "transferred_at": "now"}
        start = time.perf_counter()
        client.rpush("queue:unpack", json.dumps(job))
        _until(lambda: bool(client.llen("queue:transcribe")), worker.require_running)
        first = time.perf_counter() - start
        peak = 0
        while client.llen("queue:transcribe") < files:
            worker.require_running()
            if weigh:
                peak = max(peak, fleet.scratch_bytes())
            time.sleep(0.002)
        wall = time.perf_counter() - start
    if weigh:
        fleet.stop_workers()
        opus = sum(path.stat().st_size for path in (folder / "scratch" / BATCH).glob("*.opus"))
        return {"peak_mb": peak / 1e6, "opus_mb": opus / 1e6}
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    memory = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    fleet.stop_workers()
    return {"seconds": wall, "first_s": first, "memory_mb": memory}


def _until(done: Callable[[], bool], check: Callable[[], object]) -> None:
    while not done():
        check()
        time.sleep(0.002)


def xargs(files: dict[str, bytes], folder: Path) -> dict[str, float]:
    """xargs with ffmpeg on the same files, already extracted."""
    source, target = folder / "mp3", folder / "opus"
    for path in (source, target):
        path.mkdir(parents=True)
    for name, data in files.items():
        (source / name).write_bytes(data)
    ffmpeg = [ffmpeg_program(), "-nostdin", "-loglevel", "error", "-threads", "1", "-i", f"{source}/{{}}"]
    options = ["-map", "0:a:0", "-map_metadata", "-1", "-ac", "1", "-ar", "16000", "-threads", "1"]
    options += ["-c:a", "libopus", "-b:a", "48k", "-application", "voip", f"{target}/{{}}.opus"]
    start = time.perf_counter()
    subprocess.run(
        ["xargs", "-0", "-P", str(CORES), "-I{}", *ffmpeg, *options], input="\0".join(files), text=True, check=True
    )
    wall = time.perf_counter() - start
    if len(list(target.iterdir())) != len(files):
        raise RuntimeError("xargs and ffmpeg did not convert every file")
    shutil.rmtree(folder)
    return {"seconds": wall}


def unpack(given: argparse.Namespace, folder: Path) -> Iterator[str | Panel]:
    """Short and long files."""
    corpora = {}
    if given.short:
        corpora[f"{given.short} short files"] = short_mp3s(given.short)
    if given.long:
        corpora[f"{given.long} files of 10 minutes"] = long_mp3s(folder / "corpus", given.long)
    yield (
        "| | unpack worker | `xargs -P` ffmpeg | ratio | first file queued | memory "
        "| scratch at its peak | archive and Opus |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    with started(folder) as fleet:
        for kind, files in corpora.items():
            tar = write_tar(folder / "bench.tar", files)
            rounds = []
            for number in range(given.rounds):
                before = xargs(files, fresh(folder)) if number % 2 else None
                mine = ours(fleet, tar, fresh(folder), len(files))
                rounds.append([mine, before or xargs(files, fresh(folder))])
                say(kind, rounds[-1])
            weight = ours(fleet, tar, fresh(folder), len(files), weigh=True)
            us, them = rounds[0][0], rounds[0][1]
            us = {key: statistics.median(one[0][key] for one in rounds) for key in us}
            them = {key: statistics.median(one[1][key] for one in rounds) for key in them}
            ratio = statistics.median(one[1]["seconds"] / one[0]["seconds"] for one in rounds)
            yield (
                f"| {kind} | {us['seconds']:.1f} s | {them['seconds']:.1f} s | {ratio:.2f} | "
                f"after {us['first_s']:.2f} s ({us['first_s'] / us['seconds']:.1%}) | {us['memory_mb']:.0f} MB | "
                f"{weight['peak_mb']:.1f} MB | {tar.stat().st_size / 1e6:.1f} + {weight['opus_mb']:.1f} MB |"
            )
            speeds = [[len(files) / one["seconds"] for one in pair] for pair in zip(*rounds, strict=True)]
            yield Panel(kind, "files converted in a second", dict(zip(("ours", "xargs"), speeds, strict=True)))


def files(given: argparse.Namespace, folder: Path) -> Iterator[str | Panel]:
    """The cost of a file."""
    yield "| files in the archive | unpack worker | for a file | first file queued | memory |"
    yield "|---|---|---|---|---|"
    with started(folder) as fleet:
        for count in map(int, given.counts.split(",")):
            tar = write_tar(folder / "bench.tar", short_mp3s(count))
            one = ours(fleet, tar, fresh(folder), count)
            say(f"{count} files", [one])
            yield (
                f"| {count} | {one['seconds']:.1f} s | {1000 * one['seconds'] / count:.1f} ms | "
                f"after {one['first_s']:.2f} s | {one['memory_mb']:.0f} MB |"
            )


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Fleet]:
    """Servers, with the tables."""
    with Fleet(fresh(folder)) as fleet:
        database = Database(fleet.postgres.url)
        database.migrate()
        database.close()
        fleet.postgres.grant()
        yield fleet


def fresh(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


def say(kind: str, results: list[dict[str, float]]) -> None:
    seconds = " and ".join(f"{one['seconds']:.1f} s" for one in results)
    print(f"{kind}: {seconds}", file=sys.stderr)


# --- EC2 to S3 ---------------------------------------------------------------------------------------------


def transfer(given: argparse.Namespace, folder: Path) -> Iterator[str | Panel]:
    """The transfer worker beside scp and the AWS CLI, one after the other, with the same sshd and Swift.

    On loopback, where all of them and both servers share the cores, and on lines that are slower than the cores.
    """
    count, size = 24, given.mb * 10**6 // 24
    what = f"{count} archives of {size // 10**6} MB"
    yield f"| {what} | transfer worker | scp | then the AWS CLI | ours to the slower half | ratio |"
    yield "|---|---|---|---|---|---|"
    fleet = Fleet(fresh(folder))
    fleet.ssh = Sshd(fresh(folder))  # type: ignore[assignment]
    fleet.s3 = SwiftS3(fresh(folder), PROJECT / ".venv-swift" / "bin")  # type: ignore[assignment]
    with fleet:
        there = fleet.ssh.folder
        tars = [write_tar(there / f"{number}.tar", {"a.mp3": os.urandom(size)}) for number in range(count)]
        ends = fleet.ssh.port, fleet.s3.port
        with Line(ends[0], given.line * 1e6) as copying, Line(ends[1], given.line * 1e6) as uploading:
            known = fleet.ssh.known_hosts
            known.write_text(known.read_text() + "\n" + known.read_text().replace(f"{ends[0]}", f"{copying.port}"))
            for where, ports in (("loopback", ends), (f"{given.line} MB/s", (copying.port, uploading.port))):
                fleet.ssh.port, fleet.s3.port = ports
                rounds = [round_trip(fleet, tars, number, fresh(folder)) for number in range(given.rounds)]
                times = [statistics.median(one[part] for one in rounds) for part in range(3)]
                slower = statistics.median(one[0] / max(one[1:]) for one in rounds)
                ratio = statistics.median(sum(one[1:]) / one[0] for one in rounds)
                seconds = " | ".join(f"{time:.1f} s" for time in times)
                yield f"| {where} | {seconds} | {slower:.2f} | {ratio:.2f} |"
                megabytes = count * size / 10**6
                speeds = {"ours": [megabytes / one[0] for one in rounds]}
                speeds["scp, then aws"] = [megabytes / sum(one[1:]) for one in rounds]
                yield Panel(f"{count} archives, EC2 to S3, {where}", "MB in a second", speeds)
        fleet.ssh.port, fleet.s3.port = ends


def round_trip(fleet: Fleet, tars: list[Path], number: int, folder: Path) -> tuple[float, float, float]:
    """The times of the worker, of scp and of the AWS CLI; who begins changes from round to round."""
    before = halves(fleet, tars, folder) if number % 2 else None
    mine = transferred(fleet, tars)
    found = (mine, *(before or halves(fleet, tars, folder)))
    print(f"transfer: {found}", file=sys.stderr)
    return found


def transferred(fleet: Fleet, tars: list[Path]) -> float:
    """The worker's time from the jobs to the last archive queued to be unpacked."""
    s3_client = fleet.s3.client()
    for prefix in ("archives/", "sources/"):  # what is there already would not be sent
        for stored in s3_client.list_objects_v2(Bucket=fleet.bucket, Prefix=prefix).get("Contents", []):
            s3_client.delete_object(Bucket=fleet.bucket, Key=stored["Key"])
    with redis.Redis.from_url(fleet.valkey.url) as client:
        client.flushall()
        worker = fleet.worker("transfer")
        _until(lambda: "ready" in worker.log.read_text(), worker.require_running)
        start = time.perf_counter()
        fleet.control("enqueue", *map(str, tars))
        _until(lambda: client.llen("queue:unpack") == len(tars), worker.require_running)
        wall = time.perf_counter() - start
    fleet.stop_workers()
    worker.log.unlink()
    return wall


def halves(fleet: Fleet, tars: list[Path], folder: Path) -> tuple[float, float]:
    """The times of scp and of the AWS CLI for all archives."""
    ssh, copies, uploads = fleet.ssh, 0.0, 0.0
    options = ["-o", f"UserKnownHostsFile={ssh.known_hosts}", "-o", "BatchMode=yes", "-i", str(ssh.key_file)]
    environment = s3_environment(fleet.s3.endpoint, fleet.s3.access_key, fleet.s3.secret_key)
    for tar in tars:
        local = folder / tar.name
        scp = ["scp", "-q", "-P", str(ssh.port), *options, f"{ssh.user}@{ssh.host}:{tar}", str(local)]
        copies += timed(scp, environment)
        uploads += timed(
            [*aws(fleet.s3.endpoint), str(local), f"s3://{fleet.bucket}/peer/{tar.name}"], environment
        )
        local.unlink()
    return copies, uploads


# --- S3 ----------------------------------------------------------------------------------------------------

OURS = """
import pathlib, sys, config, s3_utils
config.SCRATCH_ROOT = pathlib.Path(sys.argv[3])
if "running" in sys.argv:
    s3_utils.get_s3_client()
    print("ready", flush=True)
    sys.stdin.readline()
if sys.argv[1] == "up":
    s3_utils.upload_archive(pathlib.Path(sys.argv[2]), "20250622-143052")
else:
    s3_utils.download_archive("archives/20250622-143052.tar", "20250622-143052")
"""


def s3(given: argparse.Namespace, folder: Path) -> Iterator[str | Panel]:
    """Upload and download on Swift."""
    path = folder / "random.tar"
    with path.open("wb") as file:
        for _ in range(given.mb):
            file.write(os.urandom(10**6))
    yield f"| {given.mb} MB | ours | ours, running | AWS CLI | rclone | ours to the faster | running |"
    yield "|---|---|---|---|---|---|---|"
    with SwiftS3(fresh(folder), PROJECT / ".venv-swift" / "bin") as swift:
        swift.create_bucket("bench")
        for way in ("up", "down"):
            programs = commands(swift, path, folder, way)
            rounds: list[dict[str, float]] = []
            for number in range(given.rounds):
                names = list(programs)
                order = names[number % len(names) :] + names[: number % len(names)]
                rounds.append({})
                for name in order:
                    if way == "up":  # what is there already need not be uploaded
                        swift.client().delete_object(Bucket="bench", Key=REMOTE)
                    rounds[-1][name] = timed(*programs[name])
                print(f"{way}: {rounds[-1]}", file=sys.stderr)
            speeds = {name: [given.mb / one[name] for one in rounds] for name in programs}
            medians = [f"{statistics.median(found):.0f} MB/s" for found in speeds.values()]
            ratios = [
                statistics.median(min(one["aws"], one["rclone"]) / one[name] for one in rounds)
                for name in ("ours", "ours, running")
            ]
            yield f"| {way}load | {' | '.join(medians)} | {ratios[0]:.2f} | {ratios[1]:.2f} |"
            yield Panel(f"{given.mb} MB {'to' if way == 'up' else 'from'} S3", "MB in a second", speeds)


def commands(swift: SwiftS3, path: Path, folder: Path, way: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """What each program is started with, and its environment."""
    environment = s3_environment(swift.endpoint, swift.access_key, swift.secret_key)
    local = str(path) if way == "up" else str(folder / "down.tar")
    aws_pair = [local, f"s3://bench/{REMOTE}"]
    rclone_pair = [local, f"S:bench/{REMOTE}"]
    if way == "down":
        aws_pair.reverse()
        rclone_pair.reverse()
    mine = [sys.executable, "-c", OURS, way, str(path), str(folder / "scratch")]
    found = {
        "ours": (mine, environment),
        "ours, running": ([*mine, "running"], environment),
        "aws": ([*aws(swift.endpoint), *aws_pair], environment),
    }
    if rclone := shutil.which("rclone"):
        found["rclone"] = ([rclone, "copyto", "--ignore-times", *rclone_pair], environment)
    else:
        raise SystemExit("rclone is needed (Debian, Ubuntu: apt install rclone)")
    return found


def s3_environment(endpoint: str, access_key: str, secret_key: str) -> dict[str, str]:
    """What tells all the programs where S3 is."""
    return {
        **{name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"},  # rclone trips over it
        "S3_ENDPOINT": endpoint, "S3_ACCESS_KEY": access_key, "S3_SECRET_KEY": secret_key, "S3_BUCKET": "bench",
        "AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "RCLONE_CONFIG_S_TYPE": "s3", "RCLONE_CONFIG_S_PROVIDER": "Other", "RCLONE_CONFIG_S_ENDPOINT": endpoint,
        "RCLONE_CONFIG_S_ACCESS_KEY_ID": access_key, "RCLONE_CONFIG_S_SECRET_ACCESS_KEY": secret_key,
        "RCLONE_CONFIG": "/dev/null",
    }  # fmt: skip


def aws(endpoint: str) -> list[str]:
    """The AWS CLI's copy."""
    return [str(PROJECT / ".venv-awscli" / "bin" / "aws"), "--endpoint-url", endpoint, "s3", "cp", "--quiet"]


def timed(command: list[str], environment: dict[str, str]) -> float:
    """The time of a program; of one that is `running`, from the moment that it is told to go."""
    pipe = subprocess.PIPE
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, cwd=PROJECT, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        if command[-1] == "running":
            process.stdout.readline()
            start = time.perf_counter()
        process.communicate(b"\n")
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start


PARTS: dict[str, Callable[[argparse.Namespace, Path], Iterator[str | Panel]]] = {
    "unpack": unpack,
    "files": files,
    "s3": s3,
    "transfer": transfer,
}


def main() -> int:
    """Run the parts and write their tables and the chart."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-archives-") as temporary:
        for part in given.parts or PARTS:
            folder = Path(temporary, part)
            folder.mkdir()
            load = os.getloadavg()[0]
            found = list(PARTS[part](given, folder))
            runs = "one run" if part == "files" or given.rounds == 1 else f"median of {given.rounds} rounds"
            where = f"On {CORES} cores of {report.processor()}, {runs}; the load was {load:.1f} before"
            lines = [f"{where}:", "", *(line for line in found if isinstance(line, str)), ""]
            write(part, lines, [dataclasses.asdict(panel) for panel in found if isinstance(panel, Panel)])
            print("\n".join(lines))
    return 0


def write(part: str, lines: list[str], panels: list[dict[str, Any]]) -> None:
    """Write a part's table and numbers, and the chart of all that are there."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"archives-{part}.md").write_text("\n".join(lines))
    numbers = RESULTS / "archives.json"
    known = json.loads(numbers.read_text()) if numbers.exists() else {}
    known[part] = {"where": lines[0].rstrip(":"), "panels": panels}
    numbers.write_text(json.dumps(known, indent=1) + "\n")
    drawn = [Panel(**panel) for name in PARTS for panel in known.get(name, {}).get("panels", [])]
    if drawn:
        report.draw(RESULTS / "archives.png", drawn)


if __name__ == "__main__":
    sys.exit(main())
