"""The figures of a judgement: plain values that any reader can use without torch."""

from __future__ import annotations

from dataclasses import dataclass


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
