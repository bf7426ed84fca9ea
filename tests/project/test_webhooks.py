"""docs/webhooks.md: its check of a signature works, and its schema is of what is sent."""

import json
import re
import time
from typing import Any

import pytest

from pipeline.foundation.webhook_request import signature
from pipeline.store.queries import QUERIES
from tests.support.fleet import PROJECT

PAGE = (PROJECT / "docs" / "webhooks.md").read_text()
SECRET, BODY = "a-secret-that-nobody-guesses", b'{"id": "1"}'


def block(language: str) -> str:
    """The block of the page in this language."""
    (found,) = re.findall(rf"(?ms)^```{language}\n(.*?)^```$", PAGE)
    return str(found)


@pytest.fixture(scope="module")
def is_genuine() -> Any:
    names: dict[str, Any] = {}
    exec(block("python"), names)
    return names["is_genuine"]


def signed(stamp: str, secret: str = SECRET, body: bytes = BODY) -> str:
    return f"t={stamp},v1={signature(secret, stamp, body)}"


def test_the_check_of_a_signature_takes_what_is_genuine_and_new(is_genuine: Any) -> None:
    now = int(time.time())
    assert is_genuine(BODY, signed(str(now)), SECRET)
    for header in (
        signed(str(now - 600)), signed(str(now), "another"), signed(str(now), body=b"{}"), f"t={now},v1=",
        signed(str(now)).replace("v1=", "v0="), "", "t=,v1=", "t=x,v1=\u00e9", f"t={now}", "v1=1", "=,=",
    ):  # fmt: skip
        assert not is_genuine(BODY, header, SECRET), header


def test_the_signature_of_the_example_is_one() -> None:
    assert re.search(r"t=\d{10},v1=[0-9a-f]{64}$", PAGE, re.M)


def test_the_schema_has_each_type_and_each_field() -> None:
    schema = json.loads(block("json"))
    types = set(schema["properties"]["type"]["enum"])
    code = QUERIES["finish_batch"] + QUERIES["save_alert"]
    code += (PROJECT / "pipeline/operations/webhook_delivery.py").read_text()
    assert types == {*re.findall(r"'((?:batch|keyword)\.\w+)'", code), "job.dead_lettered", "test"}
    assert {kind for kind in types if f"`{kind}`" in PAGE} == types
    sent = set(re.findall(r"'(\w+)', (?:ended|counted|saved|f|b|to_char|%)", code))
    sent |= set(re.findall(r'"(\w+)": (?:printable|dead)', code))
    assert sent == set(schema["properties"]["data"]["properties"])
