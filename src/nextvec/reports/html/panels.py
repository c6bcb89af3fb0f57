"""The charts of a run, and of several runs in one chart, from the metrics of epochs and an evaluation.

The live page, the report and the comparison share them. A chart whose data is missing or damaged is left out.
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
    "mse": "MSE",
    "info": "InfoNCE",
    "moment": "Moments",
    "variance": "Variance",
    "query": "Query",
    "total": "Total loss",
}
SPLIT_STYLES = {"train": ("$train", "dot"), "val": ("$model", "solid"), "ood": ("$best", "dashdot")}
RUN_STYLES = tuple(
    zip(
        (f"$run{number}" for number in range(8)),
        ("solid", "dash", "dashdot", "dot", "longdash", "longdashdot", "solid", "dash"),
        ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "triangle-down"),
        strict=True,
    )
)
"""Color, dash and symbol of each run in a shared chart: each of the three is enough to distinguish the runs."""
RECALL = (("r_at_1", 1), ("r_at_5", 5), ("r_at_10", 10), ("r_at_50", 50))


@dataclass(frozen=True)
class Panel:
    """A chart with its heading; `key` identifies it and stays the same while a run continues."""

    key: str
    title: str
    figure: Figure
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a page's script."""
        return {"key": self.key, "title": self.title, "figure": self.figure, "note": self.note}


@dataclass(frozen=True)
class CurveSource:
    """The data of a run's charts: plain values, as its event log contains them."""

    name: str
    records: Sequence[Record] = ()
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Split → baseline → mean cosine."""
    gates: Sequence[Mapping[str, Any]] = ()
    """The recipe's gates: epoch, metric, green, red."""
    requested_shares: Mapping[str, float] = field(default_factory=dict)
    """Loss term → gradient share that its weight asks for."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> list[int]:
        """The numbers of the finished epochs."""
        return [count(record.get("epoch")) for record in self.records]


def run_panels(run: CurveSource) -> list[Panel]:
    """Return every chart of a run that has data."""
    # The order is that of the page: cosines, gain, losses, shares, evaluation, then learning rate and speed.
    panels = []
    for split in ("val", "ood"):
        figure = cosine_chart(
            run.records, split, run.baselines.get(split, {}), with_train=split == "val", gates=run.gates
        )
        if figure:
            panels.append(Panel(f"{split}_cosine", f"Cosine · {SPLIT_NAMES[split]}", figure))
    losses = loss_charts(run.records).items()
    loss_panels = [Panel(f"loss_{term}", TERM_NAMES.get(term, term), figure) for term, figure in losses]
    panels += filter(None, (_gain_panel(run), *loss_panels, _share_panel(run)))
    panels += evaluated_panels(run.evaluation)
    for key, title in (("lr", "Learning rate"), ("windows_per_second", "Windows per second")):
        values = series(run.records, key)
        if any(value is not None for value in values):
            panels.append(
                Panel(key, title, chart([Line(title, run.epochs, values, has_label=False)], Axes(span([*values, 0.0]))))
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
    """Return the cosine on a split over the epochs, with the baselines as lines and the gates as shaded areas.

    `baselines` maps each baseline to its cosine on the split. The axis spans the model's curve and the best baseline;
    lower baselines are left out. Returns None if no epoch has a cosine on the split.
    """
    curve = series(history, f"{split}_cosine")
    known = [value for value in curve if value is not None]
    if not known:
        return None
    # The curve of the split, and for val that of the training batches, which shows overfitting.
    epochs = [count(record.get("epoch")) for record in history]
    lines = []
    train = series(history, "train_cosine") if with_train else []
    if any(value is not None for value in train):
        lines.append(Line("train", epochs, train, *SPLIT_STYLES["train"]))
        known += [value for value in train if value is not None]
    lines.append(Line(split, epochs, curve, *SPLIT_STYLES["val"]))
    # A ring marks the last epoch that was the best: the one of best_model.pt.
    best = [number for number, record in enumerate(history) if record.get("best")]
    ring = (epochs[best[-1]], value) if best and (value := curve[best[-1]]) is not None else None
    # The axis reaches the best baseline, which the curve has to pass.
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
    """Return the ranges of a split's cosine that gates call green or red, at the epochs up to `last_epoch`.

    The thresholds of a gate on the gain are drawn relative to the best baseline.
    """
    bands = []
    for gate in gates:
        metric = gate.get("metric")
        if metric not in (f"{split}_cosine", f"{split}_gain"):
            continue
        # A gain of 0 is the best baseline on the cosine's axis.
        zero = 0.0 if metric == f"{split}_cosine" else best_baseline
        epoch_field = gate.get("epoch")
        for epoch in map(count, epoch_field if isinstance(epoch_field, list | tuple) else [epoch_field]):
            if zero is None or not 0 < epoch <= last_epoch:
                continue
            # Each band is one epoch wide: green from its threshold up, red from its threshold down.
            green, red = finite(gate.get("green")), finite(gate.get("red"))
            if green is not None:
                bands.append(Band(epoch - 0.4, epoch + 0.4, zero + green, None, "$green"))
            if red is not None:
                bands.append(Band(epoch - 0.4, epoch + 0.4, None, zero + red, "$red"))
    return bands


def loss_charts(history: Sequence[Record]) -> dict[str, Figure]:
    """Return loss term → chart, for the terms in the history (`train_loss_mse`, `val_loss_mse` …)."""
    # Group the metrics of a term, so that train and val share a chart: `val_loss_mse` belongs to mse.
    keys_by_term: dict[str, dict[str, str]] = {}
    for key in dict.fromkeys(key for record in history for key in record):
        match = re.fullmatch(r"(?:(train|val)_)?loss(?:_(\w+))?", key)
        if match:
            keys_by_term.setdefault(match[2] or "total", {})[match[1] or "train"] = key
    epochs = [count(record.get("epoch")) for record in history]
    charts: dict[str, Figure] = {}
    for term, keys in keys_by_term.items():
        lines = [Line(part, epochs, series(history, key), *SPLIT_STYLES[part]) for part, key in keys.items()]
        known = [value for line in lines for value in line.y if value is not None]
        if known:
            charts[term] = chart(lines, Axes(span(known)))
    return charts


def _gain_panel(run: CurveSource) -> Panel | None:
    """Return the gains over the best baseline, val and ood on one scale."""
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
    """Return the gradient share of each loss term, with the requested shares as dashed lines."""
    # A term can start later in the run, so collect the names from all epochs, in order.
    terms = dict.fromkeys(key for record in run.records for key in record if key.startswith("share_"))
    lines = []
    for number, key in enumerate(terms):
        values = series(run.records, key)
        if any(value is not None for value in values):
            color, dash, symbol = RUN_STYLES[number % len(RUN_STYLES)]
            name = TERM_NAMES.get(key.removeprefix("share_"), key.removeprefix("share_"))
            lines.append(Line(name, run.epochs, values, color, dash, symbol))
    if not lines:
        return None
    levels = [Level("", share) for share in dict.fromkeys(run.requested_shares.values())]
    return Panel(
        "shares", "Gradient shares", chart(lines, Axes((-0.04, 1.04)), levels), "Dashed lines: the requested shares."
    )


def evaluated_panels(evaluation: Mapping[str, Any]) -> list[Panel]:
    """Return the offset curves and retrieval of an evaluation, a chart per split."""
    panels = []
    for split, figures in mapping(evaluation.get("splits")).items():
        # The evaluation comes from a log, so every level of it may be missing.
        predictors = mapping(mapping(figures).get("predictors"))
        highlighted = (evaluation.get("model"), mapping(figures).get("best_baseline"))
        name = SPLIT_NAMES.get(split, split)
        offsets = _predictor_lines(predictors, highlighted, _offsets)
        if offsets:
            axes = Axes(span([value for line in offsets for value in line.y], 0.01), OFFSETS_TITLE)
            panels.append(Panel(f"offsets_{split}", f"Offset curve · {name}", chart(offsets, axes), OFFSETS_NOTE))
        recall = _predictor_lines(predictors | _queries(predictors), highlighted, _recall)
        if recall:
            ticks = tuple((float(k), f"R@{k}") for _, k in RECALL)
            axes = Axes(span([0.0, *(value for line in recall for value in line.y)]), "", ticks, is_logarithmic=True)
            panels.append(Panel(f"retrieval_{split}", f"Retrieval · {name}", chart(recall, axes), RETRIEVAL_NOTE))
    return panels


OFFSETS_TITLE = "offset from the target, in chunks"
OFFSETS_NOTE = (
    "Mean cosine of the prediction and the vector at each offset: 0 is the target, −1 the latest context vector."
)
RETRIEVAL_NOTE = "Fraction of windows whose true next chunk is among the k nearest to the prediction."


def _predictor_lines(
    predictors: Mapping[str, Any], highlighted: tuple[Any, Any], read: Callable[[Mapping[str, Any]], dict[float, float]]
) -> list[Line]:
    """Return a line per predictor; `highlighted` are the names of the model and the best baseline."""
    lines = []
    for name, scores in predictors.items():
        # The model is solid, the best baseline dashed, its query long-dashed, and all others dotted and gray.
        points = read(mapping(scores))
        model, best = highlighted
        styles = {model: ("$model", "solid"), best: ("$best", "dash"), f"{model}, query": ("$run3", "longdash")}
        style = styles.get(name, ("$baseline", "dot"))
        if points:
            lines.append(Line(name, list(points), list(points.values()), *style))
    return sorted(lines, key=lambda line: line.dash == "solid")  # the model is drawn last, on top


def _queries(predictors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the models' query outputs as predictors."""
    queries = {name: mapping(mapping(scores).get("query")) for name, scores in predictors.items()}
    return {f"{name}, query": {"retrieval": retrieval} for name, retrieval in queries.items() if retrieval}


def _offsets(scores: Mapping[str, Any]) -> dict[float, float]:
    curve = mapping(mapping(scores.get("offset_profile")).get("curve"))
    return {float(k): value for k in sorted(curve, key=float) if (value := finite(curve[k])) is not None}


def _recall(scores: Mapping[str, Any]) -> dict[float, float]:
    retrieval = mapping(scores.get("retrieval"))
    return {float(k): value for name, k in RECALL if (value := finite(retrieval.get(name))) is not None}


OVERLAY_METRICS = {
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
"""Metric of an epoch → heading of the chart that compares runs by it."""


def overlay_panels(runs: Sequence[CurveSource]) -> list[Panel]:
    """Return charts of several runs. They include gains, since runs on different windows have only those in common."""
    panels = []
    for key, title in OVERLAY_METRICS.items():
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
    """Return the best baselines of a metric's split, one per set of windows."""
    split, _, metric = key.partition("_")
    if metric == "gain":
        return [Level("best baseline", 0.0, "$muted", "$muted")]
    if metric != "cosine" or split == "train":
        return []
    # Runs on the same windows have equal baselines, so a set keeps one line for each data set.
    best = {max(run.baselines[split].items(), key=lambda item: item[1]) for run in runs if run.baselines.get(split)}
    return [Level(name, level, "$muted", "$muted") for name, level in sorted(best)]
