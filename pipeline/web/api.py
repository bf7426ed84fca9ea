"""The interface for programs: /api/v1/, described by itself in /api/v1/openapi.json.

It is built on what pages and commands are built on. Every answer has bounds: lists come in pages, each with a
cursor that leads to the next one and stays right while rows arrive. Whoever reads has to be admitted by `login`,
and be an operator to change anything.
"""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, abort, g, request

from pipeline.web.api_parameters import Parameter, values

VERSION_1 = "/api/v1"
api = Blueprint("api", __name__, url_prefix=VERSION_1)
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Operation:
    """What can be asked: for the document that describes the interface. `answer` and `body` name schemas of
    `openapi_schemas`; `media_types` are those of other answers than JSON."""

    method: str
    path: str
    name: str
    what: str
    answer: str
    parameters: tuple[Parameter, ...] = ()
    body: str = ""
    media_types: tuple[str, ...] = ()

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it."""
        return re.sub(r"<(\w+)>", r"{\1}", self.path)


OPERATIONS: list[Operation] = []


def reads(
    path: str, answer: str, *parameters: Parameter, media_types: tuple[str, ...] = ()
) -> Callable[[Any], Any]:
    """A view that answers GET. It is called with the values of its parameters, and with those in its path."""

    def register(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def answered(**found: str) -> Any:
            return view(values(parameters), **found)

        _register("GET", path, view, answered, answer, parameters=parameters, media_types=media_types)
        return view

    return register


def changes(path: str, answer: str, body: str) -> Callable[[Any], Any]:
    """A view that answers POST."""

    def register(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def answered() -> Any:
            values(())
            return view()

        _register("POST", path, view, answered, answer, body=body)
        return view

    return register


def _register(method: str, path: str, view: Any, answered: Any, answer: str, **of: Any) -> None:
    OPERATIONS.append(Operation(method, path, view.__name__, " ".join((view.__doc__ or "").split()), answer, **of))
    api.add_url_rule(path, view.__name__, answered, methods=[method])


# --- answers -------------------------------------------------------------------------------------------------


def answer(value: Any, status: int = 200) -> Response:
    """The value as JSON; times as ISO 8601."""
    text = json.dumps(value, ensure_ascii=False, default=lambda time: time.isoformat())
    return Response(text.encode("utf-8", "replace"), status=status, mimetype="application/json")


def page(rows: list[Any], limit: int, cursor: Callable[[Any], str], **more: Any) -> Response:
    """A page of a list: of one row more than it has, where there is a next page, to which the cursor of its last
    row leads."""
    shown = rows[:limit]
    following = cursor(shown[-1]) if len(rows) > limit else None
    items = [row if isinstance(row, dict) else row.as_dict() for row in shown]
    return answer({"items": items, "next": following, **more})


@api.before_request
def _admit() -> None:
    """Nobody but whom `login` has admitted; changes by operators alone, and none that another site's page sends
    with the reader's cookie."""
    reader = g.get("reader")
    if reader is None:
        abort(401, "Send a token: Authorization: Bearer ...")
    if request.method in _READING:
        return
    if not reader.may("operator"):
        abort(403, "Only an operator may do this.")
    if not g.get("by_bearer") and not _is_of_our_page():
        abort(403, "Send a token, or X-Requested-With.")


def _is_of_our_page() -> bool:
    return "X-Requested-With" in request.headers or request.headers.get("Sec-Fetch-Site") == "same-origin"


@api.after_request
def _tag(response: Response) -> Response:
    """What was read may be asked for again by its ETag; no cache but the reader's own keeps it."""
    response.headers["Cache-Control"] = "private, no-cache"
    response.vary.update(("Authorization", "Cookie"))
    if request.method in _READING and response.status_code == 200:
        response.add_etag()
        response.make_conditional(request)
    return response
