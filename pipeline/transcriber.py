"""Speech to text for many files at once: windows of several files share each of the model's batches.

    submit ─▶ preparers: decode, voice gate, features ─▶ windows ready ─▶ batches on the device ─▶ deliver

Every stage runs in threads of its own and holds little more than the next one needs: a file waits only until
a preparer is free, a preparer only while enough windows are ready. A file is delivered when its own last
window is heard, whatever else is in work.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Self, TypeVar

import numpy as np

from pipeline import device
from pipeline.audio_tags import AudioTags, SoundOfFile
from pipeline.errors import Stop, Stopping
from pipeline.metrics import Metrics
from pipeline.transcript import Label, Segment, Transcript, Word
from pipeline.whisper import Passage, Whisper
from pipeline.windows import Recording, Window

log = logging.getLogger(__name__)
Key = TypeVar("Key")

READY_BATCHES = 3  # windows prepared ahead: enough to choose rows of similar length from


@dataclass(eq=False)
class _File(Generic[Key]):
    """A file in work: what is heard so far, by window."""

    key: Key
    path: Path
    recording: Recording
    language: str | None
    tags: list[Label] = field(default_factory=list)
    heard: dict[int, list[Segment]] = field(default_factory=dict)
    windows: int | None = None  # how many there are; None while it is read
    sound: SoundOfFile | None = None
    over: bool = False  # delivered, or failed


@dataclass(eq=False)
class _Row(Generic[Key]):
    """A window that waits for the device."""

    file: _File[Key]
    index: int
    window: Window
    features: np.ndarray


class Transcriber(Generic[Key]):
    """The engine around a `Whisper`: `with Transcriber(...) as engine: engine.submit(key, path)`.

    `deliver(key, result)` is called once for each file, in a thread of the engine, with its `Transcript` or the
    exception that says what is wrong with it. The engine waits for it to return; what it raises ends the
    engine, as a broken device does: the next `submit` or `drain` raises that.
    """

    def __init__(
        self,
        whisper: Whisper,
        deliver: Callable[[Key, Transcript | Exception], object],
        prepare_threads: int,
        batch_size: int,
        batch_wait_seconds: float = 0.1,
        tagger: AudioTags | None = None,
        progress: Callable[[], object] = bool,
        metrics: Metrics | None = None,
    ) -> None:
        """`batch_wait_seconds`: how long a batch that is not full waits while more files are being prepared;
        `progress` is called after every batch; `metrics` counts them, where it is given."""
        self._metrics = metrics or Metrics()
        self._whisper, self._deliver, self._tagger, self._progress = whisper, deliver, tagger, progress
        self.batch_size, self._wait = batch_size, batch_wait_seconds
        self._most_ready = READY_BATCHES * batch_size
        self._changed = threading.Condition()
        self._submitted: deque[_File[Key]] = deque()
        self._ready: list[_Row[Key]] = []
        self._preparing = self._undelivered = 0
        self._ending = False
        self._failure: BaseException | None = None
        self._preparers = prepare_threads
        jobs = [("prepare", self._prepare)] * prepare_threads + [
            ("compute", self._compute)
        ] * whisper.batches_at_once
        self._threads = [
            threading.Thread(target=self._run, args=(job,), name=f"{name}-{number}", daemon=True)
            for number, (name, job) in enumerate(jobs)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, key: Key, path: Path, stop: Stop | None = None) -> None:
        """Take a file in; waits while enough are ahead. `Stopping` where `stop` is set meanwhile."""
        with self._changed:
            self._await(lambda: len(self._submitted) < self._preparers, stop)
            sound = self._tagger.file() if self._tagger else None

            def listen(block: np.ndarray) -> None:
                if self._ending:  # an hour of silence has no window at which it would be noticed
                    raise Stopping
                if sound:
                    sound.add(block)

            recording = Recording(path, listen)
            self._submitted.append(_File(key, path, recording, self._whisper.language, sound=sound))
            self._undelivered += 1
            self._changed.notify_all()

    def check(self) -> None:
        """Raise what has ended the engine, where something has."""
        if self._failure is not None:
            raise self._failure

    def drain(self, stop: Stop | None = None) -> None:
        """Wait until every file that was submitted is delivered. `Stopping` where `stop` is set meanwhile."""
        with self._changed:
            self._await(lambda: not self._undelivered, stop)

    def close(self) -> None:
        """End the threads: what is on the device is finished, and files complete with it are delivered."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _await(self, condition: Callable[[], bool], stop: Stop | None) -> None:
        while not condition():
            if self._failure is None:
                self._changed.wait(0.2)
            self.check()
            if stop is not None and stop.is_set():
                raise Stopping
        self.check()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised by the next call from outside
            with self._changed:
                self._failure = self._failure or error
                self._ending = True
                self._changed.notify_all()

    # --- preparation -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        while (file := self._next_file()) is not None:
            try:
                windows = self._read(file)
            except Stopping:
                pass  # as the rest of what is not on the device, it is not delivered
            except Exception as error:
                if device.is_broken(error):
                    raise
                self._end_file(file, error)
            else:
                with self._changed:
                    file.windows = windows
                self._end_if_complete(file)
            with self._changed:
                self._preparing -= 1
                self._changed.notify_all()

    def _next_file(self) -> _File[Key] | None:
        with self._changed:
            while not self._submitted and not self._ending:
                self._changed.wait()
            if self._ending:
                return None
            self._preparing += 1
            self._changed.notify_all()
            return self._submitted.popleft()

    def _read(self, file: _File[Key]) -> int | None:
        """Put the file's windows among those that are ready; gives how many there were, None where it is over."""
        number, began, waited = 0, time.monotonic(), 0.0
        for window in file.recording.windows():
            row = _Row(file, number, window, self._whisper.features(window.samples))
            ready = time.monotonic()
            with self._changed:
                while len(self._ready) >= self._most_ready and not self._ending:
                    self._changed.wait()
                waited += time.monotonic() - ready
                if self._ending or file.over:
                    return None
                self._ready.append(row)
                self._changed.notify_all()
            number += 1
        if file.sound is not None:
            file.tags = file.sound.labels()
        self._metrics.took("prepare", time.monotonic() - began - waited)
        return number

    # --- computation -----------------------------------------------------------------------------------

    def _compute(self) -> None:
        while rows := self._next_rows():
            with self._metrics.batch(len(rows), self.batch_size):
                self._hear(rows)
            self._progress()
            for row in rows:
                self._end_if_complete(row.file)

    def _next_rows(self) -> list[_Row[Key]]:
        """The next batch: the row that waits longest, and those whose length is nearest to its own, because a
        batch is decoded for as long as its longest text. None when the engine ends."""
        deadline: float | None = None
        with self._changed:
            while not self._ending:
                rows = [row for row in self._ready if row.index == 0 or row.file.language is not None]
                if rows:
                    now = time.monotonic()
                    deadline = deadline or now + self._wait
                    if len(rows) >= self.batch_size or now >= deadline or not self._more_is_coming():
                        break
                self._changed.wait(deadline and deadline - now)
            else:
                return []
            length = rows[0].window.seconds
            rows = sorted(rows, key=lambda row: abs(row.window.seconds - length))[: self.batch_size]
            self._ready = [row for row in self._ready if row not in rows]
            self._changed.notify_all()
            return rows

    def _more_is_coming(self) -> bool:
        return bool(self._submitted or self._preparing)

    def _hear(self, rows: list[_Row[Key]]) -> None:
        """Compute a batch; where that fails, its halves, so that only the row that is the cause fails."""
        try:
            self._hear_at_once(rows)
            return
        except Exception as error:
            if device.is_broken(error) or (device.is_out_of_memory(error) and len(rows) == 1):
                raise
            if len(rows) == 1:
                self._end_file(rows[0].file, error)
                return
            middle = len(rows) // 2
            if device.is_out_of_memory(error):
                log.warning("%d windows do not fit on the GPU: going on with %d at a time", len(rows), middle)
                self.batch_size = min(self.batch_size, middle)
        self._hear(rows[:middle])
        self._hear(rows[middle:])

    def _hear_at_once(self, rows: list[_Row[Key]]) -> None:
        features = [row.features for row in rows]
        encoded = self._whisper.encode(features)
        if any(row.file.language is None for row in rows):
            for row, language in zip(rows, self._whisper.detect_languages(encoded), strict=True):
                if row.index == 0 and row.file.language is None:  # a file's first window decides for all of it
                    row.file.language = language
        heard = self._whisper.hear(features, [row.file.language or "en" for row in rows], encoded)
        for row, passages in zip(rows, heard, strict=True):
            row.file.heard[row.index] = [_segment(row.window, passage) for passage in passages]

    # --- delivery --------------------------------------------------------------------------------------

    def _end_if_complete(self, file: _File[Key]) -> None:
        if file.windows is not None and len(file.heard) == file.windows:
            self._end_file(file, self._transcript(file))

    def _end_file(self, file: _File[Key], result: Transcript | Exception) -> None:
        with self._changed:
            if file.over:
                return
            file.over = True
            self._ready = [row for row in self._ready if row.file is not file]
        self._deliver(file.key, result)
        with self._changed:
            self._undelivered -= 1
            self._changed.notify_all()

    def _transcript(self, file: _File[Key]) -> Transcript:
        segments = [segment for number in sorted(file.heard) for segment in file.heard[number]]
        sound = file.recording
        return Transcript(
            text=" ".join(segment.text for segment in segments),
            segments=segments,
            language=file.language if segments else None,
            duration_seconds=sound.duration_seconds,
            speech_seconds=sound.speech_seconds,
            loudness_db=sound.loudness_db,
            model=self._whisper.name,
            tags=file.tags,
        )


def _segment(window: Window, passage: Passage) -> Segment:
    """A passage of a window with the times of the file."""
    start, end = round(window.in_file(passage.start), 2), round(window.in_file(passage.end, is_end=True), 2)
    words = None if passage.words is None else [_in_file(window, word) for word in passage.words]
    logprob, no_speech = _finite(passage.avg_logprob), _finite(passage.no_speech_prob)
    return Segment(start, max(end, start + 0.01), passage.text, logprob, no_speech, words)


def _in_file(window: Window, word: Word) -> Word:
    """The word with the times of the file; start and end belong to the same stretch of speech."""
    middle = (word.start + word.end) / 2
    shift = window.in_file(middle) - middle
    return replace(word, start=round(word.start + shift, 2), end=round(word.end + shift, 2))


def _finite(number: float) -> float | None:
    return round(number, 4) if np.isfinite(number) else None
