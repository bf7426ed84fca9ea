"""A database from S3 alone: what was done is done again, under its ids; the rest is for reconcile.

The order decides that nothing is lost and nothing comes back:

1. New files get ids above all that S3 knows: an Opus of an old file is never written over.
2. S3's tombstones come into the database; what it has of their files is deleted again.
3. Each transcript in S3 becomes a row with its batch, some files in each transaction; those with a tombstone do
   not. What is done already is left as it is, so that an interrupted run goes on where it was.

A batch whose files are all there is finished. Files that had failed, or were not done, are not in S3: their batch
is not finished then, and reconcile queues its archive.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pipeline.operations.deletion import Store as Tombstones
from pipeline.operations.deletion import apply_tombstones
from pipeline.store import tombstones, transcript_restore
from pipeline.store.database import Database
from pipeline.store.transcript_restore import TAKEN, TranscriptFile, Unreadable, audio_id_of

READERS = 16  # of S3, at once
FILES_AT_A_TIME = 200  # in one transaction,
BYTES_AT_A_TIME = 16 * 2**20  # unless their transcripts have more: a day of speech has some 25 MB
MOST_PROBLEMS = 1000  # of which the key is named


@dataclass(frozen=True)
class Listed:
    """A transcript in S3: its key and size, and whether its Opus is beside it."""

    key: str
    size: int
    audio_id: int
    has_opus: bool


@dataclass
class Rebuilt:
    """What has come of it: transcripts by what became of them, and what could not be read (key: why)."""

    outcomes: Counter[str] = field(default_factory=Counter)
    problems: dict[str, str] = field(default_factory=dict)
    deleted_again: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether everything in S3 is in the database now, but for what was deleted."""
        return not self.outcomes["unreadable"] and not self.outcomes[TAKEN]

    def note(self, key: str, outcome: str, problem: str = "") -> None:
        """Count a transcript; the first of those with a problem are named."""
        self.outcomes[outcome] += 1
        if problem and len(self.problems) < MOST_PROBLEMS:
            self.problems[key] = problem


@dataclass
class Rebuild:
    """The way from S3 to the database. `listing` gives key and size of each transcript and Opus, ascending; `read`
    what is under a key (None: it is gone). `opus_days`: for how long Opus are kept (0: for ever). `say` is told
    after each step how many transcripts of how many were looked at."""

    database: Database
    listing: Callable[[], Iterable[tuple[str, int]]]
    read: Callable[[str], bytes | None]
    tombstones: Tombstones
    opus_days: int = 0
    say: Callable[[int, int], object] = lambda _done, _of: None

    def run(self, actor: str) -> Rebuilt:
        """Bring everything into the database; it may be repeated. `actor` is who asked for it."""
        rebuilt = Rebuilt()
        total = self._reserve_ids()
        rebuilt.deleted_again = apply_tombstones(self.database, self.tombstones, actor)
        looked = 0
        with ThreadPoolExecutor(READERS, "rebuild") as readers:
            for some in _steps(listed(self.listing())):
                self._step(some, readers, rebuilt)
                looked += len(some)
                self.say(looked, max(total, looked))
        return rebuilt

    def _reserve_ids(self) -> int:
        """Have new files get other ids than those of S3; gives how many transcripts there are."""
        highest = total = 0
        for key, _ in self.listing():
            stem, _, suffix = key.rpartition(".")
            if audio_id := audio_id_of(f"{stem}.json"):
                highest = max(highest, audio_id)
                total += suffix == "json"
        buried = map(tombstones.ids_of, self.tombstones.keys())
        highest = max(highest, max((ids[1] for ids in buried if ids and ids[1]), default=0))
        transcript_restore.reserve_ids(self.database, highest)
        return total

    def _step(self, some: list[Listed], readers: ThreadPoolExecutor, rebuilt: Rebuilt) -> None:
        done = transcript_restore.done_ids(self.database, [one.audio_id for one in some])
        rebuilt.outcomes["left"] += len(done)
        wanted = [one for one in some if one.audio_id not in done]
        files: list[TranscriptFile] = []
        for one, body in zip(wanted, readers.map(self.read, [one.key for one in wanted]), strict=True):
            if body is None:  # deleted since it was listed
                continue
            try:
                files.append(transcript_restore.read_transcript_file(one.key, body))
            except Unreadable as problem:
                rebuilt.note(one.key, "unreadable", str(problem))
        silent = {one.audio_id for one in wanted if not one.has_opus}
        expired = {file.audio_id for file in files if file.audio_id in silent and self._is_expired(file)}
        self._restore(files, expired, rebuilt)

    def _restore(self, files: list[TranscriptFile], expired: set[int], rebuilt: Rebuilt) -> None:
        """Restore some files; one by one, where PostgreSQL does not take all of them."""
        if not files:
            return
        try:
            outcomes = transcript_restore.restore(self.database, files, expired)
        except Unreadable as problem:
            if len(files) == 1:
                rebuilt.note(files[0].key, "unreadable", str(problem))
                return
            for file in files:
                self._restore([file], expired, rebuilt)
            return
        for file in files:
            outcome = outcomes[file.audio_id]
            taken = f"another file has the id {file.audio_id}" if outcome == TAKEN else ""
            rebuilt.note(file.key, outcome, taken)

    def _is_expired(self, file: TranscriptFile) -> bool:
        """Whether the Opus of a file is gone on purpose: it was kept for as long as it should be."""
        oldest = datetime.now(UTC) - timedelta(days=self.opus_days)
        return bool(self.opus_days) and file.created_at < oldest.strftime("%Y-%m-%dT%H:%M:%S")


def listed(objects: Iterable[tuple[str, int]]) -> Iterator[Listed]:
    """The transcripts among the objects of S3, which are in the order of their keys: an Opus is behind its own."""
    held: tuple[str, int, int] | None = None
    for key, size in objects:
        if held is not None:
            yield Listed(*held, has_opus=key == held[0].removesuffix(".json") + ".opus")
            held = None
        if audio_id := audio_id_of(key):
            held = (key, size, audio_id)
    if held is not None:
        yield Listed(*held, has_opus=False)


def _steps(found: Iterable[Listed]) -> Iterator[list[Listed]]:
    """The transcripts in pieces that fit into memory."""
    some: list[Listed] = []
    size = 0
    for one in found:
        if some and (len(some) >= FILES_AT_A_TIME or size + one.size > BYTES_AT_A_TIME):
            yield some
            some, size = [], 0
        some.append(one)
        size += one.size
    if some:
        yield some
