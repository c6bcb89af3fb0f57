"""The sentinel's log lines, and the warnings before the first step. Needs no torch.

The sentinel's thresholds are the recipe's gates on ood metrics (see `gates.py`).
"""

from __future__ import annotations

from nextvec.guards.diagnosis.case import Case
from nextvec.guards.diagnosis.rules_training import temperature_out_of_range, unmasked_near_duplicates
from nextvec.guards.gates import EpochMetrics, GateVerdict
from nextvec.recipe import Recipe


def sentinel_lines(metrics: EpochMetrics) -> list[str]:
    """Return the lines of ood_sentinel.log for an epoch: one per gate on ood."""
    verdicts = [GateVerdict(**verdict) for verdict in metrics.get("gates", ())]
    return [f"epoch {verdict.epoch} {verdict.line}" for verdict in verdicts if verdict.is_sentinel]


def recipe_warnings(recipe: Recipe, has_ood: bool) -> list[str]:
    """Return warnings about a recipe, as sentences, before the first step."""
    warnings = []
    if not has_ood and any(gate.metric.startswith("ood_") for gate in recipe.gates):
        warnings.append("The sentinel is off, because there is no OOD set. Set data.ood (--ood-data).")
    warnings += _unreached_gates(recipe)
    objective = recipe.objective
    # The two settings of the failed runs: no contrastive term, and raw addition of terms of unequal size.
    if objective.info_nce == 0 and objective.loss_weighting == "raw":
        warnings.append(
            "InfoNCE has no weight, as in the failed run: predictions may drift to the mean of their contexts. Judge "
            "the model by retrieval and gain, not by cosine."
        )
    if objective.loss_weighting == "raw" and len(objective.weights) > 1:
        warnings.append(
            "objective.loss_weighting is raw, so weights are not gradient shares: the raw InfoNCE gradient is about "
            "1,000 times as large as that of MSE. Set objective.loss_weighting=gradient_norm."
        )
    # These two rules of the diagnosis also work with the recipe alone.
    case = Case(recipe)
    for rule in (temperature_out_of_range, unmasked_near_duplicates):
        if evidence := rule(case):
            warnings.append(evidence.text)
    return warnings


def _unreached_gates(recipe: Recipe) -> list[str]:
    """Return a warning about gates whose epoch is after the last one, so that they never run."""
    last = recipe.training.epochs
    unreached = [
        f"{gate.metric} at epoch {epoch}" for gate in recipe.gates for epoch in sorted(set(gate.epoch)) if epoch > last
    ]
    if not unreached:
        return []
    is_sentinel = any(text.startswith("ood_") for text in unreached)
    return [
        f"These {'gates and sentinel checks' if is_sentinel else 'gates'} never run, because training.epochs is "
        f"{last}: {', '.join(unreached)}. Set earlier epochs, or raise training.epochs."
    ]
