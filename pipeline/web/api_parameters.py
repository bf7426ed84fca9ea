"""What a program asks with: parameters of an address, cursors, and a body of JSON. Each is checked."""

import base64
import binascii
import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest, UnsupportedMediaType

from pipeline.foundation.file_metadata import key_and_value
from pipeline.foundation.file_names import is_storable
from pipeline.foundation.formatting import did_you_mean, whole_number
from pipeline.foundation.moments import moment

MOST_CHARS = 250  # of a text: 1,000 bytes at most, which is what a search may have
MOST_CURSOR = 8000  # characters
MOST_META = 20
NO_NUL = "^[^\\x00]*$"  # which PostgreSQL does not know


@dataclass(frozen=True)
class Parameter:
    """A parameter: what reads it (ValueError where it cannot be read), and how it is described in OpenAPI. One
    that `is_list` may be repeated."""

    name: str
    read: Callable[[str], Any]
    schema: Mapping[str, Any]
    what: str
    default: Any = None
    is_list: bool = False


def values(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """What the request's address gives for these; 400 where there is another, or one cannot be read."""
    known = {parameter.name: parameter for parameter in parameters}
    for name in request.args:
        if name not in known:
            raise BadRequest(f"There is no parameter {name[:100]}{did_you_mean(name[:100], known)}")
    return {name: _value(parameter) for name, parameter in known.items()}


def _value(parameter: Parameter) -> Any:
    given = request.args.getlist(parameter.name)
    if not parameter.is_list and len(given) > 1:
        raise BadRequest(f"{parameter.name}: it is given {len(given)} times.")
    if len(given) > MOST_META:
        raise BadRequest(f"{parameter.name}: it is given {len(given)} times; {MOST_META} are allowed.")
    try:
        read = [parameter.read(text) for text in given]
    except ValueError as error:
        raise BadRequest(f"{parameter.name}: {error}") from None
    return tuple(read) if parameter.is_list else read[0] if read else parameter.default


# --- kinds of parameters -------------------------------------------------------------------------------------


def text(name: str, what: str) -> Parameter:
    """A text that is searched for; an empty one asks for nothing."""
    schema = {"type": "string", "maxLength": MOST_CHARS, "pattern": NO_NUL}
    return Parameter(name, _text, schema, what, default="")


def number(name: str, what: str, default: int, most: int) -> Parameter:
    """A whole number from 1 to `most`."""

    def read(given: str) -> int:
        if not (found := whole_number(given, most)) or given != str(found):
            raise ValueError(f"give a whole number from 1 to {most}.")
        return found

    return Parameter(
        name, read, {"type": "integer", "minimum": 1, "maximum": most, "default": default}, what, default
    )


def choice(name: str, what: str, options: tuple[str, ...], default: str = "") -> Parameter:
    """One of a few words."""

    def read(given: str) -> str:
        if given not in options:
            raise ValueError(f"give one of {', '.join(options)}{did_you_mean(given[:100], options)}")
        return given

    schema = {"type": "string", "enum": list(options), **({"default": default} if default else {})}
    return Parameter(name, read, schema, what, default)


def time(name: str, what: str) -> Parameter:
    """A moment."""
    forms = [
        {"type": "string", "format": "date-time"},
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": "^[0-9]{1,5}[mhd]$"},
    ]
    schema = {"anyOf": forms, "examples": ["2025-06-22T14:30:00Z", "2025-06-22", "24h"]}
    return Parameter(
        name, moment, schema, f"{what}: a day or a time (UTC where it names no zone), or 30m, 24h, 7d ago."
    )


def pairs(name: str, what: str) -> Parameter:
    """Texts like key=value, which may be repeated."""

    def read(given: str) -> tuple[str, str]:
        if (found := key_and_value(_text(given))) is None:
            raise ValueError("give it as talkgroup=1234.")
        return found

    one = {"type": "string", "maxLength": MOST_CHARS, "pattern": "^[^\\x00=]+=[^\\x00]*$"}
    return Parameter(name, read, {"type": "array", "items": one, "maxItems": MOST_META}, what, is_list=True)


def _text(given: str) -> str:
    if len(given) > MOST_CHARS or not is_storable(given):
        raise ValueError(f"it is no text of {MOST_CHARS} characters at most.")
    return given


# --- cursors -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a list goes on: which list (`of`), and values that lead to its next row."""

    of: str
    values: tuple[Any, ...]


def cursor_of(of: str, *values: Any) -> str:
    """The cursor of a place, which a program does not look into."""
    plain = [value.isoformat() if isinstance(value, datetime.datetime) else value for value in values]
    return base64.urlsafe_b64encode(json.dumps([of, *plain]).encode()).decode().rstrip("=")


def cursor(of: str, *kinds: type) -> Parameter:
    """The cursor of a list, whose place has values of these kinds (str, int, datetime)."""

    def read(given: str) -> tuple[Any, ...]:
        try:
            if len(given) > MOST_CURSOR:
                raise ValueError
            name, *found = json.loads(base64.b64decode(given + "=" * (-len(given) % 4), "-_", validate=True))
            if name != of or len(found) != len(kinds):
                raise ValueError
            return tuple(_of_kind(value, kind) for value, kind in zip(found, kinds, strict=True))
        except (ValueError, TypeError, RecursionError, binascii.Error):
            raise ValueError("this list has given no such cursor.") from None

    schema = {"type": "string", "maxLength": MOST_CURSOR}
    return Parameter("cursor", read, schema, "`next` of the page before; leave it out for the first page.")


def _of_kind(value: Any, kind: type) -> Any:
    if kind is datetime.datetime:
        return moment(value if isinstance(value, str) and len(value) > 9 else "")
    if type(value) is not kind:
        raise ValueError
    if isinstance(value, int) and 0 <= value < 2**63:
        return value
    if isinstance(value, str) and is_storable(value):
        return value
    raise ValueError


# --- bodies --------------------------------------------------------------------------------------------------


def body(fields: Iterable[str]) -> dict[str, Any]:
    """The object of JSON that was sent, with some of these fields and no other; 400 or 415 where it is none."""
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("Send application/json.")
    try:
        found = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise BadRequest("The body is no JSON.") from None
    if not isinstance(found, dict):
        raise BadRequest("The body is no JSON object.")
    for name in found:
        if name not in fields:
            raise BadRequest(f"There is no field {name[:100]!r}{did_you_mean(name[:100], fields)}")
    return found
