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
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import report
from bench.archives_s3 import s3
from bench.archives_transfer import transfer
from bench.archives_unpack import CORES, files, unpack
from bench.report import Panel
from tests.support.fleet import PROJECT

RESULTS = PROJECT / "bench" / "results"


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
