"""What becomes of an archive on the EC2 host when it is in S3 and queued: nothing, or it is deleted or renamed.

What is still to be done is in `{queue}:after` (remote path -> the file's state), written by the same step
that settles the transfer, so that no crash forgets it: any worker may do it, and more than once. A file that
changed since is left alone.

Nothing is done before a note has been there for a while. Redis may lose its last second, in a failover: then the
transfer is a job again, which needs its file.
"""

import json
import logging
import time
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import Permanent
from pipeline.transfer.ssh import FileState, RemoteHost
from pipeline.transfer.volumes import Volumes

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60  # between two tries of what could not be done


class Sources:
    """The archives that one queue has brought; `action` is keep, delete or rename, and done `wait` seconds after a
    note was first seen."""

    def __init__(
        self, redis: Any, queue_name: str, host: RemoteHost, volumes: Volumes, action: str, wait: float
    ) -> None:
        self.redis, self.host, self.volumes, self.action, self.wait = redis, host, volumes, action, wait
        self.after = f"{queue_name}:after"
        self._forget = redis_client.script(redis, "forget")
        self._due: dict[tuple[str, str], float] = {}  # when what is noted is to be done
        self._next_try = 0.0

    def note(self, path: str, state: FileState) -> tuple[str, str, str]:
        """The note for `JobQueue.settle`: this file, as it was copied, is done with."""
        if self.action == "keep":
            return ("", "", "")
        return (self.after, json.dumps(path), json.dumps([state.size, state.changed, state.sha256]))

    def tidy(self, path: str, state: FileState) -> None:
        """Do with one file what was noted, and strike out the note."""
        if self.action == "keep":  # changed since it was noted: it waits
            return
        try:
            outcome = self.host.tidy(path, state, self.action)
        except Permanent as error:
            log.error("%s could not be %sd: %s", path, self.action, error)
            outcome = "refused"
        if outcome == "gone" and (lost := self.volumes.missing(path)):
            where = f"{lost} on {self.host.host}"
            log.warning("%s is missing or not mounted: %s is not %sd yet", where, path, self.action)
            return
        if outcome == "done":
            log.info("%s is %sd on %s", path, self.action, self.host.host)
        elif outcome == "changed":
            log.warning("%s has changed since it was copied: it is not %sd", path, self.action)
        _, field, value = self.note(path, state)
        self._forget(keys=[self.after], args=[field, value])

    def tidy_up(self) -> None:
        """Do what is noted, of whatever worker. After an outage the next call that does anything is later."""
        now = time.monotonic()
        if self.action == "keep" or now < self._next_try:
            return
        self._next_try = now + AGAIN_SECONDS
        notes = self.redis.hgetall(self.after)
        self._due = {note: self._due.get(note, now + self.wait) for note in notes.items()}
        for note in [note for note, due in self._due.items() if due <= now]:
            self._due[note] = now + AGAIN_SECONDS
            path, state = note
            self.tidy(json.loads(path), FileState(*json.loads(state)))
        self._next_try = 0.0
