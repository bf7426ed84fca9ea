"""Who reads the page and the interface for programs, and how they are known: by a token, or by what a proxy says
that has authenticated them."""

import datetime
import hmac
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.foundation.errors import unavailable_service
from pipeline.store import tokens
from pipeline.store.database import Database
from pipeline.web.server import PEER

ROLES = ("reader", "operator")  # each may do what those before it may
CHECK_SECONDS = 30  # after which a token is looked up again: a revoked one is good for no longer
TRUST_SECONDS = 600  # so long a token stays good that cannot be looked up, while PostgreSQL is unavailable
MOST_NAME = 200  # characters of a user's name
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reader:
    """Who was admitted: `name` as the audit log has it (`token:alice`, `proxy:bob`, `page`), and a role."""

    name: str
    role: str

    @property
    def actor(self) -> str:
        """Who it is, for the audit log."""
        return self.name

    def may(self, role: str) -> bool:
        """Whether the role is enough for what one of this role may do."""
        return ROLES.index(self.role) >= ROLES.index(role)


# --- tokens --------------------------------------------------------------------------------------------------


@dataclass
class _Known:
    """A token, when it was last looked up, and when that was last tried."""

    token: tokens.Token
    found: float
    tried: float


class Tokens:
    """Whose tokens are good: the page's own (WEB_TOKEN; empty: none), and those in PostgreSQL, each of which is
    looked up every CHECK_SECONDS at most. Threads may share it."""

    def __init__(self, token: str, database: Database, now: Callable[[], float] = time.monotonic) -> None:
        self._page = tokens.digest_of(token) if token else None
        self._database, self._now = database, now
        self._known: dict[bytes, _Known] = {}

    def reader_of(self, given: str) -> Reader | None:
        """Whose token that is; None where it is nobody's. An outage where PostgreSQL cannot be asked."""
        digest = tokens.digest_of(given)
        return self.reader(digest) if given.startswith(tokens.PREFIX) else self._page_reader(digest)

    def reader(self, digest: bytes) -> Reader | None:
        """Whose token has this digest; otherwise as `reader_of`."""
        return self._page_reader(digest) or self._named_reader(digest)

    def _page_reader(self, digest: bytes) -> Reader | None:
        is_page = self._page is not None and hmac.compare_digest(digest, self._page)
        return Reader("page", "reader") if is_page else None

    def _named_reader(self, digest: bytes) -> Reader | None:
        token = self._token(digest)
        if token is None or not token.is_valid(datetime.datetime.now(datetime.UTC)):
            return None
        return Reader(f"token:{token.name}", token.role)

    def _token(self, digest: bytes) -> tokens.Token | None:
        now, known = self._now(), self._known.get(digest)
        if known is not None and known.tried > now - CHECK_SECONDS and known.found > now - TRUST_SECONDS:
            return known.token
        if known is not None:
            known.tried = now  # meanwhile the other threads do not wait for PostgreSQL
        try:
            found = tokens.find(self._database, digest)
        except Exception as error:
            if unavailable_service(error) and known is not None and known.found > now - TRUST_SECONDS:
                return known.token
            raise
        if found is None:
            self._known.pop(digest, None)
        else:
            self._known[digest] = _Known(found, now, now)
        return found


# --- a proxy -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Proxy:
    """A proxy that authenticates users. It is believed on connections from `address` alone. `header` names the
    user; all have `role`, and those whose `groups_header` lists `operator_group` are operators."""

    address: str
    header: str
    role: str = "reader"
    groups_header: str = ""
    operator_group: str = ""

    def reader(self, environ: Mapping[str, Any]) -> Reader | None:
        """Whom the proxy names in this request (WSGI); None where it names nobody, or is another."""
        if environ.get(PEER) != self.address:
            return None
        user = _sent(environ, self.header)
        if not user:
            return None
        if "," in user or not user.isprintable() or len(user) > MOST_NAME:  # "," joins headers that came twice
            log.warning("the proxy at %s has sent no single user in %s", self.address, self.header)
            return None
        groups = [group.strip() for group in _sent(environ, self.groups_header).split(",")]
        is_operator = bool(self.operator_group) and self.operator_group in groups
        return Reader(f"proxy:{user}", "operator" if is_operator else self.role)


def _sent(environ: Mapping[str, Any], header: str) -> str:
    """A header of the request; empty where there is none, or no header is meant."""
    text: str = environ.get(f"HTTP_{header.upper().replace('-', '_')}", "") if header else ""
    return text.encode("latin-1", "replace").decode("utf-8", "replace").strip()
