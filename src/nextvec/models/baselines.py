"""Baselines: what a trained model has to beat on the same windows.

    copy-last      the newest context vector
    context-mean   the mean of the context
    decayed-mean   Σ decay^age · context vector, the decay that gives the highest mean cosine on train
    train-mean     the mean of the training targets, whatever the context
    ridge          linear regression from the context to the target, penalty chosen on held-out training documents

They have the interface of a trained model and no trainable parameters; what was fitted is in buffers. Where context
vectors are absent, the means leave them out and ridge puts their mean over train in their place, so that any context
length can be read by any baseline. `fit_baselines` fits all of them in one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor

from nextvec.core.console import progress
from nextvec.errors import InputError
from nextvec.models.base import SHORTEST, LatentModel, mean_of_present, read_context, unit
from nextvec.models.ridge import Ridge, RidgeFit

BASELINES = ("copy-last", "context-mean", "decayed-mean", "train-mean", "ridge")

DECAYS = torch.arange(5, 101, dtype=torch.float64) / 100
"""What decayed-mean tries: 0.05, 0.06 … 1."""


class WindowBatch(Protocol):
    """What `fit_baselines` reads of a batch of windows; `nextvec.data.windows.Batch` is one."""

    @property
    def context_BSD(self) -> Tensor: ...  # noqa: D102, N802
    @property
    def target_BD(self) -> Tensor: ...  # noqa: D102, N802
    @property
    def mask_BS(self) -> Tensor | None: ...  # noqa: D102, N802
    @property
    def group_B(self) -> Tensor: ...  # noqa: D102, N802


class CopyLast(LatentModel):
    """The newest context vector."""

    name = "copy-last"

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        return context_BSD[:, -1]


class ContextMean(LatentModel):
    """The mean of the context."""

    name = "context-mean"

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        return mean_of_present(context_BSD, mask_BS)


class DecayedMean(LatentModel):
    """Each context vector weighted by decay^age; the newest has age 0."""

    name = "decayed-mean"
    decay: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.register_buffer("decay", torch.tensor(1.0))

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        ages_S = torch.arange(context_BSD.shape[1] - 1, -1, -1, device=context_BSD.device)
        weights_S = self.decay**ages_S
        return (weights_S[:, None] * context_BSD).sum(dim=1)


class TrainMean(LatentModel):
    """The mean of the training targets, for every window."""

    name = "train-mean"
    mean_D: Tensor

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        self.register_buffer("mean_D", torch.zeros(dimensions))

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        return self.mean_D.expand(len(context_BSD), -1)


BASELINE_CLASSES: dict[str, type[LatentModel]] = {
    baseline.name: baseline for baseline in (CopyLast, ContextMean, DecayedMean, TrainMean, Ridge)
}


def fit_baselines(
    batches: Iterable[WindowBatch], dimensions: int, context: int, *, quiet: bool = False
) -> dict[str, LatentModel]:
    """All baselines by name, fitted in one pass over batches of training windows, on the batches' device.

    Batches hold contexts (B, S, D) and targets (B, D) of any float type, S = `context`, D = `dimensions`; a group is
    never divided between fitting and choosing ridge's penalty. Raises InputError if there are no windows, or if
    vectors are not finite.
    """
    decay_fit, ridge_fit = _DecayFit(context), RidgeFit(dimensions, context)
    device = torch.device("cpu")
    with torch.no_grad(), progress("fitting baselines", unit="windows", quiet=quiet) as task:
        for batch in batches:
            assert batch.context_BSD.shape[1:] == (context, dimensions), tuple(batch.context_BSD.shape)
            device = batch.target_BD.device
            decay_fit.add(batch)
            ridge_fit.add(batch.context_BSD, batch.target_BD, batch.mask_BS, batch.group_B)
            task.advance(len(batch.target_BD))
        if not task.done:
            raise InputError("no training windows to fit the baselines on; give more documents, or a shorter context")
        ridge, target_mean_D = ridge_fit.solve()
    train_mean = TrainMean(dimensions)
    train_mean.mean_D.copy_(target_mean_D)
    decayed_mean = DecayedMean(dimensions)
    decayed_mean.decay.fill_(decay_fit.best())
    fitted = (CopyLast(dimensions), ContextMean(dimensions), decayed_mean, train_mean, ridge)
    return {baseline.name: baseline.to(device).eval() for baseline in fitted}


class _DecayFit:
    """Sums, over windows, of the cosine that each decay reaches; S² + S numbers a window tell it for all of them."""

    def __init__(self, context: int) -> None:
        ages_S = torch.arange(context - 1, -1, -1, dtype=torch.float64)
        self._weights_SC = DECAYS ** ages_S[:, None]  # C candidates
        self._cosines_C = torch.zeros(len(DECAYS), dtype=torch.float64)

    def add(self, batch: WindowBatch) -> None:
        context_BSD = read_context(batch.context_BSD, batch.mask_BS)
        weights_SC = self._weights_SC.to(context_BSD)
        to_target_BS = torch.einsum("bsd,bd->bs", context_BSD, unit(batch.target_BD))
        among_BSS = context_BSD @ context_BSD.mT
        squared_BC = ((among_BSS @ weights_SC) * weights_SC).sum(dim=1)
        cosines_BC = to_target_BS @ weights_SC / squared_BC.clamp(min=SHORTEST**2).sqrt()
        self._cosines_C += cosines_BC.sum(dim=0).cpu()

    def best(self) -> float:
        return float(DECAYS[self._cosines_C.argmax()])
