"""The gradients of the loss terms in closed form: one pass each, where autograd would walk the same graph five times.

Every function returns a term's value, the same digits as its twin in `terms`, and its gradient at the unit-length
prediction u. `Raw.gradient` takes that to the raw prediction p, of which u = p / |p|:

    ∂L/∂p = (∂L/∂u − (∂L/∂u · u) u) / |p|

tests/test_objective.py holds each against autograd.

Letters in names: B windows of a batch, K negatives of a window, C = B + K candidates, D dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.objective.terms import (
    SHORTEST,
    deviations,
    mse,
    pair_logits,
    query_logits,
    sum_of_directions,
)


@dataclass(frozen=True)
class Raw:
    """Raw predictions, their directions and lengths."""

    unit_BD: Tensor
    """u, as `F.normalize` gives it."""
    length_B1: Tensor
    """|p|, at least SHORTEST."""
    turns_B1: Tensor
    """1 where a prediction has a direction; 0 below SHORTEST, where u = p / SHORTEST is linear in p."""

    @classmethod
    def of(cls, prediction_BD: Tensor) -> Raw:
        """What the gradient at some raw predictions (B, D) needs."""
        length_B1 = torch.linalg.vector_norm(prediction_BD, dim=1, keepdim=True)
        turns_B1 = (length_B1 >= SHORTEST).to(prediction_BD.dtype)
        length_B1 = length_B1.clamp(min=SHORTEST)
        return cls(prediction_BD / length_B1, length_B1, turns_B1)

    def gradient(self, gradient_BD: Tensor) -> Tensor:
        """The gradient at the raw predictions from the one at their directions, which is overwritten."""
        along_B1 = (gradient_BD * self.unit_BD).sum(dim=1, keepdim=True) * self.turns_B1
        return gradient_BD.addcmul_(self.unit_BD, along_B1, value=-1).div_(self.length_B1)


def mse_gradient(unit_BD: Tensor, target_BD: Tensor) -> tuple[Tensor, Tensor]:
    """`mse`, and 2 (u − t) / (B·D)."""
    return mse(unit_BD, target_BD), (unit_BD - target_BD).mul_(2 / unit_BD.numel())


def info_nce_gradient(unit_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None) -> tuple[Tensor, Tensor]:
    """`info_nce`, and (P + Q − 2·1) t / (B·tau), P and Q being its softmax by rows and by columns."""
    logits_BB = pair_logits(unit_BD, target_BD, tau, group_B)
    by_row_BB, by_column_BB = logits_BB.log_softmax(dim=1), logits_BB.log_softmax(dim=0)
    value = sum_of_directions(by_row_BB, by_column_BB)
    at_logits_BB = by_row_BB.exp_().add_(by_column_BB.exp_())
    at_logits_BB.diagonal().sub_(2)
    return value, at_logits_BB @ (target_BD / (tau * len(unit_BD)))


def moment_gradient(centred_BD: Tensor, means_D: Tensor, variances_D: Tensor) -> tuple[Tensor, Tensor]:
    """`moment_matching`, and 2 (m + 2 v (u − mean u)) / B, from the differences m of means and v of variances (D,)."""
    value = means_D.square().sum() + variances_D.square().sum()
    scale = 2 / len(centred_BD)
    return value, torch.addcmul(means_D * scale, centred_BD, variances_D * (2 * scale))


def variance_gradient(centred_BD: Tensor, variance_D: Tensor) -> tuple[Tensor, Tensor]:
    """`variance_floor`, and −(u − mean u) / (B·D·std) in the dimensions whose std is below 1/√D, 0 in the others."""
    floor = len(variance_D) ** -0.5
    deviations_D = deviations(variance_D)
    below_D = (deviations_D < floor).to(deviations_D.dtype)
    return F.relu(floor - deviations_D).mean(), centred_BD * (below_D / (deviations_D * -centred_BD.numel()))


def query_nce_gradient(
    unit_BD: Tensor, target_BD: Tensor, wrong_BKD: Tensor, any_wrong_B: Tensor, tau: float, group_B: Tensor
) -> tuple[Tensor, Tensor]:
    """`query_nce`, and (P − 1) [t, w] / (B·tau), P being its softmax over the batch's targets and own wrong ones."""
    count = len(unit_BD)
    log_BC = query_logits(unit_BD, target_BD, wrong_BKD, any_wrong_B, tau, group_B).log_softmax(dim=1)
    value = -log_BC.diagonal().mean()
    at_logits_BC = log_BC.exp_().div_(tau * count)
    at_logits_BC.diagonal().sub_(1 / (tau * count))
    gradient_BD = at_logits_BC[:, :count] @ target_BD
    return value, gradient_BD.add_(torch.bmm(at_logits_BC[:, None, count:], wrong_BKD)[:, 0])
