"""pipeline/labels/classifiers.py: which classifiers a host has, and all the labels of a file."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audio.converter import Converter
from pipeline.foundation.device import BadModel
from pipeline.labels.classifiers import Classifiers
from pipeline.speech.transcriber import Transcriber
from pipeline.speech.transcript import Label, Transcript
from pipeline.speech.whisper import Options, Whisper
from tests.support import tiny_onnx
from tests.support.fleet import MODELS, PROJECT, ffmpeg_program

SAMPLE = PROJECT / "tests" / "samples" / "monday" / "call001.mp3"
TAGS = [Label("audio_tag", "Speech", 0.75), Label("audio_tag", "Child speech, kid speaking", 0.5)]


def tags_folder(root: Path) -> Path:
    return tiny_onnx.ced(root / "audio-tagging")


def topics_folder(root: Path, labels: str = "football\ncooking\nweather\nmusic\n") -> Path:
    return tiny_onnx.nli(root / "topics", labels)


def transcript(text: str, speech_seconds: float = 6.0, tags: list[Label] | None = None) -> Transcript:
    return Transcript(text, [], "en", 8.0, speech_seconds, -30.0, "spoken-words", tags or [])


def test_a_host_without_models_says_only_what_the_content_is(tmp_path: Path) -> None:
    found = Classifiers(tmp_path)
    assert found.tagger is None
    assert found.topics is None
    assert found.labels(transcript("football")) == [Label("content", "speech", 0.75)]
    assert str(found) == "content"


def test_a_models_root_that_is_not_there_is_one_without_models(tmp_path: Path) -> None:
    assert str(Classifiers(tmp_path / "none")) == "content"


def test_each_model_is_there_where_its_folder_is(tmp_path: Path) -> None:
    tags, topics = tags_folder(tmp_path / "tags"), topics_folder(tmp_path / "topics")
    both = tmp_path / "both"
    both.mkdir()
    (both / "audio-tagging").symlink_to(tags)
    shutil.copytree(topics, both / "topics")
    for root, has_tags, has_topics in (("tags", True, False), ("topics", False, True), ("both", True, True)):
        found = Classifiers(tmp_path / root)
        assert (found.tagger is not None, found.topics is not None) == (has_tags, has_topics)


def test_a_host_names_its_classifiers_and_where_they_run(tmp_path: Path) -> None:
    tags, topics = tags_folder(tmp_path), topics_folder(tmp_path)
    expected = f"content, {tags}/model.int8.onnx on the CPU, {topics}/model.onnx on the CPU"
    assert str(Classifiers(tmp_path)) == expected


def test_a_file_has_its_content_then_its_tags_then_its_topics(tmp_path: Path) -> None:
    tags_folder(tmp_path), topics_folder(tmp_path)
    found = Classifiers(tmp_path).labels(transcript("the weather", tags=TAGS))
    assert found[:3] == [Label("content", "speech", 0.75), *TAGS]
    assert [label.classifier for label in found[3:]] == ["topic"] * 3
    assert found[3].name == "weather"
    assert found[3].score > 0.99


def test_a_file_without_words_has_no_topics(tmp_path: Path) -> None:
    tags_folder(tmp_path), topics_folder(tmp_path)
    found = Classifiers(tmp_path).labels(transcript("", speech_seconds=0, tags=TAGS))
    assert found == [Label("content", "other", 1.0), *TAGS]


def test_tags_are_the_transcript_s_own_even_without_a_model(tmp_path: Path) -> None:
    assert Classifiers(tmp_path).labels(transcript("", tags=TAGS))[1:] == TAGS


@pytest.mark.parametrize(("tags", "topics"), [(1, 4), (4, 1)])
def test_as_many_labels_as_asked_for(tmp_path: Path, tags: int, topics: int) -> None:
    tags_folder(tmp_path), topics_folder(tmp_path)
    found = Classifiers(tmp_path, None, tags, topics)
    assert found.tagger is not None
    assert found.tagger.top == tags
    assert sum(label.classifier == "topic" for label in found.labels(transcript("music"))) == topics


@pytest.mark.parametrize("make", [tags_folder, topics_folder])
@pytest.mark.parametrize("harm", ["empty", "no model", "a file"])
def test_a_folder_that_cannot_be_used_is_refused_and_not_passed_over(
    tmp_path: Path, make: Callable[[Path], Path], harm: str
) -> None:
    folder = make(tmp_path)
    if harm == "no model":
        (model,) = folder.glob("*.onnx")
        model.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    else:
        shutil.rmtree(folder)
        folder.mkdir() if harm == "empty" else folder.touch()
    with pytest.raises(BadModel) as caught:
        Classifiers(tmp_path)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["audio-tagging", "topics"])
def test_a_link_that_leads_nowhere_is_refused_and_not_passed_over(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / "moved")
    with pytest.raises(BadModel, match=name):
        Classifiers(tmp_path)


@pytest.mark.timeout(60)
def test_a_file_is_heard_tagged_and_has_its_topics(tmp_path: Path) -> None:
    whisper = Whisper(MODELS / "spoken-words", "cpu", 0, "float32", 1, Options(beam_size=1))
    opus = tmp_path / "call001.opus"
    Converter(ffmpeg_program()).to_opus(SAMPLE, opus, threading.Event())
    tags_folder(tmp_path), topics_folder(tmp_path)
    classifiers = Classifiers(tmp_path, None, 4, 2)
    results: dict[str, Any] = {}
    with Transcriber(whisper, results.__setitem__, 1, 4, tagger=classifiers.tagger) as engine:
        engine.submit("call001", opus)
        engine.drain()
    heard = results["call001"]
    assert heard.text
    found = classifiers.labels(heard)
    assert [label.classifier for label in found] == ["content", *["audio_tag"] * 4, *["topic"] * 2]
    assert found[0].name == "speech"
    assert all(0 <= label.score <= 1 for label in found)
    assert found[1:5] == heard.tags
