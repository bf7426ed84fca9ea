"""No password and no secret key shows: not in a log, an error, a command line, Redis or a row.

Those of the tests begin with `HUSH`, and `Fleet.check` looks for it in the log of every worker of every test.
"""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.child import Child, descendants
from tests.support.fleet import PROJECT, Fleet
from tests.support.recordings import DAMAGED, SILENCE, SPEECH, make_tar
from tests.support.servers import HUSH, POSTGRES_PASSWORD, REDIS_PASSWORD
from tests.support.steps import log_of, refusal, wait_for, wait_for_log


@contextmanager
def watched(workers: list[Child]) -> Iterator[dict[str, str]]:
    """What `ps` can see of the workers and what they start: command line -> its environment (theirs alone)."""
    seen: dict[str, str] = {}
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.01):
            for worker in list(workers):
                if (process := worker.process) is not None:
                    seen.setdefault(_read(process.pid, "cmdline"), "")
                    with suppress(OSError):  # one that ends just now
                        for pid in descendants(process.pid):
                            command = _read(pid, "cmdline")
                            if "_worker.py" not in command:  # else it is still the worker that begins to start it
                                seen[command] = _read(pid, "environ") or seen.get(command, "")

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(look)
        try:
            yield seen
        finally:
            ended.set()
            watching.result()


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode(errors="replace")
    except OSError:  # it has ended
        return ""


def everything_in(redis: Any) -> str:
    """Every key of Redis with its value."""
    read = {"string": "get", "hash": "hgetall", "set": "smembers"}
    found = []
    for key in redis.scan_iter():
        kind = redis.type(key)
        if kind in read:
            value = getattr(redis, read[kind])(key)
        else:
            value = redis.zrange(key, 0, -1) if kind == "zset" else redis.lrange(key, 0, -1)
        found.append(f"{key}: {value}")
    return "\n".join(found)


def every_row(fleet: Fleet) -> str:
    """Every row of every table."""
    tables = [name for (name,) in fleet.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert "audio_files" in tables
    return "\n".join(str(row) for name in tables for row in fleet.query(f"SELECT t::text FROM {name} AS t"))


def finished(fleet: Fleet, batches: int) -> None:
    """Wait until so many batches are finished."""
    done = "SELECT count(finished_at) FROM batches"
    wait_for(lambda: fleet.query(done) == [(batches,)], fleet, f"{batches} batches", seconds=120)


def test_no_secret_shows_in_good_work_outages_refusals_and_tracebacks(fleet: Fleet, redis: Any) -> None:
    fleet.nursery = None  # what /proc shows is to be theirs
    fleet.changes = {"LOG_LEVEL": "DEBUG"}
    fails = [
        str(PROJECT / "tests" / "support" / "kill_at.py"),
        "pipeline.store.database:Database.open_batch",
        "before",
        "1",
        "CUDA",
    ]
    with watched(fleet.workers) as seen:
        transfer, gpu = fleet.worker("transfer"), fleet.worker("gpu")
        unpack = fleet.run([*fails, str(PROJECT / "unpack_worker.py")], "unpack")

        def bring(name: str) -> None:
            files = {f"{name}{number}.mp3": SPEECH for number in range(4)}
            tar = make_tar(fleet.ssh.folder / f"{name}.tar", {**files, "quiet.mp3": SILENCE, "cut.mp3": DAMAGED})
            assert fleet.control("enqueue", str(tar)).returncode == 0

        bring("first")
        finished(fleet, 1)
        assert "Traceback (most recent call last)" in log_of(unpack)

        fleet.s3.kill()  # outages
        fleet.postgres.kill()
        bring("second")
        wait_for_log(transfer, "S3 is unavailable")
        fleet.s3.start()
        fleet.s3.create_bucket(fleet.bucket)
        wait_for_log(unpack, "PostgreSQL is unavailable")
        fleet.postgres.start()
        finished(fleet, 2)
        fleet.valkey.kill()
        for worker in (transfer, unpack, gpu):
            wait_for_log(worker, "Redis is unavailable")
        fleet.valkey.start()

        redis.execute_command("ACL", "SETUSER", "audio-pipeline", "resetpass", f">{HUSH}another")  # refusals
        redis.execute_command("CLIENT", "KILL", "USER", "audio-pipeline")
        for worker in (transfer, unpack, gpu):
            wait_for_log(worker, "invalid username-password pair")
        redis.execute_command("ACL", "SETUSER", "audio-pipeline", "resetpass", f">{REDIS_PASSWORD}")
        fleet.postgres.execute(f"ALTER ROLE audio_pipeline PASSWORD '{HUSH}another'")
        fleet.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'audio_pipeline'")
        bring("third")
        wait_for_log(unpack, "password authentication failed")
        fleet.postgres.execute(f"ALTER ROLE audio_pipeline PASSWORD '{POSTGRES_PASSWORD}'")
        finished(fleet, 3)

        for name in ("REDIS_URL", "DATABASE_URL"):
            url = fleet.settings()[name].replace(HUSH, f"{HUSH}wrong-")
            worker = fleet.worker("unpack", f"refused-{name}", **{name: url})
            assert name in refusal(worker)
            fleet.workers.remove(worker)

        for worker in fleet.workers:
            assert worker.process is not None
            assert Path(f"/proc/{worker.process.pid}/environ").stat().st_mode & 0o077 == 0
    programs = {Path(command.partition("\0")[0]).name for command in seen if command}
    assert {"scp", "ssh"} <= programs
    assert any("ffmpeg" in name for name in programs), programs
    for command, environment in seen.items():
        assert HUSH not in command + environment, command
    assert HUSH not in everything_in(redis)
    assert HUSH not in every_row(fleet)
    fleet.check()
