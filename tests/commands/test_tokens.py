"""pipelinectl tokens: what the operator types, sees and pipes."""

import hashlib
import json

import pytest

from pipeline.store import tokens
from pipeline.store.audit import read_entries
from pipeline.store.database import Database
from tests.commands.test_pipelinectl import complaint, control, printed
from tests.support.fleet import Fleet


def test_a_token_is_printed_once_and_its_sha256_kept(fleet: Fleet, database: Database) -> None:
    token = printed(control(fleet, "tokens", "create", "alice")).removesuffix("\n")
    assert token.startswith("ap_")
    assert len(token) >= 3 + 43  # 256 bits
    ((kept,),) = fleet.query("SELECT sha256 FROM tokens")
    assert bytes(kept) == hashlib.sha256(token.encode()).digest()
    dump = " ".join(
        map(str, fleet.query("SELECT tokens::text FROM tokens UNION ALL SELECT audit::text FROM audit"))
    )
    assert token not in dump
    assert token[3:] not in printed(control(fleet, "tokens", "list"))


def test_tokens_are_listed_and_revoked(fleet: Fleet, database: Database) -> None:
    printed(control(fleet, "tokens", "create", "zoe", "--role", "operator", "--days", "30"))
    token = json.loads(printed(control(fleet, "tokens", "create", "bot@host", "--json")))["token"]
    found = json.loads(printed(control(fleet, "tokens", "list", "--json")))
    assert [(one["name"], one["role"]) for one in found] == [("bot@host", "reader"), ("zoe", "operator")]
    assert (found[0]["expires_at"], found[0]["last_used_at"]) == (None, None)
    assert found[1]["expires_at"] > found[1]["created_at"]
    used = tokens.find(database, tokens.digest_of(token))
    assert used is not None
    title, columns, bot, zoe = printed(fleet.control("tokens", COLUMNS="200")).splitlines()
    assert (title, columns.split()) == ("tokens: 2", ["name", "role", "created", "expires", "last", "used"])
    assert "never" in bot
    assert zoe.split()[-1] == "never"  # was it used
    assert (
        printed(control(fleet, "tokens", "revoke", "zoe"))
        == "zoe is revoked: its sessions end within 30 seconds\n"
    )
    assert tokens.find(database, tokens.digest_of(token)) is not None
    assert "no token zoe" in complaint(control(fleet, "tokens", "revoke", "zoe"), 1)
    actions = [(entry.action, entry.subject, entry.detail) for entry in reversed(read_entries(database, 10))]
    assert actions == [
        ("token created", "zoe", {"role": "operator", "days": 30}),
        ("token created", "bot@host", {"role": "reader"}),
        ("token revoked", "zoe", {}),
    ]
    assert read_entries(database, 1)[0].actor.startswith("cli:")


def test_a_name_is_taken_until_its_token_is_revoked(fleet: Fleet, database: Database) -> None:
    first = printed(control(fleet, "tokens", "create", "alice")).strip()
    assert "there is a token alice already" in complaint(control(fleet, "tokens", "create", "alice"), 1)
    assert tokens.find(database, tokens.digest_of(first)) is not None
    printed(control(fleet, "tokens", "revoke", "alice"))
    assert tokens.find(database, tokens.digest_of(first)) is None
    assert printed(control(fleet, "tokens", "create", "alice")).strip() != first


def test_an_expired_token_is_listed_as_such_and_good_for_nothing(fleet: Fleet, database: Database) -> None:
    token = printed(control(fleet, "tokens", "create", "old", "--days", "1")).strip()
    assert tokens.is_any_valid(database)
    fleet.query("UPDATE tokens SET expires_at = now() - interval '1 second'")
    assert tokens.find(database, tokens.digest_of(token)) is None
    assert not tokens.is_any_valid(database)
    assert printed(control(fleet, "tokens")).splitlines()[-1].endswith("expired")


def test_the_last_use_is_noted_once_an_hour(fleet: Fleet, database: Database) -> None:
    token = tokens.create(database, "alice", "reader", None, "cli:test")
    digest = tokens.digest_of(token or "")
    for age, is_noted in (("59 minutes", False), ("61 minutes", True)):
        fleet.query(f"UPDATE tokens SET last_used_at = now() - interval '{age}'")
        assert tokens.find(database, digest) is not None
        ((is_new,),) = fleet.query("SELECT last_used_at > now() - interval '1 minute' FROM tokens")
        assert is_new == is_noted, age


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",), ("create", "a b"), ("create", ""), ("create", "-x"), ("create", "x" * 65),
        ("create", "a", "--role", "admin"), ("create", "a", "--days", "0"), ("create", "a", "--days", "-1"),
        ("create", "a", "--days", "99999"), ("create", "a", "--days", "9" * 30), ("revoke",), ("renew", "a"),
        ("create", "\x1b[1m"),
    ],
)  # fmt: skip
def test_what_is_no_token_is_refused(fleet: Fleet, arguments: tuple[str, ...]) -> None:
    done = control(fleet, "tokens", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert fleet.query("SELECT FROM tokens") == []
