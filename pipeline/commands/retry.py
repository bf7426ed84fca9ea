"""pipelinectl retry: queue failed work again."""

import argparse
from collections import defaultdict
from typing import Any

import config
import s3_utils
from pipeline.commands import common
from pipeline.commands.choosing import batch_id_of
from pipeline.commands.failures import add_filter, filter_of
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import count
from pipeline.operations.failures import (
    DeadLetter,
    Failures,
    Filter,
    failed_among,
    read_dead_letters,
    read_failures,
)
from pipeline.operations.retry import Retry, Unknown, noted_by

DESCRIPTION = """Queue failed work again: the failed files of a batch, dead letters by --job, or all that a
filter takes. What is done stays done. The archive is fetched and unpacked once more, so it has to be in S3."""


def run(arguments: argparse.Namespace) -> int:
    """Queue failed work again: a batch, some of its files, dead letters, or all that a filter takes."""
    wanted = filter_of(arguments)
    chosen = [bool(arguments.batch_id), bool(arguments.job), wanted != Filter()]
    if sum(chosen) > 1:
        common.reject("a batch, --job, and a filter (--reason, --queue, --since) do not go together: name one")
    if not any(chosen):
        common.reject("name a batch, or dead letters with --job, or a filter: --reason, --queue, --since")
    if arguments.forget and not arguments.job:
        common.reject("--forget is for dead letters that are named with --job")
    redis = common.connect()
    common.require_queue(redis, wanted.queue)
    config.require(*config.S3)
    with common.connect_database() as database:
        dead_letters = read_dead_letters(redis, common.queues_of(redis))
        retrying = Retry(
            redis, database, config.UNPACK_QUEUE, dead_letters, s3_utils.archive_bytes, s3_utils.archive_key,
            noted_by(common.actor()),
        )  # fmt: skip
        if arguments.batch_id:
            return tried(batch_id_of(database, arguments.batch_id, redis), retrying, arguments.file or None)
        if arguments.job:
            by_id = {dead_letter.id: dead_letter for dead_letter in dead_letters}
            if unknown := [name for name in arguments.job if name not in by_id]:
                common.reject(f"no dead letter {', '.join(unknown)}: see `pipelinectl.py failures`")
            named = [by_id[name] for name in dict.fromkeys(arguments.job)]
            return forget(arguments, named, retrying) if arguments.forget else try_again([], named, retrying)
        return retry_all(arguments, read_failures(redis, database, common.queues_of(redis), wanted), retrying)


def forget(arguments: argparse.Namespace, dead_letters: list[DeadLetter], retrying: Retry) -> int:
    """Take dead letters away without another try, after a question."""
    if not common.has_agreed(arguments, f"take {count(len(dead_letters), 'dead letter')} away for good"):
        return 1
    for dead_letter in dead_letters:
        retrying.abandon(dead_letter)
        common.say(f"gone: {dead_letter.job} of {dead_letter.queue}")
    return 0


def retry_all(arguments: argparse.Namespace, found: Failures, retrying: Retry) -> int:
    """Queue again all that was found, after a question."""
    files = [(file.batch_id, file.original_filename) for file in found.files]
    if not files and not found.jobs:
        reason = f" with {arguments.reason!r} in its reason" if arguments.reason else " that the filter takes"
        common.say(f"there is no failed file or dead letter{reason}")
        return 0
    of = f"{count(len(files), 'file')} of {count(len({batch_id for batch_id, _ in files}), 'batch')}"
    if not common.has_agreed(arguments, f"try {of} and {count(len(found.jobs), 'dead letter')} again"):
        return 1
    return try_again(files, found.jobs, retrying)


def try_again(files: list[tuple[str, str]], dead_letters: list[DeadLetter], retrying: Retry) -> int:
    """Queue failed files (batch id, name) and dead letters again, each batch once; gives the exit status."""
    failed = failed_among(
        retrying.database, [dead_letter.file for dead_letter in dead_letters if dead_letter.file]
    )
    of_batch: defaultdict[str, list[str]] = defaultdict(list)
    for batch_id, name in dict.fromkeys([*files, *sorted(failed)]):
        of_batch[batch_id].append(name)
    statuses = [tried(batch_id, retrying, names) for batch_id, names in sorted(of_batch.items())]
    for dead_letter in dead_letters:
        if dead_letter.file not in failed and dead_letter in retrying.dead_letters:  # not gone with its batch
            statuses.append(revived(dead_letter, retrying))
    return max(statuses, default=0)


def tried(batch_id: str, retrying: Retry, names: list[str] | None) -> int:
    """Queue the failed files of a batch, or those named; gives the exit status."""
    try:
        common.say(f"queued {retrying.batch(batch_id, names)}")
    except Unknown as slip:
        common.complain(f"{slip}{common.batch_hint(retrying.database, batch_id)}")
        return 2
    except Permanent as problem:
        common.complain(str(problem))
        return 1
    return 0


def revived(dead_letter: DeadLetter, retrying: Retry) -> int:
    """Queue a dead letter's job again; gives the exit status."""
    try:
        common.say(f"queued {retrying.dead_letter(dead_letter)}")
    except Permanent as problem:
        common.complain(f"{dead_letter.id}: {problem}")
        return 1
    return 0


def add(commands: Any) -> None:
    """Its arguments."""
    retrying = commands.add_parser("retry", help="queue failed work again", description=DESCRIPTION)
    retrying.add_argument(
        "batch_id", nargs="?", help="its failed files are tried again; the archive's name will do"
    )
    retrying.add_argument("file", nargs="*", help="only these files of the batch")
    retrying.add_argument("--job", action="append", metavar="ID", help="a dead letter; may be repeated")
    add_filter(retrying)
    retrying.add_argument(
        "--forget", action="store_true", help="delete the --job instead, as one that can never succeed; asks first"
    )
    retrying.add_argument("--yes", action="store_true", help="do not ask")
    retrying.set_defaults(run=run)
