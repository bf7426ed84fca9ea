"""Notes every side effect of a worker: writes to Redis, PostgreSQL and S3, changes on the disk, other programs.

Each is a JSON line: `service`, `what`, `where` (the innermost function of the project), `point` (whether it
happens inside of a function that is named in tests/faults/points.py), `thread`, and `step`, which is the same for
two effects of a thread when it came to no point between them.
"""

import itertools
import json
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Any

import botocore.client
import psycopg2.extensions
import redis

from pipeline.foundation.webhook_request import Receiver
from pipeline.store import connection_pool
from tests.faults import points
from tests.support import kill_at

PROJECT = str(kill_at.PROJECT) + "/"
_READS = {
    "GET", "MGET", "LLEN", "LRANGE", "LPOS", "ZRANGE", "ZRANGEBYSCORE", "ZSCORE", "ZCARD", "HGET", "HGETALL",
    "HKEYS", "HEXISTS", "EXISTS", "SMEMBERS", "SISMEMBER", "SCARD", "TTL", "TIME", "PING", "INFO",
    "CLIENT", "SELECT",
}  # fmt: skip
_WRITES_S3 = ("Put", "Delete", "Create", "Upload", "Complete", "Abort", "Copy")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
_ELSEWHERE = ("/dev/", "/proc/")


class Notes:
    """The file of the notes, and what is known of each thread."""

    def __init__(self, role: str, path: Path) -> None:
        self.handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.listed = set(points.FUNCTIONS[role])
        self.steps: defaultdict[int, Any] = defaultdict(itertools.count)
        self.step: defaultdict[int, int] = defaultdict(int)

    def pass_point(self, _args: object) -> None:
        """The thread comes to a point."""
        thread = threading.get_ident()
        self.step[thread] = next(self.steps[thread]) + 1

    def effect(self, service: str, what: object) -> None:
        """The thread has a side effect."""
        names = list(_functions(sys._getframe(2)))
        inside = names or [name for frame in sys._current_frames().values() for name in _functions(frame)]
        thread = threading.get_ident()
        note = {
            "service": service,
            "what": str(what)[:200],
            "where": names[0] if names else "a library's thread",
            "point": not self.listed.isdisjoint(inside),
            "thread": thread,
            "step": self.step[thread],
        }
        os.write(self.handle, f"{json.dumps(note)}\n".encode())


def _functions(frame: FrameType | None) -> Any:
    """The functions of the project in a stack, innermost first, named as in tests/faults/points.py."""
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(PROJECT) and not name.startswith((f"{PROJECT}tests/", f"{PROJECT}.")):
            module = name.removeprefix(PROJECT).removesuffix(".py").replace("/", ".")
            yield f"{module}:{frame.f_code.co_qualname}"
        frame = frame.f_back


def note(role: str, path: Path) -> None:
    """Note every side effect of this process from now on, until it ends."""
    notes = Notes(role, path)
    for function in points.FUNCTIONS[role]:
        kill_at.wrap(function, notes.pass_point, notes.pass_point)
    _note_redis(notes)
    _note_postgresql(notes)
    _note_s3(notes)
    _note_webhooks(notes)
    sys.addaudithook(lambda event, args: _note_system(notes, event, args))


def _note_redis(notes: Notes) -> None:
    single, several = redis.Redis.execute_command, redis.client.Pipeline.execute

    def command(self: Any, *args: Any, **options: Any) -> Any:
        if args[0] not in _READS and not isinstance(self, redis.client.Pipeline):
            notes.effect("Redis", args[0])
        return single(self, *args, **options)

    def execute(self: Any, *args: Any, **options: Any) -> Any:
        names = [arguments[0] for arguments, _ in self.command_stack]
        if not _READS.issuperset(names):
            notes.effect("Redis", " ".join(names))
        return several(self, *args, **options)

    redis.Redis.execute_command = command  # type: ignore[method-assign]
    redis.client.Pipeline.execute = execute  # type: ignore[method-assign]


def _note_postgresql(notes: Notes) -> None:
    class Cursor(psycopg2.extensions.cursor):
        def execute(self, query: str, values: Any = None) -> None:
            if not query.lstrip().upper().startswith(("SELECT", "SET ")):
                self.connection.written = query
            super().execute(query, values)

    class Connection(connection_pool._Connection):
        written = ""

        def cursor(self, *_: Any, **__: Any) -> Any:
            return super().cursor(cursor_factory=Cursor)

        def commit(self) -> None:
            if self.written:
                notes.effect("PostgreSQL", self.written)
            self.written = ""
            super().commit()

    connection_pool._Connection = Connection  # type: ignore[misc]


def _note_s3(notes: Notes) -> None:
    call = botocore.client.BaseClient._make_api_call

    def noted(self: Any, operation: str, arguments: dict[str, Any]) -> Any:
        if operation.startswith(_WRITES_S3):
            notes.effect("S3", f"{operation} {arguments.get('Key')}")
        return call(self, operation, arguments)

    botocore.client.BaseClient._make_api_call = noted


def _note_webhooks(notes: Notes) -> None:
    post = Receiver._post

    def noted(self: Receiver, *args: Any) -> int:
        notes.effect("receiver of webhooks", "POST")
        return post(self, *args)

    Receiver._post = noted  # type: ignore[method-assign, assignment]


def _note_system(notes: Notes, event: str, args: tuple[Any, ...]) -> None:
    """An audit hook (sys.addaudithook) for the disk and other programs."""
    if event in _CHANGES:
        notes.effect("disk", f"{event} {args[0]}")
    elif event == "open" and isinstance(args[0], str) and not args[0].startswith(_ELSEWHERE):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            notes.effect("disk", f"open {args[0]}")
    elif event == "subprocess.Popen" and Path(args[0]).name not in ("ssh", "ssh-keygen"):
        # they ask, but for tidy, which is a point
        notes.effect("program", args[0])
