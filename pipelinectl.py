"""The operator's command: queue archives, see what moves and what failed, try it again, mend what is amiss."""

import argparse
import datetime
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

import config
import s3_utils
from pipeline import draining, redis_client
from pipeline.archive import is_storable
from pipeline.batches import Batches, all_queues
from pipeline.database import Database
from pipeline.errors import Permanent, away
from pipeline.failures import DeadLetter, Failures, Filter, dead_letters, failed_among, read_failures
from pipeline.progress import count
from pipeline.reconcile import Finding, Reconciler
from pipeline.retry import Retry
from pipeline.status import Status, read_status
from pipeline.watch import Watch

EPILOG = """examples:
  python pipelinectl.py migrate                          make or update the tables
  python pipelinectl.py enqueue /recordings/monday.tar   bring this archive from the EC2 host
  python pipelinectl.py status --json | jq .queues       for scripts
  python pipelinectl.py failures --reason ffmpeg         what failed, and why
  python pipelinectl.py retry 20250622-143052            the failed files of a batch once more
  python pipelinectl.py reconcile --apply                after Redis was lost: queue what S3 and PostgreSQL know of
  python pipelinectl.py drain gpu-04 --wait              before a host is taken down

exit status: 0 well, 1 a service is away or something is left to do, 2 wrong arguments or settings (example.env)"""


QUEUES = [config.TRANSFER_QUEUE, config.UNPACK_QUEUE, config.TRANSCRIBE_QUEUE]

RETRY = """Queue failed work again: the failed files of a batch, dead letters by --job, or all that a filter takes.
What is done stays done. The archive is fetched and unpacked once more, so it has to be in S3."""

RECONCILE = """Compare archives and Opus in S3, PostgreSQL and Redis, and say what is missing, doubled or
orphaned. With --apply, queue what nobody works on and clean up what is left over. Safe while workers run, and to
repeat; after Redis was lost it rebuilds the queues. Exit status 1 while something is left."""

DRAIN = """Have a host take no new work: it finishes its open batches, and gives back the archives that it has
not begun. Exit status 1 while it has some. Its workers may be stopped at any time: nothing is lost, only done
again."""


def connect() -> Any:
    """The Redis of the settings; ends with status 2 where it refuses us."""
    config.require(*config.REDIS)
    client = redis_client.connect(config.REDIS_URL)
    if problem := redis_client.refusal(client):
        config.refuse(problem)
    return client


@contextmanager
def connect_database() -> Iterator[Database]:
    """The PostgreSQL of the settings, with the schema of this code; ends with status 2 where it is another."""
    config.require(*config.DATABASE)
    database = Database(config.DATABASE_URL)
    if problem := database.check_schema():
        config.refuse(problem)
    yield database
    database.close()


def queues_of(redis: Any) -> list[str]:
    """Every queue: those of the settings, and each host's own."""
    return all_queues(redis, QUEUES)


def has_agreed(arguments: argparse.Namespace, question: str) -> bool:
    """Whether to go on: --yes, or a yes on the terminal."""
    if arguments.yes:
        return True
    if not sys.stdin.isatty():
        complain(f"{question}: say --yes")
        return False
    print(f"{shown(question)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say(text: str) -> None:
    """One line."""
    print(shown(text), flush=True)


def complain(text: str) -> None:
    """One line to standard error."""
    print(f"pipelinectl: {shown(' '.join(text.split()))}", file=sys.stderr)


def shown(text: str) -> str:
    """The text for a terminal, which is not to obey it: what does not print (an escape, a newline) as \\xNN."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


# --- what moves ----------------------------------------------------------------------------------------


def enqueue(arguments: argparse.Namespace) -> None:
    """Queue remote paths for transfer."""
    if "" in arguments.remote_path:
        config.refuse("a remote path is empty")
    watch = Watch(connect(), config.TRANSFER_QUEUE)
    for path in arguments.remote_path:
        watch.enqueue(path)
        say(f"queued {path}")


def status(arguments: argparse.Namespace) -> None:
    """Show queues, workers and open batches."""
    redis = connect()
    now = read_status(redis, QUEUES)
    if arguments.json:
        print(json.dumps(now.as_dict(), indent=2))
    else:
        show(now, Console())


def show(now: Status, console: Console) -> None:
    """Print the status as three tables."""
    console.print(_table("queues", now.queues, ("name", "waiting", "delayed", "in_work", "dead")))
    for worker in now.workers:
        worker["for"] = f"{int(time.time() - worker['since'])} s" if worker["alive"] else ""
    console.print(_table("workers", now.workers, ("id", "host", "doing", "for")))
    console.print(_table("open batches", now.batches, ("id", "host", "total", "processed", "failed")))


def _table(title: str, rows: list[dict[str, Any]], columns: tuple[str, ...], limit: int | None = None) -> Table:
    more = "" if limit is None or len(rows) <= limit else f", the first {limit}"
    table = Table(title=f"{title}: {len(rows)}{more}", title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows[:limit]:
        table.add_row(*(Text("" if row[column] is None else shown(str(row[column]))) for column in columns))
    return table


# --- what failed ---------------------------------------------------------------------------------------


def filter_of(arguments: argparse.Namespace) -> Filter:
    """Which failures the arguments ask for."""
    return Filter(
        getattr(arguments, "batch", None) or "", arguments.queue or "", arguments.reason or "", arguments.since
    )


def failures(arguments: argparse.Namespace) -> None:
    """Show failed files and dead letters."""
    redis = connect()
    with connect_database() as database:
        found = read_failures(redis, database, queues_of(redis), filter_of(arguments))
    if arguments.json:
        print(json.dumps(found.as_dict(), indent=2))
    elif arguments.by_reason:
        rows = [{"number": number, "reason": reason} for reason, number in found.reasons()]
        Console().print(_table("reasons", rows, ("number", "reason")))
    else:
        show_failures(found, Console(), arguments.limit)


def show_failures(found: Failures, console: Console, limit: int) -> None:
    """Print failures as two tables, each of `limit` rows at most."""
    files = [asdict(file) for file in found.files]
    console.print(_table("failed files", files, ("failed_at", "batch_id", "original_filename", "error"), limit))
    jobs = [asdict(job) for job in found.jobs]
    console.print(_table("dead letters", jobs, ("id", "time", "queue", "job", "error"), limit))


def retry(arguments: argparse.Namespace) -> int:
    """Queue failed work again: a batch, some of its files, dead letters, or all that a filter takes."""
    wanted = filter_of(arguments)
    chosen = [bool(arguments.batch_id), bool(arguments.job), wanted != Filter()]
    if sum(chosen) != 1:
        config.refuse("name a batch, or dead letters with --job, or a filter: --reason, --queue, --since")
    redis = connect()
    config.require(*config.S3)
    with connect_database() as database:
        letters = dead_letters(redis, queues_of(redis))
        retrying = Retry(
            redis, database, config.UNPACK_QUEUE, letters, s3_utils.archive_bytes, s3_utils.archive_key
        )
        if arguments.batch_id:
            return tried(arguments.batch_id, retrying, arguments.file or None)
        if arguments.job:
            by_id = {letter.id: letter for letter in letters}
            if unknown := [name for name in arguments.job if name not in by_id]:
                config.refuse(shown(f"no dead letter {', '.join(unknown)}: see `pipelinectl.py failures`"))
            return try_again([], [by_id[name] for name in dict.fromkeys(arguments.job)], retrying)
        return retry_all(arguments, read_failures(redis, database, queues_of(redis), wanted), retrying)


def retry_all(arguments: argparse.Namespace, found: Failures, retrying: Retry) -> int:
    """Queue again all that was found, after a question."""
    files = [(file.batch_id, file.original_filename) for file in found.files]
    if not files and not found.jobs:
        say("nothing has failed so")
        return 0
    of = f"{count(len(files), 'file')} of {count(len({batch_id for batch_id, _ in files}), 'batch')}"
    if not has_agreed(arguments, f"try {of} and {count(len(found.jobs), 'dead letter')} again"):
        return 1
    return try_again(files, found.jobs, retrying)


def try_again(files: list[tuple[str, str]], letters: list[DeadLetter], retrying: Retry) -> int:
    """Queue failed files (batch id, name) and dead letters again, each batch once; gives the exit status."""
    failed = failed_among(retrying.database, [letter.file for letter in letters if letter.file])
    of_batch: defaultdict[str, list[str]] = defaultdict(list)
    for batch_id, name in dict.fromkeys([*files, *sorted(failed)]):
        of_batch[batch_id].append(name)
    statuses = [tried(batch_id, retrying, names) for batch_id, names in sorted(of_batch.items())]
    for letter in letters:
        if letter.file not in failed and letter in retrying.letters:  # not gone with its batch
            statuses.append(revived(letter, retrying))
    return max(statuses, default=0)


def tried(batch_id: str, retrying: Retry, names: list[str] | None) -> int:
    """Queue the failed files of a batch, or those named; gives the exit status."""
    try:
        say(f"queued {retrying.batch(batch_id, names)}")
    except Permanent as problem:
        complain(str(problem))
        return 1
    return 0


def revived(letter: DeadLetter, retrying: Retry) -> int:
    """Queue a dead letter's job again; gives the exit status."""
    try:
        say(f"queued {retrying.letter(letter)}")
    except Permanent as problem:
        complain(f"{letter.id}: {problem}")
        return 1
    return 0


# --- what is amiss -------------------------------------------------------------------------------------


def reconcile(arguments: argparse.Namespace) -> int:
    """Compare S3, PostgreSQL and Redis, and mend what can be mended."""
    if arguments.delete_orphans and not arguments.apply:
        config.refuse("--delete-orphans goes with --apply")
    redis = connect()
    config.require(*config.S3)
    if problem := s3_utils.check_bucket():
        config.refuse(problem)
    with connect_database() as database:
        comparison = Reconciler(
            redis, database, config.TRANSFER_QUEUE, config.UNPACK_QUEUE, [config.TRANSCRIBE_QUEUE],
            s3_utils.archives, s3_utils.opus_keys, s3_utils.exists, s3_utils.delete_opus,
        )  # fmt: skip
        found = list(comparison.findings())
        outcomes = ["found"] * len(found)
        if arguments.apply:
            doomed = sum(finding.destroys for finding in found)
            question = f"delete {count(doomed, 'object')} in S3"
            delete = bool(arguments.delete_orphans and doomed) and has_agreed(arguments, question)
            outcomes = [mend(finding, delete) for finding in found]
    rows = [
        {"kind": of.kind, "subject": of.subject, "what": of.what, "remedy": of.remedy, "outcome": outcome}
        for of, outcome in zip(found, outcomes, strict=True)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    elif rows:
        Console().print(_table("amiss", rows, ("kind", "subject", "what", "remedy", "outcome"), arguments.limit))
        if not arguments.apply:
            print("nothing was changed: --apply mends what has a remedy")
    else:
        print("S3, PostgreSQL and Redis agree")
    return int(any(outcome in ("found", "left") for outcome in outcomes))


def mend(finding: Finding, delete: bool) -> str:
    """Apply a finding's remedy where it has one; gives what came of it."""
    if finding.repair is None or (finding.destroys and not delete):
        return "left"
    return "gone meanwhile" if finding.repair() is False else "mended"


def drain(arguments: argparse.Namespace) -> int:
    """Have a host take no new work, and wait until it has none."""
    redis = connect()
    host = arguments.host
    if arguments.undo:
        say(f"{host} takes work again" if draining.undo(redis, host) else f"{host} was not draining")
        return 0
    if not Batches(redis, "").is_known(host):
        complain(f"no worker of {host} was heard within a week: `pipelinectl.py status` shows the hosts")
        return 2
    draining.begin(redis, host)
    say(f"{host} takes no new work; `drain {host} --undo` lets it take some again")
    if arguments.hand_back:
        left = draining.work_of(redis, host, config.UNPACK_QUEUE, config.TRANSFER_QUEUE)
        batches = count(len(left.batches), "open batch")
        question = f"give {batches} of {host} to other hosts, which begin anew"
        if left.batches and not has_agreed(arguments, question):
            return 1
        for batch_id in draining.hand_back(redis, host, config.UNPACK_QUEUE):
            say(f"batch {batch_id} is queued again")
    return wait_until_drained(redis, host, arguments.wait)


def wait_until_drained(redis: Any, host: str, wait: bool) -> int:
    """Tell what the host has left; where asked to, until it is nothing."""
    told = None
    while (left := draining.work_of(redis, host, config.UNPACK_QUEUE, config.TRANSFER_QUEUE)).is_some():
        if str(left) != told:
            say(f"{host} has left: {left}")
            told = str(left)
        if not wait:
            return 1
        time.sleep(1)
    say(f"{host} has no work: its workers can be stopped")
    return 0


# --- the database --------------------------------------------------------------------------------------


def migrate(_arguments: argparse.Namespace) -> None:
    """Apply what is new in schema/; safe to repeat, and when two run at once."""
    config.require(*config.DATABASE)
    database = Database(config.DATABASE_URL)
    if problem := database.refusal():
        config.refuse(problem)
    applied = database.migrate()
    database.close()
    print(f"applied {', '.join(applied)}" if applied else "the schema is up to date")


def _add_filter(command: argparse.ArgumentParser) -> None:
    command.add_argument("--queue", metavar="NAME", help="dead letters of this queue only")
    command.add_argument("--reason", type=_text, metavar="TEXT", help="whose reason has this text in it")
    command.add_argument("--since", type=_since, metavar="AGE", help="in the last 30m, 24h or 7d")


def _since(age: str) -> datetime.datetime:
    """The moment so long ago."""
    if not (match := re.fullmatch(r"([0-9]{1,5})([mhd])", age)):
        raise argparse.ArgumentTypeError(f"{age!r} is no age: give 30m, 24h or 7d")
    unit = {"m": "minutes", "h": "hours", "d": "days"}[match[2]]
    return datetime.datetime.now(datetime.UTC) - datetime.timedelta(**{unit: int(match[1])})


def _text(text: str) -> str:
    """The text, where PostgreSQL can look for it."""
    if not is_storable(text):
        raise argparse.ArgumentTypeError("it is not UTF-8, or too long")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    queueing = commands.add_parser("enqueue", help="queue archives on the EC2 host for transfer")
    queueing.add_argument("remote_path", nargs="+", help="path of a tar archive on the EC2 host")
    queueing.set_defaults(run=enqueue)
    showing = commands.add_parser("status", help="show queues, workers and open batches")
    showing.add_argument("--json", action="store_true", help="for scripts")
    showing.set_defaults(run=status)
    failing = commands.add_parser("failures", help="show failed files and dead letters, with the reason")
    failing.add_argument("--batch", type=_text, metavar="ID", help="of this batch")
    _add_filter(failing)
    failing.add_argument("--by-reason", action="store_true", help="each reason with its number")
    failing.add_argument("--limit", type=_count, default=50, metavar="N", help="rows of a table (50)")
    failing.add_argument("--json", action="store_true", help="for scripts; everything")
    failing.set_defaults(run=failures)
    retrying = commands.add_parser("retry", help="queue failed work again", description=RETRY)
    retrying.add_argument("batch_id", nargs="?", help="its failed files are tried again")
    retrying.add_argument("file", nargs="*", help="only these files of the batch")
    retrying.add_argument("--job", action="append", metavar="ID", help="a dead letter; may be repeated")
    _add_filter(retrying)
    retrying.add_argument("--yes", action="store_true", help="do not ask")
    retrying.set_defaults(run=retry)
    mending = commands.add_parser("reconcile", help="compare S3, PostgreSQL and Redis", description=RECONCILE)
    mending.add_argument("--apply", action="store_true", help="queue what is missing, clean up what is left over")
    mending.add_argument(
        "--delete-orphans", action="store_true", help="with --apply: delete Opus without a row too"
    )
    mending.add_argument("--yes", action="store_true", help="do not ask before deleting")
    mending.add_argument("--limit", type=_count, default=200, metavar="N", help="rows of the table (200)")
    mending.add_argument("--json", action="store_true", help="for scripts; everything")
    mending.set_defaults(run=reconcile)
    emptying = commands.add_parser("drain", help="have a host take no new work", description=DRAIN)
    emptying.add_argument("host", help="its HOST_NAME, as `status` shows it")
    emptying.add_argument("--wait", action="store_true", help="until it has no work left")
    emptying.add_argument("--hand-back", action="store_true", help="give its open batches to other hosts")
    emptying.add_argument("--undo", action="store_true", help="let it take work again")
    emptying.add_argument("--yes", action="store_true", help="do not ask before handing back")
    emptying.set_defaults(run=drain)
    applying = commands.add_parser("migrate", help="apply the database schema; safe to repeat")
    applying.set_defaults(run=migrate)
    return top


def main() -> int:
    """Run one command."""
    arguments = parser().parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # paths that are not UTF-8
    try:
        status = arguments.run(arguments) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if (service := away(error)) is None:
            raise
        complain(f"{service} is away: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return int(status)


if __name__ == "__main__":
    raise SystemExit(main())
