"""The volumes of the EC2 host that archives have come from: one that is not mounted now is an outage.

A path on it is not there, as if the archive had been deleted, but it comes back with the volume. Where a volume
was mounted stands in `{queue}:volumes` (mount point -> the first archive from it), until something below the mount
point comes from another volume. A path is compared as it leads through links: one to the mount point stays. The
watched folder is as good as a volume, where it is not there at all.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from pipeline.foundation.errors import Outage, PartialOutage, Permanent
from pipeline.transfer.ssh import Absent, FileState, RemoteHost


class Volumes:
    """The volumes that one queue's archives have come from; `folder` is the watched one, or "" without it."""

    def __init__(self, redis: Any, queue_name: str, host: RemoteHost, folder: str = "") -> None:
        self.redis, self.host, self.folder = redis, host, folder
        self.key = f"{queue_name}:volumes"

    def note(self, path: str, state: FileState) -> None:
        """Note the volume that an archive lies on."""
        known = self.redis.hkeys(self.key)
        for volume in _between(state.real_path, state.volume, known):
            self.redis.hdel(self.key, volume)
        if state.volume not in ("/", *known):
            self.redis.hset(self.key, state.volume, path)

    def missing(self, path: str) -> str | None:
        """The mount point of the volume that used to hold this path and is mounted no longer, or the watched
        folder; None where neither is missing."""
        return self._missing(path, *self.host.place(path))

    def _missing(self, path: str, there: str, real_path: str, volume: str) -> str | None:
        lost = [*_between(real_path, volume, self.redis.hkeys(self.key)), *_between(path, there, [self.folder])]
        return min(lost, key=len, default=None)

    @contextlib.contextmanager
    def mounted(self, path: str) -> Iterator[None]:
        """Around the work on a path: what fails permanently is an `Outage` while its volume is not mounted, or has
        just been mounted."""
        try:
            yield
        except Permanent as error:
            there, real_path, volume = self.host.place(path)
            if lost := self._missing(path, there, real_path, volume):
                host = self.host.host
                raise PartialOutage("EC2", f"{lost} on {host} is missing or not mounted: {error}") from error
            if isinstance(error, Absent) and there == path:
                raise Outage("EC2", f"{path} on {self.host.host} has come meanwhile: {error}") from error
            raise


def _between(path: str, above: str, folders: list[str]) -> list[str]:
    """Those of the folders that the path is in, and that are deeper than the folder `above`."""
    return [folder for folder in folders if path.startswith(f"{folder}/") and len(folder) > len(above)]
