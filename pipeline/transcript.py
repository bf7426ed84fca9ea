"""What was heard in one file."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """One stretch of speech, times in seconds from the file's start; a score that is not a number is None."""

    start: float
    end: float
    text: str
    avg_logprob: float | None
    no_speech_prob: float | None


@dataclass(frozen=True)
class Transcript:
    """The text of a file, the measures that classifiers use, and the model that wrote it.

    `language` is None where nothing was said; `speech_seconds` is what the voice gate let through;
    `loudness_db` is the level of the whole file in dB below full scale (-inf for digital silence).
    """

    text: str
    segments: list[Segment]
    language: str | None
    duration_seconds: float
    speech_seconds: float
    loudness_db: float
    model: str
