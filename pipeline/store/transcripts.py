"""Getting at what was heard: a search over all transcripts, one file, the files of a batch.

A search gives the newest files first, never by rank: that needs a look at every hit, of which a common word has
hundreds of thousands. The newest files are looked through; only where they hold too few hits is the index of words
asked for all.
"""

import datetime
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.file_warnings import FileWarning, as_json, from_json
from pipeline.speech.transcript import speaker_of
from pipeline.store.database import Database

MOST_SEARCH_BYTES = 1000
_SQL = Path(__file__).parent / "sql"
_WINDOW = 2000  # files; a word that is in one of a hundred is found in them
_MOST_AROUND = 2000  # characters of a text of which no segment holds a hit
_BEFORE, _EXCERPT = 60, 200  # characters of an excerpt: before the first hit, in all
_SHOWN = (  # the columns of search_hits.sql
    "audio_id", "batch_id", "original_filename", "created_at", "language", "languages", "duration_seconds",
    "labels", "warnings", "start", "segment", "around",
)  # fmt: skip
# An index has the language that is most spoken; those of the few files with several have one of their own.
_SPOKEN = (
    "(f.language = %(language)s OR (cardinality(f.languages) > 1 AND f.languages @> ARRAY[%(language)s]::text[]))"
)
_ROWS = 20  # that are read at a time: the words of an hour take a megabyte


@dataclass(frozen=True)
class Query:
    """What to search for; what is empty or None asks for nothing.

    `words` as in a web search: all of them, "a phrase", or, -not; upper and lower case are the same, and a word is
    found whole only. `language` is one that is spoken in the file, if only a little. `tag` is a label of any
    classifier. `since` (included) and `until` (not included) say when the file's row was made, in UTC.
    """

    words: str = ""
    since: datetime.datetime | None = None
    until: datetime.datetime | None = None
    language: str = ""
    tag: str = ""
    batch_id: str = ""
    limit: int = 20
    offset: int = 0


@dataclass(frozen=True)
class Hit:
    """A file that was found. `excerpt` is its text around the first hit, in pieces: True where a word was searched
    for; `segment` is that of the hit, without its words, and `start` where it begins, in seconds; they are empty
    and None where the hit is in none. `warnings` are the codes of what is wrong with the recording."""

    audio_id: int
    batch_id: str
    original_filename: str
    created_at: datetime.datetime
    language: str | None
    languages: list[str]
    duration_seconds: float | None
    labels: list[str]
    warnings: list[str]
    excerpt: list[tuple[str, bool]]
    start: float | None
    segment: dict[str, Any]


@dataclass(frozen=True)
class AudioFile:
    """A file's row with its transcript and labels; without a transcript `text` and `model` are empty.

    Times are in UTC. A segment is what `pipeline.speech.transcript.Segment` says (one of an older row has no
    language and no confidence), a label {classifier, label, score}. `languages` are all that are spoken, the most
    spoken first; `channels` is how many the Opus has, `warnings` what is damaged or missing in the recording.
    """

    audio_id: int
    batch_id: str
    original_filename: str
    status: str
    error: str | None
    duration_seconds: float | None
    language: str | None
    languages: list[str]
    created_at: datetime.datetime
    updated_at: datetime.datetime
    s3_opus_path: str | None
    text: str
    segments: list[dict[str, Any]]
    model: str
    labels: list[dict[str, Any]]
    channels: int = 1
    warnings: list[FileWarning] = field(default_factory=list)

    def as_dict(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """The file for JSON; `names` are those of the speakers of its channels."""
        segments = [with_speaker(segment, names) for segment in self.segments]
        return {**vars(self), "segments": segments, "warnings": as_json(self.warnings)}


def with_speaker(segment: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The segment with its `speaker`, where the recording has several channels."""
    speaker = speaker_of(segment, names)
    return {**segment, "speaker": speaker} if speaker else segment


def search(database: Database, query: Query) -> list[Hit]:
    """The files that the query asks for, the newest first; `Permanent` where PostgreSQL cannot look for it."""
    _check(query)
    with database.transaction() as cursor:
        cursor.execute("SET LOCAL work_mem = '32MB'")  # or the places of a common word are kept by page only
        audio_ids = _found(cursor, query)
        if not audio_ids:
            return []
        cursor.execute(
            "SELECT websearch_to_tsquery('simple', %(words)s)::text,"
            " querytree(websearch_to_tsquery('simple', %(words)s))",
            {"words": query.words},
        )
        whole, positive = cursor.fetchone()
        quoted = re.findall(r"'(?:[^']|'')*'", positive)  # without what must not be there
        words = [word[1:-1].replace("''", "'").replace("\\\\", "\\") for word in quoted]
        asked = {
            "audio_ids": audio_ids,
            "search": whole,
            "any_word": " | ".join(quoted),
            "patterns": ["%" + re.sub(r"([%_\\])", r"\\\1", word) + "%" for word in words],
            "most": _MOST_AROUND,
        }
        cursor.execute(_query("search_hits"), asked)
        pattern = _pattern(words)
        return [_hit(row, pattern) for row in cursor.fetchall()]


def read_file(database: Database, audio_id: int) -> AudioFile | None:
    """The file of this id; None where there is none."""
    if not 0 <= audio_id < 2**63:
        return None
    with database.transaction() as cursor:
        cursor.execute(f"{_query('read_files')} WHERE f.audio_id = %s", (audio_id,))
        return next((_file(row) for row in cursor.fetchall()), None)


def find_files(
    database: Database, batch_id: str, name: str = "", limit: int = 1000, offset: int = 0
) -> list[AudioFile]:
    """The files of a batch in the order of their ids, or the one of this name."""
    if not (is_storable(batch_id) and is_storable(name)):
        return []
    with database.transaction() as cursor:
        cursor.execute(
            f"{_query('read_files')} WHERE f.batch_id = %(batch_id)s"
            " AND (%(name)s = '' OR f.original_filename = %(name)s)"
            " ORDER BY f.audio_id LIMIT %(limit)s OFFSET %(offset)s",
            {"batch_id": batch_id, "name": name, "limit": limit, "offset": offset},
        )
        return [_file(row) for row in cursor.fetchall()]


def read_history(database: Database, audio_id: int) -> dict[str, datetime.datetime | None]:
    """When the file's batch was opened and finished, its row made and changed, its transcript written (UTC)."""
    with database.transaction() as cursor:
        cursor.execute(
            "SELECT b.opened_at, f.created_at, t.created_at, f.updated_at, b.finished_at FROM audio_files AS f"
            " LEFT JOIN transcripts AS t USING (audio_id) LEFT JOIN batches AS b USING (batch_id)"
            " WHERE f.audio_id = %s",
            (audio_id,),
        )
        times = cursor.fetchone() or (None,) * 5
    names = ("batch opened", "row made", "transcript written", "last changed", "batch finished")
    return {name: time and time.astimezone(datetime.UTC) for name, time in zip(names, times, strict=True)}


def every_file(database: Database, query: Query) -> Iterator[AudioFile]:
    """Every file with a transcript that the query asks for, the oldest first, as they were when this began;
    its limit and offset are not looked at. A few are in memory at a time. `Permanent` as for `search`."""
    _check(query)
    return _every_file(database, query)


def _every_file(database: Database, query: Query) -> Iterator[AudioFile]:
    conditions, values = _conditions(query)
    with database.long_transaction() as cursor, cursor.connection.cursor("every_file") as rows:
        rows.itersize = _ROWS
        rows.execute(
            f"{_query('read_files')} WHERE {' AND '.join(['t.audio_id IS NOT NULL', *conditions])}"
            " ORDER BY f.created_at, f.audio_id",
            values,
        )
        for row in rows:
            yield _file(row)


def _check(query: Query) -> None:
    for text in (query.words, query.language, query.tag, query.batch_id):
        if not is_storable(text) or len(text.encode()) > MOST_SEARCH_BYTES:
            raise Permanent(f"it is too long to search for ({MOST_SEARCH_BYTES} bytes at most), or no text")


def _conditions(query: Query) -> tuple[list[str], dict[str, Any]]:
    """The conditions on a file `f` and its transcript `t`, and their values."""
    asked = {
        "f.created_at >= %(since)s": query.since,
        "f.created_at < %(until)s": query.until,
        "t.words @@ websearch_to_tsquery('simple', %(words)s)": query.words.strip(),
        _SPOKEN: query.language,
        "f.batch_id = %(batch_id)s": query.batch_id,
        "EXISTS (SELECT FROM classifications AS c WHERE c.audio_id = f.audio_id AND c.label = %(tag)s)": query.tag,
    }
    return [condition for condition, value in asked.items() if value], vars(query)


def _found(cursor: Any, query: Query) -> list[int]:
    """The ids of the files to show."""
    conditions, values = _conditions(query)
    where = " AND ".join(conditions) or "true"
    # The conditions and the window are this module's own; what was asked for goes in as values.
    page = "ORDER BY f.created_at DESC, f.audio_id DESC LIMIT %(limit)s OFFSET %(offset)s"
    if not query.batch_id:
        dates = " AND ".join(condition for condition in conditions if "created_at" in condition) or "true"
        cursor.execute(
            f"WITH f AS MATERIALIZED (SELECT * FROM audio_files AS f WHERE {dates}"  # nosec B608
            f" ORDER BY f.created_at DESC, f.audio_id DESC LIMIT {_window(query)})"
            f" SELECT f.audio_id FROM f JOIN transcripts AS t USING (audio_id) WHERE {where} {page}",
            values,
        )
        found = [audio_id for (audio_id,) in cursor.fetchall()]
        if len(found) == query.limit:
            return found
    # as a whole: with the limit in sight, PostgreSQL may go through all files by date for a rare word
    cursor.execute(
        "WITH f AS MATERIALIZED (SELECT f.audio_id, f.created_at FROM audio_files AS f"  # nosec B608
        f" JOIN transcripts AS t USING (audio_id) WHERE {where}) SELECT f.audio_id FROM f {page}",
        values,
    )
    return [audio_id for (audio_id,) in cursor.fetchall()]


def _window(query: Query) -> int:
    """How many of the newest files are looked through before the index is asked."""
    return _WINDOW + 10 * (query.limit + query.offset)


def _pattern(words: list[str]) -> re.Pattern[str] | None:
    """What finds the words in a text; None where there are none."""
    if not words:
        return None
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)


def _hit(row: tuple[Any, ...], pattern: re.Pattern[str] | None) -> Hit:
    fields = dict(zip(_SHOWN, row, strict=True))
    created_at, around = fields.pop("created_at").astimezone(datetime.UTC), fields.pop("around")
    return Hit(**fields, created_at=created_at, excerpt=_excerpt(around, pattern))


def _excerpt(text: str, pattern: re.Pattern[str] | None) -> list[tuple[str, bool]]:
    """The text around the first hit, in pieces: True where it is one. Cut at spaces where there are some near; an
    ellipsis says where."""
    first = pattern.search(text) if pattern else None
    begin = max(0, first.start() - _BEFORE) if first else 0
    if begin and (space := text.find(" ", begin, begin + 20)) > 0:
        begin = space + 1
    end = min(len(text), begin + _EXCERPT)
    if end < len(text) and (space := text.rfind(" ", end - 20, end)) > 0:
        end = space
    pieces, done = [], begin
    for match in pattern.finditer(text, begin, end) if pattern else ():
        pieces += [(text[done : match.start()], False), (match.group(), True)]
        done = match.end()
    pieces += [(text[done:end], False)]
    return (
        [("…", False)] * (begin > 0) + [piece for piece in pieces if piece[0]] + [("…", False)] * (end < len(text))
    )


def _file(row: tuple[Any, ...]) -> AudioFile:
    file = AudioFile(*row)
    utc = {name: getattr(file, name).astimezone(datetime.UTC) for name in ("created_at", "updated_at")}
    return AudioFile(**{**vars(file), **utc, "warnings": from_json(row[-1])})


def _query(name: str) -> str:
    return (_SQL / f"{name}.sql").read_text()
