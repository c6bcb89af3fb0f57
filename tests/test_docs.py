"""Docs that are written from the code are up to date, and what they link to exists."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

spec = importlib.util.spec_from_file_location("write_reference", ROOT / "tools/write_reference.py")
assert spec and spec.loader
write_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write_reference)


@pytest.mark.parametrize("name", write_reference.PAGES)
def test_reference_pages_are_what_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == write_reference.PAGES[name](), "run: python tools/write_reference.py"
    assert " None |" not in written


@pytest.mark.parametrize(
    "page", sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
)
def test_links_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        if not link.startswith("http"):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"
