"""Rules on what a model predicts: they read the evaluation and, without one, the metrics of the last epoch.

Each rule returns evidence, or None if the fault is absent or a number is missing.
"""

from __future__ import annotations

from nextvec.core.formatting import Status
from nextvec.evaluation.verdict import split_outcome
from nextvec.guards.diagnosis.case import FAR_BELOW_BASELINE, NEAR_BASELINE, UNRELATED_COSINE, Case, Evidence

MIN_COPY_COSINE = 0.97
"""Cosine to the last context vector from which a prediction is a copy of it."""
MAX_BACKWARD_DIRECTION = -0.01
"""A direction that is significantly below this is backward."""
MAX_ORDER_DROP = 0.002
"""A drop in cosine below this, when the context is shuffled or reversed, means that order is ignored."""
MAX_CONTEXT_DROP = 0.01
"""A drop in cosine below this, when the context comes from another document, means that the context is ignored."""


def copy_last(case: Case) -> Evidence | None:
    """The prediction is the last context vector."""
    for split, _, model in case.evaluated_splits:
        profile = model.offset_profile
        cosine = profile.curve.get(-1) if profile else None
        if cosine is not None and cosine > MIN_COPY_COSINE:
            text = f"On {split} the mean cosine from the prediction to the last context vector is {cosine:.3f}."
            return Evidence(Status.RED, "certain", text)
    return None


def backward_predictions(case: Case) -> Evidence | None:
    """Predictions point to the text before the context, more than the mean of the context does."""
    for split, _, model in case.evaluated_splits:
        profile = model.offset_profile
        direction = profile.direction if profile else None
        if direction and direction.is_significantly_below(MAX_BACKWARD_DIRECTION):
            text = f"On {split} the direction is {direction}, and below 0 is backward."
            return Evidence(Status.RED, "certain", text)
    return None


def order_ignored(case: Case) -> Evidence | None:
    """Shuffling or reversing the context does not change the score."""
    for split, result, _ in case.evaluated_splits:
        # Both must leave the score unchanged: a model may use order and still be symmetric in time.
        shuffled, reversed_ = result.ablations.get("shuffled"), result.ablations.get("reversed")
        if shuffled and reversed_ and max(abs(shuffled.value), abs(reversed_.value)) < MAX_ORDER_DROP:
            return Evidence(
                Status.AMBER,
                "certain",
                f"On {split} the cosine drops by {shuffled.value:+.4f} when the context is shuffled, and by "
                f"{reversed_.value:+.4f} when it is reversed.",
            )
    return None


def context_ignored(case: Case) -> Evidence | None:
    """The context of another document gives the same score."""
    for split, result, _ in case.evaluated_splits:
        drop = result.ablations.get("other document")
        if drop and abs(drop.value) < MAX_CONTEXT_DROP:
            text = f"On {split} the cosine drops by only {drop.value:+.4f} with the context of another document."
            return Evidence(Status.RED, "certain", text)
    return None


def collapse_to_mean(case: Case) -> Evidence | None:
    """Predictions are alike: their dispersion is far below that of the targets and of the context mean."""
    for split, result, model in case.evaluated_splits:
        geometry, targets = model.geometry, result.target_geometry
        if geometry is None or targets is None or not targets.dispersion:
            continue
        # Averaging a context narrows the predictions as well, so the context mean is the fair reference.
        ratio = geometry.dispersion / targets.dispersion
        mean = result.predictors.get("context-mean")
        mean_ratio = mean.geometry.dispersion / targets.dispersion if mean and mean.geometry else None
        if ratio >= 0.5 or (mean_ratio is not None and ratio >= 0.7 * mean_ratio):
            continue
        reference = "" if mean_ratio is None else f", the context mean {mean_ratio:.0%}"
        text = (
            f"On {split} the dispersion of the predictions is {geometry.dispersion:.2f}, that of the targets "
            f"{targets.dispersion:.2f} ({ratio:.0%}{reference})."
        )
        if ratio < 0.1:
            return Evidence(Status.RED, "certain", text)
        return Evidence(Status.AMBER, "likely", text)
    return None


def orthogonal_collapse(case: Case) -> Evidence | None:
    """Predictions are unrelated to the document."""
    # If the baselines are unrelated to the targets as well, the fault is in the data and not in the model.
    cosine, best = case.metric("val_cosine"), case.baseline_cosine("val")
    if cosine is None or best is None or abs(cosine) > UNRELATED_COSINE or best < 2 * UNRELATED_COSINE:
        return None
    # A prediction close to any vector around the target is misplaced, not orthogonal.
    profile = case.model_result("val").offset_profile if case.split_result("val") else None
    curve = profile.curve if profile else {}
    if any(abs(value) >= UNRELATED_COSINE for value in curve.values() if value is not None):
        return None
    return Evidence(Status.RED, "certain", f"Val cosine is {cosine:+.3f}; the best baseline has {best:.3f}.")


def sign_flip(case: Case) -> Evidence | None:
    """Predictions point away from the targets."""
    for split in ("val", "ood"):
        cosine, best = case.metric(f"{split}_cosine"), case.baseline_cosine(split)
        if cosine is not None and best is not None and cosine < -UNRELATED_COSINE and best > 2 * UNRELATED_COSINE:
            text = f"{split.capitalize()} cosine is {cosine:+.3f}; the best baseline has {best:.3f}."
            return Evidence(Status.RED, "certain", text)
    return None


def poor_ood_generalization(case: Case) -> Evidence | None:
    """The model is level with the baselines on val and far below them on OOD."""
    val, ood = case.metric("val_gain"), case.metric("ood_gain")
    if val is None or ood is None or val <= -NEAR_BASELINE or ood >= -FAR_BELOW_BASELINE:
        return None
    return Evidence(Status.AMBER, "likely", f"The gain is {val:+.4f} on val and {ood:+.4f} on ood.")


def no_gain_over_baseline(case: Case) -> Evidence | None:
    """A baseline scores as high as the model."""
    for split, result, _ in case.evaluated_splits:
        if result.gain is None or result.gain.is_significantly_above(0):
            continue
        is_red = result.gain.is_significantly_below(-FAR_BELOW_BASELINE)
        return Evidence(
            Status.RED if is_red else Status.AMBER,
            "certain" if result.gain.is_significantly_below(0) else "likely",
            f"On {split} the gain over {result.best_baseline} is {result.gain.signed} (95 % CI).",
        )
    # Without an evaluation, wait for three epochs: an early model is below the baselines in every run.
    gain = case.metric("val_gain")
    if case.evaluated_splits or gain is None or len(case.history) < 3 or gain >= 0:
        return None
    return Evidence(
        Status.RED if gain < -FAR_BELOW_BASELINE else Status.AMBER,
        "likely",
        f"Val gain is {gain:+.4f} after epoch {len(case.history)}.",
    )


def poor_retrieval(case: Case) -> Evidence | None:
    """A baseline finds the true next chunk more often than the model does."""
    for split, result, _ in case.evaluated_splits:
        retrieval = result.retrieval_gain
        if retrieval is None or result.gain is None or not split_outcome(result).retrieves_worse:
            continue
        return Evidence(
            Status.AMBER,
            "certain" if retrieval.gain.is_significantly_below(0) else "likely",
            f"On {split} the MRR of the {retrieval.output} is {retrieval.mrr:.3f}, that of {retrieval.best_baseline} "
            f"{retrieval.baseline_mrr:.3f}: the difference is {retrieval.gain.signed} (95 % CI).",
        )
    return None
