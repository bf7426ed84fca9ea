"""What can be checked of the documentation: its links, and docs/configuration.md, which is made of example.env.

    python -m tests.support.docs --write     writes docs/configuration.md, after a change of a setting

Which worker uses a setting is read from the code: the parts of config.py that a worker's functions name, and those
of the functions that they call in s3_utils.py and pipeline/commands/.
"""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = next(folder for folder in Path(__file__).resolve().parents if (folder / "example.env").is_file())
CONFIGURATION = PROJECT / "docs" / "configuration.md"
WORKERS = ("transfer", "unpack", "gpu")
GROUPS = ("REDIS", "DATABASE", "S3", "EC2")  # of config.py: whoever names one cannot do without its settings
WITH = {"REQUIRE_SCRATCH_MOUNT": "SCRATCH_ROOT"}  # a setting that is checked wherever the other one is used
UNFOLLOWED = {
    ("require", ""),  # it looks at all settings, and checks those that its caller names
    ("worker_id", "WHISPER_DEVICE_INDEX"),  # of GPU workers alone
}
MOST_NAMED = 3  # commands that use a setting; of more, pipelinectl is named
SERVICES = {"REDIS": "Redis", "DATABASE": "PostgreSQL", "S3": "S3", "EC2": "EC2 host"}
SOMETIMES = {
    ("enqueue", "S3"): "with `--local`",
    ("enqueue", "DATABASE"): "with `--wait`",
    ("migrate", "S3"): "for the names of old archives",
    ("show", "S3"): "with `--download` or `--play`",
}

# For settings that have no comment in example.env.
SHORT = {
    "S3_ENDPOINT": "Address of the store: `https://...`",
    "S3_ACCESS_KEY": "Access key of the pipeline.",
    "S3_SECRET_KEY": "Its secret.",
    "S3_BUCKET": "A bucket for the pipeline alone.",
    "EC2_HOST": "Name or address of the host.",
    "EC2_PORT": "Port of its SSH server.",
    "EC2_USER": "User who may read the archives there.",
    "EC2_WATCH_SECONDS": "How often `EC2_REMOTE_DIR` is looked at; 0: never.",
    "TRANSFER_QUEUE": "Archives to be brought from the EC2 host.",
    "UNPACK_QUEUE": "Archives in S3 to be unpacked.",
    "TRANSCRIBE_QUEUE": "Files to be transcribed: a name of its own for each host, `queue:transcribe:gpu-04`.",
    "SCRATCH_MIN_FREE_MB": "No new batch while less scratch than this is free.",
    "ARCHIVE_MAX_MB": "Largest archive, unpacked where it is compressed.",
    "WHISPER_BEAM_SIZE": "Beams of the decoder: more are slower and slightly more accurate.",
    "TOPICS_TOP": "Topics for each file.",
    "LOG_LEVEL": "DEBUG, INFO, WARNING or ERROR.",
    "WEBHOOK_URL": "Where events go, `http` or `https`; empty: nowhere. [webhooks.md](webhooks.md).",
    "WEBHOOK_SECRET": "16 characters at least: `openssl rand -hex 16`.",
    "METRICS_LISTEN": "Address and port: `127.0.0.1:9101`.",
    "CHANNEL_NAMES": "Names in the order of the channels: `caller,agent`.",
}

INTRODUCTION = """# Configuration

Settings are environment variables. [`example.env`](../example.env) is a file to start from; this page is generated
from it, and from the code that reads the settings.

- An empty variable counts as not set.
- *Required* means that those who are named do not start without it, and that it has no default.
- A worker that finds a setting missing or wrong ends with exit status 2 and prints one line for each problem.
- The settings file holds secrets: give it mode 0600. [quickstart.md](quickstart.md#5-the-settings-file) makes one
  by hand; with Ansible, settings go into [`group_vars`](../ansible/README.md#before-the-first-run).

## Who needs which service

"""


@dataclass
class Setting:
    """A setting of example.env: its default, and what the comment above it says."""

    name: str
    default: str
    about: str


@dataclass
class Section:
    """A group of settings with one heading."""

    title: str
    about: str = ""
    settings: list[Setting] = field(default_factory=list)


def sections(text: str) -> list[Section]:
    """The sections of example.env. The text of a heading may go on in the line below it."""
    found: list[Section] = []
    comment: list[str] = []
    is_heading = False
    for line in text.splitlines():
        said = line.removeprefix("#").strip()
        if line.startswith("# --- "):
            title, about = re.fullmatch(r"# --- (.*?)(?:[:;.] (.*))?", line).groups("")  # type: ignore[union-attr]
            found.append(Section(title, about))
        elif is_heading and line.startswith("#") and (found[-1].about.endswith(":") or re.match(r"[a-z]+ ", said)):
            found[-1].about = f"{found[-1].about} {said}".strip()
            continue
        elif line.startswith("#"):
            comment.append(said)
        elif match := re.fullmatch(r"([A-Z0-9_]+)=(.*)", line):
            about = " ".join(comment) or SHORT.get(match[1], "")
            found[-1].settings.append(Setting(match[1], match[2], about))
            comment = []
        else:
            comment = []
        is_heading = line.startswith("# --- ")
    return found


# --- who uses what -------------------------------------------------------------------------------------------


@dataclass
class Code:
    """One module of ours: the names of each top-level function or assignment, and what they stand for."""

    path: Path

    @functools.cached_property
    def tree(self) -> ast.Module:
        """The module's syntax."""
        return ast.parse(self.path.read_text())

    @functools.cached_property
    def imports(self) -> dict[str, str]:
        """The modules it imports: the name here -> the dotted name; `from a import b` may import a module too."""
        found = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update({name.asname or name.name: name.name for name in node.names})
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.update({name.asname or name.name: f"{node.module}.{name.name}" for name in node.names})
        return found

    @functools.cached_property
    def parts(self) -> dict[str, list[ast.stmt]]:
        """Its top-level statements by the name that they give; "" for the rest."""
        found: dict[str, list[ast.stmt]] = {}
        for node in self.tree.body:
            for name in _given(node) or [""]:
                found.setdefault(name, []).append(node)
        return found


def _given(node: ast.stmt) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


@functools.cache
def code(module: str) -> Code | None:
    """The module of that dotted name, where it is one of ours that may read config.py."""
    path = PROJECT / f"{module.replace('.', '/')}.py"
    is_ours = "." not in module or module.startswith("pipeline.commands.")
    return Code(path) if is_ours and path.is_file() else None


@functools.cache
def reached(module: str, part: str | None = None) -> frozenset[tuple[str, str]]:
    """Every (module, part) that is used by a part of a module, or by all of it, itself included."""
    seen: set[tuple[str, str]] = set()
    module_code = code(module)
    assert module_code is not None
    todo = [(module, name) for name in (module_code.parts if part is None else [part, ""])]
    while todo:
        step = todo.pop()
        if step not in seen:
            seen.add(step)
            todo.extend(_used(*step))
    return frozenset(seen)


def _used(module: str, part: str) -> Iterator[tuple[str, str]]:
    module_code = code(module)
    if module_code is None or (module == "config" and {(part, ""), ("", part)} & {*UNFOLLOWED, ("", "")}):
        return
    for statement in module_code.parts.get(part, []):
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                other = module_code.imports.get(node.value.id, "")
                if code(other):
                    yield other, node.attr
            elif isinstance(node, ast.Name):
                if node.id in module_code.parts and (part, node.id) not in UNFOLLOWED:
                    yield module, node.id
                other, _, name = module_code.imports.get(node.id, "").rpartition(".")
                if code(other):
                    yield other, name


def variables(uses: Iterable[tuple[str, str]]) -> set[str]:
    """The environment variables behind the parts of config.py among these."""
    config = code("config")
    assert config is not None
    found: set[str] = set()
    for module, part in uses:
        if module != "config" or part in GROUPS:
            continue
        for statement in config.parts.get(part, []):
            if isinstance(statement, (ast.Assign, ast.AnnAssign)):
                found.update(filter(None, map(_variable, ast.walk(statement))))
    return found


def _variable(node: ast.AST) -> str:
    """The variable that a call such as `_env.text("EC2_HOST")` or `_ffmpeg("FFMPEG")` reads."""
    if isinstance(node, ast.Call) and node.args and re.match(r"_env\.|_[a-z]", ast.unparse(node.func)):
        name = node.args[0]
        return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
    return ""


def group(name: str) -> list[str]:
    """The settings of a group of config.py."""
    config = code("config")
    assert config is not None
    (statement,) = config.parts[name]
    assert isinstance(statement, ast.Assign)
    return list(ast.literal_eval(statement.value))


def required(uses: frozenset[tuple[str, str]]) -> set[str]:
    """The settings that whoever uses these parts cannot do without."""
    return {name for of in GROUPS if ("config", of) in uses for name in group(of)}


@functools.cache
def users() -> dict[str, frozenset[tuple[str, str]]]:
    """What each worker and each command of pipelinectl reaches."""
    found = {worker: reached(f"{worker}_worker") for worker in WORKERS}
    for path in sorted((PROJECT / "pipeline" / "commands").glob("*.py")):
        module = code(f"pipeline.commands.{path.stem}")
        if module is not None and {"run", "add"} <= set(module.parts):
            found[path.stem] = reached(f"pipeline.commands.{path.stem}")
    return found


def users_of(name: str) -> tuple[list[str], list[str]]:
    """Who uses a setting, and who cannot do without it."""
    using = [user for user, uses in users().items() if WITH.get(name, name) in variables(uses) | required(uses)]
    needing = [user for user in using if name in required(users()[user])]
    return using, needing


# --- the page ------------------------------------------------------------------------------------------------


def configuration() -> str:
    """What docs/configuration.md has to be."""
    lines = [INTRODUCTION + services()]
    for section in sections((PROJECT / "example.env").read_text()):
        lines += [f"## {_sentence(section.title)}\n"]
        if section.about:
            lines += [f"{_sentence(section.about)}{'' if section.about[-1] in '.:' else '.'}\n"]
        lines += [row("setting", "default", "used by", "required by", "what it is"), "|---|---|---|---|---|"]
        for setting in section.settings:
            using, needing = users_of(setting.name)
            default = f"`{setting.default}`" if setting.default else ""
            about = _sentence(setting.about).replace("|", "\\|").replace("<", "&lt;")
            lines.append(row(f"`{setting.name}`", default, people(using), people(needing), about))
        lines.append("")
    return "\n".join(lines)


def row(*cells: str) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |")


def services() -> str:
    """The table of what each worker and each command cannot do without."""
    lines = [row("", *SERVICES.values()), f"|---|{'---|' * len(SERVICES)}"]
    for user, uses in users().items():
        cells = [SOMETIMES.get((user, of), "yes") if ("config", of) in uses else "" for of in SERVICES]
        if any(cells):
            lines.append(row(f"`{user}_worker.py`" if user in WORKERS else f"`pipelinectl {user}`", *cells))
    return "\n".join([*lines, ""])


def people(names: list[str]) -> str:
    """Workers by their names; commands by theirs where they are few."""
    workers = [name for name in names if name in WORKERS]
    commands = [name for name in names if name not in WORKERS]
    if len(workers) == len(WORKERS):
        workers = ["all workers"]
    shown = [f"`{name}`" for name in commands] if len(commands) <= MOST_NAMED else ["`pipelinectl`"]
    return ", ".join(workers + shown)


def _sentence(text: str) -> str:
    """The text with a capital at its start, where its first word is none that is written as it is."""
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+ (?!\(the)", text) else text


# --- links ---------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """Every Markdown file of the project that git knows, or would take in."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.md"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:  # no checkout of git
        found = [path for path in PROJECT.rglob("*.md") if not any(part.startswith(".") for part in path.parts)]
        return sorted(found)
    return sorted(path for name in done.stdout.split("\0") if name and (path := PROJECT / name).is_file())


def prose(text: str) -> str:
    """A page without what is code: blocks and spans."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"(?:\A|(?<=\n\n))(?: {4}.*\n?)+", "", text)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "``", text)


def links(text: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^()\s]+)(?: \"[^\"]*\")?\)", prose(text))


def anchors(text: str) -> set[str]:
    """What a link may name in a page, as GitHub makes it of the headings."""
    found: dict[str, int] = {}
    shown = set(re.findall(r"<a (?:name|id)=\"([^\"]+)\"", text))
    for heading in re.findall(
        r"^#{1,6} +(.*?)(?: +#+)?$", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M), re.M
    ):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        number = found[name] = found.get(name, -1) + 1
        shown.add(f"{name}-{number}" if number else name)
    return shown


def broken_links(page: Path, text: str) -> list[str]:
    """The links of a page that lead nowhere: files that are not there, and headings that their page lacks."""
    broken = []
    for target in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue  # elsewhere
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        is_page = there.suffix == ".md"
        if not there.exists() or (
            anchor and is_page and anchor not in anchors(text if there == page else there.read_text())
        ):
            broken.append(target)
    return broken


def main() -> int:
    """Write docs/configuration.md, or show it."""
    if sys.argv[1:] == ["--write"]:
        CONFIGURATION.write_text(configuration())
    elif sys.argv[1:]:
        print(__doc__, file=sys.stderr)
        return 2
    else:
        print(configuration(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
