"""Results of an evaluation: plain values that any reader can use without torch.

Cosines and gains have no unit. A cosine is between −1 and 1, and a gain (the difference of two cosines) between −2 and
2. Fractions are between 0 and 1. Every field that was not measured is None or empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nextvec.core.display import Displayable
from nextvec.core.formatting import Status, format_interval, format_percent

FORMAT = 4
"""Version of the plain values in evaluation.json and in the event `evaluated`. Format 3 had no `metrics_version`."""

METRICS_VERSION = 2
"""Version of the metrics' definitions, raised when a metric or the set of baselines changes: scores of two versions
cannot be compared. In version 1, retrieval excluded only the context from its candidates, so that a longer context
had fewer of them, CA compared with targets of other documents, and there were five baselines."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval over documents."""

    value: float
    low: float
    high: float

    @property
    def signed(self) -> str:
        """The estimate of a difference as text, with its sign: `+0.0200 ± 0.0070`."""
        return format_interval(self.value, self.low, self.high, "+")

    def __str__(self) -> str:
        """Return the estimate as text: `0.5820 ± 0.0070 (95 % CI)`."""
        return f"{format_interval(self.value, self.low, self.high)} (95 % CI)"

    def is_significantly_above(self, threshold: float) -> bool:
        """Return whether the whole interval is above a threshold."""
        return self.low > threshold

    def is_significantly_below(self, threshold: float) -> bool:
        """Return whether the whole interval is below a threshold."""
        return self.high < threshold


@dataclass(frozen=True)
class Retrieval:
    """Retrieval of the true next chunk by a prediction or a query.

    R@k is the fraction of windows whose target is among the k nearest candidates.
    """

    r_at_1: float
    r_at_5: float
    r_at_10: float
    mrr: float
    """Mean reciprocal rank, from 0 to 1."""
    median_rank: float
    """Median rank of the target; 1 is the best."""
    r_at_50: float = 0.0
    recall_curve: tuple[float, ...] = ()
    """R@1, R@2 … R@100."""


@dataclass(frozen=True)
class RetrievalGain:
    """The model's MRR next to that of the baseline that retrieves best, on the same queries and candidates."""

    output: str
    """The model's output that retrieves: `query`, or `prediction` if the model has no query."""
    mrr: float
    best_baseline: str
    """The baseline with the highest MRR; another one may have the highest cosine."""
    baseline_mrr: float
    gain: Estimate
    """The model's MRR minus the baseline's, with a paired interval, from −1 to 1."""


@dataclass(frozen=True)
class RecallGain:
    """The model's R@10 next to that of the baseline with the highest R@10, on the same queries and candidates."""

    recall: float
    best_baseline: str
    baseline_recall: float
    gain: Estimate
    """The model's R@10 minus the baseline's, with a paired interval, from −1 to 1."""


@dataclass(frozen=True)
class ContrastiveMetrics:
    """Pre-training metrics after the Large Concept Model paper (arXiv 2412.08821, section 2.4.1)."""

    l2: float
    """Mean Euclidean distance from prediction to target, between unit-length vectors: from 0 to 2."""
    accuracy: float
    """CA: fraction of the document's other chunks that are farther from the prediction than the target, from 0 to 1."""
    paraphrasing: float = 0.0
    """PAR: mean cosine to the closest context vector, divided by that of the targets; above 1 repeats the context."""


@dataclass(frozen=True)
class OffsetProfile:
    """Cosines from the predictions to the vectors around the target in its document."""

    curve: dict[int, float | None]
    """Offset k → mean cosine between the prediction and the vector at target + k; None if no document has one."""
    forward_margin: Estimate | None
    """Mean of cos(prediction, target) − cos(prediction, vector just before the context); None if `windows` is 0."""
    direction: Estimate | None
    """`forward_margin` minus that of the context mean on the same windows, from −4 to 4; below 0 is backward.

    A constant has a small positive direction on real text. Only the ablations show whether a model uses the order.
    """
    windows: int
    """Windows that have a vector before their context."""


@dataclass(frozen=True)
class Geometry:
    """Statistics of a set of predictions, or of the targets."""

    norm: float
    """Mean norm of the raw output; 1 for targets."""
    norm_cv: float
    """Coefficient of variation of that norm: standard deviation divided by the mean."""
    dispersion: float
    """1 − mean pairwise cosine: 0 if all vectors are equal, about 1 if they point everywhere."""
    effective_rank: float
    """exp(entropy of the covariance's eigenvalue shares), from 1 to D (Roy & Vetterli 2007)."""
    alignment: float
    """Mean squared distance to the target, from 0 to 4 (Wang & Isola 2020, α = 2)."""
    uniformity: float
    """log(mean pairwise exp(−2 · squared distance)), from −8 to 0; lower is more uniform (Wang & Isola 2020, t = 2)."""


@dataclass(frozen=True)
class Subset:
    """The model on a subset of a split, such as one source, with its gain over the split's best baseline."""

    name: str
    windows: int
    groups: int
    """Independent groups of documents."""
    cosine: Estimate
    gain: Estimate


@dataclass(frozen=True)
class BatchLatency:
    """Milliseconds of one call with a batch of that many windows."""

    batch: int
    p50: float
    """Median, in milliseconds."""
    p95: float
    """95th percentile, in milliseconds."""


@dataclass(frozen=True)
class Latency:
    """Time of one prediction on a device."""

    device: str
    context: int
    parameters: int
    repeats: int
    """Upper limit of timed calls for each batch size."""
    batches: tuple[BatchLatency, ...]


@dataclass(frozen=True)
class Breakdown:
    """The model's gain over the best baseline of a split, by document, source and coherence of the context."""

    win_rate: Estimate
    """Fraction of document groups in which the model's mean cosine is higher; ties count half."""
    by_source: tuple[Subset, ...]
    """The largest sources first; the remaining ones together."""
    by_coherence: tuple[Subset, ...]
    """Quartiles of the context's coherence, the lowest first."""


@dataclass(frozen=True)
class PredictorResult:
    """Results of one predictor on one split."""

    cosine: Estimate
    mse: float
    """Mean squared error per dimension, between unit-length vectors."""
    margin: float
    """cos(prediction, target) − cos(prediction, last context vector), from −2 to 2."""
    retrieval: Retrieval
    """Retrieval by the prediction among all chunks of the split."""
    gain: Estimate | None
    """The model's cosine minus this predictor's on the same windows; None for the model itself."""
    in_document: Retrieval | None = None
    """Retrieval by the prediction among the chunks of the target's own document."""
    query: Retrieval | None = None
    """Retrieval by the model's second output, the query; None without a query head."""
    query_in_document: Retrieval | None = None
    """Retrieval by the query among the chunks of the target's own document."""
    mrr: Estimate | None = None
    """MRR of the query, or of the prediction if there is no query, with its interval over documents."""
    r_at_10: Estimate | None = None
    """R@10 of the same output, with its interval over documents."""
    contrastive: ContrastiveMetrics | None = None
    offset_profile: OffsetProfile | None = None
    geometry: Geometry | None = None
    rollout: tuple[float | None, ...] = ()
    """rollout@1, rollout@2 …: mean cosine to the vector that many steps ahead, with predictions fed back."""


@dataclass(frozen=True)
class SplitResult:
    """Results of all predictors on one split."""

    windows: int
    documents: int
    """Documents that have windows."""
    groups: int
    """Independent groups of documents, which the intervals resample."""
    candidates: int
    """Chunks among which retrieval searches."""
    queries: int
    """Windows of the retrieval sample."""
    predictors: dict[str, PredictorResult]
    """By name: the model first, then the baselines."""
    best_baseline: str | None
    """The baseline with the highest cosine on this split."""
    gain: Estimate | None
    """The model's gain over the best baseline."""
    retrieval_gain: RetrievalGain | None = None
    """The model's MRR next to the best of the baselines; None without a model or without baselines."""
    recall_gain: RecallGain | None = None
    """The same for R@10."""
    skill: float | None = None
    """1 − (1 − cosine) / (1 − best baseline's cosine): the fraction of the baseline's error that the model removes."""
    target_geometry: Geometry | None = None
    """Geometry of the targets, the reference for that of the predictors."""
    ablations: dict[str, Estimate] = field(default_factory=dict)
    """Context ablation → drop in the model's cosine; positive if the perturbation hurts."""
    breakdown: Breakdown | None = None
    cosine_percentiles: tuple[float, ...] = ()
    """The percentiles 0, 1 … 100 of the model's cosine over the windows, by which a new score is ranked."""

    def ranked(self, model: str | None) -> Iterator[tuple[str, PredictorResult]]:
        """Iterate over the predictors in table order: the model, then the others by descending cosine."""
        return iter(sorted(self.predictors.items(), key=lambda item: (item[0] != model, -item[1].cosine.value)))


@dataclass(frozen=True)
class Verdict:
    """The evaluation in one sentence."""

    status: Status
    sentence: str
    reasons: dict[str, tuple[str, ...]]
    """Split → the facts behind the verdict, and caveats."""


MAX_SEEN_SHARE = 0.01
"""Share of a split's rows from which its scores measure memory, and the verdict is red: the data check's limit."""


@dataclass(frozen=True)
class SeenSplit:
    """How many of the rows of a split's windows the model's weights were trained on."""

    rows: int
    """Distinct rows of the windows: targets and contexts."""
    in_run: int = 0
    """Rows that the model's own run trained on."""
    in_ancestors: dict[str, int] = field(default_factory=dict)
    """Ancestor → rows that it trained on, and no later run did. Ancestors without such rows are left out."""

    @property
    def seen(self) -> int:
        """Rows that any of the runs trained on."""
        return self.in_run + sum(self.in_ancestors.values())

    @property
    def share(self) -> float:
        """Seen rows as a fraction of all rows."""
        return self.seen / max(1, self.rows)

    @property
    def is_tainted(self) -> bool:
        """Whether so many rows were seen that the scores measure memory."""
        return self.share >= MAX_SEEN_SHARE


@dataclass(frozen=True)
class SeenData:
    """The evaluated rows that the model's weights were trained on, in its own run or in an ancestor."""

    run: str
    """Name of the model's own run; empty if it is unknown."""
    is_history_known: bool
    """Whether the checkpoint records all rows that its weights were trained on."""
    splits: dict[str, SeenSplit]

    @property
    def status(self) -> Status:
        """Red if a split is tainted, amber if the history is unknown, green otherwise."""
        if any(split.is_tainted for split in self.splits.values()):
            return Status.RED
        return Status.GREEN if self.is_history_known else Status.AMBER

    def label(self, *names: str) -> str:
        """Return `clean`, `35 % seen` (the highest share of the named splits, or of all) or `unknown`, for tables."""
        shares = [split.share for name, split in self.splits.items() if not names or name in names]
        if max(shares, default=0.0) >= MAX_SEEN_SHARE:
            return f"{format_percent(max(shares), 0)} seen"
        return "clean" if self.is_history_known else "unknown"


@dataclass(frozen=True)
class Evaluation(Displayable, view="nextvec.reports.tables:evaluation_view"):
    """A model and its baselines on the same windows."""

    model: str | None
    splits: dict[str, SplitResult]
    notes: tuple[str, ...]
    """What was left out, and why."""
    verdict: Verdict | None
    """None if only baselines were evaluated."""
    latency: Latency | None = None
    """Latency of the model."""
    seen: SeenData | None = None
    """The evaluated rows that the model was trained on; None if no checkpoint was evaluated."""
    metrics_version: int = METRICS_VERSION
    """Version of the metrics' definitions."""

    @property
    def status(self) -> Status:
        """The status of the verdict; amber without one, because nothing is proved."""
        return self.verdict.status if self.verdict else Status.AMBER

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """Return the evaluation of `to_dict`'s values, also after JSON. Raises ValueError for anything else."""
        # Imported here: pydantic takes 0.1 s, and readers of results do not need it.
        from pydantic import TypeAdapter, ValidationError

        if problem := find_version_problem(values):
            raise ValueError(problem)
        try:
            return TypeAdapter(cls).validate_python({name: values[name] for name in values if name != "format"})
        except ValidationError as error:
            raise ValueError(str(error.errors(include_url=False)[0])) from error


def find_version_problem(values: Mapping[str, Any]) -> str:
    """Return why the plain values of an evaluation cannot be read or compared; empty if they can."""
    if values.get("format") != FORMAT:
        return f"evaluation format {values.get('format', 1)} is not supported, expected {FORMAT}"
    if values.get("metrics_version") != METRICS_VERSION:
        version = values.get("metrics_version", 1)
        return (
            f"measured with version {version} of the metrics, which cannot be compared with version {METRICS_VERSION}"
        )
    return ""
