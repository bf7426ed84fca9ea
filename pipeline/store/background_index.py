"""The index of what an older release has written, made by a worker beside its work."""

import time

from pipeline.store.database import Database

LOOK_SECONDS = 60  # between two looks where nothing was found: a look is slow beside a long reader
REST = 4  # times as long as some transcripts took, before the next ones


class BackgroundIndex:
    """Indexes a few transcripts at a time, in a small part of the time of the thread that calls it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._next = 0.0

    def look(self) -> None:
        """Index some transcripts, if it is time; what fails comes again after a while."""
        if (began := time.monotonic()) < self._next:
            return
        self._next = began + LOOK_SECONDS
        if self._database.index_transcripts():
            self._next = time.monotonic() + REST * (time.monotonic() - began)
