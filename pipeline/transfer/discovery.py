"""Remote files that nobody has queued yet, each queued once.

`{queue}:seen` holds for every remote path the state in which it was queued, or 'queued' where a person did
and its transfer has not looked at it yet. A file is new when its state is another; it is queued when two looks
in a row found it the same, so that one still being written is left alone.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation import redis_client
from pipeline.jobs.job_queue import encode
from pipeline.transfer.ssh import FileState


@dataclass
class Watch:
    """What has been seen of the remote host, shared by all transfer workers."""

    redis: Any
    queue_name: str
    last_look: dict[str, FileState] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = f"{self.queue_name}:seen"
        self._notice = redis_client.script(self.redis, "notice")

    def look(self, files: dict[str, FileState]) -> list[str]:
        """Queue the files that are new and did not change since the last look; gives their paths."""
        settled = [path for path, state in files.items() if self.last_look.get(path) == state]
        self.last_look = files
        return [path for path in settled if self._queue(path, files[path])]

    def _queue(self, path: str, state: FileState) -> bool:
        args = [json.dumps(path), str(state), encode({"remote_path": path})]
        return bool(self._notice(keys=[self.seen, self.queue_name], args=args))

    def enqueue(self, path: str) -> None:
        """Queue a path because a person asked for it."""
        steps = self.redis.pipeline(transaction=True)
        steps.hset(self.seen, json.dumps(path), "queued")
        steps.rpush(self.queue_name, encode({"remote_path": path}))
        steps.execute()

    def forget(self, path: str) -> None:
        """Note that a path was failed permanently before anyone saw it: it is new when it is there."""
        self.redis.hdel(self.seen, json.dumps(path))

    def mark(self, path: str, state: FileState) -> None:
        """Note the state in which a path was transferred, or failed permanently: another one is new."""
        self.redis.hset(self.seen, json.dumps(path), str(state))
