"""What the row says about the sound beside its words."""

from pipeline.transcript import Label, Transcript

SILENCE_DB = -60.0  # below this level (RMS, full scale) a file without speech is silence; a quiet room is near -50


def classify(transcript: Transcript) -> list[Label]:
    """The file's labels: `content` is speech, silence or other, from the voice gate and the level."""
    return [content(transcript.speech_seconds, transcript.duration_seconds, transcript.loudness_db)]


def content(speech_seconds: float, duration_seconds: float, loudness_db: float) -> Label:
    """Speech with the share of the file that is speech; else silence or other, with certainty 1."""
    if speech_seconds > 0 and duration_seconds > 0:
        return Label("content", "speech", min(1.0, speech_seconds / duration_seconds))
    return Label("content", "silence" if loudness_db < SILENCE_DB else "other", 1.0)
