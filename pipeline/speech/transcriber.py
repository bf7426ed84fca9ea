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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np

from pipeline.audio.converter import Converter
from pipeline.foundation import device
from pipeline.foundation.errors import Stop, Stopping
from pipeline.foundation.worker_metrics import Metrics
from pipeline.speech import languages
from pipeline.speech.files_in_progress import Channel, File, Key, Row, Tagger, channels_of, transcript_of
from pipeline.speech.guarded_decoding import listen
from pipeline.speech.speakers import merged
from pipeline.speech.transcript import Transcript
from pipeline.speech.voice_windows import Recording
from pipeline.speech.whisper import Whisper
from pipeline.speech.window_scheduler import WindowScheduler

log = logging.getLogger(__name__)


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
        self._scheduler = WindowScheduler[Key](
            prepare_threads, whisper.batches_at_once, batch_size, batch_wait_seconds
        )
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
        file = File(key)
        file.channels = [self._channel(file, path, number) for number in range(channels_of(path))]
        self._scheduler.submit(file, stop)

    def _channel(self, file: File[Key], path: Path, number: int) -> Channel[Key]:
        sound = self._tagger.file() if self._tagger else None

        def listen(block: np.ndarray) -> None:
            # An hour of silence has no window at which it would be noticed.
            if self._scheduler.is_set() or file.over:
                raise Stopping
            if sound:
                sound.add(block)

        recording = Recording(path, listen, number, self._converter, self._scheduler)
        return Channel(file, number, recording, sound=sound)

    def check(self) -> None:
        """Raise what has ended the engine, where something has."""
        self._scheduler.check()

    def drain(self, stop: Stop | None = None) -> None:
        """Wait until every file that was submitted is delivered. `Stopping` where `stop` is set meanwhile."""
        self._scheduler.drain(stop)

    def close(self) -> None:
        """End the threads: what is on the device is finished, and files complete with it are delivered."""
        self._scheduler.end()
        for thread in self._threads:
            thread.join()

    def _run(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised by the next call from outside
            self._scheduler.fail(error)

    # --- preparation -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        while (channel := self._scheduler.next_channel()) is not None:
            try:
                windows = self._read(channel)
            except Stopping:
                pass  # as the rest of what is not on the device, it is not delivered
            except Exception as error:
                if device.is_broken(error):
                    raise
                self._end_channel(channel, error)
            else:
                with self._scheduler.changed:
                    channel.windows = windows
                self._settle_doubtful(channel)
                self._end_if_complete(channel)
            self._scheduler.prepared()

    def _read(self, channel: Channel[Key]) -> int | None:
        """Put the file's windows among those that are ready; gives how many there were, None where it is over."""
        number, began, waited = 0, time.monotonic(), 0.0
        for window in channel.recording.windows():
            row = Row(channel, number, window, self._whisper.features(window.samples), self._whisper.language)
            ready = time.monotonic()
            if not self._scheduler.add(row):
                return None
            waited += time.monotonic() - ready
            number += 1
        if channel.sound is not None:
            channel.tags = channel.sound.labels()
        self._metrics.took("prepare", time.monotonic() - began - waited)
        return number

    # --- computation -----------------------------------------------------------------------------------

    def _compute(self) -> None:
        while rows := self._scheduler.next_rows():
            with self._metrics.batch(len(rows), self._scheduler.batch_size):
                self._hear(rows)
            self._scheduler.computed()
            self._progress()
            for row in rows:
                self._end_if_complete(row.channel)

    def _hear(self, rows: list[Row[Key]]) -> None:
        """Compute a batch; where that fails, its halves, so that only the row that is the cause fails."""
        try:
            self._hear_at_once(rows)
            return
        except Exception as error:
            if device.is_broken(error) or (device.is_out_of_memory(error) and len(rows) == 1):
                raise
            if len(rows) == 1:
                self._end_channel(rows[0].channel, error)
                return
            middle = len(rows) // 2
            if device.is_out_of_memory(error):
                log.warning("%d windows do not fit on the GPU: going on with %d at a time", len(rows), middle)
                self._scheduler.batch_size = min(self._scheduler.batch_size, middle)
        self._hear(rows[:middle])
        self._hear(rows[middle:])

    def _hear_at_once(self, rows: list[Row[Key]]) -> None:
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
                row.channel.heard[row.index, row.part] = [one.without_sound() for one in found]

    def _guess_languages(self, rows: list[Row[Key]], encoded: Any) -> None:
        """Detect the languages of these windows: each has its language then, or has gone back among those that are
        ready, or waits."""
        pieces = [languages.pieces(row.window) for row in rows]
        odds = self._whisper.language_odds(encoded, [[piece.frames for piece in parts] for parts in pieces])
        with self._scheduler.changed:
            for row, parts, found in zip(rows, pieces, odds, strict=True):
                row.channel.guesses[row.index] = languages.guesses(parts, found)
        for row in rows:
            self._decide(row)
        for channel in {id(row.channel): row.channel for row in rows}.values():
            self._settle_doubtful(channel)

    def _settle_doubtful(self, channel: Channel[Key]) -> None:
        """Put those doubtful windows of the file among the ready ones whose neighbours have decided them."""
        with self._scheduler.changed:
            waiting, channel.doubtful = channel.doubtful, []
        for row in waiting:
            try:
                self._decide(row, is_in_batch=False)
            except Exception as error:
                if device.is_broken(error):
                    raise
                self._end_channel(channel, error)

    def _decide(self, row: Row[Key], is_in_batch: bool = True) -> None:
        """Give the window its language; `is_in_batch`: it is encoded already, and may be heard at once."""
        channel = row.channel
        with self._scheduler.changed:
            runs = languages.decide(channel.guesses, row.index, channel.windows)
            if runs is None:
                row.has_left = True
                channel.doubtful.append(row)
                return
            if len(runs) == 1 and is_in_batch:
                row.language = runs[0][2]
                return
        if len(runs) == 1:
            parts = [replace(row, language=runs[0][2], has_left=False)]
        else:
            parts = [self._part(row, number, *run) for number, run in enumerate(runs)]
        self._scheduler.replace(row, parts)

    def _part(self, row: Row[Key], number: int, begin: int, end: int, language: str) -> Row[Key]:
        window = row.window.part(begin, end)
        return Row(row.channel, row.index, window, self._whisper.features(window.samples), language, number)

    # --- delivery --------------------------------------------------------------------------------------

    def _end_if_complete(self, channel: Channel[Key]) -> None:
        with self._scheduler.changed:
            if channel.windows is None or len(channel.heard) < channel.windows + channel.more_parts:
                return
        try:
            result: Transcript | Exception = transcript_of(channel, self._whisper.name)
        except Exception as error:  # noqa: BLE001 - of this file's words; the others are not to blame
            result = error
        self._end_channel(channel, result)

    def _end_channel(self, channel: Channel[Key], result: Transcript | Exception) -> None:
        """A channel is done: after the last one of its file, or the first that failed, the file is delivered."""
        file = channel.file
        with self._scheduler.changed:
            if channel.over:
                return
            channel.over = True
            if isinstance(result, Transcript):
                file.heard[channel.number] = result
                if len(file.heard) < len(file.channels):
                    return
                result = merged([file.heard[number] for number in range(len(file.channels))])
            file.over = True
            for channel in file.channels:
                channel.over = True
            self._scheduler.drop(file)
        self._deliver(file.key, result)
        self._scheduler.delivered()
