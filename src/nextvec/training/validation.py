"""The metrics of the model on val and ood, before the first step and after each epoch.

Cosines are measured with the same code as in the final evaluation, and so is the MRR of the query on val.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nextvec.data.order import EpochOrder
from nextvec.data.windows import sample
from nextvec.evaluation.metrics import Predictor, QueryPredictor, score_windows
from nextvec.evaluation.retrieval import candidates_of, target_ranks
from nextvec.training.orders import ScoreOrder
from nextvec.training.run import Run
from nextvec.training.state import EpochMetrics

LOSS_WINDOWS = 20_000
"""Validation windows (a fixed sample) for the loss terms, which cost more than cosines; cosines use all windows."""

MRR_SCORES = 2**27
"""Upper limit of scores (windows times chunks of val) for an MRR, so that it takes about a second on two cores. Up to
11,000 windows of 11,000 chunks are all measured; of more, a fixed sample."""


def validate(run: Run, split: str) -> EpochMetrics:
    """Score the model on a split with the same code as the final evaluation: float32, without dropout."""
    run.eval_model.eval()
    run.processes.broadcast(ScoreOrder(split))
    scores = score_windows(run.eval_model, run.sets[split].vectors, run.sets[split].windows, processes=run.processes)
    if not scores.is_finite:
        run.fail(f"the model's predictions on {split} are not finite", "Lower training.lr and start again.")
    baseline, cosine = run.best_baseline(split)
    metrics: EpochMetrics = {
        f"{split}_cosine": scores.mean_cosine,
        f"{split}_gain": scores.mean_cosine - cosine,
        f"{split}_best_baseline": f"{baseline} {cosine:.4f}",
        f"{split}_margin": scores.mean_margin,
    }
    return metrics | (_validation_losses(run) | _query_metrics(run) if split == "val" else {})


@torch.inference_mode()
def _validation_losses(run: Run) -> dict[str, float]:
    """Return the loss terms on a fixed shuffled sample of the validation windows, batched as in training."""
    windows = run.sets["val"]
    index_W = sample(len(windows), LOSS_WINDOWS, run.recipe.seed)
    index_W = index_W[EpochOrder(len(index_W), run.recipe.seed, 0)[:]].to(run.device)
    batches = index_W.split(run.recipe.training.batch_size)
    losses: dict[str, list[Tensor]] = {}
    for index_B in batches:
        batch = windows.batch(index_B)
        prediction_BD = run.eval_model(batch.context_BSD, batch.mask_BS)
        values = run.objective.values(prediction_BD, batch.target_BD, batch.group_B)
        values["loss"] = run.objective.loss(values)
        for name, value in values.items():
            if name.startswith("loss"):
                losses.setdefault(name, []).append(value)
    # Mean over windows: the last batch is smaller. One wait for the device per loss, not one per batch.
    means = {}
    for name, values_per_batch in losses.items():
        pairs = zip(torch.stack(values_per_batch).tolist(), batches, strict=True)
        means[f"val_{name}"] = sum(value * len(index_B) for value, index_B in pairs) / len(index_W)
    return means


def _query_metrics(run: Run) -> dict[str, Any]:
    """Return the MRR of the query on val next to the best baseline's; empty if the model has no query."""
    if not run.model.has_query:
        return {}
    # The baselines are measured once, on the same windows.
    if not run.baseline_mrr:
        run.baseline_mrr = validation_mrr(run, run.baselines)
    mrr = validation_mrr(run, {"query": QueryPredictor(run.eval_model)})["query"]
    # A NaN ranks above all candidates and would look like the best score.
    if not 0 < mrr <= 1:
        run.fail("the model's queries on val are not finite", "Lower training.lr and start again.")
    best = max(run.baseline_mrr, key=lambda name: run.baseline_mrr[name])
    return {
        "val_mrr": mrr,
        "val_mrr_gain": mrr - run.baseline_mrr[best],
        "val_mrr_best_baseline": f"{best} {run.baseline_mrr[best]:.4f}",
    }


def validation_mrr(run: Run, predictors: Mapping[str, Predictor]) -> dict[str, float]:
    """Return the MRR of predictors on val, among the candidates of the final evaluation: all chunks of the split.

    The windows are those of the final evaluation as well, unless val is so large that MRR_SCORES allows only a part.
    """
    val = run.sets["val"]
    candidates = candidates_of(val.vectors, val.documents, "val")
    count = min(run.recipe.evaluation.queries, max(1, MRR_SCORES // len(candidates)))
    windows = val.windows.take(sample(len(val), count, run.recipe.seed).to(run.device))
    return {
        name: float((1 / target_ranks(predictor, val.vectors, windows, candidates)).mean())
        for name, predictor in predictors.items()
    }
