"""Puts a recording together of clips, pauses and sound, knows what is said in it when, and writes it."""

import random
import subprocess
import wave
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench import accuracy_sounds as sounds
from bench.accuracy_score import Said
from bench.accuracy_speech import RATE, Clip
from tests.support.fleet import ffmpeg_program

GAPS = (0.15, 2.0)  # seconds between two clips
TURNS = (0.3, 4.0)  # seconds between two clips of one side of a call
LOUDEST = 0.9  # of full scale: what is added up stays below it


@dataclass
class Track:
    """A recording that is being put together."""

    pieces: list[np.ndarray] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    length: int = 0  # samples

    def add(self, samples: np.ndarray) -> "Track":
        """Put sound behind what is there."""
        self.pieces.append(samples)
        self.length += len(samples)
        return self

    def pause(self, seconds: float) -> "Track":
        """Put silence behind what is there."""
        return self.add(sounds.silence(seconds))

    def say(self, clip: Clip) -> "Track":
        """Put a clip behind what is there."""
        begin = self.seconds
        self.said.append(Said(clip.language, clip.text, begin + clip.start, begin + clip.end))
        return self.add(clip.samples)

    @property
    def seconds(self) -> float:
        """Its length so far."""
        return self.length / RATE

    @property
    def samples(self) -> np.ndarray:
        """All of the sound."""
        return np.concatenate(self.pieces)


class Call(Track):
    """A recording of several people, each on a channel of its own."""

    def __init__(self, sides: list[Track]) -> None:
        super().__init__([], [one for side in sides for one in side.said], max(side.length for side in sides))
        self.sides = sides

    @property
    def samples(self) -> np.ndarray:
        """The sound, samples by channels."""
        return np.stack([np.pad(side.samples, (0, self.length - side.length)) for side in self.sides], axis=1)


def speak(
    track: Track,
    pool: list[Clip],
    seconds: float,
    draw: random.Random,
    gaps: tuple[float, float] = GAPS,
    again: bool = False,
) -> Track:
    """Put clips from the pool with gaps behind what is there, until so many seconds more are full; a clip follows
    itself only with `again`, or where it is the only one."""
    end, last = track.seconds + seconds, None
    while track.seconds < end:
        last = draw.choice([clip for clip in pool if again or clip is not last] or pool)
        track.say(last).pause(draw.uniform(*gaps))
    return track


def over(track: Track, noise: np.ndarray, ratio: float) -> Track:
    """The recording with noise under all of it, so many dB below the level of its speech."""
    samples = track.samples
    speech = np.concatenate([samples[int(one.start * RATE) : int(one.end * RATE)] for one in track.said])
    level = 20 * np.log10(sounds.rms(speech)) - ratio
    mixed = samples + sounds.at_level(noise[: len(samples)], level)
    return Track([mixed * min(1, LOUDEST / np.abs(mixed).max())], track.said, track.length)


def write(path: Path, samples: np.ndarray) -> None:
    """Write a recording as its name says: 8khz and alaw in those formats, .amr and .mp3 as telephones and voice
    boxes have them, all others as 16-bit WAV at 16 kHz."""
    telephone = {
        "8khz.wav": ["-ar", "8000", "-c:a", "pcm_s16le"],
        "alaw.wav": ["-ar", "8000", "-c:a", "pcm_alaw"],
        "mobile.amr": ["-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k"],
        "low.mp3": ["-ar", "16000", "-c:a", "libmp3lame", "-b:a", "16k"],
    }.get(path.name)
    plain = path.with_suffix(".plain.wav") if telephone else path
    with wave.open(str(plain), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).round().astype("<i2").tobytes())
    if telephone:
        command = [
            ffmpeg_program(),
            "-nostdin",
            "-y",
            "-loglevel",
            "error",
            "-i",
            str(plain),
            *telephone,
            str(path),
        ]
        subprocess.run(command, check=True)
        plain.unlink()
