"""pipeline/speech/speakers.py: the channels of a recording as one transcript."""

import math

import pytest

from pipeline.speech.speakers import merged
from pipeline.speech.transcript import Label, Segment, Transcript


def channel(*segments: Segment, seconds: float = 60, loudness_db: float = -20, **fields: object) -> Transcript:
    """What is heard on a channel."""
    text = " ".join(segment.text for segment in segments)
    known: dict[str, object] = {"language": "en", "speech_seconds": 5.0} | fields
    return Transcript(
        text=text, segments=list(segments), duration_seconds=seconds, loudness_db=loudness_db, model="m",
        **known,  # type: ignore[arg-type]
    )  # fmt: skip


def said(start: float, text: str, language: str = "en") -> Segment:
    return Segment(start, start + 2, text, -0.1, 0.1, language=language, confidence=0.9)


def test_segments_of_all_channels_stand_by_time_with_their_channel() -> None:
    whole = merged([channel(said(0, "Hello."), said(8, "Yes.")), channel(said(3, "Hi."), said(8, "No."))])
    assert [(one.channel, one.text) for one in whole.segments] == [
        (1, "Hello."),
        (2, "Hi."),
        (1, "Yes."),
        (2, "No."),
    ]
    assert whole.text == "Hello. Hi. Yes. No."
    assert whole.channels == 2


def test_one_channel_stays_as_it_is() -> None:
    only = channel(said(0, "Hello."))
    assert merged([only]) is only
    assert only.segments[0].channel is None


def test_the_language_most_spoken_comes_first() -> None:
    whole = merged([channel(said(0, "Hello.")), channel(said(3, "Hola.", "es"), said(6, "Sí.", "es"))])
    assert (whole.language, whole.languages) == ("es", ["es", "en"])
    assert merged([channel(language=None), channel(language=None)]).language is None


def test_speech_is_no_longer_than_the_recording() -> None:
    both = [channel(seconds=60, speech_seconds=50), channel(seconds=59, speech_seconds=40)]
    assert (merged(both).speech_seconds, merged(both).duration_seconds) == (60, 60)
    assert merged([channel(), channel()]).speech_seconds == 10


def test_loudness_is_that_of_the_mean_energy() -> None:
    assert merged([channel(loudness_db=-20), channel(loudness_db=-math.inf)]).loudness_db == pytest.approx(
        -23, abs=0.1
    )
    assert merged([channel(loudness_db=-math.inf)] * 2).loudness_db == -math.inf


def test_a_tag_has_its_highest_score_and_there_are_no_more_than_of_one_channel() -> None:
    one = [Label("audio_tags", "Speech", 0.9), Label("audio_tags", "Music", 0.2)]
    other = [Label("audio_tags", "Music", 0.8), Label("audio_tags", "Dog", 0.5)]
    assert merged([channel(tags=one), channel(tags=other)]).tags == [one[0], other[0]]
