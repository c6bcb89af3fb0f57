"""Windows: which vectors a model reads and which one it predicts.

A window is one integer, the row of its target; its context are the S rows before it in the same document. Vectors are
never copied: a batch is one gather from the store's vectors. The order of windows is a pure function of (seed, epoch),
so that evaluating, logging or resuming can't change what a model sees.

Letters in names: B windows of a batch, S context length, D dimensions, W windows in all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable


@dataclass(frozen=True)
class Windows:
    """An index of W windows; 8 bytes a window, 12 where some contexts are shorter than S."""

    context: int
    """S, the context length."""
    targets: Tensor
    """(W,) int32 rows of the targets, ascending."""
    groups: Tensor
    """(W,) int32 number of the target's group of documents: the unit of bootstraps and of InfoNCE's mask."""
    available: Tensor | None
    """(W,) int32 vectors before the target in its document, at most S; None where every window has all S."""

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, index: Tensor) -> Windows:
        """The windows at some positions, in that order."""
        available = None if self.available is None else self.available[index]
        return Windows(self.context, self.targets[index], self.groups[index], available)

    def to(self, device: torch.device) -> Windows:
        """The same index on another device."""
        available = None if self.available is None else self.available.to(device)
        return Windows(self.context, self.targets.to(device), self.groups.to(device), available)


@dataclass(frozen=True)
class WindowSet:
    """The windows of a split together with what they index: what a model trains on, or is judged on."""

    split: str
    vectors: Tensor
    """(N, D) all vectors of the store that the split is in."""
    documents: DocumentTable
    """The store's documents, of all splits."""
    windows: Windows

    def __len__(self) -> int:
        return len(self.windows)

    def batch(self, index: Tensor | None = None, mirrored: int = 0) -> Batch:
        """The windows at the positions `index` (B,), the last `mirrored` of them read backwards; see `gather`."""
        return gather(self.vectors, self.windows, index, mirrored)

    def own_document(self, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Vectors of the windows' own documents, outside of the windows: the hardest wrong answers.

        For the windows at the positions `index` (B,) draws `count` each, with replacement, all chunks alike, from
        torch's random generator: (B, K, D) vectors, and (B,) True where the document has any.
        """
        first_M, rows_M = self._documents_on_device
        target_B = self.windows.targets[index].long()
        document_B = torch.searchsorted(first_M, target_B, right=True) - 1
        start_B = first_M[document_B]
        available = self.windows.available
        before_B = (
            (target_B - start_B).clamp(max=self.windows.context) if available is None else available[index].long()
        )
        window_B = before_B + 1
        outside_B = rows_M[document_B] - window_B
        drawn_BK = (torch.rand(len(index), count, device=index.device) * outside_B[:, None]).long()
        # Drawn places skip the window, which lies in the middle of the document.
        drawn_BK += window_B[:, None] * (drawn_BK >= (target_B - before_B - start_B)[:, None])
        drawn_BK = torch.where(outside_B[:, None] > 0, start_B[:, None] + drawn_BK, target_B[:, None])
        vectors_KD = self.vectors.index_select(0, drawn_BK.flatten())
        return vectors_KD.view(len(index), count, -1), outside_B > 0

    @cached_property
    def _documents_on_device(self) -> tuple[Tensor, Tensor]:
        """(M,) int64 first row and number of rows of every document."""
        columns = (self.documents.first_row, self.documents.rows)
        first_M, rows_M = (torch.tensor(column, dtype=torch.int64, device=self.vectors.device) for column in columns)
        return first_M, rows_M


@dataclass(frozen=True)
class Batch:
    """What a model reads and what it should say."""

    context_BSD: Tensor
    """(B, S, D) vectors before the target, oldest first; zero where the mask is False."""
    target_BD: Tensor
    """(B, D) the vectors to predict."""
    group_B: Tensor
    """(B,) the group of each window's document."""
    mask_BS: Tensor | None
    """(B, S) True where there is a context vector; None where all are there."""


def index_windows(documents: DocumentTable, split: str | None, context: int, min_context: int | None = None) -> Windows:
    """All windows of a split (None: of the whole store) whose targets have at least `min_context` vectors before them.

    `min_context` is `context` where left out; above it, windows early in their documents are left out all the same, so
    that context lengths can be compared on the same windows. Documents that are too short give none.
    """
    least = context if min_context is None else min_context
    assert int(documents.rows.sum()) < 2**31, "rows are numbered in int32"
    chosen = np.ones(len(documents), bool) if split is None else documents.splits == SPLITS.index(split)
    first, rows, group = (
        column[chosen].astype(np.int32) for column in (documents.first_row, documents.rows, documents.group)
    )
    counts = np.maximum(rows - least, 0)
    # position[w] = how many targets of the same document come before window w
    position = np.arange(int(counts.sum()), dtype=np.int32)
    position -= np.repeat((np.cumsum(counts) - counts).astype(np.int32), counts)
    targets = np.repeat(first + np.int32(least), counts)
    targets += position
    available = torch.from_numpy(np.minimum(position + np.int32(least), np.int32(context))) if least < context else None
    return Windows(context, torch.from_numpy(targets), torch.from_numpy(np.repeat(group, counts)), available)


def gather(vectors: Tensor, windows: Windows, index: Tensor | None = None, mirrored: int = 0) -> Batch:
    """The windows at the positions `index` (B,) as one batch: one gather of B·(S+1) rows.

    It is in the vectors' dtype: what reads it brings it to the format that it computes in.

    `vectors` is (N, D), on the same device as the windows. The last `mirrored` windows are read backwards: their
    oldest vector is the target, and those after it, the true target included, are its context, nearest last.
    """
    chosen = windows if index is None else windows.take(index)
    steps_S = torch.arange(windows.context, 0, -1, device=vectors.device, dtype=torch.int32)
    mask_BS = None if chosen.available is None else steps_S <= chosen.available[:, None]
    target_B, rows_BS = chosen.targets, chosen.targets[:, None] - steps_S
    if mirrored:
        length_B = windows.context if chosen.available is None else chosen.available
        backwards_B = torch.arange(len(chosen), device=vectors.device) >= len(chosen) - mirrored
        target_B = torch.where(backwards_B, target_B - length_B, target_B)
        rows_BS = torch.where(backwards_B[:, None], target_B[:, None] + steps_S, rows_BS)
    if mask_BS is not None:
        rows_BS = torch.where(mask_BS, rows_BS, target_B[:, None])
    rows = torch.cat([rows_BS, target_B[:, None]], dim=1)
    gathered = vectors.index_select(0, rows.flatten())
    gathered = gathered.view(len(chosen), windows.context + 1, vectors.shape[1])
    context_BSD = gathered[:, :-1]
    if mask_BS is not None:
        context_BSD.masked_fill_(~mask_BS[:, :, None], 0.0)
    return Batch(context_BSD, gathered[:, -1], chosen.groups, mask_BS)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` windows in an epoch: (count,) int64, a pure function of its arguments."""
    order: NDArray[np.int64] = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    return torch.from_numpy(order)


def sample(count: int, size: int, seed: int) -> Tensor:
    """At most `size` of `count` positions, ascending: (min(count, size),) int64, a pure function of its arguments."""
    if size >= count:
        return torch.arange(count)
    chosen = np.random.Generator(np.random.Philox(key=[seed, 2**63])).choice(count, size, replace=False)
    return torch.from_numpy(np.sort(chosen))
