"""docs/runbook.md has an entry for everything that an operator is told to look up."""

import ast
import re

import yaml

from tests.fleet import PROJECT

ENTRIES = set(re.findall(r"(?m)^## (\S+)$", (PROJECT / "docs" / "runbook.md").read_text()))


def test_each_alert_has_an_entry() -> None:
    rules = yaml.safe_load((PROJECT / "monitoring" / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert alerts
    assert alerts <= ENTRIES


def test_each_trouble_of_the_status_has_an_entry() -> None:
    named = set()
    for path in ("pipeline/status.py", "pipeline/commands/status.py"):
        for node in ast.walk(ast.parse((PROJECT / path).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Trouble":
                see = node.args[2]
                assert isinstance(see, ast.Constant), "what a trouble refers to must be told from the source"
                named.add(see.value)
    assert len(named) > 5
    assert named <= ENTRIES


def test_no_entry_is_of_something_that_is_gone() -> None:
    sources = [PROJECT / "monitoring" / "alerts.yml", *(PROJECT / "pipeline").rglob("status.py")]
    text = "".join(path.read_text() for path in sources)
    assert [entry for entry in ENTRIES if entry not in text] == []
