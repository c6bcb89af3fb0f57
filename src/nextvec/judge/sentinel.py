"""The sentinel: what its checks of ood mean, and which diagnosis fits where they fail. Floats in, words out; no torch.

Its thresholds are the recipe's gates on ood figures (see `gates.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

from nextvec.judge.gates import Cosines, GateVerdict, Record
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


def diagnose(history: Sequence[Record], baselines: Cosines, threshold: float | None) -> str:
    """Which explanation fits an ood score that is too low, from the records so far and the baselines' scores.

    `threshold` is the ood cosine below which the sentinel stops.
    """
    record = history[-1]
    cosine, gain, val_gain = (float(record[name]) for name in ("ood_cosine", "ood_gain", "val_gain"))
    val, ood = baselines.get("val", {}), baselines.get("ood", {})
    best = max(ood.values(), default=0.0)
    if threshold is not None and best < threshold:
        return (
            f"the ood set itself: its best baseline is at {best:.2f}, below the threshold of {threshold:g}, so no "
            "model can pass; it is a wrong file, or its windows are shuffled or broken; see 'nextvec data check'"
        )
    foreign = foreign_space(baselines)
    if foreign:
        return foreign
    if cosine < 0:
        return (
            "predictions point away from the targets: wrong weights, or vectors of another encoder; "
            "do not train again before this is explained"
        )
    if val_gain > -NEAR:
        before = max((float(earlier["ood_cosine"]) for earlier in history[:-1]), default=cosine)
        if cosine < before - NEAR / 5:
            return (
                f"val holds (gain {val_gain:+.4f}) while ood fell from {before:.4f} to {cosine:.4f}: it overfits to "
                "the sequences of the training sources; raise model.dropout, or take a context of 7"
            )
        return (
            f"val holds (gain {val_gain:+.4f}) and ood is {gain:+.4f} from its baseline: the ood texts are unlike "
            f"those of training (val's best baseline is at {max(val.values(), default=0.0):.2f}, ood's at {best:.2f})"
        )
    loss = record.get("train_loss_info")
    info = "InfoNCE has no weight" if loss is None else f"InfoNCE is at {loss:.2f}"
    return (
        f"the model fails on val too (gain {val_gain:+.4f}): it does not learn; {info}; see that tau is 0.07, that no "
        "term outweighs the others (balance), and that the learning rate fits"
    )


def warnings_of(recipe: Recipe, has_ood: bool) -> list[str]:
    """What a recipe's guards should say before the first step, in words."""
    warnings = []
    if not has_ood and any(metric.startswith("ood_") for metric in {gate.metric for gate in recipe.gates}):
        warnings.append("there is no ood set, so the sentinel sees nothing; name one with data.ood (--ood-data)")
    objective = recipe.objective
    if objective.info == 0:
        warnings.append(
            "InfoNCE has no weight: nothing keeps predictions of different windows apart, and they drift towards the "
            "mean of their contexts; look at retrieval and gain, not at the cosine"
        )
    if objective.balance == "none" and len(objective.weights) > 1:
        warnings.append(
            "balance is none, so weights are no shares: raw InfoNCE is about a thousand times as strong as raw MSE; "
            "set objective.balance=gradient"
        )
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
