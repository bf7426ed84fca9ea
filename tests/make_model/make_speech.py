"""Speak random words with espeak-ng, pass most of them through MP3 or Opus, and keep the samples.

    python make_speech.py SEED COUNT FOLDER

FOLDER/audio.npz holds all utterances end to end at 16 kHz (`samples`) and their `lengths`;
FOLDER/utterances.json says for each one its words and where, in seconds, they start and end.
"""

import json
import random
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from faster_whisper.audio import decode_audio

WORDS = Path(__file__).with_name("words.txt").read_text().split()
VARIANTS = {"en-us": ("m1", "m3", "m7", "f1", "f2", "f4"), "en-gb": ("m2", "m5", "f3", "f5")}
VOICES = [*VARIANTS, *(f"{voice}+{variant}" for voice in VARIANTS for variant in VARIANTS[voice])]
FFMPEG = ("ffmpeg", "-nostdin", "-loglevel", "error", "-threads", "1")
MP3 = ("mp3", "-b:a", "64k")
OPUS = ("opus", "-c:a", "libopus", "-b:a", "24k", "-ar", "16000", "-ac", "1")
CODECS = {"none": (), "mp3": (MP3,), "mp3opus": (MP3, OPUS), "opus": (OPUS,)}


@dataclass
class Utterance:
    words: list[str]
    voice: str
    speed: int
    pitch: int
    gap: int
    codecs: tuple[tuple[str, ...], ...]


def invent(rng: random.Random) -> Utterance:
    return Utterance(
        words=[rng.choice(WORDS) for _ in range(rng.randint(1, 7))],
        voice=rng.choice(VOICES),
        speed=rng.randint(120, 190),
        pitch=rng.randint(30, 70),
        gap=rng.choice([0, 0, 2, 5, 8]),
        codecs=CODECS[rng.choice(list(CODECS))],
    )


def speak(utterance: Utterance) -> np.ndarray:
    """The utterance at 16 kHz."""
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder, "speech.wav")
        text = " ".join(utterance.words).replace("xray", "x-ray")
        numbers = ["-s", str(utterance.speed), "-p", str(utterance.pitch), "-g", str(utterance.gap)]
        command = ["espeak-ng", "-v", utterance.voice, *numbers, "-w", str(audio), text]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        for extension, *options in utterance.codecs:
            coded = audio.with_suffix(f".{extension}")
            subprocess.run([*FFMPEG, "-i", str(audio), *options, str(coded)], check=True)
            audio = coded
        return decode_audio(str(audio))


def main(seed: int, count: int, folder: Path) -> None:
    rng = random.Random(seed)
    utterances = [invent(rng) for _ in range(count)]
    with ThreadPoolExecutor() as threads:
        spoken = list(threads.map(speak, utterances))
    described = []
    for utterance, samples in zip(utterances, spoken, strict=True):
        loud = np.flatnonzero(np.abs(samples) > 0.01 * np.abs(samples).max())
        described.append({"words": utterance.words, "start": loud[0] / 16000, "end": loud[-1] / 16000})
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.array([len(samples) for samples in spoken])
    np.savez(folder / "audio.npz", samples=np.concatenate(spoken).astype(np.float16), lengths=lengths)
    (folder / "utterances.json").write_text(json.dumps(described))
    print(f"{count} utterances, {lengths.sum() / 16000 / 3600:.2f} hours")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
