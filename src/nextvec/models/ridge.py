"""Ridge regression from the context to the target, in closed form, from one pass over the windows.

The features of a window are its context vectors, each minus its mean over train; an absent vector counts as the mean.
The fit needs only the second moments of features and targets (see `moments`). One document group in five is held out:
its moments give the squared error of any weights on it, and the penalty with the least error is chosen. The final
weights are fitted on all windows.

A context of more than MAX_FEATURES numbers is shortened: the newest vectors stay, the older ones become their mean.

Letters in names: B windows of a batch, S context length, K slots (the vectors that ridge reads), D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.errors import InputError
from nextvec.models.base import LatentModel, at_least_float32, mean_of_present, read_context
from nextvec.models.moments import Moments

MAX_FEATURES = 6144
"""Maximum number of features: 8 context vectors at D = 768. The moments then take 0.6 GB, the fit little more."""

HELD_OUT_FOLDS = 5
"""One document group in this many is held out to choose the penalty."""

WINDOWS_PER_PRODUCT = 2048
"""Windows that are multiplied at once; a quarter of them if they are held out."""

MIN_HALF_DECADES, START_HALF_DECADES, MAX_HALF_DECADES = -8, 0, 8
"""The range and the start of the search: a penalty is 10^(h/2) times the mean diagonal of the features' moments."""

NUM_PROBES = 64
"""Penalties are compared on this many random mixtures of the target's dimensions: an unbiased estimate of the squared
error (Hutchinson 1990) at a fraction of the cost."""


class Ridge(LatentModel):
    """Predicts target mean + Σ over slots of (slot − its mean) · weight; an absent slot adds nothing."""

    name = "ridge"
    weight_KDD: Tensor
    slot_mean_KD: Tensor
    target_mean_D: Tensor
    penalty: Tensor

    def __init__(self, dimensions: int, *, context: int, slots: int) -> None:
        super().__init__(dimensions, context=context, slots=slots)
        assert 1 <= slots <= context, (slots, context)
        self.context, self.slots = context, slots
        self.register_buffer("weight_KDD", torch.zeros(slots, dimensions, dimensions))
        self.register_buffer("slot_mean_KD", torch.zeros(slots, dimensions))
        self.register_buffer("target_mean_D", torch.zeros(dimensions))
        self.register_buffer("penalty", torch.tensor(0.0))

    def _raw(self, context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
        # Bring the context to the fitted length: cut the oldest vectors off, or pad with absent ones.
        missing = self.context - context_BSD.shape[1]
        if missing > 0:
            mask_BS = F.pad(_full_mask(context_BSD, mask_BS), (missing, 0), value=False)
            context_BSD = F.pad(context_BSD, (0, 0, missing, 0))
        else:
            context_BSD = context_BSD[:, -self.context :]
            mask_BS = None if mask_BS is None else mask_BS[:, -self.context :]
        slots_BKD, present_BK = select_slots(context_BSD, mask_BS, self.slots)
        centered_BKD = (slots_BKD - self.slot_mean_KD) * present_BK[:, :, None]
        return self.target_mean_D + centered_BKD.flatten(1) @ self.weight_KDD.flatten(0, 1)


def count_slots(dimensions: int, context: int) -> int:
    """Return K, the number of vectors that ridge reads of a context."""
    return min(context, max(1, MAX_FEATURES // dimensions))


def select_slots(context_BSD: Tensor, mask_BS: Tensor | None, slots: int) -> tuple[Tensor, Tensor]:
    """Return the slots (B, K, D) of a context from `read_context`, and whether each is present (B, K).

    With K = S they are the context. Otherwise they are the mean of the older vectors and the K − 1 newest vectors; a
    single slot is the newest vector.
    """
    mask_BS = _full_mask(context_BSD, mask_BS)
    newest = context_BSD.shape[1] if slots == context_BSD.shape[1] else max(1, slots - 1)
    older = context_BSD.shape[1] - newest
    slots_BKD, present_BK = context_BSD[:, older:], mask_BS[:, older:]
    if newest < slots:
        mean_BD = mean_of_present(context_BSD[:, :older], mask_BS[:, :older])
        slots_BKD = torch.cat([mean_BD[:, None], slots_BKD], dim=1)
        present_BK = torch.cat([mask_BS[:, :older].any(dim=1, keepdim=True), present_BK], dim=1)
    return slots_BKD, present_BK


def _full_mask(context_BSD: Tensor, mask_BS: Tensor | None) -> Tensor:
    """Return the mask, or one that marks every vector as present."""
    return context_BSD.new_ones(context_BSD.shape[:2], dtype=torch.bool) if mask_BS is None else mask_BS


class RidgeFit:
    """Fits a `Ridge`: `add` all windows, then `finish` and `solve` once."""

    def __init__(self, dimensions: int, context: int, origin_D: Tensor) -> None:
        self._dimensions, self._context = dimensions, context
        self._slots = count_slots(dimensions, context)
        self.fit_moments = Moments(self._slots, dimensions, WINDOWS_PER_PRODUCT)
        # Held-out moments only compare penalties, so float32 is enough and halves their memory.
        self.held_out_moments = Moments(self._slots, dimensions, WINDOWS_PER_PRODUCT // 4, torch.float32)
        self._origin_D = origin_D
        """About the mean of the targets, subtracted from all vectors: products of small numbers keep more digits."""

    def add(self, context_BSD: Tensor, target_BD: Tensor, mask_BS: Tensor | None, group_B: Tensor) -> None:
        """Add windows: contexts (B, S, D), targets (B, D), masks (B, S) or None, document groups (B,)."""
        slots_BKD, present_BK = select_slots(read_context(context_BSD, mask_BS), mask_BS, self._slots)
        assert bool(present_BK[:, -1].all()), "a window without a newest context vector"
        slots_BKD = (slots_BKD - self._origin_D) * present_BK[:, :, None]
        target_BD = at_least_float32(target_BD) - self._origin_D
        held_out_B = is_held_out(group_B)
        for moments, rows_B in ((self.held_out_moments, held_out_B), (self.fit_moments, ~held_out_B)):
            moments.add(slots_BKD[rows_B], present_BK[rows_B], target_BD[rows_B])

    def finish(self, processes: ProcessGroup = ALONE) -> None:
        """Call after the last `add`; if several processes call it together, each has the windows of all."""
        for moments in (self.fit_moments, self.held_out_moments):
            moments.finish(processes, self._origin_D.device)

    @property
    def is_empty(self) -> bool:
        """Whether there were no windows; call after `finish`."""
        return self.fit_moments.is_empty and self.held_out_moments.is_empty

    def solve(self) -> tuple[Ridge, Tensor]:
        """Return the fitted baseline and the mean target (D,). Raises InputError if vectors are not finite."""
        moments = self.fit_moments
        if not (moments.is_finite and self.held_out_moments.is_finite):
            raise InputError("training vectors: they contain NaN or infinity. Run 'nextvec data check' on the store.")
        half_decades = _choose_penalty(moments, self.held_out_moments)
        # The final fit uses all windows.
        moments.merge(self.held_out_moments)
        slot_mean_KD, target_mean_D = moments.means()
        moments.center(slot_mean_KD, target_mean_D)
        # Rounding can make the smallest penalties unsolvable for all windows; the next larger one is used then.
        while (weights := _solve(moments.gram, moments.target_products, half_decades)) is None:
            half_decades += 1
        target_mean_D = target_mean_D + self._origin_D.to(target_mean_D)
        ridge = Ridge(self._dimensions, context=self._context, slots=self._slots)
        ridge.weight_KDD.copy_(weights.reshape(ridge.weight_KDD.shape))
        ridge.slot_mean_KD.copy_(slot_mean_KD + self._origin_D.to(slot_mean_KD))
        ridge.target_mean_D.copy_(target_mean_D)
        ridge.penalty.fill_(10.0 ** (half_decades / 2))
        return ridge, target_mean_D


def divide_windows(group_W: Tensor, parts: int) -> list[Tensor]:
    """Divide windows, by their document groups (W,), into parts of about equal size; return their positions.

    The fit does the same products for any number of parts, so that its sums are the same up to the order of float64
    additions: the held-out windows, whose sums are float32, stay together, and the others fill whole buffers.
    """
    held_out_W = is_held_out(group_W)
    pieces = (held_out_W.nonzero()[:, 0], *(~held_out_W).nonzero()[:, 0].split(WINDOWS_PER_PRODUCT))
    divided: list[list[Tensor]] = [[] for _ in range(parts)]
    sizes = [0] * parts
    # Each piece goes to the part that is smallest so far.
    for piece in pieces:
        smallest = sizes.index(min(sizes))
        divided[smallest].append(piece)
        sizes[smallest] += len(piece)
    return [torch.cat([*part, group_W.new_empty(0, dtype=torch.int64)]) for part in divided]


def is_held_out(group_B: Tensor) -> Tensor:
    """Return whether each window helps to choose the penalty (B,); the windows of a group stay together."""
    # Multiplying by 2^64 / golden ratio spreads consecutive numbers evenly (Knuth, TAOCP 6.4).
    hashed_B = (group_B.long() * -7046029254386353131) >> 32
    return hashed_B.remainder(HELD_OUT_FOLDS) == 0


def _choose_penalty(fit: Moments, held_out: Moments) -> int:
    """Return the half decades of the penalty whose weights, fitted on `fit`, have the least error on `held_out`."""
    if fit.is_empty or held_out.is_empty:
        return START_HALF_DECADES
    means = fit.means()
    fit.center(*means)
    held_out.center(*means)
    fit_products, held_out_products = fit.target_products, held_out.target_products
    if fit_products.shape[1] > NUM_PROBES:
        # Solve for random mixtures of the targets' dimensions instead of all of them.
        generator = torch.Generator().manual_seed(0)
        probes = torch.randn(fit_products.shape[1], NUM_PROBES, generator=generator, dtype=torch.float64)
        probes = probes.to(fit_products)
        fit_products, held_out_products = fit_products @ probes, held_out_products @ probes

    def error(half_decades: int) -> float:
        weights = _solve(fit.gram, fit_products, half_decades)
        if weights is None:
            return math.inf
        # Σ|y − Wᵀz|² without Σ|y|², which is the same for all weights: Σ W ∘ (zzᵀW − 2 zyᵀ)
        explained = (held_out.gram @ weights.to(held_out.gram.dtype)).to(weights.dtype)
        return float((weights * (explained - 2 * held_out_products)).sum())

    best = find_minimum(error)
    fit.uncenter()
    held_out.uncenter()
    return best


def find_minimum(error: Callable[[int], float]) -> int:
    """Return the half decades of the least error: steps of one from the start, up or down, until the error rises."""
    best = START_HALF_DECADES
    least_error = error(best)
    for step in (1, -1):
        while MIN_HALF_DECADES <= best + step <= MAX_HALF_DECADES and (trial := error(best + step)) < least_error:
            best, least_error = best + step, trial
        if best != START_HALF_DECADES:
            break
    return best


def _solve(gram: Tensor, products: Tensor, half_decades: int) -> Tensor | None:
    """Return (gram + penalty)⁻¹ products, or None if rounding made the sum lose its positive definiteness.

    On the CPU the Cholesky factor temporarily overwrites the upper triangle of `gram`: at production size a copy takes
    more than 100 MB. Afterwards `gram` has its old values, bit for bit.
    """
    diagonal = gram.diagonal()
    original_diagonal = diagonal.clone()
    diagonal += 10.0 ** (half_decades / 2) * original_diagonal.mean().clamp(min=1e-30)
    if gram.is_cpu:
        weights = _solve_in_place(gram.numpy(), products.numpy())
        _mirror_lower_triangle(gram)
    else:
        factor, failed = torch.linalg.cholesky_ex(gram)
        weights = None if failed else torch.cholesky_solve(products, factor)
    diagonal.copy_(original_diagonal)
    return weights


def _solve_in_place(gram: NDArray[np.float64], products: NDArray[np.float64]) -> Tensor | None:
    """Return gram⁻¹ products; the Cholesky factor stays in the upper triangle of `gram`."""
    # Imported here: only fitting needs it, and it takes 0.3 s when a model is loaded.
    from scipy.linalg import lapack

    # LAPACK reads numpy's rows as columns, so that its lower triangle is the upper one here.
    factor, failed = lapack.dpotrf(gram.T, lower=1, overwrite_a=1, clean=0)
    assert np.shares_memory(factor, gram), "LAPACK made a copy"
    if failed:
        return None
    weights, _ = lapack.dpotrs(factor, np.array(products, order="F"), lower=1, overwrite_b=1)
    return torch.from_numpy(weights)


def _mirror_lower_triangle(matrix: Tensor, block_rows: int = 512) -> None:
    """Copy the lower triangle of a matrix to the upper one, in blocks of rows so that no copy is large."""
    for start in range(0, len(matrix), block_rows):
        end = min(start + block_rows, len(matrix))
        block = matrix[start:end, start:end]
        lower = block.tril(-1)
        block.copy_(lower + lower.T + torch.diag(block.diagonal()))
        matrix[start:end, end:] = matrix[end:, start:end].T
