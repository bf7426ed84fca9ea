"""What the transcriber knows of the files that it has in progress: their channels, and the windows of each."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from pipeline.audio.ogg_opus import opus_channels
from pipeline.speech.languages import Guesses
from pipeline.speech.segments import Heard, segments, text_of
from pipeline.speech.speakers import languages_of
from pipeline.speech.transcript import Label, Transcript
from pipeline.speech.voice_windows import Recording, Window

Key = TypeVar("Key")


class SoundTags(Protocol):
    """Listens to one file, and labels it."""

    def add(self, samples: np.ndarray) -> None:
        """Take the next sound: mono float32 at 16 kHz."""

    def labels(self) -> list[Label]:
        """The likeliest labels of all of it, best first."""


class Tagger(Protocol):
    """Labels the sound of files (`pipeline.labels.audio_tags.AudioTags`)."""

    def file(self) -> SoundTags:
        """What listens to one file."""


@dataclass(eq=False)
class File(Generic[Key]):
    """A file with all of its channels, each of which is heard by itself."""

    key: Key
    channels: "list[Channel[Key]]" = field(default_factory=list)
    heard: dict[int, Transcript] = field(default_factory=dict)  # by number of the channel
    over: bool = False  # delivered, or failed


@dataclass(eq=False)
class Channel(Generic[Key]):
    """A channel of a file in progress: what is heard so far, by window."""

    file: File[Key]
    number: int
    recording: Recording
    tags: list[Label] = field(default_factory=list)
    heard: dict[tuple[int, int], list[Heard]] = field(default_factory=dict)  # by window and part of it
    windows: int | None = None  # how many there are; None while it is read
    more_parts: int = 0  # than windows: some were cut where the language changes
    guesses: dict[int, Guesses] = field(default_factory=dict)  # of languages, by window
    doubtful: "list[Row[Key]]" = field(default_factory=list)  # windows that wait for the guesses of others
    sound: "SoundTags | None" = None
    over: bool = False  # delivered, or failed; so are the other channels where it has failed


@dataclass(eq=False)
class Row(Generic[Key]):
    """A window that waits for the device."""

    channel: Channel[Key]
    index: int
    window: Window
    features: np.ndarray
    language: str | None  # None: to be detected
    part: int = 0
    has_left: bool = False  # its batch: it waits for its neighbours, or its parts took its place


def transcript_of(channel: Channel[Key], model: str) -> Transcript:
    """The transcript of a channel of which every window is heard, by the model of this name."""
    found = segments([one for place in sorted(channel.heard) for one in channel.heard[place]])
    sound, spoken = channel.recording, languages_of(found)
    return Transcript(
        text=text_of(found),
        segments=found,
        language=spoken[0] if spoken else None,
        duration_seconds=sound.duration_seconds,
        speech_seconds=sound.speech_seconds,
        loudness_db=sound.loudness_db,
        model=model,
        tags=channel.tags,
        languages=spoken,
    )


def channels_of(path: Path) -> int:
    """How many channels a file has; 1 where it cannot be read, which is noticed when it is."""
    try:
        return opus_channels(path)
    except OSError:
        return 1
