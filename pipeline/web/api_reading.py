"""What programs read: the fleet, batches, files, transcripts, searches, alerts, labels, languages."""

import dataclasses
import datetime
from typing import Any

from flask import Response, abort, current_app

from pipeline.foundation.formatting import whole_number
from pipeline.jobs.batches import is_id
from pipeline.operations.archive_progress import Followed, Tracker, as_dict, find_unpacked
from pipeline.operations.failures import Filter, failed_reasons
from pipeline.operations.status import observe
from pipeline.store.alerts import read_alerts, saved_searches
from pipeline.store.batch_history import batches_of_archive, read_batch, read_batch_files, read_batches
from pipeline.store.database import Database
from pipeline.store.export_formats import FORMATS
from pipeline.store.file_list import list_files, listed_file
from pipeline.store.search import find, is_ranked
from pipeline.store.search import search as search_on
from pipeline.store.search_query import MOST_OFFSET, Query
from pipeline.store.transcripts import read_file
from pipeline.store.vocabulary import label_names, language_names, unknown_word
from pipeline.web.api import answer, page, reads
from pipeline.web.api_parameters import choice, cursor, cursor_of, number, pairs, text, time

MOST_ROWS, ROWS = 200, 50  # of a page
MOST_HITS, HITS = 100, 20  # of a page of a search, each with its excerpt
REASONS = 20
_FORMATS = ("json", "vtt", "srt", "txt")  # of a transcript
_STATUSES = ("processing", "done", "failed")
_LIMIT = number("limit", "Rows of a page, at most.", ROWS, MOST_ROWS)
_STATUS = choice("status", "Files of this status.", _STATUSES)
_FILTER = (
    time("since", "Recorded from then on"),
    time("until", "Recorded before then"),
    time("processed_since", "Unpacked from then on"),
    time("processed_until", "Unpacked before then"),
    text("language", "Spoken in it, if only a little: en."),
    text("tag", "With this label of any classifier: Siren."),
    text("batch_id", "Of this batch."),
    text("archive", "Of archives of this file name, or of this path."),
    pairs("meta", "With this in its metadata, as talkgroup=1234; all of them, where there are several."),
)


def sources() -> Any:
    """What the application was made of: `pages.Sources`."""
    return current_app.extensions["sources"]


def _database() -> Database:
    found: Database = sources().database
    return found


# --- the fleet and its batches -------------------------------------------------------------------------------


@reads("/fleet", "Fleet")
def fleet(_: dict[str, Any]) -> Response:
    """How the fleet is: what `pipelinectl.py status --json` gives. Its times are seconds since 1970."""
    found = sources()
    return answer(observe(found.redis, found.queues, found.database, compare=found.compare).as_dict())


@reads(
    "/batches", "Batches",
    text("archive", "Whose archive had this file name, or this path."), _LIMIT, cursor("batches", str),
)  # fmt: skip
def batches(given: dict[str, Any]) -> Response:
    """The batches that were unpacked, the newest first."""
    (before,), most = given["cursor"] or ("",), given["limit"] + 1
    found = (
        batches_of_archive(_database(), given["archive"], most, before)
        if given["archive"]
        else read_batches(_database(), before, most)
    )
    return page(found, given["limit"], lambda batch: cursor_of("batches", batch.batch_id))


@reads("/batches/<batch_id>", "Batch")
def batch(_: dict[str, Any], batch_id: str) -> Response:
    """A batch, how far it is, and why files of it have failed; while it waits to be unpacked, little more than its
    id."""
    found, database = sources(), _database()
    known = read_batch(database, batch_id) if is_id(batch_id) else None
    archive = Followed(batch_id=batch_id)
    transfer_queue, unpack_queue, *_ = found.queues
    if known is None:
        queued = find_unpacked(found.redis, transfer_queue, unpack_queue, batch_id) if is_id(batch_id) else []
        archive = next((one for one in queued if one.batch_id == batch_id), None) or _no_batch(batch_id)
    (progress,) = Tracker(found.redis, database, transfer_queue, unpack_queue, _unknown).look([archive])
    reasons = failed_reasons(database, Filter(batch_id), REASONS) if known and known.failed else []
    return answer(as_dict(known, archive, progress, reasons))


def _unknown(_path: str, _state: str) -> str:
    """The batch of a path, which is followed by its id here."""
    return ""


def _no_batch(batch_id: str) -> Any:
    abort(404, f"There is no batch {batch_id[:100]}.")


@reads("/batches/<batch_id>/files", "BatchFiles", _STATUS, _LIMIT, cursor("batch_files", str))
def batch_files(given: dict[str, Any], batch_id: str) -> Response:
    """The files of a batch, in the order of their names."""
    if not is_id(batch_id) or read_batch(_database(), batch_id) is None:
        _no_batch(batch_id)
    (after,) = given["cursor"] or ("",)
    rows = read_batch_files(_database(), batch_id, given["status"], after, given["limit"] + 1)
    return page(
        [vars(row) for row in rows], given["limit"], lambda row: cursor_of("batch_files", row["original_filename"])
    )


# --- files ---------------------------------------------------------------------------------------------------


@reads("/files", "Files", *_FILTER, _STATUS, _LIMIT, cursor("files", datetime.datetime, int))
def files(given: dict[str, Any]) -> Response:
    """The files, whatever became of them, the newest recordings first."""
    query = _query(given, limit=given["limit"] + 1, before=given["cursor"], status=given["status"], heard=False)
    return page(
        list_files(_database(), query), given["limit"], lambda file: cursor_of("files", file.time, file.audio_id)
    )


@reads("/files/<audio_id>", "File")
def file(_: dict[str, Any], audio_id: str) -> Response:
    """A file with its labels, warnings and metadata."""
    number = whole_number(audio_id)
    found = None if number is None else listed_file(_database(), number)
    return answer(found.as_dict()) if found else _no_file(audio_id)


@reads(
    "/files/<audio_id>/transcript", "Transcript",
    choice("format", "How it is written.", _FORMATS, "json"),
    choice("words", "Of json: each word with its times and its probability.", ("yes", "no"), "yes"),
    media_types=tuple(FORMATS[name].media_type for name in _FORMATS if name != "json"),
)  # fmt: skip
def transcript(given: dict[str, Any], audio_id: str) -> Response:
    """What was heard in a file."""
    number, names = whole_number(audio_id), sources().channel_names
    found = None if number is None else read_file(_database(), number)
    if found is None:
        return _no_file(audio_id)
    if not found.model:
        abort(404, f"File {audio_id} has no transcript: it is {found.status}.")
    if given["format"] != "json":
        form = FORMATS[given["format"]]
        return Response(b"".join(form.encoded([found], names)), mimetype=form.media_type)
    shown = found.as_dict(names)
    if given["words"] == "no":
        shown["segments"] = [
            {name: value for name, value in segment.items() if name != "words"} for segment in shown["segments"]
        ]
    about = ("audio_id", "language", "languages", "channels", "duration_seconds", "model", "text", "segments")
    return answer({name: shown[name] for name in about})


def _no_file(audio_id: str) -> Any:
    abort(404, f"There is no file {audio_id[:40]}.")


def _query(given: dict[str, Any], **more: Any) -> Query:
    return Query(**{name: given[name] for name in (parameter.name for parameter in _FILTER)}, **more)


# --- what was said -------------------------------------------------------------------------------------------

_ORDER = choice("order", "The newest first, or the most relevant of the newest.", ("time", "relevance"), "time")


@reads(
    "/search", "Hits", text("words", 'As on the web: all of them, "a phrase", or, -not, fir*.'), *_FILTER, _ORDER,
    number("limit", "Hits of a page, at most.", HITS, MOST_HITS), cursor("search", datetime.datetime, int),
)  # fmt: skip
def search(given: dict[str, Any]) -> Response:
    """The recordings in which the words were said, with the text around them. `summary`, of the first page alone,
    says how many there are, and what they have in common."""
    query = _query(given, words=given["words"], order=given["order"], limit=given["limit"] + 1)
    place, ranked, now = given["cursor"], is_ranked(query), datetime.datetime.now(datetime.UTC)
    if place is None:
        found = find(_database(), query)
        hits, summary = found.hits, found.summary()
        summary["unknown"] = "" if found.total else unknown_word(_database(), query)
    else:
        hits, summary = search_on(_database(), _going_on(query, ranked, *place)), None
    since, offset = place if place and ranked else (now, 0)

    def following(hit: dict[str, Any]) -> str:
        if ranked:
            return cursor_of("search", since, offset + given["limit"])
        moment = hit["recorded_at"] or hit["created_at"]
        return cursor_of("search", datetime.datetime.fromisoformat(moment), hit["audio_id"])

    rows = [_shown(hit.as_dict(sources().channel_names)) for hit in hits]
    return page(rows, given["limit"], following, summary=summary)


def _going_on(query: Query, ranked: bool, time: datetime.datetime, number: int) -> Query:
    """The query for what comes behind a place. By time, that is a file; by relevance, so many hits of the search
    as it was at that time: rows that were made since are left out, or hits would move from page to page."""
    if not ranked:
        return dataclasses.replace(query, before=(time, number))
    until = min(time, query.processed_until or time)
    return dataclasses.replace(query, processed_until=until, offset=min(number, MOST_OFFSET))


def _shown(hit: dict[str, Any]) -> dict[str, Any]:
    """The hit with its excerpt as objects, which other languages read more easily than pairs."""
    return {**hit, "excerpt": [{"text": text, "is_hit": is_hit} for text, is_hit in hit["excerpt"]]}


@reads(
    "/alerts", "Alerts", text("search", "Of this saved search."), time("since", "Matched from then on"), _LIMIT,
    cursor("alerts", int),
)  # fmt: skip
def alerts(given: dict[str, Any]) -> Response:
    """The recordings that fitted a saved search when their transcript was written, the newest first."""
    (before,) = given["cursor"] or (0,)
    rows = read_alerts(_database(), given["search"], given["since"], given["limit"] + 1, before)
    return page(rows, given["limit"], lambda alert: cursor_of("alerts", alert.alert_id))


@reads("/saved-searches", "SavedSearches")
def saved(_: dict[str, Any]) -> Response:
    """The searches that each new transcript is compared with, 500 at most; `alerts` of each are counted up to
    1,000, and 1001 means more."""
    found = saved_searches(_database())
    return page(found, len(found), lambda _: "")


@reads("/labels", "Labels", _LIMIT, cursor("labels", str, str))
def labels(given: dict[str, Any]) -> Response:
    """The labels that recordings have, by classifier. How many have each, the facets of a search tell."""
    rows = label_names(_database(), given["cursor"] or ("", ""), given["limit"] + 1)
    named = [{"classifier": classifier, "label": label} for classifier, label in rows]
    return page(named, given["limit"], lambda row: cursor_of("labels", row["classifier"], row["label"]))


@reads("/languages", "Languages")
def languages(_: dict[str, Any]) -> Response:
    """The codes of the languages that are spoken in recordings."""
    found = [{"language": code} for code in language_names(_database())]
    return page(found, len(found), lambda _: "")
