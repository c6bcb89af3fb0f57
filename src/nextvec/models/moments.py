"""Second moments of windows, summed in one pass, so that a linear regression needs no second pass.

A window has K slots x (K·D numbers, zero if absent), their presence m (K), and a target y (D). The sums are

    gram  Σ xxᵀ (K·D, K·D)        cross  Σ x [m y]ᵀ (K·D, K + D)        counts  Σ m [m y]ᵀ (K, K + D)

With m next to x, `center` computes the exact moments of z = m (x − mean) from these sums, for any means. The newest
slot is always present, so that its m counts windows.

Products are float32, sums float64. So the sums of several processes equal those of one to 15 digits if their products
are the same: every process but one adds multiples of `buffer_size` windows.

Letters in names: B windows of a batch, K slots, D dimensions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from nextvec.distributed.process_group import ALONE, ProcessGroup


class Moments:
    """`add` windows, then `finish`; after that, read the means and `center`.

    `buffer_size` windows are multiplied at once, so that small batches cost no more than large ones.
    """

    def __init__(self, slots: int, dimensions: int, buffer_size: int, dtype: torch.dtype = torch.float64) -> None:
        self._slots, self._dimensions, self._dtype, self._buffer_size = slots, dimensions, dtype, buffer_size
        # Rows [x m y] that wait for multiplication.
        self._buffer: Tensor | None = None
        self._buffered = 0
        # The sums are created with the first product, when the device is known.
        self._gram: Tensor | None = None
        self._cross = self._counts = torch.zeros(0)
        self.target_products = torch.zeros(0)
        """Σ z (y − mean)ᵀ (K·D, D), after `center`."""
        self._centering = (torch.zeros(0), torch.zeros(0))

    def add(self, slots_BKD: Tensor, present_BK: Tensor, target_BD: Tensor) -> None:
        """Add windows; absent slots must be zero."""
        if self._buffer is None:
            width = self._slots * self._dimensions + self._slots + self._dimensions
            self._buffer = slots_BKD.new_empty(self._buffer_size, width)
        columns: tuple[Tensor, ...] = slots_BKD.flatten(1), present_BK, target_BD
        # Fill the free rows of the buffer, and multiply whenever it is full.
        while len(columns[0]):
            free = self._buffer[self._buffered :]
            count = min(len(free), len(columns[0]))
            torch.cat([column[:count].to(free.dtype) for column in columns], dim=1, out=free[:count])
            self._buffered += count
            if self._buffered == self._buffer_size:
                self._multiply()
            columns = tuple(column[count:] for column in columns)

    def _multiply(self) -> None:
        """Add the products of the buffered windows to the sums."""
        if self._buffer is None or not self._buffered:
            return
        size = self._slots * self._dimensions
        slots, presence_target = self._buffer[: self._buffered].tensor_split([size], dim=1)
        self._buffered = 0
        # Only CUDA has fast float64 products, and MPS has no float64 at all; its sums are kept on the CPU.
        is_cuda = slots.device.type == "cuda"
        if is_cuda:
            slots, presence_target = slots.double(), presence_target.double()
        device = slots.device if is_cuda else torch.device("cpu")
        gram = self._create_sums(device)
        # The Gram matrix is symmetric. Its upper blocks are three fifths of the work at K = 5.
        for start, end in self._blocks():
            gram[start:end, start:] += (slots[:, start:end].T @ slots[:, start:]).to(device)
        self._cross += (slots.T @ presence_target).to(device)
        self._counts += (presence_target[:, : self._slots].T @ presence_target).to(device)

    def _create_sums(self, device: torch.device) -> Tensor:
        """Return the Gram matrix; create the sums if there are none yet."""
        if self._gram is None:
            size, width = self._slots * self._dimensions, self._slots + self._dimensions
            self._gram = torch.zeros(size, size, dtype=self._dtype, device=device)
            self._cross = torch.zeros(size, width, dtype=torch.float64, device=device)
            self._counts = torch.zeros(self._slots, width, dtype=torch.float64, device=device)
        return self._gram

    def _blocks(self) -> list[tuple[int, int]]:
        """Return the first row and the end of each slot in the Gram matrix."""
        return list(pairwise(slot * self._dimensions for slot in range(self._slots + 1)))

    def finish(self, processes: ProcessGroup = ALONE, device: torch.device | None = None) -> None:
        """Multiply the remaining windows, and fill the lower blocks of the Gram matrix; call once, after all `add`.

        If several processes call it together, each has the sums of all afterwards, on `device`.
        """
        self._multiply()
        self._buffer = None
        if not processes.is_alone:
            for sums in (self._create_sums(device or torch.device("cpu")), self._cross, self._counts):
                processes.sum_(sums)
        if self._gram is not None:
            for start, end in self._blocks():
                self._gram[end:, start:end] = self._gram[start:end, end:].T

    @property
    def is_empty(self) -> bool:
        """Whether there were no windows."""
        # The newest slot is always present.
        return self._gram is None or not bool(self._counts[-1, self._slots - 1])

    @property
    def is_finite(self) -> bool:
        """Whether no vector contained NaN or infinity."""
        return bool(torch.isfinite(self._cross.sum() + self._counts.sum()))

    @property
    def gram(self) -> Tensor:
        """Σ xxᵀ of the slots, or Σ zzᵀ after `center`, (K·D, K·D); there must be windows."""
        assert self._gram is not None, "no windows"
        return self._gram

    def merge(self, moments: Moments) -> None:
        """Add the moments of other windows, which are lost; both are finished and not centered."""
        if self._gram is None and moments._gram is not None:
            self._gram, self._cross, self._counts = moments._gram.to(self._dtype), moments._cross, moments._counts
        elif self._gram is not None and moments._gram is not None:
            # Adding block by block keeps the converted copy of the other matrix small.
            for start, end in self._blocks():
                self._gram[start:end] += moments._gram[start:end]
            self._cross += moments._cross
            self._counts += moments._counts
        moments._gram = None  # frees its memory before the fit

    def means(self) -> tuple[Tensor, Tensor]:
        """Return the mean of each slot over the windows that have it (K, D), and of the target (D,)."""
        counts_K = self._counts.diagonal()
        # The newest slot is always present: its columns of the sums are plain sums over windows.
        sums_KD = self._cross[:, self._slots - 1].view(self._slots, self._dimensions)
        return sums_KD / counts_K.clamp(min=1)[:, None], self._counts[-1, self._slots :] / counts_K[-1]

    def center(self, slot_mean_KD: Tensor, target_mean_D: Tensor) -> None:
        """Replace `gram` by Σ zzᵀ, and compute `target_products`, with z = m (x − mean).

        This is done in place: at production size, a copy of the Gram matrix takes more than 100 MB.
        """
        # As a matrix M (K, K·D) of block rows, the means give z = x − Mᵀm.
        means = torch.block_diag(*slot_mean_KD)
        slots_presence, slots_target = self._cross.split([self._slots, self._dimensions], dim=1)
        presence, presence_target = self._counts.split([self._slots, self._dimensions], dim=1)
        # Σ zzᵀ = Σ xxᵀ − Σxmᵀ M − (Σxmᵀ M)ᵀ + Mᵀ Σmmᵀ M; half of the last term goes to each of the two before it.
        factor = slots_presence - means.T @ presence / 2
        self._add_symmetric(factor, means, -1)
        # Σ z (y − mean)ᵀ = Σ xyᵀ − Mᵀ Σmyᵀ − Σz · meanᵀ
        slot_sums = slots_presence[:, -1] - means.T @ presence[:, -1]
        products = slots_target.clone().addmm_(means.T, presence_target, alpha=-1)
        self.target_products = products.addr_(slot_sums, target_mean_D, alpha=-1)
        self._centering = factor, means

    def uncenter(self) -> None:
        """Restore `gram` as it was before `center`, up to rounding."""
        self._add_symmetric(*self._centering, 1)

    def _add_symmetric(self, factor: Tensor, means: Tensor, sign: int) -> None:
        """Add ±(factor·means + (factor·means)ᵀ) to the Gram matrix."""
        factor, means = factor.to(self.gram.dtype), means.to(self.gram.dtype)
        self.gram.addmm_(factor, means, alpha=sign).addmm_(means.T, factor.T, alpha=sign)
