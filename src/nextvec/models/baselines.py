"""Baselines: the predictors that a trained model has to beat on the same windows.

    copy-last      the newest context vector
    context-mean   the mean of the context
    decayed-mean   Σ decay^age · context vector, with the decay of the highest mean cosine on train
    train-mean     the mean of the training targets, for any context
    ridge          linear regression from the context to the target, penalty chosen on held-out training documents

These are made for the cosine, and the next two for retrieval. The last one is made for both:

    retrieval-decay   a decayed mean with the decay of the highest MRR on train
    ridge-retrieval   linear regression from the context to the whitened target (`ridge_retrieval.py`)
    knn               the mean of the targets of the most similar training windows (`knn.py`)

They have the interface of a model, with fitted values in buffers instead of parameters. Every baseline accepts any
context length: the means leave absent vectors out, and ridge replaces them with their mean over train. `fit_baselines`
fits the first five in one pass over the windows; `training/baselines.py` fits the others.

Letters in names: B windows of a batch, S context length, D dimensions, C candidate decays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from nextvec import ops
from nextvec.core.console import progress
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import InputError
from nextvec.models.base import LatentModel, mean_of_present, read_context, unit
from nextvec.models.knn import KNN
from nextvec.models.ridge import Ridge, RidgeFit
from nextvec.models.ridge_retrieval import RidgeRetrieval

BASELINES = ("copy-last", "context-mean", "decayed-mean", "train-mean", "ridge")
"""The baselines of `fit_baselines`."""

DECAYS = torch.arange(5, 101, dtype=torch.float64) / 100
"""The candidates for decayed-mean: 0.05, 0.06 … 1."""


class WindowBatch(Protocol):
    """The part of `nextvec.data.windows.Batch` that `fit_baselines` uses."""

    @property
    def context_BSD(self) -> Tensor: ...  # noqa: D102, N802
    @property
    def target_BD(self) -> Tensor: ...  # noqa: D102, N802
    @property
    def mask_BS(self) -> Tensor | None: ...  # noqa: D102, N802
    @property
    def group_B(self) -> Tensor: ...  # noqa: D102, N802


class CopyLast(LatentModel):
    """Predicts the newest context vector."""

    name = "copy-last"

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        return context_BSD[:, -1]


class ContextMean(LatentModel):
    """Predicts the mean of the context."""

    name = "context-mean"

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        return mean_of_present(context_BSD, mask_BS)


class DecayedMean(LatentModel):
    """Predicts the sum of context vectors weighted by decay^age; the newest has age 0."""

    name = "decayed-mean"
    decay: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.register_buffer("decay", torch.tensor(1.0))

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        # Absent vectors are zero, so they add nothing to the sum; the length of the sum has no meaning.
        ages_S = torch.arange(context_BSD.shape[1] - 1, -1, -1, device=context_BSD.device)
        weights_S = self.decay**ages_S
        return (weights_S[:, None] * context_BSD).sum(dim=1)


class RetrievalDecay(DecayedMean):
    """Predicts the decayed mean that retrieves best on train."""

    name = "retrieval-decay"
    train_mrr: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        # The MRR on train of the chosen decay, which is a fact about the fit and does not change a prediction.
        self.register_buffer("train_mrr", torch.tensor(0.0))


class TrainMean(LatentModel):
    """Predicts the mean of the training targets for every window."""

    name = "train-mean"
    mean_D: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.register_buffer("mean_D", torch.zeros(dimensions))

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        return self.mean_D.expand(len(context_BSD), -1)


BASELINE_CLASSES: dict[str, type[LatentModel]] = {
    baseline.name: baseline
    for baseline in (CopyLast, ContextMean, DecayedMean, TrainMean, Ridge, RetrievalDecay, RidgeRetrieval, KNN)
}


def fit_baselines(
    batches: Iterable[WindowBatch],
    origin_D: Tensor,
    context: int,
    *,
    processes: ProcessGroup = ALONE,
    quiet: bool = False,
) -> dict[str, LatentModel]:
    """Fit the BASELINES in one pass over batches of training windows; return them by name, on the origin's device.

    Contexts (B, S, D) and targets (B, D) may have any float type; S is `context`. `origin_D` (D,) is about the mean of
    the targets. All windows of a document group either fit ridge or choose its penalty. Several processes call this
    together, each with the batches of its part of `divide_windows`; the main one gets the baselines, the others none.
    Raises InputError for no windows or non-finite vectors.
    """
    dimensions, device = len(origin_D), origin_D.device
    decay_fit, ridge_fit = _DecayFit(context), RidgeFit(dimensions, context, origin_D)
    with torch.no_grad(), progress("fitting baselines", unit="windows", quiet=quiet) as task:
        # One pass: every batch goes to both fits, and the batch is not kept.
        for batch in batches:
            assert batch.context_BSD.shape[1:] == (context, dimensions), tuple(batch.context_BSD.shape)
            decay_fit.add(batch)
            ridge_fit.add(batch.context_BSD, batch.target_BD, batch.mask_BS, batch.group_B)
            task.advance(len(batch.target_BD))
        decay_fit.finish(processes)
        ridge_fit.finish(processes)
        if not processes.is_main:
            return {}
        if ridge_fit.is_empty:
            raise InputError("no training windows to fit the baselines on. Add documents, or reduce data.context.")
        ridge, target_mean_D = ridge_fit.solve()
    # Ridge has already averaged the targets, so train-mean takes that mean.
    train_mean = TrainMean(dimensions)
    train_mean.mean_D.copy_(target_mean_D)
    decayed_mean = DecayedMean(dimensions)
    decayed_mean.decay.fill_(decay_fit.best())
    fitted = (CopyLast(dimensions), ContextMean(dimensions), decayed_mean, train_mean, ridge)
    return {baseline.name: baseline.to(device).eval() for baseline in fitted}


class _DecayFit:
    """The sum over windows of the cosine of every candidate decay, computed from S² + S products per window."""

    def __init__(self, context: int) -> None:
        ages_S = torch.arange(context - 1, -1, -1, dtype=torch.float64)
        self._weights_SC = DECAYS ** ages_S[:, None]
        self._cosines_C = torch.zeros(len(DECAYS), dtype=torch.float64)

    def add(self, batch: WindowBatch) -> None:
        # With m = Σ w_s c_s, the cosine of m and t is Σ w_s (c_s · t) / √(Σ w_r w_s (c_r · c_s)): the products of a
        # window's vectors give it for all candidates.
        context_BSD = read_context(batch.context_BSD, batch.mask_BS)
        weights_SC = self._weights_SC.to(context_BSD)
        to_target_BS = torch.einsum("bsd,bd->bs", context_BSD, unit(batch.target_BD))
        products_BSS = context_BSD @ context_BSD.mT
        squared_length_BC = ((products_BSS @ weights_SC) * weights_SC).sum(dim=1)
        cosines_BC = to_target_BS @ weights_SC / squared_length_BC.clamp(min=ops.MIN_LENGTH**2).sqrt()
        self._cosines_C += cosines_BC.sum(dim=0).cpu()

    def finish(self, processes: ProcessGroup) -> None:
        processes.sum_(self._cosines_C)

    def best(self) -> float:
        return float(DECAYS[self._cosines_C.argmax()])
