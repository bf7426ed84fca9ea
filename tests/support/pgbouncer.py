"""PgBouncer, a pooler: many clients share a few connections to PostgreSQL, each for a transaction at a time."""

import os
import shutil
from pathlib import Path

from tests.support.child import Child, Server
from tests.support.servers import POSTGRES_PASSWORD, Postgres


def pgbouncer_path() -> str | None:
    """The program, where it is installed: Debian has it in /usr/sbin, which is not in everybody's PATH."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class PgBouncer(Server):
    """One connection to PostgreSQL for all clients of a user and a database, each for a transaction."""

    def __init__(self, folder: Path, postgres_port: int) -> None:
        super().__init__(folder)
        self.postgres_port = postgres_port

    def url(self, user: str = "audio_pipeline", database: str = "pipeline") -> str:
        """For the workers, unless another user is given."""
        return f"postgresql://{user}:{POSTGRES_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def _set_up(self) -> list[Child]:
        program = pgbouncer_path()
        if program is None:
            raise RuntimeError("pgbouncer is not installed")
        users, settings = self.folder / "users.txt", self.folder / "pgbouncer.ini"
        users.write_text(f'"audio_pipeline" "{POSTGRES_PASSWORD}"\n"postgres" "{POSTGRES_PASSWORD}"\n')
        settings.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.postgres_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nauth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            "default_pool_size = 1\nunix_socket_dir =\nserver_login_retry = 1\nquery_wait_timeout = 1\n"
        )
        command = [program, str(settings)]
        # As PostgreSQL it refuses to run as root.
        return [Child(command, self.folder / "pgbouncer.log", setpriv=Postgres.as_user())]
