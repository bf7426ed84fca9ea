"""One measured run: one program transcribes all files, in a process of its own; prints what it measured as JSON.

    python -m bench.engine ours '{"model": ..., "files": [...], ...}'

Started by bench.listening. Each engine calls `done` when a file is transcribed; the rest is the same for all.
"""

import json
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

PEERS = {
    "ours": "this pipeline's engine",
    "transcribe": "faster-whisper, WhisperModel.transcribe",
    "batched": "faster-whisper, BatchedInferencePipeline",
    "parallel": "faster-whisper, WhisperModel.transcribe in a thread for each core",
    "whispers2t": "WhisperS2T",
}
Done = Callable[[str], object]
Work = Callable[[list[str], Done], None]
PROMPT = 4  # tokens: start, language, task, no timestamps
_COMPUTES = ("encode", "generate", "detect_language", "align")


class Meter:
    """When a CTranslate2 model computes, and how many windows and tokens it decodes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running, self._since = 0, 0.0
        self.busy_seconds, self.windows, self.tokens = 0.0, 0, 0

    def around(self, model: Any) -> Any:
        """The model, measured; it takes no attributes itself."""
        return _Measured(model, self)

    def call(self, name: str, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self._running += 1
            if self._running == 1:
                self._since = time.perf_counter()
        try:
            result = method(*args, **kwargs)
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.busy_seconds += time.perf_counter() - self._since
        if name == "generate":
            self.windows += len(result)
            self.tokens += sum(len(row.sequences_ids[0]) for row in result)
        return result


class _Measured:
    def __init__(self, model: Any, meter: Meter) -> None:
        self._model, self._meter = model, meter

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._model, name)
        if name not in _COMPUTES:
            return value
        return lambda *args, **kwargs: self._meter.call(name, value, *args, **kwargs)


class Gpu:
    """How busy the GPU is and how much of its memory is taken, sampled; nothing where there is none."""

    def __init__(self, device: str) -> None:
        self.busy: list[int] = []
        self.memory_mb = 0
        self._on = device.startswith("cuda")
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Gpu":
        if self._on:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._on:
            self._thread.join()

    def _sample(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(0)
        while not self._end.wait(0.1):
            self.busy.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            self.memory_mb = max(self.memory_mb, pynvml.nvmlDeviceGetMemoryInfo(handle).used // 2**20)


def _most_tokens(run: SimpleNamespace) -> int:
    """What to ask for so that `tokens` are decoded: CTranslate2 decodes half of the length, prompt included."""
    return 2 * int(run.tokens) - PROMPT


def ours(run: SimpleNamespace, meter: Meter) -> Work:
    import config
    from pipeline.speech.transcriber import Transcriber
    from pipeline.speech.whisper import Whisper

    languages = (run.language,) if run.language else ()
    options = replace(config.whisper_options(), beam_size=run.beam_size, languages=languages)  # the worker's own
    if run.tokens:
        options = replace(options, guards=False, max_new_tokens=_most_tokens(run))
    whisper = Whisper(Path(run.model), run.device, 0, run.compute_type, run.threads, options)
    whisper._model.model = meter.around(whisper._model.model)
    prepare_threads = max(1, min(8, run.threads // 2))

    def work(files: list[str], done: Done) -> None:
        def deliver(name: str, result: Any) -> None:
            if isinstance(result, Exception):
                raise result
            done(name)

        with Transcriber(whisper, deliver, prepare_threads, run.batch_size) as engine:
            for name in files:
                engine.submit(name, Path(name))
            engine.drain()

    return work


def _faster_whisper(run: SimpleNamespace, meter: Meter, workers: int = 1) -> Any:
    from faster_whisper import WhisperModel

    model = WhisperModel(
        run.model, run.device, compute_type=run.compute_type, cpu_threads=max(1, run.threads // workers),
        num_workers=workers, local_files_only=True,
    )  # fmt: skip
    model.model = meter.around(model.model)
    return model


def _options(run: SimpleNamespace) -> dict[str, Any]:
    """Word times as ours has them. With a real model the rest is as it comes, so that each does what it does for
    its words; with random weights nothing is decoded twice."""
    options = {
        "beam_size": run.beam_size, "language": run.language, "vad_filter": True,
        "word_timestamps": run.word_times,
    }  # fmt: skip
    if not run.tokens:
        return options
    return {
        **options, "max_new_tokens": _most_tokens(run), "without_timestamps": True,
        "condition_on_previous_text": False, "temperature": 0.0, "log_prob_threshold": None,
        "no_speech_threshold": None, "compression_ratio_threshold": None,
    }  # fmt: skip


def transcribe(run: SimpleNamespace, meter: Meter) -> Work:
    model, options = _faster_whisper(run, meter), _options(run)

    def work(files: list[str], done: Done) -> None:
        for name in files:
            list(model.transcribe(name, **options)[0])
            done(name)

    return work


def batched(run: SimpleNamespace, meter: Meter) -> Work:
    from faster_whisper import BatchedInferencePipeline

    model, options = BatchedInferencePipeline(_faster_whisper(run, meter)), _options(run)

    def work(files: list[str], done: Done) -> None:
        for name in files:
            list(model.transcribe(name, batch_size=run.batch_size, **options)[0])
            done(name)

    return work


def parallel(run: SimpleNamespace, meter: Meter) -> Work:
    from concurrent.futures import ThreadPoolExecutor, as_completed

    model, options = _faster_whisper(run, meter, run.threads), _options(run)

    def one(name: str) -> str:
        list(model.transcribe(name, **options)[0])
        return name

    def work(files: list[str], done: Done) -> None:
        with ThreadPoolExecutor(run.threads) as pool:
            for future in as_completed([pool.submit(one, name) for name in files]):
                done(future.result())

    return work


def whispers2t(run: SimpleNamespace, meter: Meter) -> Work:
    import whisper_s2t

    mels = json.loads((Path(run.model) / "preprocessor_config.json").read_text())["feature_size"]
    model = whisper_s2t.load_model(
        run.model, n_mels=mels, device="cuda" if run.device.startswith("cuda") else "cpu",
        compute_type=run.compute_type, cpu_threads=run.threads, max_text_token_len=PROMPT + _most_tokens(run),
        asr_options={"beam_size": run.beam_size, "patience": 1, "repetition_penalty": 1},
    )  # fmt: skip
    model.model = meter.around(model.model)

    def work(files: list[str], done: Done) -> None:
        language = run.language or "en"  # it detects none
        model.transcribe_with_vad(
            files, lang_codes=[language] * len(files), tasks=["transcribe"] * len(files),
            initial_prompts=[None] * len(files), batch_size=run.batch_size,
        )  # fmt: skip
        for name in files:  # all at the end
            done(name)

    return work


def measure(name: str, run: SimpleNamespace) -> dict[str, Any]:
    """Warm up on a few files, then time all of them."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: run.threads])
    meter = Meter()
    work = {"ours": ours, "transcribe": transcribe, "batched": batched, "parallel": parallel,
            "whispers2t": whispers2t}[name](run, meter)  # fmt: skip
    work(run.files[:2], lambda _: None)
    meter.busy_seconds, meter.windows, meter.tokens = 0.0, 0, 0
    before = resource.getrusage(resource.RUSAGE_SELF)
    done: dict[str, float] = {}
    with Gpu(run.device) as gpu:
        start = time.perf_counter()
        work(run.files, lambda name: done.setdefault(name, time.perf_counter() - start))
        wall = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_SELF)
    if set(done) != set(run.files):
        raise RuntimeError(f"{name}: {len(done)} files done of {len(run.files)}")
    return {
        "wall_s": wall,
        "first_s": min(done.values()),
        "windows": meter.windows,
        "tokens": meter.tokens,
        "computing": sum(gpu.busy) / len(gpu.busy) / 100 if gpu.busy else meter.busy_seconds / wall,
        "cpu_s": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "memory_mb": used.ru_maxrss // 1024,
        "gpu_memory_mb": gpu.memory_mb or None,
    }


if __name__ == "__main__":
    engine = sys.argv[1]
    print(json.dumps(measure(engine, SimpleNamespace(**json.loads(sys.argv[2])))))
