"""A fleet for the page to show: at work, with failures and transcripts, and with names that mean harm."""

import json
from typing import Any

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_warnings import FileWarning
from pipeline.jobs.job_queue import JobQueue
from pipeline.web.pages import Sources
from tests.operations.test_status import live, open_a_batch
from tests.store.test_transcripts import CUT, TURNED, hear
from tests.support.fleet import Fleet
from tests.support.recordings import SPEECH, opus
from tests.support.steps import BATCH, add_batch, add_dead_letter, add_file, object_keys, s3_client, warn

TOKEN = "a-token-that-nobody-guesses"
MARK = "alert(1)</script>"
HOSTILE = f"<script>{MARK}<b>\"'{{{{7*7}}}}\x1b]0;owned\x07\x1b[31m\u202e\x00\r\n" + "w" * 260 + ".mp3"
STORED = HOSTILE.replace("\x00", "")  # PostgreSQL knows no NUL
WORDS = [{"start": 0.0, "end": 0.5, "word": "kept-out-of-pages", "probability": 0.5}]
TORN = "\udce9 <img src=x onerror=alert(1)>"


def seed(fleet: Fleet, redis: Any) -> dict[str, int]:
    """Fill everything; gives the audio ids: `heard` with its Opus in S3, `hostile`, `failed`, `call` with several
    channels and with warnings, and `doubtful` with what Whisper was not sure of, in two languages."""
    add_batch(fleet, files=4)
    add_batch(fleet, "20250101-000000", files=0)
    heard = hear(
        fleet, "monday/call07.mp3", "Good morning, this is the river road.", "There is a fire at the mill.",
        "Send two engines.", labels={"speech": "content", "Siren": "audio_tag"},
    )  # fmt: skip
    key = f"processed/2025-06-22/{heard}.opus"
    s3_client(fleet).put_object(Bucket=fleet.bucket, Key=key, Body=opus(SPEECH), ContentType="audio/ogg")
    evil: dict[str, Any] = {
        "text": STORED, "language": STORED[:60], "mark": STORED[:60], "reason": STORED[:60], "confidence": 0.1,
        "channel": STORED[:60],
    }  # fmt: skip
    hostile = hear(
        fleet, STORED, evil, "fire " * 400, language=STORED[:60], languages=[STORED[:60], "<b>"],
        labels={STORED[:80]: "topic"},
    )  # fmt: skip
    doubtful = hear(
        fleet, "doubtful.mp3",
        {"text": "Good morning, the fire brigade.", "language": "en", "confidence": 0.93, "words": WORDS},
        {"text": "There is fire on the river road.", "language": "en", "confidence": 0.41, "words": WORDS},
        {"text": "[unintelligible, 4 s]", "mark": "unintelligible", "reason": "the text repeats itself"},
        {"text": "Ja, ja.", "language": "de", "confidence": 0.31, "mark": "repeated", "reason": "it looped"},
        languages=["en", "de"],
    )  # fmt: skip
    call = hear(
        fleet, "call.wav",
        {"text": "Is there any smoke?", "channel": 1, "language": "en", "confidence": 0.9},
        {"text": "Yes, at the harbour.", "channel": 2, "language": "en", "confidence": 0.4},
        {"text": "Who is that?", "channel": 9, "language": "en", "confidence": 0.9},
        languages=["en"], channels=9, warnings=[CUT, TURNED],
    )  # fmt: skip
    warn(fleet, hostile, FileWarning(STORED, 3.25, STORED))
    failed = add_file(fleet, "damaged.mp3", "failed", "ffmpeg: Invalid data found when processing input")
    add_file(fleet, "x" + STORED, "failed", STORED)
    add_file(fleet, "waiting.mp3", "processing")
    add_dead_letter(
        redis, "queue:unpack", json.dumps({"batch_id": BATCH, "s3_key": HOSTILE}), "the archive is cut"
    )
    add_dead_letter(redis, "queue:unpack", TORN, TORN)
    open_a_batch(redis)
    live(redis, "gpu-01-unpack", "gpu-01", "unpack", "queue:unpack", disk={"free": 4 * 10**11, "size": 10**12})
    live(
        redis, "gpu-01-gpu", "gpu-01", "gpu", "queue:transcribe:gpu-01", doing=f"transcribing {HOSTILE}",
        hour={"seconds": 1800, "done": 300, "failed": 3, "audio_seconds": 3600.0, "bytes": 0},
        gpu={"name": "A100", "busy": 0.934, "memory_used": 10**10, "memory": 4 * 10**10},
    )  # fmt: skip
    JobQueue(redis, "queue:transfer", "nobody").add({"remote_path": HOSTILE})
    return {"heard": heard, "hostile": hostile, "doubtful": doubtful, "call": call, "failed": failed}


def addresses(ids: dict[str, int]) -> list[str]:
    """The address of every page, with what it shows."""
    return [
        "/", "/batches", "/batches?before=20250601-000000", "/batches?batch=%3Cb%3E", f"/batches/{BATCH}",
        f"/batches/{BATCH}?status=failed", "/failures?age=", "/failures?age=&reason=%3Cscript%3E", "/search",
        "/alerts",
        "/search?words=fire", "/search?words=nowhere", "/search?words=" + "w" * 1500, "/search?since=%3Cb%3E",
        *(f"/files/{audio_id}" for audio_id in ids.values()), "/files/999", "/nowhere", "/runbook",
    ]  # fmt: skip


def _check_archive(fleet: Fleet, key: str) -> None:
    """`Permanent` where the fleet's S3 has no such object."""
    if key not in object_keys(fleet, key):
        raise Permanent(f"there is no {key} in S3")


def sources(fleet: Fleet, redis: Any, database: Any, **changes: Any) -> Sources:
    """What the page is made of, as the fleet has it."""
    given: dict[str, Any] = {
        "redis": redis,
        "database": database,
        "queues": ["queue:transfer", "queue:unpack", "queue:transcribe"],
        "token": TOKEN,
        "opus_address": lambda key: f"{fleet.s3.endpoint}/{fleet.bucket}/{key}?signed",
        "media_origin": fleet.s3.endpoint,
        "check_archive": lambda key: _check_archive(fleet, key),
        "archive_key": lambda batch_id: f"archives/{batch_id}.tar",
        "channel_names": ("caller", "<b>agent</b>"),
        **changes,
    }
    return Sources(**given)
