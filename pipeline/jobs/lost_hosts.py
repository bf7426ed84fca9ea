"""Hosts that are gone: what they had in progress goes to others."""

from collections.abc import Callable

from pipeline.foundation import redis_client
from pipeline.jobs.batches import HOSTS, OPEN, QUEUES, Batches, keys_of

FORGOTTEN_SECONDS = 7 * 86400  # after which a silent host is no longer known


class LostHosts:
    """The other hosts, as `batches` of this one sees them."""

    def __init__(self, batches: Batches) -> None:
        self.redis, self.batches = batches.redis, batches
        self._take_over = redis_client.script(self.redis, "take_over")
        self._drop_queue = redis_client.script(self.redis, "drop_queue")

    def take_over(self, unpack_queue: str, silent_seconds: int, finished: Callable[[str], None]) -> list[str]:
        """Queue the archives of lost hosts' open batches again; gives the batch ids.

        Batches of theirs that only had to be cleaned up are handed to `finished` and forgotten. What is left in
        their transcription queues is dropped: it names files that nobody else has.
        """
        lost = self.batches.silent_hosts(silent_seconds)
        if not lost:
            return []
        for batch_id, host in self.batches.finishing_hosts().items():
            if host in lost:
                finished(batch_id)
                self.batches.close(batch_id, host)
        taken = []
        open_batches: list[str] = self.redis.zrange(OPEN, 0, -1)
        hosts = self.redis.mget([f"batch:{batch_id}:host" for batch_id in open_batches or ["-"]])
        for batch_id, host in zip(open_batches, hosts, strict=False):
            keys = [*keys_of(batch_id, "host", "job"), HOSTS, unpack_queue]
            if host in lost and self._take_over(keys=keys, args=[host, silent_seconds]):
                taken.append(batch_id)
        for queue, host in self.redis.hgetall(QUEUES).items():
            if host in lost:
                keys = [HOSTS, OPEN, queue, f"{queue}:attempts", f"{queue}:delayed", f"{queue}:workers"]
                self._drop_queue(keys=keys, args=[host, silent_seconds])
        self.redis.zremrangebyscore(HOSTS, "-inf", int(self.redis.time()[0]) - FORGOTTEN_SECONDS)
        return taken
