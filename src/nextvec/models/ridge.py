"""Ridge regression from the context to the target, in closed form, from one pass over the windows.

The features of a window are its context vectors, each less its mean over train (zero, so the mean, where a vector is
absent). All that the fit needs are second moments of features and targets; they are summed in float64 from products of
a few thousand windows. One document group in five is kept apart: its moments tell the squared error of any weights on
it without another look at the windows, and so choose the penalty. The final weights are fitted on everything.

More context than MAX_FEATURES numbers is shortened: the newest vectors stay, the older ones become their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack
from torch import Tensor

from nextvec.errors import InputError
from nextvec.models.base import LatentModel, at_least_float32, mean_of_present, read_context

MAX_FEATURES = 6144
"""Most features: 8 context vectors at D = 768. The moments then take 0.6 GB, the fit little more."""

HELD_OUT_IN = 5
"""One group in this many chooses the penalty."""

LEAST_PENALTY, FIRST_PENALTY, MOST_PENALTY = -8, 0, 8
"""Where the search for the penalty ends and begins, in half decades: 10^-4, 1 and 10^4 times the mean diagonal of the
features' moments."""

MIXTURES = 64
"""Penalties are compared on this many random mixtures of the target's dimensions, a fair sample of the squared error
(Hutchinson 1990) at a fraction of the work."""

WINDOWS_PER_PRODUCT = 2048


class Ridge(LatentModel):
    """target mean + Σ over K slots of (slot − its mean) · weight; a slot that is absent adds nothing."""

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
        context_BSD, mask_BS = _fit_length(context_BSD, mask_BS, self.context)
        slots_BKD, present_BK = fill_slots(context_BSD, mask_BS, self.slots)
        centred_BKD = (slots_BKD - self.slot_mean_KD) * present_BK[:, :, None]
        return self.target_mean_D + centred_BKD.flatten(1) @ self.weight_KDD.flatten(0, 1)


def count_slots(dimensions: int, context: int) -> int:
    """K, how many vectors of a context ridge reads."""
    return min(context, max(1, MAX_FEATURES // dimensions))


def fill_slots(context_BSD: Tensor, mask_BS: Tensor | None, slots: int) -> tuple[Tensor, Tensor]:
    """What ridge reads of a context from `read_context`, (B, K, D), and where something is there, (B, K) bool.

    The context itself where it has K vectors; else the newest K − 1 behind the mean of all older ones (of two or more
    slots; a single slot holds the newest vector).
    """
    if mask_BS is None:
        mask_BS = torch.ones(context_BSD.shape[:2], dtype=torch.bool, device=context_BSD.device)
    newest = context_BSD.shape[1] if slots == context_BSD.shape[1] else max(1, slots - 1)
    older = context_BSD.shape[1] - newest
    kept_BKD, present_BK = context_BSD[:, older:], mask_BS[:, older:]
    if newest < slots:
        mean_BD = mean_of_present(context_BSD[:, :older], mask_BS[:, :older])
        kept_BKD = torch.cat([mean_BD[:, None], kept_BKD], dim=1)
        present_BK = torch.cat([mask_BS[:, :older].any(dim=1, keepdim=True), present_BK], dim=1)
    return kept_BKD, present_BK


def _fit_length(context_BSD: Tensor, mask_BS: Tensor | None, length: int) -> tuple[Tensor, Tensor | None]:
    """A context of another length than the fitted one: the newest vectors of a longer one, a shorter one padded."""
    missing = length - context_BSD.shape[1]
    if missing <= 0:
        return context_BSD[:, -length:], None if mask_BS is None else mask_BS[:, -length:]
    if mask_BS is None:
        mask_BS = torch.ones(context_BSD.shape[:2], dtype=torch.bool, device=context_BSD.device)
    padded_BSD = torch.nn.functional.pad(context_BSD, (0, 0, missing, 0))
    return padded_BSD, torch.nn.functional.pad(mask_BS, (missing, 0), value=False)


class RidgeFit:
    """Fits a `Ridge`: `add` windows, then `solve` once."""

    def __init__(self, dimensions: int, context: int) -> None:
        self._dimensions, self._context = dimensions, context
        self._slots = count_slots(dimensions, context)
        self._fitted = _Moments(self._slots, dimensions)
        # A fifth of the windows, and they only compare penalties: float32 holds their sums in half the memory.
        self._held_out = _Moments(self._slots, dimensions, torch.float32, WINDOWS_PER_PRODUCT // 4)
        self._origin_D: Tensor | None = None
        """About where the vectors lie: products of what is left keep the digits that a common mean would use up."""

    def add(self, context_BSD: Tensor, target_BD: Tensor, mask_BS: Tensor | None, group_B: Tensor) -> None:
        """Take in windows: (B, S, D), (B, D), (B, S) or None, and the (B,) numbers of their document groups."""
        slots_BKD, present_BK = fill_slots(read_context(context_BSD, mask_BS), mask_BS, self._slots)
        assert bool(present_BK[:, -1].all()), "a window without a newest context vector"
        if self._origin_D is None:
            self._origin_D = at_least_float32(target_BD).mean(dim=0)
        slots_BKD = (slots_BKD - self._origin_D) * present_BK[:, :, None]
        target_BD = at_least_float32(target_BD) - self._origin_D
        held_out_B = hold_out(group_B)
        for moments, chosen_B in ((self._held_out, held_out_B), (self._fitted, ~held_out_B)):
            moments.add(slots_BKD[chosen_B], present_BK[chosen_B], target_BD[chosen_B])

    def solve(self) -> tuple[Ridge, Tensor]:
        """The fitted baseline and the mean target (D,). Raises InputError if vectors are not finite."""
        fitted, held_out = self._fitted, self._held_out
        fitted.finish()
        held_out.finish()
        if not (fitted.finite and held_out.finite):
            raise InputError("the training vectors hold NaN or infinity; run 'nextvec data check' on the store")
        half_decades = _choose_penalty(fitted, held_out)
        fitted.merge(held_out)
        slot_mean_KD, target_mean_D = fitted.means()
        fitted.centre(slot_mean_KD, target_mean_D)
        assert self._origin_D is not None, "solve before add"
        slot_mean_KD, target_mean_D = (mean + self._origin_D.to(mean) for mean in (slot_mean_KD, target_mean_D))
        while (weights := _solve(fitted.among, fitted.to_target, half_decades)) is None:
            half_decades += 1
        ridge = Ridge(self._dimensions, context=self._context, slots=self._slots)
        ridge.weight_KDD.copy_(weights.reshape(ridge.weight_KDD.shape))
        ridge.slot_mean_KD.copy_(slot_mean_KD)
        ridge.target_mean_D.copy_(target_mean_D)
        ridge.penalty.fill_(10.0 ** (half_decades / 2))
        return ridge, target_mean_D


def hold_out(group_B: Tensor) -> Tensor:
    """Which windows choose the penalty, (B,) bool: a hash of their group's number, so that no group is divided."""
    # Multiplying by 2^64 / golden ratio spreads consecutive numbers evenly (Knuth, TAOCP 6.4).
    hashed_B = (group_B.long() * -7046029254386353131) >> 32
    return hashed_B.remainder(HELD_OUT_IN) == 0


class _Moments:
    """Second moments of zero-filled slots x (K·D), presence m (K) and targets y (D), summed over windows.

    With m beside x, the moments of slots centred by any means can be had afterwards, exactly, with absent slots at
    zero. The newest slot is always present: its m counts windows.
    """

    def __init__(
        self, slots: int, dimensions: int, dtype: torch.dtype = torch.float64, at_once: int = WINDOWS_PER_PRODUCT
    ) -> None:
        self._slots, self._dimensions, self._dtype, self._at_once = slots, dimensions, dtype, at_once
        self._waiting: Tensor | None = None  # rows [x m y] (at_once, K·D + K + D)
        self._windows_waiting = 0
        self._among: Tensor | None = None  # xᵀx (K·D, K·D), in `dtype`; these three are made when the device is known
        self._beside = torch.zeros(0)  # xᵀ[m y] (K·D, K + D)
        self._corner = torch.zeros(0)  # mᵀ[m y] (K, K + D)
        self.to_target = torch.zeros(0)
        self._centre = (torch.zeros(0), torch.zeros(0))

    def add(self, slots_BKD: Tensor, present_BK: Tensor, target_BD: Tensor) -> None:
        """Take in windows; products are made of a few thousand at a time, so that small batches cost no more."""
        if self._waiting is None:
            width = self._slots * self._dimensions + self._slots + self._dimensions
            self._waiting = slots_BKD.new_empty(self._at_once, width)
        parts: tuple[Tensor, ...] = slots_BKD.flatten(1), present_BK, target_BD
        while len(parts[0]):
            free = self._waiting[self._windows_waiting :]
            count = min(len(free), len(parts[0]))
            torch.cat([part[:count].to(free.dtype) for part in parts], dim=1, out=free[:count])
            self._windows_waiting += count
            if self._windows_waiting == self._at_once:
                self._multiply()
            parts = tuple(part[count:] for part in parts)

    def _multiply(self) -> None:
        if self._waiting is None or not self._windows_waiting:
            return
        size = self._slots * self._dimensions
        slots, beside = self._waiting[: self._windows_waiting].tensor_split([size], dim=1)
        self._windows_waiting = 0
        # float64 products are quick on cuda only, and mps has no float64 at all: sums are kept on the CPU there.
        on_cuda = slots.device.type == "cuda"
        if on_cuda:
            slots, beside = slots.double(), beside.double()
        home = slots.device if on_cuda else torch.device("cpu")
        if self._among is None:
            width = beside.shape[1]
            self._among = torch.zeros(size, size, dtype=self._dtype, device=home)
            self._beside = torch.zeros(size, width, dtype=torch.float64, device=home)
            self._corner = torch.zeros(self._slots, width, dtype=torch.float64, device=home)
        for start, end in self._bands():  # on and right of the diagonal: three fifths of the work at S = 5
            self._among[start:end, start:] += (slots[:, start:end].T @ slots[:, start:]).to(home)
        self._beside += (slots.T @ beside).to(home)
        self._corner += (beside[:, : self._slots].T @ beside).to(home)

    def _bands(self) -> list[tuple[int, int]]:
        """First row and end of each slot."""
        return list(pairwise(slot * self._dimensions for slot in range(self._slots + 1)))

    def finish(self) -> None:
        """Multiply what waits, and fill the blocks left of the diagonal; no more windows after that."""
        self._multiply()
        self._waiting = None
        if self._among is not None:
            for start, end in self._bands():
                self._among[end:, start:end] = self._among[start:end, end:].T

    @property
    def empty(self) -> bool:
        """Whether there were no windows."""
        return self._among is None

    @property
    def finite(self) -> bool:
        """Whether no vector held NaN or infinity."""
        return bool(torch.isfinite(self._beside.sum() + self._corner.sum()))

    def merge(self, other: _Moments) -> None:
        """Take over the moments of other windows; both are finished."""
        if self._among is None and other._among is not None:
            self._among, self._beside, self._corner = other._among.to(self._dtype), other._beside, other._corner
        elif self._among is not None and other._among is not None:
            for start, end in self._bands():  # a sum of two formats makes a copy
                self._among[start:end] += other._among[start:end]
            self._beside += other._beside
            self._corner += other._corner
        other._among = None  # its memory is needed now

    def means(self) -> tuple[Tensor, Tensor]:
        """Mean of each slot over the windows where it is present, (K, D), and of the target, (D,)."""
        counts_K = self._corner.diagonal()
        sums_KD = self._beside[:, self._slots - 1].view(self._slots, self._dimensions)
        return sums_KD / counts_K.clamp(min=1)[:, None], self._corner[-1, self._slots :] / counts_K[-1]

    def centre(self, slot_mean_KD: Tensor, target_mean_D: Tensor) -> None:
        """Turn the moments of x and y into those of z = m (x − mean) and y − mean, in place.

        As `self.among` they are zᵀz (K·D, K·D), as `self.to_target` zᵀ(y − mean) (K·D, D). At production size a copy of
        the first is more than a hundred megabytes, so there is none.
        """
        means = torch.block_diag(*slot_mean_KD)  # (K, K·D): z = x − m @ means
        slots_presence, slots_target = self._beside.split([self._slots, self._dimensions], dim=1)
        presence, presence_target = self._corner.split([self._slots, self._dimensions], dim=1)
        # zᵀz = xᵀx − xᵀm·means − (xᵀm·means)ᵀ + meansᵀ·mᵀm·means, the last term halved into the two before it.
        thin = slots_presence - means.T @ presence / 2
        self._add(thin, means, -1)
        slot_sums = slots_presence[:, -1] - means.T @ presence[:, -1]
        to_target = slots_target.clone()
        self.to_target = to_target.addmm_(means.T, presence_target, alpha=-1).addr_(slot_sums, target_mean_D, alpha=-1)
        self._centre = thin, means

    def put_back(self) -> None:
        """Undo `centre`, but for rounding."""
        self._add(*self._centre, 1)

    def _add(self, thin: Tensor, means: Tensor, sign: int) -> None:
        """Add ± (thin·means + (thin·means)ᵀ) to the moments of the slots."""
        thin, means = thin.to(self.among.dtype), means.to(self.among.dtype)
        self.among.addmm_(thin, means, alpha=sign).addmm_(means.T, thin.T, alpha=sign)

    @property
    def among(self) -> Tensor:
        """The second moments of the slots; there must be windows."""
        assert self._among is not None, "no windows"
        return self._among


def _choose_penalty(fitted: _Moments, held_out: _Moments) -> int:
    """The half decades of the penalty whose weights, fitted on one part, have the least squared error on the other."""
    if fitted.empty or held_out.empty:
        return FIRST_PENALTY
    means = fitted.means()
    fitted.centre(*means)
    held_out.centre(*means)
    to_target, held_out_to_target = fitted.to_target, held_out.to_target
    if to_target.shape[1] > MIXTURES:
        generator = torch.Generator().manual_seed(0)
        mixtures = torch.randn(to_target.shape[1], MIXTURES, generator=generator, dtype=torch.float64).to(to_target)
        to_target, held_out_to_target = to_target @ mixtures, held_out_to_target @ mixtures

    def error(half_decades: int) -> float:
        weights = _solve(fitted.among, to_target, half_decades)
        if weights is None:
            return math.inf
        # Σ|y − zW|² less the part that no weights change
        explained = (held_out.among @ weights.to(held_out.among.dtype)).to(weights.dtype)
        return float((weights * (explained - 2 * held_out_to_target)).sum())

    chosen = walk_down(error)
    fitted.put_back()
    held_out.put_back()
    return chosen


def walk_down(error: Callable[[int], float]) -> int:
    """The integer at which `error` is least, searched by steps of one from FIRST_PENALTY until it rises."""
    best = FIRST_PENALTY
    least = error(best)
    for step in (1, -1):
        while LEAST_PENALTY <= best + step <= MOST_PENALTY and (trial := error(best + step)) < least:
            best, least = best + step, trial
        if best != FIRST_PENALTY:
            break
    return best


def _solve(among: Tensor, to_target: Tensor, half_decades: int) -> Tensor | None:
    """(among + penalty)⁻¹ to_target, or None where rounding made the sum lose its positive definiteness.

    On a processor the factor takes the place of the half right of the diagonal for a while: at production size a copy
    is more than a hundred megabytes. Afterwards `among` is as it was, to the last digit.
    """
    diagonal = among.diagonal()
    before = diagonal.clone()
    diagonal += 10.0 ** (half_decades / 2) * before.mean().clamp(min=1e-30)
    if among.is_cpu:
        weights = _solve_in_place(among.numpy(), to_target.numpy())
        _mirror(among)
    else:
        factor, failed = torch.linalg.cholesky_ex(among)
        weights = None if failed else torch.cholesky_solve(to_target, factor)
    diagonal.copy_(before)
    return weights


def _solve_in_place(among: NDArray[np.float64], to_target: NDArray[np.float64]) -> Tensor | None:
    """among⁻¹ to_target by Cholesky's factor, which is left in the half of `among` right of its diagonal."""
    # LAPACK's lower half is the one right of the diagonal here: it takes columns for what numpy takes for rows.
    factor, failed = lapack.dpotrf(among.T, lower=1, overwrite_a=1, clean=0)
    assert np.shares_memory(factor, among), "LAPACK made a copy"
    if failed:
        return None
    weights, _ = lapack.dpotrs(factor, np.array(to_target, order="F"), lower=1, overwrite_b=1)
    return torch.from_numpy(weights)


def _mirror(matrix: Tensor, band: int = 512) -> None:
    """Copy what is left of the diagonal to what is right of it, band by band."""
    for start in range(0, len(matrix), band):
        end = min(start + band, len(matrix))
        block = matrix[start:end, start:end]
        left = block.tril(-1)
        block.copy_(left + left.T + torch.diag(block.diagonal()))
        matrix[start:end, end:] = matrix[end:, start:end].T
