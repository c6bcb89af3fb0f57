"""The figures of a judgement: plain values that any reader can use without torch.

What a judgement says: figures for every predictor on every split, and a verdict in plain words.

Plain values only and no torch, so that tables, pages and whatever else reads a finished run start at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nextvec.core.formatting import Status


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval over documents."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Retrieval:
    """How well predictions find the true next chunk: R@k are shares from 0 to 1."""

    r_at_1: float
    r_at_5: float
    r_at_10: float
    mrr: float
    median_rank: float
    r_at_50: float = 0.0


@dataclass(frozen=True)
class Contrast:
    """How the Large Concept Model paper measures a prediction (arXiv 2412.08821, section 2.4.1)."""

    l2: float
    """Mean distance between prediction and target, both as vectors of the embedding space."""
    accuracy: float
    """Share of the other targets of a batch that are further from the prediction than the target is."""


@dataclass(frozen=True)
class Alignment:
    """Which place of the document a prediction points to."""

    offsets: dict[int, float | None]
    """k → mean cosine between the prediction and the vector at target + k; None where no document has one."""
    before: Estimate | None
    """cos(prediction, target) − cos(prediction, the vector just before the context); None where there is none."""
    direction: Estimate | None
    """`before` minus the same figure of the context mean on the same windows: 0 for the context mean itself.

    Whether order counts at all is told by the ablations; what drifts less than the mean has a small positive one.
    """
    windows: int
    """Windows that have a vector before their context."""


@dataclass(frozen=True)
class Shape:
    """The cloud of predictions, or of targets."""

    norm: float
    """Mean length of the raw output; 1 for targets."""
    norm_spread: float
    """Standard deviation of that length, in parts of the mean."""
    spread: float
    """1 − mean cosine of two of them: 0 if all are the same, about 1 if they point everywhere."""
    effective_rank: float
    """exp(entropy of the covariance's eigenvalues): over how many directions they spread (Roy & Vetterli 2007)."""
    alignment: float
    """Mean squared distance to the target (Wang & Isola 2020, with α = 2); 0 for targets."""
    uniformity: float
    """log of the mean of exp(−2 · squared distance) over pairs (Wang & Isola 2020, with t = 2); lower is more even."""


@dataclass(frozen=True)
class Part:
    """A model on a part of a split, such as a source, beside the best baseline of the split."""

    name: str
    windows: int
    groups: int
    """Independent groups of documents."""
    cosine: Estimate
    gain: Estimate


@dataclass(frozen=True)
class BatchLatency:
    """Milliseconds for one call with a batch of that many windows."""

    batch: int
    p50: float
    """Half of the calls took no longer."""
    p95: float
    """95 % of the calls took no longer."""


@dataclass(frozen=True)
class Latency:
    """What a prediction costs on a device."""

    device: str
    context: int
    parameters: int
    repeats: int
    """Timed calls for each batch size."""
    batches: tuple[BatchLatency, ...]


@dataclass(frozen=True)
class Breakdown:
    """A model beside the best baseline of a split, by document, source and coherence of the context."""

    win_rate: Estimate
    """Share of the groups of documents in which the model's mean cosine is the higher one; ties count half."""
    by_source: tuple[Part, ...]
    """The largest sources first, the rest together."""
    by_coherence: tuple[Part, ...]
    """Quartiles of the context's coherence, from the lowest."""


@dataclass(frozen=True)
class PredictorResult:
    """One predictor's figures on one split."""

    cosine: Estimate
    mse: float
    margin: float
    retrieval: Retrieval
    gain: Estimate | None
    """The model's cosine minus this predictor's on the same windows; None for the model itself or without one."""
    within: Retrieval | None = None
    """The same as retrieval, among the chunks of the window's own document only."""
    query: Retrieval | None = None
    """Retrieval with the model's second output, the query, where it has one; `retrieval` is the prediction's."""
    query_within: Retrieval | None = None
    """The query's retrieval in the own document."""
    contrast: Contrast | None = None
    alignment: Alignment | None = None
    shape: Shape | None = None
    rollout: tuple[float | None, ...] = ()
    """Mean cosine to the vector 1, 2 … ahead when its own predictions are fed back; empty where not measured."""


@dataclass(frozen=True)
class SplitResult:
    """All predictors on one split."""

    windows: int
    documents: int
    """Documents that have windows."""
    groups: int
    """Independent groups of documents: what the intervals resample."""
    candidates: int
    queries: int
    predictors: dict[str, PredictorResult]
    """By name; the model first, then the baselines in the order given."""
    best_baseline: str | None
    """The baseline of the highest cosine on this split."""
    gain: Estimate | None
    """The model's gain over the best baseline."""
    target_shape: Shape | None = None
    """The cloud of the targets, beside which the predictors' shapes are read."""
    ablations: dict[str, Estimate] = field(default_factory=dict)
    """How far the model's cosine falls when its context is spoilt, by what is done to it."""
    parts: Breakdown | None = None
    """The model beside the best baseline by document, source and coherence of the context."""

    def ranked(self, model: str | None) -> Iterator[tuple[str, PredictorResult]]:
        """Predictors as tables show them: the model, then the others from the highest cosine to the lowest."""
        return iter(sorted(self.predictors.items(), key=lambda item: (item[0] != model, -item[1].cosine.value)))


@dataclass(frozen=True)
class Verdict:
    """The judgement in words."""

    status: Status
    sentence: str
    reasons: dict[str, tuple[str, ...]]
    """By split: the facts behind it, and what else a reader should know."""


@dataclass(frozen=True)
class Evaluation:
    """A model beside the baselines on the same windows."""

    model: str | None
    splits: dict[str, SplitResult]
    notes: tuple[str, ...]
    """What was left out, and why."""
    verdict: Verdict | None
    """None where only baselines were judged."""
    latency: Latency | None = None
    """What a prediction of the model costs."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_dict`, also after a way through JSON. Raises ValueError for anything else."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            raise ValueError(str(error.errors(include_url=False)[0])) from error
