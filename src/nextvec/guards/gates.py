"""Stoplight gates: thresholds of the recipe on the figures of an epoch. Floats in, verdicts out; no torch.

A figure is one of an epoch's record, or a trend over the records so far (`TRENDS`). What is neither green nor red is
amber; so is a figure that was not measured, because nobody can say that it is well.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nextvec.core.formatting import SYMBOLS, Status
from nextvec.core.loss_terms import SUPERVISED_TERMS
from nextvec.recipe import METRICS, GateRecipe, Recipe

Record = Mapping[str, Any]
"""What is known of an epoch: the figures of `training_history.json`."""

Cosines = Mapping[str, Mapping[str, float]]
"""Split → baseline → mean cosine."""

SMALL_SHARE = 0.05
"""Terms that are to have less influence than this are not looked at by `min_gradient_share_ratio`."""


BESIDE = 0.02
"""A cosine is beside the context mean's, for `baseline_gap_closed`, when it is at most this much lower."""


@dataclass(frozen=True)
class GateVerdict:
    """What a gate says of an epoch."""

    epoch: int
    metric: str
    value: float | None
    """None where it was not measured."""
    status: Status
    green: float | None
    red: float | None
    action: str
    reason: str
    """The figure beside its thresholds and, for scores, beside the best baseline."""
    advice: str
    """What to do; empty where the light is green."""

    @property
    def stops(self) -> bool:
        """Whether the run must end here."""
        return self.status == Status.RED and self.action == "stop"

    @property
    def of_sentinel(self) -> bool:
        """Whether it is a check of the sentinel: a gate on ood."""
        return self.metric.startswith("ood_")

    @property
    def line(self) -> str:
        """The verdict in a line, without the metric's name as logs spell it: a grep for that finds figures only."""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{SYMBOLS[self.status]} {self.status} gate: {self.reason}{advice}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for events and history."""
        return asdict(self) | {"status": self.status.value}  # checkpoints keep plain values only


def evaluate_gates(recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> list[GateVerdict]:
    """The verdicts of all gates that stand at the last epoch of the history, in the recipe's order."""
    epoch = history[-1]["epoch"]
    return [_evaluate(gate, recipe, history, baselines) for gate in recipe.gates if epoch in gate.epoch]


def _evaluate(gate: GateRecipe, recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> GateVerdict:
    record = history[-1]
    trend = TRENDS.get(gate.metric)
    value = trend(recipe, history, baselines) if trend else record.get(gate.metric)
    name = gate.metric.replace("_", " ")
    if value is None:
        status: Status = Status.AMBER
        reason = f"{name} was not measured"
    else:
        status, compared = _compare(value, gate)
        reason = f"{name} {value if isinstance(value, int) else f'{value:.4f}'} {compared}"
    split = gate.metric.partition("_")[0]
    if gate.metric.endswith("_cosine") and f"{split}_best_baseline" in record:
        reason += f" (best baseline {record[f'{split}_best_baseline']})"
    advice = "" if status == Status.GREEN else gate.advice
    return GateVerdict(record["epoch"], gate.metric, value, status, gate.green, gate.red, gate.action, reason, advice)


def _compare(value: float, gate: GateRecipe) -> tuple[Status, str]:
    """The light of a value, and how it compares, in signs."""
    higher = METRICS[gate.metric][0] == "higher"
    reaches, at_least, beyond = (operator.ge, "≥", "<") if higher else (operator.le, "≤", ">")
    if gate.green is not None and reaches(value, gate.green):
        return Status.GREEN, f"{at_least} {gate.green:g}"
    if gate.red is not None and not reaches(value, gate.red):
        return Status.RED, f"{beyond} {gate.red:g}"
    if gate.green is None:
        return Status.GREEN, f"{at_least} {gate.red:g}"
    return Status.AMBER, f"{beyond} {gate.green:g}" + ("" if gate.red is None else f", red is {beyond} {gate.red:g}")


def score(recipe: Recipe, record: Record) -> float:
    """An epoch's validation score by the recipe's best_metric; higher is better."""
    metric = recipe.training.best_metric
    return float(-record[metric] if metric == "val_loss" else record[metric])


def epochs_without_improvement(scores: Sequence[float]) -> int:
    """How many epochs ago the best score was reached (0: the last one is the best, or there is none)."""
    return len(scores) - 1 - max(range(len(scores)), key=lambda epoch: scores[epoch]) if scores else 0


def _epochs_since_best(recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> int:
    return epochs_without_improvement([score(recipe, record) for record in history])


def _train_val_distance(recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> float:
    return float(history[-1]["train_cosine"]) - float(history[-1]["val_cosine"])


def _catch_up(recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> float | None:
    """A run that is flat below the mean of its input catches up nothing; one that is above it has nothing to catch."""
    mean = baselines.get("val", {}).get("context-mean")
    if mean is None:
        return None
    first, last = float(history[0]["val_cosine"]), float(history[-1]["val_cosine"])
    return 1.0 if max(first, last) >= mean - BESIDE else (last - first) / (mean - first)


def _min_gradient_share_ratio(recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> float | None:
    parts = [
        float(history[-1][f"share_{term}"]) / requested
        for term, requested in recipe.objective.requested_shares.items()
        if requested >= SMALL_SHARE and f"share_{term}" in history[-1]
    ]
    return min(parts, default=None)


def _target_share(recipe: Recipe, history: Sequence[Record], baselines: Cosines) -> float | None:
    shares = [history[-1].get(f"share_{term}") for term in SUPERVISED_TERMS]
    measured = [float(share) for share in shares if share is not None]
    return sum(measured) if measured else None


TRENDS: dict[str, Callable[[Recipe, Sequence[Record], Cosines], float | None]] = {
    "min_gradient_share_ratio": _min_gradient_share_ratio,
    "baseline_gap_closed": _catch_up,
    "epochs_since_best": _epochs_since_best,
    "supervised_gradient_share": _target_share,
    "generalization_gap": _train_val_distance,
}
"""Figures that are worked out from the records: see METRICS for what they are."""
