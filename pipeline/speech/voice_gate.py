"""The voice gate: where somebody speaks. Silero's model, as faster-whisper has it, judges sound as a stream."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

from pipeline.audio.pcm import SAMPLE_RATE

PAD_SECONDS = 0.4  # of sound kept around speech; pauses under twice that are kept whole
# Of a stretch of speech: with what is kept around it and 2 s of the stretch before, it fills Whisper's 30 s.
LONGEST_SECONDS = 28 - 2 * PAD_SECONDS
_JUDGED_SECONDS = 120  # in one go
_LEAST_PAUSE_SECONDS = 0.098  # a shorter gap between two stretches is a cut that the gate made in speech
# Pauses from 0.16 s on are places to cut, as in faster-whisper's batched pipeline. The gate pads nothing itself:
# where the voice begins and ends, a segment may begin and end.
_OPTIONS = VadOptions(max_speech_duration_s=LONGEST_SECONDS, min_silence_duration_ms=160, speech_pad_ms=0)


@dataclass(frozen=True)
class Span:
    """A stretch of speech: the samples of the file from `start` to `end` are kept; the voice is between `first`
    and `last`. `continues`: there is no pause before it, the gate had to cut."""

    start: int
    end: int
    first: int
    last: int
    continues: bool = False

    def __len__(self) -> int:
        return self.end - self.start

    def moved(self, by: int) -> "Span":
        """The span with so many samples before it."""
        return Span(self.start + by, self.end + by, self.first + by, self.last + by, self.continues)


def speech(sound: Iterable[np.ndarray]) -> Iterator[tuple[Span, np.ndarray]]:
    """Each stretch of speech in the sound (blocks of mono float32 at 16 kHz), 28 s at most, with its sound."""
    first, held, unjudged = 0, np.empty(0, np.float32), []  # `first`: where `held` begins in the file
    pad = int(PAD_SECONDS * SAMPLE_RATE)
    goes_on = False  # the first stretch of the next round goes on where the last one of this was cut
    for block in chain(sound, [None]):
        if block is not None:
            unjudged.append(block)
            if sum(map(len, unjudged)) < _JUDGED_SECONDS * SAMPLE_RATE:
                continue
        held, unjudged = np.concatenate([held, *unjudged]), []
        spans = _padded(held, goes_on)
        judged, goes_on = len(held), False
        if block is not None:  # speech near the end may go on: the next round begins with it
            judged -= pad
            if spans and spans[-1].end > len(held) - 2 * pad:
                last = spans.pop()
                judged, goes_on = last.start, last.continues
        for span in spans:
            yield span.moved(first), held[span.start : span.end]
        first, held = first + judged, held[judged:].copy()


def _padded(sound: np.ndarray, goes_on: bool) -> list[Span]:
    """The stretches of speech in the sound, with up to 0.4 s around each, at most half of the pause.

    `goes_on`: the first one follows without a pause on what came before this sound.
    """
    voiced = get_speech_timestamps(sound, _OPTIONS) if len(sound) else []
    pad, spans = int(PAD_SECONDS * SAMPLE_RATE), []
    for number, voice in enumerate(voiced):
        before = voiced[number - 1]["end"] if number else None
        after = voiced[number + 1]["start"] if number + 1 < len(voiced) else None
        start = max(0, voice["start"] - pad)
        end = min(len(sound), voice["end"] + pad)
        if before is not None:
            start = max(start, (before + voice["start"]) // 2)
        if after is not None:
            end = min(end, (voice["end"] + after) // 2)
        if before is None:
            continues = goes_on and start == 0
        else:
            continues = voice["start"] - before < _LEAST_PAUSE_SECONDS * SAMPLE_RATE
        spans.append(Span(start, end, voice["start"], voice["end"], continues))
    return spans
