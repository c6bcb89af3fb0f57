"""The verdict on a model: one sentence, a stoplight status, and the facts behind them. Needs no torch.

A model has two headline measures on a split: the cosine of its prediction, and the MRR of its query (of its prediction
if it has no query). Each is compared with the baseline that is best in that measure, on the same windows. Every status
of a model, wherever it is shown, comes from `split_outcome` and `make_verdict`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nextvec.core.formatting import STATUSES, Status, worst
from nextvec.data.splits import MIN_GROUPS, count_groups
from nextvec.evaluation.results import Estimate, RetrievalGain, SplitResult, Verdict

MRR_RESOLUTION = 0.0005
"""A deficit in MRR up to this is a tie: half a unit of the last digit that tables show."""

_OUTCOMES: dict[Status, str] = {
    Status.GREEN: "beats the best baseline",
    Status.AMBER: "is not significantly different from the best baseline",
    Status.RED: "loses to the best baseline",
}


class Outcome(NamedTuple):
    """The comparison of a model with the best baselines of one split."""

    cosine: Status
    """Green if the gain in cosine is significantly above zero, red if it is significantly below, amber otherwise."""
    retrieves_worse: bool
    """Whether a baseline has a higher MRR. An MRR that was not measured counts as worse."""

    @property
    def status(self) -> Status:
        """The status of both measures: a model that retrieves worse than a baseline is amber at best."""
        return worst([self.cosine, Status.AMBER]) if self.retrieves_worse else self.cosine


def make_verdict(model: str, splits: Mapping[str, SplitResult]) -> Verdict:
    """Return the verdict on a model.

    Green: on val and, if there is one, on ood, the gain in cosine over the best baseline is significantly above zero,
    and no baseline retrieves better. Red: the gain in cosine is significantly below zero on val. Amber: everything in
    between, and any model that was not evaluated on val. A gain is significant if its whole 95 % interval is on one
    side of zero. The train split never decides.
    """
    reasons = {name: tuple(_reasons(model, split)) for name, split in splits.items()}
    compared = {name: split for name, split in splits.items() if name != "train" and split.gain is not None}
    outcomes = {name: split_outcome(split) for name, split in compared.items()}
    # Without a gain on val the verdict is amber at best, whatever the other splits show.
    if "val" not in outcomes:
        status = worst([*(outcome.status for outcome in outcomes.values()), Status.AMBER])
        sentence = f"{model} was not compared with a baseline on val, so nothing is proved."
        if outcomes:
            sentence += f" It {_describe_outcomes(compared, outcomes)}."
        return Verdict(status, sentence, reasons)
    # Losing on unseen documents of the training sources is a failure, and red. Losing on other sources only is a known
    # limit, and amber at worst.
    status = outcomes["val"].status
    if status != Status.RED:
        status = min(worst(outcome.status for outcome in outcomes.values()), Status.AMBER, key=STATUSES.index)
    return Verdict(status, f"{model} {_describe_outcomes(compared, outcomes)}.", reasons)


def split_outcome(split: SplitResult) -> Outcome:
    """Return how a model compares with the best baselines of a split on which it has a gain.

    The rule for retrieval is strict: a lower MRR than the best baseline's counts as worse even if its interval
    includes zero, because a table that shows a baseline ahead must not be green.
    """
    assert split.gain is not None, split
    retrieval = split.retrieval_gain
    retrieves_worse = (
        retrieval is None or retrieval.gain.value < -MRR_RESOLUTION or retrieval.gain.is_significantly_below(0)
    )
    return Outcome(_cosine_status(split.gain), retrieves_worse)


def _cosine_status(gain: Estimate) -> Status:
    if gain.is_significantly_above(0):
        return Status.GREEN
    return Status.RED if gain.is_significantly_below(0) else Status.AMBER


def _describe_outcomes(splits: Mapping[str, SplitResult], outcomes: Mapping[str, Outcome]) -> str:
    """Return the predicate of the sentence: the gain in cosine on every split, then retrieval."""
    clauses: list[str] = []
    first_status = next(iter(outcomes.values())).cosine
    for name, outcome in outcomes.items():
        gain, text = splits[name].gain, _OUTCOMES[outcome.cosine]
        assert gain is not None, name
        # From the second split on, do not repeat an equal outcome.
        if not clauses:
            text += " in cosine"
        elif outcome.cosine == first_status:
            text = "and"
        else:
            text = f"but {text.replace('the best baseline', 'it')}"
        clauses.append(f"{text} on {name} ({gain.signed}, 95 % CI, over {splits[name].best_baseline})")
    return " ".join([*clauses, *_describe_retrieval(splits, outcomes)])


def _describe_retrieval(splits: Mapping[str, SplitResult], outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    """Yield the clauses on retrieval: the splits on which a baseline retrieves better, or all of them if none does."""
    gains = {name: splits[name].retrieval_gain for name in outcomes}
    worse = [(name, gain) for name, gain in gains.items() if gain and outcomes[name].retrieves_worse]
    measured = [(name, gain) for name, gain in gains.items() if gain]
    cosines = [outcome.cosine for outcome in outcomes.values()]
    if worse:
        start = "but retrieves worse" if worst(cosines) == Status.GREEN else "and retrieves worse"
        for number, (name, gain) in enumerate(worse):
            yield f"{'and' if number else start} than {gain.best_baseline} on {name} ({_compare_mrr(gain)})"
    elif measured:
        scores = ", ".join(f"{_compare_mrr(gain)} on {name}" for name, gain in measured)
        yield f"{'and' if cosines[0] == Status.GREEN else 'but'} retrieves at least as well ({scores})"


def _compare_mrr(gain: RetrievalGain) -> str:
    return f"MRR {gain.mrr:.3f} against {gain.baseline_mrr:.3f}"


def _reasons(model: str, split: SplitResult) -> Iterator[str]:
    """Yield the facts about a model on a split: both measures next to their best baselines, and caveats."""
    if split.gain is None or split.best_baseline is None:
        return
    result, best = split.predictors[model], split.predictors[split.best_baseline]
    yield f"cosine {result.cosine.value:.4f}, {split.best_baseline} {best.cosine.value:.4f}"
    if (retrieval := split.retrieval_gain) is not None:
        yield (
            f"MRR of the {retrieval.output} {retrieval.mrr:.3f}, {retrieval.best_baseline} "
            f"{retrieval.baseline_mrr:.3f} (difference {retrieval.gain.signed}, 95 % CI)"
        )
    if result.margin < 0:
        yield (
            f"predictions are closer to the last context vector than to the target: margin {result.margin:+.3f}, "
            f"{split.best_baseline} {best.margin:+.3f}"
        )
    if split.groups < MIN_GROUPS:
        # Fewer groups than documents: documents that share a book or vectors count once.
        is_grouped = split.groups < split.documents
        amount = f"{split.documents} documents" if not is_grouped else count_groups(split.groups)
        yield f"only {amount}, so the intervals are wide; add documents to this split"
