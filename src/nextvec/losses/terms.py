"""The loss terms: pure functions of unit-length predictions and targets, each in the units of the runbook.

`gradients` holds their closed-form gradients.

Letters in names: B windows of a batch, Q of them with a query, K negatives of a window, C = B + K candidates,
D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec import ops


def mse(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Return the mean squared error over windows and dimensions: Σ (p − t)² / (B·D).

    For unit vectors that is (2 − 2 cos) / D: 0.0012 at cosine 0.55 and D = 768, the runbook's unit.
    """
    return F.mse_loss(prediction_BD, target_BD)


def info_nce(
    prediction_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None = None, block: int | None = None
) -> Tensor:
    """Return symmetric InfoNCE in nats, the sum of both directions (the runbook's unit).

    One direction is −mean log softmax of p·t / tau over all targets for each prediction, the other one over all
    predictions for each target. With `group_B`, other pairs of a pair's group are not used as its negatives. With
    `block`, nor are those outside of its block of so many pairs. A pair without negatives adds 0.

    Source: van den Oord et al. 2018, equation 4; both directions as in Radford et al. 2021 (CLIP), figure 3.
    """
    logits_BB = pair_logits(prediction_BD, target_BD, tau, group_B)
    if block is not None:
        block_B = torch.arange(len(target_BD), device=target_BD.device) // block
        logits_BB = logits_BB.masked_fill(block_B[:, None] != block_B, -torch.inf)
    # Each prediction's own target is on the diagonal.
    by_row_BB, by_column_BB = logits_BB.log_softmax(dim=1), logits_BB.log_softmax(dim=0)
    return -by_row_BB.diagonal().mean() - by_column_BB.diagonal().mean()


def pair_logits(prediction_QD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None) -> Tensor:
    """Return p·t / tau (Q, B) of every prediction with every target; −∞ for other pairs of a row's group.

    The predictions belong to the first Q of the B windows, so that each one's target is on the diagonal.
    """
    return mask_same_group((prediction_QD @ target_BD.T) / tau, group_B)


def mask_same_group(logits_QB: Tensor, group_B: Tensor | None, own_Q: Tensor | None = None) -> Tensor:
    """Set the logits of other pairs of a row's group to −∞.

    `own_Q` are the positions of the rows' windows among the B windows; None: the first Q.
    """
    if group_B is None:
        return logits_QB
    rows_Q = torch.arange(len(logits_QB), device=logits_QB.device)
    own_Q = rows_Q if own_Q is None else own_Q
    same_group_QB = group_B[own_Q, None] == group_B
    same_group_QB[rows_Q, own_Q] = False
    return logits_QB.masked_fill(same_group_QB, -torch.inf)


OTHER_DOCUMENTS_LOGIT = 1.0
"""Added to the query's logits of targets of other documents. A split has many more chunks of other documents than a
batch, but no more later chunks of the target's document, so that a batch alone trains too little against the former."""


def query_nce(
    query_QD: Tensor, target_BD: Tensor, negative_QKD: Tensor, has_negatives_Q: Tensor, tau: float, group_B: Tensor
) -> Tensor:
    """Return InfoNCE of the query output in nats: −mean log softmax of q·t / tau at the window's own target.

    The queries belong to the first Q of the batch's B windows. Their negatives are the batch's targets of other groups,
    and K later chunks of the window's document, `negative_QKD`, of any length, if `has_negatives_Q` is True. These are
    hard negatives: the next chunk must be told apart from those after it. Each target of another group counts e times,
    see OTHER_DOCUMENTS_LOGIT.

    Source: van den Oord et al. 2018, equation 4; hard negatives as in Karpukhin et al. 2020 (DPR), section 3.2.
    """
    batch_logits_QB = pair_logits(query_QD, target_BD, tau, group_B) + OTHER_DOCUMENTS_LOGIT
    batch_logits_QB.diagonal().sub_(OTHER_DOCUMENTS_LOGIT)
    # Cosines with the hard negatives; the lengths of the queries are 1.
    length_QK = torch.linalg.vector_norm(negative_QKD, dim=-1).clamp(min=ops.MIN_LENGTH)
    hard_logits_QK = torch.bmm(negative_QKD, query_QD[:, :, None])[:, :, 0] / (length_QK * tau)
    hard_logits_QK = hard_logits_QK.masked_fill(~has_negatives_Q[:, None], -torch.inf)
    logits_QC = torch.cat([batch_logits_QB, hard_logits_QK], dim=1)
    return -logits_QC.log_softmax(dim=1).diagonal().mean()


def moment_matching(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Return the squared distance of the batch's first two moments: |mean p − mean t|² + |var p − var t|².

    Squares are summed over D, so that the unit is the squared length of unit vectors. Each dimension's variance over
    the batch is divided by B, so that it is finite for a batch of one.

    Source: the first two terms of the central moment discrepancy, Zellinger et al. 2017, definition 2, squared.
    """
    mean_difference_D = prediction_BD.mean(dim=0) - target_BD.mean(dim=0)
    variance_difference_D = variance(prediction_BD) - variance(target_BD)
    return mean_difference_D.square().sum() + variance_difference_D.square().sum()


def variance(vectors_BD: Tensor) -> Tensor:
    """Return the variance (D,) over the batch, divided by B. On the CPU ten times as fast as `Tensor.var`."""
    return (vectors_BD - vectors_BD.mean(dim=0)).square().mean(dim=0)


def variance_floor(prediction_BD: Tensor) -> Tensor:
    """Return how far the standard deviations over the batch are below 1/√D: mean over D of max(0, 1/√D − std).

    1/√D is the standard deviation of unit vectors that point evenly in all directions. The value is between 0 and that.

    Source: the variance term of VICReg, Bardes et al. 2022, equations 1 and 2, with γ = 1/√D instead of 1 (their
    vectors have no fixed length), their ε = 0.0001 scaled by γ², and the variance divided by B.
    """
    floor = prediction_BD.shape[1] ** -0.5
    return F.relu(floor - standard_deviation(variance(prediction_BD))).mean()


def standard_deviation(variance_D: Tensor) -> Tensor:
    """Return the standard deviations (D,) that `variance_floor` compares with 1/√D."""
    return (variance_D + 1e-4 / len(variance_D)).sqrt()
