"""pipelinectl delete: recordings, with all that was made of them, for good."""

import argparse
import json
from dataclasses import replace
from typing import Any

import config
import s3_tombstones
import s3_utils
from pipeline.commands import choosing, common
from pipeline.foundation import s3_client
from pipeline.foundation.errors import Permanent
from pipeline.foundation.formatting import count, whole_number
from pipeline.jobs.batches import Batches, is_id
from pipeline.operations.deletion import apply_tombstones, carry_out
from pipeline.store import deletion
from pipeline.store.database import Database
from pipeline.store.deletion import Refused
from pipeline.store.deletion_targets import Target, found_files, is_deleted, target_of
from pipeline.store.search_query import Query

DESCRIPTION = """Delete recordings for good: a file (its audio id, or its batch and name), a batch (its id, or
its archive's name), or with --search and the options all that `search` would find. Row, transcript, labels and
alerts go at once, in one transaction for each batch, then the Opus in S3, and the archive once nothing of it is
kept; until then the archive still holds the recording. A tombstone without words stays, so that no retry, no
archive that is sent again and no backup brings it back. It asks; --dry-run only shows what would go. Batches on
hold, and files in progress, are refused. What an interrupted deletion has left is ended first; --resume does
only that, and deletes again what a restored backup has brought back. It needs a role with access/retention.sql
(or the tables' owner), and S3 rights as in access/s3-retention-policy.json. Exit status 1 if something was
refused, or nothing was deleted."""

MOST_SHOWN = 50  # batches


def run(arguments: argparse.Namespace) -> int:
    """Delete what the arguments ask for; gives the exit status."""
    query = choosing.query_of(arguments, [arguments.search or ""])
    _check(arguments, query)
    config.require(*config.S3)
    s3_utils.patience = s3_client.OF_A_PERSON
    redis = common.connect()
    with common.connect_database() as database:
        if not arguments.dry_run:
            _require_rights(database)
        if arguments.resume:
            return resume(database)
        if not arguments.dry_run:
            carry_out(database, s3_tombstones.store())  # what an earlier run has left
        try:
            targets = chosen(database, arguments, query)
        except Permanent as problem:
            common.reject(str(problem))
        if targets is None:
            common.complain(f"{' '.join(arguments.what)} was deleted already")
            return 1
        return _delete(arguments, database, Batches(redis, ""), targets)


def _check(arguments: argparse.Namespace, query: Query) -> None:
    """End with status 2 where the arguments do not go together."""
    filtered = query != Query()
    if sum([bool(arguments.what), filtered, arguments.resume]) != 1 or len(arguments.what) > 2:
        common.reject("name one file (an audio id, or a batch and a name), one batch, a search, or --resume")


def _require_rights(database: Database) -> None:
    """End with status 2 where PostgreSQL or S3 does not let us delete."""
    if problem := deletion.lack_of_rights(database) or s3_utils.check_bucket() or s3_tombstones.lack_of_rights():
        config.refuse(problem)


def resume(database: Database) -> int:
    """End what was begun, and delete again what has tombstones in S3; gives the exit status."""
    again = apply_tombstones(database, s3_tombstones.store(), common.actor())
    ended = carry_out(database, s3_tombstones.store())
    left = deletion.count_pending(database)
    later = f"; {count(left, 'deletion')} wait for what is in progress" if left else ""
    common.say(f"{count(again, 'file')} deleted again, {count(ended, 'deletion')} ended in S3{later}")
    return 0


def chosen(database: Database, arguments: argparse.Namespace, query: Query) -> list[Target] | None:
    """What the arguments ask for; None where it was deleted already. Ends with status 2 where there is none."""
    what = arguments.what
    if not what:
        query = replace(query, batch_id=choosing.batch_id_of(database, query.batch_id))
        choosing.require_known(database, query)
        return [target_of(database, *found) for found in sorted(found_files(database, query).items())]
    named = [choosing.batch_id_of(database, what[0]), what[1]] if len(what) == 2 else what
    if len(what) == 2 or (whole_number(what[0]) is not None and not choosing.is_unpacked(database, what[0])):
        if is_deleted(database, named):
            return None
        file = choosing.file_of(database, named)
        return [target_of(database, file.batch_id, [file.audio_id])]
    batch_id = choosing.batch_id_of(database, what[0])
    is_known = choosing.is_unpacked(database, batch_id)
    if not is_known and not (is_id(batch_id) and s3_utils.archive_exists(batch_id)):
        common.reject(f"there is no batch or archive {what[0][:200]}{common.batch_hint(database, what[0])}")
    return [target_of(database, batch_id, None)]


def _delete(arguments: argparse.Namespace, database: Database, batches: Batches, targets: list[Target]) -> int:
    """Delete the targets, after a question; gives the exit status."""
    files = sum(len(target.audio_ids) for target in targets)
    if arguments.dry_run:
        _show(arguments, [_row(target, target.obstacle or "would be deleted") for target in targets])
        return int(not targets or any(target.obstacle for target in targets))
    if not targets:
        common.complain("nothing was found")
        return 1
    if not arguments.yes and not arguments.json:
        _show(arguments, [_row(target, target.obstacle) for target in targets])
    what = f"{count(files, 'file')} of {count(len(targets), 'batch')}"
    if not common.has_agreed(arguments, f"delete {what} for good"):
        return 1
    rows = [_row(target, _outcome(database, batches, target)) for target in targets]
    carry_out(database, s3_tombstones.store())
    _show(arguments, rows)
    return int(any(row["outcome"] not in ("deleted", "empty already") for row in rows))


def _outcome(database: Database, batches: Batches, target: Target) -> str:
    """Delete one target; gives what came of it."""
    try:
        if not target.is_whole:
            done = deletion.delete_files(database, target.batch_id, target.audio_ids, common.actor())
        elif batches.is_in_work(target.batch_id):
            return "refused: the batch is in progress"
        else:
            done = deletion.delete_batch(database, target.batch_id, common.actor())
    except Refused as problem:
        return f"refused: {problem}"
    return "deleted" if done.files or done.archive else "empty already"


def _row(target: Target, outcome: str) -> dict[str, Any]:
    """What is shown of a target."""
    return {
        "batch_id": target.batch_id,
        "archive": target.archive,
        "files": len(target.audio_ids),
        "kept": target.kept,
        "outcome": outcome,
        "audio_ids": target.audio_ids,
    }


def _show(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Print the targets, and which archives still hold what is deleted."""
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    columns = ("batch_id", "archive", "files", "kept", "outcome")
    common.console().print(common.table("to delete", rows, columns, MOST_SHOWN))
    if holding := [row["batch_id"] for row in rows if row["kept"]]:
        whose = holding[0] if len(holding) == 1 else f"{len(holding)} batches"
        common.say(f"the archive of {whose} still holds the recordings, until no other file of it is kept")


def add(commands: Any) -> None:
    """Its arguments."""
    deleting = commands.add_parser("delete", help="delete recordings for good", description=DESCRIPTION)
    of = "AUDIO_ID | BATCH [NAME]"
    deleting.add_argument("what", nargs="*", type=common.text, metavar=of, help="a file, or a batch")
    deleting.add_argument("--search", type=common.text, metavar="WORDS", help="all in which these were said")
    choosing.add_filter(deleting)
    deleting.add_argument("--resume", action="store_true", help="end what was interrupted, also after a restore")
    deleting.add_argument("--dry-run", action="store_true", help="show what would go; deletes nothing")
    deleting.add_argument("--yes", action="store_true", help="do not ask")
    deleting.add_argument("--json", action="store_true", help="for scripts")
    deleting.set_defaults(run=run)
