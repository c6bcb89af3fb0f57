"""Figures in words and signs, as the view writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BARS = "▁▂▃▄▅▆▇█"
LOST = "×"
"""Stands in a trend where a figure is NaN or infinite."""


def bar(value: float, low: float, high: float) -> str:
    """The height of a value between `low` and `high`, as one character."""
    part = (value - low) / (high - low) if high > low else 0.5
    return BARS[min(len(BARS) - 1, max(0, int(part * len(BARS))))]


def bounds(values: Sequence[float | None], smallest_span: float) -> tuple[float, float]:
    """The scale of a trend; never narrower than `smallest_span`, so that noise does not look like a movement."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    widen = max(0.0, smallest_span - (high - low)) / 2
    return low - widen, high + widen


def sparkline(values: Sequence[float | None], low: float, high: float, width: int) -> str:
    """At most `width` characters, one for each value or for the mean of several; a blank where there is none."""
    cells = min(len(values), width)
    edges = [len(values) * cell // cells for cell in range(cells + 1)] if cells else [0]
    return "".join(_cell(values[start:end], low, high) for start, end in pairwise(edges))


def _cell(values: Sequence[float | None], low: float, high: float) -> str:
    known = [value for value in values if value is not None]
    if not all(math.isfinite(value) for value in known):
        return LOST
    return bar(sum(known) / len(known), low, high) if known else " "


def duration(seconds: float) -> str:
    """A length of time in its two largest units: "45 s", "12 min", "2 h 05 min", "3 d 4 h"."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{hours // 24} d {hours % 24} h"


def figure(value: float | None, form: str) -> str:
    """A number in a format, "nan" and "inf" included; a dash where there is none."""
    return "–" if value is None else "nan" if math.isnan(value) else f"{value:{form}}"
