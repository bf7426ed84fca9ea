"""Deletion in S3, and what keeps it done.

PostgreSQL has committed a deletion before anything happens here (`pipeline/store/deletion.py`), and knows what
is left of it: for each, the tombstone is written to S3 first, then the objects go, then PostgreSQL forgets it. A
process that dies between any two of these leaves the rest to the next `pipelinectl delete`, or to a worker that
may delete."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice

from pipeline.store import deletion, tombstones
from pipeline.store.database import Database
from pipeline.store.deletion import Pending
from pipeline.store.tombstones import Tombstone

AT_A_TIME = 64  # deletions, in S3
_WORKERS = 8
_KEYS_AT_A_TIME = 1000  # tombstones that are compared with PostgreSQL


@dataclass(frozen=True)
class Store:
    """What is done in S3: `put(key, JSON)` keeps a tombstone, `delete(key)` deletes an object, `keys()` lists
    the tombstones in ascending order, `read(keys)` reads them. `lack_of_rights()` says why S3 does not let us,
    in one line, or gives None."""

    put: Callable[[str, str], object]
    delete: Callable[[str], object]
    keys: Callable[[], Iterable[str]]
    read: Callable[[list[str]], list[Tombstone]]
    lack_of_rights: Callable[[], str | None]


def carry_out(database: Database, store: Store, is_stopping: Callable[[], bool] = bool) -> int:
    """Do in S3 what is left of all deletions, until there is nothing more or the process is to end; gives how many
    were ended. Several may do it at a time: what is done twice shows nowhere."""
    ended = after = 0
    with ThreadPoolExecutor(_WORKERS, "delete") as workers:
        while not is_stopping() and (some := deletion.pending(database, after, AT_A_TIME)):
            list(workers.map(lambda one: _carry_out(store, one), some))
            deletion.forget_pending(database, [one.pending_id for one in some])
            after = some[-1].pending_id
            ended += len(some)
    return ended


def _carry_out(store: Store, one: Pending) -> None:
    if one.tombstone_key and one.tombstone:
        store.put(one.tombstone_key, one.tombstone)
    for key in one.keys:
        store.delete(key)


def apply_tombstones(database: Database, store: Store, actor: str) -> int:
    """Take over the tombstones that S3 has and PostgreSQL has not, as after a restore, and delete again what
    came back with it; gives how many files that were. What it leaves to do in S3 is for `carry_out`."""
    deleted = 0
    keys = iter(store.keys())
    while some := list(islice(keys, _KEYS_AT_A_TIME)):
        if lacking := _lacking(database, some):
            deleted += _apply(database, store.read(lacking), actor)
    return deleted


def _lacking(database: Database, keys: list[str]) -> list[str]:
    """The keys of the tombstones that PostgreSQL does not have, or of which it has the file."""
    of = {ids: key for key in keys if (ids := tombstones.ids_of(key))}
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT batch_id, audio_id FROM tombstones AS t WHERE audio_id = ANY(%(audio_ids)s::bigint[])"
            " AND NOT EXISTS"
            " (SELECT FROM audio_files AS f WHERE f.audio_id = t.audio_id AND f.batch_id = t.batch_id)"
            " UNION ALL SELECT batch_id, NULL FROM batches"
            " WHERE batch_id = ANY(%(batch_ids)s) AND archive_deleted_at IS NOT NULL",
            {
                "audio_ids": [audio_id for _, audio_id in of if audio_id is not None],
                "batch_ids": [batch_id for batch_id, audio_id in of if audio_id is None],
            },
        )
        known = set(cursor.fetchall())
    return [key for ids, key in of.items() if ids not in known]


def _apply(database: Database, found: list[Tombstone], actor: str) -> int:
    deleted = 0
    for batch_id, group in _by_batch(found):
        with database.transaction() as cursor:
            tombstones.keep(cursor, group)
        names = [one.name_sha256 for one in group if one.name_sha256]
        deleted += deletion.delete_again(database, batch_id, names, actor).files
        if any(one.name_sha256 is None for one in group):
            deletion.drop_again(database, batch_id)
    return deleted


def _by_batch(found: list[Tombstone]) -> Iterator[tuple[str, list[Tombstone]]]:
    for batch_id, group in groupby(sorted(found, key=lambda one: one.batch_id), key=lambda one: one.batch_id):
        yield batch_id, list(group)
