"""From an audio file to what Whisper listens to: decoding, the voice gate, windows cut at silence.

A file is read once, as a stream: a recording of many hours needs no more memory than one of some minutes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from pathlib import Path
from threading import Event

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

from pipeline.audio.converter import SAMPLE_RATE, Converter, UnreadableAudio, ends_whole
from pipeline.foundation.errors import Stop

WINDOW_SECONDS = 30  # what Whisper's encoder takes at a time
OVERLAP_SECONDS = 2.0  # heard by both windows, where speech without a pause has to be cut
_GATE_SECONDS = 120  # judged by the voice gate in one go
_PAD_SECONDS = 0.4  # of sound kept around speech; pauses under twice that are kept whole
_REACH_SECONDS = 5.0  # a window may end so much earlier than it has to, where a longer pause is
_LEAST_PAUSE_SECONDS = 0.098  # a shorter gap between two stretches is a cut that the gate made in speech
# Pauses from 0.16 s on are places to cut, as in faster-whisper's batched pipeline. The gate pads nothing itself:
# where the voice begins and ends, a segment may begin and end.
_GATE = VadOptions(
    max_speech_duration_s=WINDOW_SECONDS - OVERLAP_SECONDS - 2 * _PAD_SECONDS,
    min_silence_duration_ms=160,
    speech_pad_ms=0,
)
_OVERLAP = int(OVERLAP_SECONDS * SAMPLE_RATE)
_MOST_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE


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


@dataclass(frozen=True)
class Window:
    """Up to 30 s of speech: the sound of `spans`, put together.

    The first `overlap` samples are the last ones of the window before: there was no pause to cut at.
    """

    spans: list[Span]
    samples: np.ndarray
    overlap: int = 0

    @property
    def seconds(self) -> float:
        """How much speech it holds."""
        return len(self.samples) / SAMPLE_RATE

    def offsets(self) -> list[int]:
        """Where each span begins in `samples`, and where the last one ends."""
        return [0, *accumulate(map(len, self.spans))]

    def part(self, begin: int, end: int) -> "Window":
        """The window of the spans from number `begin` to before number `end`."""
        offsets = self.offsets()
        samples = self.samples[offsets[begin] : offsets[end]]
        return Window(self.spans[begin:end], samples, self.overlap if begin == 0 else 0)


class Recording:
    """One channel of an audio file. Its measures are complete when `windows` has ended."""

    def __init__(
        self,
        path: Path,
        listen: Callable[[np.ndarray], object] = len,
        channel: int = 0,
        converter: Converter | None = None,
        stop: Stop | None = None,
    ) -> None:
        """`listen` is called with all of the sound, block by block (mono float32, 16 kHz); `converter` decodes it,
        in a process of its own, until `stop` is set."""
        self._path, self._listen, self._channel = path, listen, channel
        self._converter, self._stop = converter or Converter(), stop or Event()
        self._samples, self._spoken, self._energy = 0, 0, 0.0

    @property
    def duration_seconds(self) -> float:
        """The length of the file."""
        return self._samples / SAMPLE_RATE

    @property
    def speech_seconds(self) -> float:
        """How much of it the voice gate lets through."""
        return self._spoken / SAMPLE_RATE

    @property
    def loudness_db(self) -> float:
        """The level of the whole file in dB below full scale; -inf for digital silence."""
        return 10 * np.log10(self._energy / self._samples) if self._energy else float("-inf")

    def windows(self) -> Iterator[Window]:
        """The speech in windows, in order; `UnreadableAudio` where there is no sound, or not all of it."""
        held: list[tuple[Span, np.ndarray]] = []
        overlap: np.ndarray | None = None
        for span, sound in self._speech():
            while held and _samples(held, overlap) + len(sound) > _MOST_SAMPLES:
                count = _longest_pause([span for span, _ in held], span)
                yield _window(held[:count], overlap)
                follower = held[count][0] if count < len(held) else span
                overlap = held[count - 1][1][-_OVERLAP:] if follower.continues else None
                held = held[count:]
            held.append((span, sound))
        if held:
            yield _window(held, overlap)

    def _speech(self) -> Iterator[tuple[Span, np.ndarray]]:
        """Each stretch of speech, 28 s at most, with its sound."""
        first, held, unjudged = 0, np.empty(0, np.float32), []  # `first`: where `held` begins in the file
        pad = int(_PAD_SECONDS * SAMPLE_RATE)
        goes_on = False  # the first stretch of the next round goes on where the last one of this was cut
        for block in chain(self._sound(), [None]):
            if block is not None:
                unjudged.append(block)
                if sum(map(len, unjudged)) < _GATE_SECONDS * SAMPLE_RATE:
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
                self._spoken += len(span)
                yield span.moved(first), held[span.start : span.end]
            first, held = first + judged, held[judged:].copy()

    def _sound(self) -> Iterator[np.ndarray]:
        """All of the sound in blocks of about 10 s, mono float32 between -1 and 1 at 16 kHz."""
        if self._path.suffix == ".opus" and not ends_whole(self._path):
            raise UnreadableAudio("the Opus is cut: its last page is missing")
        for frames in self._converter.sound(self._path, self._stop):
            block = frames[:, min(self._channel, frames.shape[1] - 1)].astype(np.float32) / 32768
            self._samples += len(block)
            self._energy += float(np.square(block, dtype=np.float64).sum())
            self._listen(block)
            yield block
        if not self._samples:
            raise UnreadableAudio("the file holds no sound: 0 seconds")


def _padded(sound: np.ndarray, goes_on: bool) -> list[Span]:
    """The stretches of speech in the sound, with up to 0.4 s around each, at most half of the pause.

    `goes_on`: the first one follows without a pause on what came before this sound.
    """
    voiced = get_speech_timestamps(sound, _GATE) if len(sound) else []
    pad, spans = int(_PAD_SECONDS * SAMPLE_RATE), []
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


def _longest_pause(spans: list[Span], following: Span) -> int:
    """How many of the spans to put into a window: it ends at the longest pause within reach of its full length."""
    length, best, longest = sum(map(len, spans)), len(spans), -1
    for count in range(len(spans), 0, -1):
        follower = spans[count] if count < len(spans) else following
        pause = 0 if follower.continues else follower.first - spans[count - 1].last
        if pause > longest:
            best, longest = count, pause
        length -= len(spans[count - 1])
        if length < _MOST_SAMPLES - _REACH_SECONDS * SAMPLE_RATE:
            break
    return best


def _samples(held: list[tuple[Span, np.ndarray]], overlap: np.ndarray | None) -> int:
    """How much sound a window of these holds."""
    return sum(len(sound) for _, sound in held) + (0 if overlap is None else len(overlap))


def _window(held: list[tuple[Span, np.ndarray]], overlap: np.ndarray | None) -> Window:
    """The spans with their sound as a window that begins with the end of the one before it, where there is any."""
    spans, sounds = [span for span, _ in held], [sound for _, sound in held]
    if overlap is None:
        return Window(spans, np.concatenate(sounds))
    start = spans[0].start - len(overlap)
    spans[0] = replace(spans[0], start=start, first=start)
    return Window(spans, np.concatenate([overlap, *sounds]), len(overlap))
