"""Whisper on one batch of windows, from any files: encode, detect languages, decode, align.

Windows are decoded without timestamps. With them Whisper ends a full window at its last complete segment and
leaves the rest to a next window that begins there: a batch, whose windows are cut beforehand, loses that rest.
Measured with Whisper base on 1,940 words in three files of 5 minutes (word errors; seconds of audio in a second):
with timestamps 6.6 %; with timestamps and seek, as faster-whisper's `transcribe` has it, 4.2 % and half as fast,
as each window waits for the one before; without timestamps 3.8 %. CTranslate2 also applies the rules of timestamps
on the host, row by row, for which a GPU waits. So times come from alignment: the decoder's cross-attention.
"""

import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import _LANGUAGE_CODES, Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from pipeline.audio.pcm import SAMPLE_RATE
from pipeline.foundation.device import is_out_of_memory
from pipeline.speech.voice_windows import WINDOW_SECONDS
from pipeline.speech.whisper_options import Options

__all__ = ["MODEL_FILES", "Options", "SpokenWord", "Try", "Whisper", "language_problem", "model_problem"]

MODEL_FILES = ("config.json", "model.bin", "tokenizer.json", "preprocessor_config.json")
MOST_CPU_BATCHES = 8
CPU_BATCH = 8  # rows; more is no faster there (bench/listening)
GPU_BATCH_MOST = 128
FRAMES_PER_SECOND = 50  # of the encoder's output
# Thresholds of the Whisper paper (section 4.5), as every implementation has them.
_LEAST_LOGPROB, _MOST_NO_SPEECH, _MOST_COMPRESSION = -1.0, 0.6, 2.4
_FASTEST = 30  # characters in a second: twice as many as people say, and more than anybody does
_NGRAM = 4  # tokens that a second try may not repeat
_PIECE_FRAMES = 5 * FRAMES_PER_SECOND  # what a part of a window is brought to where its language is detected
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # punctuation that belongs to a word


def model_problem(folder: Path) -> str | None:
    """What the model folder lacks, in one line; None where it is complete. Nothing is fetched from a hub."""
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if not any(folder.glob("vocabulary.*")):
        missing.append("vocabulary.json")
    if missing:
        return f"{folder} is not a Whisper model in CTranslate2 format: {', '.join(missing)} missing"
    return None


def language_problem(languages: Sequence[str]) -> str | None:
    """Which of the codes Whisper does not know, in one line; None where it knows them all."""
    unknown = sorted(set(languages) - set(_LANGUAGE_CODES))
    return (
        f"Whisper does not know the language {', '.join(unknown)}: give ISO 639-1 codes, as en"
        if unknown
        else None
    )


@dataclass(frozen=True)
class SpokenWord:
    """A word of a window as the decoder wrote it (with the space before it, if any), with its punctuation; times
    in seconds from the window's start."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True)
class Try:
    """A window decoded once. `is_cut`: the decoder had no room for more, it did not end by itself."""

    tokens: list[int]
    text: str
    avg_logprob: float
    no_speech_prob: float
    is_cut: bool = False

    @property
    def is_silence(self) -> bool:
        """Whether Whisper itself takes the window for sound without speech."""
        return self.no_speech_prob > _MOST_NO_SPEECH and self.avg_logprob < _LEAST_LOGPROB

    @property
    def repeats(self) -> bool:
        """Whether the text says the same again and again."""
        data = self.text.encode()
        return bool(data) and len(data) / len(zlib.compress(data)) > _MOST_COMPRESSION

    @property
    def is_unlikely(self) -> bool:
        """Whether the decoder believes little of its own text."""
        return self.avg_logprob < _LEAST_LOGPROB

    def is_too_fast(self, seconds: float) -> bool:
        """Whether nobody could have said the text in that time."""
        return len(self.text) > _FASTEST * seconds

    def is_loop(self, seconds: float) -> bool:
        """Whether the decoder went round in circles.

        A text that repeats itself, ends by itself and could have been said in that time is taken for what was
        said: greetings, alarms and announcements are like that.
        """
        return self.repeats and (self.is_cut or self.is_too_fast(seconds))

    def looks_invented(self, seconds: float) -> bool:
        """Whether the decoder has made the text up; `seconds` is how long the window is."""
        return self.is_unlikely or self.is_too_fast(seconds) or self.is_loop(seconds)

    def fails(self, seconds: float) -> bool:
        """Whether the window should be heard again: what the voice gate let through has no text, or a doubtful
        one.

        So a window of 25 s in which the decoder finds one unlikely word is not taken for silence.
        """
        return not self.text or self.looks_invented(seconds)


class Whisper:
    """A Whisper model on one device, for several threads."""

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        device_index: int = 0,
        compute_type: str = "default",
        threads: int = 0,
        options: Options | None = None,
    ) -> None:
        """Load the model and run it once: a missing CUDA library shows at the first run, not at load.

        `threads`: CPU threads in all, 0 for one on each core. ValueError where an option is not one.
        """
        self.on_gpu = device == "cuda" or (device == "auto" and ctranslate2.get_cuda_device_count() > 0)
        threads = threads or len(os.sched_getaffinity(0))
        # On a GPU one batch is put together while the other is computed; a CPU computes more with a batch for
        # each thread than with all threads on one.
        self.batches_at_once = 2 if self.on_gpu else min(threads, MOST_CPU_BATCHES)
        self._model = WhisperModel(
            str(folder), device="cuda" if self.on_gpu else "cpu", device_index=device_index,
            compute_type=compute_type, cpu_threads=max(1, threads // self.batches_at_once),
            num_workers=self.batches_at_once, local_files_only=True,
        )  # fmt: skip
        self.name, self.options = folder.name, options or Options()
        self.languages = self.options.languages if self._model.model.is_multilingual else ("en",)
        self._tokenizers: dict[str, Tokenizer] = {}
        for language in self.languages:
            self._tokenizer(language)  # ValueError where Whisper does not know it
        tokenizer = self._tokenizer(self.languages[0] if self.languages else "en")
        self._suppressed = get_suppressed_tokens(tokenizer, [-1])
        self._before = tokenizer.encode(self.options.initial_prompt.strip()) if self.options.initial_prompt else []
        self._warm_up()

    @property
    def language(self) -> str | None:
        """The language of all windows, where there is no choice."""
        return self.languages[0] if len(self.languages) == 1 else None

    def features(self, samples: np.ndarray) -> np.ndarray:
        """The log-mel spectrogram [mels, frames], 100 frames a second, of mono float32 samples at 16 kHz."""
        return self._model.feature_extractor(samples)[..., :-1]

    def batch_that_fits(self) -> int:
        """How many rows to compute at a time: on a GPU the largest power of two whose longest text fits."""
        if not self.on_gpu:
            return CPU_BATCH
        size = CPU_BATCH
        while size < GPU_BATCH_MOST:
            try:
                self._run_longest(2 * size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                break
            size *= 2
        return size

    def _warm_up(self) -> None:
        """Run everything once: what is missing, of CUDA or of the model, shows now and not at the first file."""
        encoded = self.encode([self.features(np.zeros(SAMPLE_RATE, np.float32))])
        self.decode(encoded, ["en"])
        word = self._tokenizer("en").encode(" so")
        self.align(encoded, [1.0], ["en"], [Try(word, "so", 0.0, 0.0)])

    def _run_longest(self, rows: int) -> None:
        """Compute a batch that decodes as many tokens as Whisper can: its end of text is forbidden."""
        encoded = self.encode([np.zeros((self._model.feat_kwargs.get("feature_size", 80), 1), np.float32)] * rows)
        tokenizer = self._tokenizer("en")
        tries = self.decode(encoded, ["en"] * rows, suppress_tokens=[*self._suppressed, tokenizer.eot])
        self.align(encoded, [float(WINDOW_SECONDS)] * rows, ["en"] * rows, tries)

    def encode(self, features: list[np.ndarray]) -> Any:
        """The encoder's output for these windows, on the device."""
        rows = [pad_or_trim(window) for window in features]
        if self.on_gpu:
            return self._model.encode(np.stack(rows))
        # A CPU encodes one window faster than a share of many, which do not fit its caches; decoding is the
        # other way round (bench/listening).
        return ctranslate2.StorageView.from_array(
            np.concatenate([np.array(self._model.encode(row)) for row in rows])
        )

    def select(self, encoded: Any, rows: list[int]) -> Any:
        """Some rows of the encoder's output."""
        if rows == list(range(encoded.shape[0])):
            return encoded
        return ctranslate2.StorageView.from_array(self._on_host(encoded)[rows])

    def _on_host(self, encoded: Any) -> np.ndarray:
        if encoded.device != "cpu":
            encoded = encoded.to_device(ctranslate2.Device.cpu)
        if encoded.dtype == ctranslate2.DataType.bfloat16:  # numpy has none
            encoded = encoded.to(ctranslate2.DataType.float32)
        return np.asarray(encoded)

    def language_odds(self, encoded: Any, pieces: list[list[tuple[int, int]]]) -> list[list[dict[str, float]]]:
        """The probability of each language (ISO 639-1), for the pieces of each row; only of `languages`, where
        those are given.

        A piece is its first and last frame of the encoder's output. A row with one piece is judged as a whole, as
        faster-whisper does. A piece of a row is repeated up to a common length, which changes nothing for the
        attention: it sees each frame as often as any other.
        """
        whole = [row for row, parts in enumerate(pieces) if len(parts) == 1]
        odds: list[list[dict[str, float]]] = [[] for _ in pieces]
        if whole:
            for row, found in zip(whole, self._detect(self.select(encoded, whole)), strict=True):
                odds[row] = [found]
        if len(whole) < len(pieces):
            host = self._on_host(encoded)
            places = [(row, part) for row, parts in enumerate(pieces) if len(parts) > 1 for part in parts]
            tiles = [
                host[row, np.resize(np.arange(first, last), max(_PIECE_FRAMES, last - first))[:_PIECE_FRAMES]]
                for row, (first, last) in places
            ]
            found_in = self._detect(ctranslate2.StorageView.from_array(np.stack(tiles)))
            for (row, _), found in zip(places, found_in, strict=True):
                odds[row].append(found)
        return odds

    def _detect(self, encoded: Any) -> list[dict[str, float]]:
        found = [
            {token[2:-2]: odds for token, odds in row if not self.languages or token[2:-2] in self.languages}
            for row in self._model.model.detect_language(encoded)
        ]
        return [{language: odds / (sum(row.values()) or 1) for language, odds in row.items()} for row in found]

    def decode(
        self,
        encoded: Any,
        languages: list[str],
        may_repeat: bool = True,
        suppress_tokens: list[int] | None = None,
    ) -> list[Try]:
        """The text of each row of the encoder's output. `may_repeat`: False for one that repeats no four tokens.

        Beam search throughout, also for a second try: one that draws at a temperature gives another text each
        time.
        """
        prompts = [self._model.get_prompt(self._tokenizer(language), self._before, True) for language in languages]
        length = self._model.max_length
        if self.options.max_new_tokens is not None:
            length = min(length, len(prompts[0]) + self.options.max_new_tokens)
        results = self._model.model.generate(
            encoded, prompts, max_length=length, suppress_tokens=suppress_tokens or self._suppressed,
            return_scores=True, return_no_speech_prob=True, beam_size=self.options.beam_size,
            no_repeat_ngram_size=0 if may_repeat else _NGRAM,
        )  # fmt: skip
        most = min(length // 2, length - len(prompts[0]))  # CTranslate2 decodes half of the length at most
        return [self._read(result, language, most) for result, language in zip(results, languages, strict=True)]

    def _read(self, result: Any, language: str, most: int) -> Try:
        tokens = result.sequences_ids[0]
        # The score is the mean over the tokens without the end of text, which the sum includes.
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        text = self._tokenizer(language).decode(tokens).strip()
        return Try(tokens, text, logprob, result.no_speech_prob, len(tokens) >= most)

    def align(
        self, encoded: Any, seconds: list[float], languages: list[str], tries: list[Try]
    ) -> list[list[SpokenWord]]:
        """The words of each row with their times; `seconds` is how long each window is.

        A call takes rows of one language.
        """
        aligned: list[list[SpokenWord]] = [[] for _ in tries]
        for language in sorted(set(languages)):
            rows = [row for row, other in enumerate(languages) if other == language and tries[row].tokens]
            if not rows:
                continue
            tokenizer = self._tokenizer(language)
            texts = [[token for token in tries[row].tokens if token < tokenizer.eot] for row in rows]
            frames = [int(seconds[row] * 2 * FRAMES_PER_SECOND) for row in rows]
            part = self.select(encoded, rows)
            for row, words in zip(rows, self._model.find_alignment(tokenizer, texts, part, frames), strict=True):
                merge_punctuations(words, _PREPENDED, _APPENDED)
                aligned[row] = [_spoken(word) for word in words if word["word"].strip()]  # the rest was merged
        return aligned

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            self._tokenizers[language] = Tokenizer(
                self._model.hf_tokenizer, self._model.model.is_multilingual, self.options.task, language
            )
        return self._tokenizers[language]


def _spoken(word: dict[str, Any]) -> SpokenWord:
    probability = float(word["probability"])
    known = probability if math.isfinite(probability) else 0.0  # a model whose numbers overflow
    return SpokenWord(float(word["start"]), float(word["end"]), word["word"], known)
