"""Rules on the data: they read the data check and the cosines of the baselines.

Each rule returns evidence, or None if the fault is absent or a number is missing.
"""

from __future__ import annotations

from nextvec.core.formatting import Status
from nextvec.evaluation.seen_data import seen_warning
from nextvec.guards.diagnosis.case import FAR_BELOW_BASELINE, NEAR_BASELINE, UNRELATED_COSINE, Case, Evidence
from nextvec.guards.gates import BaselineCosines

MAX_LOSS_ON_VAL = 0.05
"""On val, ridge is as good as the context means if its cosine is at most this much lower."""
MIN_OOD_LEAD = 0.05
"""OOD is easier than val if the best baseline's cosine there is higher by more than this."""
_CONTEXT_MEANS = ("context-mean", "decayed-mean")


def space_mismatch(case: Case) -> Evidence | None:
    """The OOD vectors come from another encoder than the training vectors."""
    # The data check compares the vectors themselves, so its findings come first.
    for text in case.red_findings("ood space", "encoder fingerprint"):
        return Evidence(Status.RED, "certain", text)
    # Then compare ridge with the context means, on both splits.
    predictors = (*_CONTEXT_MEANS, "ridge")
    cosines = {
        split: {name: cosine for name in predictors if (cosine := case.baseline_cosine(split, name)) is not None}
        for split in ("val", "ood")
    }
    if reason := find_space_mismatch(cosines):
        return Evidence(Status.RED, "certain", reason)
    # The model itself shows it, too: level with the baselines on val, and unrelated to the targets on ood.
    cosine, best, gain = case.metric("ood_cosine"), case.baseline_cosine("ood"), case.metric("val_gain")
    if cosine is None or best is None or gain is None:
        return None
    if abs(cosine) < UNRELATED_COSINE < best and gain > -NEAR_BASELINE:
        return Evidence(
            Status.RED,
            "likely",
            f"OOD cosine is {cosine:+.3f} and the best baseline has {best:.3f}, although val gain is {gain:+.3f}.",
        )
    return None


def find_space_mismatch(baselines: BaselineCosines) -> str:
    """Return the evidence that the OOD set comes from another embedding space; empty if there is none.

    Means of the context work in any space. Ridge regression learns the directions of the training space. If ridge is
    as good as the means on val and far below them on ood, those directions have another meaning there.
    """
    # A context mean that was not measured counts as −1, the lowest cosine.
    val, ood = baselines.get("val", {}), baselines.get("ood", {})
    if "ridge" not in val or "ridge" not in ood:
        return ""
    val_mean, ood_mean = (max((split.get(name, -1.0) for name in _CONTEXT_MEANS), default=-1.0) for split in (val, ood))
    if val["ridge"] <= val_mean - MAX_LOSS_ON_VAL or ood["ridge"] >= ood_mean - FAR_BELOW_BASELINE:
        return ""
    return (
        f"The OOD vectors are in another embedding space than the training vectors: ridge regression has cosine "
        f"{ood['ridge']:.2f} on ood and {val['ridge']:.2f} on val, the mean of the context {ood_mean:.2f} and "
        f"{val_mean:.2f}."
    )


def data_leakage(case: Case) -> Evidence | None:
    """Rows or documents of val or OOD are in train, or were in the training data of an ancestor."""
    for text in case.red_findings("groups", "val in train", "ood in train", "near duplicates in train"):
        return Evidence(Status.RED, "certain", text)
    # An ancestor's rows are not in this run's train split, so the data check cannot find them.
    seen = case.evaluation.seen if case.evaluation else None
    if case.evaluation and seen and seen.status == Status.RED:
        return Evidence(Status.RED, "certain", seen_warning(case.evaluation.model or "", seen))
    # Unseen documents that score far above seen ones are suspicious, but may just be easier.
    train, val = case.last_epoch.get("train_cosine"), case.last_epoch.get("val_cosine")
    if train is not None and val is not None and val - train > 2 * FAR_BELOW_BASELINE:
        return Evidence(Status.AMBER, "possible", f"Val cosine {val:.3f} is far above train cosine {train:.3f}.")
    return None


def shuffled_targets(case: Case) -> Evidence | None:
    """On a split no predictor that reads the context beats a constant: contexts carry no information about targets."""
    for split in ("val", "ood"):
        # If the text continues, its newest vector or the mean of its context beats a constant.
        constant = case.baseline_cosine(split, "train-mean")
        cosines = [case.baseline_cosine(split, name) for name in ("copy-last", "context-mean")]
        best = max((cosine for cosine in cosines if cosine is not None), default=None)
        if constant is None or best is None or best >= constant + 0.02:
            continue
        return Evidence(
            Status.RED,
            "certain" if best < constant - 0.02 else "likely",
            f"On {split} the best of copy-last and context-mean has cosine {best:.3f}, and the constant train-mean "
            f"{constant:.3f}: contexts carry no information about targets.",
        )
    return None


def wrong_chunk_order(case: Case) -> Evidence | None:
    """The documents of a split are reversed against those of train, or their chunks are shuffled."""
    for text in case.red_findings("reversed documents", "shuffled documents"):
        return Evidence(Status.RED, "certain", text)
    return None


def unreachable_gate(case: Case) -> Evidence | None:
    """A gate is red for every baseline: its threshold was chosen for other data."""
    epoch = case.last_epoch.get("epoch")
    for gate in case.recipe.gates:
        # Only gates on a cosine are compared: a gain is relative to the baselines.
        split, _, metric = gate.metric.partition("_")
        best = case.baseline_cosine(split) if metric == "cosine" else None
        if epoch in gate.epoch and gate.red is not None and best is not None and best < gate.red:
            return Evidence(
                Status.RED,
                "certain",
                f"The gate is red below {split} cosine {gate.red:g}; the best baseline has {best:.3f}.",
            )
    return None


def ood_easier_than_val(case: Case) -> Evidence | None:
    """Baselines score higher on OOD than on val, and so does any model."""
    val, ood = case.baseline_cosine("val"), case.baseline_cosine("ood")
    if val is None or ood is None or ood <= val + MIN_OOD_LEAD:
        return None
    return Evidence(Status.AMBER, "certain", f"The best baseline has cosine {ood:.3f} on ood and {val:.3f} on val.")
