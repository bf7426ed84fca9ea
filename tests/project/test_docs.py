"""README.md and docs/: links lead somewhere, the README stays short, and what is generated is current."""

import re
from pathlib import Path

import pytest

import config
from tests.support import docs

PROJECT = docs.PROJECT
PAGES = docs.pages()


def test_every_page_is_found() -> None:
    names = {str(page.relative_to(PROJECT)) for page in PAGES}
    assert {"README.md", "SECURITY.md", "docs/runbook.md", "docs/quickstart.md", "ansible/README.md"} <= names
    assert not [name for name in names if name.startswith(".")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert docs.broken_links(page, page.read_text()) == []


def test_links_that_lead_nowhere_are_reported(tmp_path: Path) -> None:
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One: two `three`\n\n# Same\n\n# Same\n\n```sh\n# a comment\n```\n")
    text = """# Here

[1](other.md) [2](other.md#one-two-three) [3](#here) [4](other.md#same-1) [5](https://example.net/x) `[6](code.md)`
[7](gone.md) [8](other.md#two) [9](#there) ![10](gone.svg) [11](other.md#a-comment) [12](other.md#same-2)

    [13](block.md)

```
[14](fence.md)
```
"""
    page.write_text(text)
    lost = ["gone.md", "other.md#two", "#there", "gone.svg", "other.md#a-comment", "other.md#same-2"]
    assert docs.broken_links(page, text) == lost


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [PROJECT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        targets = ((page.parent / link.partition("#")[0]).resolve() for link in docs.links(page.read_text()))
        todo += [target for target in targets if target.suffix == ".md" and target not in reached | set(todo)]
    assert [page for page in PAGES if page.parent.name == "docs" and page not in reached] == []


def test_the_readme_is_short() -> None:
    assert 80 <= len((PROJECT / "README.md").read_text().splitlines()) <= 110


def test_the_readme_names_the_two_commands() -> None:
    commands = re.findall(r"^    \./(\w+)(?= |$)", (PROJECT / "README.md").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(commands)
    assert all((PROJECT / command).stat().st_mode & 0o111 for command in commands)


def test_commands_of_pipelinectl_exist() -> None:
    known = {path.stem for path in (PROJECT / "pipeline" / "commands").glob("*.py")}
    for page in PAGES:
        if page.parent.name == "docs" or page.name == "README.md":
            named = set(re.findall(r"pipelinectl(?:\.py)? ([a-z]+)\b", page.read_text()))
            unknown = {word for word in named if f"pipelinectl.py {word}" in page.read_text()} - known
            assert unknown == set(), page


def test_paths_and_modules_that_pages_name_exist() -> None:
    lost = []
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # it names what was there
            continue
        text = page.read_text()
        paths = re.findall(r"`((?:access|ansible|bench|docs|monitoring|pipeline|schema|tests)/[\w./-]*)`", text)
        modules = re.findall(r"python3? -m (tests[\w.]*)", text)
        lost += [(page.name, path) for path in paths if not (PROJECT / path).exists()]
        lost += [
            (page.name, module)
            for module in modules
            if not any((PROJECT / f"{module.replace('.', '/')}{end}").is_file() for end in (".py", "/__main__.py"))
        ]
    assert lost == []


# --- the picture -------------------------------------------------------------------------------------------------


def test_the_picture_has_words_for_all_and_colours_for_light_and_dark() -> None:
    picture = (PROJECT / "docs" / "way-of-a-recording.svg").read_text()
    assert "prefers-color-scheme: dark" in picture
    assert "<title" in picture
    assert "<desc" in picture
    assert "<script" not in picture


# --- docs/architecture.md ----------------------------------------------------------------------------------------


def test_the_map_names_every_module() -> None:
    text = (PROJECT / "docs" / "architecture.md").read_text()
    rows = dict(re.findall(r"^\| `pipeline/(\w+)/` \|(.*)$", text, re.MULTILINE))
    wings = {path.parent.name for path in (PROJECT / "pipeline").glob("*/*.py")}
    assert set(rows) == wings
    for wing in wings - {"commands", "web"}:
        named = set(re.findall(r"`(\w+)`", rows[wing]))
        assert named == {path.stem for path in (PROJECT / "pipeline" / wing).glob("*.py")} - {"__init__"}, wing


# --- docs/configuration.md ---------------------------------------------------------------------------------------


def test_the_page_of_settings_is_current() -> None:
    assert docs.CONFIGURATION.read_text() == docs.configuration(), f"run python -m {docs.__name__} --write"


def test_the_page_of_settings_has_every_setting_with_its_default() -> None:
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|(?: `(.*?)`)? \|", docs.configuration(), re.MULTILINE)
    assert dict(rows) == config.defaults


def test_every_setting_has_a_user_and_a_meaning() -> None:
    for line in docs.configuration().splitlines():
        if re.match(r"\| `[A-Z0-9_]+` \|", line):
            cells = re.split(r"(?<!\\)\|", line)
            assert cells[3].strip(), line
            assert cells[5].strip(), line


@pytest.mark.parametrize(
    ("name", "using", "needing"),
    [
        ("EC2_USER", {"transfer"}, {"transfer"}),
        ("SCRATCH_ROOT", {"unpack", "gpu"}, set()),
        ("WHISPER_DEVICE", {"gpu"}, set()),
        ("ARCHIVE_MAX_MB", {"transfer", "unpack", "enqueue"}, set()),
        ("WEB_TOKEN", {"web"}, set()),
        ("MAX_ATTEMPTS", {"transfer", "unpack", "gpu"}, set()),
    ],
)
def test_who_uses_a_setting_is_read_from_the_code(name: str, using: set[str], needing: set[str]) -> None:
    found_using, found_needing = docs.users_of(name)
    assert set(found_using) == using
    assert set(found_needing) == needing
