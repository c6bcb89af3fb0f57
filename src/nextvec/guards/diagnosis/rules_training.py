"""Rules on the training: they read the recipe, the metrics of the epochs and the events of a run.

Each rule returns evidence, or None if the fault is absent or a number is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

from nextvec.core.formatting import Status
from nextvec.core.loss_terms import SUPERVISED_TERMS
from nextvec.guards.diagnosis.case import FAR_BELOW_BASELINE, NEAR_BASELINE, Case, Evidence

MIN_TAU, MAX_TAU = 0.02, 0.3
"""Below, only the hardest negative counts; above, all negatives look alike."""
MIN_COHERENCE = 0.2
"""Mean cosine of neighboring chunks from which a document's own chunks are near-duplicates of the target."""


def not_finite(case: Case) -> Evidence | None:
    """A loss, gradient or prediction was NaN or infinite."""
    # The run's own message is the most precise; then come the last epoch's metrics, and the data check.
    for event in case.events:
        if event["kind"] == "failed" and "finite" in (reason := str(event.get("reason", ""))):
            return Evidence(Status.RED, "certain", f"{reason[:1].upper()}{reason[1:].rstrip('.')}.")
    for name, value in case.last_epoch.items():
        if isinstance(value, float) and not math.isfinite(value):
            return Evidence(Status.RED, "certain", f"{name} is {value} in epoch {case.last_epoch.get('epoch')}.")
    text = " ".join(case.red_findings("finite values"))
    return Evidence(Status.RED, "certain", text) if text else None


def train_eval_mismatch(case: Case) -> Evidence | None:
    """The reloaded checkpoint does not reproduce its score from training."""
    for event in case.events:
        if event["kind"] == "mismatch":
            text = f"Val cosine was {event['trained']:.6f} in training and is {event['evaluated']:.6f} after reloading."
            return Evidence(Status.RED, "certain", text)
    return None


def dominates(term: str) -> Callable[[Case], Evidence | None]:
    """Return the rule for one term of the objective."""

    def rule(case: Case) -> Evidence | None:
        """The gradient share of one loss term is far above its weight, or an unsupervised term has most of it."""
        requested = case.recipe.objective.requested_shares
        share = case.last_epoch.get(f"share_{term}")
        if term not in requested or share is None or len(requested) < 2:
            return None
        # Any term dominates with over 90 % of the gradient, if its weight asks for clearly less. A term that never uses
        # the target dominates from half of it.
        text = f"Its gradient share is {share:.1%}; its weight asks for {requested[term]:.1%}."
        if share > max(0.9, 1.5 * requested[term]):
            return Evidence(Status.RED, "certain", text)
        if term not in SUPERVISED_TERMS and share > 0.5:
            return Evidence(Status.RED, "certain", f"{text} The term never uses a window's target.")
        return None

    return rule


def inactive_info_nce(case: Case) -> Evidence | None:
    """InfoNCE has no weight, or its loss stays at chance level: 2 · ln(windows compared), in both directions."""
    if "info" not in case.recipe.objective.weights:
        # A model without InfoNCE may be healthy: only one below the baselines is suspicious.
        gain = case.metric("val_gain")
        if gain is not None and gain < -NEAR_BASELINE:
            return Evidence(Status.AMBER, "possible", f"`objective.info_nce` is 0, and val gain is {gain:+.4f}.")
        return None
    loss = case.last_epoch.get("train_loss_info")
    if loss is None:
        return None
    # At chance level every target of a block is equally likely, in both directions.
    chance = 2 * math.log(case.recipe.info_nce_windows)
    if len(case.history) >= 3 and loss > 0.98 * chance:
        text = f"InfoNCE is {loss:.2f} nats after epoch {len(case.history)}; chance level is {chance:.2f} nats."
        return Evidence(Status.RED, "certain", text)
    if abs(loss) < 1e-4:
        text = f"InfoNCE is {loss:.1g} nats: it has no negatives, because every pair of a batch is masked."
        return Evidence(Status.RED, "certain", text)
    return None


def temperature_out_of_range(case: Case) -> Evidence | None:
    """Below 0.02 only the hardest negative counts; above 0.3 all negatives look alike."""
    tau = case.recipe.objective.tau
    if "info" not in case.recipe.objective.weights or MIN_TAU <= tau <= MAX_TAU:
        return None
    size = "small" if tau < MIN_TAU else "large"
    return Evidence(Status.AMBER, "likely", f"tau is {tau:g}, too {size}: the useful range is 0.02 to 0.3.")


def unmasked_near_duplicates(case: Case) -> Evidence | None:
    """InfoNCE uses chunks of the target's own document as negatives, and these are similar to the target."""
    objective = case.recipe.objective
    if "info" not in objective.weights or objective.mask_same_document:
        return None
    # The first known value of the coherence is that of the nearest chunks.
    train = case.check.get("statistics", {}).get("splits", {}).get("train", {})
    coherence = next((cosine for cosine in train.get("coherence", ()) if cosine is not None), None)
    text = "mask_same_document is off, so a document's own chunks are negatives."
    if coherence is None:
        return Evidence(Status.AMBER, "likely", text)
    if coherence <= MIN_COHERENCE:
        return None
    return Evidence(Status.AMBER, "likely", f"{text} Neighboring chunks have mean cosine {coherence:.2f}.")


def learning_rate_too_high(case: Case) -> Evidence | None:
    """The train cosine drops from one epoch to the next."""
    drops = [before - after for before, after in pairwise(case.epoch_values("train_cosine"))]
    if max(drops, default=0.0) <= NEAR_BASELINE:
        return None
    text = f"Train cosine dropped by {max(drops):.3f} from one epoch to the next."
    return Evidence(Status.RED, "likely", text)


def learning_rate_too_low(case: Case) -> Evidence | None:
    """Metrics improve steadily but very slowly."""
    cosines = case.epoch_values("train_cosine")
    if len(cosines) < 3 or case.last_epoch.get("val_gain", 0.0) > -NEAR_BASELINE:
        return None
    # Steady means that every epoch improves, and none by 5 times as much as another.
    rises = [after - before for before, after in pairwise(cosines)]
    is_steady = min(rises) > 0 and max(rises) < 5 * min(rises)
    if not is_steady or max(rises) >= 0.002:
        return None
    rise = sum(rises) / len(rises)
    text = f"Train cosine rises by {rise:.5f} per epoch at `training.lr={case.recipe.training.lr:g}`."
    return Evidence(Status.AMBER, "likely", text)


def stuck_plateau(case: Case) -> Evidence | None:
    """Val cosine is flat, far below the baselines, from the first epoch on."""
    cosines = case.epoch_values("val_cosine")
    if len(cosines) < 4:
        return None
    gain, change = case.last_epoch["val_gain"], max(cosines) - min(cosines)
    if gain >= -FAR_BELOW_BASELINE / 2 or change >= 0.025:
        return None
    return Evidence(
        Status.RED,
        "certain",
        f"Val cosine was {cosines[0]:.3f} after epoch 1 and is {cosines[-1]:.3f} after epoch {len(cosines)}: gain "
        f"{gain:+.3f} over the best baseline.",
    )


def overfitting(case: Case) -> Evidence | None:
    """Train cosine rises while val cosine, or OOD cosine, falls."""
    if len(case.history) < 3:
        return None
    vals, oods = case.epoch_values("val_cosine"), case.epoch_values("ood_cosine")
    # Train far above val, and val past its best, is overfitting to the training documents.
    gap = float(case.last_epoch["train_cosine"]) - vals[-1]
    drop = max(vals) - vals[-1]
    if gap > NEAR_BASELINE and drop > 0.005:
        best_epoch = 1 + vals.index(max(vals))
        text = f"Val cosine fell by {drop:.4f} since epoch {best_epoch}, and train cosine is {gap:.4f} above it."
        return Evidence(Status.AMBER, "certain", text)
    # Val still rises but OOD falls: the model overfits to the training sources.
    if "ood_cosine" in case.last_epoch and vals[-1] > vals[0] + 0.005 and max(oods) - oods[-1] > 0.02:
        text = f"Val cosine rose to {vals[-1]:.4f} while OOD cosine fell from {max(oods):.4f} to {oods[-1]:.4f}."
        return Evidence(Status.AMBER, "likely", text)
    return None


def underfitting(case: Case) -> Evidence | None:
    """Val cosine still rises in the last epochs, is below the baselines, and train cosine is no better."""
    if len(case.history) < 4:
        return None
    vals, gain = case.epoch_values("val_cosine"), case.last_epoch["val_gain"]
    # Mean rise of the last two epochs. A small gap to train means that more training still helps val.
    rise = (vals[-1] - vals[-3]) / 2
    gap = float(case.last_epoch["train_cosine"]) - vals[-1]
    if vals[-1] < max(vals) or rise <= 0.002 or gain >= 0 or gap >= NEAR_BASELINE:
        return None
    text = f"Val cosine still rises by {rise:.4f} per epoch, and val gain is {gain:+.4f}."
    return Evidence(Status.AMBER, "likely", text)
