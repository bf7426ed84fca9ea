"""What bench/accuracy writes: its numbers (JSON), tables (Markdown) and a chart (PNG)."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import report
from bench.accuracy_corpora import Corpus
from bench.accuracy_engine import ENGINES
from bench.accuracy_result import Result, spread, total
from bench.accuracy_score import Words
from bench.accuracy_verdict import OURS, Results, Rule
from bench.report import Panel
from pipeline.foundation.formatting import count

GROUPED = ("clips", "telephone", "noise", "repeated", "tones", "calls")  # corpora whose groups have a table
MOST_WORDS = 12  # that nobody said, shown of a sound


def write(
    folder: Path,
    name: str,
    settings: Mapping[str, Any],
    corpora: Mapping[str, Corpus],
    results: Results,
    timings: Results,
    verdict: list[Rule],
) -> str:
    """Write `name`.json, .md and .png into the folder; gives the tables. `timings` are the peers' results with
    their word timestamps, of corpora whose times are compared."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {
        "settings": settings,
        "corpora": {
            corpus: {
                "what": corpora[corpus].what,
                "files": len(corpora[corpus].files),
                "engines": {engine: one.as_json() for engine, one in engines.items()},
                "with word timestamps": {
                    engine: one.as_json() for engine, one in timings.get(corpus, {}).items() if engine != "ours"
                },
            }
            for corpus, engines in results.items()
        },
        "verdict": list(map(asdict, verdict)),
    }
    (folder / f"{name}.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n")
    text = "\n".join(tables(settings, corpora, results, timings, verdict)) + "\n"
    (folder / f"{name}.md").write_text(text)
    report.draw(folder / f"{name}.png", _panels(results))
    return text


def tables(
    settings: Mapping[str, Any],
    corpora: Mapping[str, Corpus],
    results: Results,
    timings: Results,
    verdict: list[Rule],
) -> Iterator[str]:
    """The results as Markdown, line by line."""
    yield (
        f"Whisper {settings['model']}, float32, on {settings['threads']} cores of {report.processor()};"
        f" faster-whisper {settings['faster-whisper']}, CTranslate2 {settings['ctranslate2']};"
        f" the load was {settings['load']} before."
    )
    opus = f"the Opus ({settings['opus_kbps']} kb/s) that the unpack worker makes of a file"
    yield f"This pipeline's engine reads {opus}, the others read the file itself."
    if settings["reused"]:
        yield "The others' texts are those of an earlier run."
    yield from _verdict(verdict)
    yield from _words(corpora, results)
    for corpus in GROUPED:
        if corpus in results:
            yield from _groups(corpus, results[corpus])
    if "languages" in results:
        yield from _languages(results)
    if "nothing" in results:
        yield from _nothing(results["nothing"])
    yield from _times(timings)
    yield from _cues(results)


def _verdict(verdict: list[Rule]) -> Iterator[str]:
    yield from ("", "| rule | found (ours and theirs) | |", "|---|---|---|")
    for rule in verdict:
        found = rule.found.replace("|", "/")  # it may hold what a program heard
        yield f"| {rule.text} | {found} | {'holds' if rule.holds else '**does not hold**'} |"


def _words(corpora: Mapping[str, Corpus], results: Results) -> Iterator[str]:
    yield from ("", 'Words; "lost" are the deleted ones that go three or more in a row:')
    yield from (
        "",
        "| corpus | | word error rate | substituted | deleted | lost | inserted | languages | audio s per s |",
        "|---|---|---|---|---|---|---|---|---|",
    )
    for corpus, engines in results.items():
        about = corpora[corpus]
        minutes = sum(file.seconds for file in about.files) / 60
        first = f"{corpus}: {about.what}; {count(len(about.files), 'file')}, {minutes:.0f} min"
        for engine, one in engines.items():
            languages = one.files if one.files.all else ""
            yield f"| {first} | {ENGINES[engine]} | {_counts(one.words)} | {languages} | {one.speed:.1f} |"
            first = ""
    first = "all"
    for engine in ENGINES:
        compared = [engines for corpus, engines in results.items() if corpus not in OURS]
        if compared and all(engine in engines for engines in compared):
            words = total(engines[engine].words for engines in compared)
            yield f"| {first} | {ENGINES[engine]} | {_counts(words)} | | |"
            first = ""


def _counts(words: Words) -> str:
    """The cells for words: each count, and its share of what was said."""
    if not words.said:
        return f"| {words.substituted} | {words.deleted} | {words.lost} | {words.inserted}"
    kinds = (words.substituted, words.deleted, words.lost, words.inserted)
    cells = [f"{kind} ({kind / words.said:.1%})" for kind in kinds]
    return f"{words.rate:.1%} of {words.said} | {' | '.join(cells)}"


def _groups(corpus: str, engines: Mapping[str, Result]) -> Iterator[str]:
    """The word error rate of each group, or where phrases are repeated the words that are right."""
    is_repeated = corpus == "repeated"
    yield from ("", f"{corpus}, {'words right' if is_repeated else 'word error rate'}:", "")
    yield "| | words | " + " | ".join(ENGINES[engine] for engine in engines) + " |"
    yield "|---" * (len(engines) + 2) + "|"
    for group, words in next(iter(engines.values())).groups.items():
        found = [one.groups[group] for one in engines.values()]
        cells = [f"{one.right}" if is_repeated else f"{one.rate:.1%}" for one in found]
        yield f"| {group} | {words.said} | {' | '.join(cells)} |"


def _languages(results: Results) -> Iterator[str]:
    engines = results["languages"]
    alone = results.get("clips", {})
    yield from ("", "languages, clips in their language:", "")
    yield "| | " + " | ".join(ENGINES[engine] for engine in engines) + " |"
    yield "|---" * (len(engines) + 1) + "|"
    for pattern in next(iter(engines.values())).clips:
        yield f"| {pattern} | {' | '.join(str(one.clips[pattern]) for one in engines.values())} |"
    yield from ("", "languages, word error rate of what is said in each (in the short clips alone):", "")
    yield "| | words | " + " | ".join(ENGINES[engine] for engine in engines) + " |"
    yield "|---" * (len(engines) + 2) + "|"
    for language, words in next(iter(engines.values())).languages.items():
        cells = []
        for engine, one in engines.items():
            single = alone[engine].languages.get(language) if engine in alone else None
            cells.append(f"{one.languages[language].rate:.1%}" + (f" ({single.rate:.1%})" if single else ""))
        yield f"| {language} | {words.said} | {' | '.join(cells)} |"


def _nothing(engines: Mapping[str, Result]) -> Iterator[str]:
    yield from ("", "nothing, words that nobody said:", "")
    yield "| | " + " | ".join(ENGINES[engine] for engine in engines) + " |"
    yield "|---" * (len(engines) + 1) + "|"
    for kind in next(iter(engines.values())).groups:
        cells = []
        for one in engines.values():
            words = one.invented.get(kind, [])
            text = " ".join(words[:MOST_WORDS]) + (" ..." if len(words) > MOST_WORDS else "")
            cells.append(f"{len(words)}: {text}" if words else "0")
        yield f"| {kind} | {' | '.join(cells)} |"


def _times(timings: Results) -> Iterator[str]:
    if not timings:
        return
    yield from (
        "",
        "Times of segments, in seconds off the known ones (compared, median, 95th percentile), and how far the"
        " farthest lies beyond its speech; the others with `word_timestamps=True`:",
        "",
        "| corpus | | starts | ends | beyond |",
        "|---|---|---|---|---|",
    )
    for corpus, engines in timings.items():
        first = corpus
        for engine, one in engines.items():
            assert one.times is not None
            cells = []
            for found in (spread(one.times.starts), spread(one.times.ends)):
                cells.append(f"{found['count']}: {found['median']:.2f}, {found['p95']:.2f}")
            yield f"| {first} | {ENGINES[engine]} | {' | '.join(cells)} | {one.times.beyond:.2f} |"
            first = ""


def _cues(results: Results) -> Iterator[str]:
    yield from (
        "",
        "Segments as subtitles, of all corpora:",
        "",
        "| | all | overlapping | empty | after the end | marked as not understood |",
        "|---|---|---|---|---|---|",
    )
    for engine in ENGINES:
        found = [engines[engine] for engines in results.values() if engine in engines]
        if found:
            cells = [
                sum(getattr(one.cues, kind) for one in found) for kind in ("all", "overlapping", "empty", "late")
            ]
            yield f"| {ENGINES[engine]} | {' | '.join(map(str, cells))} | {sum(one.unheard for one in found)} |"


def _panels(results: Results) -> list[Panel]:
    """The word error rates, a panel for each corpus; of sound without speech the words."""
    panels = []
    for corpus, engines in results.items():
        is_empty = not next(iter(engines.values())).words.said
        values = {
            engine: [float(one.words.inserted if is_empty else 100 * one.words.rate)]
            for engine, one in engines.items()
        }
        panels.append(Panel(corpus, "words that nobody said" if is_empty else "% of the words wrong", values))
    return panels
