"""Remote files that nobody has queued yet, each queued once.

`{queue}:seen` holds for every remote path the state in which it was queued, or 'queued' where a person did
and its transfer has not looked at it yet. A file is new when its state is another; it is queued when two looks
in a row found it the same, so that one still being written is left alone.

A look asks Redis for what is new since the last one alone. What Redis has lost since (the last second, in a
failover) shows in `{queue}:looks`, where each watch leaves a word of its own after what it has written: where that
is no longer the last one, the next look asks for every file again.
"""

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation import redis_client
from pipeline.foundation.errors import Stop, Stopping
from pipeline.jobs.job_queue import encode
from pipeline.transfer.remote_paths import canonical
from pipeline.transfer.ssh import NEVER, FileState

_AT_A_TIME = 500  # files that Redis is asked for in one step


@dataclass
class Watch:
    """What has been seen of the remote host, shared by all transfer workers; `watcher` is this one's name."""

    redis: Any
    queue_name: str
    watcher: str = ""
    stop: Stop = NEVER
    last_look: dict[str, FileState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen, self.looks = f"{self.queue_name}:seen", f"{self.queue_name}:looks"
        self._notice = redis_client.script(self.redis, "notice")
        # Of the last look, what Redis holds in the same state. What a person has queued is asked for at each look,
        # since its transfer may note an older state than that in which we see it.
        self._known: set[str] = set()
        self._word = ""

    def look(self, files: dict[str, FileState]) -> list[str]:
        """Queue the files that are new and did not change since the last look; gives their paths.

        `Stopping` between two steps: the next run's looks do the rest.
        """
        settled = {path for path, state in files.items() if self.last_look.get(path) == state}
        self._known &= settled
        queued: list[str] = []
        for paths in _pieces(sorted(settled - self._known)):
            if self.stop.is_set():
                raise Stopping
            queued += self._queue(paths, files)
        self._leave_word()
        self.last_look = files  # not where it failed: the next one comes too soon to show that a file grows
        return queued

    def _queue(self, paths: list[str], files: dict[str, FileState]) -> list[str]:
        triples = [(json.dumps(path), str(files[path]), encode({"remote_path": path})) for path in paths]
        args = [text for triple in triples for text in triple]
        queued = [json.loads(name) for name in self._notice(keys=[self.seen, self.queue_name], args=args)]
        steps = self.redis.pipeline(transaction=False)
        for name, _, _ in triples:
            steps.hget(self.seen, name)
        states = zip(paths, redis_client.answers(steps), strict=True)
        self._known.update(path for path, state in states if state == str(files[path]))
        return queued

    def _leave_word(self) -> None:
        word = uuid.uuid4().hex
        steps = self.redis.pipeline(transaction=True)
        steps.hget(self.looks, self.watcher)
        steps.hset(self.looks, self.watcher, word)
        last, _ = redis_client.answers(steps)
        if last != self._word:
            self._known.clear()
        self._word = word

    def enqueue(self, path: str) -> None:
        """Queue a path because a person asked for it; `Permanent` where it is not absolute."""
        path = canonical(path)
        steps = self.redis.pipeline(transaction=True)
        steps.hset(self.seen, json.dumps(path), "queued")
        steps.rpush(self.queue_name, encode({"remote_path": path}))
        steps.execute()

    def forget(self, path: str) -> None:
        """Note that a path was failed permanently before anyone saw it: it is new when it is there."""
        steps = self.redis.pipeline(transaction=True)
        steps.hdel(self.seen, json.dumps(path))
        steps.delete(self.looks)  # every watch asks again
        steps.execute()

    def mark(self, path: str, state: FileState) -> None:
        """Note the state in which a path was transferred, or failed permanently: another one is new."""
        self.redis.hset(self.seen, json.dumps(path), str(state))


def _pieces(paths: list[str]) -> Iterator[list[str]]:
    return (paths[first : first + _AT_A_TIME] for first in range(0, len(paths), _AT_A_TIME))
