"""What came out of the demonstration, and whether it is what went in."""

import argparse
import contextlib
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import redis
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.jobs.job_queue import decode
from pipeline.unpack.archive import AUDIO_SUFFIXES
from tests.support.fleet import PROJECT, Fleet, batch_keys

STAGES = ("archives in S3", "files unpacked", "files transcribed", "finished batches")
_ROWS = """
SELECT a.batch_id, a.original_filename, a.duration_seconds, a.language, c.label, a.status,
       coalesce(a.error, t.text), a.s3_opus_path
FROM audio_files a
LEFT JOIN transcripts t USING (audio_id)
LEFT JOIN classifications c ON c.audio_id = a.audio_id AND c.classifier = 'content'
ORDER BY a.batch_id, a.original_filename
"""


def stages(fleet: Fleet, archives: int) -> dict[str, tuple[int, int]]:
    """For each stage, how much is done of how much that is known."""
    total, opened, finished = fleet.query(
        "SELECT coalesce(sum(file_count), 0)::int, count(*), count(finished_at) FROM batches"
    )[0]
    rows = fleet.query("SELECT status, count(*) FROM audio_files GROUP BY status")
    counts = dict(rows)
    settled = counts.get("done", 0) + counts.get("failed", 0)
    with _redis(fleet) as client:
        waiting = client.llen("queue:transcribe")
        workers = client.zrange("queue:transcribe:workers", 0, -1)
        waiting += sum(client.llen(f"queue:transcribe:working:{worker.decode()}") for worker in workers)
    in_s3 = max(opened, len(list(objects(fleet, "archives/"))))
    return {
        "archives in S3": (in_s3, archives),
        "files unpacked": (min(total, settled + waiting), total),
        "files transcribed": (settled, total),
        "finished batches": (finished, archives),
    }


def dead_letters(fleet: Fleet, archives: list[Path]) -> list[str]:
    """The jobs that failed permanently, each with its reason; without those of other paths than the archives',
    which somebody has queued meanwhile."""
    paths = [None, *map(str, archives)]
    with _redis(fleet) as client:
        return [
            f"{name}: {dead_letter['job']}: {dead_letter['error']}"
            for name in ("transfer", "unpack", "transcribe")
            for dead_letter in map(json.loads, client.lrange(f"queue:{name}:dead", 0, -1))
            if decode(dead_letter["job"]).get("remote_path") in paths
        ]


def objects(fleet: Fleet, prefix: str) -> Iterator[str]:
    """The keys in the bucket that begin so."""
    client = boto3.client(
        "s3",
        endpoint_url=fleet.s3.endpoint,
        region_name="us-east-1",
        aws_access_key_id=fleet.s3.access_key,
        aws_secret_access_key=fleet.s3.secret_key,
    )
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=fleet.bucket, Prefix=prefix):
        yield from (item["Key"] for item in page.get("Contents", []))


def tables(fleet: Fleet) -> Iterator[Table]:
    """One table for each batch, one row for each file: it fits into 80 columns."""
    for batch_id, rows in itertools.groupby(fleet.query(_ROWS), key=lambda row: row[0]):
        result = Table(title=f"batch {batch_id}", title_justify="left", show_lines=True)
        for column in ("file", "s", "lang", "content"):
            result.add_column(column)
        result.add_column("transcript, and where its Opus is kept", ratio=1)
        for _, name, seconds, language, label, status, words, key in rows:
            duration = "" if seconds is None else f"{seconds:.0f}"
            text = Text(words or "-", style="red" if status == "failed" else "")
            text.append(f"\n{key or status}", style="dim")
            result.add_row(Text(name), duration, language or "", label or "", text)
        yield result


def check(fleet: Fleet, archives: list[Path], given: argparse.Namespace, console: Console) -> bool:
    """Compare what came out with what went in; gives whether all is as it must be."""
    rows = fleet.query(_ROWS)
    done = [row for row in rows if row[5] == "done"]
    kept = {key for key in objects(fleet, "processed/") if key.endswith(".opus")}
    files = sum(len(list(audio_members(path))) for path in archives)
    with _redis(fleet) as client:
        left = batch_keys(client)
    dead = dead_letters(fleet, archives)
    checks = [
        _same("rows in PostgreSQL", len(rows), "audio files in the archives", files),
        _same("rows done or failed", sum(row[5] in ("done", "failed") for row in rows), "rows", len(rows)),
        _same("Opus objects in S3", len(kept), "rows done", len(done)),
        _same("rows whose object is there", sum(row[7] in kept for row in done), "rows done", len(done)),
        _same("batches finished", stages(fleet, 0)["finished batches"][0], "archives", len(archives)),
        _same("entries left in scratch", len(list((fleet.folder / "scratch").glob("*"))), "none", 0),
        _same("batch keys left in Redis", len(left), "none", 0),
        _same("dead letters", len(dead), "none", 0),
    ]
    if not given.archive and not given.model:
        checks += _check_words(rows)
    for passed, line in checks:
        console.print(f"{'ok    ' if passed else 'WRONG '} {line}", style=None if passed else "bold red")
    for reason in dead:
        console.print(Text(f"failed permanently by {reason}", style="bold red"))
    return all(passed for passed, _ in checks)


def _check_words(rows: Iterable[tuple[Any, ...]]) -> list[tuple[bool, str]]:
    """The samples' words, each in the row of its file; the damaged file failed with a reason.

    A batch came from the sample folder that holds files of the same names: no two folders hold the same ones.
    """
    words = json.loads((PROJECT / "tests" / "samples" / "words.json").read_text())
    files_of = _names_by_group(name.partition("/")[::2] for name in words)
    names_of = _names_by_group((row[0], row[1]) for row in rows)
    folder_of = {
        batch: folder for batch, names in names_of.items() for folder in files_of if files_of[folder] == names
    }
    heard = {f"{folder_of.get(row[0])}/{row[1]}": row for row in rows}
    right = sum(
        spoken is not None and name in heard and heard[name][6] == spoken for name, spoken in words.items()
    )
    failed = {name for name, row in heard.items() if row[5] == "failed" and row[6]}
    damaged = {name for name, spoken in words.items() if spoken is None}
    return [
        _same("transcripts with every word right", right, "readable samples", len(words) - len(damaged)),
        _same("files failed with a reason", len(failed & damaged), "damaged samples", len(damaged)),
        _same("files failed in all", len(failed), "damaged samples", len(damaged)),
    ]


def _names_by_group(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    groups: dict[str, set[str]] = {}
    for group, name in pairs:
        groups.setdefault(group, set()).add(name)
    return groups


def audio_members(path: Path) -> Iterator[str]:
    """The names of an archive's audio files, by tarfile's own reading."""
    with contextlib.suppress(tarfile.TarError), tarfile.open(path) as tar:  # why is in the dead letter
        for member in tar:
            name = member.name.lower()
            if member.isreg() and name.endswith(tuple(AUDIO_SUFFIXES)) and "/._" not in f"/{name}":
                yield member.name


def _same(what: str, found: int, against: str, expected: int) -> tuple[bool, str]:
    return found == expected, f"{what}: {found}" + ("" if against == "none" else f" of {expected} {against}")


def _redis(fleet: Fleet) -> redis.Redis:
    return redis.Redis.from_url(fleet.valkey.url)
