"""The page's search: what an address asks for, and what is shown of what it finds."""

import datetime
from dataclasses import dataclass
from typing import Any

from pipeline.foundation.errors import Permanent
from pipeline.foundation.file_metadata import key_and_value
from pipeline.foundation.formatting import whole_number
from pipeline.store.database import Database
from pipeline.store.search import Found, find, is_indexed
from pipeline.store.search_query import Query
from pipeline.store.vocabulary import unknown_word

HITS = 20  # on a page
MOST_PAGES = 10_000
FIELDS = ("words", "since", "until", "language", "tag", "batch", "archive", "order")
TITLES = {"label": "Labels", "language": "Languages", "batch": "Archives", "day": "Days", "meta": "Metadata"}
_NARROWED = {"label": "tag", "language": "language", "batch": "batch"}  # the field that asks for a value


@dataclass(frozen=True)
class Choice:
    """A value that hits have, in how many, and the fields of the search for those alone."""

    text: str
    files: int
    asked: dict[str, Any]


def shown(database: Database, given: Any, batch_id: str) -> dict[str, Any]:
    """What the page shows of the search that the fields of an address (a MultiDict) ask for, in this batch."""
    number = whole_number(given.get("page", ""), MOST_PAGES) or 0
    asked: dict[str, Any] = {field: given[field] for field in FIELDS if given.get(field)}
    if meta := [one for one in given.getlist("meta") if one]:
        asked["meta"] = meta
    page: dict[str, Any] = {"found": None, "problem": "", "unknown": ""}
    if asked or number:
        try:
            query = query_of(given, batch_id, number)
            page["found"] = found = find(database, query)
            page["unknown"] = "" if found.total else unknown_word(database, query)
            page["choices"] = choices(found, asked)
        except (Permanent, ValueError) as error:
            page["problem"] = str(error)
    is_complete = page["problem"] or is_indexed(database)
    return {**page, "asked": given, "page": asked, "number": number, "most": HITS, "is_indexed": is_complete}


def query_of(given: Any, batch_id: str, number: int) -> Query:
    """The query of an address, for a page of this number; `ValueError` where a value is not valid."""
    words, language, tag, archive, order = (
        _text(given, field) for field in ("words", "language", "tag", "archive", "order")
    )
    return Query(
        words, _day(given, "since"), _day(given, "until"), language, tag, batch_id, HITS, HITS * number,
        meta=tuple(_pair(one) for one in given.getlist("meta") if one), archive=archive,
        order="relevance" if order == "relevance" else "time",
    )  # fmt: skip


def choices(found: Found, asked: dict[str, Any]) -> dict[str, list[Choice]]:
    """How the search may be narrowed, by the titles of what by; not by what all hits have."""
    made: dict[str, list[Choice]] = {}
    for facet, counts in found.facets.items():
        narrower = [
            Choice(one.name or one.value, one.files, {**asked, **_narrowed(facet, one.value, asked)})
            for one in counts
            if one.files < found.faceted
        ]
        if narrower:
            made[TITLES[facet]] = narrower
    return made


def _narrowed(facet: str, value: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The fields that ask for a value too."""
    if facet == "day":
        day = datetime.date.fromisoformat(value)
        return {"since": value, "until": (day + datetime.timedelta(days=1)).isoformat()}
    if facet == "meta":
        return {"meta": [*asked.get("meta", []), value]}
    return {_NARROWED[facet]: value}


def _text(given: Any, name: str) -> str:
    """What was asked for, where PostgreSQL can look for it: it knows no NUL."""
    text: str = given.get(name, "").strip()
    if "\0" in text:
        raise ValueError(f"{name}: there is no such text.")
    return text


def _day(given: Any, name: str) -> datetime.datetime | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)
    except ValueError:
        raise ValueError(f"{name}: {text} is no day; give one as 2025-06-22") from None


def _pair(given: str) -> tuple[str, str]:
    found = key_and_value(given.strip())
    if found is None or "\0" in given:
        raise ValueError(f"metadata: {given} has no value; give it as talkgroup=1234")
    return found
