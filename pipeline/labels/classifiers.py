"""What the row says about the sound beside its words.

`content` needs no model. Two more classifiers run where their folders exist in the models' root: `audio-tagging`
(`pipeline.labels.audio_tags`) and `topics` (`pipeline.labels.topics`).
"""

import os
from pathlib import Path

from pipeline.labels.audio_tags import AudioTags
from pipeline.labels.topics import Topics
from pipeline.speech.transcript import Label, Transcript

SILENCE_DB = -60.0  # below this level (RMS, full scale) a file without speech is silence; a quiet room is near -50
AUDIO_TAGS, TOPICS = "audio-tagging", "topics"


class Classifiers:
    """The classifiers of a host."""

    def __init__(self, models_root: Path, gpu: int | None = None, tags: int = 5, topics: int = 3) -> None:
        """`gpu`: the number of the GPU, None for the CPU; `tags`, `topics`: labels for each file.

        `BadModel` where a folder is there and its model cannot be used.
        """
        folder = models_root / AUDIO_TAGS
        self.tagger = AudioTags(folder, gpu, tags) if os.path.lexists(folder) else None
        folder = models_root / TOPICS
        self.topics = Topics(folder, gpu, topics) if os.path.lexists(folder) else None

    def __str__(self) -> str:
        models = [part.model for part in (self.tagger, self.topics) if part is not None]
        return ", ".join(
            ["content", *(f"{model.path} on {'a GPU' if model.on_gpu else 'the CPU'}" for model in models)]
        )

    def labels(self, heard: Transcript) -> list[Label]:
        """The file's labels."""
        topics = self.topics.of(heard.text) if self.topics else []
        return [content(heard.speech_seconds, heard.duration_seconds, heard.loudness_db), *heard.tags, *topics]


def content(speech_seconds: float, duration_seconds: float, loudness_db: float) -> Label:
    """Speech with the share of the file that is speech; else silence or other, with certainty 1."""
    if speech_seconds > 0 and duration_seconds > 0:
        return Label("content", "speech", min(1.0, speech_seconds / duration_seconds))
    return Label("content", "silence" if loudness_db < SILENCE_DB else "other", 1.0)
