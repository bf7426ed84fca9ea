"""The templates, styles and scripts of the page: read at the start, so that it keeps those of its own release."""

import mimetypes
from pathlib import Path

from flask import Response, abort, request

_WEB = Path(__file__).parent
TEMPLATES = {path.name: path.read_text() for path in (_WEB / "templates").iterdir()}
_STATIC = {path.name: path.read_bytes() for path in (_WEB / "static").iterdir()}
RUNBOOK = (_WEB.parents[1] / "docs" / "runbook.md").read_text()


def static(filename: str) -> Response:
    """A style, a script or a picture."""
    if filename not in _STATIC:
        abort(404)
    response = Response(_STATIC[filename], mimetype=mimetypes.guess_type(filename)[0])
    response.cache_control.no_cache = True
    response.add_etag()
    response.make_conditional(request)
    return response
