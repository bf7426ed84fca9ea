"""The whole pipeline with a proxy before Redis, PostgreSQL and S3, on a clock that may run faster, and its work.

The workers know the services by the proxies only; the tests look past them. The settings are those of production
where a setting is about time, but one: MAX_ATTEMPTS is 1, so that an attempt that is counted for an outage shows.
"""

import contextlib
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psycopg2
import redis
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.foundation import redis_client
from pipeline.store.database import Database
from tests.faults import checker
from tests.faults.checker import Archive, File, Findings, digest
from tests.faults.fast_clock import FastClock
from tests.faults.proxy import Proxy
from tests.faults.redis_pair import RedisPair
from tests.support.child import Child, is_open, wait_until
from tests.support.disks import mounted
from tests.support.fleet import TABLES, Fleet
from tests.support.recordings import DAMAGED, SHORT, SILENCE, WORDS, make_tar, sample
from tests.support.servers import SwiftS3, Valkey
from tests.support.steps import object_keys, s3_client

ROLES = ("transfer", "unpack", "gpu")
# As the workers call them.
NAMES = {
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "s3": "S3",
    "disk": "the disk",
    "clock": "the clock",
}
QUEUES = ("queue:transfer", "queue:unpack", "queue:transcribe")
SETTINGS = {
    "MAX_ATTEMPTS": "1",
    "HEARTBEAT_SECONDS": "30",
    "RETRY_SECONDS": "30",
    "EC2_AFTER_UPLOAD": "delete",
    "SCRATCH_MIN_FREE_MB": "1",
}
PAD_BYTES = 3 * 2**20  # of each archive, which is no audio: that copying and uploading take a moment
DISK_MB = 200
BUSY_SECONDS = 180.0  # true seconds, until by chance each worker has work in its hands at once
QUIET_SECONDS = 180.0  # true seconds, without a sign of progress, before what is not done is stranded


class FastValkey(Valkey):
    """Valkey with a clock of its own."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder)
        self.environment = environment

    def _set_up(self) -> list[Child]:
        children = super()._set_up()
        for child in children:
            child.command += ["--hz", "100"]  # its timeouts are as exact as its ticks
            child.environment = {**os.environ, **self.environment}
        return children


class Rig:
    """Servers, proxies and workers in `folder`; a context manager."""

    def __init__(self, folder: Path, speed: float, seed: int = 0, swift_bin: Path | None = None) -> None:
        """`speed`: simulated seconds in a true one. `swift_bin`: S3 is the Swift there, and moto otherwise."""
        self.folder, self.random = folder, random.Random(seed)
        folder.mkdir(parents=True, exist_ok=True)
        self.clock = FastClock(folder, speed)  # the right time
        self.workers_clock = FastClock(folder, speed, "workers-clock")  # which can be set wrong
        self.fleet = Fleet(folder)
        self.fleet.valkey = FastValkey(folder / "valkey", self.clock.environment)
        if swift_bin:
            self.fleet.s3 = SwiftS3(folder / "swift", swift_bin)  # type: ignore[assignment]
        self.archives: list[Archive] = []
        self.numbers = itertools.count(1)
        self.disks = [folder / "scratch", folder / "transfer"]
        self._stack = contextlib.ExitStack()
        self._pair: RedisPair | None = None

    def __enter__(self) -> Self:
        fleet = self._stack.enter_context(self.fleet)
        self.redis, self.postgres, self.s3 = (
            self._stack.enter_context(Proxy(server.port)) for server in (fleet.valkey, fleet.postgres, fleet.s3)
        )
        for disk in self.disks:
            self._stack.enter_context(mounted(disk, f"{DISK_MB}m", lazy=True))
        Database(fleet.postgres.url).migrate()
        fleet.postgres.grant()
        through = ((fleet.valkey, self.redis), (fleet.postgres, self.postgres), (fleet.s3, self.s3))
        settings = fleet.settings()
        for name, (server, proxy) in zip(("REDIS_URL", "DATABASE_URL", "S3_ENDPOINT"), through, strict=True):
            settings[name] = settings[name].replace(f":{server.port}", f":{proxy.port}")
        urls = {name: settings[name] for name in ("REDIS_URL", "DATABASE_URL", "S3_ENDPOINT")}
        fleet.changes = {**SETTINGS, **self.workers_clock.environment, **urls}
        self.ask(fleet.valkey)
        self.workers = {role: fleet.worker(role) for role in ROLES}
        return self

    def __exit__(self, *error: Any) -> None:
        self.fleet.stop_workers()
        self._stack.__exit__(*error)

    def ask(self, server: Valkey) -> None:
        """Have the tests ask this server, which is the Redis of the pipeline from now on."""
        self.fleet.valkey = server
        self.client: Any = self._stack.enter_context(contextlib.closing(redis_client.connect(server.url)))

    def redis_pair(self) -> RedisPair:
        """The Redis with a replica, healthy also where the last failover has lost one; the workers' address is not
        its own, but `redis`."""
        if self._pair is None:
            pair = RedisPair(self.folder / "replica", self.fleet.valkey)
            pair.replica = FastValkey(pair.replica.folder, self.clock.environment)
            pair.settings["repl-timeout"] = "86400"  # a busy machine is late by the fast clock
            self._pair = self._stack.enter_context(pair)
        elif is_open(self._pair.replica.port):
            self._pair.follow()
        else:
            self._pair.repair()
        return self._pair

    # --- work ------------------------------------------------------------------------------------------

    def put_in(self, archives: int, files: int) -> None:
        """Put archives of so many files on the EC2 host and queue them."""
        paths = []
        for number in itertools.islice(self.numbers, archives):
            path = self.fleet.ssh.folder / f"day-{number}.tar"
            members = {f"{index:02}-{name}": file for index, (name, file) in enumerate(self._recordings(files))}
            pad = {"notes.bin": self.random.randbytes(PAD_BYTES)}
            make_tar(path, {**{name: file.data for name, file in members.items()}, **pad})
            self.archives.append(Archive(path.name, members, digest(path.read_bytes()), path))
            paths.append(str(path))
        self.control("enqueue", *paths)

    def control(self, *arguments: str) -> None:
        """Run pipelinectl, which must succeed."""
        done = self.fleet.control(*arguments)
        if done.returncode != 0:
            raise RuntimeError(f"pipelinectl {arguments[0]}: {done.stdout}{done.stderr}")

    def _recordings(self, number: int) -> Iterator[tuple[str, File]]:
        """Short recordings; one in eight is silent, one damaged."""
        for _ in range(number):
            kind = self.random.randrange(8)
            if kind == 0:
                yield "silence.mp3", File(SILENCE, "")
            elif kind == 1:
                yield "damaged.mp3", File(DAMAGED, status="failed")
            else:
                name = self.random.choice(SHORT[:6])
                yield Path(name).name, File(sample(name), WORDS[name])

    def sources(self) -> list[Path]:
        """The archives that are still on the EC2 host."""
        return [archive.source for archive in self.archives if archive.source and archive.source.exists()]

    def wait_until_all_work(self, files: int) -> None:
        """Wait until each worker is in the middle of its work, then a moment more, by chance.

        When nothing is left to transfer before it comes to that, two more archives of so many files are put in.
        """

        def all_work() -> bool:
            if not self.client.llen(QUEUES[0]):
                self.put_in(2, files)
            left = self.fleet.query("SELECT count(*) FROM audio_files WHERE status = 'processing'")[0][0]
            return bool(left and all(self._jobs(queue) for queue in QUEUES))

        self.wait_for(all_work, "work in every worker's hands", BUSY_SECONDS)
        time.sleep(self.random.random() * 0.5)

    def wait_for(self, done: Callable[[], object], what: str, seconds: float = QUIET_SECONDS) -> None:
        """Wait for the condition; a worker that has ended by itself is an error."""

        def is_done() -> bool:
            self.require_workers()
            return bool(done())

        wait_until(is_done, what, seconds)

    def require_workers(self) -> None:
        """RuntimeError where a worker has ended by itself."""
        for worker in self.fleet.workers:
            worker.require_running()

    def _jobs(self, queue: str) -> int:
        """How many jobs of the queue wait or are in progress."""
        workers = self.client.zrange(f"{queue}:workers", 0, -1)
        keys = [queue, *(f"{queue}:working:{worker}" for worker in workers)]
        return sum(self.client.llen(key) for key in keys)

    # --- what is seen from outside, past the proxies -----------------------------------------------------

    def seen(self, service: str) -> Any:
        """What changes with the work that needs the service; None where it cannot be asked."""
        try:
            return getattr(self, f"_seen_{service}")()
        except (redis.RedisError, psycopg2.Error, BotoCoreError, ClientError):
            return None

    def _seen_redis(self) -> Any:
        steps = self.client.pipeline(transaction=False)
        for queue in QUEUES:
            steps.llen(queue)
        for batch_id in self.client.zrange("batches:open", 0, -1):
            steps.scard(f"batch:{batch_id}:queued").scard(f"batch:{batch_id}:settled")
        return steps.execute()

    _seen_clock = _seen_redis  # what a worker does not claim while its clock is wrong

    def _seen_postgres(self) -> Any:
        return self.fleet.query(
            "SELECT (SELECT count(*) FROM batches), (SELECT count(*) FROM transcripts),"
            " count(*), count(*) FILTER (WHERE status = 'processing') FROM audio_files"
        )

    def _seen_s3(self) -> Any:
        return object_keys(self.fleet), [_size(path) for path in self.disks[0].glob("*/archive.tar*")]

    def _seen_disk(self) -> Any:
        paths = [Path(folder, name) for disk in self.disks for folder, _, names in os.walk(disk) for name in names]
        return [(str(path), _size(path)) for path in sorted(paths)]

    def waiting(self, service: str, since: dict[str, int]) -> list[str]:
        """The roles whose last word on the service, in their logs after these places, is that they try it again.
        One that has put its job back says that the service is unavailable, too, and need not say that it
        recovered."""
        away, back = f"{NAMES[service]} is unavailable, next try", f"{NAMES[service]} recovered"
        logs = {role: self.log(role)[since[role] :] for role in ROLES}
        return [role for role, log in logs.items() if log.rfind(away) > log.rfind(back)]

    def seconds_to_progress(self, service: str, before: Any, waiting: list[str], most: float) -> float:
        """Simulated seconds from now until something that needs the service is not as it was seen before, and each
        of the roles that wait for it says that it recovered; `most` where that does not come."""
        began, places, moved = self.clock.now(), self.places(), False
        back = f"{NAMES[service]} recovered"
        while (seconds := self.clock.now() - began) < most:
            self.require_workers()
            if not moved:
                now = self.seen(service)
                before = now if before is None else before
                moved = now is not None and now != before
            waiting = [role for role in waiting if back not in self.log(role)[places[role] :]]
            if moved and not waiting:
                return seconds
            time.sleep(0.02)
        return most

    def places(self) -> dict[str, int]:
        """How much each worker has logged so far."""
        return {role: len(self.log(role)) for role in ROLES}

    def is_quiet(self) -> bool:
        """Whether all is done, as far as it can be asked, and the disks are empty."""
        try:
            return checker.is_quiet(self.fleet, self.archives) and not self._seen_disk()
        except (redis.RedisError, psycopg2.Error):
            return False

    def wait_until_quiet(self) -> bool:
        """Wait until all work is done; gives False where nothing moves any more and it is not."""
        last, moved = None, time.monotonic()
        while not self.is_quiet():
            self.require_workers()
            now = [self.seen(service) for service in ("redis", "postgres", "s3", "disk")]
            if now != last:
                last, moved = now, time.monotonic()
            if time.monotonic() - moved > QUIET_SECONDS:
                return False
            time.sleep(0.1)
        return True

    def check(self) -> Findings:
        """What the checker finds, when all is quiet; what was found is then cleared away."""
        self.wait_until_quiet()
        found = checker.check(self.fleet, self.archives)
        self.clear()
        return found

    def clear(self) -> None:
        """Forget the archives and all that was made of them."""
        client = s3_client(self.fleet)
        for key in object_keys(self.fleet):
            client.delete_object(Bucket=self.fleet.bucket, Key=key)
        self.fleet.query(f"TRUNCATE {TABLES}")
        self.client.delete(*(f"{queue}:dead" for queue in QUEUES))
        self.archives = []

    def log(self, role: str) -> str:
        """What the worker has logged."""
        return (self.folder / f"{role}.log").read_text(errors="replace")


def _size(path: Path) -> int:
    """The file's size; -1 where it has gone meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return -1
