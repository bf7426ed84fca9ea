"""docs/runbook.md has an entry for everything that an operator is referred to."""

import ast
import re
from collections.abc import Iterator

import yaml

from pipeline.foundation.file_warnings import CODES
from tests.support.docs import anchors
from tests.support.fleet import PROJECT

RUNBOOK = (PROJECT / "docs" / "runbook.md").read_text()
ENTRIES = set(re.findall(r"(?m)^## (\S+)$", RUNBOOK))
LISTED = [found[1] for found in re.findall(r"(?m)^- (`+) ?(.+?) ?\1$", RUNBOOK)]

WORKERS = ("transfer_worker", "unpack_worker", "gpu_worker")
LEVELS = ("warning", "error", "exception", "critical")
JUDGES = ("pipeline/operations/status.py", "pipeline/operations/troubles.py", "pipeline/commands/status.py")
RENAMED = {
    "archive-cut-damaged-or-no-tar", "archive-made-as-no-archiver-makes-it", "job-it-is-none-of-this-queue",
    "job-it-was-given-up", "recording-ffmpeg-cannot-be-run", "recording-ffmpeg-makes-no-sound-of-it",
    "service-redis-postgresql-or-s3-is-away", "service-ffmpeg-is-away", "service-the-ec2-host-is-away",
    "service-the-clock-is-away", "service-the-disk-is-away", "service-the-host-is-away",
    "service-the-lock-of-the-batch-is-away", "start-a-setting-is-missing-or-is-none",
    "start-the-tables-are-not-the-codes", "worker-housekeeping",
}  # fmt: skip
MISTAKES = ("AssertionError", "ValueError")  # in the code, which no operator meets


def test_each_alert_has_an_entry() -> None:
    rules = yaml.safe_load((PROJECT / "monitoring" / "alerts.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert alerts
    assert alerts <= ENTRIES


def test_each_trouble_of_the_status_has_an_entry() -> None:
    named = set()
    for path in JUDGES:
        for node in ast.walk(ast.parse((PROJECT / path).read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Trouble":
                see = node.args[2]
                assert isinstance(see, ast.Constant), "what a trouble refers to must stand in the source"
                named.add(see.value)
    assert len(named) > 5
    assert named <= ENTRIES


def test_no_entry_is_of_something_that_is_gone() -> None:
    text = "".join((PROJECT / path).read_text() for path in ("monitoring/alerts.yml", *JUDGES))
    assert [entry for entry in ENTRIES - set(CODES) if entry not in text] == []


def test_links_to_headings_that_were_renamed_still_work() -> None:
    assert anchors(RUNBOOK) >= RENAMED


def test_each_warning_of_a_recording_has_an_entry() -> None:
    part = RUNBOOK.partition("\n# Warnings of recordings\n")[2].partition("\n# ")[0]
    entries = dict(re.findall(r"(?ms)^## (\w+)$(.*?)(?=^## |\Z)", part))
    assert list(entries) == list(CODES)
    for code, entry in entries.items():
        assert re.findall(r"(?m)^\*\*([\w ]+):\*\*", entry) == ["Means", "Look at", "Do"], code


# --- the messages of the workers -----------------------------------------------------------------------------


def test_each_message_of_the_workers_has_an_entry() -> None:
    said = messages()
    assert len(said) > 100
    assert sorted(said - set(LISTED)) == []


def test_no_message_is_listed_that_is_gone_or_twice() -> None:
    assert sorted(set(LISTED) - messages()) == []
    assert len(set(LISTED)) == len(LISTED)


def test_each_message_has_words_to_look_for() -> None:
    assert [text for text in messages() if "…" in text and not re.search("[A-Za-z]{3}", text)] == []


def test_each_entry_says_what_it_means_and_what_to_do() -> None:
    entries = re.split(r"(?m)^##+ ", RUNBOOK.partition("\n# Messages")[2])[1:]
    assert len(entries) > 20
    for entry in entries:
        assert re.search(r"(?m)^- `", entry), entry
        parts = re.findall(r"(?m)^\*\*(Means|Look at|Do|Do not):\*\*", entry)
        assert parts in (["Means", "Look at", "Do"], ["Means", "Look at", "Do", "Do not"]), entry


def messages() -> set[str]:
    """What the workers may say: warnings and errors in the log, reasons of failures, refusals to start, and the
    names of what may be unavailable; with `…` for what varies."""
    modules = sources()
    classes = [node for module in modules for node in ast.walk(module) if isinstance(node, ast.ClassDef)]
    errors = {"Exception"}
    while more := {of.name for of in classes if errors & {ast.unparse(base) for base in of.bases}} - errors:
        errors |= more
    said = {text for module in modules for node in ast.walk(module) for text in said_by(node, module, errors)}
    return {re.sub("…+", "…", text) for text in said}


def sources() -> list[ast.Module]:
    """The modules that the workers are made of: what they import of this project, however far."""
    found: dict[str, ast.Module] = {}
    names = list(WORKERS)
    while names:
        name = names.pop()
        path = PROJECT / f"{name.replace('.', '/')}.py"
        if name in found or not path.is_file():
            continue
        found[name] = ast.parse(path.read_text())
        for node in ast.walk(found[name]):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return list(found.values())


def said_by(node: ast.AST, module: ast.Module, errors: set[str]) -> set[str]:
    """The messages in one piece of code: a line of the log, an error, a refusal, a failed file's reason, or a
    check (which gives what is wrong, or None)."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "logging"), attr=level), args=[form, *_]):
            if level not in LEVELS:
                return set()
            said = {re.sub(r"%[.\d]*[a-z]", "…", text) for text in texts(form, module)}
            assert said, f"what is logged must stand in the source: {ast.unparse(node)}"
            return said
        case ast.Call(keywords=[ast.keyword(arg="problem", value=problem)]):
            return texts(problem, module)
        case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="problems"), attr="append"), args=[problem]):
            return texts(problem, module)
        case ast.Call(args=[ast.Attribute(attr="fail_file"), *arguments]):
            return either(arguments, module)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
            is_error = name in errors or (name.endswith("Error") and name not in MISTAKES)
            return either(arguments, module) if is_error or name in ("refuse", "fail_file") else set()
        case ast.FunctionDef(returns=ast.BinOp() as given) if ast.unparse(given) == "str | None":
            returned = [of.value for of in ast.walk(node) if isinstance(of, ast.Return) and of.value]
            return either(returned, module)
    return set()


def texts(node: ast.AST, module: ast.Module) -> set[str]:
    """The texts that an expression may be; none where it is what another piece of code says."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.JoinedStr(values=parts):
            return {"".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)}
        case ast.IfExp(body=first, orelse=second):
            return either([first, second], module)
        case ast.BoolOp(values=parts) | ast.List(elts=parts):
            return either(parts, module)
        case ast.ListComp(elt=part) | ast.Starred(value=part) | ast.NamedExpr(value=part):
            return texts(part, module)
        case ast.Name(id=name):
            return either(list(given(name, module)), module)
        case ast.BinOp(left=first, right=second) if either([first, second], module):
            return {
                f"{start}{end}" for start in texts(first, module) or "…" for end in texts(second, module) or "…"
            }
    return set()


def either(nodes: list[ast.expr], module: ast.Module) -> set[str]:
    """The texts that any of the expressions may be."""
    return {text for node in nodes for text in texts(node, module)}


def given(name: str, module: ast.Module) -> Iterator[ast.expr]:
    """What a name stands for, or holds, anywhere in its module."""
    for node in ast.walk(module):
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=target)], value=value)
                | ast.NamedExpr(target=ast.Name(id=target), value=value)
                | ast.Call(func=ast.Attribute(value=ast.Name(id=target), attr="append"), args=[value])
            ) if target == name:
                yield value
