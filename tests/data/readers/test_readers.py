from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nextvec.data.documents import Columns, Document
from nextvec.data.readers import SOURCES, read_documents
from nextvec.data.readers.streams import SAVE_AS_UTF8
from nextvec.errors import CorpusError, InputError


def refuse(source: str | Path, columns: Columns = Columns()) -> str:
    """Return the one-line error of a source."""
    with pytest.raises(CorpusError) as caught:
        list(read_documents(str(source), columns))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- any source ---


def test_a_missing_source_is_an_error(tmp_path: Path) -> None:
    for name in ("missing.jsonl", "missing.txt", "missing", "missing.xml.bz2", "owner/name"):
        assert refuse(tmp_path / name) == f"{tmp_path / name}: no such file or folder. Check the name."


def test_an_error_about_an_unknown_kind_names_all_kinds(tmp_path: Path) -> None:
    message = refuse(write(tmp_path / "book.xyz", b"text"))
    assert message.startswith(f"{tmp_path / 'book.xyz'}: unknown kind of source. Known kinds: ")
    kinds = {kind for kinds in SOURCES for kind in kinds.split(", ") if kind.startswith(".")}
    assert kinds == set(re.findall(r"\.[a-z0-9]+\b", message.split("Known")[1]))


def test_reading_starts_with_the_first_document(tmp_path: Path) -> None:
    documents = read_documents(str(tmp_path / "missing.jsonl"))
    with pytest.raises(CorpusError, match="no such file or folder"):
        next(documents)


def test_limit_stops_early(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", '{"text": "one"}\n{"text": "two"}\nbroken\n')
    assert [d.paragraphs for d in read_documents(str(path), limit=2)] == [("one",), ("two",)]
    assert len(list(itertools.islice(read_documents(str(path)), 2))) == 2
    with pytest.raises(CorpusError, match="line 3: not valid JSON"):
        list(read_documents(str(path), limit=3))


@pytest.mark.parametrize("limit", [0, -1])
def test_an_impossible_limit_is_refused(limit: int) -> None:
    with pytest.raises(InputError, match=f"limit is {limit}, but must be at least 1"):
        list(read_documents("builtin:python-docs", limit=limit))


def test_a_closed_reader_closes_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.jsonl", '{"text": "one"}\n{"text": "two"}\n')
    opened = []
    original: Callable[..., object] = Path.open

    def spy(self: Path, *arguments: object, **options: object) -> object:
        opened.append(original(self, *arguments, **options))
        return opened[-1]

    monkeypatch.setattr(Path, "open", spy)
    documents = read_documents(str(path))
    next(documents)
    assert not opened[0].closed
    documents.close()  # type: ignore[attr-defined]
    assert opened[0].closed


# --- folders and files of text ---


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    folder = tmp_path / "essays"
    write(folder / "b.txt", "First block\nwith two lines.\n\n \t\nSecond block.\n")
    write(folder / "a" / "z.md", "Intro.\n\n# The *real* title #\n\nBody text.\n")
    write(folder / "B.TXT", "﻿Marked.\r\n\r\nWindows lines.")
    write(folder / "a.txt", "Plain.")
    write(folder / "empty.txt", " \n\n")
    write(folder / "data.json", "{}")
    write(folder / ".hidden.txt", "hidden")
    write(folder / ".git" / "x.txt", "hidden")
    documents = list(read_documents(str(folder)))
    assert documents == [
        Document("B.TXT", "B", "essays", ("Marked.", "Windows lines.")),
        Document("a.txt", "a", "essays", ("Plain.",)),
        Document("a/z.md", "The real title", "essays", ("Intro.", "Body text.")),
        Document("b.txt", "b", "essays", ("First block\nwith two lines.", "Second block.")),
    ]
    assert list(read_documents(f"{folder}/.")) == documents


def test_a_single_file_is_one_document(tmp_path: Path) -> None:
    path = write(tmp_path / "My notes.txt", "# not a heading here\n\nText.")
    (document,) = read_documents(str(path))
    assert document == Document("My notes.txt", "My notes", "My notes", ("# not a heading here", "Text."))


def test_an_error_about_a_folder_without_text_names_the_kinds(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "x.pdf", "%PDF")
    write(tmp_path / "folder" / "y.png", "")
    write(tmp_path / "folder" / ".hidden.txt", "text")
    message = refuse(tmp_path / "folder")
    assert message == (
        f"{tmp_path / 'folder'}: no text or table in this folder (skipped 1 .pdf file, 1 .png file, 1 hidden or "
        f"temporary file). Convert .pdf files first with pdftotext (or docling, markitdown), for example: "
        "pdftotext FILE.pdf FILE.txt"
    )
    (tmp_path / "empty").mkdir()
    assert refuse(tmp_path / "empty").startswith(f"{tmp_path / 'empty'}: no text or table in this folder. Name a")


def test_a_folder_of_empty_files_has_no_documents(tmp_path: Path) -> None:
    write(tmp_path / "x.txt", "\n")
    assert refuse(tmp_path) == f"{tmp_path}: has no documents. Check that it is the right source."


def test_an_empty_file_has_no_text(tmp_path: Path) -> None:
    assert (
        refuse(write(tmp_path / "x.md", "")) == f"{tmp_path / 'x.md'}: the file has no text. Name a file that has some."
    )


def test_invalid_utf8_names_file_and_byte(tmp_path: Path) -> None:
    write(tmp_path / "folder" / "good.txt", "fine")
    bad = write(tmp_path / "folder" / "sub" / "latin.txt", "caf\xe9 au lait".encode("latin-1"))
    assert refuse(tmp_path / "folder") == f"{bad}: not valid UTF-8 (byte 3, 0xE9). {SAVE_AS_UTF8}"


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="permissions don't bind root")
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.txt", "text")
    path.chmod(0)
    assert refuse(path) == f"{path}: can't be read: Permission denied."


def test_a_folder_named_like_a_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "folder" / "x.txt").mkdir(parents=True)
    assert "no text or table in this folder" in refuse(tmp_path / "folder")


# --- markdown ---

MARKDOWN = """\
---
title: front matter
---
<!-- a comment
# with a heading and ``` a fence -->
The *first* `title`
===================

Prose with a [link](https://example.com/a_b "hint"), a [reference][ref] and an ![image](pic.png "x") in it.
It *continues* with ~~struck~~ **words**, `code`,  and 5 &lt; 6 \\* 7.<br>After a break.
## A heading that ends the paragraph ##
Text right after it. <!-- gone --> And <b>more</b>.

```python
# not a heading

code = "<!-- not a comment"
```
Text after the fence.

~~~
``` still code
~~~

    indented code

| a | b |
| - | - |
| 1 | 2 |

A paragraph before a table
a | b
--|:-:
1 | 2

Second title
---

- item one
  in two lines
- item two
  - below it

        code in an item

> A quotation.
>
> Its second paragraph.

1. A loose item.

2. Another one.

* tight again
* ![only an image](x.png)
* end

Between lists.

+ of another list

* * *

<div align="center">
  <img src="logo.png"> Prose &amp; <b>markup</b>
  <script>code()</script>
</div>

#no heading, and 5 | 3 is no table

Last words.

[ref]: https://example.com
"""


def read_markdown(tmp_path: Path, text: str) -> Document:
    (document,) = read_documents(str(write(tmp_path / "x.md", text)))
    return document


def test_markdown_keeps_only_prose(tmp_path: Path) -> None:
    document = read_markdown(tmp_path, MARKDOWN)
    assert document.title == "The first title"
    assert document.paragraphs == (
        "Prose with a link, a reference and an in it. It continues with struck words, code, and 5 < 6 * 7. "
        "After a break.",
        "Text right after it. And more.",
        "Text after the fence.",
        "A paragraph before a table",
        "item one in two lines\nitem two",
        "below it",
        "A quotation.",
        "Its second paragraph.",
        "A loose item.",
        "Another one.",
        "tight again\nend",
        "Between lists.",
        "of another list",
        "Prose & markup",
        "#no heading, and 5 | 3 is no table",
        "Last words.",
    )


def test_items_of_nested_lists_are_one_paragraph(tmp_path: Path) -> None:
    text = "- one\n  - below one\n  - below one, too\n- two\n\nBetween.\n\n1. first\n2. second\n"
    assert read_markdown(tmp_path, text).paragraphs == (
        "one\nbelow one\nbelow one, too\ntwo", "Between.", "first\nsecond"
    )  # fmt: skip


def test_a_file_without_prose_has_only_its_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.md", "# Title\n\n```\ncode\n```\n\n![badge](x)\n\n<!-- note -->\n\n| a |\n| - |\n| 1 |\n"
    )
    assert refuse(path).startswith(f"{path}: the file has no text")


@pytest.mark.parametrize("opening", ["```", "<!--", "~~~ text", "<script>"])
def test_unclosed_markup_extends_to_the_end(tmp_path: Path, opening: str) -> None:
    assert read_markdown(tmp_path, f"Before.\n\n{opening}\nafter\n\nlast").paragraphs == ("Before.",)


@pytest.mark.parametrize("text", ["---\n\nText.\n", "---\n\nText.\n\n---\n", "---\nText.\n\n---"])
def test_a_rule_at_the_top_is_not_front_matter(tmp_path: Path, text: str) -> None:
    document = read_markdown(tmp_path, text)
    assert document.paragraphs == ("Text.",)
    assert document.title == "x"


@pytest.mark.parametrize(
    "unit", ["[", "![", "*a ", "`", "<", "<b>", "> ", "- ", "|a|b|\n|-|-|\n", "[a](", "a\n"], ids=ascii
)
def test_hostile_markdown_takes_linear_time(tmp_path: Path, unit: str) -> None:
    path = write(tmp_path / "x.md", "Prose.\n\n" + unit * (20_000 // len(unit)))
    start = time.process_time()
    (document,) = read_documents(str(path))
    assert document.paragraphs[0] == "Prose."
    assert time.process_time() - start < 6
