"""What bench/operating looks at: a million recordings in PostgreSQL, and a large fleet's state in Redis."""

import datetime
import json
import time
from pathlib import Path
from typing import Any

import psycopg2

from pipeline.jobs import batches, job_queue
from pipeline.store.database import Database
from tests.support.fleet import Fleet

HOSTS, WORKERS, BATCHES = 250, 1000, 10_000
LONG = 200  # recordings of an hour, among the newest files
ENDED = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
ROWS = Path(__file__).with_name("operating_rows.sql").read_text()


def make_rows(fleet: Fleet, rows: int) -> float:
    """Fill the empty tables; gives the seconds that it took."""
    began = time.perf_counter()
    with psycopg2.connect(fleet.postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute(ROWS, {"rows": rows, "long": LONG, "ended": ENDED})
    database = Database(fleet.postgres.url)
    while database.index_transcripts():
        pass
    database.close()
    with connection, connection.cursor() as cursor:
        cursor.execute("ANALYZE audio_files, transcripts, passages, classifications")
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
