"""Signs of trouble in what a model predicts: rules of the table in `pathologies.py` that read scores and judgements."""

from __future__ import annotations

from nextvec.core.formatting import Status
from nextvec.guards.diagnosis.case import FAR, NEAR, ZERO, Case, Found, surely


def copy_last(case: Case) -> Found:
    """The prediction is the last context vector."""
    for split in case.evaluated:
        alignment = case.model(split).alignment
        offset = alignment.offsets.get(-1) if alignment else None
        if offset is not None and offset > 0.97:
            yield Status.RED, "certain", f"on {split} the prediction is the last context vector (cosine {offset:.3f})"
            return


def backward(case: Case) -> Found:
    """Predictions point back beyond the context, more than the mean of the context does."""
    for split in case.evaluated:
        alignment = case.model(split).alignment
        if alignment and alignment.direction and surely(alignment.direction, below=-0.01):
            yield Status.RED, "certain", f"direction on {split} is {alignment.direction}: below 0 is backwards"
            return


def order_ignored(case: Case) -> Found:
    """Shuffling or reversing the context changes nothing."""
    for split in case.evaluated:
        evaluated = case.split(split)
        falls = evaluated.ablations if evaluated else {}
        shuffled, turned = falls.get("shuffled"), falls.get("reversed")
        if shuffled and turned and max(abs(shuffled.value), abs(turned.value)) < 0.002:
            seen = f"on {split} shuffling costs {shuffled.value:+.4f}, reversing {turned.value:+.4f}"
            yield Status.AMBER, "certain", f"{seen}: a set of vectors would do"
            return


def context_ignored(case: Case) -> Found:
    """Another document's context does as well."""
    for split in case.evaluated:
        evaluated = case.split(split)
        fall = evaluated.ablations.get("another document's") if evaluated else None
        if fall and abs(fall.value) < 0.01:
            yield Status.RED, "certain", f"on {split} the context of another document costs {fall.value:+.4f}"
            return


def collapse_to_the_mean(case: Case) -> Found:
    """Predictions are all alike: their spread is far below the targets' and that of the mean of the context."""
    for split in case.evaluated:
        evaluated, shape = case.split(split), case.model(split).shape
        if evaluated is None or shape is None or evaluated.target_shape is None or not evaluated.target_shape.spread:
            continue
        part = shape.spread / evaluated.target_shape.spread
        mean = evaluated.predictors.get("context-mean")
        of_mean = mean.shape.spread / evaluated.target_shape.spread if mean and mean.shape else None
        beside = "" if of_mean is None else f", the context mean's {of_mean:.0%}"
        if part < 0.5 and (of_mean is None or part < 0.7 * of_mean):
            seen = f"on {split} predictions spread {shape.spread:.2f}, targets {evaluated.target_shape.spread:.2f}"
            yield (
                Status.RED if part < 0.1 else Status.AMBER,
                "certain" if part < 0.1 else "likely",
                f"{seen} ({part:.0%}{beside})",
            )
            return


def orthogonal_collapse(case: Case) -> Found:
    """Predictions have nothing to do with the document at all."""
    cosine, best = case.figure("val_cosine"), case.baseline("val")
    if cosine is None or best is None or abs(cosine) > ZERO or best < 2 * ZERO:
        return
    offsets: dict[int, float | None] = {}
    if case.split("val") is not None and (alignment := case.model("val").alignment):
        offsets = alignment.offsets
    if all(abs(value) < ZERO for value in offsets.values() if value is not None):
        yield Status.RED, "certain", f"val cosine {cosine:+.3f}, the best baseline has {best:.3f}"


def sign_flip(case: Case) -> Found:
    """Predictions point away from the targets."""
    for split in ("val", "ood"):
        cosine, best = case.figure(f"{split}_cosine"), case.baseline(split)
        if cosine is not None and best is not None and cosine < -ZERO and best > 2 * ZERO:
            yield Status.RED, "certain", f"{split} cosine {cosine:+.3f}, the best baseline has {best:.3f}"
            return


def narrow(case: Case) -> Found:
    """It holds on val and fails on ood, though the baselines do well there."""
    val, ood = case.figure("val_gain"), case.figure("ood_gain")
    if val is not None and ood is not None and val > -NEAR and ood < -FAR:
        yield (
            Status.AMBER,
            "likely",
            f"gain {val:+.4f} on val and {ood:+.4f} on ood: the ood texts are unlike those of training",
        )


def no_gain(case: Case) -> Found:
    """A predictor without training does as well."""
    for split in case.evaluated:
        evaluated = case.split(split)
        if evaluated is None or evaluated.gain is None or surely(evaluated.gain, above=0.0):
            continue
        lost = surely(evaluated.gain, below=-FAR)
        seen = f"gain on {split} {evaluated.gain} over {evaluated.best_baseline}"
        yield Status.RED if lost else Status.AMBER, "certain" if surely(evaluated.gain, below=0.0) else "likely", seen
        return
    gain = case.figure("val_gain")
    if not case.evaluated and gain is not None and len(case.history) >= 3 and gain < 0:
        yield (
            Status.RED if gain < -FAR else Status.AMBER,
            "likely",
            f"val gain {gain:+.4f} after epoch {len(case.history)}",
        )
