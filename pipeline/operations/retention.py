"""Retention: one unpack worker at a time deletes what is older than it is to be kept, in small steps.

Age counts from when a file was unpacked (archives: when their batch was finished), not from when it was
recorded: what a wrong clock has written deletes nothing. The oldest goes first; batches on hold are left out.
Each step is one transaction in PostgreSQL; what it leaves to do in S3, and what an interrupted `pipelinectl
delete` has left, is done after it.

    batches:retention  string  the worker whose turn it is, or '' until the next turn
"""

import logging
import time
from dataclasses import dataclass

from pipeline.foundation import redis_client
from pipeline.jobs import background
from pipeline.jobs.worker import Worker
from pipeline.operations.deletion import Store, carry_out
from pipeline.store import deletion
from pipeline.store.database import Database
from pipeline.store.deletion import Refused
from pipeline.store.queries import QUERIES

log = logging.getLogger(__name__)

TURN = "batches:retention"
TURN_SECONDS = 900  # the longest turn: then it is another's, as where its worker is dead
STEPS_SECONDS = 300  # of a turn in which steps are begun
REST_SECONDS, LONG_REST_SECONDS = 30, 600  # until the next turn: where something is left, and where nothing is
LOOK_SECONDS = 5.0  # between two questions whose turn it is
FILES_AT_A_TIME, ARCHIVES_AT_A_TIME = 200, 20  # of a step


@dataclass(frozen=True)
class Keep:
    """For how many days each is kept; 0: for ever. The end of a transcript is that of its whole file."""

    archives: int
    opus: int
    transcripts: int

    def is_any(self) -> bool:
        """Whether anything is deleted ever."""
        return bool(self.archives or self.opus or self.transcripts)


@dataclass(frozen=True)
class Due:
    """How much of something is too old, and how much of that is on hold. `kept`: for how many days it is."""

    what: str
    kept: str
    due: int
    on_hold: int


class Retention:
    """What is too old, deleted on behalf of the whole fleet by one process at a time."""

    def __init__(self, process: Worker, database: Database, store: Store, keep: Keep) -> None:
        self.worker, self.redis = process, process.redis
        self.database, self.store, self.keep = database, store, keep
        self._take_turn = redis_client.script(process.redis, "take_turn")
        self._may_delete = False  # not known yet

    def refusal(self) -> str | None:
        """Why this worker cannot do what the settings ask of it, in one line; None where it can, or nothing is
        asked."""
        return self._lack() if self.keep.is_any() else None

    def start(self) -> None:
        """Begin, in a thread that ends with the process, or at once where this worker may not delete."""
        background.start(self.worker, "retention", self._look_if_it_may, LOOK_SECONDS, _warn)

    def _lack(self) -> str | None:
        return deletion.lack_of_rights(self.database) or self.store.lack_of_rights()

    def _look_if_it_may(self) -> bool:
        """Look, or give False where this worker may not delete."""
        if not self._may_delete and self._lack():
            return False
        self._may_delete = True
        self.look()
        return True

    def look(self) -> None:
        """Delete what is too old, where it is this worker's turn."""
        if not self._take_turn(keys=[TURN], args=[self.worker.id, TURN_SECONDS]):
            return
        rest = REST_SECONDS
        try:
            if self._work():
                rest = LONG_REST_SECONDS
        finally:
            self.database.close()  # until the next turn, which may be another host's
            self.redis.set(TURN, "", ex=rest)

    def _work(self) -> bool:
        """Take steps until nothing is left (then True), the turn is over or the process is to end."""
        until = time.monotonic() + STEPS_SECONDS
        while time.monotonic() < until and not self.worker.stop.is_set():
            carry_out(self.database, self.store, self.worker.stop.is_set)
            if not self.step():
                return True
        return False

    def step(self) -> int:
        """Delete some of what is too old in PostgreSQL; gives how much, 0 where nothing is left."""
        try:
            return self._files() or self._opus() or self._archives()
        except Refused as reason:  # put on hold a moment ago
            log.info("retention: %s", reason)
            return 1

    @property
    def _actor(self) -> str:
        return f"worker:{self.worker.id}"

    def _files(self) -> int:
        if not self.keep.transcripts:
            return 0
        with self.database.transaction() as cursor:
            cursor.execute(QUERIES["old_files"], {"days": self.keep.transcripts, "most": FILES_AT_A_TIME})
            rows = cursor.fetchall()
        if not rows:
            return 0
        batch_id, audio_ids = rows[0][0], [audio_id for _, audio_id in rows]
        done = deletion.delete_files(self.database, batch_id, audio_ids, self._actor, "retention")
        days = self.keep.transcripts
        log.info("retention: batch %s: %d files are gone, after %d days", batch_id, done.files, days)
        return len(rows)

    def _opus(self) -> int:
        if not self.keep.opus:
            return 0
        expired = deletion.expire_opus(self.database, self.keep.opus, FILES_AT_A_TIME, self._actor)
        if expired:
            log.info("retention: the Opus of %d files are gone, after %d days", expired, self.keep.opus)
        return expired

    def _archives(self) -> int:
        if not self.keep.archives:
            return 0
        with self.database.transaction() as cursor:
            cursor.execute(QUERIES["old_archives"], {"days": self.keep.archives, "most": ARCHIVES_AT_A_TIME})
            batch_ids = [batch_id for (batch_id,) in cursor.fetchall()]
        dropped = deletion.drop_archives(self.database, batch_ids, self._actor, "retention") if batch_ids else []
        for batch_id in dropped:
            log.info("retention: the archive of batch %s is gone, after %d days", batch_id, self.keep.archives)
        return len(batch_ids)


def what_is_due(database: Database, keep: Keep) -> list[Due]:
    """How much is too old now, of each that is not kept for ever."""
    found = []
    with database.long_transaction() as cursor:
        for what, days in (("files", keep.transcripts), ("Opus", keep.opus), ("archives", keep.archives)):
            due, on_hold = 0, 0
            if days:
                cursor.execute(QUERIES["due_" + what.lower()], {"days": days})
                due, on_hold = cursor.fetchone()
            found.append(Due(what, f"{days} days" if days else "for ever", due, on_hold))
    return found


def _warn(error: Exception, is_unexpected: bool) -> None:
    log.warning("retention: %s", error, exc_info=is_unexpected)
