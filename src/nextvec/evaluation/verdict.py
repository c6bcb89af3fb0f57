"""The verdict on a model: one sentence, a stoplight status, and the facts behind them. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nextvec.core.formatting import STATUSES, Status, worst
from nextvec.data.splits import MIN_GROUPS
from nextvec.evaluation.results import Estimate, PredictorResult, SplitResult, Verdict

_OUTCOMES: dict[Status, str] = {
    Status.GREEN: "beats the best baseline",
    Status.AMBER: "is not significantly different from the best baseline",
    Status.RED: "loses to the best baseline",
}


def make_verdict(model: str, splits: Mapping[str, SplitResult]) -> Verdict:
    """Return the verdict on a model.

    Green: the gain over the best baseline is significantly above zero on val and, if there is one, on ood. Red: it is
    significantly below zero on val. Amber: everything in between, and any model that was not evaluated on val. A gain
    is significant if its whole 95 % interval is on one side of zero. The train split never decides.
    """
    reasons = {name: tuple(_reasons(model, split)) for name, split in splits.items()}
    gains = {name: split.gain for name, split in splits.items() if name != "train" and split.gain is not None}
    statuses = {name: gain_status(gain) for name, gain in gains.items()}
    # Without a gain on val the verdict is amber at best, whatever the other splits show.
    if "val" not in gains:
        status = worst([*statuses.values(), Status.AMBER])
        sentence = f"{model} was not compared with a baseline on val, so nothing is proved."
        for name, gain in gains.items():
            sentence += f" It {_OUTCOMES[statuses[name]]} on {name} ({gain.signed}, 95 % CI)."
        return Verdict(status, sentence, reasons)
    # Losing on unseen documents of the training sources is a failure, and red. Losing on other sources only is a known
    # limit, and amber at worst.
    status = statuses["val"]
    if status != Status.RED:
        status = min(worst(statuses.values()), Status.AMBER, key=STATUSES.index)
    return Verdict(status, f"{model} {_compare_splits(splits, gains, statuses)}.", reasons)


def gain_status(gain: Estimate) -> Status:
    """Return green if a gain is significantly above zero, red if significantly below, amber otherwise."""
    if gain.is_significantly_above(0):
        return Status.GREEN
    return Status.RED if gain.is_significantly_below(0) else Status.AMBER


def _compare_splits(
    splits: Mapping[str, SplitResult], gains: Mapping[str, Estimate], statuses: Mapping[str, Status]
) -> str:
    """Return the predicate of the sentence, with the gain on every split."""
    clauses: list[str] = []
    first_status = next(iter(statuses.values()))
    for name, gain in gains.items():
        outcome = _OUTCOMES[statuses[name]]
        if clauses:  # from the second split on, do not repeat an equal outcome
            is_same = statuses[name] == first_status
            outcome = "and" if is_same else f"but {outcome.replace('the best baseline', 'it')}"
        clauses.append(f"{outcome} on {name} ({gain.signed}, 95 % CI, over {splits[name].best_baseline})")
    return " ".join(clauses)


def _reasons(model: str, split: SplitResult) -> Iterator[str]:
    """Yield the facts about a model on a split that its cosine alone hides."""
    if split.gain is None or split.best_baseline is None:
        return
    result, best = split.predictors[model], split.predictors[split.best_baseline]
    yield f"cosine {result.cosine.value:.4f}, {split.best_baseline} {best.cosine.value:.4f}"
    yield from _compare_retrieval(model, split, result)
    if result.margin < 0:
        yield (
            f"predictions are closer to the last context vector than to the target: margin {result.margin:+.3f}, "
            f"{split.best_baseline} {best.margin:+.3f}"
        )
    if split.groups < MIN_GROUPS:
        yield f"only {split.groups} independent documents, so the intervals are wide; add documents to this split"


def _compare_retrieval(model: str, split: SplitResult, result: PredictorResult) -> Iterator[str]:
    """Compare the MRR of the model, or of its query head, with the best MRR of the other predictors."""
    # The rival is the predictor with the best MRR. The query head, if there is one, competes for the model.
    name, rival = max(
        ((name, score.retrieval.mrr) for name, score in split.predictors.items() if name != model),
        key=lambda item: item[1],
    )
    mrr = (result.query or result.retrieval).mrr
    output = f"the query of {model}" if result.query else model
    if rival > mrr:
        yield f"{name} retrieves the true next chunk better: MRR {rival:.3f}, {output} {mrr:.3f}"
    elif result.query:
        yield f"the query retrieves the true next chunk best: MRR {mrr:.3f}, {name} {rival:.3f}"
