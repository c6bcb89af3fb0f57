"""Prose from docstrings: what a person would read as sentences, without code, tables, headings and markup.

Docstrings mix prose with doctests, literal blocks, reStructuredText directives and lists of parameters in numpy,
Google and Sphinx form. A block (lines between blank lines) is taken apart by its indentation and by the marks that
lines begin with; of a parameter its description is kept, with wrapped lines joined. A piece counts as prose if most of
its words are words.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import pairwise

MIN_CHARS, MIN_WORDS = 60, 10
"""A paragraph shorter than either says too little to be predicted or to predict from."""

_MIN_SHARE_OF_WORDS = 0.65
_CAPITALS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")

_UNDERLINE = re.compile(r"([-=~^*#+\"'.])\1{2,}$")
_DIRECTIVE = re.compile(r"\.\. +(?P<name>[\w:-]+?):: *(?P<rest>.*)")
_PROSE_DIRECTIVES = frozenset(
    ("note", "warning", "tip", "hint", "important", "caution", "attention", "admonition", "seealso")
)
_VERSION_DIRECTIVES = frozenset(("versionadded", "versionchanged", "deprecated"))
_VERSION = re.compile(r"v?\d[\w.]*:? *")
_ITEM = re.compile(
    r"(?:[-*•]|\d+[.)]|\(\w\)|\w\)) +(?P<bullet>.+)"  # a list's item
    r"|:[a-z]+(?: [^:`]*)?:(?!`) *(?P<field>.*)"  # :param name: description
    r"|\*{0,2}[\w.]+ ?\([^()]*(?:\([^()]*\)[^()]*)*\): *(?P<typed>.*)"  # name (type): description
    r"|\*{0,2}[a-z_][\w.]*: +(?P<named>.+)"  # name: description
)
_SECTION = re.compile(r"[A-Z]\w+(?: \w+)?(?P<code>::?)$")
_NUMPY_ITEM = re.compile(r"\*{0,2}[`\w.]+(?:, ?\*{0,2}[`\w.]+)* :(?: +(?P<rest>.*)|$)")

_ROLE = re.compile(r"(?::[a-zA-Z][\w:+.-]*:)?`[~!]?([^`<]+?)(?:\s*<[^`>]*>)?`_{0,2}")
_WORD = re.compile(r"[(\[\"'“‘]*[A-Za-z][A-Za-z'’/-]*[)\]\"'”’.,;:!?]*$")


def docstring_paragraphs(text: str) -> list[str]:
    """The prose paragraphs of a docstring in order, each of at least MIN_CHARS and MIN_WORDS, on one line."""
    paragraphs = []
    for piece in _pieces(inspect.cleandoc(text)):
        paragraph = _without_markup(piece)
        if is_prose(paragraph):
            paragraphs.append(paragraph)
    return paragraphs


def is_prose(text: str) -> bool:
    """Whether a line of text is long enough, reads as sentences, and is made of words rather than of code."""
    words = text.split()
    if len(text) < MIN_CHARS or len(words) < MIN_WORDS:
        return False
    if not text.lstrip("(\"'").startswith(_CAPITALS) or not text.rstrip(")\"'").endswith((".", ":", "!", "?")):
        return False
    return sum(_WORD.match(word) is not None for word in words) >= _MIN_SHARE_OF_WORDS * len(words)


def _without_markup(text: str) -> str:
    """`text` with white space collapsed and without the backticks and roles of reStructuredText."""
    text = _ROLE.sub(r"\1", " ".join(text.split()).replace("``", "`"))
    text = " ".join(text.split())  # an empty role leaves its place
    return text.removesuffix("::") + ":" if text.endswith("::") else text


def _pieces(text: str) -> Iterator[str]:
    """Runs of lines that belong together, joined; code and headings are left out."""
    code_below: int | None = None  # lines indented deeper than this are code
    for block in re.split(r"\n\s*\n", text):
        lines = [(len(line) - len(line.lstrip()), line.strip()) for line in block.split("\n") if line.strip()]
        piece: list[str] = []
        piece_indent, piece_is_item = 0, False
        for (indent, line), (next_indent, _) in pairwise([*lines, (0, "")]):
            if code_below is not None and indent > code_below:
                continue
            code_below = None
            if line.startswith(">>>"):
                break  # what follows up to the blank line is output
            if _UNDERLINE.match(line):
                piece.clear()  # the line before was a heading
                continue
            is_item, prose = _begin(line, has_body=next_indent > indent)
            # Lines below an item's first line are indented, and go on with it; elsewhere an indent is a new thought.
            if is_item or indent < piece_indent or (indent > piece_indent and not piece_is_item):
                yield " ".join(piece)
                piece.clear()
                piece_indent, piece_is_item = indent, is_item
            if prose is None or prose.endswith("::"):
                code_below = indent
            piece.append(prose or "")
        yield " ".join(piece)


def _begin(line: str, *, has_body: bool) -> tuple[bool, str | None]:
    """Whether a line begins an item or a directive, and its prose; None if the body (deeper lines below) is code."""
    if directive := _DIRECTIVE.match(line):
        if directive["name"] in _VERSION_DIRECTIVES:
            return True, _VERSION.sub("", directive["rest"], count=1)
        return True, directive["rest"] if directive["name"] in _PROSE_DIRECTIVES else None
    if line.startswith(".. ") or line == "..":
        return True, None  # a comment, a link's target or a footnote
    if section := _SECTION.match(line):
        return True, None if section["code"] == "::" else ""
    if item := _NUMPY_ITEM.match(line):
        return True, "" if has_body else item["rest"] or ""  # a type stands before a body, a description alone
    if item := _ITEM.match(line):
        return True, item[item.lastgroup or 0]
    return False, line
