"""What is known of a recording once it is Opus: kept as a file beside it, `call001.report.json`.

It names the digest of the recording that the Opus was made of: an Opus that an earlier delivery has left is used
only for the same bytes. It is written before the Opus appears, so that there is no Opus of ours without it.
"""

import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.foundation import file_warnings, scratch
from pipeline.foundation.file_warnings import FileWarning


@dataclass(frozen=True)
class Report:
    """How long the recording is, how many channels its Opus has, what was damaged, and its tags."""

    seconds: float
    channels: int
    warnings: list[FileWarning] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


def path_of(opus: Path) -> Path:
    """Where the report of an Opus is."""
    return opus.with_suffix(".report.json")


def write(opus: Path, report: Report, digest: str) -> None:
    """Write the report of an Opus that is about to appear; `digest` is that of the recording."""
    path = path_of(opus)
    part = path.with_name(f"{path.name}.part")
    content = {
        "source_sha256": digest,
        "seconds": report.seconds,
        "channels": report.channels,
        "warnings": file_warnings.as_json(report.warnings),
        "tags": report.tags,
    }
    try:
        part.write_text(json.dumps(content))
        scratch.sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(opus: Path) -> Report | None:
    """The report of an Opus; None where it is missing, as from an earlier release."""
    content = _content(opus)
    if content is None:
        return None
    warnings = file_warnings.from_json(content["warnings"])
    return Report(content["seconds"], content["channels"], warnings, content.get("tags", {}))


def is_of(opus: Path, digest: str) -> Report | None:
    """The report of an Opus that is there and was made of the recording with this digest; None otherwise."""
    content = _content(opus)
    return read(opus) if content and content["source_sha256"] == digest and opus.exists() else None


def _content(opus: Path) -> dict | None:
    with contextlib.suppress(FileNotFoundError, ValueError):
        content = json.loads(path_of(opus).read_text())
        if isinstance(content, dict) and content.keys() >= {"source_sha256", "seconds", "channels", "warnings"}:
            return content
    return None
