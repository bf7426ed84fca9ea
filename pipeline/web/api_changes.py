"""What operators' programs may do: queue archives, have failed work tried again. The audit log says who did."""

from typing import Any

from flask import Response, abort, g
from werkzeug.exceptions import BadRequest, Conflict, NotFound

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_names import is_storable
from pipeline.jobs.batches import all_queues, is_id
from pipeline.operations.failures import read_dead_letters
from pipeline.operations.queueing import queue_archive, queue_path
from pipeline.operations.retry import Retry, Unknown, noted_by
from pipeline.store.file_list import MOST_ID, listed_file
from pipeline.transfer.remote_paths import canonical
from pipeline.web.api import answer, changes
from pipeline.web.api_parameters import body
from pipeline.web.api_reading import sources

MOST_FILES = 1000  # of one retry
_KEY = ("archives/", ".tar")


@changes("/enqueue", "Queued", "Enqueue")
def enqueue() -> Response:
    """Queue an archive: one of the EC2 host by its `remote_path`, or one that lies in S3 already by its `s3_key`.
    The same archive again is the batch that it was."""
    given, found, actor = body(("remote_path", "s3_key")), sources(), g.reader.actor
    if len(given) != 1:
        raise BadRequest("Give either remote_path or s3_key.")
    if "remote_path" in given:
        path = queue_path(found.redis, found.database, found.queues[0], _path(given["remote_path"]), actor)
        return answer({"remote_path": path, "batch_id": None, "s3_key": None}, 202)
    batch_id, key = _batch_of(given["s3_key"]), given["s3_key"]
    try:
        queue_archive(found.redis, found.database, found.queues[1], batch_id, key, actor, found.check_archive)
    except Permanent as problem:
        raise _refused(problem) from None
    return answer({"remote_path": None, "batch_id": batch_id, "s3_key": key}, 202)


@changes("/retry", "Retried", "Retry")
def retry() -> Response:
    """Have the failed files of a batch tried again, or those of them that are named, or one file by its audio id.
    What is done stays done."""
    given, found = body(("batch_id", "files", "audio_id")), sources()
    batch_id, names = _of_file(given["audio_id"]) if set(given) == {"audio_id"} else _of_batch(given)
    dead_letters = read_dead_letters(found.redis, all_queues(found.redis, found.queues))
    retrying = Retry(
        found.redis, found.database, found.queues[1], dead_letters, found.check_archive, found.archive_key,
        noted_by(g.reader.actor),
    )  # fmt: skip
    try:
        queued = retrying.batch(batch_id, names)
    except Permanent as problem:
        raise _refused(problem) from None
    return answer({"batch_id": batch_id, "queued": queued}, 202)


def _refused(problem: Permanent) -> NotFound | Conflict:
    return NotFound(str(problem)) if isinstance(problem, Unknown) else Conflict(str(problem))


def _path(given: Any) -> str:
    if not isinstance(given, str) or not is_storable(given):
        raise BadRequest("remote_path: it is no path.")
    try:
        return canonical(given)
    except Permanent as problem:
        raise BadRequest(str(problem)) from None


def _batch_of(key: Any) -> str:
    """The batch of an archive's S3 key."""
    prefix, suffix = _KEY
    named = key.removeprefix(prefix).removesuffix(suffix) if isinstance(key, str) else ""
    if not is_id(named) or key != f"{prefix}{named}{suffix}":
        raise BadRequest("s3_key: give it as archives/20250622-143052-6ffbb59b2300.tar.")
    return named


def _of_file(audio_id: Any) -> tuple[str, list[str]]:
    """The batch and the name of a file."""
    if isinstance(audio_id, float) and audio_id.is_integer():  # 4711.0 is an integer in JSON Schema
        audio_id = int(audio_id)
    if type(audio_id) is not int or not 0 < audio_id <= MOST_ID:
        raise BadRequest("audio_id: give a whole number.")
    file = listed_file(sources().database, audio_id)
    if file is None:
        abort(404, f"There is no file {audio_id}.")
    return file.batch_id, [file.original_filename]


def _of_batch(given: dict[str, Any]) -> tuple[str, list[str] | None]:
    """The batch that is asked for, and the files of it that are named, if any are."""
    batch_id, names = given.get("batch_id"), given.get("files")
    if "audio_id" in given or not isinstance(batch_id, str) or not is_id(batch_id):
        raise BadRequest("Give a batch_id, alone or with files, or an audio_id.")
    if "files" not in given:
        return batch_id, None
    kept = (
        [name for name in names if isinstance(name, str) and is_storable(name)] if isinstance(names, list) else []
    )
    if not 0 < len(kept) <= MOST_FILES or len(kept) != len(names or ()):
        raise BadRequest(f"files: give a list of 1 to {MOST_FILES} names.")
    return batch_id, list(dict.fromkeys(kept))
