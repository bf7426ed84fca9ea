"""The end of a batch: scratch deleted, PostgreSQL updated, Redis keys gone, in this order.

Any worker of the host may do it, and do it again: until the last step the batch is marked as finishing.
The lock on its scratch keeps it from going under an unpack worker that has not let go yet.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from pipeline.foundation import scratch
from pipeline.jobs.batches import Batches
from pipeline.store.database import Database

log = logging.getLogger(__name__)


def finish_batches(batches: Batches, database: Database, root: Path, cleanup: Callable[[str], object]) -> None:
    """Finish every batch of this host whose files are all settled; `cleanup(batch_id)` deletes its scratch."""
    for batch_id in batches.finishing():
        with scratch.locked(root, batch_id) as held:
            if not held or not batches.is_finishing(batch_id):
                continue
            try:
                cleanup(batch_id)
            except OSError as error:  # it stays marked, and is tried again: other batches do not wait for it
                log.error("batch %s: its scratch cannot be deleted: %s", batch_id, error)
                continue
            database.finish_batch(batch_id)
            batches.close(batch_id)
            log.info("batch %s is finished", batch_id)
