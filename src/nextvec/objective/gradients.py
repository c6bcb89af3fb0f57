"""The gradients of the loss terms in closed form, where autograd would walk the same graph five times.

Every function returns a term's value and its gradient at the unit-length prediction u. What counts is the one at the
raw prediction p, of which u = p / |p|:

    ∂L/∂p = (∂L/∂u − (∂L/∂u · u) u) / |p|

A step spends its time on moving (B, D) blocks, not on arithmetic. So a gradient is kept as what it is made of, its
norm at p is found from two numbers for each window, and all terms are mixed in one go by `mix`.

tests/test_objective.py holds each against autograd.

Letters in names: B windows of a batch, Q of them that the query learns from, K negatives of a window, C = B + K
candidates, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.objective.terms import (
    SHORTEST,
    deviations,
    lengths,
    own_logits,
    pair_logits,
    sum_of_directions,
    variance,
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


@dataclass(frozen=True)
class Gradient:
    """A term's value, and its gradient at u: block + shift + slope ∘ u + pull · (u − t), of which it has some."""

    value: Tensor
    along_B: Tensor
    """The gradient's product with u, window by window."""
    square_B: Tensor
    """Its squared length."""
    block_BD: Tensor | None = None
    shift_D: Tensor | None = None
    slope_D: Tensor | None = None
    pull: float = 0.0

    def norm(self, raw: Raw) -> Tensor:
        """The norm of the gradient at the raw predictions, all windows and dimensions as one vector."""
        across_B = (self.square_B - self.along_B.square() * raw.turns_B1[:, 0]).clamp(min=0)
        norm: Tensor = torch.linalg.vector_norm(across_B.sqrt() / raw.length_B1[:, 0])
        return norm


def mix(raw: Raw, target_BD: Tensor, parts: Iterable[tuple[Gradient, Tensor | float]]) -> Tensor:
    """Σ factor · gradient at the raw predictions (B, D); blocks of the gradients are overwritten."""
    unit_BD = raw.unit_BD
    none = unit_BD.new_zeros(())
    shift_D, slope_D, along_B, pull, blocks = none, none, none, none, []
    for part, factor in parts:
        along_B = along_B + part.along_B * factor
        pull = pull + part.pull * factor
        if part.block_BD is not None:
            blocks.append(part.block_BD.mul_(factor))
        if part.shift_D is not None:
            shift_D = shift_D + part.shift_D * factor
        if part.slope_D is not None:
            slope_D = slope_D + part.slope_D * factor
    mixed_BD = blocks[0] if blocks else torch.zeros_like(unit_BD)
    for block_BD in blocks[1:]:
        mixed_BD += block_BD
    if slope_D is not none:
        mixed_BD.addcmul_(unit_BD, slope_D)
    if shift_D is not none:
        mixed_BD += shift_D
    mixed_BD.addcmul_(target_BD, -pull)
    mixed_BD.addcmul_(unit_BD, pull - along_B[:, None] * raw.turns_B1)
    return mixed_BD.div_(raw.length_B1)


def mse_gradient(unit_BD: Tensor, target_BD: Tensor, cosine_B: Tensor) -> Gradient:
    """`mse`, and 2 (u − t) / (B·D)."""
    pull = 2 / unit_BD.numel()
    square_B = torch.linalg.vector_norm(unit_BD - target_BD, dim=1).square()
    along_B = torch.linalg.vector_norm(unit_BD, dim=1).square() - cosine_B
    return Gradient(square_B.sum() * (pull / 2), along_B * pull, square_B * pull**2, pull=pull)


def info_nce_gradient(unit_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None) -> Gradient:
    """`info_nce`, and (P + Q − 2·1) t / (B·tau), P and Q being its softmax by rows and by columns."""
    logits_BB = pair_logits(unit_BD, target_BD, tau, group_B)
    by_row_BB, by_column_BB = logits_BB.log_softmax(dim=1), logits_BB.log_softmax(dim=0)
    value = sum_of_directions(by_row_BB, by_column_BB)
    at_logits_BB = by_row_BB.exp_().add_(by_column_BB.exp_()).div_(tau * len(unit_BD))
    at_logits_BB.diagonal().sub_(2 / (tau * len(unit_BD)))
    gradient_BD = at_logits_BB @ target_BD
    square_B = torch.linalg.vector_norm(gradient_BD, dim=1).square()
    return Gradient(value, (gradient_BD * unit_BD).sum(dim=1), square_B, block_BD=gradient_BD)


def batch_gradients(unit_BD: Tensor, target_BD: Tensor, terms: Iterable[str]) -> dict[str, Gradient]:
    """Those of `moment_matching` and `variance_floor` that `terms` names; both look at the batch as a whole.

    moment:   2 (m + 2 v ∘ (u − mean u)) / B, from the differences m of the means and v of the variances (D,)
    variance: −(u − mean u) / (B·D·std) in the dimensions whose std is below 1/√D, 0 in the others
    """
    mean_D = unit_BD.mean(dim=0)
    centred_BD = unit_BD - mean_D
    squares_BD = centred_BD.square()
    variance_D = squares_BD.mean(dim=0)

    def gradient(value: Tensor, start_D: Tensor | None, slope_D: Tensor) -> Gradient:
        """Start + slope ∘ (u − mean u), from products of the centred vectors and of their squares with a few (D,)."""
        ahead_D = torch.zeros_like(slope_D) if start_D is None else start_D
        linear_B2 = centred_BD @ torch.stack([ahead_D + mean_D * slope_D, 2 * ahead_D * slope_D], dim=1)
        square_B2 = squares_BD @ torch.stack([slope_D, slope_D.square()], dim=1)
        constant_2 = torch.stack([ahead_D @ mean_D, ahead_D @ ahead_D])
        along_B, square_B = (linear_B2 + square_B2 + constant_2).unbind(dim=1)
        return Gradient(value, along_B, square_B, shift_D=ahead_D - slope_D * mean_D, slope_D=slope_D)

    found = {}
    if "moment" in terms:
        means_D, variances_D = mean_D - target_BD.mean(dim=0), variance_D - variance(target_BD)
        value, scale = means_D.square().sum() + variances_D.square().sum(), 2 / len(unit_BD)
        found["moment"] = gradient(value, means_D * scale, variances_D * (2 * scale))
    if "variance" in terms:
        floor = len(variance_D) ** -0.5
        deviations_D = deviations(variance_D)
        below_D = (deviations_D < floor).to(deviations_D.dtype)
        slope_D = below_D / (deviations_D * -unit_BD.numel())
        found["variance"] = gradient(F.relu(floor - deviations_D).mean(), None, slope_D)
    return found


def query_nce_gradient(
    unit_QD: Tensor, target_BD: Tensor, wrong_QKD: Tensor, any_wrong_Q: Tensor, tau: float, group_B: Tensor
) -> tuple[Tensor, Tensor]:
    """`query_nce`, and (P − 1) [t, w / |w|] / (Q·tau), P being its softmax over the batch's targets and own wrong ones.

    The wrong ones, by far the largest block of a step, are never rewritten: their lengths are applied to the scores.
    """
    queries, targets = len(unit_QD), len(target_BD)
    length_QK = lengths(wrong_QKD)
    hard_QK = own_logits(unit_QD, wrong_QKD, length_QK, any_wrong_Q, tau)
    log_QC = torch.cat([pair_logits(unit_QD, target_BD, tau, group_B), hard_QK], dim=1).log_softmax(dim=1)
    value = -log_QC.diagonal().mean()
    at_logits_QC = log_QC.exp_().div_(tau * queries)
    at_logits_QC.diagonal().sub_(1 / (tau * queries))
    gradient_QD = at_logits_QC[:, :targets] @ target_BD
    at_wrong_QK = at_logits_QC[:, targets:] / length_QK
    return value, gradient_QD.add_(torch.bmm(at_wrong_QK[:, None], wrong_QKD)[:, 0])
