"""Read the documentation inside the Python installation: a corpus of real text that needs no download.

    builtin:python-docs         torch, numpy and scikit-learn if installed, and the standard library
    builtin:python-docs/NAME    one of them: torch, numpy, sklearn or stdlib

Each module is a document: its docstring, then those of its classes and functions in source order. Each topic of
`pydoc_data.topics` (chapters of the language reference) is a document too. Source files are never executed, and
packages are located without importing them.

Only prose is kept: whole sentences, without code, tables, headings and markup. Docstrings mix prose with doctests,
literal blocks, reStructuredText directives and lists of parameters in NumPy, Google and Sphinx style. Indentation and
the marks at the start of lines divide a block (the lines between blank lines) into pieces, whose wrapped lines are
joined. A piece is prose if most of its words consist of letters. The descriptions of parameters are kept.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sysconfig
import tokenize
from collections.abc import Generator, Iterator
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path

from nextvec.data.documents import Document
from nextvec.data.readers.docstrings import find_docstrings, parse_source
from nextvec.errors import CorpusError, did_you_mean

BUILTIN = "builtin:python-docs"
PACKAGES = ("torch", "numpy", "sklearn")
STDLIB = "stdlib"

_TOPICS = "pydoc_data.topics"
_EXCLUDED_FOLDERS = frozenset(("test", "tests", "idle_test", "testing._internal", "lib2to3"))
"""Folders without documentation: tests, their helpers, and the grammar of Python 2. Folders whose name is not an
identifier (site-packages) cannot be imported and are skipped too."""


def read_builtin(source: str) -> Generator[Document, None, None]:
    """Yield the documents of BUILTIN: each package in order of its module names, then the standard library.

    `BUILTIN/NAME` is one of them. A module without a paragraph of prose is skipped. Raises CorpusError for another
    name, or for a package that is not installed.
    """
    names = [*PACKAGES, STDLIB]
    selected = source.removeprefix(f"{BUILTIN}/")
    if source != BUILTIN and selected not in names:
        known = [BUILTIN, *(f"{BUILTIN}/{name}" for name in names)]
        raise CorpusError(f"{source}: unknown built-in text.{did_you_mean(source, known)}")
    for package in PACKAGES:
        if source == BUILTIN or selected == package:
            yield from _read_package(package, is_required=source != BUILTIN)
    if source == BUILTIN or selected == STDLIB:
        yield from read_modules(Path(sysconfig.get_path("stdlib")), STDLIB, "")


def _read_package(package: str, *, is_required: bool) -> Iterator[Document]:
    """Yield the documents of an installed package. Raises CorpusError if one that is required is not installed."""
    spec = PathFinder.find_spec(package)  # locates a top-level package without importing it
    if spec is None and is_required:
        raise CorpusError(f"{BUILTIN}/{package}: {package} is not installed. Install it, or read {BUILTIN}/{STDLIB}.")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from read_modules(Path(folder), package, package)


def read_modules(folder: Path, source: str, package: str) -> Iterator[Document]:
    """Yield a document for each module with prose below `folder`; `package` is its dotted name, or empty."""
    modules = dict(_find_modules(folder, package))
    for name in sorted(modules):
        code = _read_source(modules[name])
        if code is None:
            continue
        if name == _TOPICS:
            yield from _topics(code, source)
            continue
        paragraphs = [paragraph for text in find_docstrings(code) for paragraph in docstring_paragraphs(text)]
        if paragraphs:
            yield Document(name, name, source, tuple(paragraphs))


def _find_modules(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and the file of every importable module below `folder`."""
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder).parts
        # `os.walk` descends only into the folders that stay in the list.
        folders[:] = [name for name in folders if name.isidentifier() and not _is_excluded((*below, name))]
        for file in files:
            name = file.removesuffix(".py")
            if file.endswith(".py") and name.isidentifier():
                parts = (package, *below, "" if name == "__init__" else name)
                yield ".".join(part for part in parts if part), Path(parent, file)


def _is_excluded(parts: tuple[str, ...]) -> bool:
    return parts[-1] in _EXCLUDED_FOLDERS or ".".join(parts[-2:]) in _EXCLUDED_FOLDERS


def _read_source(file: Path) -> str | None:
    """Return the text of a source file in its declared encoding; None if it cannot be read."""
    try:
        with tokenize.open(file) as stream:
            return stream.read()
    except (OSError, SyntaxError, ValueError):
        return None


def _topics(code: str, source: str) -> Iterator[Document]:
    """Yield a document for each entry of the dictionary `topics`, sorted by name."""
    tree = parse_source(code)
    if tree is None:
        return
    literals = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    texts = {
        str(key.value): str(value.value)
        for literal in literals
        for key, value in zip(literal.keys, literal.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }
    for topic in sorted(texts):
        paragraphs = docstring_paragraphs(texts[topic])
        if paragraphs:
            yield Document(f"{_TOPICS}.{topic}", topic, source, tuple(paragraphs))


MIN_CHARS, MIN_WORDS = 60, 10
"""Minimum size of a paragraph: a shorter one has too little content to be predicted, or to predict from."""

_MIN_WORD_FRACTION = 0.65
"""Minimum fraction of a paragraph's words that consist of letters; code and tables have fewer."""
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
"""A word of letters, with the brackets, quotation marks and punctuation around it."""


def docstring_paragraphs(text: str) -> list[str]:
    """Return the paragraphs of prose in a docstring in order, each on one line."""
    # Most pieces are short. Removing markup never makes text longer, so drop short pieces before the costly steps.
    pieces = (piece for piece in _pieces(inspect.cleandoc(text)) if len(piece) >= MIN_CHARS)
    return [paragraph for paragraph in map(_without_markup, pieces) if is_prose(paragraph)]


def is_prose(text: str) -> bool:
    """Return whether a line has at least MIN_CHARS and MIN_WORDS, forms sentences, and consists of words, not code."""
    if len(text) < MIN_CHARS:
        return False
    if not text.lstrip("(\"'").startswith(_CAPITALS) or not text.rstrip(")\"'").endswith((".", ":", "!", "?")):
        return False
    count = len(text.split())
    return count >= MIN_WORDS and len(_WORD.findall(text)) >= _MIN_WORD_FRACTION * count


def _without_markup(text: str) -> str:
    """Collapse whitespace, and remove the backticks and roles of reStructuredText."""
    text = " ".join(text.split())
    if "`" in text:
        text = _ROLE.sub(r"\1", text.replace("``", "`"))
        text = " ".join(text.split())  # again: a role without text leaves two spaces
    return text.removesuffix("::") + ":" if text.endswith("::") else text


def _pieces(text: str) -> Iterator[str]:
    """Yield each paragraph, list item and description on one line; drop code and headings."""
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
