"""What the answers of the interface for programs are made of, as JSON schemas for its OpenAPI document."""

from typing import Any

from pipeline.web.api_parameters import NO_NUL

Schema = dict[str, Any]
BATCH, AUDIO_ID = "20250622-143052-6ffbb59b2300", 4711
_AT = "2025-06-22T14:30:52+00:00"


def _obj(**properties: Schema) -> Schema:
    """An object with all of these."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def _some(required: str = "", **properties: Schema) -> Schema:
    """An object with some of these."""
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(of: Schema, what: str = "") -> Schema:
    return _said({"type": "array", "items": of}, what)


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _said(schema: Schema, what: str) -> Schema:
    return {**schema, "description": what} if what else schema


def _text(what: str = "") -> Schema:
    return _said({"type": "string"}, what)


def _text_or_null(what: str = "") -> Schema:
    return _said({"type": ["string", "null"]}, what)


def _time(what: str = "") -> Schema:
    return _said({"type": "string", "format": "date-time"}, what)


def _int(what: str = "") -> Schema:
    return _said({"type": "integer"}, what)


def _int_or_null(what: str = "") -> Schema:
    return _said({"type": ["integer", "null"]}, what)


def _number(what: str = "") -> Schema:
    return _said({"type": "number"}, what)


def _number_or_null(what: str = "") -> Schema:
    return _said({"type": ["number", "null"]}, what)


def _bool(what: str = "") -> Schema:
    return _said({"type": "boolean"}, what)


_META: Schema = {"type": "object", "description": "What sidecar, tags and name say of it: whatever is there."}
_STATUS: Schema = {"type": "string", "enum": ["processing", "done", "failed"]}
_LANGUAGES = _list(_text(), "All that are spoken, the most spoken first.")
_CODES = _list(_text(), "Codes of what is damaged or missing in the recording.")
_ROOM = _or_null(_obj(free=_int("Bytes."), size=_int("Bytes.")))
_HOUR = _or_null({"type": "object", "description": "What it has done within the last hour."})
_GPU = _or_null({"type": "object", "description": "Its GPU: name, busy (0 to 1), memory."})
_REASONS = _list(_obj(reason=_text(), files=_int()), "Why files have failed, the most frequent first.")
_QUEUE = _obj(
    name=_text(), host=_text("Whose files these are; empty: of all."), waiting=_int(), delayed=_int(), dead=_int(),
    in_work=_int(), workers=_int(), oldest_seconds=_int_or_null("That the next job has waited."),
    dead_seconds=_int_or_null("Since the oldest dead letter."), per_hour=_number("Jobs."),
)  # fmt: skip
_WORKER = {
    **_obj(
        id=_text(), alive=_bool(), queue=_text(), host=_text(), role=_text(), doing=_text(), since=_int(),
        beat=_int(), hour=_HOUR, disk=_ROOM, gpu=_GPU, heard_seconds=_int_or_null(), since_seconds=_int_or_null(),
    ),
    "additionalProperties": True,
}  # fmt: skip
_HOST = _obj(
    name=_text(), alive=_bool(), heard_seconds=_int_or_null(), draining=_bool(), workers=_int(), batches=_int(),
    files=_int(), disk=_ROOM, gpus=_list({"type": "object"}),
)  # fmt: skip
_OPEN_BATCH = _obj(
    id=_text(), host=_text(), total=_int_or_null(), processed=_int_or_null(), failed=_int_or_null(), since=_int(),
    still_seconds=_int(), state={"type": "string", "enum": ["unpacking", "open", "stranded", "finishing"]},
    left_seconds=_int_or_null(), archive=_text("The file name of its archive; empty: not known."),
)  # fmt: skip
_FLEET = _obj(
    health={"type": "string", "enum": ["healthy", "degraded", "down"]}, time=_int("Seconds since 1970."),
    queues=_list(_QUEUE), workers=_list(_WORKER), hosts=_list(_HOST), batches=_list(_OPEN_BATCH),
    done=_or_null(_obj(files=_int(), failed=_int(), audio_seconds=_number())),
    reasons=_or_null(_REASONS),
    warnings=_or_null(_obj(files=_int(), codes={"type": "object", "additionalProperties": _int()})),
    amiss=_list(_obj(kind=_text(), subject=_text(), what=_text()), "What needs a person."),
    troubles=_list(_obj(level=_text(), what=_text(), see=_text("Its entry in docs/runbook.md."))),
)  # fmt: skip
_ARCHIVE = _some("path", path=_text_or_null(), host=_text_or_null(), bytes=_int_or_null(), sha256=_text_or_null())
_BATCH_ROW = {
    "batch_id": _text(), "s3_key": _text(), "file_count": _int(), "host": _text("That unpacked it last."),
    "opened_at": _time(), "finished_at": _or_null(_time()), "done": _int(), "failed": _int(), "archive": _ARCHIVE,
}  # fmt: skip
_BATCH = _some(
    "batch_id archive state is_over reasons", **_BATCH_ROW, state=_text("Where it is, in words."),
    is_over=_bool("Nothing more will happen by itself."), reasons=_REASONS,
)  # fmt: skip
_BATCH_FILE = _obj(
    audio_id=_int(), original_filename=_text(), status=_STATUS, error=_text_or_null("Why it has failed."),
    duration_seconds=_number_or_null(), language=_text_or_null(), warnings=_CODES,
)  # fmt: skip
_FILE = _obj(
    audio_id=_int(), batch_id=_text(), archive=_text("The file name of its archive; empty: not known."),
    original_filename=_text("Its name in the archive."), status=_STATUS, error=_text_or_null("Why it has failed."),
    duration_seconds=_number_or_null(), channels=_int(), language=_text_or_null("The most spoken."),
    languages=_LANGUAGES, recorded_at=_or_null(_time()),
    recorded_from=_text_or_null("What says so: sidecar, tag, name or mtime."), created_at=_time(),
    updated_at=_time(), has_transcript=_bool(), s3_opus_path=_text_or_null("The S3 key of its Opus."),
    labels=_list(_obj(classifier=_text(), label=_text(), score=_number("0 to 1."))),
    warnings=_list(_obj(code=_text(), seconds=_number_or_null("Of sound that are lost."), message=_text())),
    metadata=_META,
)  # fmt: skip
_WORD = _some("start end word", start=_number(), end=_number(), word=_text(), probability=_number_or_null())
_SEGMENT = _some(
    "start end text", start=_number("Seconds."), end=_number("Seconds."), text=_text(), language=_text_or_null(),
    channel={"description": "From 1; only where the recording has several."},
    speaker=_text("The name of its channel."), confidence=_number_or_null("0 to 1; below 0.7: uncertain."),
    avg_logprob=_number_or_null(), no_speech_prob=_number_or_null(),
    mark=_text_or_null("`unintelligible` or `repeated`: it is not just what was said."), reason=_text_or_null(),
    words=_list(_WORD),
)  # fmt: skip
_TRANSCRIPT = _obj(
    audio_id=_int(), language=_text_or_null(), languages=_LANGUAGES, channels=_int(),
    duration_seconds=_number_or_null(), model=_text(), text=_text(), segments=_list(_SEGMENT),
)  # fmt: skip
_HIT = _obj(
    audio_id=_int(), batch_id=_text(), original_filename=_text(), created_at=_time(), language=_text_or_null(),
    languages=_LANGUAGES, duration_seconds=_number_or_null(), labels=_list(_text()), warnings=_CODES,
    excerpt=_list(_obj(text=_text(), is_hit=_bool("It was searched for."))),
    start=_number_or_null("Where in the recording the hit is, in seconds."),
    segment={"anyOf": [_SEGMENT, {"type": "object", "maxProperties": 0}]}, recorded_at=_or_null(_time()),
    metadata=_META, archive=_text(),
)  # fmt: skip
_COUNTS = _list(_obj(value=_text(), files=_int(), name=_text("Of the archive, where the value is a batch.")))
_SUMMARY = _obj(
    total=_int("Hits; 1,000 at most."), is_more=_bool("There are more than that."),
    facets=_obj(label=_COUNTS, language=_COUNTS, batch=_COUNTS, day=_COUNTS, meta=_COUNTS),
    faceted=_int("The newest hits, in which the facets are counted."),
    suggestion=_text("What may have been meant, where nothing was found."),
    unknown=_text("What is wrong with a label or language that no recording has."),
)  # fmt: skip
_ALERT = _obj(
    alert_id=_int(), matched_at=_time(), search=_text(), audio_id=_int(), batch_id=_text(),
    original_filename=_text(), start=_number_or_null("Seconds."), excerpt=_text(),
)  # fmt: skip
_SAVED = _obj(
    name=_text(), words=_text(), created_at=_time(), alerts=_int("1001: more than 1,000."),
    problem=_text("Why it matches nothing; empty where it does."),
)  # fmt: skip
_NAME: Schema = {"type": "string", "minLength": 1, "maxLength": 250, "pattern": NO_NUL}
BATCH_ID: Schema = {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}
# An absolute path, none of whose parts is `..`.
_PATH = r"^(/([^\x00/.][^\x00/]*|\.[^\x00/.][^\x00/]*|\.\.[^\x00/]+|\.?))+$"
_ENQUEUE = {
    "oneOf": [
        {**_obj(remote_path={"type": "string", "pattern": _PATH, "maxLength": 500}),
         "additionalProperties": False},
        {**_obj(s3_key={"type": "string", "pattern": "^archives/[A-Za-z0-9][A-Za-z0-9._-]{0,99}\\.tar$"}),
         "additionalProperties": False},
    ],
}  # fmt: skip
_RETRY = {
    "oneOf": [
        {**_some("batch_id", batch_id=BATCH_ID,
                 files={"type": "array", "items": _NAME, "minItems": 1, "maxItems": 1000}),
         "additionalProperties": False},
        {**_obj(audio_id={"type": "integer", "minimum": 1, "maximum": 2**63 - 1}), "additionalProperties": False},
    ]
}  # fmt: skip


def _page(of: str, **more: Schema) -> Schema:
    following = _text_or_null("The cursor of the next page; null: this is the last.")
    return _obj(items=_list(_ref(of)), next=following, **more)


SCHEMAS: dict[str, Schema] = {
    "Fleet": _FLEET,
    "BatchRow": _obj(**_BATCH_ROW),
    "Batches": _page("BatchRow"),
    "Batch": _BATCH,
    "BatchFile": _BATCH_FILE,
    "BatchFiles": _page("BatchFile"),
    "File": _FILE,
    "Files": _page("File"),
    "Transcript": _TRANSCRIPT,
    "Hit": _HIT,
    "Hits": _page("Hit", summary=_or_null(_SUMMARY)),
    "Alert": _ALERT,
    "Alerts": _page("Alert"),
    "SavedSearch": _SAVED,
    "SavedSearches": _page("SavedSearch"),
    "Label": _obj(classifier=_text(), label=_text()),
    "Labels": _page("Label"),
    "Language": _obj(language=_text()),
    "Languages": _page("Language"),
    "Document": {"type": "object", "required": ["openapi", "info", "paths"]},
    "Enqueue": _ENQUEUE,
    "Queued": _obj(remote_path=_text_or_null(), batch_id=_text_or_null(), s3_key=_text_or_null()),
    "Retry": _RETRY,
    "Retried": _obj(batch_id=_text(), queued=_text("What was queued, in words.")),
    "Problem": _obj(
        type=_text(),
        title=_text(),
        status=_int("The status of the answer."),
        detail=_text("What is wrong with it."),
    ),
}

_SEGMENT_SEEN = {"start": 0.4, "end": 2.1, "text": "Good morning.", "language": "en", "confidence": 0.93}
_ROW_SEEN: Schema = {
    "batch_id": BATCH, "s3_key": f"archives/{BATCH}.tar", "file_count": 847, "host": "gpu-04", "opened_at": _AT,
    "finished_at": None, "done": 412, "failed": 3,
    "archive": {"path": "/recordings/monday.tar", "host": "ec2.example.net", "bytes": 10240, "sha256": "0f" * 32},
}  # fmt: skip
_FILE_SEEN: Schema = {
    "audio_id": AUDIO_ID, "batch_id": BATCH, "archive": "monday.tar", "original_filename": "1234-1750602652.mp3",
    "status": "done", "error": None, "duration_seconds": 12.5, "channels": 1, "language": "en",
    "languages": ["en"], "recorded_at": _AT, "recorded_from": "name", "created_at": _AT, "updated_at": _AT,
    "has_transcript": True,
    "s3_opus_path": f"processed/2025-06-22/{AUDIO_ID}.opus",
    "labels": [{"classifier": "audio_tag", "label": "Siren", "score": 0.81}],
    "warnings": [{"code": "missing_end", "seconds": 2.5, "message": "it ends before the time that it declares"}],
    "metadata": {"talkgroup": 1234},
}  # fmt: skip
_HIT_SEEN: Schema = {
    **{name: _FILE_SEEN[name] for name in (
        "audio_id", "batch_id", "original_filename", "created_at", "language", "languages", "duration_seconds",
        "recorded_at", "metadata", "archive")},
    "labels": ["Siren"], "warnings": [], "start": 0.4, "segment": _SEGMENT_SEEN,
    "excerpt": [{"text": "Good ", "is_hit": False}, {"text": "morning", "is_hit": True}],
}  # fmt: skip
_SUMMARY_SEEN = {
    "total": 1, "is_more": False, "faceted": 1, "suggestion": "", "unknown": "",
    "facets": {
        "label": [], "language": [{"value": "en", "files": 1, "name": ""}], "batch": [], "day": [], "meta": [],
    },
}  # fmt: skip
_ALERT_SEEN = {
    "alert_id": 17, "matched_at": _AT, "search": "fires", "audio_id": AUDIO_ID, "batch_id": BATCH,
    "original_filename": "1234-1750602652.mp3", "start": 0.4, "excerpt": "There is a fire at the mill.",
}  # fmt: skip
EXAMPLES: dict[str, Any] = {
    "Fleet": {
        "health": "healthy", "time": 1750602652, "workers": [], "hosts": [], "batches": [], "reasons": [],
        "queues": [{"name": "queue:unpack", "host": "", "waiting": 2, "delayed": 0, "dead": 0, "in_work": 1,
                    "workers": 1, "oldest_seconds": 40, "dead_seconds": None, "per_hour": 12.5}],
        "done": {"files": 300, "failed": 1, "audio_seconds": 4096.5}, "warnings": {"files": 0, "codes": {}},
        "amiss": [], "troubles": [],
    },
    "Batches": {"items": [_ROW_SEEN], "next": None},
    "Batch": {**_ROW_SEEN, "state": "415 of 847 files settled on gpu-04, 3 failed", "is_over": False,
              "reasons": [{"reason": "ffmpeg: Invalid data found when processing input", "files": 3}]},
    "BatchFiles": {"items": [{**{name: _FILE_SEEN[name] for name in (
        "audio_id", "original_filename", "status", "error", "duration_seconds", "language")}, "warnings": []}],
        "next": "WyJiYXRjaF9maWxlcyIsICJhLm1wMyJd"},
    "File": _FILE_SEEN,
    "Files": {"items": [_FILE_SEEN], "next": None},
    "Transcript": {"audio_id": AUDIO_ID, "language": "en", "languages": ["en"], "channels": 1,
                   "duration_seconds": 12.5, "model": "large-v3", "text": "Good morning.",
                   "segments": [_SEGMENT_SEEN]},
    "Hits": {"items": [_HIT_SEEN], "next": None, "summary": _SUMMARY_SEEN},
    "Alerts": {"items": [_ALERT_SEEN], "next": None},
    "SavedSearches": {"items": [{"name": "fires", "words": "fire or smoke", "created_at": _AT, "alerts": 3,
                                 "problem": ""}], "next": None},
    "Labels": {"items": [{"classifier": "audio_tag", "label": "Siren"}], "next": None},
    "Languages": {"items": [{"language": "en"}], "next": None},
    "Document": {"openapi": "3.1.0", "info": {"title": "audio-pipeline", "version": "1.0.0"}, "paths": {}},
    "Enqueue": {"remote_path": "/recordings/monday.tar"},
    "Queued": {"remote_path": "/recordings/monday.tar", "batch_id": None, "s3_key": None},
    "Retry": {"batch_id": BATCH},
    "Retried": {"batch_id": BATCH, "queued": f"3 files of batch {BATCH}"},
    "Problem": {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "There is no file 4711."},
}  # fmt: skip
