"""Find the docstrings in the source code of a Python module, without executing it.

A syntax tree has an object for every name and operator, which takes several times as long to build as all docstrings
take to find. So the source is searched for comments, strings and the first words of definitions only. If a statement
needs more than that (a docstring in parentheses or in several strings, or one that is the argument of a call), `ast`
parses the whole module.
"""

from __future__ import annotations

import ast
import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress

_ADDING_FUNCTIONS = frozenset(("add_newdoc", "add_docstr", "add_docstr_all"))
"""Functions of numpy and torch that document objects written in C; the docstring is an argument."""
_BLOCK_FIELDS = ("finalbody", "orelse", "handlers", "cases", "body")
"""Fields of syntax tree nodes that contain statements, the last in the source first."""

_DEFINITION = r"^[ \t\f]*(?:async[ \t]+)?(?:def|class)\b"
_TOKEN = re.compile(rf"#[^\n]*|[\"']|{_DEFINITION}", re.MULTILINE)
"""A comment, the start of a string, or the first words of a definition."""
_STRING = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""'
    r"|'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
    r"|'[^'\\\n]*(?:\\.[^'\\\n]*)*'",
    re.DOTALL,
)
_HEADER_TOKEN = re.compile(r"#[^\n]*|[\[({\])}:\"']")
"""What decides where the header of a definition ends: at the first colon outside of brackets, strings and comments."""
_BEFORE_DOCSTRING = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*[ \t\f]*(?P<mark>\(|[rRuU]?(?=[\"']))")
_AFTER_DOCSTRING = re.compile(r"[ \t\f]*(?:#|\n|;|\Z)")


class _TreeNeededError(Exception):
    """A statement that the search cannot read."""


def find_docstrings(source: str) -> list[str]:
    """Return the docstrings of a module and of all its definitions, in the order of the source.

    `source` has no line ends but newlines. Arguments of `add_newdoc` and its like are docstrings too. Empty if only a
    syntax tree would do, and this version of Python cannot parse the source.
    """
    if "add_newdoc" not in source and "add_docstr" not in source:
        with suppress(_TreeNeededError):
            return list(_search_docstrings(source))
    tree = parse_source(source)
    return [] if tree is None else list(_walk_docstrings(tree))


def parse_source(source: str) -> ast.Module | None:
    """Return the syntax tree of a module; None if this version of Python cannot parse it."""
    was_enabled = gc.isenabled()
    gc.disable()  # a syntax tree has no cycles, and searching its nodes for them takes a quarter of the time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in third-party code
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    finally:
        if was_enabled:
            gc.enable()


def _search_docstrings(source: str) -> Iterator[str]:
    """Yield the docstrings of a module, found by search. Raises _TreeNeededError if a statement needs a syntax tree."""
    text, position = _read_docstring(source, 0)
    if text:
        yield text
    while token := _TOKEN.search(source, position):
        first = source[token.start()]
        if first == "#":
            position = token.end()
        elif first in "\"'":
            position = _end_of_string(source, token.start())
        else:
            # A definition: its docstring follows its header.
            text, position = _read_docstring(source, _end_of_header(source, token.end()))
            if text:
                yield text


def _end_of_string(source: str, start: int) -> int:
    """Return the end of the string that starts at `start`; an unterminated one is a single quotation mark."""
    string = _STRING.match(source, start)
    return string.end() if string else start + 1


def _end_of_header(source: str, position: int) -> int:
    """Return the position after the colon that ends the header of a definition, or the end of a broken source."""
    depth = 0
    while token := _HEADER_TOKEN.search(source, position):
        position, first = token.end(), token.group()[0]
        if first in "[({":
            depth += 1
        elif first in "])}":
            depth -= 1
        elif first in "\"'":
            position = _end_of_string(source, token.start())
        elif first == ":" and depth == 0:
            return position
    return len(source)


def _read_docstring(source: str, position: int) -> tuple[str, int]:
    """Return the docstring at the start of a body, and its end; an empty string and `position` if there is none."""
    before = _BEFORE_DOCSTRING.match(source, position)
    if before is None:
        return "", position
    string = _STRING.match(source, before.end())
    # Parentheses, several strings, or an expression that begins with a string
    if string is None or before["mark"] == "(" or not _AFTER_DOCSTRING.match(source, string.end()):
        raise _TreeNeededError
    literal = string.group()
    quotes = 3 if literal[:3] in ('"""', "'''") else 1
    if "\\" not in literal or before["mark"] in ("r", "R"):
        return literal[quotes:-quotes], string.end()
    # Only a string with escapes needs evaluation.
    tree = parse_source(literal)
    if tree is None:
        raise _TreeNeededError
    return ast.get_docstring(tree, clean=False) or "", string.end()


def _walk_docstrings(tree: ast.Module) -> Iterator[str]:
    """Yield the docstrings of a syntax tree, including those of nested definitions, in the order of the source."""
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
    """Yield the string arguments of a call of one of _ADDING_FUNCTIONS."""
    if isinstance(node, ast.Call):
        function = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        if function in _ADDING_FUNCTIONS:
            for argument in ast.walk(node):
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value
