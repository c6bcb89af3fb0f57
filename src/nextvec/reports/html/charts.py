"""Charts as plotly figures: plain dicts from plain values, drawn by the page's script.

A color is a name after `$`, which the page looks up in its style, so that one figure serves light and dark mode.
plotly interprets some HTML in names, so names are escaped.
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
MAX_POINTS = 800
"""Points of a line, about two per pixel; a longer line keeps the extremes of each section, so that no spike is lost."""

_TOP, _BOTTOM = 8, 40  # margins of the plot in pixels
_LABEL_HEIGHT = 15  # pixels
_MAX_MARKED_POINTS = 60  # a line with more points has no markers
_MAX_LABEL = 24  # characters


@dataclass(frozen=True)
class Line:
    """A curve; a point without a finite value is a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: str = "$model"
    dash: str = "solid"
    symbol: str = "circle"
    has_label: bool = True
    """Whether its name is shown at its end; the only line of a chart needs none."""


@dataclass(frozen=True)
class Level:
    """A line across the chart, such as a baseline's cosine."""

    name: str
    height: float
    color: str = "$baseline"
    label_color: str = "$muted"


@dataclass(frozen=True)
class Band:
    """A shaded rectangle, such as the range in which a gate is red; None extends to the edge of the chart."""

    x0: float
    x1: float
    y0: float | None
    y1: float | None
    color: str


@dataclass(frozen=True)
class Axes:
    """The two axes: `y` is the range of the y axis, `ticks` are positions on the x axis with their labels."""

    y: tuple[float, float]
    x_title: str = "epoch"
    ticks: tuple[tuple[float, str], ...] = ()
    is_logarithmic: bool = False


def chart(
    lines: Sequence[Line],
    axes: Axes,
    levels: Sequence[Level] = (),
    bands: Sequence[Band] = (),
    ring: tuple[float, float] | None = None,
) -> Figure:
    """Return the figure of some lines with their names at the right. At least one line has a value.

    `levels` outside of the axes are left out, and `bands` are cut there. `ring` marks a point.
    """
    # Levels and labels outside of the axes would float over the title or the x axis.
    traces = [_trace(line) for line in lines]
    if ring is not None:
        traces.append(_ring(*ring))
    low, high = axes.y
    shown = [level for level in levels if low <= level.height <= high]
    shapes = [*(_band(band, axes) for band in bands), *map(_level, shown)]
    marks = [*(level for level in shown if level.name), *(end for line in lines for end in _end_label(line))]
    layout = _layout(axes, [x for line in lines for x in line.x], marks)
    return {"data": traces, "layout": {**layout, "shapes": shapes} if shapes else layout}


def span(values: Sequence[float | None], min_padding: float = 0.0) -> tuple[float, float]:
    """Return the padded range of the values that are not None. At least one value is not None."""
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    # Constant curves get some room as well, so that they are not drawn on the border.
    pad = max(0.08 * (high - low), min_padding) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def series(records: Sequence[Record], key: str) -> list[float | None]:
    """Return a metric over the epochs; None if it is missing or non-finite."""
    values = [record.get(key) for record in records]
    return [
        value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None
        for value in values
    ]


def thinned(x: Sequence[float], y: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """Return at most `MAX_POINTS` points of a line: its ends, and the lowest and highest point of each section."""
    if len(x) <= MAX_POINTS:
        return list(x), list(y)
    # Keep both ends, and from each section of the line its lowest and highest point.
    kept = {0, len(x) - 1}
    sections = (MAX_POINTS - 2) // 2
    for start, end in pairwise(len(x) * number // sections for number in range(sections + 1)):
        known = [(value, index) for index in range(start, end) if (value := y[index]) is not None]
        kept |= {min(known)[1], max(known)[1]} if known else {start}
    order = sorted(kept)
    return [x[index] for index in order], [y[index] for index in order]


def space_labels(positions: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Return positions of labels, in the given order, moved apart until any two are at least `gap` from each other.

    Labels that would touch form a block. It is centered on the mean of its positions, and kept between `low` and
    `high` if it fits there.
    """
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    blocks: list[list[int]] = []

    # The position of the lowest label of a block.
    def bottom(block: Sequence[int]) -> float:
        height = gap * (len(block) - 1)
        centered = sum(positions[index] for index in block) / len(block) - height / 2
        return max(low, min(high - height, centered))

    # Add labels from the lowest up; a block that touches the one below merges with it, which can move it further.
    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and bottom(blocks[-1]) < bottom(blocks[-2]) + gap * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = list(positions)
    for block in blocks:
        for number, index in enumerate(block):
            moved[index] = bottom(block) + gap * number
    return moved


def _trace(line: Line) -> Figure:
    x, y = thinned(line.x, line.y)
    # Solid lines are the subject of a chart: thicker, and with larger markers. Long lines have none.
    solid = line.dash == "solid"
    return {
        "type": "scatter",
        "name": escape(line.name),
        "x": x,
        "y": y,
        "mode": "lines+markers" if len(x) <= _MAX_MARKED_POINTS else "lines",
        "line": {"color": line.color, "width": 2.5 if solid else 1.5, "dash": line.dash},
        "marker": {"color": line.color, "size": 5 if solid else 4, "symbol": line.symbol},
    }


def _ring(x: float, y: float) -> Figure:
    return {
        "type": "scatter",
        "name": "best",
        "x": [x],
        "y": [y],
        "mode": "markers",
        "hoverinfo": "skip",
        "marker": {"color": "$paper", "size": 10, "line": {"color": "$model", "width": 2.5}},
    }


def _level(level: Level) -> Figure:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": level.height,
        "y1": level.height,
        "layer": "below",
        "line": {"color": level.color, "width": 1.5, "dash": "dash"},
    }


def _band(band: Band, axes: Axes) -> Figure:
    low, high = axes.y
    # An open side extends to the edge; the other is cut there.
    y0 = low if band.y0 is None else min(high, max(low, band.y0))
    y1 = high if band.y1 is None else min(high, max(low, band.y1))
    return {
        "type": "rect",
        "x0": band.x0,
        "x1": band.x1,
        "y0": y0,
        "y1": y1,
        "layer": "below",
        "opacity": 0.22,
        "fillcolor": band.color,
        "line": {"width": 0},
    }


def _end_label(line: Line) -> list[Level]:
    """Return a line's name at the height of its last point."""
    known = [value for value in line.y if value is not None]
    return [Level(line.name, known[-1], line.color, line.color)] if known and line.has_label else []


def _layout(axes: Axes, x: Sequence[float], marks: Sequence[Level]) -> Figure:
    """Return the layout of a chart, with the names of lines and levels at its right."""
    # Convert the height of a label from pixels to units of the y axis, to keep labels apart.
    low, high = axes.y
    gap = (high - low) * _LABEL_HEIGHT / (HEIGHT - _TOP - _BOTTOM)
    positions = space_labels([mark.height for mark in marks], gap, low, high)
    labels = [
        {
            "text": escape(_cut(mark.name)),
            "xref": "paper",
            "x": 1.01,
            "xanchor": "left",
            "y": position,
            "showarrow": False,
            "font": {"size": 12, "color": mark.label_color},
        }
        for mark, position in zip(marks, positions, strict=True)
    ]
    # The right margin fits the longest label at about 7 pixels per character.
    right = 24 + 7 * max((len(_cut(mark.name)) for mark in marks), default=0)
    # Transparent backgrounds show the card in light and dark mode. Zoom is off, so that a phone scrolls past a chart.
    axis = {"gridcolor": "$grid", "linecolor": "$grid", "zeroline": False, "fixedrange": True}
    return {
        "height": HEIGHT,
        "margin": {"l": 56, "r": right, "t": _TOP, "b": _BOTTOM},
        "showlegend": False,
        "hovermode": "x unified",
        "annotations": labels,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "$muted"},
        "hoverlabel": {"bgcolor": "$paper", "bordercolor": "$grid", "font": {"color": "$ink"}},
        "xaxis": {**axis, "title": {"text": axes.x_title}, **_x_scale(axes, x)},
        "yaxis": {**axis, "hoverformat": ".4g", "exponentformat": "power", "range": [low, high]},
    }


def _x_scale(axes: Axes, x: Sequence[float]) -> Figure:
    ticks = {"tickvals": [at for at, _ in axes.ticks], "ticktext": [escape(name) for _, name in axes.ticks]}
    if axes.is_logarithmic:
        first, last = math.log10(min(x)), math.log10(max(x))
        edge = 0.03 * (last - first) or 0.1
        return {"type": "log", "range": [first - edge, last + edge], **ticks}
    # At most eight ticks, and no more than there are distinct epochs, which would repeat labels.
    edge = max(0.4, 0.02 * (max(x) - min(x)))
    scale = {"range": [min(x) - edge, max(x) + edge], "tickformat": "d", "nticks": min(8, len(set(x)) + 1)}
    return scale | (ticks if axes.ticks else {})


def _cut(name: str) -> str:
    return name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…"
