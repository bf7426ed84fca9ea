"""The log: one line for each event, to standard error, as text for people or as JSON for programs.

A line names what it is about: the worker, and the job, batch and file in progress (`about`), so that the life of a
file is found by its batch id and its name. No name, however hostile, can begin a line of its own or speak to a
terminal.
"""

import contextlib
import contextvars
import hashlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Protocol

from pipeline.foundation.formatting import printable

FORMATS = ("text", "json")
_about: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("about", default={})  # noqa: B039


class Named(Protocol):
    """A job: its text in the queue, and the fields of that."""

    @property
    def payload(self) -> str:
        """The text."""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields."""


@contextlib.contextmanager
def about(job: Named) -> Iterator[None]:
    """Around the work on a job: what is logged there, in this thread, names it, its batch and its file."""
    fields = job.fields
    named = {"batch": fields.get("batch_id"), "file": fields.get("original_filename") or fields.get("remote_path")}
    found = {name: value for name, value in named.items() if isinstance(value, str) and value}
    token = _about.set({**_about.get(), "job": job_id(job.payload), **found})
    try:
        yield
    finally:
        _about.reset(token)


@contextlib.contextmanager
def naming(**fields: str) -> Iterator[None]:
    """Around work on one file or batch of a job, which the job itself does not name: `batch`, `file`."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def job_id(payload: str) -> str:
    """A short name of a job, the same at each of its deliveries."""
    return hashlib.sha256(payload.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def set_up(level: str, form: str = "text", worker: str = "", role: str = "") -> None:
    """Log to standard error from now on; `form` is one of `FORMATS`. What ends the process or a thread is an event
    like any other."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json(worker, role) if form == "json" else _Text(worker))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("faster_whisper").setLevel(logging.WARNING)
    for library in ("boto3", "botocore", "s3transfer", "urllib3"):  # at DEBUG they log signed headers
        logging.getLogger(library).setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _log_the_end
    threading.excepthook = lambda ended: _log_the_end(ended.exc_type, ended.exc_value, ended.exc_traceback)


def _log_the_end(kind: type[BaseException], error: BaseException | None, where: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt):
        logging.critical("ended by %s", kind.__name__)
    else:
        logging.critical("ended by %s: %s", kind.__name__, error, exc_info=(kind, error, where))


class _Text(logging.Formatter):
    """2026-11-25 04:50:12,345 gpu-04-gpu INFO [job=3f2a9c01d4e7] batch 20261125-044900: a.mp3 done

    The batch and the file are in the brackets where the message does not name them.
    """

    def __init__(self, worker: str) -> None:
        super().__init__(" ".join(filter(None, ("%(asctime)s", worker, "%(levelname)s %(message)s"))))

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = record.message
        named = [f"{name}={value}" for name, value in _about.get().items() if value not in message]
        record.message = printable(f"[{' '.join(named)}] {message}" if named else message)
        return super().formatMessage(record)

    def formatException(self, exc_info: Any) -> str:
        text = super().formatException(exc_info)
        return "\n".join(f"    {printable(line)}" for line in text.split("\n"))


class _Json(logging.Formatter):
    """One object a line: time (UTC), level, message, worker, role, logger, and where there are such: batch, file,
    job, exception. All of it is ASCII."""

    def __init__(self, worker: str, role: str) -> None:
        super().__init__()
        self.fields = {name: value for name, value in (("worker", worker), ("role", role)) if value}

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        event = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "message": record.getMessage(),
            **self.fields,
            **_about.get(),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event)
