"""What a judgement says: figures for every predictor on every split, and a verdict in plain words.

Plain values only and no torch, so that tables, pages and whatever else reads a finished run start at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nextvec.core.formatting import STATUSES, Status, worst
from nextvec.data.checks.rules_integrity import MIN_GROUPS
from nextvec.evaluation.results import Estimate, SplitResult, Verdict


def conclude(model: str, splits: Mapping[str, SplitResult]) -> Verdict:
    """The verdict on a model: green where its gain is surely above zero on val, and on ood where there is one.

    Red where the gain on val is surely below zero; amber for everything between, and where val was not judged.
    "Surely" means that the whole interval is on that side. What train says is told, and decides nothing.
    """
    reasons = {name: tuple(_reasons(model, split)) for name, split in splits.items()}
    deciding = {name: split.gain for name, split in splits.items() if name != "train" and split.gain is not None}
    if "val" not in deciding:
        rest = "".join(f" It {_OUTCOMES[status_of(gain)]} on {name} ({gain})." for name, gain in deciding.items())
        status: Status = worst([*map(status_of, deciding.values()), Status.AMBER])
        return Verdict(status, f"{model} was not compared with a baseline on val: nothing is proved.{rest}", reasons)
    statuses = {name: status_of(gain) for name, gain in deciding.items()}
    # Losing on unseen documents of the training sources is failure; losing only on other sources is a limit to know.
    status = (
        statuses["val"]
        if statuses["val"] == Status.RED
        else min(worst(statuses.values()), Status.AMBER, key=STATUSES.index)
    )
    told: list[str] = []
    for name, gain in deciding.items():
        outcome = _OUTCOMES[statuses[name]]
        if told:  # the second time "the best baseline" is "it", and left out where the outcome is the same
            same = next(iter(statuses.values())) == statuses[name]
            outcome = "and" if same else f"but {outcome.replace('the best baseline', 'it')}"
        told.append(f"{outcome} on {name} ({gain} over {splits[name].best_baseline})")
    return Verdict(status, f"{model} {' '.join(told)}.", reasons)


_OUTCOMES: dict[Status, str] = {
    Status.GREEN: "beats the best baseline",
    Status.AMBER: "can't be told from the best baseline",
    Status.RED: "loses to the best baseline",
}


def status_of(gain: Estimate) -> Status:
    """Green where a gain is surely above zero, red where it is surely below, amber where nobody can tell."""
    return Status.GREEN if gain.low > 0 else Status.RED if gain.high < 0 else Status.AMBER


def _reasons(model: str, split: SplitResult) -> Iterator[str]:
    """Facts about a model on a split that its cosine alone hides."""
    if split.gain is None or split.best_baseline is None:
        return
    own, best = split.predictors[model], split.predictors[split.best_baseline]
    yield f"cosine {own.cosine.value:.4f} against {best.cosine.value:.4f} of {split.best_baseline}"
    name, rival = max(
        ((name, score) for name, score in split.predictors.items() if name != model),
        key=lambda item: item[1].retrieval.mrr,
    )
    found, output = (own.retrieval, "") if own.query is None else (own.query, " of its query")
    if rival.retrieval.mrr > found.mrr:
        yield f"{name} finds the true next chunk better: MRR {rival.retrieval.mrr:.3f} against {found.mrr:.3f}{output}"
    elif output:
        yield f"its query finds the true next chunk best: MRR {found.mrr:.3f}, {rival.retrieval.mrr:.3f} of {name}"
    if own.margin < 0:
        yield (
            f"predictions are closer to the last context vector than to the target: margin {own.margin:+.3f}, "
            f"{split.best_baseline} {best.margin:+.3f}"
        )
    if split.groups < MIN_GROUPS:
        yield f"only {split.groups} independent documents: the intervals are wide, add documents to this split"
