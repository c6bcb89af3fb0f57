"""The stoplight status of every check and verdict, and numbers and Markdown as text.

A status always differs in shape as well as in color, for readers who cannot distinguish red from green.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from enum import StrEnum


class Status(StrEnum):
    """Stoplight status, from the best to the worst. Equal to its name in JSON: `Status.RED == "red"`."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


STATUSES = tuple(Status)

SYMBOLS: dict[Status, str] = {Status.GREEN: "●", Status.AMBER: "▲", Status.RED: "■"}

COLORS: dict[Status, str] = {Status.GREEN: "green", Status.AMBER: "yellow", Status.RED: "red"}
"""Their colors in a terminal."""


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst status; green if there is none."""
    return max(statuses, key=STATUSES.index, default=Status.GREEN)


def outcome_word(passed: bool | None) -> str:
    """Return the outcome of a criterion as one word or two."""
    return "not assessed" if passed is None else "pass" if passed else "FAIL"


def outcome_status(passed: bool | None) -> Status:
    """Return the stoplight status of a criterion's outcome."""
    return Status.AMBER if passed is None else Status.GREEN if passed else Status.RED


def summarize_criteria(passed: Sequence[bool | None]) -> str:
    """Return how many criteria are met, and how many could not be assessed, as text."""
    unknown = sum(outcome is None for outcome in passed)
    not_assessed = f", {unknown} not assessed" if unknown else ""
    return f"success criteria: {sum(outcome is True for outcome in passed)} of {len(passed)} met{not_assessed}"


ABSENT = "–"
"""Shown in the place of a number that was not measured."""


def format_number(value: float | None, spec: str = ".4f") -> str:
    """Return a number as text: `nan` and `inf` as such, a dash for None."""
    if value is None:
        return ABSENT
    return f"{value:{spec}}" if math.isfinite(value) else str(value)


def format_percent(fraction: float | None, decimals: int = 1) -> str:
    """Return a fraction as text: `25.0 %` for 0.25, a dash for None."""
    return ABSENT if fraction is None else f"{100 * fraction:.{decimals}f} %"


def format_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """Return a value and half the width of its interval: `0.5820 ± 0.0070`; `sign="+"` is for differences."""
    return f"{value:{sign}.4f} ± {(high - low) / 2:.4f}"


def format_count(count: int) -> str:
    """Return a count with at most three digits and its unit: `1.5M` for 1,510,912, `822K` for 822,400."""
    if count >= 1_000_000:
        return f"{count / 1e6:.1f}M"
    return f"{count // 1000}K" if count >= 1000 else str(count)


def cut_text(text: str, max_chars: int) -> str:
    """Return text of at most `max_chars` characters on one line; a longer one ends with … after its last whole word."""
    line = " ".join(text.split())
    if len(line) <= max_chars:
        return line
    start, _, rest = line[:max_chars].rpartition(" ")
    # One very long word, or text without spaces, is cut inside it.
    return f"{start.rstrip(',;:') if len(rest) < max_chars // 2 else line[: max_chars - 1]}…"


# An underscore inside a word, as in AMN_790k, is not markup.
_MARKUP = re.compile(r"[\\`*\[\]<>|&]|(?<!\w)_|_(?!\w)")


def escape_markdown(text: str) -> str:
    """Return text on one line that Markdown and HTML show as it is; it cannot end a table cell."""
    return _MARKUP.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


CODE = re.compile(r"`([\w.= -]+)`")
"""A field, value or command in a message of nextvec, such as `training.lr`."""


def plain_text(text: str) -> str:
    """Return a message without the backticks around code, for terminals and logs."""
    return CODE.sub(r"\1", text)
