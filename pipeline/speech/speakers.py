"""The channels of one recording as one transcript: what each of them holds was heard by itself."""

import math
from dataclasses import replace

from pipeline.speech.segments import text_of
from pipeline.speech.transcript import Label, Segment, Transcript


def languages_of(segments: list[Segment]) -> list[str]:
    """The languages of the segments, the most spoken first."""
    seconds: dict[str, float] = {}
    for segment in segments:
        if segment.language is not None:
            seconds[segment.language] = seconds.get(segment.language, 0.0) + segment.end - segment.start
    return sorted(seconds, key=lambda language: -seconds[language])


def merged(channels: list[Transcript]) -> Transcript:
    """One transcript of those of a file's channels, in their order: the segments by time, each with its
    channel."""
    if len(channels) == 1:
        return channels[0]
    segments = [
        replace(segment, channel=number) for number, one in enumerate(channels, 1) for segment in one.segments
    ]
    segments.sort(key=lambda segment: (segment.start, segment.channel))
    spoken = languages_of(segments)
    duration = max(one.duration_seconds for one in channels)
    return replace(
        channels[0],
        text=text_of(segments),
        segments=segments,
        language=spoken[0] if spoken else None,
        languages=spoken,
        duration_seconds=duration,
        speech_seconds=min(duration, sum(one.speech_seconds for one in channels)),
        loudness_db=_mean_db([one.loudness_db for one in channels]),
        tags=_tags(channels),
        channels=len(channels),
    )


def _mean_db(levels: list[float]) -> float:
    """The mean of the energies."""
    energy = sum(10 ** (level / 10) for level in levels) / len(levels)
    return 10 * math.log10(energy) if energy else -math.inf


def _tags(channels: list[Transcript]) -> list[Label]:
    """Each label with its highest score, as many as one channel has, best first."""
    best: dict[str, Label] = {}
    for label in (label for one in channels for label in one.tags):
        if label.name not in best or best[label.name].score < label.score:
            best[label.name] = label
    most = max(len(one.tags) for one in channels)
    return sorted(best.values(), key=lambda label: -label.score)[:most]
