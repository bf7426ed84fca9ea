"""Whisper on one batch of windows, from any files: encode once, detect languages, decode, guard, align.

faster-whisper's BatchedInferencePipeline does this for the windows of one file; what it gives for the same
windows and options is what comes out here. It has no guards; here a row that looks invented is decoded again,
alone with its likes, at a higher temperature, and its text is dropped where that does not help.
"""

import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.audio import pad_or_trim
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens, merge_punctuations

from pipeline.audio import SAMPLE_RATE
from pipeline.device import is_out_of_memory
from pipeline.transcript import Word

MODEL_FILES = ("config.json", "model.bin", "tokenizer.json", "preprocessor_config.json")
MOST_CPU_BATCHES = 8
CPU_BATCH = 8  # rows; more is no faster there (bench/listening)
GPU_BATCH_MOST = 128
# Thresholds of the Whisper paper (section 4.5), as every implementation has them.
_LEAST_LOGPROB, _MOST_NO_SPEECH, _MOST_COMPRESSION = -1.0, 0.6, 2.4
_SECONDS_PER_TOKEN = 0.02  # of a timestamp token
_FRAMES_PER_SECOND = 100  # of features
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # punctuation that belongs to a word


def model_problem(folder: Path) -> str | None:
    """What the model folder lacks, in one line; None where it is complete. Nothing is fetched from a hub."""
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if not any(folder.glob("vocabulary.*")):
        missing.append("vocabulary.json")
    if missing:
        return f"{folder} is not a Whisper model in CTranslate2 format: {', '.join(missing)} missing"
    return None


@dataclass(frozen=True)
class Options:
    """How to listen; the names are faster-whisper's.

    `language` None: detected for each file. `temperatures`: for the tries after a first one that looks invented;
    none: what comes out stands as it is. `max_new_tokens` None: as many as Whisper can (448 with the prompt).
    """

    beam_size: int = 5
    language: str | None = None
    task: str = "transcribe"
    timestamps: bool = True
    word_timestamps: bool = False
    initial_prompt: str = ""
    temperatures: tuple[float, ...] = (0.2, 0.6, 1.0)
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Passage:
    """A part of a window's text; times in seconds from the window's start."""

    start: float
    end: float
    text: str
    avg_logprob: float
    no_speech_prob: float
    words: list[Word] | None


@dataclass(frozen=True)
class _Try:
    """One row decoded once."""

    tokens: list[int]
    text: str
    avg_logprob: float
    no_speech_prob: float

    @property
    def is_silence(self) -> bool:
        return self.no_speech_prob > _MOST_NO_SPEECH and self.avg_logprob < _LEAST_LOGPROB

    @property
    def repeats_itself(self) -> bool:
        data = self.text.encode()
        return bool(data) and len(data) / len(zlib.compress(data)) > _MOST_COMPRESSION

    @property
    def looks_invented(self) -> bool:
        return not self.is_silence and (self.repeats_itself or self.avg_logprob < _LEAST_LOGPROB)


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
        if not self._model.model.is_multilingual:
            self.language: str | None = "en"
        else:
            self.language = self.options.language
        self._tokenizers: dict[str, Tokenizer] = {}
        tokenizer = self._tokenizer(self.language or "en")
        self._suppressed = get_suppressed_tokens(tokenizer, [-1])
        self._before = tokenizer.encode(self.options.initial_prompt.strip()) if self.options.initial_prompt else []
        self.hear([self.features(np.zeros(SAMPLE_RATE, np.float32))], ["en"])

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

    def _run_longest(self, rows: int) -> None:
        """Compute a batch that decodes as many tokens as Whisper can: its end of text is forbidden."""
        encoded = self.encode([np.zeros((self._model.feat_kwargs.get("feature_size", 80), 1), np.float32)] * rows)
        tokenizer = self._tokenizer("en")
        self._generate(encoded, ["en"] * rows, 0.0, suppress_tokens=[*self._suppressed, tokenizer.eot])

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

    def detect_languages(self, encoded: Any) -> list[str]:
        """The most probable language (ISO 639-1) of each row."""
        return [found[0][0][2:-2] for found in self._model.model.detect_language(encoded)]

    def hear(self, features: list[np.ndarray], languages: list[str], encoded: Any = None) -> list[list[Passage]]:
        """The text of each window; `encoded` is what `encode` gave for them, where it was called already."""
        encoded = self.encode(features) if encoded is None else encoded
        tries = self._generate(encoded, languages, 0.0)
        for temperature in self.options.temperatures:
            rows = [row for row, tried in enumerate(tries) if tried.looks_invented]
            if not rows:
                break
            again = self._again([features[row] for row in rows], [languages[row] for row in rows], temperature)
            for row, tried in zip(rows, again, strict=True):
                tries[row] = _better(tries[row], tried)
        if self.options.temperatures:
            tries = [_without_inventions(tried) for tried in tries]
        seconds = [window.shape[-1] / _FRAMES_PER_SECOND for window in features]
        words = self._align(features, encoded, languages, tries) if self.options.word_timestamps else None
        return [
            self._passages(tried, self._tokenizer(language), seconds[row], words[row] if words else None)
            for row, (tried, language) in enumerate(zip(tries, languages, strict=True))
        ]

    def _again(self, features: list[np.ndarray], languages: list[str], temperature: float) -> list[_Try]:
        return self._generate(self.encode(features), languages, temperature)

    def _tokenizer(self, language: str) -> Tokenizer:
        if language not in self._tokenizers:
            self._tokenizers[language] = Tokenizer(
                self._model.hf_tokenizer, self._model.model.is_multilingual, self.options.task, language
            )
        return self._tokenizers[language]

    def _generate(
        self, encoded: Any, languages: list[str], temperature: float, suppress_tokens: list[int] | None = None
    ) -> list[_Try]:
        prompts = [
            self._model.get_prompt(self._tokenizer(language), self._before, not self.options.timestamps)
            for language in languages
        ]
        length = self._model.max_length
        if self.options.max_new_tokens is not None:
            length = min(length, len(prompts[0]) + self.options.max_new_tokens)
        search: dict[str, Any] = {"beam_size": self.options.beam_size}
        if temperature > 0:
            search = {"beam_size": 1, "num_hypotheses": 5, "sampling_topk": 0, "sampling_temperature": temperature}
        results = self._model.model.generate(
            encoded, prompts, max_length=length, suppress_tokens=suppress_tokens or self._suppressed,
            return_scores=True, return_no_speech_prob=True, **search,
        )  # fmt: skip
        return [self._read(result, language) for result, language in zip(results, languages, strict=True)]

    def _read(self, result: Any, language: str) -> _Try:
        tokens = result.sequences_ids[0]
        # The score is the mean over the tokens without the end of text, which the sum includes.
        logprob = result.scores[0] * len(tokens) / (len(tokens) + 1)
        return _Try(tokens, self._tokenizer(language).decode(tokens).strip(), logprob, result.no_speech_prob)

    def _passages(
        self, tried: _Try, tokenizer: Tokenizer, seconds: float, aligned: list[dict[str, Any]] | None
    ) -> list[Passage]:
        """A row's text, cut where it has timestamps; word times are more exact than those."""
        passages = []
        for start, end, tokens in split_at_timestamps(tried.tokens, tokenizer.timestamp_begin, seconds):
            words = None if aligned is None else _take_words(aligned, len(tokens))
            if words:
                start, end = words[0].start, words[-1].end
            if text := tokenizer.decode(tokens).strip():
                passages.append(Passage(start, end, text, tried.avg_logprob, tried.no_speech_prob, words))
        return passages

    def _align(
        self, features: list[np.ndarray], encoded: Any, languages: list[str], tries: list[_Try]
    ) -> list[list[dict[str, Any]]]:
        """The words of each row with their times and numbers of tokens. A call takes rows of one language."""
        aligned: list[list[dict[str, Any]]] = [[] for _ in features]
        for language in set(languages):
            rows = [row for row, other in enumerate(languages) if other == language]
            part = encoded if len(rows) == len(features) else self.encode([features[row] for row in rows])
            tokenizer = self._tokenizer(language)
            texts = [[token for token in tries[row].tokens if token < tokenizer.eot] for row in rows]
            frames = [features[row].shape[-1] for row in rows]
            for row, words in zip(rows, self._model.find_alignment(tokenizer, texts, part, frames), strict=True):
                merge_punctuations(words, _PREPENDED, _APPENDED)
                aligned[row] = words
        return aligned


def split_at_timestamps(
    tokens: list[int], timestamp_begin: int, seconds: float
) -> list[tuple[float, float, list[int]]]:
    """The parts between timestamp tokens as (start, end, text tokens), within a window of so many seconds.

    Text behind the last timestamp is a part of its own: there is no later window that would repeat it.
    """
    parts: list[tuple[float, float, list[int]]] = []
    start, text = 0.0, []
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        at = min((token - timestamp_begin) * _SECONDS_PER_TOKEN, seconds)
        if text:
            parts.append((start, at if at > start else seconds, text))
        start, text = min(at, seconds - _SECONDS_PER_TOKEN), []
    return [*parts, (start, seconds, text)] if text else parts


def _take_words(aligned: list[dict[str, Any]], tokens: int) -> list[Word]:
    """Take the words of the next so many tokens off the front of a row's words."""
    words = []
    while aligned and tokens > 0:
        found = aligned.pop(0)
        tokens -= len(found["tokens"])
        if found["word"]:  # punctuation was merged into its neighbour
            word = found["word"].strip()
            words.append(Word(float(found["start"]), float(found["end"]), word, float(found["probability"])))
    return words


def _better(failed: _Try, again: _Try) -> _Try:
    """Of two tries the first that passes; of two that fail, one that does not repeat itself, then the likelier."""
    if not again.looks_invented:
        return again
    return max(failed, again, key=lambda tried: (not tried.repeats_itself, tried.avg_logprob))


def _without_inventions(tried: _Try) -> _Try:
    """The row without its text, where that is what Whisper says when nobody speaks, or a loop."""
    return replace(tried, tokens=[], text="") if tried.is_silence or tried.repeats_itself else tried
