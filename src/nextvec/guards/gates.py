"""Stoplight gates: a recipe's thresholds on the metrics of an epoch. Needs no torch.

A metric is either in the epoch's record or derived from the epochs so far (`DERIVED_METRICS`). A value that is neither
green nor red is amber, and so is a metric that was not measured, because its status is unknown.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nextvec.core.formatting import SYMBOLS, Status
from nextvec.core.gate_metrics import GATE_METRICS
from nextvec.core.loss_terms import SUPERVISED_TERMS
from nextvec.recipe import GateRecipe, Recipe

EpochMetrics = Mapping[str, Any]
"""The metrics of one epoch, as in `training_history.json`."""

BaselineCosines = Mapping[str, Mapping[str, float]]
"""Split → baseline → mean cosine."""

MIN_REQUESTED_SHARE = 0.05
"""`min_gradient_share_ratio` skips terms whose weight asks for less: their measured share is mostly noise."""

CONTEXT_MEAN_TOLERANCE = 0.02
"""For `baseline_gap_closed`, a cosine is level with the context mean if it is at most this much lower."""


@dataclass(frozen=True)
class GateVerdict:
    """The result of one gate at one epoch."""

    epoch: int
    metric: str
    value: float | None
    """None if it was not measured."""
    status: Status
    green: float | None
    red: float | None
    action: str
    reason: str
    """The value next to its threshold and, for cosines, to the best baseline."""
    advice: str
    """What to do; empty if the status is green."""

    @property
    def stops(self) -> bool:
        """Whether this gate ends the run."""
        return self.status == Status.RED and self.action == "stop"

    @property
    def is_sentinel(self) -> bool:
        """Whether the gate belongs to the sentinel: it is on an ood metric."""
        return self.metric.startswith("ood_")

    @property
    def line(self) -> str:
        """The verdict as one line. It spells `val cosine` with a space, so that `grep val_cosine` finds scores only."""
        advice = f". {self.advice}" if self.advice else ""
        return f"{SYMBOLS[self.status]} {self.status} gate: {self.reason}{advice}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for events and history."""
        return asdict(self) | {"status": self.status.value}  # checkpoints keep plain values only


def evaluate_gates(recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines) -> list[GateVerdict]:
    """Return the verdicts of all gates at the last epoch of a history (at least one epoch), in the recipe's order."""
    epoch = history[-1]["epoch"]
    return [_evaluate_gate(gate, recipe, history, baselines) for gate in recipe.gates if epoch in gate.epoch]


def _evaluate_gate(
    gate: GateRecipe, recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines
) -> GateVerdict:
    metrics = history[-1]
    # A derived metric is computed from all epochs; any other one is in the last epoch's record.
    derive = DERIVED_METRICS.get(gate.metric)
    value = derive(recipe, history, baselines) if derive else metrics.get(gate.metric)
    name = gate.metric.replace("_", " ")
    if value is None:
        status, reason = Status.AMBER, f"{name} was not measured"
    else:
        status, comparison = _compare(value, gate)
        reason = f"{name} {value if isinstance(value, int) else f'{value:.4f}'} is {comparison}"
    # A cosine means little alone: name the best baseline of its split.
    split = gate.metric.partition("_")[0]
    if gate.metric.endswith("_cosine") and f"{split}_best_baseline" in metrics:
        reason += f" (best baseline: {metrics[f'{split}_best_baseline']})"
    advice = "" if status == Status.GREEN else gate.advice
    return GateVerdict(metrics["epoch"], gate.metric, value, status, gate.green, gate.red, gate.action, reason, advice)


def _compare(value: float, gate: GateRecipe) -> tuple[Status, str]:
    """Return the status of a value, and how it compares with the thresholds, in words.

    A value equal to a threshold has the better status.
    """
    lower_is_better = GATE_METRICS[gate.metric].lower_is_better
    reaches = operator.le if lower_is_better else operator.ge
    at_best, beyond = ("at most", "above") if lower_is_better else ("at least", "below")
    if gate.green is not None and reaches(value, gate.green):
        return Status.GREEN, f"{at_best} {gate.green:g}"
    if gate.red is not None and not reaches(value, gate.red):
        return Status.RED, f"{beyond} {gate.red:g}"
    # Neither green nor red was reached. Without a green threshold, not red is green; otherwise it is amber.
    if gate.green is None:
        return Status.GREEN, f"{at_best} {gate.red:g}"
    red = "" if gate.red is None else f", red {beyond} {gate.red:g}"
    return Status.AMBER, f"{beyond} {gate.green:g}{red}"


def selection_score(recipe: Recipe, metrics: EpochMetrics) -> float:
    """Return an epoch's score by the recipe's `training.best_metric`; higher is better."""
    metric = recipe.training.best_metric
    return float(-metrics[metric] if metric == "val_loss" else metrics[metric])


def epochs_without_improvement(scores: Sequence[float]) -> int:
    """Return how many epochs ago the best score was reached; 0 if the last is the best, or if there is none."""
    return len(scores) - 1 - max(range(len(scores)), key=lambda epoch: scores[epoch]) if scores else 0


def _epochs_since_best(recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines) -> int:
    return epochs_without_improvement([selection_score(recipe, metrics) for metrics in history])


def _generalization_gap(recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines) -> float:
    return float(history[-1]["train_cosine"]) - float(history[-1]["val_cosine"])


def _baseline_gap_closed(recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines) -> float | None:
    """Return 1 for a run that is level with the context mean, and about 0 for a run that is flat below it."""
    mean = baselines.get("val", {}).get("context-mean")
    if mean is None:
        return None
    first, last = float(history[0]["val_cosine"]), float(history[-1]["val_cosine"])
    # Close to the context mean the gap is too small to divide by: such a run has closed it.
    is_level = max(first, last) >= mean - CONTEXT_MEAN_TOLERANCE
    return 1.0 if is_level else (last - first) / (mean - first)


def _min_gradient_share_ratio(
    recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines
) -> float | None:
    # A ratio far below 1 means that a term gets less of the gradient than its weight requests.
    ratios = [
        float(history[-1][f"share_{term}"]) / requested
        for term, requested in recipe.objective.requested_shares.items()
        if requested >= MIN_REQUESTED_SHARE and f"share_{term}" in history[-1]
    ]
    return min(ratios, default=None)


def _supervised_gradient_share(
    recipe: Recipe, history: Sequence[EpochMetrics], baselines: BaselineCosines
) -> float | None:
    shares = [history[-1].get(f"share_{term}") for term in SUPERVISED_TERMS]
    measured = [float(share) for share in shares if share is not None]
    return sum(measured) if measured else None


DERIVED_METRICS: dict[str, Callable[[Recipe, Sequence[EpochMetrics], BaselineCosines], float | None]] = {
    "min_gradient_share_ratio": _min_gradient_share_ratio,
    "baseline_gap_closed": _baseline_gap_closed,
    "epochs_since_best": _epochs_since_best,
    "supervised_gradient_share": _supervised_gradient_share,
    "generalization_gap": _generalization_gap,
}
"""Gate metrics that are computed from the epochs so far; GATE_METRICS describes them."""
