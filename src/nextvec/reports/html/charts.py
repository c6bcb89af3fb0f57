"""Charts as plotly figures: plain dicts, made from plain values, drawn by the page's script.

A colour is a name behind `$` that the page looks up in its style, so that one figure serves light and dark. plotly
reads names as a subset of HTML: whatever comes from outside is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

Record = Mapping[str, Any]
Figure = dict[str, Any]

HEIGHT = 340
MOST_POINTS = 800
"""Points of a line; a longer one keeps the lowest and the highest of each stretch, so that no spike is lost."""

_TOP, _BOTTOM = 8, 40  # margins of the plot in pixels
_LABEL_HEIGHT = 15  # pixels that a label needs
_MARKED_POINTS = 60  # up to so many points each one gets a dot
_LONGEST_LABEL = 24  # characters


@dataclass(frozen=True)
class Line:
    """A curve; a place without a finite value is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = "$model"
    dash: str = "solid"
    symbol: str = "circle"
    labelled: bool = True
    """Whether its name stands at its end; the only line of a chart needs none."""


@dataclass(frozen=True)
class Level:
    """A line across the chart, such as a baseline's cosine."""

    name: str
    height: float
    colour: str = "$baseline"
    label_colour: str = "$muted"


@dataclass(frozen=True)
class Band:
    """A part of the plane, such as where a gate is red; None reaches to the edge of the chart."""

    x0: float
    x1: float
    y0: float | None
    y1: float | None
    colour: str


@dataclass(frozen=True)
class Axes:
    """The two scales: `y` spans from its first to its second value; `ticks` names places of x."""

    y: tuple[float, float]
    x_title: str = "epoch"
    ticks: tuple[tuple[float, str], ...] = ()
    logarithmic: bool = False


def chart(
    lines: Sequence[Line],
    axes: Axes,
    levels: Sequence[Level] = (),
    bands: Sequence[Band] = (),
    ring: tuple[float, float] | None = None,
) -> Figure:
    """The figure of some lines, of which at least one has a value, with their names at the right.

    `levels` that lie outside of the axes are left out, `bands` are cut there; `ring` marks a point.
    """
    traces = [_trace(line) for line in lines]
    if ring is not None:
        traces.append(_ring(*ring))
    low, high = axes.y
    shown = [level for level in levels if low <= level.height <= high]
    shapes = [*(_band(band, axes) for band in bands), *map(_level, shown)]
    marks = [*(level for level in shown if level.name), *(end for line in lines for end in _end_of(line))]
    layout = _layout(axes, [x for line in lines for x in line.x], marks)
    return {"data": traces, "layout": {**layout, "shapes": shapes} if shapes else layout}


def span(values: Sequence[float | None], least: float = 0.0) -> tuple[float, float]:
    """A scale for some values, the finite ones of which must not be none; padded, by `least` at each side or more."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    pad = max(0.08 * (high - low), least) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def series(records: Sequence[Record], key: str) -> list[float | None]:
    """A figure over the epochs; None where it is missing or not finite."""
    values = [record.get(key) for record in records]
    return [
        value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
        for value in values
    ]


def thinned(x: Sequence[float], y: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """At most `MOST_POINTS` points of a line: its ends, and the lowest and the highest of each stretch."""
    if len(x) <= MOST_POINTS:
        return list(x), list(y)
    kept = {0, len(x) - 1}
    stretches = (MOST_POINTS - 2) // 2
    for start, end in pairwise(len(x) * number // stretches for number in range(stretches + 1)):
        known = [(value, index) for index in range(start, end) if (value := y[index]) is not None]
        kept |= {min(known)[1], max(known)[1]} if known else {start}
    order = sorted(kept)
    return [x[index] for index in order], [y[index] for index in order]


def spread(places: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Places of labels, in the order given, moved apart so that any two are at least `gap` from each other.

    Labels that would touch form a block, which is centred on the mean of what it labels, and kept between `low` and
    `high` as far as it has room there.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[list[int]] = []

    def bottom(block: Sequence[int]) -> float:
        height = gap * (len(block) - 1)
        centred = sum(places[index] for index in block) / len(block) - height / 2
        return max(low, min(high - height, centred))

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and bottom(blocks[-1]) < bottom(blocks[-2]) + gap * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = list(places)
    for block in blocks:
        for number, index in enumerate(block):
            moved[index] = bottom(block) + gap * number
    return moved


def _trace(line: Line) -> Figure:
    x, y = thinned(line.x, line.y)
    solid = line.dash == "solid"
    return {
        "type": "scatter", "name": escape(line.name), "x": x, "y": y,
        "mode": "lines+markers" if len(x) <= _MARKED_POINTS else "lines",
        "line": {"color": line.colour, "width": 2.5 if solid else 1.5, "dash": line.dash},
        "marker": {"color": line.colour, "size": 5 if solid else 4, "symbol": line.symbol},
    }  # fmt: skip


def _ring(x: float, y: float) -> Figure:
    return {
        "type": "scatter", "name": "best", "x": [x], "y": [y], "mode": "markers", "hoverinfo": "skip",
        "marker": {"color": "$paper", "size": 10, "line": {"color": "$model", "width": 2.5}},
    }  # fmt: skip


def _level(level: Level) -> Figure:
    return {
        "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level.height, "y1": level.height, "layer": "below",
        "line": {"color": level.colour, "width": 1.5, "dash": "dash"},
    }  # fmt: skip


def _band(band: Band, axes: Axes) -> Figure:
    low, high = axes.y
    y0 = low if band.y0 is None else min(high, max(low, band.y0))
    y1 = high if band.y1 is None else min(high, max(low, band.y1))
    return {
        "type": "rect", "x0": band.x0, "x1": band.x1, "y0": y0, "y1": y1, "layer": "below", "opacity": 0.22,
        "fillcolor": band.colour, "line": {"width": 0},
    }  # fmt: skip


def _end_of(line: Line) -> list[Level]:
    """The name of a line at the height of its last point."""
    known = [value for value in line.y if value is not None]
    return [Level(line.name, known[-1], line.colour, line.colour)] if known and line.labelled else []


def _layout(axes: Axes, x: Sequence[float], marks: Sequence[Level]) -> Figure:
    """The layout of a chart with the names at its right: of lines beside their last points, and of levels."""
    low, high = axes.y
    gap = (high - low) * _LABEL_HEIGHT / (HEIGHT - _TOP - _BOTTOM)
    places = spread([mark.height for mark in marks], gap, low, high)
    labels = [
        {
            "text": escape(_short(mark.name)), "xref": "paper", "x": 1.01, "xanchor": "left", "y": place,
            "showarrow": False, "font": {"size": 12, "color": mark.label_colour},
        }
        for mark, place in zip(marks, places, strict=True)
    ]  # fmt: skip
    right = 24 + 7 * max((len(_short(mark.name)) for mark in marks), default=0)
    axis = {"gridcolor": "$grid", "linecolor": "$grid", "zeroline": False, "fixedrange": True}
    return {
        "height": HEIGHT, "margin": {"l": 56, "r": right, "t": _TOP, "b": _BOTTOM},
        "showlegend": False, "hovermode": "x unified", "annotations": labels,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "$muted"},
        "hoverlabel": {"bgcolor": "$paper", "bordercolor": "$grid", "font": {"color": "$ink"}},
        "xaxis": {**axis, "title": {"text": axes.x_title}, **_x_scale(axes, x)},
        "yaxis": {**axis, "hoverformat": ".4g", "exponentformat": "power", "range": [low, high]},
    }  # fmt: skip


def _x_scale(axes: Axes, x: Sequence[float]) -> Figure:
    named = {"tickvals": [place for place, _ in axes.ticks], "ticktext": [escape(name) for _, name in axes.ticks]}
    if axes.logarithmic:
        first, last = math.log10(min(x)), math.log10(max(x))
        edge = 0.03 * (last - first) or 0.1
        return {"type": "log", "range": [first - edge, last + edge], **named}
    edge = max(0.4, 0.02 * (max(x) - min(x)))
    scale = {"range": [min(x) - edge, max(x) + edge], "tickformat": "d", "nticks": min(8, len(set(x)) + 1)}
    return scale | (named if axes.ticks else {})


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…"
