"""Unpacking for bench/archives: the real unpack worker beside xargs, and the cost of a file."""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from bench import corpus
from bench.archives_programs import fresh, until, write_tar
from bench.report import Panel
from pipeline.store.database import Database
from tests.support.child import Process
from tests.support.fleet import PROJECT, Fleet, ffmpeg_program
from tests.support.recordings import SHORT, sample

CORES = len(os.sched_getaffinity(0))
BATCH = "20250622-143052"


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


def ours(fleet: Fleet, tar: Path, folder: Path, files: int, weigh: bool = False) -> dict[str, float]:
    """The worker's wall time for one archive, from its job to the last file queued. `weigh` gives what scratch
    holds at its peak, and the Opus, instead: that takes time."""
    fleet.clean(folder)
    fleet.changes = {"UNPACK_BACKLOG_FILES": "1000000", "SCRATCH_MIN_FREE_MB": "1", "HOST_NAME": "bench"}
    upload = f"import s3_utils; s3_utils.upload_archive(__import__('pathlib').Path({str(tar)!r}), {BATCH!r})"
    subprocess.run([sys.executable, "-c", upload], cwd=PROJECT, env=fleet.environment(), check=True)
    worker = fleet.worker("unpack")
    with redis.Redis.from_url(fleet.valkey.url) as client:
        until(lambda: "ready" in worker.log.read_text(), worker.require_running)
        job = {"batch_id": BATCH, "s3_key": f"archives/{BATCH}.tar", "file_count": files, "transferred_at": "now"}
        start, used = time.perf_counter(), cpu_of(worker.process)
        client.rpush("queue:unpack", json.dumps(job))
        until(lambda: bool(client.llen("queue:transcribe")), worker.require_running)
        first = time.perf_counter() - start
        peak = 0
        while client.llen("queue:transcribe") < files:
            worker.require_running()
            if weigh:
                peak = max(peak, fleet.scratch_bytes())
            time.sleep(0.002)
        wall, used = time.perf_counter() - start, cpu_of(worker.process) - used
    if weigh:
        fleet.stop_workers()
        opus = sum(path.stat().st_size for path in (folder / "scratch" / BATCH).glob("*.opus"))
        return {"peak_mb": peak / 1e6, "opus_mb": opus / 1e6}
    assert worker.process is not None
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    memory = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024
    fleet.stop_workers()
    return {"seconds": wall, "cpu_s": used, "first_s": first, "memory_mb": memory}


def cpu_of(process: Process | None) -> float:
    """The CPU that a process and the children that it has waited for have used (seconds; proc(5))."""
    assert process is not None
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def cpu_of_children() -> float:
    """The CPU of the children that this process has waited for (seconds)."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


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
    start, used = time.perf_counter(), cpu_of_children()
    subprocess.run(
        ["xargs", "-0", "-P", str(CORES), "-I{}", *ffmpeg, *options], input="\0".join(files), text=True, check=True
    )
    wall, used = time.perf_counter() - start, cpu_of_children() - used
    if len(list(target.iterdir())) != len(files):
        raise RuntimeError("xargs and ffmpeg did not convert every file")
    shutil.rmtree(folder)
    return {"seconds": wall, "cpu_s": used}


def unpack(given: argparse.Namespace, folder: Path) -> Iterator[str | Panel]:
    """Short and long files."""
    corpora = {}
    if given.short:
        corpora[f"{given.short} short files"] = short_mp3s(given.short)
    if given.long:
        corpora[f"{given.long} files of 10 minutes"] = long_mp3s(folder / "corpus", given.long)
    yield (
        "| | unpack worker | `xargs -P` ffmpeg | ratio | ratio of their CPU | first file queued | memory "
        "| scratch at its peak | archive and Opus |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
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
            ratio, of_cpu = (
                statistics.median(one[1][key] / one[0][key] for one in rounds) for key in ("seconds", "cpu_s")
            )
            yield (
                f"| {kind} | {us['seconds']:.1f} s | {them['seconds']:.1f} s | {ratio:.2f} | {of_cpu:.2f} | "
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


def say(kind: str, results: list[dict[str, float]]) -> None:
    seconds = " and ".join(f"{one['seconds']:.1f} s ({one['cpu_s']:.1f} of CPU)" for one in results)
    print(f"{kind}: {seconds}", file=sys.stderr)
