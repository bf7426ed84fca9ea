"""What an operator waits for, with a million recordings in PostgreSQL, 1,000 workers and 10,000 open batches.

    bench/operating                        everything; about 20 minutes on two cores
    bench/operating search --rows 100000   one part, with fewer rows

status   `pipelinectl status` and the exporter's answer
page     each page of `pipelinectl web`, as a browser asks for it
search   pipeline.store.search.find in a process that runs already, as the page's, and `pipelinectl search`
         as a command, its start counted: common and rare words, and each filter
watch    a look of the transfer worker at 100 to 100,000 archives that are kept on the EC2 host
notice   from the moment that something goes wrong until status, page and exporter say so

The workers are of 250 hosts, each with 40 open batches of 1,000 files and 1,000 files in its queue. The rows are
made for it: 40 words each of a vocabulary of 20,000 in which the nth word is n times rarer than the first, as in
speech; 1,000 in a batch, the last year of them, some in several languages; and recordings of an hour, with the
times of their words, among the newest.
Written to bench/results: a table for each part.
"""

import argparse
import datetime
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.operating_fleet import ENDED, make_fleet, make_rows
from bench.operating_watch import notice_part, watch_part
from pipeline.foundation import redis_client
from pipeline.foundation.formatting import amount
from pipeline.operations.status import read_status
from pipeline.store.database import Database
from pipeline.store.search import find
from pipeline.store.search_query import Query
from tests.support.fleet import PROJECT, Fleet

RESULTS = PROJECT / "bench" / "results"
CORES = len(os.sched_getaffinity(0))
MOST_SECONDS = 0.5
QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/operating", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="recordings (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=20, help="(default: %(default)s)")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    return given


# --- status and page ---------------------------------------------------------------------------------------


def status_part(given: argparse.Namespace, fleet: Fleet) -> Iterator[str]:
    """The table of the status."""
    client = redis_client.connect(fleet.valkey.worker_url)
    database = Database(fleet.postgres.worker_url)
    seen = read_status(client, QUEUES, database)
    hosts, queues = len(seen.hosts), len(seen.queues)
    yield f"{len(seen.workers):,} workers, {hosts} hosts, {queues} queues, {len(seen.batches):,} open batches."
    yield ""
    yield "| | median | worst |"
    yield "|---|---|---|"
    measured = {
        "read, in a process that runs": lambda: timed(lambda: read_status(client, QUEUES, database)),
        "without PostgreSQL, as the exporter reads it": lambda: timed(lambda: read_status(client, QUEUES)),
        "`pipelinectl status`, its start counted": lambda: timed_command(fleet, "status"),
        "`pipelinectl status --json`": lambda: timed_command(fleet, "status", "--json"),
    }
    for name, measure in measured.items():
        yield f"| {name} | {_span([measure() for _ in range(given.rounds)])} |"
    database.close()


def page_part(given: argparse.Namespace, fleet: Fleet) -> Iterator[str]:
    """The table of the pages."""
    token = secrets.token_hex(16)
    _, address = fleet.page(token)
    long = given.rows  # the newest file is a recording of an hour
    ((batch_id,),) = fleet.query("SELECT max(batch_id) FROM batches")
    pages = {
        "fleet": "/", "batches": "/batches", "a batch": f"/batches/{batch_id}", "failures of a day": "/failures",
        "failures ever": "/failures?age=", "search, a common word": "/search?words=w10",
        "search, a rare word": "/search?words=w19999", "search, the commonest word": "/search?words=w1",
        "a file": "/files/1", "a file of an hour": f"/files/{long}", "the runbook": "/runbook",
    }  # fmt: skip
    yield "| | size | median | worst |"
    yield "|---|---|---|---|"
    sizes: list[int] = []

    def fetch(path: str) -> None:
        asked = urllib.request.Request(f"{address}{path}", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=60) as answer:  # nosec B310
            sizes.append(len(answer.read()))

    for name, path in pages.items():
        seconds = [timed(partial(fetch, path)) for _ in range(given.rounds)]
        yield f"| {name} | {sizes[-1] / 1000:.0f} kB | {_span(seconds)} |"
        print(f"{name}: {_ms(statistics.median(seconds))}", file=sys.stderr)


def timed(step: Callable[[], object]) -> float:
    """The seconds that a step takes."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def _span(seconds: list[float]) -> str:
    return f"{_ms(statistics.median(seconds))} | {_ms(max(seconds))}"


# --- search ------------------------------------------------------------------------------------------------


def searches(rows: int) -> dict[str, Query]:
    """What is searched for; the rows are those of a year."""
    month, old = ENDED - datetime.timedelta(days=30), ENDED - datetime.timedelta(days=300)
    at = rows // 2 // 1000 * 1000 + 500
    made = ENDED - (rows - at) * datetime.timedelta(days=365) / rows
    batch = f"{made:%Y%m%d}-{at // 1000:06}"
    return {
        "the commonest word": Query("w1"),
        "a common word": Query("w10"),
        "a word in one of 25 files": Query("w100"),
        "a word in one of 250 files": Query("w1000"),
        "a word in one of 5,000 files": Query("w19999"),
        "a word in one file": Query("needle"),
        "a word in none": Query("nowhere"),
        "a word that is common, but in the oldest files only": Query("yesteryear"),
        "two common words": Query("w1 w2"),
        "a common and a rare word": Query("w1 w19999"),
        "a phrase of common words": Query('"w1 w2"'),
        "one of two rare words": Query("w15000 or w19999"),
        "a common word without another": Query("w2 -w1"),
        "a word at the end of recordings of an hour": Query("meeting"),
        "no word: the newest files": Query(),
        "no word, page 50": Query(offset=1000),
        "a common word, page 50": Query("w10", offset=1000),
        "a common word, of the last 30 days": Query("w10", since=month),
        "a rare word, of the last 30 days": Query("w19999", since=month),
        "a common word, until 300 days ago": Query("w10", until=old),
        "a rare word, until 300 days ago": Query("w19999", until=old),
        "a common word, the common language": Query("w10", language="en"),
        "a common word, a language of one in 1,000": Query("w10", language="sw"),
        "a rare word, a common language": Query("w19999", language="en"),
        "a common word, a second language of one in 50": Query("w10", language="es"),
        "a rare word, a second language of one in 50": Query("w19999", language="es"),
        "no word, a second language of one in 2,000": Query(language="cy"),
        "a common word, the common label": Query("w10", tag="speech"),
        "a common word, a label of one in 200": Query("w10", tag="Siren"),
        "a common word, a label of one in 20,000": Query("w10", tag="Chainsaw"),
        "a rare word, the common label": Query("w19999", tag="speech"),
        "a common word, of a batch": Query("w10", batch_id=batch),
        "a rare word, of a batch": Query("w1000", batch_id=batch),
        "a beginning, of common words": Query("w12*"),
        "a beginning, of rare words": Query("w1999*"),
        "a beginning with another word": Query("w1 w1888*"),
        "a common Chinese word": Query("丁丂"),
        "a rare Chinese word": Query("七凨"),
        "a phrase of four Chinese characters": Query("丁丁丁丂"),
        "one Chinese character": Query("丁"),
        "a common word with an accent": Query("É1"),
        "a rare word with an accent": Query("é15000"),
        "no word, a common value of the metadata": Query(meta=(("talkgroup", "1001"),)),
        "no word, a rare value of the metadata": Query(meta=(("talkgroup", "2950"),)),
        "a common word, a rare value of the metadata": Query("w10", meta=(("emergency", "true"),)),
        "two values of the metadata": Query(meta=(("talkgroup", "1001"), ("frequency", "851000007"))),
        "a common word, by relevance": Query("w10", order="relevance"),
        "a word in one of 250 files, by relevance": Query("w1000", order="relevance"),
        "two common words, by relevance": Query("w20 w30", order="relevance"),
        "a rare phrase, by relevance": Query('"w300 w20"', order="relevance"),
        "a word that was never said": Query("w19999x9"),
        "everything at once": Query("w1 w2 -w3", since=old, until=month, language="de", tag="speech"),
    }


def search_part(given: argparse.Namespace, fleet: Fleet) -> Iterator[str]:
    """The table of the searches."""
    database = Database(fleet.postgres.worker_url)
    yield "| | hits shown | median | 95th percentile | worst |"
    yield "|---|---|---|---|---|"
    slow = []
    for name, query in searches(given.rows).items():
        seconds, hits = [], 0
        for _ in range(given.rounds):
            began = time.perf_counter()
            hits = len(find(database, query).hits)
            seconds.append(time.perf_counter() - began)
        if statistics.median(seconds) > MOST_SECONDS:
            slow.append(name)
        yield f"| {name} | {hits} | {_spread(seconds)} |"
        print(f"{name}: {_ms(statistics.median(seconds))}", file=sys.stderr)
    database.close()
    seconds = [timed_command(fleet, "search", "w10") for _ in range(given.rounds)]
    idle = [timed_command(fleet, "--help") for _ in range(given.rounds)]
    yield f"| `pipelinectl search` of a common word | 20 | {_spread(seconds)} |"
    yield f"| `pipelinectl --help` | | {_spread(idle)} |"
    yield ""
    yield _sizes(fleet)
    yield ""
    yield f"Over {MOST_SECONDS} s in the median: {', '.join(slow) or 'none'}."


def _spread(seconds: list[float]) -> str:
    late = sorted(seconds)[int(0.95 * (len(seconds) - 1) + 0.5)]
    return f"{_ms(statistics.median(seconds))} | {_ms(late)} | {_ms(max(seconds))}"


def _sizes(fleet: Fleet) -> str:
    """How much the text is, and what a search reads of it."""
    ((text, rows, index),) = fleet.query(
        "SELECT (SELECT sum(octet_length(text)) FROM transcripts),"
        " pg_table_size('passages') + pg_relation_size('passages_pkey'), pg_relation_size('passages_by_word')"
    )
    return f"The text is {amount(int(text))}, its passages {amount(rows)}, their index of words {amount(index)}."


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def timed_command(fleet: Fleet, *arguments: str) -> float:
    """The seconds that a command of pipelinectl takes, its start counted."""
    command = [sys.executable, str(PROJECT / "pipelinectl.py"), *arguments]
    environment = fleet.environment()
    done: list[int] = []

    def run() -> None:
        done.append(subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode)

    seconds = timed(run)
    if done != [0] and not (arguments[0] == "status" and done == [1]):  # degraded, which is an answer
        raise RuntimeError(f"pipelinectl {arguments[0]}: exit status {done[0]}")
    return seconds


PARTS: dict[str, Callable[[argparse.Namespace, Fleet], Iterator[str]]] = {
    "status": status_part,
    "page": page_part,
    "search": search_part,
    "watch": watch_part,
    "notice": notice_part,
}
WITH_ROWS = {"status", "page", "search"}


def processor() -> str:
    """The name of this machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> int:
    """Make the rows, run the parts and write their tables."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="bench-operating-") as folder, Fleet(Path(folder)) as fleet:
        fleet.control("migrate")
        fleet.postgres.grant()
        parts = given.parts or list(PARTS)
        if WITH_ROWS & set(parts):
            took = make_rows(fleet, given.rows)
            print(f"{given.rows} rows made in {took:.0f} s", file=sys.stderr)
            make_fleet(redis_client.connect(fleet.valkey.url), QUEUES)
        for part in sorted(parts, key=lambda part: part not in WITH_ROWS):
            if part not in WITH_ROWS:
                clean = Path(folder, part)
                clean.mkdir()
                fleet.clean(clean)
            load = os.getloadavg()[0]
            lines = list(PARTS[part](given, fleet))
            rows = f"{given.rows:,} recordings, " if part in WITH_ROWS else ""
            rounds = "" if part == "notice" else f", {given.rounds} rounds"
            what = f"{rows}on {CORES} cores of {processor()}{rounds}"
            text = "\n".join([f"{what}; the load was {load:.1f} before:", "", *lines, ""])
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / f"operating-{part}.md").write_text(text)
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
