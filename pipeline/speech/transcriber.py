"""Speech to text for many files at once: windows of several files share each of the model's batches.

    submit ─▶ preparers: decode, voice gate, features ─▶ windows ready ─▶ batches on the device ─▶ deliver

Every stage runs in threads of its own and holds little more than the next one needs: a file waits only until
a preparer is free, a preparer only while enough windows are ready. A file is delivered when its own last
window is heard, whatever else is in progress.

The language of a window is decided by the guesses for it and for the windows beside it in its file, once it is
encoded (`pipeline.speech.languages`). One that is doubtful waits for its neighbours, and one in which the language
changes is cut there: both go back among the windows that are ready, with their language.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np

from pipeline.audio.converter import Converter, opus_channels
from pipeline.foundation import device
from pipeline.foundation.errors import Stop, Stopping
from pipeline.foundation.metrics import Metrics
from pipeline.speech import languages
from pipeline.speech.guarded_decoding import listen
from pipeline.speech.languages import Guesses
from pipeline.speech.segments import Heard, segments, text_of
from pipeline.speech.speakers import languages_of, merged
from pipeline.speech.transcript import Label, Transcript
from pipeline.speech.voice_windows import Recording, Window
from pipeline.speech.whisper import Whisper

log = logging.getLogger(__name__)
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


READY_BATCHES = 3  # windows prepared ahead: enough to choose rows of similar length from


@dataclass(eq=False)
class _Whole(Generic[Key]):
    """A file with all of its channels, each of which is heard by itself."""

    key: Key
    channels: "list[_File[Key]]" = field(default_factory=list)
    heard: dict[int, Transcript] = field(default_factory=dict)  # by number of the channel
    over: bool = False  # delivered, or failed


@dataclass(eq=False)
class _File(Generic[Key]):
    """A channel of a file in progress: what is heard so far, by window."""

    whole: _Whole[Key]
    channel: int
    recording: Recording
    tags: list[Label] = field(default_factory=list)
    heard: dict[tuple[int, int], list[Heard]] = field(default_factory=dict)  # by window and part of it
    windows: int | None = None  # how many there are; None while it is read
    more_parts: int = 0  # than windows: some were cut where the language changes
    guesses: dict[int, Guesses] = field(default_factory=dict)  # of languages, by window
    doubtful: "list[_Row[Key]]" = field(default_factory=list)  # windows that wait for the guesses of others
    sound: "SoundTags | None" = None
    over: bool = False  # delivered, or failed; so are the other channels where it has failed


@dataclass(eq=False)
class _Row(Generic[Key]):
    """A window that waits for the device."""

    file: _File[Key]
    index: int
    window: Window
    features: np.ndarray
    language: str | None  # None: to be detected
    part: int = 0
    has_left: bool = False  # its batch: it waits for its neighbours, or its parts took its place


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
        tagger: Tagger | None = None,
        progress: Callable[[], object] = bool,
        metrics: Metrics | None = None,
        converter: Converter | None = None,
    ) -> None:
        """`batch_wait_seconds`: how long a batch that is not full waits while more files are being prepared;
        `progress` is called after every batch; `metrics` counts them, where it is given; `converter` decodes."""
        self._converter = converter or Converter()
        self._metrics = metrics or Metrics()
        self._whisper, self._deliver, self._tagger, self._progress = whisper, deliver, tagger, progress
        self.batch_size, self._wait = batch_size, batch_wait_seconds
        self._most_ready = READY_BATCHES * batch_size
        self._changed = threading.Condition()
        self._submitted: deque[_File[Key]] = deque()
        self._ready: list[_Row[Key]] = []
        self._preparing = self._computing = self._undelivered = 0
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
            whole = _Whole(key)
            whole.channels = [self._channel(whole, path, number) for number in range(_channels(path))]
            self._submitted += whole.channels
            self._undelivered += 1
            self._changed.notify_all()

    def is_set(self) -> bool:
        """Whether the engine ends: what a decoder asks."""
        return self._ending

    def _channel(self, whole: _Whole[Key], path: Path, number: int) -> _File[Key]:
        sound = self._tagger.file() if self._tagger else None

        def listen(block: np.ndarray) -> None:
            if self._ending or whole.over:  # an hour of silence has no window at which it would be noticed
                raise Stopping
            if sound:
                sound.add(block)

        return _File(whole, number, Recording(path, listen, number, self._converter, self), sound=sound)

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
                self._settle_doubtful(file)
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
            row = _Row(file, number, window, self._whisper.features(window.samples), self._whisper.language)
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
            with self._changed:
                self._computing -= 1
            self._progress()
            for row in rows:
                self._end_if_complete(row.file)

    def _next_rows(self) -> list[_Row[Key]]:
        """The next batch: the row that waits longest, and those whose length is nearest to its own, because a
        batch is decoded for as long as its longest text. None when the engine ends."""
        deadline: float | None = None
        with self._changed:
            while not self._ending:
                if rows := self._ready:
                    now = time.monotonic()
                    deadline = deadline or now + self._wait
                    if len(rows) >= self.batch_size or now >= deadline or not self._more_is_coming():
                        break
                self._changed.wait(deadline and deadline - now)
            else:
                return []
            length = rows[0].window.seconds
            nearest = sorted(rows, key=lambda row: abs(row.window.seconds - length))
            rows = nearest[: self._share(len(rows))]
            self._ready = [row for row in self._ready if row not in rows]
            self._computing += 1
            self._changed.notify_all()
            return rows

    def _share(self, ready: int) -> int:
        """How many of the rows that are ready to take: the last ones are shared with idle threads."""
        if self._more_is_coming():
            return self.batch_size
        idle = self._whisper.batches_at_once - self._computing
        return min(self.batch_size, -(-ready // max(1, idle)))

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
        rows = [row for row in rows if not row.has_left]  # in a try before, which failed after that
        if not rows:
            return
        encoded = self._whisper.encode([row.features for row in rows])
        unknown = [number for number, row in enumerate(rows) if row.language is None]
        if unknown:
            self._guess_languages([rows[number] for number in unknown], self._whisper.select(encoded, unknown))
            known = [number for number, row in enumerate(rows) if row.language is not None]
            rows, encoded = [rows[number] for number in known], self._whisper.select(encoded, known)
        if rows:
            spoken = [row.language or "" for row in rows]
            heard = listen(self._whisper, [row.window for row in rows], spoken, encoded)
            for row, found in zip(rows, heard, strict=True):
                row.file.heard[row.index, row.part] = [one.without_sound() for one in found]

    def _guess_languages(self, rows: list[_Row[Key]], encoded: Any) -> None:
        """Detect the languages of these windows: each has its language then, or has gone back among those that are
        ready, or waits."""
        pieces = [languages.pieces(row.window) for row in rows]
        odds = self._whisper.language_odds(encoded, [[piece.frames for piece in parts] for parts in pieces])
        with self._changed:
            for row, parts, found in zip(rows, pieces, odds, strict=True):
                row.file.guesses[row.index] = languages.guesses(parts, found)
        for row in rows:
            self._decide(row)
        for file in {id(row.file): row.file for row in rows}.values():
            self._settle_doubtful(file)

    def _settle_doubtful(self, file: _File[Key]) -> None:
        """Put those doubtful windows of the file among the ready ones whose neighbours have decided them."""
        with self._changed:
            waiting, file.doubtful = file.doubtful, []
        for row in waiting:
            try:
                self._decide(row, is_in_batch=False)
            except Exception as error:
                if device.is_broken(error):
                    raise
                self._end_file(file, error)

    def _decide(self, row: _Row[Key], is_in_batch: bool = True) -> None:
        """Give the window its language; `is_in_batch`: it is encoded already, and may be heard at once."""
        file = row.file
        with self._changed:
            runs = languages.decide(file.guesses, row.index, file.windows)
            if runs is None:
                row.has_left = True
                file.doubtful.append(row)
                return
            if len(runs) == 1 and is_in_batch:
                row.language = runs[0][2]
                return
        if len(runs) == 1:
            parts = [replace(row, language=runs[0][2], has_left=False)]
        else:
            parts = [self._part(row, number, *run) for number, run in enumerate(runs)]
        with self._changed:
            row.has_left = True
            if not file.over:
                file.more_parts += len(parts) - 1
                self._ready += parts
            self._changed.notify_all()

    def _part(self, row: _Row[Key], number: int, begin: int, end: int, language: str) -> _Row[Key]:
        window = row.window.part(begin, end)
        return _Row(row.file, row.index, window, self._whisper.features(window.samples), language, number)

    # --- delivery --------------------------------------------------------------------------------------

    def _end_if_complete(self, file: _File[Key]) -> None:
        with self._changed:
            if file.windows is None or len(file.heard) < file.windows + file.more_parts:
                return
        try:
            result: Transcript | Exception = self._transcript(file)
        except Exception as error:  # noqa: BLE001 - of this file's words; the others are not to blame
            result = error
        self._end_file(file, result)

    def _end_file(self, file: _File[Key], result: Transcript | Exception) -> None:
        """A channel is done: after the last one of its file, or the first that failed, the file is delivered."""
        whole = file.whole
        with self._changed:
            if file.over:
                return
            file.over = True
            if isinstance(result, Transcript):
                whole.heard[file.channel] = result
                if len(whole.heard) < len(whole.channels):
                    return
                result = merged([whole.heard[number] for number in range(len(whole.channels))])
            whole.over = True
            for channel in whole.channels:
                channel.over = True
            self._ready = [row for row in self._ready if row.file.whole is not whole]
        self._deliver(whole.key, result)
        with self._changed:
            self._undelivered -= 1
            self._changed.notify_all()

    def _transcript(self, file: _File[Key]) -> Transcript:
        found = segments([one for place in sorted(file.heard) for one in file.heard[place]])
        sound, spoken = file.recording, languages_of(found)
        return Transcript(
            text=text_of(found),
            segments=found,
            language=spoken[0] if spoken else None,
            duration_seconds=sound.duration_seconds,
            speech_seconds=sound.speech_seconds,
            loudness_db=sound.loudness_db,
            model=self._whisper.name,
            tags=file.tags,
            languages=spoken,
        )


def _channels(path: Path) -> int:
    """How many channels a file has; 1 where it cannot be read, which is noticed when it is."""
    try:
        return opus_channels(path)
    except OSError:
        return 1
