"""Delivers webhooks, in a thread of each unpack worker: none of what the workers do waits for the receiver.

Every event is in PostgreSQL until the receiver has taken it (`pipeline.store.webhook_outbox`), and is delivered at
least once. Several workers deliver at the same time, each event by one of them.

    batches:announced  string  the worker that last looked for dead letters to tell of, for a while
"""

import logging
from typing import Any

from pipeline.foundation.formatting import printable
from pipeline.foundation.webhook_request import Receiver, Refusal
from pipeline.jobs import background
from pipeline.jobs.batches import all_queues
from pipeline.jobs.worker import Worker
from pipeline.operations.failures import DeadLetter, read_dead_letters
from pipeline.store import webhook_outbox
from pipeline.store.database import Database
from pipeline.store.webhook_outbox import Event

log = logging.getLogger(__name__)

ANNOUNCED = "batches:announced"
LOOK_SECONDS = 5.0  # between two questions whether an event is due, and after a receiver that takes none
ANNOUNCE_SECONDS = 30  # between two looks for dead letters, by whichever worker
TURN_SECONDS = 300  # of a worker that looks for them, at most: it may have died
MOST_ANNOUNCED = 1000  # dead letters of a queue: each look reads them all
MOST_SHOWN = 2000  # characters of a job and of a reason: both are whatever somebody has written


class WebhookDelivery:
    """Delivers what is due to the receiver; without one, only forgets what is old."""

    def __init__(self, process: Worker, database: Database, receiver: Receiver | None, queues: list[str]) -> None:
        self.worker, self.redis, self.database, self.receiver = process, process.redis, database, receiver
        self.queues = queues
        self._is_failing = False
        self._refused_with: set[int | None] = set()  # statuses of events that were refused for themselves

    def start(self) -> None:
        """Begin, in a thread that ends with the process."""
        background.start(self.worker, "webhooks", self.look, LOOK_SECONDS, _warn)

    def look(self) -> None:
        """Deliver what is due; before each event tell of the dead letters, where nobody has just done so."""
        while not self.worker.stop.is_set():
            if self._has_turn():
                try:
                    self.announce()
                finally:
                    self._end_turn()
            event = webhook_outbox.claim(self.database) if self.receiver else None
            if not (self.receiver and event and self.deliver(event, self.receiver)):
                return

    def _has_turn(self) -> bool:
        return bool(self.redis.set(ANNOUNCED, self.worker.id, nx=True, ex=TURN_SECONDS))

    def _end_turn(self) -> None:
        self.redis.set(ANNOUNCED, self.worker.id, ex=ANNOUNCE_SECONDS)

    def announce(self) -> None:
        """Write an event for each of the newest dead letters that has none, and forget events that are old."""
        if self.receiver:
            queues = all_queues(self.redis, self.queues)
            dead_letters = read_dead_letters(self.redis, queues, MOST_ANNOUNCED)
            events = {webhook_outbox.dead_letter_id(dead.queue, dead.text): _data(dead) for dead in dead_letters}
            webhook_outbox.note_dead_letters(self.database, events)
        webhook_outbox.prune(self.database, is_unused=self.receiver is None)

    def deliver(self, event: Event, receiver: Receiver) -> bool:
        """Send one event; False where the receiver is down, or slow: no other is sent after it at once."""
        refusal = receiver.send(event.event_id, event.type, event.body())
        if refusal is not None:
            self._refused(event, refusal)
            return refusal.is_of_the_event
        webhook_outbox.mark_delivered(self.database, event.event_id)
        self.worker.metrics.webhook("taken")
        if self._is_failing:
            log.info("webhooks: the receiver has recovered")
        self._is_failing = False
        return True

    def _refused(self, event: Event, refusal: Refusal) -> None:
        error = printable(refusal.problem)
        if not self._is_said(refusal):
            log.warning("webhooks: the receiver does not take events, they are retried: %s", error)
        self.worker.metrics.webhook("refused")
        if webhook_outbox.mark_failed(self.database, event.event_id, error):
            self.worker.metrics.webhook("failed")
            log.error("webhooks: %s, event %s: failed permanently after a day", event.type, event.event_id)

    def _is_said(self, refusal: Refusal) -> bool:
        """Whether it was said before: once until the receiver takes an event again; or, of single events, once for
        each status."""
        if refusal.is_of_the_event:
            is_said = refusal.status in self._refused_with
            self._refused_with.add(refusal.status)
            return is_said
        is_said, self._is_failing = self._is_failing, True
        return is_said


def _data(dead: DeadLetter) -> dict[str, Any]:
    """What is told of a dead letter."""
    return {
        "queue": printable(dead.queue),
        "dead_letter_id": dead.id,
        "job": printable(dead.job)[:MOST_SHOWN],
        "error": printable(dead.error)[:MOST_SHOWN],
        "attempts": dead.attempts,
        "worker": printable(dead.worker)[:MOST_SHOWN],
        "failed_at": printable(dead.time)[:MOST_SHOWN],
    }


def _warn(error: Exception, is_unexpected: bool) -> None:
    log.warning("webhooks: %s", error, exc_info=is_unexpected)
