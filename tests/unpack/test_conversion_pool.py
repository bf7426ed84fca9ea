"""pipeline/unpack/conversion_pool.py: an archive's files to Opus, small ones together, each given when it is
ready."""

import contextlib
import errno
import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.audio import conversion_report
from pipeline.audio.converter import Converter, Report, UnreadableAudio
from pipeline.foundation.errors import Stop, Stopping
from pipeline.unpack import archive, conversion_pool
from pipeline.unpack.archive import Member
from pipeline.unpack.conversion_pool import SMALL_BYTES, TOGETHER, Conversions
from tests.audio.test_converter import measured
from tests.support.fleet import ffmpeg_program
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, make_tar

REAL = Converter(ffmpeg_program())


class Recorder(Converter):
    """A converter that notes which files shared an ffmpeg."""

    runs: list[list[str]]

    def to_opus(self, source: Path, target: Path, stop: Stop) -> Report:
        self.runs.append([source.stem])
        return super().to_opus(source, target, stop)

    def together(self, files: list[tuple[Path, Path]], stop: Stop) -> list[Report] | None:
        self.runs.append([source.stem for source, _ in files])
        return super().together(files, stop)


@pytest.fixture
def recorder() -> Recorder:
    made = Recorder(ffmpeg_program())
    object.__setattr__(made, "runs", [])
    return made


def members_of(path: Path) -> list[Member]:
    return archive.index(path, 10_000, 2**30).members


def make(folder: Path, converter: Converter, jobs: int = 1, stop: threading.Event | None = None) -> Conversions:
    folder.mkdir(exist_ok=True)

    def until_available(step: Any, *args: Any) -> Any:
        return step(*args)

    return Conversions(folder, converter, jobs, until_available, stop or threading.Event())


def convert(path: Path, converted: Conversions) -> dict[str, UnreadableAudio | None]:
    return {member.original_filename: reason for member, reason in converted.of(path, members_of(path))}


def names(count: int) -> list[str]:
    return [f"call{number:02}.mp3" for number in range(count)]


def test_small_files_share_an_ffmpeg_and_the_first_ones_do_not(tmp_path: Path, recorder: Recorder) -> None:
    path = make_tar(tmp_path / "a.tar", dict.fromkeys(names(20), SILENCE))
    assert convert(path, make(tmp_path / "out", recorder)) == dict.fromkeys(names(20))
    assert [len(run) for run in recorder.runs] == [1, 1, 8, 8, 2]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"call{number:02}.{kind}" for number in range(20) for kind in ("opus", "report.json")
    ]


def test_files_that_share_an_ffmpeg_come_out_as_each_alone(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "a.tar", {"first.mp3": SPEECH, "second.mp3": SPEECH, "silence.mp3": SILENCE, "x.mp3": SPEECH}
    )
    convert(path, make(tmp_path / "together", REAL))
    alone = make(tmp_path / "alone", REAL)
    for member in members_of(path):
        list(alone.of(path, [member]))
    assert len(list((tmp_path / "alone").iterdir())) == 8
    for opus in (tmp_path / "alone").glob("*.opus"):
        twin = tmp_path / "together" / opus.name
        assert conversion_report.read(twin) == conversion_report.read(opus)
        assert measured(twin) == measured(opus)
        assert twin.stat().st_size == opus.stat().st_size


def test_one_damaged_file_fails_alone_and_with_its_own_reason(tmp_path: Path, recorder: Recorder) -> None:
    files = {**dict.fromkeys(names(2), SILENCE), **{f"x{number}.mp3": SPEECH for number in range(8)}}
    files["x3.mp3"] = DAMAGED
    reasons = convert(make_tar(tmp_path / "a.tar", files), make(tmp_path / "out", recorder))
    failed = {name: str(reason) for name, reason in reasons.items() if reason is not None}
    assert list(failed) == ["x3.mp3"]
    assert failed["x3.mp3"] == "it holds no sound in a format that is read here"
    assert [len(run) for run in recorder.runs] == [1, 1, 8, *[1] * 8]
    assert len(list((tmp_path / "out").glob("*.opus"))) == len(files) - 1
    assert len(list((tmp_path / "out").iterdir())) == 2 * (len(files) - 1)


def test_large_files_are_converted_alone() -> None:
    small, large = (Member("a", "a", 0, size) for size in (SMALL_BYTES, SMALL_BYTES + 1))
    found = list(conversion_pool.groups([small, large, *[small] * TOGETHER], alone=0))
    assert [len(group) for group in found] == [1, TOGETHER, 1]
    assert found[0] == [large]


def test_each_file_is_in_one_group() -> None:
    members = [Member(str(number), str(number), 0, number * SMALL_BYTES // 20) for number in range(40)]
    found = [member for group in conversion_pool.groups(members, alone=4) for member in group]
    assert sorted(found, key=lambda member: member.size) == members


def test_what_is_there_already_is_not_converted_again(tmp_path: Path, recorder: Recorder) -> None:
    path = make_tar(tmp_path / "a.tar", dict.fromkeys(names(4), SILENCE))
    converted = make(tmp_path / "out", recorder)
    convert(path, converted)
    converted.opus(members_of(path)[2]).unlink()
    recorder.runs.clear()
    assert convert(path, converted) == dict.fromkeys(names(4))
    assert recorder.runs == [["call02"]]


@pytest.mark.parametrize("change", ["other bytes", "no report", "a report that is no JSON"])
def test_what_was_made_of_other_bytes_is_converted_again(tmp_path: Path, recorder: Recorder, change: str) -> None:
    """An archive that was repaired and delivered again; scratch still has the Opus of its first delivery."""
    converted = make(tmp_path / "out", recorder)
    convert(make_tar(tmp_path / "a.tar", dict.fromkeys(names(4), SILENCE)), converted)
    opus = tmp_path / "out" / "call02.opus"
    recorder.runs.clear()
    files = dict.fromkeys(names(4), SILENCE)
    if change == "other bytes":
        files["call02.mp3"] = SPEECH
    elif change == "no report":
        conversion_report.path_of(opus).unlink()
    else:
        conversion_report.path_of(opus).write_text('{"source_')
    assert convert(make_tar(tmp_path / "b.tar", files), converted) == dict.fromkeys(names(4))
    assert recorder.runs == [["call02"]]
    assert conversion_report.is_of(opus, hashlib.sha256(files["call02.mp3"]).hexdigest()) is not None


def test_a_long_file_holds_up_no_short_one(tmp_path: Path) -> None:
    """The first file takes until the others have been given."""
    path = make_tar(tmp_path / "a.tar", dict.fromkeys(names(6), SILENCE))
    others = threading.Event()

    class Slow(Converter):
        def to_opus(self, source: Path, target: Path, stop: Stop) -> Report:
            if source.stem == "call00":
                assert others.wait(30)
            return super().to_opus(source, target, stop)

    given = []
    for member, _ in make(tmp_path / "out", Slow(ffmpeg_program()), jobs=2).of(path, members_of(path)):
        given.append(member.original_filename)
        if len(given) == 5:
            others.set()
    assert given[-1] == "call00.mp3"


def test_scratch_holds_few_sources_at_a_time(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "a.tar", dict.fromkeys(names(30), SILENCE))
    most = 0
    for _ in make(tmp_path / "out", REAL, jobs=1).of(path, members_of(path)):
        most = max(most, len(list((tmp_path / "out").glob("*.source"))))
    assert most <= TOGETHER


def test_who_reads_no_further_waits_for_no_disk(tmp_path: Path) -> None:
    """The batch went to another host while this one's disk is full: its conversions end all the same."""
    path = make_tar(tmp_path / "a.tar", dict.fromkeys(names(3), SILENCE))
    waiting = threading.Event()

    class Full(Converter):
        def to_opus(self, source: Path, target: Path, stop: Stop) -> Report:
            if source.stem != "call00":
                raise OSError(errno.ENOSPC, "full")
            return super().to_opus(source, target, stop)

    def until_available(step: Any, *args: Any) -> Any:
        while True:
            try:
                return step(*args)
            except OSError:
                waiting.set()

    (tmp_path / "out").mkdir()
    converted = Conversions(tmp_path / "out", Full(ffmpeg_program()), 1, until_available, threading.Event())
    outcomes = converted.of(path, members_of(path))
    next(outcomes)
    assert waiting.wait(60)
    closer = threading.Thread(target=outcomes.close)
    closer.start()
    closer.join(60)
    assert not closer.is_alive()


@pytest.mark.parametrize("ending", ["stop", "close"])
def test_an_end_before_the_end_leaves_no_source_and_no_part(tmp_path: Path, ending: str) -> None:
    path = make_tar(tmp_path / "a.tar", dict.fromkeys(names(40), SPEECH))
    stop = threading.Event()
    outcomes = make(tmp_path / "out", REAL, jobs=2, stop=stop).of(path, members_of(path))
    with contextlib.closing(outcomes):
        next(outcomes)
        if ending == "stop":
            stop.set()
            with pytest.raises(Stopping):
                list(outcomes)
    left = list((tmp_path / "out").iterdir())
    assert {path.suffix for path in left} <= {".opus", ".json"}
    opus = [path for path in left if path.suffix == ".opus"]
    assert len(opus) < 40
    assert {path.stem for path in opus} <= {path.name.removesuffix(".report.json") for path in left}
