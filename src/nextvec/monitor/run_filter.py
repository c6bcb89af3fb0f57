"""The language of `--where`: comparisons of a run's fields, joined with and, or, not.

    val_cosine > 0.58 and network == 'amn'
    state in ('orphaned', 'interrupted') or 'sweep' in path

It is parsed as a Python expression, of which only the parts below are allowed; nothing is ever evaluated as code.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from nextvec.errors import InputError

Value = str | float | bool | None
Row = Mapping[str, Value]

MAX_LENGTH = 2000
"""Characters of an expression. Nothing longer is typed by people, and nesting is bounded by it."""

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}


def parse_filter(text: str, fields: Collection[str]) -> Callable[[Row], bool]:
    """Return the function that an expression describes. A comparison with a field that has no value is false.

    Raises InputError, with one line, if the expression is malformed, names an unknown field, or is not allowed. The
    function raises InputError if a comparison mixes numbers and text.
    """
    if len(text) > MAX_LENGTH:
        raise InputError(f"--where: the expression has {len(text)} characters. Use at most {MAX_LENGTH}.")
    try:
        with warnings.catch_warnings(action="ignore"):  # Python warns of odd literals
            tree = ast.parse(text.strip(), mode="eval")
        evaluate = _compile(tree.body, fields)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"--where {text!r}: not an expression. Write one such as \"val_cosine > 0.58 and network == 'amn'\"."
        ) from error
    return lambda row: bool(evaluate(row))


def _compile(node: ast.expr, fields: Collection[str]) -> Callable[[Row], Any]:
    """Return the function of an expression's node."""
    match node:
        case ast.BoolOp(op=ast.And()):
            parts = [_compile(part, fields) for part in node.values]
            return lambda row: all(part(row) for part in parts)
        case ast.BoolOp():
            parts = [_compile(part, fields) for part in node.values]
            return lambda row: any(part(row) for part in parts)
        case ast.UnaryOp(op=ast.Not()):
            inner = _compile(node.operand, fields)
            return lambda row: not inner(row)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return lambda row: -number
        case ast.Compare():
            return _compile_comparison(node, fields)
        case ast.Name():
            name = node.id
            if name not in fields:
                raise InputError(f"--where: unknown field '{name}'. Fields: {', '.join(fields)}.")
            return lambda row: row[name]
        case ast.Constant(value=str() | int() | float() as value):
            return lambda row: value
        case ast.Tuple() | ast.List():
            items = [_compile(item, fields) for item in node.elts]
            return lambda row: [item(row) for item in items]
    raise InputError(
        f"--where: {ast.unparse(node)!r} is not allowed. Use fields, numbers, quoted text, comparisons, and, or, not."
    )


def _compile_comparison(node: ast.Compare, fields: Collection[str]) -> Callable[[Row], bool]:
    """Return the function of a comparison, which may be a chain: ``0.5 < val_cosine < 0.6``."""
    terms = [_compile(term, fields) for term in (node.left, *node.comparators)]
    if unknown := [op for op in node.ops if type(op) not in _COMPARISONS]:
        raise InputError(f"--where: '{ast.unparse(node)}': {type(unknown[0]).__name__} is not a comparison of values.")
    compares = [_COMPARISONS[type(op)] for op in node.ops]

    def evaluate(row: Row) -> bool:
        values = [term(row) for term in terms]
        if any(value is None for value in values):
            return False
        pairs = zip(compares, values, values[1:], strict=False)
        try:
            return all(compare(left, right) for compare, left, right in pairs)
        except TypeError as error:
            raise InputError(f"--where: '{ast.unparse(node)}' compares text with a number. Quote text only.") from error

    return evaluate
