"""The OpenAPI document of the interface for programs, made of its operations themselves."""

from pipeline.foundation.startup import VERSION

import functools
from http import HTTPStatus
from typing import Any

from flask import Response

from pipeline.web import api_changes, api_reading
from pipeline.web.api import OPERATIONS, VERSION_1, Operation, answer, api, reads
from pipeline.web.api_errors import MEDIA_TYPE
from pipeline.web.api_parameters import Parameter
from pipeline.web.openapi_schemas import AUDIO_ID, BATCH, BATCH_ID, EXAMPLES, SCHEMAS

__all__ = ["api", "api_changes", "api_reading", "document"]  # with every operation
_PROBLEMS = {
    400: "What was asked for is not valid.",
    401: "Who asks is not known: send a token.",
    403: "Who asks may not do this.",
    404: "There is no such thing.",
    405: "It is not done with this method.",
    409: "It cannot be done now.",
    413: "The body is larger than 64 KiB.",
    415: "The body is not application/json.",
    429: "There were too many wrong tokens from this network.",
    500: "Nobody expected this; the log has the reason.",
    503: "A service is unavailable.",
}
_OF_GET, _OF_POST = (400, 401, 403, 404, 405, 429, 500, 503), tuple(_PROBLEMS)
_PATHS: dict[str, dict[str, Any]] = {
    "batch_id": {"schema": BATCH_ID, "description": "The id of a batch.", "example": BATCH},
    "audio_id": {
        "schema": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        "description": "The id of a file.",
        "example": AUDIO_ID,
    },
}
_ABOUT = """The interface for programs of audio-pipeline. Lists come in pages: `next` is the `cursor` of the
following one. Times are ISO 8601 in UTC. Answers have an ETag, which `If-None-Match` asks for. Later releases may
add fields and values: leave out what you do not know. Names, words and reasons are text that others wrote."""


@reads("/openapi.json", "Document")
def openapi(_: dict[str, Any]) -> Response:
    """This document."""
    return answer(document())


@functools.cache
def document() -> dict[str, Any]:
    """The interface as OpenAPI 3.1."""
    paths: dict[str, Any] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.template, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "audio-pipeline", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": VERSION_1}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {str(code): _problem(code, what) for code, what in _PROBLEMS.items()},
        },
    }


def _operation(of: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": of.name,
        "summary": of.what.partition(".")[0].partition(":")[0].partition(",")[0],
        "description": of.what,
        "parameters": [*_path_parameters(of), *map(_parameter, of.parameters)],
        "responses": _answers(of) | {str(code): _ref_to(code) for code in (_OF_POST if of.body else _OF_GET)},
    }
    if of.body:
        found["requestBody"] = {"required": True, "content": _json(of.body)}
    if of.method == "GET":
        found["parameters"].append(_IF_NONE_MATCH)
    return found


_IF_NONE_MATCH = {
    "name": "If-None-Match", "in": "header", "description": "The ETag of an answer that is known.",
    "schema": {"type": "string"},
}  # fmt: skip


def _answers(of: Operation) -> dict[str, Any]:
    if of.method == "POST":
        return {"202": {"description": "It is queued.", "content": _json(of.answer)}}
    content = _json(of.answer) | {kind: {"schema": {"type": "string"}} for kind in of.media_types}
    etag = {"ETag": {"description": "Of this very answer.", "schema": {"type": "string"}}}
    return {
        "200": {"description": "What was asked for.", "headers": etag, "content": content},
        "304": {"description": "It is as If-None-Match knows it."},
    }


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}, "example": EXAMPLES[name]}}


def _path_parameters(of: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, **about}
        for name, about in _PATHS.items()
        if f"{{{name}}}" in of.template
    ]


def _parameter(of: Parameter) -> dict[str, Any]:
    repeated = {"style": "form", "explode": True} if of.is_list else {}
    return {"name": of.name, "in": "query", "description": of.what, "schema": dict(of.schema), **repeated}


def _problem(code: int, what: str) -> dict[str, Any]:
    seen = {**EXAMPLES["Problem"], "title": HTTPStatus(code).phrase, "status": code, "detail": what}
    return {
        "description": what,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": seen}},
    }


def _ref_to(code: int) -> dict[str, str]:
    return {"$ref": f"#/components/responses/{code}"}
