"""pipeline/labels/audio_tags.py: tiny models with the real inputs hear sound whose scores are known beforehand."""

import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from pipeline.audio.converter import Converter
from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.foundation.device import BadModel
from pipeline.foundation.errors import Broken, Outage
from pipeline.labels.audio_tags import AudioTags, Ced, Yamnet
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.transcript import Label, Transcript
from pipeline.speech.whisper import Options, Whisper
from tests.support import tiny_onnx
from tests.support.fleet import MODELS, PROJECT, ffmpeg_program
from tests.support.tiny_onnx import sigmoid

NATIVE = onnxruntime.capi.onnxruntime_pybind11_state
SAMPLES = PROJECT / "tests" / "samples" / "monday"
# The mel spectrogram of `reference_sound` by librosa 0.11, which computes as CED's own code does:
#   mels = librosa.feature.melspectrogram(y=reference_sound(), sr=16000, n_fft=512, win_length=512, hop_length=160,
#       center=True, pad_mode="reflect", power=2.0, n_mels=64, fmin=0, fmax=8000, htk=True, norm=None)
#   np.save("ced_mel.npy", librosa.power_to_db(mels, ref=1.0, amin=1e-10, top_db=120).astype(np.float32))
REFERENCE = PROJECT / "tests" / "data" / "ced_mel.npy"
EVERY = 1000  # labels: more than there are classes
LEVEL = 1e-3  # onnxruntime adds 15,600 numbers in float32, one after another


@pytest.fixture(scope="module")
def yamnet(tmp_path_factory: pytest.TempPathFactory) -> AudioTags:
    return AudioTags(tiny_onnx.yamnet(tmp_path_factory.mktemp("yamnet")), None, EVERY)


@pytest.fixture(scope="module")
def ced(tmp_path_factory: pytest.TempPathFactory) -> AudioTags:
    return AudioTags(tiny_onnx.ced(tmp_path_factory.mktemp("ced")), None, EVERY)


@pytest.fixture(params=["yamnet", "ced"])
def tags(request: pytest.FixtureRequest) -> AudioTags:
    """Either model."""
    value: AudioTags = request.getfixturevalue(request.param)
    return value


def level(value: float, seconds: float) -> np.ndarray:
    """Sound with that mean of |x|: the scores of the tiny YAMNet depend on nothing else."""
    sound = np.full(round(seconds * SAMPLE_RATE), value, np.float32)
    sound[::2] *= -1
    return sound


def sine(hertz: float, seconds: float, amplitude: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose level changes all the time."""
    count = round(seconds * SAMPLE_RATE)
    swell = 0.3 + 0.3 * np.sin(np.arange(count) / 31_000)
    return (swell * np.random.default_rng(seed).uniform(-1, 1, count)).astype(np.float32)


def band_hertz(band: int) -> float:
    """The middle of one of CED's 64 mel bands from 0 to 8 kHz, on HTK's scale."""
    top = 2595 * np.log10(1 + 8000 / 700)
    return float(700 * (10 ** (top * (band + 1) / 65 / 2595) - 1))


def hear(tags: AudioTags, *blocks: np.ndarray) -> list[Label]:
    """What the file with these blocks is labelled with."""
    sound = tags.file()
    for block in blocks:
        sound.add(block)
    return sound.labels()


def scores(tags: AudioTags, *blocks: np.ndarray) -> np.ndarray:
    """The scores of all classes, by index."""
    found = {label.name: label.score for label in hear(tags, *blocks)}
    return np.array([found[name] for name in tags.classes])


def yamnet_scores(value: float) -> np.ndarray:
    """What the tiny YAMNet gives for that level."""
    result: np.ndarray = sigmoid(tiny_onnx.YAMNET_BEND * (value - tiny_onnx.yamnet_levels()))
    return result


# --- the mean over a file's time ---------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [1, 9.5, 10, 10.5, 31, 119, 120, 121, 250])
def test_a_steady_sound_has_the_same_scores_at_any_length(yamnet: AudioTags, seconds: float) -> None:
    assert scores(yamnet, level(0.4, seconds)) == pytest.approx(yamnet_scores(0.4), abs=LEVEL)


@pytest.mark.parametrize(("loud", "quiet"), [(120, 10), (120, 60), (240, 1), (360, 25), (240, 120)])
def test_scores_are_the_mean_over_the_file_s_time(yamnet: AudioTags, loud: int, quiet: int) -> None:
    expected = (loud * yamnet_scores(0.8) + quiet * yamnet_scores(0.2)) / (loud + quiet)
    assert scores(yamnet, level(0.8, loud), level(0.2, quiet)) == pytest.approx(expected, abs=LEVEL)


def test_a_sound_in_the_middle_counts_for_its_time(yamnet: AudioTags) -> None:
    expected = (60 * yamnet_scores(0.2) + 30 * yamnet_scores(0.8)) / 90
    heard = scores(yamnet, level(0.2, 33), level(0.8, 30), level(0.2, 27))
    assert heard == pytest.approx(expected, abs=0.03)  # the frames at the changes hear both


def test_ced_s_scores_are_the_mean_over_the_file_s_time(ced: AudioTags) -> None:
    low, high = sine(band_hertz(20), 10), sine(band_hertz(50), 10)
    alone = scores(ced, low), scores(ced, high)
    expected = (20 * alone[0] + 15 * alone[1]) / 35
    assert alone[0][20] > alone[0][50] + 0.5
    assert scores(ced, low, high, low, high[: len(high) // 2]) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("seconds", [1, 10, 14, 27])
def test_ced_hears_a_steady_sound_alike_at_any_length(ced: AudioTags, seconds: int) -> None:
    assert scores(ced, sine(1000, seconds)) == pytest.approx(scores(ced, sine(1000, 20)), abs=0.02)


def test_every_piece_of_a_batch_counts(ced: AudioTags) -> None:
    pieces = [sine(band_hertz(20 + number), 10) for number in range(13)]
    expected = np.mean([scores(ced, piece) for piece in pieces], axis=0)
    assert scores(ced, *pieces) == pytest.approx(expected, abs=1e-5)


CUTS = st.lists(st.integers(0, 31 * SAMPLE_RATE), max_size=12)


@pytest.mark.parametrize("name", ["yamnet", "ced"])
def test_blocks_of_any_size_give_the_same_scores(name: str, request: pytest.FixtureRequest) -> None:
    tags = request.getfixturevalue(name)
    sound = noise(31)
    whole = scores(tags, sound)

    @settings(max_examples=12, deadline=None)
    @given(CUTS)
    def check(cuts: list[int]) -> None:
        edges = [0, *sorted(cuts), len(sound)]
        blocks = [sound[start:end] for start, end in pairwise(edges)]
        assert scores(tags, *blocks) == pytest.approx(whole, abs=1e-6)

    check()


@pytest.mark.parametrize("block", [999, 159_999, 160_000, 1_920_000, 1_920_001, 3_000_000])
def test_blocks_of_any_size_give_the_same_scores_for_a_long_file(yamnet: AudioTags, block: int) -> None:
    sound = noise(253)
    cut = [sound[start : start + block] for start in range(0, len(sound), block)]
    assert scores(yamnet, *cut) == pytest.approx(scores(yamnet, sound), abs=1e-6)


def test_two_minutes_of_sound_share_a_run_of_the_model(tags: AudioTags, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []
    original = tags.model.run

    def spy(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        heard.append(sum(value.size for value in inputs.values()))
        return original(inputs)

    monkeypatch.setattr(tags.model, "run", spy)
    hear(tags, *[level(0.5, 10)] * 24, level(0.5, 5))
    assert len(heard) == 3
    assert heard[0] == heard[1] > 10 * heard[2]


def test_files_at_the_same_time_do_not_mix(yamnet: AudioTags) -> None:
    loud, quiet = yamnet.file(), yamnet.file()
    for _ in range(13):
        loud.add(level(0.8, 10))
        quiet.add(level(0.2, 10))
    assert loud.labels()[0].score == pytest.approx(yamnet_scores(0.8)[0], abs=LEVEL)
    assert quiet.labels()[0].score == pytest.approx(yamnet_scores(0.2)[0], abs=LEVEL)


def test_threads_label_several_files_at_once(ced: AudioTags) -> None:
    sounds = [sine(band_hertz(20 + 10 * number), 12) for number in range(4)]
    expected = [scores(ced, sound) for sound in sounds]
    found: dict[int, np.ndarray] = {}

    def label(number: int) -> None:
        found[number] = scores(ced, sounds[number])

    threads = [threading.Thread(target=label, args=(number,)) for number in range(len(sounds))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, one in enumerate(expected):
        assert found[number] == pytest.approx(one, abs=1e-6)


# --- short, silent and long files --------------------------------------------------------------------------


def test_a_file_without_sound_has_no_labels(tags: AudioTags) -> None:
    assert hear(tags) == []
    assert hear(tags, np.empty(0, np.float32)) == []


@pytest.mark.parametrize("samples", [1, 100, 2559, 2560, 15_599, 15_600, 15_601])
def test_the_shortest_file_has_labels(tags: AudioTags, samples: int) -> None:
    found = hear(tags, level(0.5, 1)[:samples])
    assert len(found) == len(tags.classes)
    assert all(0 <= label.score <= 1 for label in found)


def test_a_short_file_is_padded_with_silence(yamnet: AudioTags) -> None:
    half = tiny_onnx.YAMNET_FRAME // 2
    assert scores(yamnet, level(0.8, 1)[:half]) == pytest.approx(yamnet_scores(0.4), abs=LEVEL)


def test_a_rest_that_the_model_can_hear_counts(yamnet: AudioTags) -> None:
    rest = tiny_onnx.YAMNET_FRAME
    expected = (10 * yamnet_scores(0.2) + rest / SAMPLE_RATE * yamnet_scores(0.8)) / (10 + rest / SAMPLE_RATE)
    found = scores(yamnet, level(0.2, 10), level(0.8, 1)[:rest])
    assert found == pytest.approx(expected, abs=LEVEL)


def test_a_rest_too_short_for_the_model_is_left_out(yamnet: AudioTags) -> None:
    found = scores(yamnet, level(0.2, 10), level(0.8, 1)[: tiny_onnx.YAMNET_FRAME - 1])
    assert found == pytest.approx(yamnet_scores(0.2), abs=LEVEL)


def test_a_silent_file_is_labelled_like_any_other(tags: AudioTags) -> None:
    silence = np.zeros(25 * SAMPLE_RATE, np.float32)
    found = scores(tags, silence)
    assert np.isfinite(found).all()
    if isinstance(tags.front_end, Yamnet):
        assert found == pytest.approx(yamnet_scores(0), abs=LEVEL)
    else:
        assert found[:64] == pytest.approx(np.full(64, sigmoid(-100 * tiny_onnx.CED_BEND)), abs=LEVEL)


HOUR = """
import resource, sys
from pathlib import Path
import numpy as np
from pipeline.labels.audio_tags import AudioTags

tags = AudioTags(Path(sys.argv[1]), None, 5)
sound = tags.file()
block = np.random.default_rng(0).uniform(-0.5, 0.5, 160_000).astype(np.float32)
peaks = []
for minutes in sys.argv[2:]:
    for _ in range(6 * int(minutes)):
        sound.add(block)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*peaks, len(sound.labels()))
"""


@pytest.mark.parametrize(("make", "minutes"), [(tiny_onnx.yamnet, 54), (tiny_onnx.ced, 14)])
def test_a_long_file_takes_no_more_memory_than_one_of_some_minutes(
    tmp_path: Path, make: Callable[[Path], Path], minutes: int
) -> None:
    command = [sys.executable, "-c", HOUR, str(make(tmp_path)), "6", str(minutes)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True)
    early, late, labels = map(int, done.stdout.split())
    whole = 4 * SAMPLE_RATE * 60 * minutes // 1024
    assert late - early < whole / 4
    assert labels == 5


# --- CED's mel spectrogram ---------------------------------------------------------------------------------


def reference_sound() -> np.ndarray:
    """Half a second: a rising tone and some noise, with digital silence in it."""
    time = np.arange(8000) / SAMPLE_RATE
    hiss = (np.arange(8000) * 7919 % 1009) / 1009 - 0.5
    sound = 0.4 * np.sin(2 * np.pi * (200 * time + 7000 * time**2)) + 0.02 * hiss
    sound[4000:6000] = 0
    return sound


def test_the_spectrogram_is_the_one_that_ced_was_trained_with() -> None:
    expected = np.load(REFERENCE)
    spectrogram = Ced().spectrogram(reference_sound().astype(np.float32))
    assert spectrogram.dtype == np.float32
    assert spectrogram.shape == expected.shape == (64, 51)
    assert (expected == expected.min()).mean() > 0.1  # the reference has the floor of 120 dB in it
    assert np.abs(spectrogram - expected).max() < 0.01


def test_silence_is_at_the_floor_of_the_spectrogram() -> None:
    silence = Ced().spectrogram(np.zeros(16_000, np.float32))
    assert silence == pytest.approx(np.full((64, 101), -100), abs=1e-3)


def test_ten_seconds_are_a_thousand_frames_and_one() -> None:
    assert Ced().spectrogram(np.zeros(160_000, np.float32)).shape == (64, 1001)


@pytest.mark.parametrize("band", [8, 15, 20, 32, 45, 60, 63])
def test_a_tone_lights_its_own_mel_band(ced: AudioTags, band: int) -> None:
    best, *others = hear(ced, sine(band_hertz(band), 3))
    assert best.name == ced.classes[band]
    assert best.score > others[0].score
    assert best.score > 0.7
    assert others[8].score < 0.5


# --- labels ------------------------------------------------------------------------------------------------


def test_each_model_is_known_by_its_input(yamnet: AudioTags, ced: AudioTags) -> None:
    assert isinstance(yamnet.front_end, Yamnet)
    assert isinstance(ced.front_end, Ced)


def test_a_mel_model_whose_bands_have_only_a_name_is_ced(tmp_path: Path) -> None:
    tags = AudioTags(tiny_onnx.ced(tmp_path, mels="feat_dim"), None, 1)
    assert isinstance(tags.front_end, Ced)
    assert hear(tags, sine(band_hertz(30), 1))[0].name == tags.classes[30]


@pytest.mark.parametrize("make", [tiny_onnx.yamnet, tiny_onnx.ced])
def test_the_names_of_files_do_not_matter(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    make(tmp_path)
    (model,), (names,) = tmp_path.glob("*.onnx"), tmp_path.glob("*.csv")
    (tmp_path / "onnx").mkdir()
    model.rename(tmp_path / "onnx" / "other.onnx")
    names.rename(tmp_path / "names.csv")
    kind = type(AudioTags(tmp_path, None, 1).front_end)
    assert kind is (Yamnet if make is tiny_onnx.yamnet else Ced)


def test_labels_are_the_csv_s_display_names_with_quotes_and_commas(yamnet: AudioTags) -> None:
    names = [label.name for label in hear(yamnet, level(0.3, 3))]
    expected = ["Speech", "Child speech, kid speaking", "Dental drill, dentist's drill", 'The "wow" effect']
    assert names[:4] == expected
    assert {label.classifier for label in hear(yamnet, level(0.3, 3))} == {"audio_tag"}


def test_classes_go_by_their_index_and_not_by_their_line(tmp_path: Path, yamnet: AudioTags) -> None:
    folder = tiny_onnx.yamnet(tmp_path)
    path = folder / "yamnet_class_map.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *reversed(lines)]) + "\n")
    assert AudioTags(folder, None, 5).classes == yamnet.classes


def test_a_csv_as_windows_programs_write_it_is_read(tmp_path: Path, yamnet: AudioTags) -> None:
    folder = tiny_onnx.yamnet(tmp_path)
    path = folder / "yamnet_class_map.csv"
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode("utf-8-sig"))
    assert AudioTags(folder, None, 5).classes == yamnet.classes


@pytest.mark.parametrize("top", [1, 3, 600])
def test_the_likeliest_labels_come_first_and_no_more_than_asked(tmp_path: Path, top: int) -> None:
    tags = AudioTags(tiny_onnx.yamnet(tmp_path), None, top)
    found = hear(tags, level(0.5, 3))
    assert [label.name for label in found] == tags.classes[:top]
    assert [label.score for label in found] == pytest.approx(yamnet_scores(0.5)[:top], abs=LEVEL)
    assert all(type(label.score) is float for label in found)


def test_the_likeliest_labels_come_first_wherever_their_index_is(ced: AudioTags) -> None:
    found = hear(ced, sine(band_hertz(50), 3) + sine(band_hertz(25), 3, 0.05))
    assert found[0].name == ced.classes[50]
    assert ced.classes[25] in [label.name for label in found[:6]]
    assert [label.score for label in found] == sorted((label.score for label in found), reverse=True)


def test_labels_of_equal_scores_keep_the_order_of_the_classes(tmp_path: Path) -> None:
    tiny_onnx.write_classes(tmp_path / "classes.csv", tiny_onnx.class_names(527))
    rounded = np.arange(527) % 3 / 4
    constant_scores(tmp_path / "model.onnx", {"feats": (FLOAT, ["N", 64, "T"])}, rounded[None])
    tags = AudioTags(tmp_path, None, EVERY)
    names = [tags.classes[number] for rest in (2, 1, 0) for number in range(rest, 527, 3)]
    assert [label.name for label in hear(tags, level(0.5, 1))] == names


# --- folders that cannot be used ---------------------------------------------------------------------------


def problem(folder: Path) -> str:
    """The one line that says why the folder cannot be used."""
    with pytest.raises(BadModel) as caught:
        AudioTags(folder, None, 5)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_a_folder_without_a_csv_is_named(tmp_path: Path) -> None:
    tiny_onnx.yamnet(tmp_path)
    (tmp_path / "yamnet_class_map.csv").unlink()
    assert problem(tmp_path).endswith("holds 0")


def test_a_folder_with_two_csvs_is_named(tmp_path: Path) -> None:
    tiny_onnx.yamnet(tmp_path)
    (tmp_path / "other.csv").touch()
    assert problem(tmp_path).endswith("holds 2")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    tiny_onnx.write_classes(tmp_path / "classes.csv", ["Speech"])
    assert problem(tmp_path).endswith("none")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "index,mid,display_name\n",
        "0,/m/09x0r,Speech\n1,/m/04rlf,Music\n",  # no header
        "index,mid\n0,/m/09x0r\n",
        "mid,display_name\n/m/09x0r,Speech\n",
        "index,mid,display_name\nfirst,/m/09x0r,Speech\n",
        "index,mid,display_name\n,/m/09x0r,Speech\n",
        "index,mid,display_name\n0\n",
        "index,mid,display_name\n0,/m/09x0r,\n",
        "index,mid,display_name\n1,/m/09x0r,Speech\n2,/m/04rlf,Music\n",  # numbered from 1
        "index,mid,display_name\n0,/m/09x0r,Speech\n0,/m/04rlf,Music\n",
        "index,mid,display_name\n0,/m/09x0r,Speech\n-1,/m/04rlf,Music\n",
        "index,mid,display_name\n0,/m/09x0r,Speech\n1,/m/04rlf,Speech\n",
        "index;mid;display_name\n0;/m/09x0r;Speech\n",
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        'index,mid,display_name\n0,/m/09x0r,"' + 140_000 * "x",  # longer than Python's csv takes a field
    ],
)
def test_a_csv_that_does_not_name_the_classes_is_named_itself(tmp_path: Path, content: str) -> None:
    tiny_onnx.yamnet(tmp_path)
    (tmp_path / "yamnet_class_map.csv").write_text(content)
    assert "yamnet_class_map.csv" in problem(tmp_path)


def test_a_csv_of_another_encoding_is_named(tmp_path: Path) -> None:
    tiny_onnx.yamnet(tmp_path)
    (tmp_path / "yamnet_class_map.csv").write_bytes(b"index,mid,display_name\n0,/m/1,caf\xe9\n")
    assert problem(tmp_path).endswith("it is not UTF-8")


@pytest.mark.parametrize("classes", [1, 520, 522, 527])
def test_a_csv_of_another_model_is_refused_with_both_numbers(tmp_path: Path, classes: int) -> None:
    tiny_onnx.yamnet(tmp_path)
    tiny_onnx.write_classes(tmp_path / "yamnet_class_map.csv", tiny_onnx.class_names(classes))
    message = problem(tmp_path)
    assert "521" in message
    assert str(classes) in message


@pytest.mark.parametrize("final", ["Identity", "Neg"])
def test_a_model_whose_outputs_are_not_scores_is_refused(tmp_path: Path, final: str) -> None:
    assert "between 0 and 1" in problem(tiny_onnx.yamnet(tmp_path, final=final))


def test_a_model_that_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    problem(tiny_onnx.yamnet(tmp_path, final="Log"))  # of negative numbers, too


Inputs = dict[str, tuple[int, list[Any]]]
FLOAT, INT16, INT64 = TensorProto.FLOAT, TensorProto.INT16, TensorProto.INT64


@pytest.mark.parametrize(
    "inputs",
    [
        {"waveform": (FLOAT, ["batch", "n"])},
        {"feats": (FLOAT, ["N", 80, "T"])},
        {"feats": (FLOAT, ["N", "T", 64])},
        {"features": (FLOAT, [1, 1, 96, 64])},
        {"level": (FLOAT, [])},
        {"waveform": (FLOAT, ["n"]), "sample_rate": (FLOAT, [1])},
        {"feats": (FLOAT, ["N", 64, "T"]), "lengths": (FLOAT, ["N"])},
    ],
)
def test_a_model_of_another_input_is_refused_with_what_it_takes(tmp_path: Path, inputs: Inputs) -> None:
    tiny_onnx.write_classes(tmp_path / "classes.csv", tiny_onnx.class_names(527))
    constant_scores(tmp_path / "model.onnx", inputs, np.full([1, 527], 0.5))
    message = problem(tmp_path)
    assert str(tmp_path / "model.onnx") in message
    assert all(name in message for name in inputs)


@pytest.mark.parametrize("element", [INT16, INT64])
@pytest.mark.parametrize(("name", "shape"), [("waveform", ["n"]), ("feats", ["N", 64, "T"])])
def test_a_model_of_whole_numbers_is_refused(tmp_path: Path, name: str, shape: list[Any], element: int) -> None:
    tiny_onnx.write_classes(tmp_path / "classes.csv", tiny_onnx.class_names(527))
    constant_scores(tmp_path / "model.onnx", {name: (element, shape)}, np.full([1, 527], 0.5))
    problem(tmp_path)


@pytest.mark.parametrize("shape", [[527], [1, 3, 527], [], [1, 0]])
@pytest.mark.parametrize(("name", "given"), [("waveform", ["n"]), ("feats", ["N", 64, "T"])])
def test_a_model_of_another_output_is_refused(
    tmp_path: Path, name: str, given: list[Any], shape: list[int]
) -> None:
    tiny_onnx.write_classes(tmp_path / "classes.csv", tiny_onnx.class_names(527))
    constant_scores(tmp_path / "model.onnx", {name: (FLOAT, given)}, np.full(shape, 0.5))
    problem(tmp_path)


def constant_scores(path: Path, inputs: Inputs, scores: np.ndarray) -> None:
    """A model that gives these scores for anything."""
    graph = tiny_onnx.Graph()
    graph.add("Identity", graph.constant(scores), output="scores")
    graph.save(path, inputs, "scores", list(scores.shape))


# --- the device --------------------------------------------------------------------------------------------


def break_session(tags: AudioTags, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have onnxruntime's session raise the error."""

    class Session:
        def run(self, *_: Any) -> Any:
            raise error

    monkeypatch.setattr(tags.model, "_session", Session())


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Failed to allocate memory for requested buffer of size 99", Outage),
        ("CUDA failure 700: an illegal memory access was encountered", Broken),
        ("something about this sound", NATIVE.Fail),
    ],
)
def test_a_failing_device_is_distinguished_from_a_file_s_own_error(
    tags: AudioTags, monkeypatch: pytest.MonkeyPatch, message: str, kind: type[Exception]
) -> None:
    break_session(tags, monkeypatch, NATIVE.Fail(message))
    with pytest.raises(kind, match=message):
        hear(tags, level(0.5, 3))
    with pytest.raises(kind, match=message):
        hear(tags, level(0.5, 125))


# --- in the engine -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whisper() -> Whisper:
    return Whisper(MODELS / "spoken-words", "cpu", 0, "float32", 1, Options(beam_size=1))


@pytest.fixture(scope="module")
def opus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two of the samples as the GPU host has them."""
    folder = tmp_path_factory.mktemp("opus")
    made = {name: folder / f"{name}.opus" for name in ("call001", "call002")}
    for name, path in made.items():
        Converter(ffmpeg_program()).to_opus(SAMPLES / f"{name}.mp3", path, threading.Event())
    return made


def engine(whisper: Whisper, results: dict[str, Any], tagger: AudioTags) -> Transcriber[str]:
    return Transcriber(whisper, results.__setitem__, prepare_threads=2, batch_size=4, tagger=tagger)


@pytest.mark.timeout(60)
def test_a_transcript_has_the_labels_of_its_file_s_sound(
    whisper: Whisper, opus: dict[str, Path], tags: AudioTags
) -> None:
    results: dict[str, Any] = {}
    with engine(whisper, results, tags) as running:
        for name, path in opus.items():
            running.submit(name, path)
        running.drain()
    assert results.keys() == opus.keys()
    for name, path in opus.items():
        sound = tags.file()
        sound.add(whole_file(path))
        assert isinstance(results[name], Transcript)
        assert {label.name for label in results[name].tags} == set(tags.classes)
        expected = {label.name: label.score for label in sound.labels()}
        found = {label.name: label.score for label in results[name].tags}
        assert found == pytest.approx(expected, abs=1e-5)


def whole_file(path: Path) -> np.ndarray:
    """All of a file's sound, as ffmpeg decodes it."""
    command = [
        ffmpeg_program(),
        "-loglevel",
        "error",
        "-i",
        str(path),
        "-ar",
        "16000",
        "-ac",
        "1",
        "-f",
        "s16le",
        "-",
    ]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.int16).astype(np.float32) / 32768


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (Broken("the GPU has failed"), True),
        (NATIVE.Fail("CUDA failure 700: an illegal memory access was encountered"), True),
        (ValueError("something about this file"), False),
        (NATIVE.Fail("Failed to allocate memory for requested buffer of size 99"), False),
    ],
)
def test_a_broken_device_ends_the_engine_and_anything_else_only_the_file(
    whisper: Whisper,
    opus: dict[str, Path],
    yamnet: AudioTags,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    ends: bool,
) -> None:
    break_session(yamnet, monkeypatch, error)
    results: dict[str, Any] = {}
    with engine(whisper, results, yamnet) as running:
        running.submit("call001", opus["call001"])
        if ends:
            with pytest.raises(Broken):
                running.drain()
        else:
            running.drain()
        monkeypatch.undo()
        if not ends:
            running.submit("call002", opus["call002"])
            running.drain()
    assert (results == {}) == ends
    if not ends:
        assert str(error) in str(results["call001"])
        assert isinstance(results["call001"], Outage if isinstance(error, NATIVE.Fail) else ValueError)
        assert results["call002"].tags[0].classifier == "audio_tag"
