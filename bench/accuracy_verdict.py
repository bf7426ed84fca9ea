"""The rules that this pipeline's engine must keep in bench/accuracy, and whether it does."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.accuracy_result import Result, spread, total
from bench.accuracy_score import Cues, Words

Results = Mapping[str, Mapping[str, Result]]  # by corpus and program
SLACK = 0.002  # of the word error rate: what another seed may change
LEAST_WORDS = 30  # of a language: with fewer, one word is more than the slack many times over
MEDIAN, P95, BEYOND = 0.2, 1.0, 0.5  # seconds: what a reader of subtitles does not notice, or hardly
WHOLE_WINDOWS = ("a minute each", "a window each")  # patterns in which a language fills a window
PEERS = ("transcribe", "batched")
OURS = ("calls",)  # corpora that the others cannot read: they mix the channels
OF_A_CALL = 0.01  # of the word error rate: what a channel may lose by the other one beside it


@dataclass(frozen=True)
class Rule:
    """What must hold, whether it does, and what was found."""

    text: str
    holds: bool
    found: str


def rules(results: Results) -> list[Rule]:
    """Every rule whose corpora and programs were measured."""
    return [
        *_long(results),
        *_all_together(results),
        *_clips(results),
        *_repeated(results),
        *_nothing(results),
        *_times(results),
        *_cues(results),
        *_languages(results),
        *_calls(results),
    ]


def _beside(results: Results, corpus: str) -> tuple[Words, Words] | None:
    """Our words and those of the better peer in a corpus; None where one of them was not measured."""
    engines = results.get(corpus, {})
    peers = [engines[name].words for name in PEERS if name in engines]
    if "ours" not in engines or not peers:
        return None
    return engines["ours"].words, min(peers, key=lambda words: words.errors)


def _long(results: Results) -> Iterator[Rule]:
    if pair := _beside(results, "long"):
        ours, peer = pair
        found = f"{ours.deleted} and {peer.deleted}"
        yield Rule("long: no more words deleted than by the better peer", ours.deleted <= peer.deleted, found)
        found = f"{ours.rate:.2%} and {peer.rate:.2%}"
        yield Rule(
            "long: word error rate at most 0.2 points over the better peer's",
            ours.rate <= peer.rate + SLACK,
            found,
        )


def _all_together(results: Results) -> Iterator[Rule]:
    compared = [one for corpus, one in results.items() if corpus not in OURS]
    engines = [name for name in PEERS if compared and all(name in one for one in compared)]
    if not engines or not all("ours" in one for one in compared):
        return
    errors = {name: total(one[name].words for one in compared).errors for name in ("ours", *engines)}
    best = min(errors[name] for name in engines)
    found = f"{errors['ours']} and {best}"
    yield Rule("all corpora: fewer wrong words than the better peer", errors["ours"] < best, found)


def _clips(results: Results) -> Iterator[Rule]:
    engines = results.get("clips", {})
    if not {"ours", "transcribe"} <= set(engines):
        return
    ours, peer = engines["ours"].languages, engines["transcribe"].languages
    for language in (language for language, words in ours.items() if words.said > LEAST_WORDS):
        mine, theirs = ours[language], peer[language]
        yield Rule(
            f"clips, {language}: word error rate at most 0.2 points over faster-whisper's",
            mine.rate <= theirs.rate + SLACK,
            f"{mine.rate:.2%} and {theirs.rate:.2%} of {mine.said} words",
        )


def _repeated(results: Results) -> Iterator[Rule]:
    engines = results.get("repeated", {})
    if {"ours", "transcribe"} <= set(engines):
        mine, theirs = engines["ours"].words.right, engines["transcribe"].words.right
        found = f"{mine} and {theirs} of {engines['ours'].words.said}"
        yield Rule("repeated: at least as many words right as faster-whisper has", mine >= theirs, found)


def _calls(results: Results) -> Iterator[Rule]:
    if ours := results.get("calls", {}).get("ours"):
        for group, words in ours.groups.items():
            channel, _, kind = group.partition(", ")
            if kind == "of a call":
                alone = ours.groups[f"{channel}, alone"]
                yield Rule(
                    f"calls, {channel}: word error rate at most 1 point over that of the channel alone",
                    words.rate <= alone.rate + OF_A_CALL,
                    f"{words.rate:.2%} and {alone.rate:.2%} of {words.said} words",
                )


def _nothing(results: Results) -> Iterator[Rule]:
    if ours := results.get("nothing", {}).get("ours"):
        words = ours.words.inserted
        where = ", ".join(f"{kind}: {len(found)}" for kind, found in ours.invented.items())
        yield Rule("nothing: no word", words == 0, f"{words} words{' (' + where + ')' if where else ''}")


def _times(results: Results) -> Iterator[Rule]:
    for corpus, engines in results.items():
        if "ours" not in engines or (times := engines["ours"].times) is None:
            continue
        for kind, errors in (("starts", times.starts), ("ends", times.ends)):
            one = spread(errors)
            yield Rule(
                f"{corpus}: {kind} of segments off by at most {MEDIAN} s (median) and {P95} s (95th percentile)",
                one["median"] <= MEDIAN and one["p95"] <= P95,
                f"{one['median']:.2f} and {one['p95']:.2f} s",
            )
        yield Rule(
            f"{corpus}: no segment more than {BEYOND} s beyond its speech",
            times.beyond <= BEYOND,
            f"{times.beyond:.2f} s ({times.farthest})",
        )


def _cues(results: Results) -> Iterator[Rule]:
    found = {corpus: engines["ours"].cues for corpus, engines in results.items() if "ours" in engines}
    cues, wrong = Cues(), []
    for corpus, one in found.items():
        cues += one
        if one.overlapping or one.empty or one.late:
            wrong.append(corpus)
    yield Rule(
        "all corpora: no segment overlaps, is empty or ends after the recording",
        not wrong,
        ", ".join([f"{cues.overlapping}, {cues.empty} and {cues.late} of {cues.all}", *wrong]),
    )


def _languages(results: Results) -> Iterator[Rule]:
    """Each clip in its language where a window holds one; where it holds several, what a model can hear in some
    seconds decides, and the better peer is the measure."""
    engines = results.get("languages", {})
    if ours := engines.get("ours"):
        peers = [engines[name] for name in PEERS if name in engines]
        for pattern, share in ours.clips.items():
            if pattern in WHOLE_WINDOWS:
                yield Rule(
                    f"languages, {pattern}: each clip in its language", share.right == share.all, str(share)
                )
            elif peers:
                best = max((peer.clips[pattern] for peer in peers), key=lambda one: one.right)
                yield Rule(
                    f"languages, {pattern}: as many clips in their language as with the better peer",
                    share.right >= best.right,
                    f"{share} and {best}",
                )
