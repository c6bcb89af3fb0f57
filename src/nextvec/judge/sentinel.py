"""The sentinel: its lines, and what is said before the first step. Floats in, words out; no torch.

Its thresholds are the recipe's gates on ood figures (see `gates.py`); what fits where they fail is in `diagnose.py`.
"""

from __future__ import annotations

from nextvec.judge.diagnose import Case
from nextvec.judge.gates import Cosines, GateVerdict, Record
from nextvec.judge.signs_in_training import unmasked_neighbours, wrong_temperature
from nextvec.recipe import Recipe

FAR = 0.1
"""A cosine this much below another is far below it."""
NEAR = 0.05
"""A gain above minus this is not far from the baselines."""
RIDGE = "ridge"


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
    if objective.info == 0 and objective.balance == "none":
        warnings.append(
            "InfoNCE has no weight, as in the failed run: nothing keeps predictions of different windows apart, and "
            "they drift towards the mean of their contexts; look at retrieval and gain, not at the cosine"
        )
    if objective.balance == "none" and len(objective.weights) > 1:
        warnings.append(
            "balance is none, so weights are no shares: raw InfoNCE is about a thousand times as strong as raw MSE; "
            "set objective.balance=gradient"
        )
    case = Case(recipe)
    for rule in (wrong_temperature, unmasked_neighbours):
        warnings += [seen for _, _, seen in rule(case)]
    return warnings


def foreign_space(baselines: Cosines) -> str:
    """What speaks for an ood set from another embedding space, in words; empty if nothing does.

    Means of the context work in any space. Ridge carries the training space's directions: where it is as good as the
    means on val and far below them on ood, those directions mean something else there.
    """
    val, ood = baselines.get("val", {}), baselines.get("ood", {})
    if RIDGE not in val or RIDGE not in ood:
        return ""
    val_mean, ood_mean = (max((split.get(name, -1.0) for name in _MEANS), default=-1.0) for split in (val, ood))
    if val[RIDGE] > val_mean - NEAR and ood[RIDGE] < ood_mean - FAR:
        return (
            f"the ood vectors are of another embedding space than the training set's: what ridge learned there fails "
            f"here ({ood[RIDGE]:.2f} against {ood_mean:.2f} of a plain mean; on val {val[RIDGE]:.2f} against "
            f"{val_mean:.2f}); make the ood set with the encoder of the training set"
        )
    return ""


_MEANS = ("context-mean", "decayed-mean")
