"""One program transcribes files, in a process of its own; prints what it heard as JSON.

    python -m bench.accuracy_engine transcribe <<< '{"model": ..., "threads": 2, "files": [...]}'

Started by bench.accuracy. Every program draws the same random numbers, where it samples.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ctranslate2

ENGINES = {
    "ours": "this pipeline's engine",
    "transcribe": "faster-whisper, WhisperModel.transcribe, VAD",
    "batched": "faster-whisper, BatchedInferencePipeline",
}
BATCH = 8  # windows, of the batched pipeline; it is its default, and ours on a CPU
SAY_EVERY_S = 30  # how far it has come
Done = Callable[[str, dict[str, Any]], None]
Work = Callable[[list[str], Done], None]


def ours(run: SimpleNamespace) -> Work:
    """The pipeline's engine with its production settings."""
    import config
    from pipeline.speech.transcriber import Transcriber
    from pipeline.speech.transcript import Transcript
    from pipeline.speech.whisper import Whisper

    whisper = Whisper(Path(run.model), "cpu", 0, "float32", run.threads, config.whisper_options())

    def work(files: list[str], done: Done) -> None:
        def deliver(name: str, result: Transcript | Exception) -> None:
            if isinstance(result, Exception):
                raise result
            segments = [
                {"start": one.start, "end": one.end, "text": one.text,
                 "language": one.language or result.language, "spoken": one.is_spoken, "channel": one.channel}
                for one in result.segments
            ]  # fmt: skip
            done(name, {"language": result.language, "segments": segments})

        with Transcriber(whisper, deliver, config.PREPARE_THREADS, whisper.batch_that_fits()) as engine:
            for name in files:
                engine.submit(name, Path(name))
            engine.drain()

    return work


def transcribe(run: SimpleNamespace) -> Work:
    """faster-whisper's sequential way with its voice gate; all else as it comes."""
    model = _faster_whisper(run)
    return _one_by_one(lambda name: model.transcribe(name, vad_filter=True, word_timestamps=run.words))


def batched(run: SimpleNamespace) -> Work:
    """faster-whisper's batches as they come: with its voice gate, without timestamps."""
    from faster_whisper import BatchedInferencePipeline

    model = BatchedInferencePipeline(_faster_whisper(run))
    return _one_by_one(lambda name: model.transcribe(name, batch_size=BATCH, word_timestamps=run.words))


def _one_by_one(transcribe: Callable[[str], tuple[Iterable[Any], Any]]) -> Work:
    def work(files: list[str], done: Done) -> None:
        for name in files:
            done(name, _taken(*transcribe(name)))

    return work


def _faster_whisper(run: SimpleNamespace) -> Any:
    from faster_whisper import WhisperModel

    return WhisperModel(run.model, "cpu", compute_type="float32", cpu_threads=run.threads, local_files_only=True)


def _taken(segments: Iterable[Any], info: Any) -> dict[str, Any]:
    """What faster-whisper gives for a file; it has one language for all of it."""
    return {
        "language": info.language,
        "segments": [
            {"start": one.start, "end": one.end, "text": one.text, "language": info.language, "spoken": True}
            for one in segments
        ],
    }


def main() -> None:
    """Transcribe the files that the input names and print what was heard, and the seconds that it took."""
    run = SimpleNamespace(**json.loads(sys.stdin.read()))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: run.threads])
    ctranslate2.set_random_seed(1)
    work = {"ours": ours, "transcribe": transcribe, "batched": batched}[sys.argv[1]](run)
    heard: dict[str, Any] = {}
    start = said = time.perf_counter()

    def done(name: str, result: dict[str, Any]) -> None:
        nonlocal said
        heard[name] = result
        if time.perf_counter() - said > SAY_EVERY_S:
            said = time.perf_counter()
            print(f"{sys.argv[1]}: {len(heard)} of {len(run.files)} files", file=sys.stderr)

    work(run.files, done)
    print(json.dumps({"wall_s": time.perf_counter() - start, "heard": heard}))


if __name__ == "__main__":
    main()
