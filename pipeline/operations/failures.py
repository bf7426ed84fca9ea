"""What failed for good: files in PostgreSQL, dead letters in Redis, and the reason of each; and which files have
warnings, whatever became of them."""

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.file_warnings import FileWarning, as_json, from_json
from pipeline.jobs.batches import is_id
from pipeline.jobs.job_queue import decode
from pipeline.store.database import Database

_FAILED = (  # the rows that a Filter takes
    "status = 'failed' AND (%(batch_id)s = '' OR batch_id = %(batch_id)s)"
    " AND strpos(lower(coalesce(error, '')), lower(%(reason)s)) > 0"
    " AND (%(since)s::timestamptz IS NULL OR updated_at >= %(since)s)"
)
_WARNED = (  # the rows with warnings that a Filter takes
    "warnings IS NOT NULL AND (%(batch_id)s = '' OR batch_id = %(batch_id)s)"
    " AND (%(reason)s = '' OR EXISTS (SELECT FROM jsonb_array_elements(warnings) AS warning"
    " WHERE strpos(lower(concat_ws(': ', warning ->> 'code', warning ->> 'message')), lower(%(reason)s)) > 0))"
    " AND (%(since)s::timestamptz IS NULL OR updated_at >= %(since)s)"
)
CODES = "jsonb_path_query_array(warnings, '$[*].code')"  # of a row: few differ, however many rows there are
_ARCHIVE = (  # the file name of the archive, where it is known
    "coalesce((SELECT substring(b.archive_path from '[^/]*$') FROM batches AS b"
    " WHERE b.batch_id = audio_files.batch_id), '')"
)
_CHANGED_AT = "to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"


@dataclass(frozen=True)
class FailedFile:
    """A row that is failed; `failed_at` in UTC, `archive` the file name of its archive, where that is known."""

    batch_id: str
    original_filename: str
    error: str
    failed_at: str
    audio_id: int
    archive: str = ""


@dataclass(frozen=True)
class WarnedFile:
    """A row with warnings, whatever its status; `changed_at` in UTC."""

    batch_id: str
    original_filename: str
    status: str
    warnings: list[FileWarning]
    changed_at: str
    audio_id: int
    archive: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The file for JSON."""
        return {**vars(self), "warnings": as_json(self.warnings)}


@dataclass(frozen=True)
class DeadLetter:
    """A job that was failed permanently; `id` names it, `text` is what stands in `{queue}:dead`."""

    id: str
    queue: str
    job: str
    error: str
    attempts: int
    worker: str
    time: str
    text: str

    @property
    def fields(self) -> dict[str, Any]:
        """The job's fields; empty where it is no JSON object."""
        return decode(self.job)

    @property
    def file(self) -> tuple[str, str] | None:
        """The batch and name of the file that the job was for; None where it was for no file."""
        batch_id, name = self.fields.get("batch_id"), self.fields.get("original_filename")
        if not isinstance(batch_id, str) or not isinstance(name, str):
            return None
        return (batch_id, name) if is_id(batch_id) and is_storable(name) else None


@dataclass(frozen=True)
class Filter:
    """Which failures: those of a batch, of a queue, whose reason has the text in it, since a time (UTC). The
    reasons of a file with warnings are these."""

    batch_id: str = ""
    queue: str = ""
    reason: str = ""
    since: datetime.datetime | None = None

    def takes(self, dead_letter: DeadLetter) -> bool:
        """Whether a dead letter is one of them."""
        return (
            (not self.batch_id or dead_letter.fields.get("batch_id") == self.batch_id)
            and (not self.queue or dead_letter.queue == self.queue)
            and self.reason.lower() in dead_letter.error.lower()
            and (self.since is None or dead_letter.time >= f"{self.since:%Y-%m-%dT%H:%M:%SZ}")
        )


@dataclass(frozen=True)
class Failures:
    """Failed files, the latest first, and the dead letters of jobs that were not for one of them."""

    files: list[FailedFile]
    jobs: list[DeadLetter]

    def reasons(self) -> list[tuple[str, int]]:
        """Each reason with its number, the most frequent first."""
        errors = [*(file.error for file in self.files), *(job.error for job in self.jobs)]
        return Counter(errors).most_common()

    def as_dict(self) -> dict[str, Any]:
        """The failures for JSON."""
        jobs = [{name: value for name, value in asdict(job).items() if name != "text"} for job in self.jobs]
        return {"files": [asdict(file) for file in self.files], "jobs": jobs}


def read_dead_letters(redis: Any, queues: list[str], newest: int | None = None) -> list[DeadLetter]:
    """Every dead letter of the queues; or the newest of each, so many at most."""
    steps = redis.pipeline(transaction=False)
    for queue in queues:
        steps.lrange(f"{queue}:dead", -newest if newest else 0, -1)
    return [
        _parsed(queue, text)
        for queue, found in zip(queues, redis_client.answers(steps), strict=True)
        for text in found
    ]


def _parsed(queue: str, text: str) -> DeadLetter:
    """The dead letter; what is none, in a list that somebody else has written to, has itself as its job."""
    try:
        of = json.loads(text)
        fields = (str(of["job"]), str(of["error"]), int(of["attempts"]), str(of["worker"]), str(of["time"]))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        fields = (text, "not a dead letter", 0, "", "")
    digest = hashlib.sha256(f"{queue}\0{text}".encode("utf-8", "surrogateescape")).hexdigest()
    return DeadLetter(digest[:12], queue, *fields, text)


def read_failures(
    redis: Any, database: Database, queues: list[str], wanted: Filter, most_files: int | None = None
) -> Failures:
    """The failures that the filter takes, with the latest `most_files` failed files at most. A queue in the filter
    leaves the dead letters only."""
    dead_letters = [dead_letter for dead_letter in read_dead_letters(redis, queues) if wanted.takes(dead_letter)]
    if wanted.queue:
        return Failures([], dead_letters)
    known = failed_among(database, [dead_letter.file for dead_letter in dead_letters if dead_letter.file])
    jobs = [dead_letter for dead_letter in dead_letters if dead_letter.file not in known]
    jobs.sort(key=lambda dead_letter: dead_letter.time, reverse=True)
    return Failures(failed_files(database, wanted, most_files), jobs)


def failed_files(database: Database, wanted: Filter, most: int | None = None) -> list[FailedFile]:
    """The rows that are failed, the latest first, `most` of them."""
    query = (
        f"SELECT batch_id, original_filename, coalesce(error, ''), {_CHANGED_AT}, audio_id, {_ARCHIVE}"  # nosec B608
        f" FROM audio_files WHERE {_FAILED} ORDER BY updated_at DESC, audio_id DESC LIMIT %(most)s"  # nosec B608
    )
    with database.transaction() as cursor:
        cursor.execute(query, {**vars(wanted), "most": most})
        return [FailedFile(*row) for row in cursor.fetchall()]


def failed_reasons(database: Database, wanted: Filter, most: int) -> list[tuple[str, int]]:
    """The most frequent reasons of the rows that are failed, with their numbers."""
    query = (
        f"SELECT coalesce(error, ''), count(*) FROM audio_files WHERE {_FAILED}"  # nosec B608
        " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT %(most)s"
    )
    with database.transaction() as cursor:
        cursor.execute(query, {**vars(wanted), "most": most})
        return list(cursor.fetchall())


def warned_files(database: Database, wanted: Filter, most: int | None = None) -> list[WarnedFile]:
    """The rows with warnings, the latest first, `most` of them."""
    query = (
        f"SELECT batch_id, original_filename, status, warnings, {_CHANGED_AT}, audio_id, {_ARCHIVE}"  # nosec B608
        f" FROM audio_files WHERE {_WARNED} ORDER BY updated_at DESC, audio_id DESC LIMIT %(most)s"
    )
    with database.transaction() as cursor:
        cursor.execute(query, {**vars(wanted), "most": most})
        return [
            WarnedFile(batch_id, name, status, from_json(warnings), *rest)
            for batch_id, name, status, warnings, *rest in cursor.fetchall()
        ]


def warned_codes(database: Database, wanted: Filter) -> list[tuple[str, int]]:
    """How many of the rows with warnings have each code, the most frequent first."""
    query = f"SELECT {CODES}, count(*) FROM audio_files WHERE {_WARNED} GROUP BY 1"  # nosec B608
    with database.transaction() as cursor:
        cursor.execute(query, vars(wanted))
        return count_codes(cursor.fetchall())


def count_codes(groups: Iterable[tuple[list[str], int]]) -> list[tuple[str, int]]:
    """How many files have each code, the most frequent first, of groups of files with the same `CODES`."""
    files: Counter[str] = Counter()
    for codes, number in groups:
        for code in set(codes):
            files[code] += number
    return sorted(files.items(), key=lambda item: (-item[1], item[0]))


def failed_among(database: Database, files: list[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of the files (batch id, name) whose row is failed."""
    query = (
        "SELECT batch_id, original_filename FROM audio_files"
        " JOIN unnest(%s::text[], %s::text[]) AS asked(batch_id, original_filename)"
        " USING (batch_id, original_filename) WHERE status = 'failed'"
    )
    with database.transaction() as cursor:
        cursor.execute(query, ([batch_id for batch_id, _ in files], [name for _, name in files]))
        return set(cursor.fetchall())
