"""The documentation that a Python installation carries, as a corpus: real text that needs no download.

    builtin:python-docs      torch, numpy and scikit-learn where installed, and the standard library

A module is a document: its own docstring and those of its classes and functions in the order of the source. A topic of
`pydoc_data.topics` (chapters of the language reference) is a document too. Source files are parsed with `ast`: nothing
of them is executed, and no package is imported to find it.

Prose from docstrings: what a person would read as sentences, without code, tables, headings and markup.

Docstrings mix prose with doctests, literal blocks, reStructuredText directives and lists of parameters in numpy,
Google and Sphinx form. A block (lines between blank lines) is taken apart by its indentation and by the marks that
lines begin with; of a parameter its description is kept, with wrapped lines joined. A piece counts as prose if most of
its words are words.
"""

from __future__ import annotations

import ast
import gc
import inspect
import os
import re
import sysconfig
import warnings
from collections.abc import Generator, Iterator
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path

from nextvec.data.documents import Document
from nextvec.errors import CorpusError, did_you_mean

BUILTIN = "builtin:python-docs"
PACKAGES = ("torch", "numpy", "sklearn")
STDLIB = "stdlib"

_TOPICS = "pydoc_data.topics"
_LEFT_OUT = frozenset(("test", "tests", "idle_test", "testing._internal", "lib2to3"))
"""Folders without documentation: tests and their helpers, and Python 2 grammar. Others that no import can name
(site-packages) are left out as well."""
_ADDS_DOCSTRING = frozenset(("add_newdoc", "add_docstr", "add_docstr_all"))
"""How numpy and torch document what they write in C: calls with the docstring as an argument."""


def read_builtin(source: str) -> Generator[Document, None, None]:
    """The documents of BUILTIN: package after package, the standard library last, each sorted by module name.

    A module without a paragraph of prose gives none. Raises CorpusError for another name.
    """
    if source != BUILTIN:
        raise CorpusError(f"{source}: no such built-in text.{did_you_mean(source, [BUILTIN])}")
    for package in PACKAGES:
        spec = PathFinder.find_spec(package)  # finds a top-level package without executing it
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from read_modules(Path(folder), package, package)
    yield from read_modules(Path(sysconfig.get_path("stdlib")), STDLIB, "")


def read_modules(folder: Path, source: str, package: str) -> Iterator[Document]:
    """A document for each module with prose in `folder`, which holds the package of that name ("": no package)."""
    modules = dict(_find_modules(folder, package))
    for name in sorted(modules):
        tree = _parse(modules[name])
        if tree is None:
            continue
        if name == _TOPICS:
            yield from _topics(tree, source)
            continue
        paragraphs = [paragraph for text in _docstrings(tree) for paragraph in docstring_paragraphs(text)]
        if paragraphs:
            yield Document(name, name, source, tuple(paragraphs))


def _find_modules(folder: Path, package: str) -> Iterator[tuple[str, Path]]:
    """Dotted name and file of each module that could be imported from below `folder`."""
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder).parts
        folders[:] = [name for name in folders if name.isidentifier() and not _is_left_out((*below, name))]
        for file in files:
            name = file.removesuffix(".py")
            if file.endswith(".py") and name.isidentifier():
                parts = (package, *below, "" if name == "__init__" else name)
                yield ".".join(part for part in parts if part), Path(parent, file)


def _is_left_out(parts: tuple[str, ...]) -> bool:
    return parts[-1] in _LEFT_OUT or ".".join(parts[-2:]) in _LEFT_OUT


def _parse(file: Path) -> ast.Module | None:
    """The syntax tree of a source file; None if this Python can't parse it."""
    collects = gc.isenabled()
    gc.disable()  # a tree has no cycles, and looking for some in its many nodes takes a quarter of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    finally:
        if collects:
            gc.enable()


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings of a module and of all that it defines, nested or not, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node, clean=False)
        if text:
            yield text
    elif isinstance(node, ast.Expr):
        yield from _added_docstrings(node.value)
    for branch in ("body", "cases", "handlers", "orelse", "finalbody"):
        for child in getattr(node, branch, ()):
            yield from _docstrings(child)


def _added_docstrings(node: ast.expr) -> Iterator[str]:
    """The texts in a call of one of _ADDS_DOCSTRING."""
    if not isinstance(node, ast.Call):
        return
    called = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    if called in _ADDS_DOCSTRING:
        for argument in ast.walk(node):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def _topics(tree: ast.Module, source: str) -> Iterator[Document]:
    """The entries of the dictionary `topics`, sorted by name."""
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    texts = {
        str(key.value): str(value.value)
        for table in tables
        for key, value in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
    }
    for topic in sorted(texts):
        paragraphs = docstring_paragraphs(texts[topic])
        if paragraphs:
            yield Document(f"{_TOPICS}.{topic}", topic, source, tuple(paragraphs))


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
