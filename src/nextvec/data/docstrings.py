"""Extract prose from docstrings: whole sentences, without code, tables, headings and markup.

Docstrings mix prose with doctests, literal blocks, reStructuredText directives and lists of parameters in NumPy,
Google and Sphinx style. A block (the lines between blank lines) is divided into pieces by the indentation of its lines
and the marks at their start. Of a parameter, the description is kept. Wrapped lines are joined. A piece is prose if
most of its words are made of letters.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from itertools import pairwise

MIN_CHARS, MIN_WORDS = 60, 10
"""Minimum size of a paragraph: a shorter one has too little content to be predicted, or to predict from."""

_MIN_WORD_FRACTION = 0.65
"""Minimum fraction of a paragraph's words that are made of letters; code and tables have fewer."""
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
_WORD = re.compile(r"(?<!\S)[(\[\"'“‘]*[A-Za-z][A-Za-z'’/-]*[)\]\"'”’.,;:!?]*(?!\S)")
"""A word made of letters, with the brackets, quotation marks and punctuation around it."""


def docstring_paragraphs(text: str) -> list[str]:
    """Return the paragraphs of prose in a docstring in order, each on one line."""
    # Most pieces are short. Removing markup never makes them longer, so those are dropped before the costly steps.
    pieces = (piece for piece in _pieces(inspect.cleandoc(text)) if len(piece) >= MIN_CHARS)
    return [paragraph for paragraph in map(_without_markup, pieces) if is_prose(paragraph)]


def is_prose(text: str) -> bool:
    """Return whether a line has at least MIN_CHARS and MIN_WORDS, forms sentences, and consists of words, not code."""
    if len(text) < MIN_CHARS:
        return False
    if not text.lstrip("(\"'").startswith(_CAPITALS) or not text.rstrip(")\"'").endswith((".", ":", "!", "?")):
        return False
    words = len(text.split())
    return words >= MIN_WORDS and len(_WORD.findall(text)) >= _MIN_WORD_FRACTION * words


def _without_markup(text: str) -> str:
    """Collapse whitespace, and remove the backticks and roles of reStructuredText."""
    text = " ".join(text.split())
    if "`" in text:
        text = _ROLE.sub(r"\1", text.replace("``", "`"))
        text = " ".join(text.split())  # again: a role without text leaves two spaces
    return text.removesuffix("::") + ":" if text.endswith("::") else text


def _pieces(text: str) -> Iterator[str]:
    """Yield the lines of each paragraph, list item or description, joined; code and headings are dropped."""
    code_below: int | None = None  # lines indented deeper than this are code; None: no code follows
    for block in re.split(r"\n\s*\n", text):
        lines = [(len(line) - len(line.lstrip()), line.strip()) for line in block.split("\n") if line.strip()]
        piece: list[str] = []
        piece_indent, piece_is_item = 0, False
        for (indent, line), (next_indent, _) in pairwise([*lines, (0, "")]):
            if code_below is not None and indent > code_below:
                continue
            code_below = None
            if line.startswith(">>>"):
                break  # a doctest: the lines up to the blank line are its output
            if _UNDERLINE.match(line):
                piece.clear()  # the line before was a heading
                continue
            is_item, prose = _begin(line, has_body=next_indent > indent)
            # The lines of an item after its first are indented. Elsewhere, deeper indentation starts a new piece.
            if is_item or indent < piece_indent or (indent > piece_indent and not piece_is_item):
                yield " ".join(piece)
                piece.clear()
                piece_indent, piece_is_item = indent, is_item
            if prose is None or prose.endswith("::"):
                code_below = indent
            piece.append(prose or "")
        yield " ".join(piece)


def _begin(line: str, *, has_body: bool) -> tuple[bool, str | None]:
    """Return whether a line starts an item or a directive, and its prose; None if its body (deeper lines) is code."""
    if directive := _DIRECTIVE.match(line):
        if directive["name"] in _VERSION_DIRECTIVES:
            return True, _VERSION.sub("", directive["rest"], count=1)
        return True, directive["rest"] if directive["name"] in _PROSE_DIRECTIVES else None
    if line.startswith(".. ") or line == "..":
        return True, None  # a comment, the target of a link, or a footnote
    if section := _SECTION.match(line):
        return True, None if section["code"] == "::" else ""
    if item := _NUMPY_ITEM.match(line):
        return True, "" if has_body else item["rest"] or ""  # before a body "rest" is a type, alone a description
    if item := _ITEM.match(line):
        return True, item[item.lastgroup or 0]
    return False, line
