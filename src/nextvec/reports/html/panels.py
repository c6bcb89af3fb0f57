"""The charts of a run, and of several runs laid over each other: from records of epochs and a judgement's plain values.

The live page, the report and the comparison show the same ones. What is missing or damaged leaves its chart out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nextvec.core.events import count, finite, mapping
from nextvec.reports.html.charts import Axes, Band, Figure, Level, Line, Record, chart, series, span

SPLIT_NAMES = {"train": "Training documents", "val": "Validation", "ood": "Out of distribution"}
TERM_NAMES = {
    "mse": "MSE", "info": "InfoNCE", "moment": "Moments", "variance": "Variance", "query": "Query",
    "total": "Total loss",
}  # fmt: skip
SPLIT_STYLES = {"train": ("$train", "dot"), "val": ("$model", "solid"), "ood": ("$best", "dashdot")}
RUN_STYLES = tuple(
    zip(
        (f"$run{number}" for number in range(8)),
        ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot", "solid", "dash"),
        ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "triangle-down"),
        strict=True,
    )
)
"""Colour, dash and symbol of each run laid over others: any of the three tells them apart."""
RECALL = (("r_at_1", 1), ("r_at_5", 5), ("r_at_10", 10), ("r_at_50", 50))


@dataclass(frozen=True)
class Panel:
    """A chart with its heading; `key` names what it shows, and stays the same while a run grows."""

    key: str
    title: str
    figure: Figure
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a page's script."""
        return {"key": self.key, "title": self.title, "figure": self.figure, "note": self.note}


@dataclass(frozen=True)
class CurveSource:
    """What charts of a run are drawn from: plain values, as its event log holds them."""

    name: str
    records: Sequence[Record] = ()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Split → baseline → mean cosine."""
    gates: Sequence[Mapping[str, Any]] = ()
    """The recipe's gates: epoch, metric, green, red."""
    requested_shares: Mapping[str, float] = field(default_factory=dict)
    """Term → the share of influence that its weight asks for."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> list[int]:
        """The numbers of the finished epochs."""
        return [count(record.get("epoch")) for record in self.records]


def run_panels(run: CurveSource) -> list[Panel]:
    """Every chart of a run that there are figures for."""
    panels = []
    for split in ("val", "ood"):
        figure = cosine_chart(
            run.records, split, run.baselines.get(split, {}), with_train=split == "val", gates=run.gates
        )
        if figure:
            panels.append(Panel(f"{split}_cosine", f"Cosine · {SPLIT_NAMES[split]}", figure))
    panels += [
        panel
        for panel in (_gain_panel(run), *_loss_panels(run.records), _share_panel(run))
        if panel is not None
    ]  # fmt: skip
    panels += evaluated_panels(run.evaluation)
    for key, title in (("lr", "Learning rate"), ("windows_per_second", "Windows per second")):
        values = series(run.records, key)
        if any(value is not None for value in values):
            panels.append(
                Panel(key, title, chart([Line(title, run.epochs, values, labelled=False)], Axes(span([*values, 0.0]))))
            )
    return panels


def cosine_chart(
    history: Sequence[Record],
    split: str,
    baselines: Mapping[str, float],
    *,
    with_train: bool,
    gates: Sequence[Mapping[str, Any]] = (),
) -> Figure | None:
    """Cosine on a split over the epochs, the baselines' levels as lines and the gates as bands where they look.

    `baselines` gives each baseline's cosine on the split. The axis spans what the model went through and the best
    baseline; levels below are left out of sight. None if no epoch has a figure for the split.
    """
    curve = series(history, f"{split}_cosine")
    known = [value for value in curve if value is not None]
    if not known:
        return None
    epochs = [count(record.get("epoch")) for record in history]
    lines = []
    train = series(history, "train_cosine") if with_train else []
    if any(value is not None for value in train):
        lines.append(Line("train", epochs, train, *SPLIT_STYLES["train"]))
        known += [value for value in train if value is not None]
    lines.append(Line(split, epochs, curve, *SPLIT_STYLES["val"]))
    best = [number for number, record in enumerate(history) if record.get("best")]
    ring = (epochs[best[-1]], value) if best and (value := curve[best[-1]]) is not None else None
    best_baseline = max(baselines, key=lambda name: baselines[name], default=None)
    if best_baseline is not None:
        known.append(baselines[best_baseline])
    levels = [
        Level(name, level, *(("$best", "$best") if name == best_baseline else ("$baseline", "$muted")))
        for name, level in baselines.items()
    ]
    top = baselines[best_baseline] if best_baseline is not None else None
    return chart(lines, Axes(span(known, 0.002)), levels, gate_bands(gates, split, top, epochs[-1]), ring)


def gate_bands(
    gates: Sequence[Mapping[str, Any]], split: str, best_baseline: float | None, last_epoch: int
) -> list[Band]:
    """Where a split's cosine would be green or red, at the epochs up to `last_epoch` whose gates look at it.

    A gate on the gain looks at the cosine from the best baseline's level.
    """
    bands = []
    for gate in gates:
        metric = gate.get("metric")
        if metric not in (f"{split}_cosine", f"{split}_gain"):
            continue
        zero = 0.0 if metric == f"{split}_cosine" else best_baseline
        at = gate.get("epoch")
        for epoch in map(count, at if isinstance(at, list | tuple) else [at]):
            if zero is None or not 0 < epoch <= last_epoch:
                continue
            green, red = finite(gate.get("green")), finite(gate.get("red"))
            if green is not None:
                bands.append(Band(epoch - 0.4, epoch + 0.4, zero + green, None, "$green"))
            if red is not None:
                bands.append(Band(epoch - 0.4, epoch + 0.4, None, zero + red, "$red"))
    return bands


def loss_charts(history: Sequence[Record]) -> dict[str, Figure]:
    """A chart for each loss term that the history holds (`train_loss_mse`, `val_loss_mse` …), by the term's name."""
    found: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for record in history for key in record):
        match = re.fullmatch(r"(?:(train|val)_)?loss(?:_(\w+))?", key)
        if match:
            found.setdefault(match[2] or "total", {})[match[1] or "train"] = key
    epochs = [count(record.get("epoch")) for record in history]
    charts: dict[str, Figure] = {}
    for term, keys in found.items():
        lines = [Line(part, epochs, series(history, key), *SPLIT_STYLES[part]) for part, key in keys.items()]
        known = [value for line in lines for value in line.y if value is not None]
        if known:
            charts[term] = chart(lines, Axes(span(known)))
    return charts


def _loss_panels(records: Sequence[Record]) -> list[Panel]:
    return [Panel(f"loss_{term}", TERM_NAMES.get(term, term), figure) for term, figure in loss_charts(records).items()]


def _gain_panel(run: CurveSource) -> Panel | None:
    """The gains over the best baseline of each split, val and ood on one scale."""
    gains = {split: series(run.records, f"{split}_gain") for split in ("val", "ood")}
    lines = [
        Line(split, run.epochs, values, *SPLIT_STYLES[split])
        for split, values in gains.items()
        if any(value is not None for value in values)
    ]
    if not lines:
        return None
    axes = Axes(span([0.0, *(value for line in lines for value in line.y)], 0.002))
    return Panel(
        "gain", "Gain over the best baseline", chart(lines, axes, [Level("best baseline", 0.0, "$best", "$best")])
    )


def _share_panel(run: CurveSource) -> Panel | None:
    """How much each term moves the model; dashed, what its weight asks for."""
    terms = dict.fromkeys(key for record in run.records for key in record if key.startswith("share_"))
    lines = []
    for number, key in enumerate(terms):
        values = series(run.records, key)
        if any(value is not None for value in values):
            colour, dash, symbol = RUN_STYLES[number % len(RUN_STYLES)]
            name = TERM_NAMES.get(key.removeprefix("share_"), key.removeprefix("share_"))
            lines.append(Line(name, run.epochs, values, colour, dash, symbol))
    if not lines:
        return None
    levels = [Level("", share) for share in dict.fromkeys(run.requested_shares.values())]
    return Panel(
        "shares", "Shares of influence", chart(lines, Axes((-0.04, 1.04)), levels), "Dashed: the shares asked for."
    )


def evaluated_panels(evaluation: Mapping[str, Any]) -> list[Panel]:
    """Offset curve and retrieval of a judgement, one chart for each split."""
    panels = []
    for split, figures in mapping(evaluation.get("splits")).items():
        predictors = mapping(mapping(figures).get("predictors"))
        own = (evaluation.get("model"), mapping(figures).get("best_baseline"))
        name = SPLIT_NAMES.get(split, split)
        offsets = _predictor_lines(predictors, own, _offsets)
        if offsets:
            axes = Axes(
                span([value for line in offsets for value in line.y], 0.01), "place in the document, from the target"
            )
            panels.append(Panel(f"offsets_{split}", f"Offset curve · {name}", chart(offsets, axes), OFFSETS_NOTE))
        recall = _predictor_lines(predictors | _queries(predictors), own, _recall)
        if recall:
            ticks = tuple((float(k), f"R@{k}") for _, k in RECALL)
            axes = Axes(span([0.0, *(value for line in recall for value in line.y)]), "", ticks, logarithmic=True)
            panels.append(Panel(f"retrieval_{split}", f"Retrieval · {name}", chart(recall, axes), RETRIEVAL_NOTE))
    return panels


OFFSETS_NOTE = (
    "Mean cosine of the prediction to the vector at each place; 0 is the target, −1 the newest context vector."
)
RETRIEVAL_NOTE = "Share of windows whose true next chunk is among the k nearest to the prediction."


def _predictor_lines(
    predictors: Mapping[str, Any], own: tuple[Any, Any], read: Callable[[Mapping[str, Any]], dict[float, float]]
) -> list[Line]:
    """A line for each predictor: the model's and the best baseline's stand out."""
    lines = []
    for name, scores in predictors.items():
        points = read(mapping(scores))
        styles = {own[0]: ("$model", "solid"), own[1]: ("$best", "dash"), f"{own[0]}, query": ("$run3", "longdash")}
        style = styles.get(name, ("$baseline", "dot"))
        if points:
            lines.append(Line(name, list(points), list(points.values()), *style))
    return sorted(lines, key=lambda line: line.dash == "solid")  # the model's last: on top


def _queries(predictors: Mapping[str, Any]) -> dict[str, Any]:
    """A model's second output, the query, as a predictor of its own, where it has one."""
    found = {name: mapping(mapping(scores).get("query")) for name, scores in predictors.items()}
    return {f"{name}, query": {"retrieval": retrieval} for name, retrieval in found.items() if retrieval}


def _offsets(scores: Mapping[str, Any]) -> dict[float, float]:
    found = mapping(mapping(scores.get("offset_profile")).get("curve"))
    return {float(k): value for k in sorted(found, key=float) if (value := finite(found[k])) is not None}


def _recall(scores: Mapping[str, Any]) -> dict[float, float]:
    found = mapping(scores.get("retrieval"))
    return {float(k): value for name, k in RECALL if (value := finite(found.get(name))) is not None}


OVERLAID = {
    "val_gain": "Gain on validation",
    "ood_gain": "Gain out of distribution",
    "val_cosine": "Cosine · Validation",
    "ood_cosine": "Cosine · Out of distribution",
    "train_cosine": "Cosine · Training batches",
    "train_loss_mse": "MSE · training",
    "train_loss_info": "InfoNCE · training",
    "lr": "Learning rate",
    "windows_per_second": "Windows per second",
}
"""What several runs are compared by: a record's field → its heading."""


def overlay_panels(runs: Sequence[CurveSource]) -> list[Panel]:
    """Several runs laid over each other; scores as gains too, because runs may be of different windows."""
    panels = []
    for key, title in OVERLAID.items():
        lines = []
        for number, run in enumerate(runs):
            values = series(run.records, key)
            if any(value is not None for value in values):
                lines.append(Line(run.name, run.epochs, values, *RUN_STYLES[number % len(RUN_STYLES)]))
        if lines:
            levels = _overlay_levels(key, runs)
            shown = [*(value for line in lines for value in line.y), *(level.height for level in levels)]
            panels.append(Panel(key, title, chart(lines, Axes(span(shown, 0.0 if "loss" in key else 1e-6)), levels)))
    return panels


def _overlay_levels(key: str, runs: Sequence[CurveSource]) -> list[Level]:
    """The best baseline of a split that a score stands beside: once for each set of windows."""
    split, _, metric = key.partition("_")
    if metric == "gain":
        return [Level("best baseline", 0.0, "$muted", "$muted")]
    if metric != "cosine" or split == "train":
        return []
    best = {max(run.baselines[split].items(), key=lambda item: item[1]) for run in runs if run.baselines.get(split)}
    return [Level(name, level, "$muted", "$muted") for name, level in sorted(best)]
