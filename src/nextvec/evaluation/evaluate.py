"""The judgement: a model beside every baseline, on the same windows, with intervals over documents.

Cosine, MSE, margin, gain and the breakdown are of all windows of a split; the other measures are of the fixed sample of
them that the retrieval queries are, rollouts and ablations of a part of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nextvec.core.console import Task, progress
from nextvec.data.store import DocumentTable
from nextvec.data.windows import Windows, WindowSet, sample
from nextvec.errors import NotFiniteError
from nextvec.evaluation.ablations import measure_ablations
from nextvec.evaluation.bootstrap import bootstrap_means, interval
from nextvec.evaluation.breakdown import break_down
from nextvec.evaluation.geometry import measure_shape, target_shape
from nextvec.evaluation.metrics import Predictor, QueryOf, WindowScores, score_windows
from nextvec.evaluation.offsets import measure_alignment
from nextvec.evaluation.results import Estimate, Evaluation, Latency, PredictorResult, Retrieval, SplitResult
from nextvec.evaluation.retrieval import (
    Candidates,
    candidates_of,
    measure_contrast,
    summarise,
    target_ranks,
    within_ranks,
)
from nextvec.evaluation.retrieval_faiss import NEIGHBOURS, approximate_ranks, require_faiss
from nextvec.evaluation.rollout import measure_rollout
from nextvec.evaluation.verdict import conclude
from nextvec.models.base import LatentModel
from nextvec.recipe import EvaluationRecipe

__all__ = ["Evaluation", "evaluate_predictors"]

REPEATED = 2_000
"""Most windows for rollouts and ablations, which predict each of them many times."""


def evaluate_predictors(
    predictors: Mapping[str, Predictor],
    sets: Mapping[str, WindowSet],
    recipe: EvaluationRecipe,
    *,
    seed: int,
    model: str | None,
    notes: Sequence[str] = (),
    latency: Latency | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Judge predictors on the windows of some splits; `model` names the one that the others are baselines of.

    `sets` are on the predictors' device. A split without windows is left out with a note, after the `notes` given;
    `latency` is the model's and passed on. Without a model there are no gains and no verdict.
    Raises NotFiniteError if a prediction is NaN or infinite, MissingExtraError if the recipe wants faiss and it is not
    installed.
    """
    assert predictors and (model is None or model in predictors), (model, list(predictors))
    names = sorted(predictors, key=lambda name: name != model)  # a stable sort: the model first, the others as given
    total = len(names) * sum(map(len, sets.values()))
    splits, told = {}, [*notes]
    if recipe.retrieval == "faiss":
        require_faiss()
        told.append(f"retrieval: ranks beyond {NEIGHBOURS:,} count as {NEIGHBOURS + 1:,} (faiss)")
    with progress("evaluating", total, unit="windows", quiet=quiet) as task:
        for split, windows in sets.items():
            if len(windows) == 0:
                told.append(f"{split}: not judged, no document is long enough for a window")
                continue
            ordered = {name: predictors[name] for name in names}
            splits[split] = _evaluate_split(ordered, windows, recipe, seed, model, task)
    verdict = None if model is None else conclude(model, splits)
    return Evaluation(model, splits, tuple(told), verdict, latency)


def _evaluate_split(
    predictors: Mapping[str, Predictor],
    evaluated: WindowSet,
    recipe: EvaluationRecipe,
    seed: int,
    model: str | None,
    task: Task,
) -> SplitResult:
    vectors, documents, windows, split = evaluated.vectors, evaluated.documents, evaluated.windows, evaluated.split
    candidates = candidates_of(vectors, documents, split)
    queries = windows.take(sample(len(windows), recipe.queries, seed).to(vectors.device))
    sampled = replace(evaluated, windows=queries)
    few = replace(evaluated, windows=queries.take(sample(len(queries), REPEATED, seed).to(vectors.device)))
    ranks_of = partial(_ranks, recipe=recipe, vectors=vectors, windows=queries, candidates=candidates)
    alignments = measure_alignment(predictors, sampled, recipe.resamples, seed)
    scores: dict[str, WindowScores] = {}
    retrievals: dict[str, Retrieval] = {}
    measures: dict[str, dict[str, Any]] = {}
    for name, predictor in predictors.items():
        scores[name] = score_windows(predictor, vectors, windows)
        if not scores[name].finite:
            lost = int((~np.isfinite(scores[name].cosine)).sum())
            raise NotFiniteError(f"{name} on {split}: {lost:,} of {len(windows):,} predictions are not finite numbers")
        retrievals[name] = summarise(ranks_of(predictor))
        measures[name] = {
            "within": summarise(within_ranks(predictor, vectors, queries, documents)),
            "contrast": measure_contrast(predictor, sampled),
            "alignment": alignments[name],
            "shape": measure_shape(predictor, sampled),
            "rollout": measure_rollout(predictor, few),
        }
        if isinstance(predictor, LatentModel) and predictor.has_query:
            query = QueryOf(predictor)
            measures[name]["query"] = summarise(ranks_of(query))
            measures[name]["query_within"] = summarise(within_ranks(query, vectors, queries, documents))
        task.advance(len(windows))

    groups_W = windows.groups.cpu().numpy()
    cosines, gains = _estimates(scores, groups_W, recipe.resamples, seed, model)
    baselines = [name for name in predictors if name != model]
    best = max(baselines, key=lambda name: cosines[name].value, default=None)
    return SplitResult(
        windows=len(windows),
        documents=_count_documents(windows, documents),
        groups=len(np.unique(groups_W)),
        candidates=len(candidates),
        queries=len(queries),
        predictors={
            name: PredictorResult(
                cosines[name],
                scores[name].mean_mse,
                scores[name].mean_margin,
                retrievals[name],
                gains.get(name),
                **measures[name],
            )
            for name in predictors
        },
        best_baseline=best,
        gain=None if best is None else gains.get(best),
        target_shape=target_shape(sampled),
        ablations={} if model is None else measure_ablations(predictors[model], few, recipe.resamples, seed),
        parts=None
        if model is None or best is None
        else break_down(scores[model].cosine, scores[best].cosine, evaluated, recipe.resamples, seed),
    )


def _ranks(
    predictor: Predictor, *, recipe: EvaluationRecipe, vectors: Tensor, windows: Windows, candidates: Candidates
) -> Tensor:
    """(Q,) the rank of each window's target, as the recipe wants it found."""
    find = approximate_ranks if recipe.retrieval == "faiss" else target_ranks
    return find(predictor, vectors, windows, candidates)


def _estimates(
    scores: Mapping[str, WindowScores], groups_W: NDArray[np.int32], resamples: int, seed: int, model: str | None
) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Each predictor's cosine, and the model's gain over each other one, with intervals from the same resamples."""
    cosines = {name: score.cosine for name, score in scores.items()}
    gains = {} if model is None else {name: cosines[model] - cosines[name] for name in scores if name != model}
    rows_PW = np.stack([*cosines.values(), *gains.values()])
    means_PR = bootstrap_means(rows_PW, groups_W, resamples, seed)
    groups = len(np.unique(groups_W))
    bounds = [(-1.0, 1.0)] * len(cosines) + [(-2.0, 2.0)] * len(gains)
    estimates = [
        Estimate(float(row.mean(dtype=np.float64)), *interval(means, groups, bounds=bound))
        for row, means, bound in zip(rows_PW, means_PR, bounds, strict=True)
    ]
    return (
        dict(zip(cosines, estimates[: len(cosines)], strict=True)),
        dict(zip(gains, estimates[len(cosines) :], strict=True)),
    )


def _count_documents(windows: Windows, documents: DocumentTable) -> int:
    """How many documents some windows come from."""
    targets = windows.targets.cpu().numpy()
    return len(np.unique(np.searchsorted(documents.first_row, targets, side="right")))
