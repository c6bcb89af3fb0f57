"""Closed-form gradients of the loss terms; autograd would need one backward pass per term.

Let p be the raw prediction of a window, u = p / |p| its direction and t the target, both of length 1. The gradient of
every term at u is a sum of at most four parts:

    ∂L/∂u = block + shift + slope ∘ u + pull · (u − t)

block (B, D) differs for each window (InfoNCE); shift and slope (D,) are the same for all windows (the moments of the
batch); pull is one number (MSE). The gradient at p is the part of ∂L/∂u that is orthogonal to u:

    ∂L/∂p = (∂L/∂u − (∂L/∂u · u) u) / |p|        |∂L/∂p|² = (|∂L/∂u|² − (∂L/∂u · u)²) / |p|²

A step spends its time on moving (B, D) blocks, not on arithmetic. A `TermGradient` therefore keeps the parts. Its norm
at p follows from two numbers per window, and `mix_gradients` computes the weighted sum of all terms in one pass. With
small batches it spends its time on starting operations, so that each handles all terms at once.

A batch may be shared by several processes. Each has the predictions of some windows, but all targets. A term's value is
then the part of these windows, so that the sum over the processes is the value of the batch; the gradient is that of
the whole batch at these windows. Only what joins windows is exchanged: the columns' sums and the batch's moments.

The tests compare each gradient with autograd.

Letters in names: B windows of a batch, P of them of this process (all of them if it is alone), Q of these with a query,
K negatives of a window, C = B + K candidates, D dimensions, T terms.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec import ops
from nextvec.distributed.process_group import ProcessGroup
from nextvec.losses.terms import OTHER_DOCUMENTS_LOGIT, mask_same_group, standard_deviation


@dataclass(frozen=True, kw_only=True)
class Directions:
    """Raw predictions p, split into directions and lengths."""

    unit_BD: Tensor
    """u = p / |p|, as `F.normalize` computes it."""
    length_B1: Tensor
    """|p|, at least MIN_LENGTH."""
    has_direction_B: Tensor
    """1.0 for a prediction longer than MIN_LENGTH; 0.0 for a shorter one, where u = p / MIN_LENGTH is linear in p."""

    @classmethod
    def of(cls, prediction_BD: Tensor) -> Directions:
        """Split raw predictions (B, D)."""
        unit_BD, length_B1 = ops.normalize(prediction_BD)
        has_direction_B = (length_B1[:, 0] > ops.MIN_LENGTH).to(unit_BD.dtype)
        return cls(unit_BD=unit_BD, length_B1=length_B1, has_direction_B=has_direction_B)

    def project(self, gradient_BD: Tensor) -> Tensor:
        """Turn a gradient at u, which is overwritten, into the gradient at p."""
        # (g − (g · u) u) / |p|, without the projection for a prediction that has no direction.
        along_B1 = (gradient_BD * self.unit_BD).sum(dim=1, keepdim=True) * self.has_direction_B[:, None]
        return gradient_BD.addcmul_(self.unit_BD, along_B1, value=-1).div_(self.length_B1)


@dataclass(frozen=True, kw_only=True)
class TermGradient:
    """A term's value, and its gradient at u in parts; a part that is None is zero."""

    value: Tensor
    along_B: Tensor
    """∂L/∂u · u of each window."""
    square_B: Tensor
    """|∂L/∂u|² of each window."""
    block_BD: Tensor | None = None
    shift_D: Tensor | None = None
    slope_D: Tensor | None = None
    pull: float = 0.0


def gradient_norms(directions: Directions, terms: Sequence[TermGradient]) -> Tensor:
    """Return the norm of each term's gradient at p (T,), with all windows and dimensions as one vector."""
    along_TB, square_TB = _along(terms), torch.stack([term.square_B for term in terms])
    # Rounding can make the difference of a gradient that is parallel to u slightly negative.
    across_TB = torch.addcmul(square_TB, along_TB * directions.has_direction_B, along_TB, value=-1).clamp_(min=0)
    norm_T: Tensor = torch.linalg.vector_norm(across_TB.sqrt_().div_(directions.length_B1[:, 0]), dim=1)
    return norm_T


def mix_gradients(directions: Directions, target_BD: Tensor, terms: Sequence[TermGradient], factor_T: Tensor) -> Tensor:
    """Return Σ factor · gradient at p (B, D). At most one term has a block, which is overwritten."""
    unit_BD = directions.unit_BD
    block_BD = None
    block_factor = pull = unit_BD.new_zeros(())
    shift_D = slope_D = None
    # Each part of the sum is the weighted sum of the terms' parts.
    for term, factor in zip(terms, factor_T.unbind(), strict=True):
        if term.pull:
            pull = torch.add(pull, factor, alpha=term.pull)
        if term.block_BD is not None:
            assert block_BD is None, "two terms with a block"
            block_BD, block_factor = term.block_BD, factor
        if term.shift_D is not None and term.slope_D is not None:
            shift_D = term.shift_D * factor if shift_D is None else torch.addcmul(shift_D, term.shift_D, factor)
            slope_D = term.slope_D * factor if slope_D is None else torch.addcmul(slope_D, term.slope_D, factor)
    along_B = (factor_T[:, None] * _along(terms)).sum(dim=0)
    # u is multiplied by the pull towards t, less what lies along u.
    coefficients = ops.MixCoefficients(
        block=block_factor,
        shift_D=unit_BD.new_zeros(unit_BD.shape[1]) if shift_D is None else shift_D,
        slope_D=unit_BD.new_zeros(unit_BD.shape[1]) if slope_D is None else slope_D,
        units_B=torch.addcmul(pull, along_B, directions.has_direction_B, value=-1),
        targets=pull,
    )
    return ops.mix(block_BD, unit_BD, target_BD, directions.length_B1, coefficients)


def _along(terms: Sequence[TermGradient]) -> Tensor:
    """Return ∂L/∂u · u of each term and window, (T, B)."""
    return torch.stack([term.along_B for term in terms])


def mse_gradient(numbers: int, *, distance_B: Tensor, square_B: Tensor, cosine_B: Tensor) -> TermGradient:
    """Return `mse` and its gradient 2 (u − t) / (B·D), from |u − t|², |u|² and u · t of each window.

    `numbers` is B·D of the whole batch.
    """
    pull = 2 / numbers
    return TermGradient(
        value=distance_B.sum() * (pull / 2),
        along_B=(square_B - cosine_B) * pull,
        square_B=distance_B * pull**2,
        pull=pull,
    )


def info_nce_gradient(
    unit_BD: Tensor,
    target_BD: Tensor,
    *,
    tau: float,
    group_B: Tensor | None,
    matmul_dtype: torch.dtype,
    block: int | None = None,
) -> TermGradient:
    """Return `info_nce` and its gradient (P + Q − 2·1) t / (B·tau); P and Q are its softmax by rows and by columns.

    With `block`, P and Q are those of each block of so many windows; the last block may be smaller.
    """
    batch = len(unit_BD)
    if block is None or block >= batch:
        value, gradient_BD = _info_nce_of_blocks(unit_BD, target_BD, tau, group_B, matmul_dtype)
    else:
        # All whole blocks at once as a stack, then the rest; each counts by its number of windows.
        whole, parts = batch - batch % block, []
        for rows, shape in ((slice(whole), (-1, block)), (slice(whole, batch), (-1, batch - whole))):
            if rows.start != batch:
                unit_NbD, target_NbD = (rows_BD[rows].unflatten(0, shape) for rows_BD in (unit_BD, target_BD))
                group_Nb = None if group_B is None else group_B[rows].unflatten(0, shape)
                value, gradient_NbD = _info_nce_of_blocks(unit_NbD, target_NbD, tau, group_Nb, matmul_dtype)
                part = unit_NbD.shape[0] * unit_NbD.shape[1] / batch
                parts.append((value * part, gradient_NbD.flatten(end_dim=1) * part))
        values, gradients = zip(*parts, strict=True)
        value, gradient_BD = torch.stack(values).sum(), gradients[0] if len(parts) == 1 else torch.cat(gradients)
    along_B, _, square_B = ops.compare_rows(gradient_BD, unit_BD)
    return TermGradient(value=value, along_B=along_B, square_B=square_B, block_BD=gradient_BD)


def _info_nce_of_blocks(
    unit_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None, matmul_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the mean InfoNCE of one block of windows, or of a stack of blocks, and its gradient."""
    # Forward u·tᵀ and softmax, then backward through the product: two (B, B, D) matrix products in all.
    products_BB = ops.multiply(unit_BD, target_BD.mT, matmul_dtype)
    value, products_gradient_BB = ops.symmetric_info_nce(products_BB, tau, group_B)
    return value, ops.multiply(products_gradient_BB, target_BD, matmul_dtype)


def shared_info_nce_gradient(
    processes: ProcessGroup,
    unit_PD: Tensor,
    target_BD: Tensor,
    *,
    tau: float,
    group_B: Tensor | None,
    matmul_dtype: torch.dtype,
    block: int | None = None,
) -> TermGradient:
    """Return the part of `info_nce_gradient` of this process's windows; the processes exchange (2, B) numbers.

    A row, a prediction with all targets, belongs to one process; of a column each process has a part.
    """
    rows_P, own_P = torch.arange(len(unit_PD), device=unit_PD.device), processes.share(torch.arange(len(target_BD)))
    own_P = own_P.to(unit_PD.device)
    logits_PB = mask_same_group(ops.multiply(unit_PD, target_BD.T, matmul_dtype).div_(tau), group_B, own_P)
    if block is not None:  # other blocks are masked, since a process has windows of every block
        blocks_B = torch.arange(len(target_BD), device=unit_PD.device) // block
        logits_PB.masked_fill_(blocks_B[own_P, None] != blocks_B, -torch.inf)
    # Every column's maximum and sum, of each process's part; then of all parts.
    maximum_B = logits_PB.amax(dim=0).clamp(min=torch.finfo(torch.float32).min)  # a part may be masked
    by_column_PB = (logits_PB - maximum_B).exp_()
    maxima, sums = processes.gather(torch.stack([maximum_B, by_column_PB.sum(dim=0)])).unbind(dim=1)
    column_log_sum_B = (maxima + sums.log()).logsumexp(dim=0)
    by_row_PB, batch = logits_PB.log_softmax(dim=1), len(target_BD)
    value = -(by_row_PB[rows_P, own_P] + logits_PB[rows_P, own_P] - column_log_sum_B[own_P]).sum() / batch
    # The two softmaxes: by rows, and by columns, whose exponentials are already there.
    products_gradient_PB = by_row_PB.exp_().addcmul_(by_column_PB, (maximum_B - column_log_sum_B).exp())
    products_gradient_PB.div_(tau * batch)
    products_gradient_PB[rows_P, own_P] -= 2 / (tau * batch)
    gradient_PD = ops.multiply(products_gradient_PB, target_BD, matmul_dtype)
    along_P, _, square_P = ops.compare_rows(gradient_PD, unit_PD)
    return TermGradient(value=value, along_B=along_P, square_B=square_P, block_BD=gradient_PD)


def shared_moments(unit_PD: Tensor, batch: int, processes: ProcessGroup) -> tuple[Tensor, Tensor]:
    """Return each dimension's mean and variance (D,) over the whole batch; see `ops.moments`."""
    mean_D, variance_D = ops.moments(unit_PD)
    if processes.is_alone:
        return mean_D, variance_D
    # Chan et al. 1983, equation 2.1: the variance within the parts, and that of the parts' means.
    share = len(unit_PD) / batch
    parts = processes.gather(torch.stack([mean_D * share, variance_D * share, mean_D, torch.full_like(mean_D, share)]))
    weighted_D, within_D, _, _ = parts.sum(dim=0)
    between_D = (parts[:, 3] * (parts[:, 2] - weighted_D).square()).sum(dim=0)
    return weighted_D, within_D + between_D


def batch_gradients(
    unit_BD: Tensor, target_BD: Tensor, terms: Container[str], processes: ProcessGroup
) -> dict[str, TermGradient]:
    """Return the gradients of `moment_matching` and `variance_floor`, of those that `terms` contains.

    Both depend on the batch as a whole, and both gradients have the form start + slope ∘ (u − mean u):

    moment:   2 (m + 2 v ∘ (u − mean u)) / B, from the differences m of the means and v of the variances (D,)
    variance: −(u − mean u) / (B·D·std) in the dimensions whose std is below 1/√D, 0 in the others

    Every process has the whole value.
    """
    mean_D, variance_D = shared_moments(unit_BD, len(target_BD), processes)

    def gradient(value: Tensor, start_D: Tensor | float, slope_D: Tensor) -> TermGradient:
        """Return the gradient start + slope ∘ (u − mean u)."""
        shift_D = start_D - slope_D * mean_D
        along_B, square_B = ops.affine_products(unit_BD, shift_D, slope_D)
        return TermGradient(value=value, along_B=along_B, square_B=square_B, shift_D=shift_D, slope_D=slope_D)

    gradients = {}
    if "moment" in terms:
        # Differences of the moments: both are (D,), so that the gradient never becomes a (B, D) block.
        target_mean_D, target_variance_D = ops.moments(target_BD)
        mean_difference_D, variance_difference_D = mean_D - target_mean_D, variance_D - target_variance_D
        value = mean_difference_D.dot(mean_difference_D) + variance_difference_D.dot(variance_difference_D)
        scale = 2 / len(target_BD)
        gradients["moment"] = gradient(value, mean_difference_D * scale, variance_difference_D * (2 * scale))
    if "variance" in terms:
        # Only dimensions below the floor have a gradient.
        floor = len(variance_D) ** -0.5
        deviation_D = standard_deviation(variance_D)
        is_below_D = (deviation_D < floor).to(deviation_D.dtype)
        slope_D = is_below_D / (deviation_D * -target_BD.numel())
        gradients["variance"] = gradient(F.relu(floor - deviation_D).mean(), 0.0, slope_D)
    return gradients


def query_nce_gradient(
    unit_QD: Tensor,
    target_BD: Tensor,
    negative_QKD: Tensor,
    has_negatives_Q: Tensor,
    *,
    tau: float,
    group_B: Tensor,
    matmul_dtype: torch.dtype = torch.float32,
    own_Q: Tensor | None = None,
    total: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `query_nce`, and its gradient (P − 1) [t, n / |n|] / (Q·tau) at the unit-length queries.

    `own_Q` are the positions of the queries' windows in the batch (None: the first Q), `total` the number of queries in
    all processes (None: Q); the value is the part of these queries. P is the softmax over the batch's targets t and the
    window's hard negatives n, which are read as they are stored and never rewritten: their lengths divide the scores.
    """
    queries, targets = total or len(unit_QD), len(target_BD)
    own_Q = torch.arange(len(unit_QD), device=unit_QD.device) if own_Q is None else own_Q
    own = torch.arange(len(unit_QD), device=unit_QD.device), own_Q
    # Forward: logits of the hard negatives and of the batch's targets, and their log-softmax.
    length_QK = ops.lengths(negative_QKD)
    hard_logits_QK = ops.score(unit_QD[:, None], negative_QKD)[:, 0] / (length_QK * tau)
    hard_logits_QK = hard_logits_QK.masked_fill_(~has_negatives_Q[:, None], -torch.inf)
    logits_QB = mask_same_group(ops.multiply(unit_QD, target_BD.T, matmul_dtype).div_(tau), group_B, own_Q)
    # Softmax ignores a constant: lower all others instead of raising the logits of other documents.
    logits_QB[own] -= OTHER_DOCUMENTS_LOGIT
    hard_logits_QK -= OTHER_DOCUMENTS_LOGIT
    log_softmax_QC = torch.cat([logits_QB, hard_logits_QK], dim=1).log_softmax(dim=1)
    value = -log_softmax_QC[own].sum() / queries
    # Backward: the gradient at the logits, then its products with the candidates.
    logits_gradient_QC = log_softmax_QC.exp_().div_(tau * queries)
    logits_gradient_QC[own] -= 1 / (tau * queries)
    gradient_QD = ops.multiply(logits_gradient_QC[:, :targets], target_BD, matmul_dtype)
    weights_QK = logits_gradient_QC[:, targets:] / length_QK
    return value, gradient_QD.add_(ops.combine(weights_QK[:, None], negative_QKD)[0][:, 0])
