"""Signs of trouble in the data: rules of the table in `pathologies.py` that read the data check and the baselines.

The sentinel: its lines, and what is said before the first step. Floats in, words out; no torch.

Its thresholds are the recipe's gates on ood figures (see `gates.py`); what fits where they fail is in `diagnose.py`.
"""

from __future__ import annotations

from nextvec.core.formatting import Status
from nextvec.guards.diagnosis.case import FAR, NEAR, ZERO, Case, Found
from nextvec.guards.gates import Cosines


def other_space(case: Case) -> Found:
    """The ood set's vectors are of another encoder."""
    for text in case.findings("ood space", "encoder fingerprint"):
        yield Status.RED, "certain", text
        return
    reason = foreign_space(_means_and_ridge(case))
    if reason:
        yield Status.RED, "certain", reason
        return
    cosine, best, gain = case.figure("ood_cosine"), case.baseline("ood"), case.figure("val_gain")
    if cosine is not None and best is not None and gain is not None and abs(cosine) < ZERO < best and gain > -NEAR:
        yield Status.RED, "likely", f"ood cosine {cosine:+.3f} while val holds; the best baseline on ood has {best:.3f}"


def shuffled_targets(case: Case) -> Found:
    """On a split no baseline does better than the mean of all vectors: contexts and targets don't belong together."""
    for split in ("val", "ood"):
        mean = case.baseline(split, "train-mean")
        near = max((case.baseline(split, name) or -1.0 for name in ("copy-last", "context-mean")), default=-1.0)
        if mean is not None and near > -1 and near < mean + 0.02:
            seen = (
                f"on {split} the context mean has {near:.3f} and a constant {mean:.3f}: contexts don't lead to targets"
            )
            yield Status.RED, "certain" if near < mean - 0.02 else "likely", seen
            return


def gate_out_of_reach(case: Case) -> Found:
    """A gate calls red what every predictor without training scores: its threshold is of another space or set."""
    epoch = case.last.get("epoch")
    for gate in case.recipe.gates:
        split, _, figure = gate.metric.partition("_")
        best = case.baseline(split) if figure == "cosine" else None
        if epoch in gate.epoch and gate.red is not None and best is not None and best < gate.red:
            yield (
                Status.RED,
                "certain",
                f"{split} cosine below {gate.red:g} is red, and the best baseline has {best:.3f}",
            )
            return


def out_of_order(case: Case) -> Found:
    """The documents of a split run backwards against train's, or their chunks are shuffled."""
    for text in case.findings("reversed documents", "shuffled documents"):
        yield Status.RED, "certain", text
        return


def leak(case: Case) -> Found:
    """Rows or documents of val or ood are in train."""
    for text in case.findings("groups", "val in train", "ood in train", "near duplicates in train"):
        yield Status.RED, "certain", text
        return
    train, val = case.last.get("train_cosine"), case.last.get("val_cosine")
    if train is not None and val is not None and val - train > 2 * FAR:
        yield Status.AMBER, "possible", f"val cosine {val:.3f} is far above train's {train:.3f}"


def easier_ood(case: Case) -> Found:
    """Predictors without training score higher on ood than on val: so will any model."""
    val, ood = case.baseline("val"), case.baseline("ood")
    if val is not None and ood is not None and ood > val + 0.05:
        yield (
            Status.AMBER,
            "certain",
            f"the best baseline has {ood:.3f} on ood and {val:.3f} on val; compare gains, not scores",
        )


def _means_and_ridge(case: Case) -> dict[str, dict[str, float]]:
    names = ("context-mean", "decayed-mean", "ridge")
    return {
        split: {name: value for name in names if (value := case.baseline(split, name)) is not None}
        for split in ("val", "ood")
    }


FAR_BELOW = 0.1
"""A cosine this much below another is far below it."""
NOT_FAR = 0.05
"""A gain above minus this is not far from the baselines."""
RIDGE = "ridge"


def foreign_space(baselines: Cosines) -> str:
    """What speaks for an ood set from another embedding space, in words; empty if nothing does.

    Means of the context work in any space. Ridge carries the training space's directions: where it is as good as the
    means on val and far below them on ood, those directions mean something else there.
    """
    val, ood = baselines.get("val", {}), baselines.get("ood", {})
    if RIDGE not in val or RIDGE not in ood:
        return ""
    val_mean, ood_mean = (max((split.get(name, -1.0) for name in _MEANS), default=-1.0) for split in (val, ood))
    if val[RIDGE] > val_mean - NOT_FAR and ood[RIDGE] < ood_mean - FAR_BELOW:
        return (
            f"the ood vectors are of another embedding space than the training set's: what ridge learned there fails "
            f"here ({ood[RIDGE]:.2f} against {ood_mean:.2f} of a plain mean; on val {val[RIDGE]:.2f} against "
            f"{val_mean:.2f}); make the ood set with the encoder of the training set"
        )
    return ""


_MEANS = ("context-mean", "decayed-mean")
