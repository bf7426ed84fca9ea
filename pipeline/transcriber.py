"""Speech to text with faster-whisper, from a model folder on this host.

The engine is behind one function: files go in, each with a key of the caller's, and results come out as
each file is done, in any order. How many files the engine takes before it gives one back is its own affair.
A failure of the GPU itself is raised, and ends the process; it loads the model anew when it is restarted.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from av.error import FFmpegError
from faster_whisper import WhisperModel
from faster_whisper.audio import decode_audio
from faster_whisper.vad import VadOptions, get_speech_timestamps

from pipeline.audio import SAMPLE_RATE, UnreadableAudio, ends_whole
from pipeline.transcript import Segment, Transcript

Key = TypeVar("Key")

MODEL_FILES = ("config.json", "model.bin", "tokenizer.json", "preprocessor_config.json")


def model_problem(folder: Path) -> str | None:
    """What the model folder lacks, in one line; None where it is complete. Nothing is fetched from a hub."""
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if not any(folder.glob("vocabulary.*")):
        missing.append("vocabulary.json")
    if missing:
        return f"{folder} is not a Whisper model in CTranslate2 format: {', '.join(missing)} missing"
    return None


class Transcriber:
    """A Whisper model on one device."""

    def __init__(
        self, folder: Path, device: str, compute_type: str, threads: int, beam_size: int, language: str | None
    ) -> None:
        """Load the model and run it once: a missing CUDA library shows at the first run, not at load."""
        self._model = WhisperModel(
            str(folder), device=device, compute_type=compute_type, cpu_threads=threads, local_files_only=True
        )
        self._name, self._beam_size, self._language = folder.name, beam_size, language
        self._hear(np.zeros(SAMPLE_RATE, np.float32))

    def transcribe(self, files: Iterable[tuple[Key, Path]]) -> Iterator[tuple[Key, Transcript | Exception]]:
        """Transcribe the files as they come; gives for each key its transcript, or what went wrong with it."""
        for key, path in files:
            try:
                yield key, self._transcribe(path)
            except Exception as error:
                if "CUDA failed" in str(error) and "out of memory" not in str(error):
                    raise  # the device is of no more use to this process
                yield key, error

    def _transcribe(self, path: Path) -> Transcript:
        audio = _decode(path)
        gate = VadOptions(max_speech_duration_s=self._model.feature_extractor.chunk_length)
        spoken = sum(part["end"] - part["start"] for part in get_speech_timestamps(audio, gate)) / SAMPLE_RATE
        segments, language = self._hear(audio) if spoken else ([], None)
        return Transcript(
            text=" ".join(segment.text for segment in segments),
            segments=segments,
            language=language,
            duration_seconds=len(audio) / SAMPLE_RATE,
            speech_seconds=spoken,
            loudness_db=_loudness_db(audio),
            model=self._name,
        )

    def _hear(self, audio: np.ndarray) -> tuple[list[Segment], str]:
        found, info = self._model.transcribe(
            audio,
            language=self._language,
            beam_size=self._beam_size,
            vad_filter=bool(audio.any()),
            condition_on_previous_text=False,  # one misheard window must not mislead the next
        )
        segments = [
            Segment(
                round(part.start, 2), round(min(part.end, len(audio) / SAMPLE_RATE), 2), part.text.strip(),
                _finite(part.avg_logprob), _finite(part.no_speech_prob),
            )
            for part in found
        ]  # fmt: skip
        return segments, info.language


def _decode(path: Path) -> np.ndarray:
    """The file as mono samples between -1 and 1 at 16 kHz."""
    if path.suffix == ".opus" and not ends_whole(path):
        raise UnreadableAudio("the Opus is cut: its last page is missing")
    try:
        audio = decode_audio(str(path), sampling_rate=SAMPLE_RATE)
    except OSError:  # PyAV's FileNotFoundError and the like are both
        raise
    except FFmpegError as error:
        raise UnreadableAudio(f"the Opus cannot be decoded: {error}") from error
    except IndexError:
        raise UnreadableAudio("the file has no audio stream") from None
    if not len(audio):
        raise UnreadableAudio("the file holds no sound: 0 seconds")
    return audio


def _loudness_db(audio: np.ndarray) -> float:
    power = float(np.mean(np.square(audio, dtype=np.float64)))
    return 10 * np.log10(power) if power else float("-inf")


def _finite(number: float) -> float | None:
    return round(number, 4) if np.isfinite(number) else None
