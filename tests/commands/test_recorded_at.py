"""pipelinectl show: when a recording was made, by which source, and what else is said of it."""

import json

from tests.commands.test_pipelinectl import control, printed
from tests.support.fleet import Fleet
from tests.web.test_recorded_at import described


def test_show_says_when_a_recording_was_made_and_what_is_said_of_it(fleet: Fleet) -> None:
    audio_id = described(fleet, {"talkgroup": 1234, "status": "\x1b[31mred", "units": [5, 6]})
    text = printed(control(fleet, "show", str(audio_id)))
    assert "recorded             2024-03-15 14:22:33 UTC (from its sidecar)\n" in text
    lines = text[text.index("metadata\n") :].splitlines()
    assert set(lines[1:4]) == {
        "  talkgroup          1234", "  status             \\x1b[31mred", "  units              [5, 6]",
    }  # fmt: skip
    shown = json.loads(printed(control(fleet, "show", str(audio_id), "--json")))
    assert shown["recorded_at"] == "2024-03-15T14:22:33+00:00"
    assert shown["recorded_from"] == "sidecar"
    assert shown["metadata"] == {"talkgroup": 1234, "status": "\x1b[31mred", "units": [5, 6]}
