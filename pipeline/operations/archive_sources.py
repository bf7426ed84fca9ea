"""Which archives old batches were: what S3 still knows of them is filled in where their rows do not say.

S3 has the path of each remote file in `sources/`, and the size and SHA-256 of each archive; of an archive that was
brought by this release, all is its metadata. Each step fills in some rows for good, so that the next run goes on
behind it. A batch of which S3 knows nothing is marked as asked for, too.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pipeline.foundation.archive_origin import UNKNOWN, Origin, as_kept
from pipeline.foundation.errors import Permanent
from pipeline.store.database import Database
from pipeline.store.queries import QUERIES

BATCHES_AT_A_TIME = 500
READERS = 16  # of S3, at once


def without_origin(database: Database) -> dict[str, str]:
    """The batches whose row does not say which archive they were, and of which S3 was not asked: id -> S3 key."""
    with database.long_transaction() as cursor:
        cursor.execute("SELECT batch_id, s3_key FROM batches WHERE archive_path IS NULL ORDER BY batch_id DESC")
        return dict(cursor.fetchall())


def fill_in(
    database: Database,
    lacking: dict[str, str],
    sources: Callable[[], Iterable[tuple[str, str, bool]]],
    archive_origin: Callable[[str], Origin],
    say: Callable[[int], object],
) -> None:
    """Fill in the origins of the batches that lack one (id -> S3 key), the newest first. `sources` and
    `archive_origin` are those of s3_utils; `say` is told after each step how many are filled in by then."""
    paths = _paths(lacking, sources())

    def find(batch_id: str) -> Origin:
        try:
            found = archive_origin(lacking[batch_id])
        except Permanent:  # it is not in S3 any more
            found = UNKNOWN
        return found if found.path else replace(found, path=paths.get(batch_id))

    batch_ids = list(lacking)
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(batch_ids), BATCHES_AT_A_TIME):
            some = batch_ids[start : start + BATCHES_AT_A_TIME]
            _save(database, dict(zip(some, readers.map(find, some), strict=True)))
            say(start + len(some))


def _paths(lacking: dict[str, str], sources: Iterable[tuple[str, str, bool]]) -> dict[str, str]:
    """The path of each of the batches that was a remote file; of two, the one whose archive is in S3."""
    found: dict[str, str] = {}
    for source, batch_id, is_whole in sources:
        path, _, state = source.partition("\n")
        if batch_id in lacking and state and path.startswith("/") and (is_whole or batch_id not in found):
            found[batch_id] = as_kept(path)
    return found


def _save(database: Database, origins: dict[str, Origin]) -> None:
    of = origins.values()
    values = {
        "batch_ids": list(origins),
        "paths": [origin.path for origin in of],
        "hosts": [origin.host for origin in of],
        "sizes": [origin.size for origin in of],
        "sha256s": [origin.sha256 for origin in of],
    }
    with database.transaction() as cursor:
        cursor.execute(QUERIES["fill_in_origins"], values)
