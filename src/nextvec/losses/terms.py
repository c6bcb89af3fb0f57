"""The loss terms: pure functions of predictions and targets of unit length, each in the units of the runbook.

Their gradients in closed form stand in `gradients`.

Letters in names: B windows of a batch, Q of them that the query learns from, K negatives of a window, D dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SHORTEST = 1e-6
"""Length below which a prediction has no direction, as in the models' `predict`."""


def mse(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error over windows and dimensions: Σ (p − t)² / (B·D).

    For unit vectors that is (2 − 2 cos) / D: 0.0012 at cosine 0.55 and D = 768, the runbook's unit.
    """
    return F.mse_loss(prediction_BD, target_BD)


def info_nce(prediction_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE, in nats, summed over both directions (the runbook's unit).

    −mean log softmax over the batch of p·t / tau at the pair, once among all targets for a prediction and once among
    all predictions for a target. With `group_B`, other pairs of a pair's own group are no negatives to it. A pair
    without negatives adds 0.

    Source: van den Oord et al. 2018, equation 4; both directions as in Radford et al. 2021 (CLIP), figure 3.
    """
    logits_BB = pair_logits(prediction_BD, target_BD, tau, group_B)
    return sum_of_directions(logits_BB.log_softmax(dim=1), logits_BB.log_softmax(dim=0))


def pair_logits(prediction_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None) -> Tensor:
    """(Q, B) p·t / tau of every prediction (row) with every target; −infinity for other pairs of a row's group.

    The predictions are those of the first Q of the B windows, so that each pair's own stands on the diagonal.
    """
    return mask_group((prediction_BD @ target_BD.T) / tau, group_B)


def mask_group(logits_QB: Tensor, group_B: Tensor | None) -> Tensor:
    """Logits of the first Q windows with all B, −infinity at other pairs of a row's group."""
    if group_B is None:
        return logits_QB
    same_QB = group_B[: len(logits_QB), None] == group_B
    return logits_QB.masked_fill(same_QB.fill_diagonal_(False), -torch.inf)


def sum_of_directions(by_row_BB: Tensor, by_column_BB: Tensor) -> Tensor:
    """InfoNCE from the log-probabilities of both directions: each pair's own stands on the diagonal."""
    return -by_row_BB.diagonal().mean() - by_column_BB.diagonal().mean()


def query_nce(
    query_QD: Tensor, target_BD: Tensor, wrong_QKD: Tensor, any_wrong_Q: Tensor, tau: float, group_B: Tensor
) -> Tensor:
    """InfoNCE of the query output, in nats: −mean log softmax of q·t / tau at the window's own target.

    The queries are those of the first Q of the batch's B windows. Their negatives are the batch's targets of other
    groups, and K vectors of the window's own document, `wrong_QKD`, where `any_wrong_Q` says that there are any: what
    is hard is to tell the next chunk from its neighbours. All but these K are of unit length.

    Source: van den Oord et al. 2018, equation 4; hard negatives as in Karpukhin et al. 2020 (DPR), section 3.2.
    """
    hard_QK = own_logits(query_QD, wrong_QKD, lengths(wrong_QKD), any_wrong_Q, tau)
    logits_QC = torch.cat([pair_logits(query_QD, target_BD, tau, group_B), hard_QK], dim=1)
    return -logits_QC.log_softmax(dim=1).diagonal().mean()


def own_logits(query_QD: Tensor, wrong_QKD: Tensor, length_QK: Tensor, any_wrong_Q: Tensor, tau: float) -> Tensor:
    """(Q, K) cosine / tau of each query with its own wrong ones, which have these lengths; −infinity where none is."""
    hard_QK = torch.bmm(wrong_QKD, query_QD[:, :, None])[:, :, 0] / (length_QK * tau)
    return hard_QK.masked_fill(~any_wrong_Q[:, None], -torch.inf)


def lengths(vectors: Tensor) -> Tensor:
    """Lengths over the last dimension, at least SHORTEST."""
    found: Tensor = torch.linalg.vector_norm(vectors, dim=-1).clamp(min=SHORTEST)
    return found


def moment_matching(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Squared distance between the batch's first two moments: |mean p − mean t|² + |var p − var t|², over D.

    In squared lengths of unit vectors, whatever D is. Variances are those of each dimension over the batch (divided
    by B, so that a batch of one is finite).

    Source: the first two terms of the central moment discrepancy, Zellinger et al. 2017, definition 2, squared.
    """
    means_D = prediction_BD.mean(dim=0) - target_BD.mean(dim=0)
    variances_D = variance(prediction_BD) - variance(target_BD)
    return means_D.square().sum() + variances_D.square().sum()


def variance(vectors_BD: Tensor) -> Tensor:
    """(D,) variance of each dimension over the batch, divided by B. On the CPU a tenth of the time of `Tensor.var`."""
    return (vectors_BD - vectors_BD.mean(dim=0)).square().mean(dim=0)


def variance_floor(prediction_BD: Tensor) -> Tensor:
    """How far the dimensions' standard deviations over the batch are below 1/√D: mean over D of max(0, 1/√D − std).

    1/√D is the deviation of unit vectors that spread over all directions alike; the value lies between 0 and that.

    Source: the variance term of VICReg, Bardes et al. 2022, equations 1 and 2, with γ = 1/√D instead of 1 (their
    vectors have no fixed length), their ε = 0.0001 scaled by γ², and the variance divided by B.
    """
    floor = prediction_BD.shape[1] ** -0.5
    return F.relu(floor - deviations(variance(prediction_BD))).mean()


def deviations(variance_D: Tensor) -> Tensor:
    """(D,) standard deviations that `variance_floor` compares with 1/√D."""
    return (variance_D + 1e-4 / len(variance_D)).sqrt()
