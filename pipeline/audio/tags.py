"""The tags of a recording: what its container says of it, as ffmpeg reads them, in its sandbox.

ffmpeg writes them in its own form (ffmpeg.org/ffmpeg-formats.html#Metadata-2), which can be read whatever is in
them. It has one name for what containers name in many ways: the date of ID3 (TDRC, TYER), of Vorbis comments and
of BWF is `date`, BWF's time of origination and QuickTime's are `creation_time`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.foundation.file_metadata import MOST_FIELDS, MOST_KEY, MOST_TEXT, bounded
from pipeline.foundation.recording_times import Clock, Moment

FORM = "ffmetadata"  # ffmpeg's name of it
_MOST_BYTES = 2**16  # of one file's; a tag may have megabytes
_FIELD = re.compile(r"((?:[^=\\\n]|\\.)*)=((?:[^\\\n]|\\.)*)(?:\n|$)", re.DOTALL)
_SECTION = re.compile(r"\[(?:STREAM|CHAPTER)\]\n")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
# Of the container, not of what was recorded.
_TECHNICAL = re.compile(
    r"encoder|encoder_options|major_brand|minor_version|compatible_brands|handler_name|vendor_id|time_reference|"
    r"coding_history|umid|duration|bps|number_of_.*|_statistics.*|id3v2_priv\..*|itun.*|metadata_block_picture|"
    r"coverart.*|replaygain.*|lyrics.*"
)
_TIME_ALONE = re.compile(r"[0-9]{2}[-:._ ][0-9]{2}[-:._ ][0-9]{2}")  # EBU Tech 3285: any of these separates
_DATES = ("com.apple.quicktime.creationdate", "date", "creation_time")
_SDRTRUNK = re.compile(r"([A-Za-z ]{1,30}):([^;]*);")  # its comment: Date:2024-03-15 14:22:33.123;System:Metro;...


@dataclass
class TagsReader:
    """Takes what ffmpeg writes of a file, bytes by bytes; `tags()` afterwards."""

    _held: bytearray = field(default_factory=bytearray)

    def take(self, chunk: bytes) -> None:
        """The next bytes; those that are too many are dropped."""
        self._held += chunk[: _MOST_BYTES - len(self._held)]

    def tags(self) -> dict[str, str]:
        """The tags by their names in lower case; of two of a name the first, that of the file."""
        found: dict[str, str] = {}
        for name, value in _fields(self._held.decode(errors="replace")):
            if name and value and len(found) < MOST_FIELDS:
                found.setdefault(name[:MOST_KEY], value[:MOST_TEXT])
        return found


def _fields(text: str) -> Iterator[tuple[str, str]]:
    """Names and values up to the first chapter: those have titles of their own."""
    at = text.find("\n") + 1  # behind ;FFMETADATA1
    while at < len(text):
        if section := _SECTION.match(text, at):
            if "CHAPTER" in section[0]:
                return
            at = section.end()
        elif found := _FIELD.match(text, at):
            at = found.end()
            name, value = (_ESCAPED.sub(r"\1", part).strip() for part in found.groups())
            yield name.lower(), value
        else:  # cut
            return


@dataclass(frozen=True)
class Tagged:
    """What tags say: when the recording was made (None: not, or nothing that can be true), and the rest."""

    moment: Moment | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read(tags: Mapping[str, str], clock: Clock) -> Tagged:
    """What these tags say of the recording."""
    said = dict(tags)
    if said.get("comment", "").startswith("Date:"):
        said |= {name.strip().lower(): value for name, value in _SDRTRUNK.findall(said.pop("comment"))}
    moments = [moment for text in _times(said) if (moment := clock.moment(text))]
    moment = next((one for one in moments if not one.is_day), next(iter(moments), None))
    kept = {name: text for name, text in said.items() if not _TECHNICAL.fullmatch(name) and text != "und"}
    return Tagged(moment, bounded(kept))


def _times(tags: Mapping[str, str]) -> Iterator[str]:
    date, time = tags.get("date", ""), tags.get("creation_time", "")
    if date and _TIME_ALONE.fullmatch(time):
        yield f"{date}T{re.sub(r'[-._ ]', ':', time)}"
    yield from (tags[name] for name in _DATES if name in tags)
