"""A whole pipeline on this machine: real servers, and the real scripts as processes."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any, Self

import psycopg2
import redis

import config
from pipeline.jobs.batches import FINISHING, OPEN
from tests.support.child import STOP_SECONDS, Child, end_all, free_port, wait_until
from tests.support.nursery import Nursery
from tests.support.servers import HUSH, MotoS3, Postgres, SshHost, Valkey

PROJECT = Path(__file__).resolve().parents[2]
MODELS = PROJECT / "tests" / "models"
TABLES = (
    "audio_files, transcripts, passages, classifications, batches, alerts, saved_searches, webhook_outbox, audit,"
    " tombstones, pending_deletions, holds, tokens"
)
SCRIPT_SECONDS = 60  # the longest that pipelinectl may take


def ffmpeg_program() -> str:
    """The ffmpeg that the workers run: the pinned one, or what FFMPEG names."""
    config.require("FFMPEG")
    return config.FFMPEG


def refuse_secrets(where: str, text: str) -> None:
    """AssertionError where the text holds a password or secret of the servers."""
    assert HUSH not in text, f"a secret in {where}: {text[max(0, text.index(HUSH) - 300) :][:600]}"


def batch_keys(client: Any) -> list[str]:
    """Every key of a batch, and every batch that is open or finishing."""
    return [*client.scan_iter("batch:*"), *client.zrange(OPEN, 0, -1), *client.hkeys(FINISHING)]


class Fleet:
    """The servers, started in `folder`, and the environment that points the scripts at them."""

    def __init__(self, folder: Path) -> None:
        self.valkey = Valkey(folder / "valkey")
        self.postgres = Postgres(folder / "postgres")
        self.s3 = MotoS3(folder / "s3")
        self.ssh = SshHost(folder / "ec2")
        self.folder = folder  # of scratch and logs
        self.bucket = "recordings"
        self.changes: dict[str, str] = {}  # settings that differ from those below, for every worker
        self.workers: list[Child] = []
        self.nursery: Nursery | None = None  # starts the scripts; None: as the operator does
        self._connection: Any = None  # to PostgreSQL

    def start(self) -> Self:
        """Start the servers and make the bucket."""
        for server in (self.valkey, self.postgres, self.s3, self.ssh):
            server.start()
        self.s3.create_bucket(self.bucket)
        return self

    def stop(self) -> None:
        """Stop the workers, then the servers."""
        self.stop_workers()
        if self._connection is not None:
            self._connection.close()
        for server in (self.ssh, self.s3, self.postgres, self.valkey):
            server.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def clean(self, folder: Path) -> None:
        """Empty Redis and the tables, and take a new bucket and a new folder."""
        with redis.Redis.from_url(self.valkey.url) as client:
            client.flushall()
            client.acl_log_reset()
        self.query(f"TRUNCATE {TABLES} RESTART IDENTITY")
        self.changes = {}
        self.folder, self.bucket = folder, f"test-{uuid.uuid4().hex[:12]}"
        self.s3.create_bucket(self.bucket)
        for archive in self.ssh.folder.glob("*.tar*"):
            archive.unlink()

    def query(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """The rows that PostgreSQL gives, if it gives any."""
        try:
            return self._ask(sql, values)
        except (psycopg2.OperationalError, psycopg2.InterfaceError):  # PostgreSQL was restarted meanwhile
            self._connection = None
            return self._ask(sql, values)

    def _ask(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = psycopg2.connect(self.postgres.url)
            self._connection.autocommit = True
        with self._connection.cursor() as cursor:
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []

    def settings(self) -> dict[str, str]:
        """The settings of every worker, as example.env names them."""
        return {
            "REDIS_URL": self.valkey.worker_url,
            "DATABASE_URL": self.postgres.worker_url,
            "S3_ENDPOINT": self.s3.endpoint,
            "S3_ACCESS_KEY": self.s3.access_key,
            "S3_SECRET_KEY": self.s3.secret_key,
            "S3_BUCKET": self.bucket,
            "SCRATCH_ROOT": str(self.folder / "scratch"),
            "TRANSFER_ROOT": str(self.folder / "transfer"),
            "MODELS_ROOT": str(MODELS),
            "EC2_HOST": self.ssh.host,
            "EC2_PORT": str(self.ssh.port),
            "EC2_USER": self.ssh.user,
            "EC2_KEY_FILE": str(self.ssh.key_file),
            "EC2_KNOWN_HOSTS": str(self.ssh.known_hosts),
            "EC2_REMOTE_DIR": str(self.ssh.folder),
            "SCRATCH_MIN_FREE_MB": "200",
            "WHISPER_MODEL": "spoken-words",
            "WHISPER_DEVICE": "cpu",
            "WHISPER_COMPUTE_TYPE": "float32",
            "WHISPER_THREADS": "1",
            "WHISPER_BEAM_SIZE": "1",
            "HEARTBEAT_SECONDS": "4",
            "RETRY_SECONDS": "1",
            **self.changes,
        }

    def environment(self, **changes: str) -> dict[str, str]:
        """The settings with these changes, in a copy of this process's environment."""
        return {**os.environ, **self.settings(), **changes}

    def worker(self, role: str, name: str = "", **changes: str) -> Child:
        """Start a worker process as WORKER_ID `test-{name}`; its log is `{folder}/{name}.log`."""
        return self.run([str(PROJECT / f"{role}_worker.py")], name or role, **changes)

    def run(self, script: list[str], name: str, **changes: str) -> Child:
        """Start a script of the project in the fleet's environment."""
        environment = self.environment(**{"WORKER_ID": f"test-{name}", "PYTHONFAULTHANDLER": "1", **changes})
        log, nursery = self.folder / f"{name}.log", self._nursery_for(script, environment)
        command = script if nursery else [sys.executable, *script]
        child = Child(command, log, environment=environment, nursery=nursery)
        child.start()
        self.workers.append(child)
        return child

    def page(self, token: str, **changes: str) -> tuple[Child, str]:
        """Start `pipelinectl web`; gives it, and its address, when it answers there."""
        listen = f"127.0.0.1:{free_port()}"
        script = [str(PROJECT / "pipelinectl.py"), "web", "--listen", listen]
        web, address = self.run(script, "web", WEB_TOKEN=token, **changes), f"http://{listen}"

        def answers() -> bool:
            web.require_running()
            return f"{address}/" in web.log.read_text()

        wait_until(answers, "the page")
        return web, address

    def control(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run pipelinectl to its end; `migrate` and `rebuild` as the owner of the tables."""
        if "migrate" in arguments or "rebuild" in arguments:
            changes = {"DATABASE_URL": self.postgres.url, **changes}
        environment = self.environment(PYTHONFAULTHANDLER="1", **changes)
        script = [str(PROJECT / "pipelinectl.py"), *arguments]
        if nursery := self._nursery_for(script, environment):
            done = self._forked(nursery, script, environment)
        else:
            command = [sys.executable, *script]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=60
            )
        refuse_secrets("pipelinectl", done.stdout + done.stderr)
        return done

    def _nursery_for(self, script: list[str], environment: dict[str, str]) -> Nursery | None:
        """The nursery, unless the script needs what has to be there before Python starts."""
        names = {name for name in {*environment, *os.environ} if name == "LD_PRELOAD" or name.startswith("PYTHON")}
        is_as_here = all(environment.get(name) == os.environ.get(name) for name in names - {"PYTHONFAULTHANDLER"})
        return self.nursery if is_as_here and script[0].endswith(".py") else None

    def _forked(
        self, nursery: Nursery, script: list[str], environment: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its end, as subprocess.run does."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = nursery.start(script, Path.cwd(), environment, out, err)
            try:
                status = process.wait(SCRIPT_SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)  # for PYTHONFAULTHANDLER
                process.wait()
                raise RuntimeError(f"{script} does not end:\n{err.read_text()}") from None
            return subprocess.CompletedProcess(script, status, out.read_text(), err.read_text())

    def check(self) -> None:
        """AssertionError where a secret stands in the log of a worker, or something was denied that it needs."""
        for log in self.folder.glob("*.log"):
            text = log.read_text(errors="replace")
            refuse_secrets(log.name, text)
            assert "permission denied for" not in text, f"access/postgresql.sql is not enough: {log}"
        with redis.Redis.from_url(self.valkey.url, decode_responses=True) as client:
            denied = [entry for entry in client.acl_log() if entry["reason"] != "auth"]
        assert not denied, f"access/redis.conf is not enough: {denied}"

    def scratch_bytes(self) -> int:
        """The size of everything in scratch, while workers may be at it."""
        size = 0
        for path in (self.folder / "scratch").rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                size += path.lstat().st_size if not path.is_dir() else 0
        return size

    def stop_workers(self) -> None:
        """Stop all workers at once. One that does not end is an error, with the tracebacks of its threads."""
        running = [(worker.process, worker.log) for worker in self.workers if worker.process is not None]
        self.workers = []
        end_all(running, STOP_SECONDS)
