"""Results of Ray tasks, in which an error is a value: the user sees its message, and Ray repeats no task for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any

from nextvec.errors import NextvecError, one_line


def as_result(function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
    """Return a function that returns its value in a dictionary, or an error as plain values."""

    @wraps(function)
    def call(*arguments: Any) -> dict[str, Any]:
        try:
            return {"value": function(*arguments)}
        except Exception as error:
            return error_values(error)

    return call


def error_values(error: Exception, where: str = "") -> dict[str, Any]:
    """Return an error as plain values; `where` is put before the message of one that is for the user."""
    if isinstance(error, NextvecError):
        return {"error": f"{type(error).__module__}:{type(error).__name__}", "message": f"{where}{error}"}
    return {"error": "", "message": f"{type(error).__name__}: {error}"}


def raise_error(result: dict[str, Any]) -> None:
    """Raise the error in a result, if there is one, with its class and its message."""
    if "error" not in result:
        return
    if not result["error"]:
        raise RuntimeError(result["message"])
    module, _, name = result["error"].partition(":")
    kind: type[NextvecError] = getattr(import_module(module), name)
    # Not by its constructor: its parameters may be other ones than the message.
    error = kind.__new__(kind, result["message"])
    Exception.__init__(error, result["message"])
    raise error


def reason(error: Exception) -> str:
    """Return an error of Ray in one line. Its text may be colored, and contain a traceback."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    # A traceback ends with what is wrong, other messages begin with it.
    return one_line(ValueError(lines[-1] if "Traceback" in str(error) or len(lines) == 1 else lines[0]))
