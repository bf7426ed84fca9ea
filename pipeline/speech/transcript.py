"""What was heard in one file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Below this confidence a segment is shown as uncertain. Measured with Whisper base on 3,100 words, clean, noisy
# and in several languages: a third of the words of such segments is wrong; of the others one in thirteen; of those
# over 0.9 one in thirty.
UNCERTAIN = 0.7

# Why a stretch of speech has no text, or less than was decoded: `Segment.mark`.
UNINTELLIGIBLE = "unintelligible"  # the text was dropped as invented; the segment says so in its place
REPEATED = "repeated"  # the model looped: what it repeated stands once


@dataclass(frozen=True)
class Label:
    """One row of `classifications`; `score` is between 0 and 1."""

    classifier: str
    name: str
    score: float


@dataclass(frozen=True)
class Word:
    """One word, times in seconds from the file's start; `probability` is between 0 and 1."""

    start: float
    end: float
    word: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """A sentence or clause, in one stretch of speech; times in seconds from the file's start.

    `confidence` is the mean probability of its words, 0 to 1. `avg_logprob` and `no_speech_prob` are those of the
    window that it was heard in; a score that is not a number is None. `language` is an ISO 639-1 code. A segment
    with a `mark` is not just what was said: `reason` says why. One marked as unintelligible stands for speech
    without text: its `text` says so, it has no words and no confidence, and it is no part of the file's text.
    `channel` counts from 1; it is None where the recording has one channel.
    """

    start: float
    end: float
    text: str
    avg_logprob: float | None
    no_speech_prob: float | None
    words: list[Word] = field(default_factory=list)
    language: str | None = None
    confidence: float | None = None
    mark: str | None = None
    reason: str | None = None
    channel: int | None = None

    @property
    def is_spoken(self) -> bool:
        """Whether `text` is what was said."""
        return self.mark != UNINTELLIGIBLE


@dataclass(frozen=True)
class Transcript:
    """The text of a file, the measures that classifiers use, and the model that wrote it.

    `language` is the one most spoken, None where nothing was said; `languages` are all of them, the most spoken
    first; `speech_seconds` is what the voice gate let through; `loudness_db` is the level of the whole file in dB
    below full scale (-inf for digital silence); `tags` are the labels of its sound, where there is a model for
    them; `channels` is how many the Opus has. The segments of all channels are in the order of their start.
    """

    text: str
    segments: list[Segment]
    language: str | None
    duration_seconds: float
    speech_seconds: float
    loudness_db: float
    model: str
    tags: list[Label] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    channels: int = 1

    @property
    def unintelligible_seconds(self) -> float:
        """How much of the speech has no text."""
        return sum(segment.end - segment.start for segment in self.segments if not segment.is_spoken)


def is_uncertain(segment: Mapping[str, Any]) -> bool:
    """Whether a segment, as `transcripts.segments` has it, is to be read with doubt. One that was written before
    segments had a confidence is not."""
    confidence = segment.get("confidence")
    return confidence is not None and confidence < UNCERTAIN


def channel_of(segment: Mapping[str, Any]) -> int | None:
    """The channel of a segment of `transcripts.segments`, from 1; None where the recording has one channel."""
    channel = segment.get("channel")
    return channel if isinstance(channel, int) and channel >= 1 else None


def speaker_of(segment: Mapping[str, Any], names: Sequence[str]) -> str:
    """Who speaks in a segment of `transcripts.segments`: the name of its channel, "Channel 2" where `names` has
    none for it, "" where the recording has one channel."""
    channel = channel_of(segment)
    if channel is None:
        return ""
    return names[channel - 1] if channel <= len(names) else f"Channel {channel}"


def with_speaker(segment: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The segment with its `speaker`, where the recording has several channels."""
    speaker = speaker_of(segment, names)
    return {**segment, "speaker": speaker} if speaker else segment
