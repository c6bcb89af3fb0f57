"""The documentation that a Python installation carries, as a corpus: real text that needs no download.

    builtin:python-docs      torch, numpy and scikit-learn where installed, and the standard library

A module is a document: its own docstring and those of its classes and functions in the order of the source. A topic of
`pydoc_data.topics` (chapters of the language reference) is a document too. Source files are parsed with `ast`: nothing
of them is executed, and no package is imported to find it.
"""

from __future__ import annotations

import ast
import gc
import os
import sysconfig
import warnings
from collections.abc import Generator, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from nextvec.data.corpus import Document
from nextvec.data.docstrings import docstring_paragraphs
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
