"""Retries a step while its service is unavailable, so that the work itself reads straight down.

    database = retry.retrying(Database(url))
    database.open_batch(...)     # waits while PostgreSQL is unavailable, and raises everything else

A step inside another one is tried once: the outer one is repeated, as a whole. So it is in `once()`, for work that
does not wait, such as maintenance.
"""

import contextlib
import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

from pipeline.foundation.errors import Stopping, unavailable_service
from pipeline.jobs.stop_flag import StopFlag

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

LONGEST_WAIT_SECONDS = 5.0  # between two tries of a step whose service is unavailable


class OutageRetry:
    """The retries of one process. `waiting(service)` is called before each wait with the service's name;
    `unavailable(error)` gives that name, None where the step is to blame."""

    def __init__(
        self,
        stop: StopFlag,
        waiting: Callable[[str], object],
        unavailable: Callable[[BaseException], str | None] = unavailable_service,
    ) -> None:
        self.stop, self.waiting, self.unavailable = stop, waiting, unavailable
        self._failing: set[Callable[..., Any]] = set()  # steps whose service was unavailable when last tried
        self._thread = threading.local()

    def retrying(self, service: T) -> T:
        """The same object or module, each call of which is retried by `until_available`."""
        return cast(T, _Retrying(service, self.until_available))

    def until_available(self, step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an idempotent step, again and again while its service is unavailable. `Stopping` when asked to stop.

        One try may last minutes: when asked to stop, a step whose service was just found unavailable is not begun.
        """
        if getattr(self._thread, "inside", False):
            return step(*args, **kwargs)
        wait, service, since = 0.5, None, time.monotonic()
        while True:
            if self.stop.is_set() and step in self._failing:
                raise Stopping
            try:
                with self.once():
                    result = step(*args, **kwargs)
            except Exception as error:
                service = self.unavailable(error)
                if service is None:
                    raise
                self._failing.add(step)
                log.warning("%s is unavailable, next try in %.0f s: %s", service, wait, error)
                self.waiting(service)
            else:
                self._failing.discard(step)
                if service is not None:
                    log.info("%s recovered, after %.0f s", service, time.monotonic() - since)
                return result
            if self.stop.wait(wait * random.uniform(0.5, 1)):  # nosec B311: not all workers at the same moment
                raise Stopping
            wait = min(wait * 2, LONGEST_WAIT_SECONDS)

    @contextlib.contextmanager
    def once(self) -> Iterator[None]:
        """What this thread does inside is tried once: an outage is raised at once."""
        before = getattr(self._thread, "inside", False)
        self._thread.inside = True
        try:
            yield
        finally:
            self._thread.inside = before


class _Retrying:
    """Stands in for a service."""

    def __init__(self, service: object, until_available: Callable[..., Any]) -> None:
        self._service, self._until_available = service, until_available

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._service, name)
        return functools.partial(self._until_available, found) if callable(found) else found
