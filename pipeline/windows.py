"""From an audio file to what Whisper listens to: decoding, the voice gate, windows cut at silence.

A file is read once, as a stream: a recording of many hours needs no more memory than one of some minutes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler
from av.error import FFmpegError, InvalidDataError
from faster_whisper.vad import VadOptions, get_speech_timestamps

from pipeline.audio import SAMPLE_RATE, UnreadableAudio, ends_whole

WINDOW_SECONDS = 30  # what Whisper's encoder takes at a time
_READ_FRAMES = 500_000  # at the file's own rate, resampled in one go: about 10 s
_GATE_SECONDS = 120  # judged by the voice gate in one go
_PAD_SECONDS = 0.4  # of sound kept around speech; pauses under twice that are kept whole
# Pauses from 0.16 s on are places to cut, as in faster-whisper's batched pipeline.
_GATE = VadOptions(
    max_speech_duration_s=WINDOW_SECONDS, min_silence_duration_ms=160, speech_pad_ms=int(_PAD_SECONDS * 1000)
)


@dataclass(frozen=True)
class Window:
    """Up to 30 s of speech: the sound of `spans` (first and last sample in the file), put together."""

    spans: list[tuple[int, int]]
    samples: np.ndarray

    @property
    def seconds(self) -> float:
        """How much speech it holds."""
        return len(self.samples) / SAMPLE_RATE

    def in_file(self, seconds: float, is_end: bool = False) -> float:
        """The time in the file of a time in the window; where two spans meet, an end belongs to the first."""
        left = min(seconds, self.seconds) * SAMPLE_RATE
        for start, end in self.spans:
            if left < end - start or (is_end and left == end - start):
                return (start + left) / SAMPLE_RATE
            left -= end - start
        return self.spans[-1][1] / SAMPLE_RATE


class Recording:
    """One audio file. Its measures are complete when `windows` has ended."""

    def __init__(self, path: Path, listen: Callable[[np.ndarray], object] = len) -> None:
        """`listen` is called with all of the sound, block by block (mono float32, 16 kHz)."""
        self._path, self._listen = path, listen
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
        spans: list[tuple[int, int]] = []
        pieces: list[np.ndarray] = []
        held = 0
        for start, piece in self._speech():
            if held + len(piece) > WINDOW_SECONDS * SAMPLE_RATE:
                yield Window(spans, np.concatenate(pieces))
                spans, pieces, held = [], [], 0
            spans.append((start, start + len(piece)))
            pieces.append(piece)
            held += len(piece)
        if pieces:
            yield Window(spans, np.concatenate(pieces))

    def _speech(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each stretch of speech, 30 s at most: its first sample in the file, its sound."""
        first, held, unjudged = 0, np.empty(0, np.float32), []  # `first`: where `held` begins in the file
        pad = int(_PAD_SECONDS * SAMPLE_RATE)
        for block in chain(self._sound(), [None]):
            if block is not None:
                unjudged.append(block)
                if sum(map(len, unjudged)) < _GATE_SECONDS * SAMPLE_RATE:
                    continue
            held, unjudged = np.concatenate([held, *unjudged]), []
            spans = get_speech_timestamps(held, _GATE) if len(held) else []
            judged = len(held)
            if block is not None:  # speech near the end may go on: the next round begins with it
                judged -= pad
                if spans and spans[-1]["end"] > len(held) - 2 * pad:
                    judged = spans.pop()["start"]
            for span in spans:
                self._spoken += span["end"] - span["start"]
                yield first + span["start"], held[span["start"] : span["end"]]
            first, held = first + judged, held[judged:].copy()

    def _sound(self) -> Iterator[np.ndarray]:
        """All of the sound in blocks of about 10 s, mono float32 between -1 and 1 at 16 kHz."""
        if self._path.suffix == ".opus" and not ends_whole(self._path):
            raise UnreadableAudio("the Opus is cut: its last page is missing")
        for block in _decode(self._path):
            self._samples += len(block)
            self._energy += float(np.square(block, dtype=np.float64).sum())
            self._listen(block)
            yield block
        if not self._samples:
            raise UnreadableAudio("the file holds no sound: 0 seconds")


def _decode(path: Path) -> Iterator[np.ndarray]:
    """What faster_whisper.decode_audio gives, in blocks, and without its full garbage collection per file."""
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise UnreadableAudio("the file has no audio stream")
            for frame in chain(_grouped(container.decode(audio=0)), [None]):  # None: what the resampler holds back
                for resampled in resampler.resample(frame):
                    yield resampled.to_ndarray()[0].astype(np.float32) / 32768
    except OSError:  # PyAV's FileNotFoundError and the like are both
        raise
    except FFmpegError as error:
        raise UnreadableAudio(f"the Opus cannot be decoded: {error}") from error


def _grouped(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """Longer frames: a call for each 20 ms would cost more than the decoding."""
    fifo = AudioFifo()
    for frame in _sound_frames(frames):
        frame.pts = None
        fifo.write(frame)
        if fifo.samples >= _READ_FRAMES:
            yield from filter(None, [fifo.read()])
    yield from filter(None, [fifo.read()])


def _sound_frames(frames: Iterator[av.AudioFrame]) -> Iterator[av.AudioFrame]:
    """The frames without damaged packets: the decoder goes on behind them."""
    while True:
        try:
            yield next(frames)
        except StopIteration:
            return
        except InvalidDataError:
            continue
