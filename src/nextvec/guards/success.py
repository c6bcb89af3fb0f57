"""The success criteria of a run: each with its measured value, next to the baseline. Needs no torch.

Meeting all criteria is not enough: `Success.lines` adds a caveat if the verdict on the model is not green.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nextvec.core.events import Event
from nextvec.core.formatting import Status, format_percent, outcome_word, summarize_criteria
from nextvec.evaluation.results import MAX_SEEN_SHARE, SeenSplit
from nextvec.guards.gates import EpochMetrics, selection_score
from nextvec.recipe import Recipe

MIN_TREND_EPOCHS = 2
"""Epochs from which losses can be said to converge: their first and last values are then two measurements."""


@dataclass(frozen=True)
class Criterion:
    """One success criterion and its outcome."""

    name: str
    measured: str
    required: str
    passed: bool | None
    """None if it could not be assessed, which is not a pass."""
    note: str = ""
    """Context of the measured value, such as the best baseline."""

    @property
    def line(self) -> str:
        """The criterion as one line."""
        note = f" ({self.note})" if self.note else ""
        return f"{outcome_word(self.passed)}  {self.name}: {self.measured}, required {self.required}{note}"


@dataclass(frozen=True)
class Success:
    """All success criteria of a run."""

    criteria: tuple[Criterion, ...]

    @property
    def passed(self) -> bool:
        """Whether all criteria are met."""
        return all(criterion.passed is True for criterion in self.criteria)

    def lines(self, verdict: Status | None) -> list[str]:
        """Return the criteria as lines. `verdict` is the status of the evaluation; None if there is none."""
        summary = summarize_criteria([criterion.passed for criterion in self.criteria])
        if self.passed and verdict not in (Status.GREEN, None):
            summary += f", but the verdict is {verdict}"
        return [summary, *(f"  {criterion.line}" for criterion in self.criteria)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for events and history."""
        return {"passed": self.passed, "criteria": [asdict(criterion) for criterion in self.criteria]}


def evaluate_success(recipe: Recipe, history: Sequence[EpochMetrics], events: Sequence[Event]) -> Success:
    """Return the criteria of a run, from its epochs (at least one) and all its events since the first start."""
    criteria = (*_check_cosines(recipe, history, events), _check_aborts(events), _check_losses(recipe, history))
    return Success((*criteria, *_check_seen_data(events)))


def _check_cosines(recipe: Recipe, history: Sequence[EpochMetrics], events: Sequence[Event]) -> Iterator[Criterion]:
    """Check the cosines of the best epoch, the one of the prediction in best_model.pt; the start is epoch 0."""
    starts = [event for event in events if event["kind"] == "start"]
    best = max([*starts[-1:], *history], key=lambda metrics: selection_score(recipe, metrics))
    for split in ("val", "ood"):
        threshold = getattr(recipe.success, f"{split}_cosine")
        if threshold is None:
            continue
        name, required, cosine = f"{split} cosine", f"≥ {threshold:g}", best.get(f"{split}_cosine")
        if cosine is None:
            yield Criterion(name, "not measured", required, False, f"the data have no {split} split")
        else:
            note = f"best baseline: {best[f'{split}_best_baseline']}, epoch {best['epoch']}"
            yield Criterion(name, f"{cosine:.4f}", required, cosine >= threshold, note)


def _check_seen_data(events: Sequence[Event]) -> Iterator[Criterion]:
    """Yield a failed criterion for each split whose rows the model has seen in training; a clean run has none."""
    evaluations = [event.get("evaluation") or {} for event in events if event["kind"] == "evaluated"]
    seen = evaluations[-1].get("seen") if evaluations else None
    for name, values in (seen or {}).get("splits", {}).items():
        split = SeenSplit(**values)
        if split.is_tainted:
            runs = ", ".join([*(["this run"] if split.in_run else []), *split.in_ancestors])
            required, note = f"less than {format_percent(MAX_SEEN_SHARE, 0)}", f"trained on by {runs}"
            yield Criterion(
                f"{name} rows not seen in training", f"{format_percent(split.share)} seen", required, False, note
            )


_CLEAN_ENDS = ("interrupted", "stopped", "failed", "trained")
"""Events after which a run may resume without having crashed."""


def _check_aborts(events: Sequence[Event]) -> Criterion:
    """Count crashes, failures and aborts. A run that was interrupted and resumed did not crash."""
    kinds = [event["kind"] for event in events]
    # A run is running from `started` or `resumed` to a clean end. If it resumes while running, it crashed.
    crashes, is_running = 0, False
    for kind in kinds:
        crashes += kind == "resumed" and is_running
        is_running = kind in ("started", "resumed") or (is_running and kind not in _CLEAN_ENDS)
    counts = {"crash": crashes, "failure": kinds.count("failed"), "abort": kinds.count("stopped")}
    plurals = {"crash": "crashes", "failure": "failures", "abort": "aborts"}
    measured = ", ".join(f"{count} {name if count == 1 else plurals[name]}" for name, count in counts.items())
    return Criterion("no crash, no abort by a gate or the sentinel", measured, "none", not any(counts.values()))


def _check_losses(recipe: Recipe, history: Sequence[EpochMetrics]) -> Criterion:
    """Check that no loss term is NaN or infinite, and that MSE and InfoNCE end at most at their first value."""
    first, last = history[0], history[-1]
    terms = [term for term in recipe.objective.weights if f"train_loss_{term}" in last]
    is_finite = all(_is_finite(metrics.get(f"train_loss_{term}")) for metrics in history for term in terms)
    # Moment and variance may rise while the supervised terms fall; they count only if there is no other term.
    main = [term for term in terms if term in ("mse", "info")] or terms
    losses = {term: (float(first[f"train_loss_{term}"]), float(last[f"train_loss_{term}"])) for term in main}
    is_falling = all(end <= start for start, end in losses.values())
    measured = ", ".join(f"{term} {start:.3g} → {end:.3g}" for term, (start, end) in losses.items())
    name, required = "losses converge, none NaN or infinite", "falling, finite"
    # A single epoch has no trend, whatever its losses are.
    if is_finite and len(history) < MIN_TREND_EPOCHS:
        return Criterion(name, measured, required, None, f"{len(history)} epoch; a trend needs {MIN_TREND_EPOCHS}")
    return Criterion(name, measured, required, is_finite and is_falling)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
