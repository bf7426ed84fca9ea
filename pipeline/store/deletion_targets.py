"""Which files a deletion is about, before anything is deleted."""

from collections import defaultdict
from dataclasses import dataclass

from pipeline.store.database import Database
from pipeline.store.search_query import Query, check, conditions
from pipeline.store.tombstones import name_sha256


@dataclass(frozen=True)
class Target:
    """Files of a batch; `is_whole`: the batch, with its archive. `kept` of its files stay, and so does its archive
    where that is not 0. `held` is why it is on hold; None: it is not. `in_progress` of the files cannot be deleted
    yet."""

    batch_id: str
    archive: str | None  # its path
    audio_ids: list[int]
    is_whole: bool
    kept: int
    in_progress: int
    held: str | None

    @property
    def obstacle(self) -> str:
        """Why it would be refused; nothing where it would not."""
        if self.held is not None:
            return f"on hold: {self.held}" if self.held else "on hold"
        return f"{self.in_progress} still in progress" if self.in_progress else ""


def found_files(database: Database, query: Query) -> dict[str, list[int]]:
    """The files with a transcript that a search finds, however many: batch id -> audio ids. Its limit and offset
    are not looked at. `Permanent` as for `search`."""
    check(query)
    asked, values = conditions(query)
    with database.long_transaction() as cursor:
        cursor.execute(
            "SELECT f.batch_id, f.audio_id FROM audio_files AS f JOIN transcripts AS t USING (audio_id)"  # nosec B608
            f" WHERE {' AND '.join(asked) or 'true'} ORDER BY f.audio_id",
            values,
        )
        found: defaultdict[str, list[int]] = defaultdict(list)
        for batch_id, audio_id in cursor.fetchall():
            found[batch_id].append(audio_id)
    return dict(found)


def target_of(database: Database, batch_id: str, audio_ids: list[int] | None) -> Target:
    """These files of a batch, or (None) all of it."""
    with database.long_transaction() as cursor:
        cursor.execute(
            "SELECT audio_id, status FROM audio_files WHERE batch_id = %s ORDER BY audio_id", (batch_id,)
        )
        rows = dict(cursor.fetchall())
        cursor.execute("SELECT archive_path FROM batches WHERE batch_id = %s", (batch_id,))
        (archive,) = cursor.fetchone() or (None,)
        cursor.execute("SELECT reason FROM holds WHERE batch_id = %s", (batch_id,))
        (held,) = cursor.fetchone() or (None,)
    wanted = set(audio_ids or ())
    chosen = [audio_id for audio_id in rows if audio_ids is None or audio_id in wanted]
    busy = sum(rows[audio_id] == "processing" for audio_id in chosen)
    return Target(batch_id, archive, chosen, audio_ids is None, len(rows) - len(chosen), busy, held)


def is_deleted(database: Database, names: list[str]) -> bool:
    """Whether the file that one argument (its audio id) or two (its batch's id and its name) tell of was
    deleted."""
    with database.transaction() as cursor:
        if len(names) == 2:
            digest = name_sha256(names[1])
            cursor.execute("SELECT FROM tombstones WHERE batch_id = %s AND name_sha256 = %s", (names[0], digest))
        else:
            cursor.execute("SELECT FROM tombstones WHERE audio_id = %s", (int(names[0]),))
        return bool(cursor.rowcount)
