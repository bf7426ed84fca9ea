"""pipeline/speech/segments.py: sentences in their stretches of speech, and what stands for speech without text."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.speech.segments import (
    MOST_CHARACTERS,
    MOST_SECONDS,
    PAUSE_SECONDS,
    Heard,
    left_out,
    segments,
    text_of,
)
from pipeline.speech.transcript import REPEATED, UNINTELLIGIBLE, Segment
from pipeline.speech.voice_gate import Span
from pipeline.speech.voice_windows import Window
from pipeline.speech.whisper import SpokenWord

PAD = 0.4


def window(*voices: tuple[float, float], overlap: float = 0.0) -> Window:
    """A window of these stretches of voice (seconds in the file), with what is kept around them."""
    spans = []
    for at, (first, last) in enumerate(voices):
        before = voices[at - 1][1] if at else -9e9
        after = voices[at + 1][0] if at + 1 < len(voices) else 9e9
        start, end = max(0, first - PAD, (before + first) / 2), min(last + PAD, (last + after) / 2)
        places = [round(second * SAMPLE_RATE) for second in (start, end, first, last)]
        spans.append(Span(places[0], places[1], places[2], places[3]))
    samples = np.zeros(sum(map(len, spans)), np.float32)
    return Window(spans, samples, int(overlap * SAMPLE_RATE))


def hear(where: Window, text: str, times: list[float], mark: str | None = None) -> Heard:
    """These words at these times in the window; each ends where the next one begins."""
    said = text.split()
    assert len(times) == len(said) + 1
    spoken = [
        SpokenWord(*pair, f" {word}", 0.9) for word, pair in zip(said, itertools.pairwise(times), strict=True)
    ]
    return Heard(where, spoken, "en", -0.2, 0.1, mark, "it says why" if mark else None)


def read(found: list[Segment]) -> list[tuple[float, float, str]]:
    return [(segment.start, segment.end, segment.text) for segment in found]


# --- times -------------------------------------------------------------------------------------------------


def test_an_end_a_hair_behind_its_stretch_stays_in_it() -> None:
    """The window goes on 130 s later in the file: the cue must not leap there."""
    where = window((45.3, 50.6), (176.0, 178.0))
    found = segments([hear(where, "This is the end. Hello.", [0.3, 1, 2, 3, 6.2, 8.3])])
    assert read(found) == [(45.18, 50.72, "This is the end."), (175.88, 178.12, "Hello.")]


def test_a_word_that_begins_in_the_pause_before_its_stretch_begins_with_it() -> None:
    where = window((10.0, 12.0), (72.0, 74.0))
    found = segments([hear(where, "One two. Six seven.", [0.4, 1.5, 2.5, 3.6, 5.0])])
    assert read(found) == [(9.88, 12.12, "One two."), (71.88, 74.12, "Six seven.")]


def test_words_have_the_times_of_the_file() -> None:
    where = window((10.0, 12.0), (72.0, 74.0))
    (first, second) = segments([hear(where, "One two. Six seven.", [0.4, 1.5, 2.5, 4, 5.0])])
    assert [(word.word, word.start, word.end) for word in first.words] == [
        ("One", 9.88, 11.1),
        ("two.", 11.1, 12.12),
    ]
    assert [(word.word, word.start, word.end) for word in second.words] == [
        ("Six", 71.88, 72.8), ("seven.", 72.8, 74.12),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pause", "text", "cut"),
    [
        (PAUSE_SECONDS, "one two three four", True),
        (0.45, "one two three four", False),
        (0.35, "one two, three four", True),
        (0.35, "one two Three four", True),
        (0.2, "one two, three four", False),
        (0.0, "one two. Three four", True),
        (0.0, "Ask Mr. Dashwood now", False),
        (0.0, "Ask J. Dashwood now", False),
    ],
)
def test_a_segment_ends_at_a_pause_or_with_a_sentence(pause: float, text: str, cut: bool) -> None:
    where = window((1, 2), (2 + pause, 3 + pause)) if pause else window((1, 3))
    found = segments([hear(where, text, [0.4, 0.9, 1.4 + pause / 2, 1.9 + pause, 2.4 + pause])])
    assert len(found) == 1 + cut
    assert " ".join(segment.text for segment in found) == text


def test_a_long_sentence_is_cut_where_it_can_be_read() -> None:
    text = (
        "and so my fellow citizens of the world ask not, what we can do for you but what we can do for the world"
    )
    count = len(text.split())
    found = segments([hear(window((0.4, 12.4)), text, [0.4 + 0.5 * at for at in range(count + 1)])])
    assert found[0].text.endswith("ask not,")
    assert all(len(segment.text) <= MOST_CHARACTERS for segment in found)
    assert all(segment.end - segment.start <= MOST_SECONDS + 0.3 for segment in found)
    assert " ".join(segment.text for segment in found) == text


def test_letters_of_chinese_take_the_room_of_two() -> None:
    where = window((0.4, 15.4))
    spoken = [SpokenWord(0.4 + 0.2 * at, 0.6 + 0.2 * at, "天", 0.9) for at in range(70)]
    found = segments([Heard(where, spoken, "zh", -0.1, 0.1)])
    assert all(2 * len(segment.text) <= MOST_CHARACTERS for segment in found)
    assert text_of(found) == "天" * 70


# --- what both windows heard -------------------------------------------------------------------------------


def test_what_both_windows_heard_at_a_cut_is_written_once() -> None:
    left = hear(window((0.0, 28.0)), "he was not an ill disposed", [24, 24.5, 25, 25.5, 26, 26.5, 27.9])
    right = hear(window((26.0, 40.0), overlap=2.0), "an ill disposed young man", [0.1, 0.4, 1.1, 2.0, 2.6, 3.2])
    (only,) = segments([left, right])
    assert only.text == "he was not an ill disposed young man"


def test_a_word_that_was_cut_is_taken_from_the_window_that_heard_it_whole() -> None:
    left = hear(window((0.0, 28.0)), "not an ill disp", [25, 25.5, 26, 27, 27.9])
    right = hear(window((26.0, 40.0), overlap=2.0), "an ill disposed young man", [0.1, 0.4, 1.1, 2.0, 2.6, 3.2])
    (only,) = segments([left, right])
    assert only.text == "not an ill disposed young man"


def test_windows_that_agree_on_no_word_are_joined_in_the_middle() -> None:
    left = hear(window((0.0, 28.0)), "aa bb cc dd", [25.5, 26.2, 26.6, 27.4, 27.9])
    right = hear(window((26.0, 40.0), overlap=2.0), "ee ff gg hh", [0.2, 0.6, 1.2, 1.9, 3.2])
    (only,) = segments([left, right])
    assert only.text == "aa bb gg hh"


def test_words_beside_a_window_without_text_are_kept() -> None:
    left = hear(window((0.0, 28.0)), "not an ill disposed", [25, 25.5, 26, 27, 27.9])
    nothing = hear(window((26.0, 54.0), overlap=2.0), "", [0.0], UNINTELLIGIBLE)
    right = hear(window((52.0, 70.0), overlap=2.0), "young man he was", [0.1, 0.6, 1.2, 1.9, 2.5])
    assert text_of(segments([left, nothing, right])) == "not an ill disposed young man he was"


def test_a_text_without_full_stops_is_cut_in_no_time() -> None:
    """An hour without a pause: the windows overlap, and nothing ends a sentence."""
    parts = []
    for number in range(130):
        first = 26.0 * number
        where = window((first, first + 28), overlap=2.0 if number else 0.0)
        said = " ".join(f"w{number + at // 56}x{at % 56 if at < 56 else at - 56}" for at in range(60))
        parts.append(hear(where, said, [28 * at / 60 for at in range(61)]))
    begun = time.process_time()
    found = segments(parts)
    assert time.process_time() - begun < 5  # it took minutes
    assert all(len(segment.text) <= MOST_CHARACTERS for segment in found)


# --- what stands for speech without text -------------------------------------------------------------------


def test_speech_without_text_is_noted_with_its_times_and_is_no_part_of_the_text() -> None:
    where = window((10, 12), (12.3, 14), (60, 61))
    found = segments([hear(where, "", [0.0], UNINTELLIGIBLE), hear(window((70, 71)), "Hello.", [0.4, 1.3])])
    assert read(found) == [
        (10, 14, "[unintelligible, 4 s]"), (60, 61, "[unintelligible, 1 s]"), (69.88, 71.12, "Hello."),
    ]  # fmt: skip
    assert {segment.mark for segment in found[:2]} == {UNINTELLIGIBLE}
    assert {segment.reason for segment in found[:2]} == {"it says why"}
    assert [segment.confidence for segment in found] == [None, None, 0.9]
    assert text_of(found) == "Hello."


def test_the_sound_of_a_window_need_not_be_kept() -> None:
    heard = hear(window((10, 12), (14, 16)), "One two. Six seven.", [0.4, 1.5, 2.5, 4, 5.0])
    assert len(heard.without_sound().window.samples) == 0
    assert segments([heard.without_sound()]) == segments([heard])


def test_a_loop_that_stands_once_has_its_mark() -> None:
    (found,) = segments([hear(window((1, 9)), "la la land", [0.4, 1, 2, 3], REPEATED)])
    assert (found.mark, found.reason, found.is_spoken) == (REPEATED, "it says why", True)


# --- stretches with hardly a word --------------------------------------------------------------------------


def test_stretches_of_speech_with_hardly_a_word_are_left_out() -> None:
    where = window((1, 3), (5, 8), (10, 10.5), (12, 15))
    heard = hear(where, "one two three", [0.4, 1, 1.6, 2.2])
    assert left_out(where, heard.words) == ([(1, 4)], False)
    thin = hear(
        where, "one two three I and so we go on and on", [0.4, 1, 1.6, 2.2, 3.9, 8.5, 8.8, 9, 9.2, 9.5, 9.8, 10]
    )
    assert left_out(where, thin.words) == ([(1, 3)], False)


def test_short_stretches_and_digits_are_not_left_out() -> None:
    where = window((1, 3), (5, 5.8), (7, 9))
    heard = hear(where, "one two three 123", [0.4, 1, 1.6, 3.2, 7])
    assert left_out(where, heard.words) == ([], False)


def test_words_that_the_aligner_put_into_the_stretch_beside_it_are_not_left_out() -> None:
    where = window((1, 2), (4, 6))
    heard = hear(where, "one two three four five six seven eight nine ten", [0.4 + at / 10 for at in range(11)])
    assert left_out(where, heard.words) == ([], True)


# --- whatever the decoder says -----------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.floats(0.05, 9), st.floats(0.05, 3)), min_size=1, max_size=6),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from([" a", " b.", ",", "天", " Mr.", " 12"])), max_size=40),
)
def test_segments_are_in_order_inside_their_speech_and_hold_every_word(
    voices: list[tuple[float, float]], said: list[tuple[float, str]]
) -> None:
    at, stretches = 0.0, []
    for pause, length in voices:
        stretches.append((at + pause, at + pause + length))
        at += pause + length
    times = [0.0, *itertools.accumulate(length for length, _ in said)]
    spoken = [SpokenWord(times[at], times[at + 1], text, 0.5) for at, (_, text) in enumerate(said)]
    found = segments([Heard(window(*stretches), spoken, "en", -0.2, 0.1)])
    written = "".join(word.word for segment in found for word in segment.words)
    assert written == "".join(text.strip() for _, text in said)
    for segment in found:
        assert segment.start < segment.end
        assert segment.text
        for second in (segment.start, segment.end):
            assert any(first - 0.13 <= second <= last + 0.13 for first, last in stretches)
    for before, after in itertools.pairwise(found):
        assert before.start <= after.start
        assert before.end <= after.start + 0.011
