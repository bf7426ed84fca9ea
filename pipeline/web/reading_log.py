"""Who has read, searched, downloaded and listened, for the audit log. No page waits for it or fails because of it.

Entries wait in memory for one thread, which writes them to PostgreSQL at once, or when it has recovered. Of those
that wait there are MOST_WAITING at most; what comes beyond is lost, and an entry says how many were. An entry may
be written twice, where the connection ends while it is written.
"""

import datetime
import hashlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Request

from pipeline.foundation.errors import unavailable_service
from pipeline.store import audit
from pipeline.store.database import Database

MOST_WAITING, AT_A_TIME = 10_000, 200  # entries in memory, some MB, and in a transaction
REPEAT_SECONDS = 60  # in which the same entry of the same reader is written once
RETRY_SECONDS, CLOSE_SECONDS = 5.0, 5.0
MOST_VALUE = 100  # characters of a value in an entry
MARK_DIGITS = 16
ACTIONS = {
    "pages.file": "read", "pages.alerts": "read", "pages.find": "search", "pages.audio": "listen",
    "pages.transcript": "download", "pages.transcripts_of_batch": "export", "pages.transcripts_found": "export",
    "api.file": "read", "api.transcript": "read", "api.alerts": "read", "api.files": "search",
    "api.search": "search",
}  # fmt: skip
FILTERS = (
    "language", "tag", "batch", "batch_id", "archive", "since", "until", "processed_since", "processed_until",
    "status", "search", "format",
)  # fmt: skip
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Entry:
    at: datetime.datetime
    actor: str
    action: str
    subject: str
    detail: dict[str, str]

    @property
    def said(self) -> tuple[Any, ...]:
        """The entry without its time."""
        return self.actor, self.action, self.subject, *self.detail.items()


class ReadingLog:
    """Entries on their way to the audit log. Threads may share it; `close` writes what waits."""

    def __init__(self, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._database, self._now = database, now
        self._waiting: deque[_Entry] = deque()
        self._latest: dict[tuple[Any, ...], float] = {}  # when each was added, of the last REPEAT_SECONDS
        self._lost = 0
        self._is_closing = self._is_failing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="reading log", daemon=True)
        self._thread.start()

    def add(self, actor: str, action: str, subject: str, detail: dict[str, str]) -> None:
        """Note what a reader does, unless it was noted a moment ago."""
        entry = _Entry(datetime.datetime.now(datetime.UTC), actor, action, subject, detail)
        with self._changed:
            if self._is_repeated(entry):
                return
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(entry)
                self._changed.notify()
                return
            self._lost += 1
            if self._lost == 1:
                log.warning("the audit log loses entries: %d wait for PostgreSQL", MOST_WAITING)

    def _is_repeated(self, entry: _Entry) -> bool:
        now = self._now()
        if len(self._latest) >= MOST_WAITING:
            self._latest = {said: at for said, at in self._latest.items() if at > now - REPEAT_SECONDS}
        if self._latest.get(entry.said, now - REPEAT_SECONDS) > now - REPEAT_SECONDS:
            return True
        if len(self._latest) < MOST_WAITING:
            self._latest[entry.said] = now
        return False

    def close(self) -> None:
        """Write what waits, if PostgreSQL takes it within CLOSE_SECONDS; the log says how much it did not."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join(CLOSE_SECONDS)
        if left := len(self._waiting) + self._lost:
            log.warning("%d entries of the audit log are lost: PostgreSQL did not take them at the end", left)

    def _work(self) -> None:
        """Write until it is closed and nothing waits."""
        while self._is_something_left():
            is_last = self._is_closing
            try:
                self._write()
            except Exception as error:  # noqa: BLE001 - whatever it is, the pages go on, and what waits is kept
                self._tell(error)
                if is_last:
                    return
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closing, RETRY_SECONDS)

    def _tell(self, error: Exception) -> None:
        """Say once why nothing can be written."""
        if self._is_failing:
            return
        self._is_failing = True
        if unavailable_service(error):
            log.warning("the audit log waits for PostgreSQL: %s", error)
        else:
            log.error("the audit log cannot be written", exc_info=error)

    def _is_something_left(self) -> bool:
        """Wait until there is something to write; False where it is closed and there is nothing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._lost or self._is_closing)
            return bool(self._waiting or self._lost)

    def _write(self) -> None:
        with self._changed:
            entries = [self._waiting[number] for number in range(min(AT_A_TIME, len(self._waiting)))]
            lost = self._lost
        with self._database.transaction() as cursor:
            for entry in entries:
                audit.note(cursor, entry.actor, entry.action, entry.subject, entry.detail, entry.at)
            if lost:
                audit.note(cursor, "web", "entries lost", str(lost))
        with self._changed:
            for _ in entries:
                self._waiting.popleft()
            self._lost -= lost
        self._is_failing = False


# --- what is noted -------------------------------------------------------------------------------------------


def entry_of(request: Request) -> tuple[str, str, dict[str, str]] | None:
    """Action, subject and detail of a request that reads what was said, or about whom; None of any other."""
    endpoint = request.endpoint or ""
    action = ACTIONS.get(endpoint)
    given = {name: request.args[name] for name in FILTERS if request.args.get(name)}
    words, meta = request.args.get("words", "").strip(), request.args.getlist("meta")
    path = request.view_args or {}
    if action is None or (endpoint == "pages.find" and not (given or words or meta)):
        return None
    detail = {**given, "kind": path["kind"]} if "kind" in path else given
    if meta:
        detail = {**detail, "meta": " ".join(one.partition("=")[0] for one in meta)}
    named = path.get("audio_id", path.get("batch_id", ""))
    subject = str(named) or (f"words:{mark_of(words)}" if words else endpoint.rpartition(".")[2])
    return action, subject, {name: _storable(value) for name, value in detail.items()}


def mark_of(words: str) -> str:
    """What is kept of the words of a search: the beginning of their SHA-256, in small letters. It tells whether
    somebody searched for given words, and not for which."""
    return hashlib.sha256(words.casefold().encode("utf-8", "replace")).hexdigest()[:MARK_DIGITS]


def _storable(text: str) -> str:
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:MOST_VALUE]
