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

from nextvec import ops
from nextvec.losses.terms import SHORTEST, deviations, mask_group


@dataclass(frozen=True)
class Raw:
    """Raw predictions, their directions and lengths."""

    unit_BD: Tensor
    """u, as `F.normalize` gives it."""
    length_B1: Tensor
    """|p|, at least SHORTEST."""
    turns_B: Tensor
    """1 where a prediction has a direction; 0 below SHORTEST, where u = p / SHORTEST is linear in p."""

    @classmethod
    def of(cls, prediction_BD: Tensor) -> Raw:
        """What the gradient at some raw predictions (B, D) needs."""
        unit_BD, length_B1 = ops.normalise(prediction_BD, SHORTEST)
        return cls(unit_BD, length_B1, (length_B1[:, 0] > SHORTEST).to(unit_BD.dtype))


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
        across_B = (self.square_B - self.along_B.square() * raw.turns_B).clamp(min=0)
        norm: Tensor = torch.linalg.vector_norm(across_B.sqrt() / raw.length_B1[:, 0])
        return norm


def mix(raw: Raw, target_BD: Tensor, parts: Iterable[tuple[Gradient, Tensor | float]]) -> Tensor:
    """Σ factor · gradient at the raw predictions (B, D); a block, which one of them may have, is overwritten."""
    unit_BD = raw.unit_BD
    block_BD, factor_of_block = None, unit_BD.new_zeros(())
    shift_D, slope_D = unit_BD.new_zeros(2, unit_BD.shape[1])
    along_B, pull = torch.zeros_like(raw.turns_B), unit_BD.new_zeros(())
    for part, factor in parts:
        along_B = along_B + part.along_B * factor
        pull = pull + part.pull * factor
        if part.block_BD is not None:
            assert block_BD is None
            block_BD, factor_of_block = part.block_BD, factor_of_block + factor
        if part.slope_D is not None and part.shift_D is not None:
            shift_D, slope_D = shift_D + part.shift_D * factor, slope_D + part.slope_D * factor
    pull_B = pull - along_B * raw.turns_B
    return ops.mix(block_BD, factor_of_block, shift_D, slope_D, pull_B, pull, unit_BD, target_BD, raw.length_B1)


def mse_gradient(unit_BD: Tensor, distance_B: Tensor, square_B: Tensor, cosine_B: Tensor) -> Gradient:
    """`mse`, and 2 (u − t) / (B·D), from `ops.compare` of u and t."""
    pull = 2 / unit_BD.numel()
    return Gradient(distance_B.sum() * (pull / 2), (square_B - cosine_B) * pull, distance_B * pull**2, pull=pull)


def info_nce_gradient(
    unit_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None, products: torch.dtype
) -> Gradient:
    """`info_nce`, and (P + Q − 2·1) t / (B·tau), P and Q being its softmax by rows and by columns."""
    products_BB = ops.multiply(unit_BD, target_BD.T, products)
    value, at_products_BB = ops.pair_both_ways(products_BB, tau, group_B)
    gradient_BD = ops.multiply(at_products_BB, target_BD, products)
    along_B, _, square_B = ops.compare(gradient_BD, unit_BD)
    return Gradient(value, along_B, square_B, block_BD=gradient_BD)


def batch_gradients(unit_BD: Tensor, target_BD: Tensor, terms: Iterable[str]) -> dict[str, Gradient]:
    """Those of `moment_matching` and `variance_floor` that `terms` names; both look at the batch as a whole.

    moment:   2 (m + 2 v ∘ (u − mean u)) / B, from the differences m of the means and v of the variances (D,)
    variance: −(u − mean u) / (B·D·std) in the dimensions whose std is below 1/√D, 0 in the others
    """
    mean_D, variance_D = ops.moments(unit_BD)

    def gradient(value: Tensor, start_D: Tensor | float, slope_D: Tensor) -> Gradient:
        """Start + slope ∘ (u − mean u)."""
        shift_D = start_D - slope_D * mean_D
        along_B, square_B = ops.measure_affine(unit_BD, shift_D, slope_D)
        return Gradient(value, along_B, square_B, shift_D=shift_D, slope_D=slope_D)

    found = {}
    if "moment" in terms:
        targets_mean_D, targets_variance_D = ops.moments(target_BD)
        means_D, variances_D = mean_D - targets_mean_D, variance_D - targets_variance_D
        value, scale = means_D.square().sum() + variances_D.square().sum(), 2 / len(unit_BD)
        found["moment"] = gradient(value, means_D * scale, variances_D * (2 * scale))
    if "variance" in terms:
        floor = len(variance_D) ** -0.5
        deviations_D = deviations(variance_D)
        below_D = (deviations_D < floor).to(deviations_D.dtype)
        slope_D = below_D / (deviations_D * -unit_BD.numel())
        found["variance"] = gradient(F.relu(floor - deviations_D).mean(), 0.0, slope_D)
    return found


def query_nce_gradient(
    unit_QD: Tensor, target_BD: Tensor, wrong_QKD: Tensor, any_wrong_Q: Tensor, tau: float, group_B: Tensor,
    products: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`query_nce`, and (P − 1) [t, w / |w|] / (Q·tau), P being its softmax over the batch's targets and own wrong ones.

    The wrong ones, by far the largest block of a step, are read as they are stored and never rewritten: their lengths
    are applied to the scores.
    """
    queries, targets = len(unit_QD), len(target_BD)
    length_QK = ops.lengths(wrong_QKD, SHORTEST)
    hard_QK = ops.score(unit_QD[:, None], wrong_QKD)[:, 0] / (length_QK * tau)
    hard_QK = hard_QK.masked_fill_(~any_wrong_Q[:, None], -torch.inf)
    logits_QB = mask_group(ops.multiply(unit_QD, target_BD.T, products).div_(tau), group_B)
    log_QC = torch.cat([logits_QB, hard_QK], dim=1).log_softmax(dim=1)
    value = -log_QC.diagonal().mean()
    at_logits_QC = log_QC.exp_().div_(tau * queries)
    at_logits_QC.diagonal().sub_(1 / (tau * queries))
    gradient_QD = ops.multiply(at_logits_QC[:, :targets], target_BD, products)
    at_wrong_QK = at_logits_QC[:, targets:] / length_QK
    return value, gradient_QD.add_(ops.combine(at_wrong_QK[:, None], wrong_QKD)[0][:, 0])
