"""The sentinel: its lines, and what is said before the first step. Floats in, words out; no torch.

Its thresholds are the recipe's gates on ood figures (see `gates.py`); what fits where they fail is in `diagnose.py`.
"""

from __future__ import annotations

from nextvec.guards.diagnosis.case import Case
from nextvec.guards.diagnosis.rules_training import unmasked_neighbours, wrong_temperature
from nextvec.guards.gates import GateVerdict, Record
from nextvec.recipe import Recipe


def sentinel_lines(record: Record) -> list[str]:
    """The lines of ood_sentinel.log for an epoch: one for each check."""
    verdicts = [GateVerdict(**verdict) for verdict in record.get("gates", ())]
    return [f"epoch {verdict.epoch} {verdict.line}" for verdict in verdicts if verdict.of_sentinel]


def warnings_of(recipe: Recipe, has_ood: bool) -> list[str]:
    """What a recipe's guards should say before the first step, in words."""
    warnings = []
    if not has_ood and any(metric.startswith("ood_") for metric in {gate.metric for gate in recipe.gates}):
        warnings.append("there is no ood set, so the sentinel sees nothing; name one with data.ood (--ood-data)")
    objective = recipe.objective
    if objective.info_nce == 0 and objective.loss_weighting == "raw":
        warnings.append(
            "InfoNCE has no weight, as in the failed run: nothing keeps predictions of different windows apart, and "
            "they drift towards the mean of their contexts; look at retrieval and gain, not at the cosine"
        )
    if objective.loss_weighting == "raw" and len(objective.weights) > 1:
        warnings.append(
            "loss_weighting is raw, so weights are not gradient shares: raw InfoNCE is "
            "about a thousand times as strong as raw MSE; "
            "set objective.loss_weighting=gradient_norm"
        )
    case = Case(recipe)
    for rule in (wrong_temperature, unmasked_neighbours):
        warnings += [seen for _, _, seen in rule(case)]
    return warnings
