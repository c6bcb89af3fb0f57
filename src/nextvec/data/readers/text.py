"""Documents from .txt and .md files: a file is a document, a blank line divides paragraphs."""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

from nextvec.data.documents import Document
from nextvec.data.readers._common import reading
from nextvec.errors import CorpusError

ENDINGS = (".txt", ".md")

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(?=[\w-]+[ \t]*:)(?:.*\n)*?(?:---|\.\.\.)[ \t]*(?:\n|\Z)")
_FENCE_OR_COMMENT = re.compile(
    r"^[ \t]*(?P<fence>`{3,}(?=[^`\n]*$)|~{3,})(?:.*\n)*?(?:[ \t]*(?P=fence)[`~]*[ \t]*$|.*\Z)"
    r"|<!--(?:.|\n)*?(?:-->|\Z)",
    re.MULTILINE,
)
"""Whichever begins first counts: a comment may hold a fence, and a fence a comment. Unclosed, both reach to the end."""
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]+|$)(?P<title>.*?)[ \t]*#*[ \t]*$")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-+)[ \t]*$")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$")
_TABLE_RULE = re.compile(r"[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_IMAGE = re.compile(r"!\[[^\]]*\]\([^()\s]*(?:\s[^()]*)?\)")
_LINK = re.compile(r"\[([^\[\]]*)\]\([^()\s]*(?:\s[^()]*)?\)")


def read_folder(folder: Path) -> Generator[Document, None, None]:
    """A document for every .txt and .md file in the folder and below, sorted by path; hidden ones are left out.

    The id is the path within the folder, the title the first markdown heading or the file's name, the source the
    folder's name. Raises CorpusError if there is none, or if one can't be read.
    """
    names = sorted(_text_files(folder))
    if not names:
        raise CorpusError(
            f"{folder}: no .txt or .md files in this folder; name a folder that has some, or a .jsonl, .jsonl.gz, "
            ".parquet or .xml.bz2 file"
        )
    source = folder.resolve().name
    for name in names:
        document = _read(folder / name, name, source)
        if document.paragraphs:
            yield document


def read_file(path: Path) -> Generator[Document, None, None]:
    """One .txt or .md file as one document. Raises CorpusError if it can't be read or has no text."""
    document = _read(path, path.name, path.stem)
    if not document.paragraphs:
        raise CorpusError(f"{path}: the file has no text")
    yield document


def _text_files(folder: Path) -> Iterator[str]:
    """Paths relative to the folder, with forward slashes."""
    with reading(folder):
        for parent, folders, files in os.walk(folder, onerror=_raise):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in files:
                file = Path(parent) / name
                # A pipe or a device may have any name, and reading it may never end.
                if name.lower().endswith(ENDINGS) and not name.startswith(".") and file.is_file():
                    yield file.relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _read(path: Path, name: str, source: str) -> Document:
    try:
        with reading(path):
            text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not valid UTF-8 (byte {error.start:,}); save the file as UTF-8") from error
    title = ""
    if path.suffix.lower() == ".md":
        title, text = strip_markdown(text)
    return Document(name, title or path.stem, source, tuple(split_paragraphs(text)))


def split_paragraphs(text: str) -> list[str]:
    """The blocks of a text between blank lines, without white space at their ends; empty ones are left out."""
    return [block.strip() for block in re.split(r"\n\s*\n", text) if block.strip()]


def strip_markdown(text: str) -> tuple[str, str]:
    """The first heading ("" if there is none) and the prose of a markdown text.

    Front matter, code fences, comments, headings, rules, tables and images go; of links the words stay.
    """
    text = _FRONT_MATTER.sub("", text, count=1)
    text = _FENCE_OR_COMMENT.sub(lambda match: "\n\n" if match["fence"] else "", text)
    headings: list[str] = []
    blocks = [_strip_block(block.strip("\n").split("\n"), headings) for block in re.split(r"\n\s*\n", text)]
    prose = _LINK.sub(r"\1", _IMAGE.sub("", "\n\n".join(blocks)))
    return (headings[0] if headings else ""), prose


def _strip_block(lines: list[str], headings: list[str]) -> str:
    """What is prose in the lines of a block; appends the headings in it to `headings`."""
    kept: list[str] = []
    for number, line in enumerate(lines):
        heading = _HEADING.match(line)
        if heading:
            headings.append(_LINK.sub(r"\1", heading["title"]))
            kept.append("\n")  # text before and after a heading are two paragraphs
        elif "|" in line and _TABLE_RULE.match(line):
            del kept[-1:]  # the table's head; what follows in the block is its body
            break
        elif number == 1 and kept == lines[:1] and kept[0].strip() and _UNDERLINE.match(line):
            headings.append(_LINK.sub(r"\1", kept.pop().strip()))
        elif not _RULE.match(line):
            kept.append(line)
    return "\n".join(kept)
