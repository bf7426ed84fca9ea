"""Writes to S3 the transcripts that it lacks, as of files that a release from before them has made."""

from array import array
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from pipeline.store.database import Database
from pipeline.store.transcript_files import TranscriptFiles, files_without

WRITERS = 8  # to S3, at once; each has a connection to PostgreSQL
FILES_AT_A_TIME = 200


def find_missing(database: Database, keys: Iterable[str]) -> tuple[int, "array[int]"]:
    """How many files are done, and the ids of those whose transcript is not among the keys, which ascend."""
    done, missing = 0, array("q")
    with files_without(database, keys) as files:
        for audio_id, is_missing in files:
            done += 1
            if is_missing:
                missing.append(audio_id)
    return done, missing


def write(files: TranscriptFiles, audio_ids: "array[int]", say: Callable[[int], object]) -> int:
    """Write the transcripts of these files; gives how many, since some may have been deleted meanwhile. `say` is
    told after each step how many were looked at. Who interrupts it loses nothing: the next run finds the rest."""
    written = 0
    with ThreadPoolExecutor(WRITERS, "backup") as writers:
        for start in range(0, len(audio_ids), FILES_AT_A_TIME):
            some = audio_ids[start : start + FILES_AT_A_TIME]
            written += sum(writers.map(files.keep_settled, some))
            say(start + len(some))
    return written
