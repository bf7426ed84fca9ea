"""The fleet repairs itself: every so often one unpack worker looks for batches that are stuck.

It repairs only what a machine can decide: a batch that nobody works on is queued again, one that is settled is
ended. No file fails by that, nothing in S3 is deleted, and `reconcile` would find the same. What a person has to
decide is left, logged once, and kept for `pipelinectl status`.

    batches:reconcile  string  the worker whose turn it is, or '' until the next turn
    batches:amiss      string  JSON: what the last comparison has left for a person (kind, subject, what)
    batches:stranded   string  JSON: all batches that it has left; while it is there, the status reads no jobs
"""

import json
import logging
import threading
import time

from pipeline.foundation import redis_client
from pipeline.foundation.errors import unavailable_service
from pipeline.jobs.batches import AMISS, STRANDED
from pipeline.jobs.worker import Worker
from pipeline.operations.reconcile import Finding, Reconciler

log = logging.getLogger(__name__)

TURN = "batches:reconcile"
TURN_SECONDS = 900  # the longest turn: then it is another's, as where its worker is dead
REST = 20  # a comparison that takes long is followed by so many times its duration without one
LOOK_SECONDS = 5.0  # between two questions whose turn it is
MOST_KEPT = 20  # findings for the status
AMISS_SECONDS = 86400
LATE_SECONDS = 60  # after its time, the next comparison should have ended


class SelfRepair:
    """Compares every `seconds` on behalf of the whole fleet, in one process at a time."""

    def __init__(self, process: Worker, reconciler: Reconciler, seconds: int) -> None:
        self.worker, self.redis, self.reconciler, self.seconds = process, process.redis, reconciler, seconds
        self._take_turn = redis_client.script(process.redis, "take_turn")
        self._reported: set[tuple[str, str]] = set()

    def start(self) -> None:
        """Begin, in a thread that ends with the process; not where `seconds` is 0."""
        if self.seconds:
            threading.Thread(target=self._run, name="reconcile", daemon=True).start()

    def _run(self) -> None:
        while not self.worker.stop.wait(min(self.seconds, LOOK_SECONDS)):
            try:
                self.look()
            except Exception as error:  # the next turn finds it again
                log.warning("reconcile: %s", error, exc_info=unavailable_service(error) is None)

    def look(self) -> None:
        """Compare and repair, where it is this worker's turn, and all have had the time to be heard by Redis."""
        if self.worker.steady_seconds() < self.worker.limits.heartbeat:
            return
        if not self._begin():
            return
        began, rest = time.monotonic(), self.seconds
        try:
            left = self._repair()
            rest = max(rest, int(REST * (time.monotonic() - began)))
            self._note_stranded(left, 2 * rest + LATE_SECONDS)
        finally:
            self.reconciler.database.close()  # until the next turn, which may be another host's
            self._end(rest)

    def _begin(self) -> bool:
        return bool(self._take_turn(keys=[TURN], args=[self.worker.id, TURN_SECONDS]))

    def _note_stranded(self, batches: list[str], seconds: int) -> None:
        self.redis.set(STRANDED, json.dumps(batches), ex=seconds)

    def _end(self, rest: int) -> None:
        self.redis.set(TURN, "", ex=rest)

    def _repair(self) -> list[str]:
        """Repair what can be, tell of the rest; gives its batches."""
        left = [finding for finding in self.reconciler.batch_findings() if not self._is_repaired(finding)]
        self._reported &= {(of.kind, of.subject) for of in left}
        for of in left:
            if (of.kind, of.subject) not in self._reported:
                log.warning("reconcile cannot repair %s, %s: %s; %s", of.subject, of.kind, of.what, of.remedy)
                self._reported.add((of.kind, of.subject))
        rows = [{"kind": of.kind, "subject": of.subject, "what": of.what} for of in left[:MOST_KEPT]]
        self.redis.set(AMISS, json.dumps(rows), ex=AMISS_SECONDS)
        return [of.subject for of in left]

    def _is_repaired(self, of: Finding) -> bool:
        if of.repair is None or of.destroys:
            return False
        if of.repair() is not False:
            log.warning("reconcile has repaired %s, %s: %s; %s", of.subject, of.kind, of.what, of.remedy)
        return True  # or it has changed meanwhile
