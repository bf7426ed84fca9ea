"""From an audio file to what Whisper listens to: its speech, in windows that are cut at silence.

A file is read once, as a stream: a recording of many hours needs no more memory than one of some minutes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from threading import Event

import numpy as np

from pipeline.audio.converter import Converter, UnreadableAudio
from pipeline.audio.ogg_opus import ends_whole
from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.foundation.errors import Stop
from pipeline.speech.voice_gate import Span, speech

WINDOW_SECONDS = 30  # what Whisper's encoder takes at a time
OVERLAP_SECONDS = 2.0  # heard by both windows, where speech without a pause has to be cut
_REACH_SECONDS = 5.0  # a window may end so much earlier than it has to, where a longer pause is
_OVERLAP = int(OVERLAP_SECONDS * SAMPLE_RATE)
_MOST_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE


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
        for span, sound in speech(self._sound()):
            self._spoken += len(span)
            while held and _samples(held, overlap) + len(sound) > _MOST_SAMPLES:
                count = _longest_pause([span for span, _ in held], span)
                yield _window(held[:count], overlap)
                follower = held[count][0] if count < len(held) else span
                overlap = held[count - 1][1][-_OVERLAP:] if follower.continues else None
                held = held[count:]
            held.append((span, sound))
        if held:
            yield _window(held, overlap)

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
