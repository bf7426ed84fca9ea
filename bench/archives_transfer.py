"""From the EC2 host to S3 for bench/archives: the real transfer worker beside scp, then the AWS CLI."""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import redis

from bench.archives_programs import aws, fresh, s3_environment, timed, until, write_tar
from bench.line import Line
from bench.report import Panel
from tests.support.fleet import PROJECT, Fleet
from tests.support.servers import Sshd, SwiftS3


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
        until(lambda: "ready" in worker.log.read_text(), worker.require_running)
        start = time.perf_counter()
        fleet.control("enqueue", *map(str, tars))
        until(lambda: client.llen("queue:unpack") == len(tars), worker.require_running)
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
