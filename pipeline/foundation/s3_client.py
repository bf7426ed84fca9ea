"""The connection to S3, of which nothing but our settings decides, and whose answers are whole."""

import os
import re
from typing import Any, NamedTuple

import boto3
import botocore.session
from botocore.config import Config
from botocore.handlers import add_expect_header

from pipeline.foundation.errors import Outage

# Headers that an answer must have, by the request.
_IN_ANSWERS = {
    "HeadObject": ("Content-Length", "ETag"), "GetObject": ("Content-Length", "ETag"),
    "PutObject": ("ETag",), "UploadPart": ("ETag",),
}  # fmt: skip
_FORMS = {
    "Content-Length": r"\d+", "Content-Range": r"bytes \d+-\d+/\d+", "Last-Modified": ".* GMT",
    "Transfer-Encoding": "(?i:chunked)",
}  # fmt: skip


class Patience(NamedTuple):
    """How often a request is tried, and how long each time (seconds) a connection and an answer may take."""

    tries: int
    connecting: int
    silence: int


# Swift answers within 10 s or fails, and says every 10 s that it still joins the parts of an archive.
OF_A_WORKER = Patience(4, 10, 20)
OF_A_PERSON = Patience(1, 5, 10)  # who waits for a small file, and may ask again


def connect(
    endpoint: str,
    access_key: str,
    secret_key: str,
    region: str,
    ca_bundle: str | None,
    patience: Patience = OF_A_WORKER,
) -> Any:
    """A client for several threads; `ca_bundle`: a file of the CAs to trust, in place of AWS_CA_BUNDLE or of those
    that are well known."""
    client = _session().client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        verify=ca_bundle,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            # botocore's default sends bodies that Swift before 2.35.1 refuses
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": patience.tries},
            connect_timeout=patience.connecting,
            read_timeout=patience.silence,
            tcp_keepalive=True,
            max_pool_connections=16,
        ),
    )
    # Its waiting for "100 Continue" hangs for ever where the connection ends in that line, and mixes up answers
    # (https://github.com/boto/botocore/issues/3755).
    client.meta.events.unregister("before-call.s3", add_expect_header)
    client.meta.events.register("before-call.s3", _stay_in_region)
    client.meta.events.register("before-parse.s3", _refuse_what_was_cut)
    return client


def _session() -> boto3.Session:
    """A session that takes nothing of the profiles, files and variables of AWS's own tools, which are whoever's,
    but AWS_CA_BUNDLE."""
    variables = {
        name: (None, None, os.devnull if name.endswith("_file") else default, conversion)
        for name, (_, _, default, conversion) in botocore.session.Session.SESSION_VARIABLES.items()
        if name != "ca_bundle"
    }
    return boto3.Session(botocore_session=botocore.session.Session(variables))


def _stay_in_region(context: dict[str, Any], **_: Any) -> None:
    """Have boto3 not look for the bucket's region by itself: it would find it for some requests and for no signed
    address. What to set is said at the start of a worker."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def _refuse_what_was_cut(operation_model: Any, response_dict: dict[str, Any], **_: Any) -> None:
    """`Outage` where the connection ended in the headers of an answer, which http.client takes for their end, or
    the answer is not S3's.

    boto3 would take the rest for nothing: an empty list, say; or wait for ever for what it does not find. An error
    may be a proxy's, in words of its own: then its status alone is read, which stands in the place of S3's code.
    """
    name, headers, body = operation_model.name, response_dict["headers"], response_dict["body"]
    if response_dict["status_code"] >= 300:
        is_counted = headers.get("Content-Length") == str(len(body)) or "Transfer-Encoding" in headers
        is_of_s3 = body.rstrip().endswith(b"</Error>")
        is_whole = name.startswith("Head") or is_counted or is_of_s3
        response_dict["body"] = body if is_of_s3 else b""
    elif name.startswith(("List", "Create", "Complete")):
        is_whole = body.rstrip().endswith((b"Result>", b"Response>", b"</Error>"))  # ListParts of moto
    else:
        is_whole = all(header in headers for header in _IN_ANSWERS.get(name, ()))
    is_whole = is_whole and all(
        re.fullmatch(form, headers[header]) for header, form in _FORMS.items() if header in headers
    )
    if not is_whole:
        raise Outage("S3", f"the answer to {name} is not whole (status {response_dict['status_code']})")
