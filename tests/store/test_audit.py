"""The audit log."""

from pipeline.store.audit import note, read_entries
from pipeline.store.database import Database


def test_the_newest_entry_is_first(database: Database) -> None:
    with database.transaction() as cursor:
        note(cursor, "cli:ann@ops", "hold", "20260101-000000-a")
        note(cursor, "token:bob", "search", "", {"hits": 3})
    first, second = read_entries(database, 10)
    assert (first.actor, first.action, first.detail) == ("token:bob", "search", {"hits": 3})
    assert (second.actor, second.action, second.subject, second.detail) == (
        "cli:ann@ops", "hold", "20260101-000000-a", {},
    )  # fmt: skip
    assert first.as_dict()["at"].endswith("+00:00")
    assert [entry.action for entry in read_entries(database, 10, before=first.audit_id)] == ["hold"]


def test_what_postgresql_cannot_hold_is_left_out(database: Database) -> None:
    with database.transaction() as cursor:
        note(cursor, "token:\0b", "read", "\ud800" + "x" * 1000)
    (entry,) = read_entries(database, 1)
    assert entry.actor == "token:b"
    assert entry.subject == "?" + "x" * 499


def test_an_entry_of_what_was_not_done_is_not_there(database: Database) -> None:
    try:
        with database.transaction() as cursor:
            note(cursor, "cli:ann@ops", "delete", "1")
            raise RuntimeError
    except RuntimeError:
        pass
    assert read_entries(database, 10) == []
