"""Named tokens: who may read the page and the interface for programs, in which role, and how long.

A token is 256 random bits. Its SHA-256 alone is kept: nobody finds such a token by trying, so a slow hash, which
passwords need, would protect nothing and cost every request its time.
"""

import datetime
import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from pipeline.store import audit
from pipeline.store.database import Database

PREFIX = "ap_"  # tells people, and programs that look for secrets in code, what it is
RANDOM_BYTES = 32
ANSWER_SECONDS = 5.0  # the longest wait for PostgreSQL while a request is admitted
_COLUMNS = "name, role, created_at, expires_at, last_used_at"
_VALID = "(expires_at IS NULL OR expires_at > now())"


@dataclass(frozen=True)
class Token:
    """Whose token it is, the role, and when it was made, ends and was last used (UTC; None: never). The last use
    is noted once an hour."""

    name: str
    role: str
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    last_used_at: datetime.datetime | None

    def is_valid(self, now: datetime.datetime) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or self.expires_at > now

    def as_dict(self) -> dict[str, Any]:
        """The token for JSON."""
        times = {name: value.isoformat() for name, value in vars(self).items() if hasattr(value, "isoformat")}
        return {**vars(self), **times}


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def create(database: Database, name: str, role: str, days: int | None, actor: str) -> str | None:
    """A new token, which nobody can read again, good for so many days (None: for ever); None where the name is
    taken."""
    token = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    with database.transaction() as cursor:
        cursor.execute(
            "INSERT INTO tokens (name, sha256, role, expires_at)"
            " VALUES (%s, %s, %s, now() + make_interval(days => %s)) ON CONFLICT (name) DO NOTHING",
            (name, digest_of(token), role, days),
        )
        if not cursor.rowcount:
            return None
        audit.note(cursor, actor, "token created", name, {"role": role} | ({"days": days} if days else {}))
    return token


def revoke(database: Database, name: str, actor: str) -> bool:
    """Make a token worthless; False where there is none of this name."""
    with database.transaction() as cursor:
        cursor.execute("DELETE FROM tokens WHERE name = %s", (name,))
        was_there = bool(cursor.rowcount)
        if was_there:
            audit.note(cursor, actor, "token revoked", name)
        return was_there


def read_tokens(database: Database) -> list[Token]:
    """Every token, those that have expired too, by name."""
    with database.transaction() as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM tokens ORDER BY name")  # nosec B608
        return [_token(row) for row in cursor.fetchall()]


def is_any_valid(database: Database) -> bool:
    """Whether there is a token that has not expired."""
    with database.transaction() as cursor:
        cursor.execute(f"SELECT EXISTS (SELECT FROM tokens WHERE {_VALID})")  # nosec B608
        return bool(cursor.fetchone()[0])


def find(database: Database, digest: bytes) -> Token | None:
    """The token of this digest, where it is neither revoked nor expired; notes its use."""
    with database.transaction(ANSWER_SECONDS) as cursor:
        cursor.execute(f"SELECT {_COLUMNS} FROM tokens WHERE sha256 = %s AND {_VALID}", (digest,))  # nosec B608
        row = cursor.fetchone()
        if row is not None:
            cursor.execute(
                "UPDATE tokens SET last_used_at = now()"
                " WHERE sha256 = %s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 hour')",
                (digest,),
            )
        return _token(row) if row is not None else None


def _token(row: tuple[Any, ...]) -> Token:
    times = [time and time.astimezone(datetime.UTC) for time in row[2:]]
    return Token(row[0], row[1], *times)
