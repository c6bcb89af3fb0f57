"""Was the run a success? The recipe's criteria, each with its figure and the baseline beside it. No torch.

A score that is high enough is no success by itself: `Success.lines` says so where the model does not beat the
baselines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nextvec.core.events import Event
from nextvec.core.formatting import Status
from nextvec.guards.gates import Record, score
from nextvec.recipe import Recipe


@dataclass(frozen=True)
class Criterion:
    """One thing that a run had to do."""

    name: str
    figure: str
    """What it did."""
    wanted: str
    passed: bool
    beside: str = ""
    """What the figure has to be read beside, such as the best baseline."""

    @property
    def line(self) -> str:
        """The criterion in words."""
        beside = f" ({self.beside})" if self.beside else ""
        return f"{'pass' if self.passed else 'FAIL'}  {self.name}: {self.figure}, wanted {self.wanted}{beside}"


@dataclass(frozen=True)
class Success:
    """All criteria of a run."""

    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether all are met."""
        return all(criterion.passed for criterion in self.criteria)

    def lines(self, verdict: Status | None) -> list[str]:
        """The criteria and what they come to, beside the judgement's light (None: there is no judgement)."""
        met = sum(criterion.passed for criterion in self.criteria)
        summary = f"success criteria: {met} of {len(self.criteria)} met"
        if self.passed and verdict not in (Status.GREEN, None):
            summary += "; but the model does not surely beat the best baseline: see the verdict"
        return [summary, *(f"  {criterion.line}" for criterion in self.criteria)]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for events and history."""
        return {"passed": self.passed, "criteria": [asdict(criterion) for criterion in self.criteria]}


def evaluate_success(recipe: Recipe, history: Sequence[Record], events: Sequence[Event]) -> Success:
    """The criteria on a run's epochs (at least one) and all its events, also those before an interruption."""
    return Success(
        (*_scores(recipe, history), _unbroken(events), _converged(recipe, history)),
    )


def _scores(recipe: Recipe, history: Sequence[Record]) -> Iterator[Criterion]:
    """The best model's cosines: of the epoch that best_model.pt is from."""
    best = max(history, key=lambda record: score(recipe, record))
    for split in ("val", "ood"):
        wanted = getattr(recipe.success, f"{split}_cosine")
        if wanted is None:
            continue
        name, value = f"{split} cosine", best.get(f"{split}_cosine")
        if value is None:
            yield Criterion(name, "not measured", f"≥ {wanted:g}", False, f"there is no {split} split")
        else:
            beside = f"best baseline {best[f'{split}_best_baseline']}, epoch {best['epoch']}"
            yield Criterion(name, f"{value:.4f}", f"≥ {wanted:g}", value >= wanted, beside)


def _unbroken(events: Sequence[Event]) -> Criterion:
    """No crash, no abort. A run that was interrupted on purpose and went on is none."""
    kinds = [event["kind"] for event in events]
    aborts, failures = kinds.count("stopped"), kinds.count("failed")
    crashes, running = 0, False
    for kind in kinds:
        crashes += kind == "resumed" and running
        running = kind in ("started", "resumed") or (running and kind not in _RESTS)
    counted = ((crashes, "crash", "crashes"), (failures, "failure", "failures"), (aborts, "abort", "aborts"))
    figure = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counted)
    return Criterion("no crash, no abort by a gate or the sentinel", figure, "none", not crashes + failures + aborts)


_RESTS = ("interrupted", "stopped", "failed", "trained")
"""Events after which a run may be resumed without having crashed."""


def _converged(recipe: Recipe, history: Sequence[Record]) -> Criterion:
    """Every weighted term of the training loss ends at or below its value of the first epoch, and all are numbers."""
    first, last = history[0], history[-1]
    terms = [term for term in recipe.objective.weights if f"train_loss_{term}" in last]
    pairs = {term: (float(first[f"train_loss_{term}"]), float(last[f"train_loss_{term}"])) for term in terms}
    finite = all(_is_finite(record.get(f"train_loss_{term}")) for record in history for term in terms)
    main = {term: pair for term, pair in pairs.items() if term in ("mse", "info")} or pairs
    falling = len(history) == 1 or all(after <= before for before, after in main.values())
    figure = ", ".join(f"{term} {before:.3g} → {after:.3g}" for term, (before, after) in main.items())
    return Criterion("losses converge, none NaN or infinite", figure, "falling, finite", finite and falling)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
