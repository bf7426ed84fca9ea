"""pipelinectl backup: write to S3 the transcripts that it lacks."""

import argparse
import json
import sys
from typing import Any

import config
import s3_transcripts
import s3_utils
from pipeline.foundation.formatting import count
from pipeline.operations import transcript_backup
from pipeline.store.database import Database
from pipeline.store.transcript_files import TranscriptFiles

DESCRIPTION = """Write to S3 the transcripts that it lacks, beside their Opus, as processed/DATE/ID.json:
`rebuild` makes a lost database from them. The workers write those of new files by themselves; run this once when
the first release that does so is on every GPU host, and whenever --dry-run finds one missing. Safe while workers
run, to interrupt and to repeat. docs/backup.md says what else has to be saved. Exit status: 0 S3 has all of
them, 1 it lacks some or a service is unavailable, 2 wrong settings."""
TOLD = 10_000  # transcripts, after which it says so


def run(arguments: argparse.Namespace) -> int:
    """Write what is missing."""
    config.require(*config.DATABASE, *config.S3)
    if problem := s3_utils.check_bucket():
        config.refuse(problem)
    database = Database(config.DATABASE_URL, transcript_backup.WRITERS)
    if problem := database.check_schema():
        config.refuse(problem)
    keys = (key for key, _ in s3_transcripts.listing() if key.endswith(".json"))
    done, missing = transcript_backup.find_missing(database, keys)

    def say(looked: int) -> None:
        if looked % TOLD < transcript_backup.FILES_AT_A_TIME and looked < len(missing):
            print(f"{looked:,} of {count(len(missing), 'transcript')} so far", file=sys.stderr, flush=True)

    written = 0
    if not arguments.dry_run:
        written = transcript_backup.write(TranscriptFiles(database, s3_transcripts.put), missing, say)
    database.close()
    if arguments.json:
        print(json.dumps({"files": done, "missing": len(missing), "written": written}))
    elif not missing:
        print(f"S3 has the transcripts of all files that are done: {done:,}")
    elif arguments.dry_run:
        print(f"S3 lacks the transcripts of {count(len(missing), 'file')} of {done:,}: nothing was written")
    else:
        print(f"{count(written, 'transcript')} written to S3, of {count(done, 'file')} that are done")
    return int(arguments.dry_run and bool(missing))


def add(commands: Any) -> None:
    """Its arguments."""
    command = commands.add_parser("backup", help="write transcripts to S3 that it lacks", description=DESCRIPTION)
    command.add_argument("--dry-run", action="store_true", help="only say how many are missing")
    command.add_argument("--json", action="store_true", help="for scripts: files, missing, written")
    command.set_defaults(run=run)
