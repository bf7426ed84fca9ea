"""What was heard in one file."""

from dataclasses import dataclass, field


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
    """One stretch of speech, times in seconds from the file's start; a score that is not a number is None.

    `words` is None where word times were not asked for.
    """

    start: float
    end: float
    text: str
    avg_logprob: float | None
    no_speech_prob: float | None
    words: list[Word] | None = None


@dataclass(frozen=True)
class Transcript:
    """The text of a file, the measures that classifiers use, and the model that wrote it.

    `language` is None where nothing was said; `speech_seconds` is what the voice gate let through;
    `loudness_db` is the level of the whole file in dB below full scale (-inf for digital silence);
    `tags` are the labels of its sound, where there is a model for them.
    """

    text: str
    segments: list[Segment]
    language: str | None
    duration_seconds: float
    speech_seconds: float
    loudness_db: float
    model: str
    tags: list[Label] = field(default_factory=list)
