"""Writes requirements.txt and requirements-dev.txt from pyproject.toml: python -m tests.requirements

With --check it changes nothing, and ends with status 1 where they differ. Each line of pyproject.toml names one
package, with what it is for behind it.
"""

import re
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())

MADE = "made from pyproject.toml by `python -m tests.requirements`.\n"
HEADS = {
    "requirements.txt": f"# What the workers, pipelinectl and its page run on; {MADE}",
    "requirements-dev.txt": f"# What the demo and the tests need too; {MADE}-r requirements.txt\n",
}
GROUPS = {"requirements.txt": ("dependencies", "ctl", "worker", "web"), "requirements-dev.txt": ("dev",)}
_ENTRY = re.compile(r"""\s+(?P<quote>["'])(?P<entry>.+?)(?P=quote),(?:\s+# (?P<purpose>.+))?""")


def entries(lines: list[str], group: str) -> list[str]:
    """The lines of a requirements file for the array of this name, other extras of the project left out."""
    start = lines.index(f"{group} = [") + 1
    found = [_ENTRY.fullmatch(line) for line in lines[start : lines.index("]", start)]]
    chosen = [one for one in found if one and not one["entry"].startswith("audio-pipeline[")]
    return [f"{one['entry']:<23}   # {one['purpose']}" if one["purpose"] else one["entry"] for one in chosen]


def texts() -> dict[str, str]:
    """What each file has to say."""
    lines = (PROJECT / "pyproject.toml").read_text().splitlines()
    return {
        file: HEADS[file] + "".join(f"{entry}\n" for group in groups for entry in entries(lines, group))
        for file, groups in GROUPS.items()
    }


def of(extra: str) -> list[Requirement]:
    """What `pip install .[extra]` asks for."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    waiting, found = [*project["dependencies"], *project["optional-dependencies"][extra]], []
    while waiting:
        one = Requirement(waiting.pop())
        if one.name == project["name"]:
            waiting += [entry for other in one.extras for entry in project["optional-dependencies"][other]]
        else:
            found.append(one)
    return found


def everything() -> list[Requirement]:
    """Every package that pyproject.toml names."""
    lines = [line.partition(" #")[0].strip() for text in texts().values() for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]


def main() -> int:
    """Write the files, or compare them."""
    stale = {name: text for name, text in texts().items() if (PROJECT / name).read_text() != text}
    if sys.argv[1:] == ["--check"]:
        for name in stale:
            print(f"{name} is not that of pyproject.toml: python -m tests.requirements, then ansible/lock")
        return 1 if stale else 0
    for name, text in stale.items():
        (PROJECT / name).write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
