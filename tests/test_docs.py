"""Docs that are generated from the code are current, and every page is well formed."""

import importlib.util
import re
from pathlib import Path

import pytest

import nextvec
from nextvec import errors
from nextvec.core import run_paths
from nextvec.errors import NextvecError

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))
EVERY_PAGE = sorted([*PAGES, *(path.name for path in ROOT.glob("*.md"))])

spec = importlib.util.spec_from_file_location("write_reference", ROOT / "tools/write_reference.py")
assert spec and spec.loader
write_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write_reference)


@pytest.mark.parametrize("name", write_reference.PAGES)
def test_reference_pages_match_the_code(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == write_reference.PAGES[name](), "run: python tools/write_reference.py"
    assert " None |" not in written


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_links_point_to_files_that_exist(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"


def prose_lines(page: str) -> list[str]:
    """The lines of a page without its fenced code blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return text.splitlines()


def count_cells(row: str) -> int:
    """How many cells a table row has; an escaped bar and a bar in code are text."""
    return len(re.sub(r"`[^`]*`|\\\|", "", row).strip().strip("|").split("|"))


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_every_table_row_has_the_cells_of_its_header(page: str) -> None:
    lines = prose_lines(page)
    for number, line in enumerate(lines):
        if not re.fullmatch(r"\|(\s*:?-+:?\s*\|)+", line):  # the line below a header
            continue
        width = count_cells(line)
        assert count_cells(lines[number - 1]) == width, f"{page}: {lines[number - 1]}"
        for row in lines[number + 1 :]:
            if not row.strip():  # a table ends with an empty line
                break
            assert row.startswith("|") and row.endswith("|"), f"{page}: a table row is broken by a line break: {row}"
            assert count_cells(row) == width, f"{page}: {row}"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_with_its_readers_and_its_question(page: str) -> None:
    title, empty, readers, question = (ROOT / page).read_text(encoding="utf-8").splitlines()[:4]
    assert title.startswith("# ") and not empty
    assert re.fullmatch(r"\*\*For:\*\* .+\.\\", readers), readers
    assert re.fullmatch(r"\*\*Answers:\*\* .+\.", question), question


def test_the_glossary_is_short() -> None:
    entries = re.findall(r"^- \*\*(.+?)\*\*", (DOCS / "glossary.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert 0 < len(entries) <= 20
    assert entries == sorted(entries, key=str.lower)


def test_the_python_page_describes_every_public_name() -> None:
    described = re.findall(r"^\.\. auto\w+:: nextvec\.(\w+)", (DOCS / "reference/python.md").read_text(), re.MULTILINE)
    assert sorted(described) == sorted(name for name in nextvec.__all__ if not name.startswith("__"))


def shown_commands() -> list[tuple[str, str]]:
    """(page, command) for every `$ nextvec …` of a console block."""
    return [
        (page, command)
        for page in PAGES
        for block in re.findall(r"^```console\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for command in re.findall(r"^\$ nextvec (.*)$", block, flags=re.MULTILINE)
    ]


def described_options(command: str) -> set[str]:
    """The options that docs/reference/commands.md lists for the command that a line begins with."""
    sections = re.split(r"^## nextvec ", (DOCS / "reference/commands.md").read_text("utf-8"), flags=re.MULTILINE)[1:]
    names = {section.partition("\n")[0]: section for section in sections}
    name = max((name for name in names if f"{command} ".startswith(f"{name} ")), key=len, default=None)
    assert name, f"nextvec {command}: not a command of docs/reference/commands.md"
    return {"--json", *re.findall(r"--[a-z-]+", names[name])}


def test_the_guides_show_commands_and_options_that_exist() -> None:
    fields = set(re.findall(r"^\| `(\w+)` \|", (DOCS / "reference/recipe.md").read_text("utf-8"), flags=re.MULTILINE))
    commands = shown_commands()
    assert len(commands) > 15
    for page, command in commands:
        unknown = set(re.findall(r"(?<= )--[a-z-]+", command)) - described_options(command)
        assert not unknown, f"{page}: nextvec {command}: {unknown}"
        overridden = set(re.findall(r" [a-z]+\.(\w+)=", command))
        assert overridden <= fields, f"{page}: nextvec {command}: {overridden - fields}"


def test_the_error_tree_of_the_python_page_matches_the_classes() -> None:
    page = (DOCS / "reference/python.md").read_text(encoding="utf-8")
    drawn, path = set(), []
    for indent, name, code in re.findall(r"^([│├└─ ]*)(\w+Error|Interrupted)(?: \(\w+\))? +(\d+)", page, re.MULTILINE):
        level = len(indent) // 4
        path[level:] = [name]
        drawn.add((name, path[level - 1] if level else "Exception", int(code)))
    classes = [item for item in vars(errors).values() if isinstance(item, type) and issubclass(item, NextvecError)]
    assert drawn == {(item.__name__, item.__bases__[0].__name__, item.exit_code) for item in classes}


def test_the_run_files_page_lists_every_file_and_every_event() -> None:
    page = (DOCS / "reference/run-files.md").read_text(encoding="utf-8")
    files = [value for name, value in vars(run_paths).items() if name.isupper() and not name.startswith("TIME")]
    assert len(files) > 10 and [file for file in files if f"`{file}" not in page] == []
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "src/nextvec").rglob("*.py")]
    kinds = {kind for source in sources for kind in re.findall(r"\.(?:event|write)\(\s*\"([a-z_]+)\"", source)}
    assert len(kinds) > 10 and [kind for kind in sorted(kinds) if f"`{kind}`" not in page] == []
