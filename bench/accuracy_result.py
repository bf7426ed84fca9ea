"""What one program gets right in one corpus, put together from its files."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.accuracy_corpora import Corpus, File
from bench.accuracy_score import Comparison, Cues, Segment, Times, Words, cues, median, percentile


@dataclass
class Share:
    """How many of all are right."""

    right: int = 0
    all: int = 0

    def add(self, is_right: bool) -> None:
        """Count one more."""
        self.right += is_right
        self.all += 1

    def __str__(self) -> str:
        return f"{self.right} of {self.all}"


@dataclass
class Result:
    """What a program got right in a corpus; `wall_s` is the time for all of its files, `audio_s` their length.

    `groups` and `languages` are its words by the group of the file and the language of the clip; `files` are the
    files whose language was found, `clips` the clips in the language of the segments there, by group; `invented`
    are words that nobody said; `unheard` are segments that say that they are no text.
    """

    wall_s: float
    audio_s: float
    groups: dict[str, Words] = field(default_factory=dict)
    languages: dict[str, Words] = field(default_factory=dict)
    files: Share = field(default_factory=Share)
    clips: dict[str, Share] = field(default_factory=dict)
    invented: dict[str, list[str]] = field(default_factory=dict)
    cues: Cues = field(default_factory=Cues)
    times: Times | None = None
    unheard: int = 0

    @property
    def words(self) -> Words:
        """The words of the whole corpus."""
        return total(self.groups.values())

    @property
    def speed(self) -> float:
        """Seconds of audio in a second."""
        return self.audio_s / self.wall_s

    def add(self, file: File, heard: Mapping[str, Any], timed: bool) -> None:
        """Take a file into account."""
        segments = [
            Segment(**{name: value for name, value in one.items() if name != "channel"})
            for one in heard["segments"]
            if one.get("channel") == file.channel
        ]
        comparison = Comparison(file.said, segments)
        _add(self.groups, file.group, comparison.words)
        for language, words in comparison.by_language().items():
            _add(self.languages, language, words)
        clips = self.clips.setdefault(file.group, Share())
        for is_right in comparison.languages():
            clips.add(is_right)
        if len(languages := {one.language for one in file.said}) == 1:
            self.files.add(heard["language"] in languages)
        if invented := comparison.invented():
            self.invented.setdefault(file.group, []).extend(invented)
        self.cues += cues(segments, file.seconds)
        self.unheard += sum(not one.spoken for one in segments)
        if timed:
            times = comparison.times()
            times.farthest = f"{file.path.name}, {times.farthest}"
            self.times = self.times or Times()
            self.times += times

    def as_json(self) -> dict[str, Any]:
        """All of it, and the measures that follow from it."""
        found = asdict(self)
        found["words"] = asdict(self.words)
        found["rate"], found["speed"] = self.words.rate, self.speed
        if self.times:
            found["times"].update(starts=spread(self.times.starts), ends=spread(self.times.ends))
        return found


def result(corpus: Corpus, names: list[str], run: Mapping[str, Any]) -> Result:
    """What a program got right, which has read the files of these names."""
    found = Result(run["wall_s"], sum(file.seconds for file in corpus.files))
    for file, name in zip(corpus.files, names, strict=True):
        found.add(file, run["heard"][name], corpus.timed)
    return found


def total(words: Any) -> Words:
    """The sum of several."""
    found = Words()
    for one in words:
        found += one
    return found


def spread(errors: list[float]) -> dict[str, float]:
    """How many times were compared, and the median, 95th percentile and largest of the errors (seconds)."""
    p95, most = percentile(errors, 0.95), max(errors, default=0.0)
    return {"count": len(errors), "median": median(errors), "p95": p95, "most": most}


def _add(where: dict[str, Words], key: str, words: Words) -> None:
    where[key] = total([where.get(key, Words()), words])
