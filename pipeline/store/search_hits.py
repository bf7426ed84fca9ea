"""What is shown of the files that a search has found: where the words are in them, and what is around."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.foundation.archive_origin import name_of
from pipeline.speech.transcript import UNINTELLIGIBLE, with_speaker
from pipeline.store.queries import QUERIES
from pipeline.store.search_terms import Group, Term, tsqueries
from pipeline.store.words import OVERLAP, index_words, is_unspaced, places

_MOST_AROUND = 2000  # characters of a text of which no segment holds a hit
_BEFORE, _EXCERPT = 60, 200  # characters of an excerpt: before the first hit, in all
_SHOWN = (  # the columns of search_hits.sql
    "audio_id", "batch_id", "original_filename", "created_at", "language", "languages", "duration_seconds",
    "labels", "warnings", "segments", "beginning", "recorded_at", "metadata", "archive_path",
)  # fmt: skip


@dataclass(frozen=True)
class Hit:
    """A file that was found. `excerpt` is its text around the first hit, of one speaker, in pieces: True where a
    word was searched for; `segment` is that of the hit, without its words, and `start` where it begins, in
    seconds; they are empty and None where the hit is in none. `warnings` are the codes of what is wrong with the
    recording. `recorded_at` is when it was made, in UTC, where that is known; `archive` the file name of its
    archive."""

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
    recorded_at: datetime.datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    archive: str = ""

    @property
    def time(self) -> datetime.datetime:
        """When it was made; or when its row was, where that is not known."""
        return self.recorded_at or self.created_at

    def as_dict(self, names: Sequence[str] = ()) -> dict[str, Any]:
        """The hit for JSON; `names` are those of the speakers of its channels."""
        recorded_at = self.recorded_at and self.recorded_at.isoformat()
        times = {"created_at": self.created_at.isoformat(), "recorded_at": recorded_at}
        return {**asdict(self), **times, "segment": with_speaker(self.segment, names)}


def read_hits(cursor: Any, audio_ids: list[int], groups: list[Group]) -> list[Hit]:
    """The hits in the files of these ids, in their order, for a search that asked for one of the groups."""
    asked = {
        "audio_ids": audio_ids,
        **tsqueries(groups),
        "overlap": OVERLAP,
        "most": _MOST_AROUND,
    }
    cursor.execute(QUERIES["search_hits"], asked)
    return [_hit(row, groups) for row in cursor.fetchall()]


def read_beginning(cursor: Any, audio_id: int) -> list[tuple[str, bool]]:
    """The excerpt of a file's text that shows no hit; it reads no segments."""
    cursor.execute("SELECT left(text, %s) FROM transcripts WHERE audio_id = %s", (_MOST_AROUND, audio_id))
    return _excerpt(cursor.fetchone()[0], [])


def _hit(row: tuple[Any, ...], groups: list[Group]) -> Hit:
    """What is shown of a row of search_hits.sql."""
    fields = dict(zip(_SHOWN, row, strict=True))
    segments, beginning = fields.pop("segments"), fields.pop("beginning")
    terms = [term for group in groups for term in group.wanted]
    best = _best(segments, terms)
    segment = segments[best] if segments else {}
    beside = segments[max(0, best - 1) : best + 2]
    around = [one["text"] for one in beside if one.get("channel") == segment.get("channel")] or [beginning]
    recorded_at, metadata = fields["recorded_at"], fields["metadata"]
    return Hit(
        **_plain(fields),
        created_at=fields["created_at"].astimezone(datetime.UTC),
        excerpt=_excerpt(" ".join(around), terms),
        start=segment.get("start"),
        segment=segment,
        recorded_at=recorded_at and recorded_at.astimezone(datetime.UTC),
        metadata=metadata if isinstance(metadata, dict) else {},
        archive=name_of(fields["archive_path"]),
    )


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields that a hit has as they are."""
    read = ("created_at", "recorded_at", "metadata", "archive_path")
    return {name: value for name, value in fields.items() if name not in read}


def _best(segments: list[dict[str, Any]], terms: list[Term]) -> int:
    """The place of the segment to show: the first of those with the most terms, or else words, of the search."""
    words = [one for term in terms for one in term.single_words()]

    def found(place: int) -> tuple[int, int, bool]:
        is_spoken = segments[place].get("mark") != UNINTELLIGIBLE
        said = index_words(segments[place]["text"]) if is_spoken else []
        return sum(term.is_in(said) for term in terms), sum(word.is_in(said) for word in words), is_spoken

    return max(range(len(segments)), key=found, default=0)


def _excerpt(text: str, terms: list[Term]) -> list[tuple[str, bool]]:
    """The text around the first hit, in pieces: True where it is one. Cut at spaces where there are some near; an
    ellipsis says where."""
    marks = _marks(text, terms)
    begin = max(0, marks[0][0] - _BEFORE) if marks else 0
    if begin and (space := text.find(" ", begin, begin + 20)) > 0:
        begin = space + 1
    end = min(len(text), begin + _EXCERPT)
    if end < len(text) and (space := text.rfind(" ", end - 20, end)) > 0:
        end = space
    pieces, done = [], begin
    for first, last in marks:
        if last <= end:
            pieces += [(text[done:first], False), (text[first:last], True)]
            done = last
    pieces += [(text[done:end], False)]
    return (
        [("…", False)] * (begin > 0) + [piece for piece in pieces if piece[0]] + [("…", False)] * (end < len(text))
    )


def _marks(text: str, terms: list[Term]) -> list[tuple[int, int]]:
    """Where the pieces searched for are in a text: begin and end of each, in order, none within another."""
    marks: list[tuple[int, int]] = []
    wanted = {piece for term in terms for piece in term.pieces}
    beginnings = tuple(term.pieces[-1] for term in terms if term.is_open and not is_unspaced(term.pieces[-1]))
    runs = sorted(filter(is_unspaced, wanted), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, runs))) if runs else None
    for begin, end, piece in places(text):
        if not is_unspaced(piece):
            marks += [(begin, end)] * (piece in wanted or piece.startswith(beginnings))
        elif pattern and len(piece) == end - begin:  # where compared characters are not others than those shown
            marks += [(begin + match.start(), begin + match.end()) for match in pattern.finditer(piece)]
    return marks
