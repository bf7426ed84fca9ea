"""What an operator waits for, with a million recordings in PostgreSQL, 1,000 workers and 10,000 open batches.

    bench/operating                        everything; about 20 minutes on two cores
    bench/operating search --rows 100000   one part, with fewer rows

status   `pipelinectl status` and the exporter's answer
page     each page of `pipelinectl web`, as a browser asks for it
search   pipeline.store.transcripts.search in a process that runs already, as the page's, and `pipelinectl search`
as a
         command, its start counted: common and rare words, and each filter

The workers are of 250 hosts, each with 40 open batches of 1,000 files and 1,000 files in its queue. The rows are
made for it: 40 words each of a vocabulary of 20,000 in which the nth word is n times rarer than the first, as in
speech; 1,000 in a batch, the last year of them, some in several languages; and recordings of an hour, with the
times of their words, among the newest.
Written to bench/results: a table for each part.
"""

import argparse
import datetime
import json
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
from typing import Any

import psycopg2

from pipeline.foundation import redis_client
from pipeline.jobs import batches, job_queue
from pipeline.operations.status import read_status
from pipeline.store.database import Database
from pipeline.store.transcripts import Query, search
from tests.support.fleet import PROJECT, Fleet

RESULTS = PROJECT / "bench" / "results"
CORES = len(os.sched_getaffinity(0))
MOST_SECONDS = 0.5
QUEUES = ["queue:transfer", "queue:unpack", "queue:transcribe"]
HOSTS, WORKERS, BATCHES = 250, 1000, 10_000
LONG = 200  # recordings of an hour, among the newest files
ENDED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

# w1 is in almost every text, w20000 in one of 5,000. Four segments of ten words are drawn from 100,000 such.
ROWS = """
SELECT setseed(0.5);
CREATE TEMP TABLE phrases AS
SELECT id, (SELECT string_agg('w' || floor(20000 ^ random())::int, ' ')
            FROM generate_series(1, 10 + 0 * id)) AS text
FROM generate_series(0, 99999) AS id;
CREATE UNIQUE INDEX ON phrases (id);
ANALYZE phrases;
CREATE TEMP TABLE drawn AS
SELECT id, floor(100000 * random())::int AS a, floor(100000 * random())::int AS b,
       floor(100000 * random())::int AS c, floor(100000 * random())::int AS d
FROM generate_series(1, %(rows)s) AS id;
INSERT INTO audio_files (audio_id, batch_id, original_filename, status, duration_seconds, language, languages,
                         created_at, updated_at, s3_opus_path)
SELECT id, to_char(made, 'YYYYMMDD') || '-' || lpad((id / 1000)::text, 6, '0'), 'call' || id || '.mp3', 'done', 20,
       language,
       CASE WHEN id %% 2000 = 11 THEN ARRAY[language, 'cy'] WHEN id %% 50 = 3 THEN ARRAY[language, 'es', 'pt']
            ELSE ARRAY[language] END,
       made, made, 'processed/' || to_char(made, 'YYYY-MM-DD') || '/' || id || '.opus'
FROM (SELECT id, %(ended)s - (%(rows)s - id) * interval '1 year' / %(rows)s AS made,
             CASE WHEN id %% 1000 = 0 THEN 'sw' WHEN id %% 100 = 1 THEN 'fr' WHEN id %% 10 = 2 THEN 'de'
                  ELSE 'en' END AS language
      FROM drawn) AS files;
DROP INDEX transcripts_by_word;
INSERT INTO transcripts (audio_id, text, segments, model)
SELECT drawn.id, concat_ws(' ', a.text, b.text, c.text, d.text, extra),
       jsonb_build_array(jsonb_build_object('start', 0, 'end', 5, 'text', a.text),
                         jsonb_build_object('start', 5, 'end', 10, 'text', b.text),
                         jsonb_build_object('start', 10, 'end', 15, 'text', c.text),
                         jsonb_build_object('start', 15, 'end', 20, 'text', concat_ws(' ', d.text, extra))),
       'bench'
FROM (SELECT *, CASE WHEN id = %(rows)s / 3 THEN 'needle' WHEN id <= %(rows)s / 10 THEN 'yesteryear' END AS extra
      FROM drawn) AS drawn
JOIN phrases AS a ON a.id = drawn.a JOIN phrases AS b ON b.id = drawn.b
JOIN phrases AS c ON c.id = drawn.c JOIN phrases AS d ON d.id = drawn.d;
UPDATE transcripts SET text = long.text, segments = long.segments
FROM (SELECT of.id, string_agg(phrases.text, ' ' ORDER BY phrases.id) || ' meeting' AS text,
             jsonb_agg(jsonb_build_object('start', 4 * (phrases.id %% 900), 'end', 4 * (phrases.id %% 900) + 4,
                                          'text', phrases.text, 'language', 'en', 'confidence', 0.9,
                                          'words', spoken.words) ORDER BY phrases.id)
             || jsonb_build_array(jsonb_build_object('start', 3600, 'end', 3601, 'text', 'meeting')) AS segments
      FROM (SELECT %(rows)s - 3 * n AS id, n
            FROM generate_series(0, least(%(long)s, %(rows)s / 10) - 1) AS n) AS of
      JOIN phrases ON phrases.id BETWEEN 400 * of.n AND 400 * of.n + 899
      CROSS JOIN LATERAL (
          SELECT jsonb_agg(jsonb_build_object('start', place, 'end', place + 0.25, 'word', word,
                                              'probability', 0.9)) AS words
          FROM unnest(string_to_array(phrases.text, ' ')) WITH ORDINALITY AS each(word, place)
      ) AS spoken
      GROUP BY of.id) AS long
WHERE audio_id = long.id;
INSERT INTO classifications
SELECT id, 'content', CASE WHEN id %% 20 = 3 THEN 'silence' ELSE 'speech' END, 0.9 FROM drawn;
INSERT INTO classifications SELECT id, 'audio_tag', 'Siren', 0.4 FROM drawn WHERE id %% 200 = 4;
INSERT INTO classifications SELECT id, 'audio_tag', 'Chainsaw', 0.4 FROM drawn WHERE id %% 20000 = 5;
INSERT INTO batches (batch_id, s3_key, file_count, host, opened_at, finished_at)
SELECT batch_id, 'archives/' || batch_id || '.tar', count(*), 'gpu-001', min(created_at), max(created_at)
FROM audio_files GROUP BY batch_id;
UPDATE audio_files SET status = 'failed', error = 'no sound in it, kind ' || audio_id %% 13, updated_at = now()
WHERE audio_id %% 100 = 7;
SET maintenance_work_mem = '256MB';
CREATE INDEX transcripts_by_word ON transcripts USING gin (words);
DROP TABLE phrases, drawn;
ANALYZE audio_files, transcripts, classifications;
"""


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


def make_rows(fleet: Fleet, rows: int) -> float:
    """Fill the empty tables; gives the seconds that it took."""
    began = time.perf_counter()
    with psycopg2.connect(fleet.postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute(ROWS, {"rows": rows, "long": LONG, "ended": ENDED})
    connection.close()
    return time.perf_counter() - began


def make_fleet(redis: Any, queues: list[str]) -> None:
    """Fill the empty Redis: what the workers say of themselves, their queues, the open batches."""
    now = redis.time()[0]
    steps = redis.pipeline(transaction=False)
    hosts = [f"gpu-{number:03}" for number in range(HOSTS)]
    for number in range(WORKERS):
        host = hosts[number % HOSTS]
        role = "unpack" if number < HOSTS else "gpu"
        queue = queues[1] if role == "unpack" else f"{queues[2]}:{host}"
        worker_id = f"{host}-{role}{number // HOSTS}"
        said = {
            "role": role, "host": host, "pid": 1, "started": "", "queue": queue, "doing": "transcribing 128 files",
            "since": now, "beat": now, "hour": {"seconds": 3600, "done": 900, "failed": 1, "audio_seconds": 1e4},
            "disk": {"free": 5 * 10**11, "size": 10**12},
            "gpu": {"name": "A100", "busy": 0.9, "memory_used": 1, "memory": 2} if role == "gpu" else None,
        }  # fmt: skip
        steps.set(job_queue.heartbeat_key(worker_id), json.dumps(said))
        steps.zadd(f"{queue}:workers", {worker_id: now})
        steps.rpush(f"{queue}:working:{worker_id}", *(f'{{"batch_id": "x{count}"}}' for count in range(32)))
    for host in hosts:
        steps.zadd(batches.HOSTS, {host: now})
        steps.hset(batches.QUEUES, f"{queues[2]}:{host}", host)
        steps.rpush(f"{queues[2]}:{host}", *(f'{{"batch_id": "y{count}"}}' for count in range(1000)))
    for number in range(BATCHES):
        batch_id = f"20260101-{number:06}"
        fields = ("host", "s3_key", "total", "processed", "failed")
        values = (hosts[number % HOSTS], f"archives/{batch_id}.tar", 1000, number % 1000, number % 7)
        steps.mset(dict(zip(batches.keys_of(batch_id, *fields), values, strict=True)))
        steps.zadd(batches.OPEN, {batch_id: now - 600})
    steps.execute()


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
        "everything at once": Query("w1 w2 -w3", since=old, until=month, language="de", tag="speech"),
    }


def search_part(given: argparse.Namespace, fleet: Fleet) -> Iterator[str]:
    """The table of the searches."""
    database = Database(fleet.postgres.worker_url)
    yield "| | hits shown | median | worst |"
    yield "|---|---|---|---|"
    slow = []
    for name, query in searches(given.rows).items():
        seconds, hits = [], 0
        for _ in range(given.rounds):
            began = time.perf_counter()
            hits = len(search(database, query))
            seconds.append(time.perf_counter() - began)
        if statistics.median(seconds) > MOST_SECONDS:
            slow.append(name)
        yield f"| {name} | {hits} | {_span(seconds)} |"
        print(f"{name}: {_ms(statistics.median(seconds))}", file=sys.stderr)
    database.close()
    seconds = [timed_command(fleet, "search", "w10") for _ in range(given.rounds)]
    idle = [timed_command(fleet, "--help") for _ in range(given.rounds)]
    yield f"| `pipelinectl search` of a common word | 20 | {_span(seconds)} |"
    yield f"| `pipelinectl --help` | | {_span(idle)} |"
    yield ""
    yield f"Over {MOST_SECONDS} s in the median: {', '.join(slow) or 'none'}."


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
}


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
        took = make_rows(fleet, given.rows)
        print(f"{given.rows} rows made in {took:.0f} s", file=sys.stderr)
        make_fleet(redis_client.connect(fleet.valkey.url), QUEUES)
        for part in given.parts or PARTS:
            load = os.getloadavg()[0]
            lines = list(PARTS[part](given, fleet))
            what = f"{given.rows:,} recordings, on {CORES} cores of {processor()}, {given.rounds} rounds"
            text = "\n".join([f"{what}; the load was {load:.1f} before:", "", *lines, ""])
            RESULTS.mkdir(parents=True, exist_ok=True)
            (RESULTS / f"operating-{part}.md").write_text(text)
            print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
