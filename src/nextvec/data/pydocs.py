"""Read the documentation inside the Python installation: a corpus of real text that needs no download.

    builtin:python-docs      torch, numpy and scikit-learn if installed, and the standard library

Each module is a document: its docstring, then those of its classes and functions in the order of the source. Each topic
of `pydoc_data.topics` (chapters of the language reference) is a document too. Source files are parsed with `ast` and
never executed; packages are located without importing them.
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
_EXCLUDED_FOLDERS = frozenset(("test", "tests", "idle_test", "testing._internal", "lib2to3"))
"""Folders without documentation: tests, their helpers, and the grammar of Python 2. Folders whose name is not an
identifier (site-packages) cannot be imported and are skipped too."""
_DOCSTRING_FUNCTIONS = frozenset(("add_newdoc", "add_docstr", "add_docstr_all"))
"""Functions of numpy and torch that document objects written in C; the docstring is an argument."""

_BLOCK_FIELDS = ("finalbody", "orelse", "handlers", "cases", "body")
"""Fields of syntax tree nodes that contain statements, the last in the source first."""


def read_builtin(source: str) -> Generator[Document, None, None]:
    """Read the documents of BUILTIN: each package sorted by module name, the standard library last.

    A module without a paragraph of prose is skipped. Raises CorpusError for another name.
    """
    if source != BUILTIN:
        raise CorpusError(f"{source}: unknown built-in text.{did_you_mean(source, [BUILTIN])}")
    for package in PACKAGES:
        spec = PathFinder.find_spec(package)  # locates a top-level package without importing it
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from read_modules(Path(folder), package, package)
    yield from read_modules(Path(sysconfig.get_path("stdlib")), STDLIB, "")


def read_modules(folder: Path, source: str, package: str) -> Iterator[Document]:
    """Read each module with prose in `folder`, which contains the package of that name ("": not a package)."""
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
    """Find the modules that can be imported from `folder` and its subfolders: dotted name and file of each."""
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder).parts
        folders[:] = [name for name in folders if name.isidentifier() and not _is_excluded((*below, name))]
        for file in files:
            name = file.removesuffix(".py")
            if file.endswith(".py") and name.isidentifier():
                parts = (package, *below, "" if name == "__init__" else name)
                yield ".".join(part for part in parts if part), Path(parent, file)


def _is_excluded(parts: tuple[str, ...]) -> bool:
    return parts[-1] in _EXCLUDED_FOLDERS or ".".join(parts[-2:]) in _EXCLUDED_FOLDERS


def _parse(file: Path) -> ast.Module | None:
    """Return the syntax tree of a source file; None if this version of Python cannot parse it."""
    was_enabled = gc.isenabled()
    gc.disable()  # a tree has no cycles, and searching its many nodes for them takes a quarter of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    finally:
        if was_enabled:
            gc.enable()


def _docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a module and of all its definitions, nested ones included, in the order of the source."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node, clean=False)
            if text:
                yield text
        elif isinstance(node, ast.Expr):
            yield from _added_docstrings(node.value)
        # The end of the list is visited next, so nested statements are appended in reverse.
        fields = node._fields
        for name in _BLOCK_FIELDS:
            if name in fields:
                pending += reversed(getattr(node, name))


def _added_docstrings(node: ast.expr) -> Iterator[str]:
    """Yield the strings in the arguments of a call of one of _DOCSTRING_FUNCTIONS."""
    if not isinstance(node, ast.Call):
        return
    called = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
    if called in _DOCSTRING_FUNCTIONS:
        for argument in ast.walk(node):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def _topics(tree: ast.Module, source: str) -> Iterator[Document]:
    """Read the entries of the dictionary `topics`, sorted by name."""
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
