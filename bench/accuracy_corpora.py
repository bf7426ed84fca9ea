"""The recordings of bench/accuracy, made of known clips: the same ones for the same clips and dose."""

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import default_rng

from bench import accuracy_sounds as sounds
from bench.accuracy_score import Said
from bench.accuracy_speech import HELPS, RATE, Clip
from bench.accuracy_track import GAPS, TURNS, Call, Track, over, speak, write

SHORT_GAPS = (0.2, 0.5)  # seconds between two repetitions
WINDOW = 28.0  # seconds: as much of one language as fills one of Whisper's windows
BABBLERS = 6  # people who speak at once in the background


@dataclass(frozen=True)
class Dose:
    """How much of everything. Lengths in minutes, but of `silent` and `nothing` in seconds."""

    long: tuple[float, ...] = (1 / 6, 0.5, 1, 2, *[5] * 10, 10)
    chance: tuple[float, ...] = (4, 4, 4, 4)
    telephone: float = 4
    noise: float = 2
    noises: tuple[str, ...] = ("white", "pink", "babble")
    quiet: float = 4
    repeats: tuple[int, ...] = (3, 8, 20)
    languages: tuple[str, ...] = ("es", "fr", "it", "pt", "zh", "ja", "hi")
    tones: int = 3
    silent: tuple[tuple[float, ...], ...] = ((45, 60, 90), (120, 180), (180, 45))
    nothing: float = 60
    calls: tuple[float, ...] = (4, 4, 4)


FULL = Dose()
QUICK = Dose(
    (1 / 6, 1, 2), (2,), 0.5, 0.4, ("pink",), 0.5, (3, 8), ("es",), 1, ((45, 60),), 10, (1,),
)  # fmt: skip


@dataclass(frozen=True)
class File:
    """A recording: what kind of its corpus it is, its length in seconds, and what is said in it; or one of its
    channels (from 1)."""

    group: str
    path: Path
    seconds: float
    said: list[Said]
    channel: int | None = None


@dataclass(frozen=True)
class Corpus:
    """Recordings of one sort. `timed`: their segments' times are compared too."""

    name: str
    what: str
    files: list[File]
    timed: bool = False


Made = Iterator[tuple[str, str, Track]]  # the group, the file's name and the recording


class Maker:
    """Makes the corpora of a dose from clips, below a folder."""

    def __init__(self, clips: list[Clip], dose: Dose, folder: Path) -> None:
        self.dose, self.folder = dose, folder
        self.by_name = {clip.name: clip for clip in clips}
        self.pools = {
            language: [clip for clip in clips if clip.language == language and clip.name not in HELPS]
            for language in sorted({clip.language for clip in clips})
        }
        self.english = self.pools["en"]

    def make(self, name: str) -> Corpus:
        """The corpus of that name."""
        what, make, timed = CORPORA[name]
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        files = []
        for group, file, track in make(self):
            path = folder / file
            write(path, track.samples)
            if isinstance(track, Call):
                for number, side in enumerate(track.sides, 1):
                    files.append(File(f"channel {number}, {group}", path, track.seconds, side.said, number))
            else:
                files.append(File(group, path, track.seconds, track.said))
        return Corpus(name, what, files, timed)

    def clips(self) -> Made:
        """Each clip alone."""
        for language, pool in self.pools.items():
            for clip in pool:
                yield language, f"{clip.name.replace('/', '-')}.wav", Track().say(clip)

    def long(self) -> Made:
        """No clip follows itself."""
        for number, minutes in enumerate(self.dose.long):
            track = speak(Track(), self.english, 60 * minutes, random.Random(f"long {number}"))
            yield f"{60 * minutes:.0f} s", f"{number:02}.wav", track

    def chance(self) -> Made:
        """A clip may follow itself."""
        for number, minutes in enumerate(self.dose.chance):
            draw = random.Random(f"chance {number}")
            yield "all", f"{number:02}.wav", speak(Track(), self.english, 60 * minutes, draw, again=True)

    def telephone(self) -> Made:
        """The file's name says how it is written: see `write`."""
        track = speak(Track(), self.english, 60 * self.dose.telephone, random.Random("telephone"))
        yield "8 kHz", "8khz.wav", track
        yield "A-law, 8 kHz", "alaw.wav", track
        yield "AMR, 12.2 kb/s", "mobile.amr", track
        yield "MP3, 16 kb/s", "low.mp3", track

    def noise(self) -> Made:
        """Each kind at each ratio of speech to noise, over other speech."""
        for kind in self.dose.noises:
            for ratio in (20, 10, 5):
                draw = random.Random(f"noise {kind} {ratio}")
                track = speak(Track(), self.english, 60 * self.dose.noise, draw)
                noisy = over(track, self._noise(kind, track.seconds, draw), ratio)
                yield f"{kind}, {ratio} dB", f"{kind}-{ratio}.wav", noisy

    def _noise(self, kind: str, seconds: float, draw: random.Random) -> np.ndarray:
        if kind != "babble":
            make = {"white": sounds.white, "pink": sounds.pink}[kind]
            return make(seconds, default_rng(draw.randrange(2**32)))
        others = [clip for language, pool in self.pools.items() if language != "en" for clip in pool]
        voices = []
        for _ in range(BABBLERS):
            voice = speak(Track(), others or self.english, seconds, draw, (0.1, 0.3))
            voices.append(sounds.at_level(voice.samples[: int(seconds * RATE)], -20))
        return np.sum(voices, axis=0)

    def quiet(self) -> Made:
        """The loudest sample 40 dB below full scale."""
        track = speak(Track(), self.english, 60 * self.dose.quiet, random.Random("quiet"))
        samples = track.samples
        yield "all", "quiet.wav", Track([samples * (0.01 / np.abs(samples).max())], track.said, track.length)

    def repeated(self) -> Made:
        """A short phrase again and again: alone, and between other speech."""
        for name in ("en/hello_world", "cards/004", "librivox/0880"):
            clip = self.by_name[name]
            for times in self.dose.repeats:
                for among in (False, True):
                    draw = random.Random(f"repeated {name} {times} {among}")
                    track = Track()
                    if among:
                        track.say(self.by_name["jfk"]).pause(draw.uniform(*GAPS))
                    for _ in range(times):
                        track.say(clip).pause(draw.uniform(*SHORT_GAPS))
                    if among:
                        track.say(self.by_name["librivox/0920"])
                    where = "among speech" if among else "alone"
                    yield f"{times} times, {where}", f"{name.replace('/', '-')}-{times}-{where[:5]}.wav", track

    def languages(self) -> Made:
        """English and another language in turn."""
        for other in self.dose.languages:
            if not (pool := self.pools.get(other)):
                continue
            for pattern, parts in {
                "a minute each": [("en", 60.0), (other, 60.0)],
                "a window each": [("en", WINDOW), (other, WINDOW), ("en", WINDOW)],
                "within a window": [(other, 8.0), ("en", 8.0)],
                "a clip each": [("en", 0.1), (other, 0.1)] * 6,
            }.items():
                draw, track = random.Random(f"languages {other} {pattern}"), Track()
                for language, seconds in parts:
                    speak(track, pool if language == other else self.english, seconds, draw)
                yield pattern, f"{other}-{pattern.replace(' ', '-')}.wav", track

    def tones(self) -> Made:
        """What a telephone sounds before somebody speaks."""
        signals = {
            "1 kHz, 3 s": sounds.tone(3, 1000),
            "1 kHz, 20 s": sounds.tone(20, 1000),
            "DTMF": sounds.keys("0891234567"),
            "ringing": sounds.ringing(20),
        }
        for kind, signal in signals.items():
            for number in range(self.dose.tones):
                draw = random.Random(f"tones {kind} {number}")
                track = Track().pause(0.5).add(sounds.at_level(signal, -18)).pause(draw.uniform(0.3, 1.5))
                name = "".join(char for char in kind if char.isalnum())
                yield kind, f"{name}-{number}.wav", speak(track, self.english, 15, draw)

    def pauses(self) -> Made:
        """Long silences between speech."""
        for number, silences in enumerate(self.dose.silent):
            draw = random.Random(f"pauses {number}")
            track = speak(Track(), self.english, 15, draw)
            for seconds in silences:
                speak(track.pause(seconds), self.english, 15, draw)
            yield "all", f"{number:02}.wav", track

    def calls(self) -> Made:
        """Two people, each on a channel, who often speak at the same time; and each channel as a file."""
        for number, minutes in enumerate(self.dose.calls):
            sides = [
                speak(
                    Track().pause(wait), self.english, 60 * minutes, random.Random(f"call {number} {wait}"), TURNS
                )
                for wait in (0.3, 1.7)
            ]
            for channel, side in enumerate(sides, 1):
                yield f"channel {channel}, alone", f"{number:02}-{channel}.wav", side
            yield "of a call", f"{number:02}.wav", Call(sides)

    def nothing(self) -> Made:
        """Sound in which nobody speaks."""
        for number, (kind, samples) in enumerate(sounds.without_speech(self.dose.nothing).items()):
            yield kind, f"{number:02}.wav", Track().add(samples)


CORPORA: dict[str, tuple[str, Callable[[Maker], Made], bool]] = {
    "clips": ("short clips in nine languages, each a file", Maker.clips, False),
    "long": ("10 s to 10 min of English clips with gaps of 0.15 to 2 s, none after itself", Maker.long, True),
    "chance": ("the same, but a clip may follow itself", Maker.chance, False),
    "telephone": ("speech as telephones send it", Maker.telephone, False),
    "noise": ("speech 20, 10 and 5 dB above noise", Maker.noise, False),
    "quiet": ("speech whose loudest sample is 40 dB below full scale", Maker.quiet, False),
    "repeated": ("a short phrase 3, 8 and 20 times, 0.2 to 0.5 s apart", Maker.repeated, False),
    "languages": ("English and another language in turn", Maker.languages, False),
    "tones": ("tones, DTMF and ringing before speech", Maker.tones, True),
    "pauses": ("silences of 45 to 180 s between speech", Maker.pauses, True),
    "calls": ("two people at once, each on a channel, and each channel alone", Maker.calls, False),
    "nothing": ("sound in which nobody speaks", Maker.nothing, False),
}
