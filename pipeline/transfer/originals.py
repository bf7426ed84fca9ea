"""What becomes of an archive on the EC2 host when it is in S3 and queued: nothing, or it is deleted or renamed.

What is still to be done stands in `{queue}:after` (remote path -> the file's state), written by the same step
that settles the transfer, so that no crash forgets it: any worker may do it, and more than once. A file that
changed since is left alone.
"""

import json
import logging
import time
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import Permanent, unavailable_service
from pipeline.transfer.ssh import FileState, RemoteHost

log = logging.getLogger(__name__)

AGAIN_SECONDS = 60  # between two tries of what could not be done


class Sources:
    """The archives that one queue has brought; `action` is keep, delete or rename."""

    def __init__(self, redis: Any, queue_name: str, host: RemoteHost, action: str) -> None:
        self.redis, self.host, self.action = redis, host, action
        self.after = f"{queue_name}:after"
        self._forget = redis_client.script(redis, "forget")
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
        if outcome == "done":
            log.info("%s is %sd on %s", path, self.action, self.host.host)
        elif outcome == "changed":
            log.warning("%s has changed since it was copied: it is not %sd", path, self.action)
        _, field, value = self.note(path, state)
        self._forget(keys=[self.after], args=[field, value])

    def try_to_tidy(self, path: str, state: FileState) -> None:
        """As `tidy`; while a service is unavailable, the note stays for `tidy_up`."""
        try:
            self.tidy(path, state)
        except Exception as error:
            if (service := unavailable_service(error)) is None:
                raise
            log.warning("%s is unavailable: %s is not %sd yet", service, path, self.action)

    def tidy_up(self) -> None:
        """Do what is still noted, of whatever worker, now and then."""
        if self.action == "keep" or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + AGAIN_SECONDS
        for field, value in self.redis.hgetall(self.after).items():
            self.tidy(json.loads(field), FileState(*json.loads(value)))
