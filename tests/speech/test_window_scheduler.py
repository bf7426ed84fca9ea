"""pipeline/speech/window_scheduler.py: which windows share a batch."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech.files_in_progress import Channel, File, Row
from pipeline.speech.voice_gate import Span
from pipeline.speech.voice_windows import Recording, Window
from pipeline.speech.window_scheduler import WindowScheduler


def test_rows_of_similar_length_share_a_batch() -> None:
    lengths = [3.0, 29.0, 2.0, 28.0, 4.0, 30.0]
    scheduler = WindowScheduler[int](2, batches_at_once=1, batch_size=3, batch_wait_seconds=0.1)
    for number, seconds in enumerate(lengths):
        file, samples = Channel(File(number), 0, Recording(Path("x"))), int(seconds * SAMPLE_RATE)
        window = Window([Span(0, samples, 0, samples)], np.zeros(samples, np.float32))
        scheduler.add(Row(file, 0, window, np.zeros((80, 1), np.float32), "en"))
    batches = [sorted(row.window.seconds for row in scheduler.next_rows()) for _ in range(2)]
    assert batches == [[2.0, 3.0, 4.0], [28.0, 29.0, 30.0]]


@pytest.mark.parametrize(
    ("threads", "computing", "taken"), [(1, 0, 6), (2, 0, 3), (2, 1, 6), (4, 2, 3), (8, 0, 1)]
)
def test_the_last_rows_are_shared_with_threads_that_have_none(threads: int, computing: int, taken: int) -> None:
    scheduler = WindowScheduler[int](2, batches_at_once=threads, batch_size=8, batch_wait_seconds=0.1)
    scheduler._computing = computing
    assert scheduler._share(6) == taken
    scheduler._preparing = 1  # more is coming: a full batch is better
    assert scheduler._share(6) == 8
