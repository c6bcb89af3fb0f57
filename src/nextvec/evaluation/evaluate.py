"""Evaluation: a model and every baseline on the same windows, with confidence intervals over documents.

Cosine, MSE, margin, gain and the breakdown use all windows of a split. Retrieval, geometry, contrastive metrics and
offset profiles use a fixed sample, the queries. Rollouts and ablations use a part of that sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nextvec.core.console import progress
from nextvec.data.seen_rows import SeenRows
from nextvec.data.windows import WindowSet, sample
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import NotFiniteError
from nextvec.evaluation.ablations import measure_ablations
from nextvec.evaluation.bootstrap import estimate_gains
from nextvec.evaluation.breakdown import measure_breakdown
from nextvec.evaluation.geometry import measure_geometry, measure_target_geometry
from nextvec.evaluation.metrics import Predictor, QueryPredictor, WindowScores, score_windows
from nextvec.evaluation.offsets import measure_offset_profiles
from nextvec.evaluation.rank_comparison import compare_ranks
from nextvec.evaluation.results import (
    Estimate,
    Evaluation,
    Latency,
    OffsetProfile,
    PredictorResult,
    Retrieval,
    SplitResult,
)
from nextvec.evaluation.retrieval import (
    Candidates,
    candidates_of,
    documents_of,
    in_document_ranks,
    measure_contrastive,
    summarize_ranks,
    target_ranks,
)
from nextvec.evaluation.retrieval_faiss import NEIGHBORS, approximate_ranks, require_faiss
from nextvec.evaluation.rollout import measure_rollout
from nextvec.evaluation.seen_data import measure_seen, seen_notes, with_seen
from nextvec.evaluation.verdict import make_verdict
from nextvec.models.base import LatentModel
from nextvec.models.knn import KNN
from nextvec.recipe import EvaluationRecipe

__all__ = ["Evaluation", "evaluate_predictors"]

MAX_REPEATED_WINDOWS = 2_000
"""Upper limit of windows for rollouts and ablations, because these predict each window 5 to 8 times."""


def evaluate_predictors(
    predictors: Mapping[str, Predictor],
    sets: Mapping[str, WindowSet],
    recipe: EvaluationRecipe,
    *,
    seed: int,
    model: str | None,
    notes: Sequence[str] = (),
    latency: Latency | None = None,
    record: SeenRows | None = None,
    measure: MeasurePredictors | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate predictors on the windows of each split.

    `model` names the predictor that the others are baselines of; without it there are no gains and no verdict. The
    `sets` are on the predictors' device. A split without windows is skipped and noted, after the caller's `notes`.
    `latency` is the model's, and becomes part of the result. `record` contains the rows that it was trained on.
    `measure` replaces `measure_predictors`, to divide its work among processes.
    Raises NotFiniteError if a prediction is NaN or infinite, MissingExtraError if the recipe asks for faiss and it is
    not installed.
    """
    assert predictors and (model is None or model in predictors), (model, list(predictors))
    names = sorted(predictors, key=lambda name: name != model)  # stable: the model first, the baselines in their order
    ordered = {name: predictors[name] for name in names}
    all_notes, results = [*notes], {}
    if recipe.retrieval == "faiss":
        require_faiss()
        all_notes.append(f"retrieval: ranks beyond {NEIGHBORS:,} count as {NEIGHBORS + 1:,} (faiss)")
    with progress("evaluating", len(names) * sum(map(len, sets.values())), unit="windows", quiet=quiet) as task:
        for split, windows in sets.items():
            if len(windows) == 0:
                all_notes.append(f"{split}: not evaluated, no document is long enough for a window")
                continue
            # Every predictor is measured on the same windows. All offset profiles are measured together, because
            # a direction compares a predictor with the context mean.
            samples = draw_samples(windows, recipe, seed)
            profiles = measure_offset_profiles(ordered, samples.queries, recipe.resamples, seed)
            measured = (measure or measure_predictors)(ordered, samples, profiles, partial(task.advance, len(windows)))
            results[split] = compare(measured, ordered, model, samples)
    verdict = None if model is None else make_verdict(model, results)
    if model is None or verdict is None or record is None:
        return Evaluation(model, results, tuple(all_notes), verdict, latency)
    # Scores on rows that the model was trained on prove nothing, whatever the gains are.
    seen = measure_seen(record, {split: sets[split] for split in results})
    verdict = with_seen(verdict, model, seen)
    return Evaluation(model, results, (*all_notes, *seen_notes(seen)), verdict, latency, seen)


@dataclass(frozen=True)
class Samples:
    """The windows of one split on which every predictor is measured."""

    windows: WindowSet
    """All windows of the split."""
    queries: WindowSet
    """The retrieval sample."""
    repeated: WindowSet
    """The part of the queries for rollouts and ablations."""
    candidates: Candidates
    recipe: EvaluationRecipe
    seed: int


def draw_samples(windows: WindowSet, recipe: EvaluationRecipe, seed: int) -> Samples:
    """Draw the samples of a split; a pure function of its arguments."""
    device = windows.vectors.device
    # Draw the queries from the split, and from these the windows for rollouts and ablations.
    queries = windows.windows.take(sample(len(windows), recipe.queries, seed).to(device))
    repeated = queries.take(sample(len(queries), MAX_REPEATED_WINDOWS, seed).to(device))
    candidates = candidates_of(windows.vectors, windows.documents, windows.split)
    return Samples(
        windows, replace(windows, windows=queries), replace(windows, windows=repeated), candidates, recipe, seed
    )


class Measured(NamedTuple):
    """One predictor's scores on all windows, and its result without the intervals that `compare` computes."""

    scores: WindowScores
    rank_Q: NDArray[np.float64]
    """Rank of each query's target: by the query output if the predictor has one, else by the prediction."""
    result: PredictorResult


MeasurePredictors = Callable[
    [Mapping[str, Predictor], Samples, Mapping[str, OffsetProfile], Callable[[], object]], dict[str, Measured]
]
"""Called like `measure_predictors`."""


def measure_predictors(
    predictors: Mapping[str, Predictor],
    samples: Samples,
    profiles: Mapping[str, OffsetProfile],
    after_each: Callable[[], object] = lambda: None,
    processes: ProcessGroup = ALONE,
) -> dict[str, Measured]:
    """Measure every predictor on one split; several processes divide the predictors among them."""
    own = {}
    for number, (name, predictor) in enumerate(predictors.items()):
        if number % processes.size == processes.rank:
            own[name] = measure_predictor(name, predictor, samples, profiles[name])
        after_each()
    parts = processes.gather_values(own)
    return {name: parts[number % processes.size][name] for number, name in enumerate(predictors)}


def measure_predictor(name: str, predictor: Predictor, samples: Samples, profile: OffsetProfile) -> Measured:
    """Measure one predictor on one split. Raises NotFiniteError if a prediction is NaN or infinite."""
    windows, queries = samples.windows, samples.queries
    scores = score_windows(predictor, windows.vectors, windows.windows)
    # A single NaN would make every mean NaN, so report it before the slower metrics.
    if not scores.is_finite:
        count = int((~np.isfinite(scores.cosine)).sum())
        raise NotFiniteError(f"{name} on {windows.split}: {count:,} of {len(windows):,} predictions are not finite")
    ranks_Q, in_document = _rank_targets(predictor, samples)
    retrieval = summarize_ranks(ranks_Q)
    # A query head is measured like a second predictor, but for retrieval only.
    query = query_in_document = None
    if isinstance(predictor, LatentModel) and predictor.has_query:
        ranks_Q, query_in_document = _rank_targets(QueryPredictor(predictor), samples)
        query = summarize_ranks(ranks_Q)
    result = PredictorResult(
        cosine=Estimate(scores.mean_cosine, -1.0, 1.0),  # `compare` adds the interval
        mse=scores.mean_mse,
        margin=scores.mean_margin,
        retrieval=retrieval,
        gain=None,
        in_document=in_document,
        query=query,
        query_in_document=query_in_document,
        contrastive=measure_contrastive(predictor, queries),
        offset_profile=profile,
        geometry=measure_geometry(predictor, queries),
        # kNN would search again for every step of a rollout: many times the cost of all its other metrics.
        rollout=() if isinstance(predictor, KNN) else measure_rollout(predictor, samples.repeated),
    )
    return Measured(scores, ranks_Q.numpy(), result)


def compare(
    measured: Mapping[str, Measured], predictors: Mapping[str, Predictor], model: str | None, samples: Samples
) -> SplitResult:
    """Compare a model with the baselines on one split: intervals, gains, ablations and the breakdown."""
    windows, recipe, seed = samples.windows, samples.recipe, samples.seed
    groups_W = windows.windows.groups.cpu().numpy()
    # Intervals of all cosines, and of the model's gain over each baseline.
    cosines = {name: item.scores.cosine for name, item in measured.items()}
    estimates, gains = estimate_gains(cosines, groups_W, recipe.resamples, seed, model, bounds=(-1, 1))
    baselines = [name for name in measured if name != model]
    best = max(baselines, key=lambda name: estimates[name].value, default=None)
    ranks = {name: item.rank_Q for name, item in measured.items()}
    retrieved = compare_ranks(ranks, samples.queries.windows.groups.cpu().numpy(), recipe.resamples, seed, model)
    # Ablations need a model; the breakdown needs a baseline as well.
    ablations, breakdown, percentiles = {}, None, ()
    if model is not None:
        percentiles = tuple(np.percentile(cosines[model], range(101)).tolist())
        ablations = measure_ablations(predictors[model], samples.repeated, recipe.resamples, seed)
    if model is not None and best is not None:
        breakdown = measure_breakdown(cosines[model], cosines[best], windows, recipe.resamples, seed)
    return SplitResult(
        windows=len(windows),
        documents=len(np.unique(documents_of(windows.windows, windows.documents))),
        groups=len(np.unique(groups_W)),
        candidates=len(samples.candidates),
        queries=len(samples.queries),
        predictors={
            name: replace(
                item.result,
                cosine=estimates[name],
                gain=gains.get(name),
                mrr=retrieved.mrr[name],
                r_at_10=retrieved.r_at_10[name],
            )
            for name, item in measured.items()
        },
        best_baseline=best,
        gain=None if best is None else gains.get(best),
        retrieval_gain=retrieved.retrieval_gain("query" if model and measured[model].result.query else "prediction"),
        recall_gain=retrieved.recall_gain,
        skill=None if model is None or best is None else _skill(estimates[model].value, estimates[best].value),
        target_geometry=measure_target_geometry(samples.queries),
        ablations=ablations,
        breakdown=breakdown,
        cosine_percentiles=percentiles,
    )


def _skill(cosine: float, baseline_cosine: float) -> float:
    """Return the fraction of the baseline's error, 1 − cosine, that a model removes; 0 if the baseline has none."""
    error = 1 - baseline_cosine
    return (cosine - baseline_cosine) / error if error > 0 else 0.0


def _rank_targets(predictor: Predictor, samples: Samples) -> tuple[Tensor, Retrieval]:
    """Return (Q,) ranks among all chunks of the split, and retrieval among those of the target's document."""
    vectors, documents, queries = samples.windows.vectors, samples.windows.documents, samples.queries.windows
    rank = approximate_ranks if samples.recipe.retrieval == "faiss" else target_ranks
    ranks_Q: Tensor = rank(predictor, vectors, queries, samples.candidates)
    return ranks_Q, summarize_ranks(in_document_ranks(predictor, vectors, queries, documents))
