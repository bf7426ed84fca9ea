"""Transcripts as WebVTT, SubRip and plain text: whatever the recording or its name holds, the file stays valid.

`readings` says how each segment reads, here, in the command line and on the page.
"""

import html
import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.speech.transcript import REPEATED, UNCERTAIN, UNINTELLIGIBLE, channel_of, is_uncertain, speaker_of
from pipeline.store.transcripts import AudioFile

LEAST_MS = 1  # of a cue: it must end after it begins
MOST_ON_A_LINE = 42  # characters, as subtitle guides have it; a cue with more has two lines
UNCERTAIN_SIGN, REPEATED_SIGN = "[?]", "[repeated]"
_LEGEND = {
    REPEATED: f"{REPEATED_SIGN}: Whisper repeated this, it is shown once",
    UNINTELLIGIBLE: "[unintelligible]: speech without text, for the reason beside it",
}


@dataclass(frozen=True)
class Reading:
    """How a segment reads.

    `text` is as it stands in the row, `line` in one line. `signs` follow it where no style tells that it is
    uncertain or repeated. `note` says why it is to be read with doubt, "uncertain: confidence 41 %", and is ""
    where it is not; `reason` is that of its `mark`. `language` is given where the file has several and this was
    said; `lang` is the language of `text` for HTML, "" where it is the file's. `speaker` and `channel` are "" and
    None where the recording has one channel.
    """

    start: float
    end: float
    text: str
    is_uncertain: bool = False
    mark: str | None = None
    reason: str = ""
    note: str = ""
    language: str | None = None
    speaker: str = ""
    channel: int | None = None

    @property
    def line(self) -> str:
        """The text in one line."""
        return one_line(self.text)

    @property
    def mark_sign(self) -> str:
        """What follows a text that does not say itself what it is: " [repeated]" or nothing."""
        return f" {REPEATED_SIGN}" if self.mark == REPEATED else ""

    @property
    def signs(self) -> str:
        """What follows the text where there is no style: " [?]", " [repeated]", both or nothing."""
        return f" {UNCERTAIN_SIGN}{self.mark_sign}" if self.is_uncertain else self.mark_sign

    @property
    def lang(self) -> str:
        """The language of `text` for HTML, where it is not the file's: a remark is English."""
        return "en" if self.mark == UNINTELLIGIBLE else html_language(self.language)


def reading(segment: Mapping[str, Any], names: Sequence[str] = (), has_several_languages: bool = False) -> Reading:
    """How a segment of `transcripts` reads, also one from before segments had a language and a confidence. `names`
    are those of the speakers of its channels."""
    mark = segment.get("mark")
    return Reading(
        start=float(segment["start"]),
        end=float(segment["end"]),
        text=segment["text"].strip(),
        is_uncertain=is_uncertain(segment),
        mark=mark,
        reason=one_line(segment.get("reason") or ""),
        note=_note(segment),
        language=segment.get("language") if has_several_languages and mark != UNINTELLIGIBLE else None,
        speaker=speaker_of(segment, names),
        channel=channel_of(segment),
    )


def readings(file: AudioFile, names: Sequence[str] = ()) -> Iterator[Reading]:
    """How the file's segments read, in their order; with the language of each where there are several."""
    for segment in file.segments:
        yield reading(segment, names, len(file.languages) > 1)


def legend(shown: Sequence[Reading], uncertain_sign: str) -> str:
    """One line that explains the signs among what is shown; "" where there are none. `uncertain_sign` begins what
    is said of uncertain text: "? means"."""
    marks = {found.mark for found in shown}
    parts = [text for mark, text in _LEGEND.items() if mark in marks]
    if any(found.is_uncertain for found in shown):
        parts.insert(0, f"{uncertain_sign} uncertain (confidence under {100 * UNCERTAIN:.0f} %)")
    return "; ".join(parts)


def html_language(language: str | None) -> str:
    """The language for an attribute of HTML; "" where it is no code."""
    return language if language and re.fullmatch("[a-z]{2,3}", language) else ""


def vtt(file: AudioFile, names: Sequence[str] = ()) -> Iterator[str]:
    """The transcript as WebVTT, in pieces; a cue has its speaker as its voice."""
    yield "WEBVTT\n"
    for start, end, found in _cues(file, names):
        voice = f"<v {html.escape(found.speaker, quote=False)}>" if found.speaker else ""
        text = html.escape(_two_lines(found.line + found.signs), quote=False)
        yield f"\n{_time(start, '.')} --> {_time(end, '.')}\n{voice}{text}\n"


def srt(file: AudioFile, names: Sequence[str] = ()) -> Iterator[str]:
    """The transcript as SubRip, in pieces; a cue begins with its speaker. It knows no escapes: < stays, and a
    player may take it for a mark."""
    for number, (start, end, found) in enumerate(_cues(file, names), 1):
        text = _two_lines(_with_speaker(found))
        yield f"{number}\n{_time(start, ',')} --> {_time(end, ',')}\n{text}\n\n"


def txt(file: AudioFile, names: Sequence[str] = ()) -> Iterator[str]:
    """The transcript as text, a line for each segment, in pieces; a line begins with its speaker."""
    lines = [found.line and _with_speaker(found) for found in readings(file, names)]
    for line in lines or [one_line(file.text)]:
        if line:
            yield f"{line}\n"


def turns(file: AudioFile, names: Sequence[str] = ()) -> str:
    """What the speakers of a recording with several channels said in turn, in one line: "caller: Hello. | agent:
    Yes?"; "" where it has one channel."""
    said = ((found.speaker, f"{found.line}{found.signs}") for found in readings(file, names) if found.line)
    spoken = itertools.groupby((pair for pair in said if pair[0]), key=lambda pair: pair[0])
    return " | ".join(f"{speaker}: {' '.join(text for _, text in pairs)}" for speaker, pairs in spoken)


def one_line(text: str) -> str:
    """The text in one line, without what a terminal or a player would obey, or what turns the direction of writing
    from there on: letters have their own."""
    straight = re.sub(r"[\u202a-\u202e\u2066-\u2069]", "", text)
    return " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", straight).split())


def _with_speaker(found: Reading) -> str:
    """What was said, in one line, by whom where there are several, with its signs."""
    return f"{found.speaker}: {found.line}{found.signs}" if found.speaker else f"{found.line}{found.signs}"


def _note(segment: Mapping[str, Any]) -> str:
    """Why the segment is to be read with doubt, in words; "" where it is not."""
    notes = []
    if is_uncertain(segment):
        notes.append(f"uncertain: confidence {100 * segment['confidence']:.0f} %")
    if mark := segment.get("mark"):
        reason = one_line(segment.get("reason") or "")
        notes.append(f"{mark}: {reason}" if reason else mark)
    return "; ".join(notes)


# --- cues --------------------------------------------------------------------------------------------------


def _cues(file: AudioFile, names: Sequence[str]) -> list[tuple[int, int, Reading]]:
    """Start and end (milliseconds) of each cue and how it reads, in the order of its start. Those of one channel
    do not overlap; of two channels they do where both speak at once."""
    spoken: dict[int | None, list[Reading]] = {}
    for found in readings(file, names):
        if found.line:
            spoken.setdefault(found.channel, []).append(found)
    cues = [cue for channel in spoken.values() for cue in _cues_of_channel(channel)]
    return sorted(cues, key=lambda cue: cue[:2])


def _cues_of_channel(spoken: list[Reading]) -> Iterator[tuple[int, int, Reading]]:
    """The cues of one channel, in the order of their start; none overlap."""
    shown = sorted(spoken, key=lambda found: found.start)
    starts, earliest = [], 0
    for found in shown:
        starts.append(max(earliest, round(1000 * found.start)))
        earliest = starts[-1] + LEAST_MS
    for number, found in enumerate(shown):
        start = starts[number]
        end = max(start + LEAST_MS, round(1000 * found.end))
        if number + 1 < len(shown):
            end = min(end, starts[number + 1])
        yield start, end, found


def _two_lines(text: str) -> str:
    """The text with a line break where it is too long for a line: at the space nearest to its middle, or at the
    middle where there is none near, as in Chinese or Thai."""
    if len(text) <= MOST_ON_A_LINE or "-->" in text:  # a line that begins with times would be taken for a cue's
        return text
    middle = len(text) // 2
    spaces = [at for at, char in enumerate(text) if char == " " and abs(at - middle) <= len(text) // 4]
    if spaces:
        at = min(spaces, key=lambda at: abs(at - middle))
        return f"{text[:at]}\n{text[at + 1 :]}"
    at = next((at for at in range(middle, len(text)) if _may_begin_line(text, at)), len(text))
    return f"{text[:at].rstrip()}\n{text[at:]}".rstrip()


def _may_begin_line(text: str, at: int) -> bool:
    """Whether the character there is neither a part of the one before it nor a sign that ends a clause."""
    joiner = "\u200d"
    kind = unicodedata.category(text[at])
    return kind[0] not in "MZ" and kind not in ("Po", "Pe", "Pf", "Sk", "Cf") and text[at - 1] != joiner


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
