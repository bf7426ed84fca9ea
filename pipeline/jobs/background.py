"""Work that a worker does beside its jobs, again and again, in a thread of its own."""

import threading
from collections.abc import Callable

from pipeline.foundation.errors import unavailable_service
from pipeline.jobs.worker import Worker

Warn = Callable[[Exception, bool], object]


def start(process: Worker, name: str, look: Callable[[], object], seconds: float, warn: Warn) -> None:
    """Call `look` every so many seconds, until the process is to stop or it gives False; it ends with the process.

    `warn(error, is_unexpected)` is called with what it raises, of an outage once until a call ends well; then it
    goes on.
    """
    threading.Thread(target=_run, args=(process, look, seconds, warn), name=name, daemon=True).start()


def _run(process: Worker, look: Callable[[], object], seconds: float, warn: Warn) -> None:
    is_waiting = False
    while not process.stop.wait(seconds):
        try:
            if look() is False:
                return
            is_waiting = False
        except Exception as error:  # noqa: BLE001 - `warn` logs it, and the next call goes on
            is_outage = unavailable_service(error) is not None
            if not is_outage or not is_waiting:
                warn(error, not is_outage)
            is_waiting = is_outage
