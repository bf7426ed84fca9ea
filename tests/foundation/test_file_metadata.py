"""pipeline/foundation/file_metadata.py: whatever others write becomes what PostgreSQL can hold, and no more."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.foundation.file_metadata import MOST_BYTES, MOST_FIELDS, bounded


def test_fields_are_kept_as_they_are() -> None:
    fields = {"talkgroup": 1234, "tag": "Fire Dispatch", "emergency": False, "srcList": [{"src": 5, "pos": 0.5}]}
    assert bounded(fields) == fields


def test_what_is_empty_or_no_json_is_left_out() -> None:
    assert bounded({"a": None, "b": "", "c": [], "d": float("nan"), "e": 2**70, "": 1, "f": " x\0\ud800 "}) == {
        "f": "x\\ud800"
    }


def test_too_much_is_cut() -> None:
    assert len(bounded({f"key{number}": number for number in range(1000)})) == MOST_FIELDS
    assert bounded({"k" * 1000: "v" * 5000}) == {"k" * 100: "v" * 1000}
    assert bounded({"deep": {"er": {"and": {"on": 1}}}}) == {"deep": {"er": {"and": None}}}
    many = bounded({f"key{number}": "v" * 1000 for number in range(60)} | {"last": 1})
    assert len(json.dumps(many)) <= MOST_BYTES + 200
    assert many["last"] == 1


_json: Any = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _json, max_size=5))
def test_whatever_is_there_can_be_stored(fields: dict[str, Any]) -> None:
    text = json.dumps(bounded(fields), allow_nan=False, ensure_ascii=False)
    assert "\0" not in text
    assert "\\u0000" not in text
    assert len(text.encode()) < 4 * MOST_BYTES
