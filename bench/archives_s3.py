"""Uploads and downloads for bench/archives: s3_utils beside the AWS CLI and rclone, on OpenStack Swift."""

import argparse
import os
import shutil
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.archives_programs import aws, fresh, s3_environment, timed
from bench.report import Panel
from tests.support.fleet import PROJECT
from tests.support.servers import SwiftS3

REMOTE = "archives/20250622-143052.tar"
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
