"""Charts of a run as plotly figures: plain dicts, made from plain values, drawn by the page's script.

A colour is a name behind `$` that the page looks up in its style, so that one figure serves light and dark. plotly
reads names as a subset of HTML: whatever comes from outside is escaped.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Record = Mapping[str, Any]
Figure = dict[str, Any]
_Mark = tuple[str, float, str]
"""A label at the right of a chart: name, height, colour."""

HEIGHT = 340
_TOP, _BOTTOM = 8, 40  # margins of the plot in pixels
_LABEL_HEIGHT = 15  # pixels that a label needs
_MARKED_EPOCHS = 60  # up to so many epochs each one gets a dot

_STYLES = {"val": ("$model", "solid"), "train": ("$train", "dot")}


def cosine_chart(
    history: Sequence[Record], split: str, baselines: Mapping[str, float], *, with_train: bool
) -> Figure | None:
    """Cosine on a split over the epochs, the baselines' levels as lines with their names at the right.

    `baselines` gives each baseline's cosine on the split. The axis spans what the model went through and the best
    baseline; levels below are left out of sight. None if no epoch has a figure for the split.
    """
    curve = _series(history, f"{split}_cosine")
    known = [value for value in curve if value is not None]
    if not known:
        return None
    epochs = [record["epoch"] for record in history]
    traces = []
    train = _series(history, "train_cosine") if with_train else []
    if any(value is not None for value in train):
        traces.append(_line("train", epochs, train, *_STYLES["train"]))
        known += [value for value in train if value is not None]
    traces.append(_line(split, epochs, curve, *_STYLES["val"]))
    best = [number for number, record in enumerate(history) if record.get("best")]
    if best and curve[best[-1]] is not None:
        traces.append(_marker(epochs[best[-1]], curve[best[-1]]))

    best_baseline = max(baselines, key=lambda name: baselines[name], default=None)
    if best_baseline is not None:
        known.append(baselines[best_baseline])
    low, high = min(known), max(known)
    pad = max(0.08 * (high - low), 0.002)
    colours = {name: "$best" if name == best_baseline else "$baseline" for name in baselines}
    levels = {name: level for name, level in baselines.items() if low - pad <= level <= high + pad}
    shapes = [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level, "layer": "below",
            "line": {"color": colours[name], "width": 1.5, "dash": "dash"},
        }
        for name, level in levels.items()
    ]  # fmt: skip
    marks = [(name, level, "$best" if name == best_baseline else "$muted") for name, level in levels.items()]
    return {"data": traces, "layout": {**_layout(epochs, traces, marks, (low - pad, high + pad)), "shapes": shapes}}


def loss_charts(history: Sequence[Record]) -> dict[str, Figure]:
    """A chart for each loss term that the history holds (`train_loss_mse`, `val_loss_mse` …), by the term's name."""
    found: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for record in history for key in record):
        match = re.fullmatch(r"(?:(train|val)_)?loss(?:_(\w+))?", key)
        if match:
            found.setdefault(match[2] or "total", {})[match[1] or "train"] = key
    epochs = [record["epoch"] for record in history]
    charts: dict[str, Figure] = {}
    for term, keys in found.items():
        series = {part: _series(history, key) for part, key in keys.items()}
        if any(value is not None for values in series.values() for value in values):
            traces = [_line(part, epochs, values, *_STYLES[part]) for part, values in series.items()]
            known = [value for values in series.values() for value in values if value is not None]
            pad = 0.08 * (max(known) - min(known)) or 0.05 * abs(max(known)) or 1.0
            charts[term] = {"data": traces, "layout": _layout(epochs, traces, [], (min(known) - pad, max(known) + pad))}
    return charts


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places of labels, in the order given, moved apart so that any two are at least `gap` from each other.

    Labels that would touch form a block, which is centred on the mean of what it labels.
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    blocks: list[list[int]] = []

    def bottom(block: Sequence[int]) -> float:
        return sum(places[index] for index in block) / len(block) - gap * (len(block) - 1) / 2

    for index in order:
        blocks.append([index])
        while len(blocks) > 1 and bottom(blocks[-1]) < bottom(blocks[-2]) + gap * len(blocks[-2]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    moved = list(places)
    for block in blocks:
        for number, index in enumerate(block):
            moved[index] = bottom(block) + gap * number
    return moved


def _series(history: Sequence[Record], key: str) -> list[float | None]:
    """A figure over the epochs; None where it is missing or not finite."""
    values = [record.get(key) for record in history]
    return [value if isinstance(value, int | float) and math.isfinite(value) else None for value in values]


def _line(name: str, epochs: Sequence[int], values: Sequence[float | None], colour: str, dash: str) -> Figure:
    solid = dash == "solid"
    return {
        "type": "scatter", "name": name, "x": list(epochs), "y": list(values),
        "mode": "lines+markers" if len(epochs) <= _MARKED_EPOCHS else "lines",
        "line": {"color": colour, "width": 2.5 if solid else 1.5, "dash": dash},
        "marker": {"color": colour, "size": 5 if solid else 4},
    }  # fmt: skip


def _marker(epoch: int, value: float | None) -> Figure:
    return {
        "type": "scatter", "name": "best", "x": [epoch], "y": [value], "mode": "markers", "hoverinfo": "skip",
        "marker": {"color": "$paper", "size": 10, "line": {"color": "$model", "width": 2.5}},
    }  # fmt: skip


def _layout(
    epochs: Sequence[int], traces: Sequence[Figure], marks: Sequence[_Mark], span: tuple[float, float]
) -> Figure:
    """The layout of a chart with the names at its right: of each line beside its last point, and of `marks`."""
    marks = [*marks, *(mark for trace in traces if trace["mode"] != "markers" for mark in _end_of(trace))]
    places = spread([height for _, height, _ in marks], (span[1] - span[0]) * _LABEL_HEIGHT / (HEIGHT - _TOP - _BOTTOM))
    labels = [
        {
            "text": escape(name), "xref": "paper", "x": 1.01, "xanchor": "left", "y": place, "showarrow": False,
            "font": {"size": 12, "color": colour},
        }
        for (name, _, colour), place in zip(marks, places, strict=True)
    ]  # fmt: skip
    right = 24 + 7 * min(24, max(len(name) for name, _, _ in marks))
    edge = max(0.4, 0.02 * len(epochs))
    axis = {"gridcolor": "$grid", "linecolor": "$grid", "zeroline": False, "fixedrange": True}
    return {
        "height": HEIGHT, "margin": {"l": 56, "r": right, "t": _TOP, "b": _BOTTOM},
        "showlegend": False, "hovermode": "x unified", "annotations": labels,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": "$muted"},
        "hoverlabel": {"bgcolor": "$paper", "bordercolor": "$grid", "font": {"color": "$ink"}},
        "xaxis": {
            **axis, "title": {"text": "epoch"}, "tickformat": "d", "nticks": min(8, len(epochs) + 1),
            "range": [epochs[0] - edge, epochs[-1] + edge],
        },
        "yaxis": {**axis, "hoverformat": ".4g", "range": list(span)},
    }  # fmt: skip


def _end_of(trace: Figure) -> list[_Mark]:
    """The mark of a line: its name at the height of its last point."""
    known = [value for value in trace["y"] if value is not None]
    return [(trace["name"], known[-1], trace["line"]["color"])] if known else []
