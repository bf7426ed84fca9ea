"""What a program is told of what went wrong: problem details (RFC 9457), without anything of our insides."""

import json
import logging

from flask import Response, request
from werkzeug.exceptions import BadRequest, HTTPException, InternalServerError, ServiceUnavailable, Unauthorized

from pipeline.foundation.errors import Permanent, unavailable_service

PREFIX = "/api/"
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 10  # after which to ask a service again that is unavailable
_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")  # headers of an error that say what to do
log = logging.getLogger(__name__)


def problem(error: Exception) -> Response:
    """The answer for an error; the reason of what nobody expected is in the log alone."""
    known = _known(error)
    code = known.code or 500
    told = {"type": "about:blank", "title": known.name, "status": code, "detail": known.description or known.name}
    answer = Response(json.dumps(told), status=code, mimetype=MEDIA_TYPE)
    for name, value in known.get_headers():
        if name in _KEPT:
            answer.headers[name] = value
    if isinstance(known, Unauthorized):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def _known(error: Exception) -> HTTPException:
    """The error as one of HTTP."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, Permanent):
        return BadRequest(str(error))
    if (service := unavailable_service(error)) is not None:
        log.warning("%s is unavailable: %s", service, error)
        return ServiceUnavailable(f"{service} is unavailable.", retry_after=RETRY_SECONDS)
    log.error("%s", request.path, exc_info=error)
    return InternalServerError("The log says what.")
