"""Signs of trouble in the recipe, the epochs and the events of a run: rules of the table in `pathologies.py`."""

from __future__ import annotations

import math
from itertools import pairwise

from nextvec.core.formatting import Status
from nextvec.guards.diagnosis.case import FAR, NEAR, Case, Found, Pathology

TERMS = {"mse": "MSE", "info": "InfoNCE", "moment": "moment term", "variance": "variance term"}
"""The terms of the objective, as people call them."""

BLIND = ("moment", "variance")
"""Terms that never look at a window's own target: they may only help the others."""


def info_off(case: Case) -> Found:
    """InfoNCE has no weight, or its loss stays at what guessing among the batch costs: 2 · ln B nats."""
    weight = case.recipe.objective.weights.get("info", 0.0)
    gain = case.figure("val_gain")
    if not weight:
        if gain is not None and gain < -NEAR:
            yield Status.AMBER, "possible", f"InfoNCE has no weight, val gain {gain:+.4f}"
        return
    loss = case.last.get("train_loss_info")
    chance = 2 * math.log(case.recipe.training.batch_size)
    if loss is not None and len(case.history) >= 3 and loss > 0.98 * chance:
        yield (
            Status.RED,
            "certain",
            f"InfoNCE is at {loss:.2f} after {len(case.history)} epochs; guessing costs {chance:.2f}",
        )
    if loss is not None and abs(loss) < 1e-4:
        yield Status.RED, "certain", f"InfoNCE is at {loss:.1g}: it has no negatives, every pair of a batch is masked"


def dominated_by(term: str) -> Pathology:
    """One term has far more influence than its weight asks for, or one that never sees the target has most of it."""

    def rule(case: Case) -> Found:
        shares = case.recipe.objective.requested_shares
        share = case.last.get(f"share_{term}")
        if term not in shares or share is None or len(shares) < 2:
            return
        asked = shares[term]
        if share > max(0.9, 1.5 * asked):
            yield Status.RED, "certain", f"its share of influence is {share:.1%}, its weight asks for {asked:.1%}"
        elif term in BLIND and share > 0.5:
            yield (
                Status.RED,
                "certain",
                f"its share of influence is {share:.1%}, and it never looks at a window's target",
            )

    advice = "set objective.loss_weighting=gradient_norm, so that weights are shares"
    return Pathology(f"{TERMS[term]} dominant", rule, advice + (f", and {term} near 0" if term in BLIND else ""))


def wrong_temperature(case: Case) -> Found:
    """Below about 0.02 the hardest negative is all that counts; above about 0.3 all of them look alike."""
    tau = case.recipe.objective.tau
    if "info" in case.recipe.objective.weights and not 0.02 <= tau <= 0.3:
        size = "small" if tau < 0.02 else "large"
        yield Status.AMBER, "likely", f"tau is {tau:g}, too {size} for unit vectors of neighbours at cosine 0.5"


def unmasked_neighbours(case: Case) -> Found:
    """InfoNCE takes chunks of the target's own document for mistakes, and these are alike."""
    objective = case.recipe.objective
    if "info" not in objective.weights or objective.mask_same_document:
        return
    train = case.check.get("statistics", {}).get("splits", {}).get("train", {})
    alike = next((cosine for cosine in train.get("coherence", ()) if cosine is not None), None)
    if alike is None or alike > 0.2:
        seen = "" if alike is None else f"; neighbours in a document have mean cosine {alike:.2f}"
        yield Status.AMBER, "likely", f"mask_same_document is off, so a document's own chunks are negatives{seen}"


def overfitting(case: Case) -> Found:
    """Train goes on rising while val, or ood, falls."""
    if len(case.history) < 3:
        return
    first, last = case.history[0], case.last
    vals = [float(record["val_cosine"]) for record in case.history]
    distance = float(last["train_cosine"]) - vals[-1]
    lost = max(vals) - vals[-1]
    if distance > NEAR and lost > 0.005:
        best = 1 + vals.index(max(vals))
        seen = f"val fell by {lost:.4f} since epoch {best}, train is {distance:.4f} above it"
        yield Status.AMBER, "certain", seen
    elif "ood_cosine" in last:
        oods = [float(record["ood_cosine"]) for record in case.history]
        if vals[-1] > float(first["val_cosine"]) + 0.005 and max(oods) - oods[-1] > 0.02:
            yield (
                Status.AMBER,
                "likely",
                f"val rose to {vals[-1]:.4f} while ood fell from {max(oods):.4f} to {oods[-1]:.4f}",
            )


def underfitting(case: Case) -> Found:
    """It still rises in the last epochs, below the baselines, and train is no better than val."""
    if len(case.history) < 4:
        return
    vals = [float(record["val_cosine"]) for record in case.history]
    pace = (vals[-1] - vals[-3]) / 2
    distance = float(case.last["train_cosine"]) - vals[-1]
    if vals[-1] == max(vals) and pace > 0.002 and case.last["val_gain"] < 0 and distance < NEAR:
        yield (
            Status.AMBER,
            "likely",
            f"val still rises by {pace:.4f} an epoch, {case.last['val_gain']:+.4f} from the baseline",
        )


def rate_too_high(case: Case) -> Found:
    """The training loss jumps up, or ends far above its start."""
    cosines = [float(record["train_cosine"]) for record in case.history if "train_cosine" in record]
    falls = [before - after for before, after in pairwise(cosines)]
    if falls and max(falls) > NEAR:
        yield Status.RED, "likely", f"train cosine fell by {max(falls):.3f} from one epoch to the next"


def rate_too_low(case: Case) -> Found:
    """Everything improves, evenly and hardly at all."""
    cosines = [float(record["train_cosine"]) for record in case.history if "train_cosine" in record]
    if len(cosines) < 3 or case.last.get("val_gain", 0.0) > -NEAR:
        return
    steps = [after - before for before, after in pairwise(cosines)]
    if min(steps) > 0 and max(steps) < 0.002 and max(steps) < 5 * min(steps):
        yield (
            Status.AMBER,
            "likely",
            f"train cosine rises by {sum(steps) / len(steps):.5f} an epoch, lr {case.recipe.training.lr:g}",
        )


def stuck_plateau(case: Case) -> Found:
    """Flat far below the baselines from the first epoch on: the failed run."""
    vals = [float(record["val_cosine"]) for record in case.history]
    if len(vals) >= 4 and case.last["val_gain"] < -FAR / 2 and max(vals) - min(vals) < 0.025 < -case.last["val_gain"]:
        seen = f"val cosine {vals[0]:.3f} after epoch 1, {vals[-1]:.3f} after epoch {len(vals)}"
        yield Status.RED, "certain", f"{seen}, {case.last['val_gain']:+.3f} from the best baseline"


def not_finite(case: Case) -> Found:
    """A loss, gradient or prediction was NaN or infinite."""
    for event in case.events:
        if event["kind"] == "failed" and "not finite" in str(event.get("reason", "")):
            yield Status.RED, "certain", str(event["reason"])
            return
    for name, value in case.last.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield Status.RED, "certain", f"{name} is {value}"
            return
    yield from ((Status.RED, "certain", text) for text in case.findings("finite values"))


def mismatch(case: Case) -> Found:
    """The reloaded checkpoint does not score as it did in training."""
    for event in case.events:
        if event["kind"] == "mismatch":
            yield (
                Status.RED,
                "certain",
                f"val cosine {event['evaluated']:.6f}, in training it was {event['trained']:.6f}",
            )
            return
