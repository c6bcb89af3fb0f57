"""Fields of events, which may be missing, of another version, or damaged: each gets its type or nothing."""

from __future__ import annotations

import math
from typing import Any


def number(value: Any) -> float | None:
    """A number, also where the log spells it as a word ("nan", "inf", "-inf"); None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and value not in ("nan", "inf", "-inf"):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def finite(value: Any) -> float | None:
    """A number that one can calculate with, or None."""
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def count(value: Any) -> int:
    """A number of things; 0 for everything else."""
    return max(0, int(finite(value) or 0))


def words(value: Any) -> str:
    """Text on one line, without characters that would move a terminal's cursor; empty for everything but text."""
    if not isinstance(value, str):
        return ""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in value).split())


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def objects(value: Any) -> list[dict[str, Any]]:
    """The JSON objects of a list, or none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []
